"""CTC models of transformers, created from a base model or a configuration, or loaded from a checkpoint.

wav2vec2 (which includes XLS-R and MMS), HuBERT and WavLM process samples with convolutions; w2v-BERT 2.0 and Parakeet
process the mel spectra that their feature extractors compute. Code that depends on the architecture belongs into this
module, and nowhere else.
"""

import copy
import errno
import math
import pickle
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForCTC,
    AutoProcessor,
    AutoTokenizer,
    ParakeetProcessor,
    Pipeline,
    PreTrainedConfig,
    PreTrainedModel,
    Wav2Vec2BertProcessor,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2Processor,
    pipeline,
)
from transformers.utils import logging as transformers_logging

from speechmill.config.architectures import ARCHITECTURES
from speechmill.core.command import SpeechmillError
from speechmill.core.files import corrupt_file_error
from speechmill.core.flac import FloatSamples
from speechmill.core.schemas import SAMPLE_RATE
from speechmill.text.tokens import PAD, SPACE, UNKNOWN

# Loading takes seconds; its progress bars would only fill the logs.
transformers_logging.disable_progress_bar()

Processor = Wav2Vec2Processor | Wav2Vec2BertProcessor | ParakeetProcessor
"""A tokenizer of characters and the feature extractor of an architecture."""

# The keys of a batch that are inputs of a model; the others are for the loss.
_INPUT_KEYS = ("input_values", "input_features", "attention_mask")
# The hop between mel spectra and the window of w2v-BERT's, in samples: see the feature extractors.
_MEL_HOP, _MEL_WINDOW = 160, 400
# The feature extractor of w2v-BERT stacks two mel spectra in one frame.
_MEL_STRIDE = 2
# The largest change of a logit, as a share of the largest logit, that can come from rounding in fp32.
_ROUNDING = 1e-3


def model_config(
    init: dict[str, Any] | None, base: Path | None, changes: dict[str, Any], vocab: int
) -> PreTrainedConfig:
    """Return the configuration of a model whose head has `vocab` outputs and whose blank has id 0.

    Layerdrop is 0 unless `init` or `changes` set it: it is useful in pre-training, while in fine-tuning each draw
    happens on the CPU and may differ between processes.

    Args:
        init: `model_type` and the settings of a model with random weights; ignored if there is a base.
        base: The folder of the base model.
        changes: Settings that replace those of the base.
        vocab: The size of the vocabulary.

    Raises:
        SpeechmillError: The architecture is not one of `ARCHITECTURES`, or a setting is unknown or invalid.
    """
    given = changes if base is not None else {key: value for key, value in (init or {}).items() if key != "model_type"}
    try:
        config = (
            AutoConfig.from_pretrained(base, trust_remote_code=False)
            if base is not None
            else AutoConfig.for_model((init or {})["model_type"])
        )
    except ValueError as error:
        raise SpeechmillError(f"{'model.base' if base else 'model.init.model_type'}: {error}") from error
    if config.model_type not in ARCHITECTURES:
        raise SpeechmillError(
            f"model: the architecture {config.model_type} is not supported; choose one of {', '.join(ARCHITECTURES)}"
        )
    unknown = _unknown_keys(config, given)
    if unknown:
        raise SpeechmillError(f"model: {config.model_type} has no setting {', '.join(unknown)}")
    try:
        if base is None:
            # Created again, since a configuration derives some settings from others when it is created.
            config = AutoConfig.for_model(config.model_type, **given)
        else:
            _update_config(config, given)
    except (StrictDataclassError, ValueError) as error:
        raise SpeechmillError(f"model: {' '.join(str(error).split())}") from error
    given_encoder = given if encoder_config(config) is config else given.get("encoder_config", {})
    if "layerdrop" not in given_encoder:
        encoder_config(config).layerdrop = 0.0
    config.update({"vocab_size": vocab, "pad_token_id": 0, "ctc_loss_reduction": "mean"})
    for token in ("bos_token_id", "eos_token_id"):
        setattr(config, token, None)
    # Whatever precision the base is stored in: the Trainer lowers the precision of the operations that allow it.
    config.dtype = torch.float32
    return config


