import itertools
import math
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
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
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC, Wav2Vec2Processor, pipeline
from transformers.pipelines.automatic_speech_recognition import chunk_iter, rescale_stride

from material import LAYER_NORM, ROOT, as_json, noise, recording, store
from speechmill.core.command import SpeechmillError
from speechmill.core.flac import Int16Samples
from speechmill.core.tables import (
    CLIPS,
    CTC_OUTPUTS,
    SAMPLE_RATE,
    ctc_outputs_metadata,
    file_digest,
    read_json,
    read_table,
    write_json,
    write_table,
)
from speechmill.inference import log_probs
from speechmill.inference.log_probs import (
    Chunk,
    LogProbsSettings,
    chunks_of,
    evaluation_batches,
    infer,
    transcribe,
    weights_digest,
)
from speechmill.model.devices import device_name
from speechmill.model.models import depends_on_padding, load_checkpoint, model_config, new_model
from speechmill.text.vocab import VocabSettings, processor, vocabulary

CPU = torch.device("cpu")
# Neither sorted nor all different, and one that is hardly there.
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
    model, made = load_checkpoint(checkpoints / "checkpoint-0")
    return transcribe(model, made, clips, shards, batch_seconds, CPU)


def test_hypotheses_are_those_of_the_pipeline_clip_by_clip(tmp_path: Path, checkpoints: Path) -> None:
    hypotheses, _ = transcribed(tmp_path, checkpoints, batch_seconds=6)
    theirs = pipeline("automatic-speech-recognition", model=str(checkpoints / "checkpoint-0"), device="cpu")
    assert hypotheses == [theirs(clip)["text"] for clip in raw(RECORDINGS)]
    assert len(set(hypotheses)) > len(hypotheses) / 2  # so it was not the same thing each time


class SilentWhereNothingIs(Wav2Vec2ForCTC):
    """Gives the blank in padding, as a trained model does; the pipeline decodes what is heard there too."""

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any) -> Any:
        out = super().forward(input_values, attention_mask=attention_mask, **kwargs)
        if attention_mask is not None:
            heard = self._get_feature_vector_attention_mask(out.logits.shape[1], attention_mask)
            out.logits[..., 0] += 1e4 * ~heard.bool()
        return out


def test_hypotheses_are_those_of_the_pipeline_in_batches_of_64(tmp_path: Path, checkpoints: Path) -> None:
    model, made = load_checkpoint(checkpoints / "checkpoint-0")
    # What group norm hears is changed by padding, and the pipeline would pad it.
    equal = depends_on_padding(model.config)
    recordings = [recording(1.0, seed=i) for i in range(12)] if equal else RECORDINGS * 2
    hypotheses, _ = transcribed(tmp_path, checkpoints, 20, recordings)
    quiet = SilentWhereNothingIs.from_pretrained(checkpoints / "checkpoint-0").eval()
    theirs = pipeline(
        "automatic-speech-recognition",
        model=quiet,
        tokenizer=made.tokenizer,
        feature_extractor=made.feature_extractor,
        device="cpu",
    )
    assert hypotheses == [said["text"] for said in theirs(raw(recordings), batch_size=64)]
    assert any(hypotheses)


def test_neighbours_in_a_batch_do_not_matter(tmp_path: Path, checkpoints: Path) -> None:
    together, losses = transcribed(tmp_path / "together", checkpoints, batch_seconds=60)
    alone, losses_alone = transcribed(tmp_path / "alone", checkpoints, batch_seconds=0.001)
    assert together == alone
    assert losses == pytest.approx(losses_alone, rel=1e-4)


def test_without_a_mask_of_what_is_padded_only_equal_lengths_share_a_batch(tmp_path: Path, checkpoints: Path) -> None:
    clips, shards = store(tmp_path, RECORDINGS, TEXTS)
    model, made = load_checkpoint(checkpoints / "checkpoint-0")
    made.feature_extractor.return_attention_mask = False
    together, alone = (transcribe(model, made, clips, shards, seconds, CPU)[0] for seconds in (60, 0.001))
    assert together == alone


