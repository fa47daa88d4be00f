# Needs: raw shards.
# Makes: 16 kHz shards, one job each; the index of every split; the rejected clips, counted.


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
        # Six hours of noise, the largest clip that is kept, take 2.1 GiB; clips of up to an hour take less than 1 GiB.
        mem_mb=2500,
        runtime=60,
    params:
        settings=from_config(stage_settings.shards),
        # The cache knows a job by its parameters, not by its wildcards.
        split="{split}",
        number="{number}",
        version=stage_version("shards"),
        # Who shares the cache may have other versions of the libraries, and they other samples.
        libraries=library_versions("data"),
    shell:
        # glibc keeps the memory of a clip for the next one, which saves an eighth of the time with MP3 (mallopt(3)).
        "MALLOC_TRIM_THRESHOLD_=1073741824 MALLOC_MMAP_THRESHOLD_=33554432"
        " python -m speechmill.corpus.shards --settings {params.settings:q} --raw {input} --split {params.split}"
        " --number {params.number} --shard {output.shard} --rows {output.rows} 2>&1 | tee {log}"


ruleorder: shards_uncached > shards


# The cache knows a job by the inputs of the jobs before it, not by their outputs.
use rule shards as shards_uncached with:
    wildcard_constraints:
        dataset=UNCACHED,
    cache: False


rule index:
    input:
        each("results/data/{dataset}/{split}/rows-{number}.parquet", paths.split_shards),
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
        version=stage_version("index"),
    shell:
        "python -m speechmill.corpus.index --rows {input} --index {output} 2>&1 | tee {log}"


rule status:
    input:
        raw="results/raw/{dataset}",
        rows=each("results/data/{dataset}/{split}/rows-{number}.parquet", paths.dataset_shards),
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
        settings=from_config(stage_settings.status),
        version=stage_version("status"),
    shell:
        "python -m speechmill.corpus.status --settings {params.settings:q} --raw {input.raw} --rows {input.rows}"
        " --rejected {output.rejected} --status {output.status} 2>&1 | tee {log}"