def _unknown_keys(config: PreTrainedConfig, given: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the keys of `given` that `config` does not have, those of nested configurations with dots."""
    unknown = []
    for key, value in sorted(given.items()):
        nested = getattr(config, key, None)
        if not hasattr(config, key):
            unknown.append(f"{prefix}{key}")
        elif isinstance(nested, PreTrainedConfig):
            unknown += _unknown_keys(nested, value, f"{prefix}{key}.")
    return unknown


def _update_config(config: PreTrainedConfig, changes: Mapping[str, Any]) -> None:
    """Set the keys of `changes` in `config` and its nested configurations."""
    for key, value in changes.items():
        nested = getattr(config, key)
        if isinstance(nested, PreTrainedConfig):
            _update_config(nested, value)
        else:
            setattr(config, key, value)


def encoder_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the configuration of the encoder, which is nested in Parakeet's and the same object in all others."""
    return getattr(config, "encoder_config", config)


def new_model(config: PreTrainedConfig, base: Path | None, vocab: dict[str, int]) -> PreTrainedModel:
    """Return a CTC model with the weights of `base`, or with random weights from torch's generator without a base.

    The head of the base is kept if its vocabulary contains every entry of `vocab`, in any order. Otherwise the head is
    initialised anew, and so are the adapters of a model that has them, since both are specific to a language; adapters
    of the run's own language, which the base has where `target_lang` names it, are kept. A line on stderr reports which
    of these happened.

    Raises:
        SpeechmillError: The weights of the base cannot be read.
    """
    if base is None:
        return AutoModelForCTC.from_config(config)  # type: ignore[no-any-return]
    # Loaded with the size of its own head, whose rows are reordered below. A base that was only pre-trained may have
    # no head.
    stored_config = copy.deepcopy(config)
    stored_config.vocab_size = AutoConfig.from_pretrained(base, trust_remote_code=False).vocab_size or len(vocab)
    with _report_corrupt_weights(base):
        model, loading = AutoModelForCTC.from_pretrained(
            base, config=stored_config, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
    has_own_adapters = _load_adapter(model, base)
    name, characters = head_name(model), set(vocab) - {PAD, UNKNOWN, SPACE}
    old_head = getattr(model, name)
    head = _resized_head(old_head, len(vocab))
    has_head = f"{name}.weight" not in loading["missing_keys"]
    base_vocab = _base_vocabulary(base, model.config.vocab_size) if has_head else {}
    if set(vocab) <= set(base_vocab):
        rows = torch.tensor([base_vocab[token] for token in sorted(vocab, key=vocab.__getitem__)])
        with torch.no_grad():
            head.weight.copy_(old_head.weight[rows])
            head.bias.copy_(old_head.bias[rows])
        outcome = "head of the base kept: it has all of them"
    else:
        new_modules = [head, *([] if has_own_adapters else adapters(model))]
        for module in new_modules:
            _initialise(model, module)
        reason = f"the base's has {len(characters & set(base_vocab))} of them" if has_head else "the base has none"
        outcome = f"new head{' and adapters' if len(new_modules) > 1 else ''}: {reason}"
    print(f"{len(characters)} characters, {outcome}", file=sys.stderr)
    setattr(model, name, head)
    model.config.vocab_size = len(vocab)
    return model  # type: ignore[no-any-return]


def _load_adapter(model: PreTrainedModel, folder: Path) -> bool:
    """Load the adapters and the head of the language of a base, and return whether it has a file with them.

    The stage `ingest_model` stores at most one such file.
    """
    for file in folder.glob("adapter.*"):
        try:
            model.load_adapter(file.stem.removeprefix("adapter."), use_safetensors=file.suffix == ".safetensors")
        except OSError as error:
            raise corrupt_file_error(file, f"cannot be read ({error})") from error
        return True
    return False


def head_name(model: PreTrainedModel) -> str:
    """Return the attribute of a CTC model that maps the encoder's outputs to logits."""
    return "ctc_head" if hasattr(model, "ctc_head") else "lm_head"


def _resized_head(head: Any, outputs: int) -> Any:
    """Return a new head like `head`, a linear layer or Parakeet's convolution of width 1, with `outputs` outputs."""
    if isinstance(head, torch.nn.Linear):
        return torch.nn.Linear(head.in_features, outputs)
    return type(head)(head.in_channels, outputs, kernel_size=1)


def adapters(model: PreTrainedModel) -> list[torch.nn.Module]:
    """Return the adapters of MMS, one for each layer; none without `adapter_attn_dim` in the configuration."""
    return [module for name, module in model.named_modules() if name.endswith(".adapter_layer")]


def _initialise(model: PreTrainedModel, module: torch.nn.Module) -> None:
    """Initialise the weights of `module`, a part of `model`, at random as the architecture does."""
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            # transformers does not initialise weights that it has loaded.
            parameter._is_hf_initialized = False  # type: ignore[attr-defined]
        model._init_weights(part)


def _base_vocabulary(base: Path, outputs: int) -> dict[str, int]:
    """Return the output of a base's head for each character, with PAD, UNKNOWN and SPACE for its special tokens.

    The result is empty for a base whose tokens are not characters.
    """
    if not (base / "vocab.json").is_file():
        return {}
    tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    if not isinstance(tokenizer, Wav2Vec2CTCTokenizer):
        return {}
    special = {tokenizer.pad_token: PAD, tokenizer.unk_token: UNKNOWN, tokenizer.word_delimiter_token: SPACE}
    return {special.get(token, token): i for token, i in tokenizer.get_vocab().items() if i < outputs}


def load_processor(folder: Path) -> Processor:
    """Return the processor in a folder, of the class that belongs to its architecture.

    A language model for pyctcdecode, which some published models include, is not loaded.
    """
    if (folder / "alphabet.json").is_file():
        return Wav2Vec2Processor(
            AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False),
            AutoTokenizer.from_pretrained(folder, trust_remote_code=False),
        )
    return AutoProcessor.from_pretrained(folder, trust_remote_code=False)  # type: ignore[no-any-return]


def load_checkpoint(folder: Path) -> tuple[PreTrainedModel, Processor]:
    """Return a checkpoint's model, in evaluation mode, and its processor, as plain transformers loads them.

    A base with several languages is loaded with the adapters and the head of the one that it was stored for.

    Raises:
        SpeechmillError: The weights cannot be read.
    """
    with _report_corrupt_weights(folder):
        model = AutoModelForCTC.from_pretrained(folder, trust_remote_code=False)
    _load_adapter(model, folder)
    return model.eval(), load_processor(folder)


def load_recogniser(folder: Path, device: torch.device, dtype: torch.dtype) -> Pipeline:
    """Return the pipeline of transformers for a speech recogniser that generates text, such as Whisper.

    Raises:
        SpeechmillError: The weights cannot be read.
    """
    with _report_corrupt_weights(folder):
        return pipeline(
            "automatic-speech-recognition", model=str(folder), device=device, dtype=dtype, trust_remote_code=False
        )


@contextmanager
def _report_corrupt_weights(folder: Path) -> Iterator[None]:
    """Convert the errors of reading truncated or invalid weights in `folder` to a SpeechmillError."""
    try:
        yield
    except (SafetensorError, pickle.UnpicklingError, EOFError, OSError, RuntimeError) as error:
        # torch reports a truncated file as a RuntimeError or an OSError with EINVAL; others are different problems.
        if isinstance(error, RuntimeError) and "PytorchStreamReader" not in str(error):
            raise
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        weights = sorted([*folder.glob("model*.safetensors"), *folder.glob("pytorch_model*.bin")])[0]
        raise corrupt_file_error(weights, f"cannot be read ({error})") from error


def model_inputs(processor: Processor, samples: Sequence[FloatSamples]) -> dict[str, torch.Tensor]:
    """Return the features of clips, padded to the same length, by the names of the model's arguments.

    An attention mask that masks nothing is left out: the outputs are the same without it, and attention can use its
    fastest kernels, which do not support masks. Checking it here, where the mask is still on the CPU, is cheap.
    """
    features = dict(
        processor.feature_extractor(list(samples), sampling_rate=SAMPLE_RATE, padding=True, return_tensors="pt")
    )
    if "attention_mask" in features and bool(features["attention_mask"].all()):
        del features["attention_mask"]
    return features


def forward(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the logits of a batch, shape (batch, frames, vocabulary); keys that are not inputs are ignored."""
    return model(**{key: batch[key] for key in _INPUT_KEYS if key in batch}).logits  # type: ignore[no-any-return]


def output_frames(model: PreTrainedModel, num_samples: torch.Tensor) -> torch.Tensor:
    """Return the number of frames of the logits of clips with `num_samples` samples, shape (batch,).

    These are all frames that plain transformers outputs, and its pipeline decodes, for each clip alone. Extractors of
    mel spectra pad: w2v-BERT's pads an odd number of spectra with one more, and Parakeet's always adds one. The last
    frame of a clip may therefore be partly or, with Parakeet, completely masked.

    The number is 0 or negative where a clip is too short for the model.
    """
    # Mel spectra are divided by their standard deviation over time, which is NaN for a single one.
    if model.config.model_type == "wav2vec2-bert":
        mels = (num_samples - _MEL_WINDOW).div(_MEL_HOP, rounding_mode="floor") + 1
        features = (mels + 1).div(_MEL_STRIDE, rounding_mode="floor") * (mels > 1)
        return model._get_feat_extract_output_lengths(features)  # type: ignore[operator,no-any-return]
    if model.config.model_type == "parakeet_ctc":
        mels = num_samples.div(_MEL_HOP, rounding_mode="floor")
        frames = model._get_subsampling_output_length(mels + 1) * (mels > 1)  # type: ignore[operator]
        return frames.long()  # type: ignore[no-any-return]
    return model._get_feat_extract_output_lengths(num_samples)  # type: ignore[operator,no-any-return]


def encoder_stride(config: PreTrainedConfig) -> int:
    """Return the number of input samples from one frame of the encoder to the next."""
    if config.model_type == "wav2vec2-bert":
        return _MEL_HOP * _MEL_STRIDE
    if config.model_type == "parakeet_ctc":
        return _MEL_HOP * int(config.encoder_config.subsampling_factor)
    return math.prod(config.conv_stride)


def samples_per_frame(config: PreTrainedConfig) -> int:
    """Return the number of samples per frame of the logits, which includes the stride of adapters."""
    adapters = config.num_adapter_layers if getattr(config, "add_adapter", False) else 0
    return encoder_stride(config) * int(config.adapter_stride**adapters if adapters else 1)


def equal_in_batch(
    model: PreTrainedModel, processor: Processor, device: torch.device
) -> Literal["frames", "samples"] | None:
    """Return which length clips must have in common so that their logits in a batch are those of each clip alone.

    Short clips are processed alone, with padding within their last frame, and with more padding. The result is None if
    padding changes no logits, `frames` if only additional frames do, and `samples` if any padding does. Examples are a
    group norm, which averages over the padding; a processor without an attention mask; the convolutions of adapters,
    which read padding beyond the last frame; and frames that are masked completely, whose attention is the mean over
    all frames of the batch.
    """
    frame = samples_per_frame(model.config)
    # The partial last frames of all architectures repeat after `frame` samples.
    lengths = torch.arange(SAMPLE_RATE // 2, SAMPLE_RATE // 2 + frame, _MEL_HOP)
    noise = np.random.default_rng(0).normal(0.0, 0.1, 2 * SAMPLE_RATE).astype(np.float32)

    def padding_matters(samples: int, longer: int) -> bool:
        clip, frames = noise[:samples], int(output_frames(model, torch.tensor([samples]))[0])
        # Without cuDNN, whose convolutions are in TF32 by default.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=False):
            alone, padded = (
                forward(model, {key: value.to(device) for key, value in model_inputs(processor, clips).items()})[0]
                for clips in ([clip], [clip, noise[:longer]])
            )
        return float((padded[:frames] - alone[:frames]).abs().max()) > _ROUNDING * float(alone.abs().max())

    if not any(padding_matters(samples, 2 * SAMPLE_RATE) for samples in lengths.tolist()):
        return None
    if "attention_mask" not in model_inputs(processor, [noise[: SAMPLE_RATE // 2], noise]):
        return "samples"
    for samples in lengths.tolist():
        same = samples + torch.arange(frame)
        longest = int(same[output_frames(model, same) == output_frames(model, same[:1])].max())
        if padding_matters(samples, longest):
            return "samples"
    return "frames"
