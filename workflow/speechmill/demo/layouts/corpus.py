"""Parts that all layouts use: voices, speakers, sentences, clips, and reproducible archives."""

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

PITCH = (35, 65)  # on espeak-ng's scale of 0 to 99, relative to the variant's pitch
PITCH_JITTER = 5
SPEED = (135, 180)  # words per minute
SPEED_JITTER = 12


@dataclass(frozen=True)
class Variant:
    """A clear voice variant of espeak-ng, and the gender and age of the voice."""

    name: str
    gender: str
    age: str = ""


# Variants with a human sound: without whispering, echo, the Klatt synthesiser and unnatural formants.
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
    """The vocabulary and the accents of a language."""

    words: tuple[str, ...]
    accents: dict[str, tuple[str, str]]
    """For each variant with an accent, the voice of espeak-ng and the region of the accent."""


LATVIA = ("ru-lv", "Латвия")
LANGUAGES = {
    "ru": Language(
        words=("ноль", "один", "два", "три", "четыре", "пять", "шесть", "семь", "восемь", "девять"),
        accents={"f5": LATVIA, "steph3": LATVIA, "iven2": LATVIA},
    ),
    # Native numerals: the Sino-Korean ones (일, 이, 삼, …) are single short syllables that are hard to distinguish.
    "ko": Language(
        words=("하나", "둘", "셋", "넷", "다섯", "여섯", "일곱", "여덟", "아홉", "열"),
        accents={},
    ),
}


@dataclass(frozen=True)
class Speaker:
    """A variant with a pitch and a speed; `voice` is its name for espeak-ng in the language, such as `ru+Alex`."""

    variant: Variant
    voice: str
    accent: str
    pitch: int
    speed: int


@dataclass(frozen=True)
class Clip:
    """A sentence with its speaker, pitch and speed."""

    speaker: Speaker
    sentence: str
    pitch: int
    speed: int


Corpus = dict[str, list[Clip]]
"""The clips of each published split."""

Words = tuple[str, ...]
"""A sentence without the punctuation of a layout."""


def assign_speakers(settings: SpeakConfig) -> dict[str, list[Speaker]]:
    """Assign the voices to the splits; no voice is in two splits.

    Raises:
        SpeechmillError: The splits have more voices than there are.
    """
    sizes = settings.splits.sizes()
    wanted = sum(size.voices for size in sizes.values())
    if wanted > len(WOMEN) + len(MEN):
        raise SpeechmillError(
            f"speak.splits: the splits have {wanted} voices and espeak-ng has only {len(WOMEN) + len(MEN)} clear ones;"
            " lower `voices` of a split"
        )
    rng = random.Random(f"{settings.seed}/speakers")
    women, men = (rng.sample(variants, len(variants)) for variants in (WOMEN, MEN))
    # Alternate, and assign train last: there are more men than women, and only train may be unbalanced.
    alternating = (variant for pair in itertools.zip_longest(women, men) for variant in pair if variant)
    speakers = (_speaker(rng, variant, settings.language) for variant in alternating)
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


def assign_sentences(settings: SpeakConfig) -> dict[str, list[list[Words]]]:
    """Return the sentences of each split, grouped by their number of words; no sentence is in two splits.

    A split gets a share of the sentences that corresponds to its share of the clips.
    """
    sizes = settings.splits.sizes()
    total = sum(size.clips for size in sizes.values())
    rng = random.Random(f"{settings.seed}/sentences")
    assigned: dict[str, list[list[Words]]] = {split: [] for split in sizes}
    for words in range(settings.min_words, settings.max_words + 1):
        sentences = list(itertools.product(LANGUAGES[settings.language].words, repeat=words))
        rng.shuffle(sentences)
        start = 0
        for split, size in sizes.items():
            end = len(sentences) if split == "train" else start + max(1, len(sentences) * size.clips // total)
            assigned[split].append(sentences[start:end])
            start = end
    return assigned


def sample_words(rng: random.Random, sentences: list[list[Words]]) -> Words:
    """Sample one of the sentences of a split; all numbers of words are equally likely."""
    return rng.choice(rng.choice(sentences))


def sample_clip(rng: random.Random, speaker: Speaker, sentence: str) -> Clip:
    """Sample the pitch and the speed of a clip."""
    return Clip(
        speaker=speaker,
        sentence=sentence,
        pitch=speaker.pitch + rng.randint(-PITCH_JITTER, PITCH_JITTER),
        speed=speaker.speed + rng.randint(-SPEED_JITTER, SPEED_JITTER),
    )


@contextmanager
def archive_writer(archive: Path) -> Iterator[Callable[[str, bytes], None]]:
    """Write `archive`, a tar.gz, and yield a function that adds a file, given its name and content.

    The archive is reproducible: it contains no time stamps, user names or file names of this machine.
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
