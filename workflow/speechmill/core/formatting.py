"""Formatting of sizes and durations, and the speed of the GPU that estimates are given for."""

import math

H100_FLOPS = 790e12
"""Measured throughput of bf16 matrix products on an H100, in FLOP/s."""


def gigabytes(size: float) -> str:
    """Format a number of bytes on disk."""
    return f"{size / 1e9:,.1f} GB"


def gibibytes(size: float) -> str:
    """Format a number of bytes of memory."""
    return f"{size / 2**30:,.1f} GiB"


def duration(seconds: float) -> str:
    """Format a duration in hours, or in minutes below one hour."""
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{math.ceil(seconds / 60)} min"
