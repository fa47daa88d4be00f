import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from material import as_json
from speechmill.core.files import read_json, write_json
from speechmill.core.schemas import CLIPS, EXCLUDED, INDEX, SAMPLE_RATE
from speechmill.core.tables import read_table, write_arrow_table, write_table
from speechmill.corpus import clips
from speechmill.corpus.ingest_pieces import transcriber
from speechmill.corpus.machine_transcripts import machine_transcripts

SUMMARY = [
    {"step": 5, "set": "cv-dev", "decoder": "greedy", "wer": 0.4, "cer": 0.1},
    {"step": 5, "set": "cv-dev", "decoder": "lm", "wer": 0.3, "cer": 0.05},
    {"step": 9, "set": "cv-dev", "decoder": "lm", "wer": 0.2, "cer": 0.02},
]


def test_transcriber_has_the_rates_of_its_step_and_decoder(tmp_path: Path) -> None:

    write_json({"step": 5, "set": "cv-dev"}, tmp_path / "selection.json")
    write_arrow_table(pa.Table.from_pylist(SUMMARY), tmp_path / "summary.parquet")
    found = transcriber(tmp_path / "selection.json", tmp_path / "summary.parquet", "lm")
    assert found == {"step": 5, "set": "cv-dev", "wer": 0.3, "cer": 0.05}


def test_only_transcribed_datasets_count() -> None:
    about = {"stage": "transcribe", "run": "teacher"}
    statuses = [
        {"dataset": "read", "about": {"commit": "c0ffee"}},
        {"dataset": "aligned", "about": {"stage": "segment"}},
        {"dataset": "machine", "about": about},
        {"dataset": "scored", "about": about},
    ]
    of = {"read": 60.0, "aligned": 20.0, "machine": 20.0}
    by_dataset = {name: {"clips": 2, "seconds": seconds} for name, seconds in of.items()}
    found = machine_transcripts({"seconds": 100.0, "by_dataset": by_dataset}, statuses)
    assert [(each.dataset, each.clips, each.seconds, each.share) for each in found] == [("machine", 2, 20.0, 0.2)]


def test_nothing_of_a_scored_set_enters_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant a scored speaker, sentence and recording, and a part of one, in what a model has transcribed."""

    def clip(name: str, **changes: Any) -> dict[str, Any]:
        digests = {"sha256": f"file of {name}", "audio_sha256": f"samples of {name}"}
        place = {"shard": 0, "row_group": 0, "row": 0, "splits": ["train"], "num_samples": 2 * SAMPLE_RATE}
        return {"id": name, "sentence": "раз два", "speaker_id": f"speaker of {name}"} | digests | place | changes

    # The recordings; `scored` is a clip of the test set too, under another name.
    recordings = [clip("clean"), clip("voice", speaker_id="v"), clip("text"), clip("scored")]
    test_clip = clip("t", sentence="", text="три", speaker_id="v", audio_sha256="samples of scored")
    part = {"start": 0.5, "end": 1.5, "channel": None}
    pieces = [
        clip("clean-1", recording="clean", **part),
        clip("voice-1", recording="voice", speaker_id="v", **part),
        clip("text-1", recording="text", sentence="Три.", **part),
        clip("scored-1", recording="scored", **part),
    ]
    data = tmp_path / "data"
    write_table(recordings, INDEX, data / "unlabelled" / "train" / "index.parquet")
    write_table(pieces, INDEX, data / "machine" / "train" / "index.parquet")
    write_table([test_clip | {"dataset": "cv", "split": "test"}], CLIPS, tmp_path / "cv-test.parquet")
    memberships = [{"splits": ["train"], "kept": 4}]
    about = {"available": True, "why": None, "memberships": memberships, "sets": {"train": 4}}
    write_json({"dataset": "machine"} | about, tmp_path / "status.json")
    settings = {
        "text": {"case": "lower", "keep": "а-яё"},
        "sets": ["machine-train"],
        "drawn": {"machine": {}},
        "training": {
            "clips": {},
            "leakage": {"test": "remove"},
            "dev": "cv-dev",
            # The speakers of `machine` are those of its recordings.
            "speakers": {"machine": "unlabelled", "unlabelled": "unlabelled", "cv": "unlabelled"},
            "of": {"machine": "unlabelled"},
        },
    }
    outputs = {name: str(tmp_path / f"{name}.out") for name in ("clips", "digest", "counts", "excluded", "leakage")}
    arguments = {
        "settings": as_json(settings),
        "indexes": str(data / "machine" / "train" / "index.parquet"),
        "status": str(tmp_path / "status.json"),
        "scored": str(tmp_path / "cv-test.parquet"),
        "recordings": str(data / "unlabelled" / "train" / "index.parquet"),
        **outputs,
    }
    argv = ["clips", *(word for key, value in arguments.items() for word in (f"--{key}", value))]
    monkeypatch.setattr(sys, "argv", argv)
    clips.main()
    assert read_table(Path(outputs["clips"])).column("id").to_pylist() == ["clean-1"]
    excluded = read_table(Path(outputs["excluded"]), EXCLUDED.names).to_pylist()
    assert {row["id"]: row["detail"] for row in excluded} == {
        "voice-1": "speaker of cv-test",
        "text-1": "sentence of cv-test",
        "scored-1": "audio of cv-test",
    }
    assert read_json(Path(outputs["leakage"]))["cv-test"]["removed"] == 3
