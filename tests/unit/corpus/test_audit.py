import hashlib
import html.parser
import itertools
import json
import re
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from material import as_json, run_stage
from speechmill.core.files import read_json, write_json
from speechmill.core.schemas import INDEX, REJECTED, SAMPLE_RATE
from speechmill.core.tables import read_table, write_table
from speechmill.corpus.audit import (
    AuditSettings,
    DatasetClips,
    audit_dataset,
    compare_splits,
    compute_statistics,
    format_summary,
    load_clips,
    main,
    plot_distributions,
    render_page,
)

SPLITS = ["train", "test", "other"]
PNG = b"stands for the plots"


def clip(name: str, *splits: str, seconds: float = 2.0, **known: Any) -> dict[str, Any]:
    """Return a clip that has nothing in common with other clips, except for the `known` values."""
    unique = hashlib.sha256(name.encode()).hexdigest()
    return {
        "id": name,
        "shard": 0,
        "row_group": 0,
        "row": 0,
        "splits": list(splits or ["train"]),
        "num_samples": round(seconds * SAMPLE_RATE),
        "sentence": f"sentence {name}",
        "speaker_id": f"speaker of {name}",
        "silence": 0.25,
        "clipping": 0.0,
        "missing_seconds": 0.0,
        "encoded_bytes": 1000,
        "sha256": unique,
        "audio_sha256": unique[::-1],
    } | known


def loaded(folder: Path, clips: Sequence[dict[str, Any]], splits: Sequence[str] = SPLITS) -> DatasetClips:
    """Write the clips to an index for each split that stores some, and load them."""
    paths = []
    for split, rows in itertools.groupby(sorted(clips, key=lambda c: c["splits"][0]), key=lambda c: c["splits"][0]):
        paths.append(folder / split / "index.parquet")
        write_table(rows, INDEX, paths[-1])
    return load_clips(paths, splits)


def statistics_of(folder: Path, *clips: dict[str, Any]) -> dict[str, Any]:
    return compute_statistics(loaded(folder, clips).frame)


def ids(examples: Sequence[dict[str, Any]]) -> list[str]:
    return [example["id"] for example in examples]


def status_of(clips: Sequence[dict[str, Any]], rejected: Sequence[dict[str, str]] = ()) -> dict[str, Any]:
    lost = {split: sum(row["split"] == split for row in rejected) for split in SPLITS}
    listed = {split: lost[split] + sum(split in c["splits"] for c in clips) for split in SPLITS}
    reasons = {split: {"missing": {"clips": n, "example": "b: no file"}} for split, n in lost.items() if n}
    counts = {"listed": listed, "rejected": lost, "sets": listed, "rejections": reasons}
    return {"dataset": "corpus", "available": True, "why": None, **counts}


def audit_of(
    folder: Path, clips: Sequence[dict[str, Any]], rejected: Sequence[dict[str, str]] = (), title: str = "A corpus"
) -> dict[str, Any]:
    write_table(rejected, REJECTED, folder / "rejected.parquet")
    return audit_dataset(
        loaded(folder, clips),
        read_table(folder / "rejected.parquet"),
        status_of(clips, rejected),
        AuditSettings(dataset="corpus", title=title, splits=SPLITS, redistribute=True),
    )


def test_clip_counts_in_each_split_and_once_in_total(tmp_path: Path) -> None:
    clips = [clip("a", "train", "other"), clip("b", "train"), clip("c", "test", "other"), clip("d", "other")]
    audit = audit_of(tmp_path, clips)
    assert {split: of["clips"] for split, of in audit["splits"].items()} == {"train": 2, "test": 1, "other": 3}
    assert audit["all"]["clips"] == 4
    assert audit["all"]["seconds"] == 8.0
    assert audit["splits"]["other"]["seconds"] == 6.0


def test_totals_are_sums_over_the_clips(tmp_path: Path) -> None:
    found = statistics_of(tmp_path, clip("a", seconds=1800), clip("b", seconds=900.5))
    assert (found["seconds"], found["hours"], found["encoded_bytes"]) == (2700.5, 0.7501, 2000)


