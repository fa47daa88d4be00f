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
from speechmill.demo.layouts.common_voice import pack_common_voice, sample_common_voice
from speechmill.demo.layouts.corpus import LANGUAGES, MEN, WOMEN, Clip, Corpus
from speechmill.demo.layouts.zeroth import sample_zeroth
from speechmill.demo.speak import speak, speak_archive

COLUMNS = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccents\tlocale\tsegment"
TABLES = ("train", "dev", "test", "validated", "invalidated", "other")
SAMPLE = {"common_voice": sample_common_voice, "zeroth": sample_zeroth}
EVERY_CORPUS = [(language, layout) for language in ("ru", "ko") for layout in ("common_voice", "zeroth")]


def size(voices: int, clips: int) -> dict[str, int]:
    return {"voices": voices, "clips": clips}


SMALL = {"train": size(4, 6), "dev": size(2, 2), "test": size(2, 2)}
LARGE = {"train": size(22, 2000), "dev": size(4, 300), "test": size(5, 300)}


def settings(
    language: str = "ru", layout: str = "common_voice", splits: dict[str, dict[str, int]] = SMALL, **changes: object
) -> SpeakConfig:
    """Return the settings of a corpus, without dev split and release if the layout has none."""
    chosen: dict[str, object] = {"language": language, "layout": layout}
    if layout == "common_voice":
        chosen |= {"release": "cv-corpus-demo-1.0-2026-11-22", "splits": splits}
    else:
        chosen |= {"splits": {split: splits[split] for split in ("train", "test")}}
    return SpeakConfig.model_validate(chosen | changes)


def sample(chosen: SpeakConfig) -> Corpus:
    return SAMPLE[chosen.layout](chosen)


def words(clip: Clip) -> str:
    return clip.sentence.lower().replace(",", "").removesuffix(".")


@pytest.fixture(scope="module")
def archive_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """A function that returns the archive of `settings(language, layout)`, synthesised once for all tests."""

    @cache
    def archive(language: str, layout: str) -> Path:
        path = tmp_path_factory.mktemp("speak") / "demo.tar.gz"
        speak_archive(settings(language, layout), path, threads=2)
        return path

    return archive


def unpack(archive: Path) -> dict[str, bytes]:
    """Return the contents of an archive by file name, in the order of the archive."""
    with tarfile.open(archive) as tar:
        contents = {member.name: tar.extractfile(member) for member in tar}
        return {name: content.read() for name, content in contents.items() if content}


def read_table(content: bytes) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(content), sep="\t", keep_default_na=False)


def read_common_voice(archive: Path, language: str) -> dict[str, pd.DataFrame]:
    files = unpack(archive)
    return {name: read_table(files[f"cv-corpus-demo-1.0-2026-11-22/{language}/{name}.tsv"]) for name in TABLES}


def read_zeroth(archive: Path) -> pd.DataFrame:
    """Return the utterances that the transcripts of an archive list: dataset, script, speaker, name, text, FLAC."""
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
def test_archive_bytes_depend_on_settings_only(
    language: str, layout: str, archive_of: Callable[[str, str], Path], tmp_path: Path
) -> None:
    again = tmp_path / "another-name.tar.gz"
    speak_archive(settings(language, layout), again, threads=1)
    assert again.read_bytes() == archive_of(language, layout).read_bytes()


def test_russian_demo_is_the_published_corpus(tmp_path: Path) -> None:
    splits = {"train": size(33, 2000), "dev": size(5, 150), "test": size(6, 240)}
    demo = settings(splits=splits, seed=1, min_words=2, max_words=4)
    corpus = sample(demo)
    descriptions = (
        f"{clip.speaker.voice} {clip.pitch} {clip.speed} {clip.sentence}".encode()
        for clips in corpus.values()
        for clip in clips
    )
    pack_common_voice(demo, corpus, descriptions, tmp_path / "demo.tar.gz")
    # Computed with the code of 2026-11-22, which supported only Russian and Common Voice.
    tar = gzip.decompress((tmp_path / "demo.tar.gz").read_bytes())
    assert hashlib.sha256(tar).hexdigest() == "3d498330e7f5422b63aeb80c6b93c3fe8a0727ebd2ce8de701e3a96166bd5fcc"


@pytest.mark.parametrize(("language", "layout"), EVERY_CORPUS)
def test_another_seed_gives_another_corpus(language: str, layout: str) -> None:
    assert sample(settings(language, layout, seed=1)) != sample(settings(language, layout, seed=2))


@pytest.mark.parametrize(("language", "layout"), EVERY_CORPUS)
def test_no_speaker_is_in_two_splits(language: str, layout: str) -> None:
    chosen = settings(language, layout, LARGE)
    corpus = sample(chosen)
    sizes = chosen.splits.sizes()
    variants = [{clip.speaker.variant.name for clip in corpus[split]} for split in sizes]
    assert [len(names) for names in variants] == [size.voices for size in sizes.values()]
    assert len(set.union(*variants)) == sum(size.voices for size in sizes.values())


