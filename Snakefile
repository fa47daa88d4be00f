# speechmill: from a speech corpus to a fine-tuned CTC model, with a model card in which every number can be checked.
from snakemake.utils import min_version

min_version("9.27")


# The demo is the default if no --configfile is given. Otherwise it must not be loaded: Snakemake would merge the two.
if not workflow.config_settings.configfiles:

    configfile: "config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/speak.smk"
include: "workflow/rules/ingest.smk"
include: "workflow/rules/shards.smk"
include: "workflow/rules/audit.smk"
include: "workflow/rules/vocab.smk"
include: "workflow/rules/plan.smk"
include: "workflow/rules/finetune.smk"
include: "workflow/rules/perturb.smk"
include: "workflow/rules/lm.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/card.smk"
include: "workflow/rules/runs.smk"
include: "workflow/rules/publish.smk"


report: "workflow/report/workflow.rst"


localrules:
    all,
    ingest_dataset,
    ingest_uncached,
    ingest_model,
    publish,
    publish_dry_run,


rule all:
    default_target: True
    input:
        [paths.results(SETTINGS, run) for run in SETTINGS.runs],
        expand("results/data/{dataset}/audit.json", dataset=SETTINGS.datasets),
        "results/runs.html",
