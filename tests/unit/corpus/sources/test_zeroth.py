import hashlib
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from material import tar
from speechmill.config.datasets import Zeroth
from speechmill.core.command import SpeechmillError
from speechmill.corpus.encoded import Encoded
from speechmill.corpus.sources.corpus import SourceClip
from speechmill.corpus.sources.zeroth import open_zeroth

Files = dict[str, bytes]

# Source of the layout and of the columns: OpenSLR 40.
SPEAKERS = "SPEAKERID|NAME|SEX|SCRIPTID|DATASET\n106|김 아무개|f|003|train_data_01\n 104 | 이|M|003|test_data_01 \n"
TRAIN, TEST = "train_data_01/003/106", "test_data_01/003/104"
CORPUS: Files = {
    "AUDIO_INFO": SPEAKERS.encode(),
    "README.TXT": b"",
    f"{TRAIN}/106_003.trans.txt": "106_003_0001 가  나 다\n106_003_0002 라\n".encode(),
    f"{TRAIN}/106_003_0001.flac": b"one",
    f"{TRAIN}/106_003_0002.flac": b"two",
    f"{TEST}/104_003.trans.txt": "104_003_0019 마\n".encode(),
    f"{TEST}/104_003_0019.flac": b"three",
    "zeroth.lm.tg.arpa.gz": b"a language model",
    "zeroth_morfessor.seg": b"\xff",
}


def clip(folder: str, utterance: str, sentence: str, gender: str | None) -> SourceClip:
    split, speaker = folder.split("_")[0], folder.split("/")[2]
    return SourceClip(utterance, (split,), f"{folder}/{utterance}.flac", sentence, speaker, gender=gender)


EXPECTED = [
    (clip(TRAIN, "106_003_0001", "가  나 다", "female"), b"one"),
    (clip(TRAIN, "106_003_0002", "라", "female"), b"two"),
    (clip(TEST, "104_003_0019", "마", "male"), b"three"),
]


def read(path: Path, *splits: str) -> list[tuple[SourceClip, Encoded | None]]:
    """Return all clips of the corpus at `path`, each with its bytes."""
    work = path.parent / "work"
    work.mkdir(exist_ok=True)
    config = Zeroth(source="zeroth", path="", language="ko")
    try:
        with open_zeroth(path, config, list(splits or ("train", "test")), work) as corpus:
            return [(clip, corpus.read(clip)) for clip in corpus.clips]
    finally:
        assert list(work.iterdir()) == []


def read_both(tmp_path: Path, files: Mapping[str, bytes], *splits: str) -> list[tuple[SourceClip, Encoded | None]]:
    """Return all clips of the archive of `files`, and check that their folder gives the same."""
    found = read(tar(tmp_path / "corpus.tar.gz", list(files.items())), *splits)
    assert found == read(unpack(tmp_path / "data", files), *splits)
    return found


