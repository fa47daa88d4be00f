import hashlib
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.utils import disable_progress_bars

from hub_client import connected
from hub_server import Hub, Repository, served
from material import as_json
from speechmill.config.model import ModelConfig
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.files import DIGESTS, read_json
from speechmill.model.ingest_model import Training, Uses, copy_run_model, fetch_model, main

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
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A local Hub, which the client uses in place of the real one. Branch main is at commit NEW, tag v1 at OLD."""
    repository = Repository(
        commits={OLD: FILES | {"model.safetensors": b"earlier weights"}, NEW: FILES},
        branches={"main": NEW, "v1": OLD},
    )
    with connected(Hub({"somebody/wav2vec2-tiny": repository}), monkeypatch, tmp_path) as running:
        disable_progress_bars()
        yield running


def ingest(tmp_path: Path, base: str, revision: str) -> None:
    """Run the stage."""
    arguments = ["--settings", as_json({"base": base, "revision": revision}), "--folder", str(tmp_path / "model")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["ingest_model", *arguments, "--source", str(tmp_path / "model.json")])
        run_command(main)


def test_setting_that_does_not_fit_the_base_is_refused_before_the_weights(tmp_path: Path, hub: Hub) -> None:
    training = {"config": {}, "finetune": {"learning_rate": 1e-4}, "augment": {"speed": [0.9]}}
    repository = hub.repositories["somebody/wav2vec2-tiny"]
    repository.commits[NEW] = FILES | {"config.json": b'{"model_type": "wav2vec2-bert"}'}
    settings = ModelConfig(base="somebody/wav2vec2-tiny", revision="main")
    with pytest.raises(SpeechmillError, match=r"runs\.mine\.augment: the input of wav2vec2-bert is mel spectra"):
        fetch_model(settings, tmp_path / "model", {}, {"mine": Training.model_validate(training)})
    assert not (tmp_path / "model").exists()


def error_message(capsys: pytest.CaptureFixture[str], tmp_path: Path, base: str, revision: str) -> str:
    """Return what the stage writes to stderr when it fails."""
    with pytest.raises(SystemExit) as error:
        ingest(tmp_path, base, revision)
    assert error.value.code == 1
    return capsys.readouterr().err


@pytest.mark.parametrize(("revision", "commit"), [("main", NEW), (OLD, OLD)], ids=["branch", "commit"])
def test_revision_is_resolved_to_a_recorded_commit(tmp_path: Path, hub: Hub, revision: str, commit: str) -> None:
    ingest(tmp_path, "somebody/wav2vec2-tiny", revision)
    files = hub.repositories["somebody/wav2vec2-tiny"].commits[commit]
    model = tmp_path / "model"
    stored = {path.name: path.read_bytes() for path in model.iterdir() if path.name != DIGESTS}
    assert stored == {name: files[name] for name in WANTED}
    # No other file is downloaded and discarded: weights for other frameworks are as large as these.
    assert not any("msgpack" in request or "README" in request for request in hub.requests)
    assert not any(path.is_symlink() for path in model.iterdir())  # the cache may be deleted
    assert read_json(tmp_path / "model.json") == {
        "base": "somebody/wav2vec2-tiny",
        "revision": revision,
        "commit": commit,
        "sha256": {name: hashlib.sha256(files[name]).hexdigest() for name in WANTED},
    }


def test_moved_branch_is_resolved_again_despite_cache(tmp_path: Path, hub: Hub) -> None:
    repository = hub.repositories["somebody/wav2vec2-tiny"]
    repository.branches = {"main": OLD}
    ingest(tmp_path, "somebody/wav2vec2-tiny", "main")
    repository.branches = {"main": NEW}
    ingest(tmp_path, "somebody/wav2vec2-tiny", "main")
    assert read_json(tmp_path / "model.json")["commit"] == NEW
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == FILES["model.safetensors"]


@pytest.mark.parametrize("revision", ["v9", "f" * 40])
@pytest.mark.usefixtures("hub")
def test_missing_revision_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], revision: str) -> None:
    message = error_message(capsys, tmp_path, "somebody/wav2vec2-tiny", revision)
    assert message == f"error: model.revision: somebody/wav2vec2-tiny has no revision {revision}\n"
    assert not (tmp_path / "model").exists()


@pytest.mark.usefixtures("hub")
def test_missing_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert error_message(capsys, tmp_path, "somebody/lost", "main") == (
        "error: model.base: the Hub has no model somebody/lost, or access to it requires a login: check the name or set"
        " HF_TOKEN\n"
    )


def test_unreachable_hub_is_reported(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(Hub({})) as stopped:
        pass  # its port is closed again
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", stopped.url)
    message = error_message(capsys, tmp_path, "somebody/wav2vec2-tiny", "main")
    assert message.startswith("error: model.base: somebody/wav2vec2-tiny cannot be downloaded (")
    assert "Traceback" not in message


def test_local_folder_is_copied_with_digests(tmp_path: Path) -> None:
    base = tmp_path / "base"
    (base / "extra").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "notes.md", "extra/model.safetensors", "optimizer.bin"):
        (base / name).write_bytes(FILES.get(name, b"notes"))
    source = fetch_model(ModelConfig(base=str(base)), tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    # Not the path: the record goes into the folder that is published.
    assert (source["base"], source["revision"], source["commit"]) == ("base", None, None)
    assert source["sha256"]["config.json"] == hashlib.sha256(FILES["config.json"]).hexdigest()
    assert set(source["sha256"]) == {"config.json", "model.safetensors"}
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"config.json", "model.safetensors"}


NEEDED = {
    "config.json": b'{"model_type": "wav2vec2", "adapter_attn_dim": 16}',
    "model.safetensors": b"w" * 5000,
    "vocab.json": as_json({language: {"a": 0} for language in ("abk", "eng", "tur")}).encode(),
    "tokenizer_config.json": b'{"target_lang": "eng"}',
}
OTHERS = {
    "pytorch_model.bin": b"w" * 5000,
    "language_model/5gram.bin": b"5" * 20000,
    "optimizer.bin": b"o" * 10000,
    "training_args.bin": b"t" * 300,
    "checkpoint-500/model.safetensors": b"c" * 5000,
    "onnx/model.onnx": b"x" * 100,
    **{f"adapter.{lang}.{kind}": b"a" * 900 for lang in ("abk", "eng", "tur") for kind in ("bin", "safetensors")},
}


@pytest.mark.parametrize("local", [False, True])
def test_only_what_is_used_is_fetched(
    tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str], local: bool
) -> None:
    hub.repositories["somebody/mms"] = Repository({NEW: NEEDED | OTHERS}, {"main": NEW})
    base, revision = "somebody/mms", "main"
    if local:
        for name, content in (NEEDED | OTHERS).items():
            (tmp_path / "mms" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "mms" / name).write_bytes(content)
        base, revision = str(tmp_path / "mms"), None
    folder = tmp_path / "model"
    source = fetch_model(ModelConfig(base=base, revision=revision, target_lang="tur"), folder)
    used = {*NEEDED, "adapter.tur.safetensors"}
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*")} == used
    assert source["target_lang"] == "tur"
    assert source["sha256"] == {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in used}
    downloaded = {request.split("/resolve/")[1].split("/", 1)[1] for request in hub.requests if "/resolve/" in request}
    assert downloaded == (set() if local else used)
    size = sum(map(len, NEEDED.values())) + 900
    left_out = sum(map(len, OTHERS.values())) - 900
    report = capsys.readouterr().err
    assert f"mms: 5 files of {size:,} bytes are used; 11 files of {left_out:,} bytes are left out" in report
    assert "(language_model/5gram.bin, optimizer.bin, " in report


def test_expected_bytes_are_compared(tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ModelConfig(base="somebody/wav2vec2-tiny", revision="main")
    size = sum(len(FILES[name]) for name in WANTED)
    fetch_model(settings, tmp_path / "model", expected_bytes=round(1.04 * size))
    assert "expected_bytes" not in capsys.readouterr().err
    fetch_model(settings, tmp_path / "model", expected_bytes=3_850_000_000)
    assert (
        f"model.expected_bytes is 3,850,000,000, but somebody/wav2vec2-tiny has {size:,} bytes: set it to {size}"
        in (capsys.readouterr().err)
    )


def test_cached_base_needs_no_network(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest(tmp_path, "somebody/wav2vec2-tiny", NEW)
    before = read_json(tmp_path / "model.json")
    with served(Hub({})) as stopped:
        pass  # its port is closed again
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", stopped.url)
    ingest(tmp_path, "somebody/wav2vec2-tiny", NEW)
    assert read_json(tmp_path / "model.json") == before


def test_run_that_needs_a_language_is_named(tmp_path: Path, hub: Hub) -> None:
    hub.repositories["somebody/mms"] = Repository({NEW: NEEDED | OTHERS}, {"main": NEW})
    settings = ModelConfig(base="somebody/mms", revision="main")
    with pytest.raises(SpeechmillError, match=r"runs\.mine\.model\.target_lang: somebody/mms holds 3 languages"):
        fetch_model(settings, tmp_path / "model", {"mine": {"language": "tr", "trains": True}})
    # Before gigabytes are downloaded.
    assert not any("model.safetensors" in request for request in hub.requests)
    assert not (tmp_path / "model").exists()


def test_code_of_a_base_is_neither_fetched_nor_run(tmp_path: Path, hub: Hub) -> None:
    config = as_json({"model_type": "other", "auto_map": {"AutoConfig": "code.Config"}}).encode()
    files = {"config.json": config, "model.safetensors": b"w", "code.py": b'open("ran", "w")'}
    hub.repositories["somebody/other"] = Repository({NEW: files}, {"main": NEW})
    with pytest.raises(SpeechmillError, match=r"somebody/other is defined by Python code of its own"):
        fetch_model(ModelConfig(base="somebody/other", revision="main"), tmp_path / "model")
    assert not any("code.py" in request or "safetensors" in request for request in hub.requests)
    assert not (tmp_path / "model").exists()


GENERATION = {"generation_config.json": b"{}", "merges.txt": b"", "normalizer.json": b"{}"}


def test_generation_settings_are_fetched_only_for_a_model_that_generates_text(tmp_path: Path, hub: Hub) -> None:
    whisper = FILES | GENERATION | {"config.json": b'{"model_type": "whisper"}'}
    hub.repositories["somebody/whisper"] = Repository({NEW: whisper}, {"main": NEW})
    hub.repositories["somebody/ctc"] = Repository({NEW: FILES | GENERATION}, {"main": NEW})
    for name, others in (("whisper", ["generation_config.json", "merges.txt"]), ("ctc", ["merges.txt"])):
        fetch_model(ModelConfig(base=f"somebody/{name}", revision="main"), tmp_path / name)
        assert {path.name for path in (tmp_path / name).iterdir()} == {*WANTED, *others}


@pytest.mark.parametrize(
    ("model_type", "uses", "message"),
    [
        (
            "whisper",
            Uses(ctc=["datasets.pieces.by"]),
            r"datasets\.pieces\.by: .* \(whisper\) generates text",
        ),
        ("whisper", Uses(ctc=["runs.x.export"], exports=["x"]), r"runs\.x\.export: .* \(whisper\) generates text"),
        ("granite_speech5_ctc", Uses(exports=["x"]), r"runs\.x\.export: granite_speech5_ctc has operations that"),
        ("wav2vec2", Uses(generation=["runs.x.evaluation.generation"]), r"evaluation\.generation: .* is a CTC model"),
    ],
)
def test_key_for_another_kind_of_model_is_refused(
    tmp_path: Path, hub: Hub, model_type: str, uses: Uses, message: str
) -> None:
    files = FILES | {"config.json": as_json({"model_type": model_type}).encode()}
    hub.repositories["somebody/peer"] = Repository({NEW: files}, {"main": NEW})
    with pytest.raises(SpeechmillError, match=message):
        fetch_model(ModelConfig(base="somebody/peer", revision="main"), tmp_path / "model", uses=uses)
    assert not any("safetensors" in request for request in hub.requests)


@pytest.mark.parametrize("exists", [True, False])
def test_folder_without_a_model_is_named(tmp_path: Path, exists: bool) -> None:
    if exists:
        (tmp_path / "base").mkdir()
    with pytest.raises(SpeechmillError, match=rf"model\.base: {tmp_path / 'base'} has no config.json"):
        fetch_model(ModelConfig(base=str(tmp_path / "base")), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_model_of_another_run_is_copied_with_step(tmp_path: Path) -> None:
    files = [tmp_path / "run" / name for name in ("config.json", "model.safetensors")]
    files[0].parent.mkdir()
    for file in files:
        file.write_bytes(FILES[file.name])
    digest = hashlib.sha256(FILES["config.json"]).hexdigest()
    (tmp_path / "selection.json").write_text(as_json({"step": 7, "set": "cv-dev", "sha256": {"config.json": digest}}))
    source = copy_run_model("demo_ru", files, tmp_path / "selection.json", tmp_path / "model")
    assert source == {"run": "demo_ru", "step": 7, "sha256": {"config.json": digest}}
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == {
        file.name: FILES[file.name] for file in files
    }
