"""Speak a small corpus with espeak-ng and pack it as a published archive.

From the archive on, the demo is an ordinary run: nothing downstream knows that the voices are made.
`draw_corpus` decides what is said by whom, `speak` says it, and the layout's own function packs it.
"""

import argparse
import csv
import gzip
import hashlib
import io
import itertools
import random
import shutil
import subprocess
import tarfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from speechmill.command import SpeechmillError, run_command, written_whole
from speechmill.config.speak import SpeakSettings
from speechmill.progress import progress

DIGITS = ("ноль", "один", "два", "три", "четыре", "пять", "шесть", "семь", "восемь", "девять")
COMMA_SHARE = 0.3

PITCH = (35, 65)  # espeak-ng's own scale, 0 to 99, on top of the variant's pitch
PITCH_JITTER = 5
SPEED = (135, 180)  # words a minute
SPEED_JITTER = 12

COMMON_VOICE_RATE = 48_000
COMMON_VOICE_COLUMNS = (
    *("client_id", "path", "sentence", "up_votes", "down_votes"),
    *("age", "gender", "accents", "locale", "segment"),
)
COMMON_VOICE_VOTES = {"train": (2, 0), "dev": (2, 0), "test": (2, 0), "invalidated": (0, 2), "other": (0, 0)}
# Enough for a reader to notice if it took rejected or unchecked clips for speech to train on.
CLIPS_ASIDE = 5


@dataclass(frozen=True)
class Voice:
    """A variant of espeak-ng that is clear enough to learn from, and how Common Voice would describe it."""

    name: str
    gender: str
    age: str = ""
    accent: str = ""

    @property
    def variant(self) -> str:
        """The name by which espeak-ng lists the variant."""
        return self.name.partition("+")[2]


# Variants that sound like a person: without whispers, echoes, the Klatt synthesiser, and formants that no throat has.
WOMEN = (
    *(Voice(f"ru+{name}", "female") for name in ("Andrea", "Annie", "anika", "aunty", "belinda", "linda")),
    *(Voice(f"ru+{name}", "female") for name in ("steph", "steph2", "f2", "f3", "f4")),
    Voice("ru-lv+f5", "female", accent="Латвия"),
    Voice("ru-lv+steph3", "female", accent="Латвия"),
    Voice("ru+f1", "female", "seventies"),
)
MEN = (
    *(Voice(f"ru+{name}", "male") for name in ("Alex", "Gene", "Gene2", "Mario", "antonio", "ed", "iven")),
    *(Voice(f"ru+{name}", "male") for name in ("john", "m2", "m3", "m4", "m5", "m6", "m7", "max", "norbert")),
    *(Voice(f"ru+{name}", "male") for name in ("paul", "pedro", "quincy", "robert", "sandro")),
    *(Voice(f"ru+{name}", "male", "twenties") for name in ("Diogo", "Hugo", "michel", "miguel", "victor")),
    Voice("ru+Denis", "male", "thirties"),
    Voice("ru-lv+iven2", "male", accent="Латвия"),
    Voice("ru+m8", "male", "fifties"),
    Voice("ru+m1", "male", "seventies"),
)


@dataclass(frozen=True)
class Speaker:
    """A voice with habits of its own: one client of Common Voice."""

    client_id: str
    voice: Voice
    pitch: int
    speed: int


@dataclass(frozen=True)
class Clip:
    """One sentence as one speaker says it once."""

    speaker: Speaker
    sentence: str
    pitch: int
    speed: int


def draw_corpus(settings: SpeakSettings) -> dict[str, list[Clip]]:
    """Draw who says what, by split: train, dev, test, invalidated and other.

    No speaker, and no sequence of words, is in two of train, dev and test. The clips that Common Voice
    would set aside come from the speakers and sentences of train.
    """
    speakers = _deal_speakers(settings)
    sentences = _deal_sentences(settings)

    def draw(split: str, source: str, clips: int) -> list[Clip]:
        rng = random.Random(f"{settings.seed}/{split}")
        return [_draw_clip(rng, speakers[source], sentences[source]) for _ in range(clips)]

    return {
        "train": draw("train", "train", settings.splits.train.clips),
        "dev": draw("dev", "dev", settings.splits.dev.clips),
        "test": draw("test", "test", settings.splits.test.clips),
        "invalidated": draw("invalidated", "train", CLIPS_ASIDE),
        "other": draw("other", "train", CLIPS_ASIDE),
    }


