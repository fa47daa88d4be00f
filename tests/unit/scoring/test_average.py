import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from material import as_json
from speechmill.core.command import SpeechmillError
from speechmill.core.files import file_digest, read_json, write_digests
from speechmill.scoring import average
from speechmill.scoring.average import is_mean, mean_weights

SCORES = {100: 0.9, 200: 0.5, 300: 0.7}


def checkpoint(folder: Path, **tensors: torch.Tensor) -> Path:
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text("{}")
    write_digests(folder)
    return folder


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    rows = [
        {"step": step, "set": "c-dev", "decoder": "greedy", "wer": wer, "cer": wer, "loss": wer}
        for step, wer in SCORES.items()
    ]
    pd.DataFrame(rows).to_parquet(folder / "steps.parquet")
    settings = as_json({"set": "c-dev", "decoder": "greedy", "metric": "wer", "average": count})
    arguments = ["--settings", settings, "--summary", folder / "steps.parquet", "--checkpoints", folder / "checkpoints",
                 "--average", folder / "average", "--record", folder / "average.json"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["average", *map(str, arguments)])
    average.main()


def test_mean_keeps_dtypes_and_the_integers_of_the_last_checkpoint(tmp_path: Path) -> None:
    folders = [
        checkpoint(
            tmp_path / str(value), weight=torch.tensor([value, 1e8 * value]), half=torch.tensor([value]).half(),
            running_var=torch.tensor([2.0 * value]), num_batches_tracked=torch.tensor(int(value)),
        )
        for value in (1.0, 2.0, 6.0)
    ]  # fmt: skip
    mean = mean_weights(folders)
    assert mean["weight"].tolist() == [3.0, 3e8]
    assert (mean["half"].dtype, mean["half"].item()) == (torch.float16, 3.0)
    assert mean["running_var"].item() == 6.0
    assert (mean["num_batches_tracked"].dtype, mean["num_batches_tracked"].item()) == (torch.int64, 6)


def test_sum_is_in_fp64(tmp_path: Path) -> None:
    # In fp32, 2**24 + 1 is 2**24.
    folders = [checkpoint(tmp_path / str(i), x=torch.tensor(each)) for i, each in enumerate((2.0**24, 1.0, 1.0, 2.0))]
    assert mean_weights(folders)["x"].item() == (2**24 + 4) / 4


def test_different_tensors_have_no_mean(tmp_path: Path) -> None:
    folders = [checkpoint(tmp_path / name, **{name: torch.zeros(1)}) for name in ("a", "b")]
    with pytest.raises(SpeechmillError, match="different tensors"):
        mean_weights(folders)


def test_best_checkpoints_are_averaged_and_a_repetition_has_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in SCORES:
        checkpoint(tmp_path / f"checkpoints/checkpoint-{step}", x=torch.tensor([step / 3]))
    run(tmp_path, monkeypatch, 2)
    assert read_json(tmp_path / "average.json") == {"step": 300, "averaged": [200, 300]}
    mean = tmp_path / "average/model.safetensors"
    assert load_file(mean)["x"].item() == pytest.approx(250 / 3)
    assert (tmp_path / "average/config.json").is_file()
    best = [tmp_path / f"checkpoints/checkpoint-{step}" for step in (200, 300)]
    assert is_mean(tmp_path / "average", best)
    assert not is_mean(best[0], best)
    before = file_digest(mean)
    run(tmp_path, monkeypatch, 2)
    assert file_digest(mean) == before


def test_more_than_the_checkpoints_that_exist_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpeechmillError, match=r"select\.average is 4, but only 3 checkpoints have a wer on c-dev"):
        run(tmp_path, monkeypatch, 4)
