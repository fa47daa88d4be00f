"""segment: align long recordings with their transcripts, and cut them into pieces with the text of each."""

import argparse
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from speechmill.config.text import TextConfig
from speechmill.core.command import run_command
from speechmill.core.files import check_folder
from speechmill.core.flac import Int16Samples, encode_flac
from speechmill.core.schemas import CLIPS, SAMPLE_RATE
from speechmill.core.tables import read_table
from speechmill.inference.levels import frame_levels
from speechmill.inference.log_probs import ClipOutput, LogProbsSettings, infer
from speechmill.inference.piece_table import Amount, part_of, write_pieces
from speechmill.inference.segmentation import SegmentSettings, Stretch, align
from speechmill.model.clip_reader import ClipReader
from speechmill.model.devices import acquire_devices
from speechmill.model.labels import LabelEncoder, separator_id
from speechmill.model.models import Processor, load_checkpoint, samples_per_frame
from speechmill.text.casing import change_case
from speechmill.text.normaliser import Normaliser, to_units
from speechmill.text.transcript import Word, words

# The model sees two seconds more on both sides of what it outputs.
_CHUNK_SECONDS, _STRIDE_SECONDS = 24.0, 2.0

# Five chunks.
_BATCH_SECONDS = 120.0

# Recordings whose log-probabilities are on the disk at the same time; a longer one is there alone.
_GROUP_SAMPLES = 3600 * SAMPLE_RATE

# The smallest share of the letters and digits of a transcript that the vocabulary has.
_MIN_KNOWN = 0.5

_DETAILS = {
    "pause": "no speech and no text",
    "no_text": "speech without text",
    "no_audio": "text without speech",
    "different": "speech and text do not match",
    "no_pause": "no pause separates it from speech or text that is left out",
    "short": "shorter than min_seconds",
    "long": "longer than max_seconds, without a pause at which it could be cut",
    "vocabulary": "the vocabulary of the model lacks most characters of the transcript",
}


class StageSettings(SegmentSettings):
    """The stage settings: the lengths of pieces, and how recordings are aligned."""

    device: str
    text: TextConfig


class Encoded(NamedTuple):
    """The words of a transcript in the vocabulary of a model."""

    words: list[Word]
    ids: list[list[int]]
    """The token ids of each word."""
    line_ends: list[int]
    """The number of words up to the end of each line."""
    characters: Counter[str]
    """How often each character occurs, except spaces."""
    unknown: Counter[str]
    """How often each character occurs that the vocabulary lacks."""

    @property
    def is_usable(self) -> bool:
        """Whether the vocabulary has enough of the letters and digits; punctuation and symbols are not spoken."""
        total, unknown = (
            sum(times for character, times in counts.items() if character.isalnum())
            for counts in (self.characters, self.unknown)
        )
        return unknown <= (1 - _MIN_KNOWN) * total


class TranscriptEncoder:
    """A function from transcripts to their token ids in the vocabulary of a model.

    Transcripts follow the text rules. Then they get the case of the vocabulary, if all its letters have the same.
    Characters outside the vocabulary have no token.
    """

    def __init__(self, processor: Processor, text: TextConfig) -> None:
        tokenizer = processor.tokenizer
        tokens = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
        # With this setting, the tokenizer takes texts in lower case although its vocabulary is in upper case.
        lower = getattr(tokenizer, "do_lower_case", False)
        self._characters = set("".join(tokens).lower() if lower else "".join(tokens))
        letters = [c for c in self._characters if c.lower() != c.upper()]
        self._case: Literal["lower", "upper", "keep"] = "keep"
        if all(c == c.lower() for c in letters):
            self._case = "lower"
        elif all(c == c.upper() for c in letters):
            self._case = "upper"
        self._text, self._normalise = text, Normaliser(text)
        self._label_ids, self._unknown_id = LabelEncoder(processor), tokenizer.unk_token_id

    def __call__(self, transcript: str) -> Encoded:
        """Return the words of a transcript with their token ids."""
        lines = words(transcript, self._normalise)
        every = [word for line in lines for word in line]
        texts = [to_units(change_case(word.text, self._case, self._text.language), self._text.units) for word in every]
        characters = Counter(c for text in texts for c in text if c != " ")
        unknown = Counter({c: times for c, times in characters.items() if c not in self._characters})
        ids = [[i for i in self._label_ids(text) if i != self._unknown_id] for text in texts]
        return Encoded(every, ids, list(accumulate(map(len, lines))), characters, unknown)


class _Recording(NamedTuple):
    """A row of the shard with its transcript, and a function that returns the samples of spans."""

    row: dict[str, Any]
    transcript: Encoded
    read: Callable[[list[tuple[int, int]]], Iterator[Int16Samples]]


def segment(
    shard: Path, rows: Path, model_folder: Path, settings: StageSettings, pieces: Path, gpus: int = 0
) -> dict[str, Amount]:
    """Write the table PIECES of the recordings in a shard; return how much is `pieces`, and how much each other reason.

    Memory use does not depend on the length of recordings, except for their encoded audio.

    Args:
        shard: The shard with the recordings, `…/{dataset}/{split}/shard-{number}.parquet`.
        rows: The table of its rows; those that could not be read have no pieces.
        model_folder: A CTC model.
        settings: The stage settings.
        pieces: The table to write, `…/{dataset}/{split}/shard-{number}.parquet`.
        gpus: The number of GPUs that Snakemake granted.

    Raises:
        SpeechmillError: The shard or the model is corrupt, or there is no device as wanted.
    """
    place = {"dataset": shard.parts[-3], "split": shard.parts[-2], "text": ""}
    recordings = [row | place for row in read_table(rows).to_pylist() if row["reason"] is None]
    pieces.parent.mkdir(parents=True, exist_ok=True)
    if not recordings:
        return write_pieces([], pieces)
    with acquire_devices(settings.device, f"datasets.{pieces.parts[-3]}", gpus) as (device,):
        return write_pieces(_parts(recordings, shard, model_folder, settings, device, pieces.parent), pieces)


