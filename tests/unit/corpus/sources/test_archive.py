import gc
import gzip
import hashlib
import io
import os
import re
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from material import tar
from speechmill.core.command import SpeechmillError
from speechmill.corpus.sources import archive
from speechmill.corpus.sources.archive import open_tree

FILES = {"a.mp3": b"first" * 300, "folder/b.mp3": b"second", "empty.mp3": b""}
MODES = ["w", "w:gz", "w:bz2", "w:xz"]


def kept(path: Path, keep: Callable[[str], str | None] = lambda name: name) -> dict[str, bytes | None]:
    """Return the files that `open_tree` finds at `path`, and check that it leaves no files behind."""
    work = path.parent / "work"
    work.mkdir(exist_ok=True)
    try:
        with open_tree(path, work, keep) as tree:
            assert list(work.iterdir()) == []  # no member becomes a file
            assert tree.read("no such file") is None
            assert tree.about == ({} if path.is_dir() else about(path))
            return {name: tree.read(name) for name in tree.names}
    finally:
        assert list(work.iterdir()) == []


def about(path: Path) -> dict[str, object]:
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def with_member(path: Path, member: tarfile.TarInfo, content: bytes = b"") -> Path:
    """Write an archive with a member between two regular ones; `content` may be shorter than the size of the member."""
    with tarfile.open(path, "w") as file:
        file.addfile(plain("before.mp3", 1), io.BytesIO(b"1"))
        assert file.fileobj is not None
        file.fileobj.write(member.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % tarfile.BLOCKSIZE))
        file.offset = file.fileobj.tell()
        file.addfile(plain("after.mp3", 1), io.BytesIO(b"2"))
    return path


def plain(name: str, size: int = 0) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    return member


def of_type(kind: bytes, name: str = "clip.mp3", size: int = 0, target: str = "") -> tarfile.TarInfo:
    member = plain(name, size)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize("mode", MODES)
def test_every_kind_of_archive_is_read(tmp_path: Path, mode: str) -> None:
    assert kept(tar(tmp_path / "corpus", list(FILES.items()), mode)) == FILES


def test_a_tar_archive_compressed_with_zstandard_is_read(tmp_path: Path) -> None:
    content = tar(tmp_path / "corpus.tar", list(FILES.items()), "w").read_bytes()
    half = len(content) // 2
    frames = [pa.compress(each, "zstd", asbytes=True) for each in (content[:half], content[half:])]
    # RFC 8878, section 3.1.2: pzstd writes skippable frames.
    for parts in ([pa.compress(content, "zstd", asbytes=True)], frames, [b"\x50\x2a\x4d\x18\4\0\0\0size", *frames]):
        (tmp_path / "corpus").write_bytes(b"".join(parts))
        assert kept(tmp_path / "corpus") == FILES
    (tmp_path / "corpus").write_bytes(b"".join(frames)[:-3])
    with pytest.raises(SpeechmillError, match=r"corpus cannot be read to its end \(Truncated compressed stream\)"):
        kept(tmp_path / "corpus")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"7z\xbc\xaf\x27\x1c\0\4", "a 7-Zip archive"),
        (b"Rar!\x1a\x07\x01\0", "a RAR archive"),
        (b"Rar!\x1a\x07\0", "a RAR archive"),
        (b"\x04\x22\x4d\x18dC", "compressed with LZ4"),
        (b"LZIP\1", "compressed with lzip"),
    ],
)
def test_other_archives_are_refused_by_their_kind(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "corpus.tar.gz").write_bytes(content)
    with pytest.raises(
        SpeechmillError,
        match=rf"corpus\.tar\.gz is {kind}, which is not read: unpack it, and set .* `path` to the folder",
    ):
        kept(tmp_path / "corpus.tar.gz")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"<!DOCTYPE html><html>", "a web page"),
        (b'{"error": "no"}\n', "text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "text"),
    ],
)
def test_a_page_in_place_of_an_archive_is_named(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "corpus.tar.gz").write_bytes(content)
    with pytest.raises(
        SpeechmillError, match=rf"corpus\.tar\.gz is {kind} and not an archive, .* delete it, and download"
    ):
        kept(tmp_path / "corpus.tar.gz")


