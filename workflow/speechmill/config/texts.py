"""Section `texts`: text for language models, which the workflow fetches."""

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from speechmill.config.base import Section
from speechmill.config.datasets import Download, FileBytes, FileSha256, Urls

TextFormat = Literal["plain", "xml", "mediawiki"]

_WIKIPEDIA = "https://dumps.wikimedia.org/{wiki}wiki/{date}/{wiki}wiki-{date}-pages-articles.xml.bz2"
WIKIPEDIA_DATES = "https://dumps.wikimedia.org/{wiki}wiki/"
"""The address of the list of the dates of the dumps."""


class TextSource(Section):
    """A text in one file: a dump of Wikipedia, any other file with an address, or a file on this machine.

    The file may be compressed with gzip, bzip2, xz or Zstandard, which its first bytes show.
    """

    name: str = Field(description="name of the text, as shown in the card")
    licence: str = Field(description="licence of the text, an SPDX identifier such as `CC-BY-SA-4.0`")
    wikipedia: str | None = Field(
        None,
        pattern="^[a-z_]+$",
        description="code of a Wikipedia in the names of its dumps, such as `ru` or `zh_yue`; its articles are"
        " downloaded",
    )
    date: str | None = Field(
        None,
        pattern=r"^20\d{6}$",
        description='date of the Wikipedia dump, such as `"20261101"`; dumps are kept for some months:'
        " `https://dumps.wikimedia.org/{wikipedia}wiki/` lists those that there are",
    )
    urls: Urls = Field(default_factory=list)
    path: str | None = Field(
        None,
        description="the file; with `wikipedia` or `urls`, where it is downloaded to if it does not exist, by default"
        " `corpora/` and its name in the URL",
    )
    bytes: FileBytes = None
    sha256: FileSha256 = None
    format: Literal["auto", TextFormat] = Field(
        "auto",
        description="`plain`: UTF-8 with a sentence or a paragraph per line; `mediawiki`: the XML dump of a wiki, of"
        " which articles are read, without tables, templates, lists, headings and references; `xml`: any other XML, of"
        " which the elements called `element` are read, each a paragraph; `auto` decides by the beginning of the file",
    )
    element: str = Field("p", description="with `format: xml`: name of the elements that contain the text")
    max_sentences: int | None = Field(
        None, gt=0, description="number of sentences to use, the first of the file; default: all"
    )

    @model_validator(mode="after")
    def _one_location(self) -> "TextSource":
        if (self.wikipedia is None) != (self.date is None):
            raise ValueError("`wikipedia` and `date` belong together: give both, or neither")
        if self.wikipedia is not None and self.urls:
            raise ValueError("give either `wikipedia` or `urls`")
        if self.download is None and (self.path is None or self.bytes or self.sha256):
            raise ValueError("give `wikipedia` with `date`, or `urls`, or only the `path` of a file")
        return self

    @property
    def download(self) -> Download | None:
        """Where the file is downloaded from, if it is."""
        if self.wikipedia is not None:
            urls = [_WIKIPEDIA.format(wiki=self.wikipedia, date=self.date)]
        elif self.urls:
            urls = self.urls
        else:
            return None
        return Download(urls=urls, bytes=self.bytes, sha256=self.sha256)

    @property
    def file(self) -> str:
        """The path of the file on this machine."""
        if self.path is not None:
            return self.path
        download = self.download
        assert download is not None
        return f"corpora/{urlsplit(download.urls[0]).path.rsplit('/', 1)[-1]}"
