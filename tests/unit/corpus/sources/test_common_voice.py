import hashlib
import itertools
import re
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from material import RELEASE, TSV_COLUMNS, tar, tsv
from speechmill.config.datasets import CommonVoice
from speechmill.core.command import SpeechmillError
from speechmill.corpus.encoded import Encoded
from speechmill.corpus.sources.common_voice import open_common_voice
from speechmill.corpus.sources.corpus import Corpus, SourceClip

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


def read(archive: Path, splits: list[str] = SPLITS, language: str = "ru") -> list[tuple[SourceClip, Encoded | None]]:
    """Return all clips of the corpus in `archive`, each with its bytes."""
    config = CommonVoice(source="common_voice", path="", language=language)
    work = archive.parent / "work"
    work.mkdir(exist_ok=True)

    def all_of(corpus: Corpus) -> list[tuple[SourceClip, Encoded | None]]:
        return [(clip, corpus.read(clip)) for clip in corpus.clips]

    with open_common_voice(archive, config, splits, work) as corpus:
        assert list(work.iterdir()) == []  # no member becomes a file
        return all_of(corpus)


def read_tables(
    tmp_path: Path, tables: Mapping[str, Iterable[Mapping[str, str]]], **more: list[str]
) -> list[SourceClip]:
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


def test_a_clip_has_the_values_of_its_row(tmp_path: Path) -> None:
    first, second, *_ = read_tables(tmp_path, TABLES)
    assert first == SourceClip(
        "a.mp3", ("train",), "a.mp3", "Раз.", "speaker of a", gender="female", age="twenties", accent="Ural"
    )
    assert (second.sentence, second.gender, second.age, second.accent) == ("Два, три!", None, None, None)


@pytest.mark.parametrize("name", ["accent", "accents"])
def test_both_names_of_the_accent_column_are_read(tmp_path: Path, name: str) -> None:
    columns = [name if column == "accents" else column for column in TSV_COLUMNS]
    (clip,) = read_tables(tmp_path, {"train": [row("a", **{name: "Ural"})]}, columns=columns)
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
def test_sentences_are_kept_unchanged(tmp_path: Path, sentence: str) -> None:
    clips = read_tables(tmp_path, {"train": [row("a", sentence), row("b", "после")]})
    assert [clip.sentence for clip in clips] == [sentence, "после"]


def test_a_speaker_named_na_is_a_speaker(tmp_path: Path) -> None:
    (clip,) = read_tables(tmp_path, {"train": [row("a", client_id="NA")]})
    assert clip.speaker_id == "NA"


def test_a_clip_of_several_splits_belongs_to_the_first(tmp_path: Path) -> None:
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


def test_a_clip_listed_twice_is_one_clip(tmp_path: Path) -> None:
    (clip,) = read_tables(tmp_path, {"train": [row("a"), row("a")]})
    assert clip.splits == ("train",)


def test_a_missing_clip_has_no_bytes(tmp_path: Path) -> None:
    listed, clips = members()
    found = read(tar(tmp_path / "corpus.tar.gz", listed + clips[1:]))
    assert [content is None for _, content in found] == [True, False, False, False]


def test_other_languages_and_splits_are_ignored(tmp_path: Path) -> None:
    listed, clips = members()
    other = [(f"{RELEASE}/kk/train.tsv", tsv([row("a", "қазақ")])), (f"{RELEASE}/kk/clips/a.mp3", b"another a")]
    broken = [(f"{TOP}/reported.tsv", b'\xff not a table "\n')]
    found = read(tar(tmp_path / "corpus.tar.gz", other + broken + listed + clips))
    assert next((clip.sentence, content) for clip, content in found) == ("Раз.", CLIPS["a.mp3"])


