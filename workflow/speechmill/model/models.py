"""CTC models of transformers: from a base, from a configuration, from a checkpoint; one way for all architectures.

wav2vec2 (XLS-R and MMS are such), HuBERT and WavLM hear samples through convolutions; w2v-BERT 2.0 and Parakeet hear
mel spectra, which their feature extractors make. What differs between them is here, and nowhere else.
"""

import copy
import errno
import math
import pickle
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
    PreTrainedConfig,
    PreTrainedModel,
    Wav2Vec2BertProcessor,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2Processor,
)
from transformers.utils import logging as transformers_logging

from speechmill.core.command import SpeechmillError, corrupt_file_error
from speechmill.core.flac import FloatSamples
from speechmill.core.tables import SAMPLE_RATE
from speechmill.model.ctc import PAD, SPACE, UNKNOWN

# Loading takes moments; its bars would only fill the logs.
transformers_logging.disable_progress_bar()

Processor = Wav2Vec2Processor | Wav2Vec2BertProcessor | ParakeetProcessor
"""A tokenizer of characters with the feature extractor of an architecture."""

ARCHITECTURES = ("wav2vec2", "hubert", "wavlm", "wav2vec2-bert", "parakeet_ctc")
"""The `model_type` of what can be trained."""

# What a model takes of a batch; the rest of it is for the loss.
_INPUTS = ("input_values", "input_features", "attention_mask")
# Samples from one mel spectrum to the next, and samples that one of w2v-BERT's sees: see their feature extractors.
_MEL_HOP, _MEL_WINDOW = 160, 400
# w2v-BERT's feature extractor puts two mel spectra into one frame.
_MEL_STRIDE = 2


def model_config(
    init: dict[str, Any] | None, base: Path | None, changes: dict[str, Any], vocab: int
) -> PreTrainedConfig:
    """The configuration of a model whose head has `vocab` outputs, the blank being id 0.

    Layers are dropped at random only where `init` or `changes` ask for it: it pays in pre-training, while here each
    draw is a choice of the host's that may differ from process to process.

    Raises SpeechmillError where the architecture is not one of `ARCHITECTURES`, or a setting is not one of the model's.
    """
    given = changes if base is not None else {key: value for key, value in (init or {}).items() if key != "model_type"}
    try:
        config = (
            AutoConfig.from_pretrained(base) if base is not None else AutoConfig.for_model((init or {})["model_type"])
        )
    except ValueError as error:
        raise SpeechmillError(f"{'model.base' if base else 'model.init.model_type'}: {error}") from error
    if config.model_type not in ARCHITECTURES:
        raise SpeechmillError(
            f"model: {config.model_type} cannot be trained here; known are {', '.join(ARCHITECTURES)}"
        )
    unknown = _unknown(config, given)
    if unknown:
        raise SpeechmillError(f"model: {config.model_type} has no setting {', '.join(unknown)}")
    try:
        if base is None:
            # Made anew, since some settings follow from others when a configuration is made.
            config = AutoConfig.for_model(config.model_type, **given)
        else:
            _change(config, given)
    except (StrictDataclassError, ValueError) as error:
        raise SpeechmillError(f"model: {' '.join(str(error).split())}") from error
    asked = given if encoder_config(config) is config else given.get("encoder_config", {})
    if "layerdrop" not in asked:
        encoder_config(config).layerdrop = 0.0
    config.update({"vocab_size": vocab, "pad_token_id": 0, "ctc_loss_reduction": "mean"})
    for token in ("bos_token_id", "eos_token_id"):
        setattr(config, token, None)
    # Whatever the precision that the base was stored in: the Trainer lowers it where it may be lower.
    config.dtype = torch.float32
    return config


def _unknown(config: PreTrainedConfig, given: Mapping[str, Any], where: str = "") -> list[str]:
    unknown = []
    for key, value in sorted(given.items()):
        inner = getattr(config, key, None)
        if not hasattr(config, key):
            unknown.append(f"{where}{key}")
        elif isinstance(inner, PreTrainedConfig):
            unknown += _unknown(inner, value, f"{where}{key}.")
    return unknown


