import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from transformers import AutoModelForCTC

from material import LAYER_NORM, ROOT
from speechmill.config.root import load
from speechmill.dag import stage_settings
from speechmill.core.command import SpeechmillError
from speechmill.core.tables import CLIPS, SAMPLE_RATE, write_table
from speechmill.model.models import model_config
from speechmill.training.plan import PlanSettings, in_words, make_plan, steps_digest, trainer_steps

COUNTS: dict[str, Any] = {"sets": ["corpus-train"], "speakers": 3, "excluded": {"long": 2}}


def status(dataset: str = "corpus", **listed: int) -> dict[str, Any]:
    """The status of a dataset whose splits list so many clips."""
    return {"dataset": dataset, "available": True, "why": None, "differences": [], "listed": listed, "sets": listed}


def plan(
    folder: Path,
    seconds: list[float],
    run: dict[str, Any] | None = None,
    counts: dict[str, Any] = COUNTS,
    statuses: list[dict[str, Any]] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """The plan of a run over clips of `seconds`: `changes` to its section `plan`, `run` to what else it reads."""
    settings = {
        "plan": {"epochs": 2, "batch": {"seconds": 10}, "save_steps": 3} | changes,
        "model": {"init": LAYER_NORM},
        "memory": {"precision": "fp32"},
        "device": "gpu",
        "gpus": 1,
        "gpu_memory_gib": 78,
        "best": None,
        "stretch": 1,
    } | (run or {})
    clips = folder / "train.parquet"
    where = {"dataset": "corpus", "split": "train", "shard": 0}
    rows = (where | {"num_samples": round(s * SAMPLE_RATE), "row_group": i // 16} for i, s in enumerate(seconds))
    write_table(rows, CLIPS, clips)
    return make_plan(
        "demo",
        clips,
        counts,
        statuses or [status(train=len(seconds) + sum(counts["excluded"].values()))],
        model_config(LAYER_NORM, None, {}, 7),
        PlanSettings.model_validate(settings),
    )


def read_by_a_person(made: dict[str, Any], free: int = 10**15) -> str:
    return in_words(made, {}, [], free)


def lengths_like(clips: int, hours: float, longest: float) -> list[float]:
    """Seconds of so many clips, spread about as read sentences are, of so many hours in all."""
    drawn = np.random.default_rng(0).gamma(6.0, size=clips)
    return [float(each) for each in np.minimum(drawn * hours * 3600 / drawn.sum(), longest)]


@pytest.mark.parametrize(
    ("clips", "batch", "accumulation", "epochs"), list(itertools.product((1, 7, 30), (1, 4), (1, 3), (1, 2)))
)
def test_steps_hold_all_batches_and_no_step_is_empty(
    tmp_path: Path, clips: int, batch: int, accumulation: int, epochs: int
) -> None:
    made = plan(tmp_path, [1.0] * clips, epochs=epochs, batch={"clips": batch}, gradient_accumulation=accumulation)
    assert made["batches"] == epochs * math.ceil(clips / batch)
    assert (made["total_steps"] - 1) * accumulation < made["batches"] <= made["total_steps"] * accumulation


@pytest.mark.parametrize(
    ("clips", "saved"),
    [(1, [1]), (2, [2]), (3, [3]), (4, [3, 4]), (6, [3, 6]), (7, [3, 6, 7])],
)
def test_a_checkpoint_is_saved_at_each_interval_and_at_the_last_step(
    tmp_path: Path, clips: int, saved: list[int]
) -> None:
    made = plan(tmp_path, [1.0] * clips, epochs=1, batch={"clips": 1})
    assert made["checkpoints"] == saved
    assert made["total_steps"] == saved[-1]


def test_a_clip_longer_than_a_batch_is_an_error_that_names_both_keys(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError) as caught:
        plan(tmp_path, [1.0, 12.5])
    assert str(caught.value) == (
        "runs.demo.plan.batch.seconds is 10.0, but the longest training clip has 12.50 s; raise it, or lower"
        " runs.demo.clips.max_seconds"
    )


def test_a_clip_as_long_as_a_batch_fits(tmp_path: Path) -> None:
    assert plan(tmp_path, [10.0, 10.0])["batches"] == 4


def test_hours_padding_and_largest_batch_are_those_of_the_clips(tmp_path: Path) -> None:
    # Batches of 5 + 5 and 3 + 3 + 2 s: one second of padding in 19, each epoch.
    made = plan(tmp_path, [5, 5, 3, 3, 2], epochs=1)
    assert made["hours"] == pytest.approx(18 / 3600)
    assert (made["batches"], made["largest_batch_seconds"]) == (2, 10)
    assert made["padding_share"] == pytest.approx(1 / 19)
    assert (made["clips"], made["clips_per_batch"], made["longest_seconds"]) == (5, 2.5, 5)


def test_parameters_are_those_of_the_model(tmp_path: Path) -> None:
    model = AutoModelForCTC.from_config(model_config(LAYER_NORM, None, {}, 7))
    assert plan(tmp_path, [1.0])["parameters"] == sum(p.numel() for p in model.parameters())


def test_longer_batches_and_more_checkpoints_are_estimated_to_take_more(tmp_path: Path) -> None:
    small = plan(tmp_path, [1.0] * 100)
    assert plan(tmp_path, [1.0] * 100, batch={"seconds": 20})["memory_bytes"] > small["memory_bytes"]
    assert plan(tmp_path, [1.0] * 100, save_steps=1)["disk_bytes"]["checkpoints"] > small["disk_bytes"]["checkpoints"]


@pytest.mark.parametrize("gpus", [1, 2, 3])
def test_a_step_takes_batches_for_each_gpu(tmp_path: Path, gpus: int) -> None:
    made = plan(tmp_path, [1.0] * 31, {"gpus": gpus}, epochs=2, batch={"clips": 2}, gradient_accumulation=2)
    assert made["batches"] == 32
    assert made["total_steps"] == math.ceil(32 / (2 * gpus))


@pytest.mark.parametrize(("best", "kept"), [(None, 4), (1, 2), (3, 4), (9, 4)])
def test_the_disk_holds_the_checkpoints_that_are_kept_and_one_more(tmp_path: Path, best: int | None, kept: int) -> None:
    disk = plan(tmp_path, [1.0] * 4, {"best": best}, epochs=1, batch={"clips": 1}, save_steps=1)["disk_bytes"]
    assert disk["checkpoints"] == kept * disk["checkpoint"]


def test_memory_is_the_sum_of_its_parts_and_slower_clips_take_more_of_it(tmp_path: Path) -> None:
    made, slowed = (plan(tmp_path, [2.0] * 20, {"stretch": stretch}) for stretch in (1, 1.25))
    assert made["memory_bytes"] == sum(made["memory_parts"].values())
    assert slowed["memory_parts"]["activations"] == pytest.approx(1.25 * made["memory_parts"]["activations"], rel=1e-3)
    assert slowed["fits_seconds"]["without_checkpointing"] < made["fits_seconds"]["without_checkpointing"]


def test_activations_are_computed_twice_where_they_would_not_fit(tmp_path: Path) -> None:
    roomy = plan(tmp_path, [2.0] * 20, {"gpu_memory_gib": 2})
    assert not roomy["gradient_checkpointing"]
    fits = roomy["fits_seconds"]
    assert fits["without_checkpointing"] < fits["with_checkpointing"]
    # What is said to fit just fits, and a little more does not.
    for seconds, checkpointing in ((0.99, False), (1.01, True)):
        batch = {"seconds": seconds * fits["without_checkpointing"]}
        clips = [2.0] * math.ceil(batch["seconds"] / 2)
        made = plan(tmp_path, clips, {"gpu_memory_gib": 2}, batch=batch)
        assert made["gradient_checkpointing"] is checkpointing
        assert "runs.demo.gpu_memory_gib" in made["gradient_checkpointing_because"]


@pytest.mark.parametrize("asked", [True, False])
def test_what_is_asked_for_is_done_whatever_the_memory(tmp_path: Path, asked: bool) -> None:
    made = plan(
        tmp_path, [2.0] * 20, {"gpu_memory_gib": 0.1, "memory": {"gradient_checkpointing": asked}}, batch={"clips": 9}
    )
    assert made["gradient_checkpointing"] is asked
    assert "TOO MUCH     for a GPU of 0.1 GiB" in read_by_a_person(made)


def test_on_a_cpu_no_activations_are_computed_twice_and_no_gpu_is_spoken_of(tmp_path: Path) -> None:
    made = plan(tmp_path, [2.0] * 20, {"gpu_memory_gib": 0.1, "device": "cpu"})
    assert not made["gradient_checkpointing"]
    assert not re.search("TOO MUCH|H100|GPU of|fits  ", read_by_a_person(made))


def test_clips_are_told_in_seconds_and_seconds_in_clips(tmp_path: Path) -> None:
    lengths = [1.0, 2.0, 3.0, 4.0] * 8
    by_clips = plan(tmp_path, lengths, batch={"clips": 4}, gradient_accumulation=2)
    assert by_clips["seconds_per_batch"] == pytest.approx(10)
    seconds = by_clips["other_batch"]["batch"]["seconds"]
    assert by_clips["largest_batch_seconds"] <= seconds <= 16
    by_seconds = plan(tmp_path, lengths, batch={"seconds": seconds}, gradient_accumulation=2, epochs=1)
    assert by_seconds["batches"] / 2 == by_clips["other_batch"]["steps_per_epoch"]
    assert by_seconds["other_batch"]["batch"] == {"clips": round(by_seconds["clips_per_batch"])}
    assert f"`batch: {{seconds: {seconds:g}}}`, about as large: " in read_by_a_person(by_clips)


def test_a_disk_that_is_too_small_is_said(tmp_path: Path) -> None:
    made = plan(tmp_path, [1.0])
    needed = made["disk_bytes"]["checkpoints"] + made["disk_bytes"]["resume"]
    assert "TOO LITTLE   disk is free here" in read_by_a_person(made, needed - 1)
    assert "TOO LITTLE" not in read_by_a_person(made, needed)


@pytest.mark.parametrize(
    ("clips", "batch", "accumulation", "steps"),
    [
        # Source: the step tables of the two published cards, 695 and 1,448 steps an epoch; 696 is what the Trainer of
        # transformers 5.23 was seen to take.
        (22_263, 8, 4, (695, 696)),
        (46_329, 32, 1, (1448, 1448)),
        (31_127, 32, 1, (973, 973)),
        (2, 8, 4, (1, 1)),
    ],
)
def test_steps_are_counted_as_the_trainer_does(
    clips: int, batch: int, accumulation: int, steps: tuple[int, int]
) -> None:
    assert trainer_steps(clips, batch, accumulation, 1) == steps
    assert trainer_steps(clips, batch // 2, accumulation, 2) == steps


def recipe(name: str) -> dict[str, Any]:
    """What the plan of a recipe reads, but for its base."""
    config = load(yaml.safe_load((ROOT / "config" / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")))
    read = json.loads(stage_settings.plan(config, name))
    return read | {"model": {"init": LAYER_NORM}, "memory": read["memory"] | {"precision": "fp32"}}


def test_the_published_korean_run_is_planned_at_its_size_and_its_steps_are_explained(tmp_path: Path) -> None:
    # Source: Zeroth-Korean, 22,263 utterances of 51.6 h in train; the card's 34,750 steps in 50 epochs.
    settings = recipe("ko_zeroth")
    lengths = lengths_like(22_263, 51.6, 30.0)
    listed = [status("zeroth", train=22_263)]
    counts: dict[str, Any] = {"sets": ["zeroth-train"], "speakers": 105, "excluded": {}}
    everything = plan(tmp_path, lengths, settings, counts, listed, **settings["plan"])
    assert everything["hours"] == pytest.approx(51.6, abs=0.05)
    assert 50 * trainer_steps(22_263, 8, 4, 1)[0] == 34_750
    # Batches are rounded up in each epoch, steps only at the end: 50 times 2,783 batches, four a step.
    assert everything["total_steps"] == 34_788
    assert everything["padding_share"] < 0.1
    assert everything["explanations"] == [
        "the Trainer of transformers would take 695 steps (transformers 4) or 696 (5) an epoch for the 22,263 clips:"
        " version 4 makes no step of what is left at an epoch's end, version 5 a smaller one; here it is 695.75, as a"
        " step may go on into the next epoch",
        "for all 22,263 clips that are listed in zeroth-train, it would take 695 steps (transformers 4) or 696 (5) an"
        " epoch",
    ]
    used = [seconds for seconds in lengths if seconds <= 20]
    counts["excluded"] = {"long": 85}
    words = read_by_a_person(plan(tmp_path, used, settings, counts, listed, **settings["plan"]))
    assert "would take 693 steps (transformers 4) or 694 (5) an epoch for the 22,178 clips" in words
    assert (
        "with the 85 clips that are left out as long, it would take 695 steps (transformers 4) or 696 (5) an epoch"
        in words
    )


def test_the_published_russian_run_is_explained_by_the_sets_that_it_trained_on(tmp_path: Path) -> None:
    # Source: Common Voice 8.0 ru, and the card's 1,448 steps an epoch at batch 32.
    settings = recipe("ru_common_voice_8")
    used, leakage, held = 42_000, 3_000, 1_000
    counts = {
        "sets": ["cv8_ru-train", "cv8_ru-dev", "cv8_ru-other"],
        "speakers": 2_000,
        "excluded": {"leakage": leakage, "long": 46_329 - used - leakage - held},
    }
    listed = status("cv8_ru", train=21_712, dev=9_415, test=9_419, other=15_202)
    made = plan(tmp_path, lengths_like(used, 61.0, 20.0), settings, counts, [listed], **settings["plan"])
    words = read_by_a_person(made)
    for sentence in (
        "would take 1,313 steps an epoch for the 42,000 clips",
        "with the 3,000 clips that are left out as leakage, it would take 1,407 steps an epoch",
        "for all 21,712 clips that are listed in cv8_ru-train, it would take 679 steps an epoch",
        "with cv8_ru-dev, 31,127 clips, it would take 973 steps an epoch",
        "with cv8_ru-other, 46,329 clips, it would take 1,448 steps an epoch",
        "1,000 of the listed clips are in drawn sets or in several of these, or could not be read",
    ):
        assert sentence in words


def test_of_batches_by_seconds_nothing_is_said_of_the_trainer(tmp_path: Path) -> None:
    assert plan(tmp_path, [1.0])["explanations"] == []


def test_the_plan_can_be_read_by_a_person(tmp_path: Path) -> None:
    words = read_by_a_person(plan(tmp_path, [5, 5, 3, 3, 2], epochs=3, save_steps=4))
    for part in ("run demo", "5 of 3 speakers", "2 long", "6: 3 epochs", "at steps 4, 6", "at most 10.0 s"):
        assert part in words


def test_the_words_say_what_leaks_and_what_cannot_be_had(tmp_path: Path) -> None:
    kinds = {kind: {"clips": i, "action": "remove"} for i, kind in enumerate(("speaker", "sentence", "audio"))}
    statuses = [
        {"dataset": "robust", "available": False, "why": "the Hub says no", "differences": []},
        {"dataset": "cv", "available": True, "why": None, "differences": ["train has 6 clips, expected were 7"]},
    ]
    words = in_words(plan(tmp_path, [5]), {"cv-test": kinds | {"removed": 2}}, statuses, 10**15)
    assert "cv-test: training clips collide with it, 1 by sentence, 2 by audio; 2 are taken out of training" in words
    assert "robust: the Hub says no" in words
    assert "cv: train has 6 clips, expected were 7" in words


def test_the_digest_is_another_where_training_would_be_and_only_there(tmp_path: Path) -> None:
    made = plan(tmp_path, [5, 5, 3, 3, 2], epochs=3, save_steps=4)
    assert steps_digest(made | {"memory_bytes": 1, "gpu_memory_gib": 24, "clips_per_batch": 1.0}) == steps_digest(made)
    for changes in ({"epochs": 4, "save_steps": 4}, {"epochs": 3, "save_steps": 2}):
        assert steps_digest(plan(tmp_path, [5, 5, 3, 3, 2], **changes)) != steps_digest(made)
