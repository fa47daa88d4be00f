"""A dataset on the Hugging Face Hub, or a local folder that `datasets` can read."""

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, get_args

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import (
    Audio,
    ClassLabel,
    DatasetBuilder,
    DownloadConfig,
    Features,
    IterableDataset,
    Value,
    get_dataset_config_names,
    load_dataset_builder,
)
from datasets.exceptions import DatasetsError
from datasets.packaged_modules.folder_based_builder.folder_based_builder import FolderBasedBuilderConfig
from datasets.packaged_modules.parquet.parquet import ParquetConfig
from datasets.table import table_cast
from datasets.utils.file_utils import xopen
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # exported at run time only

from speechmill.config.datasets import Hub
from speechmill.core.command import SpeechmillError
from speechmill.core.progress import progress
from speechmill.corpus.sources.corpus import Corpus, SourceClip, UnavailableError
from speechmill.corpus.sources.spool import Spool, open_spool

_Role = Literal["id", "audio", "sentence", "speaker_id", "gender", "age", "accent"]
_COLUMNS: tuple[_Role, ...] = get_args(_Role)
_TEXT = (Value("string"), Value("large_string"))

# Errors of the connection, after the retries of datasets and huggingface_hub.
_CONNECTION_ERRORS = (httpx.HTTPError, ConnectionError, TimeoutError, LocalEntryNotFoundError)

# Row groups of audio are large, so 16 clips at a time are decoded, and audio is downloaded in blocks of 16 MiB. Reading
# 1 MiB ahead usually includes the small columns, and costs little otherwise.
_BATCH = 16
_BUFFER = 16 << 20
_READ_AHEAD = DownloadConfig(storage_options={"hf": {"block_size": 1 << 20}})


@contextmanager
def open_hub(path: Path | None, settings: Hub, splits: list[str], work: Path) -> Iterator[Corpus]:
    """Yield the dataset `settings.hub_id` at the commit that its revision points to now, or the folder `path`.

    It is read once, as a stream. The clips are stored in a spool in `work`; apart from that, only huggingface_hub
    caches the card of the repository. If the audio of a clip is only a file name, the file is read from the dataset,
    where a column of text has paths relative to its root; a name that points outside the dataset counts as a missing
    file.

    Raises:
        UnavailableError: The dataset does not exist, is not accessible, or the Hub cannot be reached.
        SpeechmillError: The dataset lacks the configuration, a split or a column, contains an id twice, or cannot be
            read to its end.
    """
    if path is None:
        commit = _commit(settings)
        source, where = f"hf://datasets/{settings.hub_id}", str(settings.hub_id)
        root = f"{source}@{commit}"
        about = {"hub_id": settings.hub_id, "revision": settings.revision, "commit": commit}
    elif path.is_dir() and "::" not in str(path.resolve()):
        commit, about, where = None, {}, str(path)
        # Absolute, so that it is not taken for the id of a dataset on the Hub.
        source = root = str(path.resolve())
    else:
        reason = "has `::` in its path, which `datasets` takes for an archive" if path.is_dir() else "is not a folder"
        raise SpeechmillError(f"{path} {reason}; set the dataset's `path` to a folder that `datasets` can read")
    # A temporary cache, because datasets would otherwise fall back to the default one when the Hub fails.
    with open_spool(work) as spool, tempfile.TemporaryDirectory(dir=work) as cache:
        with _reading_errors(where):
            builder = _builder(source, commit, settings, where, cache)
            clips = _read(builder, settings, splits, where, root, spool)
        yield Corpus(clips, lambda clip: spool.encoded(clip.id), about=about)


