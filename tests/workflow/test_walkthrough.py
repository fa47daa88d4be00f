"""The walk-through of docs/own-data.md, followed as it stands on recordings that are made here."""

import csv
import io
import json
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from transformers import AutoModelForCTC, AutoProcessor
from working_copy import REPOSITORY, WorkingCopy, working_copy

pytestmark = pytest.mark.slow

PAGE = REPOSITORY / "docs" / "own-data.md"
TABLE = "recordings/train.csv"

SPEAKERS = ["anna", "boris", "clara", "david", "elena", "felix", "grace", "henry", "irene", "jonas", "karin", "louis"]
SENTENCES = ["One, two.", "Three, four, five.", "Six, seven.", "Eight, nine, zero.", "Five, one."]


class Block(NamedTuple):
    """A fenced block of the page, and the file that the paragraph before it names last, if it is to be written."""

    language: str
    file: str | None
    text: str


def blocks(page: str) -> list[Block]:
    found = []
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        paragraph = page[: match.start()].rstrip().rsplit("\n\n", 1)[-1]
        named = re.findall(r"`([\w./-]+\.\w+)`", paragraph)
        is_file = match[1] != "sh"
        assert named or not is_file, f"no file is named before {match[2][:40]!r}"
        found.append(Block(match[1], named[-1] if is_file else None, match[2]))
    return found


def record(folder: Path, table: str) -> str:
    """The page's table with further lines, and every recording of it, which espeak-ng speaks into `folder`."""
    rows = list(csv.DictReader(io.StringIO(table)))
    given = {row["path"] for row in rows}
    for speaker, (number, sentence) in product(SPEAKERS, enumerate(SENTENCES)):
        path = f"{speaker}/{number:03d}.wav"
        if path not in given:
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
class Followed:
    """A working copy in which the page was followed."""

    copy: WorkingCopy
    printed: list[tuple[str, str]]
    """Each block of commands with what it printed, in the page's order."""

    def of(self, words: str) -> str:
        """What the first block of commands with `words` in it printed."""
        return next(output for commands, output in self.printed if words in commands)


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Followed:
    copy = working_copy(tmp_path_factory.mktemp("walkthrough"))
    printed = []
    for block in blocks(PAGE.read_text(encoding="utf-8")):
        if block.file is None:
            printed.append((block.text, run(block.text, copy.folder)))
            continue
        text = record(copy.folder / "recordings", block.text) if block.file == TABLE else block.text
        (copy.folder / block.file).write_text(text, encoding="utf-8")
    return Followed(copy, printed)


def run(commands: str, folder: Path) -> str:
    # The page promises to need no internet.
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


def test_the_page_ends_in_a_model_that_plain_transformers_loads(followed: Followed) -> None:
    model = followed.copy.folder / "results/runs/mine/model"
    AutoModelForCTC.from_pretrained(model)
    vocab = set(AutoProcessor.from_pretrained(model).tokenizer.get_vocab())
    assert {"e", "n", "o"} < vocab
    assert not vocab & set("SZ,.")
    card = (model / "README.md").read_text(encoding="utf-8")
    config = yaml.safe_load((followed.copy.folder / "config/mine.yaml").read_text(encoding="utf-8"))
    assert f"# {config['runs']['mine']['card']['title']}\n" in card


def test_every_recording_is_used_and_no_speaker_is_in_two_sets(followed: Followed) -> None:
    counts = [
        json.loads((followed.copy.folder / f"results/runs/mine/clips/{role}.json").read_text())
        for role in ("train", "mine-dev", "mine-test")
    ]
    assert sum(each["clips"] for each in counts) == len(list((followed.copy.folder / "recordings").rglob("*.wav")))
    assert sum(each["speakers"] for each in counts) == len(SPEAKERS)


def test_the_commands_say_what_the_page_says_of_them(followed: Followed) -> None:
    for dry_run in ("config/mine.yaml\n", "config/xlsr.yaml"):
        output = next(out for commands, out in followed.printed if "--dry-run" in commands and dry_run in commands)
        assert "This was a dry-run" in output
        assert "finetune" in output
    assert "steps" in followed.of("plan.txt")
    assert "results/runs/mine/model/README.md" in followed.of("snakemake --cores 2 --configfile")
    assert followed.of("transcribe.py").splitlines()[-1].startswith("recordings/anna/001.wav")


def test_the_files_that_the_page_names_are_there(followed: Followed) -> None:
    for named in re.findall(r"`(results/[\w./-]+)`", PAGE.read_text(encoding="utf-8")):
        assert (followed.copy.folder / named).exists(), named
