# Needs: the indexes and rejected clips of a dataset, and the pieces of recordings that it may be made of.
# Makes: the audit of its contents, as JSON and as a page.


rule audit:
    input:
        indexes=each("results/data/{dataset}/{split}/index.parquet", paths.dataset_shards),
        pieces=each("results/pieces/{dataset}/{split}/shard-{number}.parquet", paths.piece_shards),
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
    # Faults of a corpus should be known before GPU time is spent on it.
    priority: 10
    conda:
        "../../envs/card.yaml"
    resources:
        # The complete index, as a pandas table in memory.
        mem_mb=lambda wildcards, input, attempt: attempt * hardware.tables_mb(input.indexes, 4000),
        runtime=60,
    params:
        settings=from_config(stage_settings.audit),
        version=stage_version("audit"),
    shell:
        "python -m speechmill.corpus.audit --settings {params.settings:q} --indexes {input.indexes}"
        " --pieces {input.pieces} --rejected {input.rejected} --status {input.status} --audit {output.audit}"
        " --page {output.page} --plot {output.plot} 2>&1 | tee {log}"
