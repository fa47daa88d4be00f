"""The values of columns: what the dataset's `columns` makes of the fields of a file name or of a manifest's line."""

import re
from collections.abc import Iterable

from speechmill.config.datasets import Column, Folder, ValueMap
from speechmill.core.command import SpeechmillError
from speechmill.corpus.sources.manifests import Entry

_IN_BRACES = re.compile(r"\{(.*?)\}")


def column_fields(settings: Folder, column: Column) -> list[str]:
    """Return the names of the fields that a column is made of; none if the configuration sets it to null."""
    source = settings.columns.get(column, column)
    if source is None:
        return []
    if isinstance(source, ValueMap):
        return [source.field]
    return _IN_BRACES.findall(source) or [source]


def column_value(entry: Entry, column: Column, settings: Folder) -> str | None:
    """Return the value of a column, None if it is empty or a field of it does not exist.

    Raises:
        SpeechmillError: The field of `path` does not exist, a field is not text but has fields of its own, or
            `values` lacks the value of the field.
    """
    source = settings.columns.get(column, column)
    values: dict[str, str] = {}
    for field in column_fields(settings, column):
        if field not in entry.fields:
            nested = [each for each in entry.fields if each.startswith(f"{field}.")]
            if nested:
                raise SpeechmillError(
                    f"{entry.location}: `columns.{column}` reads the field `{field}`, which is not text; use one of"
                    f" {', '.join(nested)}"
                )
            if column == "path":
                raise missing_field(entry.location, f"columns.{column}", field, entry.fields)
        values[field] = entry.fields.get(field, "")
    if isinstance(source, str) and _IN_BRACES.search(source):
        return _IN_BRACES.sub(lambda match: values[match[1]], source) if all(values.values()) else None
    value = "".join(values.values())
    if isinstance(source, ValueMap) and source.values is not None and (value or "" in source.values):
        if value not in source.values:
            raise SpeechmillError(
                f"{entry.location}: `columns.{column}.values` has no entry for {source.field} = {value}; add it"
            )
        return source.values[value]
    return value or None


def missing_field(location: str, key: str, field: str, known: Iterable[str]) -> SpeechmillError:
    """Return the error that the field which a key of the configuration names does not exist."""
    return SpeechmillError(
        f"{location}: `{key}` reads the field `{field}`, which does not exist; use one of"
        f" {', '.join(sorted(known))}, or correct `separator` and `column_names` if these are not the columns"
    )
