"""The folder `evidence` of a model: small files from which every figure of its card is derived.

They contain no audio of a corpus, no speaker ids and no examples of its sentences. Of a corpus whose sentences must not
be redistributed they contain no words and no clip ids either; `anonymise` lists what is removed. So they may be
distributed together with the model.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import yaml
from pydantic import ValidationError

from speechmill.config.evaluation import Decoder
from speechmill.config.root import Config, Run, load
from speechmill.core.command import SpeechmillError
from speechmill.core.files import atomic_write, read_json, write_json, write_text
from speechmill.core.tables import read_table, write_arrow_table
from speechmill.report.anonymise import anonymised, clip_names, is_restricted
from speechmill.report.breakdown import ComparedRun
from speechmill.report.card_settings import CardSettings
from speechmill.scoring.reliability import CALIBRATION, Calibration, Clips, read_calibration, read_clips
from speechmill.scoring.systems import System, selected_rows, with_word_counts

FOLDER = "evidence"
"""The name of the folder inside the model folder."""

_LM = ("arpa", "text", "weights")
_STATUS_KEYS = ("dataset", "listed", "kept", "rejected", "differences", "about")

_ERROR_COLUMNS = ["hits", "substitutions", "deletions", "insertions", "character_errors", "characters"]

_SCORED_COLUMNS = [
    "id", "audio_sha256", "seconds", "hypothesis", *_ERROR_COLUMNS, "loss",
]  # fmt: skip


@dataclass(frozen=True)
class Evidence:
    """The contents of the evidence folder; each field holds the file of that name."""

    settings: CardSettings
    summary: pd.DataFrame
    selection: dict[str, Any]
    breakdown: dict[str, Any]
    training: dict[str, Any]
    log: list[dict[str, Any]]
    plan: dict[str, Any]
    leakage: dict[str, Any]
    usage: list[dict[str, Any]]
    """For each decoder its code, the set and the clip it was run on, and what it printed, if that may be shown."""
    counts: dict[str, dict[str, Any]]
    """By role, such as `train` or the name of a set, in the order of the run."""
    status: list[dict[str, Any]]
    lm: dict[str, Any]
    """`text`, `arpa` and `weights`; empty without a language model."""
    base: dict[str, Any] | None
    """The source of the base model, if there is one."""
    base_card: dict[str, Any] | None
    """What the card of the base model says, if there is one, perhaps through other runs."""
    label_errors: dict[str, Any] | None
    """The numbers of training clips and of those whose sentences were scored, if the run scores them."""
    exports: dict[str, dict[str, Any]]
    """By set: the scores of the exported models; empty if the model was not exported."""
    seeds: dict[str, pd.DataFrame]
    """By run of the same sweep that differs only in its seed: its scores at the step that was selected."""
    compared: dict[str, pd.DataFrame]
    """The same of each run that the card compares with."""
    calibration: Calibration | None
    """The calibrators of the model's confidence and their errors; None in a folder of release 0.1.0."""
    confidence: dict[str, dict[Decoder, Clips]]
    """By set and decoder, the confidence of the words of each clip before calibration, and whether each is right."""
    vocabulary: list[str]
    training_clips_digest: str
    """The sha256 of the training clips with their texts."""


