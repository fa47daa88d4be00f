"""`verify` on a finished run: its card is confirmed, and every later change is reported."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from working_copy import WorkingCopy, faulty_config

from speechmill.core.files import read_json, write_json
from speechmill.core.tables import read_table
from speechmill.report import card, evidence, manifest
from speechmill.report.verify_folder import check_folder
from speechmill.report.verify_scores import check_scores

pytestmark = pytest.mark.slow

RUN = Path("results/runs/demo_ru")
CPU = torch.device("cpu")


@pytest.fixture
def results(finished: WorkingCopy, tmp_path: Path) -> Path:
    """A copy of the results of the finished run and its dataset, which a test may change."""
    for part in ("runs/demo_ru", "data"):
        shutil.copytree(finished.folder / "results" / part, tmp_path / part)
    return tmp_path


def differences(results: Path, *, scores: bool = False) -> list[str]:
    """Return the differences in the folder, and with `scores` also those that scoring again shows."""
    model = results / "runs/demo_ru/model"
    found = check_folder(model).differences
    return [*found, *check_scores(model, results / "data", CPU).differences] if scores else found


def test_every_score_is_reproduced(changed: WorkingCopy) -> None:
    output = changed.snakemake(faulty_config(), "verify").output
    assert "DIFFERS" not in output
    sets = ("demo_ru-dev", "demo_ru-test", "demo_ru-test-noise_10db")
    for score in (f"{name} by {decoder}" for name in sets for decoder in ("greedy", "lm")):
        (line,) = (line for line in output.splitlines() if line.strip().startswith(f"recomputed  {score}:"))
        assert line.endswith(": equal within 1e-09, on the same CPU model")
    for decoder in ("greedy", "lm"):
        assert f"recomputed  the code for {decoder} decoding prints" in output
    # It runs whenever it is requested.
    assert changed.planned(faulty_config(), "verify") == {"verify": 1}


def test_scores_of_numbered_clips_are_reproduced(changed: WorkingCopy) -> None:
    config = faulty_config()
    config["datasets"]["demo_ru"]["redistribute"] = False
    output = changed.snakemake(config, "verify").output
    table = evidence.scored_file(changed.folder / RUN / "model", "demo_ru-test", "lm")
    ids = pq.read_table(table, columns=["id"])["id"].to_pylist()
    assert ids == [str(number) for number in range(1, len(ids) + 1)]
    assert "DIFFERS" not in output
    assert "recomputed  demo_ru-test by lm: WER" in output
    assert "recomputed  the code for lm decoding runs" in output


def test_code_in_the_card_prints_the_scored_hypothesis(finished: WorkingCopy) -> None:
    text = (finished.folder / RUN / "model" / card.CARD).read_text(encoding="utf-8")
    step = read_json(finished.folder / RUN / "selection.json")["step"]
    for decoder, block in zip(("greedy", "lm"), text.split("```python\n")[1:], strict=True):
        hypotheses = pd.read_parquet(
            finished.folder / RUN / f"evaluation/{step}/demo_ru-dev/{decoder}/hypotheses.parquet"
        )
        intro, printed = block.split("```")[1:3]
        (scored,) = hypotheses.loc[hypotheses["id"] == intro.split("`")[1], "hypothesis"]
        assert printed.strip() == scored


def test_edited_metrics_fail_verification(changed: WorkingCopy) -> None:
    step = read_json(changed.folder / RUN / "selection.json")["step"]
    path = changed.folder / RUN / f"evaluation/{step}/demo_ru-test/greedy/metrics.json"
    metrics = read_json(path)
    write_json(metrics | {"wer": metrics["wer"] / 2}, path)
    # Snakemake writes the card again from the edited file, so that all files agree; the recordings do not.
    run = changed.snakemake(faulty_config(), "verify", check=False)
    assert run.returncode != 0
    (line,) = (line for line in run.output.splitlines() if "DIFFERS     demo_ru-test by greedy: wer is" in line)
    assert str(metrics["wer"]) in line


def edit_digit_of_card(results: Path) -> None:
    path = results / "runs/demo_ru/model" / card.CARD
    text = path.read_text(encoding="utf-8")
    before, after = text.split("- Wer: ", 1)
    path.write_text(f"{before}- Wer: {(int(after[0]) + 1) % 10}{after[1:]}", encoding="utf-8")


def edit_byte_of_weights(results: Path) -> None:
    path = results / "runs/demo_ru/model/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def edit_metric(results: Path) -> None:
    for path in (results / "runs/demo_ru/evaluation").glob("*/demo_ru-test/lm/metrics.json"):
        write_json(read_json(path) | {"cer": 0.0123}, path)


def edit_evidence(results: Path) -> None:
    path = results / "runs/demo_ru/model" / evidence.FOLDER / "summary.parquet"
    scores = pd.read_parquet(path)
    scores.loc[scores["set"] == "demo_ru-dev", "substitutions"] += 1
    scores.to_parquet(path)


def add_file(results: Path) -> None:
    (results / "runs/demo_ru/model/optimizer.pt").touch()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit_digit_of_card, "README.md, line "),
        (edit_byte_of_weights, "model.safetensors is not that of the selected checkpoint"),
        (edit_metric, "demo_ru-test/lm/metrics.json: cer is 0.0123, but the model's evidence contains"),
        (edit_evidence, "evidence/summary.parquet: substitutions of demo_ru-dev by greedy is"),
        (add_file, "optimizer.pt is in the folder but is not listed in manifest.json"),
    ],
)
@pytest.mark.parametrize("new_manifest", [False, True], ids=["old manifest", "new manifest"])
def test_change_in_the_model_folder_is_named(
    results: Path, change: Callable[[Path], None], message: str, new_manifest: bool
) -> None:
    assert differences(results) == []
    change(results)
    if new_manifest and change is not add_file:
        manifest.write(results / "runs/demo_ru/model")
    found = differences(results)
    assert any(message in line for line in found), found


def test_clip_removed_from_a_shard_is_named(results: Path) -> None:
    shard = results / "data/demo_ru/test/shard-00000.parquet"
    clips = pq.read_table(shard)
    removed = clips["id"][0].as_py()
    pq.write_table(clips.slice(1), shard)
    found = differences(results, scores=True)
    # One of the set, one of its perturbed copy.
    assert len(found) == 2
    for line in found:
        assert line.startswith("demo_ru-test")
        assert f"{shard} does not contain {removed} where its index says" in line


def test_clip_removed_from_shard_and_index_is_named(results: Path) -> None:
    for name in ("shard-00000", "index"):
        path = results / f"data/demo_ru/test/{name}.parquet"
        clips = pq.read_table(path)
        # The last one, so that the others keep their positions.
        removed = clips["id"][-1].as_py()
        pq.write_table(clips.slice(0, len(clips) - 1), path)
    found = differences(results, scores=True)
    assert f"demo_ru-test: the clip {removed} was scored but is not among the recordings" in found


def test_swapped_recordings_are_named(results: Path) -> None:
    shard = results / "data/demo_ru/test/shard-00000.parquet"
    clips = pq.read_table(shard).to_pylist()
    clips[0]["audio"], clips[1]["audio"] = clips[1]["audio"], clips[0]["audio"]
    schema = read_table(shard).schema
    pq.write_table(pq.read_table(shard).from_pylist(clips, schema=schema), shard, row_group_size=16)
    found = differences(results, scores=True)
    for clip in clips[:2]:
        assert f"demo_ru-test: the audio of the clip {clip['id']} is not the audio that was scored" in found


def test_unknown_code_in_the_card_is_not_run(results: Path) -> None:
    path = results / "runs/demo_ru/model" / evidence.FOLDER / "usage.json"
    shown = read_json(path)
    trap = results / "trap"
    shown[0]["code"] = f"open({str(trap)!r}, 'w')"
    write_json(shown, path)
    found = check_scores(results / "runs/demo_ru/model", results / "data", CPU)
    assert "skipped     the code for greedy decoding is not from this version of speechmill, so it is not run" in (
        found.passed
    )
    assert not trap.exists()


def test_figures_without_a_source_are_named(results: Path) -> None:
    path = results / "runs/demo_ru/model" / card.CARD
    text = path.read_text(encoding="utf-8")
    assert "More information needed" not in text
    path.write_text(text.replace("## Training procedure", "## Awards\n\nBest of 1,000.\n\n## Training procedure"))
    assert "README.md: the section 'Awards' has figures without a known source" in differences(results)


def test_front_matter_of_another_version_is_checked(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = results / "runs/demo_ru/model"
    settings = model / evidence.FOLDER / "settings.json"
    content = read_json(settings)
    content["versions"]["card"] = 0
    write_json(content, settings)
    manifest.write(model)
    assert differences(results) == []
    assert "was written by another version of speechmill" in capsys.readouterr().err
    path = model / card.CARD
    before, after = path.read_text(encoding="utf-8").split("value: ", 1)
    path.write_text(f"{before}value: 1{after}", encoding="utf-8")
    manifest.write(model)
    assert differences(results) == ["README.md: its front matter does not follow from the evidence"]
