import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from material import ROOT
from speechmill.config.datasets import CommonVoice, Dataset, Download, Folder
from speechmill.config.lm import LmConfig
from speechmill.config.model import ModelConfig
from speechmill.config.root import Config, load
from speechmill.core.command import SpeechmillError

FILES = [ROOT / "config" / "config.yaml", *sorted((ROOT / "config" / "recipes").glob("*.yaml"))]

RAW: dict[str, Any] = {
    "datasets": {
        "cv": {"source": "common_voice", "path": "cv.tar.gz", "language": "ru", "name": "Common Voice",
               "licence": "CC0-1.0", "splits": ["train", "dev", "test"], "shards": 2},
        "digits": {"source": "folder", "path": "digits", "language": "en", "name": "Digits", "licence": "MIT",
                   "pattern": "{digit}.wav", "columns": {"sentence": {"field": "digit", "values": {"0": "zero"}}},
                   "split": {"field": "digit", "values": {"train": [0]}, "default": "test"},
                   "splits": ["train", "test"], "shards": {"train": 2, "test": 1}},
    },
    "runs": {
        "demo": {"language": "ru", "train": ["cv-train"], "dev": "cv-dev",
                 "model": {"init": {"model_type": "wav2vec2"}},
                 "plan": {"epochs": 1, "batch": {"seconds": 10}, "save_steps": 5}, "finetune": {"learning_rate": 0.001},
                 "evaluation": {"sets": ["cv-dev", "digits-test"]},
                 "card": {"title": "t", "description": "d", "uses": "u"}},
    },
}  # fmt: skip

ABSENT = object()


def changed(place: str, value: Any) -> dict[str, Any]:
    """RAW with `value` at `place`, or without what stands there."""
    raw = copy.deepcopy(RAW)
    *path, last = place.split(".")
    node: Any = raw
    for part in path:
        node = node.setdefault(part, {})
    if value is ABSENT:
        del node[last]
    else:
        node[last] = value
    return raw


def faults(place: str, value: Any) -> str:
    with pytest.raises(SpeechmillError) as caught:
        load(changed(place, value))
    return str(caught.value)


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_each_configuration_that_is_shipped_is_right(file: Path) -> None:
    assert load(yaml.safe_load(file.read_text())).runs


def test_defaults_are_filled_in_and_nothing_can_be_changed_afterwards() -> None:
    config = load(RAW)
    run = config.runs["demo"]
    assert (run.device, run.text.case, run.select_set, run.finetune.precision) == ("gpu", "lower", "cv-dev", "bf16")
    with pytest.raises(ValueError, match="frozen"):
        run.device = "cpu"  # type: ignore[misc]


def test_what_is_loaded_is_loaded_again_from_its_own_dump() -> None:
    config = load(RAW)
    assert load(config.model_dump(mode="json")) == config
    assert isinstance(config, Config)


@pytest.mark.parametrize(
    ("place", "key", "nearest"),
    [
        ("run", "run", "runs"),
        ("datasets.cv.langage", "langage", "language"),
        ("datasets.digits.patern", "patern", "pattern"),
        ("datasets.digits.split.value", "value", "values"),
        ("runs.demo.devise", "devise", "device"),
        ("runs.demo.text.kep", "kep", "keep"),
        ("runs.demo.plan.batch.second", "second", "seconds"),
        ("runs.demo.plan.save_step", "save_step", "save_steps"),
        ("runs.demo.finetune.learning_rat", "learning_rat", "learning_rate"),
        ("runs.demo.finetune.worker", "worker", "workers"),
        ("runs.demo.checkpoints.bests", "bests", "best"),
        ("runs.demo.augment.sped", "sped", "speed"),
        ("runs.demo.gpu_memory_gb", "gpu_memory_gb", "gpu_memory_gib"),
        ("runs.demo.select.metrik", "metrik", "metric"),
        ("runs.demo.evaluation.decoder", "decoder", "decoders"),
        ("runs.demo.evaluation.robustness.set", "set", "sets"),
        ("runs.demo.card.titel", "titel", "title"),
    ],
)
def test_an_unknown_key_is_named_with_its_place_and_the_nearest_known_one(place: str, key: str, nearest: str) -> None:
    said = faults(place, 1)
    assert f"  {place}: unknown key `{key}`; did you mean `{nearest}`? known are " in said


def test_an_unknown_key_that_is_like_no_other_is_named_with_all_that_are_known() -> None:
    said = faults("runs.demo.card.zzz", 1)
    assert "runs.demo.card.zzz: unknown key `zzz`; known are description, licence, tags, title, uses" in said


def test_an_unknown_key_in_a_list_has_its_place_in_it() -> None:
    said = faults("runs.demo.text.replace", [{"find": "a", "replacement": "b"}, {"find": "a", "with": "b", "replacement": "c"}])
    assert "runs.demo.text.replace.1.with: unknown key `with`; known are find, put, regex" in said