def test_a_clip_that_is_a_link_is_refused(tmp_path: Path) -> None:
    path = tar(tmp_path / "corpus.tar.gz", [*members()[0], *members()[1]], "w")
    with tarfile.open(path, "a") as file:
        link = tarfile.TarInfo(f"{TOP}/clips/e.mp3")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        file.addfile(link)
    with pytest.raises(SpeechmillError, match=r"corpus\.tar\.gz is refused: its member '.*/clips/e\.mp3' is a link"):
        read(path)


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz", "w"])
def test_a_truncated_archive_is_refused_or_complete(tmp_path: Path, mode: str) -> None:
    tables, clips = members()
    path = tar(tmp_path / "corpus", tables + clips, mode)
    complete, content = read(path), path.read_bytes()
    # Half blocks of the plain archive, which includes the boundaries of members; any byte of the compressed ones.
    cuts = range(0, len(content), 256 if mode == "w" else max(1, len(content) // 40))
    refused = 0
    for cut in cuts:
        path.write_bytes(content[:cut])
        try:
            found = read(path)
        except SpeechmillError as error:
            assert re.match(rf"{re.escape(str(path))} cannot be read to its end .* download it again", str(error))
            refused += 1
        else:
            assert found == complete  # only padding at the end was lost
    assert refused > len(cuts) / 2


def test_a_missing_language_is_reported_with_others(tmp_path: Path) -> None:
    listed, clips = members()
    path = tar(tmp_path / "corpus.tar.gz", listed + clips)
    with pytest.raises(SpeechmillError, match=r"corpus\.tar\.gz has no folder for the language ko, only for ru"):
        read(path, language="ko")


def test_a_missing_split_is_reported_with_others(tmp_path: Path) -> None:
    listed, clips = members()
    path = tar(tmp_path / "corpus.tar.gz", listed + clips)
    with pytest.raises(
        SpeechmillError, match=r"corpus\.tar\.gz has no other\.tsv; use one of its splits, dev, test, train"
    ):
        read(path, splits=["train", "other"])


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match=r"train\.tsv lacks the columns client_id, sentence"):
        read_tables(tmp_path, {"train": [row("a")]}, columns=["path", "age"])


@pytest.mark.parametrize(
    ("table", "what"),
    [
        (b"", "lacks the columns client_id, path, sentence"),
        (b"\xff\xfe", "line 1 is not UTF-8"),
        (b"client_id\tpath\tsentence\ns\ta.mp3\tone\n\ns\tb.mp3\t\xff\n", "line 4 is not UTF-8"),
        (b"client_id\tpath\tsentence\tage\ns\ta.mp3\tone\t\ns\tb.mp3\tone\n", "line 3 has 3 of 4 columns"),
        (b"client_id\tpath\tsentence\ns\t\tone\n", "line 2: the clip has no `path`"),
    ],
)
def test_an_invalid_table_is_named(tmp_path: Path, table: bytes, what: str) -> None:
    path = tar(tmp_path / "corpus.tar.gz", [(f"{TOP}/train.tsv", table)])
    with pytest.raises(SpeechmillError, match=rf"corpus\.tar\.gz: train\.tsv.* {what}"):
        read(path, splits=["train"])


@pytest.mark.parametrize(
    "columns", [["client_id", "path", "sentence", "age"], ["sentence", "age", "client_id", "path"]]
)
@pytest.mark.parametrize("sentence", ["a\tstray TAB", "\tat the start", "\t\t"])
def test_a_stray_tab_belongs_to_the_sentence(tmp_path: Path, columns: list[str], sentence: str) -> None:
    clips = read_tables(tmp_path, {"train": [row("a", sentence, age="teens"), row("b")]}, columns=columns)
    assert [(clip.id, clip.sentence, clip.speaker_id, clip.age) for clip in clips] == [
        ("a.mp3", sentence, "speaker of a", "teens"),
        ("b.mp3", "Раз.", "speaker of b", None),
    ]


@pytest.mark.parametrize("stray", ["\N{LINE SEPARATOR}", "\x85", "\r", "\v", "\f", "\x1c", "\0"])
def test_only_a_line_feed_ends_a_row(tmp_path: Path, stray: str) -> None:
    clips = read_tables(tmp_path, {"train": [row("a", f"one{stray}two"), row("b")]})
    assert [clip.sentence for clip in clips] == [f"one{stray}two", "Раз."]


def test_a_table_from_windows_is_read(tmp_path: Path) -> None:
    table = "\N{ZERO WIDTH NO-BREAK SPACE}client_id\tpath\tsentence\r\ns\ta.mp3\tодин\r\ns\tb.mp3\tдва".encode()
    found = read(tar(tmp_path / "corpus.tar.gz", [(f"{TOP}/train.tsv", table)]), splits=["train"])
    assert [(clip.speaker_id, clip.id, clip.sentence) for clip, _ in found] == [
        ("s", "a.mp3", "один"),
        ("s", "b.mp3", "два"),
    ]


# Source: the headers of the tables of these releases; 17 and later have the last one.
RELEASES = {
    "6.1": "client_id path sentence up_votes down_votes age gender accent locale segment",
    "8.0": "client_id path sentence up_votes down_votes age gender accents locale segment",
    "13.0": "client_id path sentence up_votes down_votes age gender accents variant locale segment",
    "17.0": "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents variant locale"
    " segment",
}


@pytest.mark.parametrize("form", ["archive", "language", "release", "parent"])
@pytest.mark.parametrize("release", [*RELEASES, "25.0"])
def test_every_release_is_read_in_every_form(tmp_path: Path, release: str, form: str) -> None:
    columns = RELEASES.get(release, RELEASES["17.0"]).split()
    rows = [row("a", age="fifties", gender="male_masculine", accent="Ural", accents="Ural", variant="v"), row("b")]
    beside = b'clip\tduration[ms]\na.mp3\t1"\xff\n'
    top = f"cv-corpus-{release}-2024-03-15/ru"
    files = [(f"{top}/{name}.tsv", tsv(rows, columns)) for name in ("train", "validated")]
    files += [(f"{top}/{name}.tsv", beside) for name in ("clip_durations", "validated_sentences", "reported")]
    files += [(f"{top}/clips/{name}", content) for name, content in CLIPS.items()]
    if form == "archive":
        path = tar(tmp_path / "corpus.tar.gz", files)
    else:
        unpack(tmp_path / "data", files)
        path = {"language": tmp_path / "data" / top, "parent": tmp_path / "data"}.get(
            form, (tmp_path / "data" / top).parent
        )
    found = read(path, ["train", "validated"])
    both = ("train", "validated")
    assert found == [
        (
            SourceClip("a.mp3", both, "a.mp3", "Раз.", "speaker of a", "male_masculine", "fifties", "Ural"),
            CLIPS["a.mp3"],
        ),
        (SourceClip("b.mp3", both, "b.mp3", "Раз.", "speaker of b"), CLIPS["b.mp3"]),
    ]
    with pytest.raises(SpeechmillError, match=r" has no dev\.tsv; use one of its splits, train, validated$"):
        read(path, ["dev"])


def unpack(folder: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    for name, content in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


TEXT = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=12)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(TEXT, min_size=10, max_size=10),
    st.lists(st.integers(0, 9), max_size=12),
    st.lists(st.integers(0, 9), max_size=12),
    st.dictionaries(st.integers(0, 9), st.binary(max_size=50)),
)
def test_an_archive_and_its_folder_are_equal(
    tmp_path_factory: pytest.TempPathFactory,
    sentences: list[str],
    train: list[int],
    other: list[int],
    clips: dict[int, bytes],
) -> None:
    tmp_path = tmp_path_factory.mktemp("corpus")
    tables = {name: [row(str(n), sentences[n]) for n in rows] for name, rows in (("train", train), ("other", other))}
    listed, held = members(tables, {f"{n}.mp3": content for n, content in clips.items()} | {"z.mp3": b"unlisted"})
    found = read(tar(tmp_path / "corpus.tar.gz", held + listed), ["other", "train"])
    assert found == read(unpack(tmp_path / "data", listed + held), ["other", "train"])
    first = {f"{n}.mp3": sentences[n] for n in other + train}
    assert {clip.id: clip.sentence for clip, _ in found} == first
    assert len(found) == len(first)
    assert all(content == clips.get(int(clip.id.removesuffix(".mp3"))) for clip, content in found)