def _change(config: PreTrainedConfig, changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        inner = getattr(config, key)
        if isinstance(inner, PreTrainedConfig):
            _change(inner, value)
        else:
            setattr(config, key, value)


def encoder_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The part of a configuration that has the encoder's settings: Parakeet keeps them in one of their own."""
    return getattr(config, "encoder_config", config)


def new_model(config: PreTrainedConfig, base: Path | None, vocab: dict[str, int]) -> PreTrainedModel:
    """A CTC model with random weights, or with the base's.

    The base's head stays where it knows every entry of `vocab`, in whatever order; else the head is new, and so are the
    adapters of a model that has them, since both belong to a language. Which of the two it was is said on stderr. What
    is new comes from torch's random state.
    """
    if base is None:
        return AutoModelForCTC.from_config(config)  # type: ignore[no-any-return]
    # Loaded with the head that it has, so that its rows can be moved. A base that was only pre-trained may have none.
    as_stored = copy.deepcopy(config)
    as_stored.vocab_size = AutoConfig.from_pretrained(base).vocab_size or len(vocab)
    with _readable(base):
        model, loading = AutoModelForCTC.from_pretrained(
            base, config=as_stored, dtype=torch.float32, output_loading_info=True
        )
    name, characters = head_name(model), set(vocab) - {PAD, UNKNOWN, SPACE}
    old, head = getattr(model, name), _head(getattr(model, name), len(vocab))
    has_head = f"{name}.weight" not in loading["missing_keys"]
    known = _base_vocabulary(base, as_stored.vocab_size) if has_head else {}
    if set(vocab) <= set(known):
        rows = torch.tensor([known[token] for token in sorted(vocab, key=vocab.__getitem__)])
        with torch.no_grad():
            head.weight.copy_(old.weight[rows])
            head.bias.copy_(old.bias[rows])
        said = "head of the base kept: it knows all of them"
    else:
        new = [head, *adapters(model)]
        for part in new:
            _initialise(model, part)
        theirs = f"the base's knows {len(characters & set(known))} of them" if has_head else "the base has none"
        said = f"new head{' and adapters' if len(new) > 1 else ''}: {theirs}"
    print(f"{len(characters)} characters, {said}", file=sys.stderr)
    setattr(model, name, head)
    model.config.vocab_size = len(vocab)
    return model  # type: ignore[no-any-return]


def head_name(model: PreTrainedModel) -> str:
    """The attribute of a CTC model that makes logits of what the encoder says."""
    return "ctc_head" if hasattr(model, "ctc_head") else "lm_head"


def _head(old: Any, outputs: int) -> Any:
    """A head like `old`, a linear layer or Parakeet's convolution of width 1, with other outputs."""
    if isinstance(old, torch.nn.Linear):
        return torch.nn.Linear(old.in_features, outputs)
    return type(old)(old.in_channels, outputs, kernel_size=1)


def adapters(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The adapters of MMS, one in each layer: `adapter_attn_dim` in the model's configuration."""
    return [module for name, module in model.named_modules() if name.endswith(".adapter_layer")]


def _initialise(model: PreTrainedModel, module: torch.nn.Module) -> None:
    """Give `module`, a part of `model`, the random weights that the architecture starts from."""
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            # transformers leaves alone what it has loaded.
            parameter._is_hf_initialized = False  # type: ignore[attr-defined]
        model._init_weights(part)


def _base_vocabulary(base: Path, outputs: int) -> dict[str, int]:
    """Which output of a base's head is which character, by our names for the blank, the unknown and the space.

    Empty for a base that does not write characters.
    """
    if not (base / "vocab.json").is_file():
        return {}
    tokenizer = AutoTokenizer.from_pretrained(base)
    if not isinstance(tokenizer, Wav2Vec2CTCTokenizer):
        return {}
    ours = {tokenizer.pad_token: PAD, tokenizer.unk_token: UNKNOWN, tokenizer.word_delimiter_token: SPACE}
    return {ours.get(token, token): i for token, i in tokenizer.get_vocab().items() if i < outputs}


def load_processor(folder: Path) -> Processor:
    """The processor in a folder, of the class that belongs to its architecture.

    Where a published model brings a language model for pyctcdecode, that is left out.
    """
    if (folder / "alphabet.json").is_file():
        return Wav2Vec2Processor(AutoFeatureExtractor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))
    return AutoProcessor.from_pretrained(folder)  # type: ignore[no-any-return]


def load_checkpoint(folder: Path) -> tuple[PreTrainedModel, Processor]:
    """A checkpoint's model, ready to evaluate, and its processor, as plain transformers load them.

    Raises SpeechmillError where its weights cannot be read.
    """
    with _readable(folder):
        return AutoModelForCTC.from_pretrained(folder).eval(), load_processor(folder)


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """A block that reads weights in `folder`; raises SpeechmillError where they are cut short or no weights at all."""
    try:
        yield
    except (SafetensorError, pickle.UnpicklingError, EOFError, OSError, RuntimeError) as error:
        # So torch says of a file that it is cut short, by where that is; its other errors are of the same types.
        if isinstance(error, RuntimeError) and "PytorchStreamReader" not in str(error):
            raise
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        weights = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])[0]
        raise corrupt_file_error(weights, f"cannot be read ({error})") from error


