"""usage: the code with which a card shows how its model is used, and what it prints for a clip."""

import argparse
import contextlib
import io
import runpy
import tempfile
from pathlib import Path

import jinja2
import soundfile as sf
from pydantic import BaseModel

from speechmill.config.text import TextConfig
from speechmill.core.command import run_command
from speechmill.core.flac import Int16Samples
from speechmill.core.tables import SAMPLE_RATE, read_table, write_json
from speechmill.model.clip_reader import ClipReader

_TEMPLATES = Path(__file__).parents[2] / "templates"
_CODE = {"greedy": "usage_greedy.py.j2", "lm": "usage_lm.py.j2"}


class UsageSettings(BaseModel):
    """The slice of a run's section that this stage reads."""

    text: TextConfig


def code(decoder: str, units: str) -> str:
    """A program that prints what a model hears in `recording.wav`, both in the folder that it is run in."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    template = (_TEMPLATES / _CODE[decoder]).read_text(encoding="utf-8")
    return environment.from_string(template).render(units=units)


def printed(program: str, model: Path, samples: Int16Samples) -> str:
    """What `program` prints when it is run as it stands, in a folder with the model's files and the recording."""
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in model.iterdir():
            (folder / file.name).symlink_to(file.resolve())
        # By way of memory: of a full disk libsndfile does not say that it is full.
        recording = io.BytesIO()
        sf.write(recording, samples, SAMPLE_RATE, format="WAV")
        (folder / "recording.wav").write_bytes(recording.getvalue())
        (folder / "usage.py").write_text(program, encoding="utf-8")
        with contextlib.chdir(folder), contextlib.redirect_stdout(said):
            runpy.run_path("usage.py")
    return said.getvalue().strip()


def usage(
    model: Path, decoders: list[str], units: str, set_name: str, clip: str, samples: Int16Samples
) -> list[dict[str, str]]:
    """For each decoder: its code, the set and the clip that it was run on, and what it printed."""
    programs = {decoder: code(decoder, units) for decoder in decoders}
    return [
        {
            "decoder": decoder,
            "code": program,
            "set": set_name,
            "clip": clip,
            "printed": printed(program, model, samples),
        }
        for decoder, program in programs.items()
    ]


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=UsageSettings.model_validate_json, required=True)
    parser.add_argument("--decoders", nargs="+", choices=list(_CODE), required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--set", required=True, help="the set whose first clip is heard, {dataset}-{split}")
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--shards", type=Path, nargs="+", required=True)
    parser.add_argument("--usage", type=Path, required=True)
    args = parser.parse_args()
    clips = read_table(args.clips)
    clip, samples = clips["id"][0].as_py(), ClipReader(clips, args.shards).samples(0)
    write_json(usage(args.model, args.decoders, args.settings.text.units, args.set, clip, samples), args.usage)


if __name__ == "__main__":
    run_command(main)
