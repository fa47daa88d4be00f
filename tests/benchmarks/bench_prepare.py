"""The speed of audio preparation, compared with `datasets` and pysox on the same clips.

Processor time is compared, which other programs affect little; only the scaling of shards is wall-clock time.
"""

import contextlib
import io
import logging
import multiprocessing
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import datasets
import numpy as np
import sox
import torch
from numpy.typing import NDArray

from benchmarks.table import Row
from material import ROOT, audio_file
from speechmill.config.shards import ShardSettings
from speechmill.core.schemas import RAW
from speechmill.core.tables import write_in_row_groups
from speechmill.corpus.audio import decode_to_16k
from speechmill.corpus.shards import convert
from speechmill.demo.layouts.corpus import LANGUAGES, MEN, WOMEN, Clip, Speaker
from speechmill.demo.speak import speak

# Many short rounds, of which the fastest counts, since a shared processor is slow at times.
CLIPS, ROUNDS = 15, 30
KINDS = {
    "48 kHz MP3": (48_000, "MP3", "MPEG_LAYER_III", "mp3"),
    "44.1 kHz FLAC": (44_100, "FLAC", "PCM_16", "flac"),
    "16 kHz FLAC": (16_000, "FLAC", "PCM_16", "flac"),
}
SETTINGS = ShardSettings(name="benchmark", version="1", licence="CC0-1.0", resampler="soxr")
FASTER_THAN_DATASETS, SMALLER_THAN_DATASETS, FASTER_THAN_SOX, SCALING = 1.2, 3.0, 3.5, 1.8


@cache
def synthesise(number: int, rate: int) -> NDArray[np.float32]:
    """Return a sentence of about 5 s at `rate`; the speed of codecs depends on the signal."""
    words = random.Random(number).choices(LANGUAGES["ru"].words, k=14)
    variant = (WOMEN + MEN)[number % len(WOMEN + MEN)]
    speaker = Speaker(variant, f"ru+{variant.name}", "", 50, 150)
    return np.asarray(0.9 * speak(Clip(speaker, " ".join(words), 50, 150), rate), dtype=np.float32)


def processor_seconds(work: Callable[[], object]) -> float:
    """Return the processor time of `work`, including its child processes."""
    before = processor_time()
    with contextlib.redirect_stderr(io.StringIO()):
        work()
    return processor_time() - before


def processor_time() -> float:
    """Return the processor time of this process and of its finished child processes."""
    # os.times has a resolution of only 10 ms.
    spent = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in spent)


def write_raw(files: list[Path], raw: Path) -> Path:
    """Write files as the raw Parquet file of a split."""
    rows = (
        {"id": f.name, "splits": ["train"], "file": f.name, "encoded": f.read_bytes(), "sentence": "a"} for f in files
    )
    write_in_row_groups(rows, RAW, raw, 32)
    return raw


def with_datasets(files: list[Path], folder: Path) -> int:
    """Decode with cast_column and map; return the bytes of the stored float32 arrays."""
    data = datasets.Dataset.from_dict({"audio": [str(f) for f in files]}).cast_column("audio", datasets.Audio(16_000))
    features = datasets.Features({"input_values": datasets.Sequence(datasets.Value("float32"))})

    def to_array(row: dict) -> dict:
        return {"input_values": np.asarray(row["audio"]["array"], dtype=np.float32)}

    stored = folder / "arrays.arrow"
    data.map(
        to_array, remove_columns=["audio"], features=features, cache_file_name=str(stored), load_from_cache_file=False
    )
    return stored.stat().st_size


def with_pysox(files: list[Path]) -> None:
    """Decode with pysox."""
    for file in files:
        transformer = sox.Transformer()
        transformer.rate(16_000)
        transformer.channels(1)
        transformer.build_array(input_filepath=str(file))


def seconds_to_shard(raw: Path, folder: Path) -> float:
    """Return the processor time of writing a shard in this process."""
    return processor_seconds(lambda: convert(raw, 0, SETTINGS, folder / "shard.parquet", folder / "rows.parquet"))


def seconds_to_samples(files: list[Path]) -> float:
    """Return the processor time of decoding and resampling in this process, which is all that the peers do."""

    def work() -> None:
        for file in files:
            decode_to_16k(file.read_bytes(), SETTINGS.resampler, file.name)

    return processor_seconds(work)


def compare_kind(kind: str, folder: Path) -> Iterator[Row]:
    """Yield how much faster and smaller than datasets, and how much faster than pysox, a kind of clips is prepared."""
    rate, container, subtype, suffix = KINDS[kind]
    files = [folder / f"{i}.{suffix}" for i in range(CLIPS)]
    for i, file in enumerate(files):
        file.write_bytes(audio_file(synthesise(i, rate), rate, container, subtype))
    raw = write_raw(files, folder / "raw.parquet")
    to_samples, to_shard, to_arrays, pysox = [], [], [], []
    size = 0
    # In a separate process, like a job of the workflow.
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as job:
        for _ in range(ROUNDS):
            to_samples.append(job.submit(seconds_to_samples, files).result())
            to_shard.append(job.submit(seconds_to_shard, raw, folder).result())

            def peer() -> None:
                nonlocal size
                size = with_datasets(files, folder)

            to_arrays.append(processor_seconds(peer))
            pysox.append(processor_seconds(lambda: with_pysox(files)))
    yield Row(f"{kind} to samples: faster than datasets", min(to_arrays) / min(to_samples), FASTER_THAN_DATASETS)
    yield Row(f"{kind} to samples: faster than pysox", min(pysox) / min(to_samples), FASTER_THAN_SOX)
    # Includes FLAC encoding, digests and audio statistics, which the peer does not compute.
    yield Row(f"{kind} to a shard: time of datasets, which stores floats", min(to_arrays) / min(to_shard))
    yield Row(
        f"{kind} to a shard: smaller than datasets",
        size / (folder / "shard.parquet").stat().st_size,
        SMALLER_THAN_DATASETS,
    )


def scaling(folder: Path) -> float:
    """Return how much faster two cores write two shards than one core."""
    rate, container, subtype, suffix = KINDS["48 kHz MP3"]
    file = folder / f"clip.{suffix}"
    file.write_bytes(audio_file(synthesise(0, rate), rate, container, subtype))
    for name in ("one", "other"):
        write_raw([file] * 2000, folder / name / "train" / "shard-00000.parquet")

    def start(name: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-m", "speechmill.corpus.shards", "--settings", SETTINGS.model_dump_json(),
             "--raw", folder / name, "--split", "train", "--number", "00000", "--shard", folder / f"{name}.parquet",
             "--rows", folder / f"{name}-rows.parquet"],
            env=os.environ | {"PYTHONPATH": str(ROOT / "workflow")}, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    started = time.monotonic()
    for name in ("one", "other"):
        start(name).wait()
    alone = time.monotonic() - started
    started = time.monotonic()
    for running in [start("one"), start("other")]:
        running.wait()
    return alone / (time.monotonic() - started)


def rows() -> Iterator[Row]:
    """Yield the comparison of each kind of clips, and the scaling of shards."""
    torch.set_num_threads(1)
    logging.getLogger("sox").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            yield from compare_kind(kind, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        yield Row("two shards on two cores: faster than on one", scaling(Path(folder)), SCALING)
