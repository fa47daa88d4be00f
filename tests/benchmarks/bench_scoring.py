"""The speed of scoring, compared with jiwer on the same 10,000 pairs of texts."""

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
    """Return sentences of up to 14 words, and hypotheses in which a tenth of the words are wrong."""
    rng = random.Random(0)
    words = ["".join(rng.choices("абвгдежзик", k=rng.randint(1, 9))) for _ in range(500)]
    references = [rng.choices(words, k=rng.randint(0, 14)) for _ in range(PAIRS)]
    hypotheses = [[rng.choice(words) if rng.random() < 0.1 else word for word in each] for each in references]
    return [" ".join(each) for each in references], [" ".join(each) for each in hypotheses]


def fastest(functions: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Return the processor time of each function in its fastest round; alternating rounds share disturbances."""
    seconds = dict.fromkeys(functions, math.inf)
    for _ in range(ROUNDS):
        for name, function in functions.items():
            seconds[name] = min(seconds[name], processor_seconds(function))
    return seconds


def rows() -> Iterator[Row]:
    """Yield the speed of counting word errors and character errors."""
    references, hypotheses = pairs()
    seconds = fastest(
        {
            "jiwer words": lambda: jiwer.wer(references, hypotheses),
            "jiwer characters": lambda: jiwer.cer(references, hypotheses),
            "both": lambda: count(references, hypotheses),
            "characters": lambda: process.cpdist(references, hypotheses, scorer=Levenshtein.distance),
        }
    )
    words = seconds["both"] - seconds["characters"]
    yield Row("scoring, word errors: faster than jiwer", seconds["jiwer words"] / words, 5.0)
    yield Row("scoring, character errors: faster than jiwer", seconds["jiwer characters"] / seconds["characters"], 30.0)
