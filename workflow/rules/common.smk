# Needs: the configuration, and the library.
# Provides: SETTINGS, the typed and validated configuration, PREFIX, and the input functions of all rules.
import os
from contextlib import contextmanager
from pathlib import Path

from snakemake.exceptions import WorkflowError

from speechmill.config.root import load
from speechmill.core import environment
from speechmill.core.command import SpeechmillError
from speechmill.core.versions import ADOPTED_RELEASE, library_versions, stage_version
from speechmill.dag import hardware, paths, sharing, sources, stage_settings
from speechmill.dag.inputs import Inputs
from speechmill.dag.outcome import outcome

try:
    environment.set_for_jobs(LIBRARY)
    SETTINGS = load(config)
except SpeechmillError as error:
    raise WorkflowError(str(error)) from None

if workflow.is_main_process and "gpu" in workflow.global_resources:
    for message in hardware.gpu_errors(SETTINGS, workflow.global_resources["gpu"].value):
        raise WorkflowError(message)


# What a workflow that imports this one puts before the paths of all rules, such as `speech/`; otherwise empty.
# Snakemake puts it before inputs, outputs and logs; it belongs before all other paths to which jobs write, too.
PREFIX = workflow.modifier.path_modifier.replace_prefix("")


onstart:
    for message in sources.missing_sources(SETTINGS, PREFIX):
        raise WorkflowError(message)
    # On a cluster, and in environments of Conda, jobs do not find the GPUs that are found here.
    if workflow.local_exec and not workflow.touch and not workflow.deployment_settings.deployment_method:
        jobs = [job for job in workflow.dag.needrun_jobs() if "gpu" in job.rule.resources]
        names = {job.wildcards.get(name) for job in jobs for name in ("run", "dataset")}
        for message in hardware.missing_gpu_errors(SETTINGS, names):
            raise WorkflowError(message)


onsuccess:
    # What is adopted may be in a format of the earlier release.
    for name in [] if ADOPTED_RELEASE in os.environ else SETTINGS.runs:
        # Absent where another target was requested.
        if all(Path(PREFIX + file).is_file() for file in paths.results(SETTINGS, name)):
            folder = Path(f"{PREFIX}results/runs", name)
            print(outcome(folder))
            for file in [] if workflow.storage_settings.notemp else paths.temporary_files(folder):
                file.unlink()


# What rules read: the paths stand in the rules, and these fill in what the configuration decides.
#
#   from_config(function)           a function of dag/, called with the configuration and the wildcards that it names
#   each(patterns, items)           the patterns, filled in with each of the items that a function of dag/paths.py lists
#   if_run(condition, *patterns)    the patterns, where a condition of dag/paths.py holds for the run
#   all_of(*parts)                  several of these, or patterns, under one name
inputs = Inputs(SETTINGS, PREFIX)
from_config, each, if_run, all_of = inputs.from_config, inputs.each, inputs.if_run, inputs.all_of

# Reasons to run again. A table stands beside a digest of its content; the table itself is `ancient`, so that one that
# is written again unchanged is no reason. Two kinds of input are not read by the program of the rule:
#
#   rerun_on    the job runs again when one of these changes: the digest of a table that it reads
#   after       the job waits for these, which are never a reason: mostly a checkpoint rule, after which Snakemake
#               compares digests again, so that a job whose inputs turn out to be unchanged does not run


def corpus(wildcards):
    """The archive of a dataset, where another rule makes it or Snakemake fetches it from storage."""
    dataset = SETTINGS.datasets[wildcards.dataset]
    return storage(dataset.path) if dataset.in_storage else paths.spoken_archive(dataset)


def user_files(files):
    """An input function: files of a run that the configuration names, `files(config, run)`; they take no prefix."""

    def of_run(wildcards):
        named = files(SETTINGS, wildcards.run)
        return [os.path.abspath(file) for file in named] if PREFIX else named

    return of_run


def scored_steps(run):
    """The steps of the scored checkpoints, known after planning, or after training if only the best are kept."""
    if not SETTINGS.runs[run].trains:
        return [0]
    # The plan comes first in both cases: while it has to run again, Snakemake does not know whether training has to.
    plan = checkpoints.plan.get(run=run).output.plan
    only_best = paths.keeps_best(SETTINGS.runs[run])
    record = [checkpoints.finetune.get(run=run).output.record] if only_best else []
    with fetched(plan, *record):
        return paths.steps(plan, *record)


