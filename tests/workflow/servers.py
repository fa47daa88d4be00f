"""Helpers for tests that start servers."""

import socket
from collections.abc import Callable
from contextlib import ExitStack
from threading import Event


def wait_until(condition: Callable[[], bool], failed: Callable[[], bool] = lambda: False) -> None:
    """Check a condition on other processes ten times a second until it holds.

    Raises:
        AssertionError: It did not hold for 400 seconds, or `failed` holds.
    """
    for _ in range(4000):
        if condition():
            return
        if failed():
            break
        Event().wait(0.1)
    raise AssertionError("the condition never held")


def free_ports(count: int) -> list[int]:
    """Return unused ports of this machine."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]
