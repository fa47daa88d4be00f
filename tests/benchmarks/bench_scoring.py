"""How fast texts are scored, against jiwer on the same ten thousand pairs."""

import math
import random
from collections.abc import Callable, Iterator, Mapping

import jiwer
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from benchmarks.clock import processor_seconds
from benchmarks.table import Row
from speechmill.scoring.error_rates import count

PAIRS, ROUNDS = 10_000, 20


def pairs() -> tuple[list[str], list[str]]:
    """Sentences of up to fourteen words, and hypotheses of which a tenth of the words are wrong."""
    drawn = random.Random(0)
    words = ["".join(drawn.choices("абвгдежзик", k=drawn.randint(1, 9))) for _ in range(500)]
    references = [drawn.choices(words, k=drawn.randint(0, 14)) for _ in range(PAIRS)]
    hypotheses = [[drawn.choice(words) if drawn.random() < 0.1 else word for word in each] for each in references]
    return [" ".join(each) for each in references], [" ".join(each) for each in hypotheses]


def fastest(works: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """The processor time of each in its fastest round; they take turns, so that what disturbs one disturbs all."""
    taken = dict.fromkeys(works, math.inf)
    for _ in range(ROUNDS):
        for name, work in works.items():
            taken[name] = min(taken[name], processor_seconds(work))
    return taken


def rows() -> Iterator[Row]:
    """Words with their counts, and characters."""
    references, hypotheses = pairs()
    seconds = fastest(
        {
            "jiwer's words": lambda: jiwer.wer(references, hypotheses),
            "jiwer's characters": lambda: jiwer.cer(references, hypotheses),
            "both": lambda: count(references, hypotheses),
            "characters": lambda: process.cpdist(references, hypotheses, scorer=Levenshtein.distance),
        }
    )
    words = seconds["both"] - seconds["characters"]
    yield Row("scoring: counts of words against jiwer", seconds["jiwer's words"] / words, 5.0)
    yield Row(
        "scoring: counts of characters against jiwer", seconds["jiwer's characters"] / seconds["characters"], 30.0
    )
