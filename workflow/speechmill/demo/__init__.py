"""The spoken corpora of the demos."""
