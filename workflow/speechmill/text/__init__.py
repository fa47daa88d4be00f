"""Text rules, units and vocabularies."""
