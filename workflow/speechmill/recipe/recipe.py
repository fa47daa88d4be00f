"""Write a recipe for a folder of recordings: `make recipe FOLDER=… LANGUAGE=…`.

The program prints what the folder contains and what is wrong with it, and writes a commented configuration that runs
as it is. It asks nothing, and never writes over a file.
"""

import argparse
import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import yaml

from speechmill.config.hub_metadata import check_language
from speechmill.config.root import load
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.files import TEMPLATES, write_text
from speechmill.core.languages import suggest_code
from speechmill.recipe.base import aligner, choose_base, length
from speechmill.recipe.characters import number_language
from speechmill.recipe.splits import Splits, choose_splits
from speechmill.recipe.survey import LONG_SECONDS, Survey, report, survey

_TEMPLATE = TEMPLATES / "recipe.yaml.j2"
_RECIPES = Path("config/recipes")

_SHARD_HOURS = 4
_MAX_SHARDS = 64
_MAX_CLIP_SECONDS = 20
# With fewer sentences that no scored set has, a language model learns nothing.
_LM_SENTENCES = 200
# If more of the training sentences are in dev or test, removing them would remove most of the data.
_SHARED = 0.2
_REPORTED = {"test": "report", "dev": "report"}
_REMOVED = {
    "test": {"speaker": "report", "sentence": "remove", "audio": "remove"},
    "dev": {"speaker": "report", "sentence": "report", "audio": "remove"},
}


def write_recipe(folder: Path, language: str, name: str | None = None, base: str | None = None) -> Path:
    """Print what a folder contains, and write a recipe for it.

    Args:
        folder: The folder of recordings, or an archive of Common Voice or Zeroth.
        language: The code of the language in ISO 639.
        name: The name of the recipe, of its dataset and of its run; None for that of the folder.
        base: The Hub id or the folder of the base model; None for one that suits the language and the data.

    Returns:
        The file of the recipe, `config/recipes/{name}.yaml` in the working directory.

    Raises:
        SpeechmillError: The file exists, the language is unknown, or the folder has no recordings that can be used.
    """
    if not folder.exists():
        raise SpeechmillError(f"{folder} does not exist; set FOLDER to the folder of the recordings")
    try:
        check_language(language)
    except ValueError:
        code = suggest_code(language)
        raise SpeechmillError(
            f"LANGUAGE={language} is no code of ISO 639, such as `en`; "
            + (f"write `{code}`" if code else "look it up at https://iso639-3.sil.org")
        ) from None
    name = _name(name or re.sub(r"\.(tar|zip|tgz).*$", "", folder.resolve().name))
    file = _RECIPES / f"{name}.yaml"
    if file.exists():
        raise SpeechmillError(f"{file} exists, and is not written over; choose another name with NAME=…")
    found = survey(folder, language)
    print(report(found))
    text = recipe_text(found, name, base)
    load(yaml.safe_load(text))
    write_text(text, file)
    print(f"recipe      {file}")
    print(f"next        snakemake --dry-run --cores all --resources gpu=1 --configfile {file}")
    return file


def recipe_text(found: Survey, name: str, base: str | None) -> str:
    """Return the recipe for what was found.

    Raises:
        SpeechmillError: There are too few recordings to divide them into splits, or none has text.
    """
    if not found.layout.has_text:
        raise SpeechmillError(
            f"{found.path}: no text was found for any recording, and nothing can be trained on recordings alone. Put a"
            " .txt file with the text beside each of them, or a table with their names and texts into the folder. To"
            " use the recordings in a second round, see `source: transcribe` in config/README.md"
        )
    splits = choose_splits(found)
    repeats = splits.shared > _SHARED
    script = found.characters.script
    chosen = choose_base(found.language, script, found.clip_hours, base)
    max_seconds = _MAX_CLIP_SECONDS if found.is_long else min(30, max(_MAX_CLIP_SECONDS, int(found.longest()) + 1))
    model, why = aligner(found.language, script, base)
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["yaml"] = _yaml
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        name=name,
        folder=_shown(found.path),
        found=found,
        report=report(found).splitlines(),
        section={"language": found.language} | found.layout.section,
        splits=splits,
        shards=_shards(found, splits),
        text=_text(found),
        digits=number_language(found.language),
        clips={"min_seconds": 0.1, "max_seconds": max_seconds},
        long_seconds=LONG_SECONDS,
        leakage=_REPORTED if repeats else _REMOVED,
        repeats=repeats,
        base=chosen,
        aligner=model,
        aligner_comment=why,
        plan=length(found.clip_hours * 0.8, max_seconds),
        with_lm=found.is_long or splits.sentences >= _LM_SENTENCES,
        unlabelled=found.without_text,
    )


def _name(text: str) -> str:
    """Return a name that the configuration accepts."""
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:40]
    if not name:
        raise SpeechmillError(f"{text} has no letters of a-z; choose a name with NAME=…")
    return name


def _shown(path: Path) -> str:
    """Return a path as the recipe has it: relative to the working directory if it is in it."""
    return os.path.relpath(path) if path.resolve().is_relative_to(Path.cwd()) else str(path.resolve())


def _shards(found: Survey, splits: Splits) -> dict[str, int]:
    clips = Counter(clip.splits[0] for clip in found.clips)
    hours = {split: clips[split] / len(found.clips) * found.clip_hours for split in found.layout.splits}
    return {
        split: min(_MAX_SHARDS, max(2 if split == splits.train else 1, round(each / _SHARD_HOURS)))
        for split, each in hours.items()
    }


def _text(found: Survey) -> dict[str, Any]:
    characters = found.characters
    text: dict[str, Any] = {"unicode": "NFC"}
    if characters.script == "CYRILLIC":
        text["map_confusables"] = "cyrillic"
    text["case"] = "lower" if characters.case else "keep"
    replace = [{"find": each, "replacement": "'"} for each in characters.apostrophes]
    replace += [{"find": each, "replacement": " "} for each in characters.separators]
    if replace:
        text["replace"] = replace
    if characters.digits and (code := number_language(found.language)):
        text["digits"] = code
    text["keep"] = characters.keep
    return text


def _yaml(value: Any) -> str:
    """Return a value in the flow style of YAML, on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_yaml(each)}" if _is_plain(key) else f"{_yaml(key)}: {_yaml(each)}"
                               for key, each in value.items()) + "}"  # fmt: skip
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, str) and _is_plain(value):
        return value
    return json.dumps(value, ensure_ascii=False)


def _is_plain(text: str) -> bool:
    """Return whether a text needs no quotation marks in YAML."""
    return re.fullmatch(r"[A-Za-z./][\w./-]*", text) is not None and yaml.safe_load(text) == text


def main() -> None:
    """Run the program from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of recordings, or archive of Common Voice or Zeroth")
    parser.add_argument("language", help="code of the language in ISO 639, such as `en`")
    parser.add_argument("--name", help="name of the recipe; default: that of the folder")
    parser.add_argument("--base", help="Hub id or folder of the base model; default: by language and hours")
    args = parser.parse_args()
    write_recipe(args.folder.expanduser(), args.language, args.name or None, args.base or None)


if __name__ == "__main__":
    run_command(main)
