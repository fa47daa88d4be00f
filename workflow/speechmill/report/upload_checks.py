"""Checks for content that must not be uploaded: audio and sentences of a corpus, and secrets."""

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from speechmill.core.files import read_json
from speechmill.core.tables import read_table
from speechmill.report.anonymise import anonymised, clip_names, is_restricted
from speechmill.report.evidence import FOLDER

_SUFFIXES = {
    *(".aac", ".aif", ".aiff", ".amr", ".au", ".caf", ".flac", ".gsm", ".m4a", ".mka", ".mp2", ".mp3", ".mp4"),
    *(".oga", ".ogg", ".opus", ".pcm", ".ra", ".snd", ".sph", ".spx", ".vox", ".w64", ".wav", ".weba", ".webm"),
    *(".wma", ".wv"),
}
# The first bytes of audio files; a dot stands for any byte.
_AUDIO = re.compile(
    rb"RIF[FX]....WAVE|RF64|riff\x2e\x91|fLaC|OggS\0|ID3[\2-\4]|NIST_1A|FORM....AIF[FC]|\.snd\0|caff\0|wvpk|#!AMR"
    rb"|....ftyp|\x1a\x45\xdf\xa3|\x30\x26\xb2\x75",
    re.DOTALL,
)
# Zip, gzip, bzip2, xz, zstd, 7-Zip and Arrow; and tar, whose signature is at an offset.
_ARCHIVE = re.compile(
    rb"PK\x03\x04|\x1f\x8b|BZh[1-9]|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|ARROW1|.{257}ustar",
    re.DOTALL,
)
_EMBEDDED = re.compile(rb"data:\s*(audio/|video/|application/ogg)", re.IGNORECASE)

# The columns of a corpus whose values, listed in the configuration, are its sentences or its speakers.
_PRIVATE_COLUMNS = ("sentence", "speaker_id")

_TOKENS = re.compile(
    rb"\b(?:hf|api_org)_[A-Za-z0-9]{20,}|\bgh[oprsu]_[A-Za-z0-9]{36}|\bAKIA[0-9A-Z]{16}\b|BEGIN [A-Z ]*PRIVATE KEY"
)
# The environment variables from which speechmill and its dependencies read secrets.
_SECRET_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MDC_API_KEY")

# 16 KiB, which hold a dozen frames of MPEG audio.
_HEAD = 1 << 14


def find_audio(path: Path) -> str | None:
    """Return what audio a file contains, or may contain, judging by its name and content; None if none."""
    if path.suffix.lower() in _SUFFIXES:
        return f"audio, because its name ends in {path.suffix}"
    head = _head(path)
    if _AUDIO.match(head) or _is_mpeg(head):
        return "audio"
    if _ARCHIVE.match(head):
        return "an archive, which may contain audio"
    if head.startswith(b"PAR1"):
        return _find_audio_in_table(path)
    if _is_text(head) and _EMBEDDED.search(path.read_bytes()):
        return "audio, embedded as a `data:` URL"
    return None


def find_secret(path: Path) -> str | None:
    """Return the kind of secret that a text file contains, never the secret itself; None if none is found."""
    if not _is_text(_head(path)):
        return None
    content = path.read_bytes()
    for name in _SECRET_VARIABLES:
        value = os.environ.get(name, "").strip().encode()
        if value and value in content:
            return f"the value of {name}"
    return "a string that looks like a token or a private key" if _TOKENS.search(content) else None


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)


def _is_text(head: bytes) -> bool:
    return b"\0" not in head


def _is_mpeg(head: bytes) -> bool:
    # Each frame begins with eleven set bits, which is no safe signature; but the next frames begin with the same bytes.
    return len(head) > 1 and head[0] == 0xFF and head[1] >= 0xE0 and head.count(head[:2]) > 2


def _find_audio_in_table(path: Path) -> str | None:
    try:
        schema = pq.read_schema(path)
    except pa.ArrowException:
        return "a table that cannot be read"
    for field in schema:
        if field.name.lower() == "audio" or _is_binary(field.type):
            return f"a column of audio or bytes, {field.name}"
    # `datasets` stores the types of its features in the schema metadata.
    return "a column of audio" if b'"Audio"' in (schema.metadata or {}).get(b"huggingface", b"") else None


def _is_binary(data_type: pa.DataType) -> bool:
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    if pa.types.is_dictionary(data_type):
        return _is_binary(data_type.value_type)
    return any(test(data_type) for test in tests) or any(
        _is_binary(data_type.field(i).type) for i in range(data_type.num_fields)
    )


def find_private(model: Path, settings: Mapping[str, Any], restricted: Collection[str]) -> list[str]:
    """Return a sentence for each file of a model folder with words or clip ids of one of the datasets `restricted`.

    Args:
        model: The model folder.
        settings: The content of `evidence/settings.json`.
        restricted: The datasets whose sentences must not be redistributed.
    """
    folder = model / FOLDER
    found = []
    for path in sorted(folder.rglob("*.json")):
        content = read_json(path)
        if anonymised(path.relative_to(folder).as_posix(), content, restricted) != content:
            found.append(f"{path.relative_to(model)} has words or clip ids; build the card again")
    for table in sorted(folder.glob("scored/*/*.parquet")):
        if is_restricted(table.parent.name, restricted):
            rows = read_table(table)
            ids = rows["id"].to_pylist()
            if "hypothesis" in rows.column_names or ids != clip_names(ids, restricted=True):
                found.append(f"{table.relative_to(model)} has words or clip ids; build the card again")
    text = folder / "lm" / "text.json"
    trained_on = [name for name in settings.get("train", []) if is_restricted(name, restricted)]
    if trained_on and text.is_file() and "training" in read_json(text)["source"]:
        found.append(
            f"lm/ has words and n-grams of {', '.join(trained_on)}; remove `lm` from `evaluation.decoders`, or estimate"
            " the language model from other text (`evaluation.lm.text`)"
        )
    return found + [
        f"{FOLDER}/config.yaml lists sentences or speakers in {key}; list them in a manifest instead"
        for key in _private_keys(folder / "config.yaml", restricted)
    ]


def _private_keys(configuration: Path, restricted: Collection[str]) -> list[str]:
    """Return the keys of a configuration that list sentences or speakers of the datasets `restricted`."""
    if not configuration.is_file():
        return []
    datasets = yaml.safe_load(configuration.read_text(encoding="utf-8")).get("datasets", {})
    keys = []
    for name in sorted(set(restricted) & set(datasets)):
        columns, split = datasets[name].get("columns", {}), datasets[name].get("split", {})
        fields = {}
        for column in _PRIVATE_COLUMNS:
            source = columns.get(column, column)
            fields[column] = source["field"] if isinstance(source, dict) else source
            if isinstance(source, dict) and source.get("values"):
                keys.append(f"datasets.{name}.columns.{column}.values")
        if split.get("values") and split["field"] in fields.values():
            keys.append(f"datasets.{name}.split.values")
    return keys
