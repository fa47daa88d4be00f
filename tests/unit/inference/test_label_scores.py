from pathlib import Path
from typing import Any

import pytest
import torch

from material import recording, store
from speechmill.config.text import TextConfig
from speechmill.inference.label_scores import LabelScoresSettings, label_scores
from speechmill.inference.log_probs import LogProbsSettings, transcribe
from speechmill.model.models import load_checkpoint

CPU = torch.device("cpu")
SETTINGS = LabelScoresSettings(inference=LogProbsSettings(device="cpu", batch_seconds=60), text=TextConfig(keep="a-z"))
SECONDS = [2.0, 1.0, 0.001, 0.1]
TEXTS = ["ab cd e", "ab", "c", "abcabcabcabc"]

Stored = tuple[Any, list[dict[str, Any]], list[Path]]


@pytest.fixture
def stored(tmp_path: Path, checkpoints: Path) -> Stored:
    recordings = [recording(seconds, seed=i) for i, seconds in enumerate(SECONDS)]
    clips, shards = store(tmp_path, recordings, TEXTS)
    clips = [clip | {"sentence": clip["text"]} for clip in clips]
    return load_checkpoint(checkpoints / "checkpoint-0"), clips, shards


def test_every_clip_has_a_score_or_a_reason(stored: Stored) -> None:
    checkpoint, clips, shards = stored
    rows = label_scores(*checkpoint, clips, shards, SETTINGS, CPU)
    assert [each["id"] for each in rows] == [clip["id"] for clip in clips]
    assert [each["score"] is None for each in rows] == [False, False, True, True]
    assert rows[2]["reason"] == "shorter than one frame of the model"
    assert "frames are too few for the text" in rows[3]["reason"]


def test_score_of_the_hypothesis_itself_is_zero(stored: Stored) -> None:
    checkpoint, clips, shards = stored
    hypotheses = [text.replace("[UNK]", "") for text in transcribe(*checkpoint, clips, shards, 60, CPU)[0]]
    clips = [clip | {"text": text, "sentence": text} for clip, text in zip(clips[:2], hypotheses, strict=False)]
    assert [each["score"] for each in label_scores(*checkpoint, clips, shards, SETTINGS, CPU)] == [0.0, 0.0]


def test_score_is_the_difference_of_likelihoods_per_label(stored: Stored) -> None:
    checkpoint, clips, shards = stored
    (clip,) = clips[:1]
    (hypothesis,), (loss,) = transcribe(*checkpoint, [clip], shards, 60, CPU)
    hypothesis = hypothesis.replace("[UNK]", "")
    _, (own,) = transcribe(*checkpoint, [clip | {"text": hypothesis}], shards, 60, CPU)
    (row,) = label_scores(*checkpoint, [clip], shards, SETTINGS, CPU)
    assert row["score"] == pytest.approx((own * max(1, len(hypothesis)) - loss * 7) / 7)
