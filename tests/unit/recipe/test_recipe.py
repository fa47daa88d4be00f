import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from material import audio_file, noise, tar, tsv, write_recording
from speechmill.config.root import load
from speechmill.core.command import SpeechmillError
from speechmill.recipe.base import choose_base, length
from speechmill.recipe.characters import characters_of
from speechmill.recipe.mms import mms_language
from speechmill.recipe.recipe import write_recipe

SENTENCES = [f"{first} {second}" for first in ("One", "Two", "Three", "Four") for second in ("five", "six", "seven")]


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe_for(folder: Path, language: str = "en", **options: Any) -> dict[str, Any]:
    """Write a recipe, check that the configuration is valid, and return its only dataset, its run and all datasets."""
    file = write_recipe(folder, language, **options)
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    load(config)
    name = file.stem
    return {"dataset": config["datasets"][name], "run": config["runs"][name], "datasets": config["datasets"]}


def with_texts(folder: Path, ending: str = ".txt", speakers: int = 5) -> Path:
    for speaker in range(speakers):
        for number, sentence in enumerate(SENTENCES):
            write_recording(folder / f"s{speaker}" / f"{speaker}-{number}.wav")
            (folder / f"s{speaker}" / f"{speaker}-{number}{ending}").write_text(sentence, encoding="utf-8")
    return folder


@pytest.mark.parametrize("ending", [".txt", ".lab"])
def test_text_beside_recordings(tmp_path: Path, ending: str) -> None:
    recipe = recipe_for(with_texts(tmp_path / "mine", ending))
    assert recipe["dataset"]["annotations"] == {"ending": ending}
    assert recipe["dataset"]["columns"] == {"speaker_id": "folder"}
    assert recipe["dataset"]["drawn"]["dev"].get("by", "speaker") == "speaker"


def test_numbers_in_file_names_are_spelled_out(tmp_path: Path) -> None:
    for digit in range(4):
        for speaker in ("ann", "bob", "cem", "dan"):
            for take in range(6):
                write_recording(tmp_path / "digits" / f"{digit}_{speaker}_{take}.wav")
    dataset = recipe_for(tmp_path / "digits", "de")["dataset"]
    assert dataset["columns"]["sentence"]["values"] == {"0": "null", "1": "eins", "2": "zwei", "3": "drei"}
    assert dataset["columns"]["speaker_id"] == "speaker"


def record_all(folder: Path, name: str) -> None:
    """Write a recording for each of the sentences; `name` has their number."""
    for number in range(len(SENTENCES)):
        write_recording(folder / name.format(number))


def ljspeech(folder: Path) -> None:
    record_all(folder, "wavs/LJ-{}.wav")
    rows = (f"LJ-{n}|{sentence}, {n}|{sentence}, {n}\n" for n, sentence in enumerate(SENTENCES))
    (folder / "metadata.csv").write_text("".join(rows), encoding="utf-8")


def spreadsheet(folder: Path) -> None:
    record_all(folder, "audio/{}a.wav")
    rows = (f'{n}a.wav;"{sentence}; and";s{n % 4}\n' for n, sentence in enumerate(SENTENCES))
    (folder / "list.csv").write_text("Datei;Text;Speaker\n" + "".join(rows), encoding="utf-8")


def nemo(folder: Path) -> None:
    record_all(folder, "audio/{}a.wav")
    rows = (
        json.dumps({"audio_filepath": f"audio/{n}a.wav", "duration": 0.5, "text": sentence}) + "\n"
        for n, sentence in enumerate(SENTENCES)
    )
    (folder / "manifest.json").write_text("".join(rows), encoding="utf-8")


@pytest.mark.parametrize(
    ("make", "columns"),
    [
        (ljspeech, {"path": "wavs/{column1}.wav", "sentence": "column3"}),
        (spreadsheet, {"path": "audio/{Datei}", "sentence": "Text", "speaker_id": "Speaker"}),
        (nemo, {"path": "audio_filepath", "sentence": "text"}),
    ],
)
def test_columns_of_a_table(tmp_path: Path, make: Callable[[Path], None], columns: dict[str, str]) -> None:
    make(tmp_path / "corpus")
    assert recipe_for(tmp_path / "corpus")["dataset"]["columns"] == columns


def test_file_that_is_no_table_is_ignored(tmp_path: Path) -> None:
    ljspeech(tmp_path / "corpus")
    (tmp_path / "corpus" / "notes.txt").write_bytes(b"one,\rtwo\n")
    assert recipe_for(tmp_path / "corpus")["dataset"]["manifest"] == "metadata.csv"


def test_tables_for_splits(tmp_path: Path) -> None:
    for split, start in (("train", 0), ("test", 20)):
        for number in range(start, start + 12):
            write_recording(tmp_path / "corpus" / f"{number}a.wav")
        rows = (f"{start + n}a.wav,{sentence}\n" for n, sentence in enumerate(SENTENCES))
        (tmp_path / "corpus" / f"{split}.csv").write_text("path,sentence\n" + "".join(rows), encoding="utf-8")
    recipe = recipe_for(tmp_path / "corpus")
    assert (recipe["dataset"]["manifest"], recipe["dataset"]["splits"]) == ("{split}.csv", ["train", "test"])
    assert set(recipe["dataset"]["drawn"]) == {"dev"}
    assert recipe["run"]["evaluation"]["sets"] == ["corpus-dev", "corpus-test"]


