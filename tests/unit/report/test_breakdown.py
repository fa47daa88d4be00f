import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jiwer
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechmill.core.command import SpeechmillError
from speechmill.core.files import read_json, write_json
from speechmill.core.schemas import HYPOTHESES, INDEX
from speechmill.core.tables import write_table
from speechmill.report import breakdown
from speechmill.report.breakdown import (
    ComparedRun,
    bin_edges,
    compare_run,
    compare_systems,
    compared_steps,
    count_confusions,
    load_clips,
    load_speaker_metadata,
    score_clips,
    score_groups,
)
from speechmill.scoring.alignment import align_characters, align_words
from speechmill.scoring.error_rates import count
from speechmill.scoring.systems import System, base_set, systems

Clip = dict[str, Any]


def clip(name: str, reference: str, hypothesis: str, speaker: str | None = "s", seconds: float = 2.0) -> Clip:
    (counts,) = count([reference], [hypothesis])
    return {
        "dataset": "cv", "split": "test", "id": name, "speaker_id": speaker, "seconds": seconds, "sentence": reference,
        "hypothesis": hypothesis, "scored_reference": reference, "scored_hypothesis": hypothesis, **counts._asdict(),
    }  # fmt: skip


def hypotheses(folder: Path, system: System | tuple[str, str, str], clips: Sequence[Clip]) -> Path:
    name, step, decoder = system[:3]
    path = folder / "evaluation" / str(step) / name / decoder / "hypotheses.parquet"
    write_table(clips, HYPOTHESES, path)
    return path


def index(folder: Path, speakers: dict[str, dict[str, str | None]]) -> Path:
    path = folder / "cv" / "test" / "index.parquet"
    write_table([{"id": name} | known for name, known in speakers.items()], INDEX, path)
    return path


def loaded(folder: Path, clips: Sequence[Clip], speakers: dict[str, dict[str, str | None]] | None = None) -> Any:
    metadata = load_speaker_metadata([index(folder, speakers or {})])
    return load_clips(hypotheses(folder, ("cv-test", "1", "greedy"), clips), metadata)


CLIPS = [
    clip("a", "раз два три", "раз два три", "one", 1.0),
    clip("b", "раз два", "рас", "one", 1.5),
    clip("c", "три", "три четыре", "two", 2.5),
    clip("d", "", "ой", "two", 3.0),
]


def test_groups_add_up_to_the_set(tmp_path: Path) -> None:
    speakers: dict[str, dict[str, str | None]] = {"a": {"gender": "female", "age": "", "accent": None}}
    found = score_groups(loaded(tmp_path, CLIPS, speakers))
    assert set(found) == {"seconds", "rate", "speaker", "gender", "age", "accent"}
    for rows in found.values():
        assert [sum(row[key] for row in rows) for key in ("clips", "words", "substitutions", "deletions")] == [
            4,
            6,
            1,
            1,
        ]
        assert sum(row["insertions"] for row in rows) == 2


def test_scores_equal_jiwer(tmp_path: Path) -> None:
    found = score_clips(loaded(tmp_path, CLIPS[:3]))
    references, hypothesised = ([each[f"scored_{side}"] for each in CLIPS[:3]] for side in ("reference", "hypothesis"))
    assert found["wer"] == jiwer.wer(references, hypothesised)
    assert found["cer"] == jiwer.cer(references, hypothesised)
    assert (found["clips"], found["speakers"], found["words"]) == (3, 2, 6)
    assert found["interval"][0] <= found["wer"] <= found["interval"][1]


def test_groups_use_speaker_metadata_of_the_index(tmp_path: Path) -> None:
    speakers: dict[str, dict[str, str | None]] = {
        "a": {"gender": "female"}, "b": {"gender": "female"}, "c": {"gender": "male"}, "d": {"gender": ""},
    }  # fmt: skip
    rows = score_groups(loaded(tmp_path, CLIPS, speakers))["gender"]
    assert [(row["value"], row["clips"]) for row in rows] == [("female", 2), ("male", 1), (None, 1)]


