"""The cache between working copies."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from working_copy import Snakemake, WorkingCopy, tiny_config, working_copy

pytestmark = pytest.mark.slow

SHARD = "results/data/demo_ru/train/shard-00001.parquet"


@pytest.fixture
def copy(tmp_path: Path, spoken_archive: Path) -> Callable[[str], WorkingCopy]:
    """Makes working copies of users who have the same corpus."""

    def make(name: str) -> WorkingCopy:
        made = working_copy(tmp_path / name)
        shutil.copy2(spoken_archive, made.folder / "corpus.tar.gz")
        return made

    return make


def prepared(copy: WorkingCopy, cache: Path) -> Snakemake:
    """A run of the data stages with the shared folder `cache`."""
    cache.mkdir(exist_ok=True)
    config = tiny_config("corpus.tar.gz")
    del config["speak"]
    status = "results/data/demo_ru/status.json"
    return copy.snakemake(config, status, "--cache", SNAKEMAKE_OUTPUT_CACHE=str(cache))


def test_a_second_working_copy_takes_the_data_stages_from_the_cache(
    tmp_path: Path, copy: Callable[[str], WorkingCopy]
) -> None:
    first, second = copy("first"), copy("second")
    filled, taken = prepared(first, tmp_path / "cache"), prepared(second, tmp_path / "cache")
    for made in ("results/raw/demo_ru/train", SHARD):
        assert (second.folder / made).resolve().is_relative_to(tmp_path / "cache")
        assert f"Moving output file {made}" not in taken.output
    assert f"Moving output file {SHARD} to cache" in filled.output
    assert (second.folder / SHARD).read_bytes() == (first.folder / SHARD).read_bytes()


def test_nothing_is_taken_from_the_cache_that_other_code_or_other_libraries_made(
    tmp_path: Path, copy: Callable[[str], WorkingCopy]
) -> None:
    first, newer, edited = copy("first"), copy("newer"), copy("edited")
    newer.edit("envs/data.yaml", "soxr==", "soxr==9.")
    edited.edit("workflow/speechmill/corpus/audio.py", "scaled *= 32768", "scaled *= 16384")
    entries = set()
    for user in (first, newer, edited):
        prepared(user, tmp_path / "cache")
        entries.add((user.folder / SHARD).resolve())
    assert len(entries) == 3
    assert len({entry.read_bytes() for entry in entries}) == 2
