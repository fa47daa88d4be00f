"""What a folder contains: its recordings, their text, and problems with them."""

import os
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from speechmill.config.datasets import IngestSettings, Source
from speechmill.core.command import SpeechmillError
from speechmill.corpus.encoded import Encoded
from speechmill.corpus.ingest_dataset import SourceLocation, open_corpus
from speechmill.corpus.sources.annotations.annotated import is_recording
from speechmill.corpus.sources.corpus import Corpus, SourceClip
from speechmill.recipe.characters import Characters, characters_of
from speechmill.recipe.layouts import Layout, find_layout
from speechmill.recipe.recordings import Measured, list_files, measure

LONG_SECONDS = 30
"""Clips whose median length is greater are aligned and cut; training on them takes too much memory."""

_SHORT_SECONDS = 0.3
_FEW_HOURS = 1
_FEW_SPEAKERS = 10
_SHOWN = 3


@dataclass(frozen=True)
class Survey:
    """What a folder contains.

    Attributes:
        recordings: The number of recordings.
        hours: Their length, estimated from the mean if only some were opened.
        clips: The clips that have text; all clips if no recording has text.
        clip_seconds: The length of each clip whose recording was opened.
        problems: What the user should look at, one sentence each.
    """

    path: Path
    language: str
    layout: Layout
    recordings: int
    hours: float
    measured: Measured
    clips: list[SourceClip]
    clip_seconds: list[float]
    without_text: list[str]
    speakers: Counter[str]
    characters: Characters
    problems: list[str]

    @property
    def is_long(self) -> bool:
        """Whether the clips have to be aligned with their text and cut."""
        return self.layout.has_text and bool(self.clip_seconds) and _quantile(self.clip_seconds, 0.5) > LONG_SECONDS

    @property
    def clip_hours(self) -> float:
        """The length of all clips in hours."""
        return _total_hours(self.clips, self.clip_seconds)

    def longest(self, share: float = 0.99) -> float:
        """Return the length in seconds that this share of the clips does not exceed."""
        return _quantile(self.clip_seconds, share)


def survey(path: Path, language: str) -> Survey:
    """Return what the folder or archive at `path` contains.

    Raises:
        SpeechmillError: There are no recordings that can be read, or a table or an annotation file is invalid.
    """
    files = list_files(path)
    layout = find_layout(path, files, language)
    with tempfile.TemporaryDirectory() as work, open_corpus(*_source(path, language, layout), Path(work)) as corpus:
        names, read = _recordings(path, files, corpus, layout)
        measured = measure(names, read)
    if not measured.seconds:
        raise SpeechmillError(f"{path}: none of the recordings can be read ({_examples(measured.unreadable)})")
    mean = sum(measured.seconds.values()) / len(measured.seconds)
    hours = mean * len(names) * len(measured.seconds) / measured.opened / 3600
    existing = set(names)
    found = {clip.id: os.path.normpath(clip.file) in existing for clip in corpus.clips}
    with_text = [clip for clip in corpus.clips if clip.sentence.strip() and found[clip.id]]
    clips = with_text if layout.has_text else [clip for clip in corpus.clips if found[clip.id]]
    if not clips:
        raise SpeechmillError(
            f"{path}: no recording has text, although there is {layout.text}; do the names in it match those of the"
            " recordings?"
        )
    named = {os.path.normpath(clip.file) for clip in with_text}
    without_text = [name for name in names if name not in named] if layout.has_text else []
    lost = [clip.file for clip in corpus.clips if not found[clip.id]]
    seconds = [length for clip in clips if (length := _seconds(clip, measured)) is not None]
    speakers = Counter(clip.speaker_id for clip in clips if clip.speaker_id is not None)
    characters = characters_of(clip.sentence for clip in with_text)
    problems = [
        *_problems_of_files(names, measured, without_text, lost),
        *_problems_of_clips(clips, seconds, speakers, layout),
        *_problems_of_text(characters, with_text),
    ]
    return Survey(
        path=path,
        language=language,
        layout=layout,
        recordings=len(names),
        hours=hours,
        measured=measured,
        clips=clips,
        clip_seconds=seconds or [mean],
        without_text=without_text,
        speakers=speakers,
        characters=characters,
        problems=problems,
    )


def _source(path: Path, language: str, layout: Layout) -> tuple[SourceLocation, IngestSettings]:
    section = {"path": str(path), "language": language} | layout.section
    try:
        source = TypeAdapter[Source](Source).validate_python(section)
    except ValidationError as error:
        raise SpeechmillError(f"{path}: the layout of the folder is not supported ({error})") from error
    shards = dict.fromkeys(layout.splits, 1)
    return SourceLocation(path=path), IngestSettings(source=source, splits=layout.splits, shards=shards)


def _recordings(
    path: Path, files: list[str], corpus: Corpus, layout: Layout
) -> tuple[list[str], Callable[[str], Encoded]]:
    """Return the names of all recordings, and a function that reads one."""
    if layout.section["source"] == "folder":
        return [name for name in files if is_recording(name)], lambda name: path / name
    by_file = {os.path.normpath(clip.file): clip for clip in corpus.clips}

    def read(name: str) -> Encoded:
        encoded = corpus.read(by_file[name])
        if encoded is None:
            raise FileNotFoundError(2, "the file does not exist", name)
        return encoded

    return list(by_file), read


