"""Key `runs.*.sweep`: a matrix of values, of which one run is made for each combination."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from speechmill.config.base import MAX_NAME_LENGTH, nearest

SEED = "seed"
"""Short for the key `plan.seed`."""


@dataclass(frozen=True)
class Sweep:
    """A run with `sweep`, and the runs that are made of it."""

    name: str
    points: dict[str, dict[str, Any]]
    """By the name of the run that is made: the values by the keys of the sweep."""

    @property
    def keys(self) -> list[str]:
        """The keys with several values, in the order of the configuration."""
        return list(next(iter(self.points.values())))

    @property
    def compares_models(self) -> bool:
        """Whether the initial model is one of the keys."""
        return any(key.split(".")[0] == "model" for key in self.keys)

    def description(self, run: str) -> dict[str, str]:
        """Return the values of a run, except its seed, as text: of sections what differs, of paths the last part."""
        return {
            key: _describe(value, [each[key] for each in self.points.values()])
            for key, value in self.without_seed(run).items()
        }

    def without_seed(self, run: str) -> dict[str, Any]:
        """Return the values of a run, except its seed."""
        return {key: value for key, value in self.points[run].items() if key != SEED}

    def other_seeds(self, run: str) -> list[str]:
        """Return the runs that differ from a run only in the seed, without the run itself."""
        return [each for each in self.points if each != run and self.without_seed(each) == self.without_seed(run)]


def expand(runs: Mapping[str, Any], section: type[BaseModel]) -> tuple[dict[str, Any], list[Sweep]]:
    """Return the runs with one run for each combination in the place of each run with `sweep`, and the sweeps.

    Args:
        runs: The section `runs` of the configuration, before its validation.
        section: The type of a run, which decides which keys exist.

    Raises:
        ValueError: A sweep is invalid; the message names the key.
    """
    expanded: dict[str, Any] = {}
    sweeps = []
    for name, run in runs.items():
        if not isinstance(run, Mapping) or run.get("sweep") is None:
            points = {name: run}
        else:
            sweep = _read(str(name), run, section)
            sweeps.append(sweep)
            base = {key: value for key, value in run.items() if key != "sweep"}
            points = {each: _with_values(base, values) for each, values in sweep.points.items()}
        for each in points:
            if each in expanded:
                raise ValueError(f"runs.{name}: there are two runs {each}, of which a sweep makes one; rename {name}")
        expanded |= points
    return expanded, sweeps


def check_references(values: Mapping[str, Any], sweeps: Sequence[Sweep]) -> None:
    """Raise ValueError if a dataset or run of a configuration refers to a sweep, which is no run any more.

    Args:
        values: The configuration before its validation, with the runs of `expand`.
        sweeps: Its sweeps.
    """
    points = {sweep.name: list(sweep.points) for sweep in sweeps}
    for part in ("datasets", "runs"):
        sections = values.get(part)
        for name, section in sections.items() if isinstance(sections, Mapping) else ():
            if not isinstance(section, Mapping):
                continue
            named = [
                ("by", section.get("by")),
                ("model.run", _value(section, "model", "run")),
                *(("evaluation.compare", each) for each in _value(section, "evaluation", "compare") or []),
            ]
            for key, run in named:
                if isinstance(run, str) and run in points:
                    raise ValueError(
                        f"{part}.{name}.{key}: {run} is a sweep; name one of its runs: {', '.join(points[run])}"
                    )


def _value(section: Mapping[str, Any], part: str, key: str) -> Any:
    """Return the value of a key in a part of a section that is not validated yet, or None."""
    values = section.get(part)
    return values.get(key) if isinstance(values, Mapping) else None


def _read(name: str, run: Mapping[str, Any], section: type[BaseModel]) -> Sweep:
    matrix, where = run["sweep"], f"runs.{name}.sweep"
    if not isinstance(matrix, Mapping) or not matrix:
        raise ValueError(f"{where}: give lists of values by key, such as `seed: [1, 2, 3]`")
    if run.get("publish") is not None and not any(_path(key)[0] == "publish" for key in matrix):
        raise ValueError(
            f"{where}: `publish` would upload every run of the sweep to the same repository; remove it, and publish"
            " the run that you choose"
        )
    if SEED in matrix and "plan.seed" in matrix:
        raise ValueError(f"{where}.{SEED}: it is short for `plan.seed`, which is there, too; remove one")
    for key, values in matrix.items():
        _check_key(f"{where}.{key}", _path(key), run, section)
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise ValueError(f"{where}.{key}: give a list with at least one value")
        for i, value in enumerate(values):
            if any(_normalised(value) == _normalised(earlier) for earlier in values[:i]):
                raise ValueError(f"{where}.{key}: {value} is listed twice; remove one")
    lists = {SEED if key == "plan.seed" else str(key): values for key, values in matrix.items()}
    combinations = (dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values()))
    return Sweep(name, dict(zip(_names(name, lists), combinations, strict=True)))


def _path(key: str) -> list[str]:
    return ["plan", "seed"] if key == SEED else str(key).split(".")


def _check_key(where: str, path: list[str], run: Mapping[str, Any], section: type[BaseModel]) -> None:
    """Raise ValueError if a run has no such key, or the key is below a value that is no section."""
    fields: type[BaseModel] | None = section
    given: Any = run
    for i, part in enumerate(path):
        if fields is None:
            raise ValueError(f"{where}: {'.'.join(path[:i])} is no section; give its complete values instead")
        known = [key for key in fields.model_fields if (key, i) != ("sweep", 0)]
        if part not in known:
            suggestion = nearest(part, known, "".join(f"{each}." for each in path[:i]))
            raise ValueError(f"{where}: unknown key `{'.'.join(path)}`;{suggestion} known keys are {', '.join(known)}")
        annotation = fields.model_fields[part].annotation
        if any(get_origin(each) is dict for each in _alternatives(annotation)):
            # Any key is possible below a mapping with free names.
            return
        fields = next((each for each in _alternatives(annotation) if _is_section(each)), None)
        given = given.get(part) if isinstance(given, Mapping) else None
        if i < len(path) - 1 and given is not None and not isinstance(given, Mapping):
            raise ValueError(f"{where}: {'.'.join(path[: i + 1])} is no section in this run")


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _with_values(run: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run with the values of a sweep; complete sections come before the keys in them."""
    changed = dict(run)
    for key in sorted(values, key=lambda each: len(_path(each))):
        *parents, last = _path(key)
        node = changed
        for part in parents:
            node[part] = dict(node.get(part) or {})
            node = node[part]
        node[last] = values[key]
    return changed


