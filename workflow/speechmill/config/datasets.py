"""Section `datasets`: where recordings come from and how they are stored."""

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from speechmill.config.base import Name, Section
from speechmill.config.shards import Resampler


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
    default: Name | None = Field(
        None, description="the split of every other value; without it such a value is an error"
    )

    @field_validator("values", mode="before")
    @classmethod
    def _numbers_are_text(cls, values: object) -> object:
        if isinstance(values, dict):
            return {
                split: [str(v) for v in listed] if isinstance(listed, list) else listed
                for split, listed in values.items()
            }
        return values

    @model_validator(mode="after")
    def _a_value_has_one_split(self) -> "SplitRule":
        listed = [value for values in (self.values or {}).values() for value in values]
        if len(set(listed)) < len(listed):
            raise ValueError("a value is listed twice in `values`")
        return self


class Download(Section):
    """How an archive is fetched where it is not at `path` yet; it is put there, and stays."""

    urls: list[str] = Field(
        default_factory=list, description="addresses of the same file, tried in turn: `https://…`, `http://…`"
    )
    collective: str | None = Field(
        None,
        description="the id or slug of a dataset of Mozilla Data Collective, whose terms you have accepted there; needs"
        " the environment variable `MDC_API_KEY`",
    )
    bytes: int | None = Field(None, gt=0, description="the file's size, checked")
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="the file's digest, checked")

    @field_validator("urls")
    @classmethod
    def _without_secrets(cls, urls: list[str]) -> list[str]:
        # An address is shown by snakemake and stands in its records.
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.netloc:
                raise ValueError("an address begins with https:// or http://")
            if "@" in parts.netloc or re.search(r"(?i)(sig|token|key|credential|password)[^&=]*=", parts.query):
                raise ValueError(
                    "an address must hold no key, password or signature: use `collective`, or put the archive at `path`"
                )
        return urls

    @model_validator(mode="after")
    def _somewhere(self) -> "Download":
        if bool(self.urls) == (self.collective is not None):
            raise ValueError("give either `urls` or `collective`")
        return self


class _Archive(Section):
    """A corpus that lies in one archive or in one folder."""

    path: str = Field(
        description="the archive, `….tar.gz`, or the folder that it was unpacked to; an archive may lie in a bucket,"
        " `s3://bucket/….tar.gz`"
    )
    language: str = Field(description="the language's code: `ru`")
    download: Download | None = Field(None, description="how the archive is fetched where `path` does not exist")


class CommonVoice(_Archive):
    """A Common Voice release, 6 to 27: an archive as Mozilla publishes it, or the folder that it unpacks to."""

    source: Literal["common_voice"] = Field(description="the corpus is a Common Voice release")
    language: str = Field(description="the locale, as the archive's folder is named: `ru`")


class Zeroth(_Archive):
    """Zeroth-Korean as OpenSLR publishes it, with `{train,test}_data_01`, `.trans.txt` and `AUDIO_INFO`."""

    source: Literal["zeroth"] = Field(description="the corpus has the layout of Zeroth-Korean, OpenSLR 40")


class Hub(Section):
    """A dataset of the Hugging Face Hub, or a local folder that `datasets.load_dataset` reads."""

    source: Literal["hub"] = Field(description="the corpus is a dataset on the Hub, or a folder laid out as one")
    hub_id: str | None = Field(None, description="the dataset's id, `owner/name`")
    path: str | None = Field(None, description="instead of an id: a local folder that `datasets` reads")
    language: str = Field(description="the language's code: `ko`")
    config: str | None = Field(None, description="the dataset's configuration, where it has several")
    revision: str | None = Field(
        None, description="the commit, tag or branch of the id; resolved to a commit when fetched, and recorded"
    )
    columns: dict[Literal["id", "audio", "sentence", "speaker_id", "gender", "age", "accent"], str] = Field(
        default_factory=dict,
        description="the dataset's names of `id`, `audio`, `sentence`, `speaker_id`, `gender`, `age`, `accent`; a"
        " column of the same name needs no entry, and without `id` clips are numbered",
    )
    source_splits: dict[Name, str] = Field(
        default_factory=dict, description="the dataset's own name of a split, where it is not the one in `splits`"
    )

    @model_validator(mode="after")
    def _id_or_path(self) -> "Hub":
        if (self.hub_id is None) == (self.path is None):
            raise ValueError("give either `hub_id` or `path`")
        if self.hub_id is not None and self.revision is None:
            raise ValueError(f"pin `revision` for the Hub id {self.hub_id}, so that the run can be repeated")
        return self


