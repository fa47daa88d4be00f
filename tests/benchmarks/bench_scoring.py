"""How fast texts are scored, against jiwer on the same ten thousand pairs."""

import random
import time
from collections.abc import Callable, Iterator

import jiwer
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from benchmarks.table import Row
from speechmill.scoring import count

PAIRS, ROUNDS = 10_000, 5


def pairs() -> tuple[list[str], list[str]]:
    """Sentences of up to fourteen words, and hypotheses of which a tenth of the words are wrong."""
    drawn = random.Random(0)
    words = ["".join(drawn.choices("абвгдежзик", k=drawn.randint(1, 9))) for _ in range(500)]
    references = [drawn.choices(words, k=drawn.randint(0, 14)) for _ in range(PAIRS)]
    hypotheses = [[drawn.choice(words) if drawn.random() < 0.1 else word for word in each] for each in references]
    return [" ".join(each) for each in references], [" ".join(each) for each in hypotheses]


def seconds(work: Callable[[], object]) -> float:
    """The processor time of the fastest of some rounds."""
    taken = []
    for _ in range(ROUNDS):
        before = time.process_time()
        work()
        taken.append(time.process_time() - before)
    return min(taken)


def rows() -> Iterator[Row]:
    """Words with their counts, and characters."""
    references, hypotheses = pairs()
    ours = seconds(lambda: count(references, hypotheses))
    characters = seconds(lambda: process.cpdist(references, hypotheses, scorer=Levenshtein.distance))
    words = ours - characters
    yield Row(
        "scoring: counts of words against jiwer",
        seconds(lambda: jiwer.wer(references, hypotheses)) / words,
        5.0,
    )
    yield Row(
        "scoring: counts of characters against jiwer",
        seconds(lambda: jiwer.cer(references, hypotheses)) / characters,
        30.0,
    )
