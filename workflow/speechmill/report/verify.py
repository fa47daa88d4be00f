"""verify: whether the figures of a model's card are what the folder's files and the recordings give.

Figures are recomputed (scores: the model is loaded with plain transformers and hears every clip again, one at a time;
errors are counted by jiwer), derived (the card is rendered again from the evidence), or recorded (time, hardware, what
another card says), as the card's last section has it.
"""

import argparse
import hashlib
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jiwer
import numpy as np
import pandas as pd
import pyarrow as pa
import torch
import yaml
from huggingface_hub import ModelCard
from numpy.typing import NDArray
from torch.nn.functional import ctc_loss
from transformers import AutoModelForCTC, AutoProcessor

from speechmill.config.root import Config, load
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.flac import Int16Samples
from speechmill.core.progress import progress
from speechmill.core.tables import CLIPS, SAMPLE_RATE, clips_digest, file_digest, read_json, read_table
from speechmill.corpus.clips import ClipsSettings, choose
from speechmill.dag import paths
from speechmill.dag.stage_settings import log_probs as log_probs_slice
from speechmill.dag.versions import code_digest
from speechmill.inference.decoders import BeamSearch, Weights
from speechmill.inference.evaluate import totals
from speechmill.inference.log_probs import LogProbsSettings, autocast, chunks_of, in_samples, samples_a_frame
from speechmill.inference.perturb import changed
from speechmill.model.clip_reader import ClipReader
from speechmill.model.devices import acquire_devices, device_name
from speechmill.model.models import output_frames
from speechmill.report import card, evidence, manifest
from speechmill.report.evidence import Evidence
from speechmill.report.usage import code, printed
from speechmill.scoring.error_rates import Counts
from speechmill.scoring.protocols import scored_texts
from speechmill.scoring.summary import summarise
from speechmill.scoring.systems import SELECTED, base_set
from speechmill.text.normaliser import compose

POINTS = 0.2
"""By how many points an error rate may differ on another device or another version of torch."""

_COUNTED = ["reference_words", "substitutions", "deletions", "insertions"]
_RATES = ["wer", "cer"]
# Sums of the same numbers in another order; a figure of the card has four decimals.
_LOSS = 1e-4
_OTHER_LOSS = 1e-2
_EXACT = 1e-9

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_TOP = "Front matter, and the first lines"


class Found(NamedTuple):
    """What was looked at, and what is wrong with it."""

    said: list[str]
    """What agrees, a line each."""
    differs: list[str]
    """What does not, a line each, with its cause."""


