"""average: make the mean of the weights of the checkpoints that are best on the selection set.

Source: Vaswani and others, Attention is all you need (2017), section 6.1, which averages the last checkpoints; here
those with the best scores, as in ESPnet and icefall.
"""

import argparse
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from speechmill.config.evaluation import SelectConfig
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.files import DIGESTS, atomic_folder, check_folder, write_digests, write_json
from speechmill.core.tables import read_table
from speechmill.scoring.select import WEIGHTS, ranked_steps


def mean_weights(checkpoints: Sequence[Path]) -> dict[str, torch.Tensor]:
    """Return the mean of each tensor in the weights of several checkpoints, of the same shape and dtype as there.

    Sums are in fp64 and in the order of `checkpoints`, so that the result is the same bit for bit. The mean covers the
    running statistics of batch normalisation. Integers, such as its count of batches, are those of the last checkpoint.

    Args:
        checkpoints: Folders with `model.safetensors`.

    Raises:
        SpeechmillError: The checkpoints have different tensors.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(folder / WEIGHTS, "pt")) for folder in checkpoints]
        for folder, file in zip(checkpoints, files, strict=True):
            if set(file.keys()) != set(files[-1].keys()):
                raise SpeechmillError(
                    f"{folder} and {checkpoints[-1]} have different tensors, so they have no mean; remove"
                    " select.average"
                )
        return {name: _mean([file.get_tensor(name) for file in files]) for name in files[-1].keys()}  # noqa: SIM118


def is_mean(model: Path, checkpoints: Sequence[Path]) -> bool:
    """Return whether the weights in the folder `model` are the mean of those of the checkpoints, bit for bit."""
    mean = mean_weights(checkpoints)
    with safe_open(model / WEIGHTS, "pt") as file:
        return set(file.keys()) == set(mean) and all(
            file.get_tensor(name).dtype == tensor.dtype and torch.equal(file.get_tensor(name), tensor)
            for name, tensor in mean.items()
        )


def _mean(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    last = tensors[-1]
    if not last.is_floating_point():
        return last
    total = torch.zeros_like(last, dtype=torch.float64)
    for tensor in tensors:
        total += tensor
    return (total / len(tensors)).to(last.dtype)


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--settings", type=SelectConfig.model_validate_json, required=True)
    parser.add_argument("--summary", type=Path, required=True, help="the scores of all checkpoints")
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--average", type=Path, required=True, help="the folder to write")
    parser.add_argument("--record", type=Path, required=True, help="JSON with the steps of the averaged checkpoints")
    args = parser.parse_args()
    select: SelectConfig = args.settings
    assert select.average is not None
    ranked = ranked_steps(read_table(args.summary).to_pandas(), str(select.set), select.decoder, str(select.metric))
    if len(ranked) < select.average:
        raise SpeechmillError(
            f"select.average is {select.average}, but only {len(ranked)} checkpoints have a {select.metric} on"
            f" {select.set}; set it to at most {len(ranked)}, which does not train again"
            if len(ranked) > 1
            else f"select.average is {select.average}, but there is only one checkpoint; remove it, which does not"
            " train again"
        )
    steps = sorted(ranked[: select.average])
    folders = [args.checkpoints / f"checkpoint-{step}" for step in steps]
    for folder in folders:
        check_folder(folder)
    with atomic_folder(args.average) as temporary:
        others = shutil.ignore_patterns(WEIGHTS, DIGESTS)
        shutil.copytree(folders[-1], temporary, ignore=others, dirs_exist_ok=True)
        save_file(mean_weights(folders), temporary / WEIGHTS, metadata={"format": "pt"})
        write_digests(temporary)
    # The scores of the mean have the newest of its steps.
    write_json({"step": steps[-1], "averaged": steps}, args.record)
    print(f"mean of the checkpoints at steps {', '.join(map(str, steps))}")


if __name__ == "__main__":
    run_command(main)
