import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from numpy.typing import NDArray

from material import audio_file, noise
from speechmill.config.datasets import Folder
from speechmill.core.command import SpeechmillError
from speechmill.corpus.audio import UnreadableAudioError
from speechmill.corpus.pieces import cut
from speechmill.corpus.sources.corpus import Corpus, SourceClip
from speechmill.corpus.sources.folder import open_folder

NEMO = {"path": "audio_filepath", "sentence": "text"}


def read(path: Path, manifest: str, **settings: Any) -> list[tuple[str, str, bytes | None]]:
    """Return the id, the file and the bytes of all clips."""
    folder = Folder.model_validate(
        {"source": "folder", "path": "", "language": "en", "manifest": manifest, **settings}
        | {"split": {"field": settings.get("columns", {}).get("path", "path"), "values": {}, "default": "train"}}
    )
    with open_folder(path, folder, ["train"], path) as corpus:
        return [(clip.id, _name(clip), _content(corpus, clip, path)) for clip in corpus.clips]


def _name(clip: SourceClip) -> str:
    return clip.file if clip.piece is None else f"{clip.file} {clip.piece}"


def _content(corpus: Corpus, clip: SourceClip, work: Path) -> bytes | None:
    recording = corpus.read(clip)
    if recording is None or clip.piece is None:
        return recording if isinstance(recording, bytes) else None
    pieces = cut(recording, clip.file, [clip.piece], work)
    return b"".join(b"" if isinstance(piece, UnreadableAudioError) else piece.read() for piece in pieces)


def recording(path: Path, seconds: float, channels: int = 1, rate: int = 8000) -> tuple[bytes, NDArray[Any]]:
    """Write a recording, and return its bytes and its samples."""
    samples = np.stack([noise(seconds, rate, seed) for seed in range(channels)], axis=1)
    path.write_bytes(audio_file(samples, rate))
    return path.read_bytes(), sf.read(path, dtype="int16", always_2d=True)[0]


def seconds(encoded: bytes | None) -> float:
    assert encoded is not None
    return float(sf.info(io.BytesIO(encoded)).duration)


def decoded(encoded: bytes | None) -> NDArray[Any]:
    assert encoded is not None
    return np.asarray(sf.read(io.BytesIO(encoded), dtype="int16", always_2d=True)[0])


