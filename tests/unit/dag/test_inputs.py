from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from material import ROOT
from speechmill.config.root import Config, load
from speechmill.dag.inputs import Inputs


class Wildcards(SimpleNamespace):
    """Wildcards as Snakemake passes them."""

    def items(self) -> Any:
        return vars(self).items()


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    return Inputs(load(yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))), "moved/")


def test_function_gets_the_wildcards_that_it_names(inputs: Inputs) -> None:
    def title(config: Config, run: str, step: str) -> str:
        return f"{len(config.runs)} {run} {step}"

    assert inputs.from_config(title)(Wildcards(run="demo_ru", step="7", unused="x")) == "1 demo_ru 7"


def test_function_gets_the_input_files_that_it_names(inputs: Inputs) -> None:
    def first(config: Config, run: str, input: Any) -> str:
        return f"{run} {input.plan}"

    assert inputs.from_config(first)(Wildcards(run="demo_ru"), SimpleNamespace(plan="p")) == "demo_ru p"


def test_function_gets_the_prefix_that_it_names(inputs: Inputs) -> None:
    def folder(config: Config, run: str, prefix: str) -> str:
        return f"{prefix}{run}"

    assert inputs.from_config(folder)(Wildcards(run="demo_ru")) == "moved/demo_ru"


def test_each_fills_every_pattern_once(inputs: Inputs) -> None:
    def shards(config: Config, dataset: str) -> list[dict[str, str]]:
        return [{"split": split, "number": number} for split in ("train", "dev") for number in ("0", "1")]

    made = inputs.each(["{dataset}/{split}/{number}", "{dataset}/{split}"], shards)(Wildcards(dataset="ru"))
    assert made == ["ru/train/0", "ru/train", "ru/train/1", "ru/dev/0", "ru/dev", "ru/dev/1"]


def test_files_depend_on_a_condition_of_the_run(inputs: Inputs) -> None:
    wildcards = Wildcards(run="demo_ru")
    assert inputs.if_run(lambda run: run.trains, "{run}/plan", "{run}/log")(wildcards) == [
        "demo_ru/plan",
        "demo_ru/log",
    ]
    assert inputs.if_run(lambda run: not run.trains, "{run}/plan")(wildcards) == []


def test_patterns_and_functions_are_joined(inputs: Inputs) -> None:
    joined = inputs.all_of("{run}/a", inputs.if_run(lambda run: False, "{run}/b"), lambda wildcards: ["c"])
    assert joined(Wildcards(run="demo_ru")) == ["demo_ru/a", "c"]