def test_speakers_and_share_of_the_largest(tmp_path: Path) -> None:
    clips = [clip(str(i), speaker_id="one" if i < 6 else f"speaker {i}") for i in range(8)]
    found = statistics_of(tmp_path, *clips, clip("x", speaker_id=None), clip("y", speaker_id=""))["speakers"]
    assert found["count"] == 3
    assert found["clips_without"] == 2
    assert found["largest"] == {"speaker_id": "one", "clips": 6, "share": 0.6}
    assert (found["clips_each"]["min"], found["clips_each"]["median"], found["clips_each"]["max"]) == (1, 1, 6)


def test_unknown_speakers_are_not_counted(tmp_path: Path) -> None:
    found = statistics_of(tmp_path, clip("a", speaker_id=None), clip("b", speaker_id=None))["speakers"]
    assert (found["count"], found["clips_without"], found["largest"]) == (0, 2, None)
    assert set(found["clips_each"].values()) == {None}


@pytest.mark.parametrize("kind", ["gender", "age", "accent"])
def test_clips_and_seconds_by_speaker_metadata(tmp_path: Path, kind: str) -> None:
    values = ["x", "y", None, "x", "", "unknown"]
    found = statistics_of(tmp_path, *(clip(str(i), seconds=i + 1, **{kind: value}) for i, value in enumerate(values)))
    assert found[kind] == [
        {"value": "x", "clips": 2, "seconds": 5.0},
        {"value": None, "clips": 2, "seconds": 8.0},
        {"value": "unknown", "clips": 1, "seconds": 6.0},
        {"value": "y", "clips": 1, "seconds": 2.0},
    ]


def test_durations_have_quantiles_and_an_open_last_bin(tmp_path: Path) -> None:
    seconds = [0.25, 0.5, 1.0, 1.25, 30.0, 400.0]
    found = statistics_of(tmp_path, *(clip(str(i), seconds=each) for i, each in enumerate(seconds)))["durations"]
    assert found["quantiles"] == {
        "min": 0.25, "p5": 0.3125, "p25": 0.625, "median": 1.125, "p75": 22.8125, "p95": 307.5, "max": 400.0,
    }  # fmt: skip
    edges, counts = found["histogram"]["edges"], found["histogram"]["counts"]
    assert dict(zip(edges, counts, strict=True)) == dict.fromkeys(edges, 0) | {0.0: 1, 0.5: 1, 1.0: 2, 30.0: 2}


def test_speaking_rates_ignore_spaces(tmp_path: Path) -> None:
    found = statistics_of(tmp_path, clip("a", sentence=" аб в,\u00a0г ", seconds=2), clip("b", sentence="…", seconds=1))
    assert (found["rates"]["quantiles"]["min"], found["rates"]["quantiles"]["max"]) == (2.5, 2.5)
    assert sum(found["rates"]["histogram"]["counts"]) == 1  # a clip with an empty sentence has no rate


def test_characters_are_counted_in_nfc(tmp_path: Path) -> None:
    found = statistics_of(
        tmp_path, clip("a", sentence="й"), clip("b", sentence="и\u0306й"), clip("c", sentence="한 국")
    )
    assert list(found["characters"].items()) == [("й", 3), (" ", 1), ("국", 1), ("한", 1)]


def test_rare_characters_have_example_clips(tmp_path: Path) -> None:
    clips = [clip(f"{i:02d}", sentence="а" + "]-^\\"[i % 4] * (i < 8)) for i in range(10)]
    found = statistics_of(tmp_path, *clips, clip("x", sentence="Ж <b>"), clip("y", sentence="жжжж ж"))
    rare = {each["character"]: each for each in found["rare_characters"]}
    assert found["characters"]["а"] == 10
    assert "а" not in rare
    assert rare["Ж"] == {"character": "Ж", "count": 1, "examples": [{"id": "x", "sentence": "Ж <b>"}]}
    assert (rare["ж"]["count"], ids(rare["ж"]["examples"])) == (5, ["y"])
    assert (rare["]"]["count"], ids(rare["]"]["examples"])) == (2, ["00", "04"])
    assert (rare["\\"]["count"], ids(rare["\\"]["examples"])) == (2, ["03", "07"])


def test_rare_character_has_at_most_three_examples(tmp_path: Path) -> None:
    found = statistics_of(tmp_path, *(clip(str(i), sentence="ё") for i in range(9)))
    assert [(each["count"], ids(each["examples"])) for each in found["rare_characters"]] == [(9, ["0", "1", "2"])]


