"""The corpora that can be read: one module a source, each a context manager that gives a Corpus."""
