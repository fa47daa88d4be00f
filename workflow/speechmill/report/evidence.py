"""What every figure of a card is derived from: small files that go with the model in its folder `evidence`.

They hold no text and no audio of a corpus, and no speaker's name, so that they may go wherever the model goes.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from speechmill.core.command import SpeechmillError, atomic_write
from speechmill.core.tables import read_json, read_table, write_json
from speechmill.scoring.systems import System

FOLDER = "evidence"
"""The folder's name in that of the model."""

_SCORED = [
    "id", "audio_sha256", "seconds", "hypothesis", "hits", "substitutions", "deletions", "insertions",
    "character_errors", "characters", "loss",
]  # fmt: skip


@dataclass(frozen=True)
class Evidence:
    """What a card is made of; each is what the file of that name says."""

    settings: dict[str, Any]
    summary: pd.DataFrame
    selection: dict[str, Any]
    breakdown: dict[str, Any]
    training: dict[str, Any]
    log: list[dict[str, Any]]
    plan: dict[str, Any]
    leakage: dict[str, Any]
    usage: list[dict[str, str]]
    counts: dict[str, dict[str, Any]]
    """By role, as `train` or a set's name."""
    status: list[dict[str, Any]]
    lm: dict[str, Any]
    """`text`, `arpa` and `weights`; empty without a language model."""
    base: dict[str, Any] | None
    """What is known of the base model, if there is one."""
    vocabulary: list[str]
    training_clips: str
    """The digest of the training clips with their texts."""

    @property
    def run(self) -> str:
        """The name of the run that made the model."""
        return str(self.settings["run"])


def read(model: Path) -> Evidence:
    """What the folder of a model says of it. Raises SpeechmillError where something is missing or damaged."""
    folder = model / FOLDER

    def one(name: str) -> Any:
        path = folder / name
        if not path.is_file():
            raise SpeechmillError(f"{path} is missing: the folder is not whole; fetch or make it again")
        return read_json(path)

    settings = one("settings.json")
    return Evidence(
        settings=settings,
        summary=read_table(folder / "summary.parquet").to_pandas(),
        selection=one("selection.json"),
        breakdown=one("breakdown.json"),
        training=one("training.json"),
        log=[json.loads(line) for line in (folder / "training.jsonl").read_text(encoding="utf-8").splitlines()],
        plan=one("plan.json"),
        leakage=one("leakage.json"),
        usage=one("usage.json"),
        # In the order in which they were put down, which is the run's.
        counts={role: one(f"counts/{role}.json") for role in settings["roles"]},
        status=[one(f"status/{name}.json") for name in settings["datasets"]],
        lm={path.stem: read_json(path) for path in sorted((folder / "lm").glob("*.json"))},
        base=read_json(folder / "base.json") if (folder / "base.json").is_file() else None,
        vocabulary=list(read_json(model / "vocab.json")),
        training_clips=(folder / "train.sha256").read_text(encoding="utf-8").strip(),
    )


def put(model: Path, settings: dict[str, Any], configuration: dict[str, Any], files: dict[str, Path]) -> None:
    """Put down what a card is made of: `files` by their names in the folder, without texts and speakers' names."""
    folder = model / FOLDER
    write_json(settings, folder / "settings.json")
    with atomic_write(folder / "config.yaml") as beside:
        beside.write_text(
            yaml.safe_dump(configuration, allow_unicode=True, sort_keys=False, width=100), encoding="utf-8"
        )
    for name, source in files.items():
        if name in _WITHOUT:
            write_json(_WITHOUT[name](read_json(source)), folder / name)
        else:
            with atomic_write(folder / name) as beside:
                beside.write_bytes(source.read_bytes())


def put_scored(model: Path, hypotheses: dict[System, Path], clips: Iterable[Path]) -> None:
    """Put down, for each set and decoder, what the selected model wrote of each clip, and its errors."""
    audio = {path.stem: path for path in clips}
    for system, path in hypotheses.items():
        rows = read_table(path)
        heard = read_table(audio[system.set], ["id", "audio_sha256"])
        # Both are in the set's order; a set that could not be had has clips of neither.
        digests = dict(zip(heard["id"].to_pylist(), heard["audio_sha256"].to_pylist(), strict=True))
        column = pa.array([digests[name] for name in rows["id"].to_pylist()], pa.string())
        with atomic_write(scored_file(model, system.set, system.decoder)) as beside:
            pq.write_table(rows.append_column("audio_sha256", column).select(_SCORED), beside)


def scored_file(model: Path, set_name: str, decoder: str) -> Path:
    """Where `put_scored` has put a set's clips by a decoder."""
    return model / FOLDER / "scored" / set_name / f"{decoder}.parquet"


def _without_examples(leakage: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {
            kind: {key: one for key, one in value.items() if key != "examples"} if isinstance(value, dict) else value
            for kind, value in found.items()
        }
        for name, found in leakage.items()
    }


def _without_speakers(breakdown: dict[str, Any]) -> dict[str, Any]:
    for decoders in breakdown["sets"].values():
        for of in decoders.values():
            for number, row in enumerate(of["groups"]["speaker"] if "groups" in of else [], start=1):
                if row["value"] is not None:
                    row["value"] = str(number)
    return breakdown


_WITHOUT: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "leakage.json": _without_examples,
    "breakdown.json": _without_speakers,
}
