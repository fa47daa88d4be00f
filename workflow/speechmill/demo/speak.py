"""Synthesise a small corpus with espeak-ng and pack it in the layout of a published archive.

A layout samples the speakers and sentences of the clips and packs the recordings; `speak` synthesises a clip. All later
stages process the archive like that of any corpus.
"""

import argparse
import io
import itertools
import shutil
import subprocess
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from speechmill.config.speak import SpeakConfig
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.files import atomic_write
from speechmill.core.progress import progress
from speechmill.demo.layouts.common_voice import pack_common_voice, sample_common_voice
from speechmill.demo.layouts.corpus import MEN, WOMEN, Clip, Corpus
from speechmill.demo.layouts.zeroth import pack_zeroth, sample_zeroth


@dataclass(frozen=True)
class _Layout:
    """The functions of a layout, the sampling rate of its recordings in Hz, and their format as soundfile names it."""

    sample: Callable[[SpeakConfig], Corpus]
    rate: int
    format: str
    pack: Callable[[SpeakConfig, Corpus, Iterable[bytes], Path], None]


_LAYOUTS = {
    "common_voice": _Layout(sample_common_voice, 48_000, "MP3", pack_common_voice),
    "zeroth": _Layout(sample_zeroth, 16_000, "FLAC", pack_zeroth),
}


def check_espeak() -> None:
    """Check that espeak-ng and all voice variants are installed.

    For an unknown variant, espeak-ng uses its default voice and reports success.

    Raises:
        SpeechmillError: espeak-ng or one of the variants is missing.
    """
    if shutil.which("espeak-ng") is None:
        raise SpeechmillError(
            "espeak-ng is not on the PATH; install it (apt-get install espeak-ng, or conda-forge's espeak-ng)"
        )
    listed = subprocess.run(["espeak-ng", "--voices=variant"], capture_output=True, text=True, check=True).stdout
    missing = [variant.name for variant in WOMEN + MEN if f"!v/{variant.name} " not in listed]
    if missing:
        raise SpeechmillError(
            f"espeak-ng lacks the voice variants {', '.join(missing)}; install version 1.51 or later"
            " with all its data (espeak-ng-data)"
        )


def speak(clip: Clip, rate: int) -> np.ndarray:
    """Return the clip as mono float32 samples at `rate` Hz; resampling can slightly exceed the full scale of 1."""
    command = ["espeak-ng", "--stdout", "-v", clip.speaker.voice]
    command += ["-p", str(clip.pitch), "-s", str(clip.speed), clip.sentence]
    completed = subprocess.run(command, check=False, capture_output=True)
    if completed.returncode != 0:
        raise SpeechmillError(f"{' '.join(command)} failed: {completed.stderr.decode().strip()}")
    samples, espeak_rate = soundfile.read(io.BytesIO(completed.stdout), dtype="float32")
    resampled: np.ndarray = soxr.resample(samples, espeak_rate, rate)
    return resampled


def speak_archive(settings: SpeakConfig, archive: Path, threads: int) -> None:
    """Sample, synthesise and pack the corpus of `settings` into `archive`, which is written atomically."""
    check_espeak()
    layout = _LAYOUTS[settings.layout]
    corpus = layout.sample(settings)
    clips = list(itertools.chain.from_iterable(corpus.values()))

    def record(clip: Clip) -> bytes:
        encoded = io.BytesIO()
        soundfile.write(encoded, speak(clip, layout.rate), layout.rate, format=layout.format)
        return encoded.getvalue()

    with atomic_write(archive) as temporary, ThreadPoolExecutor(threads) as pool:
        recordings = progress(pool.map(record, clips), total=len(clips), desc="speak", unit="clip")
        layout.pack(settings, corpus, recordings, temporary)


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description="Synthesise a small corpus with espeak-ng.")
    parser.add_argument("--settings", required=True, help="the `speak` section of the configuration, as JSON")
    parser.add_argument("--archive", required=True, type=Path, help="the tar.gz archive to write")
    parser.add_argument("--threads", type=int, default=1, help="the number of clips synthesised in parallel")
    args = parser.parse_args()
    speak_archive(SpeakConfig.model_validate_json(args.settings), args.archive, args.threads)


if __name__ == "__main__":
    run_command(main)
