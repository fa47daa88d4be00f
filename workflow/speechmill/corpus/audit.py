"""audit: describe the contents of a dataset, as JSON and as a page, before it is used for training.

A kept clip counts in every split that lists it, and once in the entire dataset. `audit.json`:

    dataset, title, available, why   why is null if the dataset is available
    splits.{split}, all              the statistics below, of a split and of the entire dataset
    overlaps                         what each pair of splits has in common: see `compare_splits`
    rejected.{reason}                clips; examples of {id, split, detail}; split is the one that would store the clip
    rejections                       a sentence for each split and reason; its splits include the drawn ones
    pieces                           of a dataset that is made from another one, otherwise null: see `audit_pieces`

The statistics:

    listed, rejected                 clips that the corpus lists, and the number of them that could not be read
    clips, seconds, hours, encoded_bytes   of the kept clips
    sentences                        distinct ones; sentences are equal if their letters and digits in lower case are
    speakers                         count; clips_without; clips_each: quantiles; largest: {speaker_id, clips, share}
    gender, age, accent              [{value, clips, seconds}], most clips first; value is null if the corpus gives none
    durations, rates                 quantiles; histogram: {edges, counts}: counts[i] is for edges[i] <= x < edges[i+1],
                                     the last count for x >= the last edge. Durations are in seconds, rates in
                                     characters (without spaces) per second, of clips with a sentence
    characters                       {character: count} in the published sentences, in NFC, most frequent first
    rare_characters                  [{character, count, examples}] of those that occur fewer than 10 times
    empty                            clips without letters or digits in the sentence
    too_short                        clips with fewer frames of 20 ms than CTC needs for the letters, marks, digits and
                                     single spaces of the sentence in lower case
    shortened                        clips whose files lack a little of the length that their headers state
    silence                          quantiles of the share of silence; clips in which it is at least 0.9
    clipping                         clips with a share of at least 0.001 of their samples at full scale
    duplicates.files, .recordings, .sentences   clips with the same file, the same samples at 16 kHz, or the same
                                     speaker and sentence: groups, clips, and examples (for each group a list of clips)
    extremes.longest, .shortest, .fastest, .slowest   clips

`clips` is a number, followed by up to ten `examples`, the most extreme first: the clip's id, its published sentence,
and the relevant values. Quantiles are min, p5, p25, median, p75, p95, max. Unknown values are null. The same input
gives the same bytes.
"""

import argparse
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from numpy.typing import NDArray
from pydantic import BaseModel

from speechmill.core.command import run_command
from speechmill.core.direction import code_point, on_dotted_circle
from speechmill.core.files import TEMPLATES, read_json, write_json, write_text
from speechmill.core.page import COLOURS, STYLE, data_url, page_environment, save_figure
from speechmill.core.schemas import INDEX, SAMPLE_RATE
from speechmill.core.tables import open_table, read_row_groups, read_table
from speechmill.corpus.ingest_pieces import BELOW, format_parts, part_name
from speechmill.corpus.splits import sentence_key
from speechmill.corpus.status import format_rejections
from speechmill.text.normaliser import ctc_frames, model_frames

_FRAME_SECONDS = 0.02
_SILENT_SHARE = 0.9
_CLIPPED_SHARE = 0.001
_RARE_COUNT = 10
_EXAMPLES = 10

