"""A clip has the same text and loss in the evaluation and in `verify`, and in the pipeline and the code in the card."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import pipeline

from material import ARCHITECTURES, language_model, recording, store
from speechmill.config.lm import BeamConfig
from speechmill.core.files import write_json
from speechmill.core.flac import Int16Samples
from speechmill.core.schemas import SAMPLE_RATE
from speechmill.inference.decoders import Weights, decode_all
from speechmill.inference.log_probs import LogProbsSettings, infer, vocabulary, write_ctc_outputs
from speechmill.lm.lm import LmSettings, build_model
from speechmill.model.models import (
    forward,
    head_name,
    load_checkpoint,
    model_config,
    model_inputs,
    new_model,
    samples_per_frame,
)
from speechmill.report.reference_model import ReferenceModel
from speechmill.report.usage import run_code, usage_code
from speechmill.report.verify_scores import Recordings, _process_set
from speechmill.text.lexicon import ABOUT, MODEL, TOKENS
from speechmill.text.normaliser import compose, to_units
from speechmill.text.tokens import UNKNOWN
from speechmill.text.vocab import VocabSettings, processor
from speechmill.text.vocab import vocabulary as letters

CPU = torch.device("cpu")
VOCAB = letters(["abcde"])


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights."""
    return save_model(tmp_path_factory.mktemp(request.param), ARCHITECTURES[request.param], VOCAB)


def save_model(folder: Path, init: dict[str, Any], vocab: dict[str, int]) -> Path:
    torch.manual_seed(1)
    built = new_model(model_config(init, None, {}, len(vocab)), None, vocab)
    built_processor = processor(vocab, VocabSettings(init=init), base=None)
    # With the initial weights, the outputs are nearly the same for every clip.
    head: Any = getattr(built.eval(), head_name(built))
    torch.nn.init.normal_(head.weight)
    with torch.no_grad():
        head.bias -= forward(built, model_inputs(built_processor, [recording(1.0) / np.float32(32768)])).mean((0, 1))
        # The beam search cannot write the unknown token.
        head.bias[vocab[UNKNOWN]] = -100.0
    built.save_pretrained(folder)
    built_processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def recordings(model: Path) -> list[Int16Samples]:
    """Clips of all lengths modulo a frame, as far as they differ for mel spectra, and some lengths between these."""
    frame = samples_per_frame(load_checkpoint(model)[0])
    lengths = [8000 + more for more in {*range(0, frame, 160), 1, 79, 80, 81, 159, 161, 239, 241, 319}]
    return [recording(length / SAMPLE_RATE, seed=i) for i, length in enumerate(sorted(lengths))]


class Evaluation:
    """The evaluation of clips with a model, by greedy decoding and with a language model if the model has one."""

    def __init__(self, folder: Path, model: Path, recordings: list[Int16Samples], **settings: Any) -> None:
        self.settings = LogProbsSettings(**{"device": "cpu", "batch_seconds": 60, **settings})
        self.clips, shards = store(folder, recordings, ["ab"] * len(recordings))
        loaded, loaded_processor = load_checkpoint(model)
        with tempfile.TemporaryFile() as spill:
            outputs = infer(loaded, loaded_processor, self.clips, shards, self.settings, CPU, spill)
            self.tokens = vocabulary(loaded, loaded_processor)
            write_ctc_outputs(folder / "ctc_outputs.parquet", self.clips, outputs, spill, {})
        self.greedy, self.losses = [each.hypothesis for each in outputs], [each.loss for each in outputs]
        self.ctc_outputs = folder / "ctc_outputs.parquet"

    def lm(self, model: Path) -> list[str]:
        weights = Weights.model_validate_json((model / "lm" / "weights.json").read_text())
        return decode_all(self.ctc_outputs, model / "lm", weights, 1)


def add_language_model(model: Path, greedy: list[str], tokens: list[str], vocabulary: str) -> None:
    """Add a language model that knows half of the words in the greedy hypotheses, and others."""
    if not (model / "lm").exists():
        known = sorted({word for text in greedy for word in text.split()})[1::2]
        short = [text for text in ("ab ba", "ba cab ab") if set(text) <= {" ", *tokens}]
        language_model(model / "lm", [*short, *known[:3]], known, tokens=tokens)
    weights = {"lm_weight": 0.2, "word_score": 0.3, "vocabulary": vocabulary, "beam": BeamConfig().model_dump()}
    write_json(weights, model / "lm" / "weights.json")


