# Needs: the indexes of a dataset and what was rejected. Makes: the audit, which says what is in it, as JSON and as a page.


rule audit:
    input:
        indexes=lambda wildcards: paths.dataset_indexes(SETTINGS, wildcards.dataset),
        rejected="results/data/{dataset}/rejected.parquet",
        status="results/data/{dataset}/status.json",
    output:
        audit="results/data/{dataset}/audit.json",
        plot="results/data/{dataset}/audit.png",
        page=report(
            "results/data/{dataset}/audit.html",
            category="Data",
            labels={"dataset": "{dataset}", "what": "audit"},
            caption="../report/audit.rst",
        ),
    log:
        "logs/audit/{dataset}.log",
    # What is in a corpus is to be known before a GPU hour is spent on it.
    priority: 10
    conda:
        "../../envs/card.yaml"
    resources:
        # The whole index, in memory as a table of pandas.
        mem_mb=lambda wildcards, input, attempt: attempt * hardware.tables_mb(input, 4000),
        runtime=60,
    params:
        settings=lambda wildcards: stage_settings.audit(SETTINGS, wildcards.dataset),
        code=code_digest("audit", "templates/audit.html.j2"),
    shell:
        "python -m speechmill.corpus.audit --settings {params.settings:q} --indexes {input.indexes} --rejected {input.rejected}"
        " --status {input.status} --audit {output.audit} --page {output.page} --plot {output.plot} 2>&1 | tee {log}"
