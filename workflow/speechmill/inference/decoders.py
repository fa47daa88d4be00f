"""Beam search with an n-gram language model of words or characters, in several processes.

Greedy hypotheses need no decoder: `log_probs` stores them in the column `hypothesis` of `ctc_outputs.parquet`.
"""

import itertools
import math
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from speechmill.config.lm import BeamConfig, Vocabulary
from speechmill.core.command import SpeechmillError
from speechmill.core.files import read_json
from speechmill.core.tables import open_table, table_errors
from speechmill.text.lexicon import ABOUT, LEXICON, MODEL, TOKENS, Tokens, folder_tokens
from speechmill.text.normaliser import compose

# A log-probability so low that no such hypothesis stays within the beam.
_IMPOSSIBLE = -1e5

# The entry of the language model for all words that it lacks.
_UNKNOWN = "<unk>"

# The decoder of a worker process.
_search: "BeamSearch"


class Weights(BaseModel):
    """The settings of beam search in `weights.json`; its other keys document how they were tuned."""

    lm_weight: float
    word_score: float
    vocabulary: Vocabulary
    beam: BeamConfig


class BeamSearch:
    """A decoder that finds the best sentence for the CTC outputs of a clip under a language model.

    Hypotheses consist of the words of the language model's lexicon and, with an open vocabulary, the words of the
    greedy hypothesis of the same clip; the language model scores those that the lexicon lacks as unknown words. Words
    with a special token, such as `[UNK]`, are left out. So the hypothesis for a clip depends on nothing
    but its own CTC outputs, and equals that of the program in the card (`usage_lm.py.j2`).

    With a language model of characters, hypotheses consist of any tokens of the model. The decoder is then the one
    without a lexicon (`usage_lm_characters.py.j2`): that with a lexicon of single characters could not repeat a token
    from one frame to the next, as CTC does.

    The decoder is the lexicon decoder of flashlight-text, built as torchaudio's `ctc_decoder` builds it. Here it is
    built only once, and the words of a clip are inserted in its trie of words and removed again, since building it
    takes seconds for a large lexicon. Source: Collobert, Puhrsch and Synnaeve, Wav2Letter, 2016. The scores of
    different alignments of one hypothesis are not summed (`log_add` is off), and ties between hypotheses are broken
    arbitrarily.
    """

    def __init__(self, lm_folder: Path, weights: Weights) -> None:
        """Load the language model in `lm_folder`, written by stage `lm`."""
        tokens = folder_tokens(lm_folder)
        self._characters: Callable[[NDArray[np.float16]], str] | None = None
        try:
            if read_json(lm_folder / ABOUT).get("unit") == "characters":
                self._tokens, self._characters = tokens, _character_search(lm_folder, weights, tokens)
                return
            from flashlight.lib.text import decoder as flashlight
            from flashlight.lib.text.decoder.kenlm import KenLM
            from flashlight.lib.text.dictionary import create_word_dict, load_words

            lexicon = load_words(str(lm_folder / LEXICON))
            words = create_word_dict(lexicon)
            lm = KenLM(str(lm_folder / MODEL), words)
        except (ImportError, RuntimeError) as error:
            raise SpeechmillError(
                f"the language model in {lm_folder} cannot be used ({error}); if flashlight-text is not installed,"
                " run `make setup` with Python 3.11 or 3.12, otherwise delete that folder and run snakemake again"
            ) from error
        self._tokens, self._open = tokens, weights.vocabulary == "open"
        self._letters = {i for i, token in enumerate(tokens.by_id) if token in tokens.letters}
        self._blank, self._separator = (tokens.by_id.index(token) for token in (tokens.blank, tokens.separator))
        self._trie = flashlight.Trie(len(tokens.by_id), self._separator)
        ids = {token: i for i, token in enumerate(tokens.by_id)}
        start = lm.start(False)
        for word, spellings in lexicon.items():
            label = words.get_index(word)
            for spelling in spellings:
                self._trie.insert([ids[token] for token in spelling], label, lm.score(start, label)[1])
        # The score of a node is the best one of the words below it.
        self._trie.smear(flashlight.SmearingMode.MAX)
        self._unknown = words.get_index(_UNKNOWN)
        self._unknown_score = lm.score(start, self._unknown)[1]
        options = flashlight.LexiconDecoderOptions(
            beam_size=weights.beam.size,
            beam_size_token=min(weights.beam.tokens, len(tokens.by_id)),
            beam_threshold=weights.beam.threshold,
            lm_weight=weights.lm_weight,
            word_score=weights.word_score,
            unk_score=-math.inf,
            sil_score=0.0,
            log_add=False,
            criterion_type=flashlight.CriterionType.CTC,
        )
        # The decoder does not keep the language model alive.
        self._lm = lm
        self._decoder = flashlight.LexiconDecoder(
            options, self._trie, lm, self._separator, self._blank, self._unknown, [], False
        )

    def __call__(self, log_probs: NDArray[np.float16]) -> str:
        """Return the hypothesis for one clip: words separated by spaces, Hangul as syllables.

        `log_probs` are natural logarithms, shape (frames, vocabulary), in half precision, in which the card's program
        decodes too. Token ids beyond the vocabulary of the language model are ignored.

        Raises:
            SpeechmillError: The model has fewer tokens than the language model.
        """
        (frames, outputs), size = log_probs.shape, len(self._tokens.by_id)
        if outputs < size:
            raise SpeechmillError(
                f"the model has {outputs} tokens, but the language model was built for {size}; delete the run's"
                " folder `lm` and run snakemake again"
            )
        if self._characters is not None:
            return self._characters(log_probs[:, :size])
        # A word ends with a separator, which models do not output at the end of a clip.
        emissions = np.full((frames + 1, size), _IMPOSSIBLE, dtype=np.float32)
        emissions[:frames] = log_probs[:, :size]
        emissions[frames, self._separator] = 0.0
        words = self._words(emissions[:frames].argmax(-1).tolist()) if self._open else []
        with self._lexicon_with(words):
            best = self._decoder.decode(emissions.ctypes.data, frames + 1, size)[0]
        # Of a last word that is incomplete, which has no label, only the tokens are known.
        words = self._words(best.tokens)[: sum(label >= 0 for label in best.words)]
        return " ".join(compose("".join(self._tokens.by_id[i] for i in word)) for word in words)

    def _words(self, ids: list[int]) -> list[list[int]]:
        """Return the words of an alignment, one token id for each frame, as lists of the ids of their characters."""
        collapsed = [i for i, _ in itertools.groupby(ids) if i != self._blank]
        groups = [list(group) for _, group in itertools.groupby(collapsed, lambda i: i == self._separator)]
        return [group for group in groups if self._letters.issuperset(group)]

    @contextmanager
    def _lexicon_with(self, words: list[list[int]]) -> Iterator[None]:
        """Insert `words` in the trie as unknown words, except those that it has, and remove them on exit."""
        changed = []
        for word in words:
            spelling = [*word, self._separator]
            if self._trie.search(spelling) is not None:
                continue
            prefixes = [spelling[:end] for end in range(len(spelling) + 1)]
            # The root is the node of the empty prefix: `get_root` returns an object that frees it.
            old = [node for node in map(self._trie.search, prefixes) if node is not None]
            changed += [(node, node.children, node.max_score) for node in old]
            self._trie.insert(spelling, self._unknown, self._unknown_score)
            for node in old:
                node.max_score = max(node.max_score, self._unknown_score)
            for prefix in prefixes[len(old) :]:
                self._trie.search(prefix).max_score = self._unknown_score
        try:
            yield
        finally:
            for node, children, max_score in reversed(changed):
                node.children, node.max_score = children, max_score


