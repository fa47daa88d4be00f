"""The archive of Zeroth-Korean (OpenSLR 40): a folder a speaker, of FLAC beside a transcript, and no dev split."""

import itertools
import random
from collections.abc import Iterable
from pathlib import Path

from speechmill.config.speak import SpeakConfig
from speechmill.demo.layouts.corpus import Clip, Corpus, deal_sentences, deal_speakers, draw_clip, draw_words, packed

# In the published corpus a sentence has seven or eight; with few clips, more sentences teach more.
READERS = 3
SCRIPTS = {"train": "001", "test": "002"}
DATASETS = {"train": "train_data_01", "test": "test_data_01"}
SEX = {"female": "f", "male": "m"}
FIRST_SPEAKER = 101


def draw_zeroth(settings: SpeakConfig) -> Corpus:
    """Draw who reads what in test and train, in the order of the archive.

    No speaker, and no sentence, is in both. A split's speakers take turns at its script, and several read
    each sentence, which is plain words: Zeroth has no capitals and no punctuation.
    """
    speakers = deal_speakers(settings)
    sentences = deal_sentences(settings)
    corpus: Corpus = {}
    for split, size in settings.splits.sizes().items():
        rng = random.Random(f"{settings.seed}/{split}")
        turns = itertools.cycle(speakers[split])
        clips: list[Clip] = []
        while len(clips) < size.clips:
            sentence = " ".join(draw_words(rng, sentences[split]))
            readers = itertools.islice(turns, min(READERS, size.voices, size.clips - len(clips)))
            clips += [draw_clip(rng, speaker, sentence) for speaker in readers]
        corpus[split] = sorted(clips, key=lambda clip: speakers[split].index(clip.speaker))
    return corpus


def pack_zeroth(settings: SpeakConfig, corpus: Corpus, recordings: Iterable[bytes], archive: Path) -> None:
    """Write `archive` (tar.gz), its files sorted by name; `recordings` gives each clip's FLAC in the order of `corpus`.

    `settings` is not used, since nothing in the archive names its language or release.
    """
    split_of = {clip.speaker: split for split, clips in corpus.items() for clip in clips}
    id_of = {speaker: f"{number:03d}" for number, speaker in enumerate(split_of, FIRST_SPEAKER)}
    recorded = zip(itertools.chain.from_iterable(corpus.values()), recordings, strict=True)
    with packed(archive) as add:
        info = ["SPEAKERID|NAME|SEX|SCRIPTID|DATASET"]
        for speaker, split in split_of.items():
            variant = speaker.variant
            info.append("|".join((id_of[speaker], variant.name, SEX[variant.gender], SCRIPTS[split], DATASETS[split])))
        add("AUDIO_INFO", _lines(info))
        for speaker, read in itertools.groupby(recorded, key=lambda pair: pair[0].speaker):
            split = split_of[speaker]
            stem = f"{id_of[speaker]}_{SCRIPTS[split]}"
            folder = f"{DATASETS[split]}/{SCRIPTS[split]}/{id_of[speaker]}"
            utterances = [(f"{stem}_{number:04d}", clip.sentence, flac) for number, (clip, flac) in enumerate(read)]
            add(f"{folder}/{stem}.trans.txt", _lines(f"{name} {text}" for name, text, _ in utterances))
            for name, _, flac in utterances:
                add(f"{folder}/{name}.flac", flac)


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
