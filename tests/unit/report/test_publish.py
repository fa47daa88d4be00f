import errno
import io
import json
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf
import yaml
from hf_xet import XetAuthenticationError
from huggingface_hub import HfApi, ModelCard, snapshot_download
from huggingface_hub.utils import disable_progress_bars

from hub_client import connected
from hub_server import GITATTRIBUTES, SIGNATURE, Hub, Repository, served
from material import as_json, audio_file, noise
from speechmill.config.publish import PublishConfig
from speechmill.config.root import Run
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.files import file_digest
from speechmill.core.schemas import clip_schema
from speechmill.report import manifest
from speechmill.report.publish import check, format_dry_run, main, publish, publish_space
from speechmill.report.upload_checks import find_audio, find_secret

# The client itself uses `data=` to send a file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

REPO = "somebody/wav2vec2-tiny"
SETTINGS = PublishConfig(repo=REPO)
# Nobody's tokens, of the length of the Hub's.
TOKEN = "hf_" + "nobodysTokenForTheTestsOnly1234567"
ANOTHER = "hf_" + "anotherOneWhoMayWriteNothingHere00"
CARD = """---
language: ru
license: apache-2.0
library_name: transformers
tags:
- automatic-speech-recognition
model-index:
- name: Tiny
  results:
  - task:
      type: automatic-speech-recognition
      name: Automatic Speech Recognition
    dataset:
      name: A corpus
      type: somebody/corpus
      config: ru
      split: test
    metrics:
    - type: wer
      value: 4.49
      name: Test WER
---
# Tiny

Ёлка.
"""
ALLOWED = {"audio_redistributable": True, "text_redistributable": True}
FORBIDDEN = {"audio_redistributable": False, "text_redistributable": True}
RESTRICTED = {"audio_redistributable": False, "text_redistributable": False}
WEIGHTS = np.random.default_rng(0).bytes(50_000)
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(100)


