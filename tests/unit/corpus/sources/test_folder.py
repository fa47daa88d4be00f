import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from material import ROOT, tsv
from speechmill.config.datasets import Folder
from speechmill.core.command import SpeechmillError
from speechmill.corpus.encoded import Encoded
from speechmill.corpus.sources.corpus import SourceClip
from speechmill.corpus.sources.folder import open_folder


def read(path: Path, splits: list[str], **settings: Any) -> list[tuple[SourceClip, Encoded | None]]:
    """Return all clips of the corpus at `path`, each with its bytes."""
    folder = Folder.model_validate({"source": "folder", "path": "", "language": "en", **settings})
    with open_folder(path, folder, splits, path) as corpus:
        return [(clip, corpus.read(clip)) for clip in corpus.clips]


def test_predefined_golos_reads_the_layout_of_openslr(tmp_path: Path) -> None:
    entries = yaml.safe_load((ROOT / "config" / "datasets.yaml").read_text(encoding="utf-8"))["datasets"]
    settings = {
        key: value for key, value in entries["golos_train"].items() if key in Folder.model_fields.keys() - {"path"}
    }
    root = files(tmp_path, "crowd/0/a1.opus", "farfield/b2.opus")
    lines = [
        {"id": "a1", "audio_filepath": "crowd/0/a1.opus", "text": "включи свет", "duration": 2.5},
        {"id": "b2", "audio_filepath": "farfield/b2.opus", "text": "стоп", "duration": 1.1},
    ]
    (root / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    clips = [clip for clip, _ in read(root, ["train"], **settings)]
    assert [(clip.id, clip.sentence, clip.splits) for clip in clips] == [
        ("a1", "включи свет", ("train",)), ("b2", "стоп", ("train",)),
    ]  # fmt: skip
    assert [clip.piece for clip in clips] == [None, None]


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
    "split": {"field": "take", "values": {"test": [0, 1]}, "default": "train"},
}


def test_fields_of_the_pattern_are_read(tmp_path: Path) -> None:
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


def test_the_order_does_not_depend_on_the_disk(tmp_path: Path) -> None:
    names = ["b/2.wav", "a/9.wav", "b/1.wav", "a/10.wav", "c/0.wav"]
    one = {"field": "sentence", "values": {}, "default": "train"}
    orders = []
    for folder, created in (("one", names), ("other", names[::-1])):
        path = files(tmp_path / folder, *created)
        found = read(path, ["train"], pattern="{speaker_id}/{sentence}.wav", split=one)
        orders.append([clip.file for clip, _ in found])
    assert orders[0] == orders[1]


def test_unlisted_splits_are_excluded(tmp_path: Path) -> None:
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
        SourceClip("a.wav", ("train",), "a.wav", "one", "s1", "female"),
        SourceClip("sub/b.wav", ("train",), "sub/b.wav", 'he said "two', "NA"),
        SourceClip("c.wav", ("dev",), "c.wav", "null"),
    ]
    assert [content for _, content in found] == [b"a.wav", b"sub/b.wav", b"c.wav"]


def test_a_csv_manifest_is_quoted(tmp_path: Path) -> None:
    files(tmp_path, "a.wav")
    (tmp_path / "all.csv").write_text('path,sentence,split\na.wav,"one, ""two""",train\n')
    ((clip, _),) = read(tmp_path, ["train"], manifest="all.csv")
    assert clip.sentence == 'one, "two"'


def test_columns_are_renamed(tmp_path: Path) -> None:
    files(tmp_path, "a.wav")
    (tmp_path / "all.csv").write_text("wav,words,set,sex\na.wav,one,train,1\n")
    ((clip, _),) = read(
        tmp_path,
        ["train"],
        manifest="all.csv",
        columns={"path": "wav", "sentence": "words", "gender": {"field": "sex", "values": {"1": "male"}}},
        split={"field": "set"},
    )
    assert clip == SourceClip("a.wav", ("train",), "a.wav", "one", gender="male")


def test_a_missing_recording_has_no_bytes(tmp_path: Path) -> None:
    files(tmp_path, "sub/b.wav")
    (tmp_path / "all.tsv").write_bytes(tsv([*MANIFEST[:2], MANIFEST[2] | {"path": "sub"}], COLUMNS))
    assert [content for _, content in read(tmp_path, ["train", "dev"], manifest="all.tsv")] == [
        None,
        b"sub/b.wav",
        None,  # a folder is not a recording
    ]


