"""audit: what is in a dataset, before an hour of training is spent on it.

A kept clip counts in every listed split that has it, and once in the dataset as a whole. `audit.json`:

    dataset, title, available, why   why is null where the dataset is available
    splits.{split}, all              the facts below, of a split and of the whole dataset
    overlaps                         for each pair of splits what they have in common: see `overlap`
    rejected.{reason}                clips; examples of {id, split, detail}, the split being the one that would store it

The facts:

    published, rejected              clips as listed, and those of them that nothing could read
    clips, seconds, hours, encoded_bytes   of the kept clips
    sentences                        distinct ones: two are the same if their letters and digits are, in lower case
    speakers                         count; clips_without; clips_each: quantiles; largest: {speaker_id, clips, share}
    gender, age, accent              [{value, clips, seconds}], most clips first; value is null where none is given
    durations, rates                 quantiles; histogram: {edges, counts}, count i of edges[i] <= x < edges[i + 1] and
                                     the last of all from the last edge. In seconds; in characters without blanks a
                                     second, of the clips whose sentence is not empty
    characters                       {character: count} in the sentences as published, in NFC, most frequent first
    rare_characters                  [{character, count, examples}] of those that occur fewer than 10 times
    empty                            sentences without a letter or digit
    too_short                        clips that have fewer frames of 20 ms than CTC needs to spell the sentence in lower
                                     case, of its letters, marks, digits and single blanks
    silence                          quantiles of the silent share; the clips where it is 0.9 or more
    clipping                         the clips with 0.001 or more of their samples at full scale
    duplicates.files, .recordings, .sentences   clips that share their file, their samples at 16 kHz, or both their
                                     speaker and sentence: groups, clips, and examples, a list of clips for a group
    extremes.longest, .shortest, .fastest, .slowest   clips

`clips` is a number and goes with up to ten `examples`, the worst first: the clip's id, its sentence as published, and
the figures that it stands there for. Quantiles are min, p5, p25, median, p75, p95, max. What nothing is known of is
null. The same input gives the same bytes.
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

import jinja2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from numpy.typing import NDArray
from pydantic import BaseModel

from speechmill.core.command import atomic_write, run_command
from speechmill.core.page import COLOURS, STYLE, embedded, save
from speechmill.core.tables import INDEX, SAMPLE_RATE, read_json, read_table, write_json
from speechmill.corpus.splits import letters
from speechmill.text.normaliser import ctc_frames, model_frames

_FRAME_SECONDS = 0.02
_SILENT = 0.9
_CLIPPED = 0.001
_RARE = 10
_EXAMPLES = 10

_QUANTILES = {"min": 0, "p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1}
_SECONDS = [i / 2 for i in range(61)]
_RATES = [float(i) for i in range(41)]

# The columns of codes, which are equal for clips that share the thing.
_SHARED = {"speakers": "speaker", "sentences": "same_sentence", "files": "file", "recordings": "recording"}

_OTHERS, _NOT_GIVEN = "other values", "not given"

_TEMPLATE = Path(__file__).parents[2] / "templates" / "audit.html.j2"


class AuditSettings(BaseModel):
    """The slice of a dataset's section that this stage reads: its name, its title for people, the listed splits."""

    dataset: str
    title: str
    splits: list[str]


@dataclass(frozen=True)
class Clips:
    """The kept clips of a dataset, a row each in `frame`, sorted by id; `members` says which rows a split has."""

    frame: pd.DataFrame
    members: dict[str, NDArray[np.bool_]]


