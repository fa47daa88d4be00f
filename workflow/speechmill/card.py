"""card: the model's card and plots, from what the stages have put down."""

import argparse
import json
import math
import re
from pathlib import Path
from typing import Any, get_args

import jinja2
import pandas as pd
from huggingface_hub import EvalResult, ModelCardData
from markdown_it import MarkdownIt
from pydantic import BaseModel

from speechmill.command import run_command, written_whole
from speechmill.config.card import CardSettings
from speechmill.config.datasets import DrawnSplit
from speechmill.config.evaluation import Protocol, SelectSettings
from speechmill.config.text import TextSettings
from speechmill.findings import failures, of_language_model, of_other_checkpoints, robustness_rows
from speechmill.page import STYLE, embedded
from speechmill.plots import plot_breakdown, plot_error_rates, plot_loss
from speechmill.systems import published_set
from speechmill.tables import read_json

PROBED = "†"
"""Marks a WER that was taken while training went on."""

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
        """An evaluation set's name for people, or that of a changed copy."""
        dataset, split, *effect = name.split("-")
        return f"{self.datasets[dataset].title} {split}{''.join(f', {each}' for each in effect)}"


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


def published(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores on sets as they were published, without those on changed copies."""
    return scores[scores["set"] == scores["set"].map(published_set)]


def percent(fraction: float) -> float:
    """A fraction as a percentage of two decimals."""
    return round(100 * fraction, 2)


def training_results(plan: dict[str, Any], log: list[dict[str, Any]], scores: pd.DataFrame) -> list[list[str]]:
    """The table of the Trainer's cards: training loss, epoch, step, validation loss, WER, CER; a row a planned step.

    A checkpoint that was not kept has the WER on dev that was taken while training went on, marked with `PROBED`.
    """
    rows = [["Training Loss", "Epoch", "Step", "Validation Loss", "Wer", "Cer"]]
    scored = scores.set_index("step")[["loss", "wer", "cer"]]
    probed = probes(log)
    for step in plan["checkpoints"]:
        losses = [line["loss"] for line in log if "loss" in line and line["step"] <= step]
        if step in scored.index:
            cells = [_cell(figure, 4) for figure in scored.loc[step]]
        else:
            cells = [_cell(math.nan, 4), f"{_cell(probed.get(step, math.nan), 4)} {PROBED}", _cell(math.nan, 4)]
        loss = f"{losses[-1]:.4f}" if losses else "No log"
        rows.append([loss, f"{step / plan['total_steps'] * plan['epochs']:.2f}", str(step), *cells])
    return rows


def probes(log: list[dict[str, Any]]) -> dict[int, float]:
    """The WER on dev that training has taken at each save, by step."""
    return {line["step"]: line["probe_wer"] for line in log if line.get("probe_wer") is not None}


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


def protocols_table(settings: Settings, best: pd.DataFrame) -> str:
    """The scores by protocols beside the first one of each set; empty where no set has such."""
    rows = [["Set", "Decoder", "Protocol", "WER %", "CER %"]]
    for row in best.to_dict("records"):
        for protocol in get_args(Protocol):
            if protocol != row["protocol"] and not pd.isna(row[f"wer_{protocol}"]):
                figures = [_cell(100 * row[f"{metric}_{protocol}"], 2) for metric in ("wer", "cer")]
                rows.append([settings.set_title(str(row["set"])), str(row["decoder"]), f"`{protocol}`", *figures])
    return table(rows) if len(rows) > 1 else ""


def event_sets(settings: Settings, best: pd.DataFrame) -> list[str]:
    """The sets that are scored as the Robust Speech Event has scored."""
    names = best.loc[best["protocol"] == "robust_speech_event", "set"].unique()
    return [settings.set_title(str(name)) for name in names]


def robustness_table(settings: Settings, breakdown: dict[str, Any]) -> str:
    """The WER on changed copies of sets against that on the sets; empty where there are none."""
    rows = robustness_rows(breakdown, settings.set_title)
    return table(rows) if rows else ""


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
        "breakdown",
        "breakdown-plot",
    ):
        parser.add_argument(f"--{one}", type=Path, required=True)
    parser.add_argument("--counts", type=Path, nargs="+", required=True, help="the counts of the run's clips, by role")
    parser.add_argument("--status", type=Path, nargs="+", required=True, help="the status of each dataset")
    parser.add_argument("--lm", type=Path, nargs="*", default=[], help="text.json, arpa.json, weights.json, if any")
    parser.add_argument("--robustness", type=Path, nargs="*", default=[], help="the plot of changed copies, if any")
    parser.add_argument("--base-source", type=Path, nargs="*", help="what is known of the base model, if there is one")
    args = parser.parse_args()
    settings: Settings = args.settings
    scores = pd.read_parquet(args.summary)
    step, plan = read_json(args.selection)["step"], read_json(args.plan)
    log = [json.loads(line) for line in args.training_log.read_text(encoding="utf-8").splitlines()]
    over_steps = published(scores)
    best = over_steps[over_steps["step"] == step]
    by = (best["set"] == settings.select.set) & (best["decoder"] == settings.select.decoder)
    selected = over_steps[
        (over_steps["set"] == settings.select.set) & (over_steps["decoder"] == settings.select.decoder)
    ]
    statuses = [read_json(path) for path in args.status]
    counts = {path.stem: read_json(path) for path in args.counts}
    breakdown, lm = read_json(args.breakdown), {path.stem: read_json(path) for path in args.lm}
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
        other_checkpoints=of_other_checkpoints(breakdown, str(settings.select.set), settings.select.decoder),
        lm=lm,
        lm_title=settings.set_title(lm["weights"]["set"]) if lm else None,
        of_language_model=of_language_model(breakdown, settings.set_title),
        robustness=robustness_table(settings, breakdown),
        robustness_plot=[path.relative_to(args.card.parent).as_posix() for path in args.robustness],
        failures=failures(breakdown, settings.select.decoder, settings.set_title),
        event_sets=event_sets(settings, best),
        protocols=protocols_table(settings, best),
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
        training_results=table(training_results(plan, log, selected)),
        plan=plan,
        kept=over_steps["step"].nunique(),
        probed=PROBED,
    )
    plot_loss(log, over_steps, settings.set_title, args.loss)
    plot_error_rates(over_steps, probes(log), settings.set_title, step, args.wer)
    plot_breakdown(breakdown["sets"], settings.set_title, args.breakdown_plot)
    with written_whole(args.card) as beside:
        beside.write_text(rendered, encoding="utf-8")
    with written_whole(args.page) as beside:
        beside.write_text(page(rendered, args.card.parent), encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
