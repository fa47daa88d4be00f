"""card: the model's card and plots, from what the stages have put down."""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from huggingface_hub import EvalResult, ModelCardData
from markdown_it import MarkdownIt
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from pydantic import BaseModel

from speechmill.command import run_command, written_whole
from speechmill.config.card import CardSettings
from speechmill.config.datasets import DrawnSplit
from speechmill.config.evaluation import SelectSettings
from speechmill.config.text import TextSettings
from speechmill.page import COLOURS, STYLE, embedded, save
from speechmill.tables import read_json

_TEMPLATE = Path(__file__).parents[1] / "templates" / "card.md.j2"


class DatasetAbout(BaseModel):
    """What the card says of a dataset beside its counts."""

    name: str
    version: str
    licence: str
    hub_id: str | None
    language: str
    drawn: dict[str, DrawnSplit]

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}".strip()


class Settings(BaseModel):
    """The slice of the configuration that this stage reads."""

    language: str
    card: CardSettings
    base: str | None
    base_run: str | None
    train: list[str]
    text: TextSettings
    select: SelectSettings
    datasets: dict[str, DatasetAbout]

    def set_title(self, name: str) -> str:
        """An evaluation set's name for people."""
        dataset, split = name.split("-")
        return f"{self.datasets[dataset].title} {split}"


def front_matter(settings: Settings, best: pd.DataFrame) -> str:
    """The YAML between the card's dashes, as the Hugging Face Hub reads it; WER and CER are percentages there."""
    results = []
    for row in best.to_dict("records"):
        dataset, split = str(row["set"]).split("-")
        about = settings.datasets[dataset]
        for metric in (name for name in ("wer", "cer") if not pd.isna(row[name])):
            results.append(
                EvalResult(
                    task_type="automatic-speech-recognition",
                    task_name="Automatic Speech Recognition",
                    dataset_type=about.hub_id or dataset,
                    dataset_name=about.title,
                    dataset_config=about.language,
                    dataset_split=split,
                    metric_type=metric,
                    metric_name=f"{split.capitalize()} {metric.upper()}, {row['decoder']}",
                    metric_value=percent(float(row[metric])),
                )
            )
    data = ModelCardData(
        language=settings.language,
        license=settings.card.licence,
        library_name="transformers",
        base_model=settings.base,
        tags=["automatic-speech-recognition", "generated_from_trainer", "speechmill", *settings.card.tags],
        datasets=[about.hub_id for about in settings.datasets.values() if about.hub_id] or None,
        metrics=["wer", "cer"],
        model_name=settings.card.title,
        eval_results=results,
    )
    return str(data.to_yaml())


def percent(fraction: float) -> float:
    """A fraction as a percentage of two decimals."""
    return round(100 * fraction, 2)


def training_results(log: list[dict[str, Any]], scores: pd.DataFrame) -> list[list[str]]:
    """The table of the Trainer's cards: training loss, epoch, step, validation loss, WER, CER; a row a checkpoint."""
    rows = [["Training Loss", "Epoch", "Step", "Validation Loss", "Wer", "Cer"]]
    for score in scores.sort_values("step").to_dict("records"):
        before = [line for line in log if line["step"] <= score["step"]]
        losses = [line["loss"] for line in before if "loss" in line]
        rows.append(
            [
                f"{losses[-1]:.4f}" if losses else "No log",
                f"{before[-1]['epoch']:.2f}" if before else "0",
                str(score["step"]),
                *(_cell(score[metric], 4) for metric in ("loss", "wer", "cer")),
            ]
        )
    return rows


def _cell(value: float, decimals: int) -> str:
    return "–" if pd.isna(value) else f"{value:.{decimals}f}"


