# Needs: espeak-ng. Makes: a small corpus, packed like the published corpus whose layout it has.


rule speak:
    output:
        "results/speak/{corpus}.tar.gz",
    log:
        "logs/speak/{corpus}.log",
    cache: True
    conda:
        "../../envs/speak.yaml"
    threads: 4
    resources:
        mem_mb=1000,
        runtime=20,
    params:
        settings=from_config(stage_settings.speak),
        version=stage_version("speak"),
    shell:
        "python -m speechmill.demo.speak --settings {params.settings:q} --threads {threads} --archive {output}"
        " 2>&1 | tee {log}"
