import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from material import ROOT
from speechmill.config.datasets import Dataset
from speechmill.config.root import Config, load
from speechmill.core.tables import write_json
from speechmill.corpus.download_record import sidecar
from speechmill.dag.paths import (
    all_metrics,
    checkpoints_folder,
    deciding_digest,
    dev_shards,
    folder_of,
    needs_log_probs,
    results,
    role_shards,
    run_datasets,
    run_plan,
    scored_base,
    selected_files,
    selected_metrics,
    set_hypotheses,
    set_shards,
    source_fingerprint,
    step_metrics,
    step_options,
    step_source,
    steps,
)

SHA256 = "5" * 64


@pytest.fixture(autouse=True)
def _in_a_working_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fingerprint(**changes: Any) -> str:
    about = {"source": "zeroth", "path": "corpus.tar.gz", "language": "ko", "name": "Made", "licence": "CC0-1.0"}
    dataset = TypeAdapter(Dataset).validate_python(about | {"splits": ["train"], "shards": 1} | changes)
    return source_fingerprint("made", dataset)


def prepared(as_it_was: str) -> None:
    """What an ingest leaves."""
    write_json({"fingerprint": as_it_was}, Path("results/raw/made/source.json"))


def archive(content: bytes = b"clips") -> Path:
    Path("corpus.tar.gz").write_bytes(content)
    return Path("corpus.tar.gz")


DOWNLOAD = {"urls": ["https://example.org/corpus.tar.gz", "https://example.com/corpus.tar.gz"]}


def test_a_corpus_is_another_when_its_size_or_its_time_is() -> None:
    seen = set()
    for content, time in ((b"clips", 1), (b"clips", 2), (b"more clips", 2)):
        os.utime(archive(content), (time, time))
        seen.add(fingerprint())
    assert len(seen) == 3


def test_a_corpus_that_was_read_and_taken_away_is_what_it_was() -> None:
    archive()
    prepared(before := fingerprint())
    Path("corpus.tar.gz").unlink()
    assert fingerprint() == before


def test_a_corpus_that_is_nowhere_is_absent() -> None:
    assert fingerprint() == "absent"


def test_an_archive_is_the_same_before_it_is_fetched_afterwards_and_once_it_is_deleted() -> None:
    before = fingerprint(download=DOWNLOAD)
    fetched = archive()
    write_json({"url": DOWNLOAD["urls"][0], "bytes": 5, "sha256": SHA256}, sidecar(fetched))
    assert fingerprint(download=DOWNLOAD) == before
    prepared(before)
    fetched.unlink()
    assert fingerprint(download=DOWNLOAD) == before


def test_another_archive_to_fetch_is_another_corpus() -> None:
    prepared(fingerprint(download=DOWNLOAD))
    assert fingerprint(download=DOWNLOAD | {"urls": DOWNLOAD["urls"][::-1]}) == fingerprint(download=DOWNLOAD)
    assert fingerprint(download=DOWNLOAD | {"urls": ["https://example.org/later.tar.gz"]}) != fingerprint(
        download=DOWNLOAD
    )
    assert fingerprint(download=DOWNLOAD | {"sha256": SHA256}) != fingerprint(download=DOWNLOAD | {"sha256": "6" * 64})


def test_an_archive_of_one_s_own_holds_although_it_could_be_fetched() -> None:
    archive()
    own = fingerprint(download=DOWNLOAD)
    assert own == fingerprint()
    prepared(own)
    Path("corpus.tar.gz").unlink()
    assert fingerprint(download=DOWNLOAD) == own


def demo_config(**changes: Any) -> Config:
    demo = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    demo["runs"]["demo_ru"] |= changes
    return load(demo)


def evaluated(*sets: Any, **changes: Any) -> Config:
    return demo_config(evaluation={"sets": ["demo_ru-dev", *sets]} | changes)


RUN = "results/runs/demo_ru"
NOISY = {"sets": ["demo_ru-test"], "effects": {"noisy": {"noise_snr_db": 5}}}


def test_all_planned_checkpoints_or_those_that_were_kept_are_scored() -> None:
    write_json({"checkpoints": [100, 200]}, Path("plan.json"))
    write_json({"kept": [200]}, Path("training.json"))
    assert steps("plan.json", None) == [100, 200]
    assert steps("plan.json", "training.json") == [200]


def test_each_step_is_scored_on_every_set_by_every_decoder() -> None:
    config = evaluated("demo_ru-test", decoders=["greedy", "lm"])
    assert step_metrics(config, "demo_ru", [100, 200]) == [
        f"{RUN}/evaluation/{step}/demo_ru-{split}/{decoder}/metrics.json"
        for step in (100, 200)
        for split in ("dev", "test")
        for decoder in ("greedy", "lm")
    ]
    assert selected_metrics(config, "demo_ru") == []


