"""Sources of corpora: one module per source, with a context manager that yields a `Corpus`."""
