import io
import json
import random
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Audio, ClassLabel, Features, Value
from huggingface_hub import HfFileSystem
from pydantic import TypeAdapter

from hub_client import connected
from hub_server import Hub as Server
from hub_server import Repository, served
from material import ROOT, audio_file, noise
from speechmill.config.datasets import Dataset, FolderDataset, Hub, HubDataset
from speechmill.core.command import SpeechmillError
from speechmill.corpus.encoded import Encoded
from speechmill.corpus.sources.corpus import SourceClip, UnavailableError
from speechmill.corpus.sources.hub import open_hub

OLD, NEW = "0" * 39 + "1", "0" * 39 + "2"
SOUNDS = [audio_file(noise(0.05, seed=seed)) for seed in range(6)]
TEXT = Value("string")
PLAIN = Features({"audio": Audio(), "sentence": TEXT})
TOKEN = "hf_thisIsASecretThatNobodyMaySee"


def parquet(rows: Sequence[Mapping[str, Any]], features: Features, group: int = 2) -> bytes:
    """Return a Parquet file with Audio columns as `datasets` writes them."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=features.arrow_schema), buffer, row_group_size=group)
    return buffer.getvalue()


def spoken(*numbers: int) -> list[dict[str, Any]]:
    """Return rows with a recording and its sentence."""
    return [{"audio": {"bytes": SOUNDS[n], "path": f"{n}.wav"}, "sentence": f"sentence {n}"} for n in numbers]


def card(**front: Any) -> bytes:
    """Return the card of a dataset."""
    return f"---\n{yaml.safe_dump(front)}---\n# Card\n".encode()


def one_commit(files: Mapping[str, bytes], *, gated: bool = False) -> Repository:
    """Return a dataset whose branch main points to NEW, its only commit."""
    return Repository({NEW: files}, {"main": NEW}, gated)


# Source: the columns of kresnik/zeroth_korean and Bingsu/zeroth-korean on the Hub.
KRESNIK = Features(
    {
        "id": TEXT,
        "speaker_id": Value("int64"),
        "chapter_id": Value("int64"),
        "path": TEXT,
        "audio": Audio(16000),
        "text": TEXT,
    }
)
BINGSU = Features({"audio": Audio(16000), "text": TEXT})


def kresnik(speaker: int, *numbers: int) -> bytes:
    """Return a file of kresnik/zeroth_korean."""
    rows = [
        {"id": f"{speaker}_003_{n:04d}", "speaker_id": speaker, "chapter_id": 3, "path": f"/their/disk/{n}.flac"}
        | {"audio": {"bytes": SOUNDS[n], "path": f"{speaker}_003_{n:04d}.flac"}, "text": f"문장 {n}"}
        for n in numbers
    ]
    return parquet(rows, KRESNIK)


AUDIOFOLDER = {
    "train/metadata.csv": b"file_name,sentence\na.wav,sentence 0\nb/c.wav,sentence 1\nlost.wav,sentence 2\n",
    "train/a.wav": SOUNDS[0],
    "train/b/c.wav": SOUNDS[1],
    "test/metadata.csv": b"file_name,sentence\nd.wav,sentence 3\n",
    "test/d.wav": SOUNDS[3],
}
# The layout of the sets of the Robust Speech Event: one configuration per language, and one split.
EVENT = {
    "README.md": card(
        configs=[
            {"config_name": language, "data_files": [{"split": "validation", "path": f"{language}/*.parquet"}]}
            for language in ("ko", "ru")
        ]
    ),
    "ko/validation-00000-of-00001.parquet": parquet(spoken(4), PLAIN),
    "ru/validation-00000-of-00002.parquet": parquet(spoken(0, 1, 2), PLAIN),
    "ru/validation-00001-of-00002.parquet": parquet(spoken(3), PLAIN),
}
REPOSITORIES = {
    "datasets/kresnik/zeroth_korean": Repository(
        commits={
            OLD: {"data/train-0.parquet": kresnik(104, 0), "data/test-0.parquet": kresnik(105, 1)},
            NEW: {"data/train-0.parquet": kresnik(104, 0, 2, 3), "data/test-0.parquet": kresnik(105, 1)},
        },
        branches={"main": NEW, "v1": OLD},
    ),
    "datasets/Bingsu/zeroth-korean": one_commit(
        {
            f"data/{split}-00000-of-00001.parquet": parquet(
                [{"audio": {"bytes": SOUNDS[n], "path": None}, "text": f"문장 {n}"} for n in numbers], BINGSU
            )
            for split, numbers in {"train": (0, 1, 2), "test": (3,)}.items()
        }
    ),
    "datasets/speech-recognition-community-v2/dev_data": one_commit(EVENT, gated=True),
    "datasets/somebody/audiofolder": one_commit(AUDIOFOLDER),
    "datasets/somebody/scripted": one_commit({"scripted.py": b"import this", "data/train.parquet": kresnik(1, 1)}),
    "datasets/somebody/empty": one_commit({"README.md": b"# nothing here"}),
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A local Hub that both libraries use instead of the real one, without a login."""
    with connected(Server(REPOSITORIES), monkeypatch, tmp_path) as running:
        settings = datasets.config
        monkeypatch.setattr(settings, "HF_ENDPOINT", running.url)
        monkeypatch.setattr(settings, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(settings, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
        HfFileSystem.clear_instance_cache()
        yield running


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the libraries retry immediately and only twice."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(datasets.config, "STREAMING_READ_MAX_RETRIES", 2)


def on_hub(hub_id: str, revision: str = "main", **settings: Any) -> Hub:
    """Return the settings of a dataset on the Hub."""
    return Hub(source="hub", hub_id=hub_id, revision=revision, language="ko", **settings)


def read(
    tmp_path: Path, settings: Hub, splits: Sequence[str], path: Path | None = None
) -> tuple[list[SourceClip], dict[str, Encoded | None], dict[str, Any]]:
    """Return the clips, their bytes by id and the recorded identity, and check that no temporary files remain."""
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    try:
        with open_hub(path, settings, list(splits), work) as corpus:
            return corpus.clips, {clip.id: corpus.read(clip) for clip in corpus.clips}, corpus.about
    finally:
        assert list(work.iterdir()) == []


def read_folder(
    tmp_path: Path, files: Mapping[str, bytes], splits: Sequence[str] = ("train",), **settings: Any
) -> tuple[list[SourceClip], dict[str, Encoded | None]]:
    """Return the clips of a folder with these files, and their bytes by id."""
    folder = tmp_path / "corpus"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    config = Hub(source="hub", path=str(folder), language="ko", **settings)
    clips, sounds, about = read(tmp_path, config, splits, folder)
    assert about == {}
    return clips, sounds


KRESNIK_CLIPS = [
    SourceClip(f"104_003_{n:04d}", ("train",), f"104_003_{n:04d}.flac", f"문장 {n}", speaker_id="104")
    for n in (0, 2, 3)
] + [SourceClip("105_003_0001", ("test",), "105_003_0001.flac", "문장 1", speaker_id="105")]


def test_a_dataset_with_ids_and_speakers_is_read(hub: Server, tmp_path: Path) -> None:
    settings = on_hub("kresnik/zeroth_korean", columns={"sentence": "text"})
    clips, sounds, about = read(tmp_path, settings, ["train", "test"])
    assert clips == KRESNIK_CLIPS
    assert list(sounds.values()) == [SOUNDS[0], SOUNDS[2], SOUNDS[3], SOUNDS[1]]
    assert about == {"hub_id": "kresnik/zeroth_korean", "revision": "main", "commit": NEW}


def test_clips_without_ids_are_numbered(hub: Server, tmp_path: Path) -> None:
    settings = on_hub("Bingsu/zeroth-korean", columns={"sentence": "text"})
    clips, sounds, _ = read(tmp_path, settings, ["test", "train"])
    assert clips == [
        SourceClip("test-000000", ("test",), "test-000000", "문장 3"),
        *(SourceClip(f"train-00000{n}", ("train",), f"train-00000{n}", f"문장 {n}") for n in range(3)),
    ]
    assert list(sounds.values()) == [SOUNDS[3], SOUNDS[0], SOUNDS[1], SOUNDS[2]]


def test_a_configuration_is_selected(hub: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    settings = on_hub("speech-recognition-community-v2/dev_data", config="ru")
    clips, sounds, _ = read(tmp_path, settings, ["validation"])
    assert clips == [SourceClip(f"validation-00000{n}", ("validation",), f"{n}.wav", f"sentence {n}") for n in range(4)]
    assert list(sounds.values()) == SOUNDS[:4]


@pytest.mark.parametrize("revision", ["v1", OLD], ids=["tag", "commit"])
def test_a_pinned_revision_is_read(hub: Server, tmp_path: Path, revision: str) -> None:
    settings = on_hub("kresnik/zeroth_korean", revision, columns={"sentence": "text"})
    clips, _, about = read(tmp_path, settings, ["train"])
    assert [clip.id for clip in clips] == ["104_003_0000"]
    assert (about["revision"], about["commit"]) == (revision, OLD)
    assert not any(NEW in request or "/resolve/main" in request for request in hub.requests)


def test_a_split_may_have_another_name(hub: Server, tmp_path: Path) -> None:
    settings = on_hub("kresnik/zeroth_korean", columns={"sentence": "text"}, source_splits={"dev": "test"})
    clips, _, _ = read(tmp_path, settings, ["dev"])
    assert [(clip.id, clip.splits) for clip in clips] == [("105_003_0001", ("dev",))]


def test_a_folder_is_read_like_the_hub(hub: Server, tmp_path: Path) -> None:
    files = hub.repositories["datasets/kresnik/zeroth_korean"].commits[NEW]
    clips, sounds = read_folder(tmp_path, files, ["train", "test"], columns={"sentence": "text"})
    assert clips == KRESNIK_CLIPS
    assert list(sounds.values()) == [SOUNDS[0], SOUNDS[2], SOUNDS[3], SOUNDS[1]]
    assert hub.requests == []


@pytest.mark.parametrize("remote", [False, True], ids=["folder", "hub"])
def test_an_audio_folder_is_read_with_its_metadata(hub: Server, tmp_path: Path, remote: bool) -> None:
    if remote:
        clips, sounds, _ = read(tmp_path, on_hub("somebody/audiofolder"), ["train", "test"])
    else:
        clips, sounds = read_folder(tmp_path, AUDIOFOLDER, ["train", "test"])
    assert clips == [
        SourceClip("train-000000", ("train",), "a.wav", "sentence 0"),
        SourceClip("train-000001", ("train",), "c.wav", "sentence 1"),
        SourceClip("train-000002", ("train",), "lost.wav", "sentence 2"),
        SourceClip("test-000000", ("test",), "d.wav", "sentence 3"),
    ]
    # The bytes of a listed file that does not exist are None.
    assert list(sounds.values()) == [SOUNDS[0], SOUNDS[1], None, SOUNDS[3]]


def test_parquet_and_audio_folders_are_equivalent(tmp_path: Path) -> None:
    rows = [*spoken(0, 1), {"audio": None, "sentence": "sentence 2"}]
    rows[0]["audio"]["path"], rows[1]["audio"]["path"] = "a.wav", "c.wav"
    clips, sounds = read_folder(tmp_path / "one", {"train.parquet": parquet(rows, PLAIN)})
    others, other_sounds = read_folder(tmp_path / "other", AUDIOFOLDER)
    assert clips[:2] == others[:2]
    assert sounds == other_sounds


def test_speaker_columns_are_text_or_none(tmp_path: Path) -> None:
    features = Features(
        PLAIN
        | {"id": Value("int32"), "gender": ClassLabel(names=["female", "male"]), "born": Value("int64"), "accent": TEXT}
    )
    speakers = [
        {"id": 7, "gender": 1, "born": 1984, "accent": "서울"},
        {"id": 8, "gender": -1, "born": None, "accent": ""},
        {"id": 9, "gender": None, "born": 0, "accent": None, "sentence": None},
    ]
    rows = [row | about for row, about in zip(spoken(0, 1, 2), speakers, strict=True)]
    clips, _ = read_folder(tmp_path, {"train.parquet": parquet(rows, features)}, columns={"age": "born"})
    assert clips == [
        SourceClip("7", ("train",), "0.wav", "sentence 0", gender="male", age="1984", accent="서울"),
        SourceClip("8", ("train",), "1.wav", "sentence 1"),
        SourceClip("9", ("train",), "2.wav", "", age="0"),
    ]


def test_audio_may_be_a_column_of_bytes(tmp_path: Path) -> None:
    features = Features({"wav": Value("binary"), "sentence": TEXT})
    files = {"train.parquet": parquet([{"wav": SOUNDS[0], "sentence": "a"}], features)}
    clips, sounds = read_folder(tmp_path, files, columns={"audio": "wav"})
    assert clips == [SourceClip("train-000000", ("train",), "train-000000", "a")]
    assert sounds == {"train-000000": SOUNDS[0]}


def web_dataset() -> bytes:
    """Return an archive in the WebDataset format: each clip beside JSON."""
    members = []
    for number in range(2):
        about = {"text": f"sentence {number}", "speaker": {"id": f"s{number}"}, "tags": ["x"]}
        members += [(f"{number}.wav", SOUNDS[number]), (f"{number}.json", json.dumps(about).encode())]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_fields_of_nested_columns_are_named_with_dots(tmp_path: Path) -> None:
    columns = {"audio": "wav", "sentence": "json.text", "speaker_id": "json.speaker.id"}
    clips, sounds = read_folder(tmp_path, {"train-0.tar": web_dataset()}, columns=columns)
    assert [(clip.sentence, clip.speaker_id) for clip in clips] == [("sentence 0", "s0"), ("sentence 1", "s1")]
    assert list(sounds.values()) == SOUNDS[:2]


@pytest.mark.parametrize("column", ["json", "json.tags"])
def test_a_sentence_that_is_not_text_is_refused_with_its_fields(tmp_path: Path, column: str) -> None:
    with pytest.raises(
        SpeechmillError,
        match=rf"the column `{column}` is not text \(.*string.*; set .*`columns\.sentence` to one of .*json\.text, ",
    ):
        read_folder(tmp_path, {"train-0.tar": web_dataset()}, columns={"audio": "wav", "sentence": column})


@pytest.mark.parametrize("kind", [Value("date32"), Value("timestamp[s]"), Value("float64"), Value("bool")])
def test_a_sentence_of_another_type_is_refused(tmp_path: Path, kind: Value) -> None:
    rows = [row | {"sentence": None} for row in spoken(0)]
    with pytest.raises(SpeechmillError, match=r"the column `sentence` is not text \(Value"):
        read_folder(tmp_path, {"train.parquet": parquet(rows, Features(PLAIN | {"sentence": kind}))})


@pytest.mark.parametrize("remote", [False, True], ids=["folder", "hub"])
@pytest.mark.parametrize("table", ["csv", "parquet"])
def test_audio_may_be_a_column_of_paths(hub: Server, tmp_path: Path, table: str, remote: bool) -> None:
    names = ["clips/a.wav", "clips/lost.wav", "../secret.wav"]
    rows = [{"audio": name, "sentence": f"sentence {n}"} for n, name in enumerate(names)]
    lines = "".join(f"{row['audio']},{row['sentence']}\n" for row in rows)
    content = {"csv": f"audio,sentence\n{lines}".encode(), "parquet": parquet(rows, Features(PLAIN | {"audio": TEXT}))}
    files = {f"train.{table}": content[table], "clips/a.wav": SOUNDS[0]}
    (tmp_path / "secret.wav").write_bytes(b"secret")
    if remote:
        hub.repositories = {"datasets/a/b": one_commit(files)}
        clips, sounds, _ = read(tmp_path, on_hub("a/b"), ["train"])
    else:
        clips, sounds = read_folder(tmp_path, files)
    assert (clips[0].file, clips[0].sentence) == ("a.wav", "sentence 0")
    assert list(sounds.values()) == [SOUNDS[0], None, None]


def test_a_path_with_two_colons_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a::b").mkdir()
    with pytest.raises(SpeechmillError, match="a::b has `::` in its path, which `datasets` takes for an archive"):
        read(tmp_path, Hub(source="hub", path="-", language="ko"), ["train"], tmp_path / "a::b")


def test_files_and_row_groups_are_read_in_order(tmp_path: Path) -> None:
    rows = [{"audio": {"bytes": b"%d" % n, "path": None}, "sentence": str(n)} for n in range(100)]
    files = {
        "train-00000-of-00002.parquet": parquet(rows[:70], PLAIN, group=40),
        "train-00001-of-00002.parquet": parquet(rows[70:], PLAIN, group=7),
    }
    clips, sounds = read_folder(tmp_path, files)
    assert [clip.sentence for clip in clips] == [str(n) for n in range(100)]
    assert list(sounds.values()) == [b"%d" % n for n in range(100)]


@pytest.mark.parametrize(
    "name",
    [
        "{outside}",
        "file://{outside}",
        "{inside}/../secret.wav",
        "file://{outside}::{inside}/train.parquet",
        "zip://a.wav::{outside}",
        "hf://datasets/somebody/else@main/a.wav",
        "train.parquet",
    ],
)
def test_a_name_outside_the_dataset_is_a_missing_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.wav").write_bytes(b"secret")
    path = name.format(outside=tmp_path / "secret.wav", inside=tmp_path / "corpus")
    rows = [{"audio": {"bytes": None, "path": path}, "sentence": "a"}]
    _, sounds = read_folder(tmp_path, {"train.parquet": parquet(rows, PLAIN)})
    assert sounds == {"train-000000": None}


def test_only_the_card_is_cached(hub: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    read(tmp_path, on_hub("speech-recognition-community-v2/dev_data", config="ko"), ["validation"])
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert EVENT["README.md"] in kept
    assert not any(b"RIFF" in content for content in kept)
    assert not (tmp_path / "datasets").exists()
    assert not any("ru/" in request and "resolve" in request for request in hub.requests)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            on_hub("somebody/lost"),
            "the Hub has no dataset somebody/lost, or it is private: check `hub_id`, and set HF_TOKEN",
        ),
        (
            on_hub("speech-recognition-community-v2/dev_data", config="ru"),
            "speech-recognition-community-v2/dev_data is gated: accept its terms at"
            " {url}/datasets/speech-recognition-community-v2/dev_data, and set HF_TOKEN",
        ),
        (
            on_hub("kresnik/zeroth_korean", "v9"),
            "kresnik/zeroth_korean has no revision v9; check the dataset's `revision`",
        ),
        (
            on_hub("somebody/scripted"),
            "somebody/scripted needs its own loading script, which `datasets` no longer runs; use a revision with"
            " Parquet files, such as `refs/convert/parquet` with its `data_dir`, or a local folder as `path`",
        ),
    ],
    ids=["absent", "gated", "revision", "script"],
)
def test_an_inaccessible_dataset_is_unavailable(hub: Server, tmp_path: Path, settings: Hub, message: str) -> None:
    with pytest.raises(UnavailableError) as error:
        read(tmp_path, settings, ["validation"])
    assert str(error.value) == message.format(url=hub.url)


def test_a_hub_that_fails_is_unavailable(hub: Server, tmp_path: Path) -> None:
    hub.failing = True
    with pytest.raises(
        UnavailableError, match=r"does not answer for a/b \(status 500\): check the network and HF_TOKEN"
    ):
        read(tmp_path, on_hub("a/b"), ["train"])


def test_a_hub_that_does_not_answer_is_unavailable(
    hub: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(Server({})) as gone:
        pass  # now its port is closed
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", gone.url)
    with pytest.raises(UnavailableError, match=r"does not answer for a/b \(ConnectError\): check the network"):
        read(tmp_path, on_hub("a/b"), ["train"])


def test_without_a_network_a_dataset_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"does not answer for a/b \(OfflineModeIsEnabled\)"):
        read(tmp_path, on_hub("a/b"), ["train"])


@pytest.mark.parametrize("offset", [4, 1_500_000, 2_000_000], ids=["first clip", "in between", "last clips"])
@pytest.mark.usefixtures("no_waiting")
def test_a_broken_connection_is_an_error(hub: Server, tmp_path: Path, offset: int) -> None:
    rows = [{"audio": {"bytes": random.Random(n).randbytes(1_000_000), "path": None}, "sentence": ""} for n in range(3)]
    hub.repositories = {"datasets/a/b": one_commit({"train.parquet": parquet(rows, PLAIN, group=1)})}
    hub.cut["train.parquet"] = offset
    with pytest.raises(SpeechmillError, match=r"^a/b: the connection broke \(.*\); run again$") as error:
        read(tmp_path, on_hub("a/b"), ["train"])
    assert not isinstance(error.value, UnavailableError)


@pytest.mark.parametrize(("broken", "offset"), [("train/b/c.wav", 1000), ("train/metadata.csv", 40), ("README.md", 10)])
@pytest.mark.usefixtures("no_waiting")
def test_a_broken_connection_in_an_audio_folder_is_an_error(
    hub: Server, tmp_path: Path, broken: str, offset: int
) -> None:
    hub.repositories = {"datasets/a/b": one_commit(AUDIOFOLDER | {"README.md": card(license="cc0-1.0")})}
    hub.cut[broken] = offset
    with pytest.raises(SpeechmillError, match=r"^a/b: the connection broke \(.*\); run again$") as error:
        read(tmp_path, on_hub("a/b"), ["train"])
    assert not isinstance(error.value, UnavailableError)


@pytest.mark.usefixtures("no_waiting")
def test_a_token_is_sent_and_never_shown(
    hub: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.cut["data/train-0.parquet"] = 600
    read(tmp_path, on_hub("speech-recognition-community-v2/dev_data", config="ru"), ["validation"])
    with pytest.raises(SpeechmillError) as broken:
        read(tmp_path, on_hub("kresnik/zeroth_korean", columns={"sentence": "text"}), ["train"])
    assert hub.tokens == {f"Bearer {TOKEN}"}
    out, err = capfd.readouterr()
    assert TOKEN not in out + err + str(broken.value)
    assert "validation" in err  # the output is not empty


@pytest.mark.parametrize(
    ("settings", "splits", "message"),
    [
        (on_hub("a/b/c"), ["train"], "`hub_id`: a/b/c is not an id on the Hub; use `owner/name`"),
        (
            on_hub("somebody/event", config="sah"),
            ["validation"],
            "somebody/event has no configuration sah; set the dataset's `config` to one of ko, ru",
        ),
        (
            on_hub("somebody/event"),
            ["validation"],
            "somebody/event has several configurations; set the dataset's `config` to one of ko, ru",
        ),
        (
            on_hub("kresnik/zeroth_korean"),
            ["train", "dev"],
            "kresnik/zeroth_korean has no split dev, only train, test; correct the dataset's `splits`, or set"
            " `source_splits.dev` if the split has another name there",
        ),
        (
            on_hub("kresnik/zeroth_korean"),
            ["train"],
            "kresnik/zeroth_korean has no column `sentence`; set the dataset's `columns.sentence` to one of its"
            " columns: id, speaker_id, chapter_id, path, audio, text",
        ),
        (
            on_hub("kresnik/zeroth_korean", columns={"sentence": "text", "gender": "sex"}),
            ["train"],
            "kresnik/zeroth_korean has no column `sex`; set the dataset's `columns.gender` to one of its columns: id,"
            " speaker_id, chapter_id, path, audio, text",
        ),
        (
            on_hub("kresnik/zeroth_korean", columns={"sentence": "text", "audio": "chapter_id"}),
            ["train"],
            "kresnik/zeroth_korean: the column `chapter_id` contains no audio (Value('int64')); set the dataset's"
            " `columns.audio` to one of id, speaker_id, chapter_id, path, audio, text",
        ),
        (
            on_hub("Bingsu/zeroth-korean", columns={"sentence": "text", "audio": "text"}),
            ["train"],
            "Bingsu/zeroth-korean: the column `text` is text, and the dataset has no file of such a name as 문장 0; set"
            " the dataset's `columns.audio` to a column with audio, or `path` to a copy with these files",
        ),
        (
            on_hub("kresnik/zeroth_korean", columns={"sentence": "chapter_id"}),
            ["train"],
            "kresnik/zeroth_korean: the column `chapter_id` is not text (Value('int64')); set the dataset's"
            " `columns.sentence` to one of id, speaker_id, chapter_id, path, audio, text",
        ),
    ],
    ids=["id", "config", "no config", "split", "sentence", "gender", "audio", "paths", "number"],
)
def test_wrong_settings_are_reported_with_choices(
    hub: Server, tmp_path: Path, settings: Hub, splits: list[str], message: str
) -> None:
    hub.repositories = REPOSITORIES | {"datasets/somebody/event": one_commit(EVENT)}
    with pytest.raises(SpeechmillError) as error:
        read(tmp_path, settings, splits)
    assert str(error.value) == message
    assert not isinstance(error.value, UnavailableError)


def test_a_repository_without_data_is_reported(hub: Server, tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match=r"^somebody/empty cannot be read \(.*doesn't contain any data files"):
        read(tmp_path, on_hub("somebody/empty"), ["train"])


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (["a", "b"], ["c", "a"], "row 1 of test repeats the id a"),
        (["a", "a"], ["c"], "row 1 of train repeats the id a"),
        (["a", None], ["c"], "row 1 of train has no id"),
    ],
)
def test_a_missing_or_repeated_id_is_named(
    tmp_path: Path, train: list[str | None], test: list[str | None], message: str
) -> None:
    features = Features(PLAIN | {"id": TEXT})
    files = {
        f"{split}.parquet": parquet([row | {"id": i} for row, i in zip(spoken(0, 1), ids, strict=False)], features)
        for split, ids in {"train": train, "test": test}.items()
    }
    with pytest.raises(SpeechmillError, match=f"{message} in the column `id`; set the dataset's `columns.id` to a"):
        read_folder(tmp_path, files, ["train", "test"])


