"""Settings of a run that depend on the architecture of its model, checked without transformers."""

from collections.abc import Mapping
from typing import Any

from speechmill.config.finetune import MemoryConfig

# It cuts its input into overlapping parts, as many as its length requires.
_NOT_EXPORTED = {"granite_speech5_ctc"}


def adapter_errors(config: Mapping[str, Any], finetune: MemoryConfig) -> list[str]:
    """Return an error message if only adapters are trained, but the model has none.

    Args:
        config: The transformers configuration of the model; `adapter_attn_dim` is read.
        finetune: The section `finetune` of the run.
    """
    if not finetune.train_only_adapters or config.get("adapter_attn_dim"):
        return []
    return [
        "finetune.train_only_adapters: the model has no adapters; set adapter_attn_dim in its configuration, which is"
        " 16 in MMS, or remove the key"
    ]


def export_errors(model_type: str | None) -> list[str]:
    """Return an error message if models of an architecture cannot be exported."""
    if model_type not in _NOT_EXPORTED:
        return []
    return [f"export: {model_type} has operations that the exporter of ONNX lacks; remove the key"]
