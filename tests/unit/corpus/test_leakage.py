from typing import Any

import pytest

from speechmill.config.leakage import LeakageConfig
from speechmill.core.command import SpeechmillError
from speechmill.corpus.leakage import Leakage, format_leakage


def clip(name: str, dataset: str = "cv", **changes: Any) -> dict[str, Any]:
    return {
        "dataset": dataset,
        "id": name,
        "speaker_id": f"speaker of {name}",
        "text": f"text of {name}",
        "sha256": f"file of {name}",
        "audio_sha256": f"samples of {name}",
    } | changes


SPEAKERS = {"cv": "common_voice", "cv_old": "common_voice", "own": "own"}
TEST = clip("t")
LEAKS = {
    "speaker": {"speaker_id": "speaker of t"},
    "sentence": {"text": "text of t"},
    "audio": {"sha256": "file of t"},
}


def leakage_with_test_set(settings: Any, *, dev: str = "cv-dev") -> Leakage:
    leakage = Leakage(LeakageConfig.model_validate(settings), dev, SPEAKERS)
    leakage.add_scored_set("cv-test", [TEST])
    return leakage


@pytest.mark.parametrize("kind", LEAKS)
def test_each_kind_of_collision_removes_a_clip(kind: str) -> None:
    leakage = leakage_with_test_set("remove")
    assert leakage.check(clip("a", **LEAKS[kind])) == f"{kind} of cv-test"
    found = leakage.summary()["cv-test"]
    assert {each: found[each]["clips"] for each in LEAKS} == {each: int(each == kind) for each in LEAKS}
    assert found["removed"] == 1
    assert found[kind]["examples"][0]["id"] == "a"


def test_equal_samples_are_the_same_audio() -> None:
    assert leakage_with_test_set("remove").check(clip("a", audio_sha256="samples of t")) == "audio of cv-test"


def test_clip_without_collision_is_kept() -> None:
    leakage = leakage_with_test_set("remove")
    assert leakage.check(clip("a")) is None
    assert leakage.summary()["cv-test"]["removed"] == 0


def test_all_collisions_are_named_but_removed_once() -> None:
    leakage = leakage_with_test_set("remove")
    why = leakage.check(clip("a", **LEAKS["speaker"], **LEAKS["sentence"], sha256="file of t"))
    assert why == "speaker of cv-test, sentence of cv-test, audio of cv-test"
    assert leakage.summary()["cv-test"]["removed"] == 1


def test_report_counts_without_removing() -> None:
    leakage = leakage_with_test_set("report")
    assert leakage.check(clip("a", **LEAKS["sentence"])) is None
    assert leakage.summary()["cv-test"]["sentence"]["clips"] == 1


def test_fail_names_the_clip_and_the_key() -> None:
    with pytest.raises(
        SpeechmillError, match=r"training clip a of cv has the same audio as a clip of cv-test.*leakage\.test\.audio"
    ):
        leakage_with_test_set({"test": {"audio": "fail"}}).check(clip("a", **LEAKS["audio"]))


def test_dev_set_has_a_separate_rule() -> None:
    # A single action applies to the test sets only: in some corpora dev shares sentences with training.
    leakage = leakage_with_test_set("remove", dev="cv-test")
    assert leakage.check(clip("a", **LEAKS["sentence"])) is None
    removing = leakage_with_test_set({"dev": {"sentence": "remove"}}, dev="cv-test")
    assert removing.check(clip("a", **LEAKS["sentence"])) == "sentence of cv-test"


def test_speakers_are_compared_within_a_namespace() -> None:
    leakage = leakage_with_test_set("remove")
    assert leakage.check(clip("a", dataset="cv_old", **LEAKS["speaker"])) == "speaker of cv-test"
    assert leakage.check(clip("a", dataset="own", **LEAKS["speaker"])) is None


def test_sentences_and_audio_compare_across_datasets() -> None:
    leakage = leakage_with_test_set("remove")
    assert leakage.check(clip("a", dataset="own", **LEAKS["sentence"])) == "sentence of cv-test"
    assert leakage.check(clip("a", dataset="own", **LEAKS["audio"])) == "audio of cv-test"


def test_unknown_speakers_and_texts_never_collide() -> None:
    leakage = Leakage(LeakageConfig.model_validate("remove"), "cv-dev", SPEAKERS)
    leakage.add_scored_set("cv-test", [clip("t", speaker_id=None, text="")])
    assert leakage.check(clip("a", speaker_id=None, text="")) is None


def test_collisions_are_formatted_per_set() -> None:
    leakage = leakage_with_test_set("remove")
    leakage.add_scored_set("own-test", [clip("o", dataset="own")])
    for name in ("a", "b"):
        leakage.check(clip(name, **LEAKS["speaker"]))
    assert format_leakage(leakage.summary()) == [
        "cv-test: training clips collide with it, 2 by speaker; 2 are removed from training"
    ]
