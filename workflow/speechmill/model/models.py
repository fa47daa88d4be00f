"""CTC models of transformers, created from a base model or a configuration, or loaded from a checkpoint.

Any architecture is accepted that transformers loads with `AutoModelForCTC`. Some, such as wav2vec2, process samples
with convolutions; others, such as w2v-BERT 2.0, process the mel spectra that their feature extractors compute. Which of
both, and how many frames a clip has, is asked of the model's class and of its feature extractor. Code that depends on
the architecture belongs into this module and, for feature extractors, into `text/vocab.py` and `graph_features.py`, and
nowhere else.
"""

import copy
import errno
import pickle
import sys
import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CTC_MAPPING,
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForCTC,
    AutoProcessor,
    AutoTokenizer,
    Pipeline,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
    pipeline,
)
from transformers.utils import logging as transformers_logging

from speechmill.core.command import SpeechmillError
from speechmill.core.files import corrupt_file_error
from speechmill.core.flac import FloatSamples
from speechmill.core.schemas import SAMPLE_RATE
from speechmill.text.tokens import BLANK, PAD, SPACE, UNKNOWN
from speechmill.text.vocab import extractor_class

# Loading takes seconds; its progress bars would only fill the logs.
transformers_logging.disable_progress_bar()

Processor = ProcessorMixin
"""A tokenizer of characters and the feature extractor of an architecture."""

INPUT_KEYS = ("input_values", "input_features", "attention_mask")
"""The keys of a batch that are inputs of a model; the others are for the loss."""

_NO_HEAD = (
    "vocab: keep: the base was only pre-trained, it has no head whose vocabulary could be kept; remove `vocab`, or"
    " choose a base that was fine-tuned"
)
# The functions of the classes of transformers that return the number of frames for a number of samples or features.
_FRAME_FUNCTIONS = ("_get_feat_extract_output_lengths", "_get_subsampling_output_length")
# The number of samples by which the lengths of clips differ that are tried.
_TRIED_STEP = 160
# The largest change of a logit, as a share of the largest logit, that can come from rounding in fp32.
_ROUNDING = 1e-3


def model_config(
    init: dict[str, Any] | None, base: Path | None, changes: dict[str, Any], vocab: int | None, blank: int = BLANK
) -> PreTrainedConfig:
    """Return the configuration of a model whose head has `vocab` outputs.

    Layerdrop is 0 unless `init` or `changes` set it: it is useful in pre-training, while in fine-tuning each draw
    happens on the CPU and may differ between processes.

    Args:
        init: `model_type` and the settings of a model with random weights; ignored if there is a base.
        base: The folder of the base model.
        changes: Settings that replace those of the base.
        vocab: The size of the vocabulary; None for that of the base.
        blank: The id of the CTC blank.

    Raises:
        SpeechmillError: transformers has no CTC model of the architecture, a setting is unknown or invalid, or the base
            has no vocabulary that could be kept.
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
    extractor_class(config.model_type)
    if vocab is None and not config.vocab_size:
        raise SpeechmillError(_NO_HEAD)
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
    if "layerdrop" not in given_encoder and hasattr(encoder_config(config), "layerdrop"):
        encoder_config(config).layerdrop = 0.0
    if vocab is not None:
        _set_vocab_size(config, vocab)
    config.update({"pad_token_id": blank, "ctc_loss_reduction": "mean"})
    for token in ("bos_token_id", "eos_token_id"):
        # Some classes require a number there.
        with suppress(StrictDataclassError):
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
    """Return the configuration of the encoder, which is nested in Parakeet's and a few others, or else `config`."""
    return getattr(config, "encoder_config", config)


def _set_vocab_size(config: PreTrainedConfig, size: int) -> None:
    """Set the size of the vocabulary, which is in the configuration of Granite's encoder as well."""
    config.vocab_size = size
    if hasattr(encoder_config(config), "vocab_size"):
        encoder_config(config).vocab_size = size


def empty_model(config: PreTrainedConfig) -> PreTrainedModel:
    """Return a CTC model without weights, on the meta device."""
    with torch.device("meta"):
        return AutoModelForCTC.from_config(config)  # type: ignore[no-any-return]


def processes_samples(config: PreTrainedConfig) -> bool:
    """Return whether the input of an architecture is samples; otherwise it is features, such as mel spectra."""
    model: Any = MODEL_FOR_CTC_MAPPING[type(config)]
    return bool(model.main_input_name == "input_values")


