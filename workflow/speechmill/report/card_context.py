"""The contents of a model card: everything that its template and the Hub's result files show, from the evidence."""

from typing import Any, Literal, NamedTuple

import jinja2
import pandas as pd
from huggingface_hub import EvalResult

from speechmill.core.files import TEMPLATES
from speechmill.core.page import is_drawable
from speechmill.core.selection import selected_mean
from speechmill.corpus.machine_transcripts import format_machine_transcripts, machine_transcripts
from speechmill.report import card_lists, card_tables
from speechmill.report.card_settings import CardSettings
from speechmill.report.evidence import Evidence
from speechmill.report.markdown import Markdown, code_block, code_span, escape, join, table
from speechmill.report.model_index import front_matter, result_files
from speechmill.report.published_comparison import comparison_table
from speechmill.scoring.error_rates import both_rates, percent
from speechmill.scoring.intervals import CONFIDENCE
from speechmill.scoring.reliability import BINS
from speechmill.scoring.systems import base_set, saved_checkpoints, selected_rows
from speechmill.text.tokens import PAD, SPACE, UNKNOWN

TEMPLATE = TEMPLATES / "card.md.j2"
"""The template of the card."""


class Provenance(NamedTuple):
    """How the figures of a section of the card can be checked."""

    kind: Literal["recomputed", "derived", "recorded"]
    """From the model and the recordings; from the evidence; or not at all, only compared with the record."""
    source: str
    """The source of the figures in Markdown, such as files of the evidence."""


INTRODUCTION = "Front matter and introduction"
"""The name of the part of the card before the first section."""

PROVENANCE = {
    INTRODUCTION: Provenance("recomputed", "the model and the recordings"),
    "Model description": Provenance("derived", "`plan.json`, `vocab.json`, `training.json`"),
    "Usage": Provenance("recomputed", "the model and a recording"),
    "Results": Provenance("recomputed", "the model and the recordings"),
    "Comparison with other runs": Provenance(
        "derived",
        "`breakdown.json`, `compared/*/summary.parquet`, the error counts in `compared/*/*/*.parquet`; the figures of"
        " this model as in Results",
    ),
    "Runs of the sweep": Provenance(
        "derived", "`seeds/*/summary.parquet` of the other runs; the figures of this model as in Results"
    ),
    "Other checkpoints and decoders": Provenance("derived", "`breakdown.json`"),
    "Language model": Provenance("derived", "`lm/*.json`"),
    "Word confidence": Provenance("derived", "`confidence/*.parquet` and the file `confidence.json` of the folder"),
    "Exports": Provenance("derived", "`export/*.json`; scores are recomputed, real-time factors are recorded"),
    "Comparison with published results": Provenance(
        "recorded", "the published figures, in `settings.json`; the figures of this model as in Results"
    ),
    "Intended uses & limitations": Provenance("derived", "`settings.json`, `summary.parquet`"),
    "Error analysis": Provenance("derived", "`breakdown.json`"),
    "Robustness": Provenance("derived", "`breakdown.json`; each error rate is recomputed"),
    "Training and evaluation data": Provenance(
        "derived", "`status/*.json`, `counts/*.json`, `leakage.json`, `label_errors.json`"
    ),
    "Training data of the base": Provenance("derived", "`settings.json`, `base_card.json`"),
    "Training hyperparameters": Provenance("derived", "`training.json`, from the settings in `config.yaml`"),
    "Training results": Provenance("derived", "`training.jsonl`, `summary.parquet`"),
    "Time and hardware": Provenance("recorded", "`training.json`, `summary.parquet`"),
    "Framework versions": Provenance("recorded", "`training.json`"),
    "Reproduction": Provenance("derived", "`manifest.json`, `summary.parquet`, `status/*.json`"),
}
"""The provenance of the figures of each section of the card, by its heading."""


def render(context: dict[str, Any]) -> str:
    """Return the card, Markdown with front matter, for the variables of the template."""
    return template_environment().from_string(TEMPLATE.read_text(encoding="utf-8")).render(context)


