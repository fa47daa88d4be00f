"""The layout of a Common Voice release: a folder of MP3 clips and a TSV table for each split."""

import csv
import hashlib
import io
import random
from collections.abc import Iterable
from pathlib import Path

from speechmill.config.speak import SpeakConfig
from speechmill.demo.layouts.corpus import (
    Clip,
    Corpus,
    Words,
    archive_writer,
    assign_sentences,
    assign_speakers,
    sample_clip,
    sample_words,
)

COMMA_SHARE = 0.3
COLUMNS = (
    *("client_id", "path", "sentence", "up_votes", "down_votes"),
    *("age", "gender", "accents", "locale", "segment"),
)
VOTES = {"train": (2, 0), "dev": (2, 0), "test": (2, 0), "invalidated": (0, 2), "other": (0, 0)}
# Enough to notice a reader that wrongly includes invalidated or unreviewed clips.
UNVALIDATED_CLIPS = 5


def sample_common_voice(settings: SpeakConfig) -> Corpus:
    """Sample the clips of train, dev, test, invalidated and other.

    No speaker and no sequence of words occurs in two of train, dev and test. Invalidated and other have the speakers
    and sentences of train.
    """
    speakers = assign_speakers(settings)
    sentences = assign_sentences(settings)
    sizes = settings.splits.sizes()

    def sample_clips(split: str, source: str, clips: int) -> list[Clip]:
        rng = random.Random(f"{settings.seed}/{split}")
        return [
            sample_clip(rng, rng.choice(speakers[source]), _punctuated(rng, sample_words(rng, sentences[source])))
            for _ in range(clips)
        ]

    return {
        **{split: sample_clips(split, split, sizes[split].clips) for split in ("train", "dev", "test")},
        **{split: sample_clips(split, "train", UNVALIDATED_CLIPS) for split in ("invalidated", "other")},
    }


def _punctuated(rng: random.Random, words: Words) -> str:
    sentence = words[0].capitalize()
    for word in words[1:]:
        sentence += f", {word}" if rng.random() < COMMA_SHARE else f" {word}"
    return f"{sentence}."


def pack_common_voice(settings: SpeakConfig, corpus: Corpus, recordings: Iterable[bytes], archive: Path) -> None:
    """Write `archive`, a tar.gz; `recordings` are the MP3 files of the clips, in the order of `corpus`."""
    top = f"{settings.release}/{settings.language}"
    tables: dict[str, list[tuple[str | int, ...]]] = {split: [] for split in corpus}
    numbered = enumerate((split, clip) for split, clips in corpus.items() for clip in clips)
    with archive_writer(archive) as add:
        for (number, (split, clip)), mp3 in zip(numbered, recordings, strict=True):
            path = f"common_voice_{settings.language}_{number:08d}.mp3"
            add(f"{top}/clips/{path}", mp3)
            speaker = clip.speaker
            client = hashlib.sha512(f"{settings.release}/{settings.seed}/{speaker.voice}".encode()).hexdigest()
            metadata = (speaker.variant.age, speaker.variant.gender, speaker.accent, settings.language, "")
            tables[split].append((client, path, clip.sentence, *VOTES[split], *metadata))
        tables["validated"] = tables["train"] + tables["dev"] + tables["test"]
        for split, rows in tables.items():
            text = io.StringIO()
            table = csv.writer(text, delimiter="\t", quoting=csv.QUOTE_NONE, lineterminator="\n")
            table.writerow(COLUMNS)
            table.writerows(rows)
            add(f"{top}/{split}.tsv", text.getvalue().encode())
