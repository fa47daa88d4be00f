"""card: the model's card and plots, from what the stages have put down, which goes with the model as evidence."""

import argparse
import json
import math
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jinja2
import pandas as pd
from huggingface_hub import EvalResult
from markdown_it import MarkdownIt
from pydantic import BaseModel

from speechmill.config.card import CardConfig
from speechmill.config.datasets import DrawnSplit
from speechmill.config.evaluation import Protocol, SelectConfig
from speechmill.config.reference_card import ReferenceCard
from speechmill.config.text import TextConfig
from speechmill.core.command import atomic_write, run_command
from speechmill.core.page import STYLE, embedded
from speechmill.core.tables import read_json
from speechmill.report import evidence, manifest
from speechmill.report.evidence import Evidence
from speechmill.report.findings import failures, of_language_model, of_other_checkpoints, robustness_rows
from speechmill.report.model_index import eval_results, front_matter
from speechmill.report.plots import plot_breakdown, plot_error_rates, plot_loss
from speechmill.report.reference_comparison import side_by_side
from speechmill.scoring.error_rates import CONFIDENCE, percent
from speechmill.scoring.systems import base_set, systems

PROBED = "†"
"""Marks a WER that was taken while training went on."""

CARD = "README.md"
"""The card's name in the folder of the model."""

HUB_RESULTS = ".eval_results"
"""The folder of the scores in the newer form of the Hugging Face Hub, in that of the model."""

TEMPLATE = "templates/card.md.j2"
"""Below the folder `workflow`."""


class DatasetAbout(BaseModel):
    """What the card says of a dataset beside its counts."""

    name: str
    version: str
    licence: str
    hub_id: str | None
    hub_config: str | None
    language: str
    drawn: dict[str, DrawnSplit]
    audio_may_be_passed_on: bool

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}".strip()


class CardSettings(BaseModel):
    """The slice of the configuration that this stage reads."""

    run: str
    language: str
    card: CardConfig
    base: str | None
    base_run: str | None
    train: list[str]
    text: TextConfig
    select: SelectConfig
    datasets: dict[str, DatasetAbout]
    roles: list[str]
    """What clips of the run are for: `train`, `dev`, and the sets that are scored."""
    reference_card: ReferenceCard | None
    code: dict[str, str]
    """The digest of the code of the stages that decide on the figures."""

    def set_title(self, name: str) -> str:
        """An evaluation set's name for people, or that of a changed copy."""
        dataset, split, *effect = name.split("-")
        return f"{self.datasets[dataset].title} {split}{''.join(f', {each}' for each in effect)}"


class Known(NamedTuple):
    """How the figures of a section of the card are known."""

    how: Literal["recomputed", "derived", "recorded"]
    """Anew from the model and the recordings; from the files of the folder's evidence; as they were at the time."""
    where: str
    """Of what, or in which file of the evidence."""


KNOWN = {
    "Front matter, and the first lines": Known("recomputed", "the model and the recordings"),
    "Model description": Known("derived", "`plan.json`, `vocab.json`, `training.json`"),
    "Usage": Known("recomputed", "the model and a recording"),
    "Results": Known("recomputed", "the model and the recordings"),
    "Other checkpoints and decoders": Known("derived", "`breakdown.json`"),
    "Language model": Known("derived", "`lm/*.json`"),
    "Beside the published model": Known("recorded", "the published card, in `settings.json`; ours as in Results"),
    "Intended uses & limitations": Known("derived", "`settings.json`, `summary.parquet`"),
    "Where it fails": Known("derived", "`breakdown.json`"),
    "Robustness": Known("derived", "`breakdown.json`; each WER recomputed"),
    "Training and evaluation data": Known("derived", "`status/*.json`, `counts/*.json`, `leakage.json`"),
    "Training hyperparameters": Known("derived", "`training.json`, its settings those of `config.yaml`"),
    "Training results": Known("derived", "`training.jsonl`, `summary.parquet`"),
    "Time and hardware": Known("recorded", "`training.json`"),
    "Framework versions": Known("recorded", "`training.json`"),
    "How to make it again": Known("derived", "`manifest.json`, `summary.parquet`, `status/*.json`"),
}
"""The sections of the card by their headings, and how the figures of each are known."""


