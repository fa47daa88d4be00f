import io
import itertools
import re
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from material import RELEASE, TSV_COLUMNS, tar, tsv
from speechmill.command import SpeechmillError
from speechmill.config.datasets import CommonVoice
from speechmill.sources.common_voice import open_common_voice
from speechmill.sources.corpus import Corpus, Published

SPLITS = ["train", "dev", "test"]
TOP = f"{RELEASE}/ru"


def row(name: str, sentence: str = "Раз.", **more: str) -> dict[str, str]:
    return {"client_id": f"speaker of {name}", "path": f"{name}.mp3", "sentence": sentence, "locale": "ru", **more}


TABLES = {
    "train": [row("a", age="twenties", gender="female", accents="Ural"), row("b", "Два, три!")],
    "dev": [row("c")],
    "test": [row("d")],
}
CLIPS = {f"{name}.mp3": f"the bytes of {name}".encode() * 100 for name in "abcd"}


def members(
    tables: Mapping[str, Iterable[Mapping[str, str]]] = TABLES,
    clips: Mapping[str, bytes] = CLIPS,
    columns: list[str] = TSV_COLUMNS,
) -> tuple[list[tuple[str, bytes]], list[tuple[str, bytes]]]:
    return (
        [(f"{TOP}/{split}.tsv", tsv(list(rows), columns)) for split, rows in tables.items()],
        [(f"{TOP}/clips/{name}", content) for name, content in clips.items()],
    )


def read(archive: Path, splits: list[str] = SPLITS, language: str = "ru") -> list[tuple[Published, bytes | None]]:
    """Everything that the corpus in `archive` gives."""
    settings = CommonVoice(source="common_voice", path="", language=language)
    work = archive.parent / "work"
    work.mkdir(exist_ok=True)

    def all_of(corpus: Corpus) -> list[tuple[Published, bytes | None]]:
        return [(clip, corpus.read(clip)) for clip in corpus.clips]

    with open_common_voice(archive, settings, splits, work) as corpus:
        assert list(work.iterdir()) == []  # no member becomes a file
        return all_of(corpus)


def read_tables(
    tmp_path: Path, tables: Mapping[str, Iterable[Mapping[str, str]]], **more: list[str]
) -> list[Published]:
    listed, clips = members(tables, **more)
    return [clip for clip, _ in read(tar(tmp_path / "corpus.tar.gz", listed + clips), splits=list(tables))]


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz", "w"])
@pytest.mark.parametrize("order", ["tables first", "tables last", "tables between"])
def test_members_may_come_in_any_order(tmp_path: Path, order: str, mode: str) -> None:
    tables, clips = members()
    arranged = {
        "tables first": tables + clips,
        "tables last": clips + tables,
        "tables between": list(itertools.chain.from_iterable(itertools.zip_longest(clips, tables, fillvalue=clips[0]))),
    }[order]
    found = read(tar(tmp_path / "corpus", arranged, mode))
    assert [(clip.id, clip.splits, content) for clip, content in found] == [
        ("a.mp3", ("train",), CLIPS["a.mp3"]),
        ("b.mp3", ("train",), CLIPS["b.mp3"]),
        ("c.mp3", ("dev",), CLIPS["c.mp3"]),
        ("d.mp3", ("test",), CLIPS["d.mp3"]),
    ]


def test_a_clip_has_what_its_row_says(tmp_path: Path) -> None:
    first, second, *_ = read_tables(tmp_path, TABLES)
    assert first == Published(
        "a.mp3", ("train",), "a.mp3", "Раз.", "speaker of a", gender="female", age="twenties", accent="Ural"
    )
    assert (second.sentence, second.gender, second.age, second.accent) == ("Два, три!", None, None, None)


@pytest.mark.parametrize("spelt", ["accent", "accents"])
def test_releases_spell_the_accent_differently(tmp_path: Path, spelt: str) -> None:
    columns = [spelt if column == "accents" else column for column in TSV_COLUMNS]
    (clip,) = read_tables(tmp_path, {"train": [row("a", **{spelt: "Ural"})]}, columns=columns)
    assert clip.accent == "Ural"