def test_a_folder_is_read_in_place(tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "corpus" / name).write_bytes(content)
    assert kept(tmp_path / "corpus") == FILES


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_non_latin_names_are_complete(tmp_path: Path, format_: int) -> None:
    names = ["folder/" * 20 + "клип.mp3", "./" + "한" * 20 + ".mp3"]
    with tarfile.open(tmp_path / "corpus.tar", "w", format=format_, encoding="utf-8") as file:
        for name in names:
            file.addfile(plain(name, 1), io.BytesIO(b"x"))
    assert kept(tmp_path / "corpus.tar") == {name.removeprefix("./"): b"x" for name in names}


def test_only_selected_files_are_kept(tmp_path: Path) -> None:
    path = tar(tmp_path / "corpus.tar", list(FILES.items()))
    assert kept(path, {"folder/b.mp3": "b"}.get) == {"b": FILES["folder/b.mp3"]}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("behind", [b"\0" * 70_000, b"garbage" * 20_000, b"\x1e\x8b" * 20])
def test_trailing_bytes_only_affect_the_digest(tmp_path: Path, mode: str, behind: bytes) -> None:
    path = tar(tmp_path / "corpus", list(FILES.items()), mode)
    path.write_bytes(path.read_bytes() + behind)
    assert kept(path) == FILES  # `kept` compares `about` with the entire file


def test_a_gzip_file_of_several_members_is_read(tmp_path: Path) -> None:
    content = tar(tmp_path / "corpus", list(FILES.items()), "w").read_bytes()
    (tmp_path / "corpus").write_bytes(
        b"".join(gzip.compress(content[i : i + 700]) for i in range(0, len(content), 700))
    )
    assert kept(tmp_path / "corpus") == FILES


@pytest.mark.parametrize("mode", MODES)
def test_a_truncated_archive_is_refused_or_complete(tmp_path: Path, mode: str) -> None:
    path = tar(tmp_path / "corpus", list(FILES.items()), mode)
    content = path.read_bytes()
    # Half blocks of a plain archive, which includes the boundaries of members.
    near = {0, 1, 2, len(content) // 2, len(content) - 2, len(content) - 1}
    cuts = near | set(range(0, len(content), 256 if mode == "w" else 7))
    refused = set()
    for cut in sorted(cuts):
        path.write_bytes(content[:cut])
        try:
            assert kept(path) == FILES
        except SpeechmillError as error:
            assert re.match(rf"{re.escape(str(path))} cannot be read to its end .* download it again", str(error))
            refused.add(cut)
    # Truncation of a compressed archive is found to the last byte; a plain one ends with more zeros than necessary.
    end = sum(512 + -(-len(member) // 512) * 512 for member in FILES.values()) + 512
    assert refused == {cut for cut in cuts if mode != "w" or cut < end}


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(MODES), st.data())
def test_a_changed_byte_is_found_or_keeps_the_names(tmp_path: Path, mode: str, data: st.DataObject) -> None:
    path = tar(tmp_path / "corpus", list(FILES.items()), mode)
    content = bytearray(path.read_bytes())
    offset = data.draw(st.integers(0, len(content) - 1))
    content[offset] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        found = kept(path)
    except SpeechmillError:
        return
    # A plain archive has checksums only for its headers.
    assert found == FILES or (mode == "w" and found.keys() == FILES.keys())


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    path = tar(tmp_path / "corpus", list(FILES.items()), "w")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"folder/b.mp3", b"folder/?.mp3"))
    with pytest.raises(SpeechmillError, match="cannot be read to its end"):
        kept(path)


def test_damage_in_gzip_is_found_by_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "corpus.tar.gz"
    content = bytearray(gzip.compress(tar(tmp_path / "corpus", list(FILES.items()), "w").read_bytes(), 0))
    content[content.index(b"second")] ^= 1
    path.write_bytes(content)
    with pytest.raises(SpeechmillError, match=r"cannot be read to its end .*incorrect data check"):
        kept(path)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"PK\x03\x04" + b"\0" * 5000, b"\x1f\x8b\x08not gzip" * 99])
def test_a_file_that_is_not_an_archive_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "corpus.tar.gz").write_bytes(content)
    with pytest.raises(SpeechmillError, match=r"corpus\.tar\.gz cannot be read to its end .* not an archive"):
        kept(tmp_path / "corpus.tar.gz")


