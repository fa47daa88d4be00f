import hashlib
import html
import itertools
import json
import re
import shutil
import sys
import unicodedata
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from material import as_json
from speechmill.config.published import Published
from speechmill.core.command import SpeechmillError
from speechmill.core.direction import isolate
from speechmill.core.files import read_json, write_json
from speechmill.core.schemas import CLIPS, CONFIDENCE, HYPOTHESES
from speechmill.core.tables import write_table
from speechmill.core.versions import stage_version
from speechmill.report import card, evidence, manifest, plots, robustness
from speechmill.report.calibration import calibrate
from speechmill.report.card_context import (
    PROVENANCE,
    TEMPLATE,
    card_context,
    eval_results,
    render,
    scoring_seconds,
)
from speechmill.report.card_lists import (
    aligned_datasets,
    drawn_splits,
    error_analysis,
    language_model_effects,
    not_compared,
    published_sources,
    robust_speech_event_sets,
    text_rules,
    unavailable_sets,
)
from speechmill.report.card_settings import CardSettings
from speechmill.report.card_tables import (
    compared_table,
    corpus_table,
    data_table,
    exports_table,
    pieces_table,
    protocols_table,
    results_table,
    seeds_table,
    training_results,
)
from speechmill.report.markdown import table
from speechmill.report.plots import plot_breakdown, plot_error_rates, plot_loss, plot_reliability, plot_robustness
from speechmill.report.verify_folder import check_folder, count_figures
from speechmill.scoring.error_rates import percent
from speechmill.scoring.summary import COLUMNS

SETTINGS = CardSettings.model_validate(
    {
        "run": "demo",
        "language": "ru",
        "card": {"title": "A demo", "description": "It is small.", "uses": "None.", "tags": ["demo"]},
        "base": "somebody/wav2vec2-tiny",
        "base_run": None,
        "base_model": "somebody/wav2vec2-tiny",
        "base_training": {
            "base": "somebody/wav2vec2-tiny",
            "trained_on": [{"name": "Common Voice", "version": "7.0", "labels": False}],
            "sets": {
                "cv-dev": {"dataset": "cv", "split": "dev", "names": ["Common Voice"], "version": "8.0"},
                "own-test": {"dataset": "own", "split": "test", "names": ["Our own"], "version": ""},
            },
        },
        "train": ["cv-train", "cv-other"],
        "text": {},
        "select": {"set": "cv-dev", "decoder": "greedy", "metric": "wer"},
        "metric": "wer",
        "datasets": {
            "cv": {"name": "Common Voice", "version": "8.0", "licence": "CC0-1.0", "language": "ru",
                   "hub_id": "mozilla-foundation/common_voice_8_0", "hub_config": "ru",
                   "audio_redistributable": False, "text_redistributable": True,
                   "drawn": {"held": {"of": "dev", "share": 0.1}}},
            "own": {"name": "Our own", "version": "", "licence": "CC-BY-4.0", "language": "ru", "hub_id": None,
                    "hub_config": None, "audio_redistributable": True, "text_redistributable": True, "drawn": {}},
        },
        "roles": ["train"],
        "versions": {"finetune": 3, "card": 1},
    }
)  # fmt: skip


def scores(*rows: tuple[int, str, float]) -> pd.DataFrame:
    """A summary of (step, set, WER)."""
    return pd.DataFrame(
        {
            **dict.fromkeys(COLUMNS, 0),
            "run": "demo", "step": step, "set": name, "decoder": "greedy", "protocol": "plain",
            "outside_vocabulary": "q ё", "characters_outside": 1200, "unavailable": None,
            "no_interval": None, "wer": wer, "wer_low": wer - 0.01, "wer_high": wer + 0.01, "loss": wer * 2,
            "cer": wer / 4, "cer_low": wer / 5, "cer_high": wer / 3,
            "clips_scored": 9, "clips_expected": 10, "reference_words": 1234,
            "wer_plain": wer, "cer_plain": wer / 4, "wer_robust_speech_event": None, "cer_robust_speech_event": None,
        }
        for step, name, wer in rows
    )  # fmt: skip


BEST = scores((200, "cv-dev", 0.123456), (200, "own-test", 0.5))


BASE_CARD: dict[str, Any] = {
    "cards": [
        {"model": "somebody/wav2vec2-tiny", "commit": "c0ffee", "sha256": "ca4d", "datasets": ["our_own"],
         "problem": None},
    ],
    "weights_changed": "2021-11-18",
}  # fmt: skip


STATUS = {
    "dataset": "cv",
    "listed": {"train": 6},
    "kept": {"train": 5},
    "rejected": {"train": 1},
    "shortened": {"train": {"clips": 0, "missing_seconds": 0.0}},
    "differences": ["train has 6 clips, but 7 were expected"],
    "about": {"commit": "0123abc", "sha256": "ab" * 32},
}


def test_hub_results_are_percentages_with_revision() -> None:
    found = {
        (r.dataset_type, r.dataset_name, r.dataset_config, r.dataset_split, r.dataset_revision, r.metric_type): (
            r.metric_value
        )
        for r in eval_results(SETTINGS, BEST, [STATUS])
    }
    common_voice = ("mozilla-foundation/common_voice_8_0", "Common Voice 8.0", "ru", "dev", "0123abc")
    assert found == {
        (*common_voice, "wer"): 12.35,
        (*common_voice, "cer"): 3.09,
        ("own", "Our own", "ru", "test", None, "wer"): 50.0,
        ("own", "Our own", "ru", "test", None, "cer"): 12.5,
    }


@pytest.mark.parametrize(("fraction", "shown"), [(0.0971, 9.71), (0.1083, 10.83), (1.0, 100.0), (0.12345, 12.35)])
def test_percentages_have_two_decimals(fraction: float, shown: float) -> None:
    assert percent(fraction) == pytest.approx(shown)


def test_table_columns_are_padded() -> None:
    assert table([["Step", "Wer"], ["500", "0.0971"], ["12000", "1.0"]]).splitlines() == [
        "| Step  | Wer    |",
        "|:-----:|:------:|",
        "| 500   | 0.0971 |",
        "| 12000 | 1.0    |",
    ]


SECRET, SPEAKER = "Совсем другое слово.", "f0c1a5"
"""A sentence and a speaker of the corpus, which must not be in the model folder."""

STEP_100, STEP_200 = {"step": 100}, {"step": 200}
LOG = [{"step": step, "epoch": step / 100, "loss": loss} for step, loss in ((100, 3.14159), (200, 2.0), (210, 1.9))]
PLAN: dict[str, Any] = {
    "hours": 0.01,
    "epochs": 2,
    "total_steps": 210,
    "checkpoints": [50, 100, 200, 210],
    "mixing": None,
}
WERS = (0.99, 0.91, 0.13, 0.98)


def test_training_results_match_trainer_cards() -> None:
    log = [*LOG, {"step": 210, "epoch": 2.0, "train_runtime": 5.0}, {"step": 210, "dev_wer": 0.3, "dev_clips": 8}]
    frame = scores(*((step, "cv-dev", wer) for step, wer in ((210, 0.2), (50, 1.0), (200, 0.4), (100, 0.5))))
    assert training_results(PLAN, log, frame) == [
        ["Training Loss", "Epoch", "Step", "Validation Loss", "Wer", "Cer"],
        ["No log", "0.48", "50", "2.0000", "1.0000", "0.2500"],
        ["3.1416", "0.95", "100", "1.0000", "0.5000", "0.1250"],
        ["2.0000", "1.90", "200", "0.8000", "0.4000", "0.1000"],
        ["1.9000", "2.00", "210", "0.4000", "0.2000", "0.0500"],
    ]


def test_checkpoint_not_kept_shows_wer_from_training() -> None:
    log = [LOG[0], {"step": 50, "dev_wer": 0.9, "dev_clips": 8}, {"step": 200, "dev_wer": None, "dev_clips": 8}]
    frame = scores((100, "cv-dev", 0.5), (210, "cv-dev", 0.2))
    assert [row[2:] for row in training_results(PLAN, log, frame)[1:]] == [
        ["50", "–", "0.9000 †", "– †"],
        ["100", "1.0000", "0.5000", "0.1250"],
        ["200", "–", "– †", "– †"],
        ["210", "0.4000", "0.2000", "0.0500"],
    ]


