import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCard
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from material import ROOT, as_json
from speechmill.core.tables import CLIPS, HYPOTHESES, write_json, write_table
from speechmill.report import card, evidence, manifest, plots, robustness
from speechmill.report.card import (
    KNOWN,
    TEMPLATE,
    CardSettings,
    about_results,
    context,
    corpus_table,
    data_table,
    event_sets,
    protocols_table,
    render,
    results_table,
    table,
    text_rules,
    training_results,
    unavailable_sets,
)
from speechmill.report.findings import of_language_model
from speechmill.report.plots import plot_breakdown, plot_error_rates, plot_loss, plot_robustness
from speechmill.report.verify import numbers
from speechmill.scoring.error_rates import percent
from speechmill.scoring.summary import COLUMNS

SETTINGS = CardSettings.model_validate(
    {
        "run": "demo",
        "language": "ru",
        "card": {"title": "A demo", "description": "It is small.", "uses": "None.", "tags": ["demo"]},
        "base": "somebody/wav2vec2-tiny",
        "base_run": None,
        "train": ["cv-train", "cv-other"],
        "text": {},
        "select": {"set": "cv-dev", "decoder": "greedy", "metric": "wer"},
        "datasets": {
            "cv": {"name": "Common Voice", "version": "8.0", "licence": "CC0-1.0", "language": "ru",
                   "hub_id": "mozilla-foundation/common_voice_8_0", "hub_config": "ru",
                   "audio_may_be_passed_on": False, "drawn": {"held": {"of": "dev", "share": 0.1}}},
            "own": {"name": "Our own", "version": "", "licence": "CC-BY-4.0", "language": "ru", "hub_id": None,
                    "hub_config": None, "audio_may_be_passed_on": True, "drawn": {}},
        },
        "roles": ["train"],
        "published": None,
        "code": {"finetune": "c0de", "card": "card"},
    }
)  # fmt: skip


def scores(*rows: tuple[int, str, float]) -> pd.DataFrame:
    """A summary of (step, set, WER)."""
    return pd.DataFrame(
        {
            **dict.fromkeys(COLUMNS, 0),
            "run": "demo", "step": step, "set": name, "decoder": "greedy", "protocol": "plain",
            "outside_vocabulary": "q ё", "unavailable": None,
            "wer": wer, "wer_low": wer - 0.01, "wer_high": wer + 0.01, "loss": wer * 2,
            "cer": wer / 4, "cer_low": wer / 5, "cer_high": wer / 3,
            "clips_scored": 9, "clips_expected": 10, "reference_words": 1234,
            "wer_plain": wer, "cer_plain": wer / 4, "wer_robust_speech_event": None, "cer_robust_speech_event": None,
        }
        for step, name, wer in rows
    )  # fmt: skip


BEST = scores((200, "cv-dev", 0.123456), (200, "own-test", 0.5))


STATUS = {
    "dataset": "cv",
    "published": {"train": 6},
    "kept": {"train": 5},
    "rejected": {"train": 1},
    "differences": ["train has 6 clips, expected were 7"],
    "about": {"commit": "0123abc", "sha256": "ab" * 32},
}


def test_results_are_percentages_of_each_set_with_the_revision_where_it_is_known() -> None:
    found = {
        (r.dataset_type, r.dataset_name, r.dataset_config, r.dataset_split, r.dataset_revision, r.metric_type): (
            r.metric_value
        )
        for r in about_results(SETTINGS, BEST, [STATUS])
    }
    published = ("mozilla-foundation/common_voice_8_0", "Common Voice 8.0", "ru", "dev", "0123abc")
    assert found == {
        (*published, "wer"): 12.35,
        (*published, "cer"): 3.09,
        ("own", "Our own", "ru", "test", None, "wer"): 50.0,
        ("own", "Our own", "ru", "test", None, "cer"): 12.5,
    }


@pytest.mark.parametrize(("fraction", "shown"), [(0.0971, 9.71), (0.1083, 10.83), (1.0, 100.0), (0.12345, 12.35)])
def test_percentages_have_two_decimals(fraction: float, shown: float) -> None:
    assert percent(fraction) == pytest.approx(shown)


