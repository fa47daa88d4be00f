"""How much of the training data was transcribed by a model, and by which one."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class MachineTranscripts(NamedTuple):
    """The training clips of a dataset whose sentences are hypotheses of a run."""

    dataset: str
    clips: int
    seconds: float
    share: float
    """Of the seconds of all training clips."""
    about: Mapping[str, Any]
    """How they were made: `run`, `step`, `decoder`, `min_score`, and `wer` and `cer` on the `set` that selected."""


def machine_transcripts(counts: Mapping[str, Any], statuses: Iterable[Mapping[str, Any]]) -> list[MachineTranscripts]:
    """Return the datasets in training that a model transcribed.

    Args:
        counts: The counts of the training clips, as the stage `clips` writes them.
        statuses: The statuses of the datasets that the run reads.
    """
    # Counts of release 0.1.0 lack `by_dataset`, and then no dataset was transcribed by a model.
    by_dataset = counts.get("by_dataset", {})
    transcribed = [status for status in statuses if status["about"].get("stage") == "transcribe"]
    return [
        MachineTranscripts(
            status["dataset"], of["clips"], of["seconds"], of["seconds"] / counts["seconds"], status["about"]
        )
        for status in transcribed
        if (of := by_dataset.get(status["dataset"])) is not None
    ]


def format_machine_transcripts(each: MachineTranscripts) -> str:
    """Return a sentence on the machine-made transcripts of a dataset."""
    about = each.about
    rates = " and ".join(
        f"{name.upper()} {'unknown' if about.get(name) is None else f'{about[name]:.2%}'}" for name in ("wer", "cer")
    )
    return (
        f"{each.clips:,} clips of {each.dataset}, {each.seconds / 3600:.2f} h or {each.share:.1%} of the training"
        f" audio, have transcripts by the run {about['run']}, step {about['step']}, {about['decoder']} decoding, which"
        f" has {rates} on {about['set']}; clips with a confidence below {about['min_score']:g} are left out"
    )
