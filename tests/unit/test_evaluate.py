import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
import torch
from transformers import pipeline

from material import as_json, recording, store
from speechmill import evaluate
from speechmill.config.text import TextSettings
from speechmill.evaluate import evaluation_batches, score, totals, transcribe
from speechmill.flac import Int16Samples
from speechmill.models import depends_on_padding, load_checkpoint
from speechmill.scoring import count
from speechmill.tables import (
    CLIPS,
    SAMPLE_RATE,
    clips_digest,
    file_digest,
    read_json,
    read_table,
    write_json,
    write_table,
)

# Neither sorted nor all different, and one that is hardly there.
SECONDS = [1.0, 0.4, 2.3, 0.05, 1.0, 0.7, 1.9, 0.4, 1.2]
RECORDINGS = [recording(seconds, seed=i) for i, seconds in enumerate(SECONDS)]
TEXTS = ["abc de", "a", "ed cb", "b", "", "aa bb", "cabq z", "d", "e a b"]

Scored = tuple[list[str], list[float]]


def transcribed(
    folder: Path, checkpoints: Path, batch_seconds: float, recordings: Sequence[Int16Samples] = RECORDINGS
) -> Scored:
    clips, shards = store(folder, recordings, (TEXTS * 2)[: len(recordings)])
    model, processor = load_checkpoint(checkpoints / "checkpoint-0")
    return transcribe(model, processor, clips, shards, batch_seconds, torch.device("cpu"))


def test_hypotheses_are_those_of_the_pipeline_clip_by_clip(tmp_path: Path, checkpoints: Path) -> None:
    hypotheses, _ = transcribed(tmp_path, checkpoints, batch_seconds=6)
    theirs = pipeline("automatic-speech-recognition", model=str(checkpoints / "checkpoint-0"), device="cpu")
    assert hypotheses == [
        theirs({"raw": samples.astype(np.float32) / 32768, "sampling_rate": SAMPLE_RATE})["text"]
        for samples in RECORDINGS
    ]
    assert len(set(hypotheses)) > len(hypotheses) / 2  # so it was not the same thing each time


def test_neighbours_in_a_batch_do_not_matter(tmp_path: Path, checkpoints: Path) -> None:
    together, losses = transcribed(tmp_path / "together", checkpoints, batch_seconds=60)
    alone, losses_alone = transcribed(tmp_path / "alone", checkpoints, batch_seconds=0.001)
    assert together == alone
    assert losses == pytest.approx(losses_alone, rel=1e-4)


def test_a_clip_too_short_for_a_single_frame_is_still_scored(tmp_path: Path, checkpoints: Path) -> None:
    # The window of wav2vec2 is 400 samples, 25 ms.
    recordings = [recording(1.0), np.array([5], dtype=np.int16), np.arange(399, dtype=np.int16), recording(0.5)]
    for budget in (60, 0.001):
        hypotheses, losses = transcribed(tmp_path / str(budget), checkpoints, budget, recordings)
        assert hypotheses[1:3] == ["", ""]
        assert losses[1:3] == [math.inf, math.inf]
        whole, _ = transcribed(tmp_path / f"whole {budget}", checkpoints, budget, [recordings[0], recordings[3]])
        assert [hypotheses[0], hypotheses[3]] == whole


def test_a_clip_that_is_too_short_for_its_text_has_no_loss_and_is_scored(tmp_path: Path, checkpoints: Path) -> None:
    clips, shards = store(tmp_path, [recording(0.5), recording(0.05)], ["abc", "abcde"])
    model, processor = load_checkpoint(checkpoints / "checkpoint-0")
    hypotheses, losses = transcribe(model, processor, clips, shards, 60, torch.device("cpu"))
    assert [math.isfinite(loss) for loss in losses] == [True, False]
    rows, scores = score(clips, hypotheses, losses, TextSettings())
    assert (scores["clips_scored"], scores["clips_without_loss"]) == (2, 1)
    assert scores["loss"] == pytest.approx(losses[0])
    assert len(rows) == 2


