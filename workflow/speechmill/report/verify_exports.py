"""Recomputation of the scores of the exported models in a model folder."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from speechmill.config.root import Run
from speechmill.core.files import file_digest
from speechmill.inference.evaluate import score
from speechmill.inference.log_probs import LogProbsSettings
from speechmill.inference.onnx_recogniser import Recogniser
from speechmill.inference.score_export import compare, transcribe
from speechmill.model.devices import device_name
from speechmill.model.labels import written_special_tokens
from speechmill.model.models import load_processor
from speechmill.report import evidence
from speechmill.report.check_result import CheckResult
from speechmill.report.verify_folder import ERROR_COUNTS
from speechmill.report.verify_scores import Recordings, Tolerance, compare_scores, load_recordings, tolerance

_EXPORTS = "onnx"
"""The folder of the exported models in the model folder."""

_RATES = ("wer", "cer")


def check_exports(model: Path, data: Path) -> CheckResult:
    """Score the exported models again, one clip at a time, and compare them with the checkpoint again.

    `data` is the folder of the prepared datasets. Nothing is checked if the model was not exported.
    """
    result = CheckResult()
    with result.reporting(f"the exported models in {model} cannot be scored"):
        found = evidence.read(model)
        config = evidence.read_configuration(model, found.settings.run)
        for set_name, metrics in found.exports.items():
            if metrics["exports"]:
                recordings = load_recordings(config, found.settings.run, set_name, data)
                result.add(_check_set(model, config.runs[found.settings.run], set_name, recordings, metrics))
    return result


def _check_set(model: Path, run: Run, set_name: str, recordings: Recordings, metrics: dict[str, Any]) -> CheckResult:
    """Score all exported models on a set again."""
    result, clips = CheckResult(), recordings.clips
    original = evidence.read_scores(evidence.scored_file(model, set_name, "greedy"), ["hits"]).to_pylist()
    if len(original) != len(clips):
        result.differences.append(
            f"{_EXPORTS} on {set_name}: it was scored on {len(original)} clips, but there are {len(clips)} recordings"
        )
        return result
    original = [
        row | {"speaker_id": clip["speaker_id"], "id": clip["id"]} for row, clip in zip(original, clips, strict=True)
    ]
    same = metrics["device"] == device_name(torch.device("cpu")) and all(
        version(name) == recorded for name, recorded in metrics["versions"].items()
    )
    allowed = tolerance(same, gpu=False, precision="fp32")
    for precision, recorded in metrics["exports"].items():
        what = f"{_EXPORTS}/{recorded['file']} on {set_name}"
        lines = _differences(model, run, set_name, recordings, original, recorded, allowed)
        result.differences += [f"{what}: {line}" for line in lines]
        if not lines:
            rates = ", ".join(f"{rate.upper()} {100 * recorded[rate]:.2f}%" for rate in _RATES)
            result.passed.append(f"recomputed  {what} ({precision}): {rates}: {allowed}")
    return result


def _differences(
    model: Path, run: Run, set_name: str, recordings: Recordings, original: list[dict[str, Any]],
    recorded: dict[str, Any], allowed: Tolerance,
) -> list[str]:  # fmt: skip
    """Return a line for each score of an exported model on a set that is not reproduced."""
    file = model / _EXPORTS / recorded["file"]
    if file_digest(file) != recorded["sha256"]:
        return [f"it is not the model that was scored, which has the sha256 {recorded['sha256']}"]
    how, clips = run.evaluation.set_config(set_name), recordings.clips
    inference = LogProbsSettings(
        device="cpu", batch_seconds=0, chunk_seconds=how.chunk_seconds, stride_seconds=how.stride
    )
    names = [clip["id"] for clip in clips]
    hypotheses = list(transcribe(Recogniser(file, threads=1), names, recordings.samples, inference))
    special_tokens = written_special_tokens(load_processor(model))
    rows, scores = score(clips, hypotheses, [None] * len(clips), run.text, how.protocols, special_tokens)
    # Hypotheses of a corpus whose sentences must not be redistributed are not in the evidence.
    with_texts = all("hypothesis" in row for row in original)
    again = scores | compare(rows, [{"hypothesis": None} | row for row in original], recorded["comparison"]["metric"])
    keys = [*_RATES, "clips_scored", *ERROR_COUNTS]
    keys += ["different_clips"] if with_texts and allowed.equal_texts else []
    before, now = (
        {key: each[key] for key in keys} | {"difference": each["comparison"]["difference"]}
        for each in (recorded, again)
    )
    return compare_scores(before, now, allowed)