def test_interval_of_one_speaker_is_null_with_reason(tmp_path: Path) -> None:
    rows = {row["value"]: row for row in score_groups(loaded(tmp_path, CLIPS))["speaker"]}
    assert (rows["one"]["interval"], rows["one"]["why"], rows["one"]["words"]) == (None, "one speaker", 5)
    alone = score_clips(loaded(tmp_path, [clip("a", "раз", "два", speaker=None)]))
    assert (alone["wer"], alone["interval"], alone["why"]) == (1.0, None, "one clip")
    silent = [clip("a", "раз", "два", "one"), clip("b", "три", "три", "one"), clip("c", "", "ой", "two")]
    assert score_clips(loaded(tmp_path, silent))["why"] == "one speaker with words"


def test_group_without_words_has_null_wer(tmp_path: Path) -> None:
    found = score_clips(loaded(tmp_path, [clip("a", "", "ой", "one"), clip("b", "", "", "two")]))
    assert (found["wer"], found["insertions"], found["why"]) == (None, 1, "the references have no words")


def test_clips_without_speaker_are_resampled_singly(tmp_path: Path) -> None:
    clips = [clip(str(i), "раз", "раз" if i % 2 else "два", speaker=None) for i in range(20)]
    found = score_clips(loaded(tmp_path, clips))
    assert found["speakers"] == 0
    assert 0 < found["interval"][0] < 0.5 < found["interval"][1] < 1


def test_speaking_rate_excludes_spaces_and_silence(tmp_path: Path) -> None:
    rows = score_groups(loaded(tmp_path, [clip("a", "раз два", "раз", seconds=2), clip("b", "", "раз", seconds=2)]))[
        "rate"
    ]
    assert [(row["value"], row["clips"]) for row in rows] == [("all", 1), (None, 1)]
    clips = [clip(f"{i}", "абвгдежзик" * (i + 1), "", seconds=10) for i in range(40)]
    bins = score_groups(loaded(tmp_path, clips))["rate"]
    assert [(row["low"], row["high"]) for row in bins] == [
        (None, 8.0), (8.0, 16.0), (16.0, 24.0), (24.0, 32.0), (32.0, None),
    ]  # fmt: skip


@given(st.lists(st.floats(0.05, 7200), min_size=1, max_size=60), st.integers(1, 8))
def test_bin_edges_ascend_and_leave_no_bin_empty(values: list[float], bins: int) -> None:
    edges = bin_edges(values, bins)
    assert edges == sorted(set(edges))
    assert len(edges) < bins or edges == []
    ends = [-1.0, *edges, 1e9]
    assert all(any(low <= value < high for value in values) for low, high in itertools.pairwise(ends))


def test_bin_edges_of_even_values_are_round_quantiles() -> None:
    assert bin_edges([i / 100 for i in range(1001)], 5) == [2, 4, 6, 8]
    assert bin_edges([3.17 + i / 1000 for i in range(1001)], 5) == [3.4, 3.6, 3.8, 4.0]
    assert bin_edges([1.0] * 50, 5) == bin_edges([], 5) == []


def test_alignments_equal_jiwer() -> None:
    # The example of jiwer's documentation, section "alignments".
    (pairs,) = align_words(["i can spell"], ["i can spell hi"])
    assert pairs == [("i", "i"), ("can", "can"), ("spell", "spell"), (None, "hi")]
    assert align_words(["", "раз два"], ["ой", ""]) == [[(None, "ой")], [("раз", None), ("два", None)]]
    assert align_characters(["кот"], ["кит"]) == [[("к", "к"), ("о", "и"), ("т", "т")]]
    assert align_words([], []) == []


