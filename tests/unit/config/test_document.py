"""Tests that the generated schema and reference of the configuration are up to date."""

from speechmill.config.document import REFERENCE, SCHEMA, schema, with_reference

HINT = "run `make format`"


def test_schema_is_up_to_date() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == schema(), HINT


def test_reference_is_up_to_date() -> None:
    page = REFERENCE.read_text(encoding="utf-8")
    assert page == with_reference(page), HINT


def test_every_key_has_a_description() -> None:
    page = REFERENCE.read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) > 60
    assert not [row for row in rows if row.split(" | ")[-1].strip(" |") == ""]