def table(rows: list[list[str]]) -> str:
    """A Markdown table, padded, its columns centred; the first row is the heading."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    rule = "|" + "|".join(":" + "-" * width + ":" for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def results_table(settings: Settings, best: pd.DataFrame) -> str:
    """The scores of the selected checkpoint on every set by every decoder."""
    rows = [["Set", "Decoder", "WER %", "95 % interval", "CER %", "Loss", "Clips scored / published", "Words"]]
    for row in best[best["unavailable"].isna()].to_dict("records"):
        rows.append(
            [
                settings.set_title(str(row["set"])),
                str(row["decoder"]),
                _cell(100 * row["wer"], 2),
                f"{100 * row['wer_low']:.2f} – {100 * row['wer_high']:.2f}",
                _cell(100 * row["cer"], 2),
                _cell(row["loss"], 4),
                f"{row['clips_scored']} / {row['clips_expected']}",
                str(row["reference_words"]),
            ]
        )
    return table(rows)


def unavailable_sets(settings: Settings, best: pd.DataFrame) -> list[str]:
    """For each set that was to be scored and could not be had, the set and the reason."""
    rows = best[best["unavailable"].notna()].drop_duplicates("set")
    return [f"{settings.set_title(name)}: {why}" for name, why in zip(rows["set"], rows["unavailable"], strict=True)]


def drawn_splits(settings: Settings) -> list[str]:
    """How each split that the corpus does not have was drawn."""
    return [
        f"{about.title} {name}: {rule.share:.0%} of the {rule.by}s of {rule.of}, each decided on by a hash of its own"
        f" (seed {rule.seed})"
        for about in settings.datasets.values()
        for name, rule in about.drawn.items()
    ]


def leakage_table(settings: Settings, leakage: dict[str, Any]) -> str:
    """The training clips that collide with each scored set, by what they have in common, and those taken out."""
    rows = [["Set", "Same speaker", "Same sentence", "Same audio", "Taken out of training"]]
    for name, found in leakage.items():
        cells = [f"{found[kind]['clips']:,} ({found[kind]['action']})" for kind in ("speaker", "sentence", "audio")]
        rows.append([settings.set_title(name), *cells, f"{found['removed']:,}"])
    return table(rows)


def data_table(settings: Settings, counts: dict[str, dict[str, Any]]) -> str:
    """What the run used in each role, and what it left out of training."""
    rows = [["Role", "Sets", "Clips", "Hours", "Speakers", "Left out"]]
    for role, count in counts.items():
        left_out = ", ".join(f"{n} {reason}" for reason, n in count["excluded"].items())
        rows.append(
            [
                role if role in ("train", "dev") else "evaluation",
                " + ".join(settings.set_title(name) for name in count["sets"]),
                f"{count['clips']:,}",
                f"{count['seconds'] / 3600:.2f}",
                str(count["speakers"] or "not known"),
                left_out or "none",
            ]
        )
    return table(rows)


def corpus_table(settings: Settings, status: list[dict[str, Any]]) -> str:
    """What each corpus published, split by split, and what of it could not be read."""
    rows = [["Corpus", "Licence", "Split", "Published", "Kept", "Rejected"]]
    for each in status:
        about = settings.datasets[each["dataset"]]
        rows += [
            [
                about.title,
                about.licence,
                split,
                *(f"{each[kind][split]:,}" for kind in ("published", "kept", "rejected")),
            ]
            for split in each["published"]
        ]
    return table(rows)


def outside_vocabulary(settings: Settings, best: pd.DataFrame) -> list[str]:
    """For each set whose references have characters that the model cannot write, the set and the characters."""
    rows = best[best["outside_vocabulary"] != ""].drop_duplicates("set")
    return [
        f"{settings.set_title(name)}: " + " ".join(f"`{character}`" for character in characters.split(" "))
        for name, characters in zip(rows["set"], rows["outside_vocabulary"], strict=True)
    ]


def text_rules(counts: dict[str, Any]) -> list[str]:
    """The text rules that changed something in the training sentences, with the number of sentences."""
    lines = [f"{rule}: {touched:,} sentences changed" for rule, touched in counts["clips_touched"].items() if touched]
    for what, characters in (
        ("Latin letters made Cyrillic", counts["characters_replaced"]),
        ("characters deleted", counts["characters_dropped"]),
    ):
        if characters:
            shown = ", ".join(f"`{character}` {number:,}" for character, number in list(characters.items())[:20])
            lines.append(f"{what}: {shown}")
    return lines


def plot_loss(log: list[dict[str, Any]], scores: pd.DataFrame, settings: Settings, path: Path) -> None:
    """The training loss by step, and the loss of each set at each checkpoint."""
    logged = [line for line in log if "loss" in line]
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    axes.plot(
        [x["step"] for x in logged],
        [x["loss"] for x in logged],
        color="#888888",
        linewidth=1,
        label="training",
    )
    for colour, (name, rows) in zip(COLOURS, scores.dropna(subset="loss").groupby("set"), strict=False):
        axes.plot(rows["step"], rows["loss"], "o-", color=colour, label=settings.set_title(str(name)))
    axes.set_yscale("log")
    _finish(axes, "CTC loss a character", "Loss over steps")
    save(figure, path)


def plot_wer(scores: pd.DataFrame, settings: Settings, step: int, path: Path) -> None:
    """The WER of each set and decoder at each checkpoint, with 95 % intervals; the selected step is marked."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    scored = scores.dropna(subset="wer").groupby(["set", "decoder"])
    for colour, ((name, decoder), rows) in zip(COLOURS, scored, strict=False):
        axes.fill_between(rows["step"], 100 * rows["wer_low"], 100 * rows["wer_high"], color=colour, alpha=0.15, lw=0)
        axes.plot(
            rows["step"],
            100 * rows["wer"],
            "o-",
            color=colour,
            label=f"{settings.set_title(str(name))}, {decoder}",
        )
    axes.axvline(step, color="#444444", linestyle=":", label=f"selected, step {step}")
    axes.set_ylim(bottom=0)
    _finish(axes, "WER, %", "Word error rate over steps, with 95 % intervals")
    save(figure, path)


