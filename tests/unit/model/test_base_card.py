import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.utils import disable_progress_bars

from hub_client import connected
from hub_server import Hub, Repository, served
from material import as_json
from speechmill.config.model import ModelConfig
from speechmill.core.command import run_command
from speechmill.core.files import file_digest, read_json, write_plain_json
from speechmill.model.base_card import describe_base, main

COMMIT = "0" * 39 + "1"
FILES = {"config.json": b"{}", "model.safetensors": b"weights" * 1000}
# Source: the first lines of the card of facebook/wav2vec2-xls-r-1b.
XLS_R = b"""---
language:
- multilingual
- ab
datasets:
- common_voice
- multilingual_librispeech
tags:
- speech
license: apache-2.0
---

# Wav2Vec2-XLS-R-1B
"""


def front(text: str) -> bytes:
    return f"---\n{text}\n---\n\n# A card\n".encode()


def repository(card: bytes | None, **files: bytes) -> Repository:
    cards = {} if card is None else {"README.md": card}
    return Repository({COMMIT: FILES | cards | files}, {"main": COMMIT}, changed={"model.safetensors": "2021-11-18"})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A local Hub with the base `a/base`, whose card is that of XLS-R."""
    with connected(Hub({"a/base": repository(XLS_R)}), monkeypatch, tmp_path) as running:
        disable_progress_bars()
        yield running


def describe(base: str = "a/base") -> dict[str, Any]:
    source = {"commit": COMMIT, "sha256": dict.fromkeys(FILES, "5")}
    return describe_base(ModelConfig(base=base, revision="main"), source)


def folder_with(tmp_path: Path, card: bytes) -> str:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "README.md").write_bytes(card)
    return str(tmp_path / "base")


def problem(tmp_path: Path, card: bytes) -> str | None:
    """Why the card of a base in a folder says nothing."""
    (found,) = describe(folder_with(tmp_path, card))["cards"]
    assert found["datasets"] == []
    assert found["model"] == "base"
    return str(found["problem"])


def test_card_of_the_recorded_commit_is_read(hub: Hub) -> None:
    found = describe()
    (card,) = found["cards"]
    assert card["datasets"] == ["common_voice", "multilingual_librispeech"]
    assert (card["model"], card["commit"], card["problem"]) == ("a/base", COMMIT, None)
    assert found["weights_changed"] == "2021-11-18"
    # Only the card: not the weights, and nothing of the branch.
    assert not any("safetensors" in request or "main" in request for request in hub.requests)


def test_card_in_a_folder_is_read_without_a_hub(tmp_path: Path) -> None:
    base = folder_with(tmp_path, XLS_R)
    found = describe(base)
    assert found["cards"][0]["datasets"] == ["common_voice", "multilingual_librispeech"]
    assert found["cards"][0]["sha256"] == file_digest(tmp_path / "base" / "README.md")
    assert found["weights_changed"] is None
    assert str(tmp_path) not in str(found)


@pytest.mark.parametrize("list_of_bases", ["base_model: b/base", "base_model: [b/base, b/base]"])
def test_bases_of_a_base_are_read_once(hub: Hub, list_of_bases: str) -> None:
    hub.repositories["a/base"] = repository(front(f"datasets: own_data\n{list_of_bases}"))
    # Its own base is in a circle.
    hub.repositories["b/base"] = repository(front("datasets: [common_voice_8_0]\nbase_model: a/base"))
    cards = describe()["cards"]
    assert [(card["model"], card["datasets"]) for card in cards] == [
        ("a/base", ["own_data"]), ("b/base", ["common_voice_8_0"]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("base", "model", "why"),
    [
        ("b/lost", "b/lost", "is not on the Hub, or needs a login"),
        ("/home/somebody/xlsr", "xlsr", "is not on the Hub"),
    ],
)
def test_base_of_a_base_that_cannot_be_read_is_recorded(hub: Hub, base: str, model: str, why: str) -> None:
    hub.repositories["a/base"] = repository(front(f"datasets: [fleurs]\nbase_model: {base}"))
    assert describe()["cards"][1] == {
        "model": model, "commit": None, "sha256": None, "datasets": [], "problem": why
    }  # fmt: skip


def test_number_of_bases_is_limited(hub: Hub) -> None:
    hub.repositories["a/base"] = repository(front("base_model: [b/0, b/1, b/2, b/3, b/4, b/5, b/6, b/7]"))
    hub.repositories |= {f"b/{i}": repository(front("datasets: [fleurs]")) for i in range(8)}
    assert describe()["cards"][-1]["problem"] == "was not read: too many bases"


def test_model_without_a_card_is_recorded(hub: Hub) -> None:
    hub.repositories["a/base"] = repository(None)
    (card,) = describe()["cards"]
    assert card["problem"] == "does not exist"
    assert describe()["weights_changed"] == "2021-11-18"


@pytest.mark.parametrize(
    ("card", "why"),
    [
        (b"# No front matter\n", "has no front matter"),
        (b"", "has no front matter"),
        (b"---\n\n---\n# Empty\n", "has no front matter"),
        (front("datasets: [common_voice"), "has invalid front matter"),
        (front("- datasets"), "has invalid front matter"),
        (front("datasets: {name: fleurs}"), "has invalid front matter"),
        (front("datasets: [8, null]"), "has invalid front matter"),
        (front("datasets: !!python/object:os.system [x]"), "has invalid front matter"),
        (front("datasets: " + "[" * 5000), "has invalid front matter"),
        (b"---\ndatasets: [\xff\xfe]\n---\n", "has invalid front matter"),
        (front("datasets: [fleurs]") + b"#" * 1_000_000, "has 1,000,037 bytes and is not read, because it is larger"),
    ],
    ids=["none", "empty file", "empty", "YAML", "a list", "mapping", "values", "an object", "nested", "bytes", "huge"],
)
def test_card_that_cannot_be_used_is_recorded_with_the_reason(tmp_path: Path, card: bytes, why: str) -> None:
    assert str(problem(tmp_path, card)).startswith(why)


def test_huge_card_is_not_fetched(hub: Hub) -> None:
    hub.repositories["a/base"] = repository(XLS_R + b"#" * 1_000_000)
    (card,) = describe()["cards"]
    assert "is not read" in card["problem"]
    assert not any("resolve" in request for request in hub.requests)


def test_front_matter_without_data_is_no_problem(tmp_path: Path) -> None:
    (card,) = describe(folder_with(tmp_path, front("license: mit")))["cards"]
    assert (card["datasets"], card["problem"]) == ([], None)


def test_unreachable_hub_stops_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(Hub({})) as stopped:
        pass  # its port is closed again
    with connected(Hub({}), monkeypatch, tmp_path):
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", stopped.url)
        (card,) = describe()["cards"]
    assert card["problem"] == "could not be fetched (ConnectError)"
    assert "the card of a/base could not be fetched (ConnectError); give what you know" in capsys.readouterr().err


def test_card_in_the_cache_is_used_without_a_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = describe()["cards"]
    hub.failing = True
    assert describe()["cards"] == fetched


def test_stage_writes_its_record(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    write_plain_json({"commit": COMMIT, "sha256": {"model.safetensors": "5"}}, tmp_path / "source.json")
    settings = as_json({"base": "a/base", "revision": "main"})
    arguments = ["--settings", settings, "--source", tmp_path / "source.json", "--card", tmp_path / "card.json"]
    monkeypatch.setattr(sys, "argv", ["base_card", *map(str, arguments)])
    run_command(main)
    record = read_json(tmp_path / "card.json")
    assert {key: record[key] for key in ("cards", "weights_changed")} == describe()