def test_contradicting_splits_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        SpeechmillError, match=r"the clip a\.mp3 is listed in train and in other with different sentences"
    ):
        read_tables(tmp_path, {"train": [row("a")], "other": [row("a", "Два.")]})


def test_a_clip_without_file_extension_is_found(tmp_path: Path) -> None:
    table = b"client_id\tpath\tsentence\ns\ta\tone\ns\tb.mp3\ttwo\ns\tnone\tthree\n"
    files = [(f"{TOP}/train.tsv", table), *members()[1]]
    found = read(tar(tmp_path / "corpus.tar.gz", files), ["train"])
    assert found == read(unpack(tmp_path / "data", files), ["train"])
    assert [(clip.id, clip.file, content) for clip, content in found] == [
        ("a", "a.mp3", CLIPS["a.mp3"]),
        ("b.mp3", "b.mp3", CLIPS["b.mp3"]),
        ("none", "none", None),
    ]


def test_a_table_opens_no_file_outside_the_clips(tmp_path: Path) -> None:
    outside = tmp_path / "outside.mp3"
    outside.write_bytes(b"secret")
    names = [str(outside), "../train.tsv", "../../../../outside.mp3", "./a.mp3", "a.mp3/../a.mp3", "\0", "a.mp3"]
    table = "client_id\tpath\tsentence\n" + "".join(f"s\t{name}\tone\n" for name in names)
    files = [(f"{TOP}/train.tsv", table.encode()), *members()[1]]
    expected = [*[None] * (len(names) - 1), CLIPS["a.mp3"]]
    assert [content for _, content in read(tar(tmp_path / "corpus.tar", files), ["train"])] == expected
    assert [content for _, content in read(unpack(tmp_path / "data", files), ["train"])] == expected


