from typing import Any

import pytest

from speechmill.report.contamination import BaseTraining, statements

CV8 = {
    "dataset": "cv8", "split": "test", "version": "8.0",
    "names": ["Common Voice", "mozilla-foundation/common_voice_8_0", "common_voice"],
}  # fmt: skip


def card(*datasets: str, model: str = "a/base", problem: str | None = None) -> dict[str, Any]:
    return {"model": model, "commit": "c0ffee", "sha256": None, "datasets": list(datasets), "problem": problem}


def finding(
    *cards: dict[str, Any], scored: dict[str, Any] | None = None, changed: str | None = None, **more: Any
) -> tuple[str, list[tuple[str, str]]]:
    """What is known about the test set of Common Voice 8, with keys of it changed, and about its base."""
    training = BaseTraining.model_validate({"base": "a/base", "sets": {"cv8-test": CV8 | (scored or {})}, **more})
    (found,) = statements(training, {"cards": cards, "weights_changed": changed})
    assert found.set == "cv8-test"
    return found.finding, found.sources


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("mozilla-foundation/common_voice_8_0", "same corpus, same release"),
        ("mozilla-foundation/common_voice_11_0", "same corpus, other release (11)"),
        ("common_voice", "same corpus, release not named"),
        ("multilingual_librispeech", "not named"),
    ],
)
def test_corpus_in_the_card_of_the_base(named: str, expected: str) -> None:
    found, sources = finding(card("voxpopuli", named))
    assert found == expected
    assert sources == ([] if expected == "not named" else [(named, "card of a/base")])


def test_release_of_a_set_is_taken_from_its_hub_id() -> None:
    assert finding(card("common_voice_8_0"), scored={"version": ""})[0] == "same corpus, same release"


@pytest.mark.parametrize(
    ("cards", "expected"),
    [
        ([card()], "unknown: the card of a/base names no training data in its front matter"),
        ([card(problem="does not exist")], "unknown: the card of a/base does not exist"),
        (
            [card("fleurs"), card(model="b/base", problem="is not on the Hub")],
            "unknown: the card of b/base is not on the Hub",
        ),
        ([card("fleurs"), card("voxpopuli", model="b/base")], "not named"),
    ],
    ids=["no data", "no card", "no card of its base", "complete"],
)
def test_data_is_unknown_where_a_card_says_nothing(cards: list[dict[str, Any]], expected: str) -> None:
    assert finding(*cards) == (expected, [])


def test_card_of_the_base_of_a_base_counts() -> None:
    found, sources = finding(card("fleurs"), card("common_voice_8_0", model="b/base"))
    assert (found, sources) == ("same corpus, same release", [("common_voice_8_0", "card of b/base")])


def test_configuration_completes_the_card() -> None:
    assert finding(card(), trained_on=[{"name": "FLEURS"}]) == ("not named", [])
    found, sources = finding(card("fleurs"), trained_on=[{"name": "Common Voice", "version": "8.0"}])
    assert (found, sources) == ("same corpus, same release", [("Common Voice 8.0", "configuration")])


def test_configuration_counts_for_a_corpus_that_the_card_names_too() -> None:
    given = [{"name": "Common Voice", "version": "6.1"}]
    found, sources = finding(card("common_voice_8_0"), trained_on=given)
    assert (found, sources) == ("same corpus, other release (6.1)", [("Common Voice 6.1", "configuration")])


@pytest.mark.parametrize(
    ("labels", "end"), [(None, ""), (True, "; with transcripts"), (False, "; audio without transcripts")]
)
def test_use_of_transcripts_is_said_only_if_known(labels: bool | None, end: str) -> None:
    given = [{"name": "common_voice", "labels": labels}]
    assert finding(card(), trained_on=given)[0] == f"same corpus, release not named{end}"


def test_every_use_of_a_corpus_is_listed() -> None:
    given = [
        {"name": "Common Voice", "version": "8.0", "splits": ["train", "other"], "labels": True},
        {"name": "Common Voice", "version": "6.1", "labels": False},
    ]
    found, sources = finding(card(), trained_on=given)
    assert found == (
        "same corpus, other release (6.1); audio without transcripts."
        " Also: same corpus, same release, other splits (train, other); with transcripts"
    )
    assert [name for name, _ in sources] == ["Common Voice 6.1", "Common Voice 8.0"]