def test_a_recording_in_two_splits_is_one_clip(tmp_path: Path) -> None:
    files(tmp_path, "a.wav")
    (tmp_path / "all.csv").write_text("path,sentence,split\na.wav,one,train\na.wav,one,all\n")
    ((clip, _),) = read(tmp_path, ["train", "all"], manifest="all.csv")
    assert clip.splits == ("train", "all")


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("all.tsv", ["path\tsentence\tsplit", 'a.wav\the said "two\ttrain', "b.wav\tNA\ttrain", "", "c.wav\t\ttrain"]),
        ("all.csv", ["path,sentence,split", 'a.wav,"he said ""two",train', "b.wav,NA,train", "", "c.wav,,train"]),
        (
            "all.jsonl",
            [
                r'{"path": "a.wav", "sentence": "he said \"two", "split": "train"}',
                '{"split": "train", "sentence": "NA", "path": "b.wav", "tags": ["x"], "duration": 1.50}',
                "",
                '{"path": "c.wav", "sentence": null, "split": "train", "gender": null}',
            ],
        ),
    ],
)
@pytest.mark.parametrize("begin", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_all_manifest_formats_are_equivalent(tmp_path: Path, name: str, lines: list[str], begin: str, end: str) -> None:
    (tmp_path / name).write_bytes((begin + end.join(lines) + end).encode())
    assert [(clip.file, clip.sentence) for clip, _ in read(tmp_path, ["train"], manifest=name)] == [
        ("a.wav", 'he said "two'),
        ("b.wav", "NA"),
        ("c.wav", ""),
    ]


def test_a_nemo_manifest_is_read(tmp_path: Path) -> None:
    # Source: NVIDIA NeMo, "Preparing Custom ASR Data"; its paths are absolute or relative.
    path = str(files(tmp_path, "wav/a.wav") / "wav/a.wav")
    lines = [
        {"audio_filepath": path, "text": "one", "duration": 1.5, "speaker": 7},
        {"audio_filepath": "wav/b.wav", "text": "two", "duration": 2, "offset": 0.0, "speaker": None},
    ]
    for split, line in zip(("train", "test"), lines, strict=True):
        (tmp_path / f"{split}_manifest.json").write_text(json.dumps(line) + "\n")
    columns = {"path": "audio_filepath", "sentence": "text", "speaker_id": "speaker", "age": "duration"}
    assert read(tmp_path, ["train", "test"], manifest="{split}_manifest.json", columns=columns) == [
        (SourceClip("wav/a.wav", ("train",), "wav/a.wav", "one", "7", age="1.5"), b"wav/a.wav"),
        (SourceClip("wav/b.wav", ("test",), "wav/b.wav", "two", age="2"), None),
    ]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_any_sentence_is_read_from_json_lines(sentences: list[str]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder)
        for ascii_ in (True, False):
            rows = [{"path": f"{i}", "sentence": sentence} for i, sentence in enumerate(sentences)]
            lines = (json.dumps(row, ensure_ascii=ascii_) + "\n" for row in rows)
            (path / "all.jsonl").write_bytes("".join(lines).encode())
            found = read(path, ["x"], manifest="all.jsonl", split={"field": "path", "values": {}, "default": "x"})
            assert [clip.sentence for clip, _ in found] == sentences


def test_quoted_csv_fields_may_contain_anything(tmp_path: Path) -> None:
    sentence = 'one, "two"\n\n\tthree\r\n\u2028 four'
    quoted = sentence.replace('"', '""')
    (tmp_path / "all.csv").write_bytes(f'path,sentence,split\na.wav,"{quoted}",train\n'.encode())
    ((clip, _),) = read(tmp_path, ["train"], manifest="all.csv")
    assert clip.sentence == sentence


def test_only_a_line_feed_ends_a_line_of_a_tsv(tmp_path: Path) -> None:
    (tmp_path / "all.tsv").write_bytes("path\tsentence\tsplit\na.wav\tone\r\u2028\x85 two\ttrain\n".encode())
    ((clip, _),) = read(tmp_path, ["train"], manifest="all.tsv")
    assert clip.sentence == "one\r\u2028\x85 two"


def test_each_split_may_have_a_manifest(tmp_path: Path) -> None:
    for name, file in (("train", "a"), ("valid-1", "b"), ("valid-2", "c"), ("other", "d")):
        (tmp_path / f"{name}.tsv").write_text(f"path\tsentence\n{file}\t{file}\n")
    split = {"field": "split", "values": {"dev": ["valid-1", "valid-2"], "train": ["train"]}}
    found = read(tmp_path, ["train", "dev"], manifest="{split}.tsv", split=split)
    assert [(clip.id, clip.splits) for clip, _ in found] == [("a", ("train",)), ("b", ("dev",)), ("c", ("dev",))]


def test_a_split_column_overrides_the_manifest_name(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("path,sentence,split\na,one,train\nb,two,dev\nc,three,test\n")
    (tmp_path / "dev.csv").write_text("path,sentence\nd,four\n")
    found = read(tmp_path, ["train", "dev"], manifest="{split}.csv")
    assert [(clip.id, clip.splits) for clip, _ in found] == [("a", ("train",)), ("b", ("dev",)), ("d", ("dev",))]


def test_ids_may_be_listed(tmp_path: Path) -> None:
    files(tmp_path, "a.wav")
    (tmp_path / "all.csv").write_text("key,path,sentence,split\n1,a.wav,one,train\n2,a.wav,two,train\n,a.wav,x,train\n")
    found = read(tmp_path, ["train"], manifest="all.csv", columns={"id": "key"})
    assert [(clip.id, clip.file, content) for clip, content in found] == [
        ("1", "a.wav", b"a.wav"),
        ("2", "a.wav", b"a.wav"),
        ("a.wav", "a.wav", b"a.wav"),
    ]


@pytest.mark.parametrize("splits", [("train", "train"), ("train", "dev")])
@pytest.mark.parametrize("second", ["a.wav,two,s1", "a.wav,one,s2", "a.wav,one,"])
def test_an_id_of_two_clips_is_an_error(tmp_path: Path, splits: tuple[str, str], second: str) -> None:
    rows = f"a.wav,one,s1,{splits[0]}\nb.wav,b,,dev\n{second},{splits[1]}\n"
    (tmp_path / "all.csv").write_text(f"path,sentence,speaker_id,split\n{rows}")
    with pytest.raises(
        SpeechmillError, match=r"all\.csv: line 4: the id a\.wav .* at .*all\.csv: line 2 .*`columns\.id`"
    ):
        read(tmp_path, ["train", "dev"], manifest="all.csv")


def test_a_repeated_line_is_one_clip(tmp_path: Path) -> None:
    (tmp_path / "all.csv").write_text("path,sentence,split\na,one,train\na,one,train\n")
    assert [clip.splits for clip, _ in read(tmp_path, ["train"], manifest="all.csv")] == [("train",)]


def test_a_json_line_may_lack_fields(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"path": "a"}\n{"path": "b", "sentence": "two", "age": "old"}\n')
    found = read(tmp_path, ["train"], manifest="{split}.jsonl", columns={"age": "age"})
    assert [(clip.sentence, clip.age) for clip, _ in found] == [("", None), ("two", "old")]


def test_an_empty_value_is_none(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("path,sentence,sex\na,one,\nb,two,f\n")
    for values, expected in (({"f": "female"}, None), ({"f": "female", "": "other"}, "other")):
        found = read(
            tmp_path, ["train"], manifest="{split}.csv", columns={"gender": {"field": "sex", "values": values}}
        )
        assert [clip.gender for clip, _ in found] == [expected, "female"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.csv", "path,sentence\na,one\nb,two,3\n", "line 3 has 3 columns, but the first line of the file has 2"),
        ("train.csv", "path,sentence\na,one,2\nb,two,3\n", "line 2 has 3 columns"),
        ("train.csv", 'path,sentence\n"a\nb",one\nb\n', "line 4 has 1 columns"),
        ("train.csv", 'path,sentence\na,"one\n', "line 2 is not CSV"),
        ("train.csv", 'path,sentence\na,"one"two\n', "line 2 is not CSV"),
        ("train.csv", "path,sentence,path\na,one,b\n", "distinct column names"),
        ("train.tsv", "path\tsentence\na\tone\ttwo\n", "line 2 has 3 columns"),
        ("train.tsv", "path\tsentence\na\tone\nb\n", "line 3 has 1 columns"),
        ("train.tsv", "\npath\tsentence\n", "distinct column names"),
        ("train.tsv", "path\tsentence\n\tone\n", r"line 2 names no recording; check the dataset's `columns\.path`"),
        ("train.jsonl", '{"path": "a", "sentence": "one"}\n["b", "two"]\n', "line 2 is not a JSON object"),
        ("train.jsonl", '{"path": "a", "sentence": "one"\n', "line 1 is not JSON"),
        ("train.jsonl", '{"path": "a", "sentence": NaN}\n', "line 1 is not JSON.*NaN"),
        ("train.jsonl", "[" * 100_000 + "\n", "line 1 is not JSON"),
        ("train.jsonl", '{"path": "a", "sentence": "\\ud800"}\n', "line 1' contains text that UTF-8 cannot encode"),
        ("train.jsonl", '{"sentence": "one"}\n', r"line 1: `columns\.path` reads the field `path`.* sentence, split"),
        ("train.jsonl", '{"path": "a\\u0000", "sentence": "one"}\n', "line 1 names no recording"),
        ("train.xlsx", "", r"\.csv, \.tsv, \.txt, \.jsonl, \.json or a Kaldi folder"),
    ],
)
def test_an_invalid_line_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_bytes(content.encode())
    with pytest.raises(SpeechmillError, match=rf"{name}.*{message}"):
        read(tmp_path, ["train"], manifest=name.replace("train", "{split}"))


def test_a_field_missing_in_all_json_lines_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"path": "a", "text": "one"}\n{"path": "b", "words": "two"}\n')
    with pytest.raises(SpeechmillError, match=r"`columns\.sentence` .* field `sentence`.* path, split, text, words"):
        read(tmp_path, ["train"], manifest="{split}.jsonl")


def test_a_nested_field_is_named_with_dots(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"audio": {"path": "a"}, "texts": [{"raw": "one"}]}\n')
    columns = {"path": "audio.path", "sentence": "texts.0.raw"}
    ((clip, _),) = read(tmp_path, ["train"], manifest="{split}.jsonl", columns=columns)
    assert (clip.file, clip.sentence) == ("a", "one")


def test_a_field_that_is_not_text_is_refused_with_its_fields(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(
        '{"path": "a", "sentence": "one"}\n{"path": "b", "sentence": {"text": "two"}}\n'
    )
    with pytest.raises(SpeechmillError, match=r"line 2: .*`sentence`, which is not text; use one of sentence\.text"):
        read(tmp_path, ["train"], manifest="{split}.jsonl")


def test_a_path_may_follow_from_an_id(tmp_path: Path) -> None:
    files(tmp_path, "wavs/jo/7.wav")
    (tmp_path / "train.csv").write_text("id,who,sentence\n7,jo,seven\n8,,eight\n")
    columns = {"path": "wavs/{who}/{id}.wav", "speaker_id": "who"}
    with pytest.raises(SpeechmillError, match=r"line 3 names no recording; check the dataset's `columns\.path`"):
        read(tmp_path, ["train"], manifest="{split}.csv", columns=columns)
    (tmp_path / "train.csv").write_text("id,who,sentence\n7,jo,seven\n")
    assert read(tmp_path, ["train"], manifest="{split}.csv", columns=columns) == [
        (SourceClip("7", ("train",), "wavs/jo/7.wav", "seven", "jo"), b"wavs/jo/7.wav")
    ]
    with pytest.raises(SpeechmillError, match=r"`columns\.path` reads the field `name`, which does not exist"):
        read(tmp_path, ["train"], manifest="{split}.csv", columns={"path": "wavs/{name}.wav"})


def test_linked_folders_are_read(tmp_path: Path) -> None:
    files(tmp_path, "anna/1-one.wav", "store/disk2/boris/2-two.wav")
    (tmp_path / "boris").symlink_to("store/disk2/boris")
    pattern = {"pattern": "{speaker_id}/{id}-{sentence}.wav"}
    found = read(tmp_path, ["train"], **pattern, split={"field": "id", "values": {}, "default": "train"})
    assert [(clip.file, content) for clip, content in found] == [
        ("anna/1-one.wav", b"anna/1-one.wav"),
        ("boris/2-two.wav", b"store/disk2/boris/2-two.wav"),
    ]


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    files(tmp_path, "train/one.wav", "dev/two.wav")
    for link, target in (("train/all", ".."), ("train/dev", "../dev"), ("dev/train", "../train"), ("again", ".")):
        (tmp_path / link).symlink_to(target)
    found = read(tmp_path, ["train", "dev"], pattern="{split}/{sentence}.wav")
    assert [clip.file for clip, _ in found] == ["train/one.wav", "dev/two.wav"]


def test_the_ending_of_a_pattern_has_no_case(tmp_path: Path) -> None:
    found = read(files(tmp_path, "train-one.wav", "train-two.WAV"), ["train"], pattern=PLAIN)
    assert [clip.sentence for clip, _ in found] == ["one", "two"]


def test_files_beside_a_pattern_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read(files(tmp_path, "train-one.wav", "one.wav", "deep/train-two.WAV", "notes.txt"), ["train"], pattern=PLAIN)
    assert "2 files end in .wav, but do not match the dataset's `pattern`, such as 'one.wav'" in capsys.readouterr().err


PLAIN = "{split}-{sentence}.wav"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_without_permission_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files(tmp_path, "train-one.wav", "closed/train-two.wav")
    (tmp_path / "closed").chmod(0)
    assert len(read(tmp_path, ["train"], pattern=PLAIN)) == 1
    assert "closed cannot be read (Permission denied); its files are left out" in capsys.readouterr().err


def outside(tmp_path: Path) -> Path:
    """Create a directory `corpus` with links that point outside it, and one that does not."""
    files(tmp_path, "secret/a.wav", "corpus/wav/a.wav")
    for link, target in (
        ("folder", "../secret"),
        ("a.wav", "../secret/a.wav"),
        ("good.wav", "wav/a.wav"),
        ("loop", "loop"),
    ):
        (tmp_path / "corpus" / link).symlink_to(target)
    return tmp_path / "corpus"


@pytest.mark.parametrize("name", ["../secret/a.wav", "wav/../../secret/a.wav", "folder/a.wav", "a.wav", "/etc/passwd"])
def test_a_recording_outside_the_directory_is_refused(tmp_path: Path, name: str) -> None:
    path = outside(tmp_path)
    (path / "train.csv").write_text(f"path,sentence\nwav/a.wav,one\n{name},two\n")
    with pytest.raises(SpeechmillError) as caught:
        read(path, ["train"], manifest="{split}.csv")
    assert f"train.csv: line 3: {name} is outside the directory {path}" in str(caught.value)
    assert "below the dataset's `path`" in str(caught.value)


def test_a_link_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match=r"a\.wav is outside the directory"):
        read(outside(tmp_path), ["a"], pattern="{split}.wav", columns={"sentence": "split"})


def test_paths_within_the_directory_are_followed(tmp_path: Path) -> None:
    path = outside(tmp_path)
    (tmp_path / "link").symlink_to(path)
    names = ["wav/../wav/a.wav", "good.wav", f"{path}/wav/a.wav", f"{tmp_path}/link/good.wav"]
    rows = "".join(f"{i},{name},one\n" for i, name in enumerate(names))
    (path / "train.csv").write_text(f"id,path,sentence\n{rows}")
    found = read(tmp_path / "link", ["train"], manifest="{split}.csv")
    assert [clip.file for clip, _ in found] == ["wav/../wav/a.wav", "good.wav", "wav/a.wav", "wav/a.wav"]
    assert [content for _, content in found] == [b"corpus/wav/a.wav"] * 4


def test_an_impossible_file_name_is_a_missing_recording(tmp_path: Path) -> None:
    path = outside(tmp_path)
    (path / "train.csv").write_text(f"path,sentence\n{'a' * 300}.wav,one\nloop,two\nloop/a,three\nwav/a.wav/b,four\n")
    assert [content for _, content in read(path, ["train"], manifest="{split}.csv")] == [None] * 4


@pytest.mark.parametrize("manifest", ["../all.csv", "folder/all.csv"])
def test_a_manifest_outside_the_directory_is_refused(tmp_path: Path, manifest: str) -> None:
    with pytest.raises(SpeechmillError, match=r"all\.csv is outside the directory .*; put the manifest itself there"):
        read(outside(tmp_path), ["train"], manifest=manifest)


def test_a_path_that_is_no_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match=r"a\.wav is not a directory; set the dataset's `path`"):
        read(files(tmp_path, "a.wav") / "a.wav", ["train"], manifest="{split}.csv")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"manifest": "{language}.csv"}, "only field .* `{split}`"),
        ({"pattern": "{a}_{a}.wav"}, "distinct names"),
        ({"pattern": "{1}_{b}.wav"}, "distinct names"),
        ({"pattern": "{path}.wav"}, "none of them `path`"),
        ({"pattern": "{a}.wav", "split": {"field": "a", "values": {"x": ["1"], "y": [1]}}}, "lists a value twice"),
        ({"pattern": "{a}.wav", "split": {"field": "a", "values": {"x": "12"}}}, "list"),
        ({"pattern": "{a}.wav", "split": {"field": "a", "values": {"x": 1}}}, "list"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Folder.model_validate({"source": "folder", "path": "", "language": "en", **settings})


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match=r"all\.tsv does not exist; check the dataset's `manifest`"):
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
def test_a_missing_column_is_named(tmp_path: Path, settings: dict[str, Any], lacking: str) -> None:
    (tmp_path / "all.csv").write_text("path,sentence\ntrain,one\n")
    with pytest.raises(SpeechmillError, match=rf"`{lacking}`.*path, sentence"):
        read(tmp_path, ["train", "dev"], manifest="all.csv", **settings)


