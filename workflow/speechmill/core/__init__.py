"""What every package uses: errors, files and tables, progress, formatting."""