def _deal_speakers(settings: SpeakSettings) -> dict[str, list[Speaker]]:
    splits = settings.splits
    wanted = splits.test.voices + splits.dev.voices + splits.train.voices
    if wanted > len(WOMEN) + len(MEN):
        raise SpeechmillError(
            f"speak.splits: {wanted} voices are asked for and espeak-ng has {len(WOMEN) + len(MEN)}"
            " clear ones; lower `voices` of a split"
        )
    rng = random.Random(f"{settings.seed}/speakers")
    women, men = (rng.sample(voices, len(voices)) for voices in (WOMEN, MEN))
    # Women and men in turn, and train last: men outnumber women, and only train may be out of balance.
    in_turn = (voice for pair in itertools.zip_longest(women, men) for voice in pair if voice)
    speakers = (
        Speaker(
            client_id=hashlib.sha512(f"{settings.release}/{settings.seed}/{voice.name}".encode()).hexdigest(),
            voice=voice,
            pitch=rng.randint(*PITCH),
            speed=rng.randint(*SPEED),
        )
        for voice in in_turn
    )
    return {
        "test": list(itertools.islice(speakers, splits.test.voices)),
        "dev": list(itertools.islice(speakers, splits.dev.voices)),
        "train": list(itertools.islice(speakers, splits.train.voices)),
    }