def test_a_table_is_padded_so_that_its_columns_stand_under_each_other() -> None:
    assert table([["Step", "Wer"], ["500", "0.0971"], ["12000", "1.0"]]).splitlines() == [
        "| Step  | Wer    |",
        "|:-----:|:------:|",
        "| 500   | 0.0971 |",
        "| 12000 | 1.0    |",
    ]


SECRET, SPEAKER = "Совсем другое слово.", "f0c1a5"
"""A sentence of the corpus and a speaker of it, which are nobody's business."""

LOG = [{"step": step, "epoch": step / 100, "loss": loss} for step, loss in ((100, 3.14159), (200, 2.0), (210, 1.9))]
PLAN = {"hours": 0.01, "epochs": 2, "total_steps": 210, "checkpoints": [50, 100, 200, 210]}
WERS = (0.99, 0.91, 0.13, 0.98)


def test_training_results_are_those_of_the_cards_of_the_trainer() -> None:
    log = [*LOG, {"step": 210, "epoch": 2.0, "train_runtime": 5.0}, {"step": 210, "dev_wer": 0.3, "dev_clips": 8}]
    frame = scores(*((step, "cv-dev", wer) for step, wer in ((210, 0.2), (50, 1.0), (200, 0.4), (100, 0.5))))
    assert training_results(PLAN, log, frame) == [
        ["Training Loss", "Epoch", "Step", "Validation Loss", "Wer", "Cer"],
        ["No log", "0.48", "50", "2.0000", "1.0000", "0.2500"],
        ["3.1416", "0.95", "100", "1.0000", "0.5000", "0.1250"],
        ["2.0000", "1.90", "200", "0.8000", "0.4000", "0.1000"],
        ["1.9000", "2.00", "210", "0.4000", "0.2000", "0.0500"],
    ]


def test_a_checkpoint_that_was_not_kept_has_a_row_with_what_training_knew_of_it() -> None:
    log = [LOG[0], {"step": 50, "dev_wer": 0.9, "dev_clips": 8}, {"step": 200, "dev_wer": None, "dev_clips": 8}]
    frame = scores((100, "cv-dev", 0.5), (210, "cv-dev", 0.2))
    assert [row[2:] for row in training_results(PLAN, log, frame)[1:]] == [
        ["50", "–", "0.9000 †", "–"],
        ["100", "1.0000", "0.5000", "0.1250"],
        ["200", "–", "– †", "–"],
        ["210", "0.4000", "0.2000", "0.0500"],
    ]


def test_a_set_without_a_loss_has_a_dash() -> None:
    frame = scores((50, "cv-dev", 0.5)).assign(loss=float("nan"))
    assert training_results(PLAN, LOG, frame)[1][3] == "–"
    assert "| –    |" in results_table(SETTINGS, frame)


def test_results_show_the_interval_and_clips_that_nothing_could_read() -> None:
    text = results_table(SETTINGS, BEST)
    assert "Common Voice 8.0 dev" in text
    assert "11.35 – 13.35" in text
    assert "9 / 10" in text


def test_data_say_what_was_used_and_left_out() -> None:
    counts = {
        "train": {"sets": ["cv-train", "cv-other"], "clips": 46329, "seconds": 7200, "speakers": 12,
                  "excluded": {"long": 3, "short": 1}},
        "own-test": {"sets": ["own-test"], "clips": 5, "seconds": 36, "speakers": 0, "excluded": {}},
    }  # fmt: skip
    lines = data_table(SETTINGS, counts).splitlines()
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == [
        "train", "Common Voice 8.0 train + Common Voice 8.0 other", "46,329", "2.00", "12", "3 long, 1 short",
    ]  # fmt: skip
    assert [cell.strip() for cell in lines[3].strip("|").split("|")] == [
        "evaluation", "Our own test", "5", "0.01", "not known", "none",
    ]  # fmt: skip


def test_corpora_say_what_could_not_be_read() -> None:
    status = {"dataset": "cv", "published": {"train": 1000}, "kept": {"train": 998}, "rejected": {"train": 2}}
    (line,) = corpus_table(SETTINGS, [status]).splitlines()[2:]
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "Common Voice 8.0", "CC0-1.0", "train", "1,000", "998", "2",
    ]  # fmt: skip


