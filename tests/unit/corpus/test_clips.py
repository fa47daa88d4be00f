import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from material import as_json
from speechmill.config.clips import ClipConfig
from speechmill.config.text import TextConfig
from speechmill.core.command import SpeechmillError
from speechmill.core.files import read_json, write_json
from speechmill.core.schemas import CLIPS, INDEX, SAMPLE_RATE
from speechmill.core.tables import clips_digest, read_table, write_table
from speechmill.corpus import clips
from speechmill.corpus.clips import ClipsSettings, count_kept, exclusion_reason, select_clips


def row(
    name: str, sentence: str = "Раз.", seconds: float = 2.0, splits: tuple[str, ...] = ("train",)
) -> dict[str, Any]:
    return {
        "id": name,
        "splits": list(splits),
        "sentence": sentence,
        "num_samples": round(seconds * SAMPLE_RATE),
        "speaker_id": f"speaker of {name[0]}",
        "sha256": f"file of {name}",
        "audio_sha256": f"audio of {name}",
        "shard": 0,
        "row_group": 0,
        "row": 0,
    }


STORED = {
    "train": [row("a1"), row("a2", "!!!"), row("b1", seconds=0.05), row("b2", seconds=21), row("c1", "раз" * 20, 0.5)],
    "dev": [row("d1", splits=("dev", "validated")), row("d2", splits=("dev",))],
    "validated": [row("e1", splits=("validated",))],
}


@pytest.fixture
def indexes(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "data" / "corpus" / split / "index.parquet" for split in STORED]
    for path, rows in zip(paths, STORED.values(), strict=True):
        write_table(rows, INDEX, path)
    return paths


def settings(*sets: str, filtered: bool = True, **rules: Any) -> ClipsSettings:
    names = {name.split("-")[0] for name in sets}
    training = {"clips": {}, "leakage": "remove", "dev": "corpus-dev", "speakers": {n: n for n in names}, "of": {}}
    return ClipsSettings.model_validate(
        {
            "text": {"keep": "а-яё"} | rules,
            "sets": sets,
            "drawn": {name: {} for name in names},
            "training": training if filtered else None,
        }
    )


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [each["id"] for each in rows]


def test_used_and_excluded_are_all_kept_clips(indexes: list[Path]) -> None:
    selection = select_clips(indexes[:1], settings("corpus-train"))
    assert ids(selection.used) == ["a1"]
    assert {each["id"]: (each["reason"], each["detail"]) for each in selection.excluded} == {
        "a2": ("empty", "the sentence is empty after normalisation"),
        "b1": ("short", "0.050 s, clips.min_seconds is 0.1"),
        "b2": ("long", "21.000 s, clips.max_seconds is 20.0"),
        "c1": ("infeasible", "24 frames, CTC needs 60 for the text"),
    }


@pytest.mark.parametrize(("clusters", "frames"), [([], 12), (["CH"], 8), (["cha"], 7), (["ach"], 8)])
def test_clusters_need_one_frame_each(tmp_path: Path, clusters: list[str], frames: int) -> None:
    path = tmp_path / "corpus" / "train" / "index.parquet"
    chosen = settings("corpus-train").model_copy(update={"text": TextConfig(clusters=clusters)})
    for enough in (True, False):
        # There is one frame less than strides fit.
        write_table([row("a1", sentence="chachachacha", seconds=0.02 * (frames + enough))], INDEX, path)
        selection = select_clips([path], chosen)
        assert [each["reason"] for each in selection.excluded] == ([] if enough else ["infeasible"])


def test_dropped_marks_are_reported_with_an_example(tmp_path: Path) -> None:
    path = tmp_path / "corpus" / "train" / "index.parquet"
    write_table([row("a1", sentence="नमस्ते")], INDEX, path)
    chosen = settings("corpus-train").model_copy(update={"text": TextConfig(keep="अ-ह")})
    marks = select_clips([path], chosen).normaliser.marks_dropped
    assert {mark: tuple(each) for mark, each in marks.items()} == {
        "\u094d": (1, "नमस्ते", "नमसत"),
        "\u0947": (1, "नमस्ते", "नमसत"),
    }


def test_evaluation_set_excludes_nothing(indexes: list[Path]) -> None:
    selection = select_clips(indexes[:1], settings("corpus-train", filtered=False))
    assert ids(selection.used) == ids(STORED["train"])
    assert selection.excluded == []


def test_test_clip_with_empty_text_is_used(indexes: list[Path]) -> None:
    selection = select_clips(indexes[:1], settings("corpus-train", filtered=False))
    assert [each["text"] for each in selection.used if each["id"] == "a2"] == [""]


def test_split_takes_clips_stored_in_other_splits(indexes: list[Path]) -> None:
    selection = select_clips(indexes, settings("corpus-validated", filtered=False))
    assert [(each["id"], each["split"]) for each in selection.used] == [("d1", "dev"), ("e1", "validated")]