def load(indexes: Iterable[Path], splits: Sequence[str]) -> Clips:
    """Read the indexes of a dataset, and add to each clip what the audit asks of it.

    Codes, in the columns `speaker`, `same_sentence`, `file`, `recording` and `said`, are numbers that are equal where
    the clips share the thing, and -1 where it is not known.
    """
    columns = [name for name in INDEX.names if name not in ("shard", "row_group", "row")]
    empty = INDEX.empty_table().select(columns)
    table = pa.concat_tables([empty, *(read_table(path, columns) for path in indexes)]).sort_by("id")
    listed = table["splits"].combine_chunks()
    having, names = pc.list_parent_indices(listed).to_numpy(), pc.list_flatten(listed)
    members = {split: np.zeros(len(table), dtype=bool) for split in splits}
    for split, rows in members.items():
        rows[having[pc.equal(names, split).to_numpy(zero_copy_only=False)]] = True

    frame = table.drop_columns("splits").to_pandas()
    frame["sentence"] = frame["sentence"].fillna("")
    for name in ("speaker_id", "gender", "age", "accent"):
        frame[name] = frame[name].mask(frame[name] == "")
    sentences = [unicodedata.normalize("NFC", sentence) for sentence in frame["sentence"]]
    frame["nfc"] = sentences
    frame["same_sentence"] = _codes(pd.Series([letters(sentence) for sentence in sentences], dtype="str"))
    frame["empty"] = frame["same_sentence"] < 0
    frame["seconds"] = frame["num_samples"] / SAMPLE_RATE
    characters = np.array([sum(map(len, sentence.split())) for sentence in sentences], dtype=float)
    frame["rate"] = (characters / frame["seconds"]).mask(frame["empty"])
    # One frame fewer than fits: the first one needs a whole window of the convolutions.
    frame["frames"] = [model_frames(samples, _FRAME_SECONDS) for samples in frame["num_samples"]]
    frame["needed"] = np.array(
        [_needed(sentence, frames) for sentence, frames in zip(sentences, frame["frames"], strict=True)], dtype=np.int64
    )
    frame["lacking"] = frame["needed"] - frame["frames"]
    frame["speaker"] = _codes(frame["speaker_id"])
    frame["file"] = _codes(frame.pop("sha256"))
    frame["recording"] = _codes(frame.pop("audio_sha256"))
    both = (frame["speaker"] >= 0) & (frame["same_sentence"] >= 0)
    frame["said"] = _codes((frame["speaker"] * (len(frame) + 1) + frame["same_sentence"]).where(both))
    return Clips(frame, members)


class _Letters(dict[int, str | None]):
    """What `str.translate` does with each character: it keeps letters, marks, digits, blanks as a space."""

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        kept = character if unicodedata.category(character)[0] in "LMN" else None
        self[code] = " " if character.isspace() else kept
        return self[code]


_LETTERS = _Letters()


def _needed(sentence: str, frames: int) -> int:
    """The frames that CTC needs for the letters of a sentence, or 0 where `frames` are plainly enough."""
    lowered = sentence.lower()
    # A character takes two frames at most; to count them takes a while, and nearly all clips have more.
    if frames >= 2 * len(lowered):
        return 0
    return ctc_frames(" ".join(lowered.translate(_LETTERS).split()))


def _codes(values: "pd.Series[Any]") -> NDArray[np.int64]:
    """A number for each distinct value in the order of appearance, -1 for none and for the empty text."""
    return np.asarray(pd.factorize(values.mask(values == ""))[0], dtype=np.int64)


def facts(clips: pd.DataFrame) -> dict[str, Any]:
    """What the module's docstring lists, but for `published` and `rejected`, of these rows of `Clips.frame`."""
    samples = int(clips["num_samples"].sum())
    too_short = clips[~clips["empty"] & (clips["lacking"] > 0)]
    silent, clipped = clips[clips["silence"] >= _SILENT], clips[clips["clipping"] >= _CLIPPED]
    characters = _characters(clips["nfc"].tolist())
    return {
        "clips": len(clips),
        "seconds": samples / SAMPLE_RATE,
        "hours": round(samples / SAMPLE_RATE / 3600, 4),
        "encoded_bytes": int(clips["encoded_bytes"].sum()),
        "sentences": len(_sizes(clips["same_sentence"])),
        "speakers": _speakers(clips),
        **{name: _groups(clips, name) for name in ("gender", "age", "accent")},
        "durations": _distribution(clips["seconds"], _SECONDS),
        "rates": _distribution(clips["rate"], _RATES),
        "characters": characters,
        "rare_characters": _rare(characters, clips),
        "empty": _flagged(clips[clips["empty"]], "seconds"),
        "too_short": _flagged(_most(too_short, "lacking"), "seconds", "frames", "needed"),
        "silence": {"quantiles": _quantiles(clips["silence"]), **_flagged(_most(silent, "silence"), "silence")},
        "clipping": _flagged(_most(clipped, "clipping"), "clipping"),
        "duplicates": {
            name: _duplicates(clips, column)
            for name, column in (("files", "file"), ("recordings", "recording"), ("sentences", "said"))
        },
        "extremes": {
            "longest": _examples(clips.nlargest(5, "seconds"), "seconds"),
            "shortest": _examples(clips.nsmallest(5, "seconds"), "seconds"),
            "fastest": _examples(clips.nlargest(5, "rate"), "rate", "seconds"),
            "slowest": _examples(clips.nsmallest(5, "rate"), "rate", "seconds"),
        },
    }


