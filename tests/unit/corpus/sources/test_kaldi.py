import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from numpy.typing import NDArray

from material import audio_file, noise
from speechmill.config.datasets import Folder
from speechmill.core.command import SpeechmillError
from speechmill.corpus.pieces import Piece, cut
from speechmill.corpus.sources.corpus import SourceClip
from speechmill.corpus.sources.folder import open_folder

# The layout of https://kaldi-asr.org/doc/data_prep.html: a folder per split, paths relative to the recipe.
SCP = "call-1 wav/call-1.wav\ncall-2 wav/call-2.wav\n"
SEGMENTS = "ann-1 call-1 0.25 0.5\nann-2 call-2 0.0 0.1\nbob-1 call-1 0.5 1\n"
TEXT = "ann-1 ONE \t two\nann-2 null\nbob-1 three\n"
UTT2SPK = "ann-1 ann\nann-2 ann\nbob-1 bob\n"


def write(path: Path, **files: str) -> None:
    """Write the files of a Kaldi folder, with `wav_scp` for `wav.scp`."""
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (path / name.replace("wav_scp", "wav.scp")).write_bytes(content.encode())


def read(path: Path, splits: list[str], **settings: Any) -> list[tuple[SourceClip, bytes | None]]:
    """Return all clips of the corpus at `path`, each with its bytes."""
    folder = Folder.model_validate({"source": "folder", "path": "", "language": "en", **settings})
    with open_folder(path, folder, splits, path) as corpus:
        return [(clip, corpus.read(clip)) for clip in corpus.clips]


def sound(seconds: float, rate: int = 16_000, channels: int = 1, **kind: str) -> bytes:
    return audio_file(np.stack([noise(seconds, rate, seed) for seed in range(channels)], axis=1), rate, **kind)


def segment(path: Path, start: float, end: float | None) -> bytes | None:
    with path.open("rb") as file:
        return cut(file, Piece(start, end))


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


def test_segments_are_cut_from_their_recordings(tmp_path: Path) -> None:
    (tmp_path / "wav").mkdir()
    for name in ("call-1", "call-2"):
        (tmp_path / f"wav/{name}.wav").write_bytes(sound(1))
    write(tmp_path / "data/train", wav_scp=SCP, text=TEXT, segments=SEGMENTS, utt2spk=UTT2SPK)
    found = read(tmp_path, ["train"], manifest="data/{split}")
    assert [clip for clip, _ in found] == [
        SourceClip("ann-1", ("train",), "wav/call-1.wav [0.25 s – 0.5 s]", "ONE \t two", "ann"),
        SourceClip("ann-2", ("train",), "wav/call-2.wav [0.0 s – 0.1 s]", "null", "ann"),
        SourceClip("bob-1", ("train",), "wav/call-1.wav [0.5 s – 1.0 s]", "three", "bob"),
    ]
    samples, _ = sf.read(tmp_path / "wav/call-1.wav", dtype="int16")
    for (_, encoded), expected in zip(found, (samples[4000:8000], samples[:1600], samples[8000:]), strict=True):
        assert encoded is not None
        np.testing.assert_array_equal(sf.read(io.BytesIO(encoded), dtype="int16")[0], expected)