def test_text_rules_that_changed_nothing_are_not_in_the_card() -> None:
    counts: dict[str, Any] = {
        "clips_touched": {"case lower": 1200, "keep": 0},
        "characters_replaced": {},
        "characters_dropped": {"«": 3},
    }
    assert text_rules(counts) == ["case lower: 1,200 sentences changed", "characters deleted: `«` 3"]
    assert text_rules({"clips_touched": {"case lower": 0}, "characters_replaced": {}, "characters_dropped": {}}) == []


def group(value: str | None, wer: float, **changed: Any) -> dict[str, Any]:
    """A row of the breakdown."""
    interval = [wer - 0.01, wer + 0.01]
    row = {"value": value, "clips": 3, "speakers": 2, "words": 1234, "wer": wer, "interval": interval, "why": None}
    return row | changed


def broken_down(*comparisons: dict[str, Any]) -> dict[str, Any]:
    """A breakdown of the greedy scores of a set."""
    groups = {
        "seconds": [group("under 2", 0.1), group("2 and more", 0.3)], "rate": [group("all", 0.2)],
        "speaker": [group(f"s{i}", i / 10) for i in (3, 1, 2)],
        "gender": [group("female", 0.15), group("male", 0.25, interval=None, why="one speaker"), group(None, 0.9)],
        "age": [group(None, 0.2)], "accent": [],
    }  # fmt: skip
    words = {
        "substitutions": [{"reference": "раз", "hypothesis": "рас", "count": 1200, "of": 4000}],
        "deletions": [], "insertions": [{"hypothesis": "ой", "count": 2}],
    }  # fmt: skip
    characters = {"substitutions": [], "deletions": [{"reference": " ", "count": 5, "of": 50}], "insertions": []}
    of = group(None, 0.2) | {"groups": groups, "confusions": {"words": words, "characters": characters}}
    return {"run": "demo", "step": 200, "sets": {"cv-dev": {"greedy": of}}, "comparisons": list(comparisons)}


def comparison(
    kind: str, first: str, second: str, wer: tuple[float, float], interval: tuple[float, float] | None, p: float | None
) -> dict[str, Any]:
    """A row of comparisons; systems are written as `set step decoder`."""
    sides = [dict(zip(("set", "step", "decoder"), each.split(), strict=True)) for each in (first, second)]
    one, other = [each | {"step": int(each["step"])} for each in sides]
    return {
        "kind": kind, "first": one, "second": other, "wer": list(wer), "difference": wer[1] - wer[0],
        "interval": None if interval is None else list(interval), "p_value": p,
        "why": "one speaker" if interval is None else None,
    }  # fmt: skip


def with_lm(wer: tuple[float, float], interval: tuple[float, float] | None, p: float | None) -> dict[str, Any]:
    return comparison("decoders", "cv-dev 200 greedy", "cv-dev 200 lm", wer, interval, p)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the program has written a card of a run that has kept two checkpoints of four."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        return write_card(tmp_path_factory.mktemp("card"), monkeypatch, broken_down())


def undrawn(figure: Figure, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"a picture")
    plt.close(figure)


