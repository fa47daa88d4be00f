# Needs: the tables of scores, the checkpoints, and the records of every stage; in a sweep, the scores of the runs that
# differ only in their seed; of runs that the card compares with, the scores and hypotheses.
# Makes: the model's folder: the selected checkpoint, which plain transformers loads, its card and plots.
#
# A run that only scores a model has no folder and no card of its own.


# A checkpoint: where the same step is selected again, what was scored on it stays.
checkpoint select:
    input:
        steps="results/runs/{run}/evaluation/steps.parquet",
        checkpoints="results/runs/{run}/checkpoints",
        average=if_run(paths.averages, "results/runs/{run}/average"),
        average_metrics=from_config(paths.average_metrics),
        after=ancient("results/runs/{run}/plan.json"),
    output:
        model=expand("results/runs/{{run}}/model/{file}", file=paths.MODEL_FILES),
        selection="results/runs/{run}/selection.json",
    log:
        "logs/select/{run}.log",
    wildcard_constraints:
        run=any_of(TRAINED_RUNS),
    conda:
        "../../envs/card.yaml"
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        settings=from_config(stage_settings.select),
        version=stage_version("select"),
    shell:
        "python -m speechmill.scoring.select --settings {params.settings:q} --summary {input.steps}"
        " --checkpoints {input.checkpoints} --average {input.average} --average-metrics {input.average_metrics}"
        " --model {output.model} --selection {output.selection} 2>&1 | tee {log};"
        # Snakemake has accepted the checkpoints, so that training need not keep its results any more.
        f" rm -rf {PREFIX}work/"
        "{wildcards.run}/finished-*"


rule select_base:
    output:
        "results/runs/{run}/selection.json",
    log:
        "logs/select/{run}.log",
    wildcard_constraints:
        run=any_of(name for name in SETTINGS.runs if name not in TRAINED_RUNS),
    conda:
        "../../envs/card.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=from_config(stage_settings.select),
        version=stage_version("select"),
    shell:
        "python -m speechmill.scoring.select --settings {params.settings:q} --selection {output} 2>&1 | tee {log}"


rule robustness:
    input:
        summary="results/runs/{run}/evaluation/summary.parquet",
        selection="results/runs/{run}/selection.json",
    output:
        report(
            "results/runs/{run}/model/plots/robustness.png",
            category="Runs",
            labels={"run": "{run}", "what": "error rates on perturbed copies"},
            caption="../report/robustness.rst",
        ),
    log:
        "logs/robustness/{run}.log",
    conda:
        "../../envs/card.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=from_config(stage_settings.robustness),
        version=stage_version("robustness"),
    shell:
        "python -m speechmill.report.robustness --settings {params.settings:q} --summary {input.summary}"
        " --selection {input.selection} --plot {output} 2>&1 | tee {log}"


# The code that the card shows, run on a clip, and the page on which the model can be tried.
rule usage:
    input:
        model=expand("results/runs/{{run}}/model/{file}", file=paths.MODEL_FILES),
        lm=if_run(paths.uses_lm, *[f"results/runs/{{run}}/model/lm/{file}" for file in paths.DECODING_FILES]),
        clips=ancient(each("results/runs/{run}/clips/{set_name}.parquet", paths.selection_set)),
        shards=ancient(from_config(paths.selection_shards)),
        rerun_on=each("results/runs/{run}/clips/{set_name}.sha256", paths.selection_set),
    output:
        usage="results/runs/{run}/usage.json",
        app="results/runs/{run}/model/app.py",
        requirements="results/runs/{run}/model/requirements.txt",
    log:
        "logs/usage/{run}.log",
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=from_config(hardware.decoding_mb),
        runtime=30,
    params:
        settings=from_config(stage_settings.usage),
        decoders=from_config(paths.usage_decoders),
        set_name=from_config(paths.selection_set_name),
        version=stage_version("usage"),
    shell:
        # A pipeline would take the first GPU that it sees, on which another job may be training.
        "CUDA_VISIBLE_DEVICES= python -m speechmill.report.usage --settings {params.settings:q}"
        " --decoders {params.decoders} --set {params.set_name} --model $(dirname {input.model[0]})"
        " --clips {input.clips} --shards {input.shards} --usage {output.usage} --app {output.app}"
        " --requirements {output.requirements} 2>&1 | tee {log}"


