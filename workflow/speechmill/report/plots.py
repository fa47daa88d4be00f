"""The plots of a model card."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from speechmill.config.evaluation import Decoder, ErrorRate
from speechmill.core.page import COLOURS, plot_label, save_figure
from speechmill.core.selection import selected_mean
from speechmill.scoring.error_rates import RATE_NAMES
from speechmill.scoring.intervals import CONFIDENCE
from speechmill.scoring.reliability import Calibration, Clips, joined, reliability_bins
from speechmill.scoring.systems import base_set, saved_checkpoints

Title = Callable[[str], str]
"""A function that returns the title of a set, given its name. Sets whose title cannot be drawn are labelled by name."""

# Sets and decoders differ not only by colour, so that plots can be read without colour vision.
_LINES, _MARKERS = ["-", "--", ":", "-."], ["o", "s", "^", "D", "v", "P"]

_BIN_LABELS = ("clip duration, s; number of clips", "speaking rate, characters/s; number of clips")


def plot_loss(log: list[dict[str, Any]], scores: pd.DataFrame, title: Title, path: Path) -> None:
    """Plot the training loss by step, and the loss of each set at each checkpoint."""
    logged = [line for line in log if "loss" in line]
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    axes.plot([x["step"] for x in logged], [x["loss"] for x in logged], color="#888888", linewidth=1, label="training")
    for (name, rows), (colour, marker) in zip(
        saved_checkpoints(scores).dropna(subset="loss").drop_duplicates(["set", "step"]).groupby("set"),
        itertools.cycle(zip(COLOURS, _MARKERS, strict=True)),
        strict=False,
    ):
        axes.plot(rows["step"], rows["loss"], marker=marker, color=colour, label=_label(title, str(name)))
    axes.set_yscale("log")
    _finish(axes, "step", "CTC loss per character", "Loss by training step")
    axes.legend(edgecolor="none", framealpha=0.9)
    save_figure(figure, path)


def plot_error_rates(
    scores: pd.DataFrame,
    dev_rates: dict[ErrorRate, dict[int, float]],
    title: Title,
    selection: Mapping[str, Any],
    path: Path,
) -> None:
    """Plot the error rates of each set and decoder at each checkpoint, with 95% confidence intervals.

    Args:
        scores: The scores of all kept checkpoints, and of the mean of several, which is plotted as a star at the newest
            of its steps.
        dev_rates: For each error rate, in the order of the panels, its fractions on dev by step as evaluated during
            training. They are plotted only if some of these checkpoints were not kept.
        title: Returns the title of a set.
        selection: The content of `selection.json`.
        path: The PNG file to write.
    """
    mean = selected_mean(selection)
    selected = f"mean of steps {', '.join(map(str, mean))}" if mean else f"step {selection['step']}"
    figure, panels = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    set_styles = dict(
        zip(scores["set"].unique(), itertools.cycle(zip(COLOURS, _MARKERS, strict=True)), strict=False)
    )  # fmt: skip
    line_styles = dict(zip(scores["decoder"].unique(), itertools.cycle(_LINES), strict=False))
    for axes, (metric, by_step) in zip(panels, dev_rates.items(), strict=True):
        if set(by_step) - set(scores["step"]):
            percentages = [100 * fraction for fraction in by_step.values()]
            axes.plot(list(by_step), percentages, "x--", color="#888888", label="dev, during training")
        for (name, decoder), scored in scores.dropna(subset=metric).groupby(["set", "decoder"]):
            colour, marker = set_styles[name]
            rows = saved_checkpoints(scored)
            low, high = 100 * rows[f"{metric}_low"], 100 * rows[f"{metric}_high"]
            if len(rows) > 1:
                axes.fill_between(rows["step"], low, high, color=colour, alpha=0.15, lw=0)
            else:
                axes.vlines(rows["step"], low, high, color=colour, linestyle=line_styles[decoder])
            axes.plot(
                rows["step"], 100 * rows[metric], marker=marker, linestyle=line_styles[decoder], color=colour,
                label=f"{_label(title, str(name))}, {decoder}",
            )  # fmt: skip
            means = scored.drop(rows.index)
            if len(means):
                low, high = 100 * means[f"{metric}_low"], 100 * means[f"{metric}_high"]
                axes.vlines(means["step"], low, high, color=colour, linestyle=line_styles[decoder])
                axes.plot(
                    means["step"], 100 * means[metric], "*", markersize=12, color=colour, markeredgecolor="#444444",
                    label=f"{_label(title, str(name))}, {decoder}, mean of checkpoints",
                )  # fmt: skip
        axes.axvline(selection["step"], color="#444444", linestyle=":", label=f"selected, {selected}")
        axes.set_ylim(bottom=0)
        _finish(axes, "step", f"{metric.upper()}, %", RATE_NAMES[metric].capitalize())
    figure.suptitle(f"Error rates by training step, with {CONFIDENCE}% confidence intervals")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, edgecolor="none")
    save_figure(figure, path)


def plot_breakdown(sets: dict[str, Any], title: Title, path: Path, metric: ErrorRate = "wer") -> None:
    """Plot an error rate of each set by clip duration, speaking rate and speaker.

    `sets` is that of `breakdown.json`, with intervals of `metric`.
    """
    rate = f"{metric.upper()}, %"
    figure, panels = plt.subplots(
        len(sets), 3, figsize=(13, 3.6 * len(sets) + 0.4), layout="constrained", squeeze=False
    )
    for row, (name, decoders) in zip(panels, sets.items(), strict=True):
        for axes, kind, label in zip(row, ("seconds", "rate"), _BIN_LABELS, strict=False):
            _plot_bins(axes, {decoder: found["groups"][kind] for decoder, found in decoders.items()}, metric)
            _finish(axes, label, rate, _label(title, name))
        _plot_speakers(row[2], {decoder: found["groups"]["speaker"] for decoder, found in decoders.items()}, metric)
        _finish(
            row[2],
            f"speakers, highest {metric.upper()} first;\nmarker size: number of words",
            rate,
            _label(title, name),
        )
        for axes in row:
            axes.set_ylim(bottom=0)
    figure.suptitle(
        f"{RATE_NAMES[metric].capitalize()} by clip duration, speaking rate and speaker,"
        f" with {CONFIDENCE}% confidence intervals"
    )
    _add_legend(figure, panels)
    save_figure(figure, path)


def _plot_bins(axes: Axes, decoders: dict[str, list[dict[str, Any]]], metric: ErrorRate) -> None:
    for (decoder, rows), (shift, colour, marker) in zip(decoders.items(), _decoder_styles(len(decoders)), strict=True):
        known = [(i, row) for i, row in enumerate(rows) if row["value"] is not None and row[metric] is not None]
        positions = [i + shift for i, _ in known]
        axes.plot(positions, [100 * row[metric] for _, row in known], marker, color=colour, label=decoder)
        for position, (_, row) in zip(positions, known, strict=True):
            if row["interval"]:
                axes.vlines(position, *(100 * end for end in row["interval"]), color=colour)
    bins = [row for row in next(iter(decoders.values())) if row["value"] is not None]
    axes.set_xticks(range(len(bins)), [f"{row['value']}\n{row['clips']:,}" for row in bins], fontsize=8)


def _plot_speakers(axes: Axes, decoders: dict[str, list[dict[str, Any]]], metric: ErrorRate) -> None:
    for (decoder, rows), (_, colour, marker) in zip(decoders.items(), _decoder_styles(len(decoders)), strict=True):
        known = [row for row in rows if row["value"] is not None and row[metric] is not None]
        known.sort(key=lambda row: -row[metric])
        most = max((row["words"] for row in known), default=1)
        sizes = [8 + 72 * row["words"] / most for row in known]
        rates = [100 * row[metric] for row in known]
        axes.scatter(range(1, len(known) + 1), rates, s=sizes, color=colour, marker=marker, alpha=0.7, label=decoder)
        if not known:
            axes.text(0.5, 0.5, "speakers unknown", ha="center", transform=axes.transAxes)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def plot_reliability(
    calibration: Calibration, confidence: dict[str, dict[Decoder, Clips]], title: Title, path: Path
) -> None:
    """Plot the accuracy of words by their confidence before and after calibration, for each set and decoder.

    The numbers are those of the words in each bin. `confidence` has the words of each set by decoder.
    """
    figure, panels = plt.subplots(
        len(confidence), max(1, len(calibration.calibrators)), squeeze=False, layout="constrained",
        figsize=(1 + 4.6 * len(calibration.calibrators), 1 + 4.2 * len(confidence)),
    )  # fmt: skip
    for row, (name, decoders) in zip(panels, confidence.items(), strict=True):
        for axes, (decoder, calibrator) in zip(row, calibration.calibrators.items(), strict=False):
            raw, right = joined(decoders.get(decoder, []))
            axes.plot([0, 100], [0, 100], ":", color="#888888", label="confidence equals accuracy")
            for values, label, colour, marker, above in (
                (raw, "before calibration", COLOURS[1], "s", True),
                (calibrator(raw), "after calibration", COLOURS[0], "o", False),
            ):
                bins = reliability_bins(values, right)
                points = [(100 * each.confidence, 100 * each.accuracy) for each in bins]
                sizes = [12 + 88 * each.words / len(right) for each in bins]
                axes.scatter(
                    [x for x, _ in points], [y for _, y in points], s=sizes, color=colour, marker=marker, label=label
                )
                for each, point in zip(bins, points, strict=True):
                    axes.annotate(
                        f"{each.words:,}", point, (0, 8 if above else -8), textcoords="offset points", fontsize=7,
                        color=colour, ha="center", va="bottom" if above else "top",
                    )  # fmt: skip
            axes.set(xlim=(0, 103), ylim=(-8, 108))
            _finish(axes, "confidence, %", "words that are right, %", f"{_label(title, name)}, {decoder}")
    figure.suptitle("Accuracy by confidence, with the number of words")
    _add_legend(figure, panels)
    save_figure(figure, path)


def plot_robustness(scores: pd.DataFrame, title: Title, path: Path, metric: ErrorRate = "wer") -> None:
    """Plot an error rate of each perturbed copy of a set against that of the set, for each decoder.

    Lines show 95% confidence intervals. `scores` has the rows of the selected checkpoint; sets without perturbed copies
    are not shown.
    """
    scores = scores.assign(base=scores["set"].map(base_set)).dropna(subset=metric)
    perturbed = scores[scores["set"] != scores["base"]]
    groups = [(name, scores[scores["base"] == name]) for name in perturbed["base"].unique()]
    if not groups:
        figure = plt.figure(figsize=(8, 1))
        figure.text(0.5, 0.5, f"no perturbed copy of a set has a {RATE_NAMES[metric]}", ha="center")
        save_figure(figure, path)
        return
    rows = sum(1 + group["set"].nunique() for _, group in groups)
    figure, panels = plt.subplots(
        len(groups), 1, figsize=(8, 1 + 0.36 * rows), layout="constrained", squeeze=False,
        height_ratios=[group["set"].nunique() for _, group in groups],
    )  # fmt: skip
    for axes, (name, group) in zip(panels[:, 0], groups, strict=True):
        decoders = list(group["decoder"].unique())
        first = group[group["decoder"] == decoders[0]].set_index("set")[metric]
        order = [*([name] if name in first else []), *first.drop(name, errors="ignore").sort_values().index]
        for decoder, (shift, colour, marker) in zip(decoders, _decoder_styles(len(decoders)), strict=True):
            shown = group[(group["decoder"] == decoder) & group["set"].isin(order)]
            positions = [order.index(each) - shift for each in shown["set"]]
            axes.hlines(positions, 100 * shown[f"{metric}_low"], 100 * shown[f"{metric}_high"], color=colour)
            axes.plot(100 * shown[metric], positions, marker, color=colour, label=decoder)
            for fraction in shown[metric][shown["set"] == name]:
                axes.axvline(100 * fraction, color=colour, linestyle=":", linewidth=1)
        axes.set_yticks(range(len(order)), ["unperturbed" if each == name else each.split("-")[2] for each in order])
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        _finish(axes, f"{metric.upper()}, %", "", _label(title, name))
    figure.suptitle(f"{RATE_NAMES[metric].capitalize()} on perturbed copies, with {CONFIDENCE}% confidence intervals")
    _add_legend(figure, panels)
    save_figure(figure, path)


def _label(title: Title, name: str) -> str:
    return plot_label(title(name), name)


def _decoder_styles(count: int) -> list[tuple[float, str, str]]:
    """Return the offset from the centre, the colour and the marker of each of `count` decoders."""
    shifts = [0.16 * (i - (count - 1) / 2) for i in range(count)]
    return list(zip(shifts, itertools.cycle(COLOURS), itertools.cycle(_MARKERS), strict=False))


def _add_legend(figure: Any, panels: Any) -> None:
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), edgecolor="none")


def _finish(axes: Axes, x: str, y: str, title: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
