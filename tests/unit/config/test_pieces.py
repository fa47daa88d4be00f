"""Datasets that are made from the recordings of others."""

import copy
from typing import Any

import pytest
import yaml

from material import ROOT
from speechmill.config.root import load
from speechmill.core.command import SpeechmillError
from speechmill.dag import paths, stage_settings

DEMO = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
LONG = {
    "source": "folder",
    "path": "/data/interviews",
    "pattern": "{speaker}.wav",
    "columns": {"speaker_id": "speaker", "sentence": "speaker"},
    "split": {"field": "speaker", "default": "train"},
    "language": "tr",
    "name": "Interviews",
    "version": "2",
    "licence": "CC-BY-4.0",
    "splits": ["train", "other"],
    "shards": {"train": 3, "other": 1},
}


def configuration(student: dict[str, Any] | None = None, **datasets: dict[str, Any]) -> dict[str, Any]:
    raw = copy.deepcopy(DEMO)
    raw["datasets"] |= {"long": LONG} | datasets
    if student is not None:
        raw["runs"]["student"] = copy.deepcopy(raw["runs"]["demo_ru"]) | student
    return raw


def aligned(**changes: Any) -> dict[str, Any]:
    return {"source": "segment", "of": "long", "model": {"run": "demo_ru"}} | changes


def machine(**changes: Any) -> dict[str, Any]:
    return {"source": "transcribe", "of": "long", "by": "demo_ru"} | changes


def test_what_is_not_given_is_as_in_the_recordings() -> None:
    config = load(configuration(aligned=aligned(), machine=machine(name="Machine", splits=["other"])))
    first, second = config.pieces["aligned"], config.pieces["machine"]
    assert (first.name, first.version, first.licence, first.language) == ("Interviews", "2", "CC-BY-4.0", "tr")
    assert (first.splits, first.shards) == (["train", "other"], {"train": 3, "other": 1})
    assert (second.name, second.splits, second.shards) == ("Machine", ["other"], {"other": 1})


def test_speakers_are_those_of_the_recordings() -> None:
    config = load(configuration(aligned=aligned(), again=machine(of="aligned")))
    assert {config.datasets[name].speaker_namespace(name) for name in ("long", "aligned", "again")} == {"long"}


def test_transcribed_common_voice_shows_no_audio() -> None:
    raw = configuration(machine=machine(of="demo_ru"), student={"train": ["demo_ru-train", "machine-train"]})
    del raw["datasets"]["demo_ru"]["redistribute"]
    card = yaml.safe_load(stage_settings.card(load(raw), "student"))
    assert card["datasets"]["machine"]["audio_redistributable"] is False
    assert card["datasets"]["machine"]["text_redistributable"] is True


def test_alignment_uses_the_text_rules_of_its_run() -> None:
    config = load(configuration(aligned=aligned(), other=aligned(text={"case": "keep"})))
    assert yaml.safe_load(stage_settings.segment(config, "aligned"))["text"]["keep"] == "а-яё"
    assert yaml.safe_load(stage_settings.segment(config, "other"))["text"]["case"] == "keep"


def test_threshold_is_no_reason_to_align_again() -> None:
    before, after = (load(configuration(aligned=aligned(min_score=score))) for score in (-1, -2))
    assert stage_settings.segment(before, "aligned") == stage_settings.segment(after, "aligned")
    assert stage_settings.ingest_pieces(before, "aligned") != stage_settings.ingest_pieces(after, "aligned")


def test_reproduction_has_the_teacher_and_the_recordings() -> None:
    raw = configuration(machine=machine(), student={"train": ["machine-train"]})
    chosen = yaml.safe_load(stage_settings.reproduction(load(raw), "student"))
    assert list(chosen["runs"]) == ["demo_ru", "student"]
    assert set(chosen["datasets"]) == {"demo_ru", "long", "machine"}
    assert load(chosen)


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({"aligned": aligned(of="lang")}, "datasets.aligned.of: there is no dataset lang; known datasets are"),
        ({"aligned": aligned(splits=["trian"])}, "datasets.aligned.splits: long has no split trian, only train, other"),
        ({"aligned": aligned(shards=7)}, "aligned.shards: it has as many shards as long; remove the key"),
        ({"aligned": aligned(model={"run": "demo"})}, "aligned.model.run: there is no run demo; did you mean"),
        ({"machine": machine(by="demo")}, "datasets.machine.by: there is no run demo; did you mean `demo_ru`?"),
        ({"aligned": aligned(model={"init": {"model_type": "wav2vec2"}})}, "give `model.base` or `model.run`"),
        ({"machine": machine(max_seconds=1.5)}, "`max_seconds` is 1.5 and `min_seconds` 1"),
        (
            {"long": LONG | {"columns": {"sentence": None}}, "aligned": aligned()},
            "datasets.aligned.of: the recordings of long have no text to align, because",
        ),
        (
            {"one": machine(of="two"), "two": machine(of="one")},
            "datasets.one.of: circular, one is made of two is made of one",
        ),
    ],
)  # fmt: skip
def test_invalid_datasets_are_named(datasets: dict[str, Any], message: str) -> None:
    with pytest.raises(SpeechmillError) as caught:
        load(configuration(**datasets))
    assert message in str(caught.value)


def test_run_cannot_transcribe_its_own_training_data() -> None:
    raw = configuration(machine=machine(by="student"), student={"train": ["machine-train"]})
    with pytest.raises(SpeechmillError, match=r"circular, datasets\.machine is made of runs\.student is made of data"):
        load(raw)


def test_unknown_base_of_a_run_that_transcribes_is_named() -> None:
    raw = configuration(machine=machine(by="student"), student={"model": {"run": "demo"}})
    with pytest.raises(
        SpeechmillError, match=r"runs\.student\.model\.run: there is no run demo; did you mean `demo_ru`"
    ):
        load(raw)


def test_chain_of_teachers_is_allowed() -> None:
    raw = configuration(
        first=machine(), second=machine(by="student"), student={"train": ["demo_ru-train", "first-train"]}
    )
    raw["runs"]["third"] = copy.deepcopy(raw["runs"]["student"]) | {"train": ["demo_ru-train", "second-train"]}
    config = load(raw)
    runs, datasets = config.made_of("third")
    assert runs == ["demo_ru", "student", "third"]
    assert set(datasets) == {"demo_ru", "long", "first", "second"}
    # A run is compared with the one before it only.
    assert paths.teachers(config, "third") == [{"teacher": "student"}]
    assert [run["transcribed_by"] for run in yaml.safe_load(stage_settings.runs_table(config))["runs"]] == [
        {},
        {"first": "demo_ru"},
        {"second": "student"},
    ]
