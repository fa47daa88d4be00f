"""The Arrow schemas of the tables that the stages exchange."""

import json

import pyarrow as pa

SAMPLE_RATE = 16_000
"""Sampling rate of every stored clip, in Hz."""

_SPEAKER = [(name, pa.string()) for name in ("speaker_id", "gender", "age", "accent")]

_PART = [("recording", pa.string()), ("channel", pa.int32()), ("start", pa.float64()), ("end", pa.float64())]

_SCORE = ("score", pa.float32())

RAW = pa.schema(
    [
        ("id", pa.string()),
        ("splits", pa.list_(pa.string())),
        ("file", pa.string()),
        ("encoded", pa.binary()),
        ("encoded_file", pa.string()),
        ("encoded_file_sha256", pa.string()),
        ("sentence", pa.string()),
        *_SPEAKER,
        *_PART,
        _SCORE,
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
"""Clips of the corpus with the bytes of their files.

`encoded` are the bytes. Where they are more than 32 MiB, it is null, and `encoded_file` names a file with them in the
folder of the raw shard. Both are null if the corpus lists a file but lacks it, or if `reason` and `detail` say why it
cannot be read.

`recording` is the recording that a clip was cut from, `channel` the channel, counted from 0, or null for the mean of
all, and `start` and `end` are in seconds; an `end` of null is that of the recording. All are null if the clip is a
recording itself. `score` says how well audio and sentence of a clip match, where a model aligned or transcribed them;
otherwise null.
"""

PIECES = pa.schema(
    [
        ("id", pa.string()),
        ("recording", pa.string()),
        ("splits", pa.list_(pa.string())),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("sentence", pa.string()),
        _SCORE,
        ("encoded", pa.binary()),
        *_SPEAKER,
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
"""Pieces of recordings, in the order of time.

`recording` is the id of the clip that is cut, `start` and `end` are in seconds, and `encoded` is the audio in FLAC, at
16 kHz. Parts of the recording or of its transcript that are left out have a `reason` and its details instead of audio.
"""

_CLIP_TYPES = {
    "id": ("string", pa.string()),
    "audio": ("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    "num_samples": ("int32", pa.int32()),
    "sentence": ("string", pa.string()),
    **{name: ("string", pa.string()) for name, _ in _SPEAKER},
    "sha256": ("string", pa.string()),
    "audio_sha256": ("string", pa.string()),
}


CLIP_COLUMNS = list(_CLIP_TYPES)
"""The columns of a shard of clips."""


def clip_schema(**metadata: str) -> pa.Schema:
    """Return the schema of a shard of clips, with `metadata` added to its own metadata.

    Equal to `datasets.Features({..., "audio": Audio(16000)}).arrow_schema`, whose metadata makes `datasets` read the
    column as Audio. It is spelled out because importing `datasets` takes longer than writing a small shard.
    """
    features = {
        name: {"sampling_rate": SAMPLE_RATE, "_type": "Audio"} if kind == "audio" else {"dtype": kind, "_type": "Value"}
        for name, (kind, _) in _CLIP_TYPES.items()
    }
    huggingface = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema([(name, arrow) for name, (_, arrow) in _CLIP_TYPES.items()], metadata=huggingface | metadata)


ROWS = pa.schema(
    [
        ("id", pa.string()),
        ("shard", pa.int32()),
        ("row_group", pa.int32()),
        ("row", pa.int32()),
        ("splits", pa.list_(pa.string())),
        ("num_samples", pa.int32()),
        ("sentence", pa.string()),
        *_SPEAKER,
        *_PART,
        _SCORE,
        ("silence", pa.float32()),
        ("clipping", pa.float32()),
        ("missing_seconds", pa.float32()),
        ("encoded_bytes", pa.int64()),
        ("sha256", pa.string()),
        ("audio_sha256", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
"""Clips of one shard with where they are stored, or the reason why they could not be read.

`silence` is the share of silent frames, `clipping` the share of samples at full scale, and `missing_seconds` what the
file lacks of the length that its header states.
"""

INDEX = pa.schema([field for field in ROWS if field.name not in ("reason", "detail")])
"""Accepted clips; `shard`, `row_group` and `row` locate the audio: shard number, row group, row in the row group."""

REJECTED = pa.schema([(name, pa.string()) for name in ("id", "split", "reason", "detail")])
"""Clips of the corpus that could not be read, with the reason."""

_CLIP_KEY = [("dataset", pa.string()), ("split", pa.string()), ("id", pa.string())]

CLIPS = pa.schema(
    [
        *_CLIP_KEY,
        ("text", pa.string()),
        ("sentence", pa.string()),
        ("speaker_id", pa.string()),
        ("num_samples", pa.int32()),
        ("shard", pa.int32()),
        ("row_group", pa.int32()),
        ("row", pa.int32()),
        ("sha256", pa.string()),
        ("audio_sha256", pa.string()),
        *_PART,
    ]
)
"""Clips that a run uses, with the normalised text; `split` is the split that the clip is stored under."""

EXCLUDED = pa.schema([*_CLIP_KEY, ("reason", pa.string()), ("detail", pa.string())])
"""Training clips that a run excludes, with the reason."""

CTC_OUTPUTS = pa.schema(
    [
        ("id", pa.string()),
        ("frames", pa.int32()),
        ("hypothesis", pa.string()),
        ("loss", pa.float64()),
        ("log_probs", pa.binary()),
    ]
)
"""Outputs of a model, clip by clip.

`frames` is the number of frames, `hypothesis` the greedy one, `loss` the CTC loss (null where there is none), and
`log_probs` the log-probabilities in little-endian fp16, shape (frames, vocabulary), null where no decoder needs them.
A model that generates text has its text as `hypothesis`, and null in the others.
"""

LABEL_SCORES = pa.schema(
    [
        *_CLIP_KEY,
        ("seconds", pa.float64()),
        ("sentence", pa.string()),
        ("reference", pa.string()),
        ("hypothesis", pa.string()),
        ("score", pa.float64()),
        ("reason", pa.string()),
    ]
)
"""Training clips with the score of `inference/label_scores.py`, or the reason why there is none.

`sentence` is that of the training, perhaps corrected; `reference` and `hypothesis` are both normalised.
"""

HYPOTHESES = pa.schema(
    [
        *_CLIP_KEY,
        ("speaker_id", pa.string()),
        ("seconds", pa.float64()),
        ("sentence", pa.string()),
        ("hypothesis", pa.string()),
        ("scored_reference", pa.string()),
        ("scored_hypothesis", pa.string()),
        ("hits", pa.int32()),
        ("substitutions", pa.int32()),
        ("deletions", pa.int32()),
        ("insertions", pa.int32()),
        ("character_errors", pa.int32()),
        ("characters", pa.int32()),
        ("loss", pa.float64()),
    ]
)
"""Scored clips: the sentence of the corpus, the hypothesis as decoded, both as they are compared, and the counts."""

EXPORT_HYPOTHESES = pa.schema([("precision", pa.string()), *HYPOTHESES])
"""Scored clips of the exported models; there are no losses."""

CONFIDENCE = pa.schema(
    [
        ("decoder", pa.string()),
        ("id", pa.string()),
        ("confidence", pa.list_(pa.float32())),
        ("right", pa.list_(pa.bool_())),
    ]
)
"""The clips of a set, for each decoder, with the confidence of each word of the hypothesis before calibration.

`right` is whether each word is right. Both are null for a clip whose words cannot be compared with the reference.
"""
