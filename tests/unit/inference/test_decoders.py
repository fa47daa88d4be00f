import os
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray

from material import CHARACTER_TOKENS, language_model
from speechmill.config.lm import BeamConfig
from speechmill.core.command import SpeechmillError
from speechmill.core.files import write_json
from speechmill.inference import decoders
from speechmill.inference.decoders import BeamSearch, Weights, decode_all
from speechmill.lm.lm import LmSettings, build_model, write_spelled
from speechmill.text.lexicon import ABOUT, LEXICON, MODEL, TOKENS, Tokens

LETTERS = CHARACTER_TOKENS
LogProbs = NDArray[np.float16]


def weights(lm_weight: float = 0.0, word_score: float = 0.0, vocabulary: str = "closed") -> Weights:
    return Weights.model_validate(
        {
            "lm_weight": lm_weight,
            "word_score": word_score,
            "vocabulary": vocabulary,
            "beam": BeamConfig().model_dump(),
        }
    )


def log_probs_of(path: str, probability: float = 0.98, tokens: Sequence[str] = LETTERS) -> LogProbs:
    """Log-probabilities with one frame per character of `path`, which has that probability; `_` is the blank."""
    probabilities = np.full((len(path), len(tokens)), (1 - probability) / (len(tokens) - 1))
    for i, character in enumerate(path):
        probabilities[i, tokens.index("[PAD]" if character == "_" else character)] = probability
    return np.log(probabilities).astype(np.float16)


def ambiguous(log_probs: LogProbs, frame: int, first: str, second: str) -> LogProbs:
    """A copy in which two tokens are equally probable in one frame."""
    copy = log_probs.copy()
    copy[frame, [LETTERS.index(first), LETTERS.index(second)]] = np.log(0.49)
    return copy


def write_outputs(
    path: Path, clips: Sequence[LogProbs | None], greedy: Sequence[str] = (), group_size: int = 3
) -> Path:
    table = pa.table(
        {
            "id": [f"clip-{i}" for i in range(len(clips))],
            "frames": pa.array([0 if each is None else len(each) for each in clips], pa.int32()),
            "hypothesis": list(greedy) or [""] * len(clips),
            "log_probs": pa.array(
                [None if each is None else each.astype("<f2").tobytes() for each in clips], pa.binary()
            ),
        }
    )
    pq.write_table(table, path, row_group_size=group_size)
    return path


