"""How fast audio is prepared, against peers on the same clips in the same run.

Processor time is compared, so that other work on the machine disturbs little; only how shards scale is taken from the
clock.
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
from speechmill.core.tables import RAW, write_in_row_groups
from speechmill.corpus.audio import decode_to_16k
from speechmill.corpus.shards import convert, keep_freed_memory
from speechmill.demo.layouts.corpus import LANGUAGES, MEN, WOMEN, Clip, Speaker
from speechmill.demo.speak import speak

# Short rounds, and many: the fastest is what counts, and a processor that is shared has slow moments.
CLIPS, ROUNDS = 15, 30
KINDS = {
    "48 kHz MP3": (48_000, "MP3", "MPEG_LAYER_III", "mp3"),
    "44.1 kHz FLAC": (44_100, "FLAC", "PCM_16", "flac"),
    "16 kHz FLAC": (16_000, "FLAC", "PCM_16", "flac"),
}
SETTINGS = ShardSettings(name="made", version="1", licence="CC0-1.0", resampler="soxr")
FASTER_THAN_DATASETS, SMALLER_THAN_DATASETS, FASTER_THAN_SOX, SCALING = 1.2, 3.0, 3.5, 1.8


@cache
def spoken(number: int, rate: int) -> NDArray[np.float32]:
    """A sentence of about five seconds at `rate`: codecs take their time by what they are given."""
    words = random.Random(number).choices(LANGUAGES["ru"].words, k=14)
    variant = (WOMEN + MEN)[number % len(WOMEN + MEN)]
    speaker = Speaker(variant, f"ru+{variant.name}", "", 50, 150)
    return np.asarray(0.9 * speak(Clip(speaker, " ".join(words), 50, 150), rate), dtype=np.float32)


def processor_seconds(work: Callable[[], object]) -> float:
    """The processor time of `work`, its child processes included."""
    before = processor_time()
    with contextlib.redirect_stderr(io.StringIO()):
        work()
    return processor_time() - before


def processor_time() -> float:
    """The seconds that this process and those of its children that have ended have had a processor for."""
    # Not os.times, which counts in hundredths.
    spent = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in spent)


def write_raw(files: list[Path], raw: Path) -> Path:
    rows = (
        {"id": f.name, "splits": ["train"], "file": f.name, "encoded": f.read_bytes(), "sentence": "a"} for f in files
    )
    write_in_row_groups(rows, RAW, raw, 32)
    return raw


def with_datasets(files: list[Path], folder: Path) -> int:
    """The bytes of the float32 arrays that cast_column and map store."""
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
    for file in files:
        transformer = sox.Transformer()
        transformer.rate(16_000)
        transformer.channels(1)
        transformer.build_array(input_filepath=str(file))


def seconds_to_shard(raw: Path, folder: Path) -> float:
    """The processor time of making a shard, in the process that this is called in."""
    return processor_seconds(lambda: convert(raw, 0, SETTINGS, folder / "shard.parquet", folder / "rows.parquet"))


def seconds_to_samples(files: list[Path]) -> float:
    """The processor time of decoding and resampling, which is all that the peers do, in the process of the call."""

    def work() -> None:
        for file in files:
            decode_to_16k(file.read_bytes(), SETTINGS.resampler, file.name)

    return processor_seconds(work)


def batch_stats(kind: str, folder: Path) -> Iterator[Row]:
    """How many times faster than datasets, smaller than datasets, faster than pysox."""
    rate, container, subtype, suffix = KINDS[kind]
    files = [folder / f"{i}.{suffix}" for i in range(CLIPS)]
    for i, file in enumerate(files):
        file.write_bytes(audio_file(spoken(i, rate), rate, container, subtype))
    raw = write_raw(files, folder / "raw.parquet")
    to_samples, to_shard, theirs, pysox = [], [], [], []
    size = 0
    # A process of its own, as a job is: what it asks of the C library would help the peers as well.
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork"), keep_freed_memory) as job:
        for _ in range(ROUNDS):
            to_samples.append(job.submit(seconds_to_samples, files).result())
            to_shard.append(job.submit(seconds_to_shard, raw, folder).result())

            def peer() -> None:
                nonlocal size
                size = with_datasets(files, folder)

            theirs.append(processor_seconds(peer))
            pysox.append(processor_seconds(lambda: with_pysox(files)))
    yield Row(f"{kind} to samples: faster than datasets", min(theirs) / min(to_samples), FASTER_THAN_DATASETS)
    yield Row(f"{kind} to samples: faster than pysox", min(pysox) / min(to_samples), FASTER_THAN_SOX)
    # FLAC, digests and what is measured on the samples included, of which the peer does nothing.
    yield Row(f"{kind} to a shard: time of datasets, which stores floats", min(theirs) / min(to_shard))
    yield Row(
        f"{kind} to a shard: smaller than datasets",
        size / (folder / "shard.parquet").stat().st_size,
        SMALLER_THAN_DATASETS,
    )


def scaling(folder: Path) -> float:
    """How many times faster two shards are done by two cores than by one."""
    rate, container, subtype, suffix = KINDS["48 kHz MP3"]
    file = folder / f"clip.{suffix}"
    file.write_bytes(audio_file(spoken(0, rate), rate, container, subtype))
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
    """Each kind of clips against `datasets` and pysox, and how shards scale."""
    torch.set_num_threads(1)
    logging.getLogger("sox").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            yield from batch_stats(kind, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        yield Row("two shards on two cores: faster than on one", scaling(Path(folder)), SCALING)
