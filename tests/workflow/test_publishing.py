"""The targets that upload, on a model's folder that is there, against a Hub on this machine."""

import json
from pathlib import Path
from typing import Any

import pytest
from working_copy import SPOKEN, Snakemake, WorkingCopy, tiny_config, working_copy

from hub_server import Hub, served
from speechmill.report import manifest

pytestmark = pytest.mark.slow

REPO = "somebody/tiny"
# No one's, and as long as one of the Hub's.
TOKEN = "hf_" + "nobodysTokenForTheTestsOnly1234567"
FILES = {
    "README.md": b"---\nlicense: apache-2.0\n---\n# Tiny\n",
    "config.json": b"{}",
    "evidence/settings.json": json.dumps({"datasets": {"demo_ru": {"audio_redistributable": True}}}).encode(),
    "model.safetensors": bytes(1000),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> WorkingCopy:
    """A working copy with the folder of a model, and nothing else of its run."""
    copy = working_copy(tmp_path_factory.mktemp("made"))
    model = copy.folder / "results/runs/demo_ru/model"
    for name, content in FILES.items():
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_bytes(content)
    manifest.write(model)
    return copy


def config(*, publish: bool = True) -> dict[str, Any]:
    """A configuration whose run says where its model goes, or does not."""
    given = tiny_config(SPOKEN)
    if publish:
        given["runs"]["demo_ru"]["publish"] = {"repo": REPO}
    return given


def ask(copy: WorkingCopy, target: str, hub: Hub, *, publish: bool = True, check: bool = True) -> Snakemake:
    """Run a target on the folder that is there, which is not made again."""
    return copy.snakemake(
        config(publish=publish), target, "--allowed-rules", target, check=check,
        HF_ENDPOINT=hub.url, HF_HOME=str(copy.folder / "hub"), HF_TOKEN=TOKEN, HF_HUB_DISABLE_XET="1",
        NO_PROXY="127.0.0.1",
    )  # fmt: skip


def test_a_dry_run_shows_what_would_go_and_publish_sends_it_each_time_that_it_is_asked(made: WorkingCopy) -> None:
    with served(Hub({}, writers={TOKEN: {"somebody"}})) as hub:
        shown = ask(made, "publish_dry_run", hub)
        assert f"would be uploaded to branch main of {REPO}" in shown.output
        assert all(name in shown.output for name in [*FILES, "manifest.json"])
        assert hub.requests == []
        first = ask(made, "publish", hub)
        assert f"is published: {hub.url}/{REPO}" in first.output
        second = ask(made, "publish", hub)
        assert "nothing was changed" in second.output
    repository = hub.repositories[REPO]
    sent = dict(repository.commits[repository.branches["main"]])
    del sent[".gitattributes"]
    manifest_there = (made.folder / "results/runs/demo_ru/model/manifest.json").read_bytes()
    assert sent == FILES | {"manifest.json": manifest_there}
    assert len(repository.titles) == 1
    logs = "".join(file.read_text() for file in Path(made.folder, "logs").glob("publish*.log"))
    assert TOKEN not in logs + shown.output + first.output + second.output


def test_without_a_section_the_target_refuses_and_names_the_key(made: WorkingCopy) -> None:
    with served(Hub({})) as hub:
        run = ask(made, "publish", hub, publish=False, check=False)
    assert run.returncode != 0
    assert "error: no run has a key `publish`" in run.output
    assert hub.requests == []


def test_nothing_is_published_unless_it_is_asked_for(made: WorkingCopy) -> None:
    assert not {"publish", "publish_dry_run"} & set(made.planned(config()))
