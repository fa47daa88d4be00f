import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from huggingface_hub import ModelCard

from material import as_json
from speechmill import card
from speechmill.card import (
    Settings,
    corpus_table,
    data_table,
    front_matter,
    percent,
    results_table,
    table,
    text_rules,
    training_results,
    unavailable_sets,
)
from speechmill.summary import COLUMNS
from speechmill.tables import write_json

SETTINGS = Settings.model_validate(
    {
        "language": "ru",
        "card": {"title": "A demo", "description": "It is small.", "uses": "None.", "tags": ["demo"]},
        "base": "somebody/wav2vec2-tiny",
        "base_run": None,
        "train": ["cv-train", "cv-other"],
        "text": {},
        "select": {"set": "cv-dev", "decoder": "greedy", "metric": "wer"},
        "datasets": {
            "cv": {"name": "Common Voice", "version": "8.0", "licence": "CC0-1.0", "language": "ru",
                   "hub_id": "mozilla-foundation/common_voice_8_0", "drawn": {"held": {"of": "dev", "share": 0.1}}},
            "own": {"name": "Our own", "version": "", "licence": "CC-BY-4.0", "language": "ru", "hub_id": None,
                    "drawn": {}},
        },
    }
)  # fmt: skip


def scores(*rows: tuple[int, str, float]) -> pd.DataFrame:
    """A summary of (step, set, WER)."""
    return pd.DataFrame(
        {
            **dict.fromkeys(COLUMNS, 0),
            "run": "demo", "step": step, "set": name, "decoder": "greedy", "protocol": "plain",
            "outside_vocabulary": "q ё", "unavailable": None,
            "wer": wer, "wer_low": wer - 0.01, "wer_high": wer + 0.01, "cer": wer / 4, "loss": wer * 2,
            "clips_scored": 9, "clips_expected": 10, "reference_words": 1234,
        }
        for step, name, wer in rows
    )  # fmt: skip


BEST = scores((200, "cv-dev", 0.123456), (200, "own-test", 0.5))


def loaded(text: str) -> ModelCard:
    return ModelCard(f"---\n{text}\n---\n\n# A demo\n")


def test_front_matter_is_what_the_hub_reads() -> None:
    data = loaded(front_matter(SETTINGS, BEST)).data
    assert (data.language, data.license, data.base_model) == ("ru", "apache-2.0", "somebody/wav2vec2-tiny")
    assert (data.library_name, data.metrics) == ("transformers", ["wer", "cer"])
    assert data.datasets == ["mozilla-foundation/common_voice_8_0"]  # the other one is not on the Hub
    assert data.tags[0] == "automatic-speech-recognition"
    assert "demo" in data.tags


def test_the_model_index_makes_the_round_trip() -> None:
    first = loaded(front_matter(SETTINGS, BEST))
    again = ModelCard(str(first))
    assert first.data.model_name == "A demo"
    assert len(first.data.eval_results) == 4
    assert again.data.eval_results == first.data.eval_results
    assert again.data.to_dict() == first.data.to_dict()


def test_the_model_index_has_percentages_of_each_set() -> None:
    found = {
        (r.dataset_type, r.dataset_name, r.dataset_config, r.dataset_split, r.metric_type): r.metric_value
        for r in loaded(front_matter(SETTINGS, BEST)).data.eval_results
    }
    published = ("mozilla-foundation/common_voice_8_0", "Common Voice 8.0", "ru", "dev")
    assert found == {
        (*published, "wer"): 12.35,
        (*published, "cer"): 3.09,
        ("own", "Our own", "ru", "test", "wer"): 50.0,
        ("own", "Our own", "ru", "test", "cer"): 12.5,
    }


def test_a_model_without_a_base_has_none_in_its_card() -> None:
    text = front_matter(SETTINGS.model_copy(update={"base": None}), BEST)
    assert "base_model" not in text
    assert loaded(text).data.base_model is None


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


LOG = [{"step": step, "epoch": step / 100, "loss": loss} for step, loss in ((100, 3.14159), (200, 2.0), (210, 1.9))]