@pytest.mark.parametrize("equal_lengths", [True, False])
def test_evaluation_batches_hold_every_clip_once_longest_first(equal_lengths: bool) -> None:
    lengths = np.array([round(seconds * SAMPLE_RATE) for seconds in SECONDS])
    batches = evaluation_batches(lengths, 4.0, equal_lengths)
    assert sorted(int(i) for batch in batches for i in batch) == list(range(len(SECONDS)))
    longest = [lengths[batch].max() for batch in batches]
    assert longest == sorted(longest, reverse=True)
    assert all(len(batch) == 1 or lengths[batch].max() * len(batch) <= 4 * SAMPLE_RATE for batch in batches)
    if equal_lengths:
        assert all(len(set(lengths[batch])) == 1 for batch in batches)


def test_models_with_group_norm_are_known_to_depend_on_padding(checkpoints: Path) -> None:
    model, _ = load_checkpoint(checkpoints / "checkpoint-0")
    assert depends_on_padding(model.config) is (checkpoints.name.startswith("group"))


def scored(references: list[str], hypotheses: list[str], speakers: Sequence[str | None] = (), **text: Any) -> Any:
    clips = [
        {"dataset": "corpus", "split": "test", "id": f"{i}", "speaker_id": speakers[i] if speakers else None,
         "sentence": f"{reference}.", "text": reference, "num_samples": 8000}
        for i, reference in enumerate(references)
    ]  # fmt: skip
    return score(clips, hypotheses, [0.5] * len(clips), TextSettings.model_validate(text))


def test_scores_are_over_the_whole_set() -> None:
    references, hypotheses = ["раз два три", "раз", "четыре пять"], ["раз два", "два", "четыре пять шесть"]
    rows, scores = scored(references, hypotheses)
    assert scores["wer"] == jiwer.wer(references, hypotheses) == 0.5
    assert scores["cer"] == pytest.approx(jiwer.cer(references, hypotheses))
    assert (scores["substitutions"], scores["deletions"], scores["insertions"]) == (1, 1, 1)
    assert (scores["reference_words"], scores["clips_scored"], scores["audio_seconds"]) == (6, 3, 1.5)
    assert [row["deletions"] for row in rows] == [1, 0, 0]


def test_hypotheses_go_through_the_text_rules_of_the_run() -> None:
    rows, scores = scored(["раз два"], ["Раз[UNK] два"], keep="а-я")
    assert scores["wer"] == 0
    assert (rows[0]["hypothesis"], rows[0]["scored_hypothesis"]) == ("Раз[UNK] два", "раз два")
    assert (rows[0]["sentence"], rows[0]["scored_reference"]) == ("раз два.", "раз два")


def test_an_empty_hypothesis_costs_all_its_words() -> None:
    _, scores = scored(["раз два", "три"], ["", "три"])
    assert (scores["wer"], scores["deletions"], scores["clips_scored"]) == (2 / 3, 2, 2)


def test_a_test_clip_that_is_empty_is_still_scored() -> None:
    _, scores = scored(["", "три"], ["раз", "три"])
    assert (scores["wer"], scores["insertions"], scores["clips_scored"]) == (1.0, 1, 2)


def test_clips_of_an_unknown_speaker_are_each_a_group_of_their_own() -> None:
    references, hypotheses = ["раз"] * 20, ["раз"] * 10 + ["два"] * 10
    _, unknown = scored(references, hypotheses)
    _, alone = scored(references, hypotheses, speakers=[f"{i}" for i in range(20)])
    _, two = scored(references, hypotheses, speakers=["one"] * 10 + ["other"] * 10)
    assert unknown["wer_ci95"] == alone["wer_ci95"]
    assert two["wer_ci95"] == [0, 1]


def test_scores_of_a_part_are_made_like_those_of_the_whole() -> None:
    counts = count(["раз два", "три"], ["раз", "три"])
    assert totals(counts[1:], ["b"]) | {"wer": 0.0} == totals(counts[1:], ["b"])
    assert totals(counts, ["a", "b"])["wer"] == 1 / 3