def test_an_unknown_key_of_a_column_is_named_with_those_that_are_known() -> None:
    said = faults("datasets.digits.columns.sentence", {"field": "digit", "value": {}})
    assert "unknown key `value`; did you mean `values`? known are field, values" in said


@pytest.mark.parametrize(
    "place",
    ["runs", "datasets.cv.licence", "datasets.digits.shards", "runs.demo.model", "runs.demo.plan.epochs",
     "runs.demo.evaluation.sets",
     "runs.demo.finetune.learning_rate", "runs.demo.card.uses"],
)  # fmt: skip
def test_a_key_that_is_needed_is_named(place: str) -> None:
    assert f"  {place}: this key is needed and absent" in faults(place, ABSENT)


def test_all_faults_are_told_at_once() -> None:
    raw = changed("runs.demo.devise", "gpu")
    raw["datasets"]["cv"]["resampler"] = "ffmpeg"
    with pytest.raises(SpeechmillError) as caught:
        load(raw)
    assert "devise" in str(caught.value)
    assert "datasets.cv.resampler: Input should be 'soxr', 'sox' or 'torchaudio' (found 'ffmpeg')" in str(caught.value)


@pytest.mark.parametrize(
    ("place", "value", "missing"),
    [
        ("runs.demo.train", ["cv-train", "cv-trian"], "cv-trian"),
        ("runs.demo.evaluation.sets", ["cv-dev", "cv-tset"], "cv-tset"),
    ],
)
def test_a_set_that_no_dataset_has_is_named_with_the_nearest(place: str, value: Any, missing: str) -> None:
    said = faults(place, value)
    assert f"{place} names {missing}, which no dataset has; did you mean `cv-" in said
    assert "known are cv-train, cv-dev, cv-test, digits-train, digits-test" in said


def test_a_dev_set_that_no_dataset_has_is_named() -> None:
    raw = changed("runs.demo.dev", "cv-valid")
    raw["runs"]["demo"]["evaluation"]["sets"] = ["cv-valid"]
    with pytest.raises(SpeechmillError, match=r"runs\.demo\.dev names cv-valid, which no dataset has"):
        load(raw)


@pytest.mark.parametrize("place", ["runs.demo.dev", "runs.demo.select.set"])
def test_the_set_that_selects_must_be_evaluated(place: str) -> None:
    said = faults(place, "cv-test")
    assert "runs.demo: `evaluation.sets` lacks cv-test, by which the checkpoint is selected" in said


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({}, "give one of `base`, `run` and `init`"),
        ({"base": "./folder", "init": {"model_type": "wav2vec2"}}, "give one of `base`, `run` and `init`"),
        ({"base": "facebook/wav2vec2-base"}, "pin `revision` for the Hub id facebook/wav2vec2-base"),
        ({"init": {"hidden_size": 8}}, "`init` needs a `model_type`"),
        ({"init": {"model_type": "wav2vec2"}, "config": {"layerdrop": 0.1}}, "`config` changes a base"),
        (
            {"init": {"model_type": "wav2vec2"}, "revision": "main"},
            "`revision` and `expected_bytes` belong to a `base`",
        ),
    ],
)
def test_a_model_that_starts_from_nothing_or_from_too_much_is_refused(model: dict[str, Any], said: str) -> None:
    assert f"runs.demo.model: {said}" in faults("runs.demo.model", model)


@pytest.mark.parametrize("base", ["/models/base", "./base", "../base", "~/base"])
def test_a_folder_needs_no_revision(base: str) -> None:
    assert ModelConfig(base=base).base_is_folder


def test_each_base_and_each_revision_of_it_has_a_folder_of_its_own() -> None:
    names = {
        ModelConfig(base=base, revision=revision).base_name
        for base, revision in [("a/b", "v1"), ("a/b", "v2"), ("a_b/c", "v1"), ("./a/b", None), ("/a/b", None)]
    }
    assert len(names) == 5
    assert all("/" not in name for name in names)


def test_the_source_decides_which_keys_a_dataset_has() -> None:
    config = load(RAW)
    assert isinstance(config.datasets["cv"], CommonVoice)
    assert isinstance(config.datasets["digits"], Folder)
    assert "datasets.cv.pattern: unknown key `pattern`" in faults("datasets.cv.pattern", "{a}.wav")


