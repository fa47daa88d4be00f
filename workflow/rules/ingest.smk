# Needs: a corpus where its dataset's `path` says; the network, for a base model on the Hub.
# Makes: raw shards of encoded clips; a folder with the base model.


rule ingest_dataset:
    input:
        lambda wildcards: paths.spoken_archive(SETTINGS.datasets[wildcards.dataset]),
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
        path=lambda wildcards: SETTINGS.datasets[wildcards.dataset].path,
    params:
        settings=lambda wildcards: slices.ingest(SETTINGS, wildcards.dataset),
        fingerprint=lambda wildcards: paths.source_fingerprint(wildcards.dataset, SETTINGS.datasets[wildcards.dataset]),
        code=code_digest("ingest_dataset"),
    shell:
        "python -m speechmill.ingest_dataset --settings {params.settings:q} --path {resources.path:q}"
        " --fingerprint {params.fingerprint:q} --raw {output} 2>&1 | tee {log}"


rule ingest_model:
    output:
        directory("results/models/{model}"),
    log:
        "logs/ingest_model/{model}.log",
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=1000,
        runtime=120,
    params:
        settings=lambda wildcards: slices.ingest_model(SETTINGS, wildcards.model),
        fingerprint=lambda wildcards: paths.base_fingerprint(SETTINGS, wildcards.model),
        code=code_digest("ingest_model"),
    shell:
        "HF_HUB_OFFLINE=0 python -m speechmill.ingest_model --settings {params.settings:q} --folder {output}"
        " 2>&1 | tee {log}"
