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

from material import GROUP_NORM, LAYER_NORM, recording, store
from speechmill.core.command import SpeechmillError
from speechmill.core.tables import SAMPLE_RATE
from speechmill.inference.log_probs import transcribe
from speechmill.model.clip_reader import ClipReader, Collator
from speechmill.model.ctc import PAD, SPACE, UNKNOWN, clip_losses
from speechmill.model.models import (
    Processor,
    adapters,
    depends_on_padding,
    encoder_config,
    forward,
    frame_samples,
    head_name,
    load_checkpoint,
    model_config,
    model_inputs,
    new_model,
    output_frames,
)
from speechmill.text.vocab import VocabSettings, processor, vocabulary

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
INITS: dict[str, dict[str, Any]] = {
    "wav2vec2": LAYER_NORM,
    "wav2vec2-group": GROUP_NORM,
    "mms": LAYER_NORM | {"adapter_attn_dim": 4},
    "hubert": LAYER_NORM | {"model_type": "hubert"},
    "wavlm": LAYER_NORM | {"model_type": "wavlm"},
    "w2v-bert": SMALL
    | {"model_type": "wav2vec2-bert", "feature_projection_input_dim": 32, "conv_depthwise_kernel_size": 5}
    | {"apply_spec_augment": False},
    "parakeet": {
        "model_type": "parakeet_ctc",
        "encoder_config": SMALL | {"num_mel_bins": 16, "subsampling_conv_channels": 8, "conv_kernel_size": 5},
    },
}
TEXTS = ["abc de", "a", "ed"]
VOCAB = vocabulary(TEXTS)


Built = tuple[PreTrainedModel, Processor]


def made(name: str) -> Built:
    init = INITS[name]
    torch.manual_seed(1)
    model = new_model(model_config(init, None, {}, len(VOCAB)), None, VOCAB)
    # Random weights hear the same in every clip; these listen to what comes.
    torch.nn.init.normal_(getattr(model, head_name(model)).weight)
    return model.eval(), processor(VOCAB, VocabSettings(init=init), base=None)


@pytest.fixture(scope="module", params=INITS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def built(name: str) -> Built:
    return made(name)


def heard(*seconds: float) -> list[Any]:
    return [recording(each, seed=i).astype(np.float32) / 32768 for i, each in enumerate(seconds)]


def test_each_architecture_learns_from_our_batches(name: str, tmp_path: Path) -> None:
    model, letters = made(name)
    clips, shards = store(tmp_path, [recording(seconds) for seconds in (1.0, 0.6, 0.42)], TEXTS)
    reader = ClipReader(pa.Table.from_pylist(clips), shards)
    batch = Collator(letters)([reader[i] for i in range(len(clips))])
    logits = forward(model.train(), batch)
    loss = clip_losses(logits, output_frames(model, batch["num_samples"]), batch["labels"]).mean()
    loss.backward()
    assert torch.isfinite(loss)
    encoder: Any = model.base_model.encoder
    for part in (*encoder.layers, *adapters(model), getattr(model, head_name(model))):
        gradients = [parameter.grad for parameter in part.parameters()]
        assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)
        assert any(bool(gradient.any()) for gradient in gradients)


def test_plain_transformers_hear_the_same_in_a_checkpoint(built: Built, tmp_path: Path) -> None:
    model, letters = built
    # Where a clip's last frame is padding in part, the pipeline reads it and we do not; these clips have no such frame.
    recordings = [recording(seconds, seed=i) for i, seconds in enumerate((1.0, 0.6, 0.42))]
    clips, shards = store(tmp_path / "shards", recordings, TEXTS)
    saved(built, tmp_path / "checkpoint")
    loaded, its_letters = load_checkpoint(tmp_path / "checkpoint")
    assert type(loaded) is type(model)
    assert type(its_letters) is type(letters) is type(AutoProcessor.from_pretrained(tmp_path / "checkpoint"))
    hypotheses, losses = transcribe(loaded, its_letters, clips, shards, 60, torch.device("cpu"))
    theirs = pipeline("automatic-speech-recognition", model=str(tmp_path / "checkpoint"), device="cpu")
    assert hypotheses == [
        theirs({"raw": samples.astype(np.float32) / 32768, "sampling_rate": SAMPLE_RATE})["text"]
        for samples in recordings
    ]
    assert len(set(hypotheses)) > 1
    assert np.isfinite(losses).all()


@settings(max_examples=20)
@given(samples=st.integers(900, 16_000))
def test_output_frames_are_those_that_the_model_counts_itself(built: Built, samples: int) -> None:
    model, letters = built
    longest = 16_000
    features = letters.feature_extractor(
        [np.sin(np.arange(n, dtype=np.float32)) for n in (samples, longest)],
        sampling_rate=SAMPLE_RATE, padding=True, return_tensors="pt",
    )  # fmt: skip
    if model.config.model_type == "parakeet_ctc":
        counted = model._get_output_attention_mask(features["attention_mask"]).sum(-1).tolist()  # type: ignore[operator]
    elif model.config.model_type == "wav2vec2-bert":
        counted = features["attention_mask"].sum(-1).tolist()
    else:
        convolutions: Any = model.base_model.feature_extractor
        with torch.no_grad():
            counted = [convolutions(features["input_values"][:1, :n]).shape[-1] for n in (samples, longest)]
    assert output_frames(model, torch.tensor([samples, longest])).tolist() == counted


