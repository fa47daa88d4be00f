import itertools
import math
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import Wav2Vec2ForCTC, Wav2Vec2Processor, pipeline
from transformers.pipelines.automatic_speech_recognition import chunk_iter, rescale_stride

from levels_model import encode_as_levels, levels_model
from material import LAYER_NORM, ROOT, as_json, noise, recording, store
from speechmill.core.command import SpeechmillError
from speechmill.core.files import file_digest, read_json, write_digests, write_json, write_plain_json
from speechmill.core.flac import Int16Samples
from speechmill.core.schemas import CLIPS, CTC_OUTPUTS, SAMPLE_RATE, clip_schema
from speechmill.core.tables import ctc_outputs_metadata, read_table, write_table
from speechmill.inference import log_probs
from speechmill.inference.log_probs import (
    Chunk,
    LogProbsSettings,
    evaluation_batches,
    infer,
    split_into_chunks,
    transcribe,
    weights_digest,
)
from speechmill.model.devices import device_name
from speechmill.model.models import equal_in_batch, load_checkpoint, model_config, new_model

CPU = torch.device("cpu")
# Unsorted, with repetitions and one very short clip.
SECONDS = [1.0, 0.4, 2.3, 0.05, 1.0, 0.7, 1.9, 0.4, 1.2]
RECORDINGS = [recording(seconds, seed=i) for i, seconds in enumerate(SECONDS)]
TEXTS = ["abc de", "a", "ed cb", "b", "", "aa bb", "cabq z", "d", "e a b"]

Scored = tuple[list[str], list[float]]


def in_float(samples: Int16Samples) -> NDArray[np.float32]:
    return samples.astype(np.float32) / 32768


def raw(recordings: Sequence[Int16Samples]) -> list[dict[str, Any]]:
    return [{"raw": in_float(samples), "sampling_rate": SAMPLE_RATE} for samples in recordings]


def transcribed(
    folder: Path, checkpoints: Path, batch_seconds: float, recordings: Sequence[Int16Samples] = RECORDINGS
) -> Scored:
    clips, shards = store(folder, recordings, (TEXTS * 2)[: len(recordings)])
    model, processor = load_checkpoint(checkpoints / "checkpoint-0")
    return transcribe(model, processor, clips, shards, batch_seconds, CPU)


def test_hypotheses_match_pipeline(tmp_path: Path, checkpoints: Path) -> None:
    hypotheses, _ = transcribed(tmp_path, checkpoints, batch_seconds=6)
    asr = pipeline("automatic-speech-recognition", model=str(checkpoints / "checkpoint-0"), device="cpu")
    assert hypotheses == [asr(clip)["text"] for clip in raw(RECORDINGS)]
    assert len(set(hypotheses)) > len(hypotheses) / 2  # otherwise a wrong order could pass


class BlankInPadding(Wav2Vec2ForCTC):
    """A model that outputs the blank in padding, as trained models do, because the pipeline decodes padding too."""

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any) -> Any:
        out = super().forward(input_values, attention_mask=attention_mask, **kwargs)
        if attention_mask is not None:
            mask = self._get_feature_vector_attention_mask(out.logits.shape[1], attention_mask)
            out.logits[..., 0] += 1e4 * ~mask.bool()
        return out


def test_hypotheses_match_batched_pipeline(tmp_path: Path, checkpoints: Path) -> None:
    model, processor = load_checkpoint(checkpoints / "checkpoint-0")
    # Padding changes the output of a model with group norm, and the pipeline pads.
    equal = equal_in_batch(model, processor, CPU)
    recordings = [recording(1.0, seed=i) for i in range(12)] if equal else RECORDINGS * 2
    hypotheses, _ = transcribed(tmp_path, checkpoints, 20, recordings)
    blank_in_padding = BlankInPadding.from_pretrained(checkpoints / "checkpoint-0").eval()
    asr = pipeline(
        "automatic-speech-recognition",
        model=blank_in_padding,
        tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor,
        device="cpu",
    )
    assert hypotheses == [output["text"] for output in asr(raw(recordings), batch_size=64)]
    assert any(hypotheses)


def test_output_is_independent_of_batch(tmp_path: Path, checkpoints: Path) -> None:
    together, losses = transcribed(tmp_path / "together", checkpoints, batch_seconds=60)
    alone, losses_alone = transcribed(tmp_path / "alone", checkpoints, batch_seconds=0.001)
    assert together == alone
    assert losses == pytest.approx(losses_alone, rel=1e-4)