def unperturbed_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores on sets as they were published, without those on changed copies."""
    return scores[scores["set"] == scores["set"].map(base_set)]


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
    return {line["step"]: line["dev_wer"] for line in log if line.get("dev_wer") is not None}


def _cell(value: float, decimals: int) -> str:
    return "–" if pd.isna(value) else f"{value:.{decimals}f}"


def table(rows: list[list[str]]) -> str:
    """A Markdown table, padded, its columns centred; the first row is the heading."""
    rows = [[" ".join(cell.replace("|", "\\|").split()) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    rule = "|" + "|".join(":" + "-" * width + ":" for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def results_table(settings: CardSettings, best: pd.DataFrame) -> str:
    """The scores of the selected checkpoint on every set by every decoder."""
    rows = [
        ["Set", "Decoder", "WER %", f"{CONFIDENCE} % interval", "CER %", "Loss", "Clips scored / published", "Words"]
    ]
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


def protocols_table(settings: CardSettings, best: pd.DataFrame) -> str:
    """The scores by protocols beside the first one of each set; empty where no set has such."""
    rows = [["Set", "Decoder", "Protocol", "WER %", "CER %"]]
    for row in best.to_dict("records"):
        for protocol in get_args(Protocol):
            if protocol != row["protocol"] and not pd.isna(row[f"wer_{protocol}"]):
                figures = [_cell(100 * row[f"{metric}_{protocol}"], 2) for metric in ("wer", "cer")]
                rows.append([settings.set_title(str(row["set"])), str(row["decoder"]), f"`{protocol}`", *figures])
    return table(rows) if len(rows) > 1 else ""


def event_sets(settings: CardSettings, best: pd.DataFrame) -> list[str]:
    """The sets that are scored as the Robust Speech Event has scored."""
    names = best.loc[best["protocol"] == "robust_speech_event", "set"].unique()
    return [settings.set_title(str(name)) for name in names]


def robustness_table(settings: CardSettings, breakdown: dict[str, Any]) -> str:
    """The WER on changed copies of sets against that on the sets; empty where there are none."""
    rows = robustness_rows(breakdown, settings.set_title)
    return table(rows) if rows else ""


def unavailable_sets(settings: CardSettings, best: pd.DataFrame) -> list[str]:
    """For each set that was to be scored and could not be had, the set and the reason."""
    rows = best[best["unavailable"].notna()].drop_duplicates("set")
    return [f"{settings.set_title(name)}: {why}" for name, why in zip(rows["set"], rows["unavailable"], strict=True)]


def drawn_splits(settings: CardSettings) -> list[str]:
    """How each split that the corpus does not have was drawn."""
    return [
        f"{about.title} {name}: {rule.share:.0%} of the {rule.by}s of {rule.of}, each decided on by a hash of its own"
        f" (seed {rule.seed})"
        for about in settings.datasets.values()
        for name, rule in about.drawn.items()
    ]


def leakage_table(settings: CardSettings, leakage: dict[str, Any]) -> str:
    """The training clips that collide with each scored set, by what they have in common, and those taken out."""
    rows = [["Set", "Same speaker", "Same sentence", "Same audio", "Taken out of training"]]
    for name, found in leakage.items():
        cells = [f"{found[kind]['clips']:,} ({found[kind]['action']})" for kind in ("speaker", "sentence", "audio")]
        rows.append([settings.set_title(name), *cells, f"{found['removed']:,}"])
    return table(rows)


def data_table(settings: CardSettings, counts: dict[str, dict[str, Any]]) -> str:
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


def corpus_table(settings: CardSettings, status: list[dict[str, Any]]) -> str:
    """What each corpus published, split by split, and what of it could not be read."""
    rows = [["Corpus", "Licence", "Split", "Published", "Kept", "Rejected"]]
    for each in status:
        about = settings.datasets[each["dataset"]]
        rows += [
            [
                about.title,
                about.licence,
                split,
                *(f"{each[kind][split]:,}" for kind in ("listed", "kept", "rejected")),
            ]
            for split in each["listed"]
        ]
    return table(rows)


def outside_vocabulary(settings: CardSettings, best: pd.DataFrame) -> list[str]:
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


def about_results(settings: CardSettings, best: pd.DataFrame, status: list[dict[str, Any]]) -> list[EvalResult]:
    """The selected checkpoint's WER and CER on every set by every decoder, as percentages, as the Hub writes them."""
    commits = {each["dataset"]: each["about"].get("commit") for each in status}
    results = []
    for row in best.to_dict("records"):
        dataset, split = str(row["set"]).split("-")
        about = settings.datasets[dataset]
        results += [
            EvalResult(
                task_type="automatic-speech-recognition",
                task_name="Automatic Speech Recognition",
                dataset_type=about.hub_id or dataset,
                dataset_name=about.title,
                dataset_config=about.hub_config or (None if about.hub_id else about.language),
                dataset_split=split,
                dataset_revision=commits.get(dataset),
                metric_type=metric,
                metric_name=f"{split.capitalize()} {metric.upper()}, {row['decoder']}",
                metric_value=percent(float(row[metric])),
            )
            for metric in ("wer", "cer")
            if not pd.isna(row[metric])
        ]
    return results