@pytest.mark.parametrize("source", ["commonvoice", ABSENT])
def test_a_source_that_is_not_there_is_said_with_those_that_are(source: object) -> None:
    said = faults("datasets.cv.source", source)
    assert "datasets.cv: " in said
    assert "source" in said
    assert source is ABSENT or ("'common_voice', 'zeroth', 'hub', 'folder'" in said and "commonvoice" in said)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("datasets.cv.shards", {"train": 1}, "`shards` must be one number, or name each of `splits`"),
        ("datasets.cv.shards", 0, "a split has at least one shard"),
        ("datasets.cv.splits", ["train", "dev", "test", "dev"], "a split is listed twice"),
        ("datasets.digits.manifest", "all.csv", "give either `manifest` or `pattern`"),
        ("datasets.digits.pattern", ABSENT, "give either `manifest` or `pattern`"),
        ("runs.demo.plan.batch", {}, "give either `seconds` or `clips`"),
        ("runs.demo.plan.batch", {"seconds": 4, "clips": 4}, "give either `seconds` or `clips`"),
        ("runs.demo.plan.batch", {"seconds": 4, "by_length": True}, "`by_length` belongs to `clips`"),
        ("runs.demo.plan.epochs", 0, "greater than 0 (found 0)"),
        ("runs.demo.plan.pool_clips", 0, "greater than 0 (found 0)"),
        ("runs.demo.gpus", 0, "greater than 0 (found 0)"),
        ("runs.demo.gpu_memory_gib", 0, "greater than 0 (found 0)"),
        ("runs.demo.checkpoints.best", 0, "greater than 0 (found 0)"),
        ("runs.demo.finetune.gradient_checkpointing", "often", "'auto' (found 'often')"),
        ("runs.demo.finetune.attention", "flash", "'sdpa' or 'eager' (found 'flash')"),
        ("runs.demo.train", [], "at least 1 item"),
        ("runs.demo.train", ["cv_train"], "match pattern"),
        ("datasets.c-v", RAW["datasets"]["cv"], "match pattern"),
        ("runs.demo.device", "tpu", "'gpu', 'cpu' or 'auto' (found 'tpu')"),
    ],
)
def test_a_value_that_cannot_be_is_told_with_its_place(place: str, value: Any, said: str) -> None:
    message = faults(place, value)
    assert said in message
    assert place.rsplit(".", 1)[0] in message


def test_shards_are_one_number_or_one_for_each_split() -> None:
    datasets = load(RAW).datasets
    assert [datasets["cv"].shard_count(split) for split in ("train", "dev", "test")] == [2, 2, 2]
    assert [datasets["digits"].shard_count(split) for split in ("train", "test")] == [2, 1]


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a.org/x",
        "x.tar.gz",
        "https://me:secret@a.org/x",
        "https://a.org/x?X-Amz-Signature=5",
        "https://a.org/x?token=5",
    ],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match=r"an address (begins with|must hold no)"):
        Download(urls=[url])


def test_an_address_may_have_a_query() -> None:
    assert Download(urls=["https://a.org/x.tar.gz?download=1"]).urls


def test_a_run_cannot_train_or_choose_on_an_optional_dataset() -> None:
    said = faults("datasets.cv.optional", True)
    assert "runs.demo.train names cv-train, which is optional: a run cannot go on without" in said


def test_a_run_that_starts_from_itself_or_from_none_is_refused() -> None:
    assert "runs.demo.model.run is demos, which is no run; did you mean `demo`?" in faults(
        "runs.demo.model", {"run": "demos"}
    )
    assert "runs.demo.model.run: demo starts from demo, in a circle" in faults("runs.demo.model", {"run": "demo"})


@pytest.mark.parametrize(
    ("dataset", "pinned"),
    [
        ({"source": "hub", "hub_id": "a/b", "revision": "main"}, False),
        ({"source": "hub", "hub_id": "a/b", "revision": "c" * 40}, True),
        ({"source": "hub", "path": "folder"}, True),
        ({"source": "zeroth", "path": "x.tar.gz"}, True),
        ({"source": "zeroth", "path": "x.tar.gz", "download": {"urls": ["https://a.org/x"]}}, False),
        ({"source": "zeroth", "path": "x.tar.gz", "download": {"urls": ["https://a.org/x"], "sha256": "5" * 64}}, True),
    ],
)
def test_what_is_fetched_without_a_digest_or_a_commit_may_be_another_thing_later(
    dataset: dict[str, Any], pinned: bool
) -> None:
    about = {"language": "ko", "name": "Made", "licence": "CC0-1.0", "splits": ["train"], "shards": 1}
    assert TypeAdapter(Dataset).validate_python(about | dataset).is_pinned is pinned


def test_a_set_is_its_name_or_a_section_with_it() -> None:
    sets = ["cv-dev", {"set": "cv-test", "protocols": ["plain", "robust_speech_event"], "chunk_seconds": 6}]
    evaluation = load(changed("runs.demo.evaluation.sets", sets)).runs["demo"].evaluation
    assert evaluation.set_names == ["cv-dev", "cv-test"]
    assert [each.protocols for each in evaluation.sets] == [["plain"], ["plain", "robust_speech_event"]]
    assert [each.stride for each in evaluation.sets] == [0, 1]
    assert evaluation.settings_of("cv-test-noisy") == evaluation.settings_of("cv-test") == evaluation.sets[1]