def parquet(**columns: pa.Array) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def model_folder(folder: Path, datasets: Any = None, train: Sequence[str] = (), **files: bytes) -> Path:
    """Write a model folder with its manifest; `files` adds or replaces files, by name with `__` for `/`."""
    about = {"datasets": {"corpus": ALLOWED} if datasets is None else datasets, "train": train}
    contents = {
        ".eval_results/corpus.yaml": b"- dataset: {id: somebody/corpus}\n",
        "README.md": CARD.encode(),
        "config.json": b'{"model_type": "wav2vec2"}',
        "empty.txt": b"",
        "evidence/scored/corpus-test/greedy.parquet": parquet(id=pa.array(["1"]), hits=pa.array([3])),
        "evidence/settings.json": json.dumps(about).encode(),
        "model.safetensors": WEIGHTS,
        "plots/loss.png": PNG,
    } | {name.replace("__", "/"): content for name, content in files.items()}
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    manifest.write(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of each file of a model folder."""
    files = (path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder that may be published."""
    return model_folder(tmp_path / "model")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """An empty local Hub, which the client uses in place of the real one; TOKEN is the token of the user."""
    with connected(Hub({}, writers={TOKEN: {"somebody"}, ANOTHER: set()}), monkeypatch, tmp_path) as running:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        # The client retries at once instead of waiting for minutes.
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        disable_progress_bars()
        yield running


def head(hub: Hub, branch: str = "main") -> dict[str, bytes]:
    """Return the files of the repository, without those that the Hub creates."""
    repository = hub.repositories[REPO]
    return {name: each for name, each in repository.commits[repository.branches[branch]].items() if name[1:4] != "git"}


def test_published_folder_downloads_unchanged(hub: Hub, model: Path, tmp_path: Path) -> None:
    (model / ".snakemake_timestamp").touch()
    message = publish(model, SETTINGS)
    assert message.startswith(f"{model} is published: {hub.url}/{REPO} (public, commit ")
    assert hub.repositories[REPO].titles == [f"Model with manifest sha256:{file_digest(model / 'manifest.json')}"]
    (model / ".snakemake_timestamp").unlink()
    fetched = Path(snapshot_download(REPO, local_dir=tmp_path / "fetched"))
    assert contents(fetched) == contents(model) | {".gitattributes": GITATTRIBUTES}
    assert manifest.differences(fetched) == []
    results = ModelCard.load(REPO).data.eval_results
    assert results is not None
    assert [(each.dataset_name, each.metric_value) for each in results] == [("A corpus", 4.49)]


def test_upload_is_one_commit_and_storage_gets_no_token(hub: Hub, model: Path) -> None:
    publish(model, SETTINGS)
    asked = [request.split("?")[0] for request in hub.requests]
    assert asked.count(f"POST /api/models/{REPO}/commit/main") == 1
    # The Hub validates the card before anything is created.
    assert asked.index("POST /api/validate-yaml") < asked.index("POST /api/repos/create")
    large = {"model.safetensors", "plots/loss.png", "evidence/scored/corpus-test/greedy.parquet"}
    assert {f"PUT /storage/{file_digest(model / name)}" for name in large} == {
        request for request in asked if request.startswith("PUT")
    }


def test_unchanged_folder_makes_no_commit(hub: Hub, model: Path) -> None:
    publish(model, SETTINGS)
    assert publish(model, SETTINGS) == (f"{hub.url}/{REPO} (public) is up to date with {model}; nothing was changed")
    assert len(hub.repositories[REPO].titles) == 1
    assert sum(request.startswith("PUT") for request in hub.requests) == 3


def test_other_files_are_kept_and_obsolete_ones_deleted(hub: Hub, model: Path) -> None:
    publish(model, SETTINGS)
    repository = hub.repositories[REPO]
    changes = {"demo.ipynb": b"my own", "config.json": b"{}"}
    repository.commits["mine"] = dict(repository.commits[repository.branches["main"]]) | changes
    repository.branches["main"] = "mine"
    (model / "evidence/scored/corpus-test/greedy.parquet").unlink()
    (model / "model.safetensors").write_bytes(WEIGHTS[::-1])
    manifest.write(model)
    message = publish(model, SETTINGS)
    deleted = "evidence/scored/corpus-test/greedy.parquet"
    assert message.endswith(f"; deleted there, because they are no longer in the folder: {deleted}")
    assert head(hub) == contents(model) | {"demo.ipynb": b"my own"}


@pytest.mark.parametrize(
    "other", [b"no JSON", b'{"files": {"demo.ipynb": "/static/demo.ipynb"}}', b'{"files": ["demo.ipynb"]}', b"[]"]
)
def test_manifest_of_another_program_deletes_nothing(hub: Hub, model: Path, other: bytes) -> None:
    hub.repositories[REPO] = Repository({"mine": {"manifest.json": other, "demo.ipynb": b"my own"}}, {"main": "mine"})
    publish(model, SETTINGS)
    assert head(hub) == contents(model) | {"demo.ipynb": b"my own"}


def test_private_repository_is_created(hub: Hub, model: Path) -> None:
    settings = PublishConfig(repo=REPO, private=True)
    assert "(private, commit " in publish(model, settings)
    assert hub.repositories[REPO].private
    assert "(private)" in publish(model, settings)


def test_public_repository_is_refused_if_private_is_set(hub: Hub, model: Path) -> None:
    hub.repositories[REPO] = Repository({"mine": {}}, {"main": "mine"})
    with pytest.raises(SpeechmillError, match=rf"{REPO} is public, and `publish\.private` is true"):
        publish(model, PublishConfig(repo=REPO, private=True))
    assert head(hub) == {}
    assert not any(request.startswith("PUT") for request in hub.requests)


def test_branch_is_created_and_main_is_unchanged(hub: Hub, model: Path) -> None:
    settings = PublishConfig(repo=REPO, branch="try/2")
    assert f"{hub.url}/{REPO}/tree/try/2 (public" in publish(model, settings)
    assert head(hub, "try/2") == contents(model)
    assert head(hub) == {}
    assert "nothing was changed" in publish(model, settings)


PAGE = {"app.py": b"import gradio\n", "requirements.txt": b"gradio==6.31.0\ntorch==2.11.0\n"}


@pytest.mark.parametrize(("branch", "variable"), [("main", REPO), ("v2", f"{REPO}@v2")])
def test_space_has_the_page_and_names_the_model(hub: Hub, tmp_path: Path, branch: str, variable: str) -> None:
    model = model_folder(tmp_path / "page", **PAGE)
    settings = PublishConfig(repo=REPO, space="somebody/try-it", private=True, branch=branch)
    check(model, settings)
    assert "would be uploaded to the Space somebody/try-it" in format_dry_run(model, settings)
    assert hub.requests == []
    publish(model, settings)
    for _ in range(2):
        assert publish_space(model, settings).endswith(f"is published: {hub.url}/spaces/somebody/try-it")
    space = hub.repositories["spaces/somebody/try-it"]
    files = space.commits[space.branches["main"]]
    assert PAGE.items() <= files.items()
    about = yaml.safe_load(files["README.md"].split(b"---")[1])
    assert (about["sdk"], about["sdk_version"], about["app_file"]) == ("gradio", "6.31.0", "app.py")
    assert about["models"] == [REPO]
    assert space.variables == {"MODEL": variable}
    assert space.private


def test_no_space_is_created_unless_it_is_named(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_folder(tmp_path / "page", **PAGE)
    monkeypatch.setattr("sys.argv", ["publish", str(model), "--repo", REPO])
    main()
    assert set(hub.repositories) == {REPO}


def test_public_space_is_refused_if_private_is_set(hub: Hub, tmp_path: Path) -> None:
    model = model_folder(tmp_path / "page", **PAGE)
    hub.repositories["spaces/somebody/try-it"] = Repository({"mine": {}}, {"main": "mine"})
    with pytest.raises(SpeechmillError, match="the Space somebody/try-it is public"):
        publish_space(model, PublishConfig(repo=REPO, space="somebody/try-it", private=True))


def test_space_of_a_folder_without_page_is_refused(model: Path) -> None:
    with pytest.raises(SpeechmillError, match=r"has no app\.py for `publish\.space`"):
        check(model, PublishConfig(repo=REPO, space="somebody/try-it"))


def test_missing_token_is_reported_before_any_request(
    hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(SpeechmillError, match=r"without a token with write access.* HF_TOKEN .*`hf auth login`"):
        publish(model, SETTINGS)
    assert hub.requests == []
    (tmp_path / "token").write_text(TOKEN)  # as `hf auth login` leaves it
    publish(model, SETTINGS)
    assert head(hub) == contents(model)


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (TOKEN[:-1] + "X", "the token is not valid; create one with write access at {url}/settings/tokens"),
        (ANOTHER, "the token has no write access to the repository; grant it at {url}/settings/tokens"),
    ],
    ids=["unknown", "another user"],
)
@pytest.mark.parametrize("exists", [False, True])
def test_token_without_write_access_is_not_shown(
    hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch, token: str, message: str, exists: bool
) -> None:
    if exists:
        hub.repositories[REPO] = Repository({"existing": {}}, {"main": "existing"})
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(SpeechmillError) as caught:
        publish(model, SETTINGS)
    assert f"{REPO} cannot be published: {message.format(url=hub.url)}" in str(caught.value)
    assert token not in str(caught.value)
    assert ("(status 401" in str(caught.value)) == (token != ANOTHER)
    assert hub.stored == {}


STEPS = [
    "POST /api/validate-yaml",
    "POST /api/repos/create",
    f"GET /api/models/{REPO}",
    f"POST /api/models/{REPO}/preupload/",
    f"POST /{REPO}.git/info/lfs/objects/batch",
    f"POST /{REPO}.git/info/lfs/objects/verify",
    f"POST /api/models/{REPO}/commit/",
]
FAULTS = [(step, 503, "the Hub has an internal error; run the command again later") for step in STEPS] + [
    (STEPS[3], 404, "the repository does not exist"),
    (STEPS[-1], 412, "the repository was changed at the same time; run the command again"),
    (STEPS[1], 418, r"see the message of the Hub, and run the command again \(status 418: a message\)"),
]


@pytest.mark.parametrize(("step", "status", "message"), FAULTS)
def test_error_of_the_hub_at_any_step_leaves_no_commit(
    hub: Hub, model: Path, step: str, status: int, message: str
) -> None:
    hub.refused[step] = (status, "a message")
    with pytest.raises(SpeechmillError, match=message):
        publish(model, SETTINGS)
    assert REPO not in hub.repositories or head(hub) == {}


def test_broken_upload_resumes_without_uploaded_files(
    hub: Hub, model: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    weights = file_digest(model / "model.safetensors")
    hub.cut[weights] = 20_000
    with pytest.raises(
        SpeechmillError, match=r"the connection failed .*check the network and run the command again"
    ) as caught:
        publish(model, SETTINGS)
    # A signed URL gives write access to the storage.
    assert SIGNATURE not in str(caught.value) + "".join(capfd.readouterr()) + caplog.text
    assert head(hub) == {}
    hub.cut.clear()
    hub.requests.clear()
    publish(model, SETTINGS)
    assert head(hub) == contents(model)
    assert [request.split("?")[0] for request in hub.requests if request.startswith("PUT")] == [
        f"PUT /storage/{weights}"
    ]


def test_unreachable_hub_is_reported(hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(Hub({})) as stopped:
        pass  # the server has stopped, and its port is closed
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", stopped.url)
    with pytest.raises(SpeechmillError, match="the connection failed"):
        publish(model, SETTINGS)


@pytest.mark.parametrize("error", [XetAuthenticationError("no"), ConnectionError("lost"), RuntimeError("CAS service")])
def test_errors_of_the_xet_protocol_are_reported(
    hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(HfApi, "create_commit", Mock(side_effect=error))
    with pytest.raises(SpeechmillError, match=rf"the connection failed \({type(error).__name__}\)"):
        publish(model, SETTINGS)


def test_full_disk_is_no_network_error(hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HfApi, "create_commit", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        publish(model, SETTINGS)


def test_offline_variable_is_named(hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SpeechmillError, match="HF_HUB_OFFLINE disables network access; unset it"):
        publish(model, SETTINGS)
    assert hub.requests == []


def test_card_refused_by_the_hub_creates_nothing(hub: Hub, tmp_path: Path) -> None:
    card = CARD.replace("license: apache-2.0", "license: apache-2.0\nmetrics: 5").encode()
    model = model_folder(tmp_path / "model", **{"README.md": card})
    check(model, SETTINGS)  # not all that the Hub requires is known
    with pytest.raises(SpeechmillError, match=r'README\.md: the Hub refuses .* "metrics" must be a string or an array'):
        publish(model, SETTINGS)
    assert hub.repositories == {}


@pytest.mark.parametrize(
    ("old", "new", "refused", "advice"),
    [
        ("language: ru", "language: ru-RU", '"language" with value "ru-RU" is not valid', "language: ru-RU: .* `ru`"),
        ("language: ru", "language: [ru, zh_CN]", r'"language\[1\]" with value "zh_CN"', "language: zh_CN: .* `zh`"),
        ("apache-2.0", "LicenseRef-private", '"license" must be one of', "license: LicenseRef-private: .* `other`"),
        ("apache-2.0", "Apache-2.0", '"license" must be one of', "license: Apache-2.0: .* `apache-2.0`"),
        ("library_name:", "base_model: ./base\nlibrary_name:", '"base_model" with value', "base_model: ./base: "),
        ("library_name:", "datasets: [/tmp]\nlibrary_name:", r'"datasets\[0\]" with value "/tmp"', "datasets: /tmp: "),
    ],
)
def test_dry_run_finds_what_the_hub_would_refuse(
    hub: Hub, tmp_path: Path, old: str, new: str, refused: str, advice: str
) -> None:
    model = model_folder(tmp_path / "model", **{"README.md": CARD.replace(old, new).encode()})
    with pytest.raises(SpeechmillError, match=f"the Hub would refuse the front matter(.|\n)*{advice}"):
        check(model, SETTINGS)
    assert hub.requests == []
    with pytest.raises(SpeechmillError, match=f"the Hub refuses the front matter(.|\n)*{refused}"):
        publish(model, SETTINGS)


@pytest.mark.parametrize(
    "front",
    ["- a\n- list", "a: [", "model-index:\n- name: Tiny\n  results:\n  - metrics: []", "1: one"],
    ids=["no mapping", "no YAML", "no results", "a number"],
)
def test_invalid_front_matter_is_found_offline(hub: Hub, tmp_path: Path, front: str) -> None:
    model = model_folder(tmp_path / "model", **{"README.md": f"---\n{front}\n---\n# Tiny\n".encode()})
    with pytest.raises(SpeechmillError, match=r"README\.md: the front matter is not valid"):
        check(model, SETTINGS)
    assert hub.requests == []


def test_differences_from_the_manifest_are_listed(model: Path) -> None:
    (model / "model.safetensors").write_bytes(WEIGHTS[:-1] + b"!")
    (model / "config.json").unlink()
    (model / "notes.txt").write_text("mine")
    with pytest.raises(SpeechmillError) as caught:
        check(model, SETTINGS)
    differences = str(caught.value).splitlines()[1:]
    assert differences == [f"  {each}" for each in manifest.differences(model)]
    assert len(differences) == 3


def test_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match=r"has no manifest\.json"):
        check(tmp_path, SETTINGS)


@pytest.mark.parametrize("name", ["-a/b", "a/b.", "a/b--c", "a/b..c", "a/b.git"])
def test_invalid_repository_name_is_refused(model: Path, name: str) -> None:
    with pytest.raises(SpeechmillError, match=r"publish\.repo: "):
        check(model, PublishConfig.model_construct(repo=name))


def sound(kind: str, subtype: str | None = None) -> bytes:
    return audio_file(noise(0.3), kind=kind, subtype=subtype)


def sphere() -> bytes:
    buffer = io.BytesIO()
    sf.write(buffer, noise(0.3), 16_000, format="NIST")
    return buffer.getvalue()


CLIPS = {
    "table of clips": parquet(id=pa.array(["1"]), audio=pa.array([{"bytes": b"RIFF", "path": "a"}])),
    "nested bytes": parquet(rows=pa.array([[{"sound": [b"fLaC"]}]])),
    "waveform": parquet(audio=pa.array([[0.1, 0.2]])),
    "broken table": b"PAR1 and no more",
    "page": b"<html><audio src='DATA:audio/flac;base64,ZkxhQw=='></html>",
    "WAV": sound("WAV"),
    "FLAC": sound("FLAC"),
    "Ogg": sound("OGG", "VORBIS"),
    "MP3": sound("MP3", "MPEG_LAYER_III"),
    "MP3 with a tag": b"ID3\x03" + bytes(6) + sound("MP3", "MPEG_LAYER_III"),
    "SPHERE": sphere(),
    "AIFF": sound("AIFF"),
    "AU": sound("AU"),
    "CAF": sound("CAF"),
    "W64": sound("W64"),
    "RF64": sound("RF64"),
}


@pytest.mark.parametrize("kind", CLIPS)
def test_audio_is_found_by_content(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "notes"
    file.write_bytes(CLIPS[kind])
    assert find_audio(file) is not None


def test_audio_feature_of_datasets_is_found(tmp_path: Path) -> None:
    file = tmp_path / "clips.parquet"
    schema = clip_schema()
    names = [name for name in schema.names if name != "audio"]
    kept = pa.schema([schema.field(name) for name in names], metadata=schema.metadata)
    pq.write_table(kept.empty_table(), file)
    assert find_audio(file) is not None


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar", "bztar", "xztar"])
def test_archives_count_as_audio(tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.wav").write_bytes(CLIPS["WAV"])
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), kind, tmp_path / "in"))
    assert find_audio(packed.rename(tmp_path / "notes")) == "an archive, which may contain audio"


@pytest.mark.parametrize("name", ["a.wav", "a.FLAC", "a.opus", "a.sph", "a.m4a"])
def test_audio_is_found_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"encrypted")
    assert find_audio(tmp_path / name) is not None


@pytest.mark.parametrize(
    "content",
    [
        CARD.encode(),
        b"",
        WEIGHTS,
        PNG,
        parquet(id=pa.array(["1"]), hits=pa.array([3]), counts=pa.array([[1, 2]])),
        "caffeine ID3 data about audio".encode("utf-16"),
        b"RIFF\x10\0\0\0WEBPVP8 ",
        b"\xff\xd8\xff\xe0\x00\x10JFIF",
        b"<audio controls>", b"<img src='data:image/png;base64,AAAA'>",
    ],
    ids=["card", "nothing", "weights", "picture", "table", "words", "WebP", "JPEG", "element", "embedded picture"],
)  # fmt: skip
def test_other_content_is_no_audio(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "notes"
    file.write_bytes(content)
    assert find_audio(file) is None


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({"corpus": ALLOWED, "common_voice": FORBIDDEN}, "the terms of common_voice do not allow it"),
        ({"corpus": ALLOWED, "old": {}}, "the terms of old do not allow it"),
        ({}, "lists no corpora"),
    ],
    ids=["one of two forbids it", "one has no key", "no corpora"],
)
def test_audio_needs_permission_of_all_corpora(tmp_path: Path, datasets: dict[str, Any], message: str) -> None:
    page = {"worst.html": CLIPS["page"], "evidence__a": CLIPS["WAV"]}
    check(model_folder(tmp_path / "allowed", **page), SETTINGS)
    check(model_folder(tmp_path / "without", datasets), SETTINGS)
    with pytest.raises(SpeechmillError) as caught:
        check(model_folder(tmp_path / "refused", datasets, **page), SETTINGS)
    assert message in str(caught.value)
    assert str(caught.value).splitlines()[1:] == [
        "  evidence/a: audio",
        "  worst.html: audio, embedded as a `data:` URL",
    ]


WORDS = {"substitutions": [{"reference": "раз", "hypothesis": "рас", "count": 1}]}
BREAKDOWN = {"sets": {"corpus-dev": {"greedy": {"groups": {"speaker": []}, "confusions": {"words": WORDS}}}}}
PATTERN = {"columns": {"speaker_id": "who"}, "split": {"field": "who", "values": {"train": ["Anna"], "test": ["Max"]}}}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("evidence__scored__corpus-test__greedy.parquet", parquet(id=pa.array(["anna/1.wav"])), "greedy.parquet has"),
        (
            "evidence__scored__corpus-test-gsm__lm.parquet",
            parquet(id=pa.array(["1"]), hypothesis=pa.array(["раз"])),
            "evidence/scored/corpus-test-gsm/lm.parquet has words or clip ids",
        ),
        ("evidence__breakdown.json", as_json(BREAKDOWN).encode(), "evidence/breakdown.json has words or clip ids"),
        (
            "evidence__usage.json",
            as_json([{"set": "corpus-dev", "clip": "anna/1.wav", "printed": "раз"}]).encode(),
            "evidence/usage.json has words or clip ids",
        ),
        (
            "evidence__lm__text.json",
            b'{"source": "training"}',
            "lm/ has words and n-grams of corpus-train; remove `lm`",
        ),
        (
            "evidence__config.yaml",
            as_json({"datasets": {"corpus": PATTERN}}).encode(),
            "evidence/config.yaml lists sentences or speakers in datasets.corpus.split.values",
        ),
        (
            "evidence__config.yaml",
            as_json(
                {"datasets": {"corpus": {"columns": {"sentence": {"field": "d", "values": {"1": "one"}}}}}}
            ).encode(),
            "lists sentences or speakers in datasets.corpus.columns.sentence.values",
        ),
    ],
    ids=["ids", "hypotheses", "words", "usage", "language model", "speakers of splits", "sentences"],
)
def test_words_and_names_need_permission_of_their_corpus(
    tmp_path: Path, file: str, content: bytes, message: str
) -> None:
    check(model_folder(tmp_path / "allowed", {"corpus": ALLOWED}, train=["corpus-train"], **{file: content}), SETTINGS)
    check(model_folder(tmp_path / "without", {"corpus": RESTRICTED}, train=["corpus-train"]), SETTINGS)
    with pytest.raises(SpeechmillError, match="sentences or names of a corpus") as caught:
        check(
            model_folder(tmp_path / "refused", {"corpus": RESTRICTED}, train=["corpus-train"], **{file: content}),
            SETTINGS,
        )
    (line,) = str(caught.value).splitlines()[1:]
    assert message in line


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("evidence__counts__train.json", {"marks_dropped": {"́": {"sentence": "раз"}}}),
        ("evidence__leakage.json", {"corpus-test": {"speaker": {"clips": 1, "examples": [{"id": "1"}]}}}),
    ],
)
def test_examples_are_never_published(tmp_path: Path, file: str, content: Any) -> None:
    with pytest.raises(SpeechmillError, match=r"(train|leakage)\.json has words or clip ids; build the card again"):
        check(model_folder(tmp_path / "model", **{file: as_json(content).encode()}), SETTINGS)


