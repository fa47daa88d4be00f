"""Section `runs.*.finetune`: the optimiser and the precision."""

from typing import Literal

from pydantic import Field

from speechmill.config.base import Section

Device = Literal["gpu", "cpu", "auto"]


class MemoryConfig(Section):
    """What of training decides how much memory it takes."""

    precision: Literal["fp32", "bf16", "fp16"] = Field("bf16", description="the precision of the forward pass")
    freeze_feature_encoder: bool | None = Field(
        None,
        description="whether the convolutions that make frames of samples keep their weights; unless said, they do with"
        " a base and do not with new weights",
    )
    train_only_adapters: bool = Field(
        False,
        description="keep all weights but those of the adapters and the head, as MMS is taught a new language; for a"
        " model with `adapter_attn_dim` in its configuration",
    )
    gradient_checkpointing: bool | Literal["auto"] = Field(
        "auto",
        description="compute activations twice instead of keeping them: less memory, a third more work; `auto` does"
        " where the plan's estimate of memory is above the run's `gpu_memory_gib`",
    )
    attention: Literal["sdpa", "eager"] = Field(
        "sdpa", description="the attention kernels; a model that has no `sdpa` falls back to `eager`"
    )


class RuntimeConfig(Section):
    """What of training changes no weights."""

    logging_steps: int = Field(10, gt=0, description="a line of `training.jsonl` every so many steps")
    workers: int = Field(0, ge=0, description="processes that decode audio beside the training process")
    resume_minutes: float = Field(
        10,
        gt=0,
        description="a state to go on from is saved at least every so many minutes: what a kill costs at most",
    )


class FinetuneConfig(MemoryConfig, RuntimeConfig):
    """How the weights are changed; the number of steps is the plan's affair."""

    learning_rate: float = Field(gt=0, description="the highest learning rate")
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = Field(
        "linear", description="how the learning rate falls after the warm-up"
    )
    warmup_steps: int = Field(0, ge=0, description="steps in which the learning rate rises from nothing")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of AdamW")
    adam_betas: tuple[float, float] = Field((0.9, 0.999), description="the two betas of AdamW")
    adam_epsilon: float = Field(1e-8, gt=0, description="the epsilon of AdamW")
    max_grad_norm: float = Field(1.0, ge=0, description="gradients are scaled down to this norm; 0 leaves them")
    compile: bool = Field(False, description="compile the encoder's layers with torch.compile")
    fused_optimizer: bool = Field(True, description="update all weights of AdamW in one kernel")
    threads: int = Field(
        2,
        gt=0,
        description="processor threads; fixed here, because the sums of a CPU run depend on their number",
    )
