"""The alignment of long recordings by the model of the demo, compared with ctc-segmentation on the same outputs.

Clips of the demo's dev and test sets are joined with pauses, noise and music between them. Run `make demo` first. The
folder of its results is `results`, or the environment variable `SPEECHMILL_RESULTS`; the length of the recording is 10
minutes, or `SPEECHMILL_MINUTES`. ctc-segmentation is compared where it is installed.
"""

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from benchmarks.clock import processor_seconds
from benchmarks.table import Row
from speechmill.core.flac import Int16Samples, decode_flac
from speechmill.core.schemas import SAMPLE_RATE
from speechmill.inference.log_probs import split_into_chunks
from speechmill.inference.segmentation import Segmentation, SegmentSettings, align
from speechmill.model.models import load_checkpoint

MINUTES = float(os.environ.get("SPEECHMILL_MINUTES", "10"))
RESULTS = Path(os.environ.get("SPEECHMILL_RESULTS", "results"))
FRAME = 320
CHUNK, STRIDE = 8 * SAMPLE_RATE, 2 * SAMPLE_RATE
TOLERANCE, THRESHOLD, WRONG, DRAWS = 0.2, -1.5, 0.1, 5
LENGTHS = SegmentSettings(min_seconds=0.3, max_seconds=20)


class Clip(NamedTuple):
    """A clip in the recording: its words and where its speech is, in seconds."""

    words: list[str]
    start: float
    end: float


class Line(NamedTuple):
    """A line of the transcript, and the clip that it belongs to, if it is right."""

    words: list[str]
    clip: Clip | None