def test_missing_loss_is_a_dash() -> None:
    frame = scores((50, "cv-dev", 0.5)).assign(loss=float("nan"))
    assert training_results(PLAN, LOG, frame)[1][3] == "–"
    assert "| –    |" in results_table(SETTINGS, frame)


def test_results_show_interval_and_unreadable_clips() -> None:
    text = results_table(SETTINGS, BEST)
    assert "Common Voice 8.0 dev" in text
    assert "11.35 – 13.35" in text
    assert "9 / 10" in text


def test_card_has_mean_and_range_over_seeds() -> None:
    others = {f"demo_seed{i}": BEST.assign(wer=BEST["wer"] + i / 100) for i in (1, 2)}
    (line,) = [line for line in str(seeds_table(SETTINGS, BEST, others)).splitlines() if "dev" in line]
    # 12.3456, 13.3456 and 14.3456 %.
    assert "13.35 ± 1.00" in line
    assert "12.35 – 14.35" in line
    assert line.split("|")[-2].strip() == "3"


def test_card_leaves_out_seeds_on_other_clips() -> None:
    other = BEST.assign(eval_set_sha256="another")
    (line,) = [line for line in str(seeds_table(SETTINGS, BEST, {"b": other})).splitlines() if "dev" in line]
    assert line.split("|")[-2].strip() == "1"


def test_card_without_other_seeds_has_no_table() -> None:
    assert seeds_table(SETTINGS, BEST, {}) is None


def test_published_results_have_source_and_what_differs() -> None:
    published = [
        {"model": "somebody/model", "title": "A *model*", "differs": "twice the data"},
        {"title": "A paper", "source": "Proceedings, p. 3"},
    ]
    assert published_sources(
        SETTINGS.model_copy(update={"published": list(map(Published.model_validate, published))})
    ) == [
        r"[A \*model\* (somebody/model)](<https://huggingface.co/somebody/model>): twice the data",
        "A paper, Proceedings, p. 3",
    ]


def test_missing_interval_is_a_dash_with_the_reason() -> None:
    no_interval = {"no_interval": "one speaker", "wer_low": float("nan"), "wer_high": float("nan")}
    text = results_table(SETTINGS, BEST.assign(**no_interval))
    assert text.count("| – (one speaker) |") == len(BEST)
    assert "nan" not in text


def test_data_table_lists_used_and_excluded_clips() -> None:
    counts = {
        "train": {"sets": ["cv-train", "cv-other"], "clips": 46329, "seconds": 7200, "speakers": 12,
                  "excluded": {"label_error": 2, "long": 3}},
        "own-test": {"sets": ["own-test"], "clips": 5, "seconds": 36, "speakers": 0, "excluded": {}},
    }  # fmt: skip
    lines = data_table(SETTINGS, counts).splitlines()
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == [
        "train", "Common Voice 8.0 train + Common Voice 8.0 other", "46,329", "2.00", "12", "2 label_error, 3 long",
    ]  # fmt: skip
    assert [cell.strip() for cell in lines[3].strip("|").split("|")] == [
        "evaluation", "Our own test", "5", "0.01", "unknown", "none",
    ]  # fmt: skip


def test_corpus_table_lists_rejected_and_shortened_clips() -> None:
    status = {"dataset": "cv", "listed": {"train": 1000}, "kept": {"train": 998}, "rejected": {"train": 2}}
    status["shortened"] = {"train": {"clips": 16, "missing_seconds": 0.5445}}
    (line,) = corpus_table(SETTINGS, [status]).splitlines()[2:]
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "Common Voice 8.0", "CC0-1.0", "train", "1,000", "998", "2", "16 (by 0.54 s in total)",
    ]  # fmt: skip


PARTS = {"kept": {"parts": 1200, "seconds": 5400.0, "words": 9000}, "score": {"parts": 3, "seconds": 600.0, "words": 5}}
ALIGNED = {"of": "interviews", "stage": "segment", "model": "someone/model*", "min_score": -1.5, "parts": PARTS}


def test_recordings_that_were_cut_are_accounted_for() -> None:
    lines = pieces_table(SETTINGS, [STATUS, STATUS | {"about": ALIGNED}]).splitlines()[2:]
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in lines] == [
        ["Common Voice 8.0", "clips", "1,200", "1.50", "90.0", "9,000"],
        ["Common Voice 8.0", "score below -1.5", "3", "0.17", "10.0", "5"],
    ]
    assert aligned_datasets(SETTINGS, [STATUS, STATUS | {"about": ALIGNED}]) == [
        r"Common Voice 8.0: by someone/model\*, from the recordings of `interviews`; pieces with a score below -1.5"
        " are left out"
    ]


def test_corpora_that_were_not_cut_have_no_table_of_parts() -> None:
    assert pieces_table(SETTINGS, [STATUS]) == ""
    assert aligned_datasets(SETTINGS, [STATUS]) == []


def test_text_rules_without_effect_are_omitted() -> None:
    counts: dict[str, Any] = {
        "clips_touched": {"case lower": 1200, "keep": 0},
        "characters_replaced": {},
        "characters_dropped": {"«": 3},
    }
    assert text_rules(counts) == ["case lower: 1,200 sentences changed", "characters deleted: `«` 3"]
    assert text_rules({"clips_touched": {"case lower": 0}, "characters_replaced": {}, "characters_dropped": {}}) == []


def group(value: str | None, wer: float, **changed: Any) -> dict[str, Any]:
    """Return a row of the breakdown."""
    interval = [wer - 0.01, wer + 0.01]
    row = {"value": value, "clips": 3, "speakers": 2, "words": 1234, "wer": wer, "interval": interval, "why": None}
    return row | changed


def breakdown_of(*comparisons: dict[str, Any]) -> dict[str, Any]:
    """Return a breakdown of the greedy scores of a set."""
    groups = {
        "seconds": [group("under 2", 0.1), group("2 and more", 0.3)], "rate": [group("all", 0.2)],
        "speaker": [group(f"{SPEAKER}-{i}", i / 10) for i in (3, 1, 2)],
        "gender": [group("female", 0.15), group("male", 0.25, interval=None, why="one speaker"), group(None, 0.9)],
        "age": [group(None, 0.2)], "accent": [],
    }  # fmt: skip
    words = {
        "substitutions": [{"reference": "раз", "hypothesis": "рас", "count": 1200, "of": 4000}],
        "deletions": [], "insertions": [{"hypothesis": "ой", "count": 2}],
    }  # fmt: skip
    characters = {"substitutions": [], "deletions": [{"reference": " ", "count": 5, "of": 50}], "insertions": []}
    of = group(None, 0.2) | {"groups": groups, "confusions": {"words": words, "characters": characters}}
    return {
        "run": "demo",
        "step": 200,
        "metric": "wer",
        "sets": {"cv-dev": {"greedy": of}},
        "comparisons": list(comparisons),
        "not_compared": [],
    }


def comparison(
    kind: str, first: str, second: str, wer: tuple[float, float], interval: tuple[float, float] | None, p: float | None
) -> dict[str, Any]:
    """Return a row of comparisons; systems are given as `set step decoder`."""
    sides = [dict(zip(("set", "step", "decoder"), each.split(), strict=True)) for each in (first, second)]
    one, other = [each | {"step": int(each["step"])} for each in sides]
    return {
        "kind": kind, "first": one, "second": other, "rates": list(wer), "difference": wer[1] - wer[0],
        "interval": None if interval is None else list(interval), "p_value": p,
        "why": "one speaker" if interval is None else None,
    }  # fmt: skip


def with_lm(wer: tuple[float, float], interval: tuple[float, float] | None, p: float | None) -> dict[str, Any]:
    return comparison("decoders", "cv-dev 200 greedy", "cv-dev 200 lm", wer, interval, p)


WORDS: dict[str, Any] = {
    "cv-dev": [([0.9, 0.8, 0.5, 0.7], [True, True, False, True])],
    "own-test": [([0.75, 0.95], [True, False])],
}
CALIBRATION = calibrate({name: {"greedy": words} for name, words in WORDS.items()}, "cv-dev")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of a run that kept two of four checkpoints, with its card."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        return write_card(tmp_path_factory.mktemp("card"), monkeypatch, breakdown_of())