def test_a_corpus_with_one_split_needs_no_column_for_it(tmp_path: Path) -> None:
    (tmp_path / "all.csv").write_text("path,sentence\na.wav,one\n")
    ((clip, _),) = read(tmp_path, ["train"], manifest="all.csv")
    assert clip.splits == ("train",)


def test_recordings_without_text_have_empty_sentences(tmp_path: Path) -> None:
    path = files(tmp_path, "a/one.wav")
    ((clip, _),) = read(path, ["train"], pattern="{speaker_id}/{name}.wav", columns={"sentence": None})
    assert (clip.sentence, clip.speaker_id) == ("", "a")


@pytest.mark.parametrize("content", [b"", b"path,sentence,split\n\xff,one,train\n", b"path\na\nb,c,d\n"])
def test_an_invalid_manifest_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "all.csv").write_bytes(content)
    with pytest.raises(SpeechmillError, match=r"all\.csv"):
        read(tmp_path, ["train"], manifest="all.csv")


def test_an_unmapped_value_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match=r"0_jo_5\.wav.*\n?.*") as caught:
        read(
            files(tmp_path, "recordings/0_jo_5.wav"),
            ["train"],
            **DIGITS | {"columns": {"sentence": {"field": "digit", "values": {"1": "one"}}}},
        )
    assert "`columns.sentence.values` has no entry for digit = 0" in str(caught.value)


def test_a_value_without_a_split_is_named(tmp_path: Path) -> None:
    split = {"field": "take", "values": {"test": ["0"], "train": ["1"]}}
    with pytest.raises(SpeechmillError, match=r"0_jo_5\.wav: `split\.values` has no entry for take = 5"):
        read(files(tmp_path, "recordings/0_jo_5.wav"), ["train"], **DIGITS | {"split": split})


def test_a_pattern_without_sentence_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match=r"`columns.sentence` reads the field `sentence`.*digit, path, split"):
        read(files(tmp_path, "train/7.wav"), ["train"], pattern="{split}/{digit}.wav")


def test_a_pattern_without_matches_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match=r"no file name matches the dataset's `pattern`, \{a\}-\{b\}\.wav"):
        read(files(tmp_path, "one.wav"), ["train"], pattern="{a}-{b}.wav")


def test_a_split_without_recordings_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match="no recording belongs to the split dev"):
        read(files(tmp_path, "train/one.wav"), ["train", "dev"], pattern="{split}/{sentence}.wav")
