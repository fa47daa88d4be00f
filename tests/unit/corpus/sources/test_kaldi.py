from pathlib import Path
from typing import Any

import pytest

from speechmill.config.datasets import Folder
from speechmill.core.command import SpeechmillError
from speechmill.corpus.encoded import Encoded
from speechmill.corpus.pieces import Piece
from speechmill.corpus.sources.corpus import SourceClip
from speechmill.corpus.sources.folder import open_folder

# The layout of https://kaldi-asr.org/doc/data_prep.html: a folder per split, paths relative to the recipe.
SCP = "call-1 wav/call-1.wav\ncall-2 wav/call-2.wav\n"
SEGMENTS = "ann-1 call-1 0.25 0.5\nann-2 call-2 0.0 0.1\nbob-1 call-1 0.5 1\n"
TEXT = "ann-1 ONE \t two\nann-2 null\nbob-1 three\n"
UTT2SPK = "ann-1 ann\nann-2 ann\nbob-1 bob\n"


def write(path: Path, **files: str) -> None:
    """Write the files of a Kaldi folder, with `_` for `.` in their names."""
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (path / name.replace("_", ".")).write_bytes(content.encode())


def read(path: Path, splits: list[str], **settings: Any) -> list[tuple[SourceClip, Encoded | None]]:
    """Return all clips of the corpus at `path`, each with its bytes."""
    folder = Folder.model_validate({"source": "folder", "path": "", "language": "en", **settings})
    with open_folder(path, folder, splits, path) as corpus:
        return [(clip, corpus.read(clip)) for clip in corpus.clips]


def test_folders_with_one_file_per_utterance_are_read(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path / "wav", **{name: f"bytes of {name}"})
    write(
        tmp_path / "data/train",
        wav_scp=f"s1-a wav/a\ns2-b\t{tmp_path}/wav/b\r\n",
        text="s1-a it's  one \ns2-b\n",
        utt2spk="s1-a s1\ns2-b s2\n",
        spk2gender="s1 f\n",
    )
    write(tmp_path / "data/test", wav_scp="s3-c wav/c\n", text="s3-c three\n")
    assert read(tmp_path, ["train", "test"], manifest="data/{split}") == [
        (SourceClip("s1-a", ("train",), "wav/a", "it's  one ", "s1", "f"), b"bytes of a"),
        (SourceClip("s2-b", ("train",), "wav/b", "", "s2"), b"bytes of b"),
        (SourceClip("s3-c", ("test",), "wav/c", "three"), b"bytes of c"),
    ]


def test_segments_are_pieces_of_their_recordings(tmp_path: Path) -> None:
    (tmp_path / "wav").mkdir()
    for name in ("call-1", "call-2"):
        (tmp_path / f"wav/{name}.wav").write_bytes(name.encode())
    write(tmp_path / "data/train", wav_scp=SCP, text=TEXT, segments=SEGMENTS, utt2spk=UTT2SPK)
    assert read(tmp_path, ["train"], manifest="data/{split}") == [
        (SourceClip("ann-1", ("train",), "wav/call-1.wav", "ONE \t two", "ann", piece=Piece(0.25, 0.5)), b"call-1"),
        (SourceClip("ann-2", ("train",), "wav/call-2.wav", "null", "ann", piece=Piece(0, 0.1)), b"call-2"),
        (SourceClip("bob-1", ("train",), "wav/call-1.wav", "three", "bob", piece=Piece(0.5, 1)), b"call-1"),
    ]


def test_a_field_may_contain_the_split(tmp_path: Path) -> None:
    write(tmp_path, wav_scp="a-1 a\nb-1 b\n", text="a-1 one\nb-1 two\n", utt2spk="a-1 a\nb-1 b\n", a="", b="")
    found = read(
        tmp_path,
        ["train", "dev"],
        manifest=".",
        split={"field": "speaker_id", "values": {"dev": ["a"]}, "default": "train"},
    )
    assert [(clip.id, clip.splits) for clip, _ in found] == [("b-1", ("train",)), ("a-1", ("dev",))]