# A frame is 320 samples, but the first one needs a window of 400: 15 * 320 samples give 14 frames.
@pytest.mark.parametrize(
    ("sentence", "needed"),
    [
        ("abcdefghijklmn", 14),
        ("abcdefghijklmno", 15),
        ("Aabbccddee", 15),  # equal neighbours (in lower case) need a CTC blank between them
        ("abcdefg, hijklm", 14),
        ("abcdefg - hijklm!", 14),  # removed punctuation leaves a single space
        ("कककककककि", 14),  # a vowel sign is a mark, not a letter, but is spelled
    ],
)
def test_clips_too_short_for_ctc(tmp_path: Path, sentence: str, needed: int) -> None:
    samples = 15 * 320
    found = statistics_of(tmp_path, clip("a", sentence=sentence, num_samples=samples))["too_short"]
    expected = [{"id": "a", "sentence": sentence, "seconds": 0.3, "frames": 14, "needed": needed}]
    assert found == {"clips": int(needed > 14), "examples": expected if needed > 14 else []}


def test_most_missing_frames_come_first(tmp_path: Path) -> None:
    clips = [clip(f"{i:02d}", sentence="ab" * (20 + i), num_samples=3200) for i in range(12)]
    found = statistics_of(tmp_path, *clips)["too_short"]
    assert found["clips"] == 12
    assert ids(found["examples"]) == [f"{i:02d}" for i in range(11, 1, -1)]


def test_empty_sentences_are_not_too_short(tmp_path: Path) -> None:
    sentences = ["", "  ", "?!", "…", None, "7", "я"]
    found = statistics_of(tmp_path, *(clip(str(i), sentence=s, num_samples=100) for i, s in enumerate(sentences)))
    assert found["empty"]["clips"] == 5
    assert ids(found["empty"]["examples"]) == ["0", "1", "2", "3", "4"]
    assert ids(found["too_short"]["examples"]) == ["5", "6"]


def test_silent_and_clipped_clips_are_sorted(tmp_path: Path) -> None:
    silence, clipping = [0.5, 0.9, 0.899, 1.0], [0.001, 0.0009, 0.5, 0.0]
    clips = [clip(str(i), silence=s, clipping=c) for i, (s, c) in enumerate(zip(silence, clipping, strict=True))]
    found = statistics_of(tmp_path, *clips, clip("unknown", silence=None, clipping=None))
    assert found["silence"]["clips"] == 2
    assert [(e["id"], e["silence"]) for e in found["silence"]["examples"]] == [("3", 1.0), ("1", 0.9)]
    assert found["silence"]["quantiles"]["min"] == 0.5
    assert [(e["id"], e["clipping"]) for e in found["clipping"]["examples"]] == [("2", 0.5), ("0", 0.001)]


def test_examples_are_limited_to_ten(tmp_path: Path) -> None:
    found = statistics_of(tmp_path, *(clip(f"{i:02d}", silence=1.0) for i in range(25)))["silence"]
    assert found["clips"] == 25
    assert ids(found["examples"]) == [f"{i:02d}" for i in range(10)]


def test_duplicate_files_recordings_and_sentences(tmp_path: Path) -> None:
    found = statistics_of(
        tmp_path,
        clip("a", sha256="f", audio_sha256="r"),
        clip("b", sha256="f", audio_sha256="r"),
        clip("c", audio_sha256="r"),
        clip("d", speaker_id="one", sentence="Да, нет."),
        clip("e", speaker_id="one", sentence="да НЕТ"),
        clip("f", speaker_id="two", sentence="да нет"),
        clip("g", speaker_id=None, sentence="да нет"),
        clip("h", speaker_id=None, sentence="да нет"),
        clip("i", speaker_id="one", sentence="?"),
        clip("j", speaker_id="one", sentence="?"),
    )["duplicates"]
    counted = {kind: (each["groups"], each["clips"], list(map(ids, each["examples"]))) for kind, each in found.items()}
    assert counted == {
        "files": (1, 2, [["a", "b"]]),
        "recordings": (1, 3, [["a", "b", "c"]]),
        "sentences": (1, 2, [["d", "e"]]),
    }


