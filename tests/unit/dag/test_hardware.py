from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import yaml

from material import ROOT
from speechmill.config.root import Config, load
from speechmill.core.files import write_json
from speechmill.dag import hardware
from speechmill.dag.hardware import (
    decoding_mb,
    finetune_gpus,
    finetune_mb,
    gpu_errors,
    log_probs_gpus,
    log_probs_mb,
    missing_gpu_errors,
    segment_mb,
    tables_mb,
    transcribe_mb,
)
from speechmill.inference import segment

DEMO = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))


def demo(**changes: Any) -> Config:
    return load(DEMO | {"runs": {"demo_ru": DEMO["runs"]["demo_ru"] | changes}})


def files(**named: Any) -> SimpleNamespace:
    """The input files of a job, as Snakemake passes them."""
    return SimpleNamespace(**named)


@pytest.mark.parametrize(
    ("device", "gpus", "granted", "error"),
    [
        ("gpu", 1, 0, "runs.demo_ru.device is gpu, but --resources gpu=0 grants no GPU"),
        ("gpu", 1, 1, None),
        ("gpu", 4, 2, "runs.demo_ru.gpus is 4, but --resources gpu=2 grants fewer: grant 4, or set runs.demo_ru.gpus"),
        ("gpu", 4, 4, None),
        ("gpu", 4, 8, None),
        # Without a GPU, the CPU is used.
        ("auto", 1, 0, None),
        ("auto", 4, 0, None),
        ("auto", 4, 2, "runs.demo_ru.gpus is 4, but --resources gpu=2 grants fewer"),
        ("cpu", 4, 0, None),
        ("cpu", 4, 1, None),
    ],
)
def test_too_few_granted_gpus_are_an_error(device: str, gpus: int, granted: int, error: str | None) -> None:
    errors = gpu_errors(demo(device=device, gpus=gpus), granted)
    assert len(errors) == (error is not None)
    assert all(each.startswith(str(error)) for each in errors)


@pytest.mark.parametrize(
    ("device", "gpus", "found", "error"),
    [
        (
            "gpu",
            1,
            0,
            "PyTorch finds no GPU on this machine: run it on another machine, or set runs.demo_ru.device",
        ),
        (
            "gpu",
            4,
            2,
            "runs.demo_ru.gpus is 4, but this machine has 2 that PyTorch can use",
        ),
        ("gpu", 2, 2, None),
        ("auto", 1, 0, None),
        ("cpu", 4, 0, None),
    ],
)
def test_too_few_gpus_on_this_machine_are_an_error(
    monkeypatch: pytest.MonkeyPatch, device: str, gpus: int, found: int, error: str | None
) -> None:
    monkeypatch.setattr(hardware, "machine_gpus", lambda: found)
    config = demo(device=device, gpus=gpus)
    errors = missing_gpu_errors(config, ["demo_ru"])
    assert [error in message for message in errors if error] == ([True] if error else [])
    assert len(errors) == (1 if error else 0)
    assert missing_gpu_errors(config, ["another"]) == []


def test_training_requests_one_gpu_a_process() -> None:
    devices = [("gpu", 4), ("auto", 2), ("cpu", 4)]
    assert [finetune_gpus(demo(device=d, gpus=n), "demo_ru") for d, n in devices] == [4, 2, 0]


def test_unavailable_set_requests_no_gpu(tmp_path: Path) -> None:
    available, unavailable = tmp_path / "available.json", tmp_path / "unavailable.json"
    write_json({"unavailable": None}, available)
    write_json({"unavailable": "the Hub refuses"}, unavailable)
    gpu, cpu = (demo(device=device, gpus=4) for device in ("gpu", "cpu"))
    counts = [log_probs_gpus(gpu, "demo_ru", files(counts=str(path))) for path in (available, unavailable)]
    assert counts == [1, 0]
    assert log_probs_gpus(cpu, "demo_ru", files(counts=str(available))) == 0


def plan(folder: Path, parameters: float) -> SimpleNamespace:
    write_json({"parameters": round(parameters), "memory_bytes": round(20 * parameters)}, folder / "plan.json")
    return files(plan=str(folder / "plan.json"))