_QUANTILES = {"min": 0, "p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1}
_DURATION_EDGES = [i / 2 for i in range(61)]
_RATE_EDGES = [float(i) for i in range(41)]
_SCORE_EDGES = {"segment": [i / 10 for i in range(-80, 1)], "transcribe": [i / 50 for i in range(51)]}
"""Of scores of the two stages: log-probabilities, and probabilities."""

# Longer pieces are shown without audio.
_MAX_AUDIO_SECONDS = 60

# Columns of codes, in which clips with the same speaker, sentence, file or recording have the same number.
_CODES = {
    "speakers": "speaker_code",
    "sentences": "sentence_code",
    "files": "file_code",
    "recordings": "recording_code",
}

# The titles of the statistics that point out possibly unusable clips.
_WARNINGS = {
    "too_short": "Clips too short for CTC to emit the sentence",
    "empty": "Clips without letters or digits in the sentence",
    "shortened": "Clips that lack a tenth of a second or less of the length that their headers state",
    "silence": f"Clips with at least {_SILENT_SHARE:.0%} silence",
    "clipping": f"Clips with at least {_CLIPPED_SHARE:.1%} of the samples at full scale",
}

_OTHER_VALUES, _NOT_GIVEN = "other values", "not given"


class AuditSettings(BaseModel):
    """The stage settings: name, title and splits of a dataset, and whether its audio may be redistributed."""

    dataset: str
    title: str
    splits: list[str]
    redistribute: bool


@dataclass(frozen=True)
class DatasetClips:
    """The kept clips of a dataset.

    Attributes:
        frame: A row per clip, sorted by id.
        members: For each split a mask of the rows that it lists, shape (clips,).
    """

    frame: pd.DataFrame
    members: dict[str, NDArray[np.bool_]]


def load_clips(indexes: Iterable[Path], splits: Sequence[str]) -> DatasetClips:
    """Read the indexes of a dataset and add the columns that the audit needs.

    The columns whose names end in `_code` are numbers that are equal for clips with the same speaker, sentence, file,
    recording, or both speaker and sentence; -1 if unknown.
    """
    columns = [name for name in INDEX.names if name not in ("shard", "row_group", "row")]
    empty = INDEX.empty_table().select(columns)
    table = pa.concat_tables([empty, *(read_table(path, columns) for path in indexes)]).sort_by("id")
    listed = table["splits"].combine_chunks()
    rows, names = pc.list_parent_indices(listed).to_numpy(), pc.list_flatten(listed)
    members = {split: np.zeros(len(table), dtype=bool) for split in splits}
    for split, mask in members.items():
        mask[rows[pc.equal(names, split).to_numpy(zero_copy_only=False)]] = True

    frame = table.drop_columns("splits").to_pandas()
    frame["sentence"] = frame["sentence"].fillna("")
    for name in ("speaker_id", "gender", "age", "accent"):
        frame[name] = frame[name].mask(frame[name] == "")
    sentences = [unicodedata.normalize("NFC", sentence) for sentence in frame["sentence"]]
    frame["nfc"] = sentences
    frame["sentence_code"] = _codes(pd.Series([sentence_key(sentence) for sentence in sentences], dtype="str"))
    frame["empty"] = frame["sentence_code"] < 0
    frame["seconds"] = frame["num_samples"] / SAMPLE_RATE
    characters = np.array([sum(map(len, sentence.split())) for sentence in sentences], dtype=float)
    frame["rate"] = (characters / frame["seconds"]).mask(frame["empty"])
    frame["frames"] = [model_frames(samples, _FRAME_SECONDS) for samples in frame["num_samples"]]
    frame["needed"] = np.array(
        [_needed_frames(sentence, frames) for sentence, frames in zip(sentences, frame["frames"], strict=True)],
        dtype=np.int64,
    )
    frame["missing_frames"] = frame["needed"] - frame["frames"]
    frame["speaker_code"] = _codes(frame["speaker_id"])
    frame["file_code"] = _codes(frame.pop("sha256"))
    frame["recording_code"] = _codes(frame.pop("audio_sha256"))
    both_known = (frame["speaker_code"] >= 0) & (frame["sentence_code"] >= 0)
    pairs = frame["speaker_code"] * (len(frame) + 1) + frame["sentence_code"]
    frame["speaker_sentence_code"] = _codes(pairs.where(both_known))
    return DatasetClips(frame, members)


class _SpelledCharacters(dict[int, str | None]):
    """A table for `str.translate` that keeps letters, marks, digits and spaces, filled in as characters occur."""

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        kept = character if unicodedata.category(character)[0] in "LMN" else None
        self[code] = " " if character.isspace() else kept
        return self[code]


_SPELLED_CHARACTERS = _SpelledCharacters()


def _needed_frames(sentence: str, frames: int) -> int:
    """Return the frames that CTC needs for the letters of a sentence, or 0 if `frames` are enough for any sentence."""
    lowered = sentence.lower()
    # A character takes two frames at most. Counting exactly is slow, and nearly all clips have more frames than this.
    if frames >= 2 * len(lowered):
        return 0
    return ctc_frames(" ".join(lowered.translate(_SPELLED_CHARACTERS).split()))


def _codes(values: "pd.Series[Any]") -> NDArray[np.int64]:
    """Return a number for each distinct value, in order of appearance; -1 for null and empty strings."""
    return np.asarray(pd.factorize(values.mask(values == ""))[0], dtype=np.int64)


def compute_statistics(clips: pd.DataFrame) -> dict[str, Any]:
    """Return the statistics of rows of `DatasetClips.frame`: those of the module's docstring from `clips` on."""
    samples = int(clips["num_samples"].sum())
    too_short = clips[~clips["empty"] & (clips["missing_frames"] > 0)]
    silent, clipped = clips[clips["silence"] >= _SILENT_SHARE], clips[clips["clipping"] >= _CLIPPED_SHARE]
    characters = _characters(clips["nfc"].tolist())
    return {
        "clips": len(clips),
        "seconds": samples / SAMPLE_RATE,
        "hours": round(samples / SAMPLE_RATE / 3600, 4),
        "encoded_bytes": int(clips["encoded_bytes"].sum()),
        "sentences": len(_group_sizes(clips["sentence_code"])),
        "speakers": _speakers(clips),
        **{name: _groups(clips, name) for name in ("gender", "age", "accent")},
        "durations": _distribution(clips["seconds"], _DURATION_EDGES),
        "rates": _distribution(clips["rate"], _RATE_EDGES),
        "characters": characters,
        "rare_characters": _rare_characters(characters, clips),
        "empty": _count(clips[clips["empty"]], "seconds"),
        "too_short": _count(_descending(too_short, "missing_frames"), "seconds", "frames", "needed"),
        "shortened": _count(_descending(clips[clips["missing_seconds"] > 0], "missing_seconds"), "missing_seconds"),
        "silence": {
            "quantiles": _quantiles(clips["silence"]),
            **_count(_descending(silent, "silence"), "silence"),
        },
        "clipping": _count(_descending(clipped, "clipping"), "clipping"),
        "duplicates": {
            "files": _duplicates(clips, "file_code"),
            "recordings": _duplicates(clips, "recording_code"),
            "sentences": _duplicates(clips, "speaker_sentence_code"),
        },
        "extremes": {
            "longest": _examples(clips.nlargest(5, "seconds"), "seconds"),
            "shortest": _examples(clips.nsmallest(5, "seconds"), "seconds"),
            "fastest": _examples(clips.nlargest(5, "rate"), "rate", "seconds"),
            "slowest": _examples(clips.nsmallest(5, "rate"), "rate", "seconds"),
        },
    }


def _examples(clips: pd.DataFrame, *columns: str, limit: int = _EXAMPLES) -> list[dict[str, Any]]:
    return _records(clips.head(limit), ["id", "sentence", *columns])


def _records(rows: pd.DataFrame, columns: list[str]) -> list[dict[str, Any]]:
    records = rows[columns].to_dict("records")
    return [{str(name): _json_value(value) for name, value in row.items()} for row in records]


def _json_value(value: Any) -> Any:
    if pd.isna(value):
        return None
    return round(value, 4) if isinstance(value, float) else value


def _count(clips: pd.DataFrame, *columns: str) -> dict[str, Any]:
    return {"clips": len(clips), "examples": _examples(clips, *columns)}


def _descending(clips: pd.DataFrame, column: str) -> pd.DataFrame:
    return clips.sort_values(column, ascending=False, kind="stable")


def _group_sizes(codes: "pd.Series[Any]") -> "pd.Series[int]":
    """Return the number of clips with each code, largest first, equal ones in the order of the codes."""
    counts = codes[codes >= 0].value_counts(sort=False).sort_index()
    return counts.sort_values(ascending=False, kind="stable")


def _speakers(clips: pd.DataFrame) -> dict[str, Any]:
    sizes = _group_sizes(clips["speaker_code"])
    largest = None
    if len(sizes):
        speaker = clips["speaker_id"][clips["speaker_code"] == sizes.index[0]].iloc[0]
        largest = {
            "speaker_id": speaker,
            "clips": int(sizes.iloc[0]),
            "share": round(int(sizes.iloc[0]) / len(clips), 4),
        }
    return {
        "count": len(sizes),
        "clips_without": int((clips["speaker_code"] < 0).sum()),
        "clips_each": _quantiles(sizes),
        "largest": largest,
    }


def _groups(clips: pd.DataFrame, column: str) -> list[dict[str, Any]]:
    groups = clips.groupby(column, dropna=False)["num_samples"].agg(["size", "sum"]).reset_index()
    groups = groups.sort_values(["size", column], ascending=[False, True])
    return [
        {"value": _json_value(value), "clips": int(count), "seconds": int(samples) / SAMPLE_RATE}
        for value, count, samples in groups.itertuples(index=False)
    ]


def _quantiles(values: "pd.Series[Any]") -> dict[str, float | None]:
    known = values.dropna().to_numpy(dtype=np.float64)
    if not len(known):
        return dict.fromkeys(_QUANTILES)
    quantiles = np.quantile(known, list(_QUANTILES.values()))
    return {name: round(float(value), 4) for name, value in zip(_QUANTILES, quantiles, strict=True)}


def _distribution(values: "pd.Series[Any]", edges: list[float]) -> dict[str, Any]:
    counts, _ = np.histogram(values.dropna().to_numpy(dtype=np.float64), [*edges, np.inf])
    return {"quantiles": _quantiles(values), "histogram": {"edges": edges, "counts": counts.tolist()}}


def _characters(sentences: list[str]) -> dict[str, int]:
    counts = np.zeros(0x110000, dtype=np.int64)
    for start in range(0, len(sentences), 10_000):
        text = "".join(sentences[start : start + 10_000])
        part = np.bincount(np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32))
        counts[: len(part)] += part
    codes = np.flatnonzero(counts)
    return {chr(code): int(counts[code]) for code in codes[np.argsort(-counts[codes], kind="stable")]}


