"""A dataset of the Hugging Face Hub, or a local folder that `datasets` reads."""

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
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # exported for others, while it runs

from speechmill.config.datasets import Hub
from speechmill.core.command import SpeechmillError
from speechmill.core.progress import progress
from speechmill.corpus.sources.corpus import Corpus, Published, UnavailableError
from speechmill.corpus.sources.spool import Spool, spooled

_COLUMNS = ("id", "audio", "sentence", "speaker_id", "gender", "age", "accent")

# A connection that is not there, or that breaks; datasets and huggingface_hub have tried again by then.
_BROKEN = (httpx.HTTPError, ConnectionError, TimeoutError, LocalEntryNotFoundError)

# Row groups of audio are large: 16 clips at a time are made of one, and its audio is fetched in pieces of 16 MiB. One
# MiB more than was asked for has the small columns beside it as a rule, and costs little where it has not.
_BATCH = 16
_PIECE = 16 << 20
_AHEAD = DownloadConfig(storage_options={"hf": {"block_size": 1 << 20}})


@contextmanager
def open_hub(path: Path | None, settings: Hub, splits: list[str], work: Path) -> Iterator[Corpus]:
    """Read the dataset `settings.hub_id` at the commit that its revision means now, or the folder `path`.

    It is read once, as a stream; the clips go into a spool in `work`, and nothing else is kept but what
    huggingface_hub caches of a repository's card. A clip whose audio is a name only is read where its dataset has it;
    a name that leads out of the dataset is a file that it does not have.

    Raises UnavailableError where the dataset cannot be had, and SpeechmillError where it has no such configuration,
    split or column, an id stands twice, or it cannot be read to its end.
    """
    if path is None:
        commit = _commit(settings)
        source, where = f"hf://datasets/{settings.hub_id}", str(settings.hub_id)
        place = f"{source}@{commit}"
        about = {"hub_id": settings.hub_id, "revision": settings.revision, "commit": commit}
    elif path.is_dir():
        commit, about, where = None, {}, str(path)
        # An absolute path is never taken for the id of a dataset on the Hub.
        source = place = str(path.resolve())
    else:
        raise SpeechmillError(f"{path} is not a folder; the dataset's `path` names one that `datasets` reads")
    # A cache of our own: where the Hub fails, datasets would read what another run left in the usual one.
    with spooled(work) as spool, tempfile.TemporaryDirectory(dir=work) as cache:
        with _explained(where):
            builder = _builder(source, commit, settings, where, cache)
            clips = _read(builder, settings, splits, where, place, spool)
        yield Corpus(clips, lambda clip: spool.read(clip.id), about)


