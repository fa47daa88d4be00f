"""Recomputation of a model's scores from its folder and the recordings."""

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from speechmill.config.root import Config
from speechmill.config.sets import stored_splits
from speechmill.core.command import SpeechmillError
from speechmill.core.files import read_json
from speechmill.core.flac import Int16Samples
from speechmill.core.progress import progress
from speechmill.core.schemas import CLIPS
from speechmill.core.tables import clips_digest, read_table
from speechmill.corpus.clips import ClipsSettings, select_clips
from speechmill.inference.decoders import BeamSearch, Weights
from speechmill.inference.evaluate import corpus_scores
from speechmill.inference.log_probs import LogProbsSettings
from speechmill.inference.perturb import apply_effect
from speechmill.model.clip_reader import ClipReader
from speechmill.model.devices import device_name
from speechmill.model.labels import LabelEncoder, written_special_tokens
from speechmill.report import evidence
from speechmill.report.anonymise import clip_names, is_restricted
from speechmill.report.check_result import CheckResult
from speechmill.report.reference_model import ReferenceModel
from speechmill.report.usage import run_code, usage_code
from speechmill.report.verify_folder import ERROR_COUNTS, selected_scores
from speechmill.scoring.error_rates import count
from speechmill.scoring.protocols import apply_protocol
from speechmill.scoring.systems import base_set

TOLERANCE_POINTS = 0.2
"""The largest difference of an error rate, in percentage points, on another device or with another version of torch."""

_RATES = ["wer", "cer"]
_OTHER_COUNTS = ["clips_scored", "characters_outside", "different_clips"]
_SHOWN_CLIPS = 10


class Tolerance(NamedTuple):
    """How far recomputed scores may be from recorded ones."""

    rate: float
    """The largest difference of an error rate, as a fraction."""
    words: int
    """The number of words that may differ where this is more than `rate`; for the rate of characters as well."""
    loss: float
    """The largest difference of a loss, as a fraction of it."""
    equal_texts: bool
    """Whether all hypotheses, and with them the numbers of errors, must be equal."""
    reason: str

    def __str__(self) -> str:
        if self.equal_texts:
            return f"equal within {self.rate:g}, {self.reason}"
        words = f"{self.words} word{'s' if self.words > 1 else ''}"
        return f"within {100 * self.rate:g} points or {words}, {self.reason}"

    def of_set(self, words: int) -> float:
        """Return the largest difference of an error rate, as a fraction, for a set of `words` words."""
        return max(self.rate, self.words / max(1, words))


class Recordings(NamedTuple):
    """The clips of a set, and a function that returns the samples of a clip by its index."""

    clips: list[dict[str, Any]]
    samples: Callable[[int], Int16Samples]


class SetOutput(NamedTuple):
    """The outputs of a model for the clips of a set, in their order."""

    hypotheses: dict[str, list[str]]
    """By decoder."""
    losses: list[float]
    audio_digests: list[str]
    """The sha256 of the samples of each clip."""


def tolerance(same: bool, gpu: bool, precision: str) -> Tolerance:
    """Return the tolerance for scores of the evaluation, which processes clips in batches, recomputed one at a time.

    On a CPU, only the order of a sum differs. On a GPU, the kernels and with them the rounding depend on the shape of a
    batch, so that two tokens that are about equally probable can change places.

    Args:
        same: Whether device and version of torch are those of the evaluation.
        gpu: Whether the device is a GPU.
        precision: The precision of the evaluation, `fp32`, `bf16` or `fp16`; a CPU always computes in fp32.
    """
    if not same:
        return Tolerance(TOLERANCE_POINTS / 100, 2, 1e-2, False, "on another device or torch version")
    if not gpu:
        # The card shows four decimals of a loss.
        return Tolerance(1e-9, 0, 1e-4, True, "on the same CPU model")
    if precision == "fp32":
        return Tolerance(TOLERANCE_POINTS / 1000, 1, 1e-4, False, "in fp32 on the same GPU model")
    return Tolerance(TOLERANCE_POINTS / 100, 2, 1e-2, False, f"in {precision} on the same GPU model")


