"""Text normalisation, output units and vocabularies."""
