"""The table that `make bench` prints, and the benchmarks that it runs."""

import pytest

from benchmarks.__main__ import MODULES
from benchmarks.table import Row, show


@pytest.mark.parametrize(
    ("value", "minimum", "passed"),
    [(1.3, 1.3, True), (1.29, 1.3, False), (0.1, None, True), (float("nan"), 1.0, False)],
)
def test_row_below_its_minimum_fails(
    value: float, minimum: float | None, passed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show([Row("first", 2.0, 1.0), Row("second", value, minimum), Row("third", 2.0, 1.0)]) is passed
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["first", "second", "third"]
    assert ("BELOW" in lines[1]) is not passed


def test_benchmarks_of_the_folder_are_found() -> None:
    assert {"prepare", "train"} <= set(MODULES)
