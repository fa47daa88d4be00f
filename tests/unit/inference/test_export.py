import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import soundfile as sf
import torch
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import Fail
from transformers import AutoModelForCTC, PreTrainedModel

from material import ARCHITECTURES, LAYER_NORM, noise, recording, store
from speechmill.config.text import TextConfig
from speechmill.core.command import SpeechmillError
from speechmill.core.files import write_plain_json
from speechmill.core.flac import Int16Samples
from speechmill.core.schemas import SAMPLE_RATE
from speechmill.inference.evaluate import score
from speechmill.inference.export import MODELS, PROGRAM, ExportSettings, export
from speechmill.inference.log_probs import LogProbsSettings, infer, transcribe
from speechmill.inference.onnx_recogniser import Recogniser, text_of
from speechmill.inference.score_export import ScoreExportSettings, compare, score_exports
from speechmill.inference.score_export import transcribe as transcribe_exported
from speechmill.model.labels import written_special_tokens
from speechmill.model.models import (
    forward,
    head_name,
    load_checkpoint,
    model_config,
    model_inputs,
    output_frames,
    samples_per_frame,
)
from speechmill.text.vocab import VocabSettings, processor, save_processor

CPU = torch.device("cpu")
VOCAB = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "|", *"abcdefghi"])}
FP32 = ExportSettings(precisions=["fp32"], units="characters")
BOTH = ExportSettings(precisions=["fp32", "int8"], units="characters")


def write_model(folder: Path, architecture: dict[str, Any]) -> Path:
    """A model with random weights, whose text depends on the audio, and its processor."""
    torch.manual_seed(1)
    model: Any = AutoModelForCTC.from_config(model_config(architecture, None, {}, len(VOCAB))).eval()
    its_processor = processor(VOCAB, VocabSettings(init=architecture), None)
    # With the initial weights, the logits of all clips are nearly the same.
    head = getattr(model, head_name(model))
    torch.nn.init.normal_(head.weight)
    with torch.no_grad():
        head.bias -= forward(model, model_inputs(its_processor, [in_float(recording(1.0))])).mean((0, 1))
    model.save_pretrained(folder)
    save_processor(its_processor, folder)
    return folder


def in_float(samples: Int16Samples) -> NDArray[np.float32]:
    return samples.astype(np.float32) / 32768


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), LAYER_NORM | {"hidden_size": 64, "intermediate_size": 256})


@pytest.fixture(scope="module")
def exported(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "onnx"
    export(model, BOTH, folder)
    return folder


def lengths(model: PreTrainedModel) -> list[int]:
    """Lengths at the limits of frames, and longer and shorter ones than that of the traced clip."""
    shortest = int((output_frames(model, torch.arange(SAMPLE_RATE)) > 0).nonzero()[0])
    frame = samples_per_frame(model)
    return [shortest, shortest + 1, shortest + frame - 1, shortest + frame, 8159, 8160, 16_001, 70_003]


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "granite"])
def test_export_computes_what_torch_computes(tmp_path: Path, name: str) -> None:
    folder = write_model(tmp_path / "model", ARCHITECTURES[name])
    export(folder, FP32, tmp_path / "onnx")

    recogniser = Recogniser(tmp_path / "onnx" / MODELS["fp32"], threads=1)
    reference, extractor = load_checkpoint(folder)
    for samples in lengths(reference):
        clip = noise(samples / SAMPLE_RATE, seed=samples)[:samples].astype(np.float32)
        with torch.inference_mode():
            expected = forward(reference, model_inputs(extractor, [clip])).log_softmax(-1)[0].numpy()
        np.testing.assert_allclose(recogniser.log_probs(clip), expected, atol=1e-3, err_msg=f"{samples} samples")
    assert recogniser.log_probs(np.zeros(lengths(reference)[0] - 1, np.float32)).shape == (0, len(VOCAB))


