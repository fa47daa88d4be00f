import html.parser
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from material import as_json, run_stage
from speechmill.config.reference_card import ReferenceCard
from speechmill.core.tables import write_json
from speechmill.report.runs_table import (
    Key,
    Row,
    RunAbout,
    RunsTableSettings,
    Score,
    SetAbout,
    page,
    published_rates,
    rows,
    scores,
    stored_parameters,
)
from speechmill.scoring.summary import summarise


def metrics(folder: Path, run: str, step: int, name: str, decoder: str = "greedy", **changes: Any) -> Path:
    """The `metrics.json` of a run's checkpoint on a set; WER is a hundredth of the step unless `changes` say it."""
    wer = changes.pop("wer", step / 100)
    totals = {"wer": wer, "cer": wer and wer / 2, "wer_ci95": [0.1, 0.9], "cer_ci95": [0.0, 0.5]}
    counts = dict.fromkeys(("substitutions", "deletions", "insertions", "reference_words"), 1)
    value = {
        "run": run, "step": step, "set": name, "decoder": decoder, "protocol": "plain", **totals, **counts,
        "protocols": {"plain": totals}, "loss": 1.5, "clips_without_loss": 0, "clips_expected": 10, "clips_scored": 9,
        "unavailable": None, "characters_outside_vocabulary": {}, "audio_seconds": 3.0, "wall_seconds": 1.0,
        "checkpoint_sha256": "c", "eval_set_sha256": "e", "device": "cpu",
    }  # fmt: skip
    path = folder / run / str(step) / name / decoder / "metrics.json"
    write_json(value | changes, path)
    return path


def settings(*runs: str, sets: tuple[str, ...] = ("c-dev", "c-test")) -> RunsTableSettings:
    return RunsTableSettings(
        runs=[RunAbout(name=run, start="random weights", trained_on=["A corpus train"]) for run in runs],
        sets=[SetAbout(name=name, title=name.replace("c-", "A corpus ")) for name in sets],
    )


def score(wer: float | None, cer: float | None = 0.5, **changes: Any) -> Score:
    return Score(**{"wer": wer, "cer": cer, "interval": None, "scored": 9, "published": 10, "clips": "e"} | changes)


def compared(**runs: Score) -> Row:
    """The row of the runs' scores on one set."""
    (row,) = rows(settings(*runs), {name: {("c-dev", "greedy", "plain"): each} for name, each in runs.items()})
    return row


def best(row: Row, rate: str = "wer") -> set[str]:
    return {name for name, each in row.scores.items() if rate in each.best}


def test_the_scores_are_those_of_the_selected_checkpoint(tmp_path: Path) -> None:
    summary = summarise([metrics(tmp_path, "a", step, "c-dev") for step in (10, 20, 30)])
    found = scores(summary[summary["step"] == 20])
    assert [*found] == [("c-dev", "greedy", "plain")]
    assert found["c-dev", "greedy", "plain"] == score(0.2, 0.1, interval=(0.1, 0.9))


def test_each_protocol_has_a_score_of_its_own_and_the_first_of_a_set_the_interval(tmp_path: Path) -> None:
    both = {"plain": {"wer": 0.2, "cer": 0.1}, "robust_speech_event": {"wer": 0.4, "cer": 0.3}}
    event = metrics(tmp_path, "a", 1, "c-test", protocol="robust_speech_event", wer=0.4, cer=0.3, protocols=both)
    found = scores(summarise([event]))
    assert found["c-test", "greedy", "plain"] == score(0.2, 0.1)
    assert found["c-test", "greedy", "robust_speech_event"] == score(0.4, 0.3, interval=(0.1, 0.9))


def test_a_set_that_could_not_be_had_says_why(tmp_path: Path) -> None:
    absent = metrics(
        tmp_path, "a", 1, "c-test", wer=None, wer_ci95=[None, None], clips_expected=None, clips_scored=0,
        unavailable="it is gone",
    )  # fmt: skip
    (found,) = scores(summarise([absent])).values()
    assert (found.wer, found.interval, found.unavailable) == (None, None, "it is gone")