@pytest.mark.parametrize(
    "name", ["/clip.mp3", "//clip.mp3", "../clip.mp3", "a/../clip.mp3", "./a/../../clip.mp3", ".."]
)
def test_a_name_outside_the_archive_is_refused(tmp_path: Path, name: str) -> None:
    path = with_member(tmp_path / "corpus.tar", plain(name))
    for keep in (lambda name: name, lambda name: None):
        with pytest.raises(
            SpeechmillError, match=rf"{re.escape(str(path))} is refused: .*'{re.escape(name)}' points outside"
        ):
            kept(path, keep)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"]
)
def test_a_selected_special_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    path = with_member(tmp_path / "corpus.tar", of_type(kind, target="before.mp3"))
    with pytest.raises(
        SpeechmillError, match=r"corpus\.tar is refused: its member 'clip\.mp3' is a link or another special"
    ):
        kept(path)
    others = {"before.mp3": b"1", "after.mp3": b"2"}
    assert kept(path, lambda name: name if name in others else None) == others


def test_folders_in_an_archive_are_ignored(tmp_path: Path) -> None:
    path = with_member(tmp_path / "corpus.tar", of_type(tarfile.DIRTYPE))
    assert kept(path).keys() == {"before.mp3", "after.mp3"}


def test_an_oversized_member_is_refused_unread(tmp_path: Path) -> None:
    path = with_member(tmp_path / "corpus.tar", plain("clip.mp3", 10 << 30))
    with pytest.raises(
        SpeechmillError, match=r"corpus\.tar is refused: its member 'clip\.mp3' has a size of 10,737,418,240"
    ):
        kept(path)


def test_an_oversized_unselected_member_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_LARGEST", 1000)
    path = tar(tmp_path / "corpus.tar.gz", [("model.gz", b"x" * 200_000), ("a.mp3", b"a")])
    assert kept(path, {"a.mp3": "a.mp3"}.get) == {"a.mp3": b"a"}
    with pytest.raises(SpeechmillError, match=r"'model\.gz' has a size of 200,000 bytes"):
        kept(path)


@pytest.mark.parametrize("size", [-1024, 1 << 60])
def test_an_impossible_size_is_refused(tmp_path: Path, size: int) -> None:
    path = with_member(tmp_path / "corpus.tar", plain("clip.mp3", size))
    with pytest.raises(SpeechmillError, match=r"corpus\.tar is refused: its member 'clip\.mp3' has a size of"):
        kept(path)
    with pytest.raises(SpeechmillError, match="cannot be read to its end"):
        kept(path, lambda name: None)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_an_oversized_header_is_not_read(tmp_path: Path, kind: bytes) -> None:
    path = with_member(tmp_path / "corpus.tar", of_type(kind, size=1 << 24), bytes(1 << 24))
    path.write_bytes(gzip.compress(path.read_bytes(), 1))
    tracemalloc.start()
    try:
        with pytest.raises(SpeechmillError, match=r"corpus\.tar is refused: it has a header of 16,777,216 bytes"):
            kept(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 23
    finally:
        tracemalloc.stop()


def test_nested_headers_are_refused(tmp_path: Path) -> None:
    header = of_type(tarfile.GNUTYPE_LONGNAME, size=512)
    path = with_member(tmp_path / "corpus.tar", header, (b"name".ljust(512, b"\0") + header.tobuf()) * 5000)
    with pytest.raises(SpeechmillError, match="cannot be read to its end"):
        kept(path)


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("pax", [{}, {"GNU.sparse.map": "0,1"}, {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}])
def test_a_sparse_file_is_refused(tmp_path: Path, pax: dict[str, str], wanted: bool) -> None:
    path = tmp_path / "corpus.tar"
    if pax:
        member = plain("clip.mp3", 1024)
        member.pax_headers = {**pax, "GNU.sparse.size": "1" * 9} if "GNU.sparse.map" in pax else pax
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as file:
            file.addfile(member, io.BytesIO(b"99999999\n" + b"1\n" * 512))
    else:
        with_member(path, of_type(tarfile.GNUTYPE_SPARSE, size=512), bytes(512))
    if "GNU.sparse.map" in pax and not wanted:  # its map is in a header of known size
        assert kept(path, lambda name: None) == {}
    else:
        with pytest.raises(SpeechmillError, match=r"corpus\.tar is refused: its member 'clip\.mp3' is a (sparse|link)"):
            kept(path, lambda name: name if wanted else None)


def test_duplicate_members_must_be_identical(tmp_path: Path) -> None:
    assert kept(tar(tmp_path / "corpus.tar", [("a.mp3", b"one"), ("./a.mp3", b"one")])) == {"a.mp3": b"one"}
    with pytest.raises(SpeechmillError, match=r"contains '\./a\.mp3' twice with different contents"):
        kept(tar(tmp_path / "corpus.tar", [("a.mp3", b"one"), ("./a.mp3", b"two")]))


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tar(tmp_path / "corpus.tar", [(os.fsdecode(b"\xff.mp3"), b"x")], "w")
    with pytest.raises(SpeechmillError, match="is not UTF-8"):
        kept(path)
    assert kept(path, lambda name: None) == {}
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / os.fsdecode(b"\xff.mp3")).touch()
    with pytest.raises(SpeechmillError, match="is not UTF-8; rename the file"):
        kept(tmp_path / "corpus")


