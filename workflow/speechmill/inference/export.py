"""export: write a CTC model as ONNX graphs from samples to log-probabilities, with a program that runs them.

The graph contains the feature extractor, so that its only input is `samples`, shape (1, length), between -1 and 1. It
takes one clip at a time: nothing is padded, so that no architecture needs an attention mask. `config.json` describes
the rest: the sampling rate, the vocabulary, and how its tokens become text.
"""

import argparse
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from pydantic import BaseModel
from transformers import PreTrainedModel

from speechmill.config.export import ExportPrecision
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.files import (
    atomic_folder,
    check_files,
    check_folder,
    read_json,
    scratch_folder,
    write_digests,
    write_plain_json,
)
from speechmill.core.schemas import SAMPLE_RATE
from speechmill.inference import onnx_recogniser
from speechmill.inference.log_probs import vocabulary
from speechmill.model.graph_features import graph_features
from speechmill.model.models import Processor, forward, load_checkpoint, output_frames, samples_per_frame
from speechmill.text.tokens import WORD_START

MODELS: dict[ExportPrecision, str] = {"fp32": "model.onnx", "int8": "model_int8.onnx"}
"""The file of each precision."""

PROGRAM = "transcribe.py"
"""The program in the folder of an export."""

# The newest version of the operators that the exporter writes completely.
_OPSET = 17
# The length of the clip that the graph is traced with; it accepts others.
_TRACED_SAMPLES = 2 * SAMPLE_RATE
# A protobuf has at most 2 GiB; larger weights are stored beside the graph.
_MAX_BYTES = (1 << 31) - (1 << 24)
# Sequences of random tokens whose texts are compared with those of the tokenizer.
_TRIED_TEXTS, _TRIED_TOKENS = 100, 40


def model_files(folder: Path, precision: ExportPrecision) -> list[Path]:
    """Return the graph of a precision in the folder of an export, and the file of its weights if that is beside it."""
    return sorted(folder.glob(f"{MODELS[precision]}*"))


class ExportSettings(BaseModel):
    """The settings of this stage."""

    precisions: list[ExportPrecision]
    units: str
    """The units of hypotheses, `characters` or `jamo`."""


class _Graph(torch.nn.Module):
    """A model with its feature extractor."""

    def __init__(self, model: PreTrainedModel, processor: Processor) -> None:
        super().__init__()
        self.features = graph_features(processor.feature_extractor)
        self.model = model

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """Return the natural log-probabilities, shape (1, frames, vocabulary), of samples, shape (1, length)."""
        features, mask = self.features(samples)
        inputs = {self.model.main_input_name: features} | ({} if mask is None else {"attention_mask": mask})
        return torch.log_softmax(forward(self.model, inputs), -1)


def export(folder: Path, settings: ExportSettings, output: Path, max_bytes: int = _MAX_BYTES) -> None:
    """Export the model in `folder` to the folder `output`.

    Weights of more than `max_bytes` are written beside the graph, to a file with the suffix `.data`.

    Raises:
        SpeechmillError: The model cannot be read, or its architecture or its tokenizer cannot be exported.
    """
    model, processor = load_checkpoint(folder)
    config = _config(model, processor, settings.units)
    with atomic_folder(output) as temporary:
        fp32 = temporary / MODELS["fp32"]
        _write_graph(_Graph(model, processor).eval(), fp32, max_bytes)
        if "int8" in settings.precisions:
            _quantise(fp32, temporary / MODELS["int8"], max_bytes)
        if "fp32" not in settings.precisions:
            for file in model_files(temporary, "fp32"):
                file.unlink()
        write_plain_json(config, temporary / "config.json")
        shutil.copyfile(onnx_recogniser.__file__, temporary / PROGRAM)
        write_digests(temporary)


