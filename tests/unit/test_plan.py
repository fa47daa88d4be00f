import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCTC

from material import LAYER_NORM
from speechmill.command import SpeechmillError
from speechmill.models import model_config
from speechmill.plan import Settings, in_words, make_plan
from speechmill.tables import CLIPS, SAMPLE_RATE, write_table

COUNTS = {"speakers": 3, "excluded": {"long": 2}}


def plan(folder: Path, seconds: list[float], **changes: Any) -> dict[str, Any]:
    """The plan of a run over clips of `seconds`."""
    settings = {"epochs": 2, "batch": {"seconds": 10}, "save_steps": 3} | changes
    clips = folder / "train.parquet"
    write_table(({"num_samples": round(each * SAMPLE_RATE)} for each in seconds), CLIPS, clips)
    return make_plan(
        "demo",
        clips,
        COUNTS,
        model_config(LAYER_NORM, None, {}, 7),
        Settings.model_validate(
            {"plan": settings, "model": {"init": LAYER_NORM}, "device": "cpu", "activation_bytes": 4}
        ),
    )


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


def test_the_plan_can_be_read_by_a_person(tmp_path: Path) -> None:
    words = in_words(plan(tmp_path, [5, 5, 3, 3, 2], epochs=3, save_steps=4), {}, [])
    for part in ("run demo", "5 of 3 speakers", "2 long", "6: 3 epochs", "at steps 4, 6", "at most 10.0 s"):
        assert part in words


def test_the_words_say_what_leaks_and_what_cannot_be_had(tmp_path: Path) -> None:
    kinds = {kind: {"clips": i, "action": "remove"} for i, kind in enumerate(("speaker", "sentence", "audio"))}
    statuses = [
        {"dataset": "robust", "available": False, "why": "the Hub says no", "differences": []},
        {"dataset": "cv", "available": True, "why": None, "differences": ["train has 6 clips, expected were 7"]},
    ]
    words = in_words(plan(tmp_path, [5]), {"cv-test": kinds | {"removed": 2}}, statuses)
    assert "cv-test: training clips collide with it, 1 by sentence, 2 by audio; 2 are taken out of training" in words
    assert "robust: the Hub says no" in words
    assert "cv: train has 6 clips, expected were 7" in words
