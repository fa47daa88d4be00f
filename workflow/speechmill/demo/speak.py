"""Speak a small corpus with espeak-ng and pack it as a published archive.

From the archive on, a demo is an ordinary run: nothing downstream knows that the voices are made.
A layout draws who says what and packs it; `speak` says it.
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
from speechmill.core.command import SpeechmillError, atomic_write, run_command
from speechmill.core.progress import progress
from speechmill.demo.layouts.common_voice import draw_common_voice, pack_common_voice
from speechmill.demo.layouts.corpus import MEN, WOMEN, Clip, Corpus
from speechmill.demo.layouts.zeroth import draw_zeroth, pack_zeroth


@dataclass(frozen=True)
class _Layout:
    """How a published corpus is drawn, recorded (`rate` in Hz, `encoding` as soundfile names it) and packed."""

    draw: Callable[[SpeakConfig], Corpus]
    rate: int
    encoding: str
    pack: Callable[[SpeakConfig, Corpus, Iterable[bytes], Path], None]


_LAYOUTS = {
    "common_voice": _Layout(draw_common_voice, 48_000, "MP3", pack_common_voice),
    "zeroth": _Layout(draw_zeroth, 16_000, "FLAC", pack_zeroth),
}


def check_espeak() -> None:
    """Raise SpeechmillError unless espeak-ng is there with each variant that a speaker needs.

    For a variant that it does not know, espeak-ng speaks in its default voice and reports success.
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
    """Return the clip as mono float32 samples at `rate` Hz; full scale is 1, and a resampled peak may be just above."""
    command = ["espeak-ng", "--stdout", "-v", clip.speaker.voice]
    command += ["-p", str(clip.pitch), "-s", str(clip.speed), clip.sentence]
    spoken = subprocess.run(command, check=False, capture_output=True)
    if spoken.returncode != 0:
        raise SpeechmillError(f"{' '.join(command)} failed: {spoken.stderr.decode().strip()}")
    samples, spoken_rate = soundfile.read(io.BytesIO(spoken.stdout), dtype="float32")
    resampled: np.ndarray = soxr.resample(samples, spoken_rate, rate)
    return resampled


def speak_archive(settings: SpeakConfig, archive: Path, threads: int) -> None:
    """Draw, speak and pack the corpus of `settings`; `archive` appears only when it is whole."""
    check_espeak()
    layout = _LAYOUTS[settings.layout]
    corpus = layout.draw(settings)
    clips = list(itertools.chain.from_iterable(corpus.values()))

    def record(clip: Clip) -> bytes:
        encoded = io.BytesIO()
        soundfile.write(encoded, speak(clip, layout.rate), layout.rate, format=layout.encoding)
        return encoded.getvalue()

    with atomic_write(archive) as beside, ThreadPoolExecutor(threads) as pool:
        recordings = progress(pool.map(record, clips), total=len(clips), desc="speak", unit="clip")
        layout.pack(settings, corpus, recordings, beside)


def main() -> None:
    """Speak the archive that the command line asks for."""
    parser = argparse.ArgumentParser(description="Speak a small corpus with espeak-ng into an archive.")
    parser.add_argument("--settings", required=True, help="the `speak` section of the configuration, as JSON")
    parser.add_argument("--archive", required=True, type=Path, help="the tar.gz to write")
    parser.add_argument("--threads", type=int, default=1, help="clips spoken at the same time")
    args = parser.parse_args()
    speak_archive(SpeakConfig.model_validate_json(args.settings), args.archive, args.threads)


if __name__ == "__main__":
    run_command(main)
