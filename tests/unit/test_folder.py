from pathlib import Path
from typing import Any

import pytest

from material import tsv
from speechmill.command import SpeechmillError
from speechmill.config.datasets import Folder
from speechmill.sources.corpus import Published
from speechmill.sources.folder import open_folder


def read(path: Path, splits: list[str], **settings: Any) -> list[tuple[Published, bytes | None]]:
    """Everything that the corpus at `path` gives."""
    folder = Folder.model_validate({"source": "folder", "path": "", "language": "en", **settings})
    with open_folder(path, folder, splits, path) as corpus:
        return [(clip, corpus.read(clip)) for clip in corpus.clips]


def files(path: Path, *names: str) -> Path:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(name.encode())
    return path


# The Free Spoken Digit Dataset: recordings/{digit}_{speaker}_{take}.wav; takes 0 to 4 are its test set.
# Source: github.com/Jakobovski/free-spoken-digit-dataset, README.
DIGITS = {
    "pattern": "recordings/{digit}_{speaker}_{take}.wav",
    "columns": {"sentence": {"field": "digit", "values": {"0": "zero", "7": "seven"}}, "speaker_id": "speaker"},
    "split": {"field": "take", "values": {"test": [0, 1]}, "otherwise": "train"},
}


def test_file_names_hold_the_fields_of_the_pattern(tmp_path: Path) -> None:
    names = [f"recordings/{digit}_{speaker}_{take}.wav" for digit in "07" for speaker in ("jo", "al") for take in "05"]
    found = read(files(tmp_path, *names, "README.md", "recordings/notes.txt"), ["train", "test"], **DIGITS)
    assert [(c.splits, c.file, c.sentence, c.speaker_id, content) for c, content in found] == [
        (("train",), "recordings/0_al_5.wav", "zero", "al", b"recordings/0_al_5.wav"),
        (("train",), "recordings/0_jo_5.wav", "zero", "jo", b"recordings/0_jo_5.wav"),
        (("train",), "recordings/7_al_5.wav", "seven", "al", b"recordings/7_al_5.wav"),
        (("train",), "recordings/7_jo_5.wav", "seven", "jo", b"recordings/7_jo_5.wav"),
        (("test",), "recordings/0_al_0.wav", "zero", "al", b"recordings/0_al_0.wav"),
        (("test",), "recordings/0_jo_0.wav", "zero", "jo", b"recordings/0_jo_0.wav"),
        (("test",), "recordings/7_al_0.wav", "seven", "al", b"recordings/7_al_0.wav"),
        (("test",), "recordings/7_jo_0.wav", "seven", "jo", b"recordings/7_jo_0.wav"),
    ]


def test_a_field_stays_within_one_folder(tmp_path: Path) -> None:
    path = files(tmp_path, "train/one.wav", "train/deep/two.wav", "dev/three.wav")
    found = read(path, ["train", "dev"], pattern="{split}/{sentence}.wav")
    assert [(clip.splits[0], clip.sentence) for clip, _ in found] == [("train", "one"), ("dev", "three")]


def test_a_dot_in_the_pattern_is_a_dot(tmp_path: Path) -> None:
    found = read(files(tmp_path, "train_one.wav", "train_twoxwav"), ["train"], pattern="{split}_{sentence}.wav")
    assert [clip.sentence for clip, _ in found] == ["one"]


def test_clips_come_in_the_same_order_whatever_the_disk_says(tmp_path: Path) -> None:
    names = ["b/2.wav", "a/9.wav", "b/1.wav", "a/10.wav", "c/0.wav"]
    one = {"field": "sentence", "values": {}, "otherwise": "train"}
    orders = []
    for folder, made in (("one", names), ("other", names[::-1])):
        path = files(tmp_path / folder, *made)
        found = read(path, ["train"], pattern="{speaker_id}/{sentence}.wav", split=one)
        orders.append([clip.file for clip, _ in found])
    assert orders[0] == orders[1]


def test_unlisted_splits_are_left_out(tmp_path: Path) -> None:
    path = files(tmp_path, "train/one.wav", "dev/two.wav")
    assert [c.file for c, _ in read(path, ["dev"], pattern="{split}/{sentence}.wav")] == ["dev/two.wav"]


MANIFEST = [
    {"path": "a.wav", "sentence": "one", "split": "train", "speaker_id": "s1", "gender": "female", "accent": ""},
    {"path": "sub/b.wav", "sentence": 'he said "two', "split": "train", "speaker_id": "NA"},
    {"path": "c.wav", "sentence": "null", "split": "dev"},
]  # fmt: skip
COLUMNS = ["path", "sentence", "split", "speaker_id", "gender", "accent"]