def digests_table(settings: CardSettings, found: Evidence, best: pd.DataFrame) -> str:
    """What the run was made of and has made, each with what tells it from all else."""
    rows = [["What", "Known by", ""]]
    for each in found.status:
        told = {key: each["about"][key] for key in ("commit", "sha256") if each["about"].get(key)}
        rows += [[settings.datasets[each["dataset"]].title, key, f"`{value}`"] for key, value in told.items()]
    if found.base is not None and found.base.get("commit"):
        rows.append([str(settings.base), "commit", f"`{found.base['commit']}`"])
    rows.append(["training clips, with their texts", "sha256", f"`{found.training_clips}`"])
    for row in best[best["unavailable"].isna()].drop_duplicates("set").to_dict("records"):
        rows.append(
            [f"clips of {settings.set_title(row['set'])}, with their texts", "sha256", f"`{row['eval_set_sha256']}`"]
        )
    rows += [[f"`{name}`", "sha256", f"`{digest}`"] for name, digest in found.selection["sha256"].items()]
    rows += [[f"the code of the stage `{stage}`", "digest", f"`{digest}`"] for stage, digest in settings.code.items()]
    return table(rows)


def hub_results(found: Evidence) -> dict[str, str]:
    """The files of `HUB_RESULTS`, by name: the scores on sets that the Hub has."""
    settings = CardSettings.model_validate(found.settings)
    best = _best(found)
    on_the_hub = [
        settings.datasets[dataset].hub_id is not None and split not in settings.datasets[dataset].drawn
        for dataset, split in (str(name).split("-") for name in best["set"])
    ]
    return eval_results(about_results(settings, best[on_the_hub], found.status))


def _best(found: Evidence) -> pd.DataFrame:
    best: pd.DataFrame = unperturbed_scores(found.summary).query("step == @found.selection['step']")
    return best


def context(found: Evidence) -> dict[str, Any]:
    """What the template of the card is filled with, all of it from the evidence."""
    settings = CardSettings.model_validate(found.settings)
    over_steps, best, breakdown, lm = unperturbed_scores(found.summary), _best(found), found.breakdown, found.lm
    by = (best["set"] == settings.select.set) & (best["decoder"] == settings.select.decoder)
    selected = over_steps[
        (over_steps["set"] == settings.select.set) & (over_steps["decoder"] == settings.select.decoder)
    ]
    return {
        "run": settings.run,
        "front_matter": front_matter(
            language=settings.language,
            licence=settings.card.licence,
            base=settings.base,
            tags=["automatic-speech-recognition", "generated_from_trainer", "speechmill", *settings.card.tags],
            datasets=[about.hub_id for about in settings.datasets.values() if about.hub_id],
            metrics=["wer", "cer"],
            title=settings.card.title,
            results=about_results(settings, best, found.status),
        ),
        "card": settings.card,
        "base": settings.base,
        "base_run": settings.base_run,
        "base_source": found.base,
        "train": " + ".join(settings.set_title(name) for name in settings.train),
        "selection": settings.select,
        "selection_title": settings.set_title(str(settings.select.set)),
        "step": found.selection["step"],
        "score": best[by].astype(object).where(best[by].notna(), None).iloc[0].to_dict(),
        "confidence": CONFIDENCE,
        "results": results_table(settings, best),
        "other_checkpoints": of_other_checkpoints(breakdown, str(settings.select.set), settings.select.decoder),
        "usage": found.usage,
        "usage_titles": {each["set"]: settings.set_title(each["set"]) for each in found.usage},
        "lm": lm,
        "lm_title": settings.set_title(lm["weights"]["set"]) if lm else None,
        "of_language_model": of_language_model(breakdown, settings.set_title),
        "reference_card": settings.reference_card,
        "side_by_side": table(side_by_side(settings.reference_card, best, settings.set_title))
        if settings.reference_card
        else None,
        "robustness": robustness_table(settings, breakdown),
        "failures": failures(breakdown, settings.select.decoder, settings.set_title),
        "event_sets": event_sets(settings, best),
        "protocols": protocols_table(settings, best),
        "unavailable": unavailable_sets(settings, best),
        "drawn": drawn_splits(settings),
        "leakage": leakage_table(settings, found.leakage),
        "differences": [
            f"{settings.datasets[each['dataset']].title}: {sentence}"
            for each in found.status
            for sentence in each["differences"]
        ],
        "outside_vocabulary": outside_vocabulary(settings, best),
        "data": data_table(settings, found.counts),
        "corpora": corpus_table(settings, found.status),
        "units": settings.text.units,
        "text_rules": text_rules(found.counts["train"]),
        "characters": [token for token in found.vocabulary if len(token) == 1 and token != "|"],
        "training": found.training,
        "training_results": table(training_results(found.plan, found.log, selected)),
        "plan": found.plan,
        "kept": over_steps["step"].nunique(),
        "probed": PROBED,
        "devices": sorted(found.summary["device"].dropna().unique()),
        "scoring_seconds": float(found.summary.drop_duplicates(["step", "set", "decoder"])["wall_seconds"].sum()),
        "digests": digests_table(settings, found, best),
        "known": table([["Section", "Figures are", "From"], *([name, *known] for name, known in KNOWN.items())]),
    }


