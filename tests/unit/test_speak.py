import io
import tarfile
from pathlib import Path

import pandas as pd
import pytest
import soundfile

from speechmill.command import SpeechmillError
from speechmill.config.speak import SpeakSettings
from speechmill.speak import Clip, draw_corpus, speak_archive

TOP = "cv-corpus-demo-1.0-2026-11-22/ru"
COLUMNS = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccents\tlocale\tsegment"
TABLES = ("train", "dev", "test", "validated", "invalidated", "other")


def settings(**changes: object) -> SpeakSettings:
    """Return settings of a corpus of ten clips, with `changes`."""
    splits = {
        "train": {"voices": 3, "clips": 6},
        "dev": {"voices": 2, "clips": 2},
        "test": {"voices": 2, "clips": 2},
    }
    return SpeakSettings.model_validate({"release": "cv-corpus-demo-1.0-2026-11-22", "splits": splits} | changes)


def large_settings() -> SpeakSettings:
    splits = {
        "train": {"voices": 22, "clips": 2000},
        "dev": {"voices": 4, "clips": 300},
        "test": {"voices": 5, "clips": 300},
    }
    return settings(splits=splits)


def words(clip: Clip) -> str:
    return clip.sentence.lower().replace(",", "").removesuffix(".")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("speak") / "demo.tar.gz"
    speak_archive(settings(), path, threads=2)
    return path


@pytest.fixture(scope="module")
def files(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        contents = {member.name: tar.extractfile(member) for member in tar}
        return {name: content.read() for name, content in contents.items() if content}


def read_table(content: bytes) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(content), sep="\t", keep_default_na=False)


def test_same_settings_give_the_same_bytes_whatever_the_threads_and_the_file_name(
    archive: Path, tmp_path: Path
) -> None:
    again = tmp_path / "another-name.tar.gz"
    speak_archive(settings(), again, threads=1)
    assert again.read_bytes() == archive.read_bytes()


def test_another_seed_says_something_else() -> None:
    assert draw_corpus(settings(seed=1)) != draw_corpus(settings(seed=2))


def test_no_speaker_and_no_voice_is_in_two_splits() -> None:
    corpus = draw_corpus(large_settings())
    splits = ("train", "dev", "test")
    speakers = [{clip.speaker.client_id for clip in corpus[split]} for split in splits]
    variants = [{clip.speaker.voice.variant for clip in corpus[split]} for split in splits]
    assert [len(heard) for heard in speakers] == [len(heard) for heard in variants] == [22, 4, 5]
    assert len(set.union(*speakers)) == len(set.union(*variants)) == 31


def test_sentences_of_dev_and_test_are_never_heard_in_training() -> None:
    corpus = draw_corpus(large_settings())
    train, dev, test = ({words(clip) for clip in corpus[split]} for split in ("train", "dev", "test"))
    assert not train & (dev | test)
    assert not dev & test


def test_every_split_has_women_and_men() -> None:
    corpus = draw_corpus(large_settings())
    for split in ("train", "dev", "test"):
        assert {clip.speaker.voice.gender for clip in corpus[split]} == {"female", "male"}


@pytest.mark.parametrize(("fewest", "most"), [(1, 1), (1, 4), (2, 4)])
def test_sentences_have_as_many_words_as_set(fewest: int, most: int) -> None:
    corpus = draw_corpus(settings(min_words=fewest, max_words=most, splits=large_settings().splits.model_dump()))
    assert {len(words(clip).split()) for clip in corpus["train"]} == set(range(fewest, most + 1))


def test_sentences_are_written_with_a_capital_and_a_full_stop() -> None:
    for clip in draw_corpus(settings())["train"]:
        assert clip.sentence[0].isupper()
        assert clip.sentence.endswith(".")


def test_tables_have_the_columns_of_a_release_and_list_every_clip_in_the_archive(
    files: dict[str, bytes],
) -> None:
    tables = {name: read_table(files[f"{TOP}/{name}.tsv"]) for name in TABLES}
    for table in tables.values():
        assert "\t".join(table.columns) == COLUMNS
    listed = pd.concat([tables["validated"], tables["invalidated"], tables["other"]]).path
    assert listed.is_unique
    assert {name for name in files if "/clips/" in name} == {f"{TOP}/clips/{path}" for path in listed}


def test_validated_repeats_train_dev_and_test(files: dict[str, bytes]) -> None:
    train, dev, test, validated = (
        read_table(files[f"{TOP}/{name}.tsv"]) for name in ("train", "dev", "test", "validated")
    )
    assert [len(train), len(dev), len(test)] == [6, 2, 2]
    assert validated.equals(pd.concat([train, dev, test], ignore_index=True))


def test_clips_are_48_khz_mono_mp3(files: dict[str, bytes]) -> None:
    for name, content in files.items():
        if "/clips/" in name:
            info = soundfile.info(io.BytesIO(content))
            assert (info.samplerate, info.channels, info.format) == (48_000, 1, "MP3")
            assert 0.2 < info.duration < 10


def test_more_voices_than_there_are_names_the_key_to_lower() -> None:
    splits = {split: {"voices": 40, "clips": 1} for split in ("train", "dev", "test")}
    with pytest.raises(SpeechmillError, match=r"speak\.splits: 120 voices"):
        draw_corpus(settings(splits=splits))


def test_without_espeak_the_error_says_what_to_install_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SpeechmillError, match="apt-get install espeak-ng"):
        speak_archive(settings(), tmp_path / "demo.tar.gz", threads=1)
    assert list(tmp_path.iterdir()) == []
