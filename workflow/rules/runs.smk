# Needs: of every run its scores, selected step and the hypotheses at that step; of those that train, the record of
# training; of the others, the model; what the cards of base models say.
# Makes: a page with all runs of the configuration side by side.


rule runs_table:
    input:
        summaries=expand("results/runs/{run}/evaluation/summary.parquet", run=list(SETTINGS.runs)),
        selections=expand("results/runs/{run}/selection.json", run=list(SETTINGS.runs)),
        hypotheses=ancient(selected_hypotheses),
        trainings=expand("results/runs/{run}/training.json", run=TRAINED_RUNS),
        counts=expand("results/runs/{run}/clips/train.json", run=TRAINED_RUNS),
        models=ancient([f"results/models/{name}" for name in paths.scored_bases(SETTINGS)]),
        rerun_on=[f"results/models/{name}.json" for name in paths.scored_bases(SETTINGS)],
        base_cards=[f"results/base_cards/{name}.json" for name in paths.all_base_cards(SETTINGS)],
    output:
        report(
            "results/runs.html",
            category="All runs",
            labels={"what": "side by side"},
            caption="../report/runs.rst",
        ),
    log:
        "logs/runs_table.log",
    conda:
        "../../envs/card.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=from_config(stage_settings.runs_table),
        version=stage_version("runs_table"),
    shell:
        "python -m speechmill.report.runs_table --settings {params.settings:q} --summaries {input.summaries}"
        " --selections {input.selections} --hypotheses {input.hypotheses} --trainings {input.trainings} --counts {input.counts}"
        " --models {input.models} --base-cards {input.base_cards} --page {output} 2>&1 | tee {log}"
