"""Files of ELAN (https://www.mpi.nl/tools/elan/EAF_Annotation_Format_3.0_and_ELAN.pdf)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat

from pympi.Elan import Eaf

from speechmill.core.command import SpeechmillError
from speechmill.corpus.pieces import Piece
from speechmill.corpus.sources.annotations.annotation import Annotation, malformed

_ADVICE = "open it in ELAN and save it again"


def read_elan(file: Path) -> list[Annotation]:
    """Return the annotations of all tiers.

    Annotations whose boundaries have no times divide the time between the boundaries that do evenly, as in ELAN. An
    annotation of a symbolic tier has the times of the annotation that it refers to; those that divide the same one, as
    the words of a sentence do, are one annotation.

    Raises:
        SpeechmillError: The file is not XML, has a document type, is not a file of ELAN, or the time of an annotation
            is unknown.
    """
    count = _count_annotations(file)
    try:
        eaf = Eaf(str(file), suppress_version_warning=True)
    except KeyError as error:
        raise malformed(file, "a file of ELAN", f"{error.args[0]} is missing", _ADVICE) from error
    except Exception as error:  # pympi raises no narrower one where ElementTree cannot parse a file
        raise malformed(file, "a file of ELAN", error, _ADVICE) from error
    if count != sum(len(aligned) + len(references) for aligned, references, *_ in eaf.tiers.values()):
        raise malformed(file, "a file of ELAN", "two tiers or annotations have the same name", _ADVICE)
    return list(_Annotations(file, eaf).all())


def _count_annotations(file: Path) -> int:
    """Return the number of annotations; raise a SpeechmillError for what is not XML, or has a document type.

    A file of ELAN has none, and one that declares entities could exhaust the memory.
    """
    count = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal count
        count += name in ("ALIGNABLE_ANNOTATION", "REF_ANNOTATION")

    def refuse(*_: object) -> NoReturn:
        raise malformed(file, "a file of ELAN", "it has a document type, <!DOCTYPE …>", _ADVICE)

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.StartDoctypeDeclHandler = refuse
    try:
        with file.open("rb") as xml:
            parser.ParseFile(xml)
    except (expat.ExpatError, LookupError) as error:  # a LookupError is an unknown encoding
        raise malformed(file, "XML", error, _ADVICE) from error
    return count


class _Annotations:
    """The annotations of a file, whose times are found by their ids."""

    def __init__(self, file: Path, eaf: Eaf) -> None:
        self._file, self._eaf = file, eaf
        references = {name: each for _, found, *_ in eaf.tiers.values() for name, each in found.items()}
        self._referred = {name: referred for name, (referred, *_) in references.items()}
        self._previous = {name: previous for name, (_, _, previous, *_) in references.items() if previous in references}
        self._times: dict[str, float] = {name: ms / 1000 for name, ms in eaf.timeslots.items() if ms is not None}
        parents = {name: tier[2]["PARENT_REF"] for name, tier in eaf.tiers.items() if "PARENT_REF" in tier[2]}
        # A tier divides the annotations of its parent, which therefore comes first.
        for name in sorted(eaf.tiers, key=lambda name: len(_chain(name, parents))):
            self._interpolate(name)
        self._aligned = {
            name: (start, end) for aligned, *_ in eaf.tiers.values() for name, (start, end, *_) in aligned.items()
        }

    def all(self) -> Iterator[Annotation]:
        """Yield the annotations of each tier."""
        for name, (aligned, references, attributes, _) in self._eaf.tiers.items():
            participant = attributes.get("PARTICIPANT", "").strip()
            found: dict[str, list[str]] = {each: [text] for each, (_, _, text, *_) in aligned.items()}
            for each in sorted(references, key=self._position):
                # The last annotation that the others refer to has times of its own.
                found.setdefault(_chain(each, self._referred)[-1], []).append(references[each][1])
            for each, texts in found.items():
                yield Annotation(
                    f"{self._file}: tier {name}, annotation {each}",
                    " ".join(" ".join(texts).split()),
                    self._piece(name, each),
                    name,
                    attributes.get("LINGUISTIC_TYPE_REF", ""),
                    participant,
                    speaker=participant,
                )

    def _interpolate(self, tier: str) -> None:
        """Give times to the boundaries of a tier that have none, evenly between those before and after that do."""
        following = {start: end for start, end, *_ in self._eaf.tiers[tier][0].values()}
        for first in [slot for slot in following if slot in self._times]:
            chain = [first]
            while chain[-1] in following and (len(chain) == 1 or chain[-1] not in self._times):
                chain.append(following[chain[-1]])
                if len(chain) > len(following) + 1:
                    break
            start, end = self._times[first], self._times.get(chain[-1])
            for i, slot in enumerate(chain[1:-1], 1):
                if end is not None:
                    self._times[slot] = round(start + (end - start) * i / (len(chain) - 1), 3)

    def _position(self, annotation: str) -> tuple[int, ...]:
        """Return where an annotation comes among all that refer to the same one, as numbers from the top down."""
        *referring, _ = _chain(annotation, self._referred)
        return tuple(len(_chain(each, self._previous)) for each in reversed(referring))

    def _piece(self, tier: str, annotation: str) -> Piece:
        start, end = (self._times.get(slot) for slot in self._aligned.get(annotation, ("", "")))
        if start is None or end is None:
            raise self._unknown_time(annotation)
        return Piece(start, end)

    def _unknown_time(self, annotation: str) -> SpeechmillError:
        return malformed(
            f"{self._file}: annotation {annotation}", "an annotation with times", "none can be found", _ADVICE
        )


def _chain(name: str, following: Mapping[str, str]) -> list[str]:
    """Return a name and those that follow it, one after the other; a corrupt file may lead back to one of them."""
    chain = {name: None}
    while (name := following.get(name, name)) not in chain:
        chain[name] = None
    return list(chain)
