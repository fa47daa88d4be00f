import gzip
import hashlib
import io
import re
import subprocess
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from pydantic import ValidationError

from speechmill.config.speak import SpeakConfig
from speechmill.core.command import SpeechmillError
from speechmill.demo.layouts.common_voice import draw_common_voice, pack_common_voice
from speechmill.demo.layouts.corpus import LANGUAGES, MEN, WOMEN, Clip, Corpus
from speechmill.demo.layouts.zeroth import draw_zeroth
from speechmill.demo.speak import speak, speak_archive

COLUMNS = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccents\tlocale\tsegment"
TABLES = ("train", "dev", "test", "validated", "invalidated", "other")
DRAW = {"common_voice": draw_common_voice, "zeroth": draw_zeroth}
EVERY_CORPUS = [(language, layout) for language in ("ru", "ko") for layout in ("common_voice", "zeroth")]


def size(voices: int, clips: int) -> dict[str, int]:
    return {"voices": voices, "clips": clips}


SMALL = {"train": size(4, 6), "dev": size(2, 2), "test": size(2, 2)}
LARGE = {"train": size(22, 2000), "dev": size(4, 300), "test": size(5, 300)}


def settings(
    language: str = "ru", layout: str = "common_voice", splits: dict[str, dict[str, int]] = SMALL, **changes: object
) -> SpeakConfig:
    """Return settings of a corpus, without the dev split and the release where the layout has none."""
    chosen: dict[str, object] = {"language": language, "layout": layout}
    if layout == "common_voice":
        chosen |= {"release": "cv-corpus-demo-1.0-2026-11-22", "splits": splits}
    else:
        chosen |= {"splits": {split: splits[split] for split in ("train", "test")}}
    return SpeakConfig.model_validate(chosen | changes)


def draw(chosen: SpeakConfig) -> Corpus:
    return DRAW[chosen.layout](chosen)


def words(clip: Clip) -> str:
    return clip.sentence.lower().replace(",", "").removesuffix(".")


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """The archive of `settings(language, layout)`, spoken once for all tests."""

    @cache
    def archive(language: str, layout: str) -> Path:
        path = tmp_path_factory.mktemp("speak") / "demo.tar.gz"
        speak_archive(settings(language, layout), path, threads=2)
        return path

    return archive


def unpack(archive: Path) -> dict[str, bytes]:
    """The files of an archive in its order."""
    with tarfile.open(archive) as tar:
        contents = {member.name: tar.extractfile(member) for member in tar}
        return {name: content.read() for name, content in contents.items() if content}


def read_table(content: bytes) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(content), sep="\t", keep_default_na=False)


def read_common_voice(archive: Path, language: str) -> dict[str, pd.DataFrame]:
    files = unpack(archive)
    return {name: read_table(files[f"cv-corpus-demo-1.0-2026-11-22/{language}/{name}.tsv"]) for name in TABLES}


def read_zeroth(archive: Path) -> pd.DataFrame:
    """Every utterance of an archive as its transcripts list it: dataset, script, speaker, name, text and FLAC."""
    files = unpack(archive)
    rows = []
    for path, content in files.items():
        folder, _, file = path.rpartition("/")
        if file.endswith(".trans.txt"):
            dataset, script, speaker = folder.split("/")
            assert file == f"{speaker}_{script}.trans.txt"
            for line in content.decode().splitlines():
                name, text = line.split(" ", maxsplit=1)
                rows.append((dataset, script, speaker, name, text, files[f"{folder}/{name}.flac"]))
    return pd.DataFrame(rows, columns=["dataset", "script", "speaker", "name", "text", "flac"])


@pytest.mark.parametrize(("language", "layout"), [("ru", "common_voice"), ("ko", "zeroth")])
def test_same_settings_give_the_same_bytes_whatever_the_threads_and_the_file_name(
    language: str, layout: str, spoken: Callable[[str, str], Path], tmp_path: Path
) -> None:
    again = tmp_path / "another-name.tar.gz"
    speak_archive(settings(language, layout), again, threads=1)
    assert again.read_bytes() == spoken(language, layout).read_bytes()


