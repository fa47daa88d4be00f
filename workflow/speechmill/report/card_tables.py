"""The Markdown tables of a model card."""

import math
from typing import Any, get_args

import pandas as pd

from speechmill.config.evaluation import Protocol
from speechmill.report.card_settings import CardSettings
from speechmill.report.evidence import Evidence
from speechmill.report.markdown import Markdown, code_span, escape, join, table
from speechmill.scoring.error_rates import CONFIDENCE

NOT_KEPT = "†"
"""The mark of a WER that was measured during training, for a checkpoint that was not kept."""

INTERVAL = f"{CONFIDENCE}% CI"
"""The name of a confidence interval in headings and sentences."""


def fixed(value: float | None, decimals: int) -> str:
    """Return a number with a fixed number of decimals, or a dash for None and NaN."""
    return "–" if value is None or math.isnan(value) else f"{value:.{decimals}f}"


def percentage(fraction: float | None) -> str:
    """Return a fraction as a percentage with two decimals, without the sign %, or a dash for None and NaN."""
    return "–" if fraction is None else fixed(100 * fraction, 2)


def points(fraction: float) -> str:
    """Return a signed difference of two error rates in percentage points."""
    return f"{100 * fraction:+.2f}".replace("-", "−")


def training_results(plan: dict[str, Any], log: list[dict[str, Any]], scores: pd.DataFrame) -> list[list[str]]:
    """Return the rows of the training table in the format of the Trainer's cards, one row for each planned checkpoint.

    A checkpoint that was not kept has only the WER on dev that was measured during training, marked with `NOT_KEPT`.

    Args:
        plan: The plan of the run.
        log: The lines of the training log.
        scores: The rows of the summary for the set and the decoder that select the checkpoint.
    """
    rows = [["Training Loss", "Epoch", "Step", "Validation Loss", "Wer", "Cer"]]
    scored = scores.set_index("step")[["loss", "wer", "cer"]]
    during_training = dev_wers(log)
    for step in plan["checkpoints"]:
        losses = [line["loss"] for line in log if "loss" in line and line["step"] <= step]
        if step in scored.index:
            cells = [fixed(value, 4) for value in scored.loc[step]]
        else:
            cells = ["–", f"{fixed(during_training.get(step), 4)} {NOT_KEPT}", "–"]
        loss = f"{losses[-1]:.4f}" if losses else "No log"
        rows.append([loss, f"{step / plan['total_steps'] * plan['epochs']:.2f}", str(step), *cells])
    return rows


def dev_wers(log: list[dict[str, Any]]) -> dict[int, float]:
    """Return the greedy WER on dev that was measured at each save during training, by step."""
    return {line["step"]: line["dev_wer"] for line in log if line.get("dev_wer") is not None}


def results_table(settings: CardSettings, scores: pd.DataFrame) -> Markdown:
    """Return the table of the selected checkpoint's scores on every set by every decoder."""
    rows = [["Set", "Decoder", "WER %", INTERVAL, "CER %", "Loss", "Clips scored / listed", "Words"]]
    for row in scores[scores["unavailable"].isna()].to_dict("records"):
        rows.append(
            [
                settings.set_title(str(row["set"])),
                str(row["decoder"]),
                percentage(row["wer"]),
                f"{100 * row['wer_low']:.2f} – {100 * row['wer_high']:.2f}",
                percentage(row["cer"]),
                fixed(row["loss"], 4),
                f"{row['clips_scored']} / {row['clips_expected']}",
                str(row["reference_words"]),
            ]
        )
    return table(rows)


def protocols_table(settings: CardSettings, scores: pd.DataFrame) -> Markdown:
    """Return the table of scores by the further protocols of each set, or "" if every set has a single protocol."""
    rows: list[list[str]] = [["Set", "Decoder", "Protocol", "WER %", "CER %"]]
    for row in scores.to_dict("records"):
        for protocol in get_args(Protocol):
            if protocol != row["protocol"] and not pd.isna(row[f"wer_{protocol}"]):
                rates = [percentage(row[f"{metric}_{protocol}"]) for metric in ("wer", "cer")]
                rows.append([settings.set_title(str(row["set"])), str(row["decoder"]), code_span(protocol), *rates])
    return table(rows) if len(rows) > 1 else Markdown()


