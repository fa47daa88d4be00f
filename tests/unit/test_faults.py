"""What stages say of full disks, read-only results and spoilt files; and that the table of faults keeps its word."""

import errno
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter
from transformers import Wav2Vec2Processor

from material import ROOT, as_json, run_stage
from speechmill.config.datasets import Dataset
from speechmill.core.command import SpeechmillError, corrupt_file_error, run_command
from speechmill.core.tables import CLIPS, ROWS, ctc_outputs_metadata, read_table, write_table
from speechmill.dag.paths import source_fingerprint
from speechmill.model.models import load_checkpoint, model_config, new_model
from speechmill.training.resume_state import commit, empty_unfinished, newest_resume_state

ROW = {"id": "a", "splits": ["train"], "num_samples": 16000, "sentence": "да", "encoded_bytes": 9, "shard": 0}


@pytest.mark.parametrize(
    ("file", "deleted"),
    [
        ("results/data/corpus/train/shard-00000.parquet", "it"),
        ("results/runs/mine/evaluation/3/corpus-test/ctc_outputs.parquet", "it"),
        # Snakemake knows these by their folder, and would not miss a file in it.
        ("results/raw/corpus/train/shard-00000.parquet", "results/raw/corpus"),
        ("results/raw/corpus/source.json", "results/raw/corpus"),
        ("results/models/facebook--xls-r@1/model.safetensors", "results/models/facebook--xls-r@1"),
        ("results/runs/mine/checkpoints/checkpoint-3/model.safetensors", "results/runs/mine/checkpoints"),
    ],
)
def test_of_a_spoilt_file_it_is_said_what_to_delete_so_that_it_is_made_again(file: str, deleted: str) -> None:
    assert str(corrupt_file_error(Path(file), "is short")) == f"{file} is short; delete {deleted} and run snakemake again"


def test_of_a_spoilt_entry_of_the_cache_the_entry_is_to_be_deleted(tmp_path: Path) -> None:
    cache, results = tmp_path / "cache", tmp_path / "results"
    (results / "raw").mkdir(parents=True)
    (cache / "123").mkdir(parents=True)
    (cache / "456.parquet").write_text("no table")
    (results / "rows.parquet").symlink_to(cache / "456.parquet")
    (results / "raw" / "corpus").symlink_to(cache / "123")
    with pytest.raises(SpeechmillError, match=f"delete {cache}/456.parquet and run snakemake again"):
        read_table(results / "rows.parquet")
    assert f"delete {cache}/123 and" in str(corrupt_file_error(results / "raw" / "corpus" / "source.json", "is short"))


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_a_checkpoint_that_is_cut_short_is_named_with_what_to_delete(
    tmp_path: Path, checkpoints: Path, letters: Wav2Vec2Processor
) -> None:
    folder = tmp_path / "results/runs/mine/checkpoints/checkpoint-0"
    model, _ = load_checkpoint(checkpoints / "checkpoint-0")
    model.save_pretrained(folder)
    cut(folder / "model.safetensors")
    with pytest.raises(SpeechmillError, match=r"checkpoint-0/model.safetensors cannot be read .*/checkpoints and run"):
        load_checkpoint(folder)


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_a_base_whose_weights_are_cut_short_is_named_with_what_to_delete(
    tmp_path: Path, checkpoints: Path, letters: Wav2Vec2Processor, weights: str
) -> None:
    folder = tmp_path / "results/models/base"
    model, processor = load_checkpoint(checkpoints / "checkpoint-0")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if weights.endswith(".bin"):
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / weights)
    cut(folder / weights)
    vocab = letters.tokenizer.get_vocab()
    with pytest.raises(SpeechmillError, match=rf"{weights} cannot be read .*delete {tmp_path}/results/models/base and"):
        new_model(model_config(None, folder, {}, len(vocab)), folder, vocab)


def test_frames_that_are_cut_short_are_named(tmp_path: Path) -> None:
    path = tmp_path / "ctc_outputs.parquet"
    write_table([ROW], ROWS, path)
    cut(path)
    with pytest.raises(SpeechmillError, match=f"{path} cannot be read .* delete it and run snakemake again"):
        ctc_outputs_metadata(path)


