"""Test data: recordings, stored clips, archives, small models and their settings."""

import io
import itertools
import json
import resource
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from speechmill.core.files import write_json
from speechmill.core.flac import Int16Samples, encode_flac
from speechmill.core.schemas import SAMPLE_RATE, clip_schema
from speechmill.core.tables import write_in_row_groups
from speechmill.lm.lm import LmSettings, build_model
from speechmill.text.lexicon import ABOUT, LEXICON, MODEL, TOKENS, Tokens

ROOT = Path(__file__).resolve().parents[1]

# The seven convolutions of wav2vec2, with a stride of 320 samples and a window of 400, and a small encoder.
TINY: dict[str, Any] = {
    "model_type": "wav2vec2",
    "conv_dim": [8] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "num_feat_extract_layers": 7,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "final_dropout": 0.0,
    "layerdrop": 0.0,
    "apply_spec_augment": False,
}
LAYER_NORM = TINY | {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
GROUP_NORM = TINY | {"feat_extract_norm": "group", "do_stable_layer_norm": False, "conv_bias": False}
_SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
_BERT = (
    _SMALL
    | {"model_type": "wav2vec2-bert", "feature_projection_input_dim": 32, "conv_depthwise_kernel_size": 5}
    | {"apply_spec_augment": False}
)


def _without(settings: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in keys}


# The convolutions of wav2vec2 and w2v-BERT that follow the encoder and halve the number of frames, here twice.
_ADAPTER = {"add_adapter": True, "num_adapter_layers": 2, "output_hidden_size": 16}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "wav2vec2": LAYER_NORM,
    "wav2vec2-group": GROUP_NORM,
    "wav2vec2-adapter": LAYER_NORM | _ADAPTER,
    "mms": LAYER_NORM | {"adapter_attn_dim": 4},
    "hubert": LAYER_NORM | {"model_type": "hubert"},
    "wavlm": LAYER_NORM | {"model_type": "wavlm"},
    "wavlm-adapter": LAYER_NORM | _ADAPTER | {"model_type": "wavlm"},
    "unispeech": LAYER_NORM | {"model_type": "unispeech"},
    "unispeech-sat": LAYER_NORM | {"model_type": "unispeech-sat"},
    "data2vec": _without(
        LAYER_NORM | {"model_type": "data2vec-audio", "num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 3},
        "apply_spec_augment",
        "do_stable_layer_norm",
        "feat_extract_norm",
    ),
    "conformer": _without(LAYER_NORM | {"model_type": "wav2vec2-conformer"}, "do_stable_layer_norm"),
    "sew": _without(LAYER_NORM | {"model_type": "sew"}, "do_stable_layer_norm"),
    "sew-d": _without(
        LAYER_NORM | {"model_type": "sew-d", "intermediate_size": 24}, "do_stable_layer_norm", "layerdrop"
    ),
    "w2v-bert": _BERT,
    "w2v-bert-adapter": _BERT | _ADAPTER,
    "parakeet": {
        "model_type": "parakeet_ctc",
        "encoder_config": _SMALL | {"num_mel_bins": 16, "subsampling_conv_channels": 8, "conv_kernel_size": 5},
    },
    "lasr": {
        "model_type": "lasr_ctc",
        "encoder_config": _SMALL | {"num_mel_bins": 16, "subsampling_conv_channels": 8, "conv_kernel_size": 5},
    },
    # Blocks of 8 frames, so that clips have several.
    "granite": {
        "model_type": "granite_speech5_ctc",
        "encoder_config": _SMALL
        | {"num_mel_bins": 16, "conv_kernel_size": 5, "context_size": 8, "subsample_layers": [0]},
    },
}
# All random parts of training are active: dropout, layer drop and SpecAugment.
STOCHASTIC = LAYER_NORM | {
    "hidden_dropout": 0.1,
    "layerdrop": 0.3,
    "apply_spec_augment": True,
    "mask_time_prob": 0.3,
    "mask_time_length": 2,
}


def noise(seconds: float, rate: int = SAMPLE_RATE, seed: int = 0) -> NDArray[np.float64]:
    """Return noise with a spectrum like that of speech, whose level rises and falls four times a second."""
    n = round(seconds * rate)
    hertz = np.fft.rfftfreq(n, 1 / rate)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(n)) / (1 + (hertz / 500) ** 2)
    spectrum[hertz < 50] = 0
    samples = np.fft.irfft(spectrum, n) * (0.55 + 0.45 * np.sin(2 * np.pi * 4 * np.arange(n) / rate))
    return np.asarray(0.5 * samples / np.abs(samples).max())


