"""Transcribe recordings with a model, and write each transcript beside its recording, or into a folder."""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

from tqdm import tqdm

from speechmill.core.command import DISK_FULL, SpeechmillError, printable, run_command
from speechmill.core.files import write_text
from speechmill.core.progress import progress
from speechmill.corpus.sources.annotations.annotated import is_recording
from speechmill.transcribe.formats import FORMATS
from speechmill.transcribe.transcriber import Device, Transcriber
from speechmill.transcribe.transcript import Transcript

# Videos, whose sound is transcribed if ffmpeg reads it.
_VIDEO_ENDINGS = {".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"}

# What is counted.
_RECORDINGS, _SECONDS = "recordings", "seconds"
_NO_SPEECH, _SHORTENED = "without speech", "shorter than their headers state"

# The exit status of a program that Ctrl-C ends.
_INTERRUPTED = 130


class Job(NamedTuple):
    """A recording, and the files to write, by format."""

    recording: Path
    outputs: dict[str, Path]


def find_recordings(given: Sequence[str]) -> Iterator[tuple[Path, Path]]:
    """Yield the files that arguments name, each with its path below the folder that was given, if one was.

    A folder stands for all recordings and videos below it, by the endings of their names, without hidden files. An
    argument that is neither a file nor a folder is a pattern, in which `**` stands for any folders.

    Raises:
        SpeechmillError: There is no such file or folder, or it contains no recording.
    """
    for argument in given:
        paths = [Path(argument)] if Path(argument).exists() else _matching(argument)
        found = [each for path in paths for each in _below(path)]
        if not found:
            reason = "no recording is below this folder" if paths else "there is no such file or folder"
            raise SpeechmillError(f"{argument}: {reason}")
        yield from found


def _matching(pattern: str) -> list[Path]:
    """Return the paths that match a pattern, which may be absolute."""
    path = Path(pattern)
    return sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))


def _below(path: Path) -> Iterator[tuple[Path, Path]]:
    if not path.is_dir():
        yield path, Path(path.name)
        return
    for each in sorted(path.rglob("*")):
        relative = each.relative_to(path)
        is_hidden = any(part.startswith(".") for part in relative.parts)
        if (is_recording(each.name) or each.suffix.lower() in _VIDEO_ENDINGS) and each.is_file() and not is_hidden:
            yield each, relative


def plan_jobs(
    recordings: Iterator[tuple[Path, Path]], endings: Sequence[str], output: Path | None, overwrite: bool
) -> tuple[list[Job], int, list[str]]:
    """Return the jobs, the number of recordings whose files all exist, and why others cannot be transcribed.

    Existing files are kept, because somebody may have corrected them, unless `overwrite` is set. Of two recordings that
    differ only in the ending of their names, the second cannot be transcribed.

    Args:
        recordings: The recordings, as `find_recordings` yields them; one that occurs again is ignored.
        endings: The formats.
        output: The folder of the files, instead of those of the recordings.
        overwrite: Whether existing files are written again.
    """
    jobs: list[Job] = []
    skipped = 0
    failed: list[str] = []
    seen: set[Path] = set()
    names: dict[Path, Path] = {}
    for recording, relative in recordings:
        if recording.resolve() in seen:
            continue
        seen.add(recording.resolve())
        stem = (recording if output is None else output / relative).with_suffix("")
        first = names.setdefault(stem, recording)
        outputs = {ending: stem.with_name(f"{stem.name}.{ending}") for ending in endings}
        if first is not recording:
            failed.append(
                f"{recording}: its transcript would be the same file as that of {first}; give only one of them, rename"
                " one, or give the folder that contains both folders"
            )
        elif missing := {ending: file for ending, file in outputs.items() if overwrite or not file.exists()}:
            jobs.append(Job(recording, missing))
        else:
            skipped += 1
    return jobs, skipped, failed


def run_jobs(transcriber: Transcriber, jobs: Sequence[Job], failed: list[str]) -> Iterator[Transcript]:
    """Write the files of each recording; yield its transcript, or add to `failed` why there is none.

    A progress bar shows how many bytes of the recordings are done, and the time left.
    """
    sizes = [job.recording.stat().st_size for job in jobs]
    with progress(total=sum(sizes), desc="transcribe", unit="B", unit_scale=True, unit_divisor=1024) as bar:
        for job, size in zip(jobs, sizes, strict=True):
            before = bar.n
            advance = partial(_advance, bar, size)
            try:
                transcript = transcriber.transcribe(job.recording, advance)
                for ending, file in job.outputs.items():
                    write_text(FORMATS[ending](transcript, job.recording, file), file)
            except (SpeechmillError, OSError) as error:
                failed.append(_reason(job.recording, error))
            else:
                yield transcript
            bar.update(before + size - bar.n)


def _advance(bar: "tqdm[Any]", size: int, share: float) -> None:
    bar.update(share * size)


def _reason(recording: Path, error: SpeechmillError | OSError) -> str:
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return (
            f"{recording}: the disk is full ({error}); free some space, or, if it is that of temporary files, set"
            " TMPDIR to a folder on a larger disk"
        )
    return f"{recording}: {error}" if isinstance(error, OSError) else str(error)


def _report(done: "Counter[str]", skipped: int, failed: list[str], left: int) -> None:
    """Print how many recordings were transcribed, had all files, failed and why, and are left after Ctrl-C."""
    details = ", ".join(f"{done[what]} {what}" for what in (_NO_SPEECH, _SHORTENED) if done[what])
    print(f"transcribed {done[_RECORDINGS]} ({done[_SECONDS] / 3600:.2f} h{', of which ' if details else ''}{details})")
    if skipped:
        print(f"skipped {skipped}, whose files exist; --overwrite writes them again")
    if failed:
        print(f"failed {len(failed)}:")
    for message in failed:
        print(printable(f"  {message}"))
    if left:
        print(f"interrupted: {left} left; the same command continues")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m speechmill.transcribe", description=__doc__)
    parser.add_argument("model", type=Path, help="the folder of a model, results/runs/RUN/model")
    parser.add_argument("recordings", nargs="+", help="audio files, videos, folders, or patterns such as 'a/**/*.mp3'")
    parser.add_argument("--to", nargs="+", choices=list(FORMATS), default=["txt"], metavar="FORMAT", dest="endings",
                        help=f"formats: {', '.join(FORMATS)}; default: txt")  # fmt: skip
    parser.add_argument("--output", type=Path, help="the folder for transcripts; default: those of the recordings")
    parser.add_argument("--overwrite", action="store_true", help="write files again that exist")
    parser.add_argument("--device", choices=get_args(Device), default="auto", help="default: a GPU if there is one")
    parser.add_argument("--greedy", action="store_true", help="do not use the language model of the folder")
    args = parser.parse_args()
    jobs, skipped, failed = plan_jobs(find_recordings(args.recordings), args.endings, args.output, args.overwrite)
    done: Counter[str] = Counter()
    # Those that cannot be transcribed are known before; more are added.
    known = len(failed)
    interrupted = False
    try:
        if jobs:
            transcriber = Transcriber(args.model, args.device, args.greedy)
            for transcript in run_jobs(transcriber, jobs, failed):
                done[_RECORDINGS] += 1
                done[_SECONDS] += round(transcript.seconds)
                done[_NO_SPEECH] += not transcript.text
                done[_SHORTENED] += transcript.missing_seconds > 0
    except KeyboardInterrupt:
        interrupted = True
    left = len(jobs) - done[_RECORDINGS] - (len(failed) - known)
    _report(done, skipped, failed, left if interrupted else 0)
    if interrupted:
        sys.exit(_INTERRUPTED)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
