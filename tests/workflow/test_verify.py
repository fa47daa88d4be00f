"""Whether `verify` finds a finished run's card true, and whatever was changed in it or under it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from working_copy import WorkingCopy, faulty_config

from speechmill.report import card, evidence, manifest
from speechmill.report.verify_folder import check_folder
from speechmill.report.verify_scores import check_scores

pytestmark = pytest.mark.slow

RUN = Path("results/runs/demo_ru")
CPU = torch.device("cpu")


@pytest.fixture
def results(finished: WorkingCopy, tmp_path: Path) -> Path:
    """A copy of what the finished run and its dataset have left, for a test to change."""
    for part in ("runs/demo_ru", "data"):
        shutil.copytree(finished.folder / "results" / part, tmp_path / part)
    return tmp_path


def differences(results: Path, *, scores: bool = False) -> list[str]:
    model = results / "runs/demo_ru/model"
    found = check_folder(model).differences
    return [*found, *check_scores(model, results / "data", CPU).differences] if scores else found


def test_every_score_of_a_finished_run_comes_out_again(changed: WorkingCopy) -> None:
    said = changed.snakemake(faulty_config(), "verify").output
    assert "DIFFERS" not in said
    sets = ("demo_ru-dev", "demo_ru-test", "demo_ru-test-noise_10db")
    for what in (f"{name} by {decoder}" for name in sets for decoder in ("greedy", "lm")):
        (line,) = (line for line in said.splitlines() if line.strip().startswith(f"recomputed  {what}:"))
        assert line.endswith(": equal")
    for decoder in ("greedy", "lm"):
        assert f"recomputed  the code for {decoder} decoding prints" in said
    # Asked again it looks again.
    assert changed.snakemake(faulty_config(), "verify", "--dry-run").jobs == {"verify": 1}


def test_the_code_in_the_card_prints_what_was_scored(finished: WorkingCopy) -> None:
    text = (finished.folder / RUN / "model" / card.CARD).read_text(encoding="utf-8")
    step = json.loads((finished.folder / RUN / "selection.json").read_text())["step"]
    for decoder, block in zip(("greedy", "lm"), text.split("```python\n")[1:], strict=True):
        hypotheses = pd.read_parquet(
            finished.folder / RUN / f"evaluation/{step}/demo_ru-dev/{decoder}/hypotheses.parquet"
        )
        told, printed = block.split("```")[1:3]
        (scored,) = hypotheses.loc[hypotheses["id"] == told.split("`")[1], "hypothesis"]
        assert printed.strip() == scored


def test_metrics_that_were_edited_do_not_pass(changed: WorkingCopy) -> None:
    step = json.loads((changed.folder / RUN / "selection.json").read_text())["step"]
    path = changed.folder / RUN / f"evaluation/{step}/demo_ru-test/greedy/metrics.json"
    metrics = json.loads(path.read_text())
    path.write_text(json.dumps(metrics | {"wer": metrics["wer"] / 2}))
    # Snakemake makes the card anew of what it finds, so that all files agree; the recordings do not.
    run = changed.snakemake(faulty_config(), "verify", check=False)
    assert run.returncode != 0
    (line,) = (line for line in run.output.splitlines() if "DIFFERS     demo_ru-test by greedy: wer is" in line)
    assert str(metrics["wer"]) in line


def one_digit(results: Path) -> None:
    path = results / "runs/demo_ru/model" / card.CARD
    text = path.read_text(encoding="utf-8")
    before, after = text.split("- Wer: ", 1)
    path.write_text(f"{before}- Wer: {(int(after[0]) + 1) % 10}{after[1:]}", encoding="utf-8")


def one_byte(results: Path) -> None:
    path = results / "runs/demo_ru/model/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def one_metric(results: Path) -> None:
    for path in (results / "runs/demo_ru/evaluation").glob("*/demo_ru-test/lm/metrics.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"cer": 0.0123}))


def one_figure_of_the_evidence(results: Path) -> None:
    path = results / "runs/demo_ru/model" / evidence.FOLDER / "summary.parquet"
    scores = pd.read_parquet(path)
    scores.loc[scores["set"] == "demo_ru-dev", "substitutions"] += 1
    scores.to_parquet(path)


def one_file_more(results: Path) -> None:
    (results / "runs/demo_ru/model/optimizer.pt").touch()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (one_digit, "README.md, line "),
        (one_byte, "model.safetensors is not that of the selected checkpoint"),
        (one_metric, "demo_ru-test/lm/metrics.json: cer is 0.0123, but the model's evidence contains"),
        (one_figure_of_the_evidence, "evidence/summary.parquet: substitutions of demo_ru-dev by greedy is"),
        (one_file_more, "optimizer.pt is in the folder but is not listed in manifest.json"),
    ],
)
@pytest.mark.parametrize("covered", [False, True], ids=["as it is", "with a new manifest"])
def test_what_was_changed_in_the_folder_is_named(
    results: Path, change: Callable[[Path], None], said: str, covered: bool
) -> None:
    assert differences(results) == []
    change(results)
    if covered and change is not one_file_more:
        manifest.write(results / "runs/demo_ru/model")
    found = differences(results)
    assert any(said in line for line in found), found


def test_a_clip_that_was_taken_out_of_a_shard_is_named(results: Path) -> None:
    shard = results / "data/demo_ru/test/shard-00000.parquet"
    clips = pq.read_table(shard)
    gone = clips["id"][0].as_py()
    pq.write_table(clips.slice(1), shard)
    found = differences(results, scores=True)
    # Of the set and of its changed copy.
    assert len(found) == 2
    for line in found:
        assert line.startswith("demo_ru-test")
        assert f"{shard} does not contain {gone} where its index says" in line


def test_a_clip_that_was_taken_out_of_shard_and_index_is_named(results: Path) -> None:
    for name in ("shard-00000", "index"):
        path = results / f"data/demo_ru/test/{name}.parquet"
        clips = pq.read_table(path)
        # The last one, so that the others stay where they are.
        gone = clips["id"][-1].as_py()
        pq.write_table(clips.slice(0, len(clips) - 1), path)
    found = differences(results, scores=True)
    assert f"demo_ru-test: the clip {gone} was scored but is not among the recordings" in found


def test_other_recordings_under_the_same_names_are_named(results: Path) -> None:
    shard = results / "data/demo_ru/test/shard-00000.parquet"
    clips = pq.read_table(shard).to_pylist()
    clips[0]["audio"], clips[1]["audio"] = clips[1]["audio"], clips[0]["audio"]
    schema = pq.read_schema(shard)
    pq.write_table(pq.read_table(shard).from_pylist(clips, schema=schema), shard, row_group_size=16)
    found = differences(results, scores=True)
    for clip in clips[:2]:
        assert f"demo_ru-test: the audio of the clip {clip['id']} is not the audio that was scored" in found


def test_code_that_is_not_ours_is_not_run(results: Path) -> None:
    path = results / "runs/demo_ru/model" / evidence.FOLDER / "usage.json"
    shown = json.loads(path.read_text(encoding="utf-8"))
    trap = results / "trap"
    shown[0]["code"] = f"open({str(trap)!r}, 'w')"
    path.write_text(json.dumps(shown), encoding="utf-8")
    found = check_scores(results / "runs/demo_ru/model", results / "data", CPU)
    assert "skipped     the code for greedy decoding is not from this version of speechmill, so it is not run" in (
        found.passed
    )
    assert not trap.exists()


def test_the_card_says_no_figure_that_nothing_accounts_for(results: Path) -> None:
    path = results / "runs/demo_ru/model" / card.CARD
    text = path.read_text(encoding="utf-8")
    assert "More information needed" not in text
    path.write_text(text.replace("## Training procedure", "## Awards\n\nBest of 1,000.\n\n## Training procedure"))
    assert "README.md: the section 'Awards' has figures without a known source" in differences(results)


def test_a_card_of_another_version_of_speechmill_is_held_by_its_front_matter(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = results / "runs/demo_ru/model"
    settings = model / evidence.FOLDER / "settings.json"
    content = json.loads(settings.read_text(encoding="utf-8"))
    content["versions"]["card"] = 0
    settings.write_text(json.dumps(content), encoding="utf-8")
    manifest.write(model)
    assert differences(results) == []
    assert "was written by another version of speechmill" in capsys.readouterr().err
    path = model / card.CARD
    before, after = path.read_text(encoding="utf-8").split("value: ", 1)
    path.write_text(f"{before}value: 1{after}", encoding="utf-8")
    manifest.write(model)
    assert differences(results) == ["README.md: its front matter does not follow from the evidence"]
