"""Which runs of a sweep have the same language model."""

import copy
from typing import Any

import yaml

from material import ROOT
from speechmill.config.root import load
from speechmill.dag.sharing import lm_owners

DEMO = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))


def owners(**matrix: list[Any]) -> dict[str, str]:
    """Return the owners of the language models of the demo's run with a sweep; `__` in a key is a dot."""
    raw = copy.deepcopy(DEMO)
    sweep = {key.replace("__", "."): values for key, values in matrix.items()}
    raw["runs"] = {"demo": raw["runs"]["demo_ru"] | {"sweep": sweep}}
    return lm_owners(load(raw))


def test_training_settings_share_it() -> None:
    shared = owners(finetune__learning_rate=[1e-3, 3e-3], seed=[1, 2])
    assert shared == dict.fromkeys(
        ["demo_lr0_001_seed2", "demo_lr0_003_seed1", "demo_lr0_003_seed2"], "demo_lr0_001_seed1"
    )


def test_other_texts_or_clips_have_their_own() -> None:
    assert owners(text__case=["lower", "keep"]) == {}
    assert owners(clips__max_seconds=[5, 10]) == {}
    assert owners(evaluation__lm__order=[2, 3], seed=[1, 2]) == {
        "demo_order2_seed2": "demo_order2_seed1",
        "demo_order3_seed2": "demo_order3_seed1",
    }


def test_runs_without_a_sweep_share_nothing() -> None:
    assert lm_owners(load(DEMO)) == {}