def _rare_characters(characters: dict[str, int], clips: pd.DataFrame) -> list[dict[str, Any]]:
    rare = sorted((count, character) for character, count in characters.items() if count < _RARE_COUNT)
    if not rare:
        return []
    rows: dict[str, list[int]] = {character: [] for _, character in rare}
    pattern = re.compile("[" + "".join(re.escape(character) for character in rows) + "]")
    for row, sentence in enumerate(clips["nfc"].tolist()):
        for character in set(pattern.findall(sentence)):
            rows[character].append(row)
    # All examples are extracted at once, because a script of thousands of characters has many rare ones.
    needed = sorted({row for containing in rows.values() for row in containing[:3]})
    examples = dict(zip(needed, _examples(clips.iloc[needed], limit=len(needed)), strict=True))
    return [
        {"character": character, "count": count, "examples": [examples[row] for row in rows[character][:3]]}
        for count, character in rare
    ]


def _duplicates(clips: pd.DataFrame, column: str) -> dict[str, Any]:
    sizes = _group_sizes(clips[column])
    repeated = sizes[sizes > 1]
    return {
        "groups": len(repeated),
        "clips": int(repeated.sum()),
        "examples": [_examples(clips[clips[column] == code]) for code in repeated.index[:_EXAMPLES]],
    }


