"""usage: run the code examples of a card on a clip, and record what they print; write the page that uses the model."""

import argparse
import contextlib
import io
import runpy
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import get_args

import jinja2
import soundfile as sf
from pydantic import BaseModel

from speechmill.config.evaluation import Decoder
from speechmill.config.lm import LmUnit
from speechmill.config.text import TextConfig
from speechmill.core.command import run_command
from speechmill.core.files import TEMPLATES, write_json, write_text
from speechmill.core.flac import Int16Samples
from speechmill.core.schemas import SAMPLE_RATE
from speechmill.core.tables import read_table
from speechmill.model.clip_reader import ClipReader
from speechmill.text.lexicon import check_lm

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES), trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
)


class UsageSettings(BaseModel):
    """The part of a run's configuration that this stage reads."""

    text: TextConfig
    lm_unit: LmUnit
    """The unit of the language model; `words` if there is none."""
    separated: bool
    """Whether the language is written with spaces between words."""


def usage_code(decoder: str, units: str, lm_unit: LmUnit = "words") -> str:
    """Return a program that transcribes `recording.wav` with the model; both are in the working directory."""
    return _ENVIRONMENT.get_template(f"usage_{decoder}.py.j2").render(units=units, lm_unit=lm_unit)


def app_code(decoders: Collection[str], settings: UsageSettings) -> str:
    """Return the program `app.py`: a page that transcribes recordings with the model in its folder."""
    return _ENVIRONMENT.get_template("app.py.j2").render(
        units=settings.text.units,
        lm_unit=settings.lm_unit if "lm" in decoders else None,
        separated=settings.separated,
    )


def requirements() -> str:
    """Return the packages that `app.py` needs, with the versions that the model was evaluated with."""
    return (TEMPLATES / "app_requirements.txt").read_text(encoding="utf-8")


def run_code(program: str, model: Path, samples: Int16Samples) -> str:
    """Run `program` unchanged in a folder with the model's files and the recording, and return what it prints."""
    output = io.StringIO()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in model.iterdir():
            (folder / file.name).symlink_to(file.resolve())
        # The recording is encoded in memory because libsndfile does not report a full disk.
        recording = io.BytesIO()
        sf.write(recording, samples, SAMPLE_RATE, format="WAV")
        (folder / "recording.wav").write_bytes(recording.getvalue())
        (folder / "usage.py").write_text(program, encoding="utf-8")
        with contextlib.chdir(folder), contextlib.redirect_stdout(output):
            runpy.run_path("usage.py")
    return output.getvalue().strip()


def usage_examples(
    model: Path, decoders: list[str], settings: UsageSettings, set_name: str, clip: str, samples: Int16Samples
) -> list[dict[str, str]]:
    """Return, for each decoder, its code, the set and the clip it was run on, and what it printed."""
    programs = {decoder: usage_code(decoder, settings.text.units, settings.lm_unit) for decoder in decoders}
    return [
        {
            "decoder": decoder,
            "code": program,
            "set": set_name,
            "clip": clip,
            "printed": run_code(program, model, samples),
        }
        for decoder, program in programs.items()
    ]


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=UsageSettings.model_validate_json, required=True)
    parser.add_argument("--decoders", nargs="+", choices=get_args(Decoder), required=True)
    parser.add_argument("--model", type=Path, required=True, help="the model folder")
    parser.add_argument("--set", required=True, help="the set whose first clip is transcribed, {dataset}-{split}")
    parser.add_argument("--clips", type=Path, required=True, help="the clips of the set")
    parser.add_argument("--shards", type=Path, nargs="+", required=True, help="the shards with the clips")
    parser.add_argument("--usage", type=Path, required=True, help="an output: the examples")
    parser.add_argument("--app", type=Path, required=True, help="an output: the page")
    parser.add_argument("--requirements", type=Path, required=True, help="an output: the packages that the page needs")
    args = parser.parse_args()
    if "lm" in args.decoders:
        check_lm(args.model / "lm")
    clips = read_table(args.clips)
    clip, samples = clips["id"][0].as_py(), ClipReader(clips, args.shards).samples(0)
    write_json(usage_examples(args.model, args.decoders, args.settings, args.set, clip, samples), args.usage)
    write_text(app_code(args.decoders, args.settings), args.app)
    write_text(requirements(), args.requirements)


if __name__ == "__main__":
    run_command(main)
