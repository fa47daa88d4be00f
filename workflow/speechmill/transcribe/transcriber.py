"""The transcription of recordings of any length by the model in a folder.

A recording is decoded as the evaluation sets of the run were: in chunks, if one of them was scored in chunks; otherwise
whole, if it is short, and in pieces between pauses, if it is longer than the clips that were scored. Hypotheses are
those of beam search with the language model in the folder, if there is one, otherwise greedy.
"""

import ctypes
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from speechmill.config.evaluation import Decoder, EvaluationConfig
from speechmill.config.languages import separates_words
from speechmill.core.command import SpeechmillError
from speechmill.core.files import read_json
from speechmill.core.flac import Int16Samples
from speechmill.core.schemas import SAMPLE_RATE
from speechmill.corpus.audio import UnreadableAudioError, decode_to_file
from speechmill.corpus.encoded import read_encoded
from speechmill.inference.decoders import BeamSearch, Weights
from speechmill.inference.levels import frame_levels
from speechmill.inference.log_probs import ClipOutput, LogProbsSettings, infer_clips
from speechmill.inference.transcribe import cut_recording
from speechmill.inference.voice_activity import Span
from speechmill.model.base_files import CONFIG, generates_text, processor_files
from speechmill.model.devices import allow_tf32
from speechmill.model.gpu_kernels import use_gpu_kernels
from speechmill.model.labels import separator_id
from speechmill.model.models import equal_in_batch, load_checkpoint, samples_per_frame
from speechmill.model.word_times import align_hypothesis, raw_confidence
from speechmill.report import evidence
from speechmill.scoring.reliability import CALIBRATION, Calibrator, read_calibration
from speechmill.text.lexicon import check_lm
from speechmill.text.normaliser import compose
from speechmill.transcribe.timing import word_bounds
from speechmill.transcribe.transcript import Transcript, Word

Device = Literal["auto", "cpu", "gpu"]

# The lengths of pieces. A recording of at most 30 s is a single one.
_MIN_SECONDS, _MAX_SECONDS = 1.0, 30.0

# On a CPU a batch is no longer than a piece, which is no slower, and bounds the memory.
_CPU_BATCH_SECONDS = 30.0

# Pieces whose log-probabilities are on the disk at the same time: a few batches on a GPU.
_GROUP_SECONDS = 600.0

# Longer parts are not decoded and aligned at once, which takes memory; they are divided at a pause.
_MAX_DECODED_SECONDS = 300.0

# The assumed share of the work that is the search for speech. It is less with a large model on a CPU.
_SEARCH_SHARE = 0.2

_BYTES_PER_SAMPLE = 2


