import itertools
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from material import as_json
from speechmill import clips
from speechmill.clips import Settings, choose, ctc_frames, why_excluded
from speechmill.command import SpeechmillError
from speechmill.config.clips import ClipSettings
from speechmill.tables import INDEX, SAMPLE_RATE, clips_digest, read_json, read_table, write_table


def row(
    name: str, sentence: str = "Раз.", seconds: float = 2.0, splits: tuple[str, ...] = ("train",)
) -> dict[str, Any]:
    return {
        "id": name,
        "splits": list(splits),
        "sentence": sentence,
        "num_samples": round(seconds * SAMPLE_RATE),
        "speaker_id": f"speaker of {name[0]}",
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


def settings(filtered: bool = True, **rules: Any) -> Settings:
    text = {"keep": "а-яё"} | rules
    return Settings.model_validate({"text": text, "clips": {} if filtered else None})


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [each["id"] for each in rows]


def test_used_and_excluded_are_all_that_is_kept(indexes: list[Path]) -> None:
    choice = choose(["corpus-train"], indexes[:1], settings())
    assert ids(choice.used) == ["a1"]
    assert {each["id"]: (each["reason"], each["detail"]) for each in choice.excluded} == {
        "a2": ("empty", "the sentence is empty after normalisation"),
        "b1": ("short", "0.050 s, clips.min_seconds is 0.1"),
        "b2": ("long", "21.000 s, clips.max_seconds is 20.0"),
        "c1": ("infeasible", "24 frames, CTC needs 60 for the text"),
    }


def test_an_evaluation_set_excludes_nothing(indexes: list[Path]) -> None:
    choice = choose(["corpus-train"], indexes[:1], settings(filtered=False))
    assert ids(choice.used) == ids(STORED["train"])
    assert choice.excluded == []


def test_a_test_clip_that_is_empty_is_still_used(indexes: list[Path]) -> None:
    choice = choose(["corpus-train"], indexes[:1], settings(filtered=False))
    assert [each["text"] for each in choice.used if each["id"] == "a2"] == [""]


def test_a_split_takes_its_clips_from_wherever_they_are_stored(indexes: list[Path]) -> None:
    choice = choose(["corpus-validated"], indexes, settings(filtered=False))
    assert [(each["id"], each["split"]) for each in choice.used] == [("d1", "dev"), ("e1", "validated")]


def test_a_clip_of_two_sets_is_taken_once(indexes: list[Path]) -> None:
    choice = choose(["corpus-dev", "corpus-validated"], indexes, settings(filtered=False))
    assert ids(choice.used) == ["d1", "d2", "e1"]


def test_an_excluded_clip_of_two_sets_is_excluded_once(indexes: list[Path]) -> None:
    choice = choose(["corpus-train", "corpus-train"], indexes, settings())
    assert len(choice.excluded) == 4


def test_clips_of_different_datasets_may_share_an_id(tmp_path: Path) -> None:
    paths = [tmp_path / name / "train" / "index.parquet" for name in ("one", "other")]
    for path in paths:
        write_table([row("a1")], INDEX, path)
    choice = choose(["one-train", "other-train"], paths, settings())
    assert [(each["dataset"], each["id"]) for each in choice.used] == [("one", "a1"), ("other", "a1")]


def test_text_is_normalised_and_the_sentence_stays(indexes: list[Path]) -> None:
    used = choose(["corpus-train"], indexes[:1], settings()).used
    assert [(each["text"], each["sentence"]) for each in used] == [("раз", "Раз.")]


@pytest.mark.parametrize(("seconds", "reason"), [(0.999, "short"), (1.0, None), (3.0, None), (3.001, "long")])
def test_limits_belong_to_what_is_used(seconds: float, reason: str | None) -> None:
    why = why_excluded("да", round(seconds * SAMPLE_RATE), ClipSettings(min_seconds=1.0, max_seconds=3.0))
    assert (why and why[0]) == reason


@pytest.mark.parametrize(
    ("text", "frames"), [("", 0), ("a", 1), ("abc", 3), ("aa", 3), ("aaa", 5), ("abba", 5), ("a a", 3)]
)
def test_ctc_needs_a_frame_a_character_and_a_blank_between_equal_ones(text: str, frames: int) -> None:
    assert ctc_frames(text) == frames


@given(st.text("ab ", max_size=6))
def test_the_frames_that_ctc_needs_are_the_fewest_that_collapse_to_the_text(text: str) -> None:
    # By trying out: no shorter path of letters and blanks collapses to the text, and one of this length does.
    def collapses(frames: int) -> bool:
        paths = itertools.product({*text, "-"}, repeat=frames)
        return any("".join(k for k, _ in itertools.groupby(path)).replace("-", "") == text for path in paths)

    needed = ctc_frames(text)
    if needed <= 7:  # more takes long to try
        assert collapses(needed)
        assert needed == 0 or not collapses(needed - 1)


def run(indexes: list[Path], monkeypatch: pytest.MonkeyPatch, folder: Path, sets: list[str], given: Settings) -> None:
    arguments = ["--settings", as_json(given.model_dump()), "--sets", *sets, "--indexes", *indexes,
                 "--clips", folder / "clips.parquet", "--digest", folder / "clips.sha256",
                 "--counts", folder / "clips.json", "--excluded", folder / "excluded.parquet"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["clips", *map(str, arguments)])
    clips.main()


def test_the_program_writes_clips_counts_and_what_is_left_out(
    indexes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(indexes, monkeypatch, tmp_path, ["corpus-train"], settings())
    rows = read_table(tmp_path / "clips.parquet").to_pylist()
    assert ids(rows) == ["a1"]
    assert (tmp_path / "clips.sha256").read_text() == clips_digest(rows) + "\n"
    assert ids(read_table(tmp_path / "excluded.parquet").to_pylist()) == ["a2", "b1", "b2", "c1"]
    counts = read_json(tmp_path / "clips.json")
    assert (counts["clips"], counts["seconds"], counts["speakers"]) == (1, 2.0, 1)
    assert counts["excluded"] == {"empty": 1, "infeasible": 1, "long": 1, "short": 1}
    assert counts["characters_dropped"] == {".": 3, "!": 3}


def test_the_digest_stays_when_only_the_audio_moved_to_another_shard(
    indexes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(indexes, monkeypatch, tmp_path, ["corpus-dev"], settings())
    before = (tmp_path / "clips.sha256").read_text()
    write_table([each | {"shard": 7} for each in STORED["dev"]], INDEX, indexes[1])
    run(indexes, monkeypatch, tmp_path, ["corpus-dev"], settings())
    assert (tmp_path / "clips.sha256").read_text() == before


def test_nothing_left_to_train_on_is_an_error_with_the_reasons(
    indexes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SpeechmillError, match=r"no clip is left in corpus-train: 5 were excluded \(\{'empty': 5\}"):
        run(indexes, monkeypatch, tmp_path, ["corpus-train"], settings(keep="a-z"))
    assert not (tmp_path / "clips.parquet").exists()
