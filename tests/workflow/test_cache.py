"""The cache between working copies."""

from pathlib import Path

import pytest
from working_copy import SPOKEN, tiny_config, working_copy


@pytest.mark.slow
def test_a_second_working_copy_takes_the_data_stages_from_the_cache(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    status, shard = "results/data/demo_ru/status.json", "results/data/demo_ru/train/shard-00001.parquet"
    options = [status, "--cache"]
    first, second = (working_copy(tmp_path / name) for name in ("first", "second"))
    filled = first.snakemake(tiny_config(SPOKEN), *options, SNAKEMAKE_OUTPUT_CACHE=str(cache))
    taken = second.snakemake(tiny_config(SPOKEN), *options, SNAKEMAKE_OUTPUT_CACHE=str(cache))
    for made in ("results/raw/demo_ru/train", shard):
        assert (second.folder / made).resolve().is_relative_to(cache)
        assert f"Moving output file {made}" not in taken.output
    assert f"Moving output file {shard} to cache" in filled.output
    assert (second.folder / shard).read_bytes() == (first.folder / shard).read_bytes()
