# Needs: a run's training clips, their shards, the processor, the plan, the base model if there is one; dev, on which each
# checkpoint is tried; the run's GPUs, unless its device says otherwise.
# Makes: the checkpoints that the plan lists, or the best of them; what training was, and its log by step.
#
# The exit status 75 means "go on": a signal to end, as a cluster sends it at its time limit, has ended training after its
# state was saved. Run snakemake again, or give it --retries, and training goes on from there; so it does after any kill,
# from the last save.


checkpoint finetune:
    input:
        clips=ancient("results/runs/{run}/clips/train.parquet"),
        digest="results/runs/{run}/clips/train.sha256",
        shards=lambda wildcards: ancient(paths.role_shards(SETTINGS, wildcards.run, "train")),
        vocab=multiext("results/runs/{run}/vocab/", "vocab.json", "tokenizer_config.json", "processor_config.json"),
        base=lambda wildcards: ancient(paths.base_folder(SETTINGS.runs[wildcards.run])),
        base_source=lambda wildcards: paths.base_source(SETTINGS.runs[wildcards.run]),
        # Its steps make the training; what they are estimated to take does not.
        plan=ancient("results/runs/{run}/plan.json"),
        plan_digest="results/runs/{run}/plan.sha256",
        # It changes no weights. Where it decides which checkpoints are kept, it counts.
        dev=ancient("results/runs/{run}/clips/dev.parquet"),
        dev_digest=lambda wildcards: paths.deciding_digest(SETTINGS, wildcards.run),
        dev_shards=lambda wildcards: ancient(paths.dev_shards(SETTINGS, wildcards.run)),
    output:
        checkpoints=directory("results/runs/{run}/checkpoints"),
        record="results/runs/{run}/training.json",
        log="results/runs/{run}/training.jsonl",
    log:
        "logs/finetune/{run}.log",
    conda:
        "../../envs/train.yaml"
    threads: lambda wildcards: SETTINGS.runs[wildcards.run].finetune.threads * SETTINGS.runs[wildcards.run].gpus
    resources:
        gpu=lambda wildcards: hardware.finetune_gpus(SETTINGS.runs[wildcards.run]),
        mem_mb=lambda wildcards, input: hardware.finetune_mb(SETTINGS.runs[wildcards.run], input.plan),
        runtime=1440,
        # A resource, not a parameter: what it says changes no weights, and is no reason to train again.
        pace=lambda wildcards: stage_settings.pace(SETTINGS, wildcards.run),
    params:
        settings=lambda wildcards: stage_settings.finetune(SETTINGS, wildcards.run),
        # How dev is scored changes no weights.
        code=lambda wildcards: code_digest(
            "finetune", without=[] if SETTINGS.runs[wildcards.run].checkpoints.best else ["probe"]
        ),
    shell:
        # A cluster signals the shell and tee too: they stay until training has saved.
        "trap : TERM;"
        " python -m speechmill.training.finetune --run {wildcards.run} --settings {params.settings:q} --runtime-settings {resources.pace:q}"
        " --gpus {resources.gpu} --code {params.code} --clips {input.clips} --digest {input.digest}"
        " --shards {input.shards} --dev-clips {input.dev} --dev-shards {input.dev_shards}"
        " --vocab $(dirname {input.vocab[0]}) --base {input.base} --base-source {input.base_source} --plan {input.plan} --work work/{wildcards.run}"
        " --checkpoints {output.checkpoints} --record {output.record} --log {output.log}"
        " 2>&1 | (trap '' INT TERM; exec tee {log})"