def test_a_clip_too_short_for_a_single_frame_is_still_scored(tmp_path: Path, checkpoints: Path) -> None:
    # The window of wav2vec2 is 400 samples, 25 ms.
    recordings = [recording(1.0), np.array([5], dtype=np.int16), np.arange(399, dtype=np.int16), recording(0.5)]
    for budget in (60, 0.001):
        hypotheses, losses = transcribed(tmp_path / str(budget), checkpoints, budget, recordings)
        assert hypotheses[1:3] == ["", ""]
        assert losses[1:3] == [math.inf, math.inf]
        whole, _ = transcribed(tmp_path / f"whole {budget}", checkpoints, budget, [recordings[0], recordings[3]])
        assert [hypotheses[0], hypotheses[3]] == whole


def test_a_clip_that_is_too_short_for_its_text_has_no_loss(tmp_path: Path, checkpoints: Path) -> None:
    clips, shards = store(tmp_path, [recording(0.5), recording(0.05)], ["abc", "abcde"])
    model, made = load_checkpoint(checkpoints / "checkpoint-0")
    _, losses = transcribe(model, made, clips, shards, 60, CPU)
    assert [math.isfinite(loss) for loss in losses] == [True, False]


def test_the_blank_of_a_model_that_was_made_elsewhere_may_have_any_id(tmp_path: Path, checkpoints: Path) -> None:
    clips, shards = store(tmp_path, RECORDINGS[:3], ["ab de", "a", "ed b"])
    model, made = load_checkpoint(checkpoints / "checkpoint-0")
    # Source of the expected loss: what the model itself makes of the same labels. The id is that of c.
    model.config.pad_token_id, model.config.ctc_loss_reduction = 5, "sum"
    _, losses = transcribe(model, made, clips, shards, 0.001, CPU)
    for clip, samples, loss in zip(clips, RECORDINGS, losses, strict=False):
        ids = made.tokenizer(clip["text"]).input_ids
        values = made.feature_extractor(in_float(samples), sampling_rate=SAMPLE_RATE, return_tensors="pt").input_values
        theirs = float(model(values, labels=torch.tensor([ids])).loss.detach())
        assert loss == pytest.approx(theirs / len(ids), rel=1e-4)


def test_a_published_model_with_a_language_model_of_its_own_is_heard_without_it(
    tmp_path: Path, checkpoints: Path
) -> None:
    expected, _ = transcribed(tmp_path / "plain", checkpoints, 10)
    folder = tmp_path / "listed" / "checkpoint-0"
    shutil.copytree(checkpoints / "checkpoint-0", folder)
    # Source: the files of models from the Robust Speech Event whose repository holds an n-gram model.
    load_checkpoint(folder)[1].feature_extractor.save_pretrained(folder)
    (folder / "processor_config.json").unlink()
    for name in ("preprocessor_config.json", "tokenizer_config.json"):
        write_json(read_json(folder / name) | {"processor_class": "Wav2Vec2ProcessorWithLM"}, folder / name)
    write_json({"labels": [], "is_bpe": False}, folder / "alphabet.json")
    assert transcribed(tmp_path / "again", folder.parent, 10)[0] == expected


@pytest.mark.parametrize("equal_lengths", [True, False])
def test_evaluation_batches_hold_every_clip_once_longest_first(equal_lengths: bool) -> None:
    lengths = np.array([round(seconds * SAMPLE_RATE) for seconds in SECONDS])
    batches = evaluation_batches(lengths, 4.0, equal_lengths)
    assert sorted(int(i) for batch in batches for i in batch) == list(range(len(SECONDS)))
    longest = [lengths[batch].max() for batch in batches]
    assert longest == sorted(longest, reverse=True)
    assert all(len(batch) == 1 or lengths[batch].max() * len(batch) <= 4 * SAMPLE_RATE for batch in batches)
    if equal_lengths:
        assert all(len(set(lengths[batch])) == 1 for batch in batches)


def test_a_set_without_clips_is_heard_without_a_word(checkpoints: Path) -> None:
    assert transcribe(*load_checkpoint(checkpoints / "checkpoint-0"), [], [], 60, CPU) == ([], [])