def numbers(text: str) -> Counter[str]:
    """How many figures stand in each section of a card, by its heading; code, and what is quoted as code, has none."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    counted: Counter[str] = Counter()
    heading = _TOP
    for line in text.splitlines():
        if found := re.match(r"#{2,}\s+(.+)", line):
            heading = found[1]
        counted[heading] += len(_NUMBER.findall(re.sub(r"`[^`]*`|\([^)\s]*\)", "", line)))
    return Counter({name: count for name, count in counted.items() if count})


def folder(model: Path) -> Found:
    """Whether the folder of a model is whole, and its card what its evidence gives."""
    said, differs = [], manifest.faults(model)
    if not differs:
        said.append(f"manifest    {len(read_json(model / manifest.NAME)['files'])} files are what they were")
    found = evidence.read(model)
    for name, digest in found.selection["sha256"].items():
        if not (model / name).is_file() or file_digest(model / name) != digest:
            differs.append(f"{name} is not that of the selected checkpoint, whose sha256 is {digest}")
    differs += _not_summed(model, found)
    differs += _not_rendered(model, found)
    differs += _not_of_the_run(model, found)
    counted = numbers((model / card.CARD).read_text(encoding="utf-8"))
    differs += [
        f"{card.CARD}: the section {name!r} has figures that nothing accounts for"
        for name in set(counted) - set(card.KNOWN)
    ]
    if not differs:
        kinds: Counter[str] = Counter()
        for name, count in counted.items():
            kinds[card.KNOWN[name].how] += count
        listed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        said.append(
            f"derived     the card is what the evidence gives, its {counted.total()} figures with it ({listed})"
        )
    return Found(said, differs)


def _not_summed(model: Path, found: Evidence) -> list[str]:
    """What is wrong with the sums over the clips that were scored."""
    lines = []
    for row in _selected(found).to_dict("records"):
        clips = read_table(evidence.scored_file(model, row["set"], row["decoder"])).to_pandas()
        sums = {kind: int(clips[kind].sum()) for kind in _COUNTED[1:]}
        sums["reference_words"] = int(clips["hits"].sum()) + sums["substitutions"] + sums["deletions"]
        lines += [
            f"evidence/summary.parquet says of {row['set']} by {row['decoder']} {kind} {row[kind]}, its clips add up to"
            f" {sums[kind]}"
            for kind in _COUNTED
            if row[kind] != sums[kind]
        ]
    return lines


def _not_rendered(model: Path, found: Evidence) -> list[str]:
    """Where the card and the files of the Hub's newer form are not what the evidence gives."""
    made = {card.CARD: card.render(card.context(found))}
    made |= {f"{card.HUB_RESULTS}/{name}": text for name, text in card.hub_results(found).items()}
    if found.settings["code"]["card"] != code_digest("card", card.TEMPLATE):
        print(
            f"{model} is of another version of speechmill: its card is not rendered again, but its model-index and"
            " its scores are compared",
            file=sys.stderr,
        )
        there, here = ModelCard.load(model / card.CARD), ModelCard(made[card.CARD])
        same = str(there.data) == str(here.data)
        return [] if same else [f"{card.CARD}: its front matter is not what the evidence gives"]
    lines = []
    for name, text in made.items():
        written = (model / name).read_text(encoding="utf-8").splitlines() if (model / name).is_file() else []
        wanted = text.splitlines()
        lines += [
            f"{name}, line {number}, is {_shown(one)}, the evidence gives {_shown(other)}"
            for number, (one, other) in enumerate(zip(written, wanted, strict=False), start=1)
            if one != other
        ][:5]
        if len(written) != len(wanted):
            lines.append(f"{name} has {len(written)} lines, the evidence gives {len(wanted)}")
    return lines


def _shown(line: str) -> str:
    return repr(line if len(line) <= 200 else f"{line[:200]}…")


def _not_of_the_run(model: Path, found: Evidence) -> list[str]:
    """Where the scores are not those of the run that the folder lies in, if it still lies there."""
    lines = []
    for row in found.summary.to_dict("records"):
        places = [
            model.parent / "evaluation" / str(step) / row["set"] / row["decoder"] / "metrics.json"
            for step in (row["step"], SELECTED)
        ]
        for path in (each for each in places if each.is_file()):
            (there,) = summarise([path]).to_dict("records")
            if there["step"] == row["step"]:
                lines += [
                    f"{path}: {key} is {there[key]}, the model's evidence says {row[key]}"
                    for key in there
                    if there[key] != row[key] and not (pd.isna(there[key]) and pd.isna(row[key]))
                ]
    return lines


def _selected(found: Evidence) -> pd.DataFrame:
    rows: pd.DataFrame = found.summary.query("step == @found.selection['step'] and unavailable.isna()")
    return rows


