import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoProcessor,
    PreTrainedModel,
    Wav2Vec2CTCTokenizer,
    pipeline,
)

from material import ARCHITECTURES, LAYER_NORM, recording, store
from speechmill.core.command import SpeechmillError
from speechmill.core.schemas import SAMPLE_RATE
from speechmill.inference.log_probs import transcribe
from speechmill.model.clip_reader import ClipReader, Collator
from speechmill.model.ctc import clip_losses
from speechmill.model.models import (
    Processor,
    adapters,
    encoder_config,
    encoder_layers,
    equal_in_batch,
    forward,
    freeze_unused,
    head_name,
    load_checkpoint,
    load_processor,
    model_config,
    model_inputs,
    new_model,
    output_frames,
    samples_per_frame,
)
from speechmill.text.tokens import PAD, SPACE, UNKNOWN
from speechmill.text.vocab import VocabSettings, processor, vocabulary

TEXTS = ["abc de", "a", "ed"]
VOCAB = vocabulary(TEXTS)


ModelAndProcessor = tuple[PreTrainedModel, Processor]


def build_model(name: str) -> ModelAndProcessor:
    init = ARCHITECTURES[name]
    torch.manual_seed(1)
    model = new_model(model_config(init, None, {}, len(VOCAB)), None, VOCAB)
    # With the initial weights, the logits of all clips are nearly the same.
    head: Any = getattr(model.eval(), head_name(model))
    torch.nn.init.normal_(head.weight)
    model_processor = processor(VOCAB, VocabSettings(init=init), base=None)
    with torch.no_grad():
        head.bias -= forward(model, model_inputs(model_processor, random_clips(1.0))).mean((0, 1))
    return model, model_processor


@pytest.fixture(scope="module", params=ARCHITECTURES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_trained_parameter_gets_a_gradient(name: str) -> None:
    # DistributedDataParallel waits for the gradients of all others.
    model, model_processor = build_model(name)
    freeze_unused(model)
    forward(model.train(), model_inputs(model_processor, random_clips(1.0, 0.6))).square().sum().backward()
    trained = [(key, each.grad) for key, each in model.named_parameters() if each.requires_grad]
    assert [key for key, gradient in trained if gradient is None] == []


@pytest.fixture(scope="module")
def built(name: str) -> ModelAndProcessor:
    return build_model(name)


def random_clips(*seconds: float) -> list[Any]:
    return [recording(each, seed=i).astype(np.float32) / 32768 for i, each in enumerate(seconds)]


def test_every_architecture_trains_on_batches(name: str, tmp_path: Path) -> None:
    model, model_processor = build_model(name)
    clips, shards = store(tmp_path, [recording(seconds) for seconds in (1.0, 0.6, 0.42)], TEXTS)
    reader = ClipReader(pa.Table.from_pylist(clips), shards)
    batch = Collator(model_processor)([reader[i] for i in range(len(clips))])
    logits = forward(model.train(), batch)
    loss = clip_losses(logits, output_frames(model, batch["num_samples"]), batch["labels"]).mean()
    loss.backward()
    assert torch.isfinite(loss)
    for part in (*encoder_layers(model), *adapters(model), getattr(model, head_name(model))):
        gradients = [parameter.grad for parameter in part.parameters()]
        assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)
        assert any(bool(gradient.any()) for gradient in gradients)


def test_transformers_pipeline_gives_the_same_text(built: ModelAndProcessor, tmp_path: Path) -> None:
    model, model_processor = built
    recordings = [recording(seconds, seed=i) for i, seconds in enumerate((1.0, 0.6, 0.42))]
    clips, shards = store(tmp_path / "shards", recordings, TEXTS)
    save(built, tmp_path / "checkpoint")
    loaded, loaded_processor = load_checkpoint(tmp_path / "checkpoint")
    assert type(loaded) is type(model)
    assert type(loaded_processor) is type(model_processor)
    assert type(loaded_processor) is type(AutoProcessor.from_pretrained(tmp_path / "checkpoint"))
    hypotheses, losses = transcribe(loaded, loaded_processor, clips, shards, 60, torch.device("cpu"))
    transcribe_with_pipeline = pipeline(
        "automatic-speech-recognition", model=str(tmp_path / "checkpoint"), device="cpu"
    )
    assert hypotheses == [
        transcribe_with_pipeline({"raw": samples.astype(np.float32) / 32768, "sampling_rate": SAMPLE_RATE})["text"]
        for samples in recordings
    ]
    assert len(set(hypotheses)) > 1
    assert np.isfinite(losses).all()


