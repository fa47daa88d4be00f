# Needs: the table of scores, the checkpoints, and what each stage has put down of its work.
# Makes: the model's folder: the best checkpoint, which plain transformers loads, its card and plots.


rule select:
    input:
        summary="results/runs/{run}/evaluation/summary.parquet",
        checkpoints="results/runs/{run}/checkpoints",
    output:
        model=expand("results/runs/{{run}}/model/{file}", file=paths.MODEL_FILES),
        selection="results/runs/{run}/selection.json",
    log:
        "logs/select/{run}.log",
    conda:
        "../../envs/card.yaml"
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        settings=lambda wildcards: slices.select(SETTINGS, wildcards.run),
        code=code_digest("select"),
    shell:
        "python -m speechmill.select --settings {params.settings:q} --summary {input.summary}"
        " --checkpoints {input.checkpoints} --model {output.model} --selection {output.selection} 2>&1 | tee {log}"


rule card:
    input:
        summary="results/runs/{run}/evaluation/summary.parquet",
        selection="results/runs/{run}/selection.json",
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
        " --base-source {input.base_source} --card {output.card} --page {output.page} --loss {output.loss} --wer {output.wer}"
        " 2>&1 | tee {log}"
