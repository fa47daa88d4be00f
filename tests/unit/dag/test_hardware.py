from pathlib import Path
from typing import Any

import pytest
import yaml

from material import ROOT
from speechmill.config.root import Config, load
from speechmill.core.tables import write_json
from speechmill.dag.hardware import (
    evaluate_mb,
    finetune_gpus,
    finetune_mb,
    log_probs_gpus,
    log_probs_mb,
    refusals,
    tables_mb,
)

DEMO = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))


def demo(**changes: Any) -> Config:
    return load(DEMO | {"runs": {"demo_ru": DEMO["runs"]["demo_ru"] | changes}})


@pytest.mark.parametrize(
    ("device", "gpus", "granted", "refused"),
    [
        ("gpu", 1, 0, "runs.demo_ru.device is gpu, and --resources gpu=0 grants none"),
        ("gpu", 1, 1, None),
        ("gpu", 4, 2, "runs.demo_ru.gpus is 4, and --resources gpu=2 grants fewer: grant 4, or set runs.demo_ru.gpus"),
        ("gpu", 4, 4, None),
        ("gpu", 4, 8, None),
        # Where there is no GPU, the processor does it.
        ("auto", 1, 0, None),
        ("auto", 4, 0, None),
        ("auto", 4, 2, "runs.demo_ru.gpus is 4, and --resources gpu=2 grants fewer"),
        ("cpu", 4, 0, None),
        ("cpu", 4, 1, None),
    ],
)
def test_a_run_that_wants_more_gpus_than_are_granted_is_refused_with_a_sentence(
    device: str, gpus: int, granted: int, refused: str | None
) -> None:
    sentences = refusals(demo(device=device, gpus=gpus), granted)
    assert len(sentences) == (refused is not None)
    assert all(sentence.startswith(str(refused)) for sentence in sentences)


def test_training_takes_a_gpu_a_process_and_none_on_the_processor() -> None:
    devices = [("gpu", 4), ("auto", 2), ("cpu", 4)]
    assert [finetune_gpus(demo(device=d, gpus=n).runs["demo_ru"]) for d, n in devices] == [4, 2, 0]


def test_a_pass_over_a_set_takes_a_gpu_unless_its_set_could_not_be_had(tmp_path: Path) -> None:
    had, not_had = tmp_path / "had.json", tmp_path / "not_had.json"
    write_json({"unavailable": None}, had)
    write_json({"unavailable": "the Hub says no"}, not_had)
    gpu, cpu = (demo(device=device, gpus=4).runs["demo_ru"] for device in ("gpu", "cpu"))
    assert [log_probs_gpus(gpu, str(counts)) for counts in (had, not_had)] == [1, 0]
    assert log_probs_gpus(cpu, str(had)) == 0


def plan(folder: Path, parameters: float) -> str:
    write_json({"parameters": round(parameters), "memory_bytes": round(20 * parameters)}, folder / "plan.json")
    return str(folder / "plan.json")


def test_memory_holds_the_weights_that_are_read_beside_the_model(tmp_path: Path) -> None:
    # Source: the weights of facebook/wav2vec2-xls-r-1b, about 962 million in 32 bits.
    large = plan(tmp_path, 962e6)
    section = demo(device="gpu").runs["demo_ru"]
    assert finetune_mb(section, large) > 2 * 3850
    assert log_probs_mb([large], []) > 2 * 3850
    assert finetune_mb(section, plan(tmp_path, 1e6)) < 8000


def test_memory_grows_with_processes_workers_and_training_on_the_processor(tmp_path: Path) -> None:
    planned = plan(tmp_path, 100e6)
    finetune = DEMO["runs"]["demo_ru"]["finetune"]
    one = finetune_mb(demo(device="gpu").runs["demo_ru"], planned)
    assert finetune_mb(demo(device="gpu", gpus=4).runs["demo_ru"], planned) == 4 * one
    assert finetune_mb(demo(device="gpu", finetune=finetune | {"workers": 4}).runs["demo_ru"], planned) > one
    # What the plan says of the device's memory is the host's there.
    assert finetune_mb(demo(device="cpu").runs["demo_ru"], planned) == one + 2000


def test_a_base_that_is_only_scored_takes_memory_by_the_size_of_its_files(tmp_path: Path) -> None:
    small, large = (log_probs_mb([], [str(folder(tmp_path / str(size), size))]) for size in (1_000_000, 900_000_000))
    assert large - small == pytest.approx(3 * 899, abs=1)


def folder(path: Path, size: int) -> Path:
    path.mkdir()
    with (path / "model.safetensors").open("wb") as file:
        file.truncate(size)
    return path


def test_decoding_takes_memory_by_the_language_model_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "lm.binary").write_bytes(bytes(5_000_000))
    section = demo(device="cpu").runs["demo_ru"]
    greedy, lm = (evaluate_mb(section, files) for files in ([], [str(tmp_path / "lm.binary")]))
    assert lm > greedy + 5


def test_large_tables_need_memory_by_their_size_and_small_ones_the_least(tmp_path: Path) -> None:
    for name, size in (("small", 1_000), ("large", 2_000_000_000)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    small, large = str(tmp_path / "small"), str(tmp_path / "large")
    assert tables_mb([small], 4000) == tables_mb([], 4000) == 4000
    assert tables_mb([small, large], 4000) == 16_000