def test_a_release_without_optional_columns_is_read(tmp_path: Path) -> None:
    (clip,) = read_tables(tmp_path, {"train": [row("a")]}, columns=["client_id", "path", "sentence"])
    assert (clip.gender, clip.age, clip.accent) == (None, None, None)


def test_a_later_release_with_more_columns_is_read(tmp_path: Path) -> None:
    # Common Voice 17 and later.
    columns = ["client_id", "path", "sentence_id", "sentence", "sentence_domain", "up_votes", "down_votes", "age"]
    (clip,) = read_tables(tmp_path, {"train": [row("a", sentence_id="7f", age="teens")]}, columns=columns)
    assert (clip.sentence, clip.age) == ("Раз.", "teens")


@pytest.mark.parametrize(
    "sentence", ["null", "NA", "nan", 'Он сказал: "да', '"', "''", "1.10", " два  слова ", "#", ""]
)
def test_sentences_are_taken_as_they_are(tmp_path: Path, sentence: str) -> None:
    clips = read_tables(tmp_path, {"train": [row("a", sentence), row("b", "после")]})
    assert [clip.sentence for clip in clips] == [sentence, "после"]


def test_a_speaker_named_like_nothing_is_a_speaker(tmp_path: Path) -> None:
    (clip,) = read_tables(tmp_path, {"train": [row("a", client_id="NA")]})
    assert clip.speaker_id == "NA"


def test_a_clip_in_several_splits_stands_under_the_first_that_is_listed(tmp_path: Path) -> None:
    listed, clips = members({"validated": TABLES["train"] + TABLES["dev"] + [row("d")], **TABLES})
    archive = tar(tmp_path / "corpus.tar.gz", listed + clips)
    assert [(clip.id, clip.splits) for clip, _ in read(archive, ["train", "dev", "validated"])] == [
        ("a.mp3", ("train", "validated")),
        ("b.mp3", ("train", "validated")),
        ("c.mp3", ("dev", "validated")),
        ("d.mp3", ("validated",)),  # test is not listed
    ]
    assert [clip.splits for clip, _ in read(archive, ["validated", "train"])] == [
        ("validated", "train"),
        ("validated", "train"),
        ("validated",),
        ("validated",),
    ]


def test_a_clip_that_a_split_lists_twice_is_one_clip(tmp_path: Path) -> None:
    (clip,) = read_tables(tmp_path, {"train": [row("a"), row("a")]})
    assert clip.splits == ("train",)


def test_a_listed_clip_that_the_archive_lacks_has_no_bytes(tmp_path: Path) -> None:
    listed, clips = members()
    found = read(tar(tmp_path / "corpus.tar.gz", listed + clips[1:]))
    assert [content is None for _, content in found] == [True, False, False, False]


def test_other_languages_and_unlisted_splits_are_left_alone(tmp_path: Path) -> None:
    listed, clips = members()
    other = [(f"{RELEASE}/kk/train.tsv", tsv([row("a", "қазақ")])), (f"{RELEASE}/kk/clips/a.mp3", b"another a")]
    broken = [(f"{TOP}/reported.tsv", b'\xff not a table "\n')]
    found = read(tar(tmp_path / "corpus.tar.gz", other + broken + listed + clips))
    assert next((clip.sentence, content) for clip, content in found) == ("Раз.", CLIPS["a.mp3"])


