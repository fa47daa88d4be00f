"""The layout of Zeroth-Korean (OpenSLR 40): a folder of FLAC files and a transcript per speaker, and no dev split."""

import itertools
import random
from collections.abc import Iterable
from pathlib import Path

from speechmill.config.speak import SpeakConfig
from speechmill.demo.layouts.corpus import (
    Clip,
    Corpus,
    archive_writer,
    assign_sentences,
    assign_speakers,
    sample_clip,
    sample_words,
)

# Speakers per sentence. The published corpus has seven or eight; a small corpus needs more distinct sentences.
READERS = 3
SCRIPTS = {"train": "001", "test": "002"}
DATASETS = {"train": "train_data_01", "test": "test_data_01"}
SEX = {"female": "f", "male": "m"}
FIRST_SPEAKER = 101


def sample_zeroth(settings: SpeakConfig) -> Corpus:
    """Sample the clips of test and train, in the order of the archive.

    No speaker and no sentence is in both. The speakers of a split take turns, and several read each sentence, which has
    no capitals and no punctuation, as in Zeroth.
    """
    speakers = assign_speakers(settings)
    sentences = assign_sentences(settings)
    corpus: Corpus = {}
    for split, size in settings.splits.sizes().items():
        rng = random.Random(f"{settings.seed}/{split}")
        turns = itertools.cycle(speakers[split])
        clips: list[Clip] = []
        while len(clips) < size.clips:
            sentence = " ".join(sample_words(rng, sentences[split]))
            readers = itertools.islice(turns, min(READERS, size.voices, size.clips - len(clips)))
            clips += [sample_clip(rng, speaker, sentence) for speaker in readers]
        corpus[split] = sorted(clips, key=lambda clip: speakers[split].index(clip.speaker))
    return corpus


def pack_zeroth(settings: SpeakConfig, corpus: Corpus, recordings: Iterable[bytes], archive: Path) -> None:
    """Write `archive`, a tar.gz, with its files sorted by name.

    `recordings` are the FLAC files of the clips, in the order of `corpus`. `settings` is not used, since the archive
    does not contain its language or release.
    """
    split_of = {clip.speaker: split for split, clips in corpus.items() for clip in clips}
    id_of = {speaker: f"{number:03d}" for number, speaker in enumerate(split_of, FIRST_SPEAKER)}
    recorded = zip(itertools.chain.from_iterable(corpus.values()), recordings, strict=True)
    with archive_writer(archive) as add:
        info = ["SPEAKERID|NAME|SEX|SCRIPTID|DATASET"]
        for speaker, split in split_of.items():
            variant = speaker.variant
            info.append("|".join((id_of[speaker], variant.name, SEX[variant.gender], SCRIPTS[split], DATASETS[split])))
        add("AUDIO_INFO", _lines(info))
        for speaker, group in itertools.groupby(recorded, key=lambda pair: pair[0].speaker):
            split = split_of[speaker]
            stem = f"{id_of[speaker]}_{SCRIPTS[split]}"
            folder = f"{DATASETS[split]}/{SCRIPTS[split]}/{id_of[speaker]}"
            utterances = [(f"{stem}_{number:04d}", clip.sentence, flac) for number, (clip, flac) in enumerate(group)]
            add(f"{folder}/{stem}.trans.txt", _lines(f"{name} {text}" for name, text, _ in utterances))
            for name, _, flac in utterances:
                add(f"{folder}/{name}.flac", flac)


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
