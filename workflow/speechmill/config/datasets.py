"""Section `datasets`: where recordings come from and how they are stored."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from speechmill.config.base import Section
from speechmill.config.shards import Resampler

Name = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
"""A name that can stand in a path and on either side of the hyphen of `{dataset}-{split}`."""


class ValueMap(Section):
    """A column made from a field of the file name or of the manifest."""

    field: str = Field(description="the field or column that is read")
    values: dict[str, str] | None = Field(
        None,
        description="what each value of the field stands for, such as `'0': zero`; without it the value as it is",
    )


class SplitRule(Section):
    """How a folder's recordings are divided into splits by the value of one field."""

    field: str = Field(description="the field of the pattern, or column of the manifest, that decides")
    values: dict[Name, list[str]] | None = Field(
        None,
        description="for each split, the values that belong to it; without it the value is the split's name",
    )
    otherwise: Name | None = Field(
        None, description="the split of every other value; without it such a value is an error"
    )

    @field_validator("values", mode="before")
    @classmethod
    def _numbers_are_text(cls, values: object) -> object:
        if isinstance(values, dict):
            return {split: [str(v) for v in listed] for split, listed in values.items()}
        return values


class CommonVoice(Section):
    """A Common Voice release: an archive as Mozilla publishes it."""

    source: Literal["common_voice"] = Field(description="the corpus is a Common Voice archive")
    path: str = Field(description="the archive, `cv-corpus-….tar.gz`")
    language: str = Field(description="the locale, as the archive's folder is named: `ru`")


class Folder(Section):
    """A directory of recordings with a manifest, or with fields in the file names."""

    source: Literal["folder"] = Field(description="the corpus is a directory of audio files")
    path: str = Field(description="the directory")
    language: str = Field(description="the language's code: `en`")
    manifest: str | None = Field(
        None, description="a CSV or TSV file in the directory, with a column `path` and what `columns` names"
    )
    pattern: str | None = Field(
        None,
        description="instead of a manifest: file names with named fields, such as `{digit}_{speaker}_{take}.wav`",
    )
    columns: dict[Literal["path", "sentence", "speaker_id", "gender", "age", "accent"], str | ValueMap] = Field(
        default_factory=dict,
        description="where each of `path`, `sentence`, `speaker_id`, `gender`, `age`, `accent` comes from: the name of"
        " a field or column, or a `field` with `values`; a column of the same name needs no entry",
    )
    split: SplitRule = Field(SplitRule(field="split"), description="how recordings are divided into splits")

    @model_validator(mode="after")
    def _manifest_or_pattern(self) -> "Folder":
        if (self.manifest is None) == (self.pattern is None):
            raise ValueError("give either `manifest` or `pattern`")
        return self


class _Stored(Section):
    name: str = Field(description="the corpus's name for people, as it stands in the card")
    version: str = Field("", description="the release of the corpus")
    licence: str = Field(description="the corpus's licence, an SPDX identifier such as `CC0-1.0`")
    hub_id: str | None = Field(
        None,
        description="the corpus's id on the Hugging Face Hub, for the card's `datasets` and `model-index`",
    )
    splits: list[Name] = Field(
        min_length=1,
        description="the splits to take; a clip that several have is stored once, under the first of these",
    )
    shards: int | dict[Name, int] = Field(
        description="the number of Parquet shards a split, one number for all or one for each; a shard is one job"
    )
    resampler: Resampler = Field("soxr", description="what resamples to 16 kHz: `soxr`, `sox` or `torchaudio`")

    @field_validator("splits")
    @classmethod
    def _listed_once(cls, splits: list[str]) -> list[str]:
        if len(set(splits)) < len(splits):
            raise ValueError("a split is listed twice")
        return splits

    @model_validator(mode="after")
    def _every_split_has_shards(self) -> "_Stored":
        if isinstance(self.shards, dict) and set(self.shards) != set(self.splits):
            raise ValueError("`shards` must be one number, or name each of `splits` and nothing else")
        if min([self.shards] if isinstance(self.shards, int) else self.shards.values()) < 1:
            raise ValueError("a split has at least one shard")
        return self

    def shard_count(self, split: str) -> int:
        """The number of shards of `split`."""
        return self.shards if isinstance(self.shards, int) else self.shards[split]


class CommonVoiceDataset(CommonVoice, _Stored):
    """A dataset from a Common Voice archive."""


class FolderDataset(Folder, _Stored):
    """A dataset from a directory of recordings."""


Source = Annotated[CommonVoice | Folder, Field(discriminator="source")]
Dataset = Annotated[CommonVoiceDataset | FolderDataset, Field(discriminator="source")]


class IngestSettings(Section):
    """What `ingest` reads of a dataset: the source (but not its place), the splits and their shards."""

    source: Source
    splits: list[Name]
    shards: dict[Name, int]
