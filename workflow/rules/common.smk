# Needs: the configuration. Gives: SETTINGS, typed and checked, and what the rules ask of it.
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

LIBRARY = Path(workflow.basedir, "workflow").as_posix()
sys.path.insert(0, LIBRARY)

from speechmill import environment, paths, slices
from speechmill.code_digest import code_digest
from speechmill.command import SpeechmillError
from speechmill.config.root import load
from speechmill.outcome import outcome

environment.set_for_jobs(LIBRARY)

try:
    SETTINGS = load(config)
except SpeechmillError as error:
    raise WorkflowError(str(error)) from None

if workflow.is_main_process and "gpu" in workflow.global_resources and workflow.global_resources["gpu"].value == 0:
    for name, run in SETTINGS.runs.items():
        if run.device == "gpu":
            raise WorkflowError(
                f"runs.{name}.device is gpu, and --resources gpu=0 grants none: grant one, or set runs.{name}.device to"
                " cpu and expect to wait"
            )


onstart:
    for sentence in paths.missing_sources(SETTINGS):
        raise WorkflowError(sentence)


onsuccess:
    for name in SETTINGS.runs:
        # Absent where another target was asked for.
        if Path("results/runs", name, "model", "README.md").is_file():
            print(outcome(Path("results/runs", name)))


# Alternatives of what the cache must not hand on; a pattern that nothing fits where there is none.
UNCACHED = "|".join(paths.uncached(SETTINGS)) or "(?!)"


wildcard_constraints:
    dataset=r"[a-z0-9_]+",
    split=r"[a-z0-9_]+",
    run=r"[a-z0-9_]+",
    role=r"dev|[a-z0-9_]+-[a-z0-9_]+",
    set=r"[a-z0-9_]+-[a-z0-9_]+",
    model=r"[^/]+(?<!\.json)",
    decoder=r"[a-z]+",
    number=r"\d{5}",
    step=r"\d+",