def save_placeholder(figure: Figure, path: Path) -> None:
    """Write a placeholder instead of a plot, which takes most of the time of a card."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"an image")
    plt.close(figure)


def write_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breakdown: dict[str, Any], **more: Any) -> Path:
    """Write a card into `tmp_path / "model"` and return this folder; `more` are arguments of the program."""
    scores(
        (100, "cv-dev", 0.9), (200, "cv-dev", 0.123456), (200, "own-test", 0.5), (200, "own-test-gsm", 0.6)
    ).to_parquet(tmp_path / "summary.parquet")
    dev_scores = [
        {"step": step, "dev_wer": wer, "dev_clips": 9} for step, wer in zip(PLAN["checkpoints"], WERS, strict=True)
    ]
    (tmp_path / "training.jsonl").write_text("".join(as_json(line) + "\n" for line in [*LOG, *dev_scores]))
    counts = {"sets": ["cv-train"], "clips": 5, "seconds": 36, "speakers": 2, "excluded": {}, "corrected": 2,
              "clips_touched": {"case lower": 4},
              "characters_replaced": {}, "characters_dropped": {"«": 3},
              "marks_dropped": {"\u0301": {"times": 1, "sentence": SECRET, "text": SECRET}}}  # fmt: skip
    leakage = {
        "own-test": {
            kind: {"clips": i, "action": "remove", "examples": [{"sentence": SECRET}]}
            for i, kind in enumerate(("speaker", "sentence", "audio", "recording"))
        }
        | {"removed": 2}
    }
    training = {"hyper_parameters": {"learning_rate": 5e-05, "seed": 42}, "versions": {"Transformers": "5.23.0"},
                "hardware": {"device": "cpu", "processor": "x86_64", "threads": 2}, "parameters": 1234567,
                "wall_seconds": 90.0, "sessions": 2}  # fmt: skip
    usage = [{"decoder": "greedy", "code": "print(1)\n", "set": "cv-dev", "clip": "clip-007", "printed": "раз"}]
    for name, value in {
        "selection": {"step": 200, "set": "cv-dev", "decoder": "greedy", "metric": "wer",
                      "sha256": {"model.safetensors": hashlib.sha256(b"weights").hexdigest()}},
        "training": training, "plan": PLAN, "model/vocab": {"[PAD]": 0, "[UNK]": 1, "|": 2, "а": 3},
        "train": counts, "cv/status": STATUS, "own/status": STATUS | {"dataset": "own", "about": {}},
        "model/confidence": CALIBRATION.model_dump(),
        "leakage": leakage, "base": {"commit": "c0ffee"}, "base_card": BASE_CARD, "breakdown": breakdown,
        "usage": usage,
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_json(value, tmp_path / f"{name}.json")
    (tmp_path / "train.sha256").write_text("7ra1n\n")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    clip = dict.fromkeys(HYPOTHESES.names) | {"id": "clip-007", "sentence": SECRET, "hypothesis": "раз"}
    clip |= {"speaker_id": SPEAKER, "scored_reference": SECRET}
    for name in ("cv-dev", "own-test", "own-test-gsm"):
        write_table([clip], HYPOTHESES, tmp_path / "200" / name / "greedy" / "hypotheses.parquet")
        clip_row = dict.fromkeys(CLIPS.names) | {"id": "clip-007", "audio_sha256": "a0d10"}
        write_table([clip_row], CLIPS, tmp_path / f"{name}.parquet")
    for name, words in WORDS.items():
        rows = [{"decoder": "greedy", "id": "clip-007", "confidence": list(c), "right": list(r)} for c, r in words]
        write_table(rows, CONFIDENCE, tmp_path / "confidence" / f"{name}.parquet")
    arguments: dict[str, Any] = {
        "confidence": sorted(tmp_path.glob("confidence/*.parquet")),
        "settings": [SETTINGS.model_dump_json()], "configuration": ['{"runs": {"demo": {}}}'],
        **{name: [tmp_path / f"{name}.json"] for name in ("selection", "training", "plan", "leakage", "breakdown",
                                                          "usage")},
        "summary": [tmp_path / "summary.parquet"], "training-log": [tmp_path / "training.jsonl"],
        "train-digest": [tmp_path / "train.sha256"], "counts": [tmp_path / "train.json"],
        "status": [tmp_path / "cv/status.json", tmp_path / "own/status.json"],
        "base-source": [tmp_path / "base.json"], "base-card": [tmp_path / "base_card.json"],
        "clips": sorted(tmp_path.glob("*-*.parquet")), "hypotheses": sorted(tmp_path.glob("200/*/*/*.parquet")),
        "model": [tmp_path / "model"], "page": [tmp_path / "card.html"],
    }  # fmt: skip
    argv = [str(x) for k, v in (arguments | more).items() for x in (f"--{k}", *v)]
    monkeypatch.setattr(sys, "argv", ["card", *argv])
    card.main()
    return tmp_path / "model"


def test_card_shows_what_is_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [
        {"title": "cv", "clips": 1200, "hours": 2.0, "times": 0.5, "share": 0.25},
        {"title": "own", "clips": 800, "hours": 1.0, "times": 3.0, "share": 0.75},
    ]
    monkeypatch.setitem(PLAN, "mixing", {"by": "dataset", "groups": groups})
    monkeypatch.setitem(PLAN, "hours_per_epoch", 4.0)
    text = (write_card(tmp_path, monkeypatch, breakdown_of()) / "README.md").read_text()
    rows = [re.split(r" *\| *", line)[1:-1] for line in text.splitlines()]
    start = rows.index(["Dataset", "Clips", "Hours", "Times an epoch", "Share of an epoch %"])
    assert rows[start + 2] == ["Common Voice 8.0", "1,200", "2.00", "0.50", "25.00"]
    assert rows[start + 3] == ["Our own", "800", "1.00", "3.00", "75.00"]
    assert "share of the 4.00 hours of an epoch, on average:" in text


def test_hub_client_loads_card(written: Path) -> None:
    loaded = ModelCard.load(written / "README.md")
    assert loaded.data.model_name == "A demo"
    assert len(loaded.data.eval_results) == 4
    assert loaded.text.strip().startswith("<!--")


def test_headings_are_those_of_trainer_cards(written: Path) -> None:
    # The order of sections in the cards that transformers generates.
    text = (written / "README.md").read_text()
    headings = [
        "# A demo", "## Model description", "## Intended uses & limitations", "## Training and evaluation data",
        "## Training procedure", "### Training hyperparameters", "### Training results", "### Framework versions",
    ]  # fmt: skip
    places = [text.index(f"\n{heading}\n") for heading in headings]
    assert places == sorted(places)


def test_card_shows_selected_scores_and_base_commit(written: Path) -> None:
    text = (written / "README.md").read_text()
    for part in ("- Loss: 0.2469", "- Wer: 0.1235", "- Cer: 0.0309", "commit `c0ffee`", "- learning_rate: 5e-05"):
        assert part in text


@pytest.mark.parametrize(
    ("settings", "base", "front", "sentence"),
    [
        (
            {"base": "facebook/mms-1b-all", "base_model": "facebook/mms-1b-all"},
            {"commit": "c0ffee", "target_lang": "tur"},
            "facebook/mms-1b-all",
            "[facebook/mms-1b-all](https://huggingface.co/facebook/mms-1b-all) (commit `c0ffee`, language `tur`) on",
        ),
        ({"base": "mine", "base_model": None}, {"commit": None}, None, "a fine-tuned version of `mine` on"),
        (
            {"base": None, "base_run": "first", "base_model": "a/b"},
            {"step": 7, "sha256": {"model.safetensors": "5"}},
            "a/b",
            "a fine-tuned version of the model of the run `first` (step 7, sha256 of its weights `5`) on",
        ),
    ],
    ids=["a language of the Hub's", "folder", "run"],
)
def test_front_matter_has_only_bases_of_the_hub(
    written: Path, settings: dict[str, Any], base: dict[str, Any], front: str | None, sentence: str
) -> None:
    found = evidence.read(written)
    text = render(card_context(replace(found, settings=found.settings.model_copy(update=settings), base=base)))
    assert yaml.safe_load(text.split("---")[1]).get("base_model") == front
    assert sentence in text


def rows_below(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    lines = text.split(f"\n{heading}\n")[1].splitlines()
    return [re.split(r" *\| *", line)[1:-1] for line in lines if line.startswith("| ")]


def test_card_says_which_sets_the_base_may_have_seen(written: Path) -> None:
    text = (written / "README.md").read_text()
    assert rows_below(text, "### Training data of the base")[:3] == [
        ["Set", "Training data of the base", "Named"],
        ["Common Voice 8.0 dev", "same corpus, other release (7); audio without transcripts",
         "`Common Voice 7.0` (configuration)"],
        ["Our own test", "same corpus, release not named", "`our_own` (card of somebody/wav2vec2-tiny)"],
    ]  # fmt: skip
    assert "- somebody/wav2vec2-tiny, commit `c0ffee`, sha256 `ca4d`\n" in text


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("README.md", "same corpus, release not named", "not named                     "),
        ("evidence/base_card.json", "our_own", "fleurs"),
        ("evidence/settings.json", "7.0", "8.0"),
    ],
)
def test_statement_about_the_base_follows_from_the_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, before: str, after: str
) -> None:
    settings = SETTINGS.model_copy(update={"versions": SETTINGS.versions | {"card": stage_version("card")}})
    model = write_card(tmp_path, monkeypatch, breakdown_of(), settings=[settings.model_dump_json()])
    assert "README.md" not in "".join(check_folder(model).differences)
    path = model / file
    if path.suffix == ".md":
        path.write_text(path.read_text().replace(before, after))
    else:
        write_json(json.loads(as_json(read_json(path)).replace(before, after)), path)
    manifest.write(model)
    found = check_folder(model).differences
    assert any(line.startswith("README.md, line") and "but the evidence gives '| " in line for line in found), found


def test_card_without_a_base_says_nothing_about_it(written: Path) -> None:
    found = evidence.read(written)
    settings = found.settings.model_copy(update={"base": None, "base_training": None})
    text = render(card_context(replace(found, settings=settings, base=None, base_card=None)))
    assert "### Training data of the base" not in text


def test_card_lists_characters_outside_vocabulary(written: Path) -> None:
    assert "- Common Voice 8.0 dev: 1,200 characters, `q` `ё`\n" in (written / "README.md").read_text()


def test_card_counts_corrected_and_scored_sentences(written: Path) -> None:
    found = evidence.read(written)
    assert "2 of the training clips have a sentence that was corrected by hand" in (written / "README.md").read_text()
    assert "After training, the model scored" not in (written / "README.md").read_text()
    text = render(card_context(replace(found, label_errors={"clips": 1200, "scored": 1199})))
    assert "the model scored the sentences of 1,199 of the 1,200 training clips, to find wrong ones; the others" in text


def test_card_counts_what_a_kept_vocabulary_lacks(written: Path) -> None:
    found = evidence.read(written)
    kept = found.settings.model_copy(update={"vocab": "keep"})
    plan = found.plan | {"unwritten": {"characters": 3, "of": 1200}}
    text = render(card_context(replace(found, settings=kept, plan=plan)))
    assert "tokens. It lacks 3 of the 1,200 characters of the training text, spaces not counted.\n" in text


def test_card_lists_drawn_splits_leakage_differences(written: Path) -> None:
    text = (written / "README.md").read_text()
    assert "Common Voice 8.0 held: 10% of the speakers of dev" in text
    assert "Common Voice 8.0: train has 6 clips, but 7 were expected" in text
    (row,) = (line for line in text.splitlines() if "(remove)" in line)
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "Our own test", "0 (remove)", "1 (remove)", "2 (remove)", "3 (remove)", "2",
    ]  # fmt: skip


def test_drawn_share_is_not_rounded() -> None:
    drawn = {"dev": {"of": "train", "share": 0.125}, "test": {"of": "train", "share": 0.005}}
    settings = SETTINGS.model_dump()
    settings["datasets"]["cv"]["drawn"] = drawn
    assert drawn_splits(CardSettings.model_validate(settings)) == [
        "Common Voice 8.0 dev: 12.5% of the speakers of train, each chosen by its hash (seed 0)",
        "Common Voice 8.0 test: 0.5% of the speakers of train, each chosen by its hash (seed 0)",
    ]


def test_card_says_what_its_times_count(written: Path) -> None:
    text = (written / "README.md").read_text().split("### Time and hardware")[1].split("###")[0]
    assert "Training took 1.5 minutes on cpu" in text
    assert "This is the sum over 2 sessions of steps, dev evaluations and saves." in text


def test_card_of_an_older_training_says_so(written: Path) -> None:
    found = evidence.read(written)
    del found.training["sessions"]
    text = render(card_context(found))
    assert "the time of the last session" in text
    assert "This is the sum over" not in text


def test_forward_pass_counts_once_for_all_decoders() -> None:
    # Two checkpoints on one set, one of them on a second set, by two decoders each.
    greedy = scores((100, "cv-dev", 0.1), (200, "cv-dev", 0.1), (200, "own-test", 0.1))
    greedy = greedy.assign(forward_seconds=[100.0, 200.0, 400.0], decoding_seconds=0.0)
    beam = greedy.assign(decoder="lm", decoding_seconds=[1.0, 2.0, 4.0])
    both = pd.concat([greedy, beam]).assign(wall_seconds=lambda frame: frame.forward_seconds + frame.decoding_seconds)
    assert scoring_seconds(greedy) == 700
    assert scoring_seconds(both) == 707
    # A second pass over dev, for beam search.
    second = beam.assign(forward_seconds=[150.0, 250.0, 400.0])
    assert scoring_seconds(pd.concat([greedy, second])) == 707 + 150 + 250


def test_unavailable_set_is_listed_with_reason() -> None:
    frame = scores((200, "cv-dev", 0.1), (200, "own-test", float("nan")))
    frame["unavailable"] = [None, "the Hub denies access"]
    assert unavailable_sets(SETTINGS, frame) == ["Our own test: the Hub denies access"]
    assert "Our own" not in results_table(SETTINGS, frame)


def test_card_marks_checkpoints_not_kept(written: Path) -> None:
    text = (written / "README.md").read_text()
    assert "lowest WER on Common Voice 8.0 dev of all kept checkpoints" in text
    assert "†: greedy decoding of the entire dev set during training. The WER there determined which 2 of 4 " in text
    rows = text.split("### Training results")[1].split("###")[0].splitlines()
    wers = {row.split("|")[3].strip(): row.split("|")[5].strip() for row in rows if row.startswith("| ")}
    assert wers == {"Step": "Wer", "50": "0.9900 †", "100": "0.9000", "200": "0.1235", "210": "0.9800 †"}


@pytest.mark.parametrize(("kept", "drawn"), [((100, 200), [[50, 100, 200, 210]]), ((50, 100, 200, 210), [])])
def test_plot_shows_training_wer_if_checkpoints_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: tuple[int, ...], drawn: list[list[int]]
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure))
    probed = dict(zip(PLAN["checkpoints"], WERS, strict=True))
    frame = scores(*((step, "cv-dev", 0.5) for step in kept))
    plot_error_rates(frame, {"wer": probed, "cer": {}}, SETTINGS.set_title, STEP_100, tmp_path / "wer.png")
    axes, cer = figures[0].axes
    assert not [line for line in cer.get_lines() if "during training" in str(line.get_label())]
    lines = {str(line.get_label()): list(line.get_xdata()) for line in axes.get_lines()}
    assert lines["Common Voice 8.0 dev, greedy"] == list(kept)
    assert [steps for label, steps in lines.items() if "during training" in label] == drawn


def test_plots_are_png_files(written: Path) -> None:
    # The signature of a PNG file: ISO/IEC 15948, section 5.2.
    for name in ("loss.png", "wer.png", "breakdown.png"):
        assert (written / "plots" / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_page_embeds_images(tmp_path: Path) -> None:
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "wer.png").write_bytes(b"picture")
    shown = card.page("---\na: b\n---\n\n# Title\n\n| x |\n|:-:|\n| 1 |\n\n![WER](plots/wer.png)\n", tmp_path)
    assert "<h1>Title</h1>" in shown
    assert "<table>" in shown
    assert 'src="data:image/png;base64,cGljdHVyZQ=="' in shown
    assert "a: b" not in shown


HOSTILE = "a`b|c *x* <b>y</b> <script>z</script> [x](y) ![x](/etc/hostname) &amp; $d$"
"""Text with the syntax of Markdown and HTML."""


def write_card_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: list[str]) -> tuple[str, str]:
    """Return the card and its page, with `name` for all that has a name and `words` for what the model confuses."""
    values = SETTINGS.model_dump()
    values["card"] |= {"title": name, "description": "**Bold**"}
    values["datasets"]["cv"] |= {"name": name, "licence": name}
    monkeypatch.setattr(sys.modules[__name__], "SETTINGS", CardSettings.model_validate(values))
    monkeypatch.setattr(plots, "save_figure", save_placeholder)
    breakdown = breakdown_of()
    of = breakdown["sets"]["cv-dev"]["greedy"]
    of["groups"]["accent"] = [group(name, 0.3), group(name, 0.1)]
    of["confusions"]["words"]["substitutions"] = [
        {"reference": one, "hypothesis": other, "count": 1, "of": 2} for one, other in itertools.pairwise(words)
    ]
    folder = write_card(tmp_path, monkeypatch, breakdown)
    return (folder / "README.md").read_text(), (tmp_path / "card.html").read_text()


def test_hostile_text_is_shown_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["yo`l", "`", "a|b", "<b>", "\u0301", "[x](y)"]
    card_text, shown = write_card_of(tmp_path, monkeypatch, HOSTILE, words)
    expected = html.escape(HOSTILE, quote=False)
    assert f"<h1>{expected}</h1>" in shown
    assert f'<td style="text-align:center">{expected} 8.0 dev</td>' in shown
    assert f"<code>{expected}</code>, 30.00%" in shown
    for one, other in itertools.pairwise([html.escape(word.replace("\u0301", "◌\u0301")) for word in words]):
        assert f"<code>{one}</code> → <code>{other}</code> 1 of 2" in shown
    assert "<strong>Bold</strong>" in shown  # the description is Markdown
    # The Hub renders HTML too.
    hub = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(card_text.split("\n---\n", 1)[1])
    for rendered in (shown, hub):
        assert f"<h1>{expected}</h1>" in rendered
        assert not re.search('<script|<b>|hostname"|<em>|<del>', rendered)


def test_right_to_left_text_is_isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card_text, shown = write_card_of(tmp_path, monkeypatch, "العربية", ["كتاب", "كتب"])
    body = card_text.split("\n---\n", 1)[1]
    assert "\u2068`كتاب`\u2069 → \u2068`كتب`\u2069 1 of 2" in body
    assert "\u2068العربية 8.0\u2069 dev" in body
    outside = re.sub("\u2068.*?\u2069", "", body)
    assert [each for each in outside if unicodedata.bidirectional(each) in ("R", "AL")] == []
    assert "\u2068<code>كتاب</code>\u2069 → \u2068<code>كتب</code>\u2069 1 of 2" in shown


@pytest.mark.parametrize("source", ["/etc/hostname", "../secret.png", "plots/../secret.png", "https://x/y.png"])
def test_page_contains_no_images_but_plots(tmp_path: Path, source: str) -> None:
    (tmp_path / "model" / "plots").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "model" / "secret.png").write_bytes(b"secret")
    body = f'![a "text"]({source})\n\n<img src="{source}">\n\n[x](javascript:1)\n\n<script>1</script>\n'
    shown = card.page(f"---\na: b\n---\n\n<!-- A comment. -->\n\n{body}", tmp_path / "model")
    assert "a &quot;text&quot;" in shown
    assert not re.search("<img|<script|<a |comment", shown)


def test_plot_labels_are_drawn_without_warning(tmp_path: Path) -> None:
    titles = {
        "a": "中文 dev", "b": "हिन्दी dev", "c": "US$ and CA$ dev", "d": "_x dev", "e": "ไทย dev", "f": "long " * 20,
        "g": isolate("العربية") + " dev", "h": "Ё é dev",
        "i": "Prices $^$ dev", "j": r"$x^{2}$ \frac \$ _a_ % & # < > | * ` dev",
    }  # fmt: skip
    frame = scores(*((step, name, 0.5) for name in titles for step in (100, 200)))
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as monkeypatch:
        warnings.simplefilter("error")
        plot_loss(LOG, frame, titles.__getitem__, tmp_path / "loss.png")
        figure = plotted(
            monkeypatch,
            lambda: plot_error_rates(frame, {"wer": {}, "cer": {}}, titles.__getitem__, STEP_100, tmp_path),
        )
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:-1] == [
        "a, greedy", "b, greedy", r"US\$ and CA\$ dev, greedy", "d, greedy", "e, greedy", "f, greedy",
        isolate("العربية") + " dev, greedy", "Ё é dev, greedy",
        r"Prices \$^\$ dev, greedy", r"\$x^{2}\$ \frac \\$ _a_ % & # < > | * ` dev, greedy",
    ]  # fmt: skip


def test_card_names_sets_that_plots_cannot_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card_text, _ = write_card_of(tmp_path, monkeypatch, "日本語", ["水"])
    assert "- `cv-dev`: 日本語 8.0 dev\n\n![Error rates" in card_text
    assert "`own-test`: " not in card_text


def test_perturbed_copy_is_not_a_hub_result(written: Path) -> None:
    text = (written / "README.md").read_text()
    assert "gsm" not in text
    assert len(ModelCard.load(written / "README.md").data.eval_results) == 4


def test_card_omits_sections_without_content(written: Path) -> None:
    text = (written / "README.md").read_text()
    for heading in (
        "### Language model",
        "### Robustness",
        "robustness.png",
        "### Comparison with published results",
    ):
        assert heading not in text


def test_equal_groups_have_no_highest_and_lowest() -> None:
    breakdown = breakdown_of()
    groups = breakdown["sets"]["cv-dev"]["greedy"]["groups"]
    groups["seconds"] = [group("under 2", 0.0), group("2 and more", 0.0)]
    groups["gender"] = [group("female", 0.2), group("male", 0.20001), group("other", 0.2)]
    groups["speaker"] = [group("s1", 0.1), group("s2", 0.1)]
    (lines,) = error_analysis(breakdown, "greedy", SETTINGS.set_title).values()
    assert lines[:3] == [
        "WER by clip length: 0.00% in each of 2 groups",
        "WER by gender: 20.00% in each of 3 groups",
        "WER by speaker: 10.00% for each of 2 speakers",
    ]


@pytest.mark.parametrize(
    ("wer", "interval", "p", "sentence"),
    [
        (
            (0.2, 0.15), (-0.07, -0.02), 0.001,
            "the language model lowers WER from 20.00% to 15.00%"
            " (difference −5.00 points, 95% CI −7.00 to −2.00, p = 0.001).",
        ),
        (
            (0.2, 0.1), (-0.12, -0.08), 3.1e-9,
            "the language model lowers WER from 20.00% to 10.00%"
            " (difference −10.00 points, 95% CI −12.00 to −8.00, p < 0.001).",
        ),
        (
            (0.2, 0.19), (-0.03, 0.01), 0.412,
            "the language model lowers WER from 20.00% to 19.00%, which is not statistically significant"
            " (difference −1.00 points, 95% CI −3.00 to +1.00, p = 0.412).",
        ),
        (
            (0.2, 0.25), (0.01, 0.09), 0.01,
            "the language model raises WER from 20.00% to 25.00%"
            " (difference +5.00 points, 95% CI +1.00 to +9.00, p = 0.010).",
        ),
        (
            (0.2, 0.21), (-0.01, 0.03), 0.5,
            "the language model raises WER from 20.00% to 21.00%, which is not statistically significant"
            " (difference +1.00 points, 95% CI −1.00 to +3.00, p = 0.500).",
        ),
        (
            (0.2, 0.2), (-0.01, 0.01), 1.0,
            "the language model leaves WER unchanged at 20.00%"
            " (difference +0.00 points, 95% CI −1.00 to +1.00, p = 1.000).",
        ),
        (
            (0.2, 0.1), None, None,
            "the language model lowers WER from 20.00% to 10.00%, with unknown significance"
            " (difference −10.00 points; no confidence interval: one speaker).",
        ),
    ],
)  # fmt: skip
def test_language_model_effect_is_worded_by_significance(
    wer: tuple[float, float], interval: tuple[float, float] | None, p: float | None, sentence: str
) -> None:
    found = language_model_effects(breakdown_of(with_lm(wer, interval, p)), SETTINGS.set_title)
    assert found == [f"Common Voice 8.0 dev: {sentence}"]


def test_card_describes_language_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "text": {
            "source": ["training", "wiki"],
            "sentences": 5800,
            "removed": 25,
            "by_source": [
                {"sentences": 800, "removed": 20, "not_spelled": 0, "repeated": 7},
                {"sentences": 5000, "removed": 5, "not_spelled": 1200, "repeated": 30},
            ],
        },
        "arpa": {"unit": "words", "order": 3, "ngrams": [100, 2000, 30], "max_mb": 500, "thresholds": [0, 1, 2]},
        "weights": {"lm_weight": 1.5, "word_score": -0.5, "step": 100, "set": "cv-dev"},
    }.items():
        write_json(value, tmp_path / f"{name}.json")
    files = [tmp_path / f"{name}.json" for name in ("text", "arpa", "weights")]
    monkeypatch.setattr(plots, "save_figure", save_placeholder)
    breakdown = breakdown_of(with_lm((0.2, 0.15), (-0.07, -0.02), 0.001))
    wiki = {"name": "Russian Wikipedia", "licence": "CC-BY-SA-4.0", "date": "20261101"}
    settings = CardSettings.model_validate(SETTINGS.model_dump() | {"texts": {"wiki": wiki}})
    monkeypatch.setattr(sys.modules[__name__], "SETTINGS", settings)
    text = (write_card(tmp_path, monkeypatch, breakdown, lm=files) / "README.md").read_text()
    joined = " ".join(text.split())
    assert "- Common Voice 8.0 dev: the language model lowers WER from 20.00% to 15.00%" in text
    assert "n-grams of up to 3 words, 2,130 in total, estimated from 5,800 sentences; 25 sentences" in joined
    assert "| training texts | – | 800 | 20 | 0 | 7 |" in joined
    assert "| Russian Wikipedia 20261101 | CC-BY-SA-4.0 | 5,000 | 5 | 1,200 | 30 |" in joined
    assert "To fit into 500 MB, n-grams were removed that occur at most 0, 1, 2 times: one number for" in joined
    assert "Its weight, 1.5, and the word score, -0.5, were tuned only on Common Voice 8.0 dev, with" in joined


def test_cer_stands_first_in_the_card_of_a_run_that_it_decides() -> None:
    judged = SETTINGS.model_copy(update={"metric": "cer"})
    frame = scores((200, "cv-dev", 0.4))
    heading, _, row = results_table(judged, frame).splitlines()
    assert [cell.strip() for cell in heading.split("|")][3:6] == ["CER %", "95% CI", "WER %"]
    assert [cell.strip() for cell in row.split("|")][3:6] == ["10.00", "8.00 – 13.33", "40.00"]
    assert training_results(PLAN, LOG, frame, "cer")[0][4:] == ["Cer", "Wer"]


def test_effect_of_language_model_is_that_on_cer() -> None:
    breakdown = breakdown_of(with_lm((0.2, 0.1), (-0.2, -0.05), 0.001)) | {"metric": "cer"}
    (line,) = language_model_effects(breakdown, SETTINGS.set_title)
    assert "the language model lowers CER from 20.00% to 10.00%" in line


def test_card_has_error_analysis(written: Path) -> None:
    text = (written / "README.md").read_text()
    for line in (
        "- WER by clip length: highest for `2 and more` s, 30.00% (29.00 to 31.00; 1,234 words); lowest for `under 2`"
        " s, 10.00% (9.00 to 11.00; 1,234 words)",
        "- WER by gender: highest for `male`, 25.00% (one speaker; 1,234 words); lowest for `female`,",
        "- WER by speaker: from 10.00% to 30.00% over 3 speakers, median 20.00%",
        "- most frequent word substitutions: `раз` → `рас` 1,200 of 4,000",
        "- most frequent word insertions: `ой` 2",
        "- most frequent character deletions: `␣` 5 of 50",
    ):
        assert line in text
    for absent in ("by speaking rate", "by age", "by accent", "word deletions"):
        assert absent not in text


def test_card_compares_other_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        comparison("checkpoints", "cv-dev 100 greedy", "cv-dev 200 greedy", (0.9, 0.2), (-0.8, -0.6), 0.001),
        comparison("checkpoints", "cv-dev 300 greedy", "cv-dev 200 greedy", (0.25, 0.2), (-0.1, 0.01), 0.2),
        comparison("checkpoints", "own-test 100 greedy", "own-test 200 greedy", (0.7, 0.2), (-0.8, -0.6), 0.001),
    ]
    monkeypatch.setattr(plots, "save_figure", save_placeholder)
    text = (write_card(tmp_path, monkeypatch, breakdown_of(*rows)) / "README.md").read_text()
    assert (
        "Other checkpoints on Common Voice 8.0 dev, greedy decoding; differences are the WER of the selected checkpoint"
        " minus theirs:\n- step 100 (previous checkpoint): WER 90.00%, difference −70.00 points, 95% CI −80.00 to"
        " −60.00, p = 0.001\n- step 300 (last checkpoint): WER 25.00%, "
    ) in text
    assert "WER 70.00%" not in text  # on another set


def against(run: str, wer: tuple[float, float], interval: tuple[float, float] | None, p: float | None) -> Any:
    row = comparison("runs", "cv-dev 0 greedy", "cv-dev 200 greedy", wer, interval, p)
    return row | {"first": row["first"] | {"run": run}}


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def test_card_has_the_rates_side_by_side_with_the_test() -> None:
    breakdown = breakdown_of(
        against("whisper", (0.1, 0.12), (-0.01, 0.05), 0.25), against("xlsr", (0.2, 0.12), None, None)
    )
    others = {"whisper": scores((0, "cv-dev", 0.1)), "xlsr": scores((0, "cv-dev", 0.2), (0, "own-test", 0.4))}
    ours = scores((200, "cv-dev", 0.12), (200, "own-test", 0.5))
    table = cells(compared_table(SETTINGS, ours, breakdown, others))
    assert table[0] == [
        "Set", "Model", "Decoder", "WER %", "95% CI", "CER %", "Difference", "95% CI", "p",
    ]  # fmt: skip
    assert [row[1:] for row in table[2:]] == [
        ["this model", "greedy", "12.00", "11.00 – 13.00", "3.00", "", "", ""],
        ["`whisper`", "greedy", "10.00", "9.00 – 11.00", "2.50", "+2.00", "−1.00 to +5.00", "0.250"],
        ["`xlsr`", "greedy", "20.00", "19.00 – 21.00", "5.00", "−8.00", "– (one speaker)", "–"],
    ]


def test_card_without_comparisons_has_no_table() -> None:
    assert compared_table(SETTINGS, scores((200, "cv-dev", 0.12)), breakdown_of(), {}) == ""


def test_card_says_why_runs_are_not_compared() -> None:
    breakdown = breakdown_of() | {
        "not_compared": [{"run": "xlsr", "set": "own-test", "why": "that run does not score it"}]
    }
    assert not_compared(breakdown, SETTINGS.set_title) == ["Our own test, `xlsr`: that run does not score it"]


def test_sets_of_the_robust_speech_event_are_listed() -> None:
    frame = BEST.assign(protocol=["plain", "robust_speech_event"])
    assert robust_speech_event_sets(SETTINGS, frame) == ["Our own test"]
    assert robust_speech_event_sets(SETTINGS, BEST) == []


def test_further_protocols_have_a_separate_table() -> None:
    assert protocols_table(SETTINGS, BEST) == ""
    frame = BEST.assign(wer_robust_speech_event=[None, 0.6], cer_robust_speech_event=[None, 0.3])
    (line,) = protocols_table(SETTINGS, frame.astype({"wer_robust_speech_event": float})).splitlines()[2:]
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "Our own test", "greedy", "`robust_speech_event`", "60.00", "30.00",
    ]  # fmt: skip


def test_perturbed_copies_have_a_table_and_a_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        comparison("effect", "own-test 200 greedy", "own-test-gsm 200 greedy", (0.5, 0.6), (0.05, 0.15), 0.001),
        comparison("effect", "own-test 200 lm", "own-test-gsm 200 lm", (0.4, 0.5), None, None),
    ]
    monkeypatch.setattr(plots, "save_figure", save_placeholder)
    plot = tmp_path / "model" / "plots" / "robustness.png"
    plot.parent.mkdir(parents=True)
    plot_robustness(scores((200, "own-test", 0.5), (200, "own-test-gsm", 0.6)), SETTINGS.set_title, plot)
    folder = write_card(tmp_path, monkeypatch, breakdown_of(*rows))
    text = (folder / "README.md").read_text()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "| gsm" in line]
    assert cells == [
        ["Our own test", "gsm", "greedy", "50.00", "60.00", "+10.00", "+5.00 to +15.00"],
        ["Our own test", "gsm", "lm", "40.00", "50.00", "+10.00", "– (one speaker)"],
    ]
    assert "(plots/robustness.png)" in text
    assert (tmp_path / "card.html").read_text().count("data:image/png") == 4


def plotted(monkeypatch: pytest.MonkeyPatch, plot: Callable[[], None]) -> Figure:
    """Return the figure that `plot` would save."""
    figures: list[Figure] = []

    def keep(figure: Figure, path: Path) -> None:
        figures.append(figure)
        plt.close(figure)

    monkeypatch.setattr(plots, "save_figure", keep)
    plot()
    return figures[0]


def test_each_set_and_decoder_has_a_distinct_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"own-test_{i}" for i in range(6)]
    greedy = scores(*((step, name, 0.5) for name in names for step in (100, 200)))
    frame = pd.concat([greedy, greedy.assign(decoder="lm")], ignore_index=True)
    figure = plotted(
        monkeypatch,
        lambda: plot_error_rates(frame, {"wer": {}, "cer": {}}, SETTINGS.set_title, STEP_100, tmp_path),
    )
    for axes in figure.axes:
        lines = [line for line in axes.get_lines() if len(list(line.get_xdata())) == 2 and line.get_marker() != "None"]
        assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines}) == len(lines) == 12
        assert len({(line.get_linestyle(), line.get_marker()) for line in lines}) == 12  # without colours too


def test_set_with_a_single_score_has_an_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = scores((100, "cv-dev", 0.4), (200, "cv-dev", 0.3), (200, "own-test", 0.5))
    figure = plotted(
        monkeypatch,
        lambda: plot_error_rates(frame, {"wer": {}, "cer": {}}, SETTINGS.set_title, STEP_200, tmp_path),
    )
    assert [len(axes.collections) for axes in figure.axes] == [2, 2]  # a band and a bar


def test_set_without_interval_is_plotted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = dict.fromkeys(("wer_low", "wer_high", "cer_low", "cer_high"), float("nan"))
    frame = scores((100, "cv-dev", 0.4), (200, "cv-dev", 0.3), (200, "own-test", 0.5), (200, "own-test-gsm", 0.6))
    frame = frame.assign(**ends)
    figure = plotted(
        monkeypatch,
        lambda: plot_error_rates(frame, {"wer": {}, "cer": {}}, SETTINGS.set_title, STEP_200, tmp_path / "wer"),
    )
    assert [100 * 0.5] in [list(line.get_ydata()) for line in figure.axes[0].get_lines()]
    figure = plotted(monkeypatch, lambda: plot_robustness(frame, SETTINGS.set_title, tmp_path / "robustness"))
    assert [line.get_marker() for line in figure.axes[0].get_lines()].count("o") == 1


def test_breakdown_plot_has_every_set_and_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = breakdown_of()["sets"]
    sets["cv-dev"]["lm"] = sets["own-test"] = sets["cv-dev"]["greedy"] | {}
    sets = {"cv-dev": sets["cv-dev"], "own-test": {"greedy": sets["own-test"]}}
    figure = plotted(monkeypatch, lambda: plot_breakdown(sets, SETTINGS.set_title, tmp_path))
    assert len(figure.axes) == 6
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["under 2\n3", "2 and more\n3"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["greedy", "lm"]


def test_breakdown_plot_marks_unknown_speakers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = breakdown_of()["sets"]
    sets["cv-dev"]["greedy"]["groups"]["speaker"] = [group(None, 0.2)]
    figure = plotted(monkeypatch, lambda: plot_breakdown(sets, SETTINGS.set_title, tmp_path))
    assert [text.get_text() for text in figure.axes[2].texts] == ["speakers unknown"]


def test_effects_are_plotted_mildest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = scores((1, "own-test", 0.2), (1, "own-test-gsm", 0.6), (1, "own-test-quiet", 0.3), (1, "cv-dev", 0.1))
    figure = plotted(monkeypatch, lambda: plot_robustness(frame, SETTINGS.set_title, tmp_path))
    (axes,) = figure.axes
    assert axes.get_title() == "Our own test"
    assert [text.get_text() for text in axes.get_yticklabels()] == ["unperturbed", "quiet", "gsm"]


def test_unavailable_perturbed_copies_are_plotted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = scores((1, "own-test", float("nan")), (1, "own-test-gsm", float("nan")))
    figure = plotted(monkeypatch, lambda: plot_robustness(frame, SETTINGS.set_title, tmp_path))
    assert [text.get_text() for text in figure.texts] == ["no perturbed copy of a set has a word error rate"]


def test_unavailable_set_has_an_empty_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = group(None, 0.0, clips=0) | {"groups": {key: [] for key in ("seconds", "rate", "speaker")}}
    sets = breakdown_of()["sets"] | {"own-test": {"greedy": nothing}}
    assert len(plotted(monkeypatch, lambda: plot_breakdown(sets, SETTINGS.set_title, tmp_path)).axes) == 6


def test_robustness_stage_plots_selected_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores((1, "own-test", 0.9), (2, "own-test", 0.2), (2, "own-test-gsm", 0.6)).to_parquet(tmp_path / "summary")
    write_json({"step": 2}, tmp_path / "selection.json")
    settings = as_json({"metric": "wer", "titles": {"own-test": "Our own test"}})
    arguments = ["--settings", settings, "--summary", tmp_path / "summary",
                 "--selection", tmp_path / "selection.json", "--plot", tmp_path / "plot.png"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["robustness", *map(str, arguments)])
    figure = plotted(monkeypatch, robustness.main)
    (axes,) = figure.axes
    assert [list(line.get_xdata()) for line in axes.get_lines() if line.get_marker() == "o"] == [[20.0, 60.0]]


def test_plots_are_deterministic(tmp_path: Path) -> None:
    for name in ("one.png", "other.png"):
        plot_loss(LOG, scores((100, "cv-dev", 0.4), (200, "cv-dev", 0.3)), SETTINGS.set_title, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()


def test_evidence_renders_card_without_private_data(written: Path) -> None:
    assert render(card_context(evidence.read(written))) == (written / "README.md").read_text()
    assert manifest.differences(written) == []
    for path in (each for each in written.rglob("*") if each.is_file()):
        for private in (SECRET, SPEAKER):
            assert private.encode() not in path.read_bytes(), path
    assert pd.read_parquet(evidence.scored_file(written, "cv-dev", "greedy"))["audio_sha256"].to_list() == ["a0d10"]


def test_corpus_that_must_not_be_redistributed_leaves_no_words_or_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SETTINGS.model_dump()
    for dataset in settings["datasets"].values():
        dataset["text_redistributable"] = False
    monkeypatch.setattr(plots, "save_figure", save_placeholder)
    folder = write_card(tmp_path, monkeypatch, breakdown_of(), settings=[as_json(settings)])
    for path in (each for each in folder.rglob("*") if each.is_file()):
        for private in (SECRET, SPEAKER, "clip-007", "раз", "рас", "ой"):
            assert private.encode() not in path.read_bytes(), path
    text = (folder / "README.md").read_text()
    assert render(card_context(evidence.read(folder))) == text
    assert "most frequent character deletions: `␣` 5 of 50" in text
    scored = pd.read_parquet(evidence.scored_file(folder, "own-test-gsm", "greedy"))
    assert scored[["id", "audio_sha256"]].to_numpy().tolist() == [["1", "a0d10"]]
    assert pd.read_parquet(evidence.confidence_file(folder, "own-test"))["id"].to_list() == ["1"]


def test_card_has_calibration_errors_and_plot(written: Path) -> None:
    text = (written / "README.md").read_text()
    section = text.partition("### Word confidence\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if "greedy" in line]
    assert [row[:5] for row in rows] == [
        ["Common Voice 8.0 dev", "greedy", "4", "1", "0"],
        ["Our own test", "greedy", "2", "1", "0"],
    ]
    # By hand: 0.95 is the confidence of a wrong word, 0.75 of a right one.
    assert rows[1][5] == "60.00"
    assert "fitted on Common Voice 8.0 dev" in section
    assert "not calibrated" not in section
    assert "(plots/reliability.png)" in section


def test_card_says_which_decoder_is_not_calibrated(written: Path) -> None:
    words = {"cv-dev": {"lm": [([0.9, 0.8], [True, True])]}}
    text = render(card_context(replace(evidence.read(written), calibration=calibrate(words, "cv-dev"))))
    assert (
        "not calibrated, which takes right and wrong words on Common Voice 8.0 dev:\n- lm: 0 of 2 words are wrong"
        in text
    )


def test_changed_calibration_is_found(written: Path, tmp_path: Path) -> None:
    shutil.copytree(written, tmp_path / "model")
    content = CALIBRATION.model_dump()
    content["calibrators"]["greedy"]["slope"] += 0.01
    content["sets"][1]["ece_after"] += 0.01
    write_json(content, tmp_path / "model" / "confidence.json")
    found = [line for line in check_folder(tmp_path / "model").differences if line.startswith("confidence.json: ")]
    assert len(found) == 2
    assert found[0].startswith("confidence.json: slope of greedy is ")
    assert found[1].startswith("confidence.json: ece_after of own-test by greedy is ")


def test_sets_that_are_not_available_have_empty_reliability_plots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = plotted(
        monkeypatch,
        lambda: plot_reliability(calibrate({}, "cv-dev"), {"cv-dev": {}}, SETTINGS.set_title, tmp_path / "plot.png"),
    )
    assert [len(axes.texts) for axes in figure.axes] == [0]


def test_reliability_plot_has_every_set_and_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets: Any = {name: {"greedy": words, "lm": []} for name, words in WORDS.items()}
    figure = plotted(
        monkeypatch,
        lambda: plot_reliability(calibrate(sets, "cv-dev"), sets, SETTINGS.set_title, tmp_path / "plot.png"),
    )
    assert [axes.get_title() for axes in figure.axes] == [
        f"{title}, {decoder}" for title in ("Common Voice 8.0 dev", "Our own test") for decoder in ("greedy", "lm")
    ]
    # Before and after calibration, the number of words in each bin.
    assert sum(int(each.get_text()) for each in figure.axes[0].texts) == 2 * 4


def test_hub_result_files_cover_sets_on_the_hub(written: Path) -> None:
    (file,) = (written / ".eval_results").iterdir()
    (wer, cer) = yaml.safe_load(file.read_text())
    assert wer["dataset"]["id"] == cer["dataset"]["id"] == "mozilla-foundation/common_voice_8_0"
    assert (wer["value"], cer["value"]) == (12.35, 3.09)


def test_every_section_with_figures_has_a_provenance(written: Path) -> None:
    text = (written / "README.md").read_text()
    assert set(count_figures(text)) <= set(PROVENANCE)
    table = text.split("## Provenance of the figures")[1]
    for heading in set(count_figures(text)):
        assert f"| {heading} " in table


def test_template_contains_no_literal_figures() -> None:
    template = TEMPLATE.read_text(encoding="utf-8")
    literal = re.sub(r"{{.*?}}|{%.*?%}", "", template, flags=re.DOTALL)
    # A digit inside a word, as in sha256, is part of a name.
    assert re.findall(r"(?<!\w)\d", literal) == []


def test_table_cells_are_escaped() -> None:
    assert table([["Set", "Why"], ["a", "no | such\n\nset"]]).splitlines()[2] == "| a   | no \\| such set |"


DAMAGES: dict[str, Callable[[Path], object]] = {
    "removed": lambda path: path.unlink(),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "replaced": lambda path: path.write_text("null"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_any_file_of_a_model_is_named(written: Path, tmp_path: Path, damage: str) -> None:
    whole = check_folder(written).differences
    names = sorted(path.relative_to(written) for path in written.rglob("*") if path.is_file())
    assert len(names) > 20
    for name in names:
        shutil.copytree(written, tmp_path / "model", dirs_exist_ok=True)
        DAMAGES[damage](tmp_path / "model" / name)
        found = [line for line in check_folder(tmp_path / "model").differences if line not in whole]
        assert any(str(name) in line for line in found), (name, found)


@pytest.mark.parametrize("content", ["", "[1]", "null", "{}"])
def test_invalid_evidence_is_named_also_with_a_new_manifest(written: Path, tmp_path: Path, content: str) -> None:
    shutil.copytree(written, tmp_path / "model")
    for path in sorted((tmp_path / "model" / "evidence").rglob("*.json*")):
        # Without leakage, or a record of the base, an object is empty.
        if content == "{}" and path.name in ("leakage.json", "base.json", "training.jsonl"):
            continue
        valid = path.read_bytes()
        path.write_text(content)
        manifest.write(tmp_path / "model")
        with pytest.raises(
            SpeechmillError, match=f"{path} .*build the model folder again|{path} was written by another"
        ):
            evidence.read(tmp_path / "model")
        path.write_bytes(valid)


def test_exports_are_compared_with_the_checkpoint() -> None:
    export = {
        "bytes": 1_353_249, "wer": 0.13, "cer": 0.03, "timed_seconds": 0.75, "different_clips": 2,
        "comparison": {"difference": -0.0027, "interval": [-0.0075, 0.0021], "p_value": 0.2086, "why": None},
    }  # fmt: skip
    alone = export | {"comparison": {"difference": 0.0, "interval": None, "p_value": None, "why": "one speaker"}}
    metrics = {
        "unavailable": None, "timed_audio_seconds": 60.0, "pytorch": {"bytes": 3_000_092, "timed_seconds": 6.0},
        "exports": {"fp32": alone, "int8": export},
    }  # fmt: skip

    rows = exports_table(SETTINGS, BEST, {"cv-dev": metrics, "own-test": metrics | {"unavailable": "it is gone"}})

    _, _, torch, fp32, int8 = (re.split(r" *\| *", line)[2:-1] for line in rows.splitlines())
    assert torch == ["PyTorch", "3.0", "12.35", "3.09", "–", "–", "–", "–", "0.100"]
    assert fp32[4:8] == ["+0.00", "– (one speaker)", "–", "2 / 9"]
    assert int8 == ["ONNX int8", "1.4", "13.00", "3.00", "−0.27", "−0.75 to +0.21", "0.209", "2 / 9", "0.013"]
    assert exports_table(SETTINGS, BEST, {}) == ""


def test_unavailable_set_is_left_out_of_the_exports(written: Path) -> None:
    metrics = {
        "unavailable": None, "timed_audio_seconds": 60.0, "device": "a processor",
        "versions": {"onnxruntime": "1.32.0", "torch": "2.11.0"},
        "pytorch": {"bytes": 3_000_092, "timed_seconds": 6.0}, "exports": {},
    }  # fmt: skip
    found = replace(
        evidence.read(written), exports={"cv-dev": {"unavailable": "it is gone", "exports": {}}, "own-test": metrics}
    )
    section = render(card_context(found)).partition("### Exports\n")[2].partition("\n## ")[0]
    assert "Our own test" in section
    assert "Common Voice" not in section.partition("\n### ")[0]
    assert "one core of a processor" in section
