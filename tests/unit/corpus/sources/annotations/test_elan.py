from pathlib import Path

import pytest
from pympi.Elan import Eaf

from speechmill.core.command import SpeechmillError
from speechmill.corpus.pieces import Piece
from speechmill.corpus.sources.annotations.elan import read_elan


def times_and_texts(file: Path) -> list[tuple[str, float, float | None, str]]:
    return [(each.tier, each.piece.start, each.piece.end, each.text) for each in read_elan(file)]


def document(*, slots: dict[str, int | None], tiers: str) -> str:
    """Return a file of ELAN with these time slots, in milliseconds, and these elements for its tiers."""
    values = {name: "" if ms is None else f' TIME_VALUE="{ms}"' for name, ms in slots.items()}
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ANNOTATION_DOCUMENT AUTHOR="" DATE="2026-01-01T00:00:00+00:00"'
        ' FORMAT="3.0" VERSION="3.0" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
        ' xsi:noNamespaceSchemaLocation="http://www.mpi.nl/tools/elan/EAFv3.0.xsd">'
        '<HEADER MEDIA_FILE="" TIME_UNITS="milliseconds"/><TIME_ORDER>'
        + "".join(f'<TIME_SLOT TIME_SLOT_ID="{name}"{value}/>' for name, value in values.items())
        + f"</TIME_ORDER>{tiers}</ANNOTATION_DOCUMENT>"
    )


def tier(name: str, *annotations: str, parent: str = "") -> str:
    above = f' PARENT_REF="{parent}"' if parent else ""
    inner = "".join(f"<ANNOTATION>{each}</ANNOTATION>" for each in annotations)
    return f'<TIER LINGUISTIC_TYPE_REF="default-lt" TIER_ID="{name}"{above}>{inner}</TIER>'


def aligned(name: str, start: str, end: str, text: str) -> str:
    return (
        f'<ALIGNABLE_ANNOTATION ANNOTATION_ID="{name}" TIME_SLOT_REF1="{start}" TIME_SLOT_REF2="{end}">'
        f"<ANNOTATION_VALUE>{text}</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION>"
    )


def reference(name: str, parent: str, text: str, previous: str = "") -> str:
    after = f' PREVIOUS_ANNOTATION="{previous}"' if previous else ""
    return (
        f'<REF_ANNOTATION ANNOTATION_ID="{name}" ANNOTATION_REF="{parent}"{after}>'
        f"<ANNOTATION_VALUE>{text}</ANNOTATION_VALUE></REF_ANNOTATION>"
    )


def test_tiers_have_types_participants_and_times_that_may_overlap(tmp_path: Path) -> None:
    eaf = Eaf()
    eaf.add_linguistic_type("utterance")
    eaf.add_tier("tx@Анна", "utterance", part="Анна")
    eaf.add_tier("tx@Bo", "utterance", part="Bo")
    eaf.add_annotation("tx@Анна", 1000, 2500, "Привет\nвсем")
    eaf.add_annotation("tx@Bo", 2000, 3000, "hello")
    eaf.add_annotation("tx@Bo", 4000, 5000, "")
    eaf.to_file(tmp_path / "a.eaf")
    found = [each[1:] for each in read_elan(tmp_path / "a.eaf")]
    assert found == [
        ("Привет всем", Piece(1.0, 2.5), "tx@Анна", "utterance", "Анна", "Анна", ""),
        ("hello", Piece(2.0, 3.0), "tx@Bo", "utterance", "Bo", "Bo", ""),
        ("", Piece(4.0, 5.0), "tx@Bo", "utterance", "Bo", "Bo", ""),
    ]