def write_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breakdown: dict[str, Any], **more: Any) -> Path:
    """Write a card into `tmp_path / "model"`, which is returned; `more` are arguments of the program."""
    scores(
        (100, "cv-dev", 0.9), (200, "cv-dev", 0.123456), (200, "own-test", 0.5), (200, "own-test-gsm", 0.6)
    ).to_parquet(tmp_path / "summary.parquet")
    probed = [
        {"step": step, "dev_wer": wer, "dev_clips": 9} for step, wer in zip(PLAN["checkpoints"], WERS, strict=True)
    ]
    (tmp_path / "training.jsonl").write_text("".join(as_json(line) + "\n" for line in [*LOG, *probed]))
    counts = {"sets": ["cv-train"], "clips": 5, "seconds": 36, "speakers": 2, "excluded": {},
              "clips_touched": {"case lower": 4},
              "characters_replaced": {}, "characters_dropped": {"«": 3}}  # fmt: skip
    leakage = {
        "own-test": {
            kind: {"clips": i, "action": "remove", "examples": [{"sentence": SECRET}]}
            for i, kind in enumerate(("speaker", "sentence", "audio"))
        }
        | {"removed": 2}
    }
    training = {"hyper_parameters": {"learning_rate": 5e-05, "seed": 42}, "versions": {"Transformers": "5.23.0"},
                "hardware": {"device": "cpu", "processor": "x86_64", "threads": 2}, "parameters": 1234567,
                "wall_seconds": 90.0}  # fmt: skip
    usage = [{"decoder": "greedy", "code": "print(1)\n", "set": "cv-dev", "clip": "clip-007", "printed": "раз"}]
    for name, value in {
        "selection": {"step": 200, "set": "cv-dev", "decoder": "greedy", "metric": "wer",
                      "sha256": {"model.safetensors": "f00d"}},
        "training": training, "plan": PLAN, "model/vocab": {"[PAD]": 0, "[UNK]": 1, "|": 2, "а": 3},
        "train": counts, "cv/status": STATUS, "own/status": STATUS | {"dataset": "own", "about": {}},
        "leakage": leakage, "base": {"commit": "c0ffee"}, "breakdown": breakdown, "usage": usage,
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_json(value, tmp_path / f"{name}.json")
    (tmp_path / "train.sha256").write_text("7ra1n\n")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    clip = dict.fromkeys(HYPOTHESES.names) | {"id": "clip-007", "sentence": SECRET, "hypothesis": "раз"}
    clip |= {"speaker_id": SPEAKER, "scored_reference": SECRET}
    for name in ("cv-dev", "own-test", "own-test-gsm"):
        write_table([clip], HYPOTHESES, tmp_path / "200" / name / "greedy" / "hypotheses.parquet")
        known = dict.fromkeys(CLIPS.names) | {"id": "clip-007", "audio_sha256": "a0d10"}
        write_table([known], CLIPS, tmp_path / f"{name}.parquet")
    arguments: dict[str, Any] = {
        "settings": [SETTINGS.model_dump_json()], "configuration": ['{"runs": {"demo": {}}}'],
        **{name: [tmp_path / f"{name}.json"] for name in ("selection", "training", "plan", "leakage", "breakdown",
                                                          "usage")},
        "summary": [tmp_path / "summary.parquet"], "training-log": [tmp_path / "training.jsonl"],
        "train-digest": [tmp_path / "train.sha256"], "counts": [tmp_path / "train.json"],
        "status": [tmp_path / "cv/status.json", tmp_path / "own/status.json"],
        "base-source": [tmp_path / "base.json"],
        "clips": sorted(tmp_path.glob("*-*.parquet")), "hypotheses": sorted(tmp_path.glob("200/*/*/*.parquet")),
        "model": [tmp_path / "model"], "page": [tmp_path / "card.html"],
    }  # fmt: skip
    given = [str(x) for k, v in (arguments | more).items() for x in (f"--{k}", *v)]
    monkeypatch.setattr(sys, "argv", ["card", *given])
    card.main()
    return tmp_path / "model"


def test_the_card_is_one_that_the_hub_can_read(written: Path) -> None:
    read = ModelCard.load(written / "README.md")
    assert read.data.model_name == "A demo"
    assert len(read.data.eval_results) == 4
    assert read.text.strip().startswith("<!--")


def test_the_card_has_the_headings_of_the_cards_of_the_trainer(written: Path) -> None:
    # The order of transformers' automatic cards, in which others look for things.
    text = (written / "README.md").read_text()
    headings = [
        "# A demo", "## Model description", "## Intended uses & limitations", "## Training and evaluation data",
        "## Training procedure", "### Training hyperparameters", "### Training results", "### Framework versions",
    ]  # fmt: skip
    places = [text.index(f"\n{heading}\n") for heading in headings]
    assert places == sorted(places)


def test_the_card_says_the_selected_scores_as_fractions_and_the_commit_of_the_base(written: Path) -> None:
    text = (written / "README.md").read_text()
    for part in ("- Loss: 0.2469", "- Wer: 0.1235", "- Cer: 0.0309", "commit `c0ffee`", "- learning_rate: 5e-05"):
        assert part in text


def test_the_card_says_which_characters_of_a_set_the_model_cannot_write(written: Path) -> None:
    assert "Common Voice 8.0 dev: `q` `ё`" in (written / "README.md").read_text()


def test_the_card_says_what_was_drawn_what_leaked_and_what_was_not_as_expected(written: Path) -> None:
    text = (written / "README.md").read_text()
    assert "Common Voice 8.0 held: 10% of the speakers of dev" in text
    assert "Common Voice 8.0: train has 6 clips, expected were 7" in text
    (row,) = (line for line in text.splitlines() if "(remove)" in line)
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "Our own test", "0 (remove)", "1 (remove)", "2 (remove)", "2",
    ]  # fmt: skip


