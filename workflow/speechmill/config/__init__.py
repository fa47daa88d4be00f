"""The typed configuration, with one module per section, so that a stage imports only the sections it reads."""
