"""Processor time, which other programs affect less than wall-clock time."""

import time
from collections.abc import Callable


def processor_seconds(work: Callable[[], object]) -> float:
    """Return the processor time of `work` in seconds."""
    before = time.process_time()
    work()
    return time.process_time() - before