def test_a_set_that_could_not_be_had_stands_beside_the_results_with_the_reason() -> None:
    frame = scores((200, "cv-dev", 0.1), (200, "own-test", float("nan")))
    frame["unavailable"] = [None, "the Hub says no"]
    assert unavailable_sets(SETTINGS, frame) == ["Our own test: the Hub says no"]
    assert "Our own" not in results_table(SETTINGS, frame)


def test_the_card_says_which_checkpoints_were_not_kept(written: Path) -> None:
    text = (written / "README.md").read_text()
    assert "lowest WER on Common Voice 8.0 dev of all that were kept" in text
    assert "†: the greedy WER on the whole dev set, taken while training went on. It decided which 2 of 4 " in text
    rows = text.split("### Training results")[1].split("###")[0].splitlines()
    wers = {row.split("|")[3].strip(): row.split("|")[5].strip() for row in rows if row.startswith("| ")}
    assert wers == {"Step": "Wer", "50": "0.9900 †", "100": "0.9000", "200": "0.1235", "210": "0.9800 †"}


@pytest.mark.parametrize(("kept", "drawn"), [((100, 200), [[50, 100, 200, 210]]), ((50, 100, 200, 210), [])])
def test_the_plot_shows_what_training_knew_of_checkpoints_only_where_some_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: tuple[int, ...], drawn: list[list[int]]
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    probed = dict(zip(PLAN["checkpoints"], WERS, strict=True))
    frame = scores(*((step, "cv-dev", 0.5) for step in kept))
    plot_error_rates(frame, probed, SETTINGS.set_title, 100, tmp_path / "wer.png")
    axes, cer = figures[0].axes
    assert not [line for line in cer.get_lines() if "in training" in str(line.get_label())]
    lines = {str(line.get_label()): list(line.get_xdata()) for line in axes.get_lines()}
    assert lines["Common Voice 8.0 dev, greedy"] == list(kept)
    assert [steps for label, steps in lines.items() if "in training" in label] == drawn


def test_plots_are_pictures(written: Path) -> None:
    # The signature of a PNG file: ISO/IEC 15948, section 5.2.
    for name in ("loss.png", "wer.png", "breakdown.png"):
        assert (written / "plots" / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_card_is_shown_as_one_page_with_its_pictures_inside(tmp_path: Path) -> None:
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "wer.png").write_bytes(b"picture")
    shown = card.page("---\na: b\n---\n\n# Title\n\n| x |\n|:-:|\n| 1 |\n\n![WER](plots/wer.png)\n", tmp_path)
    assert "<h1>Title</h1>" in shown
    assert "<table>" in shown
    assert 'src="data:image/png;base64,cGljdHVyZQ=="' in shown
    assert "a: b" not in shown


def test_a_changed_copy_is_no_published_result(written: Path) -> None:
    text = (written / "README.md").read_text()
    assert "gsm" not in text
    assert len(ModelCard.load(written / "README.md").data.eval_results) == 4


def test_a_run_without_a_language_model_or_changed_copies_has_a_card_that_says_nothing_of_them(written: Path) -> None:
    text = (written / "README.md").read_text()
    for heading in ("### Language model", "### Robustness", "robustness.png", "### Beside the published model"):
        assert heading not in text


