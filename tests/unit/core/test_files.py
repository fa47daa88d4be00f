import math
from contextlib import suppress
from pathlib import Path

import pytest

from speechmill.core.command import SpeechmillError
from speechmill.core.files import (
    atomic_write,
    check_folder,
    file_digest,
    read_json,
    scratch_folder,
    write_digests,
    write_json,
    write_plain_json,
    write_text,
)


def test_file_is_renamed_once_complete(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "file"
    with atomic_write(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("complete")
    assert path.read_text() == "complete"
    assert list(path.parent.iterdir()) == [path]


def test_earlier_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("earlier")
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "earlier"
    assert path.read_text() == "new"


def test_scratch_folder_starts_empty_and_is_deleted(tmp_path: Path) -> None:
    killed = tmp_path / "scratch"
    killed.mkdir()
    (killed / "arpa").touch()
    with pytest.raises(RuntimeError), scratch_folder(killed) as folder:
        assert list(folder.iterdir()) == []
        (folder / "arpa").touch()
        raise RuntimeError
    assert not killed.exists()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failed_write_leaves_only_the_earlier_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_text("earlier")
    with pytest.raises(error), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_block_without_output_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "file"):
        pass


def test_text_is_written_in_utf8(tmp_path: Path) -> None:
    write_text("ё\n", tmp_path / "new" / "file")
    assert (tmp_path / "new" / "file").read_bytes() == "ё\n".encode()


def test_json_round_trip_with_readable_letters(tmp_path: Path) -> None:
    path = tmp_path / "new" / "value.json"
    write_json({"ё": [1, None, 0.5]}, path)
    assert read_json(path) == {"ё": [1, None, 0.5]}
    assert "ё" in path.read_text(encoding="utf-8")


def test_invalid_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    path.write_text('{"half": ')
    with pytest.raises(SpeechmillError, match=rf"{path} is not JSON"):
        read_json(path)


@pytest.mark.parametrize("value", [{"steps": [3, 6], "name": "ё", "loss": math.inf}, ["a", "b"]], ids=type)
def test_flipped_bit_of_json_is_named(tmp_path: Path, value: object) -> None:
    path = tmp_path / "value.json"
    write_json(value, path)
    assert read_json(path) == value
    intact = path.read_bytes()
    for bit in range(0, 8 * len(intact), 5):
        path.write_bytes(intact[: bit // 8] + bytes([intact[bit // 8] ^ 1 << bit % 8]) + intact[bit // 8 + 1 :])
        with suppress(SpeechmillError):
            # Only white space may be other white space.
            assert read_json(path) == value
            assert intact[bit // 8] in b" \n"


def test_changed_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json({"step": 3}, path)
    path.write_text(path.read_text().replace("3", "7", 1))
    with pytest.raises(SpeechmillError, match=rf"{path} has changed since it was written: its content and its digest"):
        read_json(path)


def test_json_without_a_digest_is_read(tmp_path: Path) -> None:
    # As release 0.1.0 and other programs write it.
    (tmp_path / "value.json").write_text('{"a": 1, "text_sha256": "5"}')
    assert read_json(tmp_path / "value.json") == {"a": 1, "text_sha256": "5"}
    write_plain_json({"a": 1}, tmp_path / "plain.json")
    assert (tmp_path / "plain.json").read_text() == '{\n  "a": 1\n}\n'


def test_folder_is_compared_with_its_record(tmp_path: Path) -> None:
    # FIPS 180-2, appendix B.1: the message "abc".
    (tmp_path / "config.json").write_bytes(b"abc")
    (tmp_path / "weights").write_bytes(b"w")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert check_folder(tmp_path)["config.json"] == digest
    write_digests(tmp_path)
    assert check_folder(tmp_path, "*.json") == {"config.json": digest}
    (tmp_path / "weights").write_bytes(b"v")
    assert check_folder(tmp_path, "*.json") == {"config.json": digest}
    with pytest.raises(SpeechmillError, match=rf"{tmp_path}/weights has changed since it was written"):
        check_folder(tmp_path)
    (tmp_path / "weights").unlink()
    with pytest.raises(SpeechmillError, match=rf"{tmp_path}/weights is missing"):
        check_folder(tmp_path)


def test_value_without_a_json_form_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_json({"path": tmp_path}, tmp_path / "value.json")
    assert list(tmp_path.iterdir()) == []


def test_file_digest_is_sha256(tmp_path: Path) -> None:
    # FIPS 180-2, appendix B.1: the message "abc".
    (tmp_path / "file").write_bytes(b"abc")
    assert file_digest(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
