"""Section `datasets`: the sources of the recordings, and how their clips are stored."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from speechmill.config.base import Day, Name, Section
from speechmill.config.circles import find_circle
from speechmill.config.hub_ids import HubId
from speechmill.config.pieces import Segment, Transcribe
from speechmill.config.shards import Resampler


class ValueMap(Section):
    """A column that is derived from a field of the file name or of the manifest."""

    field: str = Field(description="field or column to read")
    values: dict[str, str] | None = Field(
        None,
        description="value of the column for each value of the field, such as `'0': zero`; default: the value itself",
    )


class SplitRule(Section):
    """How the recordings of a folder are divided into splits, by the value of one field."""

    field: str = Field(description="field of the pattern, or column of the manifest")
    values: dict[Name, list[str]] | None = Field(
        None,
        description="for each split, the values of the field; default: the value is the name of the split",
    )
    default: Name | None = Field(None, description="split for all other values, which are otherwise an error")

    @field_validator("values", mode="before")
    @classmethod
    def _numbers_to_text(cls, values: object) -> object:
        if isinstance(values, dict):
            return {
                split: [str(v) for v in listed] if isinstance(listed, list) else listed
                for split, listed in values.items()
            }
        return values

    @model_validator(mode="after")
    def _one_split_per_value(self) -> "SplitRule":
        listed = [value for values in (self.values or {}).values() for value in values]
        if len(set(listed)) < len(listed):
            raise ValueError("`values` lists a value twice")
        return self


def _without_secrets(urls: list[str]) -> list[str]:
    # URLs appear in snakemake's output and in its metadata.
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError("a URL must start with https:// or http://")
        if "@" in parts.netloc or re.search(r"(?i)(sig|token|key|credential|password)[^&=]*=", parts.query):
            raise ValueError(
                "a URL must not contain a key, password or signature: use `download.collective`, or put the file at"
                " `path`"
            )
    return urls


# The keys of a file that is downloaded.
Urls = Annotated[
    list[str],
    AfterValidator(_without_secrets),
    Field(description="URLs of the same file, tried in order: `https://…`, `http://…`"),
]
FileBytes = Annotated[int | None, Field(gt=0, description="size of the file, checked after the download")]
FileSha256 = Annotated[str | None, Field(pattern="^[0-9a-f]{64}$", description="sha256 of the file, checked as well")]


class Download(Section):
    """Where an archive is downloaded from if `path` does not exist; it is stored at `path` and kept."""

    urls: Urls = Field(default_factory=list)
    collective: str | None = Field(
        None,
        description="id or slug of a dataset of Mozilla Data Collective, whose terms you have accepted there; needs the"
        " environment variable `MDC_API_KEY`",
    )
    bytes: FileBytes = None
    sha256: FileSha256 = None

    @model_validator(mode="after")
    def _one_location(self) -> "Download":
        if bool(self.urls) == (self.collective is not None):
            raise ValueError("give either `urls` or `collective`")
        return self


class _Archive(Section):
    """A corpus in one archive or one folder."""

    path: str = Field(
        description="the archive (tar, also compressed with gzip, bzip2, xz or Zstandard, or ZIP), or the folder it was"
        " unpacked to; the archive may be in a bucket, `s3://bucket/….tar.gz`"
    )
    language: str = Field(description="language code, such as `ru`")
    download: Download | None = Field(None, description="where to download the archive from if `path` does not exist")


class CommonVoice(_Archive):
    """A Common Voice release, 6 to 27: the archive as published by Mozilla, or the folder it was unpacked to."""

    source: Literal["common_voice"] = Field(description="the corpus is a Common Voice release")
    language: str = Field(description="locale, the name of the folder in the archive, such as `ru` or `sv-SE`")


class Zeroth(_Archive):
    """Zeroth-Korean as published by OpenSLR, with `{train,test}_data_01`, `.trans.txt` and `AUDIO_INFO`."""

    source: Literal["zeroth"] = Field(description="the corpus has the layout of Zeroth-Korean, OpenSLR 40")


class Hub(Section):
    """A dataset on the Hugging Face Hub, or a local folder that `datasets.load_dataset` can read."""

    source: Literal["hub"] = Field(description="the corpus is a dataset on the Hub, or a folder with the same layout")
    hub_id: str | None = Field(None, description="id of the dataset, `owner/name`")
    path: str | None = Field(None, description="instead of `hub_id`: a local folder that `datasets` can read")
    language: str = Field(description="language code, such as `ko`")
    config: str | None = Field(None, description="configuration of the dataset, if it has several")
    revision: str | None = Field(
        None, description="commit, tag or branch of the Hub id; resolved to a commit at download, which is recorded"
    )
    data_dir: str | None = Field(
        None,
        description="folder of the dataset with the files to use, as in the branch `refs/convert/parquet`, where the"
        " Hub stores the Parquet files of each configuration in a folder of its name",
    )
    columns: dict[Literal["id", "audio", "sentence", "speaker_id", "gender", "age", "accent"], str | None] = Field(
        default_factory=dict,
        description="names of the columns `id`, `audio`, `sentence`, `speaker_id`, `gender`, `age`, `accent` in the"
        " dataset, or of a field of a nested column, such as `json.text`; a column of the same name needs no entry, and"
        " `null` says that it is something else; without `id` clips are numbered. `audio` may also contain"
        " paths relative to the root of the dataset",
    )
    source_splits: dict[Name, str] = Field(
        default_factory=dict, description="names of the splits in the dataset, where they differ from those in `splits`"
    )

    @model_validator(mode="after")
    def _id_or_path(self) -> "Hub":
        if (self.hub_id is None) == (self.path is None):
            raise ValueError("give either `hub_id` or `path`")
        if self.hub_id is not None and self.revision is None:
            raise ValueError(f"add a `revision` for the Hub id {self.hub_id}, so that the run is reproducible")
        if self.config is not None and self.data_dir is not None:
            raise ValueError("give either `config` or `data_dir`")
        for role in ("audio", "sentence"):
            if role in self.columns and self.columns[role] is None:
                raise ValueError(f"`columns.{role}` is required; name its column, or remove the entry")
        return self


TABLES = (".csv", ".tsv", ".txt")
"""The endings of the names of tables."""

Column = Literal[
    "id", "path", "sentence", "speaker_id", "gender", "age", "accent", "start", "end", "duration", "channel"
]


AnnotationFormat = Literal["text", "elan", "textgrid", "srt", "vtt", "ctm", "stm"]

_FORMATS: dict[str, AnnotationFormat] = {
    ".eaf": "elan",
    ".textgrid": "textgrid",
    ".srt": "srt",
    ".vtt": "vtt",
    ".ctm": "ctm",
    ".stm": "stm",
}


class Annotations(Section):
    """Files with the text of the recordings of a folder."""

    ending: str = Field(
        min_length=1,
        description="the file beside `NAME.wav` is `NAME` with this ending, such as `.txt` or `.eaf`; a CTM or STM file"
        " names its recordings, so that its own name can be any that has this ending",
    )
    format: AnnotationFormat | None = Field(
        None,
        description="`text`: the transcript of the complete recording; `elan`, `textgrid` (Praat), `srt`, `vtt`, `ctm`,"
        " `stm`: texts with times. Default: `elan` for `.eaf`, `textgrid` for `.TextGrid`, and so on by the ending;"
        " `text` for all other endings",
    )
    tiers: list[str] = Field(
        default_factory=list,
        description="names of the tiers with the sentences, in an ELAN or Praat file; needed if a file has several"
        " tiers with text",
    )
    linguistic_types: list[str] = Field(
        default_factory=list, description="linguistic types (tier types) of such tiers, in an ELAN file"
    )
    cut: bool = Field(
        True,
        description="whether each annotation is a clip, cut from its recording. If false, each recording is one clip"
        " with all its texts, one in a line, in the order of time",
    )

    @property
    def file_format(self) -> AnnotationFormat:
        """The format of the files, as given or by their ending."""
        ending = re.search(r"\.[^.]*$", self.ending.lower())
        return self.format or _FORMATS.get(ending[0] if ending else "", "text")

    @model_validator(mode="after")
    def _tiers_exist_in_the_format(self) -> "Annotations":
        formats = {"tiers": ("elan", "textgrid"), "linguistic_types": ("elan",)}
        for key, having in formats.items():
            if getattr(self, key) and self.file_format not in having:
                raise ValueError(f"`{key}` needs the format {' or '.join(having)}, not {self.file_format}; remove it")
        return self


class Folder(Section):
    """A folder of recordings with a manifest, with annotation files, or with information in the file names."""

    source: Literal["folder"] = Field(description="the corpus is a folder of audio files")
    path: str = Field(description="the folder")
    language: str = Field(description="language code, such as `en`")
    manifest: str | None = Field(
        None,
        description="a table (`.csv`, `.tsv`, `.txt`) or JSON Lines (`.jsonl`, `.json`) file in the folder, with a"
        " column `path` and the columns that `columns` names; or a Kaldi data folder in it, `.` for the folder itself,"
        " with `wav.scp`, `text` and optionally `utt2spk`, `spk2gender`, `segments`, `reco2file_and_channel`."
        " `{split}`, as in `data/{split}`, is replaced by the name of each of `splits`, or by its `split.values`."
        " Recordings must be inside the folder, and their paths are relative to it, not to the manifest",
    )
    separator: str | None = Field(
        None,
        min_length=1,
        max_length=1,
        description="character between the columns of a table, such as `;`; default: a tab in `.tsv`, otherwise that"
        " of `,`, `;`, tab and `|` that divides the first line",
    )
    column_names: list[str] | None = Field(
        None, min_length=1, description="names of the columns of a table, if its first line is not a header"
    )
    pattern: str | None = Field(
        None,
        description="instead of `manifest`: pattern of the file names, such as `{digit}_{speaker}_{take}.wav`",
    )
    annotations: Annotations | None = Field(
        None,
        description="instead of `manifest`: files with the text of each recording; `pattern` then selects the"
        " recordings, whose names otherwise end as those of audio files do",
    )
    columns: dict[Column, str | ValueMap | None] = Field(
        default_factory=dict,
        description="source of the columns `id`, `path`, `sentence`, `speaker_id`, `gender`, `age`, `accent`: the name"
        " of a field or column; a text with such names in braces, as in `path: wavs/{id}.wav`; or a `field` with"
        " `values`. A column of the same name needs no entry, and `id` defaults to the path. For clips that are pieces"
        " of recordings, there are also `start` (or NeMo's `offset`) and `end` or `duration`, in seconds, and"
        " `channel`, counted from 0 or `A`, `B`; `null` for one of them says that the column of this name is something"
        " else. A Kaldi folder has `id`, `path`, `recording`, `sentence`, `speaker_id`, `gender`. With `annotations`,"
        " there are also `path`, `recording` (the name without ending), `folder`, `tier`, `participant` and `speaker`,"
        " which is the default of `speaker_id`. `sentence: null` says that the recordings have no text",
    )
    split: SplitRule = Field(
        SplitRule(field="split"),
        description="how the recordings are divided into splits; not needed if `splits` has only one",
    )

    @model_validator(mode="after")
    def _one_description_of_the_recordings(self) -> "Folder":
        if (self.manifest is None) == (self.pattern is None and self.annotations is None):
            raise ValueError("give either `manifest` or `pattern`, or `annotations` with or without `pattern`")
        return self

    @model_validator(mode="after")
    def _annotations_have_the_times(self) -> "Folder":
        times: tuple[Column, ...] = ("path", "start", "end", "duration", "channel")
        for name in times:
            if self.annotations is not None and name in self.columns:
                raise ValueError(f"`columns.{name}` cannot be set with `annotations`; remove it")
        return self

    @model_validator(mode="after")
    def _keys_of_tables_need_a_table(self) -> "Folder":
        is_table = self.manifest is not None and self.manifest.lower().endswith(TABLES)
        for key in ("separator", "column_names"):
            if getattr(self, key) is not None and not is_table:
                raise ValueError(f"`{key}` needs a `manifest` that ends in {', '.join(TABLES)}; remove one of them")
        if self.column_names is not None and len(set(self.column_names)) < len(self.column_names):
            raise ValueError("`column_names` lists a name twice")
        return self

    @field_validator("columns")
    @classmethod
    def _path_is_not_null(cls, columns: dict[Column, str | ValueMap | None]) -> dict[Column, str | ValueMap | None]:
        if "path" in columns and columns["path"] is None:
            raise ValueError("`columns.path` is required; name its field, or remove the entry")
        return columns

    @field_validator("manifest")
    @classmethod
    def _only_field_is_split(cls, manifest: str | None) -> str | None:
        if manifest is not None and set(re.findall(r"\{.*?\}", manifest)) - {"{split}"}:
            raise ValueError("the only field that a manifest name can have is `{split}`")
        return manifest

    @field_validator("pattern")
    @classmethod
    def _fields_are_distinct_identifiers(cls, pattern: str | None) -> str | None:
        fields = re.findall(r"\{(.*?)\}", pattern or "")
        if len(set(fields)) < len(fields) or "path" in fields or not all(field.isidentifier() for field in fields):
            raise ValueError(
                "the fields of `pattern` must be distinct names of letters, digits and underscores, none of them `path`"
            )
        return pattern


DrawnBy = Literal["speaker", "recording", "sentence"]


class DrawnSplit(Section):
    """A split that the corpus lacks, drawn at random from one that it has."""

    of: Name = Field(description="split of the corpus to draw from; drawn clips are removed from it")
    share: float = Field(
        gt=0,
        lt=1,
        description="share of the speakers (or recordings, or sentences) of that split that are drawn; each is decided"
        " by its own hash, so that additional data does not change the others. The shares of all splits drawn from the"
        " same split must sum to less than 1",
    )
    by: DrawnBy = Field(
        "speaker",
        description="unit of drawing: all clips of a speaker, all that are cut from a recording, or all clips of a"
        " sentence; the same for all splits drawn from the same split",
    )
    seed: int = Field(0, description="seed of the draw; the same for all splits drawn from the same split")

    @property
    def summary(self) -> str:
        """What is drawn, for display, such as `12.5% of the speakers of train`."""
        return f"{100 * self.share:g}% of the {self.by}s of {self.of}"


class Expected(Section):
    """The expected size of a split; a difference is reported in the status and in the card, and is not an error."""

    clips: int = Field(gt=0, description="number of distinct clips that belong to the split")
    hours: float | None = Field(None, gt=0, description="duration of the audio in hours")
    bytes: int | None = Field(None, gt=0, description="size of the encoded clips in bytes")


class _StoredDataset(Section):
    name: str = Field(description="name of the corpus, as shown in the card")
    version: str = Field("", description="release of the corpus")
    released: Day | None = Field(
        None,
        description="date when this release of the corpus was published, such as `2022-01-19`; the first day of the"
        " month or year if no more is known. A base model that is older was not trained on it",
    )
    licence: str = Field(description="licence of the corpus, an SPDX identifier such as `CC0-1.0`")
    hub_id: HubId | None = Field(
        None,
        description="id of the corpus on the Hugging Face Hub, for `datasets` and `model-index` of the card",
    )
    splits: list[Name] = Field(
        min_length=1,
        description="splits to use; a clip that is in several is stored once, under the first of these",
    )
    drawn: dict[Name, DrawnSplit] = Field(
        default_factory=dict,
        description="splits that the corpus lacks and that are drawn from others, by name; a clip that is in two of"
        " those others goes to the first drawn split, by name, that takes it",
    )
    optional: bool = Field(
        False,
        description="whether runs continue without the dataset if it is not available; its scores are then null, and"
        " the plan and the card report it",
    )
    speakers: str | None = Field(
        None,
        description="namespace of the speaker ids: in datasets with the same namespace, equal ids are the same speaker;"
        " default: `common_voice` or `zeroth` for those sources, otherwise the name of the dataset",
    )
    expected: dict[Name, Expected] = Field(
        default_factory=dict,
        description="expected size of each split, for `make plan` and for a check after ingestion",
    )
    shards: int | dict[Name, int] = Field(
        description="number of Parquet shards per split: one number for all, or one for each; each shard is one job"
    )
    redistribute: bool | None = Field(
        None,
        description="whether the terms of the corpus allow its audio and its sentences to be redistributed. If false,"
        " no HTML page contains audio, and what `snakemake publish` uploads contains no words of its sentences and no"
        " ids of its clips and speakers. Default: true, except that no page contains audio for the source"
        " `common_voice`, whose publisher forbids it",
    )
    resampler: Resampler = Field("soxr", description="library that resamples to 16 kHz")

    @field_validator("splits")
    @classmethod
    def _listed_once(cls, splits: list[str]) -> list[str]:
        if len(set(splits)) < len(splits):
            raise ValueError("`splits` lists a split twice")
        return splits

    @model_validator(mode="after")
    def _splits_are_known(self) -> "_StoredDataset":
        for name, drawn in self.drawn.items():
            if name in self.splits:
                raise ValueError(f"`drawn.{name}` is also one of `splits`; use another name")
            if drawn.of not in self.splits:
                raise ValueError(f"`drawn.{name}.of` is {drawn.of}, which is not in `splits`")
        for name in self.expected:
            if name not in self.splits:
                raise ValueError(f"`expected` has {name}, which is not in `splits`")
        return self

    @model_validator(mode="after")
    def _draws_from_one_split_agree(self) -> "_StoredDataset":
        by_source: dict[str, dict[str, DrawnSplit]] = {}
        for name, rule in self.drawn.items():
            by_source.setdefault(rule.of, {})[name] = rule
        for source, rules in by_source.items():
            first, *others = rules
            for name in others:
                for key in ("by", "seed"):
                    one, other = getattr(rules[first], key), getattr(rules[name], key)
                    if one != other:
                        raise ValueError(
                            f"`drawn.{name}.{key}` is {other}, but `drawn.{first}.{key}` is {one}: splits drawn from"
                            f" the same split, here {source}, need the same `{key}`, so that none gets a speaker or"
                            " sentence of another; write the same value in each"
                        )
            # Decimal, since 0.7 + 0.2 + 0.1 is less than 1 as a sum of floats.
            total = sum(Decimal(str(rule.share)) for rule in rules.values())
            if total >= 1:
                shares = ", ".join(f"`drawn.{name}.share` {rule.share:g}" for name, rule in rules.items())
                raise ValueError(
                    f"the shares of the splits drawn from {source} ({shares}) sum to {total:f}, which must be less than"
                    " 1: lower them"
                )
        return self

    @model_validator(mode="after")
    def _every_split_has_shards(self) -> "_StoredDataset":
        if isinstance(self.shards, dict) and set(self.shards) != set(self.splits):
            raise ValueError("`shards` must be one number, or a mapping with exactly the names in `splits`")
        if min([self.shards] if isinstance(self.shards, int) else self.shards.values()) < 1:
            raise ValueError("`shards` must be at least 1")
        return self

    @property
    def archive_download(self) -> Download | None:
        """Where the archive is downloaded from, if it is."""
        return self.download if isinstance(self, _Archive) else None

    @property
    def location(self) -> str | None:
        """Where the corpus is on this machine; None where it comes from the Hub, or from another dataset."""
        return getattr(self, "path", None)

    @property
    def has_text(self) -> bool:
        """Whether the recordings have sentences."""
        return not isinstance(self, Folder) or self.columns.get("sentence", "sentence") is not None

    @property
    def in_storage(self) -> bool:
        """Whether a storage plugin of snakemake downloads the archive."""
        return isinstance(self, _Archive) and self.path.startswith("s3://")

    @property
    def is_pinned(self) -> bool:
        """Whether a later download is guaranteed to give the same data; true if the data is on this machine."""
        if isinstance(self, Hub):
            return self.path is not None or re.fullmatch("[0-9a-f]{40}", str(self.revision)) is not None
        return self.archive_download is None or self.archive_download.sha256 is not None

    @property
    def audio_redistributable(self) -> bool:
        """Whether an HTML page, which may be passed on, may contain audio of the corpus."""
        return not isinstance(self, CommonVoice) if self.redistribute is None else self.redistribute

    @property
    def text_redistributable(self) -> bool:
        """Whether a model folder, which may be published, may contain words and clip ids of the corpus."""
        return self.redistribute is not False

    @property
    def title(self) -> str:
        """The name with the version, for display."""
        return f"{self.name} {self.version}".strip()

    @property
    def set_names(self) -> list[str]:
        """The splits that runs can use: those of the corpus and the drawn ones."""
        return [*self.splits, *self.drawn]

    def speaker_namespace(self, dataset: str) -> str:
        """Return the namespace of the speaker ids of this section, whose name is `dataset`."""
        return self.speakers or _speaker_namespace(getattr(self, "source", ""), dataset)

    def shard_count(self, split: str) -> int:
        """Return the number of shards of a split."""
        return self.shards if isinstance(self.shards, int) else self.shards[split]


def _speaker_namespace(source: str, dataset: str) -> str:
    return source if source in ("common_voice", "zeroth") else dataset


class CommonVoiceDataset(CommonVoice, _StoredDataset):
    """A dataset whose source is a Common Voice release."""


class ZerothDataset(Zeroth, _StoredDataset):
    """A dataset whose source has the layout of Zeroth-Korean."""


class HubDataset(Hub, _StoredDataset):
    """A dataset whose source is the Hugging Face Hub."""

    hub_id: HubId | None = Field(None, description="id of the dataset, `owner/name`")


class FolderDataset(Folder, _StoredDataset):
    """A dataset whose source is a folder of recordings."""


class _PiecesDataset(_StoredDataset):
    """A dataset that is made from another one; what is not given is as there."""

    name: str = Field("", description="name of the corpus, as shown in the card; default: that of `of`")
    version: str = Field("", description="release of the corpus; default: that of `of`")
    licence: str = Field("", description="licence of the corpus; default: that of `of`")
    splits: list[Name] = Field(
        default_factory=list, description="splits of `of` to use; default: all that it publishes"
    )
    shards: int | dict[Name, int] = Field(
        default_factory=dict, description="as many as `of` has, so that this key is not needed"
    )

    @property
    def is_pinned(self) -> bool:
        """Whether a later run is guaranteed to give the same data: a model, which may change, makes it."""
        return False


class SegmentDataset(Segment, _PiecesDataset):
    """A dataset whose clips are cut from the recordings of another one by forced alignment of their transcripts."""


class TranscribeDataset(Transcribe, _PiecesDataset):
    """A dataset whose clips are cut from the recordings of another one and transcribed by the model of a run."""


Source = Annotated[CommonVoice | Zeroth | Hub | Folder, Field(discriminator="source")]
IngestedDataset = CommonVoiceDataset | ZerothDataset | HubDataset | FolderDataset
Dataset = Annotated[IngestedDataset | SegmentDataset | TranscribeDataset, Field(discriminator="source")]


_INHERITED = ("name", "version", "released", "licence", "hub_id", "language", "redistribute", "optional", "splits")


def with_inherited(name: str, datasets: Mapping[str, Any]) -> Any:
    """Return a dataset as it is written; one that is made from another gets what it takes from that.

    Args:
        name: The name of the dataset.
        datasets: All datasets, as they are written.

    Raises:
        ValueError: There is no dataset `of`, it lacks a split, or datasets are made from each other.
    """
    dataset = datasets[name]
    of = _made_from(dataset)
    if of is None:
        return dataset
    if of not in datasets:
        raise ValueError(
            f"datasets.{name}.of: there is no dataset {of}; known datasets are {', '.join(map(str, datasets))}"
        )
    if circle := find_circle(name, lambda each: filter(None, [_made_from(datasets.get(each))])):
        raise ValueError(f"datasets.{circle[0]}.of: circular, {' is made of '.join(circle)}")
    recordings = with_inherited(of, datasets)
    if not isinstance(recordings, Mapping):
        return dataset
    inherited = {key: recordings[key] for key in _INHERITED if key in recordings}
    inherited["speakers"] = recordings.get("speakers") or _speaker_namespace(str(recordings.get("source")), of)
    section = {**inherited, **dataset}
    shards, splits = recordings.get("shards"), recordings.get("splits")
    if isinstance(splits, list) and isinstance(section["splits"], list):
        for split in section["splits"]:
            if split not in splits:
                raise ValueError(
                    f"datasets.{name}.splits: {of} has no split {split}, only {', '.join(map(str, splits))}"
                )
        if isinstance(shards, Mapping):
            shards = {split: count for split, count in shards.items() if split in section["splits"]}
    return {"shards": shards, **section} if shards else section


def _made_from(dataset: Any) -> str | None:
    """Return the dataset that a dataset, as it is written, is made from; None if it is ingested or incomplete."""
    if not isinstance(dataset, Mapping) or dataset.get("source") not in ("segment", "transcribe"):
        return None
    return str(dataset["of"]) if "of" in dataset else None


class IngestSettings(Section):
    """The settings of the stage `ingest_dataset`: the source without its location, the splits and their shards."""

    source: Source
    splits: list[Name]
    shards: dict[Name, int]
    optional: bool = False
