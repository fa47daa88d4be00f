# Needs: a model, the clips of an evaluation set and their shards; for the decoder `lm`, the language model.
# Makes: what the model hears in each frame, by one pass for all decoders, which is gone when all have decoded it; scores
# and hypotheses by each decoder; the tables of all scores.
#
# A step is a number; or `best`, on whose dev clips the language model's weights are tuned; or `selected`, for sets that
# no other checkpoint is scored on.


rule log_probs:
    input:
        checkpoints=lambda wildcards: paths.checkpoints_folder(wildcards.run, SETTINGS.runs[wildcards.run]),
        step=lambda wildcards: paths.step_source(wildcards.run, wildcards.step),
        base=lambda wildcards: ancient(paths.scored_base(SETTINGS.runs[wildcards.run])),
        base_source=lambda wildcards: paths.scored_source(SETTINGS.runs[wildcards.run]),
        clips=ancient("results/runs/{run}/clips/{set}.parquet"),
        digest="results/runs/{run}/clips/{set}.sha256",
        counts="results/runs/{run}/clips/{set}.json",
        shards=lambda wildcards: ancient(paths.set_shards(SETTINGS, wildcards.run, wildcards.set)),
        plan=lambda wildcards: ancient(paths.run_plan(wildcards.run, SETTINGS.runs[wildcards.run])),
    output:
        temp("results/runs/{run}/evaluation/{step}/{set}/ctc_outputs.parquet"),
    log:
        "logs/log_probs/{run}-{step}-{set}.log",
    conda:
        "../../envs/train.yaml"
    resources:
        gpu=lambda wildcards, input: hardware.log_probs_gpus(SETTINGS.runs[wildcards.run], input.counts),
        mem_mb=lambda wildcards, input: hardware.log_probs_mb(input.plan, input.base),
        runtime=240,
        # A resource, not a parameter: that another decoder needs more of the frames changes no score.
        kept=lambda wildcards: (
            "--keep-log-probs"
            if paths.needs_log_probs(SETTINGS.runs[wildcards.run], wildcards.step, wildcards.set)
            else ""
        ),
    params:
        settings=lambda wildcards: stage_settings.log_probs(SETTINGS, wildcards.run, wildcards.set),
        which=lambda wildcards, input: paths.step_options(wildcards.step, input.base, input.checkpoints, input.step),
        code=code_digest("log_probs"),
    shell:
        "python -m speechmill.inference.log_probs --run {wildcards.run} --settings {params.settings:q} --gpus {resources.gpu}"
        " --threads {threads} {params.which} --clips {input.clips} --shards {input.shards} --counts {input.counts}"
        " {resources.kept} --ctc-outputs {output} 2>&1 | tee {log}"


rule evaluate:
    input:
        frames="results/runs/{run}/evaluation/{step}/{set}/ctc_outputs.parquet",
        clips=ancient("results/runs/{run}/clips/{set}.parquet"),
        digest="results/runs/{run}/clips/{set}.sha256",
        counts="results/runs/{run}/clips/{set}.json",
        lm=lambda wildcards: paths.decoding_files(wildcards.run) if wildcards.decoder == "lm" else [],
        # Nothing of it is read: see the rule lm. Snakemake looks anew only at what needs the checkpoint itself.
        plan=lambda wildcards: ancient(paths.run_plan(wildcards.run, SETTINGS.runs[wildcards.run])),
        step=lambda wildcards: ancient(paths.step_source(wildcards.run, wildcards.step)),
    output:
        metrics="results/runs/{run}/evaluation/{step}/{set}/{decoder}/metrics.json",
        hypotheses="results/runs/{run}/evaluation/{step}/{set}/{decoder}/hypotheses.parquet",
    log:
        "logs/evaluate/{run}-{step}-{set}-{decoder}.log",
    conda:
        "../../envs/train.yaml"
    threads: lambda wildcards: 4 if wildcards.decoder == "lm" else 1
    resources:
        mem_mb=lambda wildcards, input: hardware.evaluate_mb(SETTINGS.runs[wildcards.run], input.lm),
        runtime=240,
    params:
        settings=lambda wildcards: stage_settings.evaluate(SETTINGS, wildcards.run),
        protocols=lambda wildcards: SETTINGS.runs[wildcards.run].evaluation.settings_of(wildcards.set).protocols,
        lm=lambda wildcards, input: (
            "--lm {0} --weights {0}/weights.json".format(Path(input.lm[0]).parent) if wildcards.decoder == "lm" else ""
        ),
        # Beam search counts where it decodes.
        code=lambda wildcards: code_digest("evaluate", without=[] if wildcards.decoder == "lm" else ["decoders"]),
    shell:
        "python -m speechmill.inference.evaluate --run {wildcards.run} --settings {params.settings:q} --threads {threads}"
        " --set {wildcards.set} --protocols {params.protocols} --ctc-outputs {input.frames} --clips {input.clips}"
        " --counts {input.counts} --decoder {wildcards.decoder} {params.lm} --metrics {output.metrics}"
        " --hypotheses {output.hypotheses} 2>&1 | tee {log}"


