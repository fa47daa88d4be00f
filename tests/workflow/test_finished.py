"""What a finished run has left on disk, from a corpus with faults planted in it."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from working_copy import WorkingCopy, faulty_config

RUN = Path("results/runs/demo_ru")
DATA = Path("results/data/demo_ru")

pytestmark = pytest.mark.slow


def read(finished: WorkingCopy, path: Path) -> Any:
    return json.loads((finished.folder / path).read_text(encoding="utf-8"))


def metrics(finished: WorkingCopy) -> list[dict[str, Any]]:
    files = (finished.folder / RUN / "evaluation").glob("*/*/greedy/metrics.json")
    return [json.loads(path.read_text(encoding="utf-8")) for path in files]


def test_kept_and_rejected_clips_are_all_that_was_published(finished: WorkingCopy) -> None:
    status = read(finished, DATA / "status.json")
    assert status["published"] == {"train": 42, "dev": 6, "test": 9}
    assert status["kept"] == {"train": 40, "dev": 6, "test": 8}
    assert status["rejected"] == {"train": 2, "dev": 0, "test": 1}


def test_each_rejected_clip_is_listed_with_its_reason(finished: WorkingCopy) -> None:
    rejected = pd.read_parquet(finished.folder / DATA / "rejected.parquet").set_index("id")
    assert rejected["reason"].to_dict() == {
        "absent.mp3": "missing",
        "not_audio.mp3": "unreadable",
        "absent_from_test.mp3": "missing",
    }
    assert "absent.mp3" in rejected.loc["absent.mp3", "detail"]


def test_used_and_excluded_training_clips_are_all_that_is_kept(finished: WorkingCopy) -> None:
    used = pd.read_parquet(finished.folder / RUN / "clips" / "train.parquet")
    excluded = pd.read_parquet(finished.folder / RUN / "clips" / "excluded.parquet")
    kept = pd.read_parquet(finished.folder / DATA / "train" / "index.parquet")
    assert sorted([*used["id"], *excluded["id"]]) == sorted(kept["id"])
    assert list(excluded["reason"]) == ["empty"]


def test_every_checkpoint_of_the_plan_is_scored_on_every_set(finished: WorkingCopy) -> None:
    plan = read(finished, RUN / "plan.json")
    assert len(plan["checkpoints"]) >= 2
    scored = {(m["step"], m["set"]) for m in metrics(finished)}
    assert scored == {(step, name) for step in plan["checkpoints"] for name in ("demo_ru-dev", "demo_ru-test")}


def test_a_published_clip_that_cannot_be_scored_shows_as_a_difference(finished: WorkingCopy) -> None:
    for each in metrics(finished):
        expected, scored = (9, 8) if each["set"] == "demo_ru-test" else (6, 6)
        assert (each["clips_expected"], each["clips_scored"]) == (expected, scored)


def test_a_character_that_the_vocabulary_lacks_is_counted_and_named(finished: WorkingCopy) -> None:
    outside = {m["set"]: m["characters_outside_vocabulary"] for m in metrics(finished)}
    assert outside["demo_ru-test"] == {"ж": 1, "к": 1, "ё": 1}
    card = (finished.folder / RUN / "model" / "README.md").read_text(encoding="utf-8")
    assert "`ё`" in card


def test_the_hypotheses_are_those_of_the_transformers_pipeline(finished: WorkingCopy) -> None:
    import pyarrow.parquet as pq
    from transformers import pipeline

    from speechmill.flac import decode_flac

    folder = finished.folder / RUN
    step = read(finished, RUN / "selection.json")["step"]
    ours = pd.read_parquet(folder / "evaluation" / str(step) / "demo_ru-test" / "greedy" / "hypotheses.parquet")
    shard = pq.read_table(finished.folder / DATA / "test" / "shard-00000.parquet").to_pylist()
    sound = {clip["id"]: decode_flac(clip["audio"]["bytes"]) / 32768 for clip in shard}
    transcriber = pipeline("automatic-speech-recognition", model=str(folder / "model"))
    theirs = [transcriber({"raw": sound[clip].copy(), "sampling_rate": 16_000})["text"] for clip in ours["id"]]
    assert list(ours["hypothesis"]) == theirs


def test_the_card_is_complete_and_has_a_row_a_checkpoint(finished: WorkingCopy) -> None:
    card = (finished.folder / RUN / "model" / "README.md").read_text(encoding="utf-8")
    assert "More information needed" not in card
    table = card.split("### Training results")[1].split("###")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert [int(row.split("|")[3]) for row in rows] == read(finished, RUN / "plan.json")["checkpoints"]
    for plot in ("loss.png", "wer.png"):
        assert (finished.folder / RUN / "model" / "plots" / plot).stat().st_size > 10_000


def test_the_report_holds_the_card_and_the_evaluations(finished: WorkingCopy) -> None:
    report = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert "model card" in report
    assert '"evaluate"' in report


def test_shards_read_back_as_audio(finished: WorkingCopy) -> None:
    import datasets

    files = str(finished.folder / DATA / "dev" / "shard-*.parquet")
    clips = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(finished.folder / "hf"))
    assert isinstance(clips.features["audio"], datasets.Audio)
    assert clips[0]["audio"].get_all_samples().sample_rate == 16_000


def test_what_training_kept_to_go_on_from_is_gone_when_it_is_done(finished: WorkingCopy) -> None:
    assert [path.name for path in (finished.folder / "work" / "demo_ru").iterdir()] == ["tensorboard"]


def test_a_model_that_was_made_can_be_fine_tuned_with_another_vocabulary(changed: WorkingCopy) -> None:
    config = faulty_config()
    run = config["runs"].pop("demo_ru")
    run["model"] = {"base": "./results/runs/demo_ru/model", "config": {"hidden_dropout": 0.1}}
    run["text"]["case"] = "upper"
    run["text"]["keep"] = "А-ЯЁ"
    config["runs"]["tuned"] = run
    changed.snakemake(config, "results/runs/tuned/checkpoints")
    tuned = changed.folder / "results/runs/tuned/checkpoints/checkpoint-3"
    vocab = json.loads((tuned / "vocab.json").read_text(encoding="utf-8"))
    settings = json.loads((tuned / "config.json").read_text(encoding="utf-8"))
    assert "Д" in vocab
    assert "д" not in vocab
    assert settings["vocab_size"] == len(vocab)
    assert settings["hidden_dropout"] == 0.1