def _examples(clips: pd.DataFrame, *figures: str, limit: int = _EXAMPLES) -> list[dict[str, Any]]:
    rows = clips.head(limit)[["id", "sentence", *figures]].to_dict("records")
    return [{str(name): _plain(value) for name, value in row.items()} for row in rows]


def _plain(value: Any) -> Any:
    if pd.isna(value):
        return None
    return round(value, 4) if isinstance(value, float) else value


def _flagged(clips: pd.DataFrame, *figures: str) -> dict[str, Any]:
    return {"clips": len(clips), "examples": _examples(clips, *figures)}


def _most(clips: pd.DataFrame, column: str) -> pd.DataFrame:
    return clips.sort_values(column, ascending=False, kind="stable")


def _sizes(codes: "pd.Series[Any]") -> "pd.Series[int]":
    """How many clips have each code, the most frequent first, then in the order of the codes."""
    counts = codes[codes >= 0].value_counts(sort=False).sort_index()
    return counts.sort_values(ascending=False, kind="stable")


def _speakers(clips: pd.DataFrame) -> dict[str, Any]:
    sizes = _sizes(clips["speaker"])
    largest = None
    if len(sizes):
        speaker = clips["speaker_id"][clips["speaker"] == sizes.index[0]].iloc[0]
        largest = {
            "speaker_id": speaker,
            "clips": int(sizes.iloc[0]),
            "share": round(int(sizes.iloc[0]) / len(clips), 4),
        }
    return {
        "count": len(sizes),
        "clips_without": int((clips["speaker"] < 0).sum()),
        "clips_each": _quantiles(sizes),
        "largest": largest,
    }


def _groups(clips: pd.DataFrame, column: str) -> list[dict[str, Any]]:
    groups = clips.groupby(column, dropna=False)["num_samples"].agg(["size", "sum"]).reset_index()
    groups = groups.sort_values(["size", column], ascending=[False, True])
    return [
        {"value": _plain(value), "clips": int(count), "seconds": int(samples) / SAMPLE_RATE}
        for value, count, samples in groups.itertuples(index=False)
    ]


def _quantiles(values: "pd.Series[Any]") -> dict[str, float | None]:
    known = values.dropna().to_numpy(dtype=np.float64)
    if not len(known):
        return dict.fromkeys(_QUANTILES)
    found = np.quantile(known, list(_QUANTILES.values()))
    return {name: round(float(value), 4) for name, value in zip(_QUANTILES, found, strict=True)}


def _distribution(values: "pd.Series[Any]", edges: list[float]) -> dict[str, Any]:
    counts, _ = np.histogram(values.dropna().to_numpy(dtype=np.float64), [*edges, np.inf])
    return {"quantiles": _quantiles(values), "histogram": {"edges": edges, "counts": counts.tolist()}}


def _characters(sentences: list[str]) -> dict[str, int]:
    counts = np.zeros(0x110000, dtype=np.int64)
    for start in range(0, len(sentences), 10_000):
        text = "".join(sentences[start : start + 10_000])
        some = np.bincount(np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32))
        counts[: len(some)] += some
    found = np.flatnonzero(counts)
    return {chr(code): int(counts[code]) for code in found[np.argsort(-counts[found], kind="stable")]}


def _rare(characters: dict[str, int], clips: pd.DataFrame) -> list[dict[str, Any]]:
    rare = sorted((count, character) for character, count in characters.items() if count < _RARE)
    if not rare:
        return []
    rows: dict[str, list[int]] = {character: [] for _, character in rare}
    pattern = re.compile("[" + "".join(re.escape(character) for character in rows) + "]")
    for row, sentence in enumerate(clips["nfc"].tolist()):
        for character in set(pattern.findall(sentence)):
            rows[character].append(row)
    # All at once: a script of thousands of characters has many that are rare.
    wanted = sorted({row for having in rows.values() for row in having[:3]})
    examples = dict(zip(wanted, _examples(clips.iloc[wanted], limit=len(wanted)), strict=True))
    return [
        {"character": character, "count": count, "examples": [examples[row] for row in rows[character][:3]]}
        for count, character in rare
    ]


def _duplicates(clips: pd.DataFrame, column: str) -> dict[str, Any]:
    sizes = _sizes(clips[column])
    repeated = sizes[sizes > 1]
    return {
        "groups": len(repeated),
        "clips": int(repeated.sum()),
        "examples": [_examples(clips[clips[column] == code]) for code in repeated.index[:_EXAMPLES]],
    }