@pytest.mark.parametrize(("language", "layout"), EVERY_CORPUS)
def test_no_sentence_is_in_two_splits(language: str, layout: str) -> None:
    chosen = settings(language, layout, LARGE)
    corpus = sample(chosen)
    by_split = [{words(clip) for clip in corpus[split]} for split in chosen.splits.sizes()]
    assert len(set.union(*by_split)) == sum(len(sentences) for sentences in by_split)


@pytest.mark.parametrize(("language", "layout"), EVERY_CORPUS)
def test_splits_have_their_size_and_both_genders(language: str, layout: str) -> None:
    chosen = settings(language, layout, LARGE)
    corpus = sample(chosen)
    for split, size in chosen.splits.sizes().items():
        assert len(corpus[split]) == size.clips
        assert {clip.speaker.variant.gender for clip in corpus[split]} == {"female", "male"}


@pytest.mark.parametrize(("language", "layout"), EVERY_CORPUS)
@pytest.mark.parametrize(("fewest", "most"), [(1, 1), (1, 4), (2, 4)])
def test_sentences_have_the_configured_lengths(language: str, layout: str, fewest: int, most: int) -> None:
    train = sample(settings(language, layout, LARGE, min_words=fewest, max_words=most))["train"]
    assert {len(words(clip).split()) for clip in train} == set(range(fewest, most + 1))
    assert {word for clip in train for word in words(clip).split()} <= set(LANGUAGES[language].words)


@pytest.mark.parametrize("language", ["ru", "ko"])
def test_words_are_pronounced_as_distinct_words(language: str) -> None:
    listed = LANGUAGES[language].words
    phonemes = [
        subprocess.run(
            ["espeak-ng", "-q", "-x", "-v", language, word], capture_output=True, text=True, check=True
        ).stdout.strip()
        for word in listed
    ]
    assert len(set(phonemes)) == len(listed) == 10
    for word in phonemes:
        # Letters that are spelled out have a stress each; brackets mark a word of another language.
        assert word.count("'") == 1
        assert not set(word) & set(" ()")


def test_korean_uses_all_variants_without_accent() -> None:
    corpus = sample(settings("ko", "zeroth", {"train": size(40, 200), "test": size(4, 200)}))
    speakers = {clip.speaker for clips in corpus.values() for clip in clips}
    assert {speaker.voice for speaker in speakers} == {f"ko+{variant.name}" for variant in WOMEN + MEN}
    assert {speaker.accent for speaker in speakers} == {""}


def test_russian_accents_use_their_own_voice() -> None:
    splits = {"train": size(40, 500), "dev": size(2, 50), "test": size(2, 50)}
    speakers = {clip.speaker for clips in sample(settings(splits=splits)).values() for clip in clips}
    accented = {speaker.voice for speaker in speakers if speaker.accent}
    assert accented == {"ru-lv+f5", "ru-lv+steph3", "ru-lv+iven2"}
    assert {speaker.voice for speaker in speakers if speaker.voice.startswith("ru-lv+")} == accented


@pytest.mark.parametrize("language", ["ru", "ko"])
def test_common_voice_sentences_are_punctuated(language: str) -> None:
    train = sample(settings(language, splits=LARGE))["train"]
    assert all(clip.sentence[0] == clip.sentence[0].upper() for clip in train)
    assert all(clip.sentence.endswith(".") for clip in train)
    assert any("," in clip.sentence for clip in train)


@pytest.mark.parametrize("language", ["ru", "ko"])
def test_common_voice_tables_list_every_clip(language: str, archive_of: Callable[[str, str], Path]) -> None:
    archive = archive_of(language, "common_voice")
    tables = read_common_voice(archive, language)
    for table in tables.values():
        assert "\t".join(table.columns) == COLUMNS
        assert set(table.locale) == {language}
    listed = pd.concat([tables["validated"], tables["invalidated"], tables["other"]]).path
    assert listed.is_unique
    assert {name for name in unpack(archive) if "/clips/" in name} == {
        f"cv-corpus-demo-1.0-2026-11-22/{language}/clips/{path}" for path in listed
    }


def test_validated_lists_train_dev_and_test(archive_of: Callable[[str, str], Path]) -> None:
    tables = read_common_voice(archive_of("ru", "common_voice"), "ru")
    train, dev, test, validated = (tables[name] for name in ("train", "dev", "test", "validated"))
    assert [len(train), len(dev), len(test)] == [6, 2, 2]
    assert validated.equals(pd.concat([train, dev, test], ignore_index=True))


def test_common_voice_speaker_has_one_client_id(archive_of: Callable[[str, str], Path]) -> None:
    chosen = settings()
    table = read_common_voice(archive_of("ru", "common_voice"), "ru")["validated"]
    speakers = [clip.speaker for split in ("train", "dev", "test") for clip in sample(chosen)[split]]
    assert len(set(zip(table.client_id, speakers, strict=True))) == table.client_id.nunique() == len(set(speakers))


