import pytest

from benchmarks.__main__ import MODULES
from benchmarks.table import Row, show


@pytest.mark.parametrize(
    ("measured", "promised", "kept"),
    [(1.3, 1.3, True), (1.29, 1.3, False), (0.1, None, True), (float("nan"), 1.0, False)],
)
def test_a_table_keeps_its_promises_only_if_no_row_is_below(
    measured: float, promised: float | None, kept: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show([Row("this", 2.0, 1.0), Row("that", measured, promised), Row("more", 2.0, 1.0)]) is kept
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["this", "that", "more"]
    assert ("BELOW" in lines[1]) is not kept


def test_every_benchmark_of_the_folder_is_run() -> None:
    assert {"prepare", "train"} <= set(MODULES)
