# Needs: a model, the clips of an evaluation set and their shards; for the decoder `lm`, the language model.
# Makes: the CTC outputs of one forward pass for all decoders, which are temporary, for dev of two passes, before and
# after the language model is tuned (see `ctc_outputs` in dag/paths.py); scores and hypotheses by each decoder; the
# tables of all scores; the pages of the clips with the most errors.
#
# A step is a number; or `tuning`, the checkpoint on whose dev clips the language model's weights are tuned; or `average`,
# the mean of the weights of several checkpoints; or `selected`, for sets that no other checkpoint is scored on, and for
# the confidence of words.


rule log_probs:
    input:
        checkpoints=if_run(paths.trains, "results/runs/{run}/checkpoints"),
        average=from_config(paths.step_average),
        step_record=from_config(paths.step_record),
        base=ancient(each("results/models/{model}", paths.scored_base)),
        clips=ancient("results/runs/{run}/clips/{set_name}.parquet"),
        counts="results/runs/{run}/clips/{set_name}.json",
        shards=ancient(from_config(paths.set_shards)),
        plan=ancient(if_run(paths.trains, "results/runs/{run}/plan.json")),
        rerun_on=all_of(
            "results/runs/{run}/clips/{set_name}.sha256",
            each("results/models/{model}.json", paths.scored_base),
        ),
        after=ancient(from_config(paths.weights_before_log_probs)),
    output:
        temp("results/runs/{run}/evaluation/{step}/{set_name}/{outputs}.parquet"),
    log:
        "logs/log_probs/{run}-{step}-{set_name}-{outputs}.log",
    conda:
        "../../envs/train.yaml"
    threads: from_config(hardware.log_probs_threads)
    resources:
        gpu=from_config(hardware.log_probs_gpus),
        mem_mb=from_config(hardware.log_probs_mb),
        runtime=240,
        # A resource, not a parameter: that another decoder reads more of the outputs changes no score.
        settings=from_config(stage_settings.log_probs_runtime),
    params:
        settings=from_config(stage_settings.log_probs),
        version=stage_version("log_probs"),
    shell:
        "python -m speechmill.inference.log_probs --run {wildcards.run} --settings {params.settings:q}"
        " --runtime-settings {resources.settings:q} --gpus {resources.gpu} --threads 1"
        " --checkpoints {input.checkpoints} --step {wildcards.step} --step-record {input.step_record}"
        " --average {input.average} --base {input.base} --clips {input.clips} --shards {input.shards} --counts {input.counts}"
        " --ctc-outputs {output} 2>&1 | tee {log}"


rule evaluate:
    input:
        ctc_outputs=from_config(paths.ctc_outputs),
        clips=ancient("results/runs/{run}/clips/{set_name}.parquet"),
        counts="results/runs/{run}/clips/{set_name}.json",
        lm=from_config(paths.decoding_files),
        rerun_on="results/runs/{run}/clips/{set_name}.sha256",
        after=ancient(all_of(if_run(paths.trains, "results/runs/{run}/plan.json"), from_config(paths.step_record))),
    output:
        metrics="results/runs/{run}/evaluation/{step}/{set_name}/{decoder}/metrics.json",
        hypotheses="results/runs/{run}/evaluation/{step}/{set_name}/{decoder}/hypotheses.parquet",
    log:
        "logs/evaluate/{run}-{step}-{set_name}-{decoder}.log",
    # Before further forward passes, whose outputs would accumulate on the disk.
    priority: 1
    conda:
        "../../envs/train.yaml"
    threads: from_config(hardware.decoding_threads)
    resources:
        mem_mb=from_config(hardware.decoding_mb),
        runtime=240,
    params:
        settings=from_config(stage_settings.evaluate),
        protocols=from_config(stage_settings.protocols),
        version=from_config(stage_settings.decoder_version),
    shell:
        "python -m speechmill.inference.evaluate --run {wildcards.run} --settings {params.settings:q}"
        " --threads {threads} --set {wildcards.set_name} --protocols {params.protocols}"
        " --ctc-outputs {input.ctc_outputs} --clips {input.clips} --counts {input.counts}"
        " --decoder {wildcards.decoder} --lm {input.lm} --metrics {output.metrics} --hypotheses {output.hypotheses}"
        " 2>&1 | tee {log}"


# The scores of every checkpoint, from which one is selected.
rule steps:
    input:
        scores("metrics.json", paths.step_scores),
    output:
        "results/runs/{run}/evaluation/steps.parquet",
    log:
        "logs/summary/{run}-steps.log",
    conda:
        "../../envs/card.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        version=stage_version("summary"),
    shell:
        "python -m speechmill.scoring.summary --metrics {input} --summary {output} 2>&1 | tee {log}"


# All scores, with those that only the selected checkpoint has.
use rule steps as summary with:
    input:
        scores("metrics.json", paths.all_scores),
    output:
        "results/runs/{run}/evaluation/summary.parquet",
    log:
        "logs/summary/{run}.log",


rule breakdown:
    input:
        selection="results/runs/{run}/selection.json",
        hypotheses=scores("hypotheses.parquet", paths.all_scores),
        indexes=each("results/data/{dataset}/{split}/index.parquet", paths.evaluation_splits),
        summary="results/runs/{run}/evaluation/summary.parquet",
        compared_summaries=each("results/runs/{other}/evaluation/summary.parquet", paths.compared_runs),
        compared_selections=each("results/runs/{other}/selection.json", paths.compared_runs),
        compared_hypotheses=compared_hypotheses,
    output:
        "results/runs/{run}/evaluation/breakdown.json",
    log:
        "logs/breakdown/{run}.log",
    conda:
        "../../envs/card.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        settings=from_config(stage_settings.breakdown),
        version=stage_version("breakdown"),
    shell:
        "python -m speechmill.report.breakdown --run {wildcards.run} --settings {params.settings:q}"
        " --selection {input.selection} --hypotheses {input.hypotheses}"
        " --indexes {input.indexes} --summary {input.summary} --compared-summaries {input.compared_summaries}"
        " --compared-selections {input.compared_selections} --compared-hypotheses {input.compared_hypotheses}"
        " --breakdown {output} 2>&1 | tee {log}"


rule worst:
    input:
        selection="results/runs/{run}/selection.json",
        hypotheses=set_hypotheses,
        model=from_config(paths.selected_model),
        clips=ancient("results/runs/{run}/clips/{set_name}.parquet"),
        shards=ancient(from_config(paths.set_shards)),
        rerun_on="results/runs/{run}/clips/{set_name}.sha256",
    output:
        report(
            "results/runs/{run}/worst/{set_name}.html",
            category="Runs",
            labels={"run": "{run}", "what": "worst clips of {set_name}"},
            caption="../report/worst.rst",
        ),
    log:
        "logs/worst/{run}-{set_name}.log",
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        settings=from_config(stage_settings.worst),
        decoder=from_config(paths.worst_decoder),
        model=folder_of("model"),
        version=stage_version("worst"),
    shell:
        "python -m speechmill.report.worst --run {wildcards.run} --settings {params.settings:q} --threads {threads}"
        " --set {wildcards.set_name} --decoder {params.decoder} --selection {input.selection}"
        " --hypotheses {input.hypotheses} --model {params.model} --clips {input.clips} --shards {input.shards}"
        " --page {output} 2>&1 | tee {log}"