@pytest.mark.parametrize(
    ("wer", "interval", "p", "said"),
    [
        (
            (0.2, 0.15), (-0.07, -0.02), 0.001,
            "the language model lowers WER from 20.00 % to 15.00 %"
            " (difference −5.00 points, 95 % interval −7.00 to −2.00, p ≤ 0.001).",
        ),
        (
            (0.2, 0.19), (-0.03, 0.01), 0.412,
            "the language model brings WER from 20.00 % to 19.00 %, which may be chance"
            " (difference −1.00 points, 95 % interval −3.00 to +1.00, p = 0.412).",
        ),
        (
            (0.2, 0.25), (0.01, 0.09), 0.01,
            "the language model does not lower WER: it raises WER from 20.00 % to 25.00 %"
            " (difference +5.00 points, 95 % interval +1.00 to +9.00, p = 0.010).",
        ),
        (
            (0.2, 0.21), (-0.01, 0.03), 0.5,
            "the language model does not lower WER: it raises WER from 20.00 % to 21.00 %, which may be chance"
            " (difference +1.00 points, 95 % interval −1.00 to +3.00, p = 0.500).",
        ),
        (
            (0.2, 0.2), (-0.01, 0.01), 1.0,
            "the language model does not lower WER, which stays at 20.00 %"
            " (difference +0.00 points, 95 % interval −1.00 to +1.00, p = 1.000).",
        ),
        (
            (0.2, 0.1), None, None,
            "the language model brings WER from 20.00 % to 10.00 %, which may be chance"
            " (difference −10.00 points; one speaker, so that chance cannot be told).",
        ),
    ],
)  # fmt: skip
def test_what_the_language_model_does_is_said_as_it_is(
    wer: tuple[float, float], interval: tuple[float, float] | None, p: float | None, said: str
) -> None:
    found = of_language_model(broken_down(with_lm(wer, interval, p)), SETTINGS.set_title)
    assert found == [f"Common Voice 8.0 dev: {said}"]


def test_the_card_of_a_run_with_a_language_model_says_what_it_is_and_how_to_decode_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "text": {"source": "training", "read": 900, "sentences": 800, "removed": 25},
        "arpa": {"order": 4, "ngrams": [100, 2000, 30]},
        "weights": {"lm_weight": 1.5, "word_score": -0.5, "step": 100, "set": "cv-dev"},
    }.items():
        write_json(value, tmp_path / f"{name}.json")
    files = [tmp_path / f"{name}.json" for name in ("text", "arpa", "weights")]
    monkeypatch.setattr(plots, "save", undrawn)
    breakdown = broken_down(with_lm((0.2, 0.15), (-0.07, -0.02), 0.001))
    text = (write_card(tmp_path, monkeypatch, breakdown, lm=files) / "README.md").read_text()
    told = " ".join(text.split())
    assert "- Common Voice 8.0 dev: the language model lowers WER from 20.00 % to 15.00 %" in text
    assert "n-grams of up to 4 words, 2,130 in all, of 800 sentences from the training texts; 25 sentences" in told
    assert "Its weight, 1.5, and the score of a word, -0.5, were chosen on Common Voice 8.0 dev alone" in told


def test_the_card_says_where_the_model_fails(written: Path) -> None:
    text = (written / "README.md").read_text()
    for line in (
        "- by length: worst is `2 and more` s with 30.00 % (29.00 to 31.00; 1,234 words); best is `under 2` s",
        "- by gender: worst is `male` with 25.00 % (one speaker; 1,234 words); best is `female`",
        "- by speaker: from 10.00 % to 30.00 % over 3 speakers, the median 20.00 %",
        "- words taken for others, most often: `раз` → `рас` 1,200 of 4,000",
        "- words too many, most often: `ой` 2",
        "- characters left out, most often: `␣` 5 of 50",
    ):
        assert line in text
    for nothing_to_tell in ("by speaking rate", "by age", "by accent", "words left out"):
        assert nothing_to_tell not in text


def test_the_card_says_how_the_selected_checkpoint_stands_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        comparison("checkpoints", "cv-dev 100 greedy", "cv-dev 200 greedy", (0.9, 0.2), (-0.8, -0.6), 0.001),
        comparison("checkpoints", "cv-dev 300 greedy", "cv-dev 200 greedy", (0.25, 0.2), (-0.1, 0.01), 0.2),
        comparison("checkpoints", "own-test 100 greedy", "own-test 200 greedy", (0.7, 0.2), (-0.8, -0.6), 0.001),
    ]
    monkeypatch.setattr(plots, "save", undrawn)
    text = (write_card(tmp_path, monkeypatch, broken_down(*rows)) / "README.md").read_text()
    assert (
        "On Common Voice 8.0 dev, by greedy decoding:\n"
        "- step 100, the one before: WER 90.00 %, from there to the selected one: difference"
        " −70.00 points, 95 % interval −80.00 to −60.00, p ≤ 0.001\n- step 300, the last one: WER 25.00 %, "
    ) in text
    assert "WER 70.00 %" not in text  # on another set


