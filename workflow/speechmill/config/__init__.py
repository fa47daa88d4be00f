"""The typed configuration: one module a section, so that a stage imports its own section alone."""