rule card:
    input:
        summary="results/runs/{run}/evaluation/summary.parquet",
        hypotheses=ancient(scores("hypotheses.parquet", paths.all_scores)),
        clips=ancient(each("results/runs/{run}/clips/{set_name}.parquet", paths.evaluated_sets)),
        selection="results/runs/{run}/selection.json",
        breakdown="results/runs/{run}/evaluation/breakdown.json",
        lm=if_run(paths.uses_lm, *[f"results/runs/{{run}}/lm/{file}.json" for file in ("text", "arpa", "weights")]),
        confidence=each("results/runs/{run}/confidence/{set_name}.parquet", paths.scored_sets),
        calibration=["results/runs/{run}/model/confidence.json", "results/runs/{run}/model/plots/reliability.png"],
        usage="results/runs/{run}/usage.json",
        label_errors=if_run(paths.scores_labels, "results/runs/{run}/label_errors/counts.json"),
        training="results/runs/{run}/training.json",
        training_log="results/runs/{run}/training.jsonl",
        plan="results/runs/{run}/plan.json",
        leakage="results/runs/{run}/clips/leakage.json",
        train_digest="results/runs/{run}/clips/train.sha256",
        counts=each("results/runs/{run}/clips/{role}.json", paths.roles),
        status=each("results/data/{dataset}/status.json", paths.datasets),
        base_source=each("results/models/{model}.json", paths.base),
        base_card=each("results/base_cards/{model}.json", paths.base_cards),
        seed_summaries=each("results/runs/{other}/evaluation/summary.parquet", paths.other_seeds),
        seed_selections=each("results/runs/{other}/selection.json", paths.other_seeds),
        compared_summaries=each("results/runs/{other}/evaluation/summary.parquet", paths.compared_runs),
        compared_selections=each("results/runs/{other}/selection.json", paths.compared_runs),
        compared_hypotheses=ancient(compared_hypotheses),
        exports=each("results/runs/{run}/export/{set_name}/metrics.json", paths.exported_sets),
        # The card shows this plot, and the manifest lists every file of the model's folder.
        robustness=if_run(paths.is_perturbed, "results/runs/{run}/model/plots/robustness.png"),
        after=ancient(
            all_of(
                *[f"results/runs/{{run}}/model/{file}" for file in (*paths.MODEL_FILES, *paths.APP_FILES)],
                if_run(paths.uses_lm, *[f"results/runs/{{run}}/model/lm/{file}" for file in paths.DECODING_FILES]),
                if_run(paths.exports, "results/runs/{run}/model/onnx"),
            )
        ),
    output:
        card="results/runs/{run}/model/README.md",
        evidence=directory("results/runs/{run}/model/evidence"),
        hub_results=directory("results/runs/{run}/model/.eval_results"),
        manifest="results/runs/{run}/model/manifest.json",
        page=report(
            "results/runs/{run}/card.html",
            category="Runs",
            labels={"run": "{run}", "what": "model card"},
            caption="../report/card.rst",
        ),
        loss=report(
            "results/runs/{run}/model/plots/loss.png",
            category="Runs",
            labels={"run": "{run}", "what": "loss over steps"},
            caption="../report/loss.rst",
        ),
        wer=report(
            "results/runs/{run}/model/plots/wer.png",
            category="Runs",
            labels={"run": "{run}", "what": "error rates over steps"},
            caption="../report/wer.rst",
        ),
        breakdown=report(
            "results/runs/{run}/model/plots/breakdown.png",
            category="Runs",
            labels={"run": "{run}", "what": "error rates by length, rate and speaker"},
            caption="../report/breakdown.rst",
        ),
    log:
        "logs/card/{run}.log",
    conda:
        "../../envs/card.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        settings=from_config(stage_settings.card),
        configuration=from_config(stage_settings.reproduction),
        version=stage_version("card"),
    shell:
        "python -m speechmill.report.card --settings {params.settings:q} --configuration {params.configuration:q}"
        " --model $(dirname {output.card}) --page {output.page} --summary {input.summary}"
        " --selection {input.selection} --breakdown {input.breakdown} --training {input.training}"
        " --training-log {input.training_log} --plan {input.plan} --leakage {input.leakage} --usage {input.usage}"
        " --train-digest {input.train_digest} --counts {input.counts} --status {input.status} --clips {input.clips}"
        " --hypotheses {input.hypotheses} --confidence {input.confidence} --lm {input.lm} --exports {input.exports}"
        " --base-source {input.base_source} --base-card {input.base_card}"
        " --label-errors {input.label_errors}"
        " --seed-summaries {input.seed_summaries} --seed-selections {input.seed_selections}"
        " --compared-summaries {input.compared_summaries} --compared-selections {input.compared_selections}"
        " --compared-hypotheses {input.compared_hypotheses} 2>&1 | tee {log}"


# It has no output, so that it runs every time that it is asked for.
rule verify:
    input:
        expand("results/runs/{run}/model/manifest.json", run=TRAINED_RUNS),
    log:
        "logs/verify.log",
    conda:
        "../../envs/train.yaml"
    resources:
        gpu=hardware.verify_gpus(SETTINGS),
        mem_mb=8000,
        runtime=480,
    params:
        folders=folders_of_inputs,
        data=f"{PREFIX}results/data",
    shell:
        "python -m speechmill.report.verify {params.folders} --data {params.data} --gpus {resources.gpu}"
        " 2>&1 | tee {log}"