def test_confusions_have_counts_and_occurrences(tmp_path: Path) -> None:
    clips = [clip("a", "раз два", "рас два"), clip("b", "раз", "рас"), clip("c", "раз три", "раз"), clip("d", "", "ой")]
    found = count_confusions(loaded(tmp_path, clips))
    assert found["words"] == {
        "substitutions": [{"reference": "раз", "hypothesis": "рас", "count": 2, "of": 3}],
        "deletions": [{"reference": "три", "count": 1, "of": 1}],
        "insertions": [{"hypothesis": "ой", "count": 1}],
    }
    assert found["characters"]["substitutions"] == [{"reference": "з", "hypothesis": "с", "count": 2, "of": 3}]
    # The space before a deleted word is deleted too.
    assert {"reference": " ", "count": 1, "of": 2} in found["characters"]["deletions"]


def test_confusions_add_up_to_the_error_counts(tmp_path: Path) -> None:
    found = count_confusions(loaded(tmp_path, CLIPS))
    for kind in ("substitutions", "deletions", "insertions"):
        assert sum(row["count"] for row in found["words"][kind]) == sum(each[kind] for each in CLIPS)


def test_system_is_parsed_from_the_path(tmp_path: Path) -> None:
    paths = [tmp_path / step / "cv-test" / "lm" / "hypotheses.parquet" for step in ("500", "selected")]
    assert systems(paths, {"step": 1000}) == {
        System("cv-test", 500, "lm"): paths[0],
        System("cv-test", 1000, "lm"): paths[1],
    }
    assert base_set("cv-test-noise_10db") == base_set("cv-test") == "cv-test"


@pytest.mark.parametrize(
    ("steps", "selected", "expected"),
    [([1, 2, 3, 4], 3, [2, 4]), ([1, 2, 3, 9], 2, [1, 9]), ([1, 2], 2, [1]), ([5, 7], 5, [7]), ([3], 3, [])],
)
def test_selected_step_has_compared_steps(steps: list[int], selected: int, expected: list[int]) -> None:
    assert compared_steps(steps, selected) == expected


@pytest.fixture
def tables(tmp_path: Path) -> dict[System, Any]:
    """Two decoders and two steps on a set, and a perturbed copy of it; the language model corrects two words of ten."""
    good = [clip(f"{i}", "раз", "раз", speaker=f"{i % 5}") for i in range(10)]
    bad = [clip(f"{i}", "раз", "раз" if i > 1 else "ой", speaker=f"{i % 5}") for i in range(10)]
    worse = [clip(f"{i}", "раз", "ой", speaker=f"{i % 5}") for i in range(10)]
    clips_by_system = {
        System("cv-test", 2, "greedy"): bad, System("cv-test", 2, "lm"): good, System("cv-test", 1, "greedy"): worse,
        System("cv-test-noise", 2, "greedy"): worse,
    }  # fmt: skip
    no_metadata = load_speaker_metadata([])
    return {
        system: load_clips(hypotheses(tmp_path, system, clips), no_metadata)
        for system, clips in clips_by_system.items()
    }


def test_decoders_checkpoints_and_effects_are_compared(tables: dict[System, Any]) -> None:
    rows = {row["kind"]: row for row in compare_systems(tables, {"step": 2})}
    assert len(compare_systems(tables, {"step": 2})) == len(rows) == 3
    assert rows["decoders"]["rates"] == [0.2, 0.0]
    assert rows["decoders"]["difference"] == pytest.approx(-0.2)
    assert rows["decoders"]["second"] == {"set": "cv-test", "step": 2, "decoder": "lm"}
    # Two of five speakers are better: -0.2 ± 2.776 · √(0.06 / 5) of a t-test.
    assert rows["decoders"]["interval"] == pytest.approx([-0.54, 0.14], abs=0.001)
    assert rows["decoders"]["p_value"] == pytest.approx(0.178, abs=0.001)
    assert (rows["checkpoints"]["first"]["step"], rows["checkpoints"]["second"]["step"]) == (1, 2)
    assert rows["effect"]["second"]["set"] == "cv-test-noise"
    assert rows["effect"]["difference"] == pytest.approx(0.8)
    assert rows["effect"]["p_value"] < 0.01