def _commit(settings: Hub) -> str:
    hub_id, revision = str(settings.hub_id), settings.revision
    api = HfApi()
    try:
        commit = api.dataset_info(hub_id, revision=revision).sha
        # Anyone may know of a gated dataset; its files are for those who are let in.
        api.auth_check(hub_id, repo_type="dataset")
    except HFValidationError as error:
        raise SpeechmillError(f"`hub_id`: {hub_id} is not an id of the Hub, `owner/name`") from error
    except GatedRepoError as error:
        raise UnavailableError(
            f"{hub_id} is shown only to those who accepted its terms: accept them on"
            f" {api.endpoint}/datasets/{hub_id}, and set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise UnavailableError(
            f"the Hub has no dataset {hub_id}, or shows it only to those who are let in: check `hub_id`, set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise UnavailableError(f"{hub_id} has no revision {revision}; see the dataset's `revision`") from error
    except _BROKEN as error:
        raise UnavailableError(
            f"the Hub cannot be asked for {hub_id} ({_fault(error)}): check the network and HF_TOKEN, and run again"
        ) from error
    return str(commit)


@contextmanager
def _explained(where: str) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        # An address may be signed, so the error's own words are not shown.
        raise SpeechmillError(f"{where}: the connection broke off ({_fault(error)}); run again") from error
    except (OSError, ValueError, TypeError, pa.ArrowException, DatasetsError) as error:
        raise SpeechmillError(f"{where} cannot be read ({type(error).__name__}: {error})") from error


def _fault(error: Exception) -> str:
    response = getattr(error, "response", None)
    return type(error).__name__ if response is None else f"status {response.status_code}"


def _builder(source: str, commit: str | None, settings: Hub, where: str, cache: str) -> DatasetBuilder:
    try:
        builder = load_dataset_builder(source, settings.config, revision=commit, cache_dir=cache)
    except RuntimeError as error:
        raise UnavailableError(
            f"{where} needs its own loading script, which `datasets` does not run any more; take a revision that holds"
            " Parquet, or a folder by `path`"
        ) from error
    except ValueError as error:
        configs = get_dataset_config_names(source, revision=commit)
        if settings.config in configs:
            raise
        wrong = f"no configuration {settings.config}" if settings.config else "several configurations"
        raise SpeechmillError(f"{where} has {wrong}; the dataset's `config` is one of {', '.join(configs)}") from error
    if isinstance(builder.config, FolderBasedBuilderConfig):
        # datasets would decode a folder's files in threads before it is told not to.
        builder.config.decode_num_threads = 0
    return builder


def _read(
    builder: DatasetBuilder, settings: Hub, splits: list[str], where: str, place: str, spool: Spool
) -> list[Published]:
    streams = builder.as_streaming_dataset()
    published = {split: settings.source_splits.get(split, split) for split in splits}
    for split, name in published.items():
        if name not in streams:
            raise SpeechmillError(
                f"{where} has no split {name}; it has {', '.join(streams)}: see the dataset's `splits`, and"
                f" `source_splits.{split}` where it has another name for one"
            )
    features = streams[published[splits[0]]].features or Features()
    columns = _columns(features, settings, where)
    clips: dict[str, Published] = {}
    for split, name in published.items():
        rows = _rows(builder, streams[name], name, columns)
        for number, row in enumerate(progress(rows, unit="clip", desc=f"{where} {split}")):
            values = {role: _text(row[column], features[column]) for role, column in columns.items() if role != "audio"}
            clip_id = values.pop("id") if "id" in columns else f"{split}-{number:06d}"
            if not clip_id or clip_id in clips:
                found = f"the id {clip_id} a second time" if clip_id else "no id"
                raise SpeechmillError(
                    f"{where}: row {number} of {name} has {found} in the column `{columns['id']}`; the dataset's"
                    " `columns.id` must name a column in which every clip has its own"
                )
            file = _keep(row[columns["audio"]], clip_id, place, spool)
            sentence = values.pop("sentence") or ""
            clips[clip_id] = Published(clip_id, (split,), file, sentence, **values)
    return list(clips.values())


def _columns(features: Features, settings: Hub, where: str) -> dict[str, str]:
    """The dataset's column for each of ours that it has."""
    columns = {str(role): column for role, column in settings.columns.items()}
    for role in _COLUMNS:
        column = columns.setdefault(role, role)
        if column in features:
            continue
        if role in settings.columns or role in ("audio", "sentence"):
            raise SpeechmillError(
                f"{where} has no column `{column}`; the dataset's `columns.{role}` is one of"
                f" {', '.join(features) or 'none, since it names no columns'}"
            )
        del columns[role]
    audio = features[columns["audio"]]
    if not (isinstance(audio, Audio) or audio == Value("binary") or (isinstance(audio, dict) and "bytes" in audio)):
        raise SpeechmillError(
            f"{where}: the column `{columns['audio']}` holds no audio ({audio}); the dataset's `columns.audio` is"
            f" one of {', '.join(features)}"
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
    # datasets makes a whole row group at once, and keeps what it fetched of a file until the file's end. Measured on
    # clips of 160 kB, less torch's 0.45 GB: 1.5 GB in row groups of 1,000, 0.6 GB of 100; this way 0.75 and 0.3 GB.
    for file in builder.config.data_files[split]:
        with (
            xopen(file, "rb", download_config=_AHEAD) as opened,
            pq.ParquetFile(opened, buffer_size=_PIECE, pre_buffer=False) as parquet,
        ):
            missing = set(wanted) - set(parquet.schema_arrow.names)
            if missing:
                raise SpeechmillError(f"{file} lacks the columns {', '.join(sorted(missing))}, which other files have")
            for batch in parquet.iter_batches(_BATCH, columns=wanted, use_threads=False):
                table = pa.Table.from_batches([batch]).select(wanted)
                yield from table_cast(table, stream.features.arrow_schema).to_pylist()


def _keep(audio: dict[str, Any] | None, clip_id: str, place: str, spool: Spool) -> str:
    """Put a clip's file into the spool; its name in the dataset."""
    encoded, name = (audio["bytes"], audio["path"]) if audio else (None, None)
    if encoded is not None:
        spool.add(clip_id, io.BytesIO(encoded))
    elif name is not None and _is_within(name, place):
        try:
            with xopen(name, "rb", download_config=_AHEAD) as opened:
                spool.add(clip_id, opened)
        except FileNotFoundError:
            pass
    return PurePosixPath(name.split("::")[0]).name if name else clip_id


def _is_within(name: str, place: str) -> bool:
    """Whether a name leads to a file of the dataset: `{place}/…`, or `zip://…::{place}/…` for one in an archive."""
    *archived, file = name.split("::")
    return (
        file.startswith(f"{place}/")
        and ".." not in PurePosixPath(file).parts
        and (not archived or (len(archived) == 1 and archived[0].startswith("zip://")))
    )


def _text(value: Any, feature: Any) -> str | None:
    if isinstance(feature, ClassLabel) and isinstance(value, int):
        return feature.names[value] if 0 <= value < feature.num_classes else None
    return None if value is None else str(value) or None