def model_inputs(processor: Processor, samples: Sequence[FloatSamples]) -> dict[str, torch.Tensor]:
    """The features of clips, padded to one length, under the names that the model takes them by.

    Without a mask where nothing is padded: the answer is the same, and attention may then take its fastest kernels,
    which know no mask. That is decided here, where the mask is still on the host.
    """
    features = dict(
        processor.feature_extractor(list(samples), sampling_rate=SAMPLE_RATE, padding=True, return_tensors="pt")
    )
    if "attention_mask" in features and bool(features["attention_mask"].all()):
        del features["attention_mask"]
    return features


def forward(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The logits of a batch, shape (batch, frames, vocabulary); what else the batch holds is let be."""
    return model(**{key: batch[key] for key in _INPUTS if key in batch}).logits  # type: ignore[no-any-return]


def output_frames(model: PreTrainedModel, num_samples: torch.Tensor) -> torch.Tensor:
    """The number of output frames for numbers of input samples, shape (batch,); none where it cannot hear the clip."""
    if model.config.model_type == "wav2vec2-bert":
        mels = (num_samples - _MEL_WINDOW).div(_MEL_HOP, rounding_mode="floor") + 1
        heard = mels.clamp(min=0).div(_MEL_STRIDE, rounding_mode="floor")
        return model._get_feat_extract_output_lengths(heard)  # type: ignore[operator,no-any-return]
    if model.config.model_type == "parakeet_ctc":
        mels = num_samples.div(_MEL_HOP, rounding_mode="floor")
        # A single spectrum has no variance to be divided by: its features are not numbers.
        frames = model._get_subsampling_output_length(mels) * (mels > 1)  # type: ignore[operator]
        return frames.long()  # type: ignore[no-any-return]
    return model._get_feat_extract_output_lengths(num_samples)  # type: ignore[operator,no-any-return]


def frame_samples(config: PreTrainedConfig) -> int:
    """Input samples from one frame of the encoder to the next."""
    if config.model_type == "wav2vec2-bert":
        return _MEL_HOP * _MEL_STRIDE
    if config.model_type == "parakeet_ctc":
        return _MEL_HOP * int(config.encoder_config.subsampling_factor)
    return math.prod(config.conv_stride)


def depends_on_padding(config: PreTrainedConfig) -> bool:
    """Whether padding a clip changes the model's answer: group norm takes its mean over the padding too."""
    return getattr(config, "feat_extract_norm", "layer") == "group"
