# Needs: a corpus where its dataset's `path` says, or the network to fetch it; the network, for a base on the Hub.
# Makes: raw shards of encoded clips; a folder with the base model.


rule ingest_dataset:
    input:
        corpus,
    output:
        directory("results/raw/{dataset}"),
    log:
        "logs/ingest_dataset/{dataset}.log",
    cache: True
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=1000,
        runtime=120,
        # A resource, not a parameter: where the corpus lies on this host is no reason to read it again, or to miss
        # the cache.
        place=lambda wildcards: stage_settings.place(SETTINGS, wildcards.dataset),
    params:
        settings=lambda wildcards: stage_settings.ingest(SETTINGS, wildcards.dataset),
        fingerprint=lambda wildcards: paths.source_fingerprint(wildcards.dataset, SETTINGS.datasets[wildcards.dataset]),
        # With the versions of its libraries: who shares the cache may have others, and they other samples.
        code=code_digest("ingest_dataset", "../envs/data.yaml"),
    shell:
        # datasets would load torch, for nothing and half a gigabyte.
        "HF_HUB_OFFLINE=0 USE_TORCH=0 python -m speechmill.corpus.ingest_dataset --settings {params.settings:q}"
        " --location {resources.place:q} --staged {input} --fingerprint {params.fingerprint:q} --raw {output} 2>&1 | tee {log}"


ruleorder: ingest_uncached > ingest_dataset


# What could not be had today, or may be another thing tomorrow, is not to be handed on.
use rule ingest_dataset as ingest_uncached with:
    wildcard_constraints:
        dataset=UNCACHED,
    cache: False


rule ingest_model:
    input:
        model=lambda wildcards: ancient(paths.base_run_files(SETTINGS, wildcards.model)),
        selection=lambda wildcards: paths.base_run_selection(SETTINGS, wildcards.model),
    output:
        folder=directory("results/models/{model}"),
        source="results/models/{model}.json",
    log:
        "logs/ingest_model/{model}.log",
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=1000,
        runtime=120,
    params:
        settings=lambda wildcards: stage_settings.ingest_model(SETTINGS, wildcards.model),
        fingerprint=lambda wildcards: paths.base_fingerprint(SETTINGS, wildcards.model),
        code=code_digest("ingest_model"),
    shell:
        "HF_HUB_OFFLINE=0 python -m speechmill.model.ingest_model --settings {params.settings:q} --folder {output.folder}"
        " --source {output.source} --model {input.model} --selection {input.selection} 2>&1 | tee {log}"
