"""Annotation files: the text of recordings, of all of them or with times."""
