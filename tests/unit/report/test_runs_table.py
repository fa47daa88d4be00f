import html.parser
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from material import as_json
from speechmill.config.published import Published
from speechmill.core.direction import isolate
from speechmill.core.files import write_json
from speechmill.report import runs_table
from speechmill.report.runs_table import (
    Key,
    Row,
    RunEntry,
    RunsTableSettings,
    Score,
    SetEntry,
    build_rows,
    count_parameters,
    published_rates,
    render_page,
    selected_scores,
)
from speechmill.scoring.summary import summarise


def metrics(folder: Path, run: str, step: int, name: str, decoder: str = "greedy", **changes: Any) -> Path:
    """Write `metrics.json` of a checkpoint on a set; the WER is a hundredth of the step unless `changes` has it."""
    wer = changes.pop("wer", step / 100)
    totals = {"wer": wer, "cer": wer and wer / 2, "wer_ci95": [0.1, 0.9], "cer_ci95": [0.0, 0.5], "no_interval": None}
    counts = dict.fromkeys(("substitutions", "deletions", "insertions", "reference_words"), 1)
    value = {
        "run": run, "step": step, "set": name, "decoder": decoder, "protocol": "plain", **totals, **counts,
        "protocols": {"plain": totals}, "loss": 1.5, "clips_without_loss": 0, "clips_expected": 10, "clips_scored": 9,
        "unavailable": None, "characters_outside_vocabulary": {}, "audio_seconds": 3.0, "wall_seconds": 1.0,
        "forward_seconds": 1.0, "decoding_seconds": 0.0,
        "checkpoint_sha256": "c", "eval_set_sha256": "e", "device": "cpu",
    }  # fmt: skip
    path = folder / run / str(step) / name / decoder / "metrics.json"
    write_json(value | changes, path)
    return path


def settings(*runs: str, sets: tuple[str, ...] = ("c-dev", "c-test")) -> RunsTableSettings:
    return RunsTableSettings(
        runs=[RunEntry(name=run, start="random weights", trained_on=["A corpus train"]) for run in runs],
        sets=[SetEntry(name=name, title=name.replace("c-", "A corpus ")) for name in sets],
    )


def score(wer: float | None, cer: float | None = 0.5, **changes: Any) -> Score:
    return Score(
        **{"wer": wer, "cer": cer, "interval": None, "scored": 9, "expected": 10, "clips_digest": "e"} | changes
    )


def compared(**runs: Score) -> Row:
    """Return the row of the runs' scores on one set."""
    (row,) = build_rows(settings(*runs), {name: {("c-dev", "greedy", "plain"): each} for name, each in runs.items()})
    return row


def best(row: Row, rate: str = "wer") -> set[str]:
    return {name for name, each in row.scores.items() if rate in each.best}


def test_scores_are_of_the_selected_checkpoint(tmp_path: Path) -> None:
    summary = summarise([metrics(tmp_path, "a", step, "c-dev") for step in (10, 20, 30)])
    found = selected_scores(summary[summary["step"] == 20])
    assert [*found] == [("c-dev", "greedy", "plain")]
    assert found["c-dev", "greedy", "plain"] == score(0.2, 0.1, interval=(0.1, 0.9), cer_interval=(0.0, 0.5))


def test_only_the_first_protocol_has_an_interval(tmp_path: Path) -> None:
    both = {"plain": {"wer": 0.2, "cer": 0.1}, "robust_speech_event": {"wer": 0.4, "cer": 0.3}}
    event = metrics(tmp_path, "a", 1, "c-test", protocol="robust_speech_event", wer=0.4, cer=0.3, protocols=both)
    found = selected_scores(summarise([event]))
    assert found["c-test", "greedy", "plain"] == score(0.2, 0.1)
    assert found["c-test", "greedy", "robust_speech_event"] == score(
        0.4, 0.3, interval=(0.1, 0.9), cer_interval=(0.0, 0.5)
    )


def test_unavailable_set_has_a_reason(tmp_path: Path) -> None:
    absent = metrics(
        tmp_path, "a", 1, "c-test", wer=None, wer_ci95=[None, None], clips_expected=None, clips_scored=0,
        unavailable="it is gone",
    )  # fmt: skip
    (found,) = selected_scores(summarise([absent])).values()
    assert (found.wer, found.interval, found.unavailable) == (None, None, "it is gone")