def test_memory_covers_the_weights_and_their_copies(tmp_path: Path) -> None:
    # Source: the weights of facebook/wav2vec2-xls-r-1b, about 962 million in 32 bits.
    large = plan(tmp_path, 962e6)
    assert finetune_mb(demo(device="gpu"), "demo_ru", large) > 2 * 3850
    assert log_probs_mb(demo(device="gpu"), "demo_ru", files(plan=[large.plan])) > 2 * 3850
    assert finetune_mb(demo(device="gpu"), "demo_ru", plan(tmp_path, 1e6)) < 8000


def test_memory_grows_with_processes_and_workers(tmp_path: Path) -> None:
    planned = plan(tmp_path, 100e6)
    section = DEMO["runs"]["demo_ru"]["finetune"]
    one = finetune_mb(demo(device="gpu"), "demo_ru", planned)
    assert finetune_mb(demo(device="gpu", gpus=4), "demo_ru", planned) == 4 * one
    assert finetune_mb(demo(device="gpu", finetune=section | {"workers": 4}), "demo_ru", planned) > one
    noise = {"noise": {"probability": 0.5, "snr_db": [5, 20], "folder": "noise"}}
    assert finetune_mb(demo(device="gpu", augment=noise), "demo_ru", planned) > one + 512
    # On a CPU, the memory of the device is that of the host.
    assert finetune_mb(demo(device="cpu"), "demo_ru", planned) == one + 2000
    assert finetune_mb(demo(device="auto"), "demo_ru", planned) == one + 2000


def test_forward_pass_needs_memory_for_its_batch_where_it_may_be_on_the_cpu(tmp_path: Path) -> None:
    planned = files(plan=[plan(tmp_path, 100e6).plan])
    memory = {device: log_probs_mb(demo(device=device), "demo_ru", planned) for device in ("gpu", "auto", "cpu")}
    # 120 s of 1.6 million outputs in 32 bits, twice.
    assert memory["auto"] == memory["cpu"] > memory["gpu"] + 120 * 1.6 * 4 * 2


@pytest.mark.parametrize(("stage", "made_by"), [(segment_mb, "segmented"), (transcribe_mb, "transcribed")])
def test_new_clips_need_memory_for_a_batch_where_it_may_be_on_the_cpu(stage: Any, made_by: str, tmp_path: Path) -> None:
    def requested(device: str) -> int:
        run = SimpleNamespace(device=device, evaluation=SimpleNamespace(batch_seconds=120.0))
        dataset = SimpleNamespace(device=device, by="a")
        config: Any = SimpleNamespace(runs={"a": run}, **{made_by: {"talks": dataset}})
        return int(stage(config, "talks", files(model=[str(tmp_path)], lm=[])))

    with (
        patch.object(hardware, "folder_of", lambda *_: str(tmp_path)),
        patch.object(hardware, "decoding_mb", lambda *_: 0),
    ):
        assert requested("cpu") == requested("auto") >= requested("gpu") + 120 * 1.6 * 4 * 2


def test_the_largest_batch_of_an_alignment_is_known() -> None:
    assert hardware._SEGMENT_SECONDS == segment._BATCH_SECONDS


def test_memory_of_a_scored_base_follows_its_files(tmp_path: Path) -> None:
    scored = {"language": "ru", "training": "none", "model": {"base": "./b"}, "evaluation": {"sets": ["demo_ru-test"]}}
    config = load(DEMO | {"runs": {"scored": scored}})
    bases = [[str(folder(tmp_path / str(size), size))] for size in (1_000_000, 900_000_000)]
    small, large = (log_probs_mb(config, "scored", files(base=base)) for base in bases)
    assert large - small == pytest.approx(3 * 899, abs=1)


def folder(path: Path, size: int) -> Path:
    path.mkdir()
    with (path / "model.safetensors").open("wb") as file:
        file.truncate(size)
    return path


def test_memory_of_decoding_follows_the_language_model(tmp_path: Path) -> None:
    (tmp_path / "lm.binary").write_bytes(bytes(5_000_000))
    lms: list[list[str]] = [[], [str(tmp_path / "lm.binary")]]
    greedy, lm = (decoding_mb(demo(device="cpu"), "demo_ru", files(lm=lm)) for lm in lms)
    assert lm > greedy + 5


def test_memory_of_tables_follows_their_size(tmp_path: Path) -> None:
    for name, size in (("small", 1_000), ("large", 2_000_000_000)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    small, large = str(tmp_path / "small"), str(tmp_path / "large")
    assert tables_mb([small], 4000) == tables_mb([], 4000) == 4000
    assert tables_mb([small, large], 4000) == 16_000
