"""Export of a finished run, and of a run that only scores a model."""

from pathlib import Path

import pandas as pd
import pytest
from working_copy import WorkingCopy, faulty_config

pytestmark = pytest.mark.slow

RUN = Path("results/runs/demo_ru")


def test_exports_are_scored_in_the_card_and_verified(changed: WorkingCopy) -> None:
    config = faulty_config()
    config["runs"]["demo_ru"]["export"] = ["fp32", "int8"]
    config["runs"]["scored"] = {
        "training": "none", "language": "ru", "device": "cpu", "model": {"run": "demo_ru"}, "export": ["int8"],
        "evaluation": {"sets": ["demo_ru-test"], "worst_clips": 0},
    }  # fmt: skip

    run = changed.snakemake(config)

    # Nothing is trained or scored again.
    assert {rule: run.jobs.get(rule, 0) for rule in ("export", "score_export", "finetune", "log_probs")} == {
        "export": 2, "score_export": 3, "finetune": 0, "log_probs": 1,
    }  # fmt: skip
    for name, clips in (("demo_ru-dev", 6), ("demo_ru-test", 8)):
        metrics = changed.read_json(RUN / "export" / name / "metrics.json")
        assert metrics["exports"]["fp32"]["different_clips"] == 0
        hypotheses = pd.read_parquet(changed.folder / RUN / "export" / name / "hypotheses.parquet")
        assert hypotheses["precision"].value_counts().to_dict() == {"fp32": clips, "int8": clips}
    scored = changed.read_json("results/runs/scored/export/demo_ru-test/metrics.json")
    assert scored["exports"]["int8"]["clips_scored"] == 8
    card = (changed.folder / RUN / "model/README.md").read_text(encoding="utf-8")
    assert "ONNX int8" in card.partition("### Exports")[2]
    output = changed.snakemake(config, "verify").output
    assert "DIFFERS" not in output
    assert output.count("recomputed  onnx/model") == 4
    assert changed.planned(config) == {}
