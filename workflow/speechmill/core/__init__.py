"""Shared building blocks: errors, files, tables and their schemas, progress bars, formatting."""