def test_training_results_are_those_of_the_cards_of_the_trainer() -> None:
    log = [*LOG, {"step": 210, "epoch": 2.1, "train_runtime": 5.0}]
    assert training_results(log, scores((210, "cv-dev", 0.2), (50, "cv-dev", 1.0), (100, "cv-dev", 0.5))) == [
        ["Training Loss", "Epoch", "Step", "Validation Loss", "Wer", "Cer"],
        ["No log", "0", "50", "2.0000", "1.0000", "0.2500"],
        ["3.1416", "1.00", "100", "1.0000", "0.5000", "0.1250"],
        ["1.9000", "2.10", "210", "0.4000", "0.2000", "0.0500"],
    ]


def test_a_set_without_a_loss_has_a_dash() -> None:
    frame = scores((100, "cv-dev", 0.5)).assign(loss=float("nan"))
    assert training_results(LOG, frame)[1][3] == "–"
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


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the program has written a card."""
    scores((100, "cv-dev", 0.9), (200, "cv-dev", 0.123456), (200, "own-test", 0.5)).to_parquet(
        tmp_path / "summary.parquet"
    )
    (tmp_path / "training.jsonl").write_text("".join(as_json(line) + "\n" for line in LOG))
    counts = {"sets": ["cv-train"], "clips": 5, "seconds": 36, "speakers": 2, "excluded": {},
              "clips_touched": {"case lower": 4},
              "characters_replaced": {}, "characters_dropped": {"«": 3}}  # fmt: skip
    status = {
        "dataset": "cv",
        "published": {"train": 6},
        "kept": {"train": 5},
        "rejected": {"train": 1},
        "differences": ["train has 6 clips, expected were 7"],
    }
    leakage = {
        "own-test": {kind: {"clips": i, "action": "remove"} for i, kind in enumerate(("speaker", "sentence", "audio"))}
        | {"removed": 2}
    }
    training = {"hyper_parameters": {"learning_rate": 5e-05, "seed": 42}, "versions": {"Transformers": "5.23.0"},
                "hardware": {"device": "cpu", "processor": "x86_64", "threads": 2}, "parameters": 1234567,
                "wall_seconds": 90.0}  # fmt: skip
    for name, value in {
        "selection": {"step": 200, "set": "cv-dev", "decoder": "greedy", "metric": "wer"},
        "training": training, "plan": {"hours": 0.01, "epochs": 2}, "vocab": {"[PAD]": 0, "[UNK]": 1, "|": 2, "а": 3},
        "train": counts, "status": status, "leakage": leakage, "base": {"commit": "c0ffee"},
    }.items():  # fmt: skip
        write_json(value, tmp_path / f"{name}.json")
    arguments = {
        "run": "demo", "settings": SETTINGS.model_dump_json(), "summary": tmp_path / "summary.parquet",
        **{name: tmp_path / f"{name}.json" for name in ("selection", "training", "plan", "vocab", "status", "leakage")},
        "training-log": tmp_path / "training.jsonl", "counts": tmp_path / "train.json",
        "base-source": tmp_path / "base.json",
        "card": tmp_path / "README.md", "page": tmp_path / "card.html",
        "loss": tmp_path / "plots" / "loss.png", "wer": tmp_path / "plots" / "wer.png",
    }  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["card", *(str(x) for k, v in arguments.items() for x in (f"--{k}", v))])
    card.main()
    return tmp_path


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


def test_plots_are_pictures(written: Path) -> None:
    # The signature of a PNG file: ISO/IEC 15948, section 5.2.
    for name in ("loss.png", "wer.png"):
        assert (written / "plots" / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_card_is_shown_as_one_page_with_its_pictures_inside(tmp_path: Path) -> None:
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "wer.png").write_bytes(b"picture")
    shown = card.page("---\na: b\n---\n\n# Title\n\n| x |\n|:-:|\n| 1 |\n\n![WER](plots/wer.png)\n", tmp_path)
    assert "<h1>Title</h1>" in shown
    assert "<table>" in shown
    assert 'src="data:image/png;base64,cGljdHVyZQ=="' in shown
    assert "a: b" not in shown
