"""Checks of a model folder that need neither the model nor the recordings."""

import math
import re
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
from huggingface_hub import ModelCard

from speechmill.core.files import file_digest, read_json
from speechmill.core.selection import averaged_column
from speechmill.core.versions import stage_version
from speechmill.report import evidence, manifest
from speechmill.report.breakdown import compare, score_clips
from speechmill.report.card import CARD, card_files
from speechmill.report.card_context import INTRODUCTION, PROVENANCE
from speechmill.report.check_result import CheckResult
from speechmill.report.evidence import Evidence
from speechmill.scoring.reliability import CALIBRATION
from speechmill.scoring.select import WEIGHTS, mean_is_better, ranked_steps
from speechmill.scoring.summary import summarise
from speechmill.scoring.systems import AVERAGE, SELECTED, System, saved_checkpoints, selected_rows, system_row

ERROR_COUNTS = ["reference_words", "substitutions", "deletions", "insertions"]
"""The columns of the summary that are sums over clips."""

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
# The fence that ends code is as long as the one that begins it.
_CODE_BLOCK = re.compile(r"^(`{3,})[^`\n]*\n.*?^\1$", re.DOTALL | re.MULTILINE)
_CODE_SPAN_OR_ADDRESS = re.compile(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)|\([^)\s]*\)")
_MAX_LINES = 5
# Another version of torch may stop a fit earlier or later.
_FIT_TOLERANCE = 1e-4
_MAX_LENGTH = 200


def check_folder(model: Path) -> CheckResult:
    """Check that a model folder is complete and that its card follows from its evidence."""
    result = CheckResult()
    with result.reporting(f"{model} cannot be compared with its {manifest.NAME}"):
        result.differences += manifest.differences(model)
    if not result.differences:
        result.passed.append(f"manifest    {len(read_json(model / manifest.NAME)['files'])} files are unchanged")
    found = None
    with result.reporting(f"{model / evidence.FOLDER} cannot be read"):
        found = evidence.read(model)
    if found is None:
        return result
    for check, what in _CHECKS.items():
        with result.reporting(f"{model}: {what}"):
            result.differences += check(model, found)
    if not result.differences:
        counts = count_figures((model / CARD).read_text(encoding="utf-8"))
        kinds: Counter[str] = Counter()
        for name, number in counts.items():
            kinds[PROVENANCE[name].kind] += number
        by_kind = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
        result.passed.append(
            f"derived     the card and its {counts.total()} figures follow from the evidence ({by_kind})"
        )
    return result


def count_figures(text: str) -> Counter[str]:
    """Return the number of figures in each section of a card by its heading, not counting code and addresses."""
    text = _CODE_BLOCK.sub("", text)
    counts: Counter[str] = Counter()
    heading = INTRODUCTION
    for line in text.splitlines():
        if match := re.match(r"#{2,}\s+(.+)", line):
            heading = match[1]
        counts[heading] += len(_NUMBER.findall(_CODE_SPAN_OR_ADDRESS.sub("", line)))
    return Counter({name: number for name, number in counts.items() if number})


def selected_scores(found: Evidence) -> pd.DataFrame:
    """Return the scores of the selected checkpoint on the sets that are available."""
    scores = selected_rows(found.summary, found.selection)
    return scores[scores["unavailable"].isna()]


def _check_selection(model: Path, found: Evidence) -> list[str]:
    """Compare the files of the model with those of the selected checkpoint."""
    return [
        f"{name} is not that of the selected checkpoint, which has the sha256 {digest}"
        for name, digest in found.selection["sha256"].items()
        if not (model / name).is_file() or file_digest(model / name) != digest
    ]


