import itertools
import json
import math
import random
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from flashlight.lib.text.decoder.kenlm import KenLM
from flashlight.lib.text.dictionary import create_word_dict
from pydantic import ValidationError

from material import as_json
from speechmill.config.lm import LmConfig
from speechmill.core.command import SpeechmillError
from speechmill.core.files import file_digest, read_json
from speechmill.lm.lm import LmSettings, build_model, main, prune_thresholds
from speechmill.text.lexicon import Tokens, check_lm, folder_tokens, tokenizer_tokens

LETTERS = ["[PAD]", "[UNK]", "|", *"abcde"]
SETTINGS = LmSettings(order=2, prune=[0, 0, 1], format="trie", max_words=100)


def write_sentences(path: Path, sentences: list[str]) -> Path:
    path.write_text("".join(f"{sentence}\n" for sentence in sentences), encoding="utf-8")
    return path


def write_tokenizer(folder: Path, tokens: list[str], **settings: Any) -> tuple[Path, Path]:
    vocab, config = folder / "vocab.json", folder / "tokenizer_config.json"
    vocab.write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")
    config.write_text(json.dumps({"pad_token": "[PAD]", "word_delimiter_token": "|"} | settings), encoding="utf-8")
    return vocab, config


def log10(model: Path, sentence: str) -> list[float]:
    """The log10 probability of each word of a sentence and of its end, queried as beam search does."""
    words = create_word_dict({word: [[word]] for word in [*sentence.split(), "<unk>"]})
    kenlm = KenLM(str(model), words)
    state, scores = kenlm.start(False), []
    for word in sentence.split():
        state, score = kenlm.score(state, words.get_index(word))
        scores.append(score)
    return [*scores, kenlm.finish(state)[1]]


def probability(word: str, before: str, text: list[str], discount: Mapping[int, float]) -> float:
    """The probability of a bigram by modified Kneser-Ney smoothing. Source: Chen and Goodman, TR-10-98, 1998.

    The count of a unigram is the number of distinct bigrams that end in it. `discount` maps a count to its discount in
    both orders; the key 3 stands for 3 and more.
    """
    bigrams: dict[tuple[str, str], int] = {}
    for sentence in text:
        words = ["<s>", *sentence.split(), "</s>"]
        for pair in itertools.pairwise(words):
            bigrams[pair] = bigrams.get(pair, 0) + 1
    unigrams: dict[str, int] = {}
    for _, last in bigrams:
        unigrams[last] = unigrams.get(last, 0) + 1

    def discounted_share(counts: list[int]) -> float:
        return sum(discount[min(count, 3)] for count in counts) / sum(counts)

    # The discounted probability of the unigrams is distributed evenly over the words and the unknown word.
    unigram = discounted_share(list(unigrams.values())) / (len(unigrams) + 1)
    if word in unigrams:
        unigram += (unigrams[word] - discount[min(unigrams[word], 3)]) / len(bigrams)
    followers = {last: count for (first, last), count in bigrams.items() if first == before}
    count = followers.get(word, 0)
    bigram = (count - discount[min(count, 3)]) / sum(followers.values()) if count else 0.0
    return bigram + discounted_share(list(followers.values())) * unigram


def test_bigram_probabilities_follow_kneser_ney(tmp_path: Path) -> None:
    text = ["a b", "a b c", "b a", "c c d", "a d", "a b d"]
    statistics = build_model(write_sentences(tmp_path / "text", text), tmp_path / "lm", SETTINGS, 100)
    # The defaults of lmplz for a text that is too small, `--discount_fallback`.
    assert statistics["discount_fallback"] == [1, 2]
    discount = {1: 0.5, 2: 1.0, 3: 1.5}
    for sentence in ["a b c", "d d a", "c b"]:
        words = ["<s>", *sentence.split(), "</s>"]
        expected = [math.log10(probability(word, before, text, discount)) for before, word in itertools.pairwise(words)]
        assert log10(tmp_path / "lm", sentence) == pytest.approx(expected, abs=1e-5)
    # Unigrams: <unk>, <s>, </s> and the four words. Bigrams: the distinct pairs of words in the text.
    assert statistics["ngrams"] == [7, 14]


def test_unknown_word_has_low_probability(tmp_path: Path) -> None:
    build_model(write_sentences(tmp_path / "text", ["a b c d", "b c"]), tmp_path / "lm", SETTINGS, 100)
    known, unknown = (log10(tmp_path / "lm", f"a {word}")[1] for word in ("b", "zzz"))
    assert -10 < unknown < known