def unpack(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("top", ["", "./", "zeroth_korean/", "./zeroth_korean/"])
@pytest.mark.parametrize("order", [1, -1])
def test_any_order_and_top_folder_are_read(tmp_path: Path, order: int, top: str) -> None:
    assert read_both(tmp_path, {f"{top}{name}": content for name, content in list(CORPUS.items())[::order]}) == EXPECTED


def test_splits_are_read_in_the_listed_order(tmp_path: Path) -> None:
    assert read_both(tmp_path, CORPUS, "test", "train") == EXPECTED[2:] + EXPECTED[:2]
    assert read_both(tmp_path, CORPUS, "test") == EXPECTED[2:]


def test_a_split_may_have_several_folders(tmp_path: Path) -> None:
    more = "train_data_02/007/106"
    files = CORPUS | {f"{more}/106_007_0001.flac": b"four", f"{more}/106_007.trans.txt": "106_007_0001 바".encode()}
    assert read_both(tmp_path, files, "train") == [*EXPECTED[:2], (clip(more, "106_007_0001", "바", "female"), b"four")]


def test_utterances_without_text_or_audio_are_listed(tmp_path: Path) -> None:
    files = dict(CORPUS)
    del files[f"{TRAIN}/106_003_0001.flac"]
    files[f"{TRAIN}/106_003_0009.flac"] = b"nine"
    files["train_data_01/003/107/107_003_0001.flac"] = b"no transcript at all"
    assert read_both(tmp_path, files, "train") == [
        (EXPECTED[0][0], None),
        EXPECTED[1],
        (clip(TRAIN, "106_003_0009", "", "female"), b"nine"),
        (clip("train_data_01/003/107", "107_003_0001", "", None), b"no transcript at all"),
    ]


@pytest.mark.parametrize(("sex", "gender"), [("m", "male"), ("F", "female"), ("X", "x"), ("", None), (" ", None)])
def test_the_gender_is_read(tmp_path: Path, sex: str, gender: str | None) -> None:
    files = CORPUS | {"AUDIO_INFO": f"SPEAKERID|NAME|SEX|SCRIPTID|DATASET\n\n104|이|{sex}|003|test_data_01".encode()}
    assert [clip.gender for clip, _ in read_both(tmp_path, files)] == [None, None, gender]


def test_a_corpus_without_audio_info_has_no_genders(tmp_path: Path) -> None:
    files = {name: content for name, content in CORPUS.items() if name != "AUDIO_INFO"}
    assert [clip.gender for clip, _ in read_both(tmp_path, files)] == [None, None, None]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("가 \t 나 ", "가 \t 나 "),
        ("null", "null"),
        ('"가', '"가'),
        ("가\N{LINE SEPARATOR}나\x85다\r라", "가\N{LINE SEPARATOR}나\x85다\r라"),
        ("가\r", "가"),
        ("", ""),
    ],
)
@pytest.mark.parametrize("between", [" ", "\t", "  "])
def test_the_sentence_follows_the_id(tmp_path: Path, line: str, sentence: str, between: str) -> None:
    text = f"\N{ZERO WIDTH NO-BREAK SPACE}104_003_0019{between}{line}\n\n"
    found = read_both(tmp_path, CORPUS | {f"{TEST}/104_003.trans.txt": text.encode()}, "test")
    assert [clip.sentence for clip, _ in found] == [sentence]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.sampled_from(["train", "test"]), st.integers(1, 3), st.booleans(), st.booleans())))
def test_every_utterance_is_listed_once(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int, bool, bool]]
) -> None:
    files = dict(CORPUS)
    expected: dict[str, tuple[str, bytes | None]] = {}
    for number, (split, speaker, has_text, has_audio) in enumerate(rows):
        utterance, folder = f"{speaker}_005_{number:04d}", f"{split}_data_01/005/{speaker}"
        transcript = f"{folder}/{speaker}_005.trans.txt"
        if has_text:
            files[transcript] = files.get(transcript, b"") + f"{utterance} text {number}\n".encode()
        if has_audio:
            files[f"{folder}/{utterance}.flac"] = b"%d" % number
        if has_text or has_audio:
            expected[utterance] = (f"text {number}" if has_text else "", b"%d" % number if has_audio else None)
    found = read_both(tmp_path_factory.mktemp("corpus"), files)
    assert {clip.id: (clip.sentence, content) for clip, content in found if "_005_" in clip.id} == expected
    assert len(found) == len(expected) + len(EXPECTED)


def test_duplicate_utterances_must_be_identical(tmp_path: Path) -> None:
    again = "test_data_01/003/106"
    files = CORPUS | {f"{again}/{name.rpartition('/')[2]}": CORPUS[name] for name in CORPUS if TRAIN in name}
    assert [(clip.id, clip.splits) for clip, _ in read_both(tmp_path, files)] == [
        ("106_003_0001", ("train", "test")),
        ("106_003_0002", ("train", "test")),
        ("104_003_0019", ("test",)),
    ]
    for name, content in {"106_003_0002.flac": b"other", "106_003.trans.txt": b"106_003_0002 other\n"}.items():
        path = tar(tmp_path / "corpus.tar.gz", list((files | {f"{again}/{name}": content}).items()))
        with pytest.raises(SpeechmillError, match=rf"{again}/106_003_000\d\.flac and {TRAIN}/.* differ"):
            read(path)


def test_duplicate_members_must_be_identical(tmp_path: Path) -> None:
    path = tar(tmp_path / "corpus.tar.gz", [*CORPUS.items(), (f"./{TRAIN}/106_003_0001.flac", b"other")])
    with pytest.raises(SpeechmillError, match=r"106_003_0001\.flac' twice with different contents"):
        read(path)