class Folder(Section):
    """A directory of recordings with a manifest, or with fields in the file names."""

    source: Literal["folder"] = Field(description="the corpus is a directory of audio files")
    path: str = Field(description="the directory")
    language: str = Field(description="the language's code: `en`")
    manifest: str | None = Field(
        None,
        description="a CSV (`.csv`), TSV (`.tsv`) or JSON Lines (`.jsonl`, `.json`) file in the directory, with a"
        " column `path` and what `columns` names; or a Kaldi folder in it, `.` for the directory itself, with"
        " `wav.scp`, `text` and, where there are any, `utt2spk`, `spk2gender`, `segments`. `{split}` in it, as in"
        " `data/{split}`, stands for the name of each of `splits`, or for its `split.values`. Recordings lie below the"
        " directory, and their paths are relative to it, not to the manifest",
    )
    pattern: str | None = Field(
        None,
        description="instead of a manifest: file names with named fields, such as `{digit}_{speaker}_{take}.wav`",
    )
    columns: dict[Literal["id", "path", "sentence", "speaker_id", "gender", "age", "accent"], str | ValueMap] = Field(
        default_factory=dict,
        description="where each of `id`, `path`, `sentence`, `speaker_id`, `gender`, `age`, `accent` comes from: the"
        " name of a field or column, or a `field` with `values`; a column of the same name needs no entry, and without"
        " `id` a clip's path is its id. A Kaldi folder has `id`, `path`, `recording`, `sentence`, `speaker_id`,"
        " `gender`",
    )
    split: SplitRule = Field(SplitRule(field="split"), description="how recordings are divided into splits")

    @model_validator(mode="after")
    def _manifest_or_pattern(self) -> "Folder":
        if (self.manifest is None) == (self.pattern is None):
            raise ValueError("give either `manifest` or `pattern`")
        return self

    @field_validator("manifest")
    @classmethod
    def _split_is_the_only_field(cls, manifest: str | None) -> str | None:
        if manifest is not None and set(re.findall(r"\{.*?\}", manifest)) - {"{split}"}:
            raise ValueError("the only field of a manifest's name is `{split}`")
        return manifest

    @field_validator("pattern")
    @classmethod
    def _fields_are_distinct_names(cls, pattern: str | None) -> str | None:
        fields = re.findall(r"\{(.*?)\}", pattern or "")
        if len(set(fields)) < len(fields) or "path" in fields or not all(field.isidentifier() for field in fields):
            raise ValueError(
                "its fields must be distinct words of letters, digits and underscores, none of them `path`"
            )
        return pattern


class DrawnSplit(Section):
    """A split that the corpus does not have, drawn out of one that it has."""

    of: Name = Field(description="the published split that it is drawn from, which then lacks those clips")
    share: float = Field(
        gt=0,
        lt=1,
        description="the share of the speakers (or sentences) that go into the drawn split; each is decided on by a"
        " hash of its own, so that added data moves none",
    )
    by: Literal["speaker", "sentence"] = Field(
        "speaker", description="what stays together: all clips of a speaker, or all of a sentence"
    )
    seed: int = Field(0, description="another seed draws others")