def test_a_clip_of_no_frames_has_none_and_no_fewer(built: Built) -> None:
    frames = output_frames(built[0], torch.tensor([1, 159, 319, 1600]))
    assert frames.dtype == torch.int64
    # Of a single spectrum Parakeet's features would be divided by a variance that is not a number.
    assert (frames[:3] <= 0).all()
    assert frames[3] > 0


def test_frames_come_as_often_as_the_configuration_says(built: Built) -> None:
    model, _ = built
    samples = 16_000 + frame_samples(model.config) * torch.arange(5)
    assert output_frames(model, samples).diff().tolist() == [1] * 4


def test_neighbours_and_their_padding_do_not_change_the_answer_unless_it_is_known_to(built: Built) -> None:
    model, letters = built
    clips = heard(1.0, 0.63, 0.41)
    with torch.no_grad():
        together = forward(model, model_inputs(letters, clips))
        alone = [forward(model, model_inputs(letters, [clip]))[0] for clip in clips]
    frames = output_frames(model, torch.tensor([len(clip) for clip in clips]))
    apart = max(float((a[:n] - b[:n]).abs().max()) for a, b, n in zip(together, alone, frames, strict=True))
    assert (apart > 1e-3) is depends_on_padding(model.config)


def test_a_mask_that_masks_nothing_is_left_out_and_is_not_missed(built: Built) -> None:
    model, letters = built
    # The feature extractors of mel spectra make an odd number of them even by one that is masked.
    clips = heard(1.0, 1.0)
    given = model_inputs(letters, clips)
    full = dict(letters.feature_extractor(clips, sampling_rate=SAMPLE_RATE, padding=True, return_tensors="pt"))
    assert ("attention_mask" in given) is (model.config.model_type == "parakeet_ctc")
    with torch.no_grad():
        assert torch.allclose(forward(model, given), forward(model, full), atol=1e-6)
    padded = model_inputs(letters, heard(1.0, 0.5))
    assert ("attention_mask" in padded) is not depends_on_padding(model.config)


def test_the_blank_is_id_0_and_layers_are_dropped_where_that_is_asked_for(name: str) -> None:
    config = model_config(INITS[name], None, {}, 8)
    assert (config.vocab_size, config.pad_token_id, config.bos_token_id, config.eos_token_id) == (8, 0, None, None)
    assert encoder_config(config).layerdrop == 0.0
    dropped = model_config(nested(INITS[name], layerdrop=0.25), None, {}, 8)
    assert encoder_config(dropped).layerdrop == 0.25