def test_members_are_not_kept_in_memory(tmp_path: Path) -> None:
    alive: list[int] = []

    def keep(name: str) -> None:
        if name in ("9.mp3", "1999.mp3"):
            alive.append(sum(isinstance(each, tarfile.TarInfo) for each in gc.get_objects()))

    kept(tar(tmp_path / "corpus.tar", [(f"{i}.mp3", b"x") for i in range(2000)], "w:gz"), keep)
    assert len(alive) == 2
    assert max(alive) < 10


def test_a_link_within_a_folder_is_followed(tmp_path: Path) -> None:
    root = tmp_path / "corpus"
    (root / "real").mkdir(parents=True)
    (root / "real" / "a.mp3").write_bytes(b"a")
    (root / "b.mp3").symlink_to("real/a.mp3")
    (root / "linked").symlink_to("real")
    (root / "dead.mp3").symlink_to("nowhere")
    assert kept(root) == {"real/a.mp3": b"a", "b.mp3": b"a", "linked/a.mp3": b"a"}
    (tmp_path / "another").symlink_to("corpus")
    assert kept(tmp_path / "another") == kept(root)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_link_out_of_a_folder_is_refused(tmp_path: Path, what: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"secret")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "clips").symlink_to(tmp_path / ("outside/secret" if what == "file" else "outside"))
    with pytest.raises(SpeechmillError, match=r"corpus/clips.* is a link that points outside .*corpus; replace it"):
        kept(tmp_path / "corpus")
    assert kept(tmp_path / "corpus", lambda name: None) == {}


def test_a_folder_with_a_link_to_itself_is_read(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.mp3").write_bytes(b"a")
    (tmp_path / "corpus" / "again").symlink_to(".")
    assert set(kept(tmp_path / "corpus").values()) == {b"a"}


def test_pipes_in_a_folder_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    os.mkfifo(tmp_path / "corpus" / "a.mp3")
    assert kept(tmp_path / "corpus") == {}


def test_a_link_that_leads_nowhere_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.mp3").write_bytes(b"a")
    for link, target in (("loop", "loop"), ("below", "a.mp3/b"), ("long", "x" * 300)):
        (tmp_path / "corpus" / link).symlink_to(target)
    assert kept(tmp_path / "corpus") == {"a.mp3": b"a"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_without_permission_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "corpus" / "closed").mkdir(parents=True, mode=0)
    (tmp_path / "corpus" / "a.mp3").write_bytes(b"a")
    assert kept(tmp_path / "corpus") == {"a.mp3": b"a"}
    assert "closed cannot be read (Permission denied); its files count as missing" in capsys.readouterr().err


def test_an_oversized_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    with (tmp_path / "corpus" / "a.mp3").open("wb") as file:
        file.truncate(10 << 30)
    with pytest.raises(SpeechmillError, match=r"corpus/a\.mp3 has more than 1,073,741,824 bytes"):
        kept(tmp_path / "corpus")


def test_a_full_disk_is_reported_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("speechmill.corpus.sources.spool.Spool.add", full)
    path = tar(tmp_path / "corpus.tar", list(FILES.items()))
    with pytest.raises(
        SpeechmillError, match=rf"{re.escape(str(tmp_path / 'work'))} has no room for it .*No space left"
    ):
        kept(path)
