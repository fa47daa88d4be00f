"""A dataset that a run transcribes for another run, from recordings without text to the model card."""

import re
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from working_copy import WorkingCopy, faulty_config

from material import run_stage
from speechmill.core.flac import decode_flac
from speechmill.core.schemas import SAMPLE_RATE
from speechmill.core.tables import read_rows, read_table

pytestmark = pytest.mark.slow

STUDENT = "results/runs/student"
PAGE = "results/runs.html"

# Replaces a trained model: its output is the same two words for each clip, less certain for a short one.
TWO_WORDS = """
def infer(model, processor, clips, shards, settings, device, spill):
    from speechmill.inference.log_probs import ClipOutput

    ids = processor.tokenizer.get_vocab()
    outputs = []
    for clip in clips:
        best = np.full(clip["num_samples"] // 320, ids["[PAD]"])
        probability = np.full((len(best), 1), 1 - 1e-6)
        best[2:18:2] = [ids[letter] for letter in "один|два"]
        probability[2:18:2] = 0.9 if clip["num_samples"] > SAMPLE_RATE else 0.5
        log_probs = np.log((1 - probability) / (len(ids) - 1)).repeat(len(ids), 1).astype("<f2")
        log_probs[range(len(best)), best] = np.log(probability[:, 0])
        outputs.append(ClipOutput(len(best), "один два", 0.0, [(spill.tell(), spill.write(log_probs.tobytes()))]))
    return outputs
"""


def config(min_confidence: float = 0.8) -> dict[str, Any]:
    config = faulty_config()
    config["datasets"]["unlabelled"] = {
        "source": "folder", "path": "unlabelled", "pattern": "{speaker}/{name}.wav",
        "columns": {"speaker_id": "speaker", "sentence": None}, "speakers": "common_voice",
        "name": "Radio", "licence": "CC0-1.0", "language": "ru", "splits": ["train"], "shards": 1,
    }  # fmt: skip
    config["datasets"]["machine"] = {
        "source": "transcribe", "of": "unlabelled", "by": "demo_ru",
        "min_seconds": 0.5, "max_seconds": 5, "min_confidence": min_confidence,
    }  # fmt: skip
    student = config["runs"]["student"] = faulty_config()["runs"]["demo_ru"]
    student |= {"train": ["demo_ru-train", "machine-train"], "leakage": "remove"}
    student["plan"] |= {"epochs": 1, "save_steps": 100}
    student["evaluation"] = {"sets": ["demo_ru-dev", "demo_ru-test"], "worst_clips": 0}
    return config


@pytest.fixture(scope="module")
def student(finished: WorkingCopy, tmp_path_factory: pytest.TempPathFactory) -> WorkingCopy:
    """A copy of `finished` with a second run, which also trains on what the first one has transcribed."""
    copy = finished.copy(tmp_path_factory.mktemp("student") / "copy")
    copy.redefine("workflow/speechmill/inference/transcribe.py", TWO_WORDS)
    data = copy.folder / "results/data/demo_ru"
    clips = [decode_flac(row["audio"]["bytes"]) for row in read_rows(data / "train/shard-00000.parquet")]
    clips.sort(key=len)
    pause = np.zeros(3 * SAMPLE_RATE, np.int16)
    scored = read_table(data / "test/index.parquet", ["speaker_id"])["speaker_id"][0].as_py()
    for name, parts in {
        "somebody/long": [pause, clips[-1], pause, clips[-2], pause],
        "somebody/short": [clips[-3][: SAMPLE_RATE * 3 // 4]],
        f"{scored}/scored": [clips[-4]],
    }.items():
        file = copy.folder / "unlabelled" / f"{name}.wav"
        file.parent.mkdir(parents=True, exist_ok=True)
        sf.write(file, np.concatenate(parts), SAMPLE_RATE)
    run = copy.snakemake(config(), f"{STUDENT}/card.html", PAGE)
    assert {"transcribe", "ingest_pieces", "runs_table"} <= run.executed
    # The first run is not trained again.
    assert run.jobs["finetune"] == 1
    return copy


def recordings(rows: list[dict[str, Any]]) -> list[str]:
    """Return the names of the recordings that clips were cut from."""
    return [row["id"].rsplit("-", 2)[0].split("/")[-1] for row in rows]


def test_clips_are_the_speech_in_the_recordings(student: WorkingCopy) -> None:
    data = student.folder / "results/data/machine"
    clips = read_table(data / "train/index.parquet").to_pylist()
    assert sorted(recordings(clips)) == ["long.wav", "long.wav", "scored.wav"]
    assert {clip["sentence"] for clip in clips} == {"один два"}
    (rejected,) = read_table(data / "rejected.parquet").to_pylist()
    assert (*recordings([rejected]), rejected["reason"]) == ("short.wav", "score")


def test_clips_and_what_is_left_out_add_up_to_the_recordings(student: WorkingCopy) -> None:
    unlabelled, machine = (student.read_json(f"results/data/{name}/status.json") for name in ("unlabelled", "machine"))
    assert (unlabelled["kept"], machine["kept"], machine["rejected"]) == ({"train": 3}, {"train": 3}, {"train": 1})
    published = read_table(student.folder / "results/pieces/machine/train/shard-00000.parquet", ["reason"])
    assert published["reason"].to_pylist().count(None) == machine["kept"]["train"] + machine["rejected"]["train"]
    seconds = sum(part["seconds"] for part in machine["about"]["parts"].values())
    files = (student.folder / "unlabelled").rglob("*.wav")
    assert seconds == pytest.approx(sum(sf.info(file).duration for file in files), abs=0.01)


def test_plan_card_and_page_say_who_transcribed(student: WorkingCopy) -> None:
    plan, card, page = (
        (student.folder / file).read_text(encoding="utf-8")
        for file in (f"{STUDENT}/plan.txt", f"{STUDENT}/model/README.md", PAGE)
    )
    for text in (plan, card):
        assert re.search(r"\b2 clips of machine, .* have transcripts by the run demo_ru, step 6, lm decoding", text)
    assert "### Comparison with other runs" in card
    assert "- `demo_ru`: trained from random weights, transcribed training data of this model\n" in card
    assert page.count("hours transcribed by demo_ru") == 1


def test_scored_speaker_does_not_enter_training(student: WorkingCopy) -> None:
    folder = student.folder / STUDENT / "clips"
    trained, excluded = (read_table(folder / f"{name}.parquet").to_pylist() for name in ("train", "excluded"))
    assert recordings([row for row in trained if row["dataset"] == "machine"]) == ["long.wav", "long.wav"]
    (removed,) = (row for row in excluded if row["dataset"] == "machine")
    assert (*recordings([removed]), removed["detail"]) == ("scored.wav", "speaker of demo_ru-test")


def test_model_is_verified_with_the_counts_of_what_was_transcribed(student: WorkingCopy) -> None:
    results = student.folder / "results"
    done = run_stage("report.verify", student.folder / STUDENT / "model", "--data", results / "data")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the counts of machine follow from" in done.stdout
    assert "DIFFERS" not in done.stdout


def test_second_run_has_nothing_to_do(student: WorkingCopy) -> None:
    assert student.planned(config(), f"{STUDENT}/card.html", PAGE) == {}


def test_threshold_transcribes_nothing_again(student: WorkingCopy) -> None:
    planned = student.planned(config(min_confidence=0.3), f"{STUDENT}/card.html")
    assert "ingest_pieces" in planned
    assert "transcribe" not in planned