def read(model: Path) -> Evidence:
    """Return the evidence in a model folder.

    Raises:
        SpeechmillError: A file is missing or corrupt, or another version of speechmill wrote the settings.
    """
    folder = model / FOLDER

    def read_one(name: str, *keys: str) -> Any:
        """Return an object in JSON, which has at least these keys."""
        content = _read(folder / name, read_json)
        if not isinstance(content, dict) or not content.keys() >= set(keys):
            raise _damaged(folder / name, f"is no JSON object with {', '.join(keys) or 'any keys'}")
        return content

    try:
        settings = CardSettings.model_validate(read_one("settings.json"))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise SpeechmillError(
            f"{folder / 'settings.json'} was written by another version of speechmill ({key}: {first['msg']}); use that"
            " version"
        ) from error

    def read_runs(kind: str, runs: Iterable[str]) -> dict[str, pd.DataFrame]:
        """Return the scores of other runs, each at its selected step."""
        found = {}
        for run in runs:
            scores = read_scores(folder / kind / run / "summary.parquet", ["step", "set", "decoder"]).to_pandas()
            found[run] = selected_rows(scores, read_one(f"{kind}/{run}/selection.json", "step"))
        return found

    def read_if_present(name: str, *keys: str) -> Any:
        return read_one(name, *keys) if (folder / name).is_file() else None

    exported = [name for name in settings.roles if "-" in name] if (folder / "export").is_dir() else []
    path = model / CALIBRATION
    calibration: Calibration | None = _read(path, read_calibration) if path.is_file() else None
    sets = [] if calibration is None else dict.fromkeys(each.set for each in calibration.sets)
    return Evidence(
        settings=settings,
        summary=read_scores(folder / "summary.parquet", ["step", "set", "decoder", "unavailable"]).to_pandas(),
        selection=read_one("selection.json", "step", "set", "decoder", "metric", "sha256"),
        breakdown=read_one("breakdown.json", "sets", "comparisons"),
        training=read_one("training.json", "hyper_parameters", "versions", "hardware"),
        log=_read(folder / "training.jsonl", _read_json_lines),
        plan=read_one("plan.json", "checkpoints"),
        leakage=read_one("leakage.json"),
        usage=_read(folder / "usage.json", _read_examples),
        counts={role: read_one(f"counts/{role}.json", "sets", "clips", "excluded") for role in settings.roles},
        status=[read_one(f"status/{name}.json", *_STATUS_KEYS) for name in settings.datasets],
        lm={name: read_one(f"lm/{name}.json") for name in _LM if (folder / "lm").is_dir()},
        base=read_if_present("base.json"),
        base_card=read_one("base_card.json", "cards", "weights_changed")
        if settings.base_training and settings.base_training.base
        else None,
        label_errors=read_if_present("label_errors.json", "clips", "scored"),
        seeds=read_runs("seeds", settings.sweep.other_seeds if settings.sweep else []),
        compared=read_runs("compared", settings.compared),
        exports={name: read_one(f"export/{name}.json", "exports") for name in exported},
        calibration=calibration,
        confidence={name: _read(confidence_file(model, name), read_clips) for name in sets},
        vocabulary=_read(model / "vocab.json", lambda path: list(read_json(path))),
        training_clips_digest=_read(folder / "train.sha256", lambda path: path.read_text(encoding="utf-8").strip()),
    )


def read_configuration(model: Path, run: str) -> Config:
    """Return the configuration that reproduces a run.

    Raises:
        SpeechmillError: It is missing or invalid, or lacks the run.
    """
    path = model / FOLDER / "config.yaml"
    config: Config = _read(path, _read_configuration)
    if run not in config.runs:
        raise _damaged(path, f"lacks the run {run}")
    return config


def read_run(model: Path) -> Run:
    """Return the section of the configuration of the run that made a model.

    Raises:
        SpeechmillError: A file is missing or corrupt, or lacks the run.
    """
    path = model / FOLDER / "settings.json"
    settings = _read(path, read_json)
    if not isinstance(settings, dict) or "run" not in settings:
        raise _damaged(path, "lacks the name of the run")
    return read_configuration(model, settings["run"]).runs[settings["run"]]


def read_scores(path: Path, columns: list[str]) -> pa.Table:
    """Return a table in the evidence folder that has at least these columns.

    Raises:
        SpeechmillError: The table is missing or corrupt, or lacks one of them.
    """
    table: pa.Table = _read(path, read_table)
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise _damaged(path, f"lacks the columns {', '.join(missing)}")
    return table


def _read(path: Path, read: Callable[[Path], Any]) -> Any:
    """Return what `read` returns for a file of a model folder."""
    if not path.is_file():
        raise SpeechmillError(f"{path} is missing: the model folder is incomplete; download or build it again")
    try:
        return read(path)
    # The advice in a SpeechmillError is to run snakemake, which does not help with a folder that was downloaded.
    except (SpeechmillError, ValueError, TypeError, LookupError, yaml.YAMLError) as error:
        raise _damaged(path, f"cannot be read ({error})") from error


