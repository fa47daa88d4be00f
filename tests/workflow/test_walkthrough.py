"""The walk-through of docs/own-data.md, followed block by block on synthetic recordings."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from transformers import AutoModelForCTC, AutoProcessor
from working_copy import PROGRAMS, REPOSITORY, WorkingCopy, working_copy

pytestmark = pytest.mark.slow

PAGE = REPOSITORY / "docs" / "own-data.md"
TABLE = "recordings/train.csv"

SPEAKERS = ["anna", "boris", "clara", "david", "elena", "felix", "grace", "henry", "irene", "jonas", "karin", "louis"]
SENTENCES = ["One, two.", "Three, four, five.", "Six, seven.", "Eight, nine, zero.", "Five, one."]


class Block(NamedTuple):
    """A fenced block of the page, and, unless it is commands, the file to write it to, which the text above names."""

    language: str
    file: str | None
    text: str


def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of the page."""
    found = []
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        paragraph = page[: match.start()].rstrip().rsplit("\n\n", 1)[-1]
        named = re.findall(r"`([\w./-]+\.\w+)`", paragraph)
        is_file = match[1] != "sh"
        assert named or not is_file, f"the paragraph before {match[2][:40]!r} names no file"
        found.append(Block(match[1], named[-1] if is_file else None, match[2]))
    return found


def record(folder: Path, table: str) -> str:
    """Return the page's table with more rows, and synthesise all its recordings into `folder`."""
    rows = list(csv.DictReader(io.StringIO(table)))
    listed = {row["path"] for row in rows}
    for speaker, (number, sentence) in product(SPEAKERS, enumerate(SENTENCES)):
        path = f"{speaker}/{number:03d}.wav"
        if path not in listed:
            rows.append({"path": path, "sentence": sentence, "speaker": speaker})
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda row: _speak(folder / row["path"], row["sentence"], row["speaker"]), rows))
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _speak(file: Path, sentence: str, speaker: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pitch = 20 + 5 * SPEAKERS.index(speaker)
    subprocess.run(["espeak-ng", "-v", "en", "-s", "200", "-p", str(pitch), "-w", file, sentence], check=True)


@dataclass
class Walkthrough:
    """A working copy after all steps of the page."""

    copy: WorkingCopy
    printed: list[tuple[str, str]]
    """Each block of commands with its output, in the order of the page."""

    def output(self, text: str) -> str:
        """Return the output of the first block of commands that contains `text`."""
        return next(output for commands, output in self.printed if text in commands)


@pytest.fixture(scope="module")
def walkthrough(tmp_path_factory: pytest.TempPathFactory) -> Walkthrough:
    """The page, followed from its first block to its last."""
    copy = working_copy(tmp_path_factory.mktemp("walkthrough"))
    # As after `make setup`.
    shutil.copy(REPOSITORY / "Makefile", copy.folder)
    (copy.folder / ".venv").symlink_to(Path(PROGRAMS).parent)
    (copy.folder / "envs" / "setup.sh").write_text("")
    printed = []
    for block in blocks(PAGE.read_text(encoding="utf-8")):
        if block.file is None:
            printed.append((block.text, run(block.text, copy.folder)))
            continue
        text = record(copy.folder / "recordings", block.text) if block.file == TABLE else block.text
        (copy.folder / block.file).write_text(text, encoding="utf-8")
    return Walkthrough(copy, printed)


def run(commands: str, folder: Path) -> str:
    """Run commands, without access to the internet, as the page promises, and return their output."""
    offline = {"HF_HUB_OFFLINE": "1", "HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env=os.environ | offline,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, commands + done.stdout[-6000:]
    return done.stdout


def test_page_yields_a_model_for_plain_transformers(walkthrough: Walkthrough) -> None:
    model = walkthrough.copy.folder / "results/runs/mine/model"
    AutoModelForCTC.from_pretrained(model)
    vocab = set(AutoProcessor.from_pretrained(model).tokenizer.get_vocab())
    assert {"e", "n", "o"} < vocab
    assert not vocab & set("SZ,.")
    card = (model / "README.md").read_text(encoding="utf-8")
    config = yaml.safe_load((walkthrough.copy.folder / "config/mine.yaml").read_text(encoding="utf-8"))
    assert f"# {config['runs']['mine']['card']['title']}\n" in card


def test_every_recording_is_used_in_one_set(walkthrough: Walkthrough) -> None:
    counts = [
        json.loads((walkthrough.copy.folder / f"results/runs/mine/clips/{role}.json").read_text())
        for role in ("train", "mine-dev", "mine-test")
    ]
    assert sum(each["clips"] for each in counts) == len(list((walkthrough.copy.folder / "recordings").rglob("*.wav")))
    assert sum(each["speakers"] for each in counts) == len(SPEAKERS)


def test_commands_print_what_the_page_describes(walkthrough: Walkthrough) -> None:
    for dry_run in ("config/recipes/recordings.yaml\n", "config/mine.yaml\n", "config/xlsr.yaml"):
        output = next(out for commands, out in walkthrough.printed if "--dry-run" in commands and dry_run in commands)
        assert "This was a dry-run" in output
        assert "finetune" in output
    assert f"speakers    {len(SPEAKERS)}" in walkthrough.output("make recipe")
    assert "steps" in walkthrough.output("plan.txt")
    assert "results/runs/mine/model/README.md" in walkthrough.output("snakemake --cores 2 --configfile")
    assert walkthrough.output("python transcribe.py").splitlines()[-1].startswith("recordings/anna/001.wav")
    annotated = walkthrough.copy.folder / "recordings" / "anna"
    assert f"transcribed {len(SENTENCES)} (" in walkthrough.output("speechmill.transcribe")
    assert len(walkthrough.output("onnx/transcribe.py").splitlines()) == 2
    assert {path.stem for path in annotated.glob("*.eaf")} == {path.stem for path in annotated.glob("*.wav")}


def test_files_named_on_the_page_exist(walkthrough: Walkthrough) -> None:
    for named in re.findall(r"`(results/[\w./-]+)`", PAGE.read_text(encoding="utf-8")):
        assert (walkthrough.copy.folder / named).exists(), named