def test_clip_of_two_sets_is_selected_once(indexes: list[Path]) -> None:
    selection = select_clips(indexes, settings("corpus-dev", "corpus-validated", filtered=False))
    assert ids(selection.used) == ["d1", "d2", "e1"]


def test_excluded_clip_of_two_sets_is_excluded_once(indexes: list[Path]) -> None:
    selection = select_clips(indexes, settings("corpus-train", "corpus-train"))
    assert len(selection.excluded) == 4


def test_clips_of_different_datasets_may_share_an_id(tmp_path: Path) -> None:
    paths = [tmp_path / name / "train" / "index.parquet" for name in ("one", "other")]
    for path in paths:
        write_table([row("a1")], INDEX, path)
    selection = select_clips(paths, settings("one-train", "other-train"))
    assert [(each["dataset"], each["id"]) for each in selection.used] == [("one", "a1"), ("other", "a1")]


def test_text_is_normalised_and_sentence_unchanged(indexes: list[Path]) -> None:
    used = select_clips(indexes[:1], settings("corpus-train")).used
    assert [(each["text"], each["sentence"]) for each in used] == [("раз", "Раз.")]


@pytest.mark.parametrize(("seconds", "reason"), [(0.999, "short"), (1.0, None), (3.0, None), (3.001, "long")])
def test_duration_limits_are_inclusive(seconds: float, reason: str | None) -> None:
    training = settings("corpus-train").training
    assert training is not None
    limits = training.model_copy(update={"clips": ClipConfig(min_seconds=1.0, max_seconds=3.0)})
    why = exclusion_reason({"text": "да", "num_samples": round(seconds * SAMPLE_RATE)}, list("да"), limits, None)
    assert (why and why[0]) == reason


def run(
    indexes: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    stage_settings: ClipsSettings,
    kept: int,
    scored: Sequence[Path] = (),
    available: bool = True,
    corrections: Sequence[Path] = (),
) -> None:
    memberships = [{"splits": [name.split("-")[1] for name in stage_settings.sets], "kept": kept}]
    status = {
        "dataset": "corpus", "available": available, "why": None if available else "the Hub says no",
        "sets": {name.split("-")[1]: kept + 1 for name in stage_settings.sets}, "memberships": memberships,
    }  # fmt: skip
    write_json(status, folder / "status.json")
    arguments = ["--settings", as_json(stage_settings.model_dump()), "--indexes", *indexes,
                 "--status", folder / "status.json", "--scored", *scored, "--corrections", *corrections,
                 "--clips", folder / "clips.parquet", "--digest", folder / "clips.sha256",
                 "--counts", folder / "clips.json", "--excluded", folder / "excluded.parquet",
                 "--leakage", folder / "leakage.json"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["clips", *map(str, arguments)])
    clips.main()


