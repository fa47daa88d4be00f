"""Section `runs.*.model`: the weights that training starts from."""

import hashlib
import re
from typing import Any

from pydantic import Field, model_validator

from speechmill.config.base import Section


class ModelConfig(Section):
    """A base model, the model of another run, or random weights."""

    base: str | None = Field(
        None,
        description="model to fine-tune: a Hugging Face Hub id, `owner/name`, or a local folder that starts with `/`,"
        " `./`, `../` or `~`",
    )
    run: str | None = Field(
        None, description="instead of `base`: another run of this configuration, whose model is fine-tuned further"
    )
    revision: str | None = Field(
        None,
        description="commit, tag or branch of a Hub id; resolved to a commit at download, which is recorded",
    )
    init: dict[str, Any] | None = Field(
        None,
        description="instead of `base`: `model_type` and any settings of the transformers configuration of that model,"
        " for random weights",
    )
    expected_bytes: int | None = Field(
        None, gt=0, description="size of a base model on the Hub, for `make plan`, which downloads nothing"
    )
    config: dict[str, Any] = Field(
        default_factory=dict,
        description="settings of the base model's transformers configuration to override, such as dropouts",
    )

    @model_validator(mode="after")
    def _one_start(self) -> "ModelConfig":
        if [self.base, self.run, self.init].count(None) != 2:
            raise ValueError("give exactly one of `base`, `run` and `init`")
        if self.init is not None and "model_type" not in self.init:
            raise ValueError("`init` needs a `model_type`, such as wav2vec2")
        if self.init is not None and self.config:
            raise ValueError("`config` overrides settings of a base model: with `init`, put all settings there")
        if self.base is None and (self.revision or self.expected_bytes):
            raise ValueError("`revision` and `expected_bytes` need a `base`")
        if self.base is not None and not self.base_is_folder and self.revision is None:
            raise ValueError(f"add a `revision` for the Hub id {self.base}, so that the run is reproducible")
        return self

    @property
    def has_base(self) -> bool:
        """Whether training starts from existing weights."""
        return self.init is None

    @property
    def base_is_folder(self) -> bool:
        """Whether `base` is a path, not a Hub id."""
        return self.base is not None and self.base.startswith(("/", "./", "../", "~"))

    @property
    def base_name(self) -> str:
        """The name of the base model's folder below `results/models`, unique for each base and revision."""
        if self.run is not None:
            return f"run-{self.run}"
        key = hashlib.sha256(f"{self.base}@{self.revision}".encode()).hexdigest()[:8]
        readable = re.sub(r"[^A-Za-z0-9.]+", "_", (self.base or "").strip("./~"))[-60:]
        return f"{readable}-{key}"