def test_language_model_of_other_text_may_be_published(tmp_path: Path) -> None:
    files = {"evidence__lm__text.json": b'{"source": ["news.txt"]}', "lm__lexicon.txt": b"one\to n e |\n"}
    check(model_folder(tmp_path / "model", {"corpus": RESTRICTED}, train=["corpus-train"], **files), SETTINGS)


def test_audio_is_refused_without_settings(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "model", **{"a.wav": b""})
    (model / "evidence/settings.json").unlink()
    manifest.write(model)
    with pytest.raises(SpeechmillError, match=r"there is no evidence/settings\.json, which would list the terms"):
        check(model, SETTINGS)


def test_secrets_in_files_are_refused_and_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDC_API_KEY", "any-kind-of-words")
    model = model_folder(
        tmp_path / "model", **{"a.yaml": f"token: '{TOKEN}'".encode(), "evidence__b": b"key=any-kind-of-words"}
    )
    with pytest.raises(SpeechmillError) as caught:
        check(model, SETTINGS)
    assert str(caught.value).splitlines()[1:] == [
        "  a.yaml: a string that looks like a token or a private key",
        "  evidence/b: the value of MDC_API_KEY",
    ]
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"hf_model", b"the hf_hub_download function, HF_TOKEN=hf_...", b"MDC_API_KEY", bytes(3) + TOKEN.encode()],
)
def test_text_about_tokens_is_no_secret(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDC_API_KEY", "")
    file = tmp_path / "notes"
    file.write_bytes(content)
    assert find_secret(file) is None


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", ["publish", *map(str, arguments)])
    run_command(main)


def test_main_lists_in_a_dry_run_and_then_uploads(
    hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    run_main(monkeypatch, model, "--repo", REPO, "--private", "--dry-run")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{model} would be uploaded to branch main of {REPO} (private if it is created now):"
    listed = {name: int(size.replace(",", "")) for size, name in map(str.split, lines[1:-1])}
    assert listed == {name: len(content) for name, content in contents(model).items()}
    assert lines[-1].split() == [f"{sum(listed.values()):,}", "bytes", "in", str(len(listed)), "files"]
    assert hub.requests == []
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with warnings.catch_warnings(record=True) as caught:
        run_main(monkeypatch, model, "--repo", REPO, "--private")
    output = capsys.readouterr()
    assert output.out.startswith(f"{model} is published: {hub.url}/{REPO} (private, commit ")
    assert TOKEN not in output.out + output.err
    # The client advises to upload tables as a dataset.
    assert not any("data file" in str(each.message) for each in caught)
    assert head(hub) == contents(model)


def test_no_folder_is_uploaded_if_one_is_refused(
    hub: Hub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = model_folder(tmp_path / "other")
    (other / "config.json").unlink()
    sections = [as_json({"repo": REPO}), as_json({"repo": "somebody/other"})]
    with pytest.raises(SystemExit) as caught:
        run_main(monkeypatch, model, other, "--settings", *sections)
    assert caught.value.code == 1
    assert capsys.readouterr().err.startswith(f"error: {other} differs from its manifest")
    assert hub.requests == []
    manifest.write(other)
    run_main(monkeypatch, model, other, "--settings", *sections)
    assert set(hub.repositories) == {REPO, "somebody/other"}


def test_missing_publish_section_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["publish", "--settings"])
    with pytest.raises(
        SpeechmillError, match=r"no run has a key `publish`.*`runs\.RUN\.publish: \{repo: NAME/MODEL\}`"
    ):
        main()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repo", "tiny"], "--repo: String should match"),
        (["--repo", REPO, "--branch", ""], "--branch: String should match"),
        (["again", "--repo", REPO], "2 folders for 1 repositories"),
        ([], "one of the arguments --repo --settings is required"),
    ],
)
def test_arguments_are_validated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    monkeypatch.setattr("sys.argv", ["publish", "model", *arguments])
    with pytest.raises(SystemExit):
        main()
    assert message in capsys.readouterr().err


def test_scoring_run_cannot_be_published() -> None:
    scored: dict[str, Any] = {
        "training": "none", "language": "ru", "model": {"base": "./base"}, "evaluation": {"sets": ["cv-test"]},
    }  # fmt: skip
    Run.model_validate(scored)
    with pytest.raises(ValueError, match="`publish` is only for training: remove it"):
        Run.model_validate(scored | {"publish": {"repo": REPO}})


def test_dry_run_shows_the_visibility(model: Path) -> None:
    assert "(public if it is created now)" in format_dry_run(model, SETTINGS)