def check_scores(model: Path, data: Path, device: torch.device) -> CheckResult:
    """Recompute the scores of a model folder on the prepared datasets in `data`, and run the code in its card."""
    result = CheckResult()
    with result.reporting(f"the scores of {model} cannot be recomputed"):
        _check_all(model, data, device, result)
    return result


def _check_all(model: Path, data: Path, device: torch.device, result: CheckResult) -> None:
    found = evidence.read(model)
    run = found.settings.run
    config = evidence.read_configuration(model, run)
    reference = ReferenceModel(model, device)
    # Only the same device and the same version of torch give the same figures.
    same_torch = found.training["versions"]["Pytorch"] == version("torch")
    for name, rows in selected_scores(found).groupby("set", sort=False):
        same = same_torch and bool((rows["device"] == device_name(device)).all())
        allowed = tolerance(same, device.type == "cuda", config.runs[run].evaluation.precision)
        try:
            recordings = load_recordings(config, run, str(name), data)
            result.add(_check_set(reference, model, config, run, recordings, rows, allowed))
        except SpeechmillError as error:
            result.differences.append(f"{name}: {error}")
    result.add(_check_usage(model, found, config, data))


def load_recordings(config: Config, run: str, name: str, data: Path) -> Recordings:
    """Return the clips of a scored set, or of a perturbed copy of one, from the prepared datasets in `data`.

    Raises:
        SpeechmillError: The dataset is not prepared, or one of its files is corrupt.
    """
    original, effect = base_set(name), name.removeprefix(base_set(name)).removeprefix("-")
    dataset = config.datasets[original.split("-")[0]]
    folders = [(data / stored / split, dataset.shard_count(split)) for stored, split in stored_splits(config, original)]
    indexes = [folder / "index.parquet" for folder, _ in folders]
    shards = [folder / f"shard-{number:05d}.parquet" for folder, shards in folders for number in range(shards)]
    for path in [*indexes, *shards]:
        if not path.is_file():
            raise SpeechmillError(f"{path} is missing: prepare the dataset first, or omit --data")
    settings = ClipsSettings(
        text=config.runs[run].text,
        sets=[original],
        drawn={original.split("-")[0]: dataset.drawn},
        training=None,
    )
    clips = select_clips(indexes, settings).used
    reader = ClipReader(pa.Table.from_pylist(clips, CLIPS), shards, pool_clips=64)
    if not effect:
        return Recordings(clips, reader.samples)
    robustness = config.runs[run].evaluation.robustness
    assert robustness is not None
    perturbation = robustness.effects[effect]
    return Recordings(clips, lambda i: apply_effect(reader.samples(i), perturbation, clips[i]["id"]))


def _check_set(
    reference: ReferenceModel, model: Path, config: Config, run: str, recordings: Recordings, rows: pd.DataFrame,
    allowed: Tolerance,
) -> CheckResult:  # fmt: skip
    """Compare the rows of the summary for a set, one for each decoder, with recomputed scores."""
    name, decoders = str(rows.iloc[0]["set"]), list(rows["decoder"])
    clips = recordings.clips
    scored = read_table(evidence.scored_file(model, name, decoders[0]), ["id", "audio_sha256"]).to_pydict()
    result = CheckResult(differences=_compare_ids(name, scored["id"], _names_in_evidence(config, name, clips)))
    if result.differences:
        return result
    section = config.runs[run]
    how = section.evaluation.set_config(name)
    settings = LogProbsSettings(
        device=section.device,
        precision=section.evaluation.precision,
        batch_seconds=section.evaluation.batch_seconds,
        chunk_seconds=how.chunk_seconds,
        stride_seconds=how.stride,
    )
    output = _process_set(reference, model, settings, recordings, decoders)
    digest = clips_digest(
        [clip | {"audio_sha256": audio} for clip, audio in zip(clips, output.audio_digests, strict=True)]
    )
    if digest != rows.iloc[0]["eval_set_sha256"]:
        changed = [
            f"{name}: the audio of the clip {clip} is not the audio that was scored"
            for clip, before, now in zip(scored["id"], scored["audio_sha256"], output.audio_digests, strict=True)
            if before != now
        ]
        result.differences += changed or [f"{name}: the texts of its clips are not those that were scored"]
    outside = LabelEncoder(reference.processor).outside_vocabulary(clip["text"] for clip in clips)
    for row in rows.to_dict("records"):
        special_tokens = written_special_tokens(reference.processor)
        scores = _scores(config, run, name, clips, output.hypotheses[row["decoder"]], output.losses, special_tokens)
        scores["characters_outside"] = outside.total()
        what = f"{name} by {row['decoder']}"
        lines = compare_scores({str(key): value for key, value in row.items()}, scores, allowed)
        texts = _changed_texts(evidence.scored_file(model, name, row["decoder"]), output.hypotheses[row["decoder"]])
        if texts and allowed.equal_texts:
            lines.append(texts)
        result.differences += [f"{what}: {line}" for line in lines]
        if not lines:
            known = (rate for rate in _RATES if scores[rate] is not None)
            rates = ", ".join(f"{rate.upper()} {100 * scores[rate]:.2f}%" for rate in known)
            also = f"; {texts}" if texts else ""
            result.passed.append(f"recomputed  {what}: {rates}, {len(clips)} clips: {allowed}{also}")
    return result