def test_a_split_whose_rows_are_cut_short_leaves_no_index(tmp_path: Path) -> None:
    rows, index = tmp_path / "rows.parquet", tmp_path / "index.parquet"
    write_table([ROW], ROWS, rows)
    cut(rows)
    done = run_stage("corpus.index", "--rows", rows, "--index", index)
    assert done.returncode == 1
    assert f"error: {rows} cannot be read" in done.stderr
    assert list(tmp_path.iterdir()) == [rows]


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM], ids=errno.errorcode.get)
def test_results_that_may_not_be_written_are_told_without_a_traceback(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        raise OSError(number, os.strerror(number), "results/runs/mine/plan.json")

    with pytest.raises(SystemExit) as stopped:
        run_command(main)
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("error: this may not be written or read (")
    assert "'results/runs/mine/plan.json'" in said
    assert "run snakemake again" in said


# More than a kilobyte of each is written.
SENTENCES = "".join(f"фраза номер {i}\n" for i in range(200))


def no_room(*command: object) -> subprocess.CompletedProcess[str]:
    """Run a stage that may write no file larger than a kilobyte, which a full disk looks like to it."""
    return subprocess.run(
        [sys.executable, "-m", f"speechmill.{command[0]}", *map(str, command[1:])],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "workflow"), "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("stage", ["index", "lm_text"])
def test_a_disk_that_fills_up_under_a_table_or_a_text_leaves_the_earlier_one_and_a_sentence(
    tmp_path: Path, stage: str
) -> None:
    rows, text, out = tmp_path / "rows.parquet", tmp_path / "text.txt", tmp_path / "out"
    held_out = tmp_path / "held_out.parquet"
    write_table([ROW], ROWS, rows)
    write_table([], CLIPS, held_out)
    text.write_text(SENTENCES)
    out.write_text("earlier")
    settings = as_json({"text": {"keep": "а-я"}})
    rest = ("--digest", tmp_path / "digest", "--counts", tmp_path / "counts")
    commands = {
        "index": ("index", "--rows", rows, "--index", out),
        "lm_text": ("lm_text", "--settings", settings, "--files", text, "--held-out", held_out, "--text", out, *rest),
    }
    done = no_room(*commands[stage])
    assert done.returncode == 1
    assert "error: the disk has no room left, or a quota or limit is reached" in done.stderr.splitlines()[-1]
    assert out.read_text() == "earlier"
    assert {path.name for path in tmp_path.iterdir()} == {"rows.parquet", "text.txt", "held_out.parquet", "out"}


def test_every_program_of_a_rule_tells_such_faults_alike() -> None:
    rules = "".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    stages = set(re.findall(r"python -m speechmill\.(\w+)", rules))
    assert len(stages) > 20
    for stage in stages:
        assert "\n    run_command(main)\n" in (ROOT / "workflow" / "speechmill" / f"{stage}.py").read_text(), stage


def test_the_newest_state_is_that_of_the_highest_step_whatever_the_clock_said(tmp_path: Path) -> None:
    for step in (2, 4):
        empty_unfinished(tmp_path)
        folder = tmp_path / "unfinished" / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"w")
        commit(tmp_path, step)
    for path in [tmp_path / "checkpoint-4", *(tmp_path / "checkpoint-4").iterdir()]:
        os.utime(path, (0, 0))
    assert newest_resume_state(tmp_path) == tmp_path / "checkpoint-4"


def test_a_link_that_leads_nowhere_does_not_stop_the_planner(tmp_path: Path) -> None:
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


def table() -> list[list[str]]:
    """The rows of docs/faults.md: what happens, what speechmill does, what goes on, the tests."""
    lines = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [row for row in cells if len(row) == 4 and not row[0].startswith((":", "what happens"))]


def test_every_row_of_the_table_of_faults_names_tests_that_are_there() -> None:
    rows = table()
    assert len(rows) >= 20
    tests = {
        f"{path.stem}::{name}"
        for folder in ("unit", "workflow")
        for path in (ROOT / "tests" / folder).glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    for what, _, _, shown in rows:
        named = re.findall(r"`(test_\w+::test_\w+)`", shown)
        assert named, what
        assert set(named) <= tests, what