def test_rows_are_in_the_order_of_the_configuration() -> None:
    keys: list[Key] = [("c-test", "greedy", "plain"), ("c-dev", "lm", "plain"), ("c-dev", "greedy", "plain")]
    found = build_rows(settings("a", "b"), {"a": dict.fromkeys(keys, score(0.5)), "b": {keys[0]: score(0.5)}})
    assert [(row.title, row.decoder, [*row.scores]) for row in found] == [
        ("A corpus dev", "greedy", ["a"]),
        ("A corpus dev", "lm", ["a"]),
        ("A corpus test", "greedy", ["a", "b"]),
    ]


def test_lowest_wer_and_cer_are_marked_separately() -> None:
    row = compared(a=score(0.2, 0.15), b=score(0.3, 0.1), c=score(None, None))
    assert (best(row), best(row, "cer"), row.incomparable) == ({"a"}, {"b"}, [])


def test_ties_are_marked_and_single_runs_are_not() -> None:
    assert best(compared(a=score(0.2), b=score(0.2), c=score(0.3))) == {"a", "b"}
    assert best(compared(a=score(0.2))) == set()


def test_incomparable_runs_are_grouped_and_not_marked() -> None:
    row = compared(a=score(0.2), b=score(0.3, clips_digest="other"), c=score(0.4))
    assert (best(row), row.incomparable) == (set(), [["a", "c"], ["b"]])


def test_unavailable_set_leaves_other_runs_comparable() -> None:
    row = compared(a=score(0.2), b=score(None, clips_digest="empty", unavailable="it is gone"), c=score(0.4))
    assert (best(row), row.incomparable) == ({"a"}, [])