def audio_file(samples: NDArray[Any], rate: int = SAMPLE_RATE, kind: str = "WAV", subtype: str = "PCM_16") -> bytes:
    """Return the bytes of an audio file with `samples`, shape (samples,) or (samples, channels)."""
    buffer = io.BytesIO()
    sf.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def write_recording(file: Path, seconds: float = 0.5, seed: int = 0) -> None:
    """Write `noise` to a WAV file at 8 kHz, as a user might have one, and create its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(audio_file(noise(seconds, 8000, seed), 8000))


def recording(seconds: float, seed: int = 0) -> Int16Samples:
    """Return `noise` as 16-bit samples at 16 kHz."""
    return np.asarray(noise(seconds, seed=seed) * 32767, dtype=np.int16)


def store(
    folder: Path, recordings: Sequence[Int16Samples], texts: Sequence[str], speakers: Sequence[str | None] = ()
) -> tuple[list[dict[str, Any]], list[Path]]:
    """Write clips to two shards below `folder`; return the rows of the table of clips, and the paths of the shards."""
    rows: list[dict[str, Any]] = []
    stored: list[list[dict[str, Any]]] = [[], []]
    for i, (samples, text) in enumerate(zip(recordings, texts, strict=True)):
        shard = i % 2
        row = {
            "id": f"clip-{i:03d}",
            "sentence": text,
            "speaker_id": speakers[i] if speakers else None,
            "num_samples": len(samples),
            "audio_sha256": f"{i:064x}",
        }
        rows.append(
            row
            | {"dataset": "corpus", "split": "train", "text": text, "shard": shard}
            | {"row_group": len(stored[shard]) // 3, "row": len(stored[shard]) % 3}
        )
        stored[shard].append(row | {"audio": {"bytes": encode_flac(samples), "path": "clip.flac"}})
    shards = [folder / "corpus" / "train" / f"shard-{number:05d}.parquet" for number in (0, 1)]
    for shard, clips in zip(shards, stored, strict=True):
        write_in_row_groups(clips, clip_schema(), shard, 3)
    return rows, shards


def run_stage(
    stage: str,
    *arguments: object,
    workflow: Path = ROOT / "workflow",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the command of a stage, as its rule does."""
    return subprocess.run(
        [sys.executable, "-m", f"speechmill.{stage}", *map(str, arguments)],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(workflow), **(env or {})},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


# The peak of a process includes the memory of the process that started it, so a small process starts the command.
_MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""


def run_measured(command: Sequence[str], **options: Any) -> tuple["subprocess.CompletedProcess[str]", int]:
    """Run a command with the `options` of subprocess.run; return the completed process and its peak memory in bytes.

    One line is appended to the standard output of the command.
    """
    measure = [sys.executable, "-c", _MEASURE, *command]
    done = subprocess.run(measure, stdout=subprocess.PIPE, text=True, **options)
    return done, int(done.stdout.split()[-1]) << 10


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let this process write no file larger than `size` bytes: to a program, that is a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def as_json(value: Any) -> str:
    """Return `value` as JSON, for an argument of a stage."""
    return json.dumps(value, ensure_ascii=False)


RELEASE = "cv-corpus-8.0-2022-01-19"
# Source: the header of the tables of Common Voice 8.0.
TSV_COLUMNS = [
    "client_id",
    "path",
    "sentence",
    "up_votes",
    "down_votes",
    "age",
    "gender",
    "accents",
    "locale",
    "segment",
]


def tsv(rows: Sequence[Mapping[str, str]], columns: Sequence[str] = TSV_COLUMNS) -> bytes:
    """Return a table in the format of Common Voice, without quoting."""
    lines = ["\t".join(columns), *("\t".join(row.get(column, "") for column in columns) for row in rows)]
    return ("\n".join(lines) + "\n").encode()