def render(context: dict[str, Any]) -> str:
    """The card, Markdown with front matter, from what `context` gives."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string((Path(__file__).parents[2] / TEMPLATE).read_text(encoding="utf-8")).render(context)


def draw(found: Evidence, model: Path) -> None:
    """Draw the plots of the card into the folder of the model."""
    settings, over_steps = CardSettings.model_validate(found.settings), unperturbed_scores(found.summary)
    plots, step = model / "plots", found.selection["step"]
    plot_loss(found.log, over_steps, settings.set_title, plots / "loss.png")
    plot_error_rates(over_steps, probes(found.log), settings.set_title, step, plots / "wer.png")
    plot_breakdown(found.breakdown["sets"], settings.set_title, plots / "breakdown.png")


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
    parser.add_argument("--settings", type=CardSettings.model_validate_json, required=True)
    parser.add_argument("--configuration", type=json.loads, required=True, help="what makes the run again")
    parser.add_argument("--model", type=Path, required=True, help="the folder of the model, which gets all but --page")
    parser.add_argument("--page", type=Path, required=True, help="the card as a page of its own")
    named = ("summary", "selection", "breakdown", "training", "plan", "leakage", "usage")
    for one in (*named, "training-log"):
        parser.add_argument(f"--{one}", type=Path, required=True)
    parser.add_argument("--train-digest", type=Path, required=True, help="what the training clips are")
    parser.add_argument("--counts", type=Path, nargs="+", required=True, help="the counts of the run's clips, by role")
    parser.add_argument("--status", type=Path, nargs="+", required=True, help="the status of each dataset")
    parser.add_argument("--clips", type=Path, nargs="+", required=True, help="the clips of each scored set")
    parser.add_argument("--hypotheses", type=Path, nargs="+", required=True, help="of every set, step and decoder")
    parser.add_argument("--lm", type=Path, nargs="*", default=[], help="text.json, arpa.json, weights.json, if any")
    parser.add_argument("--base-source", type=Path, nargs="*", default=[], help="what is known of the base, if any")
    args = parser.parse_args()
    files: dict[str, Path] = {path.name: path for path in (getattr(args, one) for one in named)}
    files |= {"training.jsonl": args.training_log, "train.sha256": args.train_digest}
    files |= {f"counts/{path.name}": path for path in args.counts} | {f"lm/{path.name}": path for path in args.lm}
    files |= {f"status/{path.parent.name}.json": path for path in args.status}
    files |= dict(zip(["base.json"], args.base_source, strict=False))
    evidence.put(args.model, args.settings.model_dump(mode="json"), args.configuration, files)
    step = read_json(args.selection)["step"]
    of_selected = {system: path for system, path in systems(args.hypotheses, step).items() if system.step == step}
    evidence.put_scored(args.model, of_selected, args.clips)
    found = evidence.read(args.model)
    draw(found, args.model)
    write_text(render(context(found)), args.model / CARD)
    # There, if empty, where the Hub has none of the sets: the folder is an output.
    (args.model / HUB_RESULTS).mkdir(exist_ok=True)
    for name, text in hub_results(found).items():
        write_text(text, args.model / HUB_RESULTS / name)
    write_text(page((args.model / CARD).read_text(encoding="utf-8"), args.model), args.page)
    manifest.write(args.model)


def write_text(text: str, path: Path) -> None:
    """Write a text file, whole or not at all."""
    with atomic_write(path) as beside:
        beside.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