def nested(init: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """`changes` where the architecture keeps its encoder's settings."""
    return init | ({"encoder_config": init["encoder_config"] | changes} if "encoder_config" in init else changes)


def test_a_setting_that_the_encoder_does_not_have_is_named(name: str) -> None:
    with pytest.raises(SpeechmillError, match=r"has no setting (encoder_config\.)?layer_drop$"):
        model_config(nested(INITS[name], layer_drop=0.1), None, {}, 8)


def test_a_setting_of_the_wrong_type_is_named() -> None:
    with pytest.raises(SpeechmillError, match=r"model: .*'hidden_size' expected int, got str"):
        model_config(LAYER_NORM | {"hidden_size": "many"}, None, {}, 8)


def test_an_architecture_without_ctc_is_refused() -> None:
    with pytest.raises(SpeechmillError, match="model: whisper cannot be trained here; known are wav2vec2, hubert"):
        model_config({"model_type": "whisper"}, None, {}, 8)


def test_a_base_is_taken_as_it_is_and_changed_where_that_is_asked_for(built: Built, name: str, tmp_path: Path) -> None:
    saved(built, tmp_path)
    changes = nested({"encoder_config": {}} if name == "parakeet" else {}, attention_dropout=0.25)
    config = model_config(None, tmp_path, changes, len(VOCAB))
    assert encoder_config(config).attention_dropout == 0.25
    assert encoder_config(config).hidden_size == 16
    model = new_model(config, tmp_path, VOCAB)
    assert states_equal(model, built[0])
    bases_own = processor(VOCAB, VocabSettings(init=None), base=tmp_path)
    assert type(bases_own) is type(built[1])
    assert bases_own.feature_extractor.to_dict() == built[1].feature_extractor.to_dict()


def saved(built: Built, folder: Path) -> None:
    for part in built:
        part.save_pretrained(folder)


def states_equal(one: PreTrainedModel, other: PreTrainedModel) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def head(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return getattr(model, head_name(model)).state_dict()  # type: ignore[no-any-return]


def test_other_characters_get_a_head_as_the_architecture_starts_one(
    built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(built, tmp_path)
    vocab = vocabulary(["abcжёщъы"])
    config = model_config(None, tmp_path, {}, len(vocab))
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(new_model(config, tmp_path, vocab))
    assert states_equal(*models)
    new = head(models[0])
    assert len(new["weight"]) == len(new["bias"]) == models[0].config.vocab_size == len(vocab)
    # The `initializer_range` of all of them.
    assert float(new["weight"].std()) == pytest.approx(0.02, rel=0.4)
    layers = [key for key in built[0].state_dict() if ".layers." in key and "adapter" not in key]
    assert all(torch.equal(models[0].state_dict()[key], built[0].state_dict()[key]) for key in layers)
    said = "new head and adapters" if adapters(built[0]) else "new head"
    assert f"8 characters, {said}: the base's knows 3 of them\n" in capsys.readouterr().err


def test_characters_in_another_order_take_their_part_of_the_head_along(
    built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(built, tmp_path)
    vocab = {token: i for i, token in enumerate([PAD, UNKNOWN, SPACE, "d", "a", "e"])}
    model = new_model(model_config(None, tmp_path, {}, len(vocab)), tmp_path, vocab)
    for key, rows in head(model).items():
        assert torch.equal(rows, head(built[0])[key][[VOCAB[token] for token in vocab]])
    assert "3 characters, head of the base kept: it knows all of them\n" in capsys.readouterr().err


def test_a_head_by_other_names_and_with_its_blank_elsewhere_is_known(tmp_path: Path) -> None:
    # As the run_speech_recognition_ctc example of transformers writes a vocabulary, with its begin and end of a text.
    theirs = {"|": 0, "a": 1, "b": 2, "[UNK]": 3, "<pad>": 4, "<s>": 5, "</s>": 6}
    (tmp_path / "vocab.json").write_text(json.dumps(theirs))
    config = model_config(LAYER_NORM, None, {}, len(theirs))
    config.pad_token_id = 4
    base = new_model(config, None, theirs)
    base.save_pretrained(tmp_path)
    Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), pad_token="<pad>", unk_token="[UNK]").save_pretrained(tmp_path)
    vocab = vocabulary(["ab"])
    model = new_model(model_config(None, tmp_path, {}, len(vocab)), tmp_path, vocab)
    assert torch.equal(head(model)["weight"], head(base)["weight"][[4, 3, 0, 1, 2]])
    assert model.config.pad_token_id == 0


def test_a_base_that_was_only_pre_trained_is_said_to_have_no_head(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, letters = made("w2v-bert")
    model.base_model.save_pretrained(tmp_path)
    letters.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    # facebook/w2v-bert-2.0 says this of itself; some pre-trained bases of wav2vec2 come with a vocabulary all the same.
    (tmp_path / "config.json").write_text(json.dumps(written | {"vocab_size": None}))
    assert len(head(new_model(model_config(None, tmp_path, {}, 9), tmp_path, VOCAB))["weight"]) == len(VOCAB)
    assert "new head: the base has none" in capsys.readouterr().err


def test_a_new_language_gets_new_adapters_and_the_same_one_keeps_its_own(tmp_path: Path) -> None:
    built = made("mms")
    for part in adapters(built[0]):
        torch.nn.init.constant_(part.norm.weight, 3.0)  # type: ignore[arg-type,union-attr]
    saved(built, tmp_path)
    for vocab, kept in ((VOCAB, True), (vocabulary(["хх"]), False)):
        model = new_model(model_config(None, tmp_path, {}, len(vocab)), tmp_path, vocab)
        norms = [part.norm.weight for part in adapters(model)]  # type: ignore[union-attr]
        assert len(norms) == 2
        assert all(bool((norm == (3.0 if kept else 1.0)).all()) for norm in norms)


def test_a_base_with_a_vocabulary_for_each_language_is_read_in_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # As facebook/mms-1b-all has it: vocab.json holds all languages, and the weights are those of English.
    model, letters = made("mms")
    saved((model, letters), tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps({"eng": VOCAB, "rus": vocabulary(["абв"])}))
    written = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(written | {"target_lang": "eng"}))
    for text, said in (
        ("abq", "3 characters, new head and adapters: the base's knows 2"),
        ("ab", "2 characters, head"),
    ):
        vocab = vocabulary([text])
        new_model(model_config(None, tmp_path, {}, len(vocab)), tmp_path, vocab)
        assert said in capsys.readouterr().err


def test_a_base_without_adapters_can_be_given_some(tmp_path: Path) -> None:
    saved(made("wav2vec2"), tmp_path)
    model = new_model(model_config(None, tmp_path, {"adapter_attn_dim": 4}, len(VOCAB)), tmp_path, VOCAB)
    assert [part.linear_1.out_features for part in adapters(model)] == [4, 4]  # type: ignore[union-attr]


def test_a_base_in_half_precision_is_trained_in_full(name: str, tmp_path: Path) -> None:
    model, letters = made(name)
    saved((model.bfloat16(), letters), tmp_path)
    loaded = new_model(model_config(None, tmp_path, {}, len(VOCAB)), tmp_path, VOCAB)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