def compare_splits(clips: DatasetClips, first: str, second: str) -> dict[str, Any]:
    """Return what two splits have in common.

    `shared_clips` is the number of clips that both splits list. The corpus publishes them so, and they are excluded
    from all other numbers: `clips` counts the other clips of each split. For each of `speakers`, `sentences`, `files`
    and `recordings` there are the number of values that occur in both splits (`common`), the clips of each split with
    such a value (`clips`), and examples, a clip of each split. `recordings` are equal samples at 16 kHz, which includes
    equal files.
    """
    in_first, in_second = clips.members[first], clips.members[second]
    sides = [np.flatnonzero(in_first & ~in_second), np.flatnonzero(in_second & ~in_first)]
    return {
        "splits": [first, second],
        "shared_clips": int((in_first & in_second).sum()),
        "clips": [len(rows) for rows in sides],
        **{kind: _common(clips.frame, column, sides) for kind, column in _CODES.items()},
    }


def _common(frame: pd.DataFrame, column: str, sides: list[NDArray[np.intp]]) -> dict[str, Any]:
    codes = frame[column].to_numpy()
    common = np.intersect1d(codes[sides[0]], codes[sides[1]])
    common = common[common >= 0]
    matching = [rows[np.isin(codes[rows], common)] for rows in sides]
    columns = ["speaker_id"] if column == "speaker_code" else []
    return {
        "common": len(common),
        "clips": [len(rows) for rows in matching],
        "examples": [
            _examples(frame.iloc[[rows[codes[rows] == code][0] for rows in matching]], *columns)
            for code in common[:_EXAMPLES]
        ],
    }


