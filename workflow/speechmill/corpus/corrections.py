"""Corrections of training sentences: a CSV file that a person has edited, of the columns of `suspicious.csv`."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from speechmill.core.command import SpeechmillError

COLUMNS = ("dataset", "split", "id", "correction", "exclude")
"""The columns that a file of corrections needs; others are ignored."""

_EXCLUDE = "yes"

Key = tuple[str, str]
"""The dataset and the id of a clip."""


class Corrections:
    """The corrected sentences, and the clips to exclude, of one file.

    A row without `correction` and `exclude` changes nothing, so that rows of `suspicious.csv` may stay as they are.

    Raises:
        SpeechmillError: The file cannot be read, lacks a column, lists a clip twice, or has a row that both corrects
            and excludes a clip or has another value than `yes` in `exclude`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: dict[Key, int] = {}
        self._sentences: dict[Key, str] = {}
        self._excluded: set[Key] = set()
        try:
            # Spreadsheets write a byte order mark.
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file, strict=True)
                missing = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
                if missing:
                    raise SpeechmillError(
                        f"clips.corrections: {path} lacks the columns {', '.join(missing)}; its first line has to name"
                        f" {', '.join(COLUMNS)}, separated by commas, as in suspicious.csv"
                    )
                for row in reader:
                    self._add(reader.line_num, row)
        except OSError as error:
            raise SpeechmillError(f"clips.corrections: {path} cannot be read ({error})") from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise SpeechmillError(
                f"clips.corrections: {path} is no CSV file in UTF-8 ({error}); save it again as one"
            ) from error

    def _add(self, line: int, row: Mapping[str, Any]) -> None:
        where = f"clips.corrections: {self.path}, line {line}"
        # The key None has the cells beyond the last column; a cell that is missing is None.
        if None in row or None in row.values():
            raise SpeechmillError(
                f"{where} has more or fewer cells than the first line; put sentences with commas in double quotes"
            )
        key = (row["dataset"].strip(), row["id"].strip())
        correction, exclude = row["correction"].strip(), row["exclude"].strip()
        if key in self._lines:
            raise SpeechmillError(f"{where}: {key[1]} of {key[0]} is listed before; remove one of the two lines")
        if exclude not in ("", _EXCLUDE):
            raise SpeechmillError(f"{where}: `exclude` is {exclude!r}; write {_EXCLUDE}, or leave it empty")
        if correction and exclude:
            raise SpeechmillError(f"{where} has both `correction` and `exclude`; empty one of them")
        self._lines[key] = line
        if correction:
            self._sentences[key] = correction
        elif exclude:
            self._excluded.add(key)

    def sentence(self, key: Key) -> str | None:
        """Return the corrected sentence of a clip, or None if it has none."""
        return self._sentences.get(key)

    def exclusion(self, key: Key) -> str | None:
        """Return where a clip is marked to be excluded, or None if it is not."""
        return f"line {self._lines[key]} of {self.path.name}" if key in self._excluded else None

    def check(self, training: Iterable[Key], scored: Mapping[str, Iterable[Key]]) -> None:
        """Check that only training clips are listed.

        Args:
            training: All clips of the training sets, with the excluded ones.
            scored: The clips of each scored set, by its name.

        Raises:
            SpeechmillError: A clip is none of the training sets, or also belongs to a scored set.
        """
        for name, keys in scored.items():
            for key in keys:
                if key in self._sentences or key in self._excluded:
                    raise SpeechmillError(
                        f"clips.corrections: {self.path}, line {self._lines[key]}: {key[1]} of {key[0]} is a clip of"
                        f" {name}, which is scored: its clips are neither corrected nor excluded; remove the line"
                    )
        unknown = self._lines.keys() - set(training)
        if unknown:
            first = min(unknown, key=self._lines.__getitem__)
            raise SpeechmillError(
                f"clips.corrections: {self.path}, line {self._lines[first]}: no training set has a clip {first[1]!r} of"
                f" the dataset {first[0]!r}; {len(unknown):,} of {len(self._lines):,} lines are like this: correct"
                " `dataset` and `id`, or remove them"
            )