class ReferenceModel:
    """A model as plain transformers loads it, which hears one clip at a time."""

    def __init__(self, model: Path, device: torch.device) -> None:
        self.processor = AutoProcessor.from_pretrained(model)
        self.model = AutoModelForCTC.from_pretrained(model).eval().to(device)
        self._device = device

    def log_probs(self, samples: Int16Samples, settings: LogProbsSettings) -> NDArray[np.float32]:
        """The natural logarithms of the probabilities of each frame, shape (frames, vocabulary)."""
        frame = samples_a_frame(self.model.config)
        parts = []
        for chunk in chunks_of(len(samples), *in_samples(settings, frame)):
            heard = self._forward(samples[chunk.start : chunk.stop], settings)
            parts.append(heard[chunk.kept(len(heard), frame)])
        return np.concatenate(parts)

    def _forward(self, samples: Int16Samples, settings: LogProbsSettings) -> NDArray[np.float32]:
        if output_frames(self.model, torch.tensor([len(samples)])) <= 0:
            # Shorter than what the first frame hears.
            return np.empty((0, self.model.config.vocab_size), dtype=np.float32)
        floats = samples.astype(np.float32) / (np.iinfo(np.int16).max + 1)
        inputs = self.processor(floats, sampling_rate=SAMPLE_RATE, return_tensors="pt").to(self._device)
        with torch.inference_mode(), autocast(settings, self._device):
            logits = self.model(**inputs).logits[0]
        heard: NDArray[np.float32] = torch.log_softmax(logits.float(), -1).cpu().numpy()
        return heard

    def greedy(self, log_probs: NDArray[np.float32]) -> str:
        """The text of the likeliest token of each frame."""
        text: str = self.processor.tokenizer.decode(log_probs.argmax(-1)) if len(log_probs) else ""
        return text

    def loss(self, log_probs: NDArray[np.float32], text: str) -> float:
        """The CTC loss of a text divided by its tokens, infinite where no path leads through the frames."""
        labels = torch.tensor(self.processor.tokenizer(text).input_ids)
        if not len(log_probs):
            return float("inf") if len(labels) else 0.0
        frames = torch.from_numpy(log_probs)[:, None]
        loss = ctc_loss(
            frames,
            labels[None],
            torch.tensor([len(frames)]),
            torch.tensor([len(labels)]),
            blank=self.model.config.pad_token_id,
            reduction="sum",
        )
        return float(loss) / max(1, len(labels))


def recomputed(model: Path, data: Path, device: torch.device) -> Found:
    """Whether the selected model scores as its card says on the recordings that are prepared in `data`."""
    found, config = evidence.read(model), _config(model)
    run = found.run
    scores = _selected(found)
    ear = ReferenceModel(model, device)
    said: list[str] = []
    differs: list[str] = []
    for name, rows in scores.groupby("set", sort=False):
        try:
            clips, samples = _recordings(config, run, str(name), data)
            others = _other_clips(model, str(name), rows.iloc[0]["decoder"], clips)
            if others:
                differs += others
                continue
            settings = LogProbsSettings.model_validate_json(log_probs_slice(config, run, str(name)))
            heard = _hear(ear, model, settings, clips, samples, list(rows["decoder"]))
        except SpeechmillError as error:
            differs.append(f"{name}: {error}")
            continue
        digest = clips_digest([clip | {"audio_sha256": audio} for clip, audio in zip(clips, heard.audio, strict=True)])
        if digest != rows.iloc[0]["eval_set_sha256"]:
            differs += _other_audio(model, str(name), rows.iloc[0]["decoder"], heard.audio)
        for row in rows.to_dict("records"):
            again = _scores(config, run, str(name), clips, heard.hypotheses[row["decoder"]], heard.losses)
            exact = row["device"] == device_name(device) and found.training["versions"]["Pytorch"] == version("torch")
            wrong = differences({str(key): value for key, value in row.items()}, again, exact)
            what = f"{name} by {row['decoder']}"
            differs += [f"{what}: {line}" for line in wrong]
            if not wrong:
                same = "equal" if exact else f"within {POINTS} points, on another device or torch"
                shown = ", ".join(
                    f"{rate.upper()} {100 * again[rate]:.2f} %" for rate in _RATES if again[rate] is not None
                )
                said.append(f"recomputed  {what}: {shown}, {len(clips)} clips: {same}")
    shown_said, shown_differs = _shown_again(model, found, config, data)
    return Found([*said, *shown_said], [*differs, *shown_differs])


def _shown_again(model: Path, found: Evidence, config: Config, data: Path) -> Found:
    """Whether the code in the card prints what the card says. Code that is not ours is not run."""
    said, differs = [], []
    for shown in found.usage:
        what = f"the code for {shown['decoder']} decoding"
        if shown["code"] != code(shown["decoder"], found.settings["text"]["units"]):
            said.append(f"not done    {what} is not that of this version of speechmill, and is not run")
            continue
        try:
            clips, samples = _recordings(config, found.run, shown["set"], data)
            place = [clip["id"] for clip in clips].index(shown["clip"])
        except (SpeechmillError, ValueError) as error:
            differs.append(f"{what} cannot be run on {shown['clip']}: {error}")
            continue
        output = printed(shown["code"], model, samples(place))
        if output == shown["printed"]:
            said.append(f"recomputed  {what} prints {output!r}: equal")
        else:
            differs.append(f"{what} prints {output!r}, the card says {shown['printed']!r}")
    return Found(said, differs)