def _changed_texts(scored: Path, hypotheses: Sequence[str]) -> str:
    """Return a line with the number and the names of the clips whose hypothesis differs; empty if there are none.

    The evidence has no hypotheses where the terms of a corpus do not allow it.
    """
    rows = read_table(scored)
    if "hypothesis" not in rows.column_names:
        return ""
    recorded = zip(rows["id"].to_pylist(), rows["hypothesis"].to_pylist(), hypotheses, strict=True)
    changed = [name for name, before, now in recorded if before != now]
    shown = ", ".join(changed[:_SHOWN_CLIPS]) + (", ..." if len(changed) > _SHOWN_CLIPS else "")
    return f"the texts of {len(changed)} clips are others: {shown}" if changed else ""


def _compare_ids(name: str, scored: list[str], available: list[str]) -> list[str]:
    """Return a line for each clip that only the scored set or only the recordings contain."""
    missing, additional = sorted(set(scored) - set(available)), sorted(set(available) - set(scored))
    lines = [f"{name}: the clip {clip} was scored but is not among the recordings" for clip in missing]
    return lines + [f"{name}: the clip {clip} is among the recordings but was not scored" for clip in additional]


def _process_set(
    reference: ReferenceModel, model: Path, settings: LogProbsSettings, recordings: Recordings, decoders: Sequence[str]
) -> SetOutput:
    clips = recordings.clips
    greedy: list[str] = []
    losses: list[float] = []
    digests: list[str] = []
    sizes: list[int] = []
    with tempfile.TemporaryFile() as spill:
        for i, clip in enumerate(progress(clips, total=len(clips), desc="verify", unit="clip")):
            samples = recordings.samples(i)
            digests.append(hashlib.sha256(samples.data).hexdigest())
            log_probs = reference.log_probs(samples, settings)
            greedy.append(reference.decode(log_probs))
            one_chunk = len(reference.chunks(len(samples), settings)) == 1
            losses.append(reference.loss(log_probs, clip["text"]) if one_chunk else float("inf"))
            if "lm" in decoders:
                # In the precision in which the workflow stores them between its two stages.
                sizes.append(spill.write(log_probs.astype("<f2").tobytes()))
        hypotheses = {"greedy": greedy}
        if "lm" in decoders:
            search = _beam_search(model / "lm")
            spill.seek(0)
            stored = (np.frombuffer(spill.read(size), dtype="<f2") for size in sizes)
            width = reference.vocab_size
            hypotheses["lm"] = [search(each.reshape(-1, width)) if len(each) else "" for each in stored]
    return SetOutput(hypotheses, losses, digests)


def _names_in_evidence(config: Config, set_name: str, clips: list[dict[str, Any]]) -> list[str]:
    """Return the names of the clips of a set in the evidence."""
    restricted = [name for name, dataset in config.datasets.items() if not dataset.text_redistributable]
    return clip_names([clip["id"] for clip in clips], is_restricted(set_name, restricted))