def test_a_file_with_other_columns_is_named(tmp_path: Path) -> None:
    other = Features({"audio": Audio(), "text": TEXT})
    files = {
        "train-00000-of-00002.parquet": parquet(spoken(0), PLAIN),
        "train-00001-of-00002.parquet": parquet([{"audio": None, "text": "a"}], other),
    }
    with pytest.raises(SpeechmillError, match=r"train-00001-of-00002\.parquet lacks the columns sentence"):
        read_folder(tmp_path, files)


@pytest.mark.parametrize("damaged", [lambda content: content[:-20], lambda content: b"", lambda content: b"PAR1" * 9])
def test_a_damaged_file_is_refused(tmp_path: Path, damaged: Callable[[bytes], bytes]) -> None:
    files = {
        "train-00000-of-00002.parquet": parquet(spoken(0), PLAIN),
        "train-00001-of-00002.parquet": damaged(parquet(spoken(1), PLAIN)),
    }
    with pytest.raises(SpeechmillError, match=r"corpus cannot be read \("):
        read_folder(tmp_path, files)


def test_a_path_that_is_not_a_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match=r"clips\.parquet is not a folder; set the dataset's `path` to a f"):
        read(tmp_path, Hub(source="hub", path="-", language="ko"), ["train"], tmp_path / "clips.parquet")


