"""CTC models of transformers: from a base, from a configuration, from a checkpoint."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCTC, PreTrainedConfig, PreTrainedModel, Wav2Vec2Processor
from transformers.utils import logging as transformers_logging

from speechmill.command import SpeechmillError
from speechmill.tables import read_json

# Loading takes moments; its bars would only fill the logs.
transformers_logging.disable_progress_bar()


def model_config(
    init: dict[str, Any] | None, base: Path | None, changes: dict[str, Any], vocab: int
) -> PreTrainedConfig:
    """The configuration of a model whose head has `vocab` outputs, the blank being id 0.

    Raises SpeechmillError where a setting is not one of the model's.
    """
    if base is not None:
        config, given = AutoConfig.from_pretrained(base), changes
    else:
        given = {key: value for key, value in (init or {}).items() if key != "model_type"}
        try:
            config = AutoConfig.for_model((init or {})["model_type"])
        except ValueError as error:
            raise SpeechmillError(f"model.init.model_type: {error}") from error
    unknown = sorted(key for key in given if not hasattr(config, key))
    if unknown:
        raise SpeechmillError(f"model: {config.model_type} has no setting {', '.join(unknown)}")
    config.update(given | {"vocab_size": vocab, "pad_token_id": 0, "ctc_loss_reduction": "mean"})
    for token in ("bos_token_id", "eos_token_id"):
        setattr(config, token, None)
    # Whatever the precision that the base was stored in: the Trainer lowers it where it may be lower.
    config.dtype = torch.float32
    return config  # type: ignore[no-any-return]


def new_model(config: PreTrainedConfig, base: Path | None, vocab: dict[str, int]) -> PreTrainedModel:
    """A CTC model with random weights, or with the base's and, unless `vocab` is the base's own, a new head."""
    fresh: PreTrainedModel = AutoModelForCTC.from_config(config)
    if base is None:
        return fresh
    model: PreTrainedModel = AutoModelForCTC.from_pretrained(
        base, config=config, ignore_mismatched_sizes=True, dtype=torch.float32
    )
    own = base / "vocab.json"
    if not own.is_file() or read_json(own) != vocab:
        # A head of the right size for other characters would be loaded without a word.
        model.lm_head = fresh.lm_head
    return model


def parameter_count(config: PreTrainedConfig) -> int:
    """The number of parameters of a CTC model of this configuration, without making their memory."""
    with torch.device("meta"):
        return sum(p.numel() for p in AutoModelForCTC.from_config(config).parameters())


def load_checkpoint(folder: Path) -> tuple[PreTrainedModel, Wav2Vec2Processor]:
    """A checkpoint's model, ready to evaluate, and its processor, as plain transformers load them."""
    return AutoModelForCTC.from_pretrained(folder).eval(), Wav2Vec2Processor.from_pretrained(folder)


def output_frames(model: PreTrainedModel, samples: torch.Tensor) -> torch.Tensor:
    """The number of output frames for numbers of input samples, shape (batch,)."""
    return model._get_feat_extract_output_lengths(samples)  # type: ignore[operator,no-any-return]


def depends_on_padding(config: PreTrainedConfig) -> bool:
    """Whether padding a clip changes the model's answer: group norm takes its mean over the padding too."""
    return getattr(config, "feat_extract_norm", "layer") == "group"
