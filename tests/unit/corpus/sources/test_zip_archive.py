import stat
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from speechmill.config.datasets import CommonVoice
from speechmill.core.command import SpeechmillError
from speechmill.corpus.sources import archive
from speechmill.corpus.sources.archive import open_tree
from speechmill.corpus.sources.common_voice import open_common_voice

FILES = {"a.mp3": b"first" * 300, "folder/b.mp3": b"second", "empty.mp3": b""}


def zipped(path: Path, files: dict[str, bytes] | list[tuple[str | zipfile.ZipInfo, bytes]], method: int = 8) -> Path:
    with zipfile.ZipFile(path, "w", method) as file, warnings.catch_warnings(action="ignore"):
        for name, content in files.items() if isinstance(files, dict) else files:
            file.writestr(name, content)
    return path


def kept(path: Path, keep: Callable[[str], str | None] = lambda name: name) -> dict[str, bytes | None]:
    """Return the files that `open_tree` finds at `path`."""
    with open_tree(path, path.parent, keep) as tree:
        assert tree.read("no such file") is None
        return {name: tree.read(name) for name in tree.names}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_archive_is_read(tmp_path: Path, method: int) -> None:
    # Its name does not matter.
    assert kept(zipped(tmp_path / "corpus.tar.gz", FILES, method)) == FILES


def test_common_voice_is_read_from_a_zip_archive(tmp_path: Path) -> None:
    files = {
        "cv-corpus-9.0/en/clips/1.mp3": b"one",
        # What macOS adds.
        "__MACOSX/cv-corpus-9.0/en/clips/._1.mp3": b"attributes",
        "cv-corpus-9.0/en/train.tsv": b"client_id\tpath\tsentence\ns\t1.mp3\tone\n",
    }
    settings = CommonVoice(source="common_voice", path="", language="en")
    with open_common_voice(zipped(tmp_path / "cv.zip", files), settings, ["train"], tmp_path) as corpus:
        assert [(clip.file, clip.sentence, corpus.read(clip)) for clip in corpus.clips] == [("1.mp3", "one", b"one")]
        assert corpus.about["bytes"] == (tmp_path / "cv.zip").stat().st_size


def test_names_are_utf8_with_slashes(tmp_path: Path) -> None:
    # Without the flag for UTF-8, as macOS writes names; with backslashes, as old programs for Windows do.
    path = zipped(tmp_path / "corpus.zip", {"klip.mp3": b"x", "one?two.mp3": b"y"})
    content = path.read_bytes().replace(b"klip", "\u043a\u0431".encode()).replace(b"one?two", b"one\\two")
    path.write_bytes(content)
    assert kept(path) == {"\u043a\u0431.mp3": b"x", "one/two.mp3": b"y"}


@pytest.mark.parametrize("name", ["../a.mp3", "folder/../../a.mp3", "/etc/a.mp3", "..\\a.mp3"])
def test_a_name_outside_the_archive_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SpeechmillError, match=r"corpus\.zip is refused: its member .* points outside the archive"):
        kept(zipped(tmp_path / "corpus.zip", {name: b"x"}))


def test_a_link_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("a.mp3")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    path = zipped(tmp_path / "corpus.zip", [(link, b"/etc/passwd")])
    with pytest.raises(SpeechmillError, match=r"its member 'a\.mp3' is a link; unpack the archive"):
        kept(path)
    assert kept(path, lambda name: None) == {}


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "corpus.zip", {"a.mp3": b"x"}, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[6] |= 1  # the flag in the local header and in the central directory
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(SpeechmillError, match=r"its member 'a\.mp3' is encrypted; unpack .* with its password"):
        kept(path)


def test_an_oversized_member_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(tmp_path / "corpus.zip", {"model.bin": bytes(200_000), "a.mp3": b"a"})
    monkeypatch.setattr(archive, "_LARGEST", 1000)
    assert kept(path, {"a.mp3": "a.mp3"}.get) == {"a.mp3": b"a"}
    with pytest.raises(SpeechmillError, match=r"'model\.bin' has a size of 200,000 bytes"):
        kept(path)


def test_duplicate_members_must_be_identical(tmp_path: Path) -> None:
    assert kept(zipped(tmp_path / "a.zip", [("a.mp3", b"one"), ("a.mp3", b"one")])) == {"a.mp3": b"one"}
    with pytest.raises(SpeechmillError, match=r"it contains 'a\.mp3' twice with different contents"):
        kept(zipped(tmp_path / "b.zip", [("a.mp3", b"one"), ("a.mp3", b"two")]))


def test_a_compression_that_is_not_read_is_named(tmp_path: Path) -> None:
    path = zipped(tmp_path / "corpus.zip", {"a.mp3": b"x"}, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[8] = content[content.index(b"PK\1\2") + 10] = 9  # Deflate64, as Windows uses it for large files
    path.write_bytes(content)
    with pytest.raises(SpeechmillError, match=r"corpus\.zip cannot be read \(.*compression.*\); unpack it"):
        kept(path)


def test_a_damaged_or_truncated_archive_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "corpus.zip", FILES)
    content = path.read_bytes()
    for cut in range(4, len(content), 7):
        path.write_bytes(content[:cut])
        with pytest.raises(SpeechmillError, match=r"corpus\.zip cannot be read .*download it again"):
            kept(path)
    for offset in range(40, content.index(b"PK\1\2"), 5):
        path.write_bytes(content[:offset] + bytes([content[offset] ^ 255]) + content[offset + 1 :])
        try:
            found = kept(path)
        except SpeechmillError:
            continue
        assert found == FILES