def audit_pieces(tables: Sequence[Path], about: dict[str, Any]) -> dict[str, Any]:
    """Return the statistics of the pieces of recordings that a dataset is made of.

    `about` is that of the dataset: how the pieces were made, and its `parts`. `scores` has quantiles, and histograms
    of the `kept` pieces and of those `below` the threshold, with the same edges; the first counts include all lower
    scores. `worst` are the kept pieces with the lowest scores, `below` those with the highest scores below the
    threshold: the piece's id, its recording with start and end in seconds, its sentence and score, and where it is
    stored: the number of the table and of the row.
    """
    columns = ["id", "recording", "start", "end", "sentence", "score", "reason"]
    read = [read_table(path, columns).to_pandas().assign(table=number) for number, path in enumerate(tables)]
    pieces = pd.concat([each.assign(row=np.arange(len(each))) for each in read])
    pieces = pieces[pieces["reason"].isna()].sort_values(["score", "id"])
    is_kept = pieces["score"] >= about["min_score"]
    edges = _SCORE_EDGES[about["stage"]]
    shown = [name for name in columns if name != "reason"] + ["table", "row"]
    return {
        "about": about,
        "scores": {
            "quantiles": _quantiles(pieces["score"]),
            "edges": edges,
            **{
                name: _score_counts(pieces["score"][mask], edges)
                for name, mask in (("kept", is_kept), ("below", ~is_kept))
            },
        },
        "worst": _records(pieces[is_kept].head(_EXAMPLES), shown),
        "below": _records(pieces[~is_kept][::-1].head(_EXAMPLES), shown),
    }


def _score_counts(scores: "pd.Series[Any]", edges: list[float]) -> list[int]:
    counts: list[int] = np.histogram(scores.clip(edges[0], edges[-1]), edges)[0].tolist()
    return counts


def embed_audio(examples: Sequence[dict[str, Any]], tables: Sequence[Path]) -> None:
    """Add the `audio` of pieces as a `data:` URL, or None for long ones, from the row groups that contain them."""
    for example in examples:
        example["audio"] = None
        if example["end"] - example["start"] <= _MAX_AUDIO_SECONDS:
            flac = _read_row(tables[example["table"]], example["row"])["encoded"]
            example["audio"] = data_url(flac, "audio/flac")


def _read_row(path: Path, row: int) -> dict[str, Any]:
    with open_table(path) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    ends = np.cumsum(sizes)
    group = int(np.searchsorted(ends, row, side="right"))
    (rows,) = read_row_groups(path, [group])
    return rows[row - int(ends[group])]


def audit_dataset(
    clips: DatasetClips,
    rejected: pa.Table,
    status: dict[str, Any],
    settings: AuditSettings,
    pieces: Sequence[Path] = (),
) -> dict[str, Any]:
    """Return the value of `audit.json`.

    Args:
        clips: The clips of a dataset.
        rejected: The table of rejected clips.
        status: The status of the dataset.
        settings: The stage settings.
        pieces: The tables of pieces, of a dataset that is made from another one.
    """
    reasons: dict[str, list[dict[str, Any]]] = {}
    for row in rejected.sort_by([("reason", "ascending"), ("id", "ascending")]).to_pylist():
        reasons.setdefault(row.pop("reason"), []).append(row)
    splits = {
        split: {kind: status[kind][split] for kind in ("listed", "rejected")} | compute_statistics(clips.frame[mask])
        for split, mask in clips.members.items()
    }
    counts = {"listed": len(clips.frame) + len(rejected), "rejected": len(rejected)}
    return {
        "dataset": settings.dataset,
        "title": settings.title,
        "available": status["available"],
        "why": status["why"],
        "splits": splits,
        "all": counts | compute_statistics(clips.frame),
        "overlaps": [compare_splits(clips, *pair) for pair in itertools.combinations(settings.splits, 2)],
        "rejected": {reason: {"clips": len(rows), "examples": rows[:_EXAMPLES]} for reason, rows in reasons.items()},
        "rejections": format_rejections(status),
        "pieces": audit_pieces(pieces, status["about"]) if pieces else None,
    }


