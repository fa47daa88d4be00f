"""What a finished run has left on disk, from a corpus with faults planted in it."""

import json
import re
import shutil
from itertools import product
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


def metrics(finished: WorkingCopy, *, changed: bool = False) -> list[dict[str, Any]]:
    """The scores on the sets as they were published, or on their changed copies."""
    files = (finished.folder / RUN / "evaluation").glob("*/*/*/metrics.json")
    return [json.loads(path.read_text(encoding="utf-8")) for path in files if (path.parts[-4] == "selected") == changed]


def test_kept_and_rejected_clips_are_all_that_was_published(finished: WorkingCopy) -> None:
    status = read(finished, DATA / "status.json")
    assert status["listed"] == {"train": 42, "dev": 6, "test": 9}
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
    scored = {(m["step"], m["set"], m["decoder"]) for m in metrics(finished)}
    sets, decoders = ("demo_ru-dev", "demo_ru-test"), ("greedy", "lm")
    assert scored == {*product(plan["checkpoints"], sets, decoders)}


def test_a_changed_copy_is_scored_at_the_selected_checkpoint_alone(finished: WorkingCopy) -> None:
    step = read(finished, RUN / "selection.json")["step"]
    copies = metrics(finished, changed=True)
    name = "demo_ru-test-noise_10db"
    assert {(m["step"], m["set"], m["decoder"]) for m in copies} == {(step, name, "greedy"), (step, name, "lm")}
    clean = {m["step"]: m["eval_set_sha256"] for m in metrics(finished) if m["set"] == "demo_ru-test"}
    assert all(m["clips_scored"] == 8 and m["eval_set_sha256"] != clean[step] for m in copies)
    summary = pd.read_parquet(finished.folder / RUN / "evaluation/summary.parquet")
    steps = pd.read_parquet(finished.folder / RUN / "evaluation/steps.parquet")
    assert set(summary["set"]) - set(steps["set"]) == {name}


def test_the_weights_of_the_language_model_are_of_dev_at_the_checkpoint_that_is_best_greedily_there(
    finished: WorkingCopy,
) -> None:
    dev = {m["step"]: m["wer"] for m in metrics(finished) if (m["set"], m["decoder"]) == ("demo_ru-dev", "greedy")}
    weights = read(finished, RUN / "lm/weights.json")
    assert weights["set"] == "demo_ru-dev"
    assert weights["step"] == min(dev, key=lambda step: (dev[step], step))
    assert weights["greedy_wer"] == dev[weights["step"]]


@pytest.mark.parametrize("rule", ["lm_weights", "select_tuning_checkpoint"])
def test_what_the_weights_are_chosen_by_has_nothing_of_test(finished: WorkingCopy, rule: str) -> None:
    said = "".join(path.read_text() for path in (finished.folder / ".snakemake" / "log").glob("*.log"))
    (read_by_it,) = re.findall(rf"^(?:local)?rule {rule}:\n +input: (.*)$", said, re.MULTILINE)
    assert "demo_ru-dev" in read_by_it or "/best/" in read_by_it
    assert "demo_ru-test" not in read_by_it


def test_no_sentence_of_a_scored_set_is_in_the_text_of_the_language_model(finished: WorkingCopy) -> None:
    text = set((finished.folder / RUN / "lm/text.txt").read_text(encoding="utf-8").splitlines())
    for role, in_it in (("train", True), ("demo_ru-dev", False), ("demo_ru-test", False)):
        sentences = set(pd.read_parquet(finished.folder / RUN / f"clips/{role}.parquet")["text"])
        assert bool(text & sentences) == in_it


def test_the_model_has_what_it_takes_to_decode_with_the_language_model(finished: WorkingCopy) -> None:
    for made in ("lm.binary", "lexicon.txt", "tokens.txt", "arpa.json", "weights.json"):
        lm, model = (finished.folder / RUN / folder / "lm" / made for folder in (".", "model"))
        assert model.read_bytes() == lm.read_bytes() != b""


def test_what_is_heard_in_frames_and_what_effects_have_changed_is_gone_when_it_is_scored(finished: WorkingCopy) -> None:
    assert not [*(finished.folder / RUN).rglob("ctc_outputs.parquet")]
    assert not [*(finished.folder / RUN / "perturbed").rglob("*.parquet")]


def test_each_set_has_a_page_of_its_worst_clips_and_the_run_a_breakdown(finished: WorkingCopy) -> None:
    for name in ("demo_ru-dev", "demo_ru-test"):
        assert "<audio" in (finished.folder / RUN / f"worst/{name}.html").read_text(encoding="utf-8")
    breakdown = read(finished, RUN / "evaluation/breakdown.json")
    assert {*breakdown["sets"]} == {"demo_ru-dev", "demo_ru-test"}
    assert "effect" in {each["kind"] for each in breakdown["comparisons"]}


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

    from speechmill.core.flac import decode_flac

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


def test_a_model_that_is_there_is_scored_without_training(changed: WorkingCopy) -> None:
    config = faulty_config()
    ours = config["runs"]["demo_ru"]
    learned = (changed.folder / RUN / "lm/text.txt").read_text(encoding="utf-8")
    (changed.folder / "learned.txt").write_text(learned.upper(), encoding="utf-8")
    # Elsewhere, as the model of somebody else: under results it would be what this very run may write again.
    shutil.copytree(changed.folder / RUN / "model", changed.folder / "theirs")
    config["runs"]["theirs"] = {key: ours[key] for key in ("language", "device", "dev", "text")} | {
        "training": "none",
        "model": {"base": "./theirs"},
        "evaluation": ours["evaluation"]
        | {"sets": ["demo_ru-test"], "lm": ours["evaluation"]["lm"] | {"text": "files", "files": ["learned.txt"]}},
    }
    run = changed.snakemake(config)
    assert not run.executed & {"finetune", "plan", "vocab", "clips_train"}
    theirs, ours = (
        pd.read_parquet(changed.folder / f"results/runs/{name}/evaluation/summary.parquet").set_index(
            ["set", "decoder"]
        )
        for name in ("theirs", "demo_ru")
    )
    assert set(theirs["step"]) == {0}
    selected = ours[ours["step"] == read(changed, RUN / "selection.json")["step"]]
    compared = ["wer", "cer", "loss", "clips_expected", "checkpoint_sha256", "eval_set_sha256"]
    assert len(theirs) == 4
    pd.testing.assert_frame_equal(theirs[compared], selected.loc[theirs.index, compared])
    assert re.search(r"^result  theirs, step 0: .*demo_ru-test WER", run.output, re.MULTILINE)
    assert "Nothing to be done" in changed.snakemake(config, "--dry-run").output


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