def template_environment() -> jinja2.Environment:
    """Return the environment of the template, which escapes strings that are not `Markdown`.

    The filters `code` and `code_block` show a string as code.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: escape(value) if isinstance(value, str) else value,
    )
    environment.filters.update(
        code=code_span, code_block=code_block, join=lambda parts, separator: join(separator, parts)
    )
    return environment


def card_context(evidence: Evidence) -> dict[str, Any]:
    """Return the variables of the card's template."""
    settings, breakdown, lm = evidence.settings, evidence.breakdown, evidence.lm
    select_set, decoder = str(settings.select.set), settings.select.decoder
    scores = unperturbed_scores(evidence.summary)
    by_step = scores[(scores["set"] == select_set) & (scores["decoder"] == decoder)]
    selected = _selected_scores(evidence)
    deciding = selected_rows(by_step, evidence.selection)
    return {
        "run": settings.run,
        "front_matter": Markdown(
            front_matter(
                language=settings.language,
                licence=settings.card.licence,
                base=settings.base_model,
                tags=["automatic-speech-recognition", "generated_from_trainer", "speechmill", *settings.card.tags],
                datasets=[dataset.hub_id for dataset in settings.datasets.values() if dataset.hub_id],
                metrics=["wer", "cer"],
                title=settings.card.title,
                results=eval_results(settings, selected, evidence.status),
            )
        ),
        "title": settings.card.title,
        # The author of the configuration writes these two in Markdown.
        "description": Markdown(settings.card.description),
        "uses": Markdown(settings.card.uses),
        "base": settings.base,
        "base_run": settings.base_run,
        "base_source": evidence.base,
        "base_cards": evidence.base_card["cards"] if evidence.base_card else [],
        "contamination": card_tables.contamination_table(settings, evidence.base_card),
        "train": [settings.set_title(name) for name in settings.train],
        "selection": settings.select,
        "selection_title": settings.set_title(select_set),
        "step": evidence.selection["step"],
        "averaged": list(selected_mean(evidence.selection)),
        "average": evidence.selection.get("average"),
        "averaging_effects": card_lists.averaging_effects(breakdown, settings.set_title),
        "metric": settings.metric,
        "rates": list(both_rates(settings.metric)),
        "score": deciding.astype(object).where(deciding.notna(), None).iloc[0].to_dict(),
        "confidence": CONFIDENCE,
        "results": card_tables.results_table(settings, selected),
        "sweep": settings.sweep,
        "seeds": card_tables.seeds_table(settings, selected, evidence.seeds),
        "other_checkpoints": card_lists.other_checkpoints(breakdown, select_set, decoder),
        "usage": evidence.usage,
        "usage_titles": {each["set"]: settings.set_title(each["set"]) for each in evidence.usage},
        "calibration_dev": evidence.calibration and settings.set_title(evidence.calibration.dev),
        "calibration_table": card_tables.calibration_table(settings, evidence.calibration),
        "uncalibrated": card_lists.uncalibrated(evidence.calibration),
        "bins": BINS,
        "lm": lm,
        "lm_text_table": card_tables.lm_text_table(settings, lm["text"]) if lm else None,
        "lm_title": settings.set_title(lm["weights"]["set"]) if lm else None,
        "language_model_effects": card_lists.language_model_effects(breakdown, settings.set_title),
        "published": card_lists.published_sources(settings),
        "published_table": table(comparison_table(settings.published, selected, settings.set_title)),
        "exports": card_tables.exports_table(settings, selected, evidence.exports),
        "export_metrics": next((each for each in evidence.exports.values() if each["unavailable"] is None), None),
        "robustness": card_tables.robustness_table(settings, breakdown),
        "error_analysis": card_lists.error_analysis(breakdown, decoder, settings.set_title),
        "robust_speech_event_sets": card_lists.robust_speech_event_sets(settings, selected),
        "protocols": card_tables.protocols_table(settings, selected),
        "plot_names": {
            name: title
            for name, title in ((each, settings.set_title(each)) for each in sorted(scores["set"].unique()))
            if not is_drawable(title)
        },
        "unavailable": card_lists.unavailable_sets(settings, selected),
        "machine_transcripts": list(
            map(format_machine_transcripts, machine_transcripts(evidence.counts["train"], evidence.status))
        ),
        "compared": settings.compared,
        "compared_table": card_tables.compared_table(settings, selected, breakdown, evidence.compared),
        "not_compared": card_lists.not_compared(breakdown, settings.set_title),
        "drawn": card_lists.drawn_splits(settings),
        "leakage": card_tables.leakage_table(settings, evidence.leakage),
        "differences": card_lists.corpus_differences(settings, evidence.status),
        "outside_vocabulary": card_lists.outside_vocabulary(settings, selected),
        "data": card_tables.data_table(settings, evidence.counts),
        "corrected": evidence.counts["train"]["corrected"],
        "label_errors": evidence.label_errors,
        "mixing": card_tables.mixing_table(settings, evidence.plan["mixing"]),
        "corpora": card_tables.corpus_table(settings, evidence.status),
        "aligned": card_lists.aligned_datasets(settings, evidence.status),
        "pieces": card_tables.pieces_table(settings, evidence.status),
        "shortened": any(split["clips"] for each in evidence.status for split in each["shortened"].values()),
        "units": settings.text.units + (" and sequences of them" if settings.text.clusters else ""),
        "text_rules": card_lists.text_rules(evidence.counts["train"]),
        "vocab": settings.vocab if isinstance(settings.vocab, str) else "subwords",
        "characters": [token for token in evidence.vocabulary if token not in (PAD, UNKNOWN, SPACE)],
        "training": evidence.training,
        "training_results": table(
            card_tables.training_results(evidence.plan, evidence.log, saved_checkpoints(by_step), settings.metric)
        ),
        "plan": evidence.plan,
        "kept": scores["step"].nunique(),
        "not_kept": card_tables.NOT_KEPT,
        "devices": sorted(map(str, evidence.summary["device"].dropna().unique())),
        "scoring_seconds": scoring_seconds(evidence.summary),
        "digests": card_tables.digests_table(evidence, selected),
        "provenance": table(
            [
                ["Section", "Provenance", "Source"],
                *([name, each.kind, Markdown(each.source)] for name, each in PROVENANCE.items()),
            ]
        ),
    }