def _read_json_lines(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines:
        raise ValueError("it is empty")
    return [dict(json.loads(line)) for line in lines]


def _read_examples(path: Path) -> list[dict[str, str]]:
    examples: list[dict[str, str]] = read_json(path)
    if not isinstance(examples, list):
        raise ValueError("it is no list")
    for row in examples:
        for key in ("decoder", "code", "set", "clip", "printed"):
            row[key]
    return examples


def _read_configuration(path: Path) -> Config:
    return load(yaml.safe_load(path.read_text(encoding="utf-8")))


def _damaged(path: Path, problem: str) -> SpeechmillError:
    return SpeechmillError(f"{path} {problem}; download or build the model folder again")


def write(model: Path, settings: CardSettings, configuration: dict[str, Any], files: dict[str, Path]) -> None:
    """Write the evidence into a model folder.

    Args:
        model: The model folder.
        settings: The settings of the card.
        configuration: The configuration that reproduces the run.
        files: The source of each file by its name in the evidence folder. The copies are anonymised.
    """
    folder = model / FOLDER
    write_json(settings.model_dump(mode="json"), folder / "settings.json")
    write_text(yaml.safe_dump(configuration, allow_unicode=True, sort_keys=False, width=100), folder / "config.yaml")
    for name, source in files.items():
        if name.endswith(".json"):
            write_json(anonymised(name, read_json(source), settings.restricted), folder / name)
        else:
            with atomic_write(folder / name) as temporary:
                temporary.write_bytes(source.read_bytes())


def write_scored(model: Path, settings: CardSettings, hypotheses: dict[System, Path], clips: Iterable[Path]) -> None:
    """Write, for each set and decoder, the hypotheses of the selected model with their error counts."""
    tables = {path.stem: path for path in clips}
    for system, path in hypotheses.items():
        rows = read_table(path)
        scored = read_table(tables[system.set], ["id", "audio_sha256"])
        # Both tables are in the order of the set; for a set that is not available both are empty.
        digests = dict(zip(scored["id"].to_pylist(), scored["audio_sha256"].to_pylist(), strict=True))
        ids = rows["id"].to_pylist()
        rows = rows.append_column("audio_sha256", pa.array([digests[name] for name in ids], pa.string()))
        rows = rows.select(_SCORED_COLUMNS)
        if is_restricted(system.set, settings.restricted):
            numbers = pa.array(clip_names(ids, restricted=True), pa.string())
            rows = rows.set_column(0, "id", numbers).drop_columns("hypothesis")
        write_arrow_table(rows, scored_file(model, system.set, system.decoder))


def write_compared(model: Path, breakdown: dict[str, Any], runs: Iterable[ComparedRun]) -> None:
    """Write the error counts of other runs on each clip of the sets that `breakdown` compares them on.

    The column `speaker` groups the clips for the test: it numbers the speakers, and clips of unknown ones, in the order
    of their first clips.
    """
    hypotheses = {
        (run.name, system.set, system.decoder): path for run in runs for system, path in run.hypotheses.items()
    }
    for row in breakdown["comparisons"]:
        if row["kind"] == "runs":
            key = (row["first"]["run"], row["first"]["set"], row["first"]["decoder"])
            clips = read_table(hypotheses[key], ["speaker_id", "id", *_ERROR_COLUMNS]).to_pandas()
            groups = clips["speaker_id"].mask(clips["speaker_id"] == "").fillna(clips["id"])
            columns = clips[_ERROR_COLUMNS].assign(speaker=pd.factorize(groups)[0])
            write_arrow_table(pa.Table.from_pandas(columns, preserve_index=False), compared_file(model, *key))


def compared_clips(model: Path, row: dict[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the scored clips of another run and of this one, as `breakdown.compare` takes them.

    `row` is a row of `comparisons` in the breakdown, of the kind `runs`.

    Raises:
        SpeechmillError: A table is missing or corrupt, or they have different clips.
    """
    path = compared_file(model, *(row["first"][key] for key in ("run", "set", "decoder")))
    theirs = with_word_counts(read_scores(path, [*_ERROR_COLUMNS, "speaker"]).to_pandas())
    scored = scored_file(model, row["second"]["set"], row["second"]["decoder"])
    ours = with_word_counts(read_scores(scored, _ERROR_COLUMNS).to_pandas())
    if len(ours) != len(theirs):
        raise _damaged(path, f"has {len(theirs)} clips, but {scored} has {len(ours)}")
    for clips in (theirs, ours):
        clips["id"] = clips.index
        clips["group"] = clips["speaker_id"] = theirs["speaker"]
    if not theirs[["words", "characters"]].equals(ours[["words", "characters"]]):
        raise _damaged(path, f"has references of other lengths than {scored}")
    return theirs, ours


def scored_file(model: Path, set_name: str, decoder: str) -> Path:
    """Return the path of the table that `write_scored` writes for a set and a decoder."""
    return model / FOLDER / "scored" / set_name / f"{decoder}.parquet"


def compared_file(model: Path, run: str, set_name: str, decoder: str) -> Path:
    """Return the path of the table that `write_compared` writes for a set and a decoder of another run."""
    return model / FOLDER / "compared" / run / set_name / f"{decoder}.parquet"


def write_confidence(model: Path, settings: CardSettings, tables: Iterable[Path]) -> None:
    """Write the table of the confidence of words in each set, with numbers in place of clip ids where restricted."""
    for path in tables:
        rows = read_table(path)
        if is_restricted(path.stem, settings.restricted):
            ids = rows["id"].to_pylist()
            # Each decoder has the same clips.
            unique = list(dict.fromkeys(ids))
            numbers = dict(zip(unique, clip_names(unique, restricted=True), strict=True))
            column = pa.array([numbers[name] for name in ids], pa.string())
            rows = rows.set_column(rows.column_names.index("id"), "id", column)
        write_arrow_table(rows, confidence_file(model, path.stem))


def confidence_file(model: Path, set_name: str) -> Path:
    """Return the path of the table that `write_confidence` writes for a set."""
    return model / FOLDER / "confidence" / f"{set_name}.parquet"
