import copy
import datetime
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from material import ROOT
from speechmill.config.circles import find_circle
from speechmill.config.datasets import CommonVoice, Dataset, Download, Folder
from speechmill.config.lm import LmConfig
from speechmill.config.model import ModelConfig
from speechmill.config.root import Config, load
from speechmill.config.texts import TextSource
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


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return RAW with `value` at the key `path`, or without that key if `value` is ABSENT."""
    raw = copy.deepcopy(RAW)
    *parents, last = path.split(".")
    node: Any = raw
    for part in parents:
        node = node.setdefault(part, {})
    if value is ABSENT:
        del node[last]
    else:
        node[last] = value
    return raw


def error(path: str, value: Any) -> str:
    """Return the error message for RAW with `value` at the key `path`."""
    with pytest.raises(SpeechmillError) as caught:
        load(changed(path, value))
    return str(caught.value)


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_shipped_configurations_are_valid(file: Path) -> None:
    assert load(yaml.safe_load(file.read_text())).runs


def test_defaults_are_set_and_config_is_immutable() -> None:
    config = load(RAW)
    run = config.runs["demo"]
    assert (run.device, run.text.case, run.select_set, run.finetune.precision) == ("gpu", "lower", "cv-dev", "bf16")
    with pytest.raises(ValueError, match="frozen"):
        run.device = "cpu"  # type: ignore[misc]


def test_dumped_config_loads_again() -> None:
    config = load(RAW)
    assert load(config.model_dump(mode="json")) == config
    assert isinstance(config, Config)


@pytest.mark.parametrize(
    ("path", "key", "nearest"),
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
def test_unknown_key_suggests_the_nearest_key(path: str, key: str, nearest: str) -> None:
    message = error(path, 1)
    assert f"  {path}: unknown key `{key}`; did you mean `{nearest}`? known keys are " in message


def test_unknown_key_lists_the_known_keys() -> None:
    message = error("runs.demo.card.zzz", 1)
    assert "runs.demo.card.zzz: unknown key `zzz`; known keys are description, licence, tags, title, uses" in message


def test_unknown_key_in_a_list_has_its_index() -> None:
    rules = [{"find": "a", "replacement": "b"}, {"find": "a", "with": "b", "replacement": "c"}]
    message = error("runs.demo.text.replace", rules)
    assert "runs.demo.text.replace.1.with: unknown key `with`; known keys are find, regex, replacement" in message


def test_unknown_key_of_a_column_lists_the_known_keys() -> None:
    message = error("datasets.digits.columns.sentence", {"field": "digit", "value": {}})
    assert "unknown key `value`; did you mean `values`? known keys are field, values" in message


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("runs.demo.text.look_alikes", "map_confusables"),
        ("runs.demo.text.replace.0.put", "replacement"),
        ("runs.demo.augment.room.seconds", "rt60_seconds"),
        ("runs.demo.checkpoints.probe_clips", "dev_clips"),
        ("runs.demo.reference_card", "published"),
        ("datasets.digits.split.otherwise", "default"),
        ("datasets.hub.published_splits", "source_splits"),
    ],
)
def test_renamed_key_is_reported_with_its_new_name(old: str, new: str) -> None:
    raw = copy.deepcopy(RAW)
    raw["datasets"]["hub"] = {"source": "hub", "path": "folder", "language": "ru", "name": "Hub", "licence": "MIT",
                              "splits": ["train"], "shards": 1}  # fmt: skip
    raw["runs"]["demo"] |= {"text": {"replace": [{"find": "a", "replacement": "b"}]},
                            "augment": {"room": {"probability": 1}}, "checkpoints": {}}  # fmt: skip
    *parents, key = old.split(".")
    section: Any = raw
    for part in parents:
        section = section[int(part) if part.isdigit() else part]
    load(raw)
    section[key] = section.pop(new, 1)
    with pytest.raises(SpeechmillError) as caught:
        load(raw)
    assert f"  {old}: unknown key `{key}`; it is called `{new}` now" in str(caught.value).splitlines()


def test_key_renamed_in_another_section_is_just_unknown() -> None:
    assert "runs.demo.clips.seconds: unknown key `seconds`; did you mean" in error("runs.demo.clips.seconds", 1)


def with_peer(compare: list[str], **changed: Any) -> dict[str, Any]:
    """Return RAW with a run `whisper` that only scores, changed, and runs that the run `demo` is compared with."""
    raw = copy.deepcopy(RAW)
    raw["runs"]["demo"]["evaluation"]["compare"] = compare
    raw["runs"]["whisper"] = {
        "training": "none", "language": "ru", "model": {"base": "openai/whisper-large-v3", "revision": "main"},
        "evaluation": {"sets": ["cv-dev"]},
    } | changed  # fmt: skip
    return raw


@pytest.mark.parametrize(
    ("compare", "changed", "message"),
    [
        (["demo"], {}, "it lists the run itself; remove demo"),
        (["whispr"], {}, "there is no run whispr; did you mean `whisper`? known runs are demo, whisper"),
        (["whisper", "whisper"], {}, "`compare` lists a run twice"),
        (
            ["whisper"],
            {"evaluation": {"sets": ["cv-test"]}},
            "whisper scores none of the same sets, which are cv-dev, digits-test",
        ),
        (
            ["whisper"],
            {"text": {"case": "keep", "drop": "!"}},
            "whisper has other text rules, `text.case`, `text.drop`, so that its references are others",
        ),
        (
            ["whisper"],
            {"evaluation": {"sets": [{"set": "cv-dev", "protocols": ["robust_speech_event", "plain"]}]}},
            "whisper scores cv-dev by the protocol robust_speech_event, and this run by plain",
        ),
        (
            [],
            {"evaluation": {"sets": ["cv-dev"], "compare": ["demo"]}},
            "`evaluation.compare` is for the card, and a run with `training: none` has none",
        ),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(compare: list[str], changed: dict[str, Any], message: str) -> None:
    with pytest.raises(SpeechmillError) as caught:
        load(with_peer(compare, **changed))
    assert message in str(caught.value)


def test_runs_may_compare_with_each_other() -> None:
    raw = with_peer(["whisper", "second"])
    raw["runs"]["second"] = copy.deepcopy(raw["runs"]["demo"])
    raw["runs"]["second"]["evaluation"]["compare"] = ["demo"]
    # Other units of the model change no reference.
    raw["runs"]["second"]["text"] = {"units": "jamo"}
    assert load(raw).runs["second"].evaluation.compare == ["demo"]


@pytest.mark.parametrize(("peers", "recipe"), [("ru_peers", "ru_common_voice_8"), ("ko_peers", "ko_zeroth")])
def test_peers_are_beside_the_run_of_its_own_recipe(peers: str, recipe: str) -> None:
    beside, alone = (
        load(yaml.safe_load((ROOT / f"config/recipes/{name}.yaml").read_text(encoding="utf-8")))
        for name in (peers, recipe)
    )
    run = beside.runs[recipe]
    assert set(run.evaluation.compare) == set(beside.runs) - {recipe}
    evaluation = run.evaluation.model_copy(update={"compare": []})
    published = alone.runs[recipe].published
    assert run.model_copy(update={"evaluation": evaluation, "published": published}) == alone.runs[recipe]
    assert beside.datasets == alone.datasets


@pytest.mark.parametrize("through_a_run", [False, True])
def test_random_weights_are_checked_with_the_configuration(through_a_run: bool) -> None:
    raw = copy.deepcopy(RAW)
    raw["runs"]["demo"]["model"] = {"init": {"model_type": "wav2vec2"}}
    if through_a_run:
        raw["runs"]["next"] = raw["runs"]["demo"] | {"model": {"run": "demo"}}
    name = "next" if through_a_run else "demo"
    raw["runs"][name] = copy.deepcopy(raw["runs"][name])
    raw["runs"][name]["finetune"]["train_only_adapters"] = True
    with pytest.raises(
        SpeechmillError, match=rf"runs\.{name}\.finetune\.train_only_adapters: the model has no adapters"
    ):
        load(raw)


@pytest.mark.parametrize("section", ["runs", "datasets", "speak", "datasets.cv.drawn"])
def test_long_names_are_refused(section: str) -> None:
    named = {"runs": RAW["runs"]["demo"], "datasets": RAW["datasets"]["cv"], "datasets.cv.drawn": {"of": "train"}}
    message = error(f"{section}.{'a' * 51}", named.get(section, {}))
    assert f"{section}.{'a' * 51}.[key]: String should have at most 50 characters" in message


@pytest.mark.parametrize("split", ["cv-" + "a" * 51, "a" * 51 + "-dev"])
def test_a_set_with_a_long_name_does_not_exist(split: str) -> None:
    assert "no dataset has the set" in error("runs.demo.evaluation.sets", ["cv-dev", split])


def test_paths_with_the_longest_names_fit_into_a_file_system() -> None:
    longest = dict.fromkeys(
        ("run", "dataset", "of", "split", "effect", "corpus", "text", "teacher", "owner", "other"), "n" * 50
    )
    longest |= {"set_name": "-".join(["n" * 50] * 3), "role": "-".join(["n" * 50] * 2), "step": "9" * 10}
    longest |= {"outputs": "ctc_outputs", "decoder": "greedy", "number": "00000", "file": "tokenizer_config.json"}
    longest["model"] = longest["name"] = ModelConfig(run="n" * 50).base_name
    rules = "".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    patterns = re.findall(r'"((?:results|logs|work)/[^"]+)"', rules.replace("{{", "{").replace("}}", "}"))
    assert len(patterns) > 100
    for pattern in patterns:
        for part in pattern.format_map(longest).split("/"):
            # While a file is written, the id of a process is part of its name.
            assert len(f".{part}.{2**22}.part") <= 255


def test_digits_can_be_spelled_in_the_languages_of_num2words() -> None:
    for language in ("keep", "ru", "ko", "en", "de", "kz"):
        assert load(changed("runs.demo.text.digits", language)).runs["demo"].text.digits == language
    message = error("runs.demo.text.digits", "kk")
    assert (
        "runs.demo.text.digits: numbers cannot be spelled out in this language; use `keep` or one of ar, az" in message
    )
    assert "(found 'kk')" in message


@pytest.mark.parametrize(
    "path",
    ["runs", "datasets.cv.licence", "datasets.digits.shards", "runs.demo.model", "runs.demo.plan.epochs",
     "runs.demo.evaluation.sets",
     "runs.demo.finetune.learning_rate", "runs.demo.card.uses"],
)  # fmt: skip
def test_missing_key_is_named(path: str) -> None:
    assert f"  {path}: this key is required" in error(path, ABSENT)


def test_all_errors_are_reported_together() -> None:
    raw = changed("runs.demo.devise", "gpu")
    raw["datasets"]["cv"]["resampler"] = "ffmpeg"
    with pytest.raises(SpeechmillError) as caught:
        load(raw)
    assert "devise" in str(caught.value)
    assert "datasets.cv.resampler: Input should be 'soxr', 'sox' or 'torchaudio' (found 'ffmpeg')" in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "missing"),
    [
        ("runs.demo.train", ["cv-train", "cv-trian"], "cv-trian"),
        ("runs.demo.evaluation.sets", ["cv-dev", "cv-tset"], "cv-tset"),
    ],
)
def test_unknown_set_suggests_the_nearest_set(path: str, value: Any, missing: str) -> None:
    message = error(path, value)
    assert f"{path}: no dataset has the set {missing}; did you mean `cv-" in message
    assert "known sets are cv-train, cv-dev, cv-test, digits-train, digits-test" in message


@pytest.mark.parametrize(
    ("mixing", "expected"),
    [
        ({"weights": {"cv_": 2}}, "`train` has no dataset cv_; did you mean `cv`? it has cv"),
        ({"weights": {"digits": 2}}, "`train` has no dataset digits; it has cv"),
        ({"by": "language", "weights": {"cv": 2}}, "`train` has no language cv; it has ru"),
    ],
)
def test_weight_of_an_unknown_group_lists_the_known(mixing: dict[str, Any], expected: str) -> None:
    assert f"runs.demo.mixing.weights: {expected}" in error("runs.demo.mixing", mixing)


def test_unknown_dev_set_is_named() -> None:
    raw = changed("runs.demo.dev", "cv-valid")
    raw["runs"]["demo"]["evaluation"]["sets"] = ["cv-valid"]
    with pytest.raises(SpeechmillError, match=r"runs\.demo\.dev: no dataset has the set cv-valid"):
        load(raw)


@pytest.mark.parametrize("path", ["runs.demo.dev", "runs.demo.select.set"])
def test_selection_set_must_be_evaluated(path: str) -> None:
    message = error(path, "cv-test")
    assert "runs.demo: `evaluation.sets` lacks cv-test, which the checkpoint is selected on" in message


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({}, "give exactly one of `base`, `run` and `init`"),
        ({"base": "./folder", "init": {"model_type": "wav2vec2"}}, "give exactly one of `base`, `run` and `init`"),
        ({"base": "facebook/wav2vec2-base"}, "add a `revision` for the Hub id facebook/wav2vec2-base"),
        ({"init": {"hidden_size": 8}}, "`init` needs a `model_type`"),
        (
            {"init": {"model_type": "wav2vec2"}, "config": {"layerdrop": 0.1}},
            "`config` overrides settings of a base model",
        ),
        (
            {"init": {"model_type": "wav2vec2"}, "revision": "main"},
            "`revision` and `expected_bytes` need a `base`",
        ),
        ({"init": {"model_type": "wav2vec2"}, "target_lang": "tur"}, "`target_lang` needs a `base`"),
        (
            {"init": {"model_type": "wav2vec2"}, "trained_on": [{"name": "c"}]},
            "`trained_on` and `released` need a `base`",
        ),
        ({"init": {"model_type": "wav2vec2"}, "released": "2021-11-18"}, "`trained_on` and `released` need a `base`"),
    ],
)
def test_contradictory_model_section_is_refused(model: dict[str, Any], expected: str) -> None:
    assert f"runs.demo.model: {expected}" in error("runs.demo.model", model)


@pytest.mark.parametrize("day", ["2022-01-19", datetime.date(2022, 1, 19)])
def test_date_of_release_is_a_day(day: Any) -> None:
    assert load(changed("datasets.cv.released", day)).datasets["cv"].released == datetime.date(2022, 1, 19)


@pytest.mark.parametrize("day", [2022, "2022", "2022-01", "19.01.2022", datetime.datetime(2022, 1, 19), 20220119])
def test_date_of_release_without_a_day_is_refused(day: Any) -> None:
    assert "write year, month and day, such as 2022-01-19" in error("datasets.cv.released", day)


@pytest.mark.parametrize("base", ["/models/base", "./base", "../base", "~/base"])
def test_base_folder_needs_no_revision(base: str) -> None:
    assert ModelConfig(base=base).base_is_folder


def test_every_base_and_revision_has_its_own_folder() -> None:
    names = {
        ModelConfig(base=base, revision=revision).base_name
        for base, revision in [("a/b", "v1"), ("a/b", "v2"), ("a_b/c", "v1"), ("./a/b", None), ("/a/b", None)]
    }
    names |= {ModelConfig(base="a/b", revision="v1", target_lang=each).base_name for each in ("tur", "deu")}
    assert len(names) == 7
    assert all("/" not in name for name in names)


@pytest.mark.parametrize("base", ["results/runs/demo/model", "models", "https://huggingface.co/a/b", "C:\\models"])
def test_base_is_a_hub_id_or_a_folder(base: str) -> None:
    message = error("runs.demo.model", {"base": base, "revision": "main"})
    assert "runs.demo.model.base: this is no id of the Hugging Face Hub" in message
    assert "a local folder starts with `/`, `./`, `../` or `~`" in message


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("runs.demo.language", "zh-CN", "write `zh`; a locale of Common Voice belongs into `datasets.*.language`"),
        ("runs.demo.language", False, 'YAML reads `no` as false: write "no", in quotes'),
        ("runs.demo.card.licence", "LicenseRef-private", "write `other` for a licence that it does not know"),
        ("datasets.cv.hub_id", "common_voice", "has the form `owner/name`"),
        ("datasets.cv.hub_id", "/data/cv", "has the form `owner/name`"),
    ],
)
def test_front_matter_is_checked_at_once(key: str, value: object, expected: str) -> None:
    message = error(key, value)
    assert f"  {key}: " in message
    assert expected in message


def test_locales_of_common_voice_are_fine_in_a_dataset() -> None:
    assert load(changed("datasets.cv.language", "sv-SE")).datasets["cv"].language == "sv-SE"


def test_source_decides_which_keys_a_dataset_has() -> None:
    config = load(RAW)
    assert isinstance(config.datasets["cv"], CommonVoice)
    assert isinstance(config.datasets["digits"], Folder)
    assert "datasets.cv.pattern: unknown key `pattern`" in error("datasets.cv.pattern", "{a}.wav")


@pytest.mark.parametrize("source", ["commonvoice", ABSENT])
def test_unknown_source_lists_the_known_sources(source: object) -> None:
    message = error("datasets.cv.source", source)
    assert "datasets.cv: " in message
    assert "source" in message
    assert source is ABSENT or ("'common_voice', 'zeroth', 'hub', 'folder'" in message and "commonvoice" in message)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (
            "datasets.cv.shards",
            {"train": 1},
            "`shards` must be one number, or a mapping with exactly the",
        ),
        ("datasets.cv.shards", 0, "`shards` must be at least 1"),
        ("datasets.cv.splits", ["train", "dev", "test", "dev"], "`splits` lists a split twice"),
        ("datasets.digits.manifest", "all.csv", "give either `manifest` or `pattern`, or `annotations`"),
        ("datasets.digits.pattern", ABSENT, "give either `manifest` or `pattern`, or `annotations`"),
        (
            "datasets.digits.annotations",
            {"ending": ".srt", "tiers": ["a"]},
            "`tiers` needs the format elan or textgrid",
        ),
        (
            "datasets.digits.annotations",
            {"ending": ".TextGrid", "linguistic_types": ["a"]},
            "`linguistic_types` needs the format elan, not textgrid",
        ),
        (
            "datasets.digits.columns",
            {"sentence": None},
            "runs.demo.evaluation.sets: the recordings of digits have no text, because datasets.digits.columns.sentence"
            " is null; use a dataset with `source: transcribe` and `of: digits`",
        ),
        ("runs.demo.plan.batch", {}, "give either `seconds` or `clips`"),
        ("runs.demo.plan.batch", {"seconds": 4, "clips": 4}, "give either `seconds` or `clips`"),
        ("runs.demo.plan.batch", {"seconds": 4, "by_length": True}, "`by_length` needs `clips`"),
        ("runs.demo.mixing", {}, "give either `weights` or `temperature`"),
        ("runs.demo.mixing", {"weights": {"cv": 2}, "temperature": 2}, "give either `weights` or `temperature`"),
        ("runs.demo.mixing", {"by": "speaker", "weights": {"a": 2}}, "`by: speaker` needs `temperature`"),
        ("runs.demo.mixing.weights", {"cv": 0}, "the weight of cv is 0: to leave it out, remove it from `train`"),
        ("runs.demo.mixing.weights", {"cv": -1}, "the weight of cv is -1, but must be positive"),
        ("runs.demo.mixing.temperature", 0.5, "greater than or equal to 1 (found 0.5)"),
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
        ("runs.demo.export", ["fp32", "fp32"], "`export` lists a precision twice"),
        ("runs.demo.export", ["fp16"], "'fp32' or 'int8' (found 'fp16')"),
    ],
)
def test_invalid_value_is_reported_with_its_key(path: str, value: Any, expected: str) -> None:
    message = error(path, value)
    assert expected in message
    assert path.rsplit(".", 1)[0] in message


@pytest.mark.parametrize(
    ("finetune", "expected"),
    [
        ({"lora": {}, "train_only_adapters": True}, "two ways to train few weights; choose one of them"),
        ({"lora": {}, "freeze_feature_encoder": False}, "remove `freeze_feature_encoder: false`, or remove `lora`"),
        ({"lora": {"rank": 0}}, "runs.demo.finetune.lora.rank: Input should be greater than 0"),
        ({"lora": {"targets": []}}, "runs.demo.finetune.lora.targets: List should have at least 1 item"),
        ({"head_learning_rate": 0}, "runs.demo.finetune.head_learning_rate: Input should be greater than 0"),
    ],
)
def test_settings_of_cheaper_training_are_checked(finetune: dict[str, Any], expected: str) -> None:
    assert expected in error("runs.demo.finetune", {"learning_rate": 0.001} | finetune)


def test_optimizer_in_8_bits_on_a_cpu_is_refused() -> None:
    raw = changed("runs.demo.finetune.optimizer", "adamw_8bit")
    assert load(raw).runs["demo"].device == "gpu"
    raw["runs"]["demo"]["device"] = "cpu"
    with pytest.raises(SpeechmillError, match="optimizer: adamw_8bit` needs a CUDA GPU"):
        load(raw)


def test_draws_from_one_split_must_agree() -> None:
    def drawn(**rules: dict[str, Any]) -> dict[str, Any]:
        return changed("datasets.cv.drawn", {name: {"of": "train"} | rule for name, rule in rules.items()})

    load(drawn(one={"share": 0.3, "seed": 2}, two={"share": 0.3, "seed": 2}, three={"share": 0.3, "seed": 2}))
    # Different splits are drawn from independently.
    load(drawn(one={"share": 0.6}, two={"share": 0.6, "of": "dev", "by": "sentence", "seed": 1}))
    for first, second, expected in (
        ({"share": 0.3}, {"share": 0.3, "by": "sentence"}, "`drawn.two.by` is sentence, but `drawn.one.by` is speaker"),
        ({"share": 0.3, "seed": 5}, {"share": 0.3}, "`drawn.two.seed` is 0, but `drawn.one.seed` is 5"),
        ({"share": 0.5}, {"share": 0.5}, "(`drawn.one.share` 0.5, `drawn.two.share` 0.5) sum to 1"),
        ({"share": 0.7}, {"share": 0.4}, "sum to 1.1, which must be less than 1: lower them"),
    ):
        with pytest.raises(SpeechmillError) as caught:
            load(drawn(one=first, two=second))
        assert expected in str(caught.value)
        assert "drawn from" in str(caught.value)
        assert "train" in str(caught.value)
    # As floats, these sum to less than 1.
    with pytest.raises(SpeechmillError, match="sum to 1"):
        load(drawn(one={"share": 0.7}, two={"share": 0.2}, three={"share": 0.1}))


def test_shards_are_one_number_or_one_per_split() -> None:
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
def test_invalid_url_or_url_with_a_secret_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match=r"a URL must (start with|not contain)"):
        Download(urls=[url])
    with pytest.raises(ValidationError, match=r"a URL must (start with|not contain)"):
        TextSource(name="Books", licence="CC0-1.0", urls=[url])


def test_url_may_have_a_query() -> None:
    assert Download(urls=["https://a.org/x.tar.gz?download=1"]).urls


def test_optional_dataset_cannot_be_trained_on() -> None:
    message = error("datasets.cv.optional", True)
    assert "runs.demo.train: cv-train belongs to an optional dataset" in message


def test_circular_or_unknown_base_run_is_refused() -> None:
    assert "runs.demo.model.run: there is no run demos; did you mean `demo`?" in error(
        "runs.demo.model", {"run": "demos"}
    )
    assert "runs.demo.model.run: circular, demo starts from demo" in error("runs.demo.model", {"run": "demo"})


@pytest.mark.parametrize(
    ("parts", "circle"),
    [
        ({"a": ["b", "c"], "b": ["c"], "c": []}, None),
        ({"a": ["a"]}, ["a", "a"]),
        ({"a": ["b"], "b": ["c", "d"], "c": [], "d": ["b"]}, ["b", "d", "b"]),
    ],
)
def test_circle_is_found_where_a_part_leads_back(parts: dict[str, list[str]], circle: list[str] | None) -> None:
    assert find_circle("a", parts.__getitem__) == circle


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
def test_download_is_pinned_by_digest_or_commit(dataset: dict[str, Any], pinned: bool) -> None:
    section = {"language": "ko", "name": "Corpus", "licence": "CC0-1.0", "splits": ["train"], "shards": 1}
    assert TypeAdapter(Dataset).validate_python(section | dataset).is_pinned is pinned


def test_set_is_a_name_or_a_section() -> None:
    sets = ["cv-dev", {"set": "cv-test", "protocols": ["plain", "robust_speech_event"], "chunk_seconds": 6}]
    evaluation = load(changed("runs.demo.evaluation.sets", sets)).runs["demo"].evaluation
    assert evaluation.set_names == ["cv-dev", "cv-test"]
    assert [each.protocols for each in evaluation.sets] == [["plain"], ["plain", "robust_speech_event"]]
    assert [each.stride for each in evaluation.sets] == [0, 1]
    assert evaluation.set_config("cv-test-noisy") == evaluation.set_config("cv-test") == evaluation.sets[1]


def test_exports_need_greedy_hypotheses_to_compare() -> None:
    run = RAW["runs"]["demo"]
    assert load(changed("runs.demo.export", ["int8"])).runs["demo"].export == ["int8"]
    evaluation = {**run["evaluation"], "decoders": ["lm"]}
    with pytest.raises(SpeechmillError, match=r"add greedy to `evaluation.decoders`, or remove `export`"):
        load(changed("runs.demo", {**run, "export": ["int8"], "evaluation": evaluation, "select": {"decoder": "lm"}}))


def test_export_of_an_architecture_without_one_is_refused() -> None:
    run = {**RAW["runs"]["demo"], "export": ["int8"], "model": {"init": {"model_type": "granite_speech5_ctc"}}}
    with pytest.raises(SpeechmillError, match=r"runs\.demo\.export: granite_speech5_ctc has operations"):
        load(changed("runs.demo", run))


def test_language_model_defaults_for_the_lm_decoder() -> None:
    greedy, lm = (
        load(changed("runs.demo.evaluation.decoders", d)).runs["demo"] for d in (["greedy"], ["lm", "greedy"])
    )
    assert greedy.evaluation.language_model is None
    assert lm.evaluation.language_model == LmConfig()


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("sets", ["cv-dev", "digits-test", "cv-dev"], "`sets` lists a set twice"),
        ("sets", ["cv-dev", {"set": "cv-test", "stride_seconds": 1}], "`stride_seconds` needs `chunk_seconds`"),
        (
            "sets",
            ["cv-dev", {"set": "cv-test", "chunk_seconds": 4, "stride_seconds": 2}],
            "`stride_seconds` must be less than half",
        ),
        ("sets", ["cv-dev", {"set": "cv-test", "protocols": ["plain", "plain"]}], "`protocols` lists a protocol twice"),
        ("sets", [{"set": "cv-dev", "checkpoints": "selected"}], "set `checkpoints: all` for it"),
        ("sets", ["cv-dev", {"set": "cv-tset"}], "runs.demo.evaluation.sets: no dataset has the set cv-tset"),
        ("decoders", ["greedy", "greedy"], "`decoders` lists a decoder twice"),
        ("decoders", ["lm"], "`evaluation.decoders` lacks greedy, the decoder to select by"),
        ("lm", {"order": 3}, "the section `lm` needs the decoder `lm`"),
        ("robustness", {"sets": ["cv-test"]}, "`robustness.sets` has cv-test, which is not in `sets`"),
    ],
)
def test_contradictory_evaluation_is_refused(key: str, value: Any, expected: str) -> None:
    assert expected in error(f"runs.demo.evaluation.{key}", value)


WITHOUT_TRAINING: dict[str, Any] = {
    "training": "none", "language": "ru", "model": {"base": "./existing"}, "evaluation": {"sets": ["cv-test"]},
}  # fmt: skip


def test_run_without_training_needs_model_and_sets() -> None:
    config = load(changed("runs.existing", WITHOUT_TRAINING))
    assert not config.runs["existing"].trains
    assert load(config.model_dump(mode="json")) == config
    tuned = {
        "dev": "cv-dev",
        "evaluation": {"sets": ["cv-test"], "decoders": ["lm"], "lm": {"text": "files", "files": ["t"]}},
    }
    assert load(changed("runs.existing", WITHOUT_TRAINING | tuned)).runs["existing"].dev == "cv-dev"
    assert (
        load(changed("runs.existing", WITHOUT_TRAINING | {"model": {"run": "demo"}})).runs["existing"].model.run
        == "demo"
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"train": ["cv-train"], "finetune": {"learning_rate": 1}},
            "`train` and `finetune` are only for training",
        ),
        ({"card": RAW["runs"]["demo"]["card"]}, "`card` is only for training: remove"),
        ({"leakage": "remove"}, "`leakage` is only for training"),
        ({"model": {"init": {"model_type": "wav2vec2"}}}, "the model is scored unchanged: give `model.base`"),
        (
            {"model": {"base": "./existing", "config": {"layerdrop": 0.1}}},
            "the model is scored unchanged: give `model.base`",
        ),
        ({"evaluation": {"sets": [{"set": "cv-test", "checkpoints": "selected"}]}}, "remove `checkpoints`"),
        ({"evaluation": {"sets": ["cv-test"], "decoders": ["lm"]}}, "the decoder `lm` needs `dev`"),
        ({"dev": "cv-dev", "evaluation": {"sets": ["cv-test"], "decoders": ["lm"]}}, "with `text: files`"),
    ],
)
def test_run_without_training_refuses_training_keys(change: dict[str, Any], expected: str) -> None:
    assert expected in error("runs.existing", WITHOUT_TRAINING | change)


@pytest.mark.parametrize("key", ["train", "dev", "plan", "finetune", "card"])
def test_missing_key_for_training_is_named(key: str) -> None:
    message = error(f"runs.demo.{key}", ABSENT)
    assert f"runs.demo: `{key}` is required for training; to only score a model, set `training: none`" in message


def test_base_run_must_train_a_model() -> None:
    raw = changed("runs.existing", WITHOUT_TRAINING)
    raw["runs"]["demo"]["model"] = {"run": "existing"}
    with pytest.raises(SpeechmillError, match=r"runs\.demo\.model\.run: the run existing trains no model"):
        load(raw)


def test_vocabulary_is_kept_only_of_a_base() -> None:
    assert "`vocab: keep` keeps the vocabulary of a base: give `model.base`" in error("runs.demo.vocab", "keep")


@pytest.mark.parametrize("size", [3, -1, "many"])
def test_size_of_a_vocabulary_is_checked(size: Any) -> None:
    assert "vocab" in error("runs.demo.vocab", {"sentencepiece": {"size": size}})


def test_clusters_need_a_vocabulary_of_characters() -> None:
    raw = changed("runs.demo.vocab", {"sentencepiece": {"size": 50}})
    raw["runs"]["demo"]["text"] = {"clusters": ["ch"]}
    with pytest.raises(SpeechmillError, match=r"`text.clusters` adds tokens to a vocabulary of characters"):
        load(raw)
