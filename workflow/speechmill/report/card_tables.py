"""The Markdown tables of a model card."""

import math
from collections.abc import Hashable
from typing import Any, get_args

import pandas as pd

from speechmill.config.evaluation import ErrorRate, Protocol
from speechmill.corpus.ingest_pieces import part_name
from speechmill.report.card_settings import CardSettings
from speechmill.report.contamination import statements
from speechmill.report.evidence import Evidence
from speechmill.report.markdown import Markdown, code_span, escape, join, table
from speechmill.scoring.error_rates import both_rates
from speechmill.scoring.intervals import CONFIDENCE
from speechmill.scoring.reliability import Calibration
from speechmill.scoring.spread import Spread, spread
from speechmill.scoring.systems import system_row

NOT_KEPT = "†"
"""The mark of values that were measured during training, for a checkpoint that was not kept."""

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


def lm_text_table(settings: CardSettings, text: dict[str, Any]) -> str:
    """Return the table of the texts of the language model, given the counts of the stage `lm_text`.

    `not_spelled` are sentences with characters that the model lacks.
    """
    rows = [["Text", "Licence", "Sentences", "In a scored set", "Not spelled", "Repeated"]]
    for name, counts in zip(text["source"], text["by_source"], strict=True):
        about = settings.texts.get(name)
        title = {"training": "training texts"}.get(name, name) if about is None else f"{about.name} {about.date or ''}"
        numbers = [f"{counts[key]:,}" for key in ("sentences", "removed", "not_spelled", "repeated")]
        rows.append([escape(title.strip()), escape(about.licence) if about else "–", *numbers])
    return table(rows)


def contamination_table(settings: CardSettings, base_card: dict[str, Any] | None) -> str | None:
    """Return the table of what is known about each scored set and the training data of the base; None without a base.

    Args:
        settings: The settings of the card.
        base_card: What the card of the base says, if there is one.
    """
    if settings.base_training is None:
        return None
    rows = [["Set", "Training data of the base", "Named"]]
    for name, finding, sources in statements(settings.base_training, base_card):
        named = join(", ", [Markdown(f"{code_span(corpus)} ({escape(where)})") for corpus, where in sources])
        rows.append([settings.set_title(name), finding, named or "–"])
    return table(rows)


def seeds_table(settings: CardSettings, scores: pd.DataFrame, seeds: dict[str, pd.DataFrame]) -> str | None:
    """Return the table of mean and spread over seeds, or None if there are no other seeds.

    Runs that were scored on other clips or texts are not counted.

    Args:
        settings: The settings of the card.
        scores: The rows of the summary at the selected step, without perturbed copies.
        seeds: These rows of each run that differs only in its seed.
    """
    if not seeds:
        return None
    names = both_rates(settings.metric)
    rows = [
        ["Set", "Decoder", *(f"{name.upper()} {what}" for name in names for what in ("mean ± SD", "range")), "Runs"]
    ]
    for row in scores[scores["unavailable"].isna()].to_dict("records"):
        same = ["set", "decoder", "protocol", "eval_set_sha256"]
        matching = [each[(each[same] == [row[key] for key in same]).all(axis=1)] for each in seeds.values()]
        cells = [escape(settings.set_title(str(row["set"]))), str(row["decoder"])]
        found = None
        for name in names:
            values = [row[name], *(float(each.iloc[0][name]) for each in matching if len(each))]
            found = spread([value for value in values if not math.isnan(value)])
            cells += (
                ["–", "–"] if found is None else [_mean(found), f"{percentage(found.low)} – {percentage(found.high)}"]
            )
        rows.append([*cells, str(1 + sum(len(each) > 0 for each in matching))])
    return table(rows)