def test_sets_that_want_it_and_changed_copies_are_scored_at_the_selected_checkpoint_alone() -> None:
    config = evaluated({"set": "demo_ru-test", "checkpoints": "selected"}, robustness=NOISY)
    assert step_metrics(config, "demo_ru", [7]) == [f"{RUN}/evaluation/7/demo_ru-dev/greedy/metrics.json"]
    assert selected_metrics(config, "demo_ru") == [
        f"{RUN}/evaluation/selected/{name}/greedy/metrics.json" for name in ("demo_ru-test", "demo_ru-test-noisy")
    ]


def test_the_worst_clips_of_a_set_are_looked_for_in_what_was_scored_on_it() -> None:
    config = evaluated("demo_ru-test", decoders=["greedy", "lm"], robustness=NOISY)
    assert set_hypotheses(config, "demo_ru", [7, 8], "demo_ru-test") == [
        f"{RUN}/evaluation/{step}/demo_ru-test/greedy/hypotheses.parquet" for step in (7, 8)
    ]


def test_a_changed_copy_has_one_shard_and_a_set_those_that_can_hold_its_clips() -> None:
    config = evaluated("demo_ru-test", robustness=NOISY)
    copy = f"{RUN}/perturbed/noisy/demo_ru/test/shard-00000.parquet"
    assert set_shards(config, "demo_ru", "demo_ru-test-noisy") == [copy]
    assert set_shards(config, "demo_ru", "demo_ru-test") == role_shards(config, "demo_ru", "demo_ru-test")


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("300", f"--checkpoint {RUN}/checkpoints/checkpoint-300"),
        ("best", f"--checkpoints {RUN}/checkpoints --step-from {RUN}/lm/best.json"),
        ("selected", f"--checkpoints {RUN}/checkpoints --step-from {RUN}/selection.json"),
    ],
)
def test_a_step_is_a_checkpoint_or_named_by_a_file(step: str, said: str) -> None:
    source = step_source("demo_ru", step)
    assert step_options(step, [], checkpoints_folder("demo_ru", demo_config().runs["demo_ru"]), source) == said
    assert source == ([said.split()[-1]] if "--step-from" in said else [])


@pytest.mark.parametrize(
    ("decoders", "step", "name", "needed"),
    [
        (["greedy"], "300", "demo_ru-dev", False),
        (["greedy", "lm"], "300", "demo_ru-dev", True),
        (["greedy", "lm"], "best", "demo_ru-dev", True),
        (["greedy", "lm"], "selected", "demo_ru-test", True),
        (["greedy"], "selected", "demo_ru-test", False),
        # Where dev is scored greedily only to see which checkpoint is best.
        (["greedy", "lm"], "300", "demo_ru-other", False),
    ],
)
def test_log_probabilities_are_kept_where_a_decoder_needs_them(
    decoders: list[str], step: str, name: str, needed: bool
) -> None:
    config = evaluated({"set": "demo_ru-test", "checkpoints": "selected"}, decoders=decoders)
    assert needs_log_probs(config.runs["demo_ru"], step, name) is needed


def test_a_run_that_only_evaluates_scores_its_base_as_step_0() -> None:
    demo = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    evaluation = {"sets": ["demo_ru-test"], "robustness": NOISY}
    demo["runs"]["theirs"] = {
        "language": "ru", "training": "none", "model": {"base": "./theirs"}, "evaluation": evaluation,
    }  # fmt: skip
    config = load(demo)
    run = config.runs["theirs"]
    assert step_options("0", scored_base(run), [], []) == f"--model results/models/{run.model.base_name}"
    assert folder_of(run, selected_files("theirs", run)) == f"results/models/{run.model.base_name}"
    assert checkpoints_folder("theirs", run) == run_plan("theirs", run) == []
    scored = [metrics.split("/")[3:6] for metrics in all_metrics(config, "theirs", [0])]
    assert scored == [["evaluation", "0", name] for name in ("demo_ru-test", "demo_ru-test-noisy")]
    assert run_datasets(run) == ["demo_ru"]
    assert not any("/model/" in file for file in results(config, "theirs"))


def test_a_run_is_made_for_its_card_and_its_pages() -> None:
    made = results(evaluated("demo_ru-test", decoders=["greedy", "lm"]), "demo_ru")
    assert {f"{RUN}/model/README.md", f"{RUN}/worst/demo_ru-test.html"} < set(made)
    assert results(evaluated(worst_clips=0), "demo_ru") == [
        f"{RUN}/model/README.md",
        f"{RUN}/evaluation/breakdown.json",
    ]


def test_dev_counts_for_training_only_where_it_decides_what_is_kept() -> None:
    assert deciding_digest(demo_config(), "demo_ru") == []
    assert deciding_digest(demo_config(checkpoints={"best": 2}), "demo_ru") == ["results/runs/demo_ru/clips/dev.sha256"]


def test_another_split_as_dev_gives_training_the_same_list_of_files() -> None:
    shards = dev_shards(demo_config(), "demo_ru")
    assert set(role_shards(demo_config(), "demo_ru", "dev")) <= set(shards)
    changed = demo_config(dev="demo_ru-test", select={"set": "demo_ru-test"})
    assert dev_shards(changed, "demo_ru") == shards
    assert role_shards(changed, "demo_ru", "dev") != role_shards(demo_config(), "demo_ru", "dev")
