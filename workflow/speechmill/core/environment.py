"""The environment that every job inherits."""

import os
import sys
from pathlib import Path

from speechmill.core.command import SpeechmillError


def set_for_jobs(library: str) -> None:
    """Prepare the environment of all jobs: their Python, the library, shared cores, no network.

    The workflow calls it while it is parsed, which a job on a cluster does again where it runs.

    Raises:
        SpeechmillError: The path of the library or of Python contains the separator of lists of folders.
    """
    # Jobs call `python`: the one that runs Snakemake, whether or not its environment is activated. With `--sdm conda`
    # the activation of the job's own environment puts another one first.
    _prepend("PATH", Path(sys.executable).parent.as_posix())
    _prepend("PYTHONPATH", library)
    # `python -m` would otherwise import from the working directory first: a `random.py` there would be run.
    os.environ["PYTHONSAFEPATH"] = "1"
    # Stages that need the network set this to 0 in their rule.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    # Threads that spin while they wait slow one another down where jobs share cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Batches of different lengths leave gaps between fixed segments of GPU memory: a fifth of it, in a run on an H200.
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")


def _prepend(variable: str, folder: str) -> None:
    if os.pathsep in folder:
        raise SpeechmillError(
            f"{folder} contains `{os.pathsep}`, which separates folders in {variable}, so that jobs would not find it;"
            " rename the folder"
        )
    others = [each for each in os.environ.get(variable, "").split(os.pathsep) if each and each != folder]
    os.environ[variable] = os.pathsep.join([folder, *others])