def test_systems_with_different_clips_are_refused(tables: dict[System, Any]) -> None:
    tables[System("cv-test", 2, "lm")] = tables[System("cv-test", 2, "lm")].iloc[1:]
    with pytest.raises(
        SpeechmillError, match="step 2, decoder greedy, on cv-test and step 2, decoder lm, on cv-test have scored diff"
    ):
        compare_systems(tables, {"step": 2})


def test_comparison_over_one_speaker_has_no_interval(tmp_path: Path) -> None:
    clips_by_decoder = {
        "greedy": [clip("a", "раз", "ой"), clip("b", "раз", "раз")],
        "lm": [clip("a", "раз", "раз"), clip("b", "раз", "раз")],
    }
    no_metadata = load_speaker_metadata([])
    tables = {
        System("cv-test", 2, decoder): load_clips(hypotheses(tmp_path, ("cv-test", "2", decoder), clips), no_metadata)
        for decoder, clips in clips_by_decoder.items()
    }
    (row,) = compare_systems(tables, {"step": 2})
    assert (row["difference"], row["interval"], row["p_value"], row["why"]) == (-0.5, None, None, "one speaker")


def summary(*systems: tuple[str, str], **changed: Any) -> pd.DataFrame:
    """Return the rows of a summary at a selected step, one for each set and decoder."""
    row = {"step": 0, "protocol": "plain", "unavailable": None, "eval_set_sha256": "c11p5"} | changed
    return pd.DataFrame([row | {"set": name, "decoder": decoder} for name, decoder in systems])


OURS = [clip("a", "раз два", "раз два", "s1"), clip("b", "три", "два", "s2")]
THEIRS = [clip("a", "раз два", "раз", "s1"), clip("b", "три", "", "s2")]