def test_members_that_are_not_files_or_point_outside_are_ignored(tmp_path: Path) -> None:
    listed, clips = members()
    archive = tmp_path / "corpus.tar.gz"
    outside = tmp_path / "outside.mp3"
    outside.write_bytes(b"secret")
    with tarfile.open(archive, "w:gz") as file:
        for name, content in [
            (f"{TOP}/clips/../../../../outside.mp3", b"evil"),
            ("../outside.mp3", b"evil"),
            (str(outside), b"evil"),
            *listed,
            *clips[1:],
        ]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
        folder = tarfile.TarInfo(f"{TOP}/clips")
        folder.type = tarfile.DIRTYPE
        file.addfile(folder)
        for kind, target in ((tarfile.SYMTYPE, str(outside)), (tarfile.LNKTYPE, f"{TOP}/clips/b.mp3")):
            link = tarfile.TarInfo(f"{TOP}/clips/a.mp3")
            link.type, link.linkname = kind, target
            file.addfile(link)
    found = read(archive)
    assert [content for _, content in found] == [None, CLIPS["b.mp3"], CLIPS["c.mp3"], CLIPS["d.mp3"]]
    assert outside.read_bytes() == b"secret"


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz", "w"])
def test_an_archive_that_is_cut_short_is_never_taken_for_whole(tmp_path: Path, mode: str) -> None:
    tables, clips = members()
    path = tar(tmp_path / "corpus", tables + clips, mode)
    whole, content = read(path), path.read_bytes()
    # Each half block of the plain archive, so also right between two members; the compressed ones everywhere.
    cuts = range(0, len(content), 256 if mode == "w" else max(1, len(content) // 40))
    refused = 0
    for cut in cuts:
        path.write_bytes(content[:cut])
        try:
            found = read(path)
        except SpeechmillError as error:
            assert re.match(rf"{re.escape(str(path))} cannot be read to its end .* fetch it again", str(error))
            refused += 1
        else:
            assert found == whole  # only the padding at the very end was lost
    assert refused > len(cuts) / 2


@pytest.mark.parametrize("content", [b"", b"<!doctype html>", b"\0" * 100, b"PK\x03\x04" + b"\0" * 5000])
def test_what_is_not_an_archive_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "corpus.tar.gz"
    path.write_bytes(content)
    with pytest.raises(SpeechmillError, match=r"corpus\.tar\.gz cannot be read to its end .* not an archive"):
        read(path)


def test_an_archive_without_the_language_says_which_it_has(tmp_path: Path) -> None:
    listed, clips = members()
    path = tar(tmp_path / "corpus.tar.gz", listed + clips)
    with pytest.raises(SpeechmillError, match=r"corpus\.tar\.gz has no folder for the language ko; it has ru"):
        read(path, language="ko")


def test_an_archive_without_a_split_says_which_it_has(tmp_path: Path) -> None:
    listed, clips = members()
    path = tar(tmp_path / "corpus.tar.gz", listed + clips)
    with pytest.raises(SpeechmillError, match=r"corpus\.tar\.gz has no other\.tsv; its splits are dev, test, train"):
        read(path, splits=["train", "other"])


def test_a_table_without_a_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match=r"train\.tsv lacks the columns client_id, sentence"):
        read_tables(tmp_path, {"train": [row("a")]}, columns=["path", "age"])


@pytest.mark.parametrize("table", [b"", b"client_id\tpath\tsentence\n1\ta.mp3\tone\ttoo\tmany\n", b"\xff\xfe"])
def test_a_table_that_is_not_one_is_named(tmp_path: Path, table: bytes) -> None:
    path = tar(tmp_path / "corpus.tar.gz", [(f"{TOP}/train.tsv", table)])
    with pytest.raises(SpeechmillError, match=r"corpus\.tar\.gz: train\.tsv"):
        read(path, splits=["train"])


def test_a_row_that_ends_early_has_nothing_in_its_last_columns(tmp_path: Path) -> None:
    table = b"client_id\tpath\tsentence\tage\taccents\ns\ta.mp3\tone\n"
    ((clip, _),) = read(tar(tmp_path / "corpus.tar.gz", [(f"{TOP}/train.tsv", table)]), splits=["train"])
    assert (clip.sentence, clip.age, clip.accent) == ("one", None, None)