def _check_average(model: Path, found: Evidence) -> list[str]:
    """Compare the averaged checkpoints, and whether their mean is selected, with the scores of all checkpoints.

    Where these checkpoints are still part of the run, the mean of their weights is computed again.
    """
    average = found.selection.get("average")
    if average is None:
        return []
    select = found.selection
    deciding = (found.summary["set"] == select["set"]) & (found.summary["decoder"] == select["decoder"])
    scores, steps = found.summary[deciding], average["steps"]
    singles = saved_checkpoints(scores)
    ranked = ranked_steps(singles, select["set"], select["decoder"], select["metric"])
    (mean,) = scores[scores["averaged"] == averaged_column(steps)].to_dict("records")
    (single,) = singles[singles["step"] == ranked[0]].to_dict("records")
    expected = {
        "steps": sorted(ranked[: len(steps)]),
        "selected": mean_is_better(mean, single, select["metric"]),
        "single": ranked[0],
    }
    lines = [
        f"evidence/selection.json: average.{key} is {average[key]}, but the scores of the checkpoints give {value}"
        for key, value in expected.items()
        if average[key] != value
    ]
    folders = [model.parent / "checkpoints" / f"checkpoint-{step}" for step in steps]
    if average["selected"] and all((folder / WEIGHTS).is_file() for folder in folders):
        # Imports torch, which the other checks do not need.
        from speechmill.scoring.average import is_mean

        if not is_mean(model, folders):
            lines.append(f"{model / WEIGHTS} is not the mean of the checkpoints at steps {', '.join(map(str, steps))}")
    return lines


def _check_configuration(model: Path, found: Evidence) -> list[str]:
    """Read the configuration, of which the card shows nothing; that of an older release may have other keys."""
    if found.settings.versions["card"] == stage_version("card"):
        evidence.read_configuration(model, found.settings.run)
    return []


def _check_sums(model: Path, found: Evidence) -> list[str]:
    """Compare the error counts of each set with the sums over its clips."""
    lines = []
    for row in selected_scores(found).to_dict("records"):
        path = evidence.scored_file(model, row["set"], row["decoder"])
        clips = evidence.read_scores(path, ["hits", *ERROR_COUNTS[1:]]).to_pandas()
        sums = {name: int(clips[name].sum()) for name in ERROR_COUNTS[1:]}
        sums["reference_words"] = int(clips["hits"].sum()) + sums["substitutions"] + sums["deletions"]
        lines += [
            f"evidence/summary.parquet: {name} of {row['set']} by {row['decoder']} is {row[name]}, but the sum over its"
            f" clips is {sums[name]}"
            for name in ERROR_COUNTS
            if row[name] != sums[name]
        ]
    return lines


def _check_comparisons(model: Path, found: Evidence) -> list[str]:
    """Repeat the comparisons with other runs, from the error counts of each clip."""
    lines = []
    for row in found.breakdown["comparisons"]:
        if row["kind"] != "runs":
            continue
        run, second = row["first"]["run"], row["second"]
        theirs, ours = evidence.compared_clips(model, row)
        systems = [System(each["set"], each["step"], each["decoder"]) for each in (row["first"], second)]
        again = compare("runs", (systems[0], theirs), (systems[1], ours), found.breakdown["metric"])
        what = f"{second['set']} by {second['decoder']} against the run {run}"
        lines += [
            f"evidence/breakdown.json: {key} of {what} is {row[key]}, but the error counts of its clips give {value}"
            for key, value in again.items()
            if key not in ("kind", "first", "second") and row[key] != value
        ]
        score = system_row(found.compared[run], systems[0].set, systems[0].decoder)
        counted = score_clips(theirs)
        lines += [
            f"evidence/compared/{run}/summary.parquet: {rate} of {systems[0].set} by {systems[0].decoder} is"
            f" {score[rate]}, but the error counts of its clips give {counted[rate]}"
            for rate in ("wer", "cer")
            if counted[rate] is not None and score[rate] != counted[rate]
        ]
    return lines


def _check_calibration(model: Path, found: Evidence) -> list[str]:
    """Fit the calibrators of confidence again, and compare them and the calibration errors with the record."""
    recorded = found.calibration
    if recorded is None:
        return []
    # Imports torch, which the other checks do not need.
    from speechmill.report.calibration import calibrate

    again = calibrate(found.confidence, recorded.dev)
    pairs = [
        *((decoder, each, again.calibrators[decoder]) for decoder, each in recorded.calibrators.items()),
        *(
            (f"{each.set} by {each.decoder}", each, other)
            for each, other in zip(recorded.sets, again.sets, strict=True)
        ),
    ]
    return [
        f"{CALIBRATION}: {key} of {what} is {value}, but the words in {evidence.FOLDER}/confidence give"
        f" {getattr(other, key)}"
        for what, one, other in pairs
        for key, value in one
        if value != getattr(other, key) and not _is_close(value, getattr(other, key))
    ]


