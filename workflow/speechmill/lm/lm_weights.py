"""lm_weights: tune the two weights of beam search on dev."""

import argparse
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from pydantic import BaseModel

from speechmill.config.evaluation import ErrorRate
from speechmill.config.lm import BeamConfig, Vocabulary
from speechmill.config.text import TextConfig
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.files import read_json, write_json
from speechmill.core.page import COLOURS, save_figure
from speechmill.core.progress import progress
from speechmill.core.tables import ctc_outputs_metadata, read_table
from speechmill.inference.decoders import Weights, decode_all
from speechmill.scoring.error_rates import both_rates, count, rate
from speechmill.scoring.protocols import apply_protocol
from speechmill.text.lexicon import check_lm

Point = tuple[float, float]
"""A pair of lm_weight and word_score."""

Rates = tuple[float, float]
"""The error rate that decides, and the other one of WER and CER, which decides between points that are equal."""


class LmWeightsSettings(BaseModel):
    """The stage settings: dev, the run's text rules and error rate, and the search settings from `evaluation.lm`."""

    dev: str
    text: TextConfig
    metric: ErrorRate
    lm_weight: list[float]
    word_score: list[float]
    vocabulary: Vocabulary
    beam: BeamConfig
    tuning_clips: int


def search(score: Callable[[Point], Rates], weights: Sequence[float], scores: Sequence[float]) -> dict[Point, Rates]:
    """Return the rates at each point of the grid, and of the points halfway from the best one to its neighbours.

    `weights` and `scores` are the values of lm_weight and word_score. Points are in the order of evaluation.
    """
    surface = {point: score(point) for point in progress(list(itertools.product(weights, scores)), desc="lm_weights")}
    around = (_halfway(value, grid) for value, grid in zip(best(surface), (weights, scores), strict=True))
    finer = [point for point in itertools.product(*around) if point not in surface]
    return surface | {point: score(point) for point in progress(finer, desc="lm_weights, refinement")}


def best(surface: dict[Point, Rates]) -> Point:
    """Return the point with the smallest rates; among equal points, the one with the smallest weights."""
    return min(surface, key=lambda point: (surface[point], abs(point[0]), abs(point[1]), point))


def _halfway(value: float, grid: Iterable[float]) -> list[float]:
    ordered = sorted(set(grid))
    i = ordered.index(value)
    neighbours = [*ordered[max(0, i - 1) : i], *ordered[i + 1 : i + 2]]
    return [value, *((value + other) / 2 for other in neighbours)]


def tune(
    ctc_outputs: Path, clips: list[dict[str, Any]], lm: Path, settings: LmWeightsSettings, processes: int
) -> dict[str, Any]:
    """Return the weights with the lowest error rate on dev under the protocol `plain`, and the rates at every point.

    The rates of greedy decoding are returned too. If dev has more than `tuning_clips` clips, only every second, third …
    clip is used for all of them.

    Raises:
        SpeechmillError: `ctc_outputs` does not match the clips.
    """
    table = read_table(ctc_outputs, ["id", "hypothesis"])
    if table["id"].to_pylist() != [clip["id"] for clip in clips]:
        raise SpeechmillError(f"{ctc_outputs} does not match the clips of dev; delete it and run snakemake again")
    every = max(1, math.ceil(len(clips) / settings.tuning_clips))
    texts = [(clip["sentence"], clip["text"]) for clip in clips[::every]]
    special_tokens = ctc_outputs_metadata(ctc_outputs)["special_tokens"]

    def rates(hypotheses: Sequence[str]) -> Rates:
        counts = count(*apply_protocol("plain", texts, hypotheses, settings.text, special_tokens))
        wer = rate(sum(each.errors for each in counts), sum(each.words for each in counts))
        cer = rate(sum(each.character_errors for each in counts), sum(each.characters for each in counts))
        return (wer, cer) if settings.metric == "wer" else (cer, wer)

    def weights(point: Point) -> Weights:
        return Weights(lm_weight=point[0], word_score=point[1], vocabulary=settings.vocabulary, beam=settings.beam)

    def score(point: Point) -> Rates:
        return rates(decode_all(ctc_outputs, lm, weights(point), processes, every))

    surface = search(score, settings.lm_weight, settings.word_score)
    tuned = best(surface)
    greedy = rates(table["hypothesis"].to_pylist()[::every])
    by_name: dict[str, Any] = {"metric": settings.metric}
    for name, tuned_rate, greedy_rate in zip(both_rates(settings.metric), surface[tuned], greedy, strict=True):
        by_name |= {name: tuned_rate, f"greedy_{name}": greedy_rate}
    return weights(tuned).model_dump() | {
        **by_name,
        "clips": len(texts),
        "surface": [[*point, values[0]] for point, values in sorted(surface.items())],
    }