def _other_audio(model: Path, name: str, decoder: str, audio: list[str]) -> list[str]:
    """Which clips of a set sound otherwise than those that were scored, or that their texts are others."""
    then = read_table(evidence.scored_file(model, name, decoder), ["id", "audio_sha256"]).to_pylist()
    changed_clips = [row["id"] for row, digest in zip(then, audio, strict=True) if row["audio_sha256"] != digest]
    if not changed_clips:
        return [f"{name}: the texts of its clips are not those that were scored"]
    return [f"{name}: the audio of the clip {each} is not what was scored" for each in changed_clips]


def _config(model: Path) -> Config:
    return load(yaml.safe_load((model / evidence.FOLDER / "config.yaml").read_text(encoding="utf-8")))


def _recordings(
    config: Config, run: str, name: str, data: Path
) -> tuple[list[dict[str, Any]], Callable[[int], Int16Samples]]:
    """The clips of a set, from what is prepared in `data`, and what reads the samples of each."""
    original, effect = base_set(name), name.removeprefix(base_set(name)).removeprefix("-")
    indexes, shards = (
        [data / Path(file).relative_to("results/data") for file in files]
        for files in (paths.role_indexes(config, run, original), paths.role_shards(config, run, original))
    )
    for path in [*indexes, *shards]:
        if not path.is_file():
            raise SpeechmillError(f"{path} is missing: prepare the dataset first, or leave --data out")
    dataset = original.split("-")[0]
    settings = ClipsSettings(
        text=config.runs[run].text, sets=[original], drawn={dataset: config.datasets[dataset].drawn}, training=None
    )
    clips = choose(indexes, settings).used
    reader = ClipReader(pa.Table.from_pylist(clips, CLIPS), shards, pool_clips=64)
    if not effect:
        return clips, reader.samples
    robustness = config.runs[run].evaluation.robustness
    assert robustness is not None
    how = robustness.effects[effect]

    return clips, lambda i: changed(reader.samples(i), how, clips[i]["id"])


def _other_clips(model: Path, name: str, decoder: str, clips: list[dict[str, Any]]) -> list[str]:
    """How the clips of a set are not those that were scored."""
    then = read_table(evidence.scored_file(model, name, decoder))["id"].to_pylist()
    now = [clip["id"] for clip in clips]
    lines = [
        f"{name}: the clip {each} was scored and is not among the recordings" for each in sorted(set(then) - set(now))
    ]
    lines += [
        f"{name}: the clip {each} is among the recordings and was not scored" for each in sorted(set(now) - set(then))
    ]
    return lines


class Heard(NamedTuple):
    """What a model makes of the clips of a set, in their order."""

    hypotheses: dict[str, list[str]]
    """By decoder."""
    losses: list[float]
    audio: list[str]
    """sha256 of the samples of each clip."""


def _hear(
    ear: ReferenceModel, model: Path, settings: LogProbsSettings, clips: list[dict[str, Any]],
    samples: Callable[[int], Int16Samples], decoders: Sequence[str],
) -> Heard:  # fmt: skip
    greedy: list[str] = []
    losses: list[float] = []
    audio: list[str] = []
    sizes: list[int] = []
    with tempfile.TemporaryFile() as spill:
        for i, clip in enumerate(progress(clips, total=len(clips), desc="verify", unit="clip")):
            heard = samples(i)
            audio.append(hashlib.sha256(heard.data).hexdigest())
            log_probs = ear.log_probs(heard, settings)
            greedy.append(ear.greedy(log_probs))
            whole = settings.chunk_seconds is None or len(heard) <= settings.chunk_seconds * SAMPLE_RATE
            losses.append(ear.loss(log_probs, clip["text"]) if whole else float("inf"))
            if "lm" in decoders:
                # As the workflow keeps them between its two stages.
                sizes.append(spill.write(log_probs.astype("<f2").tobytes()))
        hypotheses = {"greedy": greedy}
        if "lm" in decoders:
            weights = Weights.model_validate(read_json(model / "lm" / "weights.json"))
            words = (
                {word for each in greedy for word in compose(each).split()} if weights.vocabulary == "open" else set()
            )
            search = BeamSearch(model / "lm", weights, words)
            spill.seek(0)
            stored = (np.frombuffer(spill.read(size), dtype="<f2") for size in sizes)
            width = ear.model.config.vocab_size
            hypotheses["lm"] = [search(each.reshape(-1, width)) if len(each) else "" for each in stored]
    return Heard(hypotheses, losses, audio)


