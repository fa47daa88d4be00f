# Needs: the checkpoints of a run and their scores on the selection set.
# Makes: for a run with `select.average`, the mean of the weights of the best of them, a checkpoint like the others, and
# a record of its steps.


rule average:
    input:
        steps="results/runs/{run}/evaluation/steps.parquet",
        checkpoints="results/runs/{run}/checkpoints",
        plan=ancient("results/runs/{run}/plan.json"),
    output:
        average=directory("results/runs/{run}/average"),
        record="results/runs/{run}/average.json",
    log:
        "logs/average/{run}.log",
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=from_config(hardware.average_mb),
        runtime=60,
    params:
        settings=from_config(stage_settings.select),
        version=stage_version("average"),
    shell:
        "python -m speechmill.scoring.average --settings {params.settings:q} --summary {input.steps}"
        " --checkpoints {input.checkpoints} --average {output.average} --record {output.record} 2>&1 | tee {log}"