def test_the_language_model_has_its_defaults_where_a_decoder_needs_one() -> None:
    greedy, lm = (
        load(changed("runs.demo.evaluation.decoders", d)).runs["demo"] for d in (["greedy"], ["lm", "greedy"])
    )
    assert greedy.evaluation.language_model is None
    assert lm.evaluation.language_model == LmConfig()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("sets", ["cv-dev", "digits-test", "cv-dev"], "`sets` lists a set twice"),
        ("sets", ["cv-dev", {"set": "cv-test", "stride_seconds": 1}], "`stride_seconds` belongs to `chunk_seconds`"),
        (
            "sets",
            ["cv-dev", {"set": "cv-test", "chunk_seconds": 4, "stride_seconds": 2}],
            "twice `stride_seconds` must",
        ),
        ("sets", ["cv-dev", {"set": "cv-test", "protocols": ["plain", "plain"]}], "a protocol is listed twice"),
        ("sets", [{"set": "cv-dev", "checkpoints": "selected"}], "it needs `checkpoints: all`"),
        ("sets", ["cv-dev", {"set": "cv-tset"}], "runs.demo.evaluation.sets names cv-tset, which no dataset has"),
        ("decoders", ["greedy", "greedy"], "`decoders` lists a decoder twice"),
        ("decoders", ["lm"], "`evaluation.decoders` lacks greedy, by which the checkpoint is selected"),
        ("lm", {"order": 3}, "`lm` belongs to the decoder `lm`"),
        ("robustness", {"sets": ["cv-test"]}, "`robustness.sets` has cv-test, which `sets` lacks"),
    ],
)
def test_an_evaluation_that_contradicts_itself_is_refused(key: str, value: Any, said: str) -> None:
    assert said in faults(f"runs.demo.evaluation.{key}", value)


SCORED: dict[str, Any] = {
    "training": "none", "language": "ru", "model": {"base": "./theirs"}, "evaluation": {"sets": ["cv-test"]},
}  # fmt: skip


def test_a_run_that_only_evaluates_needs_a_model_and_sets() -> None:
    config = load(changed("runs.theirs", SCORED))
    assert not config.runs["theirs"].trains
    assert load(config.model_dump(mode="json")) == config
    tuned = {
        "dev": "cv-dev",
        "evaluation": {"sets": ["cv-test"], "decoders": ["lm"], "lm": {"text": "files", "files": ["t"]}},
    }
    assert load(changed("runs.theirs", SCORED | tuned)).runs["theirs"].dev == "cv-dev"
    assert load(changed("runs.theirs", SCORED | {"model": {"run": "demo"}})).runs["theirs"].model.run == "demo"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": ["cv-train"], "finetune": {"learning_rate": 1}}, "`train` and `finetune` are for training: leave"),
        ({"card": RAW["runs"]["demo"]["card"]}, "`card` is for training: leave that out"),
        ({"leakage": "remove"}, "`leakage` is for training"),
        ({"model": {"init": {"model_type": "wav2vec2"}}}, "a model is scored as it is: give `model.base`"),
        (
            {"model": {"base": "./theirs", "config": {"layerdrop": 0.1}}},
            "a model is scored as it is: give `model.base`",
        ),
        ({"evaluation": {"sets": [{"set": "cv-test", "checkpoints": "selected"}]}}, "leave `checkpoints` out"),
        ({"evaluation": {"sets": ["cv-test"], "decoders": ["lm"]}}, "the decoder `lm` needs `dev`"),
        ({"dev": "cv-dev", "evaluation": {"sets": ["cv-test"], "decoders": ["lm"]}}, "with `text: files`"),
    ],
)
def test_a_run_that_only_evaluates_says_nothing_of_training(change: dict[str, Any], said: str) -> None:
    assert said in faults("runs.theirs", SCORED | change)


@pytest.mark.parametrize("key", ["train", "dev", "plan", "finetune", "card"])
def test_what_training_needs_is_named(key: str) -> None:
    said = faults(f"runs.demo.{key}", ABSENT)
    assert f"runs.demo: `{key}` is needed and absent; with `training: none` a model is only scored" in said


def test_a_run_cannot_start_from_one_that_makes_no_model() -> None:
    raw = changed("runs.theirs", SCORED)
    raw["runs"]["demo"]["model"] = {"run": "theirs"}
    with pytest.raises(SpeechmillError, match=r"runs\.demo\.model\.run is theirs, which makes no model"):
        load(raw)
