"""Section `runs.*.finetune`: optimiser, precision and training hardware."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from speechmill.config.base import Section

Device = Literal["gpu", "cpu", "auto"]


class LoraConfig(Section):
    """Section `runs.*.finetune.lora`: low-rank adaptation (https://arxiv.org/abs/2106.09685).

    A linear layer with the weights W computes with W + (alpha / rank) B A, where B and A, which have `rank` columns and
    rows, are trained instead of W. Checkpoints contain the sum.
    """

    rank: int = Field(16, gt=0, description="rank of the trained matrices")
    alpha: float = Field(32, gt=0, description="scale of what they add to the weights: alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of their input")
    targets: Annotated[list[str], Field(min_length=1)] | None = Field(
        None,
        description="names of the linear layers that get such matrices, such as `q_proj`; default: all linear layers of"
        " the encoder, its attention and feed-forward parts",
    )


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
    # A key that is left out while it has its default does not change the settings of runs from before it existed.
    lora: LoraConfig | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="train low-rank matrices instead of the weights of the encoder, which are frozen, and the output"
        " layer: less memory; checkpoints are ordinary models",
    )
    optimizer: Literal["adamw", "adamw_8bit"] = Field(
        "adamw",
        exclude_if=lambda value: value == "adamw",
        description="optimiser; `adamw_8bit` keeps its two moments in 8 bits, with a quarter of their memory, and needs"
        " a CUDA GPU and the package bitsandbytes",
    )

    @model_validator(mode="after")
    def _lora_decides_what_is_frozen(self) -> "MemoryConfig":
        if self.lora is not None and self.train_only_adapters:
            raise ValueError("`lora` and `train_only_adapters` are two ways to train few weights; choose one of them")
        if self.lora is not None and self.freeze_feature_encoder is False:
            raise ValueError(
                "`lora` freezes the weights of the model; remove `freeze_feature_encoder: false`, or remove `lora` to"
                " train all weights"
            )
        return self


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
    head_learning_rate: Annotated[float, Field(gt=0)] | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="peak learning rate of the output layer, with the same schedule; default: `learning_rate`",
    )
    head_only_steps: int = Field(
        0,
        ge=0,
        exclude_if=lambda value: value == 0,
        description="steps at the start in which only the output layer is trained, so that its random weights do not"
        " disturb the encoder; the steps count in the schedule",
    )
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = Field(
        "linear", description="learning rate schedule after the warm-up"
    )
    warmup_steps: int = Field(0, ge=0, description="steps in which the learning rate rises from 0 to its peak")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of AdamW")
    adam_betas: tuple[float, float] = Field((0.9, 0.999), description="betas of AdamW")
    adam_epsilon: float = Field(1e-8, gt=0, description="epsilon of AdamW")
    max_grad_norm: float = Field(1.0, ge=0, description="largest gradient norm, by clipping; 0 turns clipping off")
    compile: bool = Field(
        False,
        description="compile the encoder layers with torch.compile, a tenth faster on a GPU; needs a C++ compiler",
    )
    threads: int = Field(
        2,
        gt=0,
        description="CPU threads of the training process; part of the configuration because sums on a CPU depend on"
        " their number",
    )