def _commit(settings: Hub) -> str:
    hub_id, revision = str(settings.hub_id), settings.revision
    api = HfApi()
    try:
        commit = api.dataset_info(hub_id, revision=revision).sha
        # The description of a gated dataset is public, but its files are not.
        api.auth_check(hub_id, repo_type="dataset")
    except HFValidationError as error:
        raise SpeechmillError(f"`hub_id`: {hub_id} is not an id on the Hub; use `owner/name`") from error
    except GatedRepoError as error:
        raise UnavailableError(
            f"{hub_id} is gated: accept its terms at {api.endpoint}/datasets/{hub_id}, and set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise UnavailableError(
            f"the Hub has no dataset {hub_id}, or it is private: check `hub_id`, and set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise UnavailableError(f"{hub_id} has no revision {revision}; check the dataset's `revision`") from error
    except _CONNECTION_ERRORS as error:
        raise UnavailableError(
            f"the Hub does not answer for {hub_id} ({_reason(error)}): check the network and HF_TOKEN, and run again"
        ) from error
    return str(commit)


@contextmanager
def _reading_errors(where: str) -> Iterator[None]:
    try:
        yield
    except _CONNECTION_ERRORS as error:
        # The message of the error may contain a signed address.
        raise SpeechmillError(f"{where}: the connection broke ({_reason(error)}); run again") from error
    except (OSError, ValueError, TypeError, pa.ArrowException, DatasetsError) as error:
        raise SpeechmillError(
            f"{where} cannot be read ({type(error).__name__}: {error}); check the dataset, and run again"
        ) from error


def _reason(error: Exception) -> str:
    response = getattr(error, "response", None)
    return type(error).__name__ if response is None else f"status {response.status_code}"


def _builder(source: str, commit: str | None, settings: Hub, where: str, cache: str) -> DatasetBuilder:
    try:
        builder = load_dataset_builder(
            source, settings.config, data_dir=settings.data_dir, revision=commit, cache_dir=cache
        )
    except RuntimeError as error:
        raise UnavailableError(
            f"{where} needs its own loading script, which `datasets` no longer runs; use a revision with Parquet files,"
            " such as `refs/convert/parquet` with its `data_dir`, or a local folder as `path`"
        ) from error
    except ValueError as error:
        configs = get_dataset_config_names(source, revision=commit)
        if settings.config in configs:
            raise
        wrong = f"no configuration {settings.config}" if settings.config else "several configurations"
        raise SpeechmillError(
            f"{where} has {wrong}; set the dataset's `config` to one of {', '.join(configs)}"
        ) from error
    if isinstance(builder.config, FolderBasedBuilderConfig):
        # Otherwise datasets starts to decode the files in threads before decoding is switched off below.
        builder.config.decode_num_threads = 0
    return builder


def _read(
    builder: DatasetBuilder, settings: Hub, splits: list[str], where: str, root: str, spool: Spool
) -> list[SourceClip]:
    streams = builder.as_streaming_dataset()
    published_names = {split: settings.source_splits.get(split, split) for split in splits}
    for split, name in published_names.items():
        if name not in streams:
            raise SpeechmillError(
                f"{where} has no split {name}, only {', '.join(streams)}; correct the dataset's `splits`, or set"
                f" `source_splits.{split}` if the split has another name there"
            )
    features = _features(streams[published_names[splits[0]]])
    columns = {role: _find(features, settings, role, where) for role in _COLUMNS}
    paths_as_text = columns["audio"].feature in _TEXT
    clips: dict[str, SourceClip] = {}
    for split, name in published_names.items():
        rows = _rows(builder, streams[name], name, columns)
        for number, row in enumerate(progress(rows, unit="clip", desc=f"{where} {split}")):
            values = {role: column.text(row) for role, column in columns.items() if role not in ("id", "audio")}
            clip_id = columns["id"].text(row) if columns["id"] else f"{split}-{number:06d}"
            if not clip_id or clip_id in clips:
                problem = f"repeats the id {clip_id}" if clip_id else "has no id"
                raise SpeechmillError(
                    f"{where}: row {number} of {name} {problem} in the column `{columns['id']}`; set the dataset's"
                    " `columns.id` to a column with unique values"
                )
            audio = columns["audio"].value(row)
            if paths_as_text and audio is not None:
                audio = {"bytes": None, "path": f"{root}/{audio}"}
            file = _store(audio, clip_id, root, spool)
            sentence = values.pop("sentence") or ""
            clips[clip_id] = SourceClip(clip_id, (split,), file, sentence, *map(values.get, _COLUMNS[3:]))
    if paths_as_text and clips and not spool.names:
        file = next(iter(clips.values())).file
        raise SpeechmillError(
            f"{where}: the column `{columns['audio']}` is text, and the dataset has no file of such a name as {file};"
            " set the dataset's `columns.audio` to a column with audio, or `path` to a copy with these files"
        )
    return list(clips.values())


class _Column(NamedTuple):
    """A column, or a field of a nested one: its keys, and its type. A column that does not exist has no keys."""

    keys: tuple[str, ...] = ()
    feature: Any = None

    def __str__(self) -> str:
        return ".".join(self.keys)

    def __bool__(self) -> bool:
        return bool(self.keys)

    def value(self, row: dict[str, Any]) -> Any:
        found: Any = row
        for key in self.keys:
            found = None if found is None else found[key]
        return found

    def text(self, row: dict[str, Any]) -> str | None:
        value = self.value(row) if self else None
        if isinstance(self.feature, ClassLabel) and isinstance(value, int):
            return self.feature.names[value] if 0 <= value < self.feature.num_classes else None
        return None if value is None else str(value) or None


def _features(stream: IterableDataset) -> Features:
    if stream.features is None:
        # Of CSV and JSON, the first row shows them.
        first = next(stream.with_format("arrow").iter(batch_size=1), None)
        return Features() if first is None else Features.from_arrow_schema(first.schema)
    return stream.features


def _find(features: Features, settings: Hub, role: _Role, where: str) -> _Column:
    """Return the column of a role, which may be a field of a nested one, such as `json.text`.

    Raises:
        SpeechmillError: It does not exist, although it is required or configured, or it has another type.
    """
    name = settings.columns.get(role, role)
    if name is None:
        return _Column()
    keys = (name,) if name in features else tuple(name.split("."))
    feature: Any = features
    for key in keys:
        if not isinstance(feature, dict) or key not in feature:
            if role not in settings.columns and role not in ("audio", "sentence"):
                return _Column()
            raise SpeechmillError(
                f"{where} has no column `{name}`; set the dataset's `columns.{role}` to one of its columns:"
                f" {', '.join(_names(features)) or 'none'}"
            )
        feature = feature[key]
    is_text = feature in _TEXT or isinstance(feature, ClassLabel)
    if role == "audio":
        fits = isinstance(feature, Audio) or feature == Value("binary") or feature in _TEXT or (
            isinstance(feature, dict) and "bytes" in feature
        )  # fmt: skip
        expected = "contains no audio"
    elif role == "sentence":
        fits, expected = is_text, "is not text"
    else:
        fits, expected = (
            is_text or (isinstance(feature, Value) and feature != Value("binary")),
            "is neither text nor a number",
        )
    if not fits:
        raise SpeechmillError(
            f"{where}: the column `{name}` {expected} ({feature}); set the dataset's `columns.{role}` to one of"
            f" {', '.join(_names(features))}"
        )
    return _Column(keys, feature)


def _names(features: dict[str, Any], above: str = "") -> Iterator[str]:
    """Yield the names of all columns, with those of the fields of nested ones."""
    for name, feature in features.items():
        yield f"{above}{name}"
        if isinstance(feature, dict):
            yield from _names(feature, f"{above}{name}.")


def _rows(
    builder: DatasetBuilder, stream: IterableDataset, split: str, columns: dict[_Role, _Column]
) -> Iterator[dict[str, Any]]:
    wanted = list(dict.fromkeys(column.keys[0] for column in columns.values() if column))
    stream = stream.select_columns(wanted)
    if columns["audio"].feature not in _TEXT:
        stream = stream.cast_column(columns["audio"].keys[0], Audio(decode=False))
    if not isinstance(builder.config, ParquetConfig):
        yield from stream
        return
    # datasets decodes an entire row group at once, and keeps the downloaded bytes of a file until its end. Measured
    # with clips of 160 kB, without the 0.45 GB of torch: 1.5 GB for row groups of 1,000 clips and 0.6 GB for 100;
    # with this loop 0.75 and 0.3 GB.
    for file in builder.config.data_files[split]:
        with (
            xopen(file, "rb", download_config=_READ_AHEAD) as opened,
            pq.ParquetFile(opened, buffer_size=_BUFFER, pre_buffer=False) as parquet,
        ):
            missing = set(wanted) - set(parquet.schema_arrow.names)
            if missing:
                raise SpeechmillError(
                    f"{file} lacks the columns {', '.join(sorted(missing))} of the other files; correct the dataset"
                )
            for batch in parquet.iter_batches(_BATCH, columns=wanted, use_threads=False):
                table = pa.Table.from_batches([batch]).select(wanted)
                yield from table_cast(table, stream.features.arrow_schema).to_pylist()


def _store(audio: dict[str, Any] | None, clip_id: str, root: str, spool: Spool) -> str:
    """Store the file of a clip in the spool, and return its name in the dataset."""
    encoded, name = (audio["bytes"], audio["path"]) if audio else (None, None)
    if encoded is not None:
        spool.add(clip_id, io.BytesIO(encoded))
    elif name is not None and _is_within(name, root):
        try:
            with xopen(name, "rb", download_config=_READ_AHEAD) as opened:
                spool.add(clip_id, opened)
        except FileNotFoundError:
            pass
    return PurePosixPath(name.split("::")[0]).name if name else clip_id


def _is_within(name: str, root: str) -> bool:
    """Return whether a name is a file of the dataset: `{root}/…`, or `zip://…::{root}/…` for a member of an archive."""
    *archived, file = name.split("::")
    return (
        file.startswith(f"{root}/")
        and ".." not in PurePosixPath(file).parts
        and (not archived or (len(archived) == 1 and archived[0].startswith("zip://")))
    )
