# Needs: the checkpoints, the clips of an evaluation set and their shards.
# Makes: scores and hypotheses of each checkpoint on each set by each decoder, and the table of them all.


rule evaluate:
    input:
        checkpoints="results/runs/{run}/checkpoints",
        clips=ancient("results/runs/{run}/clips/{set}.parquet"),
        digest="results/runs/{run}/clips/{set}.sha256",
        shards=lambda wildcards: ancient(paths.role_shards(SETTINGS, wildcards.run, wildcards.set)),
        counts="results/runs/{run}/clips/{set}.json",
    output:
        metrics="results/runs/{run}/evaluation/{step}/{set}/{decoder}/metrics.json",
        hypotheses="results/runs/{run}/evaluation/{step}/{set}/{decoder}/hypotheses.parquet",
    log:
        "logs/evaluate/{run}-{step}-{set}-{decoder}.log",
    conda:
        "../../envs/train.yaml"
    resources:
        gpu=lambda wildcards: 0 if SETTINGS.runs[wildcards.run].device == "cpu" else 1,
        mem_mb=4000,
        runtime=240,
    params:
        settings=lambda wildcards: slices.evaluate(SETTINGS, wildcards.run),
        code=code_digest("evaluate"),
    shell:
        "python -m speechmill.evaluate --run {wildcards.run} --settings {params.settings:q} --gpus {resources.gpu}"
        " --threads {threads} --step {wildcards.step} --set {wildcards.set} --checkpoints {input.checkpoints}"
        " --clips {input.clips} --shards {input.shards} --counts {input.counts} --metrics {output.metrics}"
        " --hypotheses {output.hypotheses} 2>&1 | tee {log}"


rule summary:
    input:
        lambda wildcards: paths.run_metrics(
            SETTINGS, wildcards.run, checkpoints.plan.get(run=wildcards.run).output.plan
        ),
    output:
        "results/runs/{run}/evaluation/summary.parquet",
    log:
        "logs/summary/{run}.log",
    conda:
        "../../envs/card.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code_digest("summary"),
    shell:
        "python -m speechmill.summary --metrics {input} --summary {output} 2>&1 | tee {log}"