def test_the_russian_demo_says_what_its_published_figures_were_measured_on(tmp_path: Path) -> None:
    splits = {"train": size(33, 2000), "dev": size(5, 150), "test": size(6, 240)}
    demo = settings(splits=splits, seed=1, min_words=2, max_words=4)
    corpus = draw(demo)
    said = (
        f"{clip.speaker.voice} {clip.pitch} {clip.speed} {clip.sentence}".encode()
        for clips in corpus.values()
        for clip in clips
    )
    pack_common_voice(demo, corpus, said, tmp_path / "demo.tar.gz")
    # Computed with the code of 2026-11-22, which spoke Russian and packed Common Voice only.
    tar = gzip.decompress((tmp_path / "demo.tar.gz").read_bytes())
    assert hashlib.sha256(tar).hexdigest() == "3d498330e7f5422b63aeb80c6b93c3fe8a0727ebd2ce8de701e3a96166bd5fcc"


@pytest.mark.parametrize(("language", "layout"), EVERY_CORPUS)
def test_another_seed_says_something_else(language: str, layout: str) -> None:
    assert draw(settings(language, layout, seed=1)) != draw(settings(language, layout, seed=2))


@pytest.mark.parametrize(("language", "layout"), EVERY_CORPUS)
def test_no_speaker_is_in_two_splits(language: str, layout: str) -> None:
    chosen = settings(language, layout, LARGE)
    corpus = draw(chosen)
    sizes = chosen.splits.sizes()
    variants = [{clip.speaker.variant.name for clip in corpus[split]} for split in sizes]
    assert [len(heard) for heard in variants] == [size.voices for size in sizes.values()]
    assert len(set.union(*variants)) == sum(size.voices for size in sizes.values())


@pytest.mark.parametrize(("language", "layout"), EVERY_CORPUS)
def test_no_sentence_is_in_two_splits(language: str, layout: str) -> None:
    chosen = settings(language, layout, LARGE)
    corpus = draw(chosen)
    said = [{words(clip) for clip in corpus[split]} for split in chosen.splits.sizes()]
    assert len(set.union(*said)) == sum(len(sentences) for sentences in said)


@pytest.mark.parametrize(("language", "layout"), EVERY_CORPUS)
def test_every_split_has_its_clips_of_women_and_men(language: str, layout: str) -> None:
    chosen = settings(language, layout, LARGE)
    corpus = draw(chosen)
    for split, size in chosen.splits.sizes().items():
        assert len(corpus[split]) == size.clips
        assert {clip.speaker.variant.gender for clip in corpus[split]} == {"female", "male"}


@pytest.mark.parametrize(("language", "layout"), EVERY_CORPUS)
@pytest.mark.parametrize(("fewest", "most"), [(1, 1), (1, 4), (2, 4)])
def test_sentences_have_as_many_words_of_the_language_as_set(
    language: str, layout: str, fewest: int, most: int
) -> None:
    train = draw(settings(language, layout, LARGE, min_words=fewest, max_words=most))["train"]
    assert {len(words(clip).split()) for clip in train} == set(range(fewest, most + 1))
    assert {word for clip in train for word in words(clip).split()} <= set(LANGUAGES[language].words)


@pytest.mark.parametrize("language", ["ru", "ko"])
def test_espeak_says_each_word_as_one_word_of_the_language_unlike_all_others(language: str) -> None:
    listed = LANGUAGES[language].words
    phonemes = [
        subprocess.run(
            ["espeak-ng", "-q", "-x", "-v", language, word], capture_output=True, text=True, check=True
        ).stdout.strip()
        for word in listed
    ]
    assert len(set(phonemes)) == len(listed) == 10
    for heard in phonemes:
        # Letters that are spelled out have a stress each; a word of another language is marked by brackets.
        assert heard.count("'") == 1
        assert not set(heard) & set(" ()")


def test_korean_is_spoken_by_the_same_variants_without_an_accent() -> None:
    corpus = draw(settings("ko", "zeroth", {"train": size(40, 200), "test": size(4, 200)}))
    speakers = {clip.speaker for clips in corpus.values() for clip in clips}
    assert {speaker.voice for speaker in speakers} == {f"ko+{variant.name}" for variant in WOMEN + MEN}
    assert {speaker.accent for speaker in speakers} == {""}


