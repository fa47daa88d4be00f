# Needs: the training clips, text files of the configuration, or sentences of fetched texts; the clips of dev and of
# every scored set, whose sentences are removed; the vocabulary of the model; the greedy scores of all checkpoints on
# dev.
# Makes: the n-gram language model of a run, and its weights in beam search, tuned on dev at the checkpoint with the
# best greedy score there.


rule lm_text:
    input:
        clips=ancient(if_run(paths.trains_lm_on_clips, "results/runs/{run}/clips/train.parquet")),
        files=user_files(paths.lm_text_files),
        texts=each("results/texts/{text}/sentences.txt.zst", paths.lm_texts),
        tokenizer=from_config(paths.lm_text_tokenizer),
        held_out=ancient(each("results/runs/{run}/clips/{set_name}.parquet", paths.scored_sets)),
        rerun_on=all_of(
            each("results/texts/{text}/source.json", paths.lm_texts),
            if_run(paths.trains_lm_on_clips, "results/runs/{run}/clips/train.sha256"),
            each("results/runs/{run}/clips/{set_name}.sha256", paths.scored_sets),
        ),
    output:
        text="results/runs/{run}/lm/text.txt",
        digest="results/runs/{run}/lm/text.sha256",
        counts="results/runs/{run}/lm/text.json",
    log:
        "logs/lm_text/{run}.log",
    wildcard_constraints:
        run=any_of(name for name in SETTINGS.runs if name not in LM_OWNERS),
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=lambda wildcards, input: hardware.lm_text_mb(input.texts),
        runtime=600,
    params:
        settings=from_config(stage_settings.lm_text),
        version=stage_version("lm_text"),
    shell:
        "python -m speechmill.lm.lm_text --settings {params.settings:q} --clips {input.clips} --files {input.files:q}"
        " --texts {input.texts} --tokenizer {input.tokenizer}"
        " --held-out {input.held_out} --text {output.text} --digest {output.digest} --counts {output.counts}"
        " 2>&1 | tee {log}"


rule lm:
    input:
        text=ancient("results/runs/{run}/lm/text.txt"),
        tokenizer=from_config(paths.tokenizer_files),
        text_digest="results/runs/{run}/lm/text.sha256",
        rerun_on=each("results/models/{model}.json", paths.scored_base),
        # Where a new set to be scored removes no sentence from the text, the language model stays.
        after=ancient(if_run(paths.trains, "results/runs/{run}/plan.json")),
    output:
        files=expand("results/runs/{{run}}/lm/{file}", file=paths.LM_FILES),
    log:
        "logs/lm/{run}.log",
    wildcard_constraints:
        run=any_of(name for name in SETTINGS.runs if name not in LM_OWNERS),
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=lambda wildcards, input: hardware.lm_mb(input.text),
        runtime=600,
    params:
        settings=from_config(stage_settings.lm),
        tokenizer=folder_of("tokenizer"),
        version=stage_version("lm"),
    shell:
        "python -m speechmill.lm.lm --settings {params.settings:q} --text {input.text}"
        " --text-digest {input.text_digest}"
        " --vocab {params.tokenizer}/vocab.json --tokenizer {params.tokenizer}/tokenizer_config.json"
        " --memory-mb $(({resources.mem_mb} / 2)) --folder $(dirname {output.files[0]}) 2>&1 | tee {log}"


# In a sweep, runs with the same texts and vocabulary have the same language model, which is estimated once.
rule shared_lm_text:
    input:
        each("results/runs/{owner}/lm/text.sha256", lm_owner),
        each("results/runs/{owner}/lm/text.json", lm_owner),
    output:
        digest="results/runs/{run}/lm/text.sha256",
        counts="results/runs/{run}/lm/text.json",
    log:
        "logs/shared_lm_text/{run}.log",
    wildcard_constraints:
        run=any_of(LM_OWNERS),
    conda:
        "../../envs/card.yaml"
    resources:
        mem_mb=500,
        runtime=10,
    shell:
        "cp --verbose {input} $(dirname {output.digest}) 2>&1 | tee {log}"


rule shared_lm:
    input:
        files=each([f"results/runs/{{owner}}/lm/{file}" for file in paths.LM_FILES], lm_owner),
        after=ancient("results/runs/{run}/plan.json"),
    output:
        files=expand("results/runs/{{run}}/lm/{file}", file=paths.LM_FILES),
    log:
        "logs/shared_lm/{run}.log",
    wildcard_constraints:
        run=any_of(LM_OWNERS),
    conda:
        "../../envs/card.yaml"
    resources:
        mem_mb=500,
        runtime=10,
    shell:
        "cp --verbose {input.files} $(dirname {output.files[0]}) 2>&1 | tee {log}"


rule select_tuning_checkpoint:
    input:
        scores("metrics.json", paths.dev_scores),
    output:
        "results/runs/{run}/lm/tuning_checkpoint.json",
    log:
        "logs/select_tuning_checkpoint/{run}.log",
    conda:
        "../../envs/card.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=from_config(stage_settings.select_tuning_checkpoint),
        version=stage_version("select_tuning_checkpoint"),
    shell:
        "python -m speechmill.lm.select_tuning_checkpoint --settings {params.settings:q} --metrics {input}"
        " --tuning-checkpoint {output} 2>&1 | tee {log}"


rule lm_weights:
    input:
        tuning_checkpoint="results/runs/{run}/lm/tuning_checkpoint.json",
        ctc_outputs=from_config(paths.tuning_ctc_outputs),
        clips=ancient(each("results/runs/{run}/clips/{set_name}.parquet", paths.dev_set)),
        lm=expand("results/runs/{{run}}/lm/{file}", file=paths.LM_FILES),
        rerun_on=each("results/runs/{run}/clips/{set_name}.sha256", paths.dev_set),
        after=ancient(if_run(paths.trains, "results/runs/{run}/plan.json")),
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
        mem_mb=from_config(hardware.decoding_mb),
        runtime=240,
    params:
        settings=from_config(stage_settings.lm_weights),
        version=stage_version("lm_weights"),
    shell:
        "python -m speechmill.lm.lm_weights --settings {params.settings:q}"
        " --tuning-checkpoint {input.tuning_checkpoint} --clips {input.clips} --ctc-outputs {input.ctc_outputs}"
        " --lm $(dirname {input.lm[0]}) --threads {threads} --weights {output.weights} --surface {output.surface}"
        " 2>&1 | tee {log}"


# The files that beam search needs, copied into the model's folder.
rule model_lm:
    input:
        files=expand("results/runs/{{run}}/lm/{file}", file=paths.DECODING_FILES),
        after=ancient("results/runs/{run}/plan.json"),
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
