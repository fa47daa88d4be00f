"""Counts in a model card of the recordings that a model cut into clips, compared with the pieces on disk."""

from pathlib import Path

from speechmill.corpus.ingest_pieces import count_parts
from speechmill.report import evidence
from speechmill.report.check_result import CheckResult


def check_pieces(model: Path, pieces: Path) -> CheckResult:
    """Count the pieces of each dataset in the folder `pieces` again, and compare them with the evidence of a model."""
    result = CheckResult()
    for status in evidence.read(model).status:
        about, dataset = status["about"], status["dataset"]
        if "parts" not in about:
            continue
        tables = sorted((pieces / dataset).glob("*/shard-*.parquet"))
        if not tables:
            result.passed.append(f"skipped     the pieces of {dataset} were not counted: {pieces / dataset} has none")
            continue
        with result.reporting(f"the pieces of {dataset} cannot be counted"):
            found = count_parts(tables, about["min_score"])
            if found == about["parts"]:
                result.passed.append(f"derived     the counts of {dataset} follow from {pieces / dataset}")
            else:
                result.differences.append(
                    f"evidence/status/{dataset}.json: the recordings consist of {about['parts']}, but"
                    f" {pieces / dataset} has {found}"
                )
    return result
