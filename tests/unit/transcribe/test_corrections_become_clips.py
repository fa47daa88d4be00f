"""The loop of docs/own-data.md: transcribe, correct in ELAN, train."""

from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from speechmill.config.clips import ClipConfig
from speechmill.config.datasets import IngestSettings
from speechmill.config.leakage import LeakageConfig
from speechmill.config.shards import ShardSettings
from speechmill.config.text import TextConfig
from speechmill.core.flac import Int16Samples, decode_flac
from speechmill.core.schemas import INDEX
from speechmill.core.tables import read_table, write_table
from speechmill.corpus.clips import ClipsSettings, TrainingSettings, select_clips
from speechmill.corpus.ingest_dataset import SourceLocation, ingest
from speechmill.corpus.shards import convert
from speechmill.transcribe import Transcriber
from speechmill.transcribe.formats import FORMATS

Spoken = Callable[[Sequence[str | float]], Int16Samples]
Write = Callable[[str, Int16Samples], Path]


def correct(file: Path, corrections: dict[str, str]) -> None:
    """Replace words in a file of ELAN, as somebody does who listens to it."""
    tree = ElementTree.parse(file)
    for value in tree.iter("ANNOTATION_VALUE"):
        value.text = " ".join(corrections.get(word, word) for word in str(value.text).split())
    tree.write(file, encoding="UTF-8", xml_declaration=True)


def test_corrected_transcript_becomes_training_clips(model: Path, tmp_path: Path, spoken: Spoken, write: Write) -> None:
    samples = spoken([1.0, "abc de", 2.0, "bad cab", 1.5])
    recording = write("recordings/talk.wav", samples)
    file = recording.with_suffix(".eaf")
    file.write_text(FORMATS["eaf"](Transcriber(model).transcribe(recording), recording, file), encoding="utf-8")
    correct(file, {"abc": "zebra", "cab": "taxi"})

    settings = {"source": "folder", "path": "", "language": "en", "annotations": {"ending": ".eaf"}}
    ingest(
        SourceLocation(path=tmp_path / "recordings"),
        IngestSettings.model_validate({"source": settings, "splits": ["train"], "shards": {"train": 1}}),
        "",
        tmp_path / "raw",
    )
    data = tmp_path / "mine" / "train"
    shards = ShardSettings(name="Mine", version="1", licence="CC0-1.0", resampler="soxr")
    convert(
        *(tmp_path / "raw" / "train" / "shard-00000.parquet", 0, shards),
        *(data / "shard-00000.parquet", data / "rows.parquet"),
    )
    write_table(read_table(data / "rows.parquet", INDEX.names).to_pylist(), INDEX, data / "index.parquet")
    training = TrainingSettings(
        clips=ClipConfig(), leakage=LeakageConfig(), dev="mine-dev", speakers={"mine": "mine"}, of={}
    )
    selected = select_clips(
        [data / "index.parquet"],
        ClipsSettings(text=TextConfig(keep="a-z"), sets=["mine-train"], drawn={"mine": {}}, training=training),
    )
    assert [clip["text"] for clip in selected.used] == ["zebra de", "bad taxi"]
    assert selected.excluded == []
    # The clips are the sentences, with a part of the pauses around them.
    audio = read_table(data / "shard-00000.parquet").to_pylist()
    for clip, stored in zip(selected.used, audio, strict=True):
        start, end = (round(clip[key] * 16_000) for key in ("start", "end"))
        np.testing.assert_array_equal(decode_flac(stored["audio"]["bytes"]), samples[start:end])
        assert np.abs(samples[start : start + 1600]).max() == 0
