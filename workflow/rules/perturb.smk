# Needs: the clips of an evaluation set, their shards, and SoX.
# Makes: a copy of the set, perturbed by an effect: its clips, and a temporary shard with their audio.


rule perturb:
    input:
        clips=ancient("results/runs/{run}/clips/{dataset}-{split}.parquet"),
        counts="results/runs/{run}/clips/{dataset}-{split}.json",
        shards=ancient(from_config(paths.original_shards)),
        rerun_on="results/runs/{run}/clips/{dataset}-{split}.sha256",
        # Copies are made when there is a checkpoint to be scored on them.
        after=ancient(all_of(if_run(paths.trains, "results/runs/{run}/plan.json"), "results/runs/{run}/selection.json")),
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
        effect=from_config(stage_settings.perturb),
        version=stage_version("perturb"),
    shell:
        "python -m speechmill.inference.perturb --effect {params.effect:q} --clips {input.clips}"
        " --counts {input.counts} --shards {input.shards} --perturbed {output.shard} --perturbed-clips {output.clips}"
        " --perturbed-digest {output.digest} --perturbed-counts {output.counts} 2>&1 | tee {log}"