def _scores(
    config: Config, run: str, name: str, clips: list[dict[str, Any]], hypotheses: list[str], losses: list[float]
) -> dict[str, Any]:
    """The figures of a row of `summary.parquet`, with the errors as jiwer counts them."""
    section = config.runs[run]
    texts = [(clip["sentence"], clip["text"]) for clip in clips]
    groups = [clip["speaker_id"] or clip["id"] for clip in clips]
    protocols = section.evaluation.settings_of(name).protocols
    figures: dict[str, Any] = {}
    for protocol in protocols:
        pairs = zip(*scored_texts(protocol, texts, hypotheses, section.text), strict=True)
        found = totals([counted(*pair) for pair in pairs], groups)
        figures |= {f"{rate}_{protocol}": found[rate] for rate in _RATES}
        if protocol == protocols[0]:
            figures |= {key: found[key] for key in (*_RATES, *_COUNTED)}
            for rate in _RATES:
                figures[f"{rate}_low"], figures[f"{rate}_high"] = found[f"{rate}_ci95"]
    finite = [loss for loss in losses if np.isfinite(loss)]
    return figures | {"loss": float(np.mean(finite)) if finite else None, "clips_scored": len(clips)}


def counted(reference: str, hypothesis: str) -> Counts:
    """The errors of a clip, by jiwer."""
    words, characters = jiwer.process_words(reference, hypothesis), jiwer.process_characters(reference, hypothesis)
    return Counts(
        words.hits,
        words.substitutions,
        words.deletions,
        words.insertions,
        characters.substitutions + characters.deletions + characters.insertions,
        characters.hits + characters.substitutions + characters.deletions,
    )


def differences(row: dict[str, Any], again: dict[str, Any], exact: bool) -> list[str]:
    """What of a row of `summary.parquet` does not come out again; `exact` unless device or torch are others."""
    lines = []
    for key, value in again.items():
        said = None if pd.isna(row[key]) else row[key]
        if key in _COUNTED and not exact and key != "reference_words":
            continue
        if value is None or said is None or key in (*_COUNTED, "clips_scored"):
            same = value == said
        elif key == "loss":
            same = abs(value - said) <= (_LOSS if exact else _OTHER_LOSS) * max(1.0, abs(said))
        else:
            same = abs(value - said) <= (_EXACT if exact else POINTS / 100)
        if not same:
            lines.append(f"{key} is {said} in the card's evidence, and {value} when it is computed again")
    return lines


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", metavar="FOLDER", help="a model's folder, with its card")
    parser.add_argument("--data", type=Path, help="where the datasets are prepared, `results/data`; without it scores"
                        " are not computed again")  # fmt: skip
    parser.add_argument("--gpus", type=int, default=1, help="0 computes on the CPU; else on a GPU where there is one")
    args = parser.parse_args()
    differs: list[str] = []
    for model in args.models:
        found = folder(model)
        lines, wrong = found
        if args.data is not None:
            with acquire_devices("auto", str(model), args.gpus) as (device,):
                again = recomputed(model, args.data, device)
            lines, wrong = [*lines, *again.said], [*wrong, *again.differs]
        print(f"{model}")
        for line in lines:
            print(f"  {line}")
        if args.data is None:
            print("  not done    scores were not computed again: give --data, where the datasets are prepared")
        for line in wrong:
            print(f"  DIFFERS     {line}")
        differs += wrong
    if differs:
        raise SpeechmillError(f"{len(differs)} differences between what the cards say and what is there; see above")
    print("verified")


if __name__ == "__main__":
    run_command(main)
