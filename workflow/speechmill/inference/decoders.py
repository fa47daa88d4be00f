"""Beam search with an n-gram language model of words or characters, in several processes.

Greedy hypotheses need no decoder: `log_probs` stores them in the column `hypothesis` of `ctc_outputs.parquet`.
"""

import itertools
import multiprocessing
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from pydantic import BaseModel

from speechmill.config.lm import BeamConfig, Vocabulary
from speechmill.core.command import SpeechmillError
from speechmill.core.files import read_json
from speechmill.core.tables import read_table
from speechmill.text.lexicon import ABOUT, LEXICON, MODEL, folder_tokens
from speechmill.text.normaliser import compose

# A log-probability so low that no such hypothesis stays within the beam.
_IMPOSSIBLE = -1e5

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

    Hypotheses consist of the words of the language model's lexicon and of additional `words`, which the language model
    scores as unknown words. The decoder is the lexicon decoder of flashlight-text, used through torchaudio. Source:
    Collobert, Puhrsch and Synnaeve, Wav2Letter, 2016. The scores of different alignments of one hypothesis are not
    summed (`log_add` is off), and ties between hypotheses are broken arbitrarily.

    With a language model of characters, hypotheses consist of any tokens of the model, and `words` are not used. The
    decoder is the one without a lexicon: that with a lexicon of single characters could not repeat a token from one
    frame to the next, as CTC does.
    """

    def __init__(self, lm_folder: Path, weights: Weights, words: Iterable[str] = ()) -> None:
        """Load the language model in `lm_folder`, written by stage `lm`; skip `words` that the model cannot spell."""
        self._tokens = tokens = folder_tokens(lm_folder)
        self._characters = read_json(lm_folder / ABOUT).get("unit") == "characters"
        lexicon = (lm_folder / LEXICON).read_text(encoding="utf-8")
        known = {line.split("\t")[0] for line in lexicon.splitlines()}
        added = [tokens.entry(word) for word in sorted(set(words) - known)]
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as file:
            file.write(lexicon + "".join(line for line in added if line))
            file.flush()
            try:
                # Fails to import if flashlight-text is not installed.
                from torchaudio.models.decoder import ctc_decoder

                self._decode = ctc_decoder(
                    lexicon=None if self._characters else file.name,
                    tokens=tokens.by_id,
                    lm=str(lm_folder / MODEL),
                    beam_size=weights.beam.size,
                    beam_size_token=min(weights.beam.tokens, len(tokens.by_id)),
                    beam_threshold=weights.beam.threshold,
                    lm_weight=weights.lm_weight,
                    word_score=weights.word_score,
                    blank_token=tokens.blank,
                    sil_token=tokens.separator,
                )
            except RuntimeError as error:
                raise SpeechmillError(
                    f"the language model in {lm_folder} cannot be used ({error}); if flashlight-text is not installed,"
                    " run `make setup` with Python 3.11 or 3.12, otherwise delete that folder and run snakemake again"
                ) from error
        self._size = len(tokens.by_id)
        self._separator = tokens.by_id.index(tokens.separator)

    def __call__(self, log_probs: NDArray[np.float16]) -> str:
        """Return the hypothesis for one clip: words separated by spaces, Hangul as syllables.

        `log_probs` are natural logarithms, shape (frames, vocabulary). Token ids beyond the vocabulary of the language
        model are ignored.

        Raises:
            SpeechmillError: The model has fewer tokens than the language model.
        """
        frames, size = log_probs.shape
        if size < self._size:
            raise SpeechmillError(
                f"the model has {size} tokens, but the language model was built for {self._size}; delete the run's"
                " folder `lm` and run snakemake again"
            )
        if self._characters:
            (found,) = self._decode(torch.from_numpy(log_probs[None, :, : self._size].astype(np.float32)))[0]
            return self._tokens.text(self._decode.idxs_to_tokens(found.tokens))
        # A word ends with a separator, which models do not output at the end of a clip.
        emissions = np.full((1, frames + 1, self._size), _IMPOSSIBLE, dtype=np.float32)
        emissions[0, :frames] = log_probs[:, : self._size]
        emissions[0, frames, self._separator] = 0.0
        (best,) = self._decode(torch.from_numpy(emissions))[0]
        return " ".join(best.words)


def decode_all(ctc_outputs: Path, lm_folder: Path, weights: Weights, processes: int, every: int = 1) -> list[str]:
    """Decode a `ctc_outputs.parquet` by beam search; return the hypothesis of each clip, or of each `every`-th clip.

    With an open vocabulary, hypotheses may contain any word of any greedy hypothesis of the set. The row groups are
    shared among `processes` processes, each with one in memory at a time; the result does not depend on the number of
    processes. They are forks that share the memory of one language model.

    Raises:
        SpeechmillError: A clip has no log-probabilities, or a process was killed.
    """
    words: set[str] = set()
    if weights.vocabulary == "open":
        for hypothesis in read_table(ctc_outputs, ["hypothesis"])["hypothesis"].to_pylist():
            words.update(compose(hypothesis).split())
    search = BeamSearch(lm_folder, weights, words)
    with pq.ParquetFile(ctc_outputs) as file:
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
    with pq.ParquetFile(ctc_outputs, pre_buffer=False) as file:
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