def test_utterances_without_text_or_audio_are_listed(tmp_path: Path) -> None:
    write(tmp_path / "train", wav_scp="u1 one\n", text="u2 two\n", one="bytes")
    (tmp_path / "one").write_bytes(b"bytes")
    assert read(tmp_path, ["train"], manifest="{split}") == [
        (SourceClip("u1", ("train",), "one", ""), b"bytes"),
        (SourceClip("u2", ("train",), "u2 (not in wav.scp)", "two"), None),
    ]


def test_a_folder_without_segments_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "train", wav_scp="a a.wav\n", text="", segments="")
    with pytest.raises(SpeechmillError, match="no recording belongs to the split train"):
        read(tmp_path, ["train"], manifest="{split}")


def test_minus_one_is_the_end_of_the_recording(tmp_path: Path) -> None:
    write(tmp_path, wav_scp="a a\n", text="u one\n", segments="u a 0.75 -1\n", a="")
    ((clip, _),) = read(tmp_path, ["all"], manifest=".", split={"field": "recording", "values": {"all": ["a"]}})
    assert clip.piece == Piece(0.75, None)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"wav_scp": "u1 a\nu2 sox a -t wav - |\n"}, r"wav\.scp: line 2 is a command, .* does not run commands"),
        ({"wav_scp": "u1 a\nu1 b\n"}, r"wav\.scp: line 2: u1 is already listed at .*wav\.scp: line 1"),
        ({"wav_scp": "u1 ../a\n"}, r"wav\.scp: line 1: \.\./a is outside the directory .*below the dataset's `path`"),
        ({"wav_scp": "u1 /etc/hostname\n"}, r"wav\.scp: line 1: /etc/hostname is outside the directory"),
        ({"wav_scp": "u1\n"}, r"wav\.scp: line 1 names no recording"),
        ({"text": "u1 one\n\n u2 two\n"}, r"text: line 3 begins with a blank"),
        ({"text": "u1 one\nu1 two\n"}, r"text: line 2: u1 is already listed"),
        ({"segments": "u1 u1 0 1\nu2 u1 0\n"}, r"segments: line 2 is not `<utterance> <recording> <start> <end>`"),
        ({"segments": "u1 u1 0 one\n"}, r"segments: line 1 is not"),
        ({"segments": "u1 u1 0 1 A\n"}, r"segments: line 1 is not"),
    ],
)
def test_an_invalid_line_is_named(tmp_path: Path, files: dict[str, str], message: str) -> None:
    write(tmp_path / "train", **{"wav_scp": "u1 a\n", "text": "u1 one\n"} | files)
    with pytest.raises(SpeechmillError, match=message):
        read(tmp_path, ["train"], manifest="{split}")


@pytest.mark.parametrize("file", ["wav.scp", "text"])
def test_a_missing_file_is_named(tmp_path: Path, file: str) -> None:
    write(tmp_path, wav_scp="", text="")
    (tmp_path / file).unlink()
    with pytest.raises(SpeechmillError, match=rf"{file} does not exist"):
        read(tmp_path, ["train"], manifest=".")


def test_a_text_file_outside_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("u1 one\n")
    write(tmp_path / "corpus", wav_scp="u1 a\n")
    (tmp_path / "corpus/text").symlink_to(tmp_path / "secret")
    with pytest.raises(SpeechmillError, match="text is outside the directory"):
        read(tmp_path / "corpus", ["train"], manifest=".")


def test_contradicting_splits_are_an_error(tmp_path: Path) -> None:
    write(tmp_path / "train", wav_scp="u1 a\n", text="u1 one\n")
    write(tmp_path / "dev", wav_scp="u1 a\n", text="u1 two\n")
    with pytest.raises(
        SpeechmillError, match=r"dev/wav\.scp: line 1: the id u1 .*“two”.*train/wav\.scp: line 1.*“one”"
    ):
        read(tmp_path, ["train", "dev"], manifest="{split}")
