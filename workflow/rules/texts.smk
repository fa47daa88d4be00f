# Needs: a text at its `path`, or the network to download it.
# Makes: its sentences, one per line, compressed, and a record of their source.


rule ingest_text:
    output:
        sentences="results/texts/{text}/sentences.txt.zst",
        record="results/texts/{text}/source.json",
    log:
        "logs/ingest_text/{text}.log",
    localrule: True
    conda:
        "../../envs/data.yaml"
    threads: 4
    resources:
        mem_mb=2000,
        runtime=600,
        # A resource, not a parameter: that a text lies elsewhere on this machine is no reason to read it again.
        location=from_config(stage_settings.text_location),
    params:
        settings=from_config(stage_settings.ingest_text),
        fingerprint=from_config(sources.text_fingerprint),
        version=stage_version("ingest_text"),
    shell:
        "python -m speechmill.corpus.ingest_text --settings {params.settings:q} --location {resources.location:q}"
        " --fingerprint {params.fingerprint:q} --threads {threads} --sentences {output.sentences}"
        " --record {output.record} 2>&1 | tee {log}"