def test_program_writes_clips_counts_and_exclusions(
    indexes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(indexes, monkeypatch, tmp_path, settings("corpus-train"), kept=5)
    rows = read_table(tmp_path / "clips.parquet").to_pylist()
    assert ids(rows) == ["a1"]
    assert (tmp_path / "clips.sha256").read_text() == clips_digest(rows) + "\n"
    assert ids(read_table(tmp_path / "excluded.parquet").to_pylist()) == ["a2", "b1", "b2", "c1"]
    counts = read_json(tmp_path / "clips.json")
    assert (counts["clips"], counts["seconds"], counts["speakers"]) == (1, 2.0, 1)
    assert counts["by_dataset"] == {"corpus": {"clips": 1, "seconds": 2.0}}
    assert (counts["listed"], counts["unavailable"]) == (6, None)
    assert counts["excluded"] == {"empty": 1, "infeasible": 1, "long": 1, "short": 1}
    assert counts["characters_dropped"] == {".": 3, "!": 3}
    assert counts["corrected"] == 0


def test_corrected_and_marked_clips_are_counted(
    indexes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "corrected.csv"
    # The sentence of the first was empty; the second would be too short for training without the mark, too.
    lines = ["dataset,split,id,correction,exclude", "corpus,train,a2,Два!,", "corpus,train,b1,,yes"]
    file.write_text("\n".join(lines), encoding="utf-8")
    run(indexes, monkeypatch, tmp_path, settings("corpus-train"), kept=5, corrections=[file])
    used = read_table(tmp_path / "clips.parquet").to_pylist()
    assert [(each["id"], each["sentence"], each["text"]) for each in used] == [
        ("a1", "Раз.", "раз"),
        ("a2", "Два!", "два"),
    ]
    counts = read_json(tmp_path / "clips.json")
    assert counts["corrected"] == 1
    assert counts["excluded"] == {"infeasible": 1, "label_error": 1, "long": 1}
    excluded = {each["id"]: each["detail"] for each in read_table(tmp_path / "excluded.parquet").to_pylist()}
    assert excluded["b1"] == "line 3 of corrected.csv"


def test_correction_of_a_scored_clip_is_an_error(
    indexes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored, file = tmp_path / "corpus-test.parquet", tmp_path / "corrected.csv"
    write_table([row("t1") | {"dataset": "corpus", "text": "раз"}], CLIPS, scored)
    file.write_text("dataset,split,id,correction,exclude\ncorpus,test,t1,Два,\n", encoding="utf-8")
    with pytest.raises(SpeechmillError, match="t1 of corpus is a clip of corpus-test, which is scored"):
        run(indexes, monkeypatch, tmp_path, settings("corpus-train"), 5, [scored], corrections=[file])


def test_lost_clips_are_an_error(indexes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpeechmillError, match="1 used and 4 excluded clips do not add up to the 6 kept clips"):
        run(indexes, monkeypatch, tmp_path, settings("corpus-train"), kept=6)
    assert not (tmp_path / "clips.parquet").exists()


def test_kept_clips_of_several_sets_are_counted_once() -> None:
    memberships = [
        {"splits": ["train"], "kept": 1},
        {"splits": ["train", "validated"], "kept": 10},
        {"splits": ["dev", "validated"], "kept": 100},
    ]
    status = {"dataset": "corpus", "memberships": memberships}
    assert count_kept(["corpus-train", "corpus-validated"], [status]) == 111
    assert count_kept(["corpus-train"], [status]) == 11
    assert count_kept(["other-train"], [status]) == 0


def test_drawn_split_takes_clips_from_its_source(tmp_path: Path) -> None:
    rows = [row(f"{speaker}{i}") for speaker in "abcdefghij" for i in range(3)]
    index = tmp_path / "corpus" / "train" / "index.parquet"
    write_table(rows, INDEX, index)
    drawn = {"corpus": {"dev": {"of": "train", "share": 0.3}}}
    train, dev = (
        select_clips(
            [index], ClipsSettings.model_validate(settings(name, filtered=False).model_dump() | {"drawn": drawn})
        ).used
        for name in ("corpus-train", "corpus-dev")
    )
    assert 0 < len(dev) < len(rows)
    assert sorted(ids(train) + ids(dev)) == sorted(ids(rows))
    assert not {each["speaker_id"] for each in train} & {each["speaker_id"] for each in dev}
    assert {each["split"] for each in dev} == {"train"}  # where the clips are stored


def test_colliding_clip_is_excluded_and_counted(
    indexes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = tmp_path / "corpus-test.parquet"
    write_table([row("a9") | {"dataset": "corpus", "text": "другое", "sha256": "x"}], CLIPS, scored)
    run(indexes[1:2], monkeypatch, tmp_path, settings("corpus-dev"), 2, [scored])
    assert read_json(tmp_path / "leakage.json")["corpus-test"]["removed"] == 0
    write_table([row("d9") | {"dataset": "corpus", "text": "другое", "sha256": "x"}], CLIPS, scored)
    with pytest.raises(SpeechmillError, match=r"corpus-dev: no clips are left, 2 were excluded \(\{'leakage': 2\}"):
        run(indexes[1:2], monkeypatch, tmp_path, settings("corpus-dev"), 2, [scored])


def test_jamo_count_as_ctc_units(tmp_path: Path) -> None:
    index = tmp_path / "corpus" / "train" / "index.parquet"
    write_table([row("a1", "한글"), row("a2", "한글", seconds=0.12)], INDEX, index)
    selection = select_clips([index], settings("corpus-train", keep="가-힣", units="jamo"))
    assert [each["text"] for each in selection.used] == ["\u1112\u1161\u11ab\u1100\u1173\u11af"]
    assert [each["reason"] for each in selection.excluded] == ["infeasible"]


def test_unavailable_set_has_no_clips_and_no_error(
    indexes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table([], INDEX, indexes[0])
    run(indexes[:1], monkeypatch, tmp_path, settings("corpus-train", filtered=False), 0, available=False)
    assert read_table(tmp_path / "clips.parquet").num_rows == 0
    assert read_json(tmp_path / "clips.json")["unavailable"] == "the Hub says no"
    with pytest.raises(SpeechmillError, match="corpus-train: no clips are left"):
        run(indexes[:1], monkeypatch, tmp_path, settings("corpus-train", filtered=False), 0)


def test_digest_does_not_depend_on_shards(indexes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(indexes, monkeypatch, tmp_path, settings("corpus-dev"), kept=2)
    before = (tmp_path / "clips.sha256").read_text()
    write_table([each | {"shard": 7} for each in STORED["dev"]], INDEX, indexes[1])
    run(indexes, monkeypatch, tmp_path, settings("corpus-dev"), kept=2)
    assert (tmp_path / "clips.sha256").read_text() == before


def test_empty_training_set_is_an_error_with_reasons(
    indexes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SpeechmillError, match=r"corpus-train: no clips are left, 5 were excluded \(\{'empty': 5\}"):
        run(indexes, monkeypatch, tmp_path, settings("corpus-train", keep="a-z"), kept=5)
    assert not (tmp_path / "clips.parquet").exists()