def new_model(config: PreTrainedConfig, base: Path | None, vocab: dict[str, int] | None) -> PreTrainedModel:
    """Return a CTC model with the weights of `base`, or with random weights from torch's generator without a base.

    The head of the base is kept if its vocabulary contains every entry of `vocab`, in any order. Otherwise the head is
    initialised anew, and so are the adapters of a model that has them, since both are specific to a language; adapters
    of the run's own language, which the base has where `target_lang` names it, are kept. A line on stderr reports which
    of these happened.

    With `vocab` None, the base is returned with its own head.

    Raises:
        SpeechmillError: The weights of the base cannot be read, or its own head is wanted and it has none.
    """
    if base is None:
        return AutoModelForCTC.from_config(config)  # type: ignore[no-any-return]
    # Loaded with the size of its own head, whose rows are reordered below. A base that was only pre-trained may have
    # no head.
    stored_config = copy.deepcopy(config)
    base_size = AutoConfig.from_pretrained(base, trust_remote_code=False).vocab_size
    _set_vocab_size(stored_config, base_size or len(vocab or [0]))
    with _report_corrupt_weights(base):
        model, loading = AutoModelForCTC.from_pretrained(
            base, config=stored_config, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
    has_own_adapters = _load_adapter(model, base)
    name = head_name(model)
    has_head = f"{name}.weight" not in loading["missing_keys"]
    if vocab is None:
        if not has_head:
            raise SpeechmillError(_NO_HEAD)
        print(f"head of the base kept, with {model.config.vocab_size} outputs", file=sys.stderr)
        return model  # type: ignore[no-any-return]
    characters = set(vocab) - {PAD, UNKNOWN, SPACE}
    old_head = getattr(model, name)
    head = _resized_head(old_head, len(vocab))
    base_vocab = _base_vocabulary(base, model.config.vocab_size) if has_head else {}
    rows = None
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
    _resize_self_conditioning(model, head, rows)
    _set_vocab_size(model.config, len(vocab))
    return model  # type: ignore[no-any-return]


def _resize_self_conditioning(model: PreTrainedModel, head: Any, rows: torch.Tensor | None) -> None:
    """Adapt the layers inside of Granite's encoder that also map to and from the vocabulary, if there are any.

    One is the head itself, the other maps its probabilities back to the features of a frame.

    Args:
        model: The model.
        head: Its new head.
        rows: The rows of the head of the base that were kept, or None if the head is new.
    """
    encoder: Any = model.base_model.encoder
    if not hasattr(encoder, "out_mid"):
        return
    old = encoder.out_mid
    encoder.out, encoder.out_mid = head, torch.nn.Linear(head.out_features, old.out_features)
    if rows is None:
        _initialise(model, encoder.out_mid)
        return
    with torch.no_grad():
        encoder.out_mid.weight.copy_(old.weight[:, rows])
        encoder.out_mid.bias.copy_(old.bias)


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


def encoder_layers(model: PreTrainedModel) -> torch.nn.ModuleList:
    """Return the layers of the encoder."""
    encoder: Any = model.base_model.encoder
    # SEW-D has another module around its layers.
    return encoder.layers if hasattr(encoder, "layers") else encoder.encoder.layer  # type: ignore[no-any-return]


def adapters(model: PreTrainedModel) -> list[torch.nn.Module]:
    """Return the adapters of MMS, one for each layer; none without `adapter_attn_dim` in the configuration."""
    return [module for name, module in model.named_modules() if name.endswith(".adapter_layer")]


def added_modules(model: PreTrainedModel) -> list[torch.nn.Module]:
    """Return the parts of a CTC model that a base that was only pre-trained lacks, and whose weights are then random.

    These are the head, the adapters of MMS, the convolutions after the encoder of a model with `add_adapter`, and the
    layers inside of Granite's encoder that map to and from the vocabulary.
    """
    encoder = getattr(model.base_model, "encoder", model.base_model)
    others = [
        getattr(model.base_model, "adapter", None),
        *(getattr(encoder, name, None) for name in ("out", "out_mid")),
    ]
    return [getattr(model, head_name(model)), *adapters(model), *(each for each in others if each is not None)]


def freeze_unused(model: PreTrainedModel) -> None:
    """Freeze parameters that no output depends on: they get no gradient, which DistributedDataParallel would wait for.

    These are the embedding of masked frames where none are masked, and the convolution of wav2vec2-conformer for
    positions, which it creates but does not call.
    """
    config, encoder = model.config, getattr(model.base_model, "encoder", None)
    mask = getattr(model.base_model, "masked_spec_embed", None)
    if mask is not None and not (getattr(config, "apply_spec_augment", True) and config.mask_time_prob > 0):
        mask.requires_grad_(False)
    if config.model_type == "wav2vec2-conformer" and encoder is not None:
        encoder.pos_conv_embed.requires_grad_(False)


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

    Raises:
        SpeechmillError: The features are not those of the architecture: another hop or window.
    """
    if (folder / "alphabet.json").is_file():
        return Wav2Vec2Processor(
            AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False),
            AutoTokenizer.from_pretrained(folder, trust_remote_code=False),
        )
    processor: Processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    extractor = processor.feature_extractor
    if "input_features" in extractor.model_input_names and _measure(extractor) != _usual_features(extractor.__class__):
        raise SpeechmillError(
            f"model.base: {type(extractor).__name__} in {folder} computes features at another rate than transformers"
            " does by default for this architecture, which is not supported; choose another base"
        )
    return processor


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
    extractor = processor.feature_extractor
    # Not every extractor of mel spectra returns a mask unless it is asked to, as processors and the pipeline do.
    options = {} if isinstance(extractor, Wav2Vec2FeatureExtractor) else {"return_attention_mask": True}
    features = dict(extractor(list(samples), sampling_rate=SAMPLE_RATE, padding=True, return_tensors="pt", **options))
    if "attention_mask" in features and bool(features["attention_mask"].all()):
        del features["attention_mask"]
    return features


def forward(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the logits of a batch, shape (batch, frames, vocabulary); keys that are not inputs are ignored."""
    return model(**{key: batch[key] for key in INPUT_KEYS if key in batch}).logits  # type: ignore[no-any-return]


def output_frames(model: PreTrainedModel, num_samples: torch.Tensor) -> torch.Tensor:
    """Return the number of frames of the logits of clips with `num_samples` samples, shape (batch,).

    These are all frames that plain transformers outputs, and its pipeline decodes, for each clip alone. Extractors of
    mel spectra pad: w2v-BERT's pads an odd number of spectra with one more, and Parakeet's always adds one. The last
    frame of a clip may therefore be partly or, with Parakeet, completely masked.

    The number is 0 or negative where a clip is too short for the model.
    """
    features = num_samples
    if not processes_samples(model.config):
        kind: Any = extractor_class(model.config.model_type)
        usual = _usual_features(kind)
        features = (num_samples + usual.offset).div(usual.hop, rounding_mode="floor") * (num_samples >= usual.shortest)
    function = next(getattr(model, name) for name in _FRAME_FUNCTIONS if hasattr(model, name))
    frames: torch.Tensor = function(features).long()
    # SEW's layers process the means of this number of frames.
    return frames * (frames >= getattr(model.config, "squeeze_factor", 1))


class _Features(NamedTuple):
    """How many features an extractor computes: `(samples + offset) // hop`, from `shortest` samples on."""

    hop: int
    offset: int
    shortest: int
    """A shorter clip is an error, or its features are NaN, such as a single spectrum that is divided by its deviation
    over time."""


@cache
def _usual_features(kind: Callable[[], Any]) -> _Features:
    return _measure(kind())


def _measure(extractor: Any) -> _Features:
    """Find out how many features an extractor computes, by trying.

    The formula of `_Features` holds for any sequence of windows that are shifted by a hop, or of convolutions, as these
    formulas combine to another one of the same kind.
    """
    noise = np.random.default_rng(0).normal(0.0, 0.1, SAMPLE_RATE).astype(np.float32)

    def rows(samples: int) -> int:
        features = extractor([noise[:samples]], sampling_rate=SAMPLE_RATE, padding=True, return_tensors="np")
        return int(features["input_features"].shape[1])

    def is_long_enough(samples: int) -> bool:
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
                features = extractor([noise[:samples]], sampling_rate=SAMPLE_RATE, padding=True, return_tensors="np")
        except (ValueError, RuntimeError, IndexError, AssertionError):
            return False
        return features["input_features"].size > 0 and bool(np.isfinite(features["input_features"]).all())

    def next_change(samples: int) -> int:
        longer = range(samples, len(noise))
        return longer[bisect_right(longer, rows(samples), key=rows)]

    first = next_change(len(noise) // 4)
    hop = next_change(first) - first
    shortest = bisect_left(range(first), True, key=is_long_enough)
    return _Features(hop, rows(first) * hop - first, shortest)


def samples_per_frame(model: PreTrainedModel) -> int:
    """Return the number of samples per frame of the logits, which includes the stride of adapters."""
    # As many frames more as samples are more, since all frames are as long.
    changes = output_frames(model, torch.arange(SAMPLE_RATE, 2 * SAMPLE_RATE)).diff().nonzero()
    return int(changes[1] - changes[0])


def encoder_stride(model: PreTrainedModel) -> float:
    """Return the number of input samples from one frame of the encoder's layers to the next, on average over them.

    The frames of the logits can be fewer, by adapters after the layers, or more, as SEW's layers process half as many.
    The first layers of Granite process more frames than the last ones.
    """
    config, encoder = model.config, encoder_config(model.config)
    adapters = config.num_adapter_layers if getattr(config, "add_adapter", False) else 0
    halvings = [
        sum(each >= layer for each in getattr(encoder, "subsample_layers", ()))
        for layer in range(encoder.num_hidden_layers)
    ]
    factor = sum(2**count for count in halvings) / len(halvings)
    stride: float = samples_per_frame(model) / int(config.adapter_stride**adapters if adapters else 1)
    squeezed = int(getattr(config, "squeeze_factor", 1))
    return stride * squeezed / float(factor)


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
    frame = samples_per_frame(model)
    # The partial last frames of all architectures repeat after `frame` samples.
    lengths = torch.arange(SAMPLE_RATE // 2, SAMPLE_RATE // 2 + frame, _TRIED_STEP)
    noise = np.random.default_rng(0).normal(0.0, 0.1, 2 * SAMPLE_RATE).astype(np.float32)

    def padding_matters(samples: int, longer: int) -> bool:
        clip, frames = noise[:samples], int(output_frames(model, torch.tensor([samples]))[0])
        # Without cuDNN, which chooses other algorithms for other shapes.
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
