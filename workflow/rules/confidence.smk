# Needs: the selected checkpoint of a run, its hypotheses for dev and the evaluation sets, and its CTC outputs for them,
# of one more forward pass where all checkpoints are scored on a set.
# Makes: the confidence of each word, and whether it is right; calibrators, which are fitted on dev; a plot of accuracy by
# confidence.


rule confidence:
    input:
        ctc_outputs="results/runs/{run}/evaluation/selected/{set_name}/ctc_outputs.parquet",
        hypotheses=confidence_hypotheses,
        selection="results/runs/{run}/selection.json",
        # Where it changes, so do its digests in the selection.
        model=ancient(expand("results/runs/{{run}}/model/{file}", file=paths.MODEL_FILES)),
    output:
        "results/runs/{run}/confidence/{set_name}.parquet",
    log:
        "logs/confidence/{run}-{set_name}.log",
    # Before further forward passes, whose outputs would accumulate on the disk.
    priority: 1
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=8000,
        runtime=240,
    params:
        settings=from_config(stage_settings.confidence),
        version=stage_version("confidence"),
    shell:
        "python -m speechmill.inference.confidence --settings {params.settings:q} --selection {input.selection}"
        " --model $(dirname {input.model[0]}) --ctc-outputs {input.ctc_outputs} --hypotheses {input.hypotheses}"
        " --confidence {output} 2>&1 | tee {log}"


rule calibration:
    input:
        each("results/runs/{run}/confidence/{set_name}.parquet", paths.scored_sets),
    output:
        calibration="results/runs/{run}/model/confidence.json",
        plot=report(
            "results/runs/{run}/model/plots/reliability.png",
            category="Runs",
            labels={"run": "{run}", "what": "accuracy of words by confidence"},
            caption="../report/reliability.rst",
        ),
    log:
        "logs/calibration/{run}.log",
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        settings=from_config(stage_settings.calibration),
        version=stage_version("calibration"),
    shell:
        "python -m speechmill.report.calibration --settings {params.settings:q} --confidence {input}"
        " --calibration {output.calibration} --plot {output.plot} 2>&1 | tee {log}"