def _finish(axes: Axes, y: str, title: str) -> None:
    axes.set_xlabel("step")
    axes.set_ylabel(y)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(edgecolor="none", framealpha=0.9)


def page(card: str, folder: Path) -> str:
    """The body of a card as a page of its own, with the pictures, which lie in `folder`, inside it."""
    body = MarkdownIt("commonmark").enable("table").render(card.split("\n---\n", 1)[1])

    def inlined(match: re.Match[str]) -> str:
        return f'src="{embedded((folder / match[1]).read_bytes())}"'

    with_pictures = re.sub(r'src="([^"]+)"', inlined, body)
    return f'<!doctype html>\n<meta charset="utf-8">\n{STYLE}\n{with_pictures}'


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--settings", type=Settings.model_validate_json, required=True)
    for one in (
        "summary",
        "selection",
        "training",
        "training-log",
        "plan",
        "leakage",
        "vocab",
        "card",
        "page",
        "loss",
        "wer",
    ):
        parser.add_argument(f"--{one}", type=Path, required=True)
    parser.add_argument("--counts", type=Path, nargs="+", required=True, help="the counts of the run's clips, by role")
    parser.add_argument("--status", type=Path, nargs="+", required=True, help="the status of each dataset")
    parser.add_argument("--base-source", type=Path, nargs="*", help="what is known of the base model, if there is one")
    args = parser.parse_args()
    settings: Settings = args.settings
    scores = pd.read_parquet(args.summary)
    step = read_json(args.selection)["step"]
    log = [json.loads(line) for line in args.training_log.read_text(encoding="utf-8").splitlines()]
    best = scores[scores["step"] == step]
    by = (best["set"] == settings.select.set) & (best["decoder"] == settings.select.decoder)
    selected = scores[(scores["set"] == settings.select.set) & (scores["decoder"] == settings.select.decoder)]
    statuses = [read_json(path) for path in args.status]
    counts = {path.stem: read_json(path) for path in args.counts}
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    rendered = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        run=args.run,
        front_matter=front_matter(settings, best),
        card=settings.card,
        base=settings.base,
        base_run=settings.base_run,
        base_source=read_json(args.base_source[0]) if args.base_source else None,
        train=" + ".join(settings.set_title(name) for name in settings.train),
        selection=settings.select,
        selection_title=settings.set_title(str(settings.select.set)),
        step=step,
        score=best[by].iloc[0].to_dict(),
        results=results_table(settings, best),
        unavailable=unavailable_sets(settings, best),
        drawn=drawn_splits(settings),
        leakage=leakage_table(settings, read_json(args.leakage)),
        differences=[
            f"{settings.datasets[each['dataset']].title}: {sentence}"
            for each in statuses
            for sentence in each["differences"]
        ],
        outside_vocabulary=outside_vocabulary(settings, best),
        data=data_table(settings, counts),
        corpora=corpus_table(settings, statuses),
        units=settings.text.units,
        text_rules=text_rules(counts["train"]),
        characters=[token for token in read_json(args.vocab) if len(token) == 1 and token != "|"],
        training=read_json(args.training),
        training_results=table(training_results(log, selected)),
        plan=read_json(args.plan),
    )
    plot_loss(log, scores, settings, args.loss)
    plot_wer(scores, settings, step, args.wer)
    with written_whole(args.card) as beside:
        beside.write_text(rendered, encoding="utf-8")
    with written_whole(args.page) as beside:
        beside.write_text(page(rendered, args.card.parent), encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
