"""A release of Common Voice: a folder of MP3 clips beside a TSV a split."""

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
    deal_sentences,
    deal_speakers,
    draw_clip,
    draw_words,
    packed,
)

COMMA_SHARE = 0.3
COLUMNS = (
    *("client_id", "path", "sentence", "up_votes", "down_votes"),
    *("age", "gender", "accents", "locale", "segment"),
)
VOTES = {"train": (2, 0), "dev": (2, 0), "test": (2, 0), "invalidated": (0, 2), "other": (0, 0)}
# Enough for a reader to notice if it took rejected or unchecked clips for speech to train on.
CLIPS_ASIDE = 5


def draw_common_voice(settings: SpeakConfig) -> Corpus:
    """Draw who says what, by split: train, dev, test, invalidated and other.

    No speaker, and no sequence of words, is in two of train, dev and test. The clips that Common Voice
    would set aside come from the speakers and sentences of train.
    """
    speakers = deal_speakers(settings)
    sentences = deal_sentences(settings)
    sizes = settings.splits.sizes()

    def draw(split: str, source: str, clips: int) -> list[Clip]:
        rng = random.Random(f"{settings.seed}/{split}")
        return [
            draw_clip(rng, rng.choice(speakers[source]), _written(rng, draw_words(rng, sentences[source])))
            for _ in range(clips)
        ]

    return {
        **{split: draw(split, split, sizes[split].clips) for split in ("train", "dev", "test")},
        **{split: draw(split, "train", CLIPS_ASIDE) for split in ("invalidated", "other")},
    }


def _written(rng: random.Random, words: Words) -> str:
    sentence = words[0].capitalize()
    for word in words[1:]:
        sentence += f", {word}" if rng.random() < COMMA_SHARE else f" {word}"
    return f"{sentence}."


def pack_common_voice(settings: SpeakConfig, corpus: Corpus, recordings: Iterable[bytes], archive: Path) -> None:
    """Write `archive` (tar.gz); `recordings` gives each clip's MP3 in the order of `corpus`."""
    top = f"{settings.release}/{settings.language}"
    tables: dict[str, list[tuple[str | int, ...]]] = {split: [] for split in corpus}
    numbered = enumerate((split, clip) for split, clips in corpus.items() for clip in clips)
    with packed(archive) as add:
        for (number, (split, clip)), mp3 in zip(numbered, recordings, strict=True):
            path = f"common_voice_{settings.language}_{number:08d}.mp3"
            add(f"{top}/clips/{path}", mp3)
            speaker = clip.speaker
            client = hashlib.sha512(f"{settings.release}/{settings.seed}/{speaker.voice}".encode()).hexdigest()
            described = (speaker.variant.age, speaker.variant.gender, speaker.accent, settings.language, "")
            tables[split].append((client, path, clip.sentence, *VOTES[split], *described))
        tables["validated"] = tables["train"] + tables["dev"] + tables["test"]
        for split, rows in tables.items():
            text = io.StringIO()
            table = csv.writer(text, delimiter="\t", quoting=csv.QUOTE_NONE, lineterminator="\n")
            table.writerow(COLUMNS)
            table.writerows(rows)
            add(f"{top}/{split}.tsv", text.getvalue().encode())
