"""perturb: a copy of an evaluation set in which every clip is changed by one effect and nothing else is."""

import argparse
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from speechmill.config.robustness import Effect
from speechmill.core.command import SpeechmillError, atomic_write, corrupt_file_error, run_command
from speechmill.core.flac import FloatSamples, Int16Samples, decode_flac, encode_flac
from speechmill.core.progress import progress
from speechmill.core.tables import (
    CLIPS,
    SAMPLE_RATE,
    clip_schema,
    clips_digest,
    read_json,
    read_row_groups,
    read_table,
    write_in_row_groups,
    write_json,
    write_table,
)

_SAMPLES = ["-t", "s16", "-r", str(SAMPLE_RATE), "-c", "1"]
_FLOATS = ["-t", "f32", "-r", str(SAMPLE_RATE), "-c", "1"]

# How many samples later, at 16 kHz, a clip comes out of a codec, and the silence that has to follow it so that its end
# comes out as well. MP3: 576 samples in LAME's encoder and 529 in any decoder (LAME's technical FAQ).
_DELAYS = {"gsm": 0, "mp3": 1105}
_CODEC_PADDING = ["pad", "0", "0.2"]

_KEPT = (b"name", b"version", b"licence", b"configuration")
_ROW_GROUP = 16
_NOISE_SECONDS = 60
# The range of speech in STOI (Taal et al. 2011, IEEE TASLP 19(7), section II): frames further below the loudest are
# pauses.
_ACTIVE_RANGE_DB = 40
_FULL_SCALE = 32767


def perturb(clips: list[dict[str, Any]], shards: list[Path], effect: Effect, perturbed: Path) -> list[dict[str, Any]]:
    """Write the shard `perturbed`, `…/{dataset}/{split}/shard-{number}.parquet`: the `clips` of a set, changed.

    `shards` are those that the clips point into. A clip keeps all that is said of it but `audio`, `num_samples` and
    `audio_sha256`; `sha256` goes on to be that of the published file. The same clips and effect give the same bytes,
    with the same SoX. Returns the rows of the clips as they are in the new shard, in their order.

    Raises:
        SpeechmillError: A shard is damaged or of other clips, or SoX is absent, refuses the effect or leaves nothing of
            a clip.
    """
    made: dict[int, dict[str, Any]] = {}

    def copies() -> Iterator[dict[str, Any]]:
        for shard, stored, place in progress(_stored(clips, shards), total=len(clips), desc="perturb", unit="clip"):
            copy = _perturbed(stored, effect, shard)
            made[place] = {key: copy[key] for key in ("num_samples", "audio_sha256")}
            yield copy

    about = {"effect": effect.model_dump_json(exclude_none=True)}
    sizes = write_in_row_groups(copies(), clip_schema(**_about(shards[0]), **about), perturbed, _ROW_GROUP)
    where = {"split": perturbed.parent.name, "shard": int(perturbed.stem.removeprefix("shard-"))}
    for place, (group, row) in zip(made, ((g, r) for g, size in enumerate(sizes) for r in range(size)), strict=True):
        made[place] |= where | {"row_group": group, "row": row}
    return [clip | made[place] for place, clip in enumerate(clips)]


def changed(samples: Int16Samples, effect: Effect, name: str) -> Int16Samples:
    """The clip `name` after `effect`.

    Noise and codecs keep its length and every sound in its place; among the effects of SoX, tempo makes it longer or
    shorter, while reverberation ends with the clip. Where clip and noise together would go beyond full scale, both are
    taken down.

    Raises:
        SpeechmillError: SoX is absent, refuses the effect, or leaves no samples.
    """
    if effect.noise_snr_db is not None:
        return _with_noise(samples, effect.noise_snr_db, name)
    if effect.codec is not None:
        return _through_codec(samples, effect.codec, effect.kbps)
    steps = [str(part) for step in effect.sox or [] for part in step]
    out = np.frombuffer(_sox(samples, _SAMPLES, _SAMPLES, steps), dtype=np.int16)
    if len(out) == 0:
        raise SpeechmillError(f"`sox {' '.join(steps)}` leaves nothing of {name}, {len(samples)} samples")
    return out