# What is scored at every checkpoint, from which one is selected.
rule steps:
    input:
        lambda wildcards: paths.step_metrics(SETTINGS, wildcards.run, scored_steps(wildcards.run)),
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
        code=code_digest("summary"),
    shell:
        "python -m speechmill.scoring.summary --metrics {input} --summary {output} 2>&1 | tee {log}"


# All scores, those included that the selected checkpoint alone has.
use rule steps as summary with:
    input:
        lambda wildcards: paths.all_metrics(SETTINGS, wildcards.run, scored_steps(wildcards.run)),
    output:
        "results/runs/{run}/evaluation/summary.parquet",
    log:
        "logs/summary/{run}.log",


rule breakdown:
    input:
        selection="results/runs/{run}/selection.json",
        hypotheses=lambda wildcards: paths.hypotheses(
            paths.all_metrics(SETTINGS, wildcards.run, scored_steps(wildcards.run))
        ),
        indexes=lambda wildcards: paths.scored_indexes(SETTINGS, wildcards.run),
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
        code=code_digest("breakdown"),
    shell:
        "python -m speechmill.report.breakdown --run {wildcards.run} --selection {input.selection}"
        " --hypotheses {input.hypotheses} --indexes {input.indexes} --breakdown {output} 2>&1 | tee {log}"


rule worst:
    input:
        selection="results/runs/{run}/selection.json",
        hypotheses=lambda wildcards: paths.set_hypotheses(
            SETTINGS, wildcards.run, scored_steps(wildcards.run), wildcards.set
        ),
        model=lambda wildcards: paths.selected_files(wildcards.run, SETTINGS.runs[wildcards.run]),
        clips=ancient("results/runs/{run}/clips/{set}.parquet"),
        digest="results/runs/{run}/clips/{set}.sha256",
        shards=lambda wildcards: ancient(paths.set_shards(SETTINGS, wildcards.run, wildcards.set)),
    output:
        report(
            "results/runs/{run}/worst/{set}.html",
            category="Runs",
            labels={"run": "{run}", "what": "worst clips of {set}"},
            caption="../report/worst.rst",
        ),
    log:
        "logs/worst/{run}-{set}.log",
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        settings=lambda wildcards: stage_settings.worst(SETTINGS, wildcards.run, wildcards.set),
        decoder=lambda wildcards: paths.worst_decoder(SETTINGS.runs[wildcards.run]),
        model=lambda wildcards, input: paths.folder_of(SETTINGS.runs[wildcards.run], input.model),
        code=code_digest("worst", "templates/worst.html.j2"),
    shell:
        "python -m speechmill.report.worst --run {wildcards.run} --settings {params.settings:q} --threads {threads}"
        " --set {wildcards.set} --decoder {params.decoder} --selection {input.selection}"
        " --hypotheses {input.hypotheses} --model {params.model} --clips {input.clips} --shards {input.shards}"
        " --page {output} 2>&1 | tee {log}"
