from typing import Any

import pytest

from speechmill.config.leakage import LeakageConfig
from speechmill.core.command import SpeechmillError
from speechmill.corpus.leakage import Leakage, format_leakage
from speechmill.corpus.recordings import Recordings


def clip(name: str, dataset: str = "cv", **changes: Any) -> dict[str, Any]:
    return {
        "dataset": dataset,
        "id": name,
        "speaker_id": f"speaker of {name}",
        "text": f"text of {name}",
        "sha256": f"file of {name}",
        "audio_sha256": f"samples of {name}",
        "recording": None,
        "channel": None,
        "start": None,
        "end": None,
    } | changes


def piece(name: str, recording: str, start: float, end: float | None, **changes: Any) -> dict[str, Any]:
    return clip(name, **({"recording": recording, "start": start, "end": end} | changes))


SPEAKERS = {"cv": "common_voice", "cv_old": "common_voice", "own": "own"}
TEST = clip("t")
LEAKS = {
    "speaker": {"speaker_id": "speaker of t"},
    "sentence": {"text": "text of t"},
    "audio": {"sha256": "file of t"},
}
# Interviews, and the clips that they are cut into; the interviews themselves are cut from tapes.
OF = {"aligned": "interviews", "machine": "interviews"}
INTERVIEWS = [clip("i", "interviews"), piece("j", "tape.wav", 100.0, 900.0, dataset="interviews", channel=1)]


def leakage_with_test_set(settings: Any, *, dev: str = "cv-dev") -> Leakage:
    leakage = Leakage(LeakageConfig.model_validate(settings), dev, SPEAKERS, Recordings({}, []))
    leakage.add_scored_set("cv-test", [TEST])
    return leakage


def collision(training: dict[str, Any], *scored: dict[str, Any]) -> str | None:
    """Return why a training clip is removed, if the scored set consists of these clips."""
    datasets = ["interviews", *OF, *SPEAKERS]
    leakage = Leakage(
        LeakageConfig.model_validate("remove"), "cv-dev", dict.fromkeys(datasets, "all"), Recordings(OF, INTERVIEWS)
    )
    leakage.add_scored_set("cv-test", scored)
    return leakage.check(training)


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
    leakage = Leakage(LeakageConfig.model_validate("remove"), "cv-dev", SPEAKERS, Recordings({}, []))
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


def test_parts_of_a_recording_that_do_not_overlap_share_the_recording() -> None:
    scored = piece("t", "call.wav", 10, 20)
    assert collision(piece("a", "call.wav", 20, 30), scored) == "recording of cv-test"
    assert collision(piece("a", "call.wav", 0, 10.09), scored) == "recording of cv-test"
    assert collision(piece("a", "other.wav", 10, 20), scored) is None
    assert collision(piece("a", "call.wav", 10, 20, dataset="own"), scored) is None


@pytest.mark.parametrize(("start", "end"), [(10, 20), (19.8, 30), (0, 10.2), (12, 13), (0, 60), (0, None)])
def test_parts_of_a_recording_that_overlap_share_audio(start: float, end: float | None) -> None:
    scored = [piece("t", "call.wav", 40, 50), piece("u", "call.wav", 10, 20), piece("v", "call.wav", 14, 15)]
    assert collision(piece("a", "call.wav", start, end), *scored) == "audio of cv-test"


def test_channels_of_a_recording_have_no_audio_in_common() -> None:
    scored = piece("t", "call.wav", 10, 20, channel=0)
    assert collision(piece("a", "call.wav", 10, 20, channel=0), scored) == "audio of cv-test"
    assert collision(piece("a", "call.wav", 10, 20, channel=1), scored) == "recording of cv-test"
    # The mean of all channels.
    assert collision(piece("a", "call.wav", 10, 20), scored) == "audio of cv-test"
    assert collision(piece("a", "call.wav", 10, 20, channel=1), piece("t", "call.wav", 10, 20)) == "audio of cv-test"


def test_clip_cut_from_a_scored_recording_shares_its_audio() -> None:
    training = piece("a", "i", 10, 20, dataset="aligned")
    assert collision(training, INTERVIEWS[0]) == "audio of cv-test"
    assert collision(training, clip("t", "own", audio_sha256="samples of i")) == "audio of cv-test"
    assert collision(training, clip("t", "interviews")) is None


def test_datasets_made_from_one_dataset_share_its_recordings() -> None:
    scored = piece("t", "i", 10, 20, dataset="aligned")
    assert collision(piece("a", "i", 15, 25, dataset="machine"), scored) == "audio of cv-test"
    assert collision(piece("a", "i", 25, 35, dataset="machine"), scored) == "recording of cv-test"
    assert collision(INTERVIEWS[0], scored) == "audio of cv-test"


def test_times_count_from_the_start_of_the_recording_that_all_is_cut_from() -> None:
    scored = piece("t", "tape.wav", 110, 120, dataset="interviews")
    assert collision(piece("a", "j", 15, 25, dataset="aligned"), scored) == "audio of cv-test"
    assert collision(piece("a", "j", 110, 120, dataset="aligned"), scored) == "recording of cv-test"


def test_parts_of_a_recording_are_only_reported_by_default() -> None:
    leakage = Leakage(LeakageConfig(), "cv-dev", SPEAKERS, Recordings({}, []))
    leakage.add_scored_set("cv-test", [piece("t", "call.wav", 10, 20)])
    assert leakage.check(piece("a", "call.wav", 30, 40)) is None
    assert format_leakage(leakage.summary()) == [
        "cv-test: training clips collide with it, 1 by recording; none is removed"
    ]