@settings(max_examples=20)
@given(samples=st.integers(2400, 16_000))
def test_output_frames_match_the_model(built: ModelAndProcessor, samples: int) -> None:
    model, model_processor = built
    clip = np.sin(np.arange(samples, dtype=np.float32))
    with torch.no_grad():
        logits = forward(model, model_inputs(model_processor, [clip]))
    assert int(output_frames(model, torch.tensor([samples]))[0]) == logits.shape[1]


def test_clip_shorter_than_a_frame_has_no_frames(built: ModelAndProcessor) -> None:
    model, model_processor = built
    frames = output_frames(model, torch.arange(2400))
    assert frames.dtype == torch.int64
    # Parakeet divides its features by their standard deviation, which is NaN for a single spectrum.
    assert (frames[:320] <= 0).all()
    shortest = int((frames > 0).nonzero()[0])
    with torch.no_grad():
        logits = forward(model, model_inputs(model_processor, [random_clips(1.0)[0][:shortest]]))
    assert logits.shape[1] == frames[shortest]
    assert bool(logits.isfinite().all())


def test_stride_separates_frames(built: ModelAndProcessor) -> None:
    model, _ = built
    samples = 16_000 + samples_per_frame(model) * torch.arange(5)
    assert output_frames(model, samples).diff().tolist() == [1] * 4


EQUAL_IN_BATCH = {
    "wav2vec2-group": "samples",
    "wav2vec2-adapter": "samples",
    "wavlm-adapter": "samples",
    "w2v-bert-adapter": "samples",
    "data2vec": "frames",
    "conformer": "frames",
    "sew": "frames",
    "sew-d": "frames",
    "parakeet": "frames",
    "granite": "samples",
}


def test_effect_of_padding_is_found(built: ModelAndProcessor, name: str) -> None:
    assert equal_in_batch(*built, torch.device("cpu")) == EQUAL_IN_BATCH.get(name)


def test_processor_without_mask_needs_equal_lengths() -> None:
    model, model_processor = build_model("wav2vec2")
    model_processor.feature_extractor.return_attention_mask = False
    assert equal_in_batch(model, model_processor, torch.device("cpu")) == "samples"


def test_mask_without_padding_is_left_out(built: ModelAndProcessor) -> None:
    model, model_processor = built
    # The extractors of mel spectra pad an odd number of them with one that is masked.
    clips = random_clips(1.0, 1.0)
    given = model_inputs(model_processor, clips)
    full = dict(model_processor.feature_extractor(clips, sampling_rate=SAMPLE_RATE, padding=True, return_tensors="pt"))
    assert ("attention_mask" in given) is (model.config.model_type == "parakeet_ctc")
    with torch.no_grad():
        assert torch.allclose(forward(model, given), forward(model, full), atol=1e-6)
    padded = model_inputs(model_processor, random_clips(1.0, 0.5))
    assert ("attention_mask" in padded) is (getattr(model.config, "feat_extract_norm", "layer") == "layer")


def test_blank_is_0_and_layerdrop_is_opt_in(name: str) -> None:
    config = model_config(ARCHITECTURES[name], None, {}, 8)
    assert (config.vocab_size, config.pad_token_id) == (8, 0)
    # UniSpeechSat's class requires numbers.
    assert name == "unispeech-sat" or (config.bos_token_id, config.eos_token_id) == (None, None)
    if not hasattr(encoder_config(config), "layerdrop"):
        return
    assert encoder_config(config).layerdrop == 0.0
    dropped = model_config(nested(ARCHITECTURES[name], layerdrop=0.25), None, {}, 8)
    assert encoder_config(dropped).layerdrop == 0.25


