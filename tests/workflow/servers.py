"""What tests need that start servers."""

import socket
from collections.abc import Callable
from contextlib import ExitStack
from threading import Event


def until(condition: Callable[[], bool], over: Callable[[], bool] = lambda: False) -> None:
    """Look ten times a second whether what other processes do has come so far; not for ever, nor once it is `over`."""
    for _ in range(4000):
        if condition():
            return
        if over():
            break
        Event().wait(0.1)
    raise AssertionError("what was waited for did not happen")


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody uses."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]
