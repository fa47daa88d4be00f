# Needs: the selected checkpoint, and the training clips with their shards.
# Makes: a score for each training clip; the clips whose sentences are probably wrong, as a page and as a file to edit.
# Only for runs with the section `label_errors`.


rule label_scores:
    input:
        model=expand("results/runs/{{run}}/model/{file}", file=paths.MODEL_FILES),
        selection="results/runs/{run}/selection.json",
        clips=ancient("results/runs/{run}/clips/train.parquet"),
        counts="results/runs/{run}/clips/train.json",
        plan=ancient(if_run(paths.trains, "results/runs/{run}/plan.json")),
        shards=ancient(each("results/data/{dataset}/{split}/shard-{number}.parquet", paths.train_shards)),
        rerun_on="results/runs/{run}/clips/train.sha256",
    output:
        scores="results/runs/{run}/label_errors/scores.parquet",
        counts="results/runs/{run}/label_errors/counts.json",
    log:
        "logs/label_scores/{run}.log",
    conda:
        "../../envs/train.yaml"
    resources:
        gpu=from_config(hardware.log_probs_gpus),
        mem_mb=from_config(hardware.log_probs_mb),
        runtime=600,
    params:
        settings=from_config(stage_settings.label_scores),
        version=stage_version("label_scores"),
    shell:
        "python -m speechmill.inference.label_scores --run {wildcards.run} --settings {params.settings:q}"
        " --gpus {resources.gpu} --threads {threads} --selection {input.selection}"
        " --model $(dirname {input.model[0]}) --clips {input.clips} --shards {input.shards}"
        " --scores {output.scores} --counts {output.counts} 2>&1 | tee {log}"


rule suspicious:
    input:
        scores="results/runs/{run}/label_errors/scores.parquet",
        clips=ancient("results/runs/{run}/clips/train.parquet"),
        shards=ancient(each("results/data/{dataset}/{split}/shard-{number}.parquet", paths.train_shards)),
    output:
        ids="results/runs/{run}/label_errors/suspicious.csv",
        page=report(
            "results/runs/{run}/label_errors/suspicious.html",
            category="Runs",
            labels={"run": "{run}", "what": "suspicious training clips"},
            caption="../report/suspicious.rst",
        ),
    log:
        "logs/suspicious/{run}.log",
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        settings=from_config(stage_settings.suspicious),
        version=stage_version("suspicious"),
    shell:
        "python -m speechmill.report.suspicious --run {wildcards.run} --settings {params.settings:q}"
        " --scores {input.scores} --clips {input.clips} --shards {input.shards} --page {output.page}"
        " --ids {output.ids} 2>&1 | tee {log}"
