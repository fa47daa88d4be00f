"""perturb: create a perturbed copy of an evaluation set by applying one effect to every clip."""

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
from speechmill.core.command import SpeechmillError, run_command
from speechmill.core.files import corrupt_file_error, read_json, write_json, write_text
from speechmill.core.flac import FloatSamples, Int16Samples, decode_flac, encode_flac
from speechmill.core.progress import progress
from speechmill.core.schemas import CLIPS, SAMPLE_RATE, clip_schema
from speechmill.core.tables import clips_digest, read_row_groups, read_table, write_in_row_groups, write_table

_SAMPLES = ["-t", "s16", "-r", str(SAMPLE_RATE), "-c", "1"]
_FLOATS = ["-t", "f32", "-r", str(SAMPLE_RATE), "-c", "1"]

# The delay of each codec in samples at 16 kHz, and the silence that must follow a clip so that its end is not lost.
# MP3: 576 samples in the encoder of LAME and 529 in any decoder (technical FAQ of LAME).
_DELAYS = {"gsm": 0, "mp3": 1105}
_CODEC_PADDING = ["pad", "0", "0.2"]

_COPIED_METADATA = (b"name", b"version", b"licence", b"configuration")
_ROW_GROUP = 16
_NOISE_SECONDS = 60
# The dynamic range of speech in STOI (Taal et al. 2011, IEEE TASLP 19(7), section II): frames further below the loudest
# frame count as silence.
_ACTIVE_RANGE_DB = 40
_FULL_SCALE = 32767


def perturb(clips: list[dict[str, Any]], shards: list[Path], effect: Effect, perturbed: Path) -> list[dict[str, Any]]:
    """Apply `effect` to the `clips` of a set and write them to the shard `perturbed`; return their rows, in order.

    `shards` contain the original clips; `perturbed` is named `…/{dataset}/{split}/shard-{number}.parquet`. Only
    `audio`, `num_samples` and `audio_sha256` of a clip change; its `sha256` remains that of the published file. The
    output is reproducible byte for byte with the same version of SoX.

    Raises:
        SpeechmillError: A shard is corrupt or contains other clips, or `apply_effect` fails.
    """
    changes: dict[int, dict[str, Any]] = {}

    def copies() -> Iterator[dict[str, Any]]:
        for shard, stored, i in progress(_stored_clips(clips, shards), total=len(clips), desc="perturb", unit="clip"):
            copy = _perturbed(stored, effect, shard)
            changes[i] = {key: copy[key] for key in ("num_samples", "audio_sha256")}
            yield copy

    metadata = _dataset_metadata(shards[0]) | {"effect": effect.model_dump_json(exclude_none=True)}
    sizes = write_in_row_groups(copies(), clip_schema(**metadata), perturbed, _ROW_GROUP)
    shard_key = {"split": perturbed.parent.name, "shard": int(perturbed.stem.removeprefix("shard-"))}
    positions = ((group, row) for group, size in enumerate(sizes) for row in range(size))
    for i, (group, row) in zip(changes, positions, strict=True):
        changes[i] |= shard_key | {"row_group": group, "row": row}
    return [clip | changes[i] for i, clip in enumerate(clips)]


def apply_effect(samples: Int16Samples, effect: Effect, name: str) -> Int16Samples:
    """Return the samples of the clip `name` after `effect`.

    Noise and codecs preserve the length and the timing of a clip. Of the default SoX effects only tempo changes the
    length; the tail of reverberation is cut off at the end of the clip. If adding noise would exceed full scale, the
    mix is attenuated.

    Raises:
        SpeechmillError: SoX is not installed, rejects the effect, or returns no samples.
    """
    if effect.noise_snr_db is not None:
        return _with_noise(samples, effect.noise_snr_db, name)
    if effect.codec is not None:
        return _through_codec(samples, effect.codec, effect.kbps)
    steps = [str(part) for step in effect.sox or [] for part in step]
    out = np.frombuffer(_sox(samples, _SAMPLES, _SAMPLES, steps), dtype=np.int16)
    if len(out) == 0:
        raise SpeechmillError(
            f"`sox {' '.join(steps)}` removes all {len(samples)} samples of {name}; correct the effect under"
            " `evaluation.robustness.effects`"
        )
    return out