def test_a_tsv_manifest_is_not_quoted(tmp_path: Path) -> None:
    (files(tmp_path, "a.wav", "sub/b.wav", "c.wav") / "all.tsv").write_bytes(tsv(MANIFEST, COLUMNS))
    found = read(tmp_path, ["train", "dev"], manifest="all.tsv")
    assert [clip for clip, _ in found] == [
        Published("a.wav", ("train",), "a.wav", "one", "s1", "female"),
        Published("sub/b.wav", ("train",), "sub/b.wav", 'he said "two', "NA"),
        Published("c.wav", ("dev",), "c.wav", "null"),
    ]
    assert [content for _, content in found] == [b"a.wav", b"sub/b.wav", b"c.wav"]


def test_a_csv_manifest_is_quoted(tmp_path: Path) -> None:
    files(tmp_path, "a.wav")
    (tmp_path / "all.csv").write_text('path,sentence,split\na.wav,"one, ""two""",train\n')
    ((clip, _),) = read(tmp_path, ["train"], manifest="all.csv")
    assert clip.sentence == 'one, "two"'


def test_columns_of_other_names_are_said(tmp_path: Path) -> None:
    files(tmp_path, "a.wav")
    (tmp_path / "all.csv").write_text("wav,words,set,sex\na.wav,one,train,1\n")
    ((clip, _),) = read(
        tmp_path,
        ["train"],
        manifest="all.csv",
        columns={"path": "wav", "sentence": "words", "gender": {"field": "sex", "values": {"1": "male"}}},
        split={"field": "set"},
    )
    assert clip == Published("a.wav", ("train",), "a.wav", "one", gender="male")


def test_a_recording_that_the_manifest_lists_and_the_folder_lacks_has_no_bytes(tmp_path: Path) -> None:
    files(tmp_path, "sub/b.wav")
    (tmp_path / "all.tsv").write_bytes(tsv([*MANIFEST[:2], MANIFEST[2] | {"path": "sub"}], COLUMNS))
    assert [content for _, content in read(tmp_path, ["train", "dev"], manifest="all.tsv")] == [
        None,
        b"sub/b.wav",
        None,  # a folder is no recording
    ]


def test_a_recording_in_two_splits_is_one_clip(tmp_path: Path) -> None:
    files(tmp_path, "a.wav")
    (tmp_path / "all.csv").write_text("path,sentence,split\na.wav,one,train\na.wav,one,all\n")
    ((clip, _),) = read(tmp_path, ["train", "all"], manifest="all.csv")
    assert clip.splits == ("train", "all")


def test_a_manifest_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match=r"all\.tsv: there is no such manifest; see the dataset's `manifest`"):
        read(tmp_path, ["train"], manifest="all.tsv")


@pytest.mark.parametrize(
    ("settings", "lacking"),
    [
        ({}, "split"),
        ({"split": {"field": "set"}}, "set"),
        ({"split": {"field": "path"}, "columns": {"sentence": "words"}}, "words"),
        ({"split": {"field": "path"}, "columns": {"gender": "sex"}}, "sex"),
    ],
)
def test_a_column_that_is_not_there_is_named(tmp_path: Path, settings: dict[str, Any], lacking: str) -> None:
    (tmp_path / "all.csv").write_text("path,sentence\ntrain,one\n")
    with pytest.raises(SpeechmillError, match=rf"`{lacking}`.*path, sentence"):
        read(tmp_path, ["train"], manifest="all.csv", **settings)


@pytest.mark.parametrize("content", [b"", b"path,sentence,split\n\xff,one,train\n", b"path\na\nb,c,d\n"])
def test_a_manifest_that_is_not_a_table_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "all.csv").write_bytes(content)
    with pytest.raises(SpeechmillError, match=r"all\.csv"):
        read(tmp_path, ["train"], manifest="all.csv")


def test_a_value_that_stands_for_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match=r"0_jo_5\.wav.*\n?.*") as caught:
        read(
            files(tmp_path, "recordings/0_jo_5.wav"),
            ["train"],
            **DIGITS | {"columns": {"sentence": {"field": "digit", "values": {"1": "one"}}}},
        )
    assert "`columns.sentence.values` says nothing of digit = 0" in str(caught.value)


def test_a_value_without_a_split_is_named(tmp_path: Path) -> None:
    split = {"field": "take", "values": {"test": ["0"], "train": ["1"]}}
    with pytest.raises(SpeechmillError, match=r"0_jo_5\.wav: `split\.values` has no place for take = 5"):
        read(files(tmp_path, "recordings/0_jo_5.wav"), ["train"], **DIGITS | {"split": split})


def test_a_sentence_that_comes_from_nowhere_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match=r"`columns.sentence` reads the field `sentence`.*digit, path, split"):
        read(files(tmp_path, "train/7.wav"), ["train"], pattern="{split}/{digit}.wav")


def test_a_pattern_that_fits_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match=r"no file is named like the dataset's `pattern`, \{a\}-\{b\}\.wav"):
        read(files(tmp_path, "one.wav"), ["train"], pattern="{a}-{b}.wav")


def test_a_split_without_recordings_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match="no recording belongs to the split dev"):
        read(files(tmp_path, "train/one.wav"), ["train", "dev"], pattern="{split}/{sentence}.wav")