class _Scored(NamedTuple):
    """How the model was scored; the defaults are for a model without evidence, which another program trained."""

    units: str = "characters"
    separated: bool = True
    """Whether the language is written with spaces between words."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    batch_seconds: float = 120.0
    chunk_seconds: float | None = None
    stride_seconds: float | None = None


class Transcriber:
    """A model that is loaded once, and transcribes any number of recordings.

    On a GPU, products and convolutions in fp32 are computed without TF32 from then on, in the whole process.

    Args:
        model: The folder of a model, `results/runs/{run}/model`, or of any CTC model that transformers loads.
        device: `auto` uses a GPU if there is one.
        greedy: Decode greedily, even if the folder contains a language model.

    Attributes:
        uses_lm: Whether hypotheses are those of beam search with the language model.

    Raises:
        SpeechmillError: The folder contains no CTC model with its processor, a file in it is corrupt, or there is no
            GPU although one is wanted.
    """

    def __init__(self, model: Path | str, device: Device = "auto", greedy: bool = False) -> None:
        folder = Path(model)
        _check_model(folder)
        self._device = _torch_device(device)
        self._scored = _read_scored(folder)
        self._search = None
        lm_folder, weights = folder / "lm", folder / "lm" / "weights.json"
        if not greedy and weights.is_file():
            check_lm(lm_folder)
            self._search = BeamSearch(lm_folder, Weights.model_validate(read_json(weights)))
        self.uses_lm = self._search is not None
        self._calibrator = _read_calibrator(folder, "lm" if self.uses_lm else "greedy")
        self._model, self._processor = load_checkpoint(folder)
        self._model.to(self._device)  # type: ignore[arg-type]
        if self._device.type == "cuda":
            # As the stages compute.
            allow_tf32(False)
        use_gpu_kernels(self._model, self._device)
        self._frame = samples_per_frame(self._model)
        self._equal = equal_in_batch(self._model, self._processor, self._device)
        self._blank, self._separator = self._model.config.pad_token_id, separator_id(self._processor)
        batch_seconds = self._scored.batch_seconds if self._device.type == "cuda" else _CPU_BATCH_SECONDS
        self._inference = LogProbsSettings(
            device=self._device.type,
            batch_seconds=batch_seconds,
            precision=self._scored.precision,
            chunk_seconds=self._scored.chunk_seconds,
            stride_seconds=self._scored.stride_seconds,
        )

    def transcribe(self, recording: Path | str, advance: Callable[[float], object] = lambda share: None) -> Transcript:
        """Return the transcript of a recording.

        Memory use does not depend on the length of the recording, except for the words.

        Args:
            recording: An audio file, or a video, in any format that libsndfile, ffmpeg or SoX reads. Its channels are
                mixed.
            advance: Is called with the share of the work that was done since the last call.

        Raises:
            SpeechmillError: The file cannot be read, or the device runs out of memory.
            OSError: A temporary file cannot be written, such as on a full disk.
        """
        path = Path(recording)
        with tempfile.TemporaryFile() as file:
            try:
                decoded = decode_to_file(read_encoded(path), path.name, file)
            except UnreadableAudioError as error:
                raise SpeechmillError(f"{path} cannot be transcribed: {error}") from error
            file.flush()
            read = partial(_read_spans, file)
            texts: list[str] = []
            words: list[Word] = []
            pieces, left = self._pieces(read, decoded.samples, advance)
            samples_per_share = sum(stop - start for start, stop in pieces) / left
            track = partial(_track, samples_per_share=samples_per_share, advance=advance)
            for group in _groups(pieces):
                for text, timed in self._transcribe_pieces(read, group, track):
                    texts.append(text)
                    words += timed
                _trim_heap()
        seconds = decoded.samples / SAMPLE_RATE
        text = " ".join(filter(None, texts))
        calibrated = self._calibrator is not None
        return Transcript(text, _within(words, seconds), seconds, decoded.missing_seconds, calibrated)

    def _pieces(
        self, read: "_ReadRecording", num_samples: int, advance: Callable[[float], object]
    ) -> tuple[list[Span], float]:
        """Return the parts of a recording that the model transcribes, and the share of the work that is left."""
        if self._scored.chunk_seconds is not None:
            return [(0, num_samples)], 1.0
        left = 1.0

        def read_and_advance(spans: Sequence[Span]) -> Iterator[Int16Samples]:
            nonlocal left
            for samples in read(spans):
                yield samples
                share = _SEARCH_SHARE * len(samples) / num_samples
                left -= share
                advance(share)

        parts = cut_recording(read_and_advance, num_samples, _MIN_SECONDS, _MAX_SECONDS)
        return [span for span, is_speech in parts if is_speech], left

    def _transcribe_pieces(
        self, read: "_ReadRecording", pieces: list[Span], track: Callable[..., Iterable[Any]]
    ) -> Iterator[tuple[str, list[Word]]]:
        """Yield the text and the words of each piece, or of each part of it that is decoded at once."""
        clips = [{"num_samples": stop - start, "text": ""} for start, stop in pieces]

        def read_piece(i: int, spans: Sequence[Span]) -> Iterator[Int16Samples]:
            return read([(pieces[i][0] + start, pieces[i][0] + stop) for start, stop in spans])

        with tempfile.TemporaryFile() as spill:
            inputs = (clips, read_piece, self._inference, self._device, spill, self._equal, track)
            try:
                outputs = infer_clips(self._model, self._processor, *inputs)
            except SpeechmillError as error:
                if isinstance(error.__cause__, torch.OutOfMemoryError):
                    raise SpeechmillError(
                        f"the GPU ran out of memory ({error.__cause__}); use the device cpu"
                    ) from error
                raise
            for (start, _), output in zip(pieces, outputs, strict=True):
                for log_probs in self._decoded_at_once(output, spill):
                    text = compose(self._hypothesis(log_probs, output))
                    yield text, self._words(text, log_probs, start, read)
                    start += len(log_probs) * self._frame

    def _decoded_at_once(self, output: ClipOutput, spill: IO[bytes]) -> Iterator[NDArray[np.float16]]:
        """Yield the log-probabilities of a piece, divided at pauses if it is longer than `_MAX_DECODED_SECONDS`."""
        longest = round(_MAX_DECODED_SECONDS * SAMPLE_RATE / self._frame)
        vocabulary = self._model.config.vocab_size
        held = np.empty((0, vocabulary), np.float16)
        for stored in output.log_probs(spill):
            held = np.concatenate([held, np.frombuffer(stored, "<f2").reshape(-1, vocabulary)])
            while len(held) > longest:
                cut = self._longest_pause(held[:longest])
                yield held[:cut]
                held = held[cut:]
        if len(held):
            yield held

    def _longest_pause(self, log_probs: NDArray[np.float16]) -> int:
        """Return the middle of the longest run of frames without a token, in the second half; the end without one."""
        best = log_probs.argmax(1)
        has_token = (best != self._blank) & (best != self._separator)
        tokens = np.flatnonzero(has_token[len(best) // 2 :]) + len(best) // 2
        edges = np.concatenate([[len(best) // 2 - 1], tokens, [len(best)]])
        longest = int(np.diff(edges).argmax())
        return int(edges[longest] + edges[longest + 1] + 1) // 2

    def _hypothesis(self, log_probs: NDArray[np.float16], output: ClipOutput) -> str:
        if self._search is not None:
            return self._search(log_probs)
        if len(log_probs) == output.frames:
            return output.hypothesis
        return str(self._processor.tokenizer.decode(log_probs.argmax(1)))

    def _words(self, text: str, log_probs: NDArray[np.float16], start: int, read: "_ReadRecording") -> list[Word]:
        """Return the words of a hypothesis with their times; its first frame begins at the sample `start`."""
        aligned = align_hypothesis(
            *(text, log_probs, self._processor, self._blank, self._scored.units), separated=self._scored.separated
        )
        spans = [span for _, span in aligned]
        confidences = np.array([raw_confidence(span) for span in spans])
        if self._calibrator is not None:
            confidences = self._calibrator(confidences)

        def read_part(part: Sequence[Span]) -> Iterator[Int16Samples]:
            return read([(start + first, start + stop) for first, stop in part])

        levels = frame_levels(read_part, len(log_probs), self._frame)
        bounds = word_bounds(spans, levels, self._frame / SAMPLE_RATE)
        offset = start / SAMPLE_RATE
        return [
            Word(word, offset + first, offset + end, confidence)
            for (word, _), (first, end), confidence in zip(aligned, bounds, confidences.tolist(), strict=True)
        ]


def transcribe(recording: Path | str, model: Path | str, device: Device = "auto", greedy: bool = False) -> Transcript:
    """Return the transcript of one recording; for several, `Transcriber` loads the model only once.

    The arguments and errors are those of `Transcriber` and of `Transcriber.transcribe`.
    """
    return Transcriber(model, device, greedy).transcribe(recording)


_ReadRecording = Callable[[Sequence[Span]], Iterator[Int16Samples]]


def _groups(pieces: Sequence[Span]) -> Iterator[list[Span]]:
    """Yield pieces in groups within `_GROUP_SECONDS`, or a single longer one."""
    group: list[Span] = []
    for span in pieces:
        if group and span[1] - group[0][0] > _GROUP_SECONDS * SAMPLE_RATE:
            yield group
            group = []
        group.append(span)
    if group:
        yield group


def _read_spans(file: IO[bytes], spans: Sequence[Span]) -> Iterator[Int16Samples]:
    """Yield the samples of spans of a file with 16-bit samples, from the first up to the last that there is."""
    for start, stop in spans:
        file.seek(start * _BYTES_PER_SAMPLE)
        yield np.frombuffer(file.read((stop - start) * _BYTES_PER_SAMPLE), np.int16)


def _track(
    batches: Iterable[Any], total: int, samples_per_share: float, advance: Callable[[float], object]
) -> Iterator[Any]:
    """Yield the `total` batches of `infer_clips`, and report the share of the work that each of them is."""
    for batch, inputs in batches:
        yield batch, inputs
        advance(sum(each.stop - each.start - each.left - each.right for _, each in batch) / samples_per_share)


def _trim_heap() -> None:
    """Return freed memory to the system, where the C library is glibc: it would keep hundreds of megabytes."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _within(words: Sequence[Word], seconds: float) -> list[Word]:
    """Return the words with times in whole milliseconds that are within the recording and do not overlap."""
    placed: list[Word] = []
    earliest = 0.0
    for word in words:
        start = min(max(round(word.start, 3), earliest), seconds)
        earliest = min(max(round(word.end, 3), start), seconds)
        placed.append(Word(word.text, start, earliest, word.confidence))
    return placed