def _beam_search(folder: Path) -> BeamSearch:
    try:
        return BeamSearch(folder, Weights.model_validate(read_json(folder / "weights.json")))
    # Its files are read by several libraries, of which some check nothing.
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        raise SpeechmillError(
            f"the language model in {folder} cannot be used ({type(error).__name__}: {error}); download or build the"
            " model folder again"
        ) from error


def _scores(
    config: Config,
    run: str,
    name: str,
    clips: list[dict[str, Any]],
    hypotheses: list[str],
    losses: list[float],
    special_tokens: Sequence[str],
) -> dict[str, Any]:
    """Return the recomputed values of a row of `summary.parquet`."""
    section = config.runs[run]
    texts = [(clip["sentence"], clip["text"]) for clip in clips]
    groups = [clip["speaker_id"] or clip["id"] for clip in clips]
    protocols = section.evaluation.set_config(name).protocols
    scores: dict[str, Any] = {}
    for protocol in protocols:
        scored = apply_protocol(protocol, texts, hypotheses, section.text, special_tokens)
        found = corpus_scores(count(*scored), groups)
        scores |= {f"{rate}_{protocol}": found[rate] for rate in _RATES}
        if protocol == protocols[0]:
            scores |= {key: found[key] for key in (*_RATES, *ERROR_COUNTS, "no_interval")}
            for rate in _RATES:
                scores[f"{rate}_low"], scores[f"{rate}_high"] = found[f"{rate}_ci95"]
    finite = [loss for loss in losses if np.isfinite(loss)]
    return scores | {"loss": float(np.mean(finite)) if finite else None, "clips_scored": len(clips)}


def compare_scores(row: dict[str, Any], scores: dict[str, Any], allowed: Tolerance) -> list[str]:
    """Return a line for each recorded value that the recomputed scores do not reproduce.

    Args:
        row: The recorded values, such as a row of `summary.parquet`.
        scores: The recomputed values, by column.
        allowed: The tolerance.
    """
    lines = []
    for key, value in scores.items():
        recorded = None if pd.isna(row[key]) else row[key]
        if key in ERROR_COUNTS and not allowed.equal_texts and key != "reference_words":
            continue
        if value is None or recorded is None or key in (*ERROR_COUNTS, *_OTHER_COUNTS, "no_interval"):
            same = value == recorded
        elif key == "loss":
            same = abs(value - recorded) <= allowed.loss * max(1.0, abs(recorded))
        else:
            same = abs(value - recorded) <= allowed.of_set(row["reference_words"])
        if not same:
            lines.append(f"{key} is {recorded} in the evidence but {value} when recomputed")
    return lines


def _check_usage(model: Path, found: evidence.Evidence, config: Config, data: Path) -> CheckResult:
    """Run the code in the card and compare its output with the card, unless the code is not from speechmill."""
    result = CheckResult()
    lm_unit = config.runs[found.settings.run].lm_unit if found.lm else "words"
    for example in found.usage:
        what = f"the code for {example['decoder']} decoding"
        if example["code"] != usage_code(example["decoder"], found.settings.text.units, lm_unit):
            result.passed.append(f"skipped     {what} is not from this version of speechmill, so it is not run")
            continue
        try:
            recordings = load_recordings(config, found.settings.run, example["set"], data)
            index = _names_in_evidence(config, example["set"], recordings.clips).index(example["clip"])
        except (SpeechmillError, ValueError) as error:
            result.differences.append(f"{what} cannot be run on {example['clip']}: {error}")
            continue
        output = None
        with result.reporting(f"{what} fails"):
            output = run_code(example["code"], model, recordings.samples(index))
        if output is None:
            continue
        if example["printed"] is None:
            result.passed.append(f"recomputed  {what} runs; the terms of the corpus keep its output out of the card")
        elif output == example["printed"]:
            result.passed.append(f"recomputed  {what} prints {output!r}: equal")
        else:
            result.differences.append(f"{what} prints {output!r}, but the card shows {example['printed']!r}")
    return result