def _parts(
    recordings: list[dict[str, Any]],
    shard: Path,
    model_folder: Path,
    settings: StageSettings,
    device: torch.device,
    work: Path,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of PIECES of all recordings; large temporary files are in the folder `work`."""
    model, processor = load_checkpoint(model_folder)
    encode = TranscriptEncoder(processor, settings.text)
    reader = ClipReader(pa.Table.from_pylist(recordings, CLIPS), [shard], pool_clips=1)
    every = [_Recording(row, encode(row["sentence"]), partial(reader.spans, i)) for i, row in enumerate(recordings)]
    _print_unknown(every)
    for recording in every:
        if not recording.transcript.is_usable:
            words = len(recording.transcript.words)
            yield from _rows(recording, [Stretch(0.0, 0.0, 0, words, math.nan, "vocabulary")])
    inference = LogProbsSettings(
        device=settings.device,
        batch_seconds=_BATCH_SECONDS,
        precision="bf16",
        chunk_seconds=_CHUNK_SECONDS,
        stride_seconds=_STRIDE_SECONDS,
    )
    blank, separator = model.config.pad_token_id, separator_id(processor)
    frame_samples = samples_per_frame(model)
    for group in _groups(recording for recording in every if recording.transcript.is_usable):
        # Next to the results, because /tmp may be too small.
        with tempfile.TemporaryFile(dir=work) as spill:
            outputs = infer(model, processor, [each.row for each in group], [shard], inference, device, spill)
            for recording, output in zip(group, outputs, strict=True):
                with tempfile.TemporaryFile(dir=work) as file:
                    found = align(
                        _in_order(spill, output, model.config.vocab_size, file),
                        recording.transcript.ids,
                        blank,
                        separator,
                        frame_samples / SAMPLE_RATE,
                        settings,
                        recording.transcript.line_ends,
                        frame_levels(recording.read, output.frames, frame_samples),
                    )
                yield from _rows(recording, sorted([*found.pieces, *found.left_out]))


def _print_unknown(recordings: list[_Recording]) -> None:
    """Print the characters of the transcripts that the vocabulary lacks."""
    unknown = sum((recording.transcript.unknown for recording in recordings), Counter())
    characters = sum(recording.transcript.characters.total() for recording in recordings)
    if unknown:
        found = ", ".join(f"{character!r} ({times:,} times)" for character, times in unknown.most_common(20))
        share = unknown.total() / characters
        print(f"the vocabulary lacks {share:.1%} of the characters in the transcripts: {found}", file=sys.stderr)


def _groups(recordings: Iterable[_Recording]) -> Iterator[list[_Recording]]:
    """Yield recordings in groups of at most `_GROUP_SAMPLES`, or of one that is longer."""
    group: list[_Recording] = []
    samples = 0
    for recording in recordings:
        samples += recording.row["num_samples"]
        if group and samples > _GROUP_SAMPLES:
            yield group
            group, samples = [], recording.row["num_samples"]
        group.append(recording)
    if group:
        yield group


def _in_order(spill: IO[bytes], output: ClipOutput, vocabulary: int, file: IO[bytes]) -> NDArray[np.float16]:
    """Return the log-probabilities of a recording, memory-mapped in `file`, shape (frames, vocabulary)."""
    if output.frames == 0:
        return np.empty((0, vocabulary), np.float16)
    file.writelines(output.log_probs(spill))
    file.flush()
    return np.memmap(file, "<f2", "r", shape=(output.frames, vocabulary))


def _rows(recording: _Recording, stretches: list[Stretch]) -> Iterator[dict[str, Any]]:
    """Yield the rows of PIECES of a recording, which `stretches` divide."""
    row = recording.row
    bounds = [(round(each.start_seconds * SAMPLE_RATE), round(each.end_seconds * SAMPLE_RATE)) for each in stretches]
    # After the last complete frame there is less than another one.
    bounds[-1] = (bounds[-1][0], row["num_samples"])
    samples = recording.read([span for span, each in zip(bounds, stretches, strict=True) if not each.reason])
    for (start, end), stretch in zip(bounds, stretches, strict=True):
        words = recording.transcript.words[stretch.first_word : stretch.end_word]
        yield part_of(row, start, end) | {
            "sentence": "".join(word.written for word in words).strip(),
            "score": stretch.score if words and not math.isnan(stretch.score) else None,
            "encoded": None if stretch.reason else encode_flac(next(samples)),
            "reason": stretch.reason or None,
            "detail": _DETAILS[stretch.reason] if stretch.reason else None,
        }


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=StageSettings.model_validate_json, required=True)
    parser.add_argument("--gpus", type=int, required=True)
    parser.add_argument("--model", type=Path, required=True, help="the folder of the model that aligns")
    parser.add_argument("--shard", type=Path, required=True, help="the shard with the recordings")
    parser.add_argument("--rows", type=Path, required=True, help="the table of its rows")
    parser.add_argument("--pieces", type=Path, required=True)
    args = parser.parse_args()
    check_folder(args.model)
    amounts = segment(args.shard, args.rows, args.model, args.settings, args.pieces, args.gpus)
    for reason, amount in amounts.items():
        print(f"{_DETAILS.get(reason, reason)}: {amount.seconds / 3600:.2f} h with {amount.words:,} words")


if __name__ == "__main__":
    run_command(main)