def robustness_table(settings: CardSettings, breakdown: dict[str, Any]) -> Markdown:
    """Return the table that compares each perturbed copy of a set with the set, or "" if there are no copies."""
    heading = ["Set", "Perturbation", "Decoder", "WER % original", "WER % perturbed", "Difference", INTERVAL]
    rows = [
        [
            settings.set_title(row["first"]["set"]),
            row["second"]["set"].split("-")[2],
            row["second"]["decoder"],
            *map(percentage, row["wer"]),
            "–" if row["difference"] is None else points(row["difference"]),
            "–" if row["interval"] is None else " to ".join(map(points, row["interval"])),
        ]
        for row in breakdown["comparisons"]
        if row["kind"] == "effect"
    ]
    return table([heading, *rows]) if rows else Markdown()


def corpus_table(settings: CardSettings, status: list[dict[str, Any]]) -> Markdown:
    """Return the table of the clips that each split of each corpus lists, and of those kept and rejected."""
    rows = [["Corpus", "Licence", "Split", "Listed", "Kept", "Rejected"]]
    for each in status:
        dataset = settings.datasets[each["dataset"]]
        for split in each["listed"]:
            counts = [f"{each[kind][split]:,}" for kind in ("listed", "kept", "rejected")]
            rows.append([dataset.title, dataset.licence, split, *counts])
    return table(rows)


def data_table(settings: CardSettings, counts: dict[str, dict[str, Any]]) -> Markdown:
    """Return the table of the clips that the run used in each role, and of those excluded from training."""
    rows = [["Role", "Sets", "Clips", "Hours", "Speakers", "Excluded"]]
    for role, count in counts.items():
        rows.append(
            [
                role if role in ("train", "dev") else "evaluation",
                join(" + ", map(settings.set_title, count["sets"])),
                f"{count['clips']:,}",
                f"{count['seconds'] / 3600:.2f}",
                str(count["speakers"] or "unknown"),
                ", ".join(f"{number} {reason}" for reason, number in count["excluded"].items()) or "none",
            ]
        )
    return table(rows)


def leakage_table(settings: CardSettings, leakage: dict[str, Any]) -> Markdown:
    """Return the table of training clips that share a speaker, a sentence or audio with each scored set."""
    rows = [["Set", "Same speaker", "Same sentence", "Same audio", "Removed from training"]]
    for name, counts in leakage.items():
        cells = [f"{counts[kind]['clips']:,} ({counts[kind]['action']})" for kind in ("speaker", "sentence", "audio")]
        rows.append([settings.set_title(name), *cells, f"{counts['removed']:,}"])
    return table(rows)


def digests_table(evidence: Evidence, scores: pd.DataFrame) -> Markdown:
    """Return the table that identifies the inputs of the run, its model files and the versions of its stages."""
    settings = evidence.settings
    rows = [["Item", "Identified by", "Value"]]
    for each in evidence.status:
        known = {key: each["about"][key] for key in ("commit", "sha256") if each["about"].get(key)}
        rows += [[settings.datasets[each["dataset"]].title, key, code_span(value)] for key, value in known.items()]
    if evidence.base is not None and evidence.base.get("commit"):
        rows.append([str(settings.base), "commit", code_span(evidence.base["commit"])])
    rows.append(["training clips with their texts", "sha256", code_span(evidence.training_clips_digest)])
    for row in scores[scores["unavailable"].isna()].drop_duplicates("set").to_dict("records"):
        item = Markdown(f"clips of {escape(settings.set_title(row['set']))} with their texts")
        rows.append([item, "sha256", code_span(row["eval_set_sha256"])])
    rows += [[code_span(name), "sha256", code_span(digest)] for name, digest in evidence.selection["sha256"].items()]
    rows += [
        [Markdown(f"stage {code_span(stage)}"), "version", code_span(str(version))]
        for stage, version in settings.versions.items()
    ]
    return table(rows)
