"""Section `runs.*.finetune`: optimiser, precision and training hardware."""

from typing import Literal

from pydantic import Field

from speechmill.config.base import Section

Device = Literal["gpu", "cpu", "auto"]


class MemoryConfig(Section):
    """Settings that decide how much memory training takes."""

    precision: Literal["fp32", "bf16", "fp16"] = Field("bf16", description="precision of the forward pass")
    freeze_feature_encoder: bool | None = Field(
        None,
        description="whether the convolutional feature encoder keeps its weights; default: true with a base model,"
        " false with random weights",
    )
    train_only_adapters: bool = Field(
        False,
        description="train only the adapters and the output layer, as MMS does for a new language; needs a model with"
        " `adapter_attn_dim` in its configuration",
    )
    gradient_checkpointing: bool | Literal["auto"] = Field(
        "auto",
        description="recompute activations instead of keeping them: less memory, a third more computation; `auto` does"
        " so if the plan's memory estimate exceeds the run's `gpu_memory_gib`",
    )
    attention: Literal["sdpa", "eager"] = Field(
        "sdpa", description="attention implementation; models without `sdpa` fall back to `eager`"
    )


class RuntimeConfig(Section):
    """Settings of training that do not change the weights."""

    logging_steps: int = Field(10, gt=0, description="steps between two lines of `training.jsonl`")
    workers: int = Field(0, ge=0, description="processes that decode audio, in addition to the training process")
    resume_minutes: float = Field(
        10,
        gt=0,
        description="longest time in minutes between two saved resume states: the most that a kill can cost",
    )


class FinetuneConfig(MemoryConfig, RuntimeConfig):
    """How the weights are optimised; the number of steps follows from `plan`."""

    learning_rate: float = Field(gt=0, description="peak learning rate")
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = Field(
        "linear", description="learning rate schedule after the warm-up"
    )
    warmup_steps: int = Field(0, ge=0, description="steps in which the learning rate rises from 0 to its peak")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of AdamW")
    adam_betas: tuple[float, float] = Field((0.9, 0.999), description="betas of AdamW")
    adam_epsilon: float = Field(1e-8, gt=0, description="epsilon of AdamW")
    max_grad_norm: float = Field(1.0, ge=0, description="largest gradient norm, by clipping; 0 turns clipping off")
    compile: bool = Field(False, description="compile the encoder layers with torch.compile")
    threads: int = Field(
        2,
        gt=0,
        description="CPU threads of the training process; part of the configuration because sums on a CPU depend on"
        " their number",
    )