def plot(tuned: dict[str, Any], path: Path) -> None:
    """Plot the error rate that decides at every evaluated point, and mark the best one."""
    metric = tuned["metric"]
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    columns = [list(column) for column in zip(*tuned["surface"], strict=True)]
    x, y, rates = columns[0], columns[1], [100 * value for value in columns[2]]
    dots = axes.scatter(x, y, c=rates, cmap="viridis_r", marker="s", s=700)
    axes.scatter(
        [tuned["lm_weight"]], [tuned["word_score"]], marker="s", s=850, facecolors="none", edgecolors=COLOURS[1], lw=3
    )
    middle = (min(rates) + max(rates)) / 2
    for weight, score, value in zip(x, y, rates, strict=True):
        colour = "white" if value > middle else "black"
        axes.text(weight, score, f"{value:.1f}", ha="center", va="center", fontsize=8, color=colour)
    axes.margins(0.12)
    axes.set(xlabel="language model weight", ylabel="word score")
    axes.set_title(
        f"{metric.upper()} on dev: {100 * tuned[metric]:.2f} % at ({tuned['lm_weight']:g}, {tuned['word_score']:g}),"
        f" greedy {100 * tuned[f'greedy_{metric}']:.2f} %"
    )
    figure.colorbar(dots, label=f"{metric.upper()} %")
    save_figure(figure, path)


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=LmWeightsSettings.model_validate_json, required=True)
    parser.add_argument("--tuning-checkpoint", type=Path, required=True, help="the output of select_tuning_checkpoint")
    parser.add_argument("--clips", type=Path, required=True, help="the clips of dev")
    parser.add_argument("--ctc-outputs", type=Path, required=True, help="the CTC outputs of dev at that checkpoint")
    parser.add_argument("--lm", type=Path, required=True, help="the folder of the language model")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--surface", type=Path, required=True)
    args = parser.parse_args()
    checkpoint = read_json(args.tuning_checkpoint)
    if checkpoint["set"] != args.settings.dev:
        raise SpeechmillError(
            f"{args.tuning_checkpoint} was selected on {checkpoint['set']}, but weights are tuned on"
            f" {args.settings.dev}; delete it and run snakemake again"
        )
    clips = read_table(args.clips, ["id", "text", "sentence"]).to_pylist()
    check_lm(args.lm)
    tuned = tune(args.ctc_outputs, clips, args.lm, args.settings, args.threads)
    metric = tuned["metric"]
    print(
        f"on {tuned['clips']:,} clips of {checkpoint['set']}, step {checkpoint['step']}:"
        f" {metric.upper()} {100 * tuned[metric]:.2f} %, greedy {100 * tuned[f'greedy_{metric}']:.2f} %"
    )
    for name in ("lm_weight", "word_score"):
        grid = getattr(args.settings, name)
        if len(grid) > 1 and tuned[name] in (min(grid), max(grid)):
            print(f"the best {name}, {tuned[name]:g}, is at the edge of the grid; extend evaluation.lm.{name}")
    write_json(tuned | {"step": checkpoint["step"], "set": checkpoint["set"]}, args.weights)
    plot(tuned, args.surface)


if __name__ == "__main__":
    run_command(main)