def test_the_card_says_which_sets_are_scored_as_the_event_did() -> None:
    frame = BEST.assign(protocol=["plain", "robust_speech_event"])
    assert event_sets(SETTINGS, frame) == ["Our own test"]
    assert event_sets(SETTINGS, BEST) == []


def test_scores_by_further_protocols_stand_in_a_table_of_their_own() -> None:
    assert protocols_table(SETTINGS, BEST) == ""
    frame = BEST.assign(wer_robust_speech_event=[None, 0.6], cer_robust_speech_event=[None, 0.3])
    (line,) = protocols_table(SETTINGS, frame.astype({"wer_robust_speech_event": float})).splitlines()[2:]
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "Our own test", "greedy", "`robust_speech_event`", "60.00", "30.00",
    ]  # fmt: skip


def test_changed_copies_stand_in_a_table_and_a_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        comparison("effect", "own-test 200 greedy", "own-test-gsm 200 greedy", (0.5, 0.6), (0.05, 0.15), 0.001),
        comparison("effect", "own-test 200 lm", "own-test-gsm 200 lm", (0.4, 0.5), None, None),
    ]
    monkeypatch.setattr(plots, "save", undrawn)
    plot = tmp_path / "model" / "plots" / "robustness.png"
    plot.parent.mkdir(parents=True)
    plot_robustness(scores((200, "own-test", 0.5), (200, "own-test-gsm", 0.6)), SETTINGS.set_title, plot)
    folder = write_card(tmp_path, monkeypatch, broken_down(*rows))
    text = (folder / "README.md").read_text()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "| gsm" in line]
    assert cells == [
        ["Our own test", "gsm", "greedy", "50.00", "60.00", "+10.00", "+5.00 to +15.00"],
        ["Our own test", "gsm", "lm", "40.00", "50.00", "+10.00", "–"],
    ]
    assert "(plots/robustness.png)" in text
    assert (tmp_path / "card.html").read_text().count("data:image/png") == 4


def drawn(monkeypatch: pytest.MonkeyPatch, draw: Callable[[], None]) -> Figure:
    """What `draw` would write."""
    figures: list[Figure] = []

    def keep(figure: Figure, path: Path) -> None:
        figures.append(figure)
        plt.close(figure)

    monkeypatch.setattr(plots, "save", keep)
    draw()
    return figures[0]


def test_each_set_and_decoder_has_a_line_of_its_own_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"own-test_{i}" for i in range(6)]
    greedy = scores(*((step, name, 0.5) for name in names for step in (100, 200)))
    frame = pd.concat([greedy, greedy.assign(decoder="lm")], ignore_index=True)
    figure = drawn(monkeypatch, lambda: plot_error_rates(frame, {}, SETTINGS.set_title, 100, tmp_path))
    for axes in figure.axes:
        lines = [line for line in axes.get_lines() if len(list(line.get_xdata())) == 2 and line.get_marker() != "None"]
        assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines}) == len(lines) == 12
        assert len({(line.get_linestyle(), line.get_marker()) for line in lines}) == 12  # without colours too


def test_a_set_that_is_scored_once_has_an_interval_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = scores((100, "cv-dev", 0.4), (200, "cv-dev", 0.3), (200, "own-test", 0.5))
    figure = drawn(monkeypatch, lambda: plot_error_rates(frame, {}, SETTINGS.set_title, 200, tmp_path))
    assert [len(axes.collections) for axes in figure.axes] == [2, 2]  # a band and a bar