def test_russian_with_an_accent_is_spoken_by_the_voice_that_has_it() -> None:
    splits = {"train": size(40, 500), "dev": size(2, 50), "test": size(2, 50)}
    speakers = {clip.speaker for clips in draw(settings(splits=splits)).values() for clip in clips}
    accented = {speaker.voice for speaker in speakers if speaker.accent}
    assert accented == {"ru-lv+f5", "ru-lv+steph3", "ru-lv+iven2"}
    assert {speaker.voice for speaker in speakers if speaker.voice.startswith("ru-lv+")} == accented


@pytest.mark.parametrize("language", ["ru", "ko"])
def test_common_voice_writes_sentences_with_a_capital_commas_and_a_full_stop(language: str) -> None:
    train = draw(settings(language, splits=LARGE))["train"]
    assert all(clip.sentence[0] == clip.sentence[0].upper() for clip in train)
    assert all(clip.sentence.endswith(".") for clip in train)
    assert any("," in clip.sentence for clip in train)


@pytest.mark.parametrize("language", ["ru", "ko"])
def test_common_voice_has_the_columns_of_a_release_and_lists_every_clip_in_the_archive(
    language: str, spoken: Callable[[str, str], Path]
) -> None:
    archive = spoken(language, "common_voice")
    tables = read_common_voice(archive, language)
    for table in tables.values():
        assert "\t".join(table.columns) == COLUMNS
        assert set(table.locale) == {language}
    listed = pd.concat([tables["validated"], tables["invalidated"], tables["other"]]).path
    assert listed.is_unique
    assert {name for name in unpack(archive) if "/clips/" in name} == {
        f"cv-corpus-demo-1.0-2026-11-22/{language}/clips/{path}" for path in listed
    }


def test_validated_repeats_train_dev_and_test(spoken: Callable[[str, str], Path]) -> None:
    tables = read_common_voice(spoken("ru", "common_voice"), "ru")
    train, dev, test, validated = (tables[name] for name in ("train", "dev", "test", "validated"))
    assert [len(train), len(dev), len(test)] == [6, 2, 2]
    assert validated.equals(pd.concat([train, dev, test], ignore_index=True))


def test_common_voice_names_a_speaker_by_one_client_id(spoken: Callable[[str, str], Path]) -> None:
    chosen = settings()
    table = read_common_voice(spoken("ru", "common_voice"), "ru")["validated"]
    speakers = [clip.speaker for split in ("train", "dev", "test") for clip in draw(chosen)[split]]
    assert len(set(zip(table.client_id, speakers, strict=True))) == table.client_id.nunique() == len(set(speakers))


@pytest.mark.parametrize("language", ["ru", "ko"])
def test_common_voice_clips_are_48_khz_mono_mp3(language: str, spoken: Callable[[str, str], Path]) -> None:
    for name, content in unpack(spoken(language, "common_voice")).items():
        if "/clips/" in name:
            info = soundfile.info(io.BytesIO(content))
            assert (info.samplerate, info.channels, info.format) == (48_000, 1, "MP3")
            assert 0.2 < info.duration < 10


@pytest.mark.parametrize("language", ["ru", "ko"])
def test_zeroth_writes_plain_words_in_composed_letters(language: str) -> None:
    for clips in draw(settings(language, "zeroth", LARGE)).values():
        for clip in clips:
            assert re.fullmatch(r"\w+( \w+)*", clip.sentence)
            assert clip.sentence == clip.sentence.lower()
            assert unicodedata.is_normalized("NFC", clip.sentence)


def test_zeroth_has_several_speakers_read_a_sentence_and_each_speaker_as_much_as_another() -> None:
    chosen = settings("ko", "zeroth", LARGE, min_words=4)
    for split, clips in draw(chosen).items():
        readers = Counter(sentence for sentence, _ in {(clip.sentence, clip.speaker) for clip in clips})
        assert sum(count >= 3 for count in readers.values()) > 0.9 * len(readers), split
        read = Counter(clip.speaker for clip in clips)
        assert max(read.values()) - min(read.values()) <= 1


