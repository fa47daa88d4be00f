"""A sweep: what its runs share, and the page that compares them."""

from pathlib import Path

from working_copy import SPOKEN, tiny_config, working_copy


def test_runs_of_a_sweep_share_the_data_and_the_language_model(tmp_path: Path) -> None:
    copy, config = working_copy(tmp_path), tiny_config(SPOKEN)
    run = config["runs"].pop("demo_ru")
    config["runs"]["demo"] = run | {"sweep": {"finetune.learning_rate": ["1e-3", "3e-3"], "seed": [1, 2, 3]}}
    jobs = copy.planned(config)
    once = {"ingest_dataset": 1, "shards": 4, "lm_text": 1, "lm": 1, "runs_table": 1}
    each = {"finetune": 6, "lm_weights": 6, "card": 6, "shared_lm_text": 5, "shared_lm": 5}
    assert {rule: jobs.get(rule) for rule in (once | each)} == once | each
