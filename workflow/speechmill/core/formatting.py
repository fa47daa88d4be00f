"""Sizes and times as people read them, and the card that they are told for."""

import math

H100_FLOPS = 790e12
"""Of bf16 matrix products on one H100, as measured."""


def gigabytes(size: float) -> str:
    """Bytes on a disk."""
    return f"{size / 1e9:,.1f} GB"


def gibibytes(size: float) -> str:
    """Bytes of memory."""
    return f"{size / 2**30:,.1f} GiB"


def duration(seconds: float) -> str:
    """A time, in hours or in whole minutes."""
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{math.ceil(seconds / 60)} min"
