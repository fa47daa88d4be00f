# Needs: raw shards.
# Makes: 16 kHz shards, one job a shard; the index of each split; what could not be read, counted.


rule shards:
    input:
        "results/raw/{dataset}",
    output:
        shard="results/data/{dataset}/{split}/shard-{number}.parquet",
        rows="results/data/{dataset}/{split}/rows-{number}.parquet",
    log:
        "logs/shards/{dataset}-{split}-{number}.log",
    cache: True
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=1500,
        runtime=60,
    params:
        settings=lambda wildcards: stage_settings.shards(SETTINGS, wildcards.dataset),
        # The cache knows a job by its parameters, not by its wildcards.
        split="{split}",
        number="{number}",
        # With the versions of its libraries: who shares the cache may have others, and they other samples.
        code=code_digest("shards", "../envs/data.yaml"),
    shell:
        "python -m speechmill.corpus.shards --settings {params.settings:q} --raw {input} --split {params.split}"
        " --number {params.number} --shard {output.shard} --rows {output.rows} 2>&1 | tee {log}"


ruleorder: shards_uncached > shards


# The cache knows a job by what went into the jobs before it, not by what came out of them.
use rule shards as shards_uncached with:
    wildcard_constraints:
        dataset=UNCACHED,
    cache: False


rule index:
    input:
        lambda wildcards: paths.split_files(SETTINGS, wildcards.dataset, wildcards.split, "rows"),
    output:
        "results/data/{dataset}/{split}/index.parquet",
    log:
        "logs/index/{dataset}-{split}.log",
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=code_digest("index"),
    shell:
        "python -m speechmill.corpus.index --rows {input} --index {output} 2>&1 | tee {log}"


rule status:
    input:
        raw="results/raw/{dataset}",
        rows=lambda wildcards: paths.dataset_files(SETTINGS, wildcards.dataset, "rows"),
    output:
        rejected="results/data/{dataset}/rejected.parquet",
        status="results/data/{dataset}/status.json",
    log:
        "logs/status/{dataset}.log",
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        settings=lambda wildcards: stage_settings.status(SETTINGS, wildcards.dataset),
        code=code_digest("status"),
    shell:
        "python -m speechmill.corpus.status --settings {params.settings:q} --raw {input.raw} --rows {input.rows}"
        " --rejected {output.rejected} --status {output.status} 2>&1 | tee {log}"
