"""Input, parameter and resource functions of rules, made of the configuration.

A rule states the paths that it reads; these functions fill in what the configuration decides: the values of the
wildcards of a path, and whether a file is needed at all.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from speechmill.config.root import Config, Run

Wildcards = Any
"""The wildcards of a job, as Snakemake passes them: a value for each name."""

InputFunction = Callable[[Wildcards], list[str]]


class Inputs:
    """What rule files call, for one configuration."""

    def __init__(self, config: Config, prefix: str) -> None:
        self._config = config
        self._prefix = prefix

    def from_config(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function of Snakemake's that calls `function(config, …)`.

        Its other parameters are wildcards, by name; one that is called `input` is the job's input files, and one that
        is called `prefix` the prefix of all paths.
        """
        names = list(inspect.signature(function).parameters)[1:]
        prefix = {"prefix": self._prefix} if "prefix" in names else {}
        wildcard_names = [name for name in names if name not in ("input", "prefix")]

        def of_wildcards(wildcards: Wildcards) -> Any:
            return function(self._config, *(getattr(wildcards, name) for name in wildcard_names), **prefix)

        def of_input(wildcards: Wildcards, input: Any) -> Any:
            return function(self._config, *(getattr(wildcards, name) for name in wildcard_names), **prefix, input=input)

        return of_input if "input" in names else of_wildcards

    def each(self, patterns: str | Iterable[str], items: Callable[..., list[dict[str, str]]]) -> InputFunction:
        """Return an input function: every pattern, filled in with the wildcards and with each of the items, once.

        `items(config, …)` lists values of the patterns' other wildcards; see `from_config` for its parameters.
        """
        listed = self.from_config(items)

        def filled(wildcards: Wildcards) -> list[str]:
            return _fill(patterns, [dict(wildcards.items()) | item for item in listed(wildcards)])

        return filled

    def if_run(self, condition: Callable[[Run], bool], *patterns: str) -> InputFunction:
        """Return an input function: the patterns, filled in, where the condition holds for the run; otherwise none."""

        def filled(wildcards: Wildcards) -> list[str]:
            needed = condition(self._config.runs[wildcards.run])
            return _fill(patterns, [dict(wildcards.items())] if needed else [])

        return filled

    def all_of(self, *parts: str | InputFunction) -> InputFunction:
        """Return an input function: the files of all parts, each a pattern or an input function.

        Snakemake takes no list of input functions under one name.
        """

        def joined(wildcards: Wildcards) -> list[str]:
            values = [dict(wildcards.items())]
            return [file for part in parts for file in (part(wildcards) if callable(part) else _fill(part, values))]

        return joined


def _fill(patterns: str | Iterable[str], values: Iterable[Mapping[str, str]]) -> list[str]:
    listed = [patterns] if isinstance(patterns, str) else list(patterns)
    return list(dict.fromkeys(pattern.format(**each) for each in values for pattern in listed))
