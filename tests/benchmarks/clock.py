"""How long work takes, in processor time: other programs disturb that little."""

import time
from collections.abc import Callable


def processor_seconds(work: Callable[[], object]) -> float:
    """The processor time of `work`."""
    before = time.process_time()
    work()
    return time.process_time() - before