def _character_search(lm_folder: Path, weights: Weights, tokens: Tokens) -> Callable[[NDArray[np.float16]], str]:
    """Return the search with a language model of characters.

    Raises:
        RuntimeError: flashlight-text is not installed, or the language model cannot be read.
    """
    import torch
    from torchaudio.models.decoder import ctc_decoder

    decode = ctc_decoder(
        lexicon=None,
        tokens=tokens.by_id,
        lm=str(lm_folder / MODEL),
        # The decoder looks up tokens by their ids; without this file torchaudio numbers them in another order.
        lm_dict=str(lm_folder / TOKENS),
        beam_size=weights.beam.size,
        beam_size_token=min(weights.beam.tokens, len(tokens.by_id)),
        beam_threshold=weights.beam.threshold,
        lm_weight=weights.lm_weight,
        blank_token=tokens.blank,
        sil_token=tokens.separator,
    )

    def search(log_probs: NDArray[np.float16]) -> str:
        (best,) = decode(torch.from_numpy(log_probs[None].astype(np.float32)))[0]
        return tokens.text(decode.idxs_to_tokens(best.tokens))

    return search


def decode_all(ctc_outputs: Path, lm_folder: Path, weights: Weights, processes: int, every: int = 1) -> list[str]:
    """Decode a `ctc_outputs.parquet` by beam search; return the hypothesis of each clip, or of each `every`-th clip.

    The row groups are shared among `processes` processes, each with one in memory at a time; the result does not depend
    on the number of processes. They are forks that share the memory of one language model.

    Raises:
        SpeechmillError: A clip has no log-probabilities, or a process was killed.
    """
    search = BeamSearch(lm_folder, weights)
    with open_table(ctc_outputs) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    decode, first_rows = partial(_decode_group, ctc_outputs, every), itertools.accumulate(sizes, initial=0)
    with ProcessPoolExecutor(processes, multiprocessing.get_context("fork"), _set_search, (search,)) as pool:
        try:
            return [text for group in pool.map(decode, range(len(sizes)), first_rows) for text in group]
        except BrokenProcessPool as error:
            raise SpeechmillError(
                f"a process that was decoding {ctc_outputs} was killed, most likely because memory ran out; give the"
                " job more memory or fewer threads, and run snakemake again"
            ) from error


def _set_search(search: BeamSearch) -> None:
    global _search
    _search = search


def _decode_group(ctc_outputs: Path, every: int, group: int, first_row: int) -> list[str]:
    # The thread pool of Arrow does not exist in a fork.
    with table_errors(ctc_outputs), open_table(ctc_outputs, pre_buffer=False) as file:
        rows = file.read_row_group(group, ["id", "frames", "log_probs"], use_threads=False)
    texts = []
    for row in rows.to_pylist()[-first_row % every :: every]:
        if row["log_probs"] is None:
            raise SpeechmillError(
                f"{ctc_outputs} has no log-probabilities for {row['id']}; delete it and run snakemake again"
            )
        log_probs = np.frombuffer(row["log_probs"], dtype="<f2")
        texts.append(_search(log_probs.reshape(row["frames"], -1)) if row["frames"] else "")
    return texts
