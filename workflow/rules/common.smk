# Needs: the configuration. Gives: SETTINGS, typed and checked, and what the rules ask of it.
import sys
from contextlib import contextmanager
from pathlib import Path

from snakemake.exceptions import WorkflowError

LIBRARY = Path(workflow.basedir, "workflow").as_posix()
sys.path.insert(0, LIBRARY)

from speechmill.core import environment
from speechmill.dag import hardware
from speechmill.dag import paths
from speechmill.dag import stage_settings
from speechmill.dag.versions import code_digest
from speechmill.core.command import SpeechmillError
from speechmill.config.root import load
from speechmill.dag.outcome import outcome

environment.set_for_jobs(LIBRARY)

try:
    SETTINGS = load(config)
except SpeechmillError as error:
    raise WorkflowError(str(error)) from None

if workflow.is_main_process and "gpu" in workflow.global_resources:
    for sentence in hardware.refusals(SETTINGS, workflow.global_resources["gpu"].value):
        raise WorkflowError(sentence)


onstart:
    for sentence in paths.missing_sources(SETTINGS):
        raise WorkflowError(sentence)


onsuccess:
    for name in SETTINGS.runs:
        # Absent where another target was asked for.
        if all(Path(file).is_file() for file in paths.results(SETTINGS, name)):
            print(outcome(Path("results/runs", name)))


def corpus(wildcards):
    """The archive that another rule makes, or that snakemake fetches; all else is for the job to find."""
    dataset = SETTINGS.datasets[wildcards.dataset]
    return storage(dataset.path) if dataset.in_storage else paths.spoken_archive(dataset)


def scored_steps(run):
    """The steps of the checkpoints that are scored, known once the plan is."""
    if not SETTINGS.runs[run].trains:
        return [0]
    # Which checkpoints are the best is known after training. The plan is asked first all the same: while it has to run
    # again, snakemake does not look whether training has to.
    plan = checkpoints.plan.get(run=run).output.plan
    only_best = SETTINGS.runs[run].checkpoints.best
    record = [checkpoints.finetune.get(run=run).output.record] if only_best else []
    with on_this_disk(plan, *record):
        return paths.steps(plan, *record)


@contextmanager
def on_this_disk(*files):
    """Have files that snakemake keeps in storage lie here as well, until they are read."""
    fetched = [file for file in files if file.is_storage and not Path(file).exists()]
    try:
        for file in fetched:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            file.storage_object.retrieve_object()
        yield
    finally:
        for file in fetched:
            Path(file).unlink(missing_ok=True)


# Alternatives of what the cache must not hand on; a pattern that nothing fits where there is none.
UNCACHED = "|".join(paths.uncached(SETTINGS)) or "(?!)"
# The runs that make a model, and those that only score one.
TRAINED = "|".join(name for name, run in SETTINGS.runs.items() if run.trains) or "(?!)"
SCORED = "|".join(name for name, run in SETTINGS.runs.items() if not run.trains) or "(?!)"


wildcard_constraints:
    dataset=r"[a-z0-9_]+",
    split=r"[a-z0-9_]+",
    run=r"[a-z0-9_]+",
    role=r"dev|[a-z0-9_]+-[a-z0-9_]+",
    set=r"[a-z0-9_]+-[a-z0-9_]+(-[a-z0-9_]+)?",
    effect=r"[a-z0-9_]+",
    model=r"[^/]+(?<!\.json)",
    decoder=r"[a-z]+",
    number=r"\d{5}",
    step=r"\d+|best|selected",
