"""Recipes on corpora in the layout that they are written for, made here."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from working_copy import working_copy

PLAN = "results/runs/fsdd/plan.json"


@pytest.mark.slow
def test_the_fsdd_recipe_reads_recordings_in_their_layout_up_to_the_plan(tmp_path: Path) -> None:
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    noise = np.random.default_rng(0)
    for digit, speaker, take in product(range(10), ("george", "theo"), (5, 39, 40, 44, 45, 49)):
        sf.write(recordings / f"{digit}_{speaker}_{take}.wav", noise.normal(0, 0.1, 4000), 8000)
    copy = working_copy(tmp_path / "copy")
    place = f"datasets={{fsdd: {{path: {recordings}}}}}"
    copy.snakemake(None, PLAN, "--configfile", "config/recipes/fsdd.yaml", "--config", place)
    assert json.loads((copy.folder / PLAN).read_text())["clips"] == 40
    clips = pd.read_parquet(copy.folder / "results/runs/fsdd/clips/train.parquet").set_index("id")
    assert clips.loc["7_theo_39.wav", "text"] == "seven"
    assert clips.loc["7_theo_39.wav", "speaker_id"] == "theo"
    assert clips.loc["7_theo_39.wav", "num_samples"] == 8000
    assert set(clips.index.str.extract(r"_(\d+)\.")[0]) == {"5", "39"}