def nested(init: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return `init` with `changes` to the settings of the encoder."""
    return init | ({"encoder_config": init["encoder_config"] | changes} if "encoder_config" in init else changes)


def test_unknown_setting_is_named(name: str) -> None:
    with pytest.raises(SpeechmillError, match=r"has no setting (encoder_config\.)?layer_drop$"):
        model_config(nested(ARCHITECTURES[name], layer_drop=0.1), None, {}, 8)


def test_setting_of_the_wrong_type_is_named() -> None:
    with pytest.raises(SpeechmillError, match=r"model: .*'hidden_size' expected int, got str"):
        model_config(LAYER_NORM | {"hidden_size": "many"}, None, {}, 8)


def test_architecture_without_ctc_is_rejected() -> None:
    with pytest.raises(
        SpeechmillError,
        match="model: transformers has no CTC model of the architecture whisper; choose one of data2vec-audio, gran",
    ):
        model_config({"model_type": "whisper"}, None, {}, 8)


def test_base_is_kept_except_for_given_changes(built: ModelAndProcessor, name: str, tmp_path: Path) -> None:
    save(built, tmp_path)
    changes = nested({"encoder_config": {}} if "encoder_config" in ARCHITECTURES[name] else {}, attention_dropout=0.25)
    config = model_config(None, tmp_path, changes, len(VOCAB))
    assert encoder_config(config).attention_dropout == 0.25
    assert encoder_config(config).hidden_size == 16
    model = new_model(config, tmp_path, VOCAB)
    assert states_equal(model, built[0])
    base_processor = processor(VOCAB, VocabSettings(init=None), base=tmp_path)
    assert type(base_processor) is type(built[1])
    assert base_processor.feature_extractor.to_dict() == built[1].feature_extractor.to_dict()


def save(built: ModelAndProcessor, folder: Path) -> None:
    for part in built:
        part.save_pretrained(folder)


def states_equal(one: PreTrainedModel, other: PreTrainedModel) -> bool:
    weights, others = one.state_dict(), other.state_dict()
    return weights.keys() == others.keys() and all(torch.equal(weights[key], others[key]) for key in weights)


def head(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return getattr(model, head_name(model)).state_dict()  # type: ignore[no-any-return]


def test_new_characters_get_a_new_head(
    built: ModelAndProcessor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(built, tmp_path)
    vocab = vocabulary(["abcжёщъы"])
    config = model_config(None, tmp_path, {}, len(vocab))
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(new_model(config, tmp_path, vocab))
    assert states_equal(*models)
    new = head(models[0])
    assert len(new["weight"]) == len(new["bias"]) == models[0].config.vocab_size == len(vocab)
    # The `initializer_range` of all architectures.
    assert float(new["weight"].std()) == pytest.approx(0.02, rel=0.4)
    layers = [key for key in built[0].state_dict() if ".layers." in key and "adapter" not in key]
    assert all(torch.equal(models[0].state_dict()[key], built[0].state_dict()[key]) for key in layers)
    outcome = "new head and adapters" if adapters(built[0]) else "new head"
    assert f"8 characters, {outcome}: the base's has 3 of them\n" in capsys.readouterr().err


def test_known_characters_keep_their_rows_of_the_head(
    built: ModelAndProcessor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(built, tmp_path)
    vocab = {token: i for i, token in enumerate([PAD, UNKNOWN, SPACE, "d", "a", "e"])}
    model = new_model(model_config(None, tmp_path, {}, len(vocab)), tmp_path, vocab)
    for key, rows in head(model).items():
        assert torch.equal(rows, head(built[0])[key][[VOCAB[token] for token in vocab]])
    assert "3 characters, head of the base kept: it has all of them\n" in capsys.readouterr().err


def test_special_tokens_of_other_models_are_mapped(tmp_path: Path) -> None:
    # The format of transformers' example run_speech_recognition_ctc, with tokens for the begin and end of a text.
    base_vocab = {"|": 0, "a": 1, "b": 2, "[UNK]": 3, "<pad>": 4, "<s>": 5, "</s>": 6}
    (tmp_path / "vocab.json").write_text(json.dumps(base_vocab))
    config = model_config(LAYER_NORM, None, {}, len(base_vocab))
    config.pad_token_id = 4
    base = new_model(config, None, base_vocab)
    base.save_pretrained(tmp_path)
    Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), pad_token="<pad>", unk_token="[UNK]").save_pretrained(tmp_path)
    vocab = vocabulary(["ab"])
    model = new_model(model_config(None, tmp_path, {}, len(vocab)), tmp_path, vocab)
    assert torch.equal(head(model)["weight"], head(base)["weight"][[4, 3, 0, 1, 2]])
    assert model.config.pad_token_id == 0


def test_pre_trained_base_has_no_head(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, model_processor = build_model("w2v-bert")
    model.base_model.save_pretrained(tmp_path)
    model_processor.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    # As in facebook/w2v-bert-2.0; some pre-trained bases of wav2vec2 include a vocabulary nevertheless.
    (tmp_path / "config.json").write_text(json.dumps(written | {"vocab_size": None}))
    assert len(head(new_model(model_config(None, tmp_path, {}, 9), tmp_path, VOCAB))["weight"]) == len(VOCAB)
    assert "new head: the base has none" in capsys.readouterr().err


def test_adapters_are_new_only_for_a_new_language(tmp_path: Path) -> None:
    built = build_model("mms")
    for part in adapters(built[0]):
        torch.nn.init.constant_(part.norm.weight, 3.0)  # type: ignore[arg-type,union-attr]
    save(built, tmp_path)
    for vocab, kept in ((VOCAB, True), (vocabulary(["хх"]), False)):
        model = new_model(model_config(None, tmp_path, {}, len(vocab)), tmp_path, vocab)
        norms = [part.norm.weight for part in adapters(model)]  # type: ignore[union-attr]
        assert len(norms) == 2
        assert all(bool((norm == (3.0 if kept else 1.0)).all()) for norm in norms)


def test_vocabulary_of_the_base_language_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # As in facebook/mms-1b-all: vocab.json contains all languages, and the weights are those of English.
    model, model_processor = build_model("mms")
    save((model, model_processor), tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps({"eng": VOCAB, "rus": vocabulary(["абв"])}))
    written = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(written | {"target_lang": "eng"}))
    for text, outcome in (
        ("abq", "3 characters, new head and adapters: the base's has 2"),
        ("ab", "2 characters, head"),
    ):
        vocab = vocabulary([text])
        new_model(model_config(None, tmp_path, {}, len(vocab)), tmp_path, vocab)
        assert outcome in capsys.readouterr().err


def test_adapters_can_be_added_to_a_base(tmp_path: Path) -> None:
    save(build_model("wav2vec2"), tmp_path)
    model = new_model(model_config(None, tmp_path, {"adapter_attn_dim": 4}, len(VOCAB)), tmp_path, VOCAB)
    assert [part.linear_1.out_features for part in adapters(model)] == [4, 4]  # type: ignore[union-attr]


def test_half_precision_base_is_loaded_in_fp32(name: str, tmp_path: Path) -> None:
    model, model_processor = build_model(name)
    save((model.bfloat16(), model_processor), tmp_path)
    loaded = new_model(model_config(None, tmp_path, {}, len(VOCAB)), tmp_path, VOCAB)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_base_with_another_hop_of_features_is_refused(tmp_path: Path) -> None:
    _, model_processor = build_model("parakeet")
    model_processor.feature_extractor.hop_length = 200
    model_processor.save_pretrained(tmp_path)
    with pytest.raises(SpeechmillError, match=r"computes features at another rate .* choose another base"):
        load_processor(tmp_path)
