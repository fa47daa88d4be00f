"""The recordings of a folder or an archive, and their lengths and formats, which are read from their headers."""

import io
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import soundfile as sf

from speechmill.core.progress import progress
from speechmill.corpus.audio import Stream, UnreadableAudioError, decode
from speechmill.corpus.containers import inspect_container
from speechmill.corpus.encoded import Encoded, mapped, num_bytes
from speechmill.corpus.sources.archive import open_tree

# The most recordings that are opened: a larger folder is sampled.
_MEASURED = 10_000
_MAX_HOURS = 24


@dataclass
class Measured:
    """What the headers of recordings say; `seconds` has those of each recording that can be read."""

    seconds: dict[str, float] = field(default_factory=dict)
    formats: Counter[str] = field(default_factory=Counter)
    rates: Counter[int] = field(default_factory=Counter)
    channels: Counter[int] = field(default_factory=Counter)
    unreadable: dict[str, str] = field(default_factory=dict)
    sampled: bool = False
    """Whether only some of the recordings were opened."""

    @property
    def opened(self) -> int:
        """The number of recordings that were opened."""
        return len(self.seconds) + len(self.unreadable)


def list_files(path: Path) -> list[str]:
    """Return the names of all files in a folder or an archive.

    Those of a folder are relative to it and sorted; hidden ones are left out.
    """
    return _files_below(path) if path.is_dir() else _members(path)


def _files_below(folder: Path) -> list[str]:
    found = []
    for parent, subfolders, files in os.walk(folder, followlinks=True):
        depth = len(Path(parent).relative_to(folder).parts)
        # A link can lead back to a folder that contains it.
        subfolders[:] = [each for each in subfolders if not each.startswith(".") and depth < 8]
        found += [(Path(parent) / each).relative_to(folder).as_posix() for each in files if not each.startswith(".")]
    return sorted(found)


def _members(archive: Path) -> list[str]:
    names: list[str] = []

    def keep(name: str) -> None:
        names.append(name)

    with tempfile.TemporaryDirectory() as work, open_tree(archive, Path(work), keep):
        return names


def measure(names: list[str], read: Callable[[str], Encoded]) -> Measured:
    """Return the lengths and formats of the recordings `names`, or of an even sample if they are many.

    Args:
        names: The names of the recordings.
        read: Returns the content of one, or its file; raises OSError if it cannot be read.
    """
    step = max(1, -(-len(names) // _MEASURED))
    measured = Measured(sampled=step > 1)
    for name in progress(names[::step], desc="reading headers", unit="recording"):
        try:
            seconds, rate, channels, kind = _header(read(name), name)
        except UnreadableAudioError as error:
            measured.unreadable[name] = str(error)
            continue
        except OSError as error:
            measured.unreadable[name] = error.strerror or str(error)
            continue
        measured.seconds[name] = seconds
        measured.rates[rate] += 1
        measured.channels[channels] += 1
        measured.formats[kind] += 1
    return measured


def _header(encoded: Encoded, name: str) -> tuple[float, int, int, str]:
    """Return the seconds, the rate in Hz, the channels and the format of a recording.

    Raises:
        UnreadableAudioError: It is not a complete recording.
    """
    if num_bytes(encoded) == 0:
        raise UnreadableAudioError("the file is empty", "empty")
    with mapped(encoded) as content:
        container = inspect_container(content)
    if container.truncated or container.fault:
        raise UnreadableAudioError(container.fault or f"the file is truncated {container.truncated}")
    # Not by its name, whose ending libsndfile would take for the format of a file without a header.
    file = io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded.open("rb")
    with file, suppress(sf.LibsndfileError), sf.SoundFile(file) as audio:
        if audio.frames < 1 << 48:  # otherwise the header does not give it
            return _complete(audio.frames, audio.samplerate, audio.channels, f"{audio.format} {audio.subtype}")
    samples, rate, channels = decode(encoded, name, _count, _MAX_HOURS).samples
    return _complete(samples, rate, channels, Path(name).suffix.lower().removeprefix("."))


def _complete(samples: int, rate: int, channels: int, kind: str) -> tuple[float, int, int, str]:
    if samples == 0:
        raise UnreadableAudioError("the file has no samples", "empty")
    return samples / rate, rate, channels, kind


def _count(stream: Stream) -> tuple[int, int, int]:
    for _ in stream.blocks():
        pass
    return stream.samples_read, stream.rate, stream.channels
