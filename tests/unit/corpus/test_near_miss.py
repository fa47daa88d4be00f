import unicodedata

import pytest

from speechmill.corpus.near_miss import near_misses

COMPOSED = "Käse.wav"
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)


def similar(listed: str, *names: str) -> str | None:
    return near_misses({"clip": listed}, names).get("clip")


@pytest.mark.parametrize(
    ("listed", "name", "differences"),
    [
        ("voice0\\00.wav", "voice0/00.wav", "backslashes"),
        ("Voice0/00.WAV", "voice0/00.wav", "case"),
        (COMPOSED, DECOMPOSED, "Unicode normal form"),
        (DECOMPOSED, COMPOSED, "Unicode normal form"),
        ("a/00.mp3", "a/00.wav", "ending"),
        ("a/00", "a/00.wav", "ending"),
        ("a/00.wav", "a/00.wav.wav", "ending"),
        ("clips/a/00.wav", "a/00.wav", "leading folders"),
        ("00.wav", "a/clips/00.wav", "leading folders"),
        ("a%20b.wav", "a b.wav", "percent encoding"),
        ("a.wav ", "a.wav", "spaces or quotes"),
        ("a .wav", "a.wav", "spaces or quotes"),
        ('"a.wav"', "a.wav", "spaces or quotes"),
        ("\ufeffa.wav", "a.wav", "spaces or quotes"),
        ("a//b.wav", "a/b.wav", "slashes"),
        ("D:\\corpus\\A.WAV", "a.mp3", "backslashes and case and ending and leading folders"),
    ],
)
def test_similar_name_is_found_with_its_differences(listed: str, name: str, differences: str) -> None:
    assert similar(listed, "other.wav", name) == f"{name}, which differs in {differences}"


@pytest.mark.parametrize(
    ("listed", "name"), [("a/1.wav", "b/1.wav"), ("1.wav", "11.wav"), ("", "a.wav"), ("/", "a.wav"), (".wav", "a.wav")]
)
def test_other_name_is_not_similar(listed: str, name: str) -> None:
    assert similar(listed, name) is None


def test_most_similar_name_is_taken() -> None:
    assert similar("A/1.wav", "x/a/1.wav", "a/1.mp3", "a/1.wav") == "a/1.wav, which differs in case"


def test_many_missing_files_are_compared_in_one_pass() -> None:
    names = (f"speaker{i}/audio.wav" for i in range(20_000))
    found = near_misses({f"{i}": f"corpus/speaker{i}/audio.wav" for i in range(20_000)}, names)
    assert found["999"] == "speaker999/audio.wav, which differs in leading folders"
    assert len(found) == 1000
