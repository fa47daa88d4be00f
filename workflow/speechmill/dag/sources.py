"""What a corpus or a base model on this machine is, without its location: fingerprints for rerun logic."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from speechmill.config.augment import AUDIO_SUFFIXES
from speechmill.config.datasets import Dataset, Download
from speechmill.config.root import Config
from speechmill.core.files import read_json
from speechmill.corpus.download_record import downloaded
from speechmill.dag.paths import base_config, lm_texts, spoken_archive

_FETCHED = "fetched "


def dataset_fingerprint(config: Config, dataset: str, prefix: str) -> str:
    """Return a fingerprint of the corpus of a dataset: sizes, names in a folder, times of change.

    After ingest the corpus may be removed: the recorded fingerprint stays valid. An archive that is downloaded has
    the fingerprint of its settings, before and after.
    """
    return source_fingerprint(dataset, config.datasets[dataset], prefix)


def source_fingerprint(name: str, dataset: Dataset, prefix: str = "") -> str:
    """Return the fingerprint of the dataset with this name; see `dataset_fingerprint`."""
    if spoken_archive(dataset):
        return "spoken"
    if dataset.in_storage:
        return "in storage, as snakemake knows it"
    if dataset.location is None:
        return "on the Hub, as the settings say"
    path = Path(dataset.location).expanduser()
    download = dataset.archive_download
    if download is not None and downloaded(path, download.bytes, download.sha256):
        return _download_fingerprint(download)
    known = _present_or_recorded(path, Path(f"{prefix}results/raw/{name}/source.json"))
    if download is not None and (known == "absent" or known.startswith(_FETCHED)):
        return _download_fingerprint(download)
    return known


def text_fingerprint(config: Config, text: str, prefix: str) -> str:
    """Return a fingerprint of the file of a text; if it is removed after it was read, the recorded one stays valid."""
    section = config.texts[text]
    if section.download is not None:
        return _download_fingerprint(section.download)
    return _present_or_recorded(Path(section.file).expanduser(), Path(f"{prefix}results/texts/{text}/source.json"))


def base_fingerprint(config: Config, model: str) -> str:
    """Return a fingerprint of the folder of a base model; empty for a base on the Hub, whose revision is pinned."""
    section = base_config(config, model)
    return _path_fingerprint(Path(str(section.base)).expanduser()) if section.base_is_folder else ""


def base_card_fingerprint(config: Config, model: str) -> str:
    """Return a fingerprint of the card of a base model in a folder; empty for a base on the Hub."""
    section = base_config(config, model)
    return _path_fingerprint(Path(str(section.base)).expanduser() / "README.md") if section.base_is_folder else ""


def uncached(config: Config) -> list[str]:
    """Return the datasets that the cache between workflows must not share, since their source may change later.

    These are optional datasets, those on the Hub at a branch or tag, those downloaded without a digest, and those that
    a model makes from the recordings of others.
    """
    return [name for name, dataset in config.datasets.items() if dataset.optional or not dataset.is_pinned]


def missing_sources(config: Config, prefix: str) -> list[str]:
    """Return an error message for each required dataset that is neither prepared nor at its `path`.

    And one for each text of a language model that is not at its `path`, and for each folder of noise or rooms without
    recordings, for a run that is not trained yet.
    """
    folders = [
        f"runs.{name}.augment: {folder} contains no recordings ({', '.join(sorted(AUDIO_SUFFIXES))}); correct `folder`"
        for name, run in config.runs.items()
        if not Path(f"{prefix}results/runs/{name}/training.json").is_file()
        for folder in run.augment.folders
        if not any(path.suffix.lower() in AUDIO_SUFFIXES for path in Path(folder).rglob("*"))
    ]
    texts = [
        f"texts.{name}.path is {config.texts[name].path}, where there is nothing: correct it, or give `urls`"
        for name in dict.fromkeys(each["text"] for run in config.runs for each in lm_texts(config, run))
        if text_fingerprint(config, name, prefix) == "absent"
    ]
    corpora = [
        f"datasets.{name}.path is {dataset.location}, where there is nothing: put the corpus there, or set its location"
        f" with --config 'datasets={{{name}: {{path: LOCATION}}}}'"
        for name, dataset in config.datasets.items()
        if not dataset.optional
        and source_fingerprint(name, dataset, prefix) == "absent"
        and not Path(f"{prefix}results/data/{name}/status.json").is_file()
    ]
    return folders + texts + corpora


def _download_fingerprint(download: Download) -> str:
    """Identify an archive by its digest, or, where there is none, by its addresses."""
    identity = download.sha256 or json.dumps([download.bytes, download.collective, sorted(download.urls)])
    return _FETCHED + hashlib.sha256(identity.encode()).hexdigest()


def _present_or_recorded(path: Path, record: Path) -> str:
    """Return the fingerprint of what is at `path`, or else the one in the record of when it was read, or `absent`."""
    if os.path.exists(path):  # noqa: PTH110  # Path.exists() raises an error where permission is missing
        return _path_fingerprint(path)
    return str(read_json(record)["fingerprint"]) if record.is_file() else "absent"


def _path_fingerprint(path: Path) -> str:
    digest = hashlib.sha256()
    if path.is_file():
        digest.update(f"{path.stat().st_size} {path.stat().st_mtime_ns}".encode())
    for folder, subfolders, files in os.walk(path):
        subfolders.sort()
        inside = os.path.relpath(folder, path)
        # What is linked to within the corpus is listed where it is, and what is outside is refused when it is read.
        for link in (Path(folder, name) for name in subfolders if os.path.islink(f"{folder}/{name}")):  # noqa: PTH114
            digest.update(os.fsencode(f"{inside}/{link.name} -> {link.readlink()}\n"))
        for file in sorted(files):
            # A file or link that cannot be followed is reported when the source is read, if its manifest names it.
            with suppress(OSError):
                stat = os.stat(f"{folder}/{file}")  # noqa: PTH116 (a million files)
                digest.update(os.fsencode(f"{inside}/{file} {stat.st_size} {stat.st_mtime_ns}\n"))
    return digest.hexdigest()
