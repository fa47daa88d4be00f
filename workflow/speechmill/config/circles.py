"""Circles: things that are made of themselves, through others."""

from collections.abc import Callable, Iterable


def find_circle(first: str, made_of: Callable[[str], Iterable[str]]) -> list[str] | None:
    """Return the first circle that `first` leads to, with its first member again at the end; None if there is none.

    `made_of` returns what something is directly made of.
    """

    def follow(path: list[str]) -> list[str] | None:
        for part in made_of(path[-1]):
            if part in path:
                return [*path[path.index(part) :], part]
            if circle := follow([*path, part]):
                return circle
        return None

    return follow([first])