def compared_table(
    settings: CardSettings, scores: pd.DataFrame, breakdown: dict[str, Any], others: dict[str, pd.DataFrame]
) -> Markdown:
    """Return the table of this model's scores and those of other runs on the same clips, or "" if there are none.

    Args:
        settings: The settings of the card.
        scores: The rows of the summary at the selected step, without perturbed copies.
        breakdown: The breakdown; its comparisons of kind `runs` have the differences.
        others: The rows of the summary of each run at its selected step.
    """
    first, second = both_rates(settings.metric)
    heading = ["Set", "Model", "Decoder", f"{first.upper()} %", INTERVAL, f"{second.upper()} %"]
    rows = [[*heading, "Difference", INTERVAL, "p"]]

    def cells(model: str, row: dict[Hashable, Any]) -> list[str]:
        rates = [percentage(row[first]), _interval(row, first), percentage(row[second])]
        return [settings.set_title(str(row["set"])), model, str(row["decoder"]), *rates]

    for row in scores.to_dict("records"):
        found = [
            each
            for each in breakdown["comparisons"]
            if each["kind"] == "runs" and all(each["second"][key] == row[key] for key in ("set", "decoder"))
        ]
        if found:
            rows.append([*cells("this model", row), "", "", ""])
        for each in found:
            other = each["first"]
            score = system_row(others[other["run"]], other["set"], other["decoder"])
            rows.append([*cells(code_span(other["run"]), score), *_test(each)])
    return table(rows) if len(rows) > 1 else Markdown()


def _test(comparison: dict[str, Any]) -> list[str]:
    """Return the difference of two error rates, its interval and its p-value, or a dash with the reason."""
    difference = "–" if comparison["difference"] is None else points(comparison["difference"])
    if comparison["interval"] is None:
        return [difference, f"– ({comparison['why']})", "–"]
    p_value = comparison["p_value"]
    interval = " to ".join(map(points, comparison["interval"]))
    return [difference, interval, "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"]


def _mean(found: Spread) -> str:
    return percentage(found.mean) + ("" if found.deviation is None else f" ± {percentage(found.deviation)}")


def training_results(
    plan: dict[str, Any], log: list[dict[str, Any]], scores: pd.DataFrame, metric: ErrorRate = "wer"
) -> list[list[str]]:
    """Return the rows of the training table in the format of the Trainer's cards, one row for each planned checkpoint.

    A checkpoint that was not kept has the values on dev that were measured during training, marked with `NOT_KEPT`.

    Args:
        plan: The plan of the run.
        log: The lines of the training log.
        scores: The rows of the summary for the set and the decoder that select the checkpoint.
        metric: The error rate in the first of the two columns.
    """
    names = both_rates(metric)
    rows = [["Training Loss", "Epoch", "Step", "Validation Loss", *(name.capitalize() for name in names)]]
    scored = scores.set_index("step")[["loss", *names]]
    during_training = [dev_rates(log, name) for name in names]
    for step in plan["checkpoints"]:
        losses = [line["loss"] for line in log if "loss" in line and line["step"] <= step]
        if step in scored.index:
            cells = [fixed(value, 4) for value in scored.loc[step]]
        else:
            rates = [by_step.get(step) for by_step in during_training]
            cells = ["–", *(f"{fixed(rate, 4)} {NOT_KEPT}" for rate in rates)]
        loss = f"{losses[-1]:.4f}" if losses else "No log"
        rows.append([loss, f"{step / plan['total_steps'] * plan['epochs']:.2f}", str(step), *cells])
    return rows


def dev_rates(log: list[dict[str, Any]], metric: ErrorRate) -> dict[int, float]:
    """Return the greedy error rate on dev that was measured at each save during training, by step."""
    # Trainings of release 0.1.0 logged the WER as `probe_wer`.
    rates = [(line["step"], line.get(f"dev_{metric}", line.get(f"probe_{metric}"))) for line in log]
    return {step: rate for step, rate in rates if rate is not None}