def compared(
    folder: Path, ours: Sequence[str], theirs: Sequence[str], scores: pd.DataFrame
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Return the comparison of a run at step 9, with the decoders `ours`, with a run at step 4 that has `theirs`."""
    no_metadata = load_speaker_metadata([])
    systems_of_ours = [System("cv-test", 9, decoder) for decoder in ours]
    tables = {each: load_clips(hypotheses(folder / "ours", each, OURS), no_metadata) for each in systems_of_ours}
    files = {each: hypotheses(folder / "theirs", each, THEIRS) for each in (System("cv-test", 4, d) for d in theirs)}
    own_scores = summary(*(("cv-test", decoder) for decoder in ours))
    return compare_run(ComparedRun("whisper", scores, files), tables, own_scores)


@pytest.mark.parametrize(
    ("ours", "theirs", "pairs"),
    [
        (["greedy", "lm"], ["greedy", "lm"], [("greedy", "greedy"), ("lm", "lm")]),
        (["greedy", "lm"], ["greedy"], [("greedy", "greedy"), ("greedy", "lm")]),
        (["greedy"], ["lm"], [("lm", "greedy")]),
    ],
)
def test_runs_are_compared_by_the_same_decoder_if_both_have_it(
    ours: list[str], theirs: list[str], pairs: list[tuple[str, str]], tmp_path: Path
) -> None:
    rows, not_compared = compared(tmp_path, ours, theirs, summary(*(("cv-test", each) for each in theirs)))
    assert not_compared == []
    assert [(row["first"]["decoder"], row["second"]["decoder"]) for row in rows] == pairs
    for row in rows:
        assert (row["kind"], row["first"]["run"], row["first"]["step"]) == ("runs", "whisper", 4)
        assert row["rates"] == [pytest.approx(2 / 3), pytest.approx(1 / 3)]
        assert row["interval"] is not None


@pytest.mark.parametrize(
    ("scores", "why"),
    [
        (summary(("cv-dev", "greedy")), "that run does not score it"),
        (summary(("cv-test", "greedy"), unavailable="no token"), "not available: no token"),
        (
            summary(("cv-test", "greedy"), protocol="robust_speech_event"),
            "scored by the protocol robust_speech_event there, and by plain here",
        ),
        (summary(("cv-test", "greedy"), eval_set_sha256="0ther"), "its clips or their texts are others there"),
    ],
)
def test_reason_is_given_where_runs_are_not_compared(scores: pd.DataFrame, why: str, tmp_path: Path) -> None:
    rows, not_compared = compared(tmp_path, ["greedy", "lm"], ["greedy"], scores)
    assert (rows, not_compared) == ([], [{"run": "whisper", "set": "cv-test", "why": why}])


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, files: Sequence[Path], step: int) -> Any:
    write_json({"step": step}, folder / "selection.json")
    summary(("cv-test", "greedy")).to_parquet(folder / "summary.parquet")
    arguments = ["--run", "demo", "--settings", '{"metric": "wer"}',
                 "--selection", folder / "selection.json", "--hypotheses", *files, "--indexes",
                 index(folder, {"a": {"age": "fifties"}}), "--summary",
                 folder / "summary.parquet", "--breakdown", folder / "breakdown.json"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["breakdown", *map(str, arguments)])
    breakdown.main()
    return read_json(folder / "breakdown.json")


def test_main_uses_base_sets_of_the_selected_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [
        hypotheses(tmp_path, (name, step, "greedy"), CLIPS)
        for name, step in (("cv-test", "10"), ("cv-test", "20"), ("cv-other", "selected"), ("cv-test-gsm", "selected"))
    ]
    found = run(tmp_path, monkeypatch, files, 20)
    assert (found["run"], found["step"]) == ("demo", 20)
    assert {name: list(decoders) for name, decoders in found["sets"].items()} == {
        "cv-other": ["greedy"], "cv-test": ["greedy"],
    }  # fmt: skip
    assert found["sets"]["cv-test"]["greedy"]["groups"]["age"][1]["value"] == "fifties"
    assert [row["kind"] for row in found["comparisons"]] == ["checkpoints", "effect"]


def test_tables_of_other_steps_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [hypotheses(tmp_path, ("cv-test", step, "greedy"), CLIPS) for step in ("10", "20", "30", "40", "50")]
    for unread in (files[0], files[3]):
        unread.write_bytes(b"")
    assert len(run(tmp_path, monkeypatch, files, 30)["comparisons"]) == 2


def test_unavailable_set_has_no_clips_or_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [hypotheses(tmp_path, ("cv-test", step, "greedy"), []) for step in ("1", "2")]
    found = run(tmp_path, monkeypatch, files, 2)
    assert found["sets"]["cv-test"]["greedy"]["clips"] == 0
    assert set(found["sets"]["cv-test"]["greedy"]["groups"]["seconds"]) == set()
    assert found["comparisons"] == []


def test_interval_and_comparison_are_of_the_error_rate(tmp_path: Path) -> None:
    said = [("a", "กขคง", "กขคจ"), ("b", "กขคง", "กขคง")]
    tables = {}
    for step, texts in ((1, [(name, reference, "") for name, reference, _ in said]), (2, said)):
        clips = pd.DataFrame(
            [
                {"id": name, "speaker_id": name, **counted._asdict(), "words": counted.words, "errors": counted.errors,
                 "group": name}
                for name, reference, hypothesis in texts
                for counted in count([reference], [hypothesis])
            ]
        )  # fmt: skip
        tables[System("c-test", step, "greedy")] = clips
    (row,) = compare_systems(tables, {"step": 2}, "cer")
    assert (row["rates"], row["difference"]) == ([1.0, 1 / 8], -7 / 8)
    (row,) = compare_systems(tables, {"step": 2}, "wer")
    assert row["rates"] == [1.0, 0.5]
