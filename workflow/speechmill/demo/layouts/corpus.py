"""What every layout is made of: voices, their speakers, sentences, clips, and an archive that is always the same."""

import gzip
import io
import itertools
import random
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from speechmill.config.speak import SpeakConfig
from speechmill.core.command import SpeechmillError

PITCH = (35, 65)  # espeak-ng's own scale, 0 to 99, on top of the variant's pitch
PITCH_JITTER = 5
SPEED = (135, 180)  # words a minute
SPEED_JITTER = 12


@dataclass(frozen=True)
class Variant:
    """A variant of espeak-ng's voices that is clear enough to learn from, and the person that it sounds like."""

    name: str
    gender: str
    age: str = ""


# Variants that sound like a person: without whispers, echoes, the Klatt synthesiser, and formants that no throat has.
WOMEN = (
    *(Variant(name, "female") for name in ("Andrea", "Annie", "anika", "aunty", "belinda", "linda")),
    *(Variant(name, "female") for name in ("steph", "steph2", "f2", "f3", "f4", "f5", "steph3")),
    Variant("f1", "female", "seventies"),
)
MEN = (
    *(Variant(name, "male") for name in ("Alex", "Gene", "Gene2", "Mario", "antonio", "ed", "iven")),
    *(Variant(name, "male") for name in ("john", "m2", "m3", "m4", "m5", "m6", "m7", "max", "norbert")),
    *(Variant(name, "male") for name in ("paul", "pedro", "quincy", "robert", "sandro")),
    *(Variant(name, "male", "twenties") for name in ("Diogo", "Hugo", "michel", "miguel", "victor")),
    Variant("Denis", "male", "thirties"),
    Variant("iven2", "male"),
    Variant("m8", "male", "fifties"),
    Variant("m1", "male", "seventies"),
)


@dataclass(frozen=True)
class Language:
    """The words that sentences are made of, and the variants that speak them with an accent.

    `accents` gives, by a variant's name, espeak-ng's voice and where its accent is from. The voice of all
    other variants is the language's own.
    """

    words: tuple[str, ...]
    accents: dict[str, tuple[str, str]]


LATVIA = ("ru-lv", "Латвия")
LANGUAGES = {
    "ru": Language(
        words=("ноль", "один", "два", "три", "четыре", "пять", "шесть", "семь", "восемь", "девять"),
        accents={"f5": LATVIA, "steph3": LATVIA, "iven2": LATVIA},
    ),
    # The native numerals: the Sino-Korean ones (일, 이, 삼, …) are one short syllable each, and hard to tell apart.
    "ko": Language(
        words=("하나", "둘", "셋", "넷", "다섯", "여섯", "일곱", "여덟", "아홉", "열"),
        accents={},
    ),
}


@dataclass(frozen=True)
class Speaker:
    """A variant with habits of its own; `voice` is what espeak-ng calls it in the language: `ru+Alex`."""

    variant: Variant
    voice: str
    accent: str
    pitch: int
    speed: int


@dataclass(frozen=True)
class Clip:
    """One sentence as one speaker says it once."""

    speaker: Speaker
    sentence: str
    pitch: int
    speed: int


Corpus = dict[str, list[Clip]]
"""The clips of each published split."""

Words = tuple[str, ...]
"""A sentence before a layout writes it."""


def deal_speakers(settings: SpeakConfig) -> dict[str, list[Speaker]]:
    """Deal the voices to the splits that there are; none is in two.

    Raises SpeechmillError where more are asked for than there are.
    """
    sizes = settings.splits.sizes()
    wanted = sum(size.voices for size in sizes.values())
    if wanted > len(WOMEN) + len(MEN):
        raise SpeechmillError(
            f"speak.splits: {wanted} voices are asked for and espeak-ng has {len(WOMEN) + len(MEN)}"
            " clear ones; lower `voices` of a split"
        )
    rng = random.Random(f"{settings.seed}/speakers")
    women, men = (rng.sample(variants, len(variants)) for variants in (WOMEN, MEN))
    # Women and men in turn, and train last: men outnumber women, and only train may be out of balance.
    in_turn = (variant for pair in itertools.zip_longest(women, men) for variant in pair if variant)
    speakers = (_speaker(rng, variant, settings.language) for variant in in_turn)
    return {split: list(itertools.islice(speakers, size.voices)) for split, size in sizes.items()}


def _speaker(rng: random.Random, variant: Variant, language: str) -> Speaker:
    voice, accent = LANGUAGES[language].accents.get(variant.name, (language, ""))
    return Speaker(
        variant=variant,
        voice=f"{voice}+{variant.name}",
        accent=accent,
        pitch=rng.randint(*PITCH),
        speed=rng.randint(*SPEED),
    )


def deal_sentences(settings: SpeakConfig) -> dict[str, list[list[Words]]]:
    """For each split that there is, its sentences by their number of words: shares that follow its clips.

    No sentence is in two splits.
    """
    sizes = settings.splits.sizes()
    total = sum(size.clips for size in sizes.values())
    rng = random.Random(f"{settings.seed}/sentences")
    dealt: dict[str, list[list[Words]]] = {split: [] for split in sizes}
    for words in range(settings.min_words, settings.max_words + 1):
        sentences = list(itertools.product(LANGUAGES[settings.language].words, repeat=words))
        rng.shuffle(sentences)
        start = 0
        for split, size in sizes.items():
            end = len(sentences) if split == "train" else start + max(1, len(sentences) * size.clips // total)
            dealt[split].append(sentences[start:end])
            start = end
    return dealt


def draw_words(rng: random.Random, sentences: list[list[Words]]) -> Words:
    """Draw one of a split's sentences; each number of words is as likely as another."""
    return rng.choice(rng.choice(sentences))


def draw_clip(rng: random.Random, speaker: Speaker, sentence: str) -> Clip:
    """Draw how a speaker says a sentence this time."""
    return Clip(
        speaker=speaker,
        sentence=sentence,
        pitch=speaker.pitch + rng.randint(-PITCH_JITTER, PITCH_JITTER),
        speed=speaker.speed + rng.randint(-SPEED_JITTER, SPEED_JITTER),
    )


@contextmanager
def packed(archive: Path) -> Iterator[Callable[[str, bytes], None]]:
    """Write `archive` (tar.gz): give a function that adds a file by its name and content.

    No time, user or file name of this machine gets into the archive.
    """
    with (
        archive.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=file, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as tar,
    ):

        def add(name: str, content: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))

        yield add
