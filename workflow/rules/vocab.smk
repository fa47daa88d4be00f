# Needs: the index of each set of a run. Makes: the run's clips with their text, its vocabulary and processor.


rule clips:
    input:
        indexes=each("results/data/{dataset}/{split}/index.parquet", paths.role_splits),
        status=each("results/data/{dataset}/status.json", paths.role_splits),
    output:
        clips="results/runs/{run}/clips/{role}.parquet",
        digest="results/runs/{run}/clips/{role}.sha256",
        counts="results/runs/{run}/clips/{role}.json",
    log:
        "logs/clips/{run}-{role}.log",
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        settings=from_config(stage_settings.clips),
        version=stage_version("clips"),
    shell:
        "python -m speechmill.corpus.clips --settings {params.settings:q} --indexes {input.indexes}"
        " --status {input.status} --clips {output.clips} --digest {output.digest} --counts {output.counts}"
        " 2>&1 | tee {log}"


rule clips_train:
    input:
        indexes=each("results/data/{dataset}/{split}/index.parquet", paths.train_splits),
        status=each("results/data/{dataset}/status.json", paths.train_splits),
        scored=each("results/runs/{run}/clips/{set_name}.parquet", paths.scored_sets),
        recordings=each("results/data/{dataset}/{split}/index.parquet", paths.recording_splits),
        corrections=user_files(paths.corrections),
    output:
        clips="results/runs/{run}/clips/train.parquet",
        digest="results/runs/{run}/clips/train.sha256",
        counts="results/runs/{run}/clips/train.json",
        excluded="results/runs/{run}/clips/excluded.parquet",
        leakage="results/runs/{run}/clips/leakage.json",
    log:
        "logs/clips/{run}-train.log",
    conda:
        "../../envs/data.yaml"
    resources:
        # Every clip that is used, as Python objects.
        mem_mb=lambda wildcards, input, attempt: attempt * hardware.tables_mb(input, 2000),
        runtime=30,
    params:
        settings=from_config(stage_settings.clips_train),
        version=stage_version("clips"),
    shell:
        "python -m speechmill.corpus.clips --settings {params.settings:q} --indexes {input.indexes}"
        " --status {input.status} --scored {input.scored} --recordings {input.recordings}"
        " --corrections {input.corrections} --clips {output.clips} --digest {output.digest} --counts {output.counts}"
        " --excluded {output.excluded} --leakage {output.leakage} 2>&1 | tee {log}"


rule vocab:
    input:
        clips=ancient("results/runs/{run}/clips/train.parquet"),
        rerun_on="results/runs/{run}/clips/train.sha256",
        base=ancient(each("results/models/{model}", paths.base)),
        base_source=each("results/models/{model}.json", paths.base),
    output:
        vocab="results/runs/{run}/vocab/vocab.json",
        tokenizer="results/runs/{run}/vocab/tokenizer_config.json",
        processor="results/runs/{run}/vocab/processor_config.json",
        characters="results/runs/{run}/vocab/characters.json",
        digests="results/runs/{run}/vocab/sha256.json",
    log:
        "logs/vocab/{run}.log",
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        settings=from_config(stage_settings.vocab),
        version=stage_version("vocab"),
    shell:
        "python -m speechmill.text.vocab --settings {params.settings:q} --clips {input.clips} --base {input.base}"
        " --folder $(dirname {output.vocab}) --characters {output.characters} 2>&1 | tee {log}"