def overlap(clips: Clips, one: str, other: str) -> dict[str, Any]:
    """What two splits have in common.

    `shared_clips` is the number of clips that both list. They are published so on purpose, and are left out of the
    rest: `clips` counts the others of each side; `speakers`, `sentences`, `files` and `recordings` count what is on
    both sides (`common`), the clips of each side that have it (`clips`), and give examples, a clip of each side.
    `recordings` are equal samples at 16 kHz, which equal files have too.
    """
    in_one, in_other = clips.members[one], clips.members[other]
    sides = [np.flatnonzero(in_one & ~in_other), np.flatnonzero(in_other & ~in_one)]
    return {
        "splits": [one, other],
        "shared_clips": int((in_one & in_other).sum()),
        "clips": [len(rows) for rows in sides],
        **{kind: _common(clips.frame, column, sides) for kind, column in _SHARED.items()},
    }


def _common(frame: pd.DataFrame, column: str, sides: list[NDArray[np.intp]]) -> dict[str, Any]:
    codes = frame[column].to_numpy()
    common = np.intersect1d(codes[sides[0]], codes[sides[1]])
    common = common[common >= 0]
    concerned = [rows[np.isin(codes[rows], common)] for rows in sides]
    figures = ["speaker_id"] if column == "speaker" else []
    return {
        "common": len(common),
        "clips": [len(rows) for rows in concerned],
        "examples": [
            _examples(frame.iloc[[rows[codes[rows] == code][0] for rows in concerned]], *figures)
            for code in common[:_EXAMPLES]
        ],
    }


def audit(clips: Clips, rejected: pa.Table, status: dict[str, Any], settings: AuditSettings) -> dict[str, Any]:
    """The value of `audit.json`, from a dataset's clips, the table of rejected ones and its status."""
    reasons: dict[str, list[dict[str, Any]]] = {}
    for row in rejected.sort_by([("reason", "ascending"), ("id", "ascending")]).to_pylist():
        reasons.setdefault(row.pop("reason"), []).append(row)
    counts = {
        split: {kind: status[kind][split] for kind in ("listed", "rejected")} | facts(clips.frame[rows])
        for split, rows in clips.members.items()
    }
    whole = {"listed": len(clips.frame) + len(rejected), "rejected": len(rejected)} | facts(clips.frame)
    return {
        "dataset": settings.dataset,
        "title": settings.title,
        "available": status["available"],
        "why": status["why"],
        "splits": counts,
        "all": whole,
        "overlaps": [overlap(clips, one, other) for one, other in itertools.combinations(settings.splits, 2)],
        "rejected": {reason: {"clips": len(rows), "examples": rows[:_EXAMPLES]} for reason, rows in reasons.items()},
    }


def summary(found: dict[str, Any]) -> list[str]:
    """The findings of an audit in sentences, the numbers first, then what is wrong or may be."""
    whole, splits = found["all"], found["splits"]
    speakers = whole["speakers"]
    sentences = [
        f"{_number(whole['clips'], 'clip')}, {whole['hours']:,.2f} hours, {_number(speakers['count'], 'speaker')},"
        f" {_number(len(splits), 'split')}."
    ]
    if whole["rejected"]:
        sentences.append(f"Could not be read: {whole['rejected']:,} of {whole['published']:,} published clips.")
    apart = []
    for pair in found["overlaps"]:
        told = _pair_in_words(pair)
        sentences += told
        if not told:
            apart.append(" and ".join(pair["splits"]))
    if apart:
        sentences.append(f"No speaker, sentence or audio in common: {', '.join(apart)}.")
    if speakers["clips_without"]:
        sentences.append(
            f"Without a speaker: {_number(speakers['clips_without'], 'clip')}; splits may have more speakers in common"
            " than is counted."
        )
    for split, of in splits.items():
        if repeated := of["duplicates"]["recordings"]["clips"]:
            sentences.append(f"The same audio as another clip of {split}: {repeated:,} clips.")
    for name, what in (
        ("empty", "No letter or digit in the sentence"),
        ("too_short", "Too short for CTC to spell the sentence"),
        ("silence", "Silent for nine tenths or more"),
        ("clipping", "A thousandth or more of the samples at full scale"),
    ):
        if whole[name]["clips"]:
            sentences.append(f"{what}: {_number(whole[name]['clips'], 'clip')}.")
    return sentences


