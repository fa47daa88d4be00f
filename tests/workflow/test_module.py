"""The workflow as a module of another one, in another folder."""

import functools
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from working_copy import NOTHING_TO_DO, SPOKEN, WorkingCopy, tiny_config, working_copy

pytestmark = pytest.mark.slow

# What `snakedeploy deploy-workflow` writes, with the lines that docs/clusters.md adds.
IMPORTING = """
configfile: "config/config.yaml"

module speechmill:
    snakefile:
        {snakefile}
    config:
        config
    {prefix}

use rule * from speechmill {names}

onstart:
    speechmill.onstart()

onsuccess:
    speechmill.onsuccess()
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Git repository with the project's sources and the tag v1."""
    folder = working_copy(tmp_path_factory.mktemp("clone")).folder
    author = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "--quiet"], ["add", "."], [*author, "commit", "--quiet", "-m", "all"], ["tag", "v1"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def importing(folder: Path, config: dict[str, Any], snakefile: str, prefix: str = "", names: str = "") -> WorkingCopy:
    """Write a workflow that imports the rules from `snakefile`, an expression, with its configuration."""
    for part in ("workflow", "config"):
        (folder / part).mkdir(parents=True)
    text = IMPORTING.format(snakefile=snakefile, prefix=f'prefix: "{prefix}"' if prefix else "", names=names)
    (folder / "workflow/Snakefile").write_text(text)
    copy = WorkingCopy(folder)
    (folder / copy.write_config(config)).rename(folder / "config/config.yaml")
    return copy


def greedy_config(archive: str) -> dict[str, Any]:
    """Return the configuration of a run with one evaluation set and no language model."""
    config = tiny_config(archive)
    config["runs"]["demo_ru"]["evaluation"] = {"sets": ["demo_ru-dev"], "worst_clips": 0}
    return config


def test_workflow_on_github_runs_to_the_card_below_a_prefix(tmp_path: Path, clone: Path, spoken_archive: Path) -> None:
    # Where Snakemake keeps its clone: with the tag in it, it asks no server.
    cached = tmp_path / "cache/snakemake/snakemake/source-cache/snakemake-git-cache/github.com/org/speechmill"
    subprocess.run(["git", "clone", "--quiet", "--bare", clone, cached], check=True)
    source = 'github("org/speechmill", path="workflow/Snakefile", tag="v1")'
    copy = importing(tmp_path / "user", greedy_config("corpus.tar.gz"), source, "speech", "as speechmill_*")
    archive = copy.folder / "corpus.tar.gz"
    shutil.copy2(spoken_archive, archive)
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    run = copy.snakemake(None, **cache)
    assert "speechmill_card" in run.executed
    assert "card    speech/results/runs/demo_ru/model/README.md" in run.output
    assert (copy.folder / "speech/results/runs/demo_ru/model/README.md").is_file()
    written = {path.name for path in copy.folder.iterdir()} - {"workflow", "config", archive.name, ".snakemake"}
    assert written == {"speech"}
    assert list((copy.folder / "speech/work").rglob("finished-*")) == []
    archive.unlink()
    assert NOTHING_TO_DO in copy.snakemake(None, "--dry-run", **cache).output
    verified = copy.snakemake(None, "speechmill_verify", **cache).output
    assert "speech/results/runs/demo_ru/model" in verified


@pytest.mark.parametrize("snakefile", ["Snakefile", "workflow/Snakefile"])
def test_import_plans_the_same_jobs(tmp_path: Path, clone: Path, snakefile: str) -> None:
    own = WorkingCopy(clone).planned(tiny_config(SPOKEN))
    copy = importing(tmp_path / "user", tiny_config(SPOKEN), f'"{clone}/{snakefile}"', names="as its_*")
    assert {rule.removeprefix("its_"): count for rule, count in copy.planned(None).items()} == own | {"all": 1}


def test_text_of_a_language_model_is_not_below_the_prefix(tmp_path: Path, clone: Path) -> None:
    config = tiny_config(SPOKEN)
    config["runs"]["demo_ru"]["evaluation"]["lm"] |= {"text": "files", "files": ["sentences.txt"]}
    copy = importing(tmp_path / "user", config, f'"{clone}/workflow/Snakefile"', "speech")
    (copy.folder / "sentences.txt").write_text("один\n", encoding="utf-8")
    assert copy.planned(None)["lm_text"] == 1


def test_import_is_refused_on_a_machine_without_a_gpu(tmp_path: Path, clone: Path) -> None:
    config = tiny_config(SPOKEN)
    config["runs"]["demo_ru"]["device"] = "gpu"
    copy = importing(tmp_path / "user", config, f'gitfile("{clone}", path="workflow/Snakefile", tag="v1")')
    run = copy.snakemake(None, check=False, CUDA_VISIBLE_DEVICES="")
    assert "PyTorch finds no GPU on this machine" in run.output
    assert not run.executed


@pytest.fixture
def served(clone: Path) -> Iterator[str]:
    """The address of a server with the project's sources."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(clone))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_import_from_a_plain_server_is_refused(tmp_path: Path, served: str) -> None:
    copy = importing(tmp_path / "user", tiny_config(SPOKEN), f'"{served}/workflow/Snakefile"')
    run = copy.snakemake(None, "--dry-run", check=False)
    assert run.returncode != 0
    assert "clone its repository" in run.output
