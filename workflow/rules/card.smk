# Needs: the tables of scores, the checkpoints, and what each stage has put down of its work.
# Makes: the model's folder: the best checkpoint, which plain transformers loads, its card and plots.
#
# A run that only evaluates has one model, and no folder and no card of its own.


# A checkpoint, after which snakemake looks anew: where the same one is selected again, what it was scored on holds.
checkpoint select:
    input:
        steps="results/runs/{run}/evaluation/steps.parquet",
        checkpoints="results/runs/{run}/checkpoints",
        # Nothing of it is read: see the rule lm.
        plan=ancient("results/runs/{run}/plan.json"),
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
        settings=lambda wildcards: stage_settings.select(SETTINGS, wildcards.run),
        code=code_digest("select"),
    shell:
        "python -m speechmill.scoring.select --settings {params.settings:q} --summary {input.steps}"
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
        settings=lambda wildcards: stage_settings.select(SETTINGS, wildcards.run),
        code=code_digest("select"),
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
        settings=lambda wildcards: stage_settings.robustness(SETTINGS, wildcards.run),
        code=code_digest("robustness"),
    shell:
        "python -m speechmill.report.robustness --settings {params.settings:q} --summary {input.summary}"
        " --selection {input.selection} --plot {output} 2>&1 | tee {log}"


# The code that a card shows, run on a clip as it stands.
rule usage:
    input:
        model=expand("results/runs/{{run}}/model/{file}", file=paths.MODEL_FILES),
        lm=lambda wildcards: paths.model_lm_files(SETTINGS, wildcards.run),
        clips=lambda wildcards: ancient(paths.selecting_clips(SETTINGS, wildcards.run, "parquet")),
        digest=lambda wildcards: paths.selecting_clips(SETTINGS, wildcards.run, "sha256"),
        shards=lambda wildcards: ancient(
            paths.set_shards(SETTINGS, wildcards.run, str(SETTINGS.runs[wildcards.run].select_set))
        ),
    output:
        "results/runs/{run}/usage.json",
    log:
        "logs/usage/{run}.log",
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=lambda wildcards, input: hardware.evaluate_mb(SETTINGS.runs[wildcards.run], input.lm),
        runtime=30,
    params:
        settings=lambda wildcards: stage_settings.usage(SETTINGS, wildcards.run),
        decoders=lambda wildcards: paths.usage_decoders(SETTINGS.runs[wildcards.run]),
        set=lambda wildcards: SETTINGS.runs[wildcards.run].select_set,
        code=code_digest("usage", "templates/usage_greedy.py.j2", "templates/usage_lm.py.j2"),
    shell:
        "python -m speechmill.report.usage --settings {params.settings:q} --decoders {params.decoders}"
        " --set {params.set} --model $(dirname {input.model[0]}) --clips {input.clips} --shards {input.shards} --usage {output}"
        " 2>&1 | tee {log}"


rule card:
    input:
        model=lambda wildcards: ancient(expand("results/runs/{{run}}/model/{file}", file=paths.MODEL_FILES)),
        model_lm=lambda wildcards: ancient(paths.model_lm_files(SETTINGS, wildcards.run)),
        summary="results/runs/{run}/evaluation/summary.parquet",
        hypotheses=lambda wildcards: ancient(
            paths.hypotheses(paths.all_metrics(SETTINGS, wildcards.run, scored_steps(wildcards.run)))
        ),
        clips=lambda wildcards: ancient(paths.evaluated_clips(SETTINGS, wildcards.run)),
        selection="results/runs/{run}/selection.json",
        breakdown="results/runs/{run}/evaluation/breakdown.json",
        lm=lambda wildcards: paths.lm_records(SETTINGS, wildcards.run),
        robustness=lambda wildcards: paths.robustness_plot(SETTINGS, wildcards.run),
        usage="results/runs/{run}/usage.json",
        training="results/runs/{run}/training.json",
        training_log="results/runs/{run}/training.jsonl",
        plan="results/runs/{run}/plan.json",
        leakage="results/runs/{run}/clips/leakage.json",
        train_digest="results/runs/{run}/clips/train.sha256",
        counts=lambda wildcards: paths.run_counts(SETTINGS, wildcards.run),
        status=lambda wildcards: paths.run_status(SETTINGS, wildcards.run),
        base_source=lambda wildcards: paths.base_source(SETTINGS.runs[wildcards.run]),
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
        mem_mb=2000,
        runtime=30,
    params:
        settings=lambda wildcards: stage_settings.card(
            SETTINGS,
            wildcards.run,
            {stage: code_digest(stage) for stage in ("finetune", "log_probs", "evaluate")}
            | {"card": code_digest("card", "templates/card.md.j2")},
        ),
        configuration=lambda wildcards: stage_settings.reproduction(SETTINGS, wildcards.run),
        code=code_digest("card", "templates/card.md.j2"),
    shell:
        "python -m speechmill.report.card --settings {params.settings:q} --configuration {params.configuration:q}"
        " --model $(dirname {output.card}) --page {output.page} --summary {input.summary}"
        " --selection {input.selection} --breakdown {input.breakdown} --training {input.training}"
        " --training-log {input.training_log} --plan {input.plan} --leakage {input.leakage} --usage {input.usage}"
        " --train-digest {input.train_digest} --counts {input.counts} --status {input.status} --clips {input.clips}"
        " --hypotheses {input.hypotheses} --lm {input.lm} --base-source {input.base_source} 2>&1 | tee {log}"


# Asked for, it looks every time: that a folder was whole yesterday says nothing of today.
rule verify:
    input:
        [f"results/runs/{run}/model/manifest.json" for run, section in SETTINGS.runs.items() if section.trains],
    log:
        "logs/verify.log",
    conda:
        "../../envs/train.yaml"
    resources:
        gpu=hardware.verify_gpus(SETTINGS),
        mem_mb=8000,
        runtime=480,
    params:
        folders=[f"results/runs/{run}/model" for run, section in SETTINGS.runs.items() if section.trains],
    shell:
        "python -m speechmill.report.verify {params.folders} --data results/data --gpus {resources.gpu} 2>&1 | tee {log}"