def test_rows_stand_in_the_order_of_the_configuration_with_the_runs_that_have_a_score() -> None:
    keys: list[Key] = [("c-test", "greedy", "plain"), ("c-dev", "lm", "plain"), ("c-dev", "greedy", "plain")]
    found = rows(settings("a", "b"), {"a": dict.fromkeys(keys, score(0.5)), "b": {keys[0]: score(0.5)}})
    assert [(row.title, row.decoder, [*row.scores]) for row in found] == [
        ("A corpus dev", "greedy", ["a"]),
        ("A corpus dev", "lm", ["a"]),
        ("A corpus test", "greedy", ["a", "b"]),
    ]


def test_the_lowest_rates_of_a_row_are_marked_each_by_itself() -> None:
    row = compared(a=score(0.2, 0.15), b=score(0.3, 0.1), c=score(None, None))
    assert (best(row), best(row, "cer"), row.unlike) == ({"a"}, {"b"}, [])


def test_equal_rates_are_both_the_lowest_and_a_run_alone_is_not() -> None:
    assert best(compared(a=score(0.2), b=score(0.2), c=score(0.3))) == {"a", "b"}
    assert best(compared(a=score(0.2))) == set()


def test_nothing_is_marked_where_runs_were_scored_on_other_clips_or_texts_and_the_row_says_so() -> None:
    row = compared(a=score(0.2), b=score(0.3, clips="other"), c=score(0.4))
    assert (best(row), row.unlike) == (set(), [["a", "c"], ["b"]])


def test_a_run_that_could_not_have_the_set_keeps_the_others_comparable() -> None:
    row = compared(a=score(0.2), b=score(None, clips="of nothing", unavailable="it is gone"), c=score(0.4))
    assert (best(row), row.unlike) == ({"a"}, [])