def test_symbolic_tiers_have_the_times_of_their_parents(tmp_path: Path) -> None:
    # The words are in an order of their own; the glosses refer to the words.
    tiers = (
        tier("gloss", reference("a6", "a4", "DOG"), reference("a7", "a5", "BARKS"), parent="word")
        + tier("text", aligned("a1", "ts1", "ts2", "der Hund bellt"))
        + tier("translation", reference("a2", "a1", "the dog barks"), parent="text")
        + tier(
            "word",
            reference("a5", "a1", "bellt", "a4"),
            reference("a3", "a1", "der"),
            reference("a4", "a1", "Hund", "a3"),
            parent="text",
        )
    )
    (tmp_path / "a.eaf").write_text(document(slots={"ts1": 500, "ts2": 2000}, tiers=tiers))
    assert times_and_texts(tmp_path / "a.eaf") == [
        ("gloss", 0.5, 2.0, "DOG BARKS"),
        ("text", 0.5, 2.0, "der Hund bellt"),
        ("translation", 0.5, 2.0, "the dog barks"),
        ("word", 0.5, 2.0, "der Hund bellt"),
    ]


def test_boundaries_without_times_divide_the_time_evenly(tmp_path: Path) -> None:
    # The second word, from 2 s to 3 s, is divided as well, by a tier that the file has before its parent.
    tiers = (
        tier("syllable", aligned("a5", "ts2", "ts5", "lo"), aligned("a6", "ts5", "ts3", "ve"), parent="word")
        + tier("text", aligned("a1", "ts1", "ts4", "I love you"))
        + tier(
            "word",
            aligned("a2", "ts1", "ts2", "I"),
            aligned("a3", "ts2", "ts3", "love"),
            aligned("a4", "ts3", "ts4", "you"),
            parent="text",
        )
    )
    slots = {"ts1": 1000, "ts2": None, "ts5": None, "ts3": None, "ts4": 4000}
    (tmp_path / "a.eaf").write_text(document(slots=slots, tiers=tiers))
    assert times_and_texts(tmp_path / "a.eaf") == [
        ("syllable", 2.0, 2.5, "lo"),
        ("syllable", 2.5, 3.0, "ve"),
        ("text", 1.0, 4.0, "I love you"),
        ("word", 1.0, 2.0, "I"),
        ("word", 2.0, 3.0, "love"),
        ("word", 3.0, 4.0, "you"),
    ]


TEXT = document(slots={"ts1": 0, "ts2": 1000, "ts3": None}, tiers=tier("text", aligned("a1", "ts1", "ts2", "one")))
BOMB = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
EXTERNAL = '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
ROOT = "<ANNOTATION_DOCUMENT"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is not XML (no element found"),
        (TEXT[:-30], "is not XML"),
        ("<html></html>", "is not a file of ELAN"),
        (TEXT.replace(ROOT, BOMB + ROOT).replace("one", "&b;"), "it has a document type, <!DOCTYPE …>"),
        (TEXT.replace(ROOT, EXTERNAL + ROOT).replace("one", "&a;"), "it has a document type, <!DOCTYPE …>"),
        (TEXT.replace('TIME_SLOT_REF1="ts1"', ""), "TIME_SLOT_REF1 is missing"),
        (TEXT.replace('TIME_VALUE="1000"', 'TIME_VALUE="soon"'), "soon"),
        (TEXT.replace('REF2="ts2"', 'REF2="ts3"'), "annotation a1 is not an annotation with times"),
        (TEXT.replace('REF2="ts2"', 'REF2="ts9"'), "annotation a1 is not an annotation with times"),
        (TEXT.replace("<TIER", tier("other", reference("a2", "a9", "x")) + "<TIER"), "annotation a9 is not"),
        (TEXT.replace("<TIER", tier("other", reference("a2", "a2", "x")) + "<TIER"), "annotation a2 is not"),
        (TEXT.replace("<TIER", tier("text", aligned("a2", "ts1", "ts2", "x")) + "<TIER"), "have the same name"),
    ],
)
def test_a_malformed_file_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "a.eaf").write_text(content)
    with pytest.raises(SpeechmillError) as caught:
        read_elan(tmp_path / "a.eaf")
    assert str(tmp_path / "a.eaf") in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_the_encoding_is_that_of_the_file(tmp_path: Path, encoding: str) -> None:
    content = TEXT.replace("one", "하나").replace('"UTF-8"', '"UTF-16"' if encoding == "utf-16" else '"UTF-8"')
    (tmp_path / "a.eaf").write_bytes(content.encode(encoding))
    assert times_and_texts(tmp_path / "a.eaf") == [("text", 0.0, 1.0, "하나")]
