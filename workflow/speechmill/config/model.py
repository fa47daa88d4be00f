"""Section `runs.*.model`: what training starts from."""

import hashlib
import re
from typing import Any

from pydantic import Field, model_validator

from speechmill.config.base import Section


class ModelSettings(Section):
    """Either a base model or a configuration for random weights."""

    base: str | None = Field(
        None,
        description="a model to fine-tune: an id on the Hugging Face Hub, `owner/name`, or a local folder, written with"
        " `/`, `./`, `../` or `~` in front",
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
    config: dict[str, Any] = Field(
        default_factory=dict,
        description="settings of the base's transformers configuration to change, such as dropouts",
    )

    @model_validator(mode="after")
    def _base_or_init(self) -> "ModelSettings":
        if (self.base is None) == (self.init is None):
            raise ValueError("give either `base` or `init`")
        if self.init is not None and "model_type" not in self.init:
            raise ValueError("`init` needs a `model_type`, such as wav2vec2")
        if self.init is not None and (self.config or self.revision):
            raise ValueError("`config` and `revision` belong to a `base`; `init` holds all its settings itself")
        if self.base is not None and not self.base_is_folder and self.revision is None:
            raise ValueError(f"pin `revision` for the Hub id {self.base}, so that the run can be repeated")
        return self

    @property
    def base_is_folder(self) -> bool:
        """Whether `base` is written as a path, not as a Hub id."""
        return self.base is not None and self.base.startswith(("/", "./", "../", "~"))

    @property
    def base_name(self) -> str:
        """The folder of the base under `results/models`: readable, and different for each base and revision."""
        key = hashlib.sha256(f"{self.base}@{self.revision}".encode()).hexdigest()[:8]
        readable = re.sub(r"[^A-Za-z0-9.]+", "_", (self.base or "").strip("./~"))[-60:]
        return f"{readable}-{key}"
