"""Synthetic corpora for the demos."""