class Text(html.parser.HTMLParser):
    """The cells of a page's table, row by row, as one reads them; what is marked stands in [brackets]."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.table: list[list[str]] = []
        self._open = self._marked = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.table.append([])
        elif tag in ("td", "th"):
            self.table[-1].append("")
            self._open = True
        self._marked = tag == "span" and ("class", "best") in attrs

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._open and data.strip():
            said = f"[{data.strip()}]" if self._marked else " ".join(data.split())
            self.table[-1][-1] = f"{self.table[-1][-1]} {said}".strip()


TRAINED = {"parameters": 747_876, "hours": 0.77, "wall_seconds": 1800, "device": "cpu", "steps": 528, "epochs": 5}


def test_the_page_has_a_column_a_run_a_row_a_score_and_marks_the_lowest() -> None:
    both = settings("a", "b", sets=("c-dev",))
    both.runs[1] = RunAbout(name="b", start="owner/name", trained_on=[])
    of = {"a": {("c-dev", "greedy", "plain"): score(0.0971, 0.0449, interval=(0.09, 0.1234))}}
    of["b"] = {("c-dev", "greedy", "plain"): score(0.5, 0.25)}
    text = Text(page(both, {"a": TRAINED | {"step": 440}, "b": {"parameters": None, "step": 0}}, rows(both, of), {}))
    assert [row[1:] for row in text.table] == [
        ["a", "b"],
        ["trained, from random weights", "owner/name, as it is"],
        ["0.7 M", "not known"],
        ["A corpus train 0.77 hours, 5 epochs", "–"],
        ["30.0 minutes cpu", "–"],
        ["440 of 528", "–"],
        ["[9.71] 9.00 – 12.34 CER [4.49] 9 of 10 clips", "50.00 CER 25.00 9 of 10 clips"],
    ]
    assert text.table[-1][0] == "A corpus dev greedy decoding"


def test_the_page_says_what_is_not_comparable_and_what_was_not_scored() -> None:
    three = settings("a", "b", "d", sets=("c-dev",))
    key = ("c-dev", "lm", "robust_speech_event")
    of = {"a": {key: score(0.1)}, "b": {key: score(0.2, clips="other")}}
    of["d"] = {key: score(None, unavailable="no <key>")}
    text = Text(page(three, dict.fromkeys("abd", TRAINED | {"step": 1}), rows(three, of), {}))
    assert text.table[-1][0] == (
        "A corpus dev decoding with a language model, robust speech event Not comparable:"
        " other clips or other texts for a than for b."
    )
    assert text.table[-1][3] == "not scored: no <key>"


CARD = ReferenceCard.model_validate(
    {
        "model": "somebody/wav2vec2-ru",
        "title": "A model",
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


def test_published_figures_are_fractions_by_the_set_decoder_and_protocol_that_they_are_held_against() -> None:
    assert published_rates(CARD) == {
        ("c-dev", "greedy", "plain"): {"wer": 0.0971},
        ("c-test", "greedy", "robust_speech_event"): {"wer": pytest.approx(0.1083), "cer": pytest.approx(0.0241)},
        ("c-test", "lm", "robust_speech_event"): {"wer": pytest.approx(0.075)},
    }


def test_published_figures_have_a_column_of_their_own_once_for_each_model_and_are_never_marked() -> None:
    three = settings("a", "b", "d")
    three.runs[0].published = three.runs[1].published = CARD
    of = {name: {("c-dev", "greedy", "plain"): score(wer, None)} for name, wer in (("a", 0.3), ("b", 0.2), ("d", 0.4))}
    beside = {"a": [["Set", "Remarks"], ["A corpus dev", "a <remark>"]]}
    shown = page(three, dict.fromkeys("abd", TRAINED | {"step": 1}), rows(three, of), beside)
    table = Text(shown).table
    assert table[0] == ["", "a", "b", "d", "published: somebody/wav2vec2-ru"]
    assert [[row[0].split()[2], *row[2:]] for row in table[6:-2]] == [
        ["dev", "[20.00] CER – 9 of 10 clips", "40.00 CER – 9 of 10 clips", "9.71"],
        ["test", "–", "–", "10.83 CER 2.41"],
        ["test", "–", "–", "7.50"],
    ]
    assert table[-1] == ["A corpus dev", "a <remark>"]


def test_the_parameters_of_a_model_are_counted_in_all_its_files(tmp_path: Path) -> None:
    assert stored_parameters(tmp_path) is None
    save_file({"a.weight": torch.zeros(3, 4), "norm.running_mean": torch.zeros(5)}, tmp_path / "m-1.safetensors")
    save_file({"b.bias": torch.zeros(7)}, tmp_path / "m-2.safetensors", metadata={"format": "pt"})
    assert stored_parameters(tmp_path) == 3 * 4 + 7


@pytest.fixture
def results(tmp_path: Path) -> list[object]:
    """What the program is given of a run `a` that was trained and a run `b` that only scores."""
    given: list[object] = ["--summaries"]
    for run, step in (("a", 20), ("b", 0)):
        file = tmp_path / f"{run}.parquet"
        summarise([metrics(tmp_path, run, step, "c-dev", wer=0.25 + step / 100)]).to_parquet(file)
        given.append(file)
        write_json({"step": step}, tmp_path / f"{run}.json")
    write_json(
        {
            "hyper_parameters": {"training_steps": 40, "num_epochs": 2},
            "parameters": 1_000_000, "wall_seconds": 7200.0, "hardware": {"device": "H100"},
        },
        tmp_path / "training.json",
    )  # fmt: skip
    write_json({"seconds": 5400.0}, tmp_path / "train.json")
    (tmp_path / "model").mkdir()
    save_file({"a": torch.zeros(300_000)}, tmp_path / "model/model.safetensors")
    given += ["--selections", tmp_path / "a.json", tmp_path / "b.json", "--trainings", tmp_path / "training.json"]
    return [*given, "--counts", tmp_path / "train.json", "--models", tmp_path / "model", "--page", tmp_path / "p.html"]


def test_the_program_writes_the_page_of_runs_that_train_and_runs_that_score(
    tmp_path: Path, results: list[object]
) -> None:
    both = json.loads(settings("a", "b", sets=("c-dev",)).model_dump_json())
    both["runs"][1] |= {"start": "owner/name", "trained_on": []}
    done = run_stage("report.runs_table", "--settings", as_json(both), *results)
    assert done.returncode == 0, done.stderr
    table = Text((tmp_path / "p.html").read_text(encoding="utf-8")).table
    assert [row[1] for row in table[2:6]] == [
        "1.0 M",
        "A corpus train 1.50 hours, 2 epochs",
        "2.00 hours H100",
        "20 of 40",
    ]
    assert [row[2] for row in table[2:6]] == ["0.3 M", "–", "–", "–"]
    assert [cell.split()[0] for cell in table[-1][1:]] == ["45.00", "[25.00]"]
