"""select: copy the best checkpoint, or the mean of several if that is better, to the run's model folder.

`selection.json` has the `step`, what decided, and the sha256 of the model's files. With `select.average`, it also has
`average`: the `steps` of the averaged checkpoints, whether their mean is `selected`, and the step of the best `single`
checkpoint. If the mean is selected, `step` is the newest of its steps. A run that only evaluates has step 0.
"""

import argparse
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from speechmill.config.evaluation import SelectConfig
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.files import atomic_write, check_folder, write_json
from speechmill.core.tables import read_table
from speechmill.scoring.summary import summarise

WEIGHTS = "model.safetensors"
"""The file with the weights of a checkpoint."""

# The file of tokenizers of the library tokenizers.
_TOKENIZER = "tokenizer.json"


def deciding_metrics(metric: str) -> list[str]:
    """Return `metric` and those that decide where it is equal: CER, then the loss.

    WER is often equal: at 100 % early in training, and for as long as no sentence is free of errors where sentences are
    single words, as in languages that are written without spaces.
    """
    return list(dict.fromkeys([metric, "cer", "loss"]))


def best_step(summary: pd.DataFrame, set_name: str, decoder: str, metric: str) -> int:
    """Return the first of `ranked_steps`."""
    return ranked_steps(summary, set_name, decoder, metric)[0]


def ranked_steps(summary: pd.DataFrame, set_name: str, decoder: str, metric: str) -> list[int]:
    """Return the steps from the smallest `metric` on a set, by the next of `deciding_metrics` if several are equal.

    Of steps that are equal in all of them, the latest comes first.

    Raises:
        SpeechmillError: The summary has no value of `metric` for this set and decoder.
    """
    rows = summary[(summary["set"] == set_name) & (summary["decoder"] == decoder)].dropna(subset=[metric])
    if rows.empty:
        raise SpeechmillError(
            f"no checkpoint has a {metric} on {set_name} with the decoder {decoder}, so none can be selected; check"
            " that the set has clips, or choose another set, decoder or metric"
        )
    order = deciding_metrics(metric)
    ranked = rows.sort_values([*order, "step"], ascending=[*(True for _ in order), False])
    return [int(step) for step in ranked["step"]]


def mean_is_better(mean: Mapping[Any, Any], single: Mapping[Any, Any], metric: str) -> bool:
    """Return whether the mean of several checkpoints has better scores than a single one by `deciding_metrics`."""

    def rank(row: Mapping[Any, Any]) -> list[float]:
        return [math.inf if pd.isna(row[each]) else row[each] for each in deciding_metrics(metric)]

    return rank(mean) < rank(single)


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--settings", type=SelectConfig.model_validate_json, required=True)
    parser.add_argument("--summary", type=Path, help="the scores of all checkpoints, if the run trains")
    parser.add_argument("--checkpoints", type=Path)
    parser.add_argument("--average", type=Path, nargs="*", help="the folder of the mean of several checkpoints, if any")
    parser.add_argument("--average-metrics", type=Path, nargs="*", help="the deciding scores of that mean, if any")
    parser.add_argument("--model", type=Path, nargs="*", default=[], help="the model files to write")
    parser.add_argument("--selection", type=Path, required=True)
    args = parser.parse_args()
    select: SelectConfig = args.settings
    step, average = 0, {}
    if args.summary:
        summary = read_table(args.summary).to_pandas()
        step = best_step(summary, str(select.set), select.decoder, str(select.metric))
        average = _compare_mean(summary, step, select, args.average_metrics) if args.average else {}
    mean_selected = bool(average) and average["selected"]
    digests: dict[str, str] = {}
    if args.model:
        checkpoint = args.average[0] if mean_selected else args.checkpoints / f"checkpoint-{step}"
        found = check_folder(checkpoint)
        for file in args.model:
            with atomic_write(file) as temporary:
                shutil.copyfile(checkpoint / file.name, temporary)
            digests[file.name] = found[file.name]
        # Only the tokenizers of some bases have this file, which no rule can know before it runs.
        tokenizer = args.model[0].with_name(_TOKENIZER)
        tokenizer.unlink(missing_ok=True)
        if _TOKENIZER in found:
            shutil.copyfile(checkpoint / _TOKENIZER, tokenizer)
            digests[_TOKENIZER] = found[_TOKENIZER]
    write_json(
        {
            "step": average["steps"][-1] if mean_selected else step,
            **select.model_dump(exclude={"average"}),
            **({"average": average} if average else {}),
            "sha256": digests,
        },
        args.selection,
    )


def _compare_mean(summary: pd.DataFrame, step: int, select: SelectConfig, metrics: list[Path]) -> dict[str, Any]:
    """Return the value of `average` in `selection.json`; `step` is that of the best single checkpoint."""
    deciding = (summary["set"] == select.set) & (summary["decoder"] == select.decoder) & (summary["step"] == step)
    (single,), (mean,) = (rows.to_dict("records") for rows in (summary[deciding], summarise(metrics)))
    steps = list(map(int, mean["averaged"].split()))
    return {"steps": steps, "selected": mean_is_better(mean, single, str(select.metric)), "single": step}


if __name__ == "__main__":
    run_command(main)
