# Needs: a run's training clips and vocabulary. Makes: the plan, which lists the checkpoints to come, and
# a digest of its steps.


checkpoint plan:
    input:
        clips=ancient("results/runs/{run}/clips/train.parquet"),
        digest="results/runs/{run}/clips/train.sha256",
        counts="results/runs/{run}/clips/train.json",
        leakage="results/runs/{run}/clips/leakage.json",
        status=lambda wildcards: paths.run_status(SETTINGS, wildcards.run),
        vocab="results/runs/{run}/vocab/vocab.json",
        # Not read: see the rule lm. And where there is no text for a language model, that is known before training.
        lm_text=lambda wildcards: ancient(paths.lm_text_digest(SETTINGS, wildcards.run)),
        base=lambda wildcards: ancient(paths.base_folder(SETTINGS.runs[wildcards.run])),
        base_source=lambda wildcards: paths.base_source(SETTINGS.runs[wildcards.run]),
    output:
        plan="results/runs/{run}/plan.json",
        digest="results/runs/{run}/plan.sha256",
        words=report(
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
        settings=lambda wildcards: stage_settings.plan(SETTINGS, wildcards.run),
        code=code_digest("plan"),
    shell:
        "python -m speechmill.training.plan --run {wildcards.run} --settings {params.settings:q} --clips {input.clips}"
        " --counts {input.counts} --leakage {input.leakage} --status {input.status} --vocab {input.vocab}"
        " --base {input.base} --plan {output.plan} --digest {output.digest} --words {output.words}"
        " 2>&1 | tee {log}"