def test_without_mask_batches_have_equal_lengths(tmp_path: Path, checkpoints: Path) -> None:
    clips, shards = store(tmp_path, RECORDINGS, TEXTS)
    model, processor = load_checkpoint(checkpoints / "checkpoint-0")
    processor.feature_extractor.return_attention_mask = False
    together, alone = (transcribe(model, processor, clips, shards, seconds, CPU)[0] for seconds in (60, 0.001))
    assert together == alone


def test_clip_shorter_than_a_frame_has_empty_output(tmp_path: Path, checkpoints: Path) -> None:
    # The window of wav2vec2 is 400 samples, 25 ms.
    recordings = [recording(1.0), np.array([5], dtype=np.int16), np.arange(399, dtype=np.int16), recording(0.5)]
    for budget in (60, 0.001):
        hypotheses, losses = transcribed(tmp_path / str(budget), checkpoints, budget, recordings)
        assert hypotheses[1:3] == ["", ""]
        assert losses[1:3] == [math.inf, math.inf]
        others, _ = transcribed(tmp_path / f"others {budget}", checkpoints, budget, [recordings[0], recordings[3]])
        assert [hypotheses[0], hypotheses[3]] == others


def test_clip_too_short_for_its_text_has_no_loss(tmp_path: Path, checkpoints: Path) -> None:
    clips, shards = store(tmp_path, [recording(0.5), recording(0.05)], ["abc", "abcde"])
    model, processor = load_checkpoint(checkpoints / "checkpoint-0")
    _, losses = transcribe(model, processor, clips, shards, 60, CPU)
    assert [math.isfinite(loss) for loss in losses] == [True, False]


def test_blank_may_have_any_id(tmp_path: Path, checkpoints: Path) -> None:
    clips, shards = store(tmp_path, RECORDINGS[:3], ["ab de", "a", "ed b"])
    model, processor = load_checkpoint(checkpoints / "checkpoint-0")
    # The expected loss is the one that the model itself computes for the same labels. The blank has the id of c.
    model.config.pad_token_id, model.config.ctc_loss_reduction = 5, "sum"
    _, losses = transcribe(model, processor, clips, shards, 0.001, CPU)
    for clip, samples, loss in zip(clips, RECORDINGS, losses, strict=False):
        ids = processor.tokenizer(clip["text"]).input_ids
        values = processor.feature_extractor(
            in_float(samples), sampling_rate=SAMPLE_RATE, return_tensors="pt"
        ).input_values
        expected = float(model(values, labels=torch.tensor([ids])).loss.detach())
        assert loss == pytest.approx(expected / len(ids), rel=1e-4)


def test_bundled_language_model_is_ignored(tmp_path: Path, checkpoints: Path) -> None:
    expected, _ = transcribed(tmp_path / "plain", checkpoints, 10)
    folder = tmp_path / "listed" / "checkpoint-0"
    shutil.copytree(checkpoints / "checkpoint-0", folder)
    # Source: the files of models from the Robust Speech Event whose repositories contain an n-gram model.
    load_checkpoint(folder)[1].feature_extractor.save_pretrained(folder)
    (folder / "processor_config.json").unlink()
    for name in ("preprocessor_config.json", "tokenizer_config.json"):
        write_json(read_json(folder / name) | {"processor_class": "Wav2Vec2ProcessorWithLM"}, folder / name)
    write_json({"labels": [], "is_bpe": False}, folder / "alphabet.json")
    assert transcribed(tmp_path / "again", folder.parent, 10)[0] == expected