def results_table(settings: CardSettings, scores: pd.DataFrame) -> Markdown:
    """Return the table of the selected checkpoint's scores on every set by every decoder."""
    first, second = both_rates(settings.metric)
    heading = ["Set", "Decoder", f"{first.upper()} %", INTERVAL, f"{second.upper()} %", "Loss"]
    rows = [[*heading, "Clips scored / listed", "Words"]]
    for row in scores[scores["unavailable"].isna()].to_dict("records"):
        rows.append(
            [
                settings.set_title(str(row["set"])),
                str(row["decoder"]),
                percentage(row[first]),
                _interval(row, first),
                percentage(row[second]),
                fixed(row["loss"], 4),
                f"{row['clips_scored']} / {row['clips_expected']}",
                str(row["reference_words"]),
            ]
        )
    return table(rows)


def _interval(row: dict[Hashable, Any], metric: ErrorRate) -> str:
    """Return the confidence interval of an error rate, or a dash with the reason if there is none."""
    if not pd.isna(row["no_interval"]):
        return f"– ({row['no_interval']})"
    return f"{percentage(row[f'{metric}_low'])} – {percentage(row[f'{metric}_high'])}"


def protocols_table(settings: CardSettings, scores: pd.DataFrame) -> Markdown:
    """Return the table of scores by the further protocols of each set, or "" if every set has a single protocol."""
    names = both_rates(settings.metric)
    rows: list[list[str]] = [["Set", "Decoder", "Protocol", *(f"{name.upper()} %" for name in names)]]
    for row in scores.to_dict("records"):
        for protocol in get_args(Protocol):
            if protocol != row["protocol"] and not pd.isna(row[f"wer_{protocol}"]):
                rates = [percentage(row[f"{name}_{protocol}"]) for name in names]
                rows.append([settings.set_title(str(row["set"])), str(row["decoder"]), code_span(protocol), *rates])
    return table(rows) if len(rows) > 1 else Markdown()


def calibration_table(settings: CardSettings, calibration: Calibration | None) -> Markdown:
    """Return the table of the calibration errors of the confidence of words, or "" without calibration."""
    rows = [["Set", "Decoder", "Words", "Wrong", "Hypotheses left out", "ECE % before", "ECE % after"]]
    for each in calibration.sets if calibration else []:
        counts = [f"{number:,}" for number in (each.words, each.wrong, each.clips_left_out)]
        errors = [percentage(each.ece_before), percentage(each.ece_after)]
        rows.append([settings.set_title(each.set), each.decoder, *counts, *errors])
    return table(rows) if len(rows) > 1 else Markdown()


def robustness_table(settings: CardSettings, breakdown: dict[str, Any]) -> Markdown:
    """Return the table that compares each perturbed copy of a set with the set, or "" if there are no copies."""
    rate = f"{settings.metric.upper()} %"
    heading = ["Set", "Perturbation", "Decoder", f"{rate} original", f"{rate} perturbed", "Difference", INTERVAL]
    rows = [
        [
            settings.set_title(row["first"]["set"]),
            row["second"]["set"].split("-")[2],
            row["second"]["decoder"],
            *map(percentage, row["rates"]),
            *_test(row)[:2],
        ]
        for row in breakdown["comparisons"]
        if row["kind"] == "effect"
    ]
    return table([heading, *rows]) if rows else Markdown()