def test_extremes_have_five_clips_each(tmp_path: Path) -> None:
    found = statistics_of(tmp_path, *(clip(str(i), sentence="абвг", seconds=i + 1) for i in range(8)))["extremes"]
    assert ids(found["longest"]) == ids(found["slowest"]) == ["7", "6", "5", "4", "3"]
    assert ids(found["shortest"]) == ids(found["fastest"]) == ["0", "1", "2", "3", "4"]
    assert found["fastest"][0] == {"id": "0", "sentence": "абвг", "rate": 4.0, "seconds": 1.0}


def test_shortened_clips_are_listed_with_what_they_lack(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, [clip("a", missing_seconds=0.023), clip("b", missing_seconds=0.045), clip("c")])
    assert [(each["id"], each["missing_seconds"]) for each in audit["all"]["shortened"]["examples"]] == [
        ("b", 0.045),
        ("a", 0.023),
    ]
    assert audit["splits"]["train"]["shortened"]["clips"] == 2
    sentence = "Clips that lack a tenth of a second or less of the length that their headers state"
    assert f"{sentence}: 2." in format_summary(audit)
    assert f"<summary>{sentence}: 2</summary>" in render_page(audit, PNG)


def test_rejected_clips_are_grouped_by_reason(tmp_path: Path) -> None:
    lost = [{"id": f"{i:02d}", "split": "train", "reason": "missing", "detail": f"no {i}"} for i in range(12)]
    lost.append({"id": "x", "split": "test", "reason": "unreadable", "detail": "cut"})
    audit = audit_of(tmp_path, [clip("a")], lost)
    assert list(audit["rejected"]) == ["missing", "unreadable"]
    assert audit["rejected"]["missing"]["clips"] == 12
    assert ids(audit["rejected"]["missing"]["examples"]) == [f"{i:02d}" for i in range(10)]
    assert audit["rejected"]["unreadable"]["examples"] == [{"id": "x", "split": "test", "detail": "cut"}]
    assert (audit["splits"]["train"]["listed"], audit["splits"]["train"]["rejected"]) == (13, 12)
    assert (audit["all"]["listed"], audit["all"]["rejected"]) == (14, 13)


TEST = [
    clip("t1", "test", speaker_id="somebody"),
    clip("t2", "test", sentence="Ёлка горит: раз, два — три!"),
    clip("t3", "test", sha256="file", audio_sha256="samples of the file"),
    clip("t4", "test", audio_sha256="samples"),
    clip("t5", "test"),
]
PLANTED = {
    "speakers": [clip("o1", "other", speaker_id="somebody"), clip("o2", "other", speaker_id="somebody")],
    "sentences": [clip("o3", "other", sentence="ёлка ГОРИТ раз-два, три")],
    "files": [clip("o4", "other", sha256="file", audio_sha256="samples of the file")],
    "recordings": [clip("o5", "other", audio_sha256="samples")],
}


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        ("speakers", {"speakers": (1, [1, 2])}),
        ("sentences", {"sentences": (1, [1, 1])}),
        ("files", {"files": (1, [1, 1]), "recordings": (1, [1, 1])}),
        ("recordings", {"recordings": (1, [1, 1])}),
    ],
)
def test_each_kind_of_overlap_is_found(tmp_path: Path, planted: str, found: dict[str, Any]) -> None:
    pair = compare_splits(loaded(tmp_path, [*TEST, *PLANTED[planted], clip("o6", "other")]), "test", "other")
    none = dict.fromkeys(PLANTED, (0, [0, 0]))
    assert {kind: (pair[kind]["common"], pair[kind]["clips"]) for kind in PLANTED} == none | found


def test_overlap_examples_have_a_clip_of_each_split(tmp_path: Path) -> None:
    pair = compare_splits(loaded(tmp_path, [*TEST, *itertools.chain(*PLANTED.values())]), "test", "other")
    assert pair["splits"] == ["test", "other"]
    assert [ids(each) for each in pair["sentences"]["examples"]] == [["t2", "o3"]]
    assert [ids(each) for each in pair["recordings"]["examples"]] == [["t3", "o4"], ["t4", "o5"]]
    assert pair["speakers"]["examples"] == [
        [
            {"id": "t1", "sentence": "sentence t1", "speaker_id": "somebody"},
            {"id": "o1", "sentence": "sentence o1", "speaker_id": "somebody"},
        ]
    ]


