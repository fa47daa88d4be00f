"""Dry runs, and errors that snakemake reports before it starts a job."""

import tarfile
from pathlib import Path

import pytest
import yaml
from working_copy import REPOSITORY, SPOKEN, WorkingCopy, tiny_config, working_copy

RECIPES = sorted(path.name for path in (REPOSITORY / "config" / "recipes").glob("*.yaml"))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> WorkingCopy:
    """A working copy without results."""
    return working_copy(tmp_path_factory.mktemp("fresh"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_plans_without_corpus_key_or_network(fresh: WorkingCopy, recipe: str) -> None:
    offline = {"HF_ENDPOINT": "http://127.0.0.1:9", "MDC_API_KEY": ""}
    jobs = fresh.planned(None, "--configfile", f"config/recipes/{recipe}", **offline)
    assert {"ingest_dataset", "ingest_uncached"} & set(jobs)
    assert "audit" in jobs
    config = yaml.safe_load((REPOSITORY / "config/recipes" / recipe).read_text(encoding="utf-8"))
    assert jobs.get("speak", 0) == len(config.get("speak", {}))
    trained = [run for run in config["runs"].values() if run.get("training") != "none"]
    assert jobs.get("finetune", 0) == jobs.get("card", 0) == len(trained)
    assert trained or "evaluate" in jobs
    bases = {run["model"].get("base") or run["model"].get("run") for run in config["runs"].values()} - {None}
    assert jobs.get("ingest_model", 0) == len(bases)


def test_default_is_the_demo(fresh: WorkingCopy) -> None:
    jobs = fresh.planned(None, "--resources", "gpu=1")
    assert jobs["speak"] == 1
    assert jobs["finetune"] == 1


def test_runs_that_transcribe_for_each_other_are_planned_in_turn(fresh: WorkingCopy) -> None:
    """The demo transcribes for the second run, and that one for the third, each two shards of the same recordings."""
    config = tiny_config(SPOKEN)
    (fresh.folder / "unlabelled").mkdir()
    config["datasets"]["unlabelled"] = {
        "source": "folder", "path": "unlabelled", "pattern": "{speaker}.wav", "columns": {"sentence": None},
        "name": "Unlabelled", "licence": "CC0-1.0", "language": "ru", "splits": ["train"], "shards": 2,
    }  # fmt: skip
    teacher = "demo_ru"
    for run in ("second", "third"):
        config["datasets"][f"for_{run}"] = {"source": "transcribe", "of": "unlabelled", "by": teacher}
        config["runs"][run] = config["runs"]["demo_ru"] | {"train": ["demo_ru-train", f"for_{run}-train"]}
        teacher = run
    jobs = fresh.planned(config)
    assert {rule: jobs[rule] for rule in ("transcribe", "ingest_pieces", "finetune", "card")} == {
        "transcribe": 4, "ingest_pieces": 2, "finetune": 3, "card": 3,
    }  # fmt: skip


def test_runs_that_compare_with_each_other_are_planned(fresh: WorkingCopy) -> None:
    config = tiny_config(SPOKEN)
    first = config["runs"]["demo_ru"]
    config["runs"]["second"] = first | {"evaluation": first["evaluation"] | {"compare": ["demo_ru"]}}
    first["evaluation"] = first["evaluation"] | {"compare": ["second"]}
    jobs = fresh.planned(config)
    assert (jobs["breakdown"], jobs["card"]) == (2, 2)


def test_publish_runs_only_as_an_explicit_target(fresh: WorkingCopy) -> None:
    config = tiny_config(SPOKEN)
    config["runs"]["demo_ru"]["publish"] = {"repo": "somebody/tiny"}
    assert not {"publish", "publish_dry_run"} & set(fresh.planned(config))


def test_braces_in_a_name_are_no_wildcards(fresh: WorkingCopy) -> None:
    config = tiny_config(SPOKEN)
    config["datasets"]["demo_ru"]["name"] = config["runs"]["demo_ru"]["card"]["title"] = "{corpus} {{ x }} {0}"
    assert fresh.planned(config)["runs_table"] == 1


def test_unknown_key_is_named_with_the_nearest_known_one(fresh: WorkingCopy) -> None:
    config = tiny_config("corpus.tar.gz")
    config["runs"]["demo_ru"]["finetune"]["learning_rat"] = 1
    run = fresh.snakemake(config, "--dry-run", check=False)
    assert run.returncode != 0
    assert "runs.demo_ru.finetune.learning_rat" in run.output
    assert "did you mean `learning_rate`?" in run.output


def test_absent_archive_stops_the_run_before_any_job(fresh: WorkingCopy) -> None:
    run = fresh.snakemake(tiny_config("nowhere/corpus.tar.gz"), check=False)
    assert run.returncode != 0
    assert "datasets.demo_ru.path is nowhere/corpus.tar.gz, where there is nothing" in run.output
    assert not (fresh.folder / "results" / "raw").exists()


def test_truncated_archive_is_named(fresh: WorkingCopy, spoken_archive: Path) -> None:
    data = spoken_archive.read_bytes()
    (fresh.folder / "short.tar.gz").write_bytes(data[: len(data) // 2])
    run = fresh.snakemake(tiny_config("short.tar.gz"), check=False)
    assert run.returncode != 0
    assert "error: short.tar.gz cannot be read to its end" in run.output
    assert not (fresh.folder / "results" / "raw" / "demo_ru").exists()


def test_gpu_run_is_refused_without_a_granted_gpu(fresh: WorkingCopy) -> None:
    config = tiny_config("corpus.tar.gz")
    config["runs"]["demo_ru"]["device"] = "gpu"
    run = fresh.snakemake(config, "--dry-run", "--resources", "gpu=0", check=False)
    assert run.returncode != 0
    assert "runs.demo_ru.device is gpu, but --resources gpu=0 grants no GPU" in run.output


def test_gpu_run_is_refused_on_a_machine_without_a_gpu(fresh: WorkingCopy) -> None:
    config = tiny_config(SPOKEN)
    config["runs"]["demo_ru"]["device"] = "gpu"
    run = fresh.snakemake(config, check=False, CUDA_VISIBLE_DEVICES="")
    assert run.returncode != 0
    assert (
        "runs.demo_ru.device is gpu and runs.demo_ru.gpus is 1, but PyTorch finds no GPU on this machine" in run.output
    )
    assert not run.executed
    # Data can be prepared, and the plan be made, for another machine with a GPU.
    assert fresh.snakemake(config, SPOKEN, CUDA_VISIBLE_DEVICES="").executed == {"speak"}


def test_slurm_profile_plans_the_demo(fresh: WorkingCopy) -> None:
    profile = yaml.safe_load((REPOSITORY / "workflow/profiles/slurm/config.yaml").read_text(encoding="utf-8"))
    assert profile["executor"] == "slurm"
    assert fresh.planned(None, "--profile", "workflow/profiles/slurm")["finetune"] == 1


def test_snakemake_runs_without_the_environment_on_path(spoken_archive: Path) -> None:
    # The fixture has run .venv/bin/snakemake with PATH=/usr/bin:/bin; its job needs the `python` of .venv.
    assert tarfile.is_tarfile(spoken_archive)