def test_the_breakdown_is_drawn_for_every_set_and_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = broken_down()["sets"]
    sets["cv-dev"]["lm"] = sets["own-test"] = sets["cv-dev"]["greedy"] | {}
    sets = {"cv-dev": sets["cv-dev"], "own-test": {"greedy": sets["own-test"]}}
    figure = drawn(monkeypatch, lambda: plot_breakdown(sets, SETTINGS.set_title, tmp_path))
    assert len(figure.axes) == 6
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["under 2\n3", "2 and more\n3"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["greedy", "lm"]


def test_a_set_whose_speakers_are_not_known_is_drawn_with_a_word_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = broken_down()["sets"]
    sets["cv-dev"]["greedy"]["groups"]["speaker"] = [group(None, 0.2)]
    figure = drawn(monkeypatch, lambda: plot_breakdown(sets, SETTINGS.set_title, tmp_path))
    assert [text.get_text() for text in figure.axes[2].texts] == ["no speaker is known"]


def test_effects_are_drawn_beneath_the_set_that_they_change_the_mildest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = scores((1, "own-test", 0.2), (1, "own-test-gsm", 0.6), (1, "own-test-quiet", 0.3), (1, "cv-dev", 0.1))
    figure = drawn(monkeypatch, lambda: plot_robustness(frame, SETTINGS.set_title, tmp_path))
    (axes,) = figure.axes
    assert axes.get_title() == "Our own test"
    assert [text.get_text() for text in axes.get_yticklabels()] == ["as published", "quiet", "gsm"]


def test_changed_copies_that_could_not_be_had_are_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = scores((1, "own-test", float("nan")), (1, "own-test-gsm", float("nan")))
    figure = drawn(monkeypatch, lambda: plot_robustness(frame, SETTINGS.set_title, tmp_path))
    assert [text.get_text() for text in figure.texts] == ["no changed copy of a set has a word error rate"]


def test_a_set_that_could_not_be_had_has_an_empty_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = group(None, 0.0, clips=0) | {"groups": {key: [] for key in ("seconds", "rate", "speaker")}}
    sets = broken_down()["sets"] | {"own-test": {"greedy": nothing}}
    assert len(drawn(monkeypatch, lambda: plot_breakdown(sets, SETTINGS.set_title, tmp_path)).axes) == 6


def test_the_program_of_robustness_draws_the_selected_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores((1, "own-test", 0.9), (2, "own-test", 0.2), (2, "own-test-gsm", 0.6)).to_parquet(tmp_path / "summary")
    write_json({"step": 2}, tmp_path / "selection.json")
    arguments = ["--settings", as_json({"titles": {"own-test": "Our own test"}}), "--summary", tmp_path / "summary",
                 "--selection", tmp_path / "selection.json", "--plot", tmp_path / "plot.png"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["robustness", *map(str, arguments)])
    figure = drawn(monkeypatch, robustness.main)
    (axes,) = figure.axes
    assert [list(line.get_xdata()) for line in axes.get_lines() if line.get_marker() == "o"] == [[20.0, 60.0]]


def test_pictures_of_the_same_figures_are_the_same_files(tmp_path: Path) -> None:
    for name in ("one.png", "other.png"):
        plot_loss(LOG, scores((100, "cv-dev", 0.4), (200, "cv-dev", 0.3)), SETTINGS.set_title, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()


def test_the_folder_has_what_the_card_is_made_of_without_texts_and_speakers_of_the_corpus(written: Path) -> None:
    assert render(context(evidence.read(written))) == (written / "README.md").read_text()
    assert manifest.faults(written) == []
    for path in (each for each in written.rglob("*") if each.is_file()):
        for private in (SECRET, SPEAKER):
            assert private.encode() not in path.read_bytes(), path
    assert pd.read_parquet(evidence.scored_file(written, "cv-dev", "greedy"))["audio_sha256"].to_list() == ["a0d10"]


def test_the_hub_gets_the_scores_of_sets_that_it_has_in_its_newer_form(written: Path) -> None:
    (file,) = (written / ".eval_results").iterdir()
    (wer, cer) = yaml.safe_load(file.read_text())
    assert wer["dataset"]["id"] == cer["dataset"]["id"] == "mozilla-foundation/common_voice_8_0"
    assert (wer["value"], cer["value"]) == (12.35, 3.09)


def test_every_section_of_the_card_that_has_figures_says_how_they_are_known(written: Path) -> None:
    text = (written / "README.md").read_text()
    assert set(numbers(text)) <= set(KNOWN)
    told = text.split("## How these numbers are known")[1]
    for heading in set(numbers(text)):
        assert f"| {heading} " in told


def test_no_figure_is_typed_by_hand_in_the_template() -> None:
    typed = (ROOT / "workflow" / TEMPLATE).read_text(encoding="utf-8")
    literal = re.sub(r"{{.*?}}|{%.*?%}", "", typed, flags=re.DOTALL)
    # A digit within a word, as in sha256, is a name.
    assert re.findall(r"(?<!\w)\d", literal) == []


def test_what_a_cell_of_a_table_says_cannot_break_it() -> None:
    assert table([["Set", "Why"], ["a", "no | such\n\nset"]]).splitlines()[2] == "| a   | no \\| such set |"