def test_an_utterance_with_two_texts_is_named(tmp_path: Path) -> None:
    same, other = "104_003_0019 마\n".encode(), "104_003_0019 바\n".encode()
    name = f"{TEST}/104_003.trans.txt"
    assert read_both(tmp_path, CORPUS | {name: same * 2}) == EXPECTED
    with pytest.raises(SpeechmillError, match=rf"corpus\.tar\.gz: {name}, line 2: 104_003_0019 has two texts"):
        read(tar(tmp_path / "corpus.tar.gz", list((CORPUS | {name: same + other}).items())))


def test_a_duplicate_corpus_is_refused(tmp_path: Path) -> None:
    files = CORPUS | {f"copy/{name}": content for name, content in CORPUS.items()}
    with pytest.raises(
        SpeechmillError, match=r"contains the corpus more than once, in \./ and copy/; set `path` to one"
    ):
        read_both(tmp_path, files)


def test_a_missing_split_is_reported_with_others(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match="contains no dev_data_NN; its splits are test, train"):
        read_both(tmp_path, CORPUS, "train", "dev")
    with pytest.raises(SpeechmillError, match="its splits are none"):
        read_both(tmp_path, {"AUDIO_INFO": b""}, "train")


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("AUDIO_INFO", b"106 f\n", r"AUDIO_INFO, line 1 is not SPEAKERID\|NAME\|SEX\|SCRIPTID\|DATASET: '106 f'"),
        ("AUDIO_INFO", b"a|b|c\n\n\xff", "AUDIO_INFO, line 3 is not UTF-8"),
        (f"{TRAIN}/106_003.trans.txt", b"106_003_0001 \xff\n", r"106_003\.trans\.txt, line 1 is not UTF-8"),
    ],
)
def test_an_invalid_table_is_named(tmp_path: Path, name: str, content: bytes, what: str) -> None:
    with pytest.raises(SpeechmillError, match=rf"corpus\.tar\.gz: .*{what}"):
        read_both(tmp_path, CORPUS | {name: content})


def test_other_files_are_ignored(tmp_path: Path) -> None:
    # macOS adds the second to archives.
    more = {f"{TRAIN}/notes.md": b"x", f"{TRAIN}/._106_003_0001.flac": b"x", f"{TRAIN}/deeper/106.flac": b"x"}
    assert read_both(tmp_path, CORPUS | more) == EXPECTED


def test_a_transcript_opens_no_file_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "outside.flac").write_bytes(b"secret")
    text = f"../../../../outside one\n{tmp_path}/outside two\n104_003_0019 마\n"
    found = read_both(tmp_path, CORPUS | {f"{TEST}/104_003.trans.txt": text.encode()}, "test")
    assert [(clip.sentence, content) for clip, content in found if content] == [("마", b"three")]
    assert len(found) == 3


def test_only_a_link_in_place_of_a_clip_is_refused(tmp_path: Path) -> None:
    path = tar(tmp_path / "corpus.tar", list(CORPUS.items()), "w")
    for name, refused in (("zeroth.lm.fg.arpa.gz", False), (f"{TRAIN}/106_003_0003.flac", True)):
        with tarfile.open(path, "a") as file:
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
            file.addfile(link)
        if refused:
            with pytest.raises(SpeechmillError, match=r"corpus\.tar is refused: .*106_003_0003\.flac' is a link"):
                read(path)
        else:
            assert read(path) == EXPECTED


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    path = tar(tmp_path / "corpus.tar.gz", list(CORPUS.items()))
    content = path.read_bytes()
    for cut in range(0, len(content), 20):
        path.write_bytes(content[:cut])
        with pytest.raises(SpeechmillError, match="cannot be read to its end"):
            read(path)


def test_size_and_digest_of_an_archive_are_recorded(tmp_path: Path) -> None:
    path = tar(tmp_path / "corpus.tar.gz", list(CORPUS.items()))
    path.write_bytes(path.read_bytes() + bytes(100))
    config = Zeroth(source="zeroth", path="", language="ko")
    with open_zeroth(path, config, ["train"], tmp_path) as corpus:
        content = path.read_bytes()
        assert corpus.about == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    with open_zeroth(unpack(tmp_path / "data", CORPUS), config, ["train"], tmp_path) as corpus:
        assert corpus.about == {}
