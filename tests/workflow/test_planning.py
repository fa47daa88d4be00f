"""What snakemake says before any job runs."""

from pathlib import Path

import pytest
import yaml
from working_copy import REPOSITORY, WorkingCopy, tiny_config, working_copy

RECIPES = sorted(path.name for path in (REPOSITORY / "config" / "recipes").glob("*.yaml"))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> WorkingCopy:
    return working_copy(tmp_path_factory.mktemp("fresh"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_plans_without_its_corpus_and_plans_no_demo_job(fresh: WorkingCopy, recipe: str) -> None:
    run = fresh.snakemake(None, "--dry-run", "--configfile", f"config/recipes/{recipe}")
    assert {"ingest_dataset", "ingest_uncached"} & set(run.jobs)
    config = yaml.safe_load((REPOSITORY / "config/recipes" / recipe).read_text(encoding="utf-8"))
    assert run.jobs.get("speak", 0) == len(config.get("speak", {}))
    assert run.jobs["finetune"] == len(config["runs"])


def test_the_demo_is_the_default(fresh: WorkingCopy) -> None:
    run = fresh.snakemake(None, "--dry-run", "--resources", "gpu=1")
    assert run.jobs["speak"] == 1
    assert run.jobs["finetune"] == 1


def test_an_unknown_key_is_named_with_its_place_and_the_nearest_known_one(fresh: WorkingCopy) -> None:
    config = tiny_config("corpus.tar.gz")
    config["runs"]["demo_ru"]["finetune"]["learning_rat"] = 1
    run = fresh.snakemake(config, "--dry-run", check=False)
    assert run.returncode != 0
    assert "runs.demo_ru.finetune.learning_rat" in run.output
    assert "did you mean `learning_rate`?" in run.output


def test_an_absent_archive_stops_the_run_before_any_job(fresh: WorkingCopy) -> None:
    config = tiny_config("nowhere/corpus.tar.gz")
    del config["speak"]
    run = fresh.snakemake(config, check=False)
    assert run.returncode != 0
    assert "datasets.demo_ru.path is nowhere/corpus.tar.gz, where there is nothing" in run.output
    assert not (fresh.folder / "results" / "raw").exists()


def test_an_archive_that_is_cut_short_is_named(fresh: WorkingCopy, spoken_archive: Path) -> None:
    data = spoken_archive.read_bytes()
    (fresh.folder / "short.tar.gz").write_bytes(data[: len(data) // 2])
    config = tiny_config("short.tar.gz")
    del config["speak"]
    run = fresh.snakemake(config, check=False)
    assert run.returncode != 0
    assert "error: short.tar.gz cannot be read to its end" in run.output
    assert not (fresh.folder / "results" / "raw" / "demo_ru").exists()


def test_a_gpu_run_is_refused_where_no_gpu_is_granted(fresh: WorkingCopy) -> None:
    config = tiny_config("corpus.tar.gz")
    config["runs"]["demo_ru"]["device"] = "gpu"
    run = fresh.snakemake(config, "--dry-run", "--resources", "gpu=0", check=False)
    assert run.returncode != 0
    assert "runs.demo_ru.device is gpu, and --resources gpu=0 grants none" in run.output


def test_the_slurm_profile_plans(fresh: WorkingCopy) -> None:
    profile = yaml.safe_load((REPOSITORY / "workflow/profiles/slurm/config.yaml").read_text(encoding="utf-8"))
    assert profile["executor"] == "slurm"
    run = fresh.snakemake(None, "--dry-run", "--profile", "workflow/profiles/slurm")
    assert run.jobs["finetune"] == 1
