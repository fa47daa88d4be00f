"""Section `runs.*.model`: what training starts from."""

import hashlib
import re
from typing import Any

from pydantic import Field, model_validator

from speechmill.config.base import Section


class ModelConfig(Section):
    """A base model, another run's model, or a configuration for random weights."""

    base: str | None = Field(
        None,
        description="a model to fine-tune: an id on the Hugging Face Hub, `owner/name`, or a local folder, written with"
        " `/`, `./`, `../` or `~` in front",
    )
    run: str | None = Field(
        None, description="instead of a base: another run of this configuration, whose model this one starts from"
    )
    revision: str | None = Field(
        None,
        description="the commit, tag or branch of a Hub id; resolved to a commit when fetched, and recorded",
    )
    init: dict[str, Any] | None = Field(
        None,
        description="instead of a base: `model_type` and any settings of that model's transformers configuration, to"
        " start from random weights",
    )
    expected_bytes: int | None = Field(
        None, gt=0, description="the size of a base on the Hub, for `make plan`, which fetches nothing"
    )
    config: dict[str, Any] = Field(
        default_factory=dict,
        description="settings of the base's transformers configuration to change, such as dropouts",
    )

    @model_validator(mode="after")
    def _base_or_init(self) -> "ModelConfig":
        if [self.base, self.run, self.init].count(None) != 2:
            raise ValueError("give one of `base`, `run` and `init`")
        if self.init is not None and "model_type" not in self.init:
            raise ValueError("`init` needs a `model_type`, such as wav2vec2")
        if self.init is not None and self.config:
            raise ValueError("`config` changes a base; `init` holds all its settings itself")
        if self.base is None and (self.revision or self.expected_bytes):
            raise ValueError("`revision` and `expected_bytes` belong to a `base`")
        if self.base is not None and not self.base_is_folder and self.revision is None:
            raise ValueError(f"pin `revision` for the Hub id {self.base}, so that the run can be repeated")
        return self

    @property
    def has_base(self) -> bool:
        """Whether training starts from weights that are there."""
        return self.init is None

    @property
    def base_is_folder(self) -> bool:
        """Whether `base` is written as a path, not as a Hub id."""
        return self.base is not None and self.base.startswith(("/", "./", "../", "~"))

    @property
    def base_name(self) -> str:
        """The folder of the base under `results/models`: readable, and different for each base and revision."""
        if self.run is not None:
            return f"run-{self.run}"
        key = hashlib.sha256(f"{self.base}@{self.revision}".encode()).hexdigest()[:8]
        readable = re.sub(r"[^A-Za-z0-9.]+", "_", (self.base or "").strip("./~"))[-60:]
        return f"{readable}-{key}"
