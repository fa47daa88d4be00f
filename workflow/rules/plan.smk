# Needs: a run's training clips and vocabulary.
# Makes: the plan, which lists the checkpoints to come, and a digest of its steps.


checkpoint plan:
    input:
        clips=ancient("results/runs/{run}/clips/train.parquet"),
        rerun_on="results/runs/{run}/clips/train.sha256",
        counts="results/runs/{run}/clips/train.json",
        scored_counts=each("results/runs/{run}/clips/{set_name}.json", paths.scored_sets),
        leakage="results/runs/{run}/clips/leakage.json",
        status=each("results/data/{dataset}/status.json", paths.datasets),
        vocab="results/runs/{run}/vocab/vocab.json",
        characters=if_run(paths.keeps_vocab, "results/runs/{run}/vocab/characters.json"),
        base=ancient(each("results/models/{model}", paths.base)),
        base_source=each("results/models/{model}.json", paths.base),
        # A language model without any text is an error before training.
        after=ancient(if_run(paths.uses_lm, "results/runs/{run}/lm/text.sha256")),
    output:
        plan="results/runs/{run}/plan.json",
        digest="results/runs/{run}/plan.sha256",
        text=report(
            "results/runs/{run}/plan.txt",
            category="Runs",
            labels={"run": "{run}", "what": "plan"},
            caption="../report/plan.rst",
        ),
    log:
        "logs/plan/{run}.log",
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        settings=from_config(stage_settings.plan),
        version=stage_version("plan"),
    shell:
        "python -m speechmill.training.plan --run {wildcards.run} --settings {params.settings:q} --clips {input.clips}"
        " --counts {input.counts} --scored-counts {input.scored_counts} --leakage {input.leakage}"
        " --status {input.status} --vocab {input.vocab} --characters {input.characters} --base {input.base}"
        " --plan {output.plan} --digest {output.digest} --text {output.text} 2>&1 | tee {log}"
