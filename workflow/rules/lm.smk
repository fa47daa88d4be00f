# Needs: the training clips, or text that the user names; the clips of dev and of every scored set, whose sentences are
# left out; the vocabulary of the model; the greedy scores of all checkpoints on dev.
# Makes: the n-gram language model of a run, and its weights in beam search, tuned on dev at the checkpoint that is best
# greedily there.


rule lm_text:
    input:
        clips=lambda wildcards: ancient(paths.lm_clips(SETTINGS, wildcards.run, "parquet")),
        digest=lambda wildcards: paths.lm_clips(SETTINGS, wildcards.run, "sha256"),
        files=lambda wildcards: SETTINGS.runs[wildcards.run].evaluation.language_model.files,
        held_out=lambda wildcards: ancient(paths.scored_clips(SETTINGS, wildcards.run)),
        held_out_digests=lambda wildcards: paths.scored_clips(SETTINGS, wildcards.run, "sha256"),
    output:
        text="results/runs/{run}/lm/text.txt",
        digest="results/runs/{run}/lm/text.sha256",
        counts="results/runs/{run}/lm/text.json",
    log:
        "logs/lm_text/{run}.log",
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        settings=lambda wildcards: stage_settings.lm_text(SETTINGS, wildcards.run),
        source=lambda wildcards, input: "--files" if input.files else "--clips",
        code=code_digest("lm_text"),
    shell:
        "python -m speechmill.lm.lm_text --settings {params.settings:q} {params.source} {input.clips} {input.files:q}"
        " --held-out {input.held_out} --text {output.text} --digest {output.digest} --counts {output.counts} 2>&1 | tee {log}"


rule lm:
    input:
        text=ancient("results/runs/{run}/lm/text.txt"),
        digest="results/runs/{run}/lm/text.sha256",
        # Nothing of it is read. It is a checkpoint, after which snakemake looks anew at the digest: where another set to be
        # scored takes no sentence out of the text, all that was decoded holds.
        plan=lambda wildcards: ancient(paths.run_plan(wildcards.run, SETTINGS.runs[wildcards.run])),
        vocab=lambda wildcards: paths.processor_files(wildcards.run, SETTINGS.runs[wildcards.run]),
        base_source=lambda wildcards: paths.scored_source(SETTINGS.runs[wildcards.run]),
    output:
        files=expand("results/runs/{{run}}/lm/{file}", file=paths.LM_FILES),
    log:
        "logs/lm/{run}.log",
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        settings=lambda wildcards: stage_settings.lm(SETTINGS, wildcards.run),
        processor=lambda wildcards, input: paths.folder_of(SETTINGS.runs[wildcards.run], input.vocab),
        code=code_digest("lm"),
    shell:
        "python -m speechmill.lm.lm --settings {params.settings:q} --text {input.text}"
        " --vocab {params.processor}/vocab.json --tokenizer {params.processor}/tokenizer_config.json"
        " --memory-mb $(({resources.mem_mb} / 2)) --folder $(dirname {output.files[0]}) 2>&1 | tee {log}"


rule select_tuning_checkpoint:
    input:
        lambda wildcards: paths.dev_metrics(SETTINGS, wildcards.run, scored_steps(wildcards.run)),
    output:
        "results/runs/{run}/lm/best.json",
    log:
        "logs/select_tuning_checkpoint/{run}.log",
    conda:
        "../../envs/card.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code_digest("select_tuning_checkpoint"),
    shell:
        "python -m speechmill.lm.select_tuning_checkpoint --metrics {input} --best {output} 2>&1 | tee {log}"


rule lm_weights:
    input:
        best="results/runs/{run}/lm/best.json",
        frames=lambda wildcards: paths.dev_ctc_outputs(SETTINGS, wildcards.run),
        clips=lambda wildcards: ancient(paths.dev_clips(SETTINGS, wildcards.run, "parquet")),
        digest=lambda wildcards: paths.dev_clips(SETTINGS, wildcards.run, "sha256"),
        # As with the rule lm.
        plan=lambda wildcards: ancient(paths.run_plan(wildcards.run, SETTINGS.runs[wildcards.run])),
        lm=expand("results/runs/{{run}}/lm/{file}", file=paths.LM_FILES),
    output:
        weights="results/runs/{run}/lm/weights.json",
        surface=report(
            "results/runs/{run}/lm/surface.png",
            category="Runs",
            labels={"run": "{run}", "what": "weights of the language model"},
            caption="../report/lm_weights.rst",
        ),
    log:
        "logs/lm_weights/{run}.log",
    conda:
        "../../envs/train.yaml"
    threads: 4
    resources:
        mem_mb=lambda wildcards, input: hardware.evaluate_mb(SETTINGS.runs[wildcards.run], input.lm),
        runtime=240,
    params:
        settings=lambda wildcards: stage_settings.lm_weights(SETTINGS, wildcards.run),
        code=code_digest("lm_weights"),
    shell:
        "python -m speechmill.lm.lm_weights --settings {params.settings:q} --best {input.best} --clips {input.clips}"
        " --ctc-outputs {input.frames} --lm $(dirname {input.best}) --threads {threads} --weights {output.weights}"
        " --surface {output.surface} 2>&1 | tee {log}"


# Into the model's folder, with what one needs to decode with it.
rule model_lm:
    input:
        files=expand("results/runs/{{run}}/lm/{file}", file=paths.DECODING_FILES),
        # As with the rule lm.
        plan=ancient("results/runs/{run}/plan.json"),
    output:
        files=expand("results/runs/{{run}}/model/lm/{file}", file=paths.DECODING_FILES),
    log:
        "logs/model_lm/{run}.log",
    conda:
        "../../envs/card.yaml"
    resources:
        mem_mb=500,
        runtime=10,
    shell:
        "cp --verbose {input.files} $(dirname {output.files[0]}) 2>&1 | tee {log}"
