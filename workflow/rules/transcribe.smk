# Needs: the shards of a dataset of recordings without text, and the selected model of a run, with its language model if
# the run has one.
# Makes: pieces of the recordings in which there is speech, with their hypotheses and a confidence, of which
# `ingest_pieces` makes clips.


rule transcribe:
    input:
        shard=each("results/data/{of}/{split}/shard-{number}.parquet", paths.recordings),
        rows=each("results/data/{of}/{split}/rows-{number}.parquet", paths.recordings),
        model=ancient(from_config(paths.transcription_model)),
        lm=from_config(paths.transcription_lm),
        selection=from_config(paths.transcription_selection),
    output:
        "results/pieces/{dataset}/{split}/shard-{number}.parquet",
    log:
        "logs/transcribe/{dataset}-{split}-{number}.log",
    wildcard_constraints:
        dataset=any_of(SETTINGS.transcribed),
    conda:
        "../../envs/train.yaml"
    threads: from_config(hardware.transcribe_threads)
    resources:
        gpu=from_config(hardware.transcribe_gpus),
        mem_mb=from_config(hardware.transcribe_mb),
        runtime=1440,
    params:
        settings=from_config(stage_settings.transcribe),
        model=model_folder,
        version=stage_version("transcribe"),
    shell:
        "python -m speechmill.inference.transcribe --settings {params.settings:q} --gpus {resources.gpu}"
        " --threads {threads} --model {params.model} --selection {input.selection} --lm {input.lm}"
        " --shard {input.shard} --rows {input.rows} --pieces {output} 2>&1 | tee {log}"
