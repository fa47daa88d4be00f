"""lm_weights: the two weights of beam search, tuned once, on dev alone, and then fixed."""

import argparse
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from pydantic import BaseModel

from speechmill.config.lm import BeamConfig, Vocabulary
from speechmill.config.text import TextConfig
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.page import COLOURS, save
from speechmill.core.progress import progress
from speechmill.core.tables import read_json, read_table, write_json
from speechmill.inference.decoders import Weights, decode_all
from speechmill.scoring.error_rates import count, rate
from speechmill.scoring.protocols import scored_texts

Point = tuple[float, float]
"""An lm_weight and a word_score."""


class LmWeightsSettings(BaseModel):
    """The slice of a run's section that this stage reads: dev, its text rules, and of `evaluation.lm` the search."""

    dev: str
    text: TextConfig
    lm_weight: list[float]
    word_score: list[float]
    vocabulary: Vocabulary
    beam: BeamConfig
    tuning_clips: int


def search(score: Callable[[Point], float], weights: Sequence[float], scores: Sequence[float]) -> dict[Point, float]:
    """The score of every point of the grid of `weights` and `scores`, then of those halfway from the best to its next.

    Points are in the order in which they were tried.
    """
    surface = {point: score(point) for point in progress(list(itertools.product(weights, scores)), desc="lm_weights")}
    around = (_halfway(value, grid) for value, grid in zip(best(surface), (weights, scores), strict=True))
    finer = [point for point in itertools.product(*around) if point not in surface]
    return surface | {point: score(point) for point in progress(finer, desc="lm_weights, finer")}


def best(surface: dict[Point, float]) -> Point:
    """The point with the smallest score; among equals the one that leans least on the language model."""
    return min(surface, key=lambda point: (surface[point], abs(point[0]), abs(point[1]), point))


def _halfway(value: float, grid: Iterable[float]) -> list[float]:
    ordered = sorted(set(grid))
    place = ordered.index(value)
    beside = [*ordered[max(0, place - 1) : place], *ordered[place + 1 : place + 2]]
    return [value, *((value + other) / 2 for other in beside)]


def tune(frames: Path, clips: list[dict[str, Any]], lm: Path, settings: LmWeightsSettings, processes: int) -> dict[str, Any]:
    """The weights with the smallest WER on the dev clips under the protocol `plain`, and the WER of all others tried.

    Of more than `tuning_clips` clips, every second, third … is taken. `greedy_wer` is of the same clips.

    Raises SpeechmillError where the frames are of other clips.
    """
    table = read_table(frames, ["id", "hypothesis"])
    if table["id"].to_pylist() != [clip["id"] for clip in clips]:
        raise SpeechmillError(f"{frames} is not of the clips of dev; delete it and run snakemake again")
    every = max(1, math.ceil(len(clips) / settings.tuning_clips))
    texts = [(clip["sentence"], clip["text"]) for clip in clips[::every]]

    def wer(hypotheses: Sequence[str]) -> float:
        counts = count(*scored_texts("plain", texts, hypotheses, settings.text))
        return rate(sum(each.errors for each in counts), sum(each.words for each in counts))

    def weights(point: Point) -> Weights:
        return Weights(lm_weight=point[0], word_score=point[1], vocabulary=settings.vocabulary, beam=settings.beam)

    def score(point: Point) -> float:
        return wer(decode_all(frames, lm, weights(point), processes, every))

    surface = search(score, settings.lm_weight, settings.word_score)
    chosen = best(surface)
    return weights(chosen).model_dump() | {
        "wer": surface[chosen],
        "greedy_wer": wer(table["hypothesis"].to_pylist()[::every]),
        "clips": len(texts),
        "surface": [[*point, value] for point, value in sorted(surface.items())],
    }


def plot(tuned: dict[str, Any], path: Path) -> None:
    """Draw the WER of every point that was tried, the best one framed."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    columns = [list(column) for column in zip(*tuned["surface"], strict=True)]
    x, y, wers = columns[0], columns[1], [100 * wer for wer in columns[2]]
    dots = axes.scatter(x, y, c=wers, cmap="viridis_r", marker="s", s=700)
    axes.scatter(
        [tuned["lm_weight"]], [tuned["word_score"]], marker="s", s=850, facecolors="none", edgecolors=COLOURS[1], lw=3
    )
    middle = (min(wers) + max(wers)) / 2
    for weight, score, wer in zip(x, y, wers, strict=True):
        colour = "white" if wer > middle else "black"
        axes.text(weight, score, f"{wer:.1f}", ha="center", va="center", fontsize=8, color=colour)
    axes.margins(0.12)
    axes.set(xlabel="weight of the language model", ylabel="score of a word")
    axes.set_title(
        f"WER on dev: {100 * tuned['wer']:.2f} % at ({tuned['lm_weight']:g}, {tuned['word_score']:g}),"
        f" greedy {100 * tuned['greedy_wer']:.2f} %"
    )
    figure.colorbar(dots, label="WER %")
    save(figure, path)


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=LmWeightsSettings.model_validate_json, required=True)
    parser.add_argument(
        "--best", type=Path, required=True, help="which checkpoint is best greedily: its step, and on what"
    )
    parser.add_argument("--clips", type=Path, required=True, help="the clips of dev")
    parser.add_argument("--ctc-outputs", type=Path, required=True, help="dev's frames at that checkpoint")
    parser.add_argument("--lm", type=Path, required=True, help="the folder of the language model")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--surface", type=Path, required=True)
    args = parser.parse_args()
    by = read_json(args.best)
    if by["set"] != args.settings.dev:
        raise SpeechmillError(
            f"{args.best} says which checkpoint is best on {by['set']}; weights are tuned on {args.settings.dev} alone"
        )
    clips = read_table(args.clips, ["id", "text", "sentence"]).to_pylist()
    tuned = tune(args.ctc_outputs, clips, args.lm, args.settings, args.threads)
    print(
        f"on {tuned['clips']:,} clips of {by['set']}, step {by['step']}: WER {100 * tuned['wer']:.2f} %,"
        f" greedy {100 * tuned['greedy_wer']:.2f} %"
    )
    for name in ("lm_weight", "word_score"):
        tried = getattr(args.settings, name)
        if len(tried) > 1 and tuned[name] in (min(tried), max(tried)):
            print(f"the best {name}, {tuned[name]:g}, is at the end of those tried: try more in evaluation.lm.{name}")
    write_json(tuned | {"step": by["step"], "set": by["set"]}, args.weights)
    plot(tuned, args.surface)


if __name__ == "__main__":
    run_command(main)
