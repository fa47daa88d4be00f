"""Section `runs.*.model`: the weights that training starts from."""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from speechmill.config.base import Day, Section
from speechmill.config.hub_ids import check_hub_id
from speechmill.config.trained_on import TrainedOn


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
    target_lang: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_-]+$",
        description="language of a base that holds several, each with its own adapter, head and vocabulary, such as"
        " MMS: the code of ISO 639-3 in the names of its adapters, such as `tur` or `azj-script_latin`; required if the"
        " base has the language of the run, and for scoring",
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
    trained_on: list[TrainedOn] = Field(
        default_factory=list,
        exclude_if=lambda corpora: not corpora,
        description="corpora that the base was trained on, for the card, which compares them with the scored sets. They"
        " are added to those that the base's own card names in its front matter; of the same corpus, what is given here"
        " counts",
    )
    released: Day | None = Field(
        None,
        exclude_if=lambda day: day is None,
        description="date when the base was published, such as `2021-11-18`; the last day of the month or year if no"
        " more is known. Default: when its weights last changed on the Hub",
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
        if self.base is None and self.target_lang:
            raise ValueError("`target_lang` needs a `base`: the model of a run has one language")
        if self.base is None and (self.trained_on or self.released):
            raise ValueError("`trained_on` and `released` need a `base`: what a run was trained on is known")
        if self.base is not None and not self.base_is_folder and self.revision is None:
            raise ValueError(f"add a `revision` for the Hub id {self.base}, so that the run is reproducible")
        return self

    @field_validator("base")
    @classmethod
    def _folder_or_hub_id(cls, base: str | None) -> str | None:
        if base is not None and not _is_folder(base):
            try:
                check_hub_id(base)
            except ValueError as error:
                raise ValueError(f"{error}; a local folder starts with `/`, `./`, `../` or `~`") from None
        return base

    @property
    def has_base(self) -> bool:
        """Whether training starts from existing weights."""
        return self.init is None

    @property
    def base_is_folder(self) -> bool:
        """Whether `base` is a path, not a Hub id."""
        return self.base is not None and _is_folder(self.base)

    @property
    def base_title(self) -> str | None:
        """The Hub id of the base, or the name of its folder, for files that are passed on."""
        if self.base is None or not self.base_is_folder:
            return self.base
        return os.path.basename(os.path.abspath(Path(self.base).expanduser()))  # noqa: PTH100, PTH119 (without links)

    @property
    def base_without_location(self) -> str | None:
        """The Hub id of the base, or its folder as if it lay in the working folder."""
        return f"./{self.base_title}" if self.base_is_folder else self.base

    @property
    def base_name(self) -> str:
        """The name of the base model's folder below `results/models`, unique for each base, revision and language."""
        if self.run is not None:
            return f"run-{self.run}"
        language = "" if self.target_lang is None else f"#{self.target_lang}"
        key = hashlib.sha256(f"{self.base}@{self.revision}{language}".encode()).hexdigest()[:8]
        readable = re.sub(r"[^A-Za-z0-9.]+", "_", (self.base or "").strip("./~"))[-60:]
        return f"{readable}-{key}"


def _is_folder(base: str) -> bool:
    return base.startswith(("/", "./", "../", "~"))
