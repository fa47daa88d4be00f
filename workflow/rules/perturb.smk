# Needs: the clips of an evaluation set, their shards, and SoX.
# Makes: a copy of the set that an effect has changed: its clips, and a shard with them, which is gone when it is scored.


rule perturb:
    input:
        clips=ancient("results/runs/{run}/clips/{dataset}-{split}.parquet"),
        digest="results/runs/{run}/clips/{dataset}-{split}.sha256",
        counts="results/runs/{run}/clips/{dataset}-{split}.json",
        shards=lambda wildcards: ancient(
            paths.set_shards(SETTINGS, wildcards.run, "{dataset}-{split}".format(**wildcards))
        ),
        # Nothing of these is read. Copies are made when there is a checkpoint to be scored on them, which is after snakemake
        # has looked anew at what has changed: see the rule lm.
        plan=lambda wildcards: ancient(paths.run_plan(wildcards.run, SETTINGS.runs[wildcards.run])),
        selection=ancient("results/runs/{run}/selection.json"),
    output:
        shard=temp("results/runs/{run}/perturbed/{effect}/{dataset}/{split}/shard-00000.parquet"),
        clips="results/runs/{run}/clips/{dataset}-{split}-{effect}.parquet",
        digest="results/runs/{run}/clips/{dataset}-{split}-{effect}.sha256",
        counts="results/runs/{run}/clips/{dataset}-{split}-{effect}.json",
    log:
        "logs/perturb/{run}-{dataset}-{split}-{effect}.log",
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=2000,
        runtime=240,
    params:
        effect=lambda wildcards: stage_settings.perturb(SETTINGS, wildcards.run, wildcards.effect),
        code=code_digest("perturb"),
    shell:
        "python -m speechmill.inference.perturb --effect {params.effect:q} --clips {input.clips} --counts {input.counts}"
        " --shards {input.shards} --perturbed {output.shard} --perturbed-clips {output.clips}"
        " --perturbed-digest {output.digest} --perturbed-counts {output.counts} 2>&1 | tee {log}"
