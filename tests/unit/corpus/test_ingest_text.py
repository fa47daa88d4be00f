import bz2
import gzip
import lzma
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from archive_server import Site, breaking_off, serving, status
from material import as_json
from speechmill.config import texts as texts_config
from speechmill.config.texts import TextSource
from speechmill.core.command import SpeechmillError
from speechmill.core.files import file_digest, read_json
from speechmill.corpus.ingest_text import IngestTextSettings, main, sentences
from speechmill.corpus.texts.sentences import split_sentences
from speechmill.corpus.texts.wikitext import wiki_paragraphs

Run = Callable[..., tuple[list[str], dict[str, Any]]]

PLAIN = "Раз, два. Три!\n\nЧетыре пять шесть\n"
SPLIT = ["Раз, два.", "Три!", "Четыре пять шесть"]


def page(title: str, text: str, ns: int = 0, extra: str = "") -> str:
    return (
        f"<page><title>{title}</title><ns>{ns}</ns><id>1</id>{extra}<revision><id>2</id><model>wikitext</model>"
        f'<text bytes="9" xml:space="preserve">{text}</text></revision></page>'
    )


# As in the dumps of Wikimedia.
DUMP = (
    '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="ru"><siteinfo><namespaces>'
    '<namespace key="0" case="first-letter" /><namespace key="6" case="first-letter">Файл</namespace>'
    '<namespace key="14" case="first-letter">Категория</namespace></namespaces></siteinfo>'
    + page("Москва", "'''Москва''' — [[столица]] {{шаблон}}. [[Файл:а.jpg|thumb|Подпись.]] Она велика.")
    + page("Мск", "#перенаправление [[Москва]]", extra='<redirect title="Москва" />')
    + page("Обсуждение:Москва", "Да. Нет.", ns=1)
    + page("Волга", "Река в [[Россия|России]].&lt;ref&gt;Книга.&lt;/ref&gt;\n* список\n[[Категория:Реки]]")
    + "</mediawiki>"
)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A function that runs the stage on a section of `texts` and returns the sentences and the record."""

    def run(**section: Any) -> tuple[list[str], dict[str, Any]]:
        source = TextSource.model_validate({"name": "A text", "licence": "CC0-1.0"} | section)
        settings = {key: getattr(source, key) for key in IngestTextSettings.model_fields}
        download = source.download and source.download.model_dump()
        output, record = tmp_path / "out" / "sentences.txt.zst", tmp_path / "out" / "source.json"
        arguments = [
            "--settings", as_json(settings), "--location", as_json({"path": source.file, "download": download}),
            "--fingerprint", "x", "--threads", "2", "--sentences", output, "--record", record,
        ]  # fmt: skip
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["ingest_text", *map(str, arguments)])
        main()
        assert read_json(record)["sha256"] == {"sentences.txt.zst": file_digest(output)}
        with zstandard.open(output, "rt", encoding="utf-8") as lines:
            return lines.read().splitlines(), read_json(record)

    return run


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr("time.sleep", lambda _: None)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with serving(Site()) as running:
        monkeypatch.setattr(texts_config, "_WIKIPEDIA", running.url + "/{wiki}wiki/{date}/{wiki}wiki-{date}.xml.bz2")
        yield running


def multistream(data: bytes) -> bytes:
    return bz2.compress(data[:9]) + bz2.compress(data[9:])


@pytest.mark.parametrize(
    "compress", [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.compress, multistream]
)
def test_every_compression_is_read(tmp_path: Path, run: Run, compress: Callable[[bytes], bytes]) -> None:
    (tmp_path / "text").write_bytes(compress(PLAIN.encode()))
    assert run(path="text")[0] == SPLIT


@pytest.mark.parametrize("threads", [1, 2])
def test_articles_of_a_dump_become_sentences(tmp_path: Path, threads: int) -> None:
    (tmp_path / "dump.xml.bz2").write_bytes(bz2.compress(DUMP.encode()))
    counts: Counter[str] = Counter()
    found = list(sentences(tmp_path / "dump.xml.bz2", IngestTextSettings(), threads, counts))
    assert found == ["Москва — столица .", "Она велика.", "Река в России."]
    assert counts == {"pages": 4, "redirects": 1, "other_namespaces": 1}


def test_wikipedia_is_downloaded_by_language_and_date(run: Run, site: Site) -> None:
    site.files["/ruwiki/20261101/ruwiki-20261101.xml.bz2"] = bz2.compress(DUMP.encode())
    site.answers = [breaking_off(100)]
    text, record = run(wikipedia="ru", date="20261101")
    assert len(text) == 3
    assert site.ranges == [None, "bytes=100-"]
    assert record["source"]["url"] == site.url + "/ruwiki/20261101/ruwiki-20261101.xml.bz2"
    assert record["counts"] == {
        "pages": 4, "redirects": 1, "other_namespaces": 1, "sentences": 3, "complete": True,
    }  # fmt: skip


def test_a_dump_that_is_gone_names_the_list_of_dates(run: Run, site: Site) -> None:
    with pytest.raises(
        SpeechmillError, match=r"404.*set `date` to one of those at https://dumps.wikimedia.org/ruwiki/"
    ):
        run(wikipedia="ru", date="20200101")


def test_text_is_downloaded_from_a_mirror(run: Run, site: Site) -> None:
    site.files["/book.txt"] = PLAIN.encode()
    site.answers = [status(404)]
    assert run(urls=[f"{site.url}/gone.txt", f"{site.url}/book.txt"])[0] == SPLIT


def test_a_wrong_sha256_is_refused(run: Run, site: Site) -> None:
    site.files["/book.txt"] = PLAIN.encode()
    with pytest.raises(SpeechmillError, match="`sha256` is"):
        run(urls=[f"{site.url}/book.txt"], sha256="0" * 64)


def test_a_web_page_in_place_of_a_text_is_refused(tmp_path: Path, run: Run, site: Site) -> None:
    site.files["/book.txt"] = b"<!DOCTYPE html><html><body>Not here</body></html>"
    with pytest.raises(SpeechmillError, match="returns a web page instead of the file"):
        run(urls=[f"{site.url}/book.txt"])
    (tmp_path / "own.txt").write_bytes(site.files["/book.txt"])
    with pytest.raises(SpeechmillError, match=r"own\.txt is a web page"):
        run(path="own.txt")


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, zstandard.compress])
def test_a_truncated_file_is_refused(tmp_path: Path, run: Run, compress: Callable[[bytes], bytes]) -> None:
    data = compress(DUMP.encode() * 20)
    (tmp_path / "text").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(SpeechmillError, match="text is truncated or"):
        run(path="text", format="plain")
    assert not (tmp_path / "out" / "sentences.txt.zst").exists()


def test_other_bytes_after_a_gzip_text_are_refused(tmp_path: Path, run: Run) -> None:
    (tmp_path / "text").write_bytes(gzip.compress(DUMP.encode()) + b"more text")
    with pytest.raises(SpeechmillError, match="text is truncated or corrupt"):
        run(path="text", format="plain")


@pytest.mark.parametrize("xml", [DUMP[:-20], DUMP.replace("</ns>", "</sn>", 1)], ids=["truncated", "malformed"])
def test_xml_that_is_not_well_formed_is_refused(tmp_path: Path, run: Run, xml: str) -> None:
    (tmp_path / "dump.xml").write_text(xml, encoding="utf-8")
    with pytest.raises(SpeechmillError, match=r"dump\.xml is truncated or not well-formed XML"):
        run(path="dump.xml")


def test_elements_of_other_xml_are_paragraphs(tmp_path: Path, run: Run) -> None:
    (tmp_path / "book.xml").write_text("<?xml version='1.0'?><b><h>Глава</h><p>Раз <i>два</i>. Три.</p></b>", "utf-8")
    assert run(path="book.xml")[0] == ["Раз два.", "Три."]
    assert run(path="book.xml", element="h")[0] == ["Глава"]
    with pytest.raises(SpeechmillError, match=r"no XML element called s; .* most frequent ones: "):
        run(path="book.xml", element="s")


def test_the_first_sentences_are_used(tmp_path: Path, run: Run) -> None:
    (tmp_path / "text").write_text(PLAIN, encoding="utf-8")
    text, record = run(path="text", max_sentences=2)
    assert (text, record["counts"]["complete"]) == (SPLIT[:2], False)
    text, record = run(path="text", max_sentences=3)
    assert (text, record["counts"]["complete"]) == (SPLIT, True)


def test_text_that_is_not_utf_8_is_refused(tmp_path: Path, run: Run) -> None:
    (tmp_path / "old.txt").write_bytes("раз".encode("cp1251"))
    with pytest.raises(SpeechmillError, match=r"old\.txt is not valid UTF-8"):
        run(path="old.txt")


@pytest.mark.parametrize(
    ("paragraph", "expected"),
    [
        ("Раз.  Два! Три? Четыре", ["Раз.", "Два!", "Три?", "Четыре"]),
        ("Он сказал: «Да.» Потом ушёл.", ["Он сказал: «Да.»", "Потом ушёл."]),
        ("В 1799 г. А. С. Пушкин родился.", ["В 1799 г. А. С. Пушкин родился."]),
        ("Это 3.5 км, т. е. мало.", ["Это 3.5 км, т. е. мало."]),
        ("今日は晴れ。「はい。」明日は雨！", ["今日は晴れ。", "「はい。」", "明日は雨！"]),
        ("비가 온다. 그는 갔다.", ["비가 온다.", "그는 갔다."]),
        ("यह एक है। वह दो है।", ["यह एक है।", "वह दो है।"]),
        ("هل أنت هنا؟ نعم.", ["هل أنت هنا؟", "نعم."]),
        ("Մեկ։ Երկու։", ["Մեկ։", "Երկու։"]),
        ("አንድ። ሁለት።", ["አንድ።", "ሁለት።"]),
        (" \t ", []),
    ],
)
def test_sentences_end_at_the_marks_of_their_script(paragraph: str, expected: list[str]) -> None:
    assert list(split_sentences(paragraph)) == expected


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ("a {{t|x=[[b]]}} c", ["a  c"]),
        ("[[a|b]] [[c]] [http://x.y d] [http://x.y]", ["b c d"]),
        ("a<ref name=x>b</ref><ref name=x/> ''c'' '''d'''", ["a c d"]),
        ("{| class=x\n|-\n| a || b\n|}\nc", ["c"]),
        ("== a ==\n* b\n# c\n: d\n; e\nf", ["f"]),
        ("[[Файл:x.jpg|thumb|a [[b]]]][[Image:y.png]][[Изображение:z.png|100px|b]][[Категория:d]]e", ["e"]),
        ("a&nbsp;b<br/>c", ["a\xa0b", "c"]),
        ("a (; {{lang|ru}}) b", ["a b"]),
        ("a <math>x^2</math><!-- b --> <nowiki>[c]</nowiki>", ["a  [c]"]),
        ("{{unclosed [[a|b", ["{{unclosed [[a|b"]),
    ],
)
def test_only_running_text_of_a_page_is_kept(markup: str, expected: list[str]) -> None:
    assert list(wiki_paragraphs(markup, {"файл", "категория", "image"})) == expected