def format_summary(audit: dict[str, Any]) -> list[str]:
    """Return the main findings of an audit as sentences: the size of the dataset, then possible problems."""
    total, splits = audit["all"], audit["splits"]
    speakers = total["speakers"]
    sentences = [
        f"{_count_noun(total['clips'], 'clip')}, {total['hours']:,.2f} hours,"
        f" {_count_noun(speakers['count'], 'speaker')}, {_count_noun(len(splits), 'split')}."
    ]
    if audit["pieces"]:
        sentences.append(f"{format_parts(audit['pieces']['about'])}.")
    if total["rejected"]:
        below = audit["rejected"].get(BELOW, {"clips": 0})["clips"]
        could_not = "have a score below the threshold, or could not be read" if below else "could not be read"
        sentences.append(f"{total['rejected']:,} of {_count_noun(total['listed'], 'listed clip')} {could_not}.")
        sentences += [f"{sentence}." for sentence in audit["rejections"]]
        sentences.append(f"All are listed in results/data/{audit['dataset']}/rejected.parquet.")
    disjoint = []
    for pair in audit["overlaps"]:
        overlap = _format_overlap(pair)
        sentences += overlap
        if not overlap:
            disjoint.append(" and ".join(pair["splits"]))
    if disjoint:
        sentences.append(f"No overlap by speaker, sentence or audio: {', '.join(disjoint)}.")
    if speakers["clips_without"]:
        sentences.append(
            f"Clips without a speaker: {speakers['clips_without']:,}; splits may share more speakers than are counted."
        )
    for split, statistics in splits.items():
        if repeated := statistics["duplicates"]["recordings"]["clips"]:
            sentences.append(f"Clips with the same audio as another clip of {split}: {repeated:,}.")
    sentences += [f"{title}: {total[name]['clips']:,}." for name, title in _WARNINGS.items() if total[name]["clips"]]
    return sentences


def _format_overlap(pair: dict[str, Any]) -> list[str]:
    first, second = pair["splits"]
    sentences = []
    if pair["shared_clips"]:
        sentences.append(f"Clips that both {first} and {second} list: {pair['shared_clips']:,}.")
    # The smaller split is usually the one that is scored.
    small = int(pair["clips"][1] <= pair["clips"][0])
    parts = [
        f"{pair[kind]['clips'][small]:,} by {what}"
        for kind, what in (("sentences", "sentence"), ("speakers", "speaker"), ("recordings", "audio"))
        if pair[kind]["common"]
    ]
    if parts:
        clips = _count_noun(pair["clips"][small], "other clip" if pair["shared_clips"] else "clip")
        sentences.append(
            f"Overlap of {pair['splits'][small]} ({clips}) with {pair['splits'][1 - small]}: {', '.join(parts)}."
        )
    return sentences