class Expected(Section):
    """What a split is expected to hold; a difference is said aloud in the status and the card, and stops nothing."""

    clips: int = Field(gt=0, description="distinct clips that list the split")
    hours: float | None = Field(None, gt=0, description="hours of audio")
    bytes: int | None = Field(None, gt=0, description="bytes of the encoded clips")


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
    drawn: dict[Name, DrawnSplit] = Field(
        default_factory=dict, description="splits that are drawn because the corpus lacks them, by name"
    )
    optional: bool = Field(
        False,
        description="whether the rest goes on without it where it cannot be had; its scores are then null, and the plan"
        " and the card say so",
    )
    speakers: str | None = Field(
        None,
        description="whose names the speaker ids are: datasets with the same word here share their speakers; by default"
        " `common_voice` or `zeroth` for those sources, otherwise the dataset's own name",
    )
    expected: dict[Name, Expected] = Field(
        default_factory=dict,
        description="what each split is expected to hold, for `make plan` and checked against what comes",
    )
    shards: int | dict[Name, int] = Field(
        description="the number of Parquet shards a split, one number for all or one for each; a shard is one job"
    )
    redistribute: bool | None = Field(
        None,
        description="whether the corpus's terms allow its audio to be passed on; if not, no page has any of it inside."
        " Unless said: yes, but for the source `common_voice`, whose publisher forbids it",
    )
    resampler: Resampler = Field("soxr", description="what resamples to 16 kHz: `soxr`, `sox` or `torchaudio`")

    @field_validator("splits")
    @classmethod
    def _listed_once(cls, splits: list[str]) -> list[str]:
        if len(set(splits)) < len(splits):
            raise ValueError("a split is listed twice")
        return splits

    @model_validator(mode="after")
    def _splits_are_known(self) -> "_Stored":
        for name, drawn in self.drawn.items():
            if name in self.splits:
                raise ValueError(f"`drawn.{name}` has the name of one of `splits`")
            if drawn.of not in self.splits:
                raise ValueError(f"`drawn.{name}.of` is {drawn.of}, which is not one of `splits`")
        for name in self.expected:
            if name not in self.splits:
                raise ValueError(f"`expected` names {name}, which is not one of `splits`")
        return self

    @model_validator(mode="after")
    def _every_split_has_shards(self) -> "_Stored":
        if isinstance(self.shards, dict) and set(self.shards) != set(self.splits):
            raise ValueError("`shards` must be one number, or name each of `splits` and nothing else")
        if min([self.shards] if isinstance(self.shards, int) else self.shards.values()) < 1:
            raise ValueError("a split has at least one shard")
        return self

    @property
    def archive_download(self) -> Download | None:
        """How the archive is fetched, where it is fetched as one."""
        return self.download if isinstance(self, _Archive) else None

    @property
    def in_storage(self) -> bool:
        """Whether snakemake's storage plugin fetches the archive."""
        return isinstance(self, _Archive) and self.path.startswith("s3://")

    @property
    def is_pinned(self) -> bool:
        """Whether what these settings fetch is the same for ever; what lies on this host is known by itself."""
        if isinstance(self, Hub):
            return self.path is not None or re.fullmatch("[0-9a-f]{40}", str(self.revision)) is not None
        return self.archive_download is None or self.archive_download.sha256 is not None

    @property
    def audio_may_be_passed_on(self) -> bool:
        """Whether a page that people send around may have the corpus's audio inside."""
        return not isinstance(self, CommonVoice) if self.redistribute is None else self.redistribute

    @property
    def title(self) -> str:
        """Name and version, for people."""
        return f"{self.name} {self.version}".strip()

    @property
    def set_names(self) -> list[str]:
        """The splits that runs can name: the listed ones and the drawn ones."""
        return [*self.splits, *self.drawn]

    def speaker_names(self, dataset: str) -> str:
        """Whose names the speaker ids of this section, named `dataset`, are."""
        corpus = {"common_voice": "common_voice", "zeroth": "zeroth"}.get(getattr(self, "source", ""), dataset)
        return self.speakers or corpus

    def shard_count(self, split: str) -> int:
        """The number of shards of `split`."""
        return self.shards if isinstance(self.shards, int) else self.shards[split]


class CommonVoiceDataset(CommonVoice, _Stored):
    """A dataset from a Common Voice release."""


class ZerothDataset(Zeroth, _Stored):
    """A dataset in the layout of Zeroth-Korean."""


class HubDataset(Hub, _Stored):
    """A dataset of the Hugging Face Hub."""

    hub_id: str | None = Field(None, description="the dataset's id, `owner/name`")


class FolderDataset(Folder, _Stored):
    """A dataset from a directory of recordings."""


Source = Annotated[CommonVoice | Zeroth | Hub | Folder, Field(discriminator="source")]
Dataset = Annotated[CommonVoiceDataset | ZerothDataset | HubDataset | FolderDataset, Field(discriminator="source")]


class IngestSettings(Section):
    """What `ingest` reads of a dataset: the source (but not its place), the splits and their shards."""

    source: Source
    splits: list[Name]
    shards: dict[Name, int]
    optional: bool = False
