import itertools
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

from speechmill.config.lm import BeamConfig
from speechmill.core.command import SpeechmillError
from speechmill.core.tables import write_json
from speechmill.inference import decoders
from speechmill.inference.decoders import BeamSearch, Weights, decode_all
from speechmill.lm.lm import LmSettings, make_model
from speechmill.text.lexicon import ABOUT, LEXICON, MODEL, TOKENS, Tokens

LETTERS = ["[PAD]", "[UNK]", "|", *"abcdeo"]
LogProbs = NDArray[np.float16]


def language_model(
    folder: Path,
    sentences: Sequence[str],
    words: Sequence[str] = (),
    tokens: Sequence[str] = LETTERS,
    blank: str = "[PAD]",
) -> Path:
    """A folder as the stage `lm` makes it, of a text, with the words of the text and `words` in the lexicon."""
    folder.mkdir()
    text = folder / "text"
    text.write_text("".join(f"{sentence}\n" for sentence in sentences), encoding="utf-8")
    make_model(text, folder / MODEL, LmSettings(order=2, prune=[], format="trie", max_words=9), 100)
    spelled = Tokens(list(tokens), blank, "|")
    every = sorted({*words, *itertools.chain(*map(str.split, sentences))})
    (folder / LEXICON).write_text("".join(str(spelled.entry(word)) for word in every), encoding="utf-8")
    (folder / TOKENS).write_text("\n".join(tokens) + "\n", encoding="utf-8")
    write_json({"blank": blank, "separator": "|"}, folder / ABOUT)
    return folder


def weights(lm_weight: float = 0.0, word_score: float = 0.0, vocabulary: str = "closed") -> Weights:
    return Weights.model_validate(
        {
            "lm_weight": lm_weight,
            "word_score": word_score,
            "vocabulary": vocabulary,
            "beam": BeamConfig().model_dump(),
        }
    )


def frames_of(path: str, sure: float = 0.98, tokens: Sequence[str] = LETTERS) -> LogProbs:
    """Frames, one a character of `path`, in which that token is `sure` and the others share the rest; `_` is blank."""
    probabilities = np.full((len(path), len(tokens)), (1 - sure) / (len(tokens) - 1))
    for i, character in enumerate(path):
        probabilities[i, tokens.index("[PAD]" if character == "_" else character)] = sure
    return np.log(probabilities).astype(np.float16)


def torn(log_probs: LogProbs, frame: int, first: str, second: str) -> LogProbs:
    """The same with two tokens as likely as each other in one frame."""
    changed = log_probs.copy()
    changed[frame, [LETTERS.index(first), LETTERS.index(second)]] = np.log(0.49)
    return changed


def written(path: Path, clips: Sequence[LogProbs | None], greedy: Sequence[str] = (), group_size: int = 3) -> Path:
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