def _count_noun(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def plot_distributions(audit: dict[str, Any], path: Path) -> None:
    """Plot the durations and the speaking rates of each split, as shares of its clips, to a PNG file.

    Of a dataset that is made from another one, the scores of the pieces are below.
    """
    rows = 2 if audit["pieces"] else 1
    figure = plt.figure(figsize=(10, 4 * rows), layout="constrained")
    grid = figure.add_gridspec(rows, 2)
    _plot_histograms(figure.add_subplot(grid[0, 0]), audit["splits"], "durations", "seconds", "Durations")
    unit = "characters per second, without spaces"
    _plot_histograms(figure.add_subplot(grid[0, 1]), audit["splits"], "rates", unit, "Speaking rates")
    if audit["pieces"]:
        _plot_scores(figure.add_subplot(grid[1, :]), audit["pieces"]["scores"], audit["pieces"]["about"])
    save_figure(figure, path)


def _plot_scores(axes: Axes, scores: dict[str, Any], about: dict[str, Any]) -> None:
    edges, threshold = scores["edges"], about["min_score"]
    kept, below = np.array(scores["kept"]), np.array(scores["below"])
    axes.stairs(below, edges, fill=True, color=COLOURS[1], label=f"below the threshold ({below.sum():,})")
    # Both may be in the bin of the threshold.
    axes.stairs(kept + below, edges, baseline=below, fill=True, color=COLOURS[0], label=f"clips ({kept.sum():,})")
    axes.axvline(threshold, color="black", linestyle="--", linewidth=1.5, label=f"threshold, {threshold:g}")
    used = np.flatnonzero(kept + below)
    first = edges[used[0]] if len(used) else threshold
    axes.set_xlim(min(first, threshold) - 0.02 * (edges[-1] - min(first, threshold)), edges[-1])
    axes.set_xlabel(
        {"segment": "score of the worst part; 0 is a perfect match", "transcribe": "confidence"}[about["stage"]]
    )
    axes.set_ylabel("pieces")
    axes.set_title("Scores of the pieces of recordings")
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", edgecolor="none", framealpha=0.9)


def _plot_histograms(axes: Axes, splits: dict[str, Any], name: str, unit: str, title: str) -> None:
    last_bin = 1
    # If there are more splits than colours, the line styles distinguish them.
    styles = itertools.cycle(itertools.product(["-", "--", ":"], COLOURS))
    for (line, colour), (split, statistics) in zip(styles, splits.items(), strict=False):
        edges, counts = statistics[name]["histogram"]["edges"], statistics[name]["histogram"]["counts"]
        if not (total := sum(counts)):
            continue
        last_bin = max([last_bin, *(bin + 1 for bin, count in enumerate(counts[:-1]) if count)])
        label = f"{split} ({counts[-1]:,} beyond {edges[-1]:g})" if counts[-1] else split
        shares = [100 * count / total for count in counts[:-1]]
        axes.stairs(shares, edges, color=colour, linestyle=line, linewidth=1.5, label=label)
    axes.set_xlim(0, edges[last_bin])
    axes.set_ylim(bottom=0)
    axes.set_xlabel(unit)
    axes.set_ylabel("% of the split's clips")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.has_data():
        axes.legend(edgecolor="none", framealpha=0.9)


def render_page(audit: dict[str, Any], plots: bytes, *, redistribute: bool = False) -> str:
    """Return an audit as a self-contained HTML page.

    Args:
        audit: The value of `audit.json`; if audio may be redistributed, with that of the pieces.
        plots: The PNG file of `plot_distributions`.
        redistribute: Whether the terms of the corpus allow its audio to be redistributed.
    """
    environment = page_environment()
    environment.filters.update(
        number=_format_number, count_noun=_count_noun, glyph=_glyph, code_point=_code_point, time=_format_time
    )
    return environment.from_string((TEMPLATES / "audit.html.j2").read_text(encoding="utf-8")).render(
        audit=audit,
        # With a space, which no name of a split has.
        columns=audit["splits"] | {"all splits": audit["all"]},
        genders=_genders(audit),
        plots=data_url(plots),
        style=STYLE,
        summary=format_summary(audit),
        warnings=_WARNINGS,
        part_name=part_name,
        redistribute=redistribute,
        max_audio_seconds=_MAX_AUDIO_SECONDS,
    )


def _genders(audit: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the colour and the seconds in each split for each gender; genders beyond the last colour are merged."""
    values = [group["value"] for group in audit["all"]["gender"] if group["value"] is not None]
    colours = dict(zip(values, COLOURS, strict=False)) | {_OTHER_VALUES: "#777777", _NOT_GIVEN: "#cccccc"}
    genders: dict[str, dict[str, Any]] = {name: {"colour": c, "seconds": Counter()} for name, c in colours.items()}
    for split, statistics in audit["splits"].items():
        for group in statistics["gender"]:
            name = _NOT_GIVEN if group["value"] is None else group["value"]
            genders[name if name in genders else _OTHER_VALUES]["seconds"][split] += group["seconds"]
    return {name: gender for name, gender in genders.items() if gender["seconds"]}


def _format_number(value: float | None, decimals: int = 0) -> str:
    return "–" if value is None else f"{value:,.{decimals}f}"


def _format_time(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{minutes // 60:.0f}:{minutes % 60:02.0f}:{rest:05.2f}"


def _glyph(character: str) -> str:
    """Return a visible form of a character: a combining mark on a dotted circle, nothing for spaces and controls."""
    return "" if unicodedata.category(character)[0] in "CZ" else on_dotted_circle(character)


def _code_point(character: str) -> str:
    return f"{code_point(character)} {unicodedata.name(character, '')}".strip()


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--settings", type=AuditSettings.model_validate_json, required=True)
    parser.add_argument("--indexes", type=Path, nargs="+", required=True, help="the index of each split")
    parser.add_argument("--pieces", type=Path, nargs="*", default=[], help="if it is made from another dataset")
    for name in ("rejected", "status", "audit", "page", "plot"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()
    settings: AuditSettings = args.settings
    clips = load_clips(args.indexes, settings.splits)
    audit = audit_dataset(clips, read_table(args.rejected), read_json(args.status), settings, args.pieces)
    write_json(audit, args.audit)
    plot_distributions(audit, args.plot)
    if audit["pieces"] and settings.redistribute:
        embed_audio([*audit["pieces"]["worst"], *audit["pieces"]["below"]], args.pieces)
    write_text(render_page(audit, args.plot.read_bytes(), redistribute=settings.redistribute), args.page)


if __name__ == "__main__":
    run_command(main)
