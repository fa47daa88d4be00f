# Needs: a run's training clips, their shards, the processor, the plan, the base model if there is one; a GPU, unless
# the run's device says otherwise.
# Makes: the checkpoints that the plan lists, what training was, and its log by step.


rule finetune:
    input:
        clips=ancient("results/runs/{run}/clips/train.parquet"),
        digest="results/runs/{run}/clips/train.sha256",
        shards=lambda wildcards: ancient(paths.role_shards(SETTINGS, wildcards.run, "train")),
        vocab=multiext("results/runs/{run}/vocab/", "vocab.json", "tokenizer_config.json", "processor_config.json"),
        base=lambda wildcards: ancient(paths.base_folder(SETTINGS.runs[wildcards.run])),
        base_source=lambda wildcards: paths.base_source(SETTINGS.runs[wildcards.run]),
        plan="results/runs/{run}/plan.json",
    output:
        checkpoints=directory("results/runs/{run}/checkpoints"),
        record="results/runs/{run}/training.json",
        log="results/runs/{run}/training.jsonl",
    log:
        "logs/finetune/{run}.log",
    conda:
        "../../envs/train.yaml"
    threads: lambda wildcards: SETTINGS.runs[wildcards.run].finetune.threads
    resources:
        gpu=lambda wildcards: 0 if SETTINGS.runs[wildcards.run].device == "cpu" else 1,
        mem_mb=8000,
        runtime=1440,
    params:
        settings=lambda wildcards: slices.finetune(SETTINGS, wildcards.run),
        code=code_digest("finetune"),
    shell:
        "python -m speechmill.finetune --run {wildcards.run} --settings {params.settings:q} --gpus {resources.gpu}"
        " --code {params.code} --clips {input.clips} --digest {input.digest} --shards {input.shards}"
        " --vocab $(dirname {input.vocab[0]}) --base {input.base} --base-source {input.base_source} --plan {input.plan} --work work/{wildcards.run}"
        " --checkpoints {output.checkpoints} --record {output.record} --log {output.log} 2>&1 | tee {log}"
