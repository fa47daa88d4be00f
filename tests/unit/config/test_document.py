"""The schema and the reference of the configuration follow its types."""

from speechmill.config.document import REFERENCE, SCHEMA, schema, with_reference

HOW = "run `make format`"


def test_the_exported_schema_is_that_of_the_types() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == schema(), HOW


def test_every_key_is_explained_in_the_readme() -> None:
    page = REFERENCE.read_text(encoding="utf-8")
    assert page == with_reference(page), HOW


def test_no_key_is_without_a_description() -> None:
    page = REFERENCE.read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) > 60
    assert not [row for row in rows if row.split(" | ")[-1].strip(" |") == ""]
