import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from material import audio_file, noise
from speechmill.config.datasets import Folder
from speechmill.core.command import SpeechmillError
from speechmill.corpus.pieces import Piece
from speechmill.corpus.sources.folder import open_folder

NEMO = {"path": "audio_filepath", "sentence": "text"}


def read(path: Path, manifest: str, **settings: Any) -> dict[str, Piece | None]:
    """Return the piece of each clip by its id."""
    folder = Folder.model_validate(
        {"source": "folder", "path": "", "language": "en", "manifest": manifest, **settings}
        | {"split": {"field": settings.get("columns", {}).get("path", "path"), "values": {}, "default": "train"}}
    )
    with open_folder(path, folder, ["train"], path) as corpus:
        return {clip.id: clip.piece for clip in corpus.clips}


def recording(path: Path, seconds: float, channels: int = 1, **kind: str) -> None:
    samples = np.stack([noise(seconds, 8000, seed) for seed in range(channels)], axis=1)
    path.write_bytes(audio_file(samples, 8000, **kind))


def json_lines(path: Path, *lines: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("columns", [NEMO, {"path": "audio", "sentence": "text"}])
def test_pieces_of_a_nemo_manifest_are_cut(tmp_path: Path, columns: dict[str, str]) -> None:
    recording(tmp_path / "long.wav", 4)
    lines = [{"offset": 0.0, "duration": 2.0}, {"offset": 2.0, "duration": 1.3}, {"offset": 3.3, "duration": 0.7}]
    json_lines(tmp_path / "all.json", *({columns["path"]: "long.wav", "text": "x", **line} for line in lines))
    assert read(tmp_path, "all.json", columns=columns) == {
        "long.wav": Piece(0, 2),
        "long.wav [2.0 s – 3.3 s]": Piece(2, 3.3),
        "long.wav [3.3 s – 4.0 s]": Piece(3.3, 4),
    }


def test_a_duration_alone_says_that_a_line_is_a_piece(tmp_path: Path) -> None:
    recording(tmp_path / "a.wav", 4)
    json_lines(tmp_path / "all.json", {"audio_filepath": "a.wav", "duration": 2.5, "text": "one"})
    assert read(tmp_path, "all.json", columns=NEMO) == {"a.wav": Piece(0, 2.5)}


# A complete recording of 2.66 s; its duration is exact, rounded or cut off, in milliseconds, or longer.
@pytest.mark.parametrize("duration", ["2.66", "2.65999", "2.7", "2.6", "3", "2", "2660", "2.9"])
@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_a_complete_recording_is_no_piece(tmp_path: Path, duration: str, kind: str) -> None:
    recording(tmp_path / "a", 2.66, kind=kind)
    (tmp_path / "all.csv").write_text(f"path,sentence,offset,duration\na,one,0,{duration}\n")
    assert read(tmp_path, "all.csv") == {"a": None}


def test_whole_seconds_are_exact_where_others_have_decimals(tmp_path: Path) -> None:
    recording(tmp_path / "a.wav", 2.66)
    recording(tmp_path / "b.wav", 4)
    (tmp_path / "all.csv").write_text("path,sentence,duration\na.wav,one,2\nb.wav,two,1.5\n")
    assert read(tmp_path, "all.csv") == {"a.wav": Piece(0, 2), "b.wav": Piece(0, 1.5)}


def test_whole_seconds_are_exact_where_a_recording_is_divided(tmp_path: Path) -> None:
    recording(tmp_path / "a.wav", 3)
    (tmp_path / "all.csv").write_text("path,sentence,offset,duration\na.wav,one,0,2\na.wav,two,2,1\n")
    assert list(read(tmp_path, "all.csv").values()) == [Piece(0, 2), Piece(2, 3)]


@pytest.mark.parametrize(
    ("header", "row", "expected"),
    [
        ("start,end", "0.5,1.5", Piece(0.5, 1.5)),
        ("Start,End", "0.5,1.5", Piece(0.5, 1.5)),
        ("start,duration", "0.5,0.25", Piece(0.5, 0.75)),
        ("start,end,duration", "0.5,1.5,1", Piece(0.5, 1.5)),
        ("start", "0.5", Piece(0.5)),
        ("start,end", "0.5,-1", Piece(0.5)),
        ("start,end", "0.5,", Piece(0.5)),
        ("end", "0.5", Piece(0, 0.5)),
        ("start,end", "0,0.5", Piece(0, 0.5)),
        ("start,end", "0,", None),
        ("start,end", ",", None),
        ("start,end", "0.00,2.50", Piece(0, 2.5)),
    ],
)
def test_times_are_columns_of_a_table(tmp_path: Path, header: str, row: str, expected: Piece | None) -> None:
    recording(tmp_path / "a.wav", 2)
    (tmp_path / "all.csv").write_text(f"path,sentence,{header}\na.wav,one,{row}\n")
    assert list(read(tmp_path, "all.csv").values()) == [expected]


def test_times_may_have_other_names(tmp_path: Path) -> None:
    recording(tmp_path / "a.wav", 2)
    (tmp_path / "all.csv").write_text("path,sentence,begin_time,until\na.wav,one,0.5,0.75\n")
    columns = {"start": "begin_time", "end": "until"}
    assert read(tmp_path, "all.csv", columns=columns) == {"a.wav [0.5 s – 0.75 s]": Piece(0.5, 0.75)}


@pytest.mark.parametrize("values", [("0", "1"), ("A", "B")])
def test_each_channel_is_a_clip(tmp_path: Path, values: tuple[str, str]) -> None:
    recording(tmp_path / "call.wav", 1, 2)
    lines = "".join(f"call.wav,one,1.0,{value}\n" for value in values)
    (tmp_path / "all.csv").write_text(f"path,sentence,duration,channel\n{lines}")
    found = read(tmp_path, "all.csv")
    assert list(found.values()) == [Piece(channel=0), Piece(channel=1)]


def test_a_recording_that_cannot_be_decoded_is_no_piece(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"no audio")
    (tmp_path / "all.csv").write_text("path,sentence,duration\na.wav,one,1.0\n")
    assert read(tmp_path, "all.csv") == {"a.wav": None}


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_the_length_is_that_of_the_decoded_recording(tmp_path: Path) -> None:
    recording(tmp_path / "a.wav", 2)
    command = ["ffmpeg", "-loglevel", "error", "-i", tmp_path / "a.wav", "-c:a", "aac", tmp_path / "a.m4a"]
    subprocess.run(command, check=True)
    (tmp_path / "all.csv").write_text("path,sentence,duration\na.m4a,one,2.00\n")
    assert read(tmp_path, "all.csv") == {"a.m4a": None}
    (tmp_path / "all.csv").write_text("path,sentence,duration\na.m4a,one,1.50\n")
    assert read(tmp_path, "all.csv") == {"a.m4a": Piece(0, 1.5)}


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


@pytest.mark.parametrize(
    ("field", "value", "column"),
    [
        ("segment", {"start": 1.5, "end": 2}, "start"),
        ("segment", {"start_time": 1.5}, "start"),
        ("channel", [0, 1], "channel"),
        ("channel_selector", [0], "channel"),
    ],
)
def test_nested_fields_of_pieces_are_never_ignored(tmp_path: Path, field: str, value: Any, column: str) -> None:
    json_lines(tmp_path / "all.jsonl", {"path": "a.wav", "sentence": "one", field: value})
    with pytest.raises(SpeechmillError, match=rf"line 1: the field `{field}\..*` may say .* `columns\.{column}` to it"):
        read(tmp_path, "all.jsonl")


def test_times_of_words_are_no_pieces(tmp_path: Path) -> None:
    words = [{"word": "one", "start": 0.5, "end": 0.75}]
    json_lines(tmp_path / "all.jsonl", {"path": "a.wav", "sentence": "one", "words": words})
    assert read(tmp_path, "all.jsonl") == {"a.wav": None}


def test_columns_that_say_something_else_are_set_to_null(tmp_path: Path) -> None:
    recording(tmp_path / "a.wav", 1)
    (tmp_path / "all.csv").write_text("path,sentence,start,end_time,channel\na.wav,one,9:00,9:15,news\n")
    columns = {"start": None, "end": None, "channel": None}
    assert read(tmp_path, "all.csv", columns=columns) == {"a.wav": None}
