# Needs: a run's training clips, their shards, the processor, the plan, the base model if there is one; dev, on which
# every checkpoint is evaluated; the run's GPUs, unless its device is the CPU.
# Makes: the checkpoints that the plan lists, or the best of them; a record of the training, and its log by step.
#
# Exit status 75 means that training stopped at a signal, as a cluster sends it at its time limit, after saving its
# state. Run snakemake again, or give it --retries, and training resumes; so it does after a kill, from the last save.
# The results of a finished training also stay in work/{run}, until the rule `select` has used them: Snakemake deletes
# outputs that it does not accept, for example after a failed upload, and training would start over.


checkpoint finetune:
    input:
        clips=ancient("results/runs/{run}/clips/train.parquet"),
        digest="results/runs/{run}/clips/train.sha256",
        shards=ancient(each("results/data/{dataset}/{split}/shard-{number}.parquet", paths.train_shards)),
        vocab=multiext("results/runs/{run}/vocab/", "vocab.json", "tokenizer_config.json", "processor_config.json"),
        base=ancient(each("results/models/{model}", paths.base)),
        base_source=each("results/models/{model}.json", paths.base),
        # The steps of the plan are a reason to train again; its estimates of time and memory are not.
        plan=ancient("results/runs/{run}/plan.json"),
        plan_digest="results/runs/{run}/plan.sha256",
        # Dev changes no weights. It is a reason to train again where it decides which checkpoints are kept.
        dev=ancient("results/runs/{run}/clips/dev.parquet"),
        dev_digest=if_run(paths.keeps_best, "results/runs/{run}/clips/dev.sha256"),
        dev_shards=ancient(each("results/data/{dataset}/{split}/shard-{number}.parquet", paths.dev_shards)),
    output:
        checkpoints=directory("results/runs/{run}/checkpoints"),
        record="results/runs/{run}/training.json",
        log="results/runs/{run}/training.jsonl",
    log:
        "logs/finetune/{run}.log",
    conda:
        "../../envs/train.yaml"
    threads: from_config(hardware.finetune_threads)
    resources:
        gpu=from_config(hardware.finetune_gpus),
        mem_mb=from_config(hardware.finetune_mb),
        runtime=1440,
        # A resource, not a parameter: these settings change no weights, and are no reason to train again.
        settings=from_config(stage_settings.finetune_runtime),
    params:
        settings=from_config(stage_settings.finetune),
        version=stage_version("finetune"),
    shell:
        # A cluster signals the shell and tee too: they wait until training has saved.
        "trap : TERM;"
        " python -m speechmill.training.finetune --run {wildcards.run} --settings {params.settings:q}"
        " --runtime-settings {resources.settings:q} --gpus {resources.gpu} --stage-version {params.version}"
        " --clips {input.clips} --digest {input.digest} --shards {input.shards} --dev-clips {input.dev}"
        " --dev-shards {input.dev_shards} --vocab $(dirname {input.vocab[0]}) --base {input.base}"
        " --base-source {input.base_source} --plan {input.plan}"
        f" --work {PREFIX}work/"
        "{wildcards.run}"
        " --checkpoints {output.checkpoints} --record {output.record} --log {output.log}"
        " 2>&1 | (trap '' INT TERM; exec tee {log})"
