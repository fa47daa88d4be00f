"""Card, evidence, verification, pages, plots, upload."""