def test_unknown_values_do_not_overlap(tmp_path: Path) -> None:
    nothing = {"speaker_id": None, "sentence": "…"}
    pair = compare_splits(
        loaded(tmp_path, [clip("a", "test", **nothing), clip("b", "other", **nothing)]), "test", "other"
    )
    assert [pair[kind]["common"] for kind in PLANTED] == [0, 0, 0, 0]


def test_clips_in_both_splits_are_counted_separately(tmp_path: Path) -> None:
    same = {"speaker_id": "somebody", "sentence": "the same"}
    shared = [clip("a", "test", "other", **same), clip("b", "test", "other", **same)]
    clips = loaded(tmp_path, [*shared, clip("c", "test", **same), clip("d", "other"), clip("e", "other")])
    pair = compare_splits(clips, "test", "other")
    assert (pair["shared_clips"], pair["clips"]) == (2, [1, 2])
    assert [pair[kind]["common"] for kind in PLANTED] == [0, 0, 0, 0]


def test_each_pair_of_splits_is_compared_once(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, [clip("a", "train"), clip("b", "test")])
    assert [pair["splits"] for pair in audit["overlaps"]] == [["train", "test"], ["train", "other"], ["test", "other"]]


def test_summary_lists_possible_problems(tmp_path: Path) -> None:
    lost = [{"id": "x", "split": "test", "reason": "missing", "detail": "gone"}]
    bad = [clip("u1", silence=1.0, speaker_id=None), clip("u2", sentence="!", audio_sha256="u"),
           clip("u3", audio_sha256="u")]  # fmt: skip
    both = clip("v", "train", "other")
    sentences = format_summary(audit_of(tmp_path, [*TEST, *itertools.chain(*PLANTED.values()), *bad, both], lost))
    assert sentences == [
        "14 clips, 0.01 hours, 11 speakers, 3 splits.",
        "1 of 15 listed clips could not be read.",
        "WARNING: corpus-test: 1 of 6 clips (16.67%) are rejected as missing, such as b: no file.",
        "All are listed in results/data/corpus/rejected.parquet.",
        "Clips that both train and other list: 1.",
        "Overlap of test (5 clips) with other: 1 by sentence, 1 by speaker, 2 by audio.",
        "No overlap by speaker, sentence or audio: train and test.",
        "Clips without a speaker: 1; splits may share more speakers than are counted.",
        "Clips with the same audio as another clip of train: 2.",
        "Clips without letters or digits in the sentence: 1.",
        "Clips with at least 90% silence: 1.",
    ]


def test_summary_of_a_clean_dataset(tmp_path: Path) -> None:
    assert format_summary(audit_of(tmp_path, [clip("a", "train"), clip("b", "test"), clip("c", "other")])) == [
        "3 clips, 0.00 hours, 3 speakers, 3 splits.",
        "No overlap by speaker, sentence or audio: train and test, train and other, test and other.",
    ]