def call(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Write a call with each side on its own channel, and return the samples of both."""
    path.write_bytes(sound(1, 8000, 2))
    samples, _ = sf.read(path, dtype="int16")
    return samples[:, 0], samples[:, 1]


def decoded(encoded: bytes | None) -> NDArray[Any]:
    assert encoded is not None
    samples, _ = sf.read(io.BytesIO(encoded), dtype="int16")
    return np.asarray(samples)


# The sides are A and B: kaldi-asr.org/doc/data_prep.html, "reco2file_and_channel".
@pytest.mark.parametrize(
    ("segments", "first", "last"), [(None, 0, 8000), ("call-A call-A 0.25 0.5\ncall-B call-B 0.25 0.5\n", 2000, 4000)]
)
def test_each_side_of_a_call_has_its_own_channel(tmp_path: Path, segments: str | None, first: int, last: int) -> None:
    sides = call(tmp_path / "call.wav")
    write(
        tmp_path / "train",
        wav_scp="call-A call.wav\ncall-B call.wav\n",
        text="call-A hello\ncall-B who is there\n",
        reco2file_and_channel="call-A call A\ncall-B call B\n",
        **({} if segments is None else {"segments": segments}),
    )
    for (_, encoded), side in zip(read(tmp_path, ["train"], manifest="{split}"), sides, strict=True):
        np.testing.assert_array_equal(decoded(encoded), side[first:last])


# "utterance recording start end channel": the usage of Kaldi's extract-segments, where channels count from 0.
def test_a_segment_may_have_a_channel(tmp_path: Path) -> None:
    sides = call(tmp_path / "call.wav")
    write(
        tmp_path / "train",
        wav_scp="call call.wav\n",
        text="u1 hello\nu2 who is there\nu3 it's me\n",
        segments="u1 call 0 0.5 0\nu2 call 0 0.5 1\nu3 call 0.5 1 A\n",
    )
    (_, one), (_, two), (_, three) = read(tmp_path, ["train"], manifest="{split}")
    np.testing.assert_array_equal(decoded(one), sides[0][:4000])
    np.testing.assert_array_equal(decoded(two), sides[1][:4000])
    np.testing.assert_array_equal(decoded(three), sides[0][4000:])


def test_a_call_that_was_split_keeps_the_names_of_its_sides(tmp_path: Path) -> None:
    for side in "AB":
        (tmp_path / f"call-{side}.wav").write_bytes(sound(1, 8000))
    write(
        tmp_path / "train",
        wav_scp="call-A call-A.wav\ncall-B call-B.wav\n",
        text="call-A hello\ncall-B who is there\n",
        reco2file_and_channel="call-A call A\ncall-B call B\n",
    )
    for clip, encoded in read(tmp_path, ["train"], manifest="{split}"):
        assert encoded == (tmp_path / f"{clip.id}.wav").read_bytes()


def test_a_mix_of_both_sides_is_no_channel(tmp_path: Path) -> None:
    (tmp_path / "call.wav").write_bytes(sound(1, 8000))
    write(
        tmp_path / "train",
        wav_scp="call call.wav\n",
        text="a hello\nb who is there\n",
        segments="a call 0 0.5 0\nb call 0 0.5 1\n",
    )
    found = read(tmp_path, ["train"], manifest="{split}")
    assert found[1][0].file == "call.wav [0.0 s – 0.5 s, channel 1]"
    assert not found[1][1]


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


def test_an_invalid_segment_is_listed_with_its_times(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(sound(1))
    write(
        tmp_path / "train",
        wav_scp="a a.wav\n",
        text="u1 one\nu9 nine\n",
        segments="u1 a 3.2 5.1\nu2 a 0.5 0.5\nu3 b 0 1\nu4 a -1 1\nu5 a nan 1\nu6 a 0 inf\nu7 a 0.5 1.06\n",
    )
    found = read(tmp_path, ["train"], manifest="{split}")
    assert [clip.file for clip, _ in found] == [
        "a.wav [3.2 s – 5.1 s]",
        "a.wav [0.5 s – 0.5 s]",
        "b (not in wav.scp) [0.0 s – 1.0 s]",
        "a.wav [-1.0 s – 1.0 s]",
        "a.wav [nan s – 1.0 s]",
        "a.wav [0.0 s – inf s]",
        "a.wav [0.5 s – 1.06 s]",
        "u9 (not in segments)",
    ]
    assert [content for _, content in found] == [None] * 8


def test_a_folder_without_segments_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "train", wav_scp="a a.wav\n", text="", segments="")
    with pytest.raises(SpeechmillError, match="no recording belongs to the split train"):
        read(tmp_path, ["train"], manifest="{split}")


# Every format keeps its samples; the decoders of Vorbis and MP3 depend on preceding samples.
@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2)])
@pytest.mark.parametrize(
    ("kind", "subtype", "dtype", "kept"),
    [
        ("WAV", "PCM_16", "int16", "PCM_16"),
        ("WAV", "PCM_24", "int32", "PCM_24"),
        ("WAV", "PCM_32", "int32", "PCM_32"),
        ("WAV", "FLOAT", "float32", "FLOAT"),
        ("WAV", "PCM_U8", "float32", "FLOAT"),
        ("WAV", "ULAW", "float32", "FLOAT"),
        ("FLAC", "PCM_16", "int16", "PCM_16"),
        ("FLAC", "PCM_24", "int32", "PCM_24"),
        ("OGG", "VORBIS", "float32", "FLOAT"),
        ("MP3", "MPEG_LAYER_III", "float32", "FLOAT"),
    ],
)
def test_a_segment_has_the_samples_of_the_recording(
    tmp_path: Path, kind: str, subtype: str, dtype: str, kept: str, rate: int, channels: int
) -> None:
    path = tmp_path / "recording"
    path.write_bytes(sound(5, rate, channels, kind=kind, subtype=subtype))
    samples, _ = sf.read(path, dtype=dtype, always_2d=True)
    for start, end in [(0, 0.4), (0.3, 0.31), (0.999, 2), (1.001, 2), (1.7, 3), (3.33, 4.9), (4, 5)]:
        encoded = segment(path, start, end)
        assert encoded is not None
        info = sf.info(io.BytesIO(encoded))
        assert (info.format, info.subtype, info.samplerate, info.channels) == ("WAV", kept, rate, channels)
        found, _ = sf.read(io.BytesIO(encoded), dtype=dtype, always_2d=True)
        # The rounding of an MP3 decoder depends on where it starts.
        np.testing.assert_allclose(
            found, samples[round(start * rate) : round(end * rate)], rtol=0, atol=1.2e-7 if kind == "MP3" else 0
        )


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_an_mp3_segment_includes_its_bit_reservoir(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "recording.mp3"
    sf.write(path, noise(10), 16_000, compression_level=0.9, bitrate_mode=mode)
    samples, _ = sf.read(path, dtype="float32")
    for start in np.arange(0, 9, 0.37):
        encoded = segment(path, start, start + 0.25)
        assert encoded is not None
        found, _ = sf.read(io.BytesIO(encoded), dtype="float32")
        first = round(start * 16_000)
        np.testing.assert_allclose(found, samples[first : first + 4000], rtol=0, atol=1.2e-7)


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_a_segment_is_reproducible(tmp_path: Path, subtype: str) -> None:
    path = tmp_path / "recording"
    path.write_bytes(sound(1, subtype=subtype))
    encoded = segment(path, 0.25, 0.5)
    assert encoded is not None
    # libsndfile adds a PEAK chunk with the current time to a WAV file of floats, which would differ between runs.
    assert b"PEAK" not in encoded
    assert len(encoded) == 44 + 4000 * (2 if subtype == "PCM_16" else 4)
    assert encoded == segment(path, 0.25, 0.5)


@pytest.mark.parametrize("end", [0.9999, 1, 1.04, None])
def test_a_rounded_end_is_the_end_of_the_recording(tmp_path: Path, end: float | None) -> None:
    path = tmp_path / "recording"
    path.write_bytes(sound(1))
    encoded = segment(path, 0.5, end)
    assert encoded is not None
    assert sf.info(io.BytesIO(encoded)).frames == (7998 if end == 0.9999 else 8000)


def test_minus_one_is_the_end_of_the_recording(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(sound(1))
    write(tmp_path, wav_scp="a a.wav\n", text="u one\n", segments="u a 0.75 -1\n")
    ((clip, encoded),) = read(tmp_path, ["all"], manifest=".", split={"field": "recording", "values": {"all": ["a"]}})
    assert clip.file == "a.wav [0.75 s – end]"
    assert encoded is not None
    assert sf.info(io.BytesIO(encoded)).frames == 4000


def test_only_the_segment_of_a_recording_is_read(tmp_path: Path) -> None:
    path = tmp_path / "recording.wav"
    with sf.SoundFile(path, "w", 16_000, 1, "PCM_16") as file:
        file.seek(0)
        file.write(np.zeros(1600, dtype=np.int16))
    # A day of silence, that takes no room on the disk.
    size = 2 * 16_000 * 86_400
    header = path.read_bytes()[:44]
    path.write_bytes(header[:4] + (size + 36).to_bytes(4, "little") + header[8:40] + size.to_bytes(4, "little"))
    os.truncate(path, 44 + size)
    encoded = segment(path, 86_000, 86_001)
    assert encoded is not None
    assert len(encoded) == 44 + 32_000


@pytest.mark.parametrize("content", [b"", b"no audio", sound(1, kind="FLAC")[:3000]])
def test_an_undecodable_recording_gives_no_bytes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "recording"
    path.write_bytes(content)
    assert not segment(path, 0.5, 1)


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
        ({"segments": "u1 u1 0 1 C\n"}, r"segments: line 1 is not"),
        ({"segments": "u1 u1 0 1 -1\n"}, r"segments: line 1 is not"),
        ({"segments": "u1 u1 0 1 0 1\n"}, r"segments: line 1 is not"),
        ({"reco2file_and_channel": "u1 a C\n"}, r"reco2file_and_channel: line 1 is not .* channel A or B"),
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