def exports_table(settings: CardSettings, scores: pd.DataFrame, exports: dict[str, dict[str, Any]]) -> Markdown:
    """Return the table that compares exported models with the checkpoint, or "" if there are none.

    Args:
        settings: The settings of the card.
        scores: The rows of the summary at the selected step, without perturbed copies.
        exports: The metrics of the stage `score_export` by set.
    """
    first, second = both_rates(settings.metric)
    rows = []
    for name, metrics in exports.items():
        if metrics["unavailable"] is not None:
            continue
        checkpoint = system_row(scores, name, "greedy")
        seconds = metrics["timed_audio_seconds"]
        for model, values, timed in (
            ("PyTorch", checkpoint, metrics["pytorch"]),
            *((f"ONNX {precision}", each, each) for precision, each in metrics["exports"].items()),
        ):
            rows.append(
                [
                    settings.set_title(name),
                    model,
                    f"{timed['bytes'] / 1e6:,.1f}",
                    percentage(values[first]),
                    percentage(values[second]),
                    *_export_differences(values, checkpoint["clips_scored"]),
                    fixed(timed["timed_seconds"] / seconds if seconds else None, 3),
                ]
            )
    heading = ["Set", "Model", "MB", f"{first.upper()} %", f"{second.upper()} %", "Difference", INTERVAL, "p"]
    return table([[*heading, "Other hypotheses", "Real-time factor"], *rows]) if rows else Markdown()


def _export_differences(values: dict[Hashable, Any], clips: int) -> list[str]:
    """Return the cells that compare an exported model with the checkpoint, which has none."""
    comparison = values.get("comparison")
    if comparison is None:
        return ["–"] * 4
    return [*_test(comparison), f"{values['different_clips']} / {clips}"]


def corpus_table(settings: CardSettings, status: list[dict[str, Any]]) -> Markdown:
    """Return the table of the clips that each split of each corpus lists, and of those kept, rejected and shortened."""
    rows = [["Corpus", "Licence", "Split", "Listed", "Kept", "Rejected", "Shortened"]]
    for each in status:
        dataset = settings.datasets[each["dataset"]]
        for split in each["listed"]:
            counts = [f"{each[kind][split]:,}" for kind in ("listed", "kept", "rejected")]
            shortened = each["shortened"][split]
            total = f" (by {shortened['missing_seconds']:.2f} s in total)" if shortened["clips"] else ""
            rows.append([dataset.title, dataset.licence, split, *counts, f"{shortened['clips']:,}{total}"])
    return table(rows)


def pieces_table(settings: CardSettings, status: list[dict[str, Any]]) -> Markdown:
    """Return the table of what recordings consist of that were cut into clips by a model, or "" if there are none."""
    rows = [["Corpus", "Part of the recordings and transcripts", "Parts", "Hours", "% of the time", "Words"]]
    for each in status:
        parts = each["about"].get("parts", {})
        total = sum(part["seconds"] for part in parts.values())
        rows += [
            [
                settings.datasets[each["dataset"]].title,
                part_name(name, each["about"]),
                f"{part['parts']:,}",
                f"{part['seconds'] / 3600:.2f}",
                f"{100 * part['seconds'] / total:.1f}" if total else "–",
                f"{part['words']:,}",
            ]
            for name, part in parts.items()
        ]
    return table(rows) if len(rows) > 1 else Markdown()


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


def mixing_table(settings: CardSettings, mixing: dict[str, Any] | None) -> Markdown:
    """Return the table of what each group of training clips contributes to an epoch, or "" without `mixing`."""
    if mixing is None:
        return Markdown()
    titles = {name: each.title for name, each in settings.datasets.items()} if mixing["by"] == "dataset" else {}
    rows = [[mixing["by"].capitalize(), "Clips", "Hours", "Times an epoch", "Share of an epoch %"]]
    for each in mixing["groups"]:
        figures = [f"{each['clips']:,}", fixed(each["hours"], 2), fixed(each["times"], 2), percentage(each["share"])]
        rows.append([titles.get(each["title"], each["title"]), *figures])
    return table(rows)


def leakage_table(settings: CardSettings, leakage: dict[str, Any]) -> Markdown:
    """Return the table of training clips that share a speaker, sentence, audio or recording with each scored set."""
    kinds = ("speaker", "sentence", "audio", "recording")
    rows = [["Set", *(f"Same {kind}" for kind in kinds), "Removed from training"]]
    for name, counts in leakage.items():
        cells = [f"{counts[kind]['clips']:,} ({counts[kind]['action']})" for kind in kinds]
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