def test_a_duplicate_language_is_refused(tmp_path: Path) -> None:
    tables, clips = members()
    twice = [(name.replace(RELEASE, top), content) for top in (RELEASE, "cv-corpus-13.0") for name, content in tables]
    with pytest.raises(SpeechmillError, match=r"contains ru more than once, in cv-corpus-13\.0/ru and cv-"):
        read(tar(tmp_path / "corpus.tar.gz", twice))
    clips += [(f"cv-corpus-13.0/ru/clips/{name}", content) for name, content in CLIPS.items()]
    with pytest.raises(
        SpeechmillError, match=r"more than once, in /.*/cv-corpus-13\.0/ru and .*; set `path` to one of them"
    ):
        read(unpack(tmp_path / "data", twice + clips))


def test_a_folder_of_another_language_is_refused(tmp_path: Path) -> None:
    tables, clips = members()
    folder = unpack(tmp_path / "data", tables + clips)
    for path in (folder, folder / RELEASE, folder / TOP):
        with pytest.raises(SpeechmillError, match="has no folder for the language ko, only for ru"):
            read(path, language="ko")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpeechmillError, match="language ru, only for none"):
        read(tmp_path / "empty")


def test_size_and_digest_of_an_archive_are_recorded(tmp_path: Path) -> None:
    tables, clips = members()
    path = tar(tmp_path / "corpus.tar.gz", tables + clips)
    path.write_bytes(path.read_bytes() + b"behind")
    config = CommonVoice(source="common_voice", path="", language="ru")
    with open_common_voice(path, config, SPLITS, tmp_path) as corpus:
        content = path.read_bytes()
        assert corpus.about == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    with open_common_voice(unpack(tmp_path / "data", tables + clips), config, SPLITS, tmp_path) as corpus:
        assert corpus.about == {}