@pytest.mark.parametrize("kind", ["trie", "probing"])
def test_model_is_reproducible(tmp_path: Path, kind: str) -> None:
    text = write_sentences(tmp_path / "text", [f"{a} {b} {c}" for a in "abcd" for b in "bcde" for c in "abe"])
    settings = LmSettings.model_validate({"order": 3, "prune": [], "format": kind, "max_words": 9})
    for name in ("one", "two"):
        build_model(text, tmp_path / name, settings, 100)
    assert file_digest(tmp_path / "one") == file_digest(tmp_path / "two")
    assert {path.name for path in tmp_path.iterdir()} == {"text", "one", "two"}


@pytest.mark.parametrize("sentences", [["a"], ["a", "b", "a b"]])
def test_tiny_text_supports_high_order(tmp_path: Path, sentences: list[str]) -> None:
    settings = SETTINGS.model_copy(update={"order": 6})
    statistics = build_model(write_sentences(tmp_path / "text", sentences), tmp_path / "lm", settings, 100)
    assert len(statistics["ngrams"]) == 6
    assert all(score < 0 for score in log10(tmp_path / "lm", "a b c"))


def test_pruning_removes_rare_ngrams(tmp_path: Path) -> None:
    text = write_sentences(tmp_path / "text", ["a b c", "a b c", "b c d"])
    full, pruned = (
        build_model(text, tmp_path / "lm", SETTINGS.model_copy(update={"order": 3, "prune": prune}), 100)["ngrams"]
        for prune in ([], [0, 0, 1])
    )
    assert full[:2] == pruned[:2]
    assert full[2] > pruned[2]


@pytest.mark.parametrize(
    ("prune", "order", "first"),
    [
        ([0, 0, 1], 4, [[0, 0, 1, 1], [0, 1, 2, 2], [0, 2, 4, 4]]),
        ([], 3, [[0, 0, 0], [0, 0, 1], [0, 1, 2]]),
        ([0, 3], 2, [[0, 3], [0, 4], [0, 8]]),
    ],
)
def test_thresholds_rise_from_the_highest_orders_on(prune: list[int], order: int, first: list[list[int]]) -> None:
    found = list(prune_thresholds(prune, order))
    assert found[: len(first)] == first
    assert all(each == sorted(each) and each[0] == 0 for each in found)


def test_model_is_pruned_to_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(0)
    words = ["".join(generator.choices("abcde", k=5)) for _ in range(3000)]
    sentences = [" ".join(generator.choices(words, k=8)) for _ in range(12_000)]
    large = run(tmp_path, monkeypatch, sentences, LETTERS, order=3, prune=[], max_words=9)
    assert (large / "lm.binary").stat().st_size > 10**6
    small = run(tmp_path, monkeypatch, sentences, LETTERS, order=3, prune=[], max_words=9, max_mb=1)
    about = read_json(small / "arpa.json")
    assert (small / "lm.binary").stat().st_size == about["bytes"] <= 10**6
    assert about["prune"] == []
    assert about["thresholds"] in list(prune_thresholds([], 3))[1:]
    check_lm(small)


def test_too_small_a_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["".join(letters) for letters in itertools.islice(itertools.product("abcde", repeat=8), 60_000)]
    with pytest.raises(SpeechmillError, match=r"evaluation\.lm\.max_mb is 1: .* 60,003 words alone need this space"):
        run(tmp_path, monkeypatch, [" ".join(words[i : i + 9]) for i in range(0, len(words), 9)], LETTERS, max_mb=1)
    assert not (tmp_path / "lm" / "lm.binary").exists()
    # No higher threshold is tried once only single words are left.
    assert [line.count(" 60,003 n-grams") for line in capsys.readouterr().out.splitlines()] == [0, 1]


def run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, sentences: list[str], tokens: list[str], **settings: Any
) -> Path:
    vocab, config = write_tokenizer(folder, tokens)
    text, digest = write_sentences(folder / "text", sentences), folder / "text.sha256"
    digest.write_text(file_digest(text) + "\n")
    arguments = [
        "--settings", as_json(SETTINGS.model_dump() | settings), "--text", text, "--text-digest", digest,
        "--vocab", vocab, "--tokenizer", config, "--memory-mb", 100, "--folder", folder / "lm",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["lm", *map(str, arguments)])
    main()
    return folder / "lm"


