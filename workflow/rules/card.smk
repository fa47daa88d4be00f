# Needs: the tables of scores, the checkpoints, and what each stage has put down of its work.
# Makes: the model's folder: the best checkpoint, which plain transformers loads, its card and plots.
#
# A run that only evaluates has one model, and no folder and no card of its own.


rule select:
    input:
        steps="results/runs/{run}/evaluation/steps.parquet",
        checkpoints="results/runs/{run}/checkpoints",
    output:
        model=expand("results/runs/{{run}}/model/{file}", file=paths.MODEL_FILES),
        selection="results/runs/{run}/selection.json",
    log:
        "logs/select/{run}.log",
    wildcard_constraints:
        run=TRAINED,
    conda:
        "../../envs/card.yaml"
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        settings=lambda wildcards: slices.select(SETTINGS, wildcards.run),
        code=code_digest("select"),
    shell:
        "python -m speechmill.select --settings {params.settings:q} --summary {input.steps}"
        " --checkpoints {input.checkpoints} --model {output.model} --selection {output.selection} 2>&1 | tee {log}"


rule select_base:
    output:
        "results/runs/{run}/selection.json",
    log:
        "logs/select/{run}.log",
    wildcard_constraints:
        run=SCORED,
    conda:
        "../../envs/card.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=lambda wildcards: slices.select(SETTINGS, wildcards.run),
        code=code_digest("select"),
    shell:
        "python -m speechmill.select --settings {params.settings:q} --selection {output} 2>&1 | tee {log}"


rule robustness:
    input:
        summary="results/runs/{run}/evaluation/summary.parquet",
        selection="results/runs/{run}/selection.json",
    output:
        report(
            "results/runs/{run}/model/plots/robustness.png",
            category="Runs",
            labels={"run": "{run}", "what": "WER of changed copies"},
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
        settings=lambda wildcards: slices.robustness(SETTINGS, wildcards.run),
        code=code_digest("robustness"),
    shell:
        "python -m speechmill.robustness --settings {params.settings:q} --summary {input.summary}"
        " --selection {input.selection} --plot {output} 2>&1 | tee {log}"


rule card:
    input:
        summary="results/runs/{run}/evaluation/summary.parquet",
        selection="results/runs/{run}/selection.json",
        breakdown="results/runs/{run}/evaluation/breakdown.json",
        lm=lambda wildcards: paths.lm_records(SETTINGS, wildcards.run),
        robustness=lambda wildcards: paths.robustness_plot(SETTINGS, wildcards.run),
        training="results/runs/{run}/training.json",
        training_log="results/runs/{run}/training.jsonl",
        plan="results/runs/{run}/plan.json",
        leakage="results/runs/{run}/clips/leakage.json",
        counts=lambda wildcards: paths.run_counts(SETTINGS, wildcards.run),
        status=lambda wildcards: paths.run_status(SETTINGS, wildcards.run),
        vocab="results/runs/{run}/vocab/vocab.json",
        base_source=lambda wildcards: paths.base_source(SETTINGS.runs[wildcards.run]),
    output:
        card="results/runs/{run}/model/README.md",
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
            labels={"run": "{run}", "what": "WER over steps"},
            caption="../report/wer.rst",
        ),
        breakdown=report(
            "results/runs/{run}/model/plots/breakdown.png",
            category="Runs",
            labels={"run": "{run}", "what": "WER by length, rate and speaker"},
            caption="../report/breakdown.rst",
        ),
    log:
        "logs/card/{run}.log",
    conda:
        "../../envs/card.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=lambda wildcards: slices.card(SETTINGS, wildcards.run),
        code=code_digest("card", "templates/card.md.j2"),
    shell:
        "python -m speechmill.card --run {wildcards.run} --settings {params.settings:q} --summary {input.summary}"
        " --selection {input.selection} --training {input.training} --training-log {input.training_log}"
        " --plan {input.plan} --counts {input.counts} --status {input.status} --leakage {input.leakage}"
        " --vocab {input.vocab}"
        " --breakdown {input.breakdown} --lm {input.lm} --robustness {input.robustness}"
        " --base-source {input.base_source} --card {output.card} --page {output.page} --loss {output.loss}"
        " --wer {output.wer} --breakdown-plot {output.breakdown} 2>&1 | tee {log}"
