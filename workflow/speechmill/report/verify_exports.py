"""Recomputation of the scores of the exported models in a model folder."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from speechmill.config.root import Config
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
from speechmill.report.evidence import Evidence
from speechmill.report.verify_folder import ERROR_COUNTS
from speechmill.report.verify_scores import TOLERANCE_POINTS, load_recordings

EXPORTS = "onnx"
"""The folder of the exported models in the model folder."""

_RATES = ("wer", "cer")
_RATE_TOLERANCE = 1e-9


def check_exports(model: Path, data: Path) -> CheckResult:
    """Score the exported models again, one clip at a time, and compare them with the checkpoint again.

    `data` is the folder of the prepared datasets. Nothing is checked if the model was not exported.
    """
    result = CheckResult()
    with result.reporting(f"the exported models in {model} cannot be scored"):
        found = evidence.read(model)
        config = evidence.read_configuration(model, found.settings.run)
        for set_name, metrics in found.exports.items():
            for precision, recorded in metrics["exports"].items():
                what = f"{EXPORTS}/{recorded['file']} on {set_name}"
                exact = metrics["device"] == device_name(torch.device("cpu")) and all(
                    version(name) == recorded_version for name, recorded_version in metrics["versions"].items()
                )
                lines = _differences(model, data, found, config, set_name, recorded, exact)
                result.differences += [f"{what}: {line}" for line in lines]
                if not lines:
                    agreement = "equal" if exact else f"within {TOLERANCE_POINTS} points, on another processor or with"
                    agreement += "" if exact else " other versions"
                    rates = ", ".join(f"{rate.upper()} {100 * recorded[rate]:.2f}%" for rate in _RATES)
                    result.passed.append(f"recomputed  {what} ({precision}): {rates}: {agreement}")
    return result


def _differences(
    model: Path, data: Path, found: Evidence, config: Config, set_name: str, recorded: dict[str, Any], exact: bool
) -> list[str]:
    """Return a line for each score of an exported model on a set that is not reproduced."""
    file = model / EXPORTS / recorded["file"]
    if file_digest(file) != recorded["sha256"]:
        return [f"it is not the model that was scored, which has the sha256 {recorded['sha256']}"]
    run = config.runs[found.settings.run]
    how = run.evaluation.set_config(set_name)
    recordings = load_recordings(config, found.settings.run, set_name, data)
    clips = recordings.clips
    inference = LogProbsSettings(
        device="cpu", batch_seconds=0, chunk_seconds=how.chunk_seconds, stride_seconds=how.stride
    )
    names = [clip["id"] for clip in clips]
    hypotheses = list(transcribe(Recogniser(file, threads=1), names, recordings.samples, inference))
    special_tokens = written_special_tokens(load_processor(model))
    rows, scores = score(clips, hypotheses, [None] * len(clips), run.text, how.protocols, special_tokens)
    original = evidence.read_scores(evidence.scored_file(model, set_name, "greedy"), ["hits"]).to_pylist()
    if len(original) != len(clips):
        return [f"it was scored on {len(original)} clips, but there are {len(clips)} recordings"]
    shown = [
        row | {"speaker_id": clip["speaker_id"], "id": clip["id"]} for row, clip in zip(original, clips, strict=True)
    ]
    # Hypotheses of a corpus whose sentences must not be redistributed are not in the evidence.
    with_texts = all("hypothesis" in row for row in shown)
    again = scores | compare(rows, [{"hypothesis": None} | row for row in shown], recorded["comparison"]["metric"])
    keys = [*_RATES, "clips_scored", *ERROR_COUNTS, *(["different_clips"] if with_texts else [])]
    tolerance = _RATE_TOLERANCE if exact else TOLERANCE_POINTS / 100
    lines = []
    for key in keys if exact else [*_RATES, "clips_scored", "reference_words"]:
        same = again[key] == recorded[key] if key not in _RATES else abs(again[key] - recorded[key]) <= tolerance
        if not same:
            lines.append(f"{key} is {recorded[key]} in the evidence but {again[key]} when recomputed")
    before, now = recorded["comparison"]["difference"], again["comparison"]["difference"]
    if abs(now - before) > tolerance:
        lines.append(f"the difference from the checkpoint is {before} in the evidence but {now} when recomputed")
    return lines
