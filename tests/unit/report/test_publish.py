import errno
import io
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from hf_xet import XetAuthenticationError
from huggingface_hub import HfApi, ModelCard, snapshot_download
from huggingface_hub.utils import disable_progress_bars

from hub_server import GITATTRIBUTES, SIGNATURE, Hub, Repository, served
from material import as_json, audio_file, noise, run_stage
from speechmill.config.publish import PublishConfig
from speechmill.config.root import Run
from speechmill.core.command import SpeechmillError
from speechmill.core.tables import clip_schema, file_digest
from speechmill.report import manifest
from speechmill.report.publish import check, listing, main, publish
from speechmill.report.upload_checks import audio_in, secret_in

# The client's own way of sending a file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

REPO = "somebody/wav2vec2-tiny"
SETTINGS = PublishConfig(repo=REPO)
# No one's, and as long as one of the Hub's.
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
ALLOWED, FORBIDDEN = {"audio_may_be_passed_on": True}, {"audio_may_be_passed_on": False}
WEIGHTS = np.random.default_rng(0).bytes(50_000)
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(100)


def parquet(**columns: pa.Array) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def model_folder(folder: Path, datasets: Any = None, **files: bytes) -> Path:
    """A model's folder with its manifest; `files` are more of them, or others, by name with `__` for `/`."""
    about = {"datasets": {"corpus": ALLOWED} if datasets is None else datasets}
    made = {
        ".eval_results/corpus.yaml": b"- dataset: {id: somebody/corpus}\n",
        "README.md": CARD.encode(),
        "config.json": b'{"model_type": "wav2vec2"}',
        "empty.txt": b"",
        "evidence/scored/corpus-test/greedy.parquet": parquet(id=pa.array(["1"]), hits=pa.array([3])),
        "evidence/settings.json": json.dumps(about).encode(),
        "model.safetensors": WEIGHTS,
        "plots/loss.png": PNG,
    } | {name.replace("__", "/"): content for name, content in files.items()}
    for name, content in made.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    manifest.write(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """What is in the files of a model's folder."""
    files = (path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The folder of a model that may be published."""
    return model_folder(tmp_path / "model")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """An empty Hub on this machine, which the client takes for the real one; TOKEN is the user's."""
    with served(Hub({}, writers={TOKEN: {"somebody"}, ANOTHER: set()})) as running:
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", running.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "stored_tokens"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        # The client tries again at once, and not for minutes.
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        disable_progress_bars()
        huggingface_hub.close_session()
        yield running
        huggingface_hub.close_session()


def head(hub: Hub, branch: str = "main") -> dict[str, bytes]:
    """The files of the repository, without what the Hub puts there itself."""
    repository = hub.repositories[REPO]
    return {name: each for name, each in repository.commits[repository.branches[branch]].items() if name[1:4] != "git"}


def test_what_is_published_comes_back_byte_for_byte_and_its_card_loads(hub: Hub, model: Path, tmp_path: Path) -> None:
    (model / ".snakemake_timestamp").touch()
    said = publish(model, SETTINGS)
    assert said.startswith(f"{model} is published: {hub.url}/{REPO} (public, commit ")
    assert hub.repositories[REPO].titles == [f"Model with manifest sha256:{file_digest(model / 'manifest.json')}"]
    (model / ".snakemake_timestamp").unlink()
    fetched = Path(snapshot_download(REPO, local_dir=tmp_path / "fetched"))
    assert contents(fetched) == contents(model) | {".gitattributes": GITATTRIBUTES}
    assert manifest.faults(fetched) == []
    results = ModelCard.load(REPO).data.eval_results
    assert results is not None
    assert [(each.dataset_name, each.metric_value) for each in results] == [("A corpus", 4.49)]


def test_all_goes_in_one_commit_and_large_files_go_to_storage_without_the_token(hub: Hub, model: Path) -> None:
    publish(model, SETTINGS)
    asked = [request.split("?")[0] for request in hub.asked]
    assert asked.count(f"POST /api/models/{REPO}/commit/main") == 1
    # Nothing is made before the Hub has seen the card.
    assert asked.index("POST /api/validate-yaml") < asked.index("POST /api/repos/create")
    large = {"model.safetensors", "plots/loss.png", "evidence/scored/corpus-test/greedy.parquet"}
    assert {f"PUT /storage/{file_digest(model / name)}" for name in large} == {
        request for request in asked if request.startswith("PUT")
    }


def test_what_was_published_already_makes_no_commit(hub: Hub, model: Path) -> None:
    publish(model, SETTINGS)
    assert publish(model, SETTINGS) == (f"{hub.url}/{REPO} (public) has all of {model} already; nothing was changed")
    assert len(hub.repositories[REPO].titles) == 1
    assert sum(request.startswith("PUT") for request in hub.asked) == 3


def test_what_the_user_has_in_the_repository_stays_and_what_the_manifest_lists_no_more_goes(
    hub: Hub, model: Path
) -> None:
    publish(model, SETTINGS)
    repository = hub.repositories[REPO]
    own = {"demo.ipynb": b"my own", "config.json": b"{}"}
    repository.commits["mine"] = dict(repository.commits[repository.branches["main"]]) | own
    repository.branches["main"] = "mine"
    (model / "evidence/scored/corpus-test/greedy.parquet").unlink()
    (model / "model.safetensors").write_bytes(WEIGHTS[::-1])
    manifest.write(model)
    said = publish(model, SETTINGS)
    assert said.endswith("removed there, since the folder has it no more: evidence/scored/corpus-test/greedy.parquet")
    assert head(hub) == contents(model) | {"demo.ipynb": b"my own"}


@pytest.mark.parametrize(
    "other", [b"no JSON", b'{"files": {"demo.ipynb": "/static/demo.ipynb"}}', b'{"files": ["demo.ipynb"]}', b"[]"]
)
def test_another_program_s_manifest_removes_nothing(hub: Hub, model: Path, other: bytes) -> None:
    hub.repositories[REPO] = Repository({"mine": {"manifest.json": other, "demo.ipynb": b"my own"}}, {"main": "mine"})
    publish(model, SETTINGS)
    assert head(hub) == contents(model) | {"demo.ipynb": b"my own"}


def test_a_private_repository_is_made_private(hub: Hub, model: Path) -> None:
    settings = PublishConfig(repo=REPO, private=True)
    assert "(private, commit " in publish(model, settings)
    assert hub.repositories[REPO].private
    assert "(private)" in publish(model, settings)


def test_a_public_repository_is_not_taken_for_a_private_one(hub: Hub, model: Path) -> None:
    hub.repositories[REPO] = Repository({"mine": {}}, {"main": "mine"})
    with pytest.raises(SpeechmillError, match=rf"{REPO} is public, and `publish\.private` is true"):
        publish(model, PublishConfig(repo=REPO, private=True))
    assert head(hub) == {}
    assert not any(request.startswith("PUT") for request in hub.asked)


def test_a_branch_is_made_and_main_stays(hub: Hub, model: Path) -> None:
    settings = PublishConfig(repo=REPO, branch="try/2")
    assert f"{hub.url}/{REPO}/tree/try/2 (public" in publish(model, settings)
    assert head(hub, "try/2") == contents(model)
    assert head(hub) == {}
    assert "nothing was changed" in publish(model, settings)


def test_no_token_is_said_before_anything_is_asked(
    hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(SpeechmillError, match=r"without a token of yours.* HF_TOKEN .*`hf auth login`"):
        publish(model, SETTINGS)
    assert hub.asked == []
    (tmp_path / "token").write_text(TOKEN)  # as `hf auth login` leaves it
    publish(model, SETTINGS)
    assert head(hub) == contents(model)


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (TOKEN[:-1] + "X", "the token is not accepted; make one with the right to write at {url}/settings/tokens"),
        (ANOTHER, "the token may not write there; give it the right at {url}/settings/tokens"),
    ],
    ids=["unknown", "of another"],
)
@pytest.mark.parametrize("there", [False, True])
def test_a_token_that_may_not_write_is_said_and_not_shown(
    hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch, token: str, said: str, there: bool
) -> None:
    if there:
        hub.repositories[REPO] = Repository({"theirs": {}}, {"main": "theirs"})
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(SpeechmillError) as caught:
        publish(model, SETTINGS)
    assert f"{REPO} cannot be published: {said.format(url=hub.url)}" in str(caught.value)
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
FAULTS = [(step, 503, "the Hub has a fault; run again later") for step in STEPS] + [
    (STEPS[3], 404, "the Hub has no such repository"),
    (STEPS[-1], 412, "it was changed at the same moment; run again"),
    (STEPS[1], 418, r"see what the Hub says, and run again \(status 418: words of the Hub\)"),
]


@pytest.mark.parametrize(("step", "status", "said"), FAULTS)
def test_a_fault_of_the_hub_at_any_step_is_said_and_leaves_no_commit(
    hub: Hub, model: Path, step: str, status: int, said: str
) -> None:
    hub.refused[step] = (status, "words of the Hub")
    with pytest.raises(SpeechmillError, match=said):
        publish(model, SETTINGS)
    assert REPO not in hub.repositories or head(hub) == {}


def test_a_connection_that_breaks_within_a_large_file_is_said_and_what_has_arrived_is_not_sent_again(
    hub: Hub, model: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    weights = file_digest(model / "model.safetensors")
    hub.cut[weights] = 20_000
    with pytest.raises(SpeechmillError, match=r"the connection broke off .*check the network and run again") as caught:
        publish(model, SETTINGS)
    # Whoever has the address may write to storage.
    assert SIGNATURE not in str(caught.value) + "".join(capfd.readouterr()) + caplog.text
    assert head(hub) == {}
    hub.cut.clear()
    hub.asked.clear()
    publish(model, SETTINGS)
    assert head(hub) == contents(model)
    assert [request.split("?")[0] for request in hub.asked if request.startswith("PUT")] == [f"PUT /storage/{weights}"]


def test_a_hub_that_is_not_there_is_said(hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(Hub({})) as gone:
        pass  # its port is closed again
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", gone.url)
    with pytest.raises(SpeechmillError, match="the connection broke off"):
        publish(model, SETTINGS)


@pytest.mark.parametrize("error", [XetAuthenticationError("no"), ConnectionError("lost"), RuntimeError("CAS service")])
def test_what_breaks_in_the_hub_s_own_protocol_for_large_files_is_said(
    hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(HfApi, "create_commit", Mock(side_effect=error))
    with pytest.raises(SpeechmillError, match=rf"the connection broke off \({type(error).__name__}\)"):
        publish(model, SETTINGS)


def test_a_fault_of_this_machine_is_not_taken_for_one_of_the_network(
    hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HfApi, "create_commit", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        publish(model, SETTINGS)


def test_the_variable_that_forbids_the_network_is_named(hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SpeechmillError, match="HF_HUB_OFFLINE forbids the network; unset it"):
        publish(model, SETTINGS)
    assert hub.asked == []


def test_a_card_that_the_hub_refuses_makes_nothing_there(hub: Hub, tmp_path: Path) -> None:
    card = CARD.replace("apache-2.0", "my-own-licence").encode()
    model = model_folder(tmp_path / "model", **{"README.md": card})
    check(model, SETTINGS)  # only the Hub knows its licences
    with pytest.raises(SpeechmillError, match=r'README\.md: the Hub refuses .* "license" must be one of \[apache-2'):
        publish(model, SETTINGS)
    assert hub.repositories == {}


@pytest.mark.parametrize(
    "front",
    ["- a\n- list", "a: [", "model-index:\n- name: Tiny\n  results:\n  - metrics: []", "1: one"],
    ids=["no mapping", "no YAML", "no results", "a number"],
)
def test_front_matter_that_the_client_refuses_is_said_without_any_network(hub: Hub, tmp_path: Path, front: str) -> None:
    model = model_folder(tmp_path / "model", **{"README.md": f"---\n{front}\n---\n# Tiny\n".encode()})
    with pytest.raises(SpeechmillError, match=r"README\.md: its front matter is not right"):
        check(model, SETTINGS)
    assert hub.asked == []


def test_a_folder_that_is_not_what_its_manifest_says_is_refused_and_each_fault_named(model: Path) -> None:
    (model / "model.safetensors").write_bytes(WEIGHTS[:-1] + b"!")
    (model / "config.json").unlink()
    (model / "notes.txt").write_text("mine")
    with pytest.raises(SpeechmillError) as caught:
        check(model, SETTINGS)
    faults = str(caught.value).splitlines()[1:]
    assert faults == [f"  {each}" for each in manifest.faults(model)]
    assert len(faults) == 3


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match=r"has no manifest\.json"):
        check(tmp_path, SETTINGS)


@pytest.mark.parametrize("name", ["-a/b", "a/b.", "a/b--c", "a/b..c", "a/b.git"])
def test_a_name_that_the_client_refuses_is_said(model: Path, name: str) -> None:
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
    "bytes deep within": parquet(rows=pa.array([[{"said": [b"fLaC"]}]])),
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
def test_audio_of_any_kind_is_known_by_its_content(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "notes"
    file.write_bytes(CLIPS[kind])
    assert audio_in(file) is not None


def test_tables_that_datasets_reads_as_audio_are_known(tmp_path: Path) -> None:
    file = tmp_path / "clips.parquet"
    schema = clip_schema()
    names = [name for name in schema.names if name != "audio"]
    kept = pa.schema([schema.field(name) for name in names], metadata=schema.metadata)
    pq.write_table(kept.empty_table(), file)
    assert audio_in(file) is not None


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar", "bztar", "xztar"])
def test_archives_are_not_trusted(tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.wav").write_bytes(CLIPS["WAV"])
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), kind, tmp_path / "in"))
    assert audio_in(packed.rename(tmp_path / "notes")) == "packed files, which may be audio"


@pytest.mark.parametrize("name", ["a.wav", "a.FLAC", "a.opus", "a.sph", "a.m4a"])
def test_audio_is_known_by_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"encrypted")
    assert audio_in(tmp_path / name) is not None


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
def test_what_is_no_audio_is_not_taken_for_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "notes"
    file.write_bytes(content)
    assert audio_in(file) is None


@pytest.mark.parametrize(
    ("datasets", "said"),
    [
        ({"corpus": ALLOWED, "common_voice": FORBIDDEN}, "as the terms of common_voice have it"),
        ({"corpus": ALLOWED, "old": {}}, "as the terms of old have it"),
        ({}, "names no corpora"),
    ],
    ids=["one of two forbids", "one says nothing", "none is named"],
)
def test_audio_is_refused_unless_all_corpora_allow_it(tmp_path: Path, datasets: dict[str, Any], said: str) -> None:
    page = {"worst.html": CLIPS["page"], "evidence__a": CLIPS["WAV"]}
    check(model_folder(tmp_path / "allowed", **page), SETTINGS)
    check(model_folder(tmp_path / "without", datasets), SETTINGS)
    with pytest.raises(SpeechmillError) as caught:
        check(model_folder(tmp_path / "refused", datasets, **page), SETTINGS)
    assert said in str(caught.value)
    assert str(caught.value).splitlines()[1:] == ["  evidence/a: audio", "  worst.html: audio, embedded as `data:`"]


def test_audio_is_refused_where_nothing_says_that_it_may_go(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "model", **{"a.wav": b""})
    (model / "evidence/settings.json").unlink()
    manifest.write(model)
    with pytest.raises(SpeechmillError, match=r"there is no evidence/settings\.json, which would say so"):
        check(model, SETTINGS)


def test_a_token_in_a_file_is_refused_and_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDC_API_KEY", "any-kind-of-words")
    model = model_folder(
        tmp_path / "model", **{"a.yaml": f"token: '{TOKEN}'".encode(), "evidence__b": b"key=any-kind-of-words"}
    )
    with pytest.raises(SpeechmillError) as caught:
        check(model, SETTINGS)
    assert str(caught.value).splitlines()[1:] == [
        "  a.yaml: what looks like a token or a private key",
        "  evidence/b: the value of MDC_API_KEY",
    ]
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"hf_model", b"the hf_hub_download function, HF_TOKEN=hf_...", b"MDC_API_KEY", bytes(3) + TOKEN.encode()],
)
def test_words_about_tokens_are_no_tokens(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDC_API_KEY", "")
    file = tmp_path / "notes"
    file.write_bytes(content)
    assert secret_in(file) is None


def run(hub: Hub, *arguments: object, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    """Run the program with nobody's settings but `token`, against `hub`."""
    return run_stage(
        "report.publish", *arguments,
        env={
            "HF_ENDPOINT": hub.url,
            "HF_HOME": "/nonexistent",
            "HF_TOKEN": token,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        },
    )  # fmt: skip


def test_by_hand_a_dry_run_lists_what_would_go_and_asks_for_nothing_and_the_next_run_does_it(
    hub: Hub, model: Path
) -> None:
    dry = run(hub, model, "--repo", REPO, "--private", "--dry-run", token="")
    assert dry.returncode == 0, dry.stderr
    lines = dry.stdout.splitlines()
    assert lines[0] == f"{model} would go to the branch main of {REPO} (private, if it is made now):"
    listed = {name: int(size.replace(",", "")) for size, name in map(str.split, lines[1:-1])}
    assert listed == {name: len(content) for name, content in contents(model).items()}
    assert lines[-1].split() == [f"{sum(listed.values()):,}", "bytes", "in", str(len(listed)), "files"]
    assert hub.asked == []
    done = run(hub, model, "--repo", REPO, "--private")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{model} is published: {hub.url}/{REPO} (private, commit ")
    assert TOKEN not in done.stdout + done.stderr
    assert "data file" not in done.stderr  # the client's advice to make a data set of it
    assert head(hub) == contents(model)


def test_of_several_folders_none_goes_where_one_may_not(hub: Hub, model: Path, tmp_path: Path) -> None:
    other = model_folder(tmp_path / "other")
    (other / "config.json").unlink()
    sections = [as_json({"repo": REPO}), as_json({"repo": "somebody/other"})]
    done = run(hub, model, other, "--settings", *sections)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {other} is not what was made")
    assert hub.asked == []
    manifest.write(other)
    assert run(hub, model, other, "--settings", *sections).returncode == 0
    assert set(hub.repositories) == {REPO, "somebody/other"}


def test_without_any_section_the_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["publish", "--settings"])
    with pytest.raises(
        SpeechmillError, match=r"no run has a key `publish`.*`runs\.RUN\.publish: \{repo: NAME/MODEL\}`"
    ):
        main()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--repo", "tiny"], "--repo: String should match"),
        (["--repo", REPO, "--branch", ""], "--branch: String should match"),
        (["again", "--repo", REPO], "2 folders for 1 repositories"),
        ([], "one of the arguments --repo --settings is required"),
    ],
)
def test_what_is_given_by_hand_is_checked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    monkeypatch.setattr("sys.argv", ["publish", "model", *arguments])
    with pytest.raises(SystemExit):
        main()
    assert said in capsys.readouterr().err


def test_a_run_that_makes_no_model_has_nothing_to_publish() -> None:
    scored: dict[str, Any] = {
        "training": "none", "language": "ru", "model": {"base": "./theirs"}, "evaluation": {"sets": ["cv-test"]},
    }  # fmt: skip
    Run.model_validate(scored)
    with pytest.raises(ValueError, match="`publish` is for training: leave that out"):
        Run.model_validate(scored | {"publish": {"repo": REPO}})


def test_a_listing_says_who_could_see_it(model: Path) -> None:
    assert "(public, if it is made now)" in listing(model, SETTINGS)