def _is_close(value: object, other: object) -> bool:
    return isinstance(value, float) and isinstance(other, float) and math.isclose(value, other, rel_tol=_FIT_TOLERANCE)


def _check_rendering(model: Path, found: Evidence) -> list[str]:
    """Compare the card and the Hub's result files with those rendered again from the evidence."""
    rendered = card_files(found)
    if found.settings.versions["card"] != stage_version("card"):
        print(
            f"{model} was written by another version of speechmill: its card is not rendered again, but its front"
            " matter and its scores are compared",
            file=sys.stderr,
        )
        written = str(ModelCard.load(model / CARD).data)
        same = written == str(ModelCard(rendered[CARD]).data)
        return [] if same else [f"{CARD}: its front matter does not follow from the evidence"]
    lines = []
    for name, text in rendered.items():
        actual = (model / name).read_text(encoding="utf-8").splitlines() if (model / name).is_file() else []
        expected = text.splitlines()
        lines += [
            f"{name}, line {number}, is {_shorten(one)}, but the evidence gives {_shorten(other)}"
            for number, (one, other) in enumerate(zip(actual, expected, strict=False), start=1)
            if one != other
        ][:_MAX_LINES]
        if len(actual) != len(expected):
            lines.append(f"{name} has {len(actual)} lines, but the evidence gives {len(expected)}")
    return lines


def _shorten(line: str) -> str:
    return repr(line if len(line) <= _MAX_LENGTH else f"{line[:_MAX_LENGTH]}…")


def _check_run(model: Path, found: Evidence) -> list[str]:
    """Compare the scores with the `metrics.json` files of the run and of other runs, if the folder is part of them."""
    lines = []
    others = [
        (model.parent.parent / run, row)
        for run, scores in [*found.seeds.items(), *found.compared.items()]
        for row in scores.to_dict("records")
    ]
    for run, row in [*((model.parent, each) for each in found.summary.to_dict("records")), *others]:
        averaged = row.get("averaged", "")
        for step in (AVERAGE if averaged else row["step"], SELECTED):
            path = run / "evaluation" / str(step) / row["set"] / row["decoder"] / "metrics.json"
            if not path.is_file():
                continue
            (metrics,) = summarise([path]).to_dict("records")
            if (metrics["step"], metrics.get("averaged", "")) == (row["step"], averaged):
                lines += [
                    f"{path}: {key} is {value}, but the model's evidence contains {row[key]}"
                    for key, value in metrics.items()
                    if value != row[key] and not (pd.isna(value) and pd.isna(row[key]))
                ]
    return lines


def _check_sections(model: Path, found: Evidence) -> list[str]:
    """Find sections of the card that have figures of unknown origin."""
    counts = count_figures((model / CARD).read_text(encoding="utf-8"))
    return [
        f"{CARD}: the section {name!r} has figures without a known source" for name in set(counts) - set(PROVENANCE)
    ]


_CHECKS = {
    _check_selection: f"the files of the checkpoint cannot be compared with {evidence.FOLDER}/selection.json",
    _check_average: f"the averaged checkpoints cannot be compared with {evidence.FOLDER}/selection.json",
    _check_configuration: f"{evidence.FOLDER}/config.yaml cannot be read",
    _check_sums: f"{evidence.FOLDER}/summary.parquet cannot be compared with the clips in {evidence.FOLDER}/scored",
    _check_comparisons: f"the comparisons with other runs cannot be repeated from {evidence.FOLDER}/compared",
    _check_calibration: f"{CALIBRATION} cannot be compared with the words in {evidence.FOLDER}/confidence",
    _check_rendering: f"{CARD} cannot be rendered from the files in {evidence.FOLDER}",
    _check_run: f"{evidence.FOLDER}/summary.parquet cannot be compared with the scores of the run",
    _check_sections: f"the figures in {CARD} cannot be counted",
}
"""The checks that need the evidence, with what is reported if one of them fails."""