def _deal_sentences(settings: SpeakSettings) -> dict[str, list[list[tuple[str, ...]]]]:
    """For each split, its sentences by their number of words: shares that follow its clips."""
    splits = settings.splits
    rng = random.Random(f"{settings.seed}/sentences")
    total = splits.train.clips + splits.dev.clips + splits.test.clips
    dealt: dict[str, list[list[tuple[str, ...]]]] = {"train": [], "dev": [], "test": []}
    for words in range(settings.min_words, settings.max_words + 1):
        sentences = list(itertools.product(DIGITS, repeat=words))
        rng.shuffle(sentences)
        test = max(1, len(sentences) * splits.test.clips // total)
        dev = max(1, len(sentences) * splits.dev.clips // total)
        dealt["test"].append(sentences[:test])
        dealt["dev"].append(sentences[test : test + dev])
        dealt["train"].append(sentences[test + dev :])
    return dealt


def _draw_clip(rng: random.Random, speakers: list[Speaker], sentences: list[list[tuple[str, ...]]]) -> Clip:
    speaker = rng.choice(speakers)
    words = rng.choice(rng.choice(sentences))
    sentence = words[0].capitalize()
    for word in words[1:]:
        sentence += f", {word}" if rng.random() < COMMA_SHARE else f" {word}"
    return Clip(
        speaker=speaker,
        sentence=f"{sentence}.",
        pitch=speaker.pitch + rng.randint(-PITCH_JITTER, PITCH_JITTER),
        speed=speaker.speed + rng.randint(-SPEED_JITTER, SPEED_JITTER),
    )


def check_espeak() -> None:
    """Raise SpeechmillError unless espeak-ng is there with each variant that a voice needs.

    For a variant that it does not know, espeak-ng speaks in its default voice and reports success.
    """
    if shutil.which("espeak-ng") is None:
        raise SpeechmillError(
            "espeak-ng is not on the PATH; install it (apt-get install espeak-ng, or conda-forge's espeak-ng)"
        )
    listed = subprocess.run(["espeak-ng", "--voices=variant"], capture_output=True, text=True, check=True).stdout
    missing = [voice.variant for voice in WOMEN + MEN if f"!v/{voice.variant} " not in listed]
    if missing:
        raise SpeechmillError(
            f"espeak-ng lacks the voice variants {', '.join(missing)}; install version 1.51 or later"
            " with all its data (espeak-ng-data)"
        )


def speak(clip: Clip, rate: int) -> np.ndarray:
    """Return the clip as mono float32 samples in [-1, 1] at `rate` Hz."""
    command = ["espeak-ng", "--stdout", "-v", clip.speaker.voice.name]
    command += ["-p", str(clip.pitch), "-s", str(clip.speed), clip.sentence]
    spoken = subprocess.run(command, check=False, capture_output=True)
    if spoken.returncode != 0:
        raise SpeechmillError(f"{' '.join(command)} failed: {spoken.stderr.decode().strip()}")
    samples, spoken_rate = soundfile.read(io.BytesIO(spoken.stdout), dtype="float32")
    resampled: np.ndarray = soxr.resample(samples, spoken_rate, rate)
    return resampled


def _speak_mp3(clip: Clip) -> bytes:
    encoded = io.BytesIO()
    soundfile.write(encoded, speak(clip, COMMON_VOICE_RATE), COMMON_VOICE_RATE, format="MP3")
    return encoded.getvalue()


def pack_common_voice(
    settings: SpeakSettings, corpus: dict[str, list[Clip]], recordings: Iterable[bytes], archive: Path
) -> None:
    """Write `archive` (tar.gz) in the layout of a Common Voice release.

    `recordings` gives each clip's MP3 in the order of `corpus`. No time, user or file name of this
    machine gets into the archive.
    """
    top = f"{settings.release}/{settings.language}"
    tables: dict[str, list[tuple[str | int, ...]]] = {split: [] for split in corpus}
    numbered = enumerate((split, clip) for split, clips in corpus.items() for clip in clips)
    with (
        archive.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=file, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as tar,
    ):

        def add(name: str, content: bytes) -> None:
            member = tarfile.TarInfo(f"{top}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))

        for (number, (split, clip)), mp3 in zip(numbered, recordings, strict=True):
            path = f"common_voice_{settings.language}_{number:08d}.mp3"
            add(f"clips/{path}", mp3)
            voice = clip.speaker.voice
            described = (voice.age, voice.gender, voice.accent, settings.language, "")
            heard = (clip.speaker.client_id, path, clip.sentence)
            tables[split].append((*heard, *COMMON_VOICE_VOTES[split], *described))
        tables["validated"] = tables["train"] + tables["dev"] + tables["test"]
        for split, rows in tables.items():
            text = io.StringIO()
            table = csv.writer(text, delimiter="\t", quoting=csv.QUOTE_NONE, lineterminator="\n")
            table.writerow(COMMON_VOICE_COLUMNS)
            table.writerows(rows)
            add(f"{split}.tsv", text.getvalue().encode())


def speak_archive(settings: SpeakSettings, archive: Path, threads: int) -> None:
    """Draw, speak and pack the corpus of `settings`; `archive` appears only when it is whole."""
    check_espeak()
    corpus = draw_corpus(settings)
    clips = list(itertools.chain.from_iterable(corpus.values()))
    with written_whole(archive) as beside, ThreadPoolExecutor(threads) as pool:
        recordings = progress(pool.map(_speak_mp3, clips), total=len(clips), desc="speak", unit="clip")
        pack_common_voice(settings, corpus, recordings, beside)


def main() -> None:
    """Speak the archive that the command line asks for."""
    parser = argparse.ArgumentParser(description="Speak a small corpus with espeak-ng into an archive.")
    parser.add_argument("--settings", required=True, help="the `speak` section of the configuration, as JSON")
    parser.add_argument("--archive", required=True, type=Path, help="the tar.gz to write")
    parser.add_argument("--threads", type=int, default=1, help="clips spoken at the same time")
    args = parser.parse_args()
    speak_archive(SpeakSettings.model_validate_json(args.settings), args.archive, args.threads)


if __name__ == "__main__":
    run_command(main)
