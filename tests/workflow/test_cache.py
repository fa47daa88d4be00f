"""The cache between working copies."""

import shutil
from pathlib import Path

import pytest
from working_copy import SnakemakeRun, WorkingCopy, tiny_config, working_copy

pytestmark = pytest.mark.slow

SHARDS = [f"results/data/demo_ru/train/shard-{number:05d}.parquet" for number in range(2)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, spoken_archive: Path) -> dict[str, tuple[WorkingCopy, SnakemakeRun]]:
    """The shards of one corpus in several working copies, in this order, and the runs that created them."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "cache").mkdir()
    found = {}
    for name in ("first", "same", "other_libraries", "other_version"):
        copy = working_copy(folder / name)
        shutil.copy2(spoken_archive, copy.folder / "corpus.tar.gz")
        if name == "other_libraries":
            copy.edit("envs/data.yaml", "soxr==", "soxr==9.")
        if name == "other_version":
            copy.raise_version("shards")
        run = copy.snakemake(
            tiny_config("corpus.tar.gz"), *SHARDS, "--cache", SNAKEMAKE_OUTPUT_CACHE=str(folder / "cache")
        )
        found[name] = copy, run
    return found


def test_second_copy_takes_data_stages_from_the_cache(runs: dict[str, tuple[WorkingCopy, SnakemakeRun]]) -> None:
    (first, filled), (same, taken) = runs["first"], runs["same"]
    cache = first.folder.parent / "cache"
    for file in ("results/raw/demo_ru/train", *SHARDS):
        assert (same.folder / file).resolve().is_relative_to(cache)
        assert f"Moving output file {file}" not in taken.output
    for shard in SHARDS:
        assert f"Moving output file {shard} to cache" in filled.output
        assert (same.folder / shard).read_bytes() == (first.folder / shard).read_bytes()
    assert (first.folder / SHARDS[0]).read_bytes() != (first.folder / SHARDS[1]).read_bytes()


def test_cache_separates_libraries_and_stage_versions(runs: dict[str, tuple[WorkingCopy, SnakemakeRun]]) -> None:
    entries = {name: (copy.folder / SHARDS[1]).resolve() for name, (copy, _) in runs.items()}
    assert entries.pop("same") == entries["first"]
    assert len({*entries.values()}) == 3
