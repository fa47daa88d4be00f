"""Beam search with an n-gram language model of words, in several processes.

Greedy decoding needs no search: `log_probs` has done it, in the column `hypothesis` of its frames.
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
from speechmill.core.tables import read_table
from speechmill.text.lexicon import LEXICON, MODEL, folder_tokens
from speechmill.text.normaliser import compose

# A logarithm of a probability with which no hypothesis stays within the beam.
_NEVER = -1e5

# What a process decodes with.
_search: "BeamSearch"


class Weights(BaseModel):
    """What `weights.json` fixes of the search; the rest of the file is for people."""

    lm_weight: float
    word_score: float
    vocabulary: Vocabulary
    beam: BeamConfig


class BeamSearch:
    """Turns a clip's frames into the likeliest sentence, by its sound and by a language model.

    It can write the words of the language model's lexicon and `words`, which count as unknown words there, and no
    others: a word that is in neither comes out as others that sound like it. Source: Collobert, Puhrsch and
    Synnaeve, Wav2Letter, 2016; it is the lexicon decoder of flashlight-text, by way of torchaudio. Alignments of equal
    words are not added up (`log_add` is off), and which of two comes out whose scores are the same to the last bit is
    left to chance.
    """

    def __init__(self, lm_folder: Path, weights: Weights, words: Iterable[str] = ()) -> None:
        """`lm_folder` is what the stage `lm` has made. Of `words`, those that the model cannot spell are left out."""
        tokens = folder_tokens(lm_folder)
        lexicon = (lm_folder / LEXICON).read_text(encoding="utf-8")
        known = {line.split("\t")[0] for line in lexicon.splitlines()}
        more = [tokens.entry(word) for word in sorted(set(words) - known)]
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as file:
            file.write(lexicon + "".join(line for line in more if line))
            file.flush()
            try:
                # Refused where flashlight-text is not installed.
                from torchaudio.models.decoder import ctc_decoder

                self._decode = ctc_decoder(
                    lexicon=file.name,
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
                    f"the language model in {lm_folder} cannot be used ({error}): flashlight-text must be installed,"
                    " for which `make setup` needs Python 3.11 or 3.12; if it is, delete that folder and run snakemake"
                    " again"
                ) from error
        self._size = len(tokens.by_id)
        self._separator = tokens.by_id.index(tokens.separator)

    def __call__(self, log_probs: NDArray[np.float16]) -> str:
        """The sentence of one clip: words with a space between, Hangul in syllables.

        `log_probs` are natural logarithms, shape (frames, vocabulary). Ids beyond the tokens that the language model
        was made for are never written. Raises SpeechmillError where there are fewer.
        """
        frames, size = log_probs.shape
        if size < self._size:
            raise SpeechmillError(
                f"the model gives {size} tokens, the language model was made for {self._size}: they belong to different"
                " runs; delete the run's folder `lm` and run snakemake again"
            )
        # A word ends with a separator, and models do not write one at the end: it is put there.
        emissions = np.full((1, frames + 1, self._size), _NEVER, dtype=np.float32)
        emissions[0, :frames] = log_probs[:, : self._size]
        emissions[0, frames, self._separator] = 0.0
        (best,) = self._decode(torch.from_numpy(emissions))[0]
        return " ".join(best.words)


def decode_all(frames: Path, lm_folder: Path, weights: Weights, processes: int, every: int = 1) -> list[str]:
    """The sentences of a set by beam search, from its `ctc_outputs.parquet`: of each clip, or of each `every`-th.

    With an open vocabulary, every word that greedy decoding has written anywhere in the set may be written. Row groups
    are decoded in `processes` processes, each with one in memory at a time, and the answer does not depend on how
    many. The language model is loaded once; the processes are forks that share its memory.

    Raises SpeechmillError where frames have no log-probabilities, or where a process was killed.
    """
    words: set[str] = set()
    if weights.vocabulary == "open":
        for hypothesis in read_table(frames, ["hypothesis"])["hypothesis"].to_pylist():
            words.update(compose(hypothesis).split())
    search = BeamSearch(lm_folder, weights, words)
    with pq.ParquetFile(frames) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    decode, first_rows = partial(_decode_group, frames, every), itertools.accumulate(sizes, initial=0)
    with ProcessPoolExecutor(processes, multiprocessing.get_context("fork"), _keep, (search,)) as pool:
        try:
            return [text for group in pool.map(decode, range(len(sizes)), first_rows) for text in group]
        except BrokenProcessPool as error:
            raise SpeechmillError(
                f"a process that decoded {frames} was killed, most likely for want of memory: grant the job more, or"
                " fewer threads, and run snakemake again"
            ) from error


def _keep(search: BeamSearch) -> None:
    global _search
    _search = search


def _decode_group(frames: Path, every: int, group: int, first_row: int) -> list[str]:
    # What threads a process had are not there in its fork.
    with pq.ParquetFile(frames, pre_buffer=False) as file:
        rows = file.read_row_group(group, ["id", "frames", "log_probs"], use_threads=False)
    texts = []
    for row in rows.to_pylist()[-first_row % every :: every]:
        if row["log_probs"] is None:
            raise SpeechmillError(
                f"{frames} has no log-probabilities of {row['id']}; delete it and run snakemake again"
            )
        log_probs = np.frombuffer(row["log_probs"], dtype="<f2")
        texts.append(_search(log_probs.reshape(row["frames"], -1)) if row["frames"] else "")
    return texts
