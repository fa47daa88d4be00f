"""The special tokens of a vocabulary."""

PAD, UNKNOWN, SPACE = "[PAD]", "[UNK]", "|"
"""The padding token, which is the blank of CTC, the token for unknown characters, and the one for the space."""

BLANK = 0
"""The id of PAD."""