class Tables(html.parser.HTMLParser):
    """Parser that collects the text of a page's table cells by row, with marked text in [brackets]."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._open = self._marked = False
        self.feed(text)
        self.rows = [[" ".join(cell.split()) for cell in row] for row in self.rows]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._open = True
        elif tag == "br" and self._open:
            self.rows[-1][-1] += " "
        self._marked = tag == "span" and ("class", "best") in attrs

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._open:
            self.rows[-1][-1] += f"[{data}]" if self._marked and data.strip() else data


TRAINED = {"parameters": 747_876, "hours": 0.77, "wall_seconds": 1800, "device": "cpu", "steps": 528, "epochs": 5,
           "averaged": ()}  # fmt: skip


def test_page_has_a_column_per_run_and_marks_the_lowest() -> None:
    both = settings("a", "b", sets=("c-dev",))
    both.runs[1] = RunEntry(name="b", start="owner/name", trained_on=[])
    of = {"a": {("c-dev", "greedy", "plain"): score(0.0971, 0.0449, interval=(0.09, 0.1234))}}
    of["b"] = {("c-dev", "greedy", "plain"): score(0.5, 0.25)}
    tables = Tables(
        render_page(
            both, {"a": TRAINED | {"step": 440}, "b": {"parameters": None, "step": 0}}, build_rows(both, of), {}
        )
    )
    assert [row[1:] for row in tables.rows] == [
        ["a", "b"],
        ["trained from random weights", "owner/name, not trained"],
        ["0.7 M", "unknown"],
        ["A corpus train 0.77 hours, 5 epochs", "–"],
        ["30.0 minutes cpu", "–"],
        ["440 of 528", "–"],
        ["[9.71] 9.00 – 12.34 CER [4.49] 9 of 10 clips", "50.00 CER 25.00 9 of 10 clips"],
    ]
    assert tables.rows[-1][0] == "A corpus dev greedy decoding"


def test_transcribed_hours_are_shown_below_all_hours() -> None:
    one = settings("student", sets=("c-dev",))
    # The leakage rules may have removed all clips of a dataset.
    one.runs[0].transcribed_by = {"machine": "teacher", "removed": "other"}
    facts = TRAINED | {"step": 1, "hours": 1000.5, "hours_of": {"c": 0.5, "machine": 1000}}
    rows = Tables(render_page(one, {"student": facts}, [], {})).rows
    assert rows[3] == [
        "trained on",
        "A corpus train 1,000.50 hours, 5 epochs 1,000.00 hours transcribed by teacher 0.00 hours transcribed by other",
    ]


def test_right_to_left_text_of_runs_is_isolated() -> None:
    name, key = "كتاب", ("c-dev", "greedy", "plain")
    two = settings("a", "b", sets=("c-dev",))
    two.sets[0] = SetEntry(name="c-dev", title=isolate(name) + " dev")
    two.runs[0] = RunEntry(name="a", start=name, trained_on=[isolate(name) + " train", isolate(name) + " other"])
    of = {"a": {key: score(0.1)}, "b": {key: score(None, unavailable=f"{name} <404>")}}
    table = [["Set", "Remarks"], [isolate(name) + " dev", f"{isolate(name)}; 1 of 2 clips"]]
    facts = dict.fromkeys("ab", TRAINED | {"step": 1})
    text = render_page(two, facts, build_rows(two, of), {"a": table})
    assert f"\u2068{name}\u2069 train + \u2068{name}\u2069 other" in text
    assert f"<td>\u2068{name}\u2069; 1 of 2 clips</td>" in text
    isolated = re.sub(r"<bdi.*?</bdi>|\u2068.*?\u2069", "", text)
    assert name not in isolated
    assert "<404>" not in text


def test_page_notes_incomparable_and_unscored_sets() -> None:
    three = settings("a", "b", "d", sets=("c-dev",))
    key = ("c-dev", "lm", "robust_speech_event")
    of = {"a": {key: score(0.1)}, "b": {key: score(0.2, clips_digest="other")}}
    of["d"] = {key: score(None, unavailable="no <key>")}
    tables = Tables(render_page(three, dict.fromkeys("abd", TRAINED | {"step": 1}), build_rows(three, of), {}))
    assert tables.rows[-1][0] == (
        "A corpus dev decoding with a language model, robust speech event Not comparable,"
        " because clips or texts differ: a / b."
    )
    assert tables.rows[-1][3] == "not scored: no <key>"


PUBLISHED = Published.model_validate(
    {
        "model": "somebody/wav2vec2-ru",
        "title": "A model",
        "differs": "It has <more> data.",
        "evaluation": {"set": "c-dev", "wer": 0.0971},
        "results": [
            {"set": "c-test", "name": "C", "type": "c", "metrics": [
                {"type": "wer", "value": 10.83}, {"type": "cer", "value": 2.41},
                {"type": "wer", "value": 7.5, "decoder": "lm"}, {"type": "bleu", "value": 1},
            ]},
            {"name": "Not scored here", "type": "d", "metrics": [{"type": "wer", "value": 1}]},
        ],
    }
)  # fmt: skip
PAPER = Published.model_validate(
    {"title": "A paper", "source": "Proceedings", "scores": [{"set": "c-dev", "wer": 8, "cer": 2}]}
)


def test_published_rates_are_fractions_by_key() -> None:
    assert published_rates(PUBLISHED) == {
        ("c-dev", "greedy", "plain"): {"wer": 0.0971},
        ("c-test", "greedy", "robust_speech_event"): {"wer": pytest.approx(0.1083), "cer": pytest.approx(0.0241)},
        ("c-test", "lm", "robust_speech_event"): {"wer": pytest.approx(0.075)},
    }


def test_published_results_have_unmarked_columns_and_sources() -> None:
    three = settings("a", "b", "d")
    three.runs[0].published = [PUBLISHED, PAPER]
    three.runs[1].published = [PUBLISHED]
    of = {name: {("c-dev", "greedy", "plain"): score(wer, None)} for name, wer in (("a", 0.3), ("b", 0.2), ("d", 0.4))}
    comparisons = {"a": [["Set", "Remarks"], ["A corpus dev", "a <remark>"]]}
    shown = render_page(three, dict.fromkeys("abd", TRAINED | {"step": 1}), build_rows(three, of), comparisons)
    table = Tables(shown).rows
    assert table[0] == ["", "a", "b", "d", "published: somebody/wav2vec2-ru", "published: A paper"]
    assert [[row[0].split()[2], *row[2:]] for row in table[6:-2]] == [
        ["dev", "[20.00] CER – 9 of 10 clips", "40.00 CER – 9 of 10 clips", "9.71", "8.00 CER 2.00"],
        ["test", "–", "–", "10.83 CER 2.41", "–"],
        ["test", "–", "–", "7.50", "–"],
    ]
    assert table[-1] == ["A corpus dev", "a <remark>"]
    assert '<a href="https://huggingface.co/somebody/wav2vec2-ru" target="_blank">A model</a>' in shown
    assert "(somebody/wav2vec2-ru): It has &lt;more&gt; data.</li>" in shown
    assert "<li>A paper, Proceedings</li>" in shown


def test_parameters_are_counted_in_all_files(tmp_path: Path) -> None:
    assert count_parameters(tmp_path) is None
    save_file({"a.weight": torch.zeros(3, 4), "norm.running_mean": torch.zeros(5)}, tmp_path / "m-1.safetensors")
    save_file({"b.bias": torch.zeros(7)}, tmp_path / "m-2.safetensors", metadata={"format": "pt"})
    assert count_parameters(tmp_path) == 3 * 4 + 7


@pytest.fixture
def arguments(tmp_path: Path) -> list[object]:
    """Arguments of the stage for a run `a` that was trained and a run `b` that only scores."""
    arguments: list[object] = ["--summaries"]
    for run, step in (("a", 20), ("b", 0)):
        file = tmp_path / f"{run}.parquet"
        summarise([metrics(tmp_path, run, step, "c-dev", wer=0.25 + step / 100)]).to_parquet(file)
        arguments.append(file)
        write_json({"step": step}, tmp_path / f"{run}.json")
    training = {
        "hyper_parameters": {"training_steps": 40, "num_epochs": 2},
        "parameters": 1_000_000, "wall_seconds": 7200.0, "hardware": {"device": "H100"},
    }  # fmt: skip
    write_json(training, tmp_path / "training.json")
    by_dataset = {"c": {"seconds": 3600.0}, "machine": {"seconds": 1800.0}}
    write_json({"seconds": 5400.0, "by_dataset": by_dataset}, tmp_path / "train.json")
    (tmp_path / "model").mkdir()
    save_file({"a": torch.zeros(300_000)}, tmp_path / "model/model.safetensors")
    return [
        *arguments, "--selections", tmp_path / "a.json", tmp_path / "b.json",
        "--trainings", tmp_path / "training.json", "--counts", tmp_path / "train.json",
        "--models", tmp_path / "model", "--page", tmp_path / "page.html",
    ]  # fmt: skip


def test_main_writes_trained_and_scored_runs(
    tmp_path: Path, arguments: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = json.loads(settings("a", "b", sets=("c-dev",)).model_dump_json())
    both["runs"][0]["transcribed_by"] = {"machine": "b"}
    both["runs"][1] |= {"start": "owner/name", "trained_on": []}
    monkeypatch.setattr(sys, "argv", ["runs_table", "--settings", as_json(both), *map(str, arguments)])
    runs_table.main()
    rows = Tables((tmp_path / "page.html").read_text(encoding="utf-8")).rows
    assert [row[1] for row in rows[2:6]] == [
        "1.0 M",
        "A corpus train 1.50 hours, 2 epochs 0.50 hours transcribed by b",
        "2.00 hours H100",
        "20 of 40",
    ]
    assert [row[2] for row in rows[2:6]] == ["0.3 M", "–", "–", "–"]
    assert [cell.split()[0] for cell in rows[-1][1:]] == ["45.00", "[25.00]"]


def test_page_says_which_sets_a_scored_model_may_have_seen(
    tmp_path: Path, arguments: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = json.loads(settings("a", "b", sets=("c-dev",)).model_dump_json())
    known = {"dataset": "c", "split": "dev", "names": ["A corpus"], "version": "8.0"}
    # The run `a` starts from a run with random weights, and has no card of a base.
    both["runs"][0]["base_training"] = {"base": None, "runs": {"z": []}, "sets": {"c-dev": known}}
    both["runs"][1] |= {"trained_on": [], "base_training": {"base": "owner/name", "sets": {"c-dev": known}}}
    card = {"model": "owner/name", "datasets": ["somebody/a_corpus_8_0"], "problem": None}
    write_json({"cards": [card], "weights_changed": None}, tmp_path / "base.json")
    more = ["--base-cards", tmp_path / "base.json"]
    monkeypatch.setattr(sys, "argv", ["runs_table", "--settings", as_json(both), *map(str, [*arguments, *more])])
    runs_table.main()
    assert Tables((tmp_path / "page.html").read_text(encoding="utf-8")).rows[-2:] == [
        ["a", "random weights", "A corpus dev", "not named", "–"],
        ["b", "owner/name", "A corpus dev", "same corpus, same release", "somebody/a_corpus_8_0 (card of owner/name)"],
    ]


def test_cer_stands_first_where_it_decides() -> None:
    given = settings("a")
    given.runs[0] = given.runs[0].model_copy(update={"metric": "cer"})
    rates = score(1.0, 0.0449, interval=(1.0, 1.0), cer_interval=(0.04, 0.05))
    rows = build_rows(given, {"a": {("c-dev", "greedy", "plain"): rates}})
    page = render_page(given, {"a": TRAINED | {"step": 20}}, rows, {})
    (cell,) = [row[1] for row in Tables(page).rows if "clips" in row[1]]
    assert cell == "CER 4.49 4.00 – 5.00 WER 100.00 9 of 10 clips"
