from typing import Any

import pytest

from speechmill.config.leakage import LeakageConfig
from speechmill.core.command import SpeechmillError
from speechmill.corpus.leakage import Leakage, in_words


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


def held(settings: Any, *, dev: str = "cv-dev") -> Leakage:
    leakage = Leakage(LeakageConfig.model_validate(settings), dev, SPEAKERS)
    leakage.add("cv-test", [TEST])
    return leakage


@pytest.mark.parametrize("kind", LEAKS)
def test_a_training_clip_that_shares_one_thing_with_a_test_clip_is_removed_for_it(kind: str) -> None:
    leakage = held("remove")
    assert leakage.collisions(clip("a", **LEAKS[kind])) == f"{kind} of cv-test"
    found = leakage.found()["cv-test"]
    assert {each: found[each]["clips"] for each in LEAKS} == {each: int(each == kind) for each in LEAKS}
    assert found["removed"] == 1
    assert found[kind]["examples"][0]["id"] == "a"


def test_the_same_samples_in_another_file_are_the_same_audio() -> None:
    assert held("remove").collisions(clip("a", audio_sha256="samples of t")) == "audio of cv-test"


def test_a_clip_that_shares_nothing_stays() -> None:
    leakage = held("remove")
    assert leakage.collisions(clip("a")) is None
    assert leakage.found()["cv-test"]["removed"] == 0


def test_all_that_is_shared_is_named_and_the_clip_is_removed_once() -> None:
    leakage = held("remove")
    why = leakage.collisions(clip("a", **LEAKS["speaker"], **LEAKS["sentence"], sha256="file of t"))
    assert why == "speaker of cv-test, sentence of cv-test, audio of cv-test"
    assert leakage.found()["cv-test"]["removed"] == 1


def test_report_counts_and_removes_nothing() -> None:
    leakage = held("report")
    assert leakage.collisions(clip("a", **LEAKS["sentence"])) is None
    assert leakage.found()["cv-test"]["sentence"]["clips"] == 1


def test_fail_stops_with_both_clips_and_the_key() -> None:
    with pytest.raises(
        SpeechmillError, match=r"training clip a of cv has the audio of a clip of cv-test.*leakage\.test\.audio"
    ):
        held({"test": {"audio": "fail"}}).collisions(clip("a", **LEAKS["audio"]))


def test_dev_has_a_rule_of_its_own() -> None:
    # One word is for the test sets: dev shares sentences with training where a corpus repeats them.
    leakage = held("remove", dev="cv-test")
    assert leakage.collisions(clip("a", **LEAKS["sentence"])) is None
    removing = held({"dev": {"sentence": "remove"}}, dev="cv-test")
    assert removing.collisions(clip("a", **LEAKS["sentence"])) == "sentence of cv-test"


def test_speakers_are_compared_where_their_names_are_of_one_corpus() -> None:
    leakage = held("remove")
    assert leakage.collisions(clip("a", dataset="cv_old", **LEAKS["speaker"])) == "speaker of cv-test"
    assert leakage.collisions(clip("a", dataset="own", **LEAKS["speaker"])) is None


def test_sentences_and_audio_are_compared_across_all_datasets() -> None:
    leakage = held("remove")
    assert leakage.collisions(clip("a", dataset="own", **LEAKS["sentence"])) == "sentence of cv-test"
    assert leakage.collisions(clip("a", dataset="own", **LEAKS["audio"])) == "audio of cv-test"


def test_unknown_speakers_and_empty_texts_are_not_the_same() -> None:
    leakage = Leakage(LeakageConfig.model_validate("remove"), "cv-dev", SPEAKERS)
    leakage.add("cv-test", [clip("t", speaker_id=None, text="")])
    assert leakage.collisions(clip("a", speaker_id=None, text="")) is None


def test_what_was_found_is_said_in_a_sentence_a_set() -> None:
    leakage = held("remove")
    leakage.add("own-test", [clip("o", dataset="own")])
    for name in ("a", "b"):
        leakage.collisions(clip(name, **LEAKS["speaker"]))
    assert in_words(leakage.found()) == [
        "cv-test: training clips collide with it, 2 by speaker; 2 are taken out of training"
    ]
