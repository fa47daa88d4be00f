# Needs: the index of each set of a run. Makes: the run's clips with their text, its vocabulary and processor.


rule clips:
    input:
        indexes=lambda wildcards: paths.role_indexes(SETTINGS, wildcards.run, wildcards.role),
        status=lambda wildcards: paths.role_status(SETTINGS, wildcards.run, wildcards.role),
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
        settings=lambda wildcards: stage_settings.clips(SETTINGS, wildcards.run, wildcards.role),
        code=code_digest("clips"),
    shell:
        "python -m speechmill.corpus.clips --settings {params.settings:q} --indexes {input.indexes} --status {input.status}"
        " --clips {output.clips} --digest {output.digest} --counts {output.counts} 2>&1 | tee {log}"


rule clips_train:
    input:
        indexes=lambda wildcards: paths.role_indexes(SETTINGS, wildcards.run, "train"),
        status=lambda wildcards: paths.role_status(SETTINGS, wildcards.run, "train"),
        scored=lambda wildcards: paths.scored_clips(SETTINGS, wildcards.run),
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
        # Every clip that is used, as Python's own.
        mem_mb=lambda wildcards, input, attempt: attempt * hardware.tables_mb(input, 2000),
        runtime=30,
    params:
        settings=lambda wildcards: stage_settings.clips(SETTINGS, wildcards.run, "train"),
        code=code_digest("clips"),
    shell:
        "python -m speechmill.corpus.clips --settings {params.settings:q} --indexes {input.indexes} --status {input.status}"
        " --scored {input.scored}"
        " --clips {output.clips} --digest {output.digest} --counts {output.counts} --excluded {output.excluded}"
        " --leakage {output.leakage} 2>&1 | tee {log}"


# A table stands behind its digest: one that is written again unchanged makes nothing run again.
rule vocab:
    input:
        clips=ancient("results/runs/{run}/clips/train.parquet"),
        digest="results/runs/{run}/clips/train.sha256",
        base=lambda wildcards: ancient(paths.base_folder(SETTINGS.runs[wildcards.run])),
        base_source=lambda wildcards: paths.base_source(SETTINGS.runs[wildcards.run]),
    output:
        vocab="results/runs/{run}/vocab/vocab.json",
        tokenizer="results/runs/{run}/vocab/tokenizer_config.json",
        processor="results/runs/{run}/vocab/processor_config.json",
        characters="results/runs/{run}/vocab/characters.json",
    log:
        "logs/vocab/{run}.log",
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        settings=lambda wildcards: stage_settings.vocab(SETTINGS, wildcards.run),
        code=code_digest("vocab"),
    shell:
        "python -m speechmill.text.vocab --settings {params.settings:q} --clips {input.clips} --base {input.base}"
        " --folder $(dirname {output.vocab}) --characters {output.characters} 2>&1 | tee {log}"