def _normalised(value: Any) -> Any:
    """Return a number for what YAML or the configuration reads as one, such as `1e-5`, which YAML takes as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return repr(value)
    try:
        return float(value)
    except ValueError:
        return value


def _names(run: str, matrix: Mapping[str, Sequence[Any]]) -> list[str]:
    """Return the name of each combination, such as `demo_lr1e_5_seed2`.

    Where such names would be too long or not unique, values are numbered: `demo_lr1_seed2`.

    Raises:
        ValueError: The names are too long nevertheless.
    """
    labels = [_labels(values) for values in matrix.values()]
    numbers = [[str(number) for number in range(1, len(values) + 1)] for values in matrix.values()]
    keys = [_abbreviation(key) for key in matrix]
    names: list[str] = []
    for choice in (labels, numbers):
        names = [
            "_".join([run, *(f"{key}{label}" for key, label in zip(keys, each, strict=True))])
            for each in itertools.product(*choice)
        ]
        if len(set(names)) == len(names) and max(map(len, names)) <= MAX_NAME_LENGTH:
            return names
    raise ValueError(
        f"runs.{run}.sweep: names such as {max(names, key=len)} would have more than {MAX_NAME_LENGTH} characters, or"
        " not be unique; shorten the name of the run, or give fewer keys"
    )


def _abbreviation(key: str) -> str:
    """Return the last part of a key, or its initials if it has several words: `lr` for `finetune.learning_rate`."""
    words = [word for word in key.split(".")[-1].lower().split("_") if word]
    name = words[0] if len(words) == 1 else "".join(word[0] for word in words)
    return re.sub(r"[^a-z0-9]+", "", name)


def _labels(values: Sequence[Any]) -> list[str]:
    """Return a readable label for each value, or their numbers if these would be empty or not unique."""
    labels = [_label(value) for value in values]
    unique = all(labels) and len(set(labels)) == len(labels)
    return labels if unique else [str(number) for number in range(1, len(values) + 1)]


def _describe(value: Any, values: Sequence[Any]) -> str:
    """Return one of the values of a key as text, without a path of this machine."""
    if isinstance(value, Mapping):
        leaves, others = _leaves(value), [_leaves(each) for each in values if isinstance(each, Mapping)]
        differing = [key for key in leaves if any(each.get(key) != leaves[key] for each in others)]
        return ", ".join(f"{key}: {_describe(leaves[key], [])}" for key in differing or leaves)
    text = str(value)
    return text.rstrip("/").rsplit("/", 1)[-1] if text.startswith(("/", "./", "../", "~")) else text


def _leaves(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a section and of the sections in it by their paths, such as `init.hidden_size`."""
    leaves: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, Mapping) and value:
            leaves |= {f"{key}.{path}": each for path, each in _leaves(value).items()}
        else:
            leaves[str(key)] = value
    return leaves


def _label(value: Any) -> str:
    """Return a value as part of a name; of a section its first value, of a path or Hub id the last part."""
    while isinstance(value, Mapping | list) and value:
        value = next(iter(value.values() if isinstance(value, Mapping) else value))
    number = _normalised(value)
    # Without zeros in the exponent: 1e-5.
    text = re.sub(r"e(-?)\+?0*", r"e\1", f"{number:g}") if isinstance(number, float) else str(value)
    # A word stays apart from the key before it.
    separator = "" if isinstance(number, float) else "_"
    label = re.sub(r"[^a-z0-9]+", "_", text.rstrip("/").rsplit("/", 1)[-1].lower()).strip("_")
    return f"{separator}{label}" if label else ""