@pytest.fixture
def run(tmp_path: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the program has scored TEXTS, of which one clip more was published."""
    clips, shards = store(tmp_path, RECORDINGS, TEXTS, speakers=["s1", "s2", "s3"] * 3)
    write_table(clips, CLIPS, tmp_path / "clips.parquet")
    write_json({"published": len(clips) + 1, "unavailable": None}, tmp_path / "counts.json")
    arguments = ["--run", "demo", "--settings", as_json({"device": "cpu", "text": {}, "batch_seconds": 5}),
                 "--gpus", 0, "--threads", 1, "--step", 0, "--set", "corpus-train", "--checkpoints", checkpoints,
                 "--clips", tmp_path / "clips.parquet", "--shards", *shards, "--counts", tmp_path / "counts.json",
                 "--metrics", tmp_path / "metrics.json", "--hypotheses", tmp_path / "hypotheses.parquet"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments)])
    evaluate.main()
    return tmp_path


def test_the_program_scores_every_clip_in_the_order_of_the_table(run: Path, checkpoints: Path) -> None:
    rows = read_table(run / "hypotheses.parquet").to_pylist()
    assert [row["id"] for row in rows] == [f"clip-{i:03d}" for i in range(len(TEXTS))]
    assert [row["scored_reference"] for row in rows] == TEXTS
    hypotheses, losses = transcribed(run / "again", checkpoints, batch_seconds=5)
    assert [row["hypothesis"] for row in rows] == hypotheses
    assert [row["loss"] for row in rows] == pytest.approx(losses)


def test_metrics_say_what_was_scored_with_what(run: Path, checkpoints: Path) -> None:
    metrics = read_json(run / "metrics.json")
    rows = read_table(run / "hypotheses.parquet").to_pylist()
    assert metrics["wer"] == jiwer.wer(
        [row["scored_reference"] for row in rows if row["scored_reference"]],
        [row["scored_hypothesis"] for row in rows if row["scored_reference"]],
    ) + sum(row["insertions"] for row in rows if not row["scored_reference"]) / metrics["reference_words"]  # fmt: skip
    assert metrics["wer_ci95"][0] <= metrics["wer"] <= metrics["wer_ci95"][1]
    assert (metrics["clips_scored"], metrics["clips_expected"]) == (9, 10)
    assert metrics["audio_seconds"] == pytest.approx(sum(SECONDS))
    assert (metrics["decoder"], metrics["protocol"], metrics["step"]) == ("greedy", "plain", 0)
    assert metrics["checkpoint_sha256"] == file_digest(checkpoints / "checkpoint-0" / "model.safetensors")
    assert metrics["eval_set_sha256"] == clips_digest(read_table(run / "clips.parquet").to_pylist())


def test_characters_that_the_model_cannot_write_are_counted(run: Path) -> None:
    assert read_json(run / "metrics.json")["characters_outside_vocabulary"] == {"q": 1, "z": 1}


def test_a_rate_over_references_without_words_is_null_since_json_has_no_infinity() -> None:
    wrong = totals(count(["", ""], ["а", ""]), ["one", "other"])
    assert (wrong["wer"], wrong["cer"], wrong["insertions"]) == (None, None, 1)


def test_a_set_without_clips_has_no_rates() -> None:
    nothing = totals([], [])
    assert (nothing["wer"], nothing["cer"], nothing["wer_ci95"], nothing["reference_words"]) == (
        None,
        None,
        [None] * 2,
        0,
    )


def test_jamo_are_scored_as_syllables() -> None:
    # The syllable and its jamo: The Unicode Standard, section 3.12.
    rows, scores = scored(["\u1112\u1161\u11ab"], ["\u1112\u1161\u11ab"], keep="가-힣", units="jamo")
    assert (rows[0]["hypothesis"], rows[0]["scored_reference"], rows[0]["characters"]) == ("한", "한", 1)
    assert scores["cer"] == 0