@pytest.mark.parametrize(
    ("version", "splits", "scored", "expected"),
    [
        ("8.0", ["train"], {}, "same corpus, same release, other splits (train)"),
        ("8.0", ["train", "test"], {}, "same corpus, same release"),
        ("8.0", ["validated"], {}, "same corpus, same release"),
        ("8.0", ["validation"], {"split": "dev"}, "same corpus, same release"),
        ("8.0", ["train"], {"split": "held", "drawn_from": "train"}, "same corpus, same release"),
        ("8.0", ["dev"], {"split": "held", "drawn_from": "train"}, "same corpus, same release, other splits (dev)"),
        ("7.0", ["train"], {}, "same corpus, other release (7)"),
        (None, ["train"], {}, "same corpus, release not named, other splits (train)"),
    ],
)
def test_splits_count_only_within_a_release(
    version: str | None, splits: list[str], scored: dict[str, Any], expected: str
) -> None:
    given = [{"name": "Common Voice", "version": version, "splits": splits}]
    assert finding(card(), trained_on=given, scored=scored)[0] == expected


NEWER = "it was published on 2022-01-19, after the base (2021-11-18)"


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("fleurs", f"no: {NEWER}"),
        (
            "common_voice",
            f"same corpus, release not named; {NEWER}, so that only clips of earlier releases can be in it",
        ),
        ("common_voice_8_0", f"same corpus, same release; {NEWER}"),
    ],
)
def test_set_that_is_newer_than_the_base(named: str, expected: str) -> None:
    scored = {"released": "2022-01-19"}
    assert finding(card(named), scored=scored, released="2021-11-18")[0] == expected
    assert finding(card(named), scored=scored, changed="2021-11-18")[0] == expected


def test_newer_set_needs_no_card() -> None:
    scored = {"released": "2022-01-19"}
    assert finding(card(problem="does not exist"), scored=scored, changed="2021-11-18")[0] == f"no: {NEWER}"


@pytest.mark.parametrize("released", ["2022-01-19", "2022-01-20"])
def test_set_that_is_as_old_as_the_base_may_be_in_its_data(released: str) -> None:
    assert finding(card("fleurs"), scored={"released": "2022-01-19"}, released=released)[0] == "not named"


def test_date_in_the_configuration_counts_before_that_of_the_weights() -> None:
    scored = {"released": "2022-01-19"}
    assert finding(card("fleurs"), scored=scored, released="2021-11-18", changed="2023-01-01")[0].startswith("no: ")


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        ({"dataset": "cv8", "splits": ["train", "other"]}, "same corpus, same release, other splits (train, other)"),
        ({"dataset": "cv8", "splits": ["test"]}, "same corpus, same release"),
        ({"dataset": "copy", "splits": ["train"]}, "same corpus, same release"),
        ({"dataset": "cv9", "splits": ["train"], "version": "9.0"}, "same corpus, other release (9)"),
    ],
    ids=["same dataset", "the set itself", "another dataset of the corpus", "another release"],
)
def test_training_data_of_the_run_that_a_run_starts_from(trained: dict[str, Any], expected: str) -> None:
    runs = {"first": [{"name": "Common Voice", "version": "8.0"} | trained]}
    found, ((_, source),) = finding(card("fleurs"), runs=runs)
    assert (found, source) == (expected, "run first")


def test_split_that_is_drawn_from_the_data_of_a_run_is_not_in_it() -> None:
    runs = {"first": [{"dataset": "cv8", "name": "Common Voice", "version": "8.0", "splits": ["train"]}]}
    scored = {"split": "held", "drawn_from": "train"}
    assert finding(card("fleurs"), runs=runs, scored=scored)[0] == "same corpus, same release, other splits (train)"


def test_run_that_starts_from_random_weights_is_known_completely() -> None:
    runs = {"first": [{"dataset": "own", "name": "Ours", "version": "", "splits": ["train"]}]}
    training = BaseTraining.model_validate({"base": None, "runs": runs, "sets": {"cv8-test": CV8}})
    assert [each.finding for each in statements(training, None)] == ["not named"]
