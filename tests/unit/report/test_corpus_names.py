import pytest

from speechmill.report.corpus_names import CorpusName, corpus_name, release


@pytest.mark.parametrize(
    "name",
    [
        "mozilla-foundation/common_voice_8_0", "Common Voice 8.0", "Common Voice 8", "common-voice-8-0", "CV8",
        "cv-corpus-8.0-2022-01-19", "cv-corpus-8.0-2022-01-19-ru", "Mozilla Common Voice Corpus 8.0",
        "common_voice_8_0_ru", "common_voice_v8.0",
    ],
)  # fmt: skip
def test_names_of_common_voice_have_its_release(name: str) -> None:
    assert corpus_name(name) == CorpusName(("common", "voice"), "8")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("common_voice", "Common Voice"),
        ("CommonVoice", "mozilla-foundation/common_voice_11_0"),
        ("google/fleurs", "FLEURS"),
        ("zeroth", "kresnik/zeroth_korean"),
        ("Bingsu/zeroth-korean", "Zeroth-Korean"),
        ("multilingual_librispeech", "MLS"),
        ("openslr/librispeech_asr", "LibriSpeech"),
        ("SberDevices/Golos", "Golos, crowd"),
        ("AISHELL-1", "aishell 3"),
    ],
)
def test_names_of_one_corpus_match(one: str, other: str) -> None:
    assert corpus_name(one).is_same_corpus(corpus_name(other))
    assert corpus_name(other).is_same_corpus(corpus_name(one))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("LibriSpeech", "Multilingual LibriSpeech"),
        ("LibriSpeech", "Libri-Light"),
        ("Common Voice", "common_crawl"),
        ("facebook/voxpopuli", "VoxCeleb"),
        ("somebody/dev_data", "speech-recognition-community-v2/dev_data"),
        ("speech-recognition-community-v2/dev_data", "speech-recognition-community-v2/eval_data"),
        ("FLEURS", ""),
        ("", ""),
    ],
)
def test_names_of_different_corpora_do_not_match(one: str, other: str) -> None:
    assert not corpus_name(one).is_same_corpus(corpus_name(other))
    assert not corpus_name(other).is_same_corpus(corpus_name(one))


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("8.0", "8"), ("8_0", "8"), ("v8", "8"), ("10.0", "10"), ("16.1", "16.1"), ("demo-1.0", "1"),
        ("cv-corpus-8.0-2022-01-19", "8"), ("2022-01-19", "2022-01-19"), ("Final", "final"), ("", None), (None, None),
    ],
)  # fmt: skip
def test_releases_have_one_form(version: str | None, expected: str | None) -> None:
    assert release(version) == expected


@pytest.mark.parametrize("name", ["google/fleurs", "librispeech_960h", "2022", "AMI", "golos_10h_crowd"])
def test_number_that_is_no_release(name: str) -> None:
    assert corpus_name(name).release is None
