"""The targets that upload, with an existing model folder and a local Hub."""

import json
from pathlib import Path
from typing import Any

import pytest
from working_copy import SPOKEN, SnakemakeRun, WorkingCopy, tiny_config, working_copy

from hub_server import Hub, served
from speechmill.report import manifest

pytestmark = pytest.mark.slow

REPO = "somebody/tiny"
# An invalid token with the length of a real one.
TOKEN = "hf_" + "nobodysTokenForTheTestsOnly1234567"
FILES = {
    "README.md": b"---\nlicense: apache-2.0\n---\n# Tiny\n",
    "config.json": b"{}",
    "evidence/settings.json": json.dumps(
        {"datasets": {"demo_ru": {"audio_redistributable": True, "text_redistributable": True}}}
    ).encode(),
    "model.safetensors": bytes(1000),
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> WorkingCopy:
    """A working copy with the model folder of a run, without its other results."""
    new = working_copy(tmp_path_factory.mktemp("publishing"))
    model = new.folder / "results/runs/demo_ru/model"
    for name, content in FILES.items():
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_bytes(content)
    manifest.write(model)
    return new


def run_target(copy: WorkingCopy, target: str, hub: Hub, publish: dict[str, Any] | None) -> SnakemakeRun:
    """Run a target on the existing folder, with the section `publish` if it is given."""
    config = tiny_config(SPOKEN)
    if publish:
        config["runs"]["demo_ru"]["publish"] = publish
    return copy.snakemake(
        config, target, "--allowed-rules", target, check=publish is not None,
        HF_ENDPOINT=hub.url, HF_HOME=str(copy.folder / "hub"), HF_TOKEN=TOKEN, HF_HUB_DISABLE_XET="1",
        NO_PROXY="127.0.0.1",
    )  # fmt: skip


def test_publish_uploads_what_its_dry_run_lists(copy: WorkingCopy) -> None:
    publish = {"repo": REPO}
    with served(Hub({}, writers={TOKEN: {"somebody"}})) as hub:
        listed = run_target(copy, "publish_dry_run", hub, publish)
        assert f"would be uploaded to branch main of {REPO}" in listed.output
        assert all(name in listed.output for name in [*FILES, "manifest.json"])
        assert hub.requests == []
        first = run_target(copy, "publish", hub, publish)
        assert f"is published: {hub.url}/{REPO}" in first.output
        second = run_target(copy, "publish", hub, publish)
        assert "nothing was changed" in second.output
    repository = hub.repositories[REPO]
    uploaded = dict(repository.commits[repository.branches["main"]])
    del uploaded[".gitattributes"]
    manifest_file = copy.folder / "results/runs/demo_ru/model/manifest.json"
    assert uploaded == FILES | {"manifest.json": manifest_file.read_bytes()}
    assert len(repository.titles) == 1
    logs = "".join(file.read_text() for file in Path(copy.folder, "logs").glob("publish*.log"))
    assert TOKEN not in logs + listed.output + first.output + second.output


def test_publish_without_its_section_names_the_key(copy: WorkingCopy) -> None:
    with served(Hub({})) as hub:
        run = run_target(copy, "publish", hub, None)
    assert run.returncode != 0
    assert "error: no run has a key `publish`" in run.output
    assert hub.requests == []
