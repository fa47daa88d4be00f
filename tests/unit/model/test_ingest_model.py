import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_server import Hub, Repository, served
from material import as_json, run_stage
from speechmill.config.model import ModelConfig
from speechmill.core.command import SpeechmillError
from speechmill.core.tables import read_json
from speechmill.model.ingest_model import fetch, take

OLD, NEW = "0" * 39 + "1", "0" * 39 + "2"
FILES = {
    "config.json": b'{"model_type": "wav2vec2"}',
    "model.safetensors": b"weights" * 1000,
    "preprocessor_config.json": b"{}",
    "vocab.txt": "а\nб".encode(),
    "README.md": b"# Card",
    "flax_model.msgpack": b"another framework",
    ".gitattributes": b"",
}
WANTED = ["config.json", "model.safetensors", "preprocessor_config.json", "vocab.txt"]


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A Hub with one model, of which the branch main is at NEW and the tag v1 at OLD."""
    repository = Repository(
        commits={OLD: FILES | {"model.safetensors": b"earlier weights"}, NEW: FILES},
        branches={"main": NEW, "v1": OLD},
    )
    with served(Hub({"somebody/wav2vec2-tiny": repository})) as running:
        yield running


def ingest(tmp_path: Path, hub: Hub, base: str, revision: str) -> subprocess.CompletedProcess[str]:
    """Run the stage with its own cache, against `hub`."""
    return run_stage(
        "model.ingest_model", "--settings", as_json({"base": base, "revision": revision}), "--folder", tmp_path / "model",
        "--source", tmp_path / "model.json",
        env={
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
        },
    )  # fmt: skip


@pytest.mark.parametrize(("revision", "commit"), [("main", NEW), (OLD, OLD)], ids=["branch", "commit"])
def test_a_revision_is_resolved_to_a_commit_which_is_recorded(
    tmp_path: Path, hub: Hub, revision: str, commit: str
) -> None:
    done = ingest(tmp_path, hub, "somebody/wav2vec2-tiny", revision)
    assert done.returncode == 0, done.stderr
    files = hub.repositories["somebody/wav2vec2-tiny"].commits[commit]
    model = tmp_path / "model"
    assert {path.name: path.read_bytes() for path in model.iterdir()} == {name: files[name] for name in WANTED}
    # Nor is anything else fetched to be thrown away: other frameworks' weights are as large as these.
    assert not any("msgpack" in request or "README" in request for request in hub.asked)
    assert not any(path.is_symlink() for path in model.iterdir())  # the cache may be cleared
    assert read_json(tmp_path / "model.json") == {
        "base": "somebody/wav2vec2-tiny",
        "revision": revision,
        "commit": commit,
        "sha256": {name: hashlib.sha256(files[name]).hexdigest() for name in WANTED},
    }


def test_a_branch_that_moved_is_resolved_anew_though_the_cache_has_the_earlier_commit(tmp_path: Path, hub: Hub) -> None:
    repository = hub.repositories["somebody/wav2vec2-tiny"]
    repository.branches = {"main": OLD}
    assert ingest(tmp_path, hub, "somebody/wav2vec2-tiny", "main").returncode == 0
    repository.branches = {"main": NEW}
    assert ingest(tmp_path, hub, "somebody/wav2vec2-tiny", "main").returncode == 0
    assert read_json(tmp_path / "model.json")["commit"] == NEW
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == FILES["model.safetensors"]


@pytest.mark.parametrize("revision", ["v9", "f" * 40])
def test_a_revision_that_is_not_there_is_named(tmp_path: Path, hub: Hub, revision: str) -> None:
    done = ingest(tmp_path, hub, "somebody/wav2vec2-tiny", revision)
    assert done.returncode == 1
    assert done.stderr == f"error: model.revision: somebody/wav2vec2-tiny has no revision {revision}\n"
    assert not (tmp_path / "model").exists()


def test_a_model_that_is_not_there_is_named(tmp_path: Path, hub: Hub) -> None:
    done = ingest(tmp_path, hub, "somebody/lost", "main")
    assert done.returncode == 1
    assert done.stderr == (
        "error: model.base: the Hub has no model somebody/lost, or shows it only to those who are logged in:"
        " set HF_TOKEN\n"
    )


def test_a_hub_that_does_not_answer_is_said(tmp_path: Path) -> None:
    with served(Hub({})) as gone:
        pass  # its port is closed again
    done = ingest(tmp_path, gone, "somebody/wav2vec2-tiny", "main")
    assert done.returncode == 1
    assert "error: model.base: somebody/wav2vec2-tiny cannot be fetched" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_local_folder_is_copied_with_its_digests(tmp_path: Path) -> None:
    base = tmp_path / "base"
    (base / "extra").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "notes.md"):
        (base / name).write_bytes(FILES.get(name, b"notes"))
    source = fetch(ModelConfig(base=str(base)), tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert (source["base"], source["revision"], source["commit"]) == (str(base), None, None)
    assert source["sha256"]["config.json"] == hashlib.sha256(FILES["config.json"]).hexdigest()
    assert set(source["sha256"]) == {"config.json", "model.safetensors", "notes.md"}


@pytest.mark.parametrize("made", [True, False])
def test_a_folder_without_a_model_is_named(tmp_path: Path, made: bool) -> None:
    if made:
        (tmp_path / "base").mkdir()
    with pytest.raises(SpeechmillError, match=rf"model\.base: {tmp_path / 'base'} is not a model's folder"):
        fetch(ModelConfig(base=str(tmp_path / "base")), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_another_run_s_model_is_taken_with_what_its_selection_says_of_it(tmp_path: Path) -> None:
    files = [tmp_path / "run" / name for name in ("config.json", "model.safetensors")]
    files[0].parent.mkdir()
    for file in files:
        file.write_bytes(FILES[file.name])
    (tmp_path / "selection.json").write_text(as_json({"step": 7, "set": "cv-dev", "sha256": {"config.json": "5"}}))
    source = take("demo_ru", files, tmp_path / "selection.json", tmp_path / "model")
    assert source == {"run": "demo_ru", "step": 7, "sha256": {"config.json": "5"}}
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == {
        file.name: FILES[file.name] for file in files
    }