def unperturbed_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the scores on the original sets, without those on perturbed copies."""
    return scores[scores["set"] == scores["set"].map(base_set)]


def scoring_seconds(scores: pd.DataFrame) -> float:
    """Return the sum of the forward passes, each of which decoders may share, and of the decoding of each decoder."""
    passes = scores.drop_duplicates([*scores.columns.intersection(["averaged"]), "step", "set", "forward_seconds"])
    return float(passes["forward_seconds"].sum() + scores["decoding_seconds"].sum())


def eval_results(settings: CardSettings, scores: pd.DataFrame, status: list[dict[str, Any]]) -> list[EvalResult]:
    """Return WER and CER of the selected checkpoint on every set by every decoder, in percent, for the Hub."""
    commits = {each["dataset"]: each["about"].get("commit") for each in status}
    results = []
    for row in scores.to_dict("records"):
        name, split = str(row["set"]).split("-")
        dataset = settings.datasets[name]
        results += [
            EvalResult(
                task_type="automatic-speech-recognition",
                task_name="Automatic Speech Recognition",
                dataset_type=dataset.hub_id or name,
                dataset_name=dataset.title,
                dataset_config=dataset.hub_config or (None if dataset.hub_id else dataset.language),
                dataset_split=split,
                dataset_revision=commits.get(name),
                metric_type=metric,
                metric_name=f"{split.capitalize()} {metric.upper()}, {row['decoder']}",
                metric_value=percent(float(row[metric])),
            )
            for metric in ("wer", "cer")
            if not pd.isna(row[metric])
        ]
    return results


def hub_result_files(evidence: Evidence) -> dict[str, str]:
    """Return the texts of the Hub's result files by name: the scores on sets that are on the Hub."""
    settings, scores = evidence.settings, _selected_scores(evidence)
    on_hub = [
        settings.datasets[dataset].hub_id is not None and split not in settings.datasets[dataset].drawn
        for dataset, split in (str(name).split("-") for name in scores["set"])
    ]
    return result_files(eval_results(settings, scores[on_hub], evidence.status))


def _selected_scores(evidence: Evidence) -> pd.DataFrame:
    return selected_rows(unperturbed_scores(evidence.summary), evidence.selection)