def test_words_are_spelled_in_clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = ["[PAD]", "<unk>", "|", "a", "ch", "h", "n", "ng", "ngb"]
    folder = run(tmp_path, monkeypatch, ["chang ngban hn c", "cha"], tokens, max_words=9)
    assert (folder / "lexicon.txt").read_text() == ("cha\tch a |\nchang\tch a ng |\nhn\th n |\nngban\tngb a n |\n")
    assert folder_tokens(folder).special == {"<unk>"}
    assert folder_tokens(folder).entry("a<unk>") is None


def test_folder_contains_lexicon_tokens_and_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sentences = ["cab ad", "ad fee", "ad cab", "be"]
    folder = run(tmp_path, monkeypatch, sentences, LETTERS, max_words=3)
    # `be` and `fee` are equally frequent, so `be` precedes by code point; the model lacks the letter f.
    assert (folder / "lexicon.txt").read_text() == "ad\ta d |\nbe\tb e |\ncab\tc a b |\n"
    assert folder_tokens(folder) == Tokens(LETTERS, "[PAD]", "|")
    metadata = read_json(folder / "arpa.json")
    assert {key: metadata[key] for key in SETTINGS.model_dump()} == SETTINGS.model_dump() | {"max_words": 3}
    assert (metadata["distinct_words"], metadata["words_in_lexicon"], metadata["words_not_spelled"]) == (4, 3, 0)
    assert metadata["text_sha256"] == file_digest(tmp_path / "text")
    check_lm(folder)
    assert run(tmp_path, monkeypatch, sentences, LETTERS) and read_json(folder / "arpa.json")["words_not_spelled"] == 1


def test_changed_file_of_a_language_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run(tmp_path, monkeypatch, ["cab ad", "ad fee"], LETTERS)
    (folder / "lexicon.txt").write_text("ad\ta b |\n")
    with pytest.raises(SpeechmillError, match=rf"{folder}/lexicon.txt has changed since it was written"):
        check_lm(folder)


def test_syllables_are_spelled_in_units_of_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run(tmp_path, monkeypatch, ["한 가"], ["[PAD]", "|", "\u1100", "\u1112", "\u1161", "\u11ab"])
    assert (folder / "lexicon.txt").read_text() == ("가\t\u1100 \u1161 |\n한\t\u1112 \u1161 \u11ab |\n")
    syllables = run(tmp_path, monkeypatch, ["한 가"], ["[PAD]", "|", "가", "한"])
    assert (syllables / "lexicon.txt").read_text() == "가\t가 |\n한\t한 |\n"


def test_unspellable_text_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpeechmillError, match="the model can spell none of the words"):
        run(tmp_path, monkeypatch, ["abc"], ["[PAD]", "|", *"ABC"])


def test_blank_may_have_any_id(tmp_path: Path) -> None:
    # As in models of the Robust Speech Event; some versions of transformers write a token as a mapping.
    tokens = ["|", "a", "b", "[UNK]", "[PAD]"]
    paths = write_tokenizer(tmp_path, tokens, pad_token={"content": "[PAD]"})
    assert tokenizer_tokens(*paths) == Tokens(tokens, "[PAD]", "|")


def test_tokenizer_without_separator_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match=r"vocab\.json .*lacks .*'\|'.*evaluation\.decoders"):
        tokenizer_tokens(*write_tokenizer(tmp_path, ["[PAD]", "a", "▁b"]))


def test_missing_or_failing_kenlm_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpeechmillError, match=r"build_binary of KenLM failed with exit status .*evaluation\.lm"):
        build_model(write_sentences(tmp_path / "text", []), tmp_path / "lm", SETTINGS, 100)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(SpeechmillError, match="make setup"):
        build_model(tmp_path / "text", tmp_path / "lm", SETTINGS, 100)
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text": "files"}, "belong together"),
        ({"files": ["a.txt"]}, "belong together"),
        ({"texts": ["wiki"]}, "`texts` in `text` and a list of `texts` belong together"),
        ({"text": ["training", "texts"], "texts": ["wiki", "wiki"]}, "lists a name twice"),
        ({"prune": [0, 2, 1]}, "must be ascending"),
        ({"order": 7}, "less than or equal to 6"),
    ],
)
def test_invalid_settings_are_rejected(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LmConfig.model_validate(settings)