@pytest.mark.parametrize("language", ["ru", "ko"])
def test_zeroth_lies_in_a_folder_a_speaker_beside_its_transcript_and_nowhere_else(
    language: str, spoken: Callable[[str, str], Path]
) -> None:
    archive = spoken(language, "zeroth")
    paths = list(unpack(archive))
    assert paths == sorted(paths)
    assert paths[0] == "AUDIO_INFO"
    for path in paths[1:]:
        assert re.fullmatch(r"(train|test)_data_01/(\d{3})/(\d{3})/\3_\2(_\d{4}\.flac|\.trans\.txt)", path)
    utterances = read_zeroth(archive)
    assert utterances.name.is_unique
    assert len(utterances) == sum(path.endswith(".flac") for path in paths)
    assert Counter(utterances.dataset) == {"train_data_01": 6, "test_data_01": 2}


@pytest.mark.parametrize("language", ["ru", "ko"])
def test_zeroth_transcripts_say_what_is_spoken(language: str, spoken: Callable[[str, str], Path]) -> None:
    utterances = read_zeroth(spoken(language, "zeroth"))
    clips = [clip for drawn in draw(settings(language, "zeroth")).values() for clip in drawn]
    for text, flac, clip in zip(utterances.text, utterances.flac, clips, strict=True):
        assert text == clip.sentence
        samples, _ = soundfile.read(io.BytesIO(flac))
        np.testing.assert_allclose(samples, speak(clip, 16_000).clip(-1, 1), atol=2**-15)


@pytest.mark.parametrize("language", ["ru", "ko"])
def test_zeroth_audio_info_has_a_row_for_each_speaker(language: str, spoken: Callable[[str, str], Path]) -> None:
    archive = spoken(language, "zeroth")
    info = pd.read_csv(io.BytesIO(unpack(archive)["AUDIO_INFO"]), sep="|", dtype=str)
    assert list(info.columns) == ["SPEAKERID", "NAME", "SEX", "SCRIPTID", "DATASET"]
    sexes = {variant.name: variant.gender[0] for variant in WOMEN + MEN}
    assert [sexes[name] for name in info.NAME] == list(info.SEX)
    utterances = read_zeroth(archive)
    listed = set(zip(info.SPEAKERID, info.SCRIPTID, info.DATASET, strict=True))
    assert listed == set(zip(utterances.speaker, utterances.script, utterances.dataset, strict=True))
    assert info.SPEAKERID.is_unique


@pytest.mark.parametrize("language", ["ru", "ko"])
def test_zeroth_clips_are_16_khz_mono_flac_of_16_bits(language: str, spoken: Callable[[str, str], Path]) -> None:
    for flac in read_zeroth(spoken(language, "zeroth")).flac:
        info = soundfile.info(io.BytesIO(flac))
        assert (info.samplerate, info.channels, info.format, info.subtype) == (16_000, 1, "FLAC", "PCM_16")
        assert 0.2 < info.duration < 10


@pytest.mark.parametrize(
    ("layout", "changes", "message"),
    [
        ("common_voice", {"release": None}, "give its name as `release`"),
        ("common_voice", {"splits": {"train": size(1, 1), "test": size(1, 1)}}, "give `splits.dev`"),
        ("zeroth", {"release": "zeroth"}, "leave out `release`"),
        ("zeroth", {"splits": SMALL}, "leave out `splits.dev`"),
        ("zeroth", {"min_words": 3, "max_words": 2}, "`min_words` is greater"),
        ("zeroth", {"layout": "kaldi"}, "common_voice"),
        ("zeroth", {"language": "en"}, "ru"),
    ],
)
def test_settings_that_no_archive_can_have_are_refused(layout: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SpeakConfig.model_validate(settings(layout=layout).model_dump(exclude_none=True) | changes)


@pytest.mark.parametrize("layout", ["common_voice", "zeroth"])
def test_more_voices_than_there_are_names_the_key_to_lower(layout: str) -> None:
    splits = dict.fromkeys(("train", "dev", "test"), size(40, 1))
    with pytest.raises(SpeechmillError, match=r"speak\.splits: (120|80) voices"):
        draw(settings("ru", layout, splits))


def test_without_espeak_the_error_says_what_to_install_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SpeechmillError, match="apt-get install espeak-ng"):
        speak_archive(settings(), tmp_path / "demo.tar.gz", threads=1)
    assert list(tmp_path.iterdir()) == []