@contextmanager
def fetched(*files):
    """Have local copies, for the block, of files that Snakemake keeps in storage."""
    copies = [file for file in files if file.is_storage and not Path(file).exists()]
    try:
        for file in copies:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            file.storage_object.retrieve_object()
        yield
    finally:
        for file in copies:
            Path(file).unlink(missing_ok=True)


def scores(file, folders):
    """An input function: `file` in each folder of scores that a function of dag/paths.py lists for the steps."""

    def of_steps(wildcards):
        steps = scored_steps(wildcards.run)
        return [f"{folder}/{file}" for folder in folders(SETTINGS, wildcards.run, steps)]

    return of_steps


def compared_hypotheses(wildcards):
    """The hypotheses, on the sets of a run, of the runs that it is compared with."""
    return [
        f"{folder}/hypotheses.parquet"
        for each in paths.compared_runs(SETTINGS, wildcards.run)
        for folder in paths.shared_scores(SETTINGS, wildcards.run, each["other"], scored_steps(each["other"]))
    ]


def selected_hypotheses(wildcards):
    """The hypotheses of the selected checkpoint of every run, known after its selection."""
    return [file for run in SETTINGS.runs for file in hypotheses_of_selected(run)]


def hypotheses_of_selected(run):
    """The hypotheses of the selected checkpoint of a run, of every set and decoder."""
    steps = scored_steps(run)
    if SETTINGS.runs[run].trains:
        selection = checkpoints.select.get(run=run).output.selection
        with fetched(selection):
            steps = [paths.selected_step(selection)]
    return [f"{folder}/hypotheses.parquet" for folder in paths.all_scores(SETTINGS, run, steps)]


def selected_greedy_hypotheses(wildcards):
    """The hypotheses of a set by greedy decoding, of the selected checkpoint of a run, known after its selection."""
    files = hypotheses_of_selected(wildcards.run)
    return [file for file in files if Path(file).parts[-3:-1] == (wildcards.set_name, "greedy")]


def set_hypotheses(wildcards):
    """The hypotheses of a set at every step."""
    folders = paths.set_scores(SETTINGS, wildcards.run, wildcards.set_name, scored_steps(wildcards.run))
    return [f"{folder}/hypotheses.parquet" for folder in folders]


def confidence_hypotheses(wildcards):
    """The hypotheses of a set by all decoders at every step, or of dev at the selected one where it is not scored."""
    folders = paths.confidence_scores(SETTINGS, wildcards.run, wildcards.set_name, scored_steps(wildcards.run))
    return [f"{folder}/hypotheses.parquet" for folder in folders]


def folder_of(name):
    """A parameter function: the folder of the model or tokenizer that the input `name` stands for."""
    return lambda wildcards, input: paths.folder_of(SETTINGS, wildcards.run, input[name])


def model_folder(wildcards, input):
    """A parameter function: the folder of the model that transcribes a dataset."""
    return paths.folder_of(SETTINGS, SETTINGS.transcribed[wildcards.dataset].by, input.model)


def folders_of_inputs(wildcards, input):
    """A parameter function: the folder of each input."""
    return [Path(file).parent.as_posix() for file in input]


def any_of(names):
    """A wildcard constraint: any of the names, as a regular expression; one that matches nothing if there are none."""
    return "|".join(names) or "(?!)"


# Datasets that the cache between workflows must not share.
UNCACHED = any_of(sources.uncached(SETTINGS))
# Runs of a sweep whose language model is that of another run, with the name of that run.
LM_OWNERS = sharing.lm_owners(SETTINGS)


def lm_owner(config, run):
    """The run whose language model is copied for a run."""
    return [{"owner": LM_OWNERS[run]}]


TRAINED_RUNS = [name for name, run in SETTINGS.runs.items() if run.trains]


wildcard_constraints:
    dataset=r"[a-z0-9_]+",
    split=r"[a-z0-9_]+",
    run=r"[a-z0-9_]+",
    text=r"[a-z0-9_]+",
    role=r"dev|[a-z0-9_]+-[a-z0-9_]+",
    set_name=r"[a-z0-9_]+-[a-z0-9_]+(-[a-z0-9_]+)?",
    effect=r"[a-z0-9_]+",
    model=r"[^/]+(?<!\.json)",
    decoder=r"[a-z]+",
    number=r"\d{5}",
    outputs="ctc_outputs|log_probs",
    step=r"\d+|tuning|average|selected",