SURE = ["__aa_bb|||cc__|", "d_ee_|", "a|_a|b", "|b_bb__b|e", "_", "", "a"]
HEARD = ["ab c", "de", "a a b", "bbb e", "", "", "a"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model in which `cab` follows `a` and `cob` follows `b`, as often."""
    words = [word for sentence in HEARD for word in sentence.split()]
    return language_model(tmp_path_factory.mktemp("lm") / "lm", ["a cab", "a cab", "b cob", "b cob"], words)


def test_without_the_language_model_what_is_sure_is_heard_as_greedily(folder: Path) -> None:
    search = BeamSearch(folder, weights())
    assert [search(frames_of(path)) for path in SURE] == HEARD


def test_the_language_model_decides_where_the_sound_does_not(folder: Path) -> None:
    search = BeamSearch(folder, weights(lm_weight=1.0))
    for before, expected in (("a", "a cab"), ("b", "b cob")):
        clip = torn(frames_of(f"{before}|c_ab|"), frame=4, first="a", second="o")
        assert search(clip) == expected


def test_a_greater_weight_lets_the_language_model_overrule_the_sound(folder: Path) -> None:
    clip = frames_of("a|c_ob|", sure=0.999)
    clip[4] = frames_of("o", sure=0.9)
    assert [BeamSearch(folder, weights(lm_weight=weight))(clip) for weight in (0.0, 6.0)] == ["a cob", "a cab"]


def test_a_greater_score_makes_more_words(tmp_path: Path) -> None:
    folder = language_model(tmp_path / "lm", ["ab", "a b"])
    clip = frames_of("a_b|")
    clip[1, LETTERS.index("|")] = clip[1, 0]
    assert [BeamSearch(folder, weights(word_score=score))(clip) for score in (-5.0, 5.0)] == ["ab", "a b"]


def test_a_word_of_neither_lexicon_nor_greedy_decoding_is_never_written(folder: Path) -> None:
    clip = frames_of("d_ad|")
    closed, opened = BeamSearch(folder, weights()), BeamSearch(folder, weights(), ["dad", "d?d", "cab"])
    assert closed(clip) != "dad"
    assert opened(clip) == "dad"
    # As an unknown word it needs a better sound than a known one.
    likelier = torn(frames_of("c_ad|"), frame=3, first="d", second="b")
    assert BeamSearch(folder, weights(lm_weight=1.0), ["cad"])(likelier) == "cab"


def test_hangul_is_written_in_syllables(tmp_path: Path) -> None:
    tokens = ["[PAD]", "|", "\u1100", "\u1112", "\u1161", "\u11ab"]
    folder = language_model(tmp_path / "lm", ["한 가"], tokens=tokens)
    assert BeamSearch(folder, weights(1.0))(frames_of("\u1112\u1161\u11ab|\u1100\u1161", tokens=tokens)) == "한 가"


def test_the_blank_may_have_any_id_and_ids_beyond_the_tokens_are_passed_over(tmp_path: Path) -> None:
    tokens = ["|", "a", "b", "[PAD]"]
    folder = language_model(tmp_path / "lm", ["ab ba"], tokens=tokens)
    clip = np.pad(frames_of("_ab_|_ba", tokens=tokens), ((0, 0), (0, 2)), constant_values=-20)
    assert BeamSearch(folder, weights(1.0))(clip) == "ab ba"


def test_frames_of_another_model_are_refused(folder: Path) -> None:
    with pytest.raises(SpeechmillError, match="gives 5 tokens, the language model was made for 9"):
        BeamSearch(folder, weights())(np.zeros((3, 5), dtype=np.float16))


def random_clips(number: int) -> list[LogProbs]:
    rng = np.random.default_rng(3)
    logits = [torch.from_numpy(rng.normal(size=(int(rng.integers(0, 40)), len(LETTERS)))) * 2 for _ in range(number)]
    return [np.asarray(each.log_softmax(-1).numpy(), dtype=np.float16) for each in logits]


@pytest.mark.parametrize("processes", [2, 5])
def test_the_number_of_processes_changes_nothing(folder: Path, tmp_path: Path, processes: int) -> None:
    frames = written(tmp_path / "ctc_outputs.parquet", random_clips(17), greedy=["dad", "aa|b"] + [""] * 15)
    alone = decode_all(frames, folder, weights(0.5, vocabulary="open"), 1)
    assert len(set(alone)) > 8  # so that order shows
    assert decode_all(frames, folder, weights(0.5, vocabulary="open"), processes) == alone


def test_a_whole_set_is_decoded_in_its_order(folder: Path, tmp_path: Path) -> None:
    frames = written(tmp_path / "ctc_outputs.parquet", [frames_of(path) for path in SURE])
    assert decode_all(frames, folder, weights(), 2) == HEARD
    assert decode_all(frames, folder, weights(), 2, every=3) == HEARD[::3]
    assert decode_all(frames, folder, weights(), 2, every=2) == HEARD[::2]
    assert decode_all(written(tmp_path / "none.parquet", []), folder, weights(), 2) == []


@pytest.mark.parametrize("vocabulary", ["open", "closed"])
def test_an_open_vocabulary_has_the_words_that_greedy_decoding_wrote(
    folder: Path, tmp_path: Path, vocabulary: str
) -> None:
    clips = [frames_of("_d_ad_"), frames_of("a")]
    frames = written(tmp_path / "ctc_outputs.parquet", clips, greedy=["dad [UNK]", "a"])
    first, second = decode_all(frames, folder, weights(vocabulary=vocabulary), 1)
    assert (first == "dad", second) == (vocabulary == "open", "a")


def test_frames_without_log_probabilities_are_named(folder: Path, tmp_path: Path) -> None:
    frames = written(tmp_path / "ctc_outputs.parquet", [frames_of("a"), None])
    with pytest.raises(SpeechmillError, match=r"frames\.parquet has no log-probabilities of clip-1"):
        decode_all(frames, folder, weights(), 1)


def test_a_process_that_is_killed_is_told_of_and_not_waited_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoders.BeamSearch, "__call__", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    frames = written(tmp_path / "ctc_outputs.parquet", [frames_of("a")])
    with pytest.raises(SpeechmillError, match="was killed"):
        decode_all(frames, folder, weights(), 2)


def test_a_folder_without_its_language_model_is_named(tmp_path: Path) -> None:
    folder = language_model(tmp_path / "lm", ["a"])
    (folder / MODEL).write_bytes(b"")
    with pytest.raises(SpeechmillError, match=rf"{folder} cannot be used"):
        BeamSearch(folder, weights())