@pytest.mark.parametrize("language", ["ru", "ko"])
def test_common_voice_clips_are_48_khz_mono_mp3(language: str, archive_of: Callable[[str, str], Path]) -> None:
    for name, content in unpack(archive_of(language, "common_voice")).items():
        if "/clips/" in name:
            info = soundfile.info(io.BytesIO(content))
            assert (info.samplerate, info.channels, info.format) == (48_000, 1, "MP3")
            assert 0.2 < info.duration < 10


@pytest.mark.parametrize("language", ["ru", "ko"])
def test_zeroth_sentences_are_plain_nfc_words(language: str) -> None:
    for clips in sample(settings(language, "zeroth", LARGE)).values():
        for clip in clips:
            assert re.fullmatch(r"\w+( \w+)*", clip.sentence)
            assert clip.sentence == clip.sentence.lower()
            assert unicodedata.is_normalized("NFC", clip.sentence)


def test_zeroth_speakers_share_sentences_evenly() -> None:
    chosen = settings("ko", "zeroth", LARGE, min_words=4)
    for split, clips in sample(chosen).items():
        readers = Counter(sentence for sentence, _ in {(clip.sentence, clip.speaker) for clip in clips})
        assert sum(count >= 3 for count in readers.values()) > 0.9 * len(readers), split
        read = Counter(clip.speaker for clip in clips)
        assert max(read.values()) - min(read.values()) <= 1


@pytest.mark.parametrize("language", ["ru", "ko"])
def test_zeroth_has_a_folder_per_speaker(language: str, archive_of: Callable[[str, str], Path]) -> None:
    archive = archive_of(language, "zeroth")
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
def test_zeroth_transcripts_match_the_audio(language: str, archive_of: Callable[[str, str], Path]) -> None:
    utterances = read_zeroth(archive_of(language, "zeroth"))
    expected = [clip for clips in sample(settings(language, "zeroth")).values() for clip in clips]
    for text, flac, clip in zip(utterances.text, utterances.flac, expected, strict=True):
        assert text == clip.sentence
        samples, _ = soundfile.read(io.BytesIO(flac))
        np.testing.assert_allclose(samples, speak(clip, 16_000).clip(-1, 1), atol=2**-15)


@pytest.mark.parametrize("language", ["ru", "ko"])
def test_zeroth_audio_info_lists_every_speaker(language: str, archive_of: Callable[[str, str], Path]) -> None:
    archive = archive_of(language, "zeroth")
    info = pd.read_csv(io.BytesIO(unpack(archive)["AUDIO_INFO"]), sep="|", dtype=str)
    assert list(info.columns) == ["SPEAKERID", "NAME", "SEX", "SCRIPTID", "DATASET"]
    sexes = {variant.name: variant.gender[0] for variant in WOMEN + MEN}
    assert [sexes[name] for name in info.NAME] == list(info.SEX)
    utterances = read_zeroth(archive)
    listed = set(zip(info.SPEAKERID, info.SCRIPTID, info.DATASET, strict=True))
    assert listed == set(zip(utterances.speaker, utterances.script, utterances.dataset, strict=True))
    assert info.SPEAKERID.is_unique


@pytest.mark.parametrize("language", ["ru", "ko"])
def test_zeroth_clips_are_16_khz_mono_16_bit_flac(language: str, archive_of: Callable[[str, str], Path]) -> None:
    for flac in read_zeroth(archive_of(language, "zeroth")).flac:
        info = soundfile.info(io.BytesIO(flac))
        assert (info.samplerate, info.channels, info.format, info.subtype) == (16_000, 1, "FLAC", "PCM_16")
        assert 0.2 < info.duration < 10


@pytest.mark.parametrize(
    ("layout", "changes", "message"),
    [
        ("common_voice", {"release": None}, "needs `release`"),
        ("common_voice", {"splits": {"train": size(1, 1), "test": size(1, 1)}}, "needs `splits.dev`"),
        ("zeroth", {"release": "zeroth"}, "remove `release`"),
        ("zeroth", {"splits": SMALL}, "remove `splits.dev`"),
        ("zeroth", {"min_words": 3, "max_words": 2}, "`min_words` is greater"),
        ("zeroth", {"layout": "kaldi"}, "common_voice"),
        ("zeroth", {"language": "en"}, "ru"),
    ],
)
def test_impossible_settings_are_rejected(layout: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SpeakConfig.model_validate(settings(layout=layout).model_dump(exclude_none=True) | changes)


@pytest.mark.parametrize("layout", ["common_voice", "zeroth"])
def test_too_many_voices_names_the_key_to_lower(layout: str) -> None:
    splits = dict.fromkeys(("train", "dev", "test"), size(40, 1))
    with pytest.raises(SpeechmillError, match=r"speak\.splits: the splits have (120|80) voices"):
        sample(settings("ru", layout, splits))


def test_missing_espeak_is_reported_and_nothing_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SpeechmillError, match="apt-get install espeak-ng"):
        speak_archive(settings(), tmp_path / "demo.tar.gz", threads=1)
    assert list(tmp_path.iterdir()) == []