def test_architecture_without_an_export_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", ARCHITECTURES["granite"])
    with pytest.raises(SpeechmillError, match=r"export: .*GraniteSpeech5FeatureExtractor.* remove `export`"):
        export(folder, FP32, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_int8_is_smaller_and_close(exported: Path) -> None:
    sizes = {name: (exported / file).stat().st_size for name, file in MODELS.items()}
    assert sizes["int8"] < sizes["fp32"]
    clip = noise(1.0).astype(np.float32)
    fp32, int8 = (Recogniser(exported / MODELS[name], threads=1).log_probs(clip) for name in ("fp32", "int8"))
    assert 0 < np.abs(fp32 - int8).max() < 0.5


def test_only_the_requested_precision_is_kept(model: Path, tmp_path: Path) -> None:
    export(model, ExportSettings(precisions=["int8"], units="characters"), tmp_path / "onnx")
    assert sorted(file.name for file in (tmp_path / "onnx").iterdir()) == [
        "config.json", "model_int8.onnx", "sha256.json", "transcribe.py",
    ]  # fmt: skip


def test_large_weights_are_beside_the_graph(model: Path, exported: Path, tmp_path: Path) -> None:
    export(model, BOTH, tmp_path / "onnx", max_bytes=1000)

    clip = noise(1.0).astype(np.float32)
    for file in MODELS.values():
        assert (tmp_path / "onnx" / f"{file}.data").stat().st_size > 1000
        one, other = (Recogniser(folder / file, threads=1).log_probs(clip) for folder in (exported, tmp_path / "onnx"))
        np.testing.assert_array_equal(one, other)


def test_program_transcribes_without_torch(model: Path, exported: Path, tmp_path: Path) -> None:
    samples = [recording(seconds, seed=i) for i, seconds in enumerate((1.3, 0.01))]
    for i, each in enumerate(samples):
        sf.write(tmp_path / f"{i}.wav", each, SAMPLE_RATE)
    # A module that is None in sys.modules cannot be imported.
    block = "import sys; sys.modules.update(dict.fromkeys(['torch', 'transformers', 'speechmill'])); import runpy"
    program = f"{block}; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", program, exported / PROGRAM, tmp_path / "0.wav", tmp_path / "1.wav"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert done.stdout.splitlines() == [*hypotheses(model, tmp_path, samples)]
    assert done.stdout.split()


def hypotheses(model: Path, folder: Path, recordings: list[Int16Samples]) -> list[str]:
    """What the workflow decodes greedily with the model in PyTorch."""
    rows, shards = store(folder, recordings, [""] * len(recordings))
    return transcribe(*load_checkpoint(model), rows, shards, 9, CPU)[0]


def test_stereo_and_other_rates_are_refused(exported: Path, tmp_path: Path) -> None:
    sf.write(tmp_path / "telephone.wav", recording(0.5), 8000)
    done = subprocess.run(
        [sys.executable, exported / PROGRAM, tmp_path / "telephone.wav"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "telephone.wav: the model needs mono audio at 16000 Hz" in done.stderr


def test_text_that_is_not_its_tokens_is_refused(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "model")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    write_plain_json(config | {"replace_word_delimiter_char": "_"}, folder / "tokenizer_config.json")
    with pytest.raises(SpeechmillError, match=r"export: Wav2Vec2CTCTokenizer writes .* remove `export`"):
        export(folder, FP32, tmp_path / "onnx")


def test_jamo_are_composed(model: Path, tmp_path: Path) -> None:
    export(model, ExportSettings(precisions=["fp32"], units="jamo"), tmp_path / "onnx")
    config = json.loads((tmp_path / "onnx" / "config.json").read_text())
    assert (
        text_of([1, 2, 2, 0, 3], config | {"vocabulary": ["", "\u1100", "\u1161", "|"], "word_delimiter": "|"}) == "가"
    )


SECONDS = [1.0, 0.4, 2.3, 0.01, 1.9]
RECORDINGS = [recording(seconds, seed=i) for i, seconds in enumerate(SECONDS)]
TEXTS = ["abc de", "a", "ed cb", "b", "gh i"]


@pytest.mark.parametrize("chunk_seconds", [None, 0.5])
def test_fp32_has_the_hypotheses_of_the_checkpoint(
    model: Path, exported: Path, tmp_path: Path, chunk_seconds: float | None
) -> None:
    clips, shards = store(tmp_path, RECORDINGS, TEXTS, ["x", "y", "x", "z", "y"])
    settings = ScoreExportSettings(
        precisions=["fp32", "int8"], text=TextConfig(), metric="wer", chunk_seconds=chunk_seconds,
        stride_seconds=None if chunk_seconds is None else 0.1,
    )  # fmt: skip
    checkpoint, its_processor = load_checkpoint(model)
    inference = settings.inference.model_copy(update={"batch_seconds": 9.0})
    outputs = infer(checkpoint, its_processor, clips, shards, inference, CPU)
    expected, special_tokens = [each.hypothesis for each in outputs], written_special_tokens(its_processor)
    original, scores = score(clips, expected, [None] * len(clips), settings.text, ["plain"], special_tokens)

    rows, metrics = score_exports(exported, model, clips, shards, original, settings, ["plain"], threads=2)

    fp32, int8 = (metrics["exports"][name] for name in ("fp32", "int8"))
    by_precision = {name: [row for row in rows if row["precision"] == name] for name in ("fp32", "int8")}
    assert [row["hypothesis"] for row in by_precision["fp32"]] == [row["hypothesis"] for row in original]
    assert len(by_precision["int8"]) == len(clips)
    assert (fp32["wer"], fp32["cer"], fp32["clips_scored"]) == (scores["wer"], scores["cer"], len(clips))
    assert (fp32["different_clips"], fp32["comparison"]["difference"]) == (0, 0.0)
    assert fp32["bytes"] > int8["bytes"]
    assert min(metrics["pytorch"]["timed_seconds"], fp32["timed_seconds"], int8["timed_seconds"]) > 0
    # Chunks overlap. The clip of 0.01 s is shorter than a frame, and is not timed.
    assert chunk_seconds or metrics["timed_audio_seconds"] == pytest.approx(sum(SECONDS) - 0.01)


def test_corrupt_export_is_named(model: Path, exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "runs" / "mine" / "model" / "onnx"
    shutil.copytree(exported, folder)
    (folder / "model.onnx").write_bytes(b"no graph")
    clips, shards = store(tmp_path, RECORDINGS[:1], TEXTS[:1])
    settings = ScoreExportSettings(
        precisions=["fp32"], text=TextConfig(), metric="wer", chunk_seconds=None, stride_seconds=None
    )
    with pytest.raises(SpeechmillError, match=rf"model\.onnx has changed .* delete {folder} and run snakemake again"):
        score_exports(folder, model, clips, shards, [], settings, ["plain"], threads=1)


def test_differences_are_paired_by_speaker() -> None:
    row = {"id": "1", "speaker_id": None, "hits": 9, "substitutions": 1, "deletions": 0, "insertions": 0,
           "character_errors": 1, "characters": 50, "hypothesis": "a"}  # fmt: skip
    original = [row | {"id": str(i)} for i in range(20)]
    worse = [each | {"hits": 8, "substitutions": 2, "hypothesis": "b"} for each in original[:10]] + original[10:]

    found = compare(worse, original, "wer")

    assert found["different_clips"] == 10
    assert found["comparison"]["difference"] == pytest.approx(10 / 200)
    low, high = found["comparison"]["interval"]
    assert 0 < low < 0.05 < high
    assert compare(worse, original, "cer")["comparison"]["difference"] == 0


def test_clip_that_an_export_cannot_process_is_named(exported: Path) -> None:
    recogniser = Recogniser(exported / MODELS["fp32"], threads=1)
    with (
        patch.object(recogniser, "log_probs", side_effect=Fail("of another length")),
        pytest.raises(SpeechmillError, match=r"cannot process long, which has 1 s .* set chunk_seconds"),
    ):
        list(
            transcribe_exported(
                recogniser, ["long"], lambda _: recording(1.0), LogProbsSettings(device="cpu", batch_seconds=0)
            )
        )