def test_greedy_text_and_loss_are_the_same(model: Path, recordings: list[Int16Samples], tmp_path: Path) -> None:
    together = Evaluation(tmp_path / "together", model, recordings)
    alone = Evaluation(tmp_path / "alone", model, recordings, batch_seconds=0.001)
    assert together.greedy == alone.greedy
    asr = pipeline("automatic-speech-recognition", model=str(model), device="cpu")
    assert alone.greedy == [
        asr({"raw": samples.astype(np.float32) / 32768, "sampling_rate": SAMPLE_RATE})["text"] for samples in recordings
    ]
    verified = verify(model, recordings, together, ["greedy"])
    assert verified.hypotheses["greedy"] == together.greedy
    assert verified.losses == pytest.approx(together.losses, rel=1e-4)
    assert len(set(together.greedy)) > 4  # otherwise a wrong order could pass


def verify(model: Path, recordings: list[Int16Samples], evaluation: Evaluation, decoders: list[str]) -> Any:
    set_recordings = Recordings(evaluation.clips, recordings.__getitem__)
    return _process_set(ReferenceModel(model, CPU), model, evaluation.settings, set_recordings, decoders)


# Beam search reads the outputs of all architectures alike: one for each kind of features and of padding is enough.
@pytest.mark.parametrize("model", ["wav2vec2", "wav2vec2-group", "w2v-bert", "parakeet", "granite"], indirect=True)
@pytest.mark.parametrize("vocabulary", ["open", "closed"])
def test_text_with_language_model_is_the_same(
    model: Path, recordings: list[Int16Samples], tmp_path: Path, vocabulary: str
) -> None:
    together = Evaluation(tmp_path / "together", model, recordings)
    add_language_model(model, together.greedy, together.tokens, vocabulary)
    alone = Evaluation(tmp_path / "alone", model, recordings, batch_seconds=0.001)
    hypotheses = together.lm(model)
    assert hypotheses == alone.lm(model)
    assert hypotheses == verify(model, recordings, together, ["lm"]).hypotheses["lm"]
    # Each run of the program loads the model.
    program = usage_code("lm", "characters")
    assert hypotheses[::3] == [run_code(program, model, samples) for samples in recordings[::3]]
    lexicon = {line.split("\t")[0] for line in (model / "lm" / "lexicon.txt").read_text().splitlines()}
    words = {word for text in hypotheses for word in text.split()}
    assert bool(words - lexicon) is (vocabulary == "open")


@pytest.mark.parametrize("vocabulary", ["open", "closed"])
def test_hangul_from_the_card_is_the_same(tmp_path: Path, vocabulary: str) -> None:
    jamo = letters([to_units("가나한", "jamo")])
    model = save_model(tmp_path / "model", ARCHITECTURES["wav2vec2"], jamo)
    recordings = [recording(0.5, seed=i) for i in range(4)]
    evaluation = Evaluation(tmp_path, model, recordings)
    add_language_model(model, [compose(text) for text in evaluation.greedy], evaluation.tokens, vocabulary)
    hypotheses = evaluation.lm(model)
    program = usage_code("lm", "jamo")
    assert hypotheses == [run_code(program, model, samples) for samples in recordings]
    assert any(hypotheses)


def test_text_with_language_model_of_characters_is_the_same(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", ARCHITECTURES["wav2vec2"], VOCAB)
    recordings = [recording(0.5, seed=i) for i in range(4)]
    evaluation = Evaluation(tmp_path, model, recordings)
    folder = model / "lm"
    folder.mkdir()
    (folder / "text").write_text("a b | b a\nb a | c a b | a b\n")
    settings = LmSettings(unit="characters", order=3, prune=[], format="trie", max_words=9)
    build_model(folder / "text", folder / MODEL, settings, 100)
    (folder / TOKENS).write_text("\n".join(evaluation.tokens) + "\n")
    about = {"unit": "characters", "blank": "[PAD]", "separator": "|", "special": [UNKNOWN]}
    write_json(about, folder / ABOUT)
    weights = {"lm_weight": 0.5, "word_score": 0.0, "vocabulary": "open", "beam": BeamConfig().model_dump()}
    write_json(weights, folder / "weights.json")
    hypotheses = evaluation.lm(model)
    program = usage_code("lm", "characters", "characters")
    assert hypotheses == [run_code(program, model, samples) for samples in recordings]
    assert hypotheses != evaluation.greedy


@pytest.mark.parametrize("chunk_seconds", [0.2, 0.33])
def test_chunks_are_the_same(model: Path, recordings: list[Int16Samples], tmp_path: Path, chunk_seconds: float) -> None:
    evaluation = Evaluation(tmp_path, model, recordings, chunk_seconds=chunk_seconds, stride_seconds=0.04)
    verified = verify(model, recordings, evaluation, ["greedy"])
    assert verified.hypotheses["greedy"] == evaluation.greedy
    assert verified.losses == pytest.approx(evaluation.losses, rel=1e-4)
