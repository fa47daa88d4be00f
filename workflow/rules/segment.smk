# Needs: the shards of a dataset of long recordings with their transcripts, and a CTC model that is trained for the
# language.
# Makes: pieces of the recordings with their text and a score, of which `ingest_pieces` makes clips, and what is left
# out.


rule segment:
    input:
        shard=each("results/data/{of}/{split}/shard-{number}.parquet", paths.recordings),
        rows=each("results/data/{of}/{split}/rows-{number}.parquet", paths.recordings),
        model=ancient(each("results/models/{model}", paths.alignment_model)),
        rerun_on=each("results/models/{model}.json", paths.alignment_model),
    output:
        "results/pieces/{dataset}/{split}/shard-{number}.parquet",
    log:
        "logs/segment/{dataset}-{split}-{number}.log",
    wildcard_constraints:
        dataset=any_of(SETTINGS.segmented),
    conda:
        "../../envs/train.yaml"
    resources:
        gpu=from_config(hardware.segment_gpus),
        mem_mb=from_config(hardware.segment_mb),
        runtime=1440,
    params:
        settings=from_config(stage_settings.segment),
        version=stage_version("segment"),
    shell:
        "python -m speechmill.inference.segment --settings {params.settings:q} --gpus {resources.gpu}"
        " --model {input.model} --shard {input.shard} --rows {input.rows} --pieces {output} 2>&1 | tee {log}"
