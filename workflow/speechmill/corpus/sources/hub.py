"""A dataset on the Hugging Face Hub, or a local folder that `datasets` can read."""

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

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

_COLUMNS = ("id", "audio", "sentence", "speaker_id", "gender", "age", "accent")

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
    caches the card of the repository. If the audio of a clip is only a file name, the file is read from the dataset; a
    name that points outside the dataset counts as a missing file.

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
    elif path.is_dir():
        commit, about, where = None, {}, str(path)
        # Absolute, so that it is not taken for the id of a dataset on the Hub.
        source = root = str(path.resolve())
    else:
        raise SpeechmillError(f"{path} is not a folder; set the dataset's `path` to one that `datasets` can read")
    # A temporary cache, because datasets would otherwise fall back to the default one when the Hub fails.
    with open_spool(work) as spool, tempfile.TemporaryDirectory(dir=work) as cache:
        with _reading_errors(where):
            builder = _builder(source, commit, settings, where, cache)
            clips = _read(builder, settings, splits, where, root, spool)
        yield Corpus(clips, lambda clip: spool.encoded(clip.id), about)


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
        builder = load_dataset_builder(source, settings.config, revision=commit, cache_dir=cache)
    except RuntimeError as error:
        raise UnavailableError(
            f"{where} needs its own loading script, which `datasets` no longer runs; use a revision with Parquet files,"
            " or a local folder as `path`"
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
    features = streams[published_names[splits[0]]].features or Features()
    columns = _columns(features, settings, where)
    clips: dict[str, SourceClip] = {}
    for split, name in published_names.items():
        rows = _rows(builder, streams[name], name, columns)
        for number, row in enumerate(progress(rows, unit="clip", desc=f"{where} {split}")):
            values = {role: _text(row[column], features[column]) for role, column in columns.items() if role != "audio"}
            clip_id = values.pop("id") if "id" in columns else f"{split}-{number:06d}"
            if not clip_id or clip_id in clips:
                problem = f"repeats the id {clip_id}" if clip_id else "has no id"
                raise SpeechmillError(
                    f"{where}: row {number} of {name} {problem} in the column `{columns['id']}`; set the dataset's"
                    " `columns.id` to a column with unique values"
                )
            file = _store(row[columns["audio"]], clip_id, root, spool)
            sentence = values.pop("sentence") or ""
            clips[clip_id] = SourceClip(clip_id, (split,), file, sentence, *map(values.get, _COLUMNS[3:]))
    return list(clips.values())


def _columns(features: Features, settings: Hub, where: str) -> dict[str, str]:
    """Return the dataset's name of each column that it has."""
    columns = {str(role): column for role, column in settings.columns.items()}
    for role in _COLUMNS:
        column = columns.setdefault(role, role)
        if column in features:
            continue
        if role in settings.columns or role in ("audio", "sentence"):
            raise SpeechmillError(
                f"{where} has no column `{column}`; set the dataset's `columns.{role}` to one of its columns:"
                f" {', '.join(features) or 'none'}"
            )
        del columns[role]
    audio = features[columns["audio"]]
    if not (isinstance(audio, Audio) or audio == Value("binary") or (isinstance(audio, dict) and "bytes" in audio)):
        raise SpeechmillError(
            f"{where}: the column `{columns['audio']}` contains no audio ({audio}); set the dataset's `columns.audio`"
            f" to one of {', '.join(features)}"
        )
    return columns


def _rows(
    builder: DatasetBuilder, stream: IterableDataset, split: str, columns: dict[str, str]
) -> Iterator[dict[str, Any]]:
    wanted = list(dict.fromkeys(columns.values()))
    stream = stream.select_columns(wanted).cast_column(columns["audio"], Audio(decode=False))
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


def _text(value: Any, feature: Any) -> str | None:
    if isinstance(feature, ClassLabel) and isinstance(value, int):
        return feature.names[value] if 0 <= value < feature.num_classes else None
    return None if value is None else str(value) or None
