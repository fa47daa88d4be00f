"""Full disks, missing permissions and corrupt files in any stage, and the tests that docs/faults.md names."""

import errno
import os
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from pydantic import TypeAdapter
from transformers import Wav2Vec2Processor

from material import ROOT, as_json, largest_file
from speechmill.config.datasets import Dataset
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.files import corrupt_file_error, write_json
from speechmill.core.schemas import CLIPS, ROWS
from speechmill.core.tables import ctc_outputs_metadata, read_table, write_table
from speechmill.corpus import index
from speechmill.dag.sources import source_fingerprint
from speechmill.lm import lm_text
from speechmill.model.models import load_checkpoint, model_config, new_model
from speechmill.training.resume_state import commit, empty_unfinished, newest_resume_state

ROW = {"id": "a", "splits": ["train"], "num_samples": 16000, "sentence": "да", "encoded_bytes": 9, "shard": 0}


@pytest.mark.parametrize(
    ("file", "deleted"),
    [
        ("results/data/corpus/train/shard-00000.parquet", "it"),
        ("results/runs/mine/evaluation/3/corpus-test/ctc_outputs.parquet", "it"),
        # The outputs of these rules are folders, in which Snakemake does not notice a missing file.
        ("results/raw/corpus/train/shard-00000.parquet", "results/raw/corpus"),
        ("results/raw/corpus/source.json", "results/raw/corpus"),
        ("results/models/facebook--xls-r@1/model.safetensors", "results/models/facebook--xls-r@1"),
    ],
)
def test_corrupt_file_error_names_what_to_delete(file: str, deleted: str) -> None:
    message = str(corrupt_file_error(Path(file), "is truncated"))
    assert message == f"{file} is truncated; delete {deleted} and run snakemake again"


@pytest.mark.parametrize(
    ("file", "copy", "selected"),
    [
        ("training.json", "checkpoints/training.json", 4),
        ("training.json", "model/evidence/training.json", 4),
        ("training.jsonl", "model/evidence/training.jsonl", 4),
        ("checkpoints/checkpoint-4/config.json", "model/config.json", 4),
        # The model has the files of another step, or there is no card yet.
        ("checkpoints/checkpoint-4/config.json", "model/config.json", 2),
        ("training.json", None, 4),
    ],
)
def test_corrupt_output_of_training_is_never_to_be_deleted(
    tmp_path: Path, file: str, copy: str | None, selected: int
) -> None:
    run = tmp_path / "results" / "runs" / "mine"
    for folder in ("checkpoints", "model/evidence"):
        (run / folder).mkdir(parents=True)
    write_json({"step": selected}, run / "selection.json")
    if copy:
        (run / copy).write_text("{}")
    message = str(corrupt_file_error(run / file, "is truncated"))
    assert message.startswith(f"{run / file} is truncated; do not delete it, or snakemake trains again; ")
    if copy and selected == 4:
        assert f"`cp -p {run / copy} {run / file}`" in message
    else:
        assert "cp -p" not in message
        assert f"`rm -r {run}/checkpoints` trains again" in message


def test_corrupt_cache_entry_is_named(tmp_path: Path) -> None:
    cache, results = tmp_path / "cache", tmp_path / "results"
    (results / "raw").mkdir(parents=True)
    (cache / "123").mkdir(parents=True)
    (cache / "456.parquet").write_text("no table")
    (results / "rows.parquet").symlink_to(cache / "456.parquet")
    (results / "raw" / "corpus").symlink_to(cache / "123")
    with pytest.raises(SpeechmillError, match=f"delete {cache}/456.parquet and run snakemake again"):
        read_table(results / "rows.parquet")
    message = str(corrupt_file_error(results / "raw" / "corpus" / "source.json", "is truncated"))
    assert f"delete {cache}/123 and" in message


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_truncated_checkpoint_is_named(tmp_path: Path, checkpoints: Path) -> None:
    folder = tmp_path / "results/runs/mine/checkpoints/checkpoint-0"
    model, _ = load_checkpoint(checkpoints / "checkpoint-0")
    model.save_pretrained(folder)
    truncate(folder / "model.safetensors")
    with pytest.raises(SpeechmillError, match=r"checkpoint-0/model.safetensors cannot be read .*; do not delete it"):
        load_checkpoint(folder)


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_truncated_base_weights_are_named(
    tmp_path: Path, checkpoints: Path, letters: Wav2Vec2Processor, weights: str
) -> None:
    folder = tmp_path / "results/models/base"
    model, processor = load_checkpoint(checkpoints / "checkpoint-0")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if weights.endswith(".bin"):
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / weights)
    truncate(folder / weights)
    vocab = letters.tokenizer.get_vocab()
    with pytest.raises(SpeechmillError, match=rf"{weights} cannot be read .*delete {tmp_path}/results/models/base and"):
        new_model(model_config(None, folder, {}, len(vocab)), folder, vocab)