def _pair_in_words(pair: dict[str, Any]) -> list[str]:
    one, other = pair["splits"]
    sentences = []
    if pair["shared_clips"]:
        sentences.append(f"Listed by both {one} and {other}: {_number(pair['shared_clips'], 'clip')}.")
    # The smaller split is, as a rule, the one that is scored.
    small = int(pair["clips"][1] <= pair["clips"][0])
    parts = [
        f"{pair[kind]['clips'][small]:,} {what}"
        for kind, what in (("sentences", "a sentence"), ("speakers", "a speaker"), ("recordings", "audio"))
        if pair[kind]["common"]
    ]
    if parts:
        has = "has" if parts[0].startswith("1 ") else "have"
        parts[0] = parts[0].replace(" ", f" {has} ", 1)
        of = f"the {_number(pair['clips'][small], 'clip')} of {pair['splits'][small]}"
        alone = f" that {pair['splits'][1 - small]} does not list" if pair["shared_clips"] else ""
        sentences.append(f"Of {of}{alone}, {', '.join(parts)} that is also in {pair['splits'][1 - small]}.")
    return sentences


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def plot(found: dict[str, Any], path: Path) -> None:
    """The durations and the speaking rates of each split, as shares of its clips."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    _histograms(axes[0], found["splits"], "durations", "seconds", "Durations")
    _histograms(axes[1], found["splits"], "rates", "characters a second, without blanks", "Speaking rates")
    save(figure, path)


def _histograms(axes: Axes, splits: dict[str, Any], name: str, unit: str, title: str) -> None:
    filled = 1
    # More splits than colours are told apart by their lines.
    looks = itertools.cycle(itertools.product(["-", "--", ":"], COLOURS))
    for (line, colour), (split, of) in zip(looks, splits.items(), strict=False):
        edges, counts = of[name]["histogram"]["edges"], of[name]["histogram"]["counts"]
        if not (total := sum(counts)):
            continue
        filled = max([filled, *(bin + 1 for bin, count in enumerate(counts[:-1]) if count)])
        label = f"{split} ({counts[-1]:,} beyond {edges[-1]:g})" if counts[-1] else split
        shares = [100 * count / total for count in counts[:-1]]
        axes.stairs(shares, edges, color=colour, linestyle=line, linewidth=1.5, label=label)
    axes.set_xlim(0, edges[filled])
    axes.set_ylim(bottom=0)
    axes.set_xlabel(unit)
    axes.set_ylabel("% of the split's clips")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.has_data():
        axes.legend(edgecolor="none", framealpha=0.9)


def page(found: dict[str, Any], picture: bytes) -> str:
    """An audit as a page of its own, with the PNG `picture` of its plots inside it."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=_shown_number, counted=_number, glyph=_glyph, code_point=_code_point)
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        audit=found,
        columns=found["splits"] | {"all": found["all"]},
        genders=_genders(found),
        picture=embedded(picture),
        style=STYLE,
        summary=summary(found),
    )


def _genders(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """For each gender of the dataset its colour and its seconds in each split; what has no colour is one group."""
    values = [group["value"] for group in found["all"]["gender"] if group["value"] is not None]
    colours = dict(zip(values, COLOURS, strict=False)) | {_OTHERS: "#777777", _NOT_GIVEN: "#cccccc"}
    genders: dict[str, dict[str, Any]] = {name: {"colour": c, "seconds": Counter()} for name, c in colours.items()}
    for split, of in found["splits"].items():
        for group in of["gender"]:
            name = _NOT_GIVEN if group["value"] is None else group["value"]
            genders[name if name in genders else _OTHERS]["seconds"][split] += group["seconds"]
    return {name: gender for name, gender in genders.items() if gender["seconds"]}


def _shown_number(value: float | None, decimals: int = 0) -> str:
    return "–" if value is None else f"{value:,.{decimals}f}"


def _glyph(character: str) -> str:
    """A character as it can be seen: a mark on a circle, and nothing for one that has no shape."""
    kind = unicodedata.category(character)[0]
    return {"M": f"◌{character}", "Z": "", "C": ""}.get(kind, character)


def _code_point(character: str) -> str:
    return f"U+{ord(character):04X} {unicodedata.name(character, '')}".strip()


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--settings", type=AuditSettings.model_validate_json, required=True)
    parser.add_argument("--indexes", type=Path, nargs="+", required=True, help="the index of each split")
    for one in ("rejected", "status", "audit", "page", "plot"):
        parser.add_argument(f"--{one}", type=Path, required=True)
    args = parser.parse_args()
    clips = load(args.indexes, args.settings.splits)
    found = audit(clips, read_table(args.rejected), read_json(args.status), args.settings)
    write_json(found, args.audit)
    plot(found, args.plot)
    with atomic_write(args.page) as beside:
        beside.write_text(page(found, args.plot.read_bytes()), encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
