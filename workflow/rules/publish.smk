# Needs: the manifest of each run that has a section `publish`; for `publish`, the network and a token of the Hub.
# Makes: nothing here, so that it acts whenever it is asked to, and no other target ever requests it.

UPLOADS = {name: run.publish for name, run in SETTINGS.runs.items() if run.publish}


rule publish:
    input:
        expand("results/runs/{run}/model/manifest.json", run=UPLOADS),
    log:
        "logs/publish.log",
    localrule: True
    conda:
        "../../envs/card.yaml"
    resources:
        mem_mb=2000,
        runtime=600,
    params:
        folders=folders_of_inputs,
        settings=[section.model_dump_json() for section in UPLOADS.values()],
        options="",
    shell:
        "HF_HUB_OFFLINE=0 python -m speechmill.report.publish {params.options} {params.folders}"
        " --settings {params.settings:q} 2>&1 | tee {log}"


use rule publish as publish_dry_run with:
    log:
        "logs/publish_dry_run.log",
    params:
        options="--dry-run",