def active_power(samples: Int16Samples) -> float:
    """The mean square of the samples where there is sound: in frames of 20 ms within 40 dB of the loudest one.

    What is left after the last whole frame does not count, except in a clip that is shorter than one.
    """
    length = min(SAMPLE_RATE // 50, len(samples))
    frames = samples[: len(samples) // length * length].reshape(-1, length)
    powers = np.einsum("ij,ij->i", frames, frames, dtype=np.float32, casting="unsafe") / length
    return float(powers[powers >= powers.max() * 10 ** (-_ACTIVE_RANGE_DB / 10)].mean())


def _stored(clips: list[dict[str, Any]], shards: list[Path]) -> Iterator[tuple[Path, dict[str, Any], int]]:
    """What is stored of each clip, as it comes, with its shard and the clip's place among `clips`."""
    wanted: dict[tuple[str, str, int], dict[int, list[int]]] = {}
    for place, clip in enumerate(clips):
        groups = wanted.setdefault((clip["dataset"], clip["split"], clip["shard"]), {})
        groups.setdefault(clip["row_group"], []).append(place)
    for shard in shards:
        key = (shard.parts[-3], shard.parts[-2], int(shard.stem.removeprefix("shard-")))
        groups = wanted.pop(key, {})
        for rows, places in zip(read_row_groups(shard, groups), groups.values(), strict=True):
            for place in places:
                row = clips[place]["row"]
                if row >= len(rows) or rows[row]["id"] != clips[place]["id"]:
                    raise corrupt_file_error(shard, f"does not hold {clips[place]['id']} where its index says")
                yield shard, rows[row], place
    if wanted:
        raise SpeechmillError(f"clips are to be changed that lie in none of the shards: {', '.join(map(str, wanted))}")


def _about(shard: Path) -> dict[str, str]:
    metadata = read_table(shard, columns=["num_samples"]).schema.metadata
    return {key.decode(): value.decode() for key, value in metadata.items() if key in _KEPT}


def _perturbed(clip: dict[str, Any], effect: Effect, shard: Path) -> dict[str, Any]:
    try:
        samples = decode_flac(clip["audio"]["bytes"])
    except sf.LibsndfileError as error:
        raise corrupt_file_error(shard, f"holds {clip['id']} damaged ({error})") from error
    out = changed(samples, effect, clip["id"])
    return clip | {
        "audio": {"bytes": encode_flac(out), "path": clip["audio"]["path"]},
        "num_samples": len(out),
        "audio_sha256": hashlib.sha256(out.data).hexdigest(),
    }


def _with_noise(samples: Int16Samples, snr_db: float, name: str) -> Int16Samples:
    """Pink noise at this ratio to the active power of the clip; a clip without any sound stays as it is.

    Pink, because rooms, streets and speech itself have less power the higher the frequency, as it has; white noise
    covers what is quiet and high in speech long before the rest.
    """
    tape = _pink_noise()
    # Where on the tape a clip starts is its own affair, so that clips do not all hear the same.
    start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % len(tape)
    tape = np.roll(tape, -start)
    noise_power = np.square(tape[: len(samples)], dtype=np.float64).mean()
    gain = np.float32(np.sqrt(active_power(samples) / noise_power / 10 ** (snr_db / 10)))
    mixed = samples.astype(np.float32)
    for at in range(0, len(mixed), len(tape)):
        stretch = mixed[at : at + len(tape)]
        stretch += gain * tape[: len(stretch)]
    mixed *= min(1, _FULL_SCALE / max(1, mixed.max(), -mixed.min()))
    return np.rint(mixed, out=mixed).astype(np.int16)


@cache
def _pink_noise() -> FloatSamples:
    """A minute of SoX's pink noise, the same each time; without what is below 50 Hz, which counts and is not heard."""
    silence = np.zeros(_NOISE_SECONDS * SAMPLE_RATE, dtype=np.float32)
    made = _sox(silence, _FLOATS, _FLOATS, ["synth", "pinknoise", "highpass", "50"])
    return np.frombuffer(made, dtype=np.float32)


def _through_codec(samples: Int16Samples, codec: str, kbps: int | None) -> Int16Samples:
    encoding = ["-t", "mp3", "-C", str(kbps)] if codec == "mp3" else ["-t", "gsm", "-r", "8000"]
    encoded = _sox(samples, _SAMPLES, encoding, _CODEC_PADDING)
    decoded = _sox(np.frombuffer(encoded, dtype=np.uint8), ["-t", codec], _SAMPLES, [])
    delay = _DELAYS[codec]
    return np.frombuffer(decoded, dtype=np.int16)[delay : delay + len(samples)]


def _sox(content: NDArray[Any], given: list[str], wanted: list[str], effects: list[str]) -> bytes:
    """What SoX makes of `content`, which it reads as `given` and writes as `wanted`.

    Without dither and with the same random numbers each time.
    """
    import sox.core

    command = ["sox", "-R", "-D", "-V1", *given, "-", *wanted, "-", *effects]
    status, out, complaint = sox.core.sox(command, content, decode_out_with_utf=False)
    if complaint is None:
        raise SpeechmillError("there is no sox program; install it: apt-get install sox libsox-fmt-mp3")
    if status < 0:
        raise SpeechmillError("sox was killed, perhaps for want of memory; run snakemake again")
    # SoX ends well after some of its errors.
    if status != 0 or complaint:
        raise SpeechmillError(
            f"`{' '.join(command)}` fails ({complaint.splitlines()[0] if complaint else status}); correct the effect"
            " under `evaluation.robustness.effects`, or install what SoX lacks: apt-get install libsox-fmt-mp3"
        )
    return bytes(out)


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--effect", type=Effect.model_validate_json, required=True)
    parser.add_argument("--clips", type=Path, required=True, help="the clips of the set")
    parser.add_argument("--counts", type=Path, required=True, help="the counts of the set's clips")
    parser.add_argument("--shards", type=Path, nargs="+", required=True)
    parser.add_argument("--perturbed", type=Path, required=True, help="a shard of the changed clips")
    parser.add_argument("--perturbed-clips", type=Path, required=True)
    parser.add_argument("--perturbed-digest", type=Path, required=True)
    parser.add_argument("--perturbed-counts", type=Path, required=True)
    args = parser.parse_args()
    rows = perturb(read_table(args.clips).to_pylist(), args.shards, args.effect, args.perturbed)
    write_table(rows, CLIPS, args.perturbed_clips)
    with atomic_write(args.perturbed_digest) as beside:
        beside.write_text(clips_digest(rows) + "\n")
    seconds = sum(row["num_samples"] for row in rows) / SAMPLE_RATE
    write_json(read_json(args.counts) | {"seconds": seconds}, args.perturbed_counts)


if __name__ == "__main__":
    run_command(main)
