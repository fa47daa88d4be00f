# Needs: of each run its scores and its selected step; of those that train, what training was; of the others, the model.
# Makes: a page with all runs of the configuration side by side.


rule runs_table:
    input:
        summaries=expand("results/runs/{run}/evaluation/summary.parquet", run=list(SETTINGS.runs)),
        selections=expand("results/runs/{run}/selection.json", run=list(SETTINGS.runs)),
        trainings=expand(
            "results/runs/{run}/training.json", run=[name for name, run in SETTINGS.runs.items() if run.trains]
        ),
        counts=expand(
            "results/runs/{run}/clips/train.json", run=[name for name, run in SETTINGS.runs.items() if run.trains]
        ),
        models=ancient([folder for run in SETTINGS.runs.values() for folder in paths.scored_base(run)]),
        model_sources=[file for run in SETTINGS.runs.values() for file in paths.scored_source(run)],
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
        settings=stage_settings.runs_table(SETTINGS),
        code=code_digest("runs_table", "templates/runs.html.j2"),
    shell:
        "python -m speechmill.report.runs_table --settings {params.settings:q} --summaries {input.summaries}"
        " --selections {input.selections} --trainings {input.trainings} --counts {input.counts}"
        " --models {input.models} --page {output} 2>&1 | tee {log}"
