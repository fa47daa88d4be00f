"""The cache between working copies."""

from pathlib import Path

import pytest
from working_copy import SPOKEN, tiny_config, working_copy


@pytest.mark.slow
def test_a_second_working_copy_takes_the_data_stages_from_the_cache(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    vocab = "results/runs/demo_ru/vocab/vocab.json"
    options = [vocab, "--cache"]
    first, second = (working_copy(tmp_path / name) for name in ("first", "second"))
    filled = first.snakemake(tiny_config(SPOKEN), *options, SNAKEMAKE_OUTPUT_CACHE=str(cache))
    taken = second.snakemake(tiny_config(SPOKEN), *options, SNAKEMAKE_OUTPUT_CACHE=str(cache))
    shard = "results/data/demo_ru/train/shard-00001.parquet"
    for made in ("results/raw/demo_ru/train", shard, vocab):
        assert (second.folder / made).resolve().is_relative_to(cache)
        assert f"Moving output file {made}" not in taken.output
    assert f"Moving output file {vocab} to cache" in filled.output
    assert (second.folder / vocab).read_bytes() == (first.folder / vocab).read_bytes()