def tar(path: Path, members: Sequence[tuple[str, bytes]], mode: str = "w:gz") -> Path:
    """Write an archive with `members`, (name, content) pairs, in this order."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


CHARACTER_TOKENS = ["[PAD]", "[UNK]", "|", *"abcdeo"]


def language_model(
    folder: Path,
    sentences: Sequence[str],
    words: Sequence[str] = (),
    tokens: Sequence[str] = CHARACTER_TOKENS,
) -> Path:
    """A folder as stage `lm` writes it; the lexicon contains the words of the sentences and `words`."""
    folder.mkdir()
    text = folder / "text"
    text.write_text("".join(f"{sentence}\n" for sentence in sentences), encoding="utf-8")
    build_model(text, folder / MODEL, LmSettings(order=2, prune=[], format="trie", max_words=9), 100)
    spelling = Tokens(list(tokens), "[PAD]", "|")
    vocabulary = sorted({*words, *itertools.chain(*map(str.split, sentences))})
    (folder / LEXICON).write_text("".join(str(spelling.entry(word)) for word in vocabulary), encoding="utf-8")
    (folder / TOKENS).write_text("\n".join(tokens) + "\n", encoding="utf-8")
    about = {"blank": "[PAD]", "separator": "|", "special": [token for token in tokens if token == "[UNK]"]}
    write_json(about, folder / ABOUT)
    return folder


def random_inputs(model: Any, seconds: float = 1.0) -> Any:
    """Return random inputs of two clips for a model: samples, or mel spectra."""
    import torch

    torch.manual_seed(1)
    if model.main_input_name == "input_values":
        return torch.randn(2, int(seconds * SAMPLE_RATE))
    encoder = getattr(model.config, "encoder_config", model.config)
    width = getattr(encoder, "num_mel_bins", None) or encoder.feature_projection_input_dim
    # Granite's extractor stacks four spectra.
    width *= 4 if model.config.model_type == "granite_speech5_ctc" else 1
    return torch.randn(2, int(100 * seconds), width)


def write_tiny_whisper(folder: Path) -> None:
    """Write a Whisper with random weights, which writes letters and spaces that depend on the audio."""
    import torch
    from transformers import (
        AddedToken,
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    end, start = "<|endoftext|>", "<|startoftranscript|>"
    languages, tasks = ("<|ko|>", "<|ru|>"), ("translate", "transcribe")
    others = ("<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>")
    characters = list(bytes_to_unicode().values())
    tokenizer = WhisperTokenizer(
        vocab={token: i for i, token in enumerate([*characters, end])}, merges=[], pad_token=end
    )
    special = [start, *languages, *(f"<|{task}|>" for task in tasks), *others]
    tokenizer.add_tokens([AddedToken(token, special=True) for token in special], special_tokens=True)
    tokenizer.add_tokens([AddedToken(f"<|{i * 0.02:.2f}|>", special=False) for i in range(1501)])
    ids = tokenizer.get_vocab()
    tokens = {"bos_token_id": ids[end], "eos_token_id": ids[end], "pad_token_id": ids[end]}
    tokens["decoder_start_token_id"] = ids[start]
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_target_positions=40, init_std=0.5,
        **tokens,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    # Otherwise the text would hardly depend on the audio.
    torch.nn.init.normal_(model.model.decoder.layers[0].encoder_attn.out_proj.weight, std=3)
    # Timestamps are so many that they would be most of the output.
    with torch.no_grad():
        model.model.decoder.embed_tokens.weight[ids["<|0.00|>"] :] *= 0.1
        model.model.decoder.embed_tokens.weight[[ids[token] for token in "abcdeĠ"]] *= 5
    model.generation_config = GenerationConfig(
        **tokens,
        is_multilingual=True,
        lang_to_id={token: ids[token] for token in languages},
        task_to_id={task: ids[f"<|{task}|>"] for task in tasks},
        no_timestamps_token_id=ids["<|notimestamps|>"],
        prev_sot_token_id=ids["<|startofprev|>"],
        alignment_heads=[[0, 0]],
        max_initial_timestamp_index=50,
        max_length=24,
        # Without an end, every text has the largest length.
        suppress_tokens=[ids[token] for token in [*characters, end, *special] if token not in list("abcdeĠ")],
        begin_suppress_tokens=[],
        return_timestamps=False,
    )
    model.save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(), tokenizer).save_pretrained(folder)