@given(st.integers(1, 3000), st.integers(1, 400), st.integers(0, 150))
def test_chunks_are_those_of_the_pipeline(num_samples: int, middle: int, stride: int) -> None:
    # Source: transformers, which cuts frames as its `rescale_stride` says.
    chunk = middle + 2 * stride

    class Extractor:
        sampling_rate = SAMPLE_RATE

        def __call__(self, samples: Any, **options: Any) -> dict[str, Any]:
            return {"samples": samples}

    theirs = list(chunk_iter(np.arange(num_samples), Extractor(), chunk, stride, stride))
    ours = chunks_of(num_samples, chunk, stride)
    assert [(c.start, c.stop) for c in ours] == [(c["samples"][0], c["samples"][-1] + 1) for c in theirs]
    assert [(c.stop - c.start, c.left, c.right) for c in ours] == [c["stride"] for c in theirs]
    for each, (whole, left, right) in zip(ours, rescale_stride([c["stride"] for c in theirs], 1 / 20), strict=True):
        frames = list(range(max(0, whole - 1)))  # the first needs more than twenty samples
        assert frames[each.kept(len(frames), 20)] == frames[left : whole - right]


def test_a_clip_is_one_chunk_unless_chunks_are_asked_for() -> None:
    assert chunks_of(50, None) == chunks_of(50, 60, 20) == [Chunk(0, 50, 0, 0)]


@pytest.mark.parametrize("batch_seconds", [0.001, 10])
def test_chunks_are_decoded_as_the_pipeline_does_it(tmp_path: Path, checkpoints: Path, batch_seconds: float) -> None:
    clips, shards = store(tmp_path, RECORDINGS, TEXTS)
    model, made = load_checkpoint(checkpoints / "checkpoint-0")
    settings = LogProbsSettings(device="cpu", batch_seconds=batch_seconds, chunk_seconds=0.81, stride_seconds=0.1)
    heard = infer(model, made, clips, shards, settings, CPU)
    theirs = pipeline("automatic-speech-recognition", model=str(checkpoints / "checkpoint-0"), device="cpu")
    assert [clip.hypothesis for clip in heard] == [
        theirs(clip, chunk_length_s=0.81, stride_length_s=0.1)["text"] for clip in raw(RECORDINGS)
    ]
    cut = [seconds > 0.8 for seconds in SECONDS]
    assert [math.isinf(clip.loss) for clip in heard] == cut
    # The frames of a clip are as many as without chunks, but for one where a window would end after the clip.
    whole = infer(model, made, clips, shards, LogProbsSettings(device="cpu", batch_seconds=10), CPU)
    assert [clip.frames for clip in heard] == [clip.frames for clip in whole]


def test_a_lower_precision_is_that_of_a_gpu_alone(tmp_path: Path, checkpoints: Path) -> None:
    clips, shards = store(tmp_path, RECORDINGS[:3], TEXTS[:3])
    model, made = load_checkpoint(checkpoints / "checkpoint-0")
    fp32, bf16 = (
        infer(model, made, clips, shards, LogProbsSettings(device="cpu", batch_seconds=10, precision=precision), CPU)
        for precision in ("fp32", "bf16")
    )
    assert fp32 == bf16


def test_a_stride_is_a_sixth_of_the_chunk_unless_given(tmp_path: Path, checkpoints: Path) -> None:
    clips, shards = store(tmp_path, RECORDINGS[:3], TEXTS[:3])
    model, made = load_checkpoint(checkpoints / "checkpoint-0")
    settings = LogProbsSettings(device="cpu", batch_seconds=10, chunk_seconds=0.9)
    theirs = pipeline("automatic-speech-recognition", model=str(checkpoints / "checkpoint-0"), device="cpu")
    assert [clip.hypothesis for clip in infer(model, made, clips, shards, settings, CPU)] == [
        theirs(clip, chunk_length_s=0.9)["text"] for clip in raw(RECORDINGS[:3])
    ]


def test_changed_copies_of_shards_are_heard_in_place_of_them(tmp_path: Path, checkpoints: Path) -> None:
    expected, _ = transcribed(tmp_path, checkpoints, 10)
    clips, shards = store(tmp_path, RECORDINGS[::-1], TEXTS)
    changed = tmp_path / "corpus" / "train" / "perturbed" / "backwards"
    changed.mkdir(parents=True)
    moved = [shard.rename(changed / shard.name) for shard in shards]
    found, _ = transcribe(*load_checkpoint(checkpoints / "checkpoint-0"), clips, moved, 10, CPU)
    assert found == expected[::-1]