def predefined(name: str, **changed: Any) -> Hub:
    """Return the source of an entry of config/datasets.yaml."""
    entries = yaml.safe_load((ROOT / "config" / "datasets.yaml").read_text(encoding="utf-8"))["datasets"]
    return Hub.model_validate({k: v for k, v in entries[name].items() if k in Hub.model_fields} | changed)


def row(n: int, **values: Any) -> dict[str, Any]:
    return {"audio": {"bytes": SOUNDS[n], "path": f"{n}.wav"}} | values


def named_splits(config: str, splits: Mapping[str, str]) -> bytes:
    """Return a card that gives each split of a configuration the files of a pattern."""
    files = [{"split": split, "path": path} for split, path in splits.items()]
    return card(configs=[{"config_name": config, "data_files": files}])


# Source: the columns and file names of these datasets on the Hub. Audio has the type of its files there.
INT, SEX = Value("int32"), ClassLabel(names=["male", "female", "other"])
FLEURS = Features(
    {
        "id": INT, "num_samples": INT, "path": TEXT, "audio": Audio(16000), "transcription": TEXT,
        "raw_transcription": TEXT, "gender": SEX, "lang_id": INT, "language": TEXT, "lang_group_id": INT,
    }
)  # fmt: skip
VOXPOPULI = Features(
    {
        "audio_id": TEXT, "language": INT, "audio": Audio(16000), "raw_text": TEXT, "normalized_text": TEXT,
        "gender": TEXT, "speaker_id": TEXT, "is_gold_transcript": Value("bool"), "accent": TEXT,
    }
)  # fmt: skip
MLS = Features(
    {
        "audio": Audio(), "original_path": TEXT, "begin_time": Value("float64"), "end_time": Value("float64"),
        "transcript": TEXT, "audio_duration": Value("float64"), "speaker_id": TEXT, "chapter_id": TEXT, "file": TEXT,
        "id": TEXT,
    }
)  # fmt: skip
LIBRISPEECH = Features(
    {
        "file": TEXT, "audio": Audio(16000), "text": TEXT, "speaker_id": Value("int64"),
        "chapter_id": Value("int64"), "id": TEXT,
    }
)  # fmt: skip
GOLOS = Features({"audio": Audio(16000), "transcription": TEXT})
FIRST = {
    "fleurs_ko": ("test-000000", "문장 1.", None, "female"),
    "voxpopuli_sl": ("2013-1", "stavek", "96787", "male"),
    "mls_it": ("1_2_3", "frase", "1", None),
    "librispeech_100": ("6930-1-0", "A SENTENCE", "6930", None),
    "golos_crowd_10h": ("test-000000", "включи свет", None, None),
}
MINIATURES = {
    "fleurs_ko": {
        # Two speakers read the sentence with the id 7.
        "ko_kr/test/0000.parquet": parquet(
            [row(n, id=7, transcription="문장 1", raw_transcription="문장 1.", gender=1) for n in (0, 1)], FLEURS
        ),
        "ko_kr/train/0000.parquet": parquet([row(2, id=8)], FLEURS),
        "fr_fr/test/0000.parquet": parquet([row(3, id=9)], FLEURS),
    },
    "voxpopuli_sl": {
        "sl/test/0000.parquet": parquet(
            [
                row(0, audio_id="2013-1", normalized_text="stavek", gender="male", speaker_id="96787")
            ],
            VOXPOPULI,
        ),
    },
    "mls_it": {
        "README.md": named_splits("italian", {"dev": "italian/dev-*", "test": "italian/test-*"}),
        "italian/test-00000-of-00001.parquet": parquet([row(0, id="1_2_3", transcript="frase", speaker_id="1")], MLS),
        "italian/dev-00000-of-00001.parquet": parquet([row(1, id="1_2_4", transcript="frase", speaker_id="1")], MLS),
    },
    "librispeech_100": {
        "README.md": named_splits("clean", {"train.100": "clean/train.100/*", "test": "clean/test/*"}),
        "clean/test/0000.parquet": parquet([row(0, id="6930-1-0", text="A SENTENCE", speaker_id=6930)], LIBRISPEECH),
        "clean/train.100/0000.parquet": parquet([row(1, id="1-1-0", text="A", speaker_id=1)], LIBRISPEECH),
    },
    "golos_crowd_10h": {
        "data/test-00000-of-00003-cad0.parquet": parquet([row(0, transcription="включи свет")], GOLOS),
        "data/train-00000-of-00003-85be.parquet": parquet([row(1, transcription="да")], GOLOS),
    },
}  # fmt: skip