@pytest.mark.parametrize("unit", [1, 8000, 10**9])
def test_batches_contain_every_clip_longest_first(unit: int) -> None:
    lengths = np.array([round(seconds * SAMPLE_RATE) for seconds in SECONDS])
    batches = evaluation_batches(lengths, lengths // unit, 4.0)
    assert sorted(int(i) for batch in batches for i in batch) == list(range(len(SECONDS)))
    longest = [lengths[batch].max() for batch in batches]
    assert longest == sorted(longest, reverse=True)
    assert all(len(batch) == 1 or lengths[batch].max() * len(batch) <= 4 * SAMPLE_RATE for batch in batches)
    assert all(len(set(lengths[batch] // unit)) == 1 for batch in batches)


def test_set_without_clips_has_no_outputs(checkpoints: Path) -> None:
    assert transcribe(*load_checkpoint(checkpoints / "checkpoint-0"), [], [], 60, CPU) == ([], [])


@given(st.integers(1, 3000), st.integers(1, 400), st.integers(0, 150))
def test_chunks_match_pipeline(num_samples: int, middle: int, stride: int) -> None:
    chunk = middle + 2 * stride

    class Extractor:
        sampling_rate = SAMPLE_RATE

        def __call__(self, samples: Any, **options: Any) -> dict[str, Any]:
            return {"samples": samples}

    expected = list(chunk_iter(np.arange(num_samples), Extractor(), chunk, stride, stride))
    chunks = split_into_chunks(num_samples, chunk, stride)
    assert [(c.start, c.stop) for c in chunks] == [(c["samples"][0], c["samples"][-1] + 1) for c in expected]
    assert [(c.stop - c.start, c.left, c.right) for c in chunks] == [c["stride"] for c in expected]
    strides = rescale_stride([c["stride"] for c in expected], 1 / 20)
    for each, (nominal, left, right) in zip(chunks, strides, strict=True):
        frames = list(range(max(0, nominal - 1)))  # the window of a frame is longer than its twenty samples
        assert frames[each.kept_frames(len(frames), 20)] == frames[left : nominal - right]


def test_clip_is_one_chunk_by_default() -> None:
    assert split_into_chunks(50, None) == split_into_chunks(50, 60, 20) == [Chunk(0, 50, 0, 0)]


@pytest.mark.parametrize("batch_seconds", [0.001, 10])
def test_chunked_hypotheses_match_pipeline(tmp_path: Path, checkpoints: Path, batch_seconds: float) -> None:
    clips, shards = store(tmp_path, RECORDINGS, TEXTS)
    model, processor = load_checkpoint(checkpoints / "checkpoint-0")
    settings = LogProbsSettings(device="cpu", batch_seconds=batch_seconds, chunk_seconds=0.81, stride_seconds=0.1)
    outputs = infer(model, processor, clips, shards, settings, CPU)
    asr = pipeline("automatic-speech-recognition", model=str(checkpoints / "checkpoint-0"), device="cpu")
    assert [clip.hypothesis for clip in outputs] == [
        asr(clip, chunk_length_s=0.81, stride_length_s=0.1)["text"] for clip in raw(RECORDINGS)
    ]
    assert [math.isinf(clip.loss) for clip in outputs] == [seconds > 0.8 for seconds in SECONDS]
    # Chunking does not change the number of frames.
    unchunked = infer(model, processor, clips, shards, LogProbsSettings(device="cpu", batch_seconds=10), CPU)
    assert [clip.frames for clip in outputs] == [clip.frames for clip in unchunked]


def test_cpu_ignores_precision(tmp_path: Path, checkpoints: Path) -> None:
    clips, shards = store(tmp_path, RECORDINGS[:3], TEXTS[:3])
    model, processor = load_checkpoint(checkpoints / "checkpoint-0")
    fp32, bf16 = (
        infer(
            model, processor, clips, shards, LogProbsSettings(device="cpu", batch_seconds=10, precision=precision), CPU
        )
        for precision in ("fp32", "bf16")
    )
    assert fp32 == bf16


def test_default_stride_is_a_sixth_of_chunk(tmp_path: Path, checkpoints: Path) -> None:
    clips, shards = store(tmp_path, RECORDINGS[:3], TEXTS[:3])
    model, processor = load_checkpoint(checkpoints / "checkpoint-0")
    settings = LogProbsSettings(device="cpu", batch_seconds=10, chunk_seconds=0.9)
    asr = pipeline("automatic-speech-recognition", model=str(checkpoints / "checkpoint-0"), device="cpu")
    assert [clip.hypothesis for clip in infer(model, processor, clips, shards, settings, CPU)] == [
        asr(clip, chunk_length_s=0.9)["text"] for clip in raw(RECORDINGS[:3])
    ]


def test_shards_are_read_from_given_paths(tmp_path: Path, checkpoints: Path) -> None:
    expected, _ = transcribed(tmp_path, checkpoints, 10)
    clips, shards = store(tmp_path, RECORDINGS[::-1], TEXTS)
    folder = tmp_path / "perturbed" / "backwards" / "corpus" / "train"
    folder.mkdir(parents=True)
    moved = [shard.rename(folder / shard.name) for shard in shards]
    hypotheses, _ = transcribe(*load_checkpoint(checkpoints / "checkpoint-0"), clips, moved, 10, CPU)
    assert hypotheses == expected[::-1]


@pytest.mark.parametrize("chunk_seconds", [None, 0.5])
def test_damaged_audio_is_reported(tmp_path: Path, checkpoints: Path, chunk_seconds: float | None) -> None:
    clips, shards = store(tmp_path, RECORDINGS[:2], TEXTS[:2])
    # The shard itself is intact.
    rows = read_table(shards[0]).to_pylist()
    for row in rows:
        row["audio"]["bytes"] = row["audio"]["bytes"].replace(b"fLaC", b"LaCf")
    write_table(rows, clip_schema(), shards[0])
    settings = LogProbsSettings(device="cpu", batch_seconds=10, chunk_seconds=chunk_seconds)
    with pytest.raises(SpeechmillError, match="contains damaged audio for clip-000"):
        infer(*load_checkpoint(checkpoints / "checkpoint-0"), clips, shards, settings, CPU)


def test_too_long_strides_are_rejected(checkpoints: Path) -> None:
    settings = LogProbsSettings(device="cpu", batch_seconds=10, chunk_seconds=1.0, stride_seconds=0.499)
    with pytest.raises(SpeechmillError, match="stride_seconds of the evaluation set"):
        infer(*load_checkpoint(checkpoints / "checkpoint-0"), [], [], settings, CPU)


def test_out_of_memory_is_reported(tmp_path: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(*given: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(log_probs, "forward", forward)
    with pytest.raises(SpeechmillError, match=r"5 clips of up to 2 s .*chunk_seconds .*batch_seconds"):
        transcribed(tmp_path, checkpoints, 20, [recording(2.0)] * 5)


def test_chunking_does_not_change_wer(tmp_path: Path) -> None:
    model, processor = levels_model("abcdefgh")
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), rng.integers(1, 7))) for _ in range(1700)]
    texts = [" ".join(words[i : i + 13]) for i in range(0, len(words), 13)]
    clips = [encode_as_levels(text, processor) for text in texts]
    # A tenth of the words differ from the references.
    texts = [" ".join("x" if rng.random() < 0.1 else word for word in text.split()) for text in texts]
    long = np.concatenate(clips)
    assert len(long) / SAMPLE_RATE > 600
    alone, _ = transcribe(model, processor, *store(tmp_path / "alone", clips, texts), 60, CPU)
    settings = LogProbsSettings(device="cpu", batch_seconds=60, chunk_seconds=10, stride_seconds=2)
    (output,) = infer(model, processor, *store(tmp_path / "long", [long], [""]), settings, CPU)
    wer = jiwer.wer(texts, alone)
    assert wer == pytest.approx(0.1, abs=0.03)
    assert jiwer.wer(" ".join(texts), output.hypothesis) == pytest.approx(wer, abs=0.01)
    assert output.frames == len(long) // 320 - 1


MEASURE = """
import json, resource, sys, torch
from pathlib import Path
from speechmill.inference import log_probs
torch.set_num_threads(1)
for folder in sys.argv[2:]:
    sys.argv[1:] = json.loads(Path(folder, "arguments.json").read_text())
    log_probs.main()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_memory_is_independent_of_clip_length(tmp_path: Path, letters: Wav2Vec2Processor) -> None:
    # A single convolution, because the activations of the model are irrelevant here.
    one_convolution = {"conv_dim": [8], "conv_kernel": [400], "conv_stride": [320], "num_feat_extract_layers": 1}
    config = model_config(LAYER_NORM | one_convolution | {"num_hidden_layers": 0}, None, {}, 8)
    new_model(config, None, letters.tokenizer.get_vocab()).save_pretrained(tmp_path / "model")
    letters.save_pretrained(tmp_path / "model")
    # Mostly silence, because the encoded audio, which FLAC makes small here, does grow with the clip.
    minute = np.zeros(60 * SAMPLE_RATE, dtype=np.int16)
    minute[: 6 * SAMPLE_RATE] = noise(6) * 100
    for minutes in (10, 60):
        folder = tmp_path / str(minutes)
        clips, shards = store(folder, [np.tile(minute, minutes), minute[:9999]], ["", "a"])
        write_table(clips, CLIPS, folder / "clips.parquet")
        write_json({"unavailable": None}, folder / "counts.json")
        settings = {"device": "cpu", "batch_seconds": 60, "chunk_seconds": 10, "stride_seconds": 2}
        arguments = ["--run", "demo", "--settings", as_json(settings), "--gpus", 0, "--threads", 1,
                     "--base", tmp_path / "model", "--step", 0, "--clips", folder / "clips.parquet",
                     "--shards", *shards, "--counts", folder / "counts.json", "--runtime-settings", KEEP,
                     "--ctc-outputs", folder / "ctc_outputs.parquet"]  # fmt: skip
        write_plain_json([str(argument) for argument in arguments], folder / "arguments.json")
    measure = [sys.executable, "-c", MEASURE, "", str(tmp_path / "10"), str(tmp_path / "60")]
    done = subprocess.run(
        # The peak of a process includes the memory of its parent at the fork, so a small shell starts it.
        ["sh", "-c", '"$@"; exit $?', "", *measure],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "workflow"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    ten_minutes, an_hour = map(int, done.stdout.split())
    assert an_hour - ten_minutes < 100, done.stdout
    assert read_table(tmp_path / "60" / "ctc_outputs.parquet", ["frames"])["frames"][0].as_py() == 3600 * 50 - 1


KEEP = as_json({"keep_log_probs": True})


@pytest.fixture
def arguments(tmp_path: Path, checkpoints: Path) -> dict[str, Any]:
    """The arguments of the stage for RECORDINGS."""
    clips, shards = store(tmp_path, RECORDINGS, TEXTS)
    write_table(clips, CLIPS, tmp_path / "clips.parquet")
    write_json({"unavailable": None}, tmp_path / "counts.json")
    return {
        "--run": "demo",
        "--settings": as_json({"device": "cpu", "batch_seconds": 5}),
        "--gpus": 0,
        "--threads": 1,
        "--runtime-settings": as_json({"keep_log_probs": False}),
        "--checkpoints": checkpoints,
        "--step": 0,
        "--clips": tmp_path / "clips.parquet",
        "--shards": shards,
        "--counts": tmp_path / "counts.json",
        "--ctc-outputs": tmp_path / "ctc_outputs.parquet",
    }


def run(arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch, **more: Any) -> pa.Table:
    given = {key: value for key, value in (arguments | more).items() if value is not None}
    listed = [[key, *(value if isinstance(value, list) else [value])] for key, value in given.items()]
    monkeypatch.setattr(sys, "argv", ["log_probs", *(str(each) for each in itertools.chain(*listed))])
    log_probs.main()
    return read_table(arguments["--ctc-outputs"])


def test_ctc_outputs_match_model(arguments: dict[str, Any], checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = run(arguments, monkeypatch, **{"--runtime-settings": KEEP})
    assert outputs.schema.equals(CTC_OUTPUTS)
    rows = outputs.to_pylist()
    assert [row["id"] for row in rows] == [f"clip-{i:03d}" for i in range(len(TEXTS))]
    model, processor = load_checkpoint(checkpoints / "checkpoint-0")
    for row, samples in zip(rows, RECORDINGS, strict=True):
        values = processor.feature_extractor(
            in_float(samples), sampling_rate=SAMPLE_RATE, return_tensors="pt"
        ).input_values
        expected = torch.log_softmax(model(values).logits[0].detach(), -1).numpy()
        kept = np.frombuffer(row["log_probs"], "<f2").reshape(row["frames"], -1)
        np.testing.assert_allclose(kept, expected, rtol=2e-3, atol=2e-3)
        assert row["hypothesis"] == processor.tokenizer.decode(kept.argmax(-1))


def test_log_probs_of_chunks_are_concatenated(
    arguments: dict[str, Any], checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = {"device": "cpu", "batch_seconds": 2, "chunk_seconds": 0.5, "stride_seconds": 0.1}
    rows = run(arguments, monkeypatch, **{"--runtime-settings": KEEP, "--settings": as_json(chunks)}).to_pylist()
    processor = load_checkpoint(checkpoints / "checkpoint-0")[1]
    for row in rows:
        kept = np.frombuffer(row["log_probs"], "<f2").reshape(row["frames"], -1)
        assert row["hypothesis"] == processor.tokenizer.decode(kept.argmax(-1))


def test_log_probs_are_optional(arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = run(arguments, monkeypatch)
    assert outputs["log_probs"].null_count == len(TEXTS)
    assert outputs["frames"].to_pylist() == [max(0, (round(s * SAMPLE_RATE) - 80) // 320) for s in SECONDS]


def test_short_clip_has_no_frames(arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips, shards = store(tmp_path / "short", [recording(1.0), np.arange(300, dtype=np.int16)], ["a", "b"])
    write_table(clips, CLIPS, tmp_path / "clips.parquet")
    row = run(arguments, monkeypatch, **{"--runtime-settings": KEEP, "--shards": shards}).to_pylist()[1]
    assert row == {"id": "clip-001", "frames": 0, "hypothesis": "", "loss": None, "log_probs": b""}


def test_row_group_size(arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_probs, "_ROW_GROUP", 4)
    run(arguments, monkeypatch)
    metadata = pq.read_metadata(arguments["--ctc-outputs"])
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [4, 4, 1]


def test_clip_exceeding_parquet_limit_is_rejected(arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_probs, "_MAX_BYTES", 1000)
    run(arguments, monkeypatch)
    with pytest.raises(SpeechmillError, match=r"clip-002 is too long.*remove the decoder lm"):
        run(arguments, monkeypatch, **{"--runtime-settings": KEEP})


def test_ctc_outputs_metadata(arguments: dict[str, Any], checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(arguments, monkeypatch)
    metadata = ctc_outputs_metadata(arguments["--ctc-outputs"])
    assert metadata.pop("wall_seconds") > 0
    assert metadata == {
        "step": 0,
        "checkpoint_sha256": file_digest(checkpoints / "checkpoint-0" / "model.safetensors"),
        "device": device_name(CPU),
        "unavailable": None,
        "outside_vocabulary": {"q": 1, "z": 1},
        "special_tokens": ["[UNK]"],
        "frame_seconds": 0.02,
    }


def test_checkpoint_arguments(
    arguments: dict[str, Any], tmp_path: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json({"step": 12, "wer": 0.1}, tmp_path / "tuning_checkpoint.json")
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "checkpoint-12").symlink_to(checkpoints / "checkpoint-0")
    step_from_file = {
        "--checkpoints": tmp_path / "all",
        "--step": "tuning",
        "--step-record": tmp_path / "tuning_checkpoint.json",
    }
    outputs = run(arguments, monkeypatch, **step_from_file)
    assert ctc_outputs_metadata(arguments["--ctc-outputs"])["step"] == 12
    step_by_number = {"--checkpoints": tmp_path / "all", "--step": 12}
    assert run(arguments, monkeypatch, **step_by_number) == outputs
    assert ctc_outputs_metadata(arguments["--ctc-outputs"])["step"] == 12
    evaluated_model = {"--checkpoints": [], "--base": checkpoints / "checkpoint-0", "--step": 0}
    assert run(arguments, monkeypatch, **evaluated_model) == outputs
    assert ctc_outputs_metadata(arguments["--ctc-outputs"])["step"] == 0


def test_unavailable_set_needs_no_device(
    arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json({"unavailable": "no access"}, tmp_path / "counts.json")
    # This machine may have no GPU, so acquiring the device would fail.
    gpu = {"--settings": as_json({"device": "gpu", "batch_seconds": 5}), "--shards": []}
    assert run(arguments, monkeypatch, **gpu).num_rows == 0
    metadata = ctc_outputs_metadata(arguments["--ctc-outputs"])
    assert (metadata["unavailable"], metadata["device"], metadata["wall_seconds"]) == ("no access", None, 0)


def test_weights_digest(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match="contains no weights"):
        weights_digest(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"old")
    assert weights_digest(tmp_path) == file_digest(tmp_path / "pytorch_model.bin")
    for number in (1, 2):
        (tmp_path / f"model-0000{number}-of-00002.safetensors").write_bytes(b"part %d" % number)
    both = weights_digest(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"another")
    assert weights_digest(tmp_path) != both


def test_changed_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_bytes(b"{}")
    write_digests(tmp_path)
    assert weights_digest(tmp_path) == file_digest(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(b"{ ")
    with pytest.raises(SpeechmillError, match=rf"{tmp_path}/config.json has changed since it was written"):
        weights_digest(tmp_path)