@pytest.mark.parametrize("chunk_seconds", [None, 0.5])
def test_a_damaged_recording_is_a_fault_that_can_be_mended(
    tmp_path: Path, checkpoints: Path, chunk_seconds: float | None
) -> None:
    clips, shards = store(tmp_path, RECORDINGS[:2], TEXTS[:2])
    content = shards[0].read_bytes()
    shards[0].write_bytes(content.replace(b"fLaC", b"LaCf"))
    settings = LogProbsSettings(device="cpu", batch_seconds=10, chunk_seconds=chunk_seconds)
    with pytest.raises(SpeechmillError, match="holds clip-000 damaged"):
        infer(*load_checkpoint(checkpoints / "checkpoint-0"), clips, shards, settings, CPU)


def test_chunks_that_do_not_advance_are_refused(checkpoints: Path) -> None:
    settings = LogProbsSettings(device="cpu", batch_seconds=10, chunk_seconds=1.0, stride_seconds=0.499)
    with pytest.raises(SpeechmillError, match="stride_seconds of the evaluation set"):
        infer(*load_checkpoint(checkpoints / "checkpoint-0"), [], [], settings, CPU)


def test_a_batch_that_memory_does_not_hold_is_a_fault_that_can_be_mended(
    tmp_path: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(*given: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(log_probs, "forward", forward)
    with pytest.raises(SpeechmillError, match=r"5 clips of 2 s .*chunk_seconds .*batch_seconds"):
        transcribed(tmp_path, checkpoints, 20, [recording(2.0)] * 5)


class Levels(torch.nn.Module):
    """A model that has learnt something: it writes the token that the level of the samples is, frame by frame."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.config = Wav2Vec2Config(conv_kernel=[400], conv_stride=[320], conv_dim=[1], vocab_size=tokens)
        self.config.feat_extract_norm = "layer"

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None) -> SimpleNamespace:
        frames = int(self._get_feat_extract_output_lengths(input_values.shape[1]))
        levels = input_values[:, 160::320][:, :frames] * 32768 / LEVEL
        ids = torch.arange(self.config.vocab_size)
        return SimpleNamespace(logits=-((levels[..., None] - ids) ** 2))

    def _get_feat_extract_output_lengths(self, samples: Any) -> Any:
        return (samples - 400) // 320 + 1


LEVEL = 1000


def spoken(text: str, made: Wav2Vec2Processor) -> Int16Samples:
    """Three frames a character and two of silence after it, as `Levels` hears them; a space after all."""
    levels = [level for i in made.tokenizer(f"{text} ").input_ids for level in [i] * 3 + [0] * 2]
    return np.repeat(np.array(levels, dtype=np.int16) * LEVEL, 320)


def test_ten_minutes_of_known_clips_in_chunks_are_heard_as_the_clips_alone(tmp_path: Path) -> None:
    made = processor(vocabulary(["abcdefgh"]), VocabSettings(init={"feat_extract_norm": "layer"}), base=None)
    made.feature_extractor.do_normalize = False
    model: Any = Levels(len(made.tokenizer.get_vocab()))
    drawn = np.random.default_rng(0)
    words = ["".join(drawn.choice(list("abcdefgh"), drawn.integers(1, 7))) for _ in range(1700)]
    texts = [" ".join(words[i : i + 13]) for i in range(0, len(words), 13)]
    clips = [spoken(text, made) for text in texts]
    # Of what is said, a tenth is not what was to be said.
    texts = [" ".join("x" if drawn.random() < 0.1 else word for word in text.split()) for text in texts]
    long = np.concatenate(clips)
    assert len(long) / SAMPLE_RATE > 600
    alone, _ = transcribe(model, made, *store(tmp_path / "alone", clips, texts), 60, CPU)
    settings = LogProbsSettings(device="cpu", batch_seconds=60, chunk_seconds=10, stride_seconds=2)
    (heard,) = infer(model, made, *store(tmp_path / "long", [long], [""]), settings, CPU)
    wer = jiwer.wer(texts, alone)
    assert wer == pytest.approx(0.1, abs=0.03)
    assert jiwer.wer(" ".join(texts), heard.hypothesis) == pytest.approx(wer, abs=0.01)
    assert heard.frames == len(long) // 320 - 1


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
def test_an_hour_takes_no_more_memory_than_ten_minutes(tmp_path: Path, letters: Wav2Vec2Processor) -> None:
    # One convolution and no layer behind it: what is held of a recording has nothing to do with what it goes through.
    heard_at_once = {"conv_dim": [8], "conv_kernel": [400], "conv_stride": [320], "num_feat_extract_layers": 1}
    config = model_config(LAYER_NORM | heard_at_once | {"num_hidden_layers": 0}, None, {}, 8)
    new_model(config, None, letters.tokenizer.get_vocab()).save_pretrained(tmp_path / "model")
    letters.save_pretrained(tmp_path / "model")
    # Mostly silence, of which FLAC makes little: what is encoded does grow with the recording.
    minute = np.zeros(60 * SAMPLE_RATE, dtype=np.int16)
    minute[: 6 * SAMPLE_RATE] = noise(6) * 100
    for minutes in (10, 60):
        folder = tmp_path / str(minutes)
        clips, shards = store(folder, [np.tile(minute, minutes), minute[:9999]], ["", "a"])
        write_table(clips, CLIPS, folder / "clips.parquet")
        write_json({"unavailable": None}, folder / "counts.json")
        settings = {"device": "cpu", "batch_seconds": 60, "chunk_seconds": 10, "stride_seconds": 2}
        arguments = ["--run", "demo", "--settings", as_json(settings), "--gpus", 0, "--threads", 1,
                     "--model", tmp_path / "model", "--clips", folder / "clips.parquet",
                     "--shards", *shards, "--counts", folder / "counts.json", "--keep-log-probs",
                     "--ctc-outputs", folder / "ctc_outputs.parquet"]  # fmt: skip
        write_json([str(argument) for argument in arguments], folder / "arguments.json")
    measure = [sys.executable, "-c", MEASURE, "", str(tmp_path / "10"), str(tmp_path / "60")]
    done = subprocess.run(
        # A process is charged with what the one that started it had in memory, so a small one stands between.
        ["sh", "-c", '"$@"; exit $?', "", *measure],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "workflow"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    ten_minutes, an_hour = map(int, done.stdout.split())
    assert an_hour - ten_minutes < 100, done.stdout
    assert read_table(tmp_path / "60" / "ctc_outputs.parquet", ["frames"])["frames"][0].as_py() == 3600 * 50 - 1


@pytest.fixture
def arguments(tmp_path: Path, checkpoints: Path) -> dict[str, Any]:
    """The arguments of the program for RECORDINGS."""
    clips, shards = store(tmp_path, RECORDINGS, TEXTS)
    write_table(clips, CLIPS, tmp_path / "clips.parquet")
    write_json({"unavailable": None}, tmp_path / "counts.json")
    return {
        "--run": "demo",
        "--settings": as_json({"device": "cpu", "batch_seconds": 5}),
        "--gpus": 0,
        "--threads": 1,
        "--checkpoint": checkpoints / "checkpoint-0",
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


def test_frames_are_in_the_order_of_the_clips_with_all_that_decoders_need(
    arguments: dict[str, Any], checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = run(arguments, monkeypatch, **{"--keep-log-probs": []})
    assert frames.schema.equals(CTC_OUTPUTS)
    rows = frames.to_pylist()
    assert [row["id"] for row in rows] == [f"clip-{i:03d}" for i in range(len(TEXTS))]
    model, made = load_checkpoint(checkpoints / "checkpoint-0")
    for row, samples in zip(rows, RECORDINGS, strict=True):
        values = made.feature_extractor(in_float(samples), sampling_rate=SAMPLE_RATE, return_tensors="pt").input_values
        expected = torch.log_softmax(model(values).logits[0].detach(), -1).numpy()
        kept = np.frombuffer(row["log_probs"], "<f2").reshape(row["frames"], -1)
        np.testing.assert_allclose(kept, expected, rtol=2e-3, atol=2e-3)
        assert row["hypothesis"] == made.tokenizer.decode(kept.argmax(-1))


def test_log_probabilities_of_chunks_lie_one_after_the_other(
    arguments: dict[str, Any], checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = {"device": "cpu", "batch_seconds": 2, "chunk_seconds": 0.5, "stride_seconds": 0.1}
    rows = run(arguments, monkeypatch, **{"--keep-log-probs": [], "--settings": as_json(chunks)}).to_pylist()
    made = load_checkpoint(checkpoints / "checkpoint-0")[1]
    for row in rows:
        kept = np.frombuffer(row["log_probs"], "<f2").reshape(row["frames"], -1)
        assert row["hypothesis"] == made.tokenizer.decode(kept.argmax(-1))


def test_log_probabilities_are_kept_only_where_they_are_asked_for(
    arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = run(arguments, monkeypatch)
    assert frames["log_probs"].null_count == len(TEXTS)
    assert frames["frames"].to_pylist() == [max(0, (round(s * SAMPLE_RATE) - 80) // 320) for s in SECONDS]


def test_a_clip_that_nothing_is_heard_of_has_no_frames(
    arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips, shards = store(tmp_path / "short", [recording(1.0), np.arange(300, dtype=np.int16)], ["a", "b"])
    write_table(clips, CLIPS, tmp_path / "clips.parquet")
    row = run(arguments, monkeypatch, **{"--keep-log-probs": [], "--shards": shards}).to_pylist()[1]
    assert row == {"id": "clip-001", "frames": 0, "hypothesis": "", "loss": None, "log_probs": b""}


def test_a_decoder_takes_so_many_clips_at_a_time(arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_probs, "_ROW_GROUP", 4)
    run(arguments, monkeypatch)
    metadata = pq.read_metadata(arguments["--ctc-outputs"])
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [4, 4, 1]


def test_a_clip_whose_log_probabilities_parquet_cannot_hold_is_refused(
    arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_probs, "_MOST_BYTES", 1000)
    run(arguments, monkeypatch)
    with pytest.raises(SpeechmillError, match=r"clip-002 is too long.*leave the decoder lm out"):
        run(arguments, monkeypatch, **{"--keep-log-probs": []})


def test_frames_say_what_was_heard_by_what(
    arguments: dict[str, Any], checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(arguments, monkeypatch)
    about = ctc_outputs_metadata(arguments["--ctc-outputs"])
    assert about.pop("wall_seconds") > 0
    assert about == {
        "step": 0,
        "checkpoint_sha256": file_digest(checkpoints / "checkpoint-0" / "model.safetensors"),
        "device": device_name(CPU),
        "unavailable": None,
        "vocabulary": ["[PAD]", "[UNK]", "|", "a", "b", "c", "d", "e"],
        "frame_seconds": 0.02,
    }


def test_the_step_may_stand_in_a_file_or_be_none_at_all(
    arguments: dict[str, Any], tmp_path: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json({"step": 12, "wer": 0.1}, tmp_path / "best.json")
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "checkpoint-12").symlink_to(checkpoints / "checkpoint-0")
    of_best = {"--checkpoint": None, "--checkpoints": tmp_path / "all", "--step-from": tmp_path / "best.json"}
    frames = run(arguments, monkeypatch, **of_best)
    assert ctc_outputs_metadata(arguments["--ctc-outputs"])["step"] == 12
    of_a_number = {"--checkpoint": tmp_path / "all" / "checkpoint-12"}
    assert run(arguments, monkeypatch, **of_a_number) == frames
    assert ctc_outputs_metadata(arguments["--ctc-outputs"])["step"] == 12
    of_a_model = {"--checkpoint": None, "--model": checkpoints / "checkpoint-0"}
    assert run(arguments, monkeypatch, **of_a_model) == frames
    assert ctc_outputs_metadata(arguments["--ctc-outputs"])["step"] == 0


def test_a_set_that_cannot_be_had_takes_no_device(
    arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json({"unavailable": "no access"}, tmp_path / "counts.json")
    # Without a GPU this would be refused.
    wants_gpu = {"--settings": as_json({"device": "gpu", "batch_seconds": 5}), "--shards": []}
    assert run(arguments, monkeypatch, **wants_gpu).num_rows == 0
    about = ctc_outputs_metadata(arguments["--ctc-outputs"])
    assert (about["unavailable"], about["device"], about["wall_seconds"]) == ("no access", None, 0)


def test_weights_of_any_number_of_files_have_a_digest(tmp_path: Path) -> None:
    with pytest.raises(SpeechmillError, match="holds no weights"):
        weights_digest(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"old")
    assert weights_digest(tmp_path) == file_digest(tmp_path / "pytorch_model.bin")
    for number in (1, 2):
        (tmp_path / f"model-0000{number}-of-00002.safetensors").write_bytes(b"part %d" % number)
    both = weights_digest(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"another")
    assert weights_digest(tmp_path) != both
