# Needs: a corpus at its dataset's `path`, or the network to download it; the network, for a base on the Hub; the pieces
# of recordings that `segment` and `transcribe` make.
# Makes: raw shards of encoded clips; a folder with the base model; a record of what the base's own card says.


rule ingest_dataset:
    input:
        corpus,
    output:
        directory("results/raw/{dataset}"),
    log:
        "logs/ingest_dataset/{dataset}.log",
    cache: True
    localrule: True
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=1000,
        runtime=120,
        # A resource, not a parameter: that a corpus lies elsewhere on this machine is no reason to read it again, or
        # to miss the cache.
        location=from_config(stage_settings.location),
    params:
        settings=from_config(stage_settings.ingest_dataset),
        fingerprint=from_config(sources.dataset_fingerprint),
        version=stage_version("ingest_dataset"),
        # Who shares the cache may have other versions of the libraries, and they other samples.
        libraries=library_versions("data"),
    shell:
        # datasets would load torch, for nothing and half a gigabyte.
        "HF_HUB_OFFLINE=0 USE_TORCH=0 python -m speechmill.corpus.ingest_dataset --settings {params.settings:q}"
        " --location {resources.location:q} --staged {input} --fingerprint {params.fingerprint:q} --raw {output}"
        " 2>&1 | tee {log}"


ruleorder: ingest_pieces > ingest_uncached > ingest_dataset


# A source that was unavailable, or that may change later, must not be shared.
use rule ingest_dataset as ingest_uncached with:
    wildcard_constraints:
        dataset=UNCACHED,
    cache: False


# Clips that a model made of the recordings of another dataset.
rule ingest_pieces:
    input:
        pieces=each("results/pieces/{dataset}/{split}/shard-{number}.parquet", paths.dataset_shards),
        status=each("results/data/{of}/status.json", paths.recordings),
        selection=each("results/runs/{run}/selection.json", paths.transcriber),
        # The scores on other sets are not used.
        summary=ancient(each("results/runs/{run}/evaluation/summary.parquet", paths.transcriber)),
    output:
        directory("results/raw/{dataset}"),
    log:
        "logs/ingest_pieces/{dataset}.log",
    wildcard_constraints:
        dataset=any_of(SETTINGS.pieces),
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        settings=from_config(stage_settings.ingest_pieces),
        version=stage_version("ingest_pieces"),
    shell:
        "python -m speechmill.corpus.ingest_pieces --settings {params.settings:q} --pieces {input.pieces}"
        " --status {input.status} --selection {input.selection} --summary {input.summary} --raw {output}"
        " 2>&1 | tee {log}"


rule ingest_model:
    input:
        model=ancient(each([f"results/runs/{{run}}/model/{file}" for file in paths.MODEL_FILES], paths.base_run)),
        selection=each("results/runs/{run}/selection.json", paths.base_run),
    output:
        folder=directory("results/models/{model}"),
        source="results/models/{model}.json",
    log:
        "logs/ingest_model/{model}.log",
    # What does not fit the model should be known before the corpora are converted.
    priority: 20
    localrule: True
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=1000,
        runtime=120,
        # Resources, not parameters: these are only compared.
        expected_bytes=from_config(stage_settings.ingest_model_runtime),
        trainings=from_config(stage_settings.ingest_model_trainings),
        uses=from_config(stage_settings.ingest_model_uses),
    params:
        settings=from_config(stage_settings.ingest_model),
        runs=from_config(stage_settings.ingest_model_runs),
        fingerprint=from_config(sources.base_fingerprint),
        version=stage_version("ingest_model"),
    shell:
        "HF_HUB_OFFLINE=0 python -m speechmill.model.ingest_model --settings {params.settings:q}"
        " --runs {params.runs:q} --trainings {resources.trainings:q}"
        " --uses {resources.uses:q} --expected-bytes {resources.expected_bytes} --folder {output.folder}"
        " --source {output.source} --model {input.model} --selection {input.selection} 2>&1 | tee {log}"


# Apart from `ingest_model`, so that a base that is already stored is not downloaded again, and nothing is trained again.
rule base_card:
    input:
        source="results/models/{model}.json",
    output:
        "results/base_cards/{model}.json",
    log:
        "logs/base_card/{model}.log",
    localrule: True
    conda:
        "../../envs/card.yaml"
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        settings=from_config(stage_settings.base_card),
        fingerprint=from_config(sources.base_card_fingerprint),
        version=stage_version("base_card"),
    shell:
        "HF_HUB_OFFLINE=0 python -m speechmill.model.base_card --settings {params.settings:q} --source {input.source}"
        " --card {output} 2>&1 | tee {log}"