def json_lines(path: Path, *lines: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("columns", [NEMO, {"path": "audio", "sentence": "text"}])
def test_pieces_of_a_nemo_manifest_are_cut(tmp_path: Path, columns: dict[str, str]) -> None:
    _, samples = recording(tmp_path / "long.wav", 4)
    lines = [{"offset": 0.0, "duration": 2.0}, {"offset": 2.0, "duration": 1.3}, {"offset": 3.3, "duration": 0.7}]
    json_lines(tmp_path / "all.json", *({columns["path"]: "long.wav", "text": "x", **line} for line in lines))
    found = read(tmp_path, "all.json", columns=columns)
    assert [id_ for id_, _, _ in found] == ["long.wav", "long.wav [2.0 s – 3.3 s]", "long.wav [3.3 s – 4.0 s]"]
    for (_, _, encoded), (first, last) in zip(found, ((0, 16000), (16000, 26400), (26400, 32000)), strict=True):
        np.testing.assert_array_equal(decoded(encoded), samples[first:last])


def test_a_duration_alone_says_that_a_line_is_a_piece(tmp_path: Path) -> None:
    recording(tmp_path / "a.wav", 4)
    json_lines(tmp_path / "all.json", {"audio_filepath": "a.wav", "duration": 2.5, "text": "one"})
    ((_, _, encoded),) = read(tmp_path, "all.json", columns=NEMO)
    assert seconds(encoded) == 2.5


# A complete recording of 2.66 s; its duration is exact, rounded or cut off, in milliseconds, or longer.
@pytest.mark.parametrize("duration", ["2.66", "2.65999", "2.7", "2.6", "3", "2", "2660", "2.9"])
@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_a_complete_recording_keeps_its_bytes(tmp_path: Path, duration: str, kind: str) -> None:
    (tmp_path / "a").write_bytes(audio_file(noise(2.66), 16_000, kind=kind))
    (tmp_path / "all.csv").write_text(f"path,sentence,offset,duration\na,one,0,{duration}\n")
    assert read(tmp_path, "all.csv") == [("a", "a", (tmp_path / "a").read_bytes())]


def test_whole_seconds_are_exact_where_others_have_decimals(tmp_path: Path) -> None:
    recording(tmp_path / "a.wav", 2.66)
    recording(tmp_path / "b.wav", 4)
    (tmp_path / "all.csv").write_text("path,sentence,duration\na.wav,one,2\nb.wav,two,1.5\n")
    assert [seconds(encoded) for _, _, encoded in read(tmp_path, "all.csv")] == [2, 1.5]


def test_whole_seconds_are_exact_where_a_recording_is_divided(tmp_path: Path) -> None:
    recording(tmp_path / "a.wav", 3)
    (tmp_path / "all.csv").write_text("path,sentence,offset,duration\na.wav,one,0,2\na.wav,two,2,1\n")
    assert [seconds(encoded) for _, _, encoded in read(tmp_path, "all.csv")] == [2, 1]


@pytest.mark.parametrize(
    ("header", "row", "expected"),
    [
        ("start,end", "0.5,1.5", (4000, 12000)),
        ("Start,End", "0.5,1.5", (4000, 12000)),
        ("start,duration", "0.5,0.25", (4000, 6000)),
        ("start,end,duration", "0.5,1.5,1", (4000, 12000)),
        ("start", "0.5", (4000, 16000)),
        ("start,end", "0.5,-1", (4000, 16000)),
        ("start,end", "0.5,", (4000, 16000)),
        ("end", "0.5", (0, 4000)),
        ("start,end", "0,0.5", (0, 4000)),
    ],
)
def test_times_are_columns_of_a_table(tmp_path: Path, header: str, row: str, expected: tuple[int, int]) -> None:
    _, samples = recording(tmp_path / "a.wav", 2)
    (tmp_path / "all.csv").write_text(f"path,sentence,{header}\na.wav,one,{row}\n")
    ((_, _, encoded),) = read(tmp_path, "all.csv")
    np.testing.assert_array_equal(decoded(encoded), samples[slice(*expected)])


def test_times_may_have_other_names(tmp_path: Path) -> None:
    recording(tmp_path / "a.wav", 2)
    (tmp_path / "all.csv").write_text("path,sentence,begin_time,until\na.wav,one,0.5,0.75\n")
    ((_, file, encoded),) = read(tmp_path, "all.csv", columns={"start": "begin_time", "end": "until"})
    assert (file, seconds(encoded)) == ("a.wav [0.5 s – 0.75 s]", 0.25)


def test_an_end_after_that_of_the_recording_is_no_piece(tmp_path: Path) -> None:
    recording(tmp_path / "a.wav", 2)
    (tmp_path / "all.csv").write_text("path,sentence,start,end\na.wav,one,0.00,2.60\n")
    assert [encoded for _, _, encoded in read(tmp_path, "all.csv")] == [b""]


@pytest.mark.parametrize("values", [("0", "1"), ("A", "B")])
def test_each_channel_is_a_clip(tmp_path: Path, values: tuple[str, str]) -> None:
    _, samples = recording(tmp_path / "call.wav", 1, 2)
    (tmp_path / "all.csv").write_text(
        "path,sentence,duration,channel\n" + "".join(f"call.wav,one,1.0,{value}\n" for value in values)
    )
    found = read(tmp_path, "all.csv")
    assert len({id_ for id_, _, _ in found}) == 2
    for channel, (_, _, encoded) in enumerate(found):
        np.testing.assert_array_equal(decoded(encoded), samples[:, [channel]])


def test_a_recording_that_cannot_be_decoded_keeps_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"no audio")
    (tmp_path / "all.csv").write_text("path,sentence,duration\na.wav,one,1.0\n")
    assert read(tmp_path, "all.csv") == [("a.wav", "a.wav", b"no audio")]


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("start,end", "00:01,00:02", "`start` is 00:01, which is not a time in seconds; .* `columns.start` to null"),
        ("start,end", "-0.5,1", "`start` is -0.5, which is not a time in seconds"),
        ("start,end", "0.5,nan", "`end` is nan, which is not a time in seconds"),
        ("start,end,duration", "0.5,1.5,0.5", "`duration` is 0.5 s, but `start` and `end` are 0.5 s and 1.5 s"),
        ("start,offset", "0.5,0.5", "start and offset may both be the column `start`; .* `columns.start` to one"),
        ("channel", "left", "`channel` is left, which is neither a channel, .* `columns.channel` to null"),
        ("channel", "-1", "`channel` is -1"),
        ("begin_time", "1", "`begin_time` may say which piece .* `columns.start` to it"),
        ("Channel_Selector", "1", "`Channel_Selector` may say which piece .* `columns.channel` to it"),
    ],
)
def test_columns_of_pieces_are_never_ignored(tmp_path: Path, header: str, row: str, message: str) -> None:
    (tmp_path / "all.csv").write_text(f"path,sentence,{header}\na.wav,one,{row}\n")
    with pytest.raises(SpeechmillError, match=rf"all\.csv: line 2: .*{message}"):
        read(tmp_path, "all.csv")


def test_columns_that_say_something_else_are_set_to_null(tmp_path: Path) -> None:
    encoded, _ = recording(tmp_path / "a.wav", 1)
    (tmp_path / "all.csv").write_text("path,sentence,start,end_time,channel\na.wav,one,9:00,9:15,news\n")
    columns = {"start": None, "end": None, "channel": None}
    assert read(tmp_path, "all.csv", columns=columns) == [("a.wav", "a.wav", encoded)]