def test_truncated_ctc_outputs_are_named(tmp_path: Path) -> None:
    path = tmp_path / "ctc_outputs.parquet"
    write_table([ROW], ROWS, path)
    truncate(path)
    with pytest.raises(SpeechmillError, match=f"{path} cannot be read .* delete it and run snakemake again"):
        ctc_outputs_metadata(path)


def error_of(stage: ModuleType, *arguments: object) -> str:
    """Run a stage in this process, and return its error message."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(sys, "argv", [stage.__name__, *map(str, arguments)])
        run_command(stage.main)
    assert stopped.value.code == 1
    assert isinstance(stopped.value.__context__, SpeechmillError | OSError)
    return str(stopped.value.__context__)


def test_truncated_rows_leave_no_index(tmp_path: Path) -> None:
    rows = tmp_path / "rows.parquet"
    write_table([ROW], ROWS, rows)
    truncate(rows)
    assert f"{rows} cannot be read" in error_of(index, "--rows", rows, "--index", tmp_path / "index.parquet")
    assert list(tmp_path.iterdir()) == [rows]


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM], ids=errno.errorcode.get)
def test_missing_permission_is_reported(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise OSError(number, os.strerror(number), "results/runs/mine/plan.json")

    with pytest.raises(SystemExit) as stopped:
        run_command(main)
    assert stopped.value.code == 1
    message = capsys.readouterr().err
    assert message.startswith("error: no permission to read or write a file (")
    assert "'results/runs/mine/plan.json'" in message
    assert "run snakemake again" in message


# More than a kilobyte.
SENTENCES = "".join(f"фраза номер {i}\n" for i in range(200))


@pytest.mark.parametrize("stage", [index, lm_text], ids=lambda stage: stage.__name__)
def test_full_disk_keeps_the_earlier_file(
    tmp_path: Path, stage: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, text, out = tmp_path / "rows.parquet", tmp_path / "text.txt", tmp_path / "out"
    held_out = tmp_path / "held_out.parquet"
    write_table([ROW], ROWS, rows)
    write_table([], CLIPS, held_out)
    text.write_text(SENTENCES)
    out.write_text("earlier")
    settings = as_json({"text": {"keep": "а-я"}})
    rest = ("--digest", tmp_path / "digest", "--counts", tmp_path / "counts")
    arguments = {
        index: ("--rows", rows, "--index", out),
        lm_text: ("--settings", settings, "--files", text, "--held-out", held_out, "--text", out, *rest),
    }
    with largest_file(1000):
        error_of(stage, *arguments[stage])
    assert "error: the disk is full, or a quota or size limit is reached" in capsys.readouterr().err.splitlines()[-1]
    assert out.read_text() == "earlier"
    assert {path.name for path in tmp_path.iterdir()} == {"rows.parquet", "text.txt", "held_out.parquet", "out"}


def test_every_stage_uses_run_command() -> None:
    rules = "".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    stages = set(re.findall(r"python -m speechmill\.(\w+\.\w+)", rules))
    assert len(stages) > 20
    for stage in stages:
        file = ROOT / "workflow" / "speechmill" / f"{stage.replace('.', '/')}.py"
        assert "\n    run_command(main)\n" in file.read_text(), stage


def test_newest_state_ignores_file_times(tmp_path: Path) -> None:
    for step in (2, 4):
        empty_unfinished(tmp_path)
        folder = tmp_path / "unfinished" / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"w")
        commit(tmp_path, step)
    for path in [tmp_path / "checkpoint-4", *(tmp_path / "checkpoint-4").iterdir()]:
        os.utime(path, (0, 0))
    assert newest_resume_state(tmp_path) == tmp_path / "checkpoint-4"


def test_dangling_link_does_not_stop_planning(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.flac").write_bytes(b"a")
    about = {"source": "zeroth", "path": str(corpus), "language": "ko", "name": "Made", "licence": "CC0-1.0"}
    dataset = TypeAdapter(Dataset).validate_python(about | {"splits": ["train"], "shards": 1})
    before = source_fingerprint("made", dataset)
    (corpus / "b.flac").symlink_to(tmp_path / "nowhere")
    assert source_fingerprint("made", dataset) == before
    (tmp_path / "nowhere").write_bytes(b"b")
    assert source_fingerprint("made", dataset) != before


def fault_table() -> list[list[str]]:
    """The rows of docs/faults.md: what happens, what speechmill does, how to continue, the tests."""
    lines = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [row for row in cells if len(row) == 4 and not row[0].startswith((":", "what happens"))]


def test_fault_table_names_existing_tests() -> None:
    rows = fault_table()
    assert len(rows) >= 20
    tests = {
        f"{path.stem}::{name}"
        for folder in ("unit", "workflow")
        for path in (ROOT / "tests" / folder).rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    for event, _, _, shown in rows:
        named = re.findall(r"`(test_\w+::test_\w+)`", shown)
        assert named, event
        assert set(named) <= tests, event