@pytest.mark.parametrize("name", MINIATURES)
def test_predefined_dataset_reads_the_layout_of_the_hub(tmp_path: Path, name: str) -> None:
    settings = predefined(name, hub_id=None, revision=None, path="-").model_dump(exclude={"source", "path", "language"})
    clips, sounds = read_folder(tmp_path, MINIATURES[name], ["test"], **settings)
    first = clips[0]
    assert (first.id, first.sentence, first.speaker_id, first.gender) == FIRST[name]
    assert sounds[first.id] == SOUNDS[0]
    assert len(clips) == (2 if name == "fleurs_ko" else 1)


def test_branch_of_converted_files_is_read(hub: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = Repository(
        {OLD: {"fleurs.py": b"import this"}, NEW: MINIATURES["fleurs_ko"]}, {"main": OLD, "refs/convert/parquet": NEW}
    )
    monkeypatch.setitem(hub.repositories, "datasets/google/fleurs", repository)
    clips, _, about = read(tmp_path, predefined("fleurs_ko"), ["train", "test"])
    assert [clip.id for clip in clips] == ["train-000000", "test-000000", "test-000001"]
    assert (about["revision"], about["commit"]) == ("refs/convert/parquet", NEW)


def test_every_predefined_dataset_is_valid() -> None:
    entries = yaml.safe_load((ROOT / "config" / "datasets.yaml").read_text(encoding="utf-8"))["datasets"]
    parsed = {name: TypeAdapter(Dataset).validate_python(entry) for name, entry in entries.items()}
    assert all(isinstance(dataset, HubDataset | FolderDataset) for dataset in parsed.values())
    assert {name for name, dataset in parsed.items() if dataset.optional} == {
        f"robust_{part}_{language}" for part in ("dev", "test") for language in ("ru", "ko")
    }
    assert {"zeroth_kresnik", "zeroth_bingsu"} < set(parsed)
