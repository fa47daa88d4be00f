# Needs: espeak-ng. Makes: a small corpus, packed as its published model is.


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
        settings=lambda wildcards: SETTINGS.speak[wildcards.corpus].model_dump_json(),
        code=code_digest("speak"),
    shell:
        "python -m speechmill.demo.speak --settings {params.settings:q} --threads {threads} --archive {output}"
        " 2>&1 | tee {log}"
