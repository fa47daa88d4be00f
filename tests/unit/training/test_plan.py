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
from speechmill.core.command import SpeechmillError
from speechmill.core.schemas import CLIPS, SAMPLE_RATE
from speechmill.core.tables import write_table
from speechmill.dag import stage_settings
from speechmill.model.models import model_config
from speechmill.training.plan import PlanSettings, count_unwritten, format_plan, make_plan, steps_digest, trainer_steps

SCORED = [{"seconds": 60.0}, {"seconds": 100.0}]
COUNTS: dict[str, Any] = {
    "sets": ["corpus-train"],
    "speakers": 3,
    "excluded": {"long": 2},
    "corrected": 0,
    "marks_dropped": {},
}


def status(dataset: str = "corpus", **listed: int) -> dict[str, Any]:
    """Return the status of a dataset whose splits list these numbers of clips."""
    return {
        "dataset": dataset,
        "available": True,
        "why": None,
        "differences": [],
        "listed": listed,
        "sets": listed,
        "rejections": {},
        "about": {},
    }


def plan(
    folder: Path,
    seconds: list[float],
    run: dict[str, Any] | None = None,
    counts: dict[str, Any] = COUNTS,
    statuses: list[dict[str, Any]] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Return the plan of a run on clips of `seconds`; `changes` go into `plan`, `run` into other settings."""
    settings = {
        "plan": {"epochs": 2, "batch": {"seconds": 10}, "save_steps": 3} | changes,
        "model": {"init": LAYER_NORM},
        "memory": {"precision": "fp32"},
        "device": "gpu",
        "gpus": 1,
        "gpu_memory_gib": 78,
        "best": None,
        "augment": {},
        "log_probs": False,
    } | (run or {})
    clips = folder / "train.parquet"
    location = {"dataset": "corpus", "split": "train", "shard": 0}
    rows = (location | {"num_samples": round(s * SAMPLE_RATE), "row_group": i // 16} for i, s in enumerate(seconds))
    write_table(rows, CLIPS, clips)
    return make_plan(
        "demo",
        clips,
        counts,
        SCORED,
        statuses or [status(train=len(seconds) + sum(counts["excluded"].values()))],
        model_config(LAYER_NORM, None, {}, 7),
        PlanSettings.model_validate(settings),
    )


def plan_text(planned: dict[str, Any], free: int = 10**15) -> str:
    return format_plan(planned, {}, [], free)


def test_plan_names_the_trained_share(tmp_path: Path) -> None:
    usual = plan(tmp_path, [5.0] * 9)
    memory = {"precision": "fp32", "lora": {"rank": 1, "targets": ["q_proj"]}}
    lora = plan(tmp_path, [5.0] * 9, run={"memory": memory})
    # In each of two layers, a matrix of one row and 16 columns, and another of 16 rows and one column.
    matrices, head, mask = 2 * (16 + 16), 16 * 7 + 7, 16
    assert lora["trained_parameters"] == matrices + head + mask
    assert lora["trained_share"] == lora["trained_parameters"] / (lora["parameters"] + matrices)
    assert lora["parameters"] == usual["parameters"]
    assert f"trained      0.0 M parameters, {lora['trained_share']:.1%} of all" in plan_text(lora)
    assert usual["trained_share"] == 1
    # Checkpoints are merged; resume states have the moments of what is trained.
    assert lora["disk_bytes"]["checkpoint"] == usual["disk_bytes"]["checkpoint"]
    assert lora["disk_bytes"]["resume"] < usual["disk_bytes"]["resume"] / 2


def lengths_like(clips: int, hours: float, longest: float) -> list[float]:
    """Return durations in seconds, distributed about like read sentences, with a total of `hours`."""
    durations = np.random.default_rng(0).gamma(6.0, size=clips)
    return [float(each) for each in np.minimum(durations * hours * 3600 / durations.sum(), longest)]


@pytest.mark.parametrize(
    ("clips", "batch", "accumulation", "epochs"), list(itertools.product((1, 7, 30), (1, 4), (1, 3), (1, 2)))
)
def test_steps_cover_all_batches_without_empty_steps(
    tmp_path: Path, clips: int, batch: int, accumulation: int, epochs: int
) -> None:
    planned = plan(tmp_path, [1.0] * clips, epochs=epochs, batch={"clips": batch}, gradient_accumulation=accumulation)
    assert planned["batches"] == epochs * math.ceil(clips / batch)
    assert (planned["total_steps"] - 1) * accumulation < planned["batches"] <= planned["total_steps"] * accumulation


@pytest.mark.parametrize(
    ("clips", "saved"),
    [(1, [1]), (2, [2]), (3, [3]), (4, [3, 4]), (6, [3, 6]), (7, [3, 6, 7])],
)
def test_checkpoints_at_each_interval_and_last_step(tmp_path: Path, clips: int, saved: list[int]) -> None:
    planned = plan(tmp_path, [1.0] * clips, epochs=1, batch={"clips": 1})
    assert planned["checkpoints"] == saved
    assert planned["total_steps"] == saved[-1]


def test_training_ends_after_max_steps(tmp_path: Path) -> None:
    complete = plan(tmp_path, [4.0] * 20, epochs=3)
    part = plan(tmp_path, [4.0] * 20, epochs=3, max_steps=15)
    # Ten batches of two clips an epoch.
    assert (complete["total_steps"], complete["batches"], complete["epochs"]) == (30, 30, 3)
    assert (part["total_steps"], part["batches"], part["epochs"]) == (15, 15, 1.5)
    assert part["checkpoints"] == [3, 6, 9, 12, 15]
    assert part["steps_per_epoch"] == complete["steps_per_epoch"]
    assert part["hours_per_epoch"] == pytest.approx(complete["hours_per_epoch"])
    assert "15: 1.5 epochs of 10.0 steps" in plan_text(part)


def test_max_steps_beyond_the_last_changes_nothing(tmp_path: Path) -> None:
    complete = plan(tmp_path, [4.0] * 20)
    assert steps_digest(plan(tmp_path, [4.0] * 20, max_steps=1000)) == steps_digest(complete)


@pytest.mark.parametrize("gpus", [1, 3])
def test_max_steps_count_steps_not_batches(tmp_path: Path, gpus: int) -> None:
    part = plan(tmp_path, [4.0] * 20, {"gpus": gpus}, max_steps=2, gradient_accumulation=2)
    assert (part["total_steps"], part["batches"]) == (2, 4 * gpus)


def test_clip_longer_than_batch_names_both_keys(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError) as caught:
        plan(tmp_path, [1.0, 12.5])
    assert str(caught.value) == (
        "runs.demo.plan.batch.seconds is 10.0, but the longest training clip has 12.50 s; raise it, or lower"
        " runs.demo.clips.max_seconds"
    )


@pytest.mark.parametrize(
    ("save_steps", "message"),
    [
        (3, "2, in 4 steps; set it to at most 2, or lower runs.demo.plan.save_steps"),
        (4, "1, in 4 steps; remove it, or lower runs.demo.plan.save_steps"),
    ],
)
def test_average_of_more_checkpoints_than_planned_is_refused(tmp_path: Path, save_steps: int, message: str) -> None:
    with pytest.raises(SpeechmillError, match=rf"^runs\.demo\.select\.average is 3, but .*{message}"):
        plan(tmp_path, [4.0] * 4, {"average": 3}, save_steps=save_steps)
    assert plan(tmp_path, [4.0] * 4, {"average": 2}, save_steps=3)["checkpoints"] == [3, 4]


def test_characters_that_a_kept_vocabulary_lacks_are_counted(tmp_path: Path) -> None:
    characters = {"characters": {"a": 5, " ": 3, "q": 2, "z": 1}, "unwritten": {"q": {"times": 2}, "z": {"times": 1}}}
    unwritten = count_unwritten(characters)
    assert unwritten == {"characters": 3, "of": 8}
    line = "  vocabulary   of the base; it lacks 3 of 8 characters of the training text\n"
    assert line in plan_text(plan(tmp_path, [1.0]) | {"unwritten": unwritten})
    assert "  vocabulary " not in plan_text(plan(tmp_path, [1.0]))


def test_lost_marks_are_listed_with_an_example(tmp_path: Path) -> None:
    marks = {"\u094d": {"times": 1200, "sentence": "नमस्ते", "text": "नमसत"}}
    text = plan_text(plan(tmp_path, [1.0], counts=COUNTS | {"marks_dropped": marks}))
    assert (
        "  MARK LOST    U+094D (DEVANAGARI SIGN VIRAMA) follows kept letters 1,200 times, but text.keep lacks it:"
        " `नमस्ते` becomes `नमसत`; add it to text.keep, or to text.drop if it is no loss\n"
    ) in text
    assert "MARK LOST" not in plan_text(plan(tmp_path, [1.0]))


def test_plan_shows_what_each_group_contributes(tmp_path: Path) -> None:
    mixing = {"weights": {"corpus": 1.5}, "groups": {"corpus": "corpus"}}
    planned = plan(tmp_path, [3.0] * 60, {"mixing": mixing}, epochs=3, batch={"clips": 4})
    assert planned["mixing"]["groups"] == [
        {"title": "corpus", "clips": 60, "hours": pytest.approx(0.05), "times": pytest.approx(1.5), "share": 1.0}
    ]
    assert planned["batches"] == sum(math.ceil(clips / 4) for clips in (90, 90, 90))
    assert planned["hours_per_epoch"] == pytest.approx(0.075)
    text = plan_text(planned)
    assert "  mixing       by dataset; an epoch has 0.07 h on average\n" in text
    assert "  mixing       corpus: 60 clips, 0.05 h, 1.50 times an epoch, 100.0% of it\n" in text
    assert steps_digest(planned) != steps_digest(planned | {"mixing": None})


@pytest.mark.parametrize(
    ("mixing", "message"),
    [
        ({"weights": {"corpus": 0.1}}, "runs.demo.mixing leaves no clips for epoch 1; raise the weights"),
        ({"by": "speaker", "temperature": 2}, "runs.demo.mixing.by is speaker, but no training clip has a speaker"),
    ],
)
def test_mixing_that_cannot_be_planned_is_refused(tmp_path: Path, mixing: dict[str, Any], message: str) -> None:
    with pytest.raises(SpeechmillError, match=re.escape(message)):
        plan(tmp_path, [3.0], {"mixing": mixing | {"groups": {"corpus": "corpus"}}})


def test_clip_as_long_as_batch_fits(tmp_path: Path) -> None:
    assert plan(tmp_path, [10.0, 10.0])["batches"] == 4


def test_hours_padding_and_largest_batch(tmp_path: Path) -> None:
    # Batches of 5 + 5 and 3 + 3 + 2 s: one second of padding in 19, each epoch.
    planned = plan(tmp_path, [5, 5, 3, 3, 2], epochs=1)
    assert planned["hours"] == pytest.approx(18 / 3600)
    assert (planned["batches"], planned["largest_batch_seconds"]) == (2, 10)
    assert planned["padding_share"] == pytest.approx(1 / 19)
    assert (planned["clips"], planned["clips_per_batch"], planned["longest_seconds"]) == (5, 2.5, 5)


def test_setting_that_does_not_fit_the_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match=r"runs\.demo\.finetune\.train_only_adapters: the model has no adapters"):
        plan(tmp_path, [5], {"memory": {"train_only_adapters": True}})


def test_parameters_match_the_model(tmp_path: Path) -> None:
    model = AutoModelForCTC.from_config(model_config(LAYER_NORM, None, {}, 7))
    assert plan(tmp_path, [1.0])["parameters"] == sum(p.numel() for p in model.parameters())


def test_estimates_grow_with_batches_and_checkpoints(tmp_path: Path) -> None:
    small = plan(tmp_path, [1.0] * 100)
    assert plan(tmp_path, [1.0] * 100, batch={"seconds": 20})["memory_bytes"] > small["memory_bytes"]
    assert plan(tmp_path, [1.0] * 100, save_steps=1)["disk_bytes"]["checkpoints"] > small["disk_bytes"]["checkpoints"]


@pytest.mark.parametrize("gpus", [1, 2, 3])
def test_step_has_batches_for_each_gpu(tmp_path: Path, gpus: int) -> None:
    planned = plan(tmp_path, [1.0] * 31, {"gpus": gpus}, epochs=2, batch={"clips": 2}, gradient_accumulation=2)
    assert planned["batches"] == 32
    assert planned["total_steps"] == math.ceil(32 / (2 * gpus))


@pytest.mark.parametrize(("best", "kept"), [(None, 4), (1, 3), (2, 4), (9, 4)])
def test_disk_holds_two_more_checkpoints_than_kept(tmp_path: Path, best: int | None, kept: int) -> None:
    disk = plan(tmp_path, [1.0] * 4, {"best": best}, epochs=1, batch={"clips": 1}, save_steps=1)["disk_bytes"]
    assert disk["checkpoints"] == kept * disk["checkpoint"]


def test_memory_is_sum_of_parts_and_grows_with_stretch(tmp_path: Path) -> None:
    planned, slowed = (plan(tmp_path, [2.0] * 20, {"augment": {"speed": [speed]}}) for speed in (1, 0.8))
    assert planned["memory_bytes"] == sum(planned["memory_parts"].values())
    part = "activations and gradients"
    assert slowed["memory_parts"][part] == pytest.approx(1.25 * planned["memory_parts"][part], rel=1e-3)
    assert slowed["fits_seconds"]["without_checkpointing"] < planned["fits_seconds"]["without_checkpointing"]


def test_gradient_checkpointing_if_memory_is_exceeded(tmp_path: Path) -> None:
    roomy = plan(tmp_path, [2.0] * 20, {"gpu_memory_gib": 2})
    assert not roomy["gradient_checkpointing"]
    fits = roomy["fits_seconds"]
    assert fits["without_checkpointing"] < fits["with_checkpointing"]
    # A batch just below the limit fits, and one just above does not.
    for seconds, checkpointing in ((0.99, False), (1.01, True)):
        batch = {"seconds": seconds * fits["without_checkpointing"]}
        clips = [2.0] * math.ceil(batch["seconds"] / 2)
        planned = plan(tmp_path, clips, {"gpu_memory_gib": 2}, batch=batch)
        assert planned["gradient_checkpointing"] is checkpointing
        assert "runs.demo.gpu_memory_gib" in planned["gradient_checkpointing_reason"]


@pytest.mark.parametrize("requested", [True, False])
def test_explicit_gradient_checkpointing_is_respected(tmp_path: Path, requested: bool) -> None:
    planned = plan(
        tmp_path,
        [2.0] * 20,
        {"gpu_memory_gib": 0.1, "memory": {"gradient_checkpointing": requested}},
        batch={"clips": 9},
    )
    assert planned["gradient_checkpointing"] is requested
    assert "TOO MUCH     for a GPU of 0.1 GiB" in plan_text(planned)


def test_cpu_plan_mentions_no_gpu(tmp_path: Path) -> None:
    planned = plan(tmp_path, [2.0] * 20, {"gpu_memory_gib": 0.1, "device": "cpu"})
    assert not planned["gradient_checkpointing"]
    assert not re.search("TOO MUCH|H100|GPU of|fits  ", plan_text(planned))


def test_equivalent_batch_in_the_other_unit(tmp_path: Path) -> None:
    lengths = [1.0, 2.0, 3.0, 4.0] * 8
    by_clips = plan(tmp_path, lengths, batch={"clips": 4}, gradient_accumulation=2)
    assert by_clips["seconds_per_batch"] == pytest.approx(10)
    seconds = by_clips["equivalent_batch"]["batch"]["seconds"]
    assert by_clips["largest_batch_seconds"] <= seconds <= 16
    by_seconds = plan(tmp_path, lengths, batch={"seconds": seconds}, gradient_accumulation=2, epochs=1)
    assert by_seconds["batches"] / 2 == by_clips["equivalent_batch"]["steps_per_epoch"]
    assert by_seconds["equivalent_batch"]["batch"] == {"clips": round(by_seconds["clips_per_batch"])}
    assert f"`batch: {{seconds: {seconds:g}}}`, about the same size: " in plan_text(by_clips)


def test_log_probs_of_the_largest_set_are_planned(tmp_path: Path) -> None:
    # 100 s of 50 frames, 7 tokens, 2 bytes each, twice.
    planned = plan(tmp_path, [1.0], {"log_probs": True})
    assert planned["disk_bytes"]["log_probs"] == 2 * 100 * 50 * 7 * 2
    assert "temporary    0.0 GB of log-probabilities" in plan_text(planned)
    assert "log-probabilities" not in plan_text(plan(tmp_path, [1.0]))


def test_too_little_disk_space_is_reported(tmp_path: Path) -> None:
    planned = plan(tmp_path, [1.0])
    needed = planned["disk_bytes"]["checkpoints"] + planned["disk_bytes"]["resume"]
    assert "TOO LITTLE   disk space is free" in plan_text(planned, needed - 1)
    assert "TOO LITTLE" not in plan_text(planned, needed)


@pytest.mark.parametrize(
    ("clips", "batch", "accumulation", "steps"),
    [
        # Source: the step tables of the two published model cards, 695 and 1,448 steps per epoch; the Trainer of
        # transformers 5.23 took 696.
        (22_263, 8, 4, (695, 696)),
        (46_329, 32, 1, (1448, 1448)),
        (31_127, 32, 1, (973, 973)),
        (2, 8, 4, (1, 1)),
    ],
)
def test_trainer_steps_match_the_trainer(clips: int, batch: int, accumulation: int, steps: tuple[int, int]) -> None:
    assert trainer_steps(clips, batch, accumulation, 1) == steps
    assert trainer_steps(clips, batch // 2, accumulation, 2) == steps


def recipe(name: str) -> dict[str, Any]:
    """Return the settings that the plan of a recipe reads, without its base model."""
    config = load(yaml.safe_load((ROOT / "config" / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")))
    read = json.loads(stage_settings.plan(config, name))
    return read | {"model": {"init": LAYER_NORM}, "memory": read["memory"] | {"precision": "fp32"}}


def test_korean_recipe_steps_are_explained(tmp_path: Path) -> None:
    # Source: Zeroth-Korean has 22,263 utterances, 51.6 h, in train; the model card lists 34,750 steps in 50 epochs.
    settings = recipe("ko_zeroth")
    lengths = lengths_like(22_263, 51.6, 30.0)
    listed = [status("zeroth", train=22_263)]
    counts: dict[str, Any] = {
        "sets": ["zeroth-train"],
        "speakers": 105,
        "excluded": {},
        "corrected": 0,
        "marks_dropped": {},
    }
    everything = plan(tmp_path, lengths, settings, counts, listed, **settings["plan"])
    assert everything["hours"] == pytest.approx(51.6, abs=0.05)
    assert 50 * trainer_steps(22_263, 8, 4, 1)[0] == 34_750
    # Batches are rounded up in each epoch, steps only at the end: 50 times 2,783 batches, four per step.
    assert everything["total_steps"] == 34_788
    assert everything["padding_share"] < 0.1
    assert everything["explanations"] == [
        "the Trainer of transformers would take 695 steps (transformers 4) or 696 (5) per epoch for the 22,263 clips:"
        " version 4 drops an incomplete last step of an epoch, version 5 takes it as a smaller step; this run takes"
        " 695.75, since a step may continue into the next epoch",
        "for all 22,263 clips that are listed in zeroth-train, it would take 695 steps (transformers 4) or 696 (5) per"
        " epoch",
    ]
    used = [seconds for seconds in lengths if seconds <= 20]
    counts["excluded"] = {"long": 85}
    text = plan_text(plan(tmp_path, used, settings, counts, listed, **settings["plan"]))
    assert "would take 693 steps (transformers 4) or 694 (5) per epoch for the 22,178 clips" in text
    assert (
        "with the 85 clips that are excluded as long, it would take 695 steps (transformers 4) or 696 (5) per epoch"
        in text
    )


def test_russian_recipe_steps_are_explained(tmp_path: Path) -> None:
    # Source: Common Voice 8.0 ru; the model card lists 1,448 steps per epoch at batch size 32.
    settings = recipe("ru_common_voice_8")
    used, leakage, drawn = 42_000, 3_000, 1_000
    counts = {
        "sets": ["cv8_ru-train", "cv8_ru-dev", "cv8_ru-other"],
        "speakers": 2_000,
        "corrected": 0,
        "excluded": {"leakage": leakage, "long": 46_329 - used - leakage - drawn},
        "marks_dropped": {},
    }
    listed = status("cv8_ru", train=21_712, dev=9_415, test=9_419, other=15_202)
    planned = plan(tmp_path, lengths_like(used, 61.0, 20.0), settings, counts, [listed], **settings["plan"])
    text = plan_text(planned)
    for sentence in (
        "would take 1,313 steps per epoch for the 42,000 clips",
        "with the 3,000 clips that are excluded as leakage, it would take 1,407 steps per epoch",
        "for all 21,712 clips that are listed in cv8_ru-train, it would take 679 steps per epoch",
        "with cv8_ru-dev, 31,127 clips, it would take 973 steps per epoch",
        "with cv8_ru-other, 46,329 clips, it would take 1,448 steps per epoch",
        "1,000 of the listed clips are in drawn splits, are in several of these sets, or could not be read",
    ):
        assert sentence in text


def test_no_explanations_for_batches_by_seconds(tmp_path: Path) -> None:
    assert plan(tmp_path, [1.0])["explanations"] == []


def test_plan_text_has_the_main_figures(tmp_path: Path) -> None:
    text = plan_text(plan(tmp_path, [5, 5, 3, 3, 2], epochs=3, save_steps=4))
    for part in ("run demo", "5 of 3 speakers", "2 long", "6: 3 epochs", "at steps 4, 6", "at most 10.0 s"):
        assert part in text


def test_plan_text_lists_leakage_and_missing_datasets(tmp_path: Path) -> None:
    kinds = {
        kind: {"clips": i, "action": "remove"} for i, kind in enumerate(("speaker", "sentence", "audio", "recording"))
    }
    statuses = [
        status("robust") | {"available": False, "why": "access denied"},
        status("cv") | {"differences": ["train has 6 clips, but 7 were expected"]},
    ]
    text = format_plan(plan(tmp_path, [5]), {"cv-test": kinds | {"removed": 2}}, statuses, 10**15)
    assert "cv-test: training clips collide with it, 1 by sentence, 2 by audio, 3 by recording; 2 are removed" in text
    assert "robust: access denied" in text
    assert "cv: train has 6 clips, but 7 were expected" in text


def test_plan_text_has_machine_transcripts(tmp_path: Path) -> None:
    about = {"stage": "transcribe", "run": "teacher", "step": 7, "decoder": "lm", "set": "cv-dev", "min_score": 0.8}
    statuses = [status(train=4), status("machine", train=4) | {"about": about | {"wer": 0.125, "cer": 0.02}}]
    by_dataset = {"corpus": {"clips": 3, "seconds": 27.0}, "machine": {"clips": 1, "seconds": 9.0}}
    counts = COUNTS | {"seconds": 36.0, "by_dataset": by_dataset}
    text = plan_text(plan(tmp_path, [9.0] * 4, counts=counts, statuses=statuses))
    assert (
        "  machine      1 clips of machine, 0.00 h or 25.0% of the training audio, have transcripts by the run teacher,"
        " step 7, lm decoding, which has WER 12.50% and CER 2.00% on cv-dev; clips with a confidence below 0.8 are left"
        " out\n"
    ) in text


def test_plan_text_lists_rejected_clips(tmp_path: Path) -> None:
    lost = {"train": {"missing": {"clips": 8, "example": "b: no file"}}}
    text = format_plan(plan(tmp_path, [5]), {}, [status(train=16) | {"rejections": lost}, status("cv")], 10**15)
    assert [line for line in text.splitlines() if "rejected" in line] == [
        "  rejected     WARNING: corpus-train: 8 of 16 clips (50.00%) are rejected as missing, such as b: no file",
        "  rejected     see results/data/corpus/rejected.parquet",
    ]


def test_plan_text_says_what_recordings_were_cut_into(tmp_path: Path) -> None:
    parts = {"kept": {"parts": 2, "seconds": 90.0, "words": 9}, "no_text": {"parts": 1, "seconds": 10.0, "words": 0}}
    about = {"of": "interviews", "stage": "segment", "min_score": -1, "parts": parts}
    text = format_plan(plan(tmp_path, [5]), {}, [status("aligned") | {"about": about}, status("cv")], 10**15)
    assert [line for line in text.splitlines() if "pieces" in line] == [
        "  pieces       aligned: 2 min of recordings in interviews: clips: 2 parts, 2 min (90.0%), 9 words; speech"
        " without text: 1 part, 10.0 s (10.0%)"
    ]


def test_digest_changes_only_with_the_steps(tmp_path: Path) -> None:
    planned = plan(tmp_path, [5, 5, 3, 3, 2], epochs=3, save_steps=4)
    assert steps_digest(planned | {"memory_bytes": 1, "gpu_memory_gib": 24, "clips_per_batch": 1.0}) == steps_digest(
        planned
    )
    for changes in ({"epochs": 4, "save_steps": 4}, {"epochs": 3, "save_steps": 2}):
        assert steps_digest(plan(tmp_path, [5, 5, 3, 3, 2], **changes)) != steps_digest(planned)