def _total_hours(clips: list[SourceClip], seconds: list[float]) -> float:
    """Return the length of all clips, given that of those whose recordings were opened."""
    return len(clips) * sum(seconds) / max(1, len(seconds)) / 3600


def _seconds(clip: SourceClip, measured: Measured) -> float | None:
    whole = measured.seconds.get(os.path.normpath(clip.file))
    if clip.piece is None:
        return whole
    end = clip.piece.end if clip.piece.end is not None else whole
    return None if end is None else end - clip.piece.start


def _problems_of_files(names: list[str], measured: Measured, without_text: list[str], lost: list[str]) -> list[str]:
    problems = []
    if measured.sampled:
        problems.append(
            f"only {measured.opened:,} of {len(names):,} recordings were opened, an"
            " even sample; hours and formats are estimates"
        )
    if measured.unreadable:
        problems.append(
            f"{len(measured.unreadable):,} recordings are empty or cannot be read; they are left out, and listed with"
            f" the reasons in rejected.parquet: {_examples(measured.unreadable)}"
        )
    if without_text:
        problems.append(f"{len(without_text):,} recordings have no text: {_listed(without_text)}")
    if lost:
        problems.append(f"{len(lost):,} texts have no recording: {_listed(lost)}")
    ends = Counter(name.rpartition("/")[2].lower() for name in names)
    if repeated := [name for name, count in ends.items() if count > 1]:
        problems.append(
            f"{len(repeated):,} file names occur in several folders, which is allowed, but may be copies:"
            f" {_listed(repeated)}"
        )
    return problems


def _problems_of_clips(
    clips: list[SourceClip], seconds: list[float], speakers: Counter[str], layout: Layout
) -> list[str]:
    problems = []
    if short := sum(each < _SHORT_SECONDS for each in seconds):
        problems.append(f"{short:,} clips are shorter than {_SHORT_SECONDS} s")
    if long := sum(each > LONG_SECONDS for each in seconds):
        problems.append(f"{long:,} clips are longer than {LONG_SECONDS} s")
    hours = _total_hours(clips, seconds)
    if hours < _FEW_HOURS:
        problems.append(
            f"{60 * hours:.1f} minutes with text are too little for a useful model: expect one that tries out the"
            " workflow, and error rates with wide intervals"
            if layout.has_text
            else f"{60 * hours:.1f} minutes of recordings are little"
        )
    if not speakers:
        problems.append("the speakers are not known, so the test may have speakers of the training data")
    elif len(speakers) < _FEW_SPEAKERS:
        problems.append(
            f"there are {len(speakers)} speakers, which is too few to say how well the model recognises other voices"
        )
    return problems


def _problems_of_text(characters: Characters, clips: list[SourceClip]) -> list[str]:
    problems = []
    if characters.digits:
        problems.append(f"{characters.digits:,} sentences contain digits; the recipe says what happens to them")
    if characters.mixed:
        problems.append(
            f"{characters.mixed:,} sentences also have letters of another script ({_scripts(characters)}); those are"
            " removed from the text"
        )
    sentences = Counter(clip.sentence for clip in clips)
    if clips and len(sentences) < len(clips) / 2:
        problems.append(
            f"there are only {len(sentences):,} different sentences in {len(clips):,} clips; a model learns these, and"
            " little else"
        )
    return problems


def _scripts(characters: Characters) -> str:
    return ", ".join(f"{name.capitalize()} {count:,}" for name, count in characters.scripts.items())


def report(found: Survey) -> str:
    """Return what was found, as text for the terminal."""
    measured = found.measured
    scripts = _scripts(found.characters) or "no letters"
    estimate = " (estimated)" if measured.sampled else ""
    lines = [
        f"recordings  {found.recordings:,}, {_hours(found.hours)}{estimate}",
        f"formats     {_counts(measured.formats)}",
        f"rates       {_counts(measured.rates)} Hz",
        f"channels    {_counts(measured.channels)}",
        f"text        {found.layout.text}",
        f"clips       {len(found.clips):,}, {_hours(found.clip_hours)};"
        f" {found.longest(0.01):.1f} to {found.longest(0.99):.1f} s, median {found.longest(0.5):.1f} s",
        f"splits      {', '.join(found.layout.splits)}",
        f"speakers    {len(found.speakers) or 'unknown'}"
        + (f", from {found.layout.speakers}" if found.layout.speakers and found.speakers else ""),
        f"letters     {scripts}",
        f"characters  {found.characters.keep or 'none'}",
        *(f"problem     {problem}" for problem in found.problems),
    ]
    return "\n".join(lines)


def _hours(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"


def _counts(counter: Counter[str] | Counter[int]) -> str:
    most = counter.most_common()
    return str(most[0][0]) if len(most) == 1 else ", ".join(f"{value} ({count:,})" for value, count in most)


def _examples(reasons: dict[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:_SHOWN])


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