def _check_model(folder: Path) -> None:
    """Raise a SpeechmillError if a folder contains no CTC model with its processor."""
    if not (folder / CONFIG).is_file():
        what = f"has no {CONFIG}" if folder.is_dir() else "is no folder"
        raise SpeechmillError(f"{folder} {what}; give the folder of a model, such as results/runs/RUN/model")
    if generates_text(read_json(folder / CONFIG)):
        raise SpeechmillError(
            f"{folder} contains a model that generates text, such as Whisper, which gives words no times; use"
            " `pipeline` of transformers, or give a CTC model"
        )
    names = [path.name for path in folder.iterdir()]
    extractor, processor = (processor_files(names, tokenizer) for tokenizer in (False, True))
    if not extractor or processor == extractor:
        lacking = "processor_config.json" if not extractor else "tokenizer_config.json and vocab.json"
        raise SpeechmillError(
            f"{folder} lacks a part of the processor of its model, such as {lacking}; copy the complete folder"
        )


def _torch_device(device: Device) -> torch.device:
    available = torch.cuda.is_available()
    if device == "gpu" and not available:
        raise SpeechmillError("there is no GPU that PyTorch can use; use the device cpu or auto")
    return torch.device("cuda" if available and device != "cpu" else "cpu")


def _read_scored(folder: Path) -> _Scored:
    if not (folder / evidence.FOLDER).is_dir():
        return _Scored()
    section = evidence.read_run(folder)
    return _Scored(
        section.text.units,
        separates_words(section.language),
        section.evaluation.precision,
        section.evaluation.batch_seconds,
        *_chunks(section.evaluation),
    )


def _read_calibrator(folder: Path, decoder: Decoder) -> Calibrator | None:
    """Return the calibrator of confidence for a decoder; None if the model has none, or none could be fitted."""
    if not (folder / CALIBRATION).is_file():
        return None
    calibrator = read_calibration(folder / CALIBRATION).calibrators.get(decoder)
    return calibrator if calibrator is not None and calibrator.is_fitted else None


def _chunks(evaluation: EvaluationConfig) -> tuple[float | None, float | None]:
    """Return the lengths of a chunk and of its stride of the first set that was scored in chunks, if one was."""
    chunked = (each for each in evaluation.sets if each.chunk_seconds is not None)
    return next(((each.chunk_seconds, each.stride) for each in chunked), (None, None))