class Tags(html.parser.HTMLParser):
    """The tags and the URLs of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.urls: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.urls += [value or "" for name, value in attrs if name in ("src", "href", "onerror")]


def test_corpus_text_is_escaped_in_the_page(tmp_path: Path) -> None:
    evil = "<script>alert('1')</script><img src=x onerror=y>&amp;"
    names = {"sentence": evil, "speaker_id": evil, "gender": evil, "age": evil + "a", "accent": evil}
    clips = [
        clip(evil, "test", seconds=0.1, silence=1.0, clipping=1.0, sha256="f", audio_sha256="r", **names),
        clip(evil + "2", "other", sha256="f", audio_sha256="r", **names),
        clip(evil + "3", "other", sha256="f", audio_sha256="r", **names),
    ]
    lost = [{"id": evil, "split": "train", "reason": evil, "detail": evil}]
    text = render_page(audit_of(tmp_path, clips, lost, title=evil), PNG)
    parsed = Tags(text)
    assert "script" not in parsed.tags
    assert len(parsed.urls) == 1  # the plots
    assert text.count("&lt;script&gt;") > 20


def test_right_to_left_text_keeps_its_place(tmp_path: Path) -> None:
    names = dict.fromkeys(("speaker_id", "gender", "accent", "sentence"), "كتاب")
    clips = [clip("مقطع 1", "test", sha256="f", **names), clip("مقطع 2", "train", sha256="f", **names)]
    lost = [{"id": "مقطع 3", "split": "train", "reason": "missing", "detail": "كتاب 404"}]
    text = render_page(audit_of(tmp_path, clips, lost, title="كتاب 8.0"), PNG)
    assert "<h1>\u2068كتاب 8.0\u2069</h1>" in text
    assert 'title="\u2068كتاب\u2069: 0.00 hours"' in text
    # Elsewhere each piece is in an element of its own.
    isolated = re.sub(r"<bdi.*?</bdi>|\u2068.*?\u2069", "", text)
    assert [each for each in isolated if unicodedata.bidirectional(each) in ("R", "AL")] == []


def test_page_is_self_contained(tmp_path: Path) -> None:
    text = render_page(audit_of(tmp_path, TEST), PNG)
    assert [url[:22] for url in Tags(text).urls] == ["data:image/png;base64,"]
    assert "url(" not in text


def test_invisible_characters_are_shown_by_name(tmp_path: Path) -> None:
    text = render_page(audit_of(tmp_path, [clip("a", sentence="з\u0301\u00a0\u200b\u200f한\x07")]), PNG)
    for shown in ("◌\u0301", "U+00A0 NO-BREAK SPACE", "U+200B ZERO WIDTH SPACE", "U+200F RIGHT-TO-LEFT MARK", "U+0007",
                  "U+D55C HANGUL SYLLABLE HAN"):  # fmt: skip
        assert shown in text


def test_more_splits_and_genders_than_colours(tmp_path: Path) -> None:
    splits = [f"split{i}" for i in range(9)]
    clips = [clip(name, name, gender=f"gender {i}") for i, name in enumerate(splits)]
    write_table([], REJECTED, tmp_path / "rejected.parquet")
    found = audit_dataset(
        loaded(tmp_path, clips, splits),
        read_table(tmp_path / "rejected.parquet"),
        {"available": True, "why": None, "rejections": {}}
        | {kind: dict.fromkeys(splits, 1) for kind in ("listed", "rejected")},
        AuditSettings(dataset="corpus", title="A corpus", splits=splits, redistribute=True),
    )
    plot_distributions(found, tmp_path / "audit.png")
    text = render_page(found, (tmp_path / "audit.png").read_bytes())
    assert "other values" in text
    assert all(f"<th>{split}</th>" in text for split in splits)
    assert text.count("other values: 0.00 hours") == 9


def test_page_shows_a_split_named_all_beside_the_total(tmp_path: Path) -> None:
    splits = ["all", "test"]
    write_table([], REJECTED, tmp_path / "rejected.parquet")
    found = audit_dataset(
        loaded(tmp_path, [clip("a", "all"), clip("b", "test")], splits),
        read_table(tmp_path / "rejected.parquet"),
        status_of([]) | {kind: dict.fromkeys(splits, 0) for kind in ("listed", "rejected")},
        AuditSettings(dataset="corpus", title="A corpus", splits=splits, redistribute=True),
    )
    text = render_page(found, PNG)
    assert all(f"<th>{name}</th>" in text for name in ("all", "test", "all splits"))


def arguments(folder: Path, clips: Sequence[dict[str, Any]], status: dict[str, Any]) -> list[str]:
    """Write the inputs of the program to `folder` and return its arguments."""
    for split in SPLITS:
        rows = [row for row in clips if row["splits"][0] == split]
        write_table(rows, INDEX, folder / split / "index.parquet")
    write_table([], REJECTED, folder / "rejected.parquet")
    write_json(status, folder / "status.json")
    given = [
        "--settings", as_json({"dataset": "corpus", "title": "A corpus 1.0", "splits": SPLITS, "redistribute": True}),
        "--indexes", *(folder / split / "index.parquet" for split in SPLITS),
        "--rejected", folder / "rejected.parquet", "--status", folder / "status.json",
        "--audit", folder / "audit.json", "--page", folder / "audit.html", "--plot", folder / "audit.png",
    ]  # fmt: skip
    return list(map(str, given))


def test_program_output_is_deterministic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [*TEST, *itertools.chain(*PLANTED.values()), clip("v", "train", "other", sentence="редкое ѣ")]
    # In another process hashes differ, and with them the order of sets.
    done = run_stage("corpus.audit", *arguments(tmp_path / "one", clips, status_of(clips)))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    monkeypatch.setattr(sys, "argv", ["audit", *arguments(tmp_path / "two", clips[::-1], status_of(clips))])
    main()
    for name in ("audit.json", "audit.html", "audit.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    # The signature of a PNG file: ISO/IEC 15948, section 5.2.
    assert (tmp_path / "one" / "audit.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert read_json(tmp_path / "one" / "audit.json")["splits"]["test"]["clips"] == 5


@pytest.mark.filterwarnings("error")
def test_audit_of_an_unavailable_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    status = status_of([]) | {"available": False, "why": "the <server> refused: 403"}
    monkeypatch.setattr(sys, "argv", ["audit", *arguments(tmp_path, [], status)])
    main()
    assert capfd.readouterr().err == ""

    def reject(constant: str) -> None:
        raise AssertionError(constant)

    found = json.loads((tmp_path / "audit.json").read_text(), parse_constant=reject)
    assert (found["available"], found["why"], found["all"]["clips"]) == (False, "the <server> refused: 403", 0)
    assert found["splits"]["train"]["durations"]["quantiles"]["median"] is None
    text = (tmp_path / "audit.html").read_text()
    assert "This dataset is not available." in text
    assert "the &lt;server&gt; refused: 403" in text
    assert "<img" not in text


def test_page_of_a_dataset_without_readable_clips(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, [], [{"id": "x", "split": "train", "reason": "missing", "detail": "it is gone"}])
    plot_distributions(audit, tmp_path / "audit.png")
    text = render_page(audit, (tmp_path / "audit.png").read_bytes())
    assert "This dataset has no readable clips." in text
    assert "it is gone" in text


ANY_CLIPS = st.lists(
    st.fixed_dictionaries(
        {
            "splits": st.lists(st.sampled_from(SPLITS), min_size=1, max_size=3, unique=True),
            "num_samples": st.integers(1, 700_000),
            "sentence": st.text(max_size=20),
            "speaker_id": st.sampled_from([None, "", "one", "two"]),
            "gender": st.sampled_from([None, "", "a", "b"]),
            "silence": st.sampled_from([None, 0.0, 1.0]),
            "audio_sha256": st.sampled_from(["r", "s", "t"]),
        }
    ),
    max_size=16,
)


@settings(max_examples=12)  # pandas takes a third of a second for each
@given(ANY_CLIPS)
def test_statistics_of_any_corpus_are_consistent(tmp_path_factory: pytest.TempPathFactory, drawn: Any) -> None:
    clips = [clip(str(i), *one["splits"]) | one for i, one in enumerate(drawn)]
    audit = audit_of(tmp_path_factory.mktemp("corpus"), clips)
    for split, of in [*audit["splits"].items(), ("all", audit["all"])]:
        listed = [c for c in clips if split == "all" or split in c["splits"]]
        assert of["clips"] == len(listed) == of["listed"] - of["rejected"]
        assert of["seconds"] == sum(c["num_samples"] for c in listed) / SAMPLE_RATE
        for kind in ("gender", "age", "accent"):
            assert sum(group["clips"] for group in of[kind]) == len(listed)
            assert sum(group["seconds"] for group in of[kind]) == pytest.approx(of["seconds"])
        assert sum(of["durations"]["histogram"]["counts"]) == len(listed)
        assert sum(of["rates"]["histogram"]["counts"]) == len(listed) - of["empty"]["clips"]
        assert of["speakers"]["clips_without"] == sum(not c["speaker_id"] for c in listed)
        for each in (of["empty"], of["too_short"], of["silence"], of["clipping"]):
            assert len(each["examples"]) == min(10, each["clips"])
        assert of["duplicates"]["recordings"]["clips"] != 1
    for pair in audit["overlaps"]:
        for side, split in enumerate(pair["splits"]):
            assert pair["clips"][side] + pair["shared_clips"] == audit["splits"][split]["clips"]
            assert all(pair[kind]["common"] <= pair[kind]["clips"][side] <= pair["clips"][side] for kind in PLANTED)
    json.dumps(audit, allow_nan=False)
