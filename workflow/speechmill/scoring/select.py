"""select: copy the best checkpoint to the run's model folder; for a run that only evaluates, record step 0."""

import argparse
import shutil
from pathlib import Path

import pandas as pd

from speechmill.config.evaluation import SelectConfig
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.files import atomic_write, check_folder, write_json
from speechmill.core.tables import read_table

# The file of tokenizers of the library tokenizers.
_TOKENIZER = "tokenizer.json"


def deciding_metrics(metric: str) -> list[str]:
    """Return `metric` and those that decide where it is equal: CER, then the loss.

    WER is often equal: at 100 % early in training, and for as long as no sentence is free of errors where sentences are
    single words, as in languages that are written without spaces.
    """
    return list(dict.fromkeys([metric, "cer", "loss"]))


def best_step(summary: pd.DataFrame, set_name: str, decoder: str, metric: str) -> int:
    """Return the step with the smallest `metric` on a set, by the next of `deciding_metrics` if several are equal.

    Of steps that are equal in all of them, the latest is returned.

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
    return int(ranked.iloc[0]["step"])


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=SelectConfig.model_validate_json, required=True)
    parser.add_argument("--summary", type=Path, help="the scores of all checkpoints, if the run trains")
    parser.add_argument("--checkpoints", type=Path)
    parser.add_argument("--model", type=Path, nargs="*", default=[], help="the model files to write")
    parser.add_argument("--selection", type=Path, required=True)
    args = parser.parse_args()
    select: SelectConfig = args.settings
    step = 0
    if args.summary:
        summary = read_table(args.summary).to_pandas()
        step = best_step(summary, str(select.set), select.decoder, str(select.metric))
    digests: dict[str, str] = {}
    if args.model:
        checkpoint = args.checkpoints / f"checkpoint-{step}"
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
    write_json({"step": step, **select.model_dump(), "sha256": digests}, args.selection)


if __name__ == "__main__":
    run_command(main)