def _write_graph(graph: _Graph, path: Path, max_bytes: int) -> None:
    """Trace a graph and write it to `path`."""
    architecture = type(graph.model).__name__
    samples = torch.from_numpy(np.random.default_rng(0).normal(0.0, 0.1, (1, _TRACED_SAMPLES)).astype(np.float32))
    # The exporter writes the large weights of a large model to one file each.
    with scratch_folder(path.with_suffix(".traced")) as traced, warnings.catch_warnings():
        # The exporter that traces is deprecated, but the other one fails for half of the architectures; it warns of
        # each number that it takes for a constant, which the tests with clips of many lengths cover.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                graph,
                (samples,),
                str(traced / path.name),
                dynamo=False,
                opset_version=_OPSET,
                input_names=["samples"],
                output_names=["log_probs"],
                dynamic_axes={"samples": {1: "length"}, "log_probs": {1: "frames"}},
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise SpeechmillError(
                f"export: {architecture} cannot be exported to ONNX ({error}); remove `export`"
            ) from error
        _save(onnx.load(traced / path.name), path, max_bytes)


def _save(proto: onnx.ModelProto, path: Path, max_bytes: int) -> None:
    """Write a graph to `path`, with large weights beside it if they are more than `max_bytes`."""
    size = sum(len(each.raw_data) for each in proto.graph.initializer)
    # One file for all weights, without which each would have its own.
    onnx.save_model(proto, path, save_as_external_data=size > max_bytes, location=f"{path.name}.data")


def _quantise(fp32: Path, path: Path, max_bytes: int) -> None:
    """Write a graph whose matrix products are in 8 bits: weights are quantised in advance, inputs at run time.

    Convolutions stay in fp32: their kernels for 8 bits are slower, and those of the first layers lose accuracy.
    """
    graph = onnx.load(fp32, load_external_data=False).graph
    quantize_dynamic(
        fp32,
        path,
        op_types_to_quantize=["MatMul"],
        nodes_to_exclude=[node.name for node in graph.node if node.name.startswith("/features/")],
        per_channel=True,
        # 7 bits: with 8, sums overflow on processors without VNNI, and the scores would depend on the processor.
        reduce_range=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=sum(file.stat().st_size for file in model_files(fp32.parent, "fp32")) > max_bytes,
    )


def _config(model: PreTrainedModel, processor: Processor, units: str) -> dict[str, Any]:
    """Return the contents of `config.json`.

    Raises:
        SpeechmillError: The texts of the tokenizer are not just its tokens joined together.
    """
    extractor, tokenizer = processor.feature_extractor, processor.tokenizer
    tokens = vocabulary(model, processor)
    config = {
        "architecture": type(model).__name__,
        "sampling_rate": SAMPLE_RATE,
        "min_samples": int((output_frames(model, torch.arange(SAMPLE_RATE)) > 0).nonzero()[0]),
        "frame_seconds": samples_per_frame(model) / SAMPLE_RATE,
        # What the graph does to the samples first.
        "features": {"type": type(extractor).__name__, "do_normalize": getattr(extractor, "do_normalize", False)},
        "blank_id": tokenizer.pad_token_id,
        "word_delimiter": getattr(tokenizer, "word_delimiter_token", WORD_START),
        "vocabulary": [token.lower() for token in tokens] if getattr(tokenizer, "do_lower_case", False) else tokens,
        "unicode_form": None,
    }
    known = [i for i, token in enumerate(tokens) if token]
    draw = np.random.default_rng(0)
    for _ in range(_TRIED_TEXTS):
        ids = draw.choice(known, _TRIED_TOKENS).tolist()
        joined, text = onnx_recogniser.text_of(ids, config), tokenizer.decode(ids)
        if joined != text:
            raise SpeechmillError(
                f"export: {type(tokenizer).__name__} writes {text!r}, not the joined tokens {joined!r}, so its texts"
                " cannot be written without transformers; remove `export`"
            )
    return config | {"unicode_form": "NFC" if units == "jamo" else None}


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=ExportSettings.model_validate_json, required=True)
    parser.add_argument("--model", type=Path, required=True, help="the folder of the model")
    parser.add_argument("--selection", type=Path, required=True, help="selection.json, with the digests of its files")
    parser.add_argument("--folder", type=Path, required=True, help="output: the exported models")
    args = parser.parse_args()
    check_folder(args.model)
    check_files(args.model, read_json(args.selection).get("sha256", {}))
    export(args.model, args.settings, args.folder)


if __name__ == "__main__":
    run_command(main)