def music(samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a melody with chords: decaying tones with overtones."""
    sound, beat, root = np.zeros(samples), int(rng.choice([4000, 6400])), rng.choice([196.0, 220.0, 262.0])
    for i, start in enumerate(range(0, samples, beat)):
        notes = [(2 * root * 2 ** (rng.choice([0, 2, 4, 5, 7, 9, 11]) / 12), beat)]
        if i % 4 == 0:
            notes += [(root * 2 ** (note / 12), 4 * beat) for note in (0, 4, 7)]
        for frequency, length in notes:
            time = np.arange(min(length, samples - start)) / SAMPLE_RATE
            tones = sum(np.sin(2 * np.pi * frequency * k * time) / k for k in range(1, 5))
            sound[start : start + len(time)] += np.exp(-3 * time) * tones
    return sound / max(1e-9, np.abs(sound).max())


def gap(rng: np.random.Generator) -> Int16Samples:
    """Return a pause, noise or music."""
    kind = rng.choice(["pause", "noise", "music"], p=[0.6, 0.2, 0.2])
    low, high = {"pause": (0.3, 1.5), "noise": (1, 4), "music": (2, 10)}[kind]
    samples = int(rng.uniform(low, high) * SAMPLE_RATE)
    sound = rng.normal(0, 10 ** rng.uniform(2, 3.3) if kind == "noise" else 20, samples)
    if kind == "music":
        sound += music(samples, rng) * 10 ** rng.uniform(3, 4)
    return sound.clip(-32768, 32767).astype(np.int16)


def recording(minutes: float, rng: np.random.Generator) -> tuple[Int16Samples, list[Clip]]:
    """Return a recording, and its clips in order."""
    shards = [path for name in ("dev", "test") for path in (RESULTS / "data" / "demo_ru" / name).glob("shard-*")]
    pool = [row for path in sorted(shards) for row in pq.read_table(path, columns=["sentence", "audio"]).to_pylist()]
    parts, clips, order = [gap(rng)], [], []
    length = len(parts[0])
    while length < minutes * 60 * SAMPLE_RATE:
        order = order or rng.permutation(len(pool)).tolist()
        row = pool[order.pop()]
        samples = decode_flac(row["audio"]["bytes"]).reshape(-1)
        loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
        words = "".join(c if c.isalpha() else " " for c in row["sentence"].lower()).split()
        clips.append(Clip(words, (length + loud[0]) / SAMPLE_RATE, (length + loud[-1]) / SAMPLE_RATE))
        parts += [samples, gap(rng)]
        length += len(samples) + len(parts[-1])
    return np.concatenate(parts), clips


def outputs(samples: Int16Samples, model: torch.nn.Module, processor: object, path: Path) -> NDArray[np.float16]:
    """Return the log-probabilities of the recording, which are written to a memory-mapped file."""
    frames = len(samples) // FRAME
    result = np.lib.format.open_memmap(path, "w+", np.float16, (frames, model.config.vocab_size))
    with torch.inference_mode():
        for chunk in split_into_chunks(len(samples), CHUNK, STRIDE):
            values = samples[chunk.start : chunk.stop].astype(np.float32) / np.float32(32768)
            inputs = processor.feature_extractor(values, sampling_rate=SAMPLE_RATE, return_tensors="pt")
            logits = model(inputs.input_values).logits[0]
            kept = logits[chunk.kept_frames(len(logits), FRAME)].log_softmax(-1).half().numpy()
            first = (chunk.start + chunk.left) // FRAME
            result[first : first + len(kept)] = kept[: frames - first]
            end = min(frames, first + len(kept))
    return result[:end]


def with_errors(clips: Sequence[Clip], rng: np.random.Generator) -> tuple[list[Line], list[Clip]]:
    """Return a transcript in which some lines are replaced, missing or added, and the clips without a line."""
    lines, untold = [], []
    for clip in clips:
        other = clips[rng.integers(len(clips))].words
        change = rng.random() * 3 / WRONG
        if change < 1 and other != clip.words:
            lines.append(Line(other, None))
        elif 1 <= change < 2:
            untold.append(clip)
        else:
            lines += [Line(other, None)] * (2 <= change < 3)
            lines.append(Line(clip.words, clip))
    return lines, untold


class Benchmark:
    """A recording with the outputs of the demo's model."""

    def __init__(self, folder: Path) -> None:
        model, processor = load_checkpoint(RESULTS / "runs" / "demo_ru" / "model")
        self._rng = np.random.default_rng(0)
        samples, self.clips = recording(MINUTES, self._rng)
        self.log_probs = outputs(samples, model, processor, folder / "log_probs.npy")
        squares = samples[: len(self.log_probs) * FRAME].reshape(-1, FRAME).astype(np.float32) ** 2
        self._levels = np.sqrt(squares.mean(1))
        self.vocabulary: dict[str, int] = processor.tokenizer.get_vocab()
        self.blank = model.config.pad_token_id
        self._separator = self.vocabulary[processor.tokenizer.word_delimiter_token]

    def lines(self) -> list[Line]:
        """Return the right transcript."""
        return [Line(clip.words, clip) for clip in self.clips]

    def align(self, lines: Sequence[Line]) -> Segmentation:
        """Align a transcript."""
        words = [[self.vocabulary[c] for c in word] for line in lines for word in line.words]
        ends = np.cumsum([len(line.words) for line in lines])[:-1].tolist()
        frame = FRAME / SAMPLE_RATE
        return align(self.log_probs, words, self.blank, self._separator, frame, LENGTHS, ends, self._levels)

    def found(self, lines: Sequence[Line], result: Segmentation, threshold: float) -> float:
        """Return the percentage of right lines that are a piece with the right times."""
        pieces = {(each.first_word, each.end_word): each for each in result.pieces if each.score >= threshold}
        right, first, total = 0, 0, 0
        for line in lines:
            end = first + len(line.words)
            piece = pieces.get((first, end))
            if line.clip is not None:
                total += 1
                if piece is not None:
                    errors = (piece.start_seconds - line.clip.start, piece.end_seconds - line.clip.end)
                    right += max(map(abs, errors)) <= TOLERANCE
            first = end
        return 100 * right / total

    def wrong_left_out(self) -> tuple[float, float]:
        """Return the percentages of wrong lines and clips that are left out, and of right ones that are kept."""
        wrong, right = [], []
        for _ in range(DRAWS):
            lines, untold = with_errors(self.clips, self._rng)
            result = self.align(lines)
            kept = [each for each in result.pieces if each.score >= THRESHOLD]
            owners = np.repeat(np.arange(len(lines)), [len(line.words) for line in lines])
            used = {int(i) for piece in kept for i in owners[piece.first_word : piece.end_word]}
            wrong += [i in used for i, line in enumerate(lines) if line.clip is None]
            for clip in untold:
                start, end = clip.start + TOLERANCE, clip.end - TOLERANCE
                wrong.append(any(each.start_seconds < end and each.end_seconds > start for each in kept))
            right.append(self.found(lines, result, THRESHOLD))
        return 100 - 100 * float(np.mean(wrong)), float(np.mean(right))


def peer_rows(benchmark: Benchmark, seconds: float) -> Iterator[Row]:
    """Yield the accuracy and the time of ctc-segmentation, with the settings that suited it best."""
    try:
        import ctc_segmentation as peer
    except ImportError:
        return
    config = peer.CtcSegmentationParameters()
    config.index_duration, config.blank = FRAME / SAMPLE_RATE, benchmark.blank
    config.blank_transition_cost_zero = True
    config.char_list = sorted(benchmark.vocabulary, key=benchmark.vocabulary.__getitem__)
    texts = [np.array([benchmark.vocabulary[c] for c in "".join(clip.words)]) for clip in benchmark.clips]
    matrix, begins = peer.prepare_token_list(config, texts)
    found: list[tuple[float, float, float]] = []

    def run() -> None:
        timings, scores, _ = peer.ctc_segmentation(config, benchmark.log_probs.astype(np.float32), matrix)
        found.extend(peer.determine_utterance_segments(config, begins, scores, timings, texts))

    taken = processor_seconds(run)
    errors = np.array(
        [[each[0] - clip.start, each[1] - clip.end] for each, clip in zip(found, benchmark.clips, strict=True)]
    )
    for tolerance in (TOLERANCE, 0.6):
        right = 100 * float((np.abs(errors).max(1) <= tolerance).mean())
        yield Row(f"segment, ctc-segmentation: clips within {tolerance} s", right, unit="%")
    yield Row("segment: faster than ctc-segmentation", taken / seconds)


def rows() -> Iterator[Row]:
    """Yield how many clips come back, how many wrong ones are left out, and the speed."""
    if not (RESULTS / "runs" / "demo_ru" / "model").is_dir():
        print(f"segment: {RESULTS} has no results of the demo; run `make demo` first", file=sys.stderr)
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        benchmark = Benchmark(Path(folder))
        results: list[Segmentation] = []
        seconds = processor_seconds(lambda: results.append(benchmark.align(benchmark.lines())))
        found = benchmark.found(benchmark.lines(), results[0], -np.inf)
        yield Row(f"segment, {MINUTES:g} minutes: clips found within {TOLERANCE} s", found, 98, "%")
        left_out, kept = benchmark.wrong_left_out()
        yield Row("segment, a tenth of the text wrong: wrong clips left out", left_out, 95, "%")
        yield Row("segment, a tenth of the text wrong: right clips kept", kept, 90, "%")
        yield Row("segment: seconds of audio aligned per second", MINUTES * 60 / seconds, unit="s")
        yield from peer_rows(benchmark, seconds)