@pytest.mark.parametrize("packed", [True, False])
def test_common_voice_release(tmp_path: Path, packed: bool) -> None:
    rows = [{"client_id": f"c{n}", "path": f"{n}.mp3", "sentence": SENTENCES[n]} for n in range(9)]
    audio = audio_file(noise(0.5), kind="MP3", subtype="MPEG_LAYER_III")
    members = [(f"cv/en/{split}.tsv", tsv(rows[i::3])) for i, split in enumerate(("train", "dev", "test"))]
    members += [(f"cv/en/clips/{n}.mp3", audio) for n in range(9)]
    archive = tar(tmp_path / "cv.tar.gz", members)
    if not packed:
        shutil.unpack_archive(archive, tmp_path)
    dataset = recipe_for(archive if packed else tmp_path / "cv")["dataset"]
    assert (dataset["source"], dataset["splits"]) == ("common_voice", ["train", "dev", "test"])


def test_other_archive_is_refused(tmp_path: Path) -> None:
    archive = tar(tmp_path / "a.tar.gz", [("a/b.wav", audio_file(noise(0.1)))])
    with pytest.raises(SpeechmillError, match="unpack it, and set FOLDER"):
        write_recipe(archive, "en")


def test_long_recordings_are_aligned(tmp_path: Path) -> None:
    for number in range(4):
        write_recording(tmp_path / "books" / f"{number}.wav", seconds=35)
        (tmp_path / "books" / f"{number}.txt").write_text(" ".join(SENTENCES), encoding="utf-8")
    recipe = recipe_for(tmp_path / "books", "tr")
    aligned = recipe["datasets"]["books_cut"]
    assert (aligned["source"], aligned["of"], aligned["model"]["target_lang"]) == ("segment", "books", "tur")
    assert recipe["run"]["train"] == ["books_cut-train"]


def test_problems_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = with_texts(tmp_path / "mine")
    (folder / "s0" / "empty.wav").touch()
    write_recording(folder / "s1" / "silent.wav")
    (folder / "s0" / "0-0.txt").write_text("Chapter 12 об", encoding="utf-8")
    write_recipe(folder, "en")
    printed = capsys.readouterr().out
    for problem in (
        "1 recordings are empty or cannot be read",
        "2 recordings have no text: s0/empty.wav, s1/silent.wav",
        "1 sentences contain digits",
        "1 sentences also have letters of another script",
        "there are 5 speakers, which is too few",
        "are too little for a useful model",
    ):
        assert problem in printed
    assert "# unlabelled:" in Path("config/recipes/mine.yaml").read_text(encoding="utf-8")


def test_text_without_a_recording_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ljspeech(tmp_path / "corpus")
    (tmp_path / "corpus" / "wavs" / "LJ-3.wav").unlink()
    write_recipe(tmp_path / "corpus", "en")
    assert "1 texts have no recording: wavs/LJ-3.wav" in capsys.readouterr().out


def test_existing_recipe_is_not_written_over(tmp_path: Path) -> None:
    folder = with_texts(tmp_path / "mine")
    file = write_recipe(folder, "en")
    file.write_text("own work", encoding="utf-8")
    with pytest.raises(SpeechmillError, match=r"config/recipes/mine.yaml exists.*NAME="):
        write_recipe(folder, "en")
    assert file.read_text(encoding="utf-8") == "own work"
    assert write_recipe(folder, "en", name="other").name == "other.yaml"


@pytest.mark.parametrize("make", [Path.mkdir, lambda folder: write_recording(folder / "a.wav")])
def test_folder_without_recordings_or_text_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "mine")
    with pytest.raises(SpeechmillError, match=r"no recordings|no text was found"):
        write_recipe(tmp_path / "mine", "en")


def test_unknown_language_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match="LANGUAGE=English is no code of ISO 639, such as `en`; write `en`"):
        write_recipe(with_texts(tmp_path / "mine"), "English")


def test_keep_has_the_script_of_the_text() -> None:
    assert characters_of(["Ёлка, ёж и ёрш"] * 20 + ["Он — don't"] * 3).keep.startswith("а-яё")
    assert characters_of(["c'est déjà l’été"] * 9).keep == "a-zàé'"
    assert characters_of(["नमस्ते दुनिया"] * 9).keep.count("-") <= 3


def test_base_follows_language_and_hours() -> None:
    assert choose_base("tr", "LATIN", 1, None).model["target_lang"] == "tur"
    assert choose_base("tr", "LATIN", 50, None).title == "XLS-R 300M"
    assert choose_base("tlh", "LATIN", 1, None).title == "XLS-R 300M"
    assert choose_base("tr", "LATIN", 500, None).title == "XLS-R 1B"
    assert choose_base("tr", "LATIN", 500, "./mine").model == {"base": "./mine"}


@pytest.mark.parametrize(
    ("language", "script", "code"),
    [
        ("zh", "CJK", "cmn-script_simplified"),
        ("sr", "CYRILLIC", "srp-script_cyrillic"),
        ("az", "LATIN", "azj-script_latin"),
        ("no", "LATIN", "nob"),
        ("sw", "LATIN", "swh"),
        ("tlh", "LATIN", None),
    ],
)
def test_language_of_mms(language: str, script: str, code: str | None) -> None:
    assert mms_language(language, script) == code


def test_training_has_a_sensible_length() -> None:
    assert length(0.01, 20)["epochs"] == 60
    assert 3000 < length(20, 20)["steps"] < 5000
    assert length(1000, 20)["epochs"] == 5
