"""Transcribe recordings with an exported CTC model, without torch.

    python transcribe.py recording.wav another.wav --model model_int8.onnx

needs the packages numpy, onnxruntime and soundfile, and `config.json` and the model beside this program. It reads mono
recordings at the sampling rate of the model, and decodes greedily.
"""

import argparse
import json
import sys
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import soundfile
from numpy.typing import NDArray


class Recogniser:
    """An exported CTC model; several threads may use it at the same time."""

    def __init__(self, model: Path, threads: int = 0) -> None:
        """Load a model, which is beside its `config.json`; `threads` compute for each call, or all cores if it is 0."""
        self.config: dict[str, Any] = json.loads((model.parent / "config.json").read_text(encoding="utf-8"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def log_probs(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the natural log-probabilities of samples between -1 and 1, shape (frames, vocabulary)."""
        if len(samples) < self.config["min_samples"]:
            return np.empty((0, len(self.config["vocabulary"])), dtype=np.float32)
        outputs: NDArray[np.float32] = self._session.run(["log_probs"], {"samples": samples[None]})[0][0]
        return outputs

    def text(self, log_probs: NDArray[np.float32]) -> str:
        """Return the greedy hypothesis."""
        return text_of(log_probs.argmax(-1).tolist(), self.config)


def text_of(ids: Iterable[int], config: dict[str, Any]) -> str:
    """Return the text of the token ids of all frames."""
    text, previous = "", None
    for i in ids:
        if i not in (previous, config["blank_id"]):
            text += config["vocabulary"][i]
        previous = i
    text = text.replace(config["word_delimiter"], " ").strip()
    return unicodedata.normalize(config["unicode_form"], text) if config["unicode_form"] else text


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="+", metavar="RECORDING")
    folder = Path(__file__).parent
    default = min(folder.glob("model*.onnx"), default=folder / "model.onnx")
    parser.add_argument("--model", type=Path, default=default, help=f"default: {default.name}")
    args = parser.parse_args()
    recogniser = Recogniser(args.model if args.model.is_file() else folder / args.model)
    rate = recogniser.config["sampling_rate"]
    for recording in args.recordings:
        samples, found = soundfile.read(recording, dtype="float32")
        if found != rate or samples.ndim != 1:
            sys.exit(f"{recording}: the model needs mono audio at {rate} Hz; convert it, for example with ffmpeg")
        print(recogniser.text(recogniser.log_probs(samples)))


if __name__ == "__main__":
    main()