def active_power(samples: Int16Samples) -> float:
    """Return the mean square of the active frames: frames of 20 ms within 40 dB of the loudest one.

    An incomplete last frame is ignored, unless it is the only one.
    """
    length = min(SAMPLE_RATE // 50, len(samples))
    frames = samples[: len(samples) // length * length].reshape(-1, length)
    powers = np.einsum("ij,ij->i", frames, frames, dtype=np.float32, casting="unsafe") / length
    return float(powers[powers >= powers.max() * 10 ** (-_ACTIVE_RANGE_DB / 10)].mean())


def _stored_clips(clips: list[dict[str, Any]], shards: list[Path]) -> Iterator[tuple[Path, dict[str, Any], int]]:
    """Yield the shard, the stored row and the position in `clips` of each clip, in the order of the shards."""
    wanted: dict[tuple[str, str, int], dict[int, list[int]]] = {}
    for i, clip in enumerate(clips):
        groups = wanted.setdefault((clip["dataset"], clip["split"], clip["shard"]), {})
        groups.setdefault(clip["row_group"], []).append(i)
    for shard in shards:
        key = (shard.parts[-3], shard.parts[-2], int(shard.stem.removeprefix("shard-")))
        groups = wanted.pop(key, {})
        for rows, positions in zip(read_row_groups(shard, groups), groups.values(), strict=True):
            for i in positions:
                row = clips[i]["row"]
                if row >= len(rows) or rows[row]["id"] != clips[i]["id"]:
                    raise corrupt_file_error(shard, f"does not contain {clips[i]['id']} where its index says")
                yield shard, rows[row], i
    if wanted:
        missing = ", ".join(f"{dataset}/{split}/shard-{number:05d}" for dataset, split, number in wanted)
        raise SpeechmillError(f"--clips refers to clips in shards that --shards does not list: {missing}")


def _dataset_metadata(shard: Path) -> dict[str, str]:
    metadata = read_table(shard, columns=["num_samples"]).schema.metadata
    return {key.decode(): value.decode() for key, value in metadata.items() if key in _COPIED_METADATA}


def _perturbed(clip: dict[str, Any], effect: Effect, shard: Path) -> dict[str, Any]:
    try:
        samples = decode_flac(clip["audio"]["bytes"])
    except sf.LibsndfileError as error:
        raise corrupt_file_error(shard, f"contains damaged audio for {clip['id']} ({error})") from error
    out = apply_effect(samples, effect, clip["id"])
    return clip | {
        "audio": {"bytes": encode_flac(out), "path": clip["audio"]["path"]},
        "num_samples": len(out),
        "audio_sha256": hashlib.sha256(out.data).hexdigest(),
    }


def _with_noise(samples: Int16Samples, snr_db: float, name: str) -> Int16Samples:
    """Add pink noise at `snr_db` below the active power of the clip; silence remains unchanged.

    The power of pink noise falls with frequency, like that of rooms, streets and speech itself, so it masks all parts
    of speech about equally, whereas white noise masks mainly the high frequencies.
    """
    noise = _pink_noise()
    # The name determines where the noise starts, so that clips do not all have the same noise.
    start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % len(noise)
    noise = np.roll(noise, -start)
    noise_power = np.square(noise[: len(samples)], dtype=np.float64).mean()
    gain = np.float32(np.sqrt(active_power(samples) / noise_power / 10 ** (snr_db / 10)))
    mixed = samples.astype(np.float32)
    for offset in range(0, len(mixed), len(noise)):
        segment = mixed[offset : offset + len(noise)]
        segment += gain * noise[: len(segment)]
    mixed *= min(1, _FULL_SCALE / max(1, mixed.max(), -mixed.min()))
    return np.rint(mixed, out=mixed).astype(np.int16)


@cache
def _pink_noise() -> FloatSamples:
    """Return a minute of pink noise by SoX, the same each time, without the inaudible power below 50 Hz."""
    silence = np.zeros(_NOISE_SECONDS * SAMPLE_RATE, dtype=np.float32)
    noise = _sox(silence, _FLOATS, _FLOATS, ["synth", "pinknoise", "highpass", "50"])
    return np.frombuffer(noise, dtype=np.float32)


def _through_codec(samples: Int16Samples, codec: str, kbps: int | None) -> Int16Samples:
    encoding = ["-t", "mp3", "-C", str(kbps)] if codec == "mp3" else ["-t", "gsm", "-r", "8000"]
    encoded = _sox(samples, _SAMPLES, encoding, _CODEC_PADDING)
    decoded = _sox(np.frombuffer(encoded, dtype=np.uint8), ["-t", codec], _SAMPLES, [])
    delay = _DELAYS[codec]
    return np.frombuffer(decoded, dtype=np.int16)[delay : delay + len(samples)]


def _sox(content: NDArray[Any], input_format: list[str], output_format: list[str], effects: list[str]) -> bytes:
    """Return the output of SoX for `content`, without dither and with a fixed random seed."""
    import sox.core

    command = ["sox", "-R", "-D", "-V1", *input_format, "-", *output_format, "-", *effects]
    status, out, stderr = sox.core.sox(command, content, decode_out_with_utf=False)
    if stderr is None:
        raise SpeechmillError("sox is not installed; run: apt-get install sox libsox-fmt-mp3")
    if status < 0:
        raise SpeechmillError("sox was killed, perhaps because memory ran out; run snakemake again")
    # After some errors SoX exits with status 0.
    if status != 0 or stderr:
        raise SpeechmillError(
            f"`{' '.join(command)}` fails ({stderr.splitlines()[0] if stderr else status}); correct the effect under"
            " `evaluation.robustness.effects`, or if SoX cannot write MP3: apt-get install libsox-fmt-mp3"
        )
    return bytes(out)


def main() -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--effect", type=Effect.model_validate_json, required=True)
    parser.add_argument("--clips", type=Path, required=True, help="the clips of the set")
    parser.add_argument("--counts", type=Path, required=True, help="the counts of the set's clips")
    parser.add_argument("--shards", type=Path, nargs="+", required=True)
    parser.add_argument("--perturbed", type=Path, required=True, help="the shard of the perturbed clips")
    parser.add_argument("--perturbed-clips", type=Path, required=True)
    parser.add_argument("--perturbed-digest", type=Path, required=True)
    parser.add_argument("--perturbed-counts", type=Path, required=True)
    args = parser.parse_args()
    rows = perturb(read_table(args.clips).to_pylist(), args.shards, args.effect, args.perturbed)
    write_table(rows, CLIPS, args.perturbed_clips)
    write_text(clips_digest(rows) + "\n", args.perturbed_digest)
    seconds = sum(row["num_samples"] for row in rows) / SAMPLE_RATE
    write_json(read_json(args.counts) | {"seconds": seconds}, args.perturbed_counts)


if __name__ == "__main__":
    run_command(main)
