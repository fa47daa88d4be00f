# Needs: the selected model of a run with `export`, its greedy hypotheses on every set, and the clips of these sets.
# Makes: the model in ONNX, in the folder of the model, with a program that needs no torch; for every set the scores and
# hypotheses of each export, compared with those of the checkpoint.


rule export:
    input:
        model=ancient(from_config(paths.selected_model)),
        selection="results/runs/{run}/selection.json",
    output:
        directory("results/runs/{run}/model/onnx"),
    log:
        "logs/export/{run}.log",
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=from_config(hardware.export_mb),
        runtime=60,
    params:
        settings=from_config(stage_settings.export),
        model=folder_of("model"),
        version=stage_version("export"),
    shell:
        "python -m speechmill.inference.export --settings {params.settings:q} --model {params.model}"
        " --selection {input.selection} --folder {output} 2>&1 | tee {log}"


rule score_export:
    input:
        export="results/runs/{run}/model/onnx",
        model=ancient(from_config(paths.selected_model)),
        selection="results/runs/{run}/selection.json",
        original=selected_greedy_hypotheses,
        clips=ancient("results/runs/{run}/clips/{set_name}.parquet"),
        counts="results/runs/{run}/clips/{set_name}.json",
        shards=ancient(from_config(paths.set_shards)),
        rerun_on="results/runs/{run}/clips/{set_name}.sha256",
    output:
        metrics="results/runs/{run}/export/{set_name}/metrics.json",
        hypotheses="results/runs/{run}/export/{set_name}/hypotheses.parquet",
    log:
        "logs/score_export/{run}-{set_name}.log",
    conda:
        "../../envs/train.yaml"
    threads: 4
    resources:
        mem_mb=from_config(hardware.export_mb),
        runtime=1440,
    params:
        settings=from_config(stage_settings.score_export),
        protocols=from_config(stage_settings.protocols),
        model=folder_of("model"),
        version=stage_version("score_export"),
    shell:
        "python -m speechmill.inference.score_export --run {wildcards.run} --set {wildcards.set_name}"
        " --settings {params.settings:q} --protocols {params.protocols} --threads {threads} --export {input.export}"
        " --model {params.model} --selection {input.selection} --original {input.original} --clips {input.clips}"
        " --shards {input.shards} --counts {input.counts} --metrics {output.metrics} --hypotheses {output.hypotheses}"
        " 2>&1 | tee {log}"