PATHS = ["__aa_bb|||cc__|", "d_ee_|", "a|_a|b", "|b_bb__b|e", "_", "", "a"]
SENTENCES = ["ab c", "de", "a a b", "bbb e", "", "", "a"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model in which `cab` follows `a` as often as `cob` follows `b`."""
    words = [word for sentence in SENTENCES for word in sentence.split()]
    return language_model(tmp_path_factory.mktemp("lm") / "lm", ["a cab", "a cab", "b cob", "b cob"], words)


def test_zero_weight_matches_greedy_on_clear_clips(folder: Path) -> None:
    search = BeamSearch(folder, weights())
    assert [search(log_probs_of(path)) for path in PATHS] == SENTENCES


def test_language_model_resolves_ambiguity(folder: Path) -> None:
    search = BeamSearch(folder, weights(lm_weight=1.0))
    for before, expected in (("a", "a cab"), ("b", "b cob")):
        clip = ambiguous(log_probs_of(f"{before}|c_ab|"), frame=4, first="a", second="o")
        assert search(clip) == expected


def test_large_weight_overrides_acoustics(folder: Path) -> None:
    clip = log_probs_of("a|c_ob|", probability=0.999)
    clip[4] = log_probs_of("o", probability=0.9)
    assert [BeamSearch(folder, weights(lm_weight=weight))(clip) for weight in (0.0, 6.0)] == ["a cob", "a cab"]


def test_word_score_controls_word_count(tmp_path: Path) -> None:
    folder = language_model(tmp_path / "lm", ["ab", "a b"])
    clip = log_probs_of("a_b|")
    clip[1, LETTERS.index("|")] = clip[1, 0]
    assert [BeamSearch(folder, weights(word_score=score))(clip) for score in (-5.0, 5.0)] == ["ab", "a b"]


def test_words_outside_lexicon_are_never_output(folder: Path) -> None:
    clip = log_probs_of("d_ad|")
    closed_search, open_search = BeamSearch(folder, weights()), BeamSearch(folder, weights(vocabulary="open"))
    assert closed_search(clip) != "dad"
    assert open_search(clip) == "dad"
    # The language model prefers a known word to an unknown one that is a little more probable acoustically.
    clip = ambiguous(log_probs_of("c_ad|"), frame=3, first="d", second="b")
    clip[3, LETTERS.index("d")] += 0.1
    assert open_search(clip) == "cad"
    assert BeamSearch(folder, weights(lm_weight=1.0, vocabulary="open"))(clip) == "cab"


def test_hangul_is_output_as_syllables(tmp_path: Path) -> None:
    tokens = ["[PAD]", "|", "\u1100", "\u1112", "\u1161", "\u11ab"]
    folder = language_model(tmp_path / "lm", ["한 가"], tokens=tokens)
    assert BeamSearch(folder, weights(1.0))(log_probs_of("\u1112\u1161\u11ab|\u1100\u1161", tokens=tokens)) == "한 가"


def test_any_blank_id_and_surplus_ids_are_handled(tmp_path: Path) -> None:
    tokens = ["|", "a", "b", "[PAD]"]
    folder = language_model(tmp_path / "lm", ["ab ba"], tokens=tokens)
    clip = np.pad(log_probs_of("_ab_|_ba", tokens=tokens), ((0, 0), (0, 2)), constant_values=-20)
    assert BeamSearch(folder, weights(1.0))(clip) == "ab ba"


def test_too_few_tokens_are_rejected(folder: Path) -> None:
    with pytest.raises(SpeechmillError, match="has 5 tokens, but the language model was built for 9"):
        BeamSearch(folder, weights())(np.zeros((3, 5), dtype=np.float16))


def random_clips(number: int) -> list[LogProbs]:
    rng = np.random.default_rng(3)
    logits = [torch.from_numpy(rng.normal(size=(int(rng.integers(0, 40)), len(LETTERS)))) * 2 for _ in range(number)]
    return [np.asarray(each.log_softmax(-1).numpy(), dtype=np.float16) for each in logits]


@pytest.mark.parametrize("processes", [2, 5])
def test_result_is_independent_of_process_count(folder: Path, tmp_path: Path, processes: int) -> None:
    outputs = write_outputs(tmp_path / "ctc_outputs.parquet", random_clips(17), greedy=["dad", "aa|b"] + [""] * 15)
    alone = decode_all(outputs, folder, weights(0.5, vocabulary="open"), 1)
    assert len(set(alone)) > 8  # otherwise a wrong order could pass
    assert decode_all(outputs, folder, weights(0.5, vocabulary="open"), processes) == alone


def test_hypotheses_are_in_clip_order(folder: Path, tmp_path: Path) -> None:
    outputs = write_outputs(tmp_path / "ctc_outputs.parquet", [log_probs_of(path) for path in PATHS])
    assert decode_all(outputs, folder, weights(), 2) == SENTENCES
    assert decode_all(outputs, folder, weights(), 2, every=3) == SENTENCES[::3]
    assert decode_all(outputs, folder, weights(), 2, every=2) == SENTENCES[::2]
    assert decode_all(write_outputs(tmp_path / "none.parquet", []), folder, weights(), 2) == []


@pytest.mark.parametrize("vocabulary", ["open", "closed"])
def test_open_vocabulary_includes_greedy_words(folder: Path, tmp_path: Path, vocabulary: str) -> None:
    unknown_token = log_probs_of("d_d|ad_")
    unknown_token[1] = np.roll(unknown_token[1], 1)
    clips = [log_probs_of("_d_ad_"), log_probs_of("a"), unknown_token]
    outputs = write_outputs(tmp_path / "ctc_outputs.parquet", clips)
    first, second, third = decode_all(outputs, folder, weights(vocabulary=vocabulary), 1)
    assert (first == "dad", second) == (vocabulary == "open", "a")
    assert third.endswith("ad") is (vocabulary == "open")


@pytest.mark.parametrize("vocabulary", ["open", "closed"])
def test_text_is_independent_of_other_clips(folder: Path, tmp_path: Path, vocabulary: str) -> None:
    # In the last clip, `dad`, the greedy word of the first one, is nearly as probable as its own greedy word.
    clips = [
        log_probs_of("_d_ad_"),
        *random_clips(12),
        ambiguous(log_probs_of("_d_ad_"), frame=4, first="d", second="e"),
    ]
    clips[-1][4, LETTERS.index("e")] += 0.01
    decode = BeamSearch(folder, weights(0.1, 0.5, vocabulary))
    alone = [BeamSearch(folder, weights(0.1, 0.5, vocabulary))(clip) for clip in clips]
    assert [decode(clip) for clip in clips] == alone
    assert [decode(clip) for clip in clips[::-1]] == alone[::-1]
    outputs = write_outputs(tmp_path / "ctc_outputs.parquet", clips)
    assert decode_all(outputs, folder, weights(0.1, 0.5, vocabulary), 1) == alone
    assert vocabulary == "closed" or (alone[0], alone[-1]) == ("dad", "dae")


def test_incomplete_last_word_is_left_out(tmp_path: Path) -> None:
    # The only word has more characters than the clip has frames.
    folder = language_model(tmp_path / "lm", ["bcdeo"])
    assert BeamSearch(folder, weights())(log_probs_of("bcd")) == ""


def test_missing_log_probs_are_reported(folder: Path, tmp_path: Path) -> None:
    outputs = write_outputs(tmp_path / "ctc_outputs.parquet", [log_probs_of("a"), None])
    with pytest.raises(SpeechmillError, match=r"ctc_outputs\.parquet has no log-probabilities for clip-1"):
        decode_all(outputs, folder, weights(), 1)


def test_killed_process_is_reported(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders.BeamSearch, "__call__", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    outputs = write_outputs(tmp_path / "ctc_outputs.parquet", [log_probs_of("a")])
    with pytest.raises(SpeechmillError, match="was killed"):
        decode_all(outputs, folder, weights(), 2)


def test_corrupt_language_model_is_reported(tmp_path: Path) -> None:
    folder = language_model(tmp_path / "lm", ["a"])
    (folder / MODEL).write_bytes(b"")
    with pytest.raises(SpeechmillError, match=rf"{folder} cannot be used"):
        BeamSearch(folder, weights())


def character_model(folder: Path, sentences: Sequence[str], tokens: Sequence[str] = LETTERS) -> Path:
    """A folder with a language model of characters, as stage `lm` writes it."""
    folder.mkdir()
    (folder / "text").write_text("".join(f"{sentence}\n" for sentence in sentences), encoding="utf-8")
    write_spelled(folder / "text", folder / "spelled", Tokens(list(tokens), "[PAD]", "|"))
    settings = LmSettings(unit="characters", order=3, prune=[], format="trie", max_words=9)
    build_model(folder / "spelled", folder / MODEL, settings, 100)
    (folder / LEXICON).write_text("")
    (folder / TOKENS).write_text("\n".join(tokens) + "\n", encoding="utf-8")
    write_json({"unit": "characters", "blank": "[PAD]", "separator": "|", "special": ["[UNK]"]}, folder / ABOUT)
    return folder


@pytest.fixture(scope="module")
def characters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return character_model(tmp_path_factory.mktemp("lm") / "lm", ["acabacab", "cabacab", "bcobcob", "cobbcob"])


def test_character_model_at_zero_weight_is_greedy(characters: Path) -> None:
    # Repeated frames, a blank between equal characters, and spaces; no sentence is in the text of the model.
    search = BeamSearch(characters, weights())
    assert [search(log_probs_of(path)) for path in PATHS] == SENTENCES


def test_character_model_decides_within_a_word(characters: Path) -> None:
    search = BeamSearch(characters, weights(lm_weight=1.0))
    for before, expected in (("a", "acab"), ("b", "bcob")):
        assert search(ambiguous(log_probs_of(f"{before}c?b".replace("?", "a")), 2, "a", "o")) == expected


def test_character_model_writes_unseen_sentences(characters: Path) -> None:
    assert BeamSearch(characters, weights(lm_weight=0.5))(log_probs_of("d_e_ed|a")) == "deed a"


def test_character_model_writes_no_special_tokens(characters: Path) -> None:
    clip = log_probs_of("ab")
    clip[1, LETTERS.index("[UNK]")] = 0.0
    assert BeamSearch(characters, weights())(clip) == "a"


def test_character_model_composes_jamo(tmp_path: Path) -> None:
    tokens = ["[PAD]", "[UNK]", "|", *"\u1100\u1112\u1161\u11ab"]
    folder = character_model(tmp_path / "lm", ["한 가", "가 한"], tokens)
    clip = log_probs_of("\u1112\u1161\u11ab|\u1100\u1161", tokens=tokens)
    assert BeamSearch(folder, weights(1.0))(clip) == "한 가"


def test_spelled_text_keeps_spaces_and_skips_unknown(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("ab c\nxaé\n\n", encoding="utf-8")
    write_spelled(tmp_path / "text", tmp_path / "spelled", Tokens(LETTERS, "[PAD]", "|"))
    assert (tmp_path / "spelled").read_text() == "a b | c\na\n\n"
