import itertools
import json
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerControl, TrainerState, Wav2Vec2Processor

from finetune_process import Arguments, Stored, command_line, output_arguments, write_inputs
from material import ARCHITECTURES, GROUP_NORM, LAYER_NORM, STOCHASTIC, as_json, recording, store
from speechmill.config.augment import AugmentConfig
from speechmill.config.model import ModelConfig
from speechmill.core.command import SpeechmillError
from speechmill.core.files import check_folder, read_json, write_digests, write_json
from speechmill.inference.evaluate import score
from speechmill.inference.log_probs import transcribe
from speechmill.model.batching import PlannedBatches, SampledClip, batch_stats, clips_from_table
from speechmill.model.clip_reader import ClipReader, Collator
from speechmill.model.ctc import clip_losses
from speechmill.model.models import load_checkpoint, model_config, new_model
from speechmill.text.vocab import VocabSettings, processor, vocabulary
from speechmill.training import finetune
from speechmill.training.checkpoint_callback import CheckpointCallback, kept_steps
from speechmill.training.dev_evaluator import DevEvaluator
from speechmill.training.finetune import (
    FinetuneSettings,
    TrainingInputs,
    batch_transform,
    check_frames,
    prepare_model,
    train,
)
from speechmill.training.resume_state import (
    TrainingTime,
    commit,
    newest_resume_state,
    read_log,
    read_training_time,
)
from speechmill.training.trainer import CtcTrainer, training_arguments

CPU = torch.device("cpu")
Weights = dict[str, torch.Tensor]


@pytest.fixture(autouse=True, scope="module")
def _no_fsync() -> Iterator[None]:
    """Skip syncing to disk, which only matters for a power failure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Return 64 clips of 0.3 to 0.9 s, each with two to five letters."""
    rng = np.random.default_rng(0)
    recordings = [recording(float(rng.uniform(0.3, 0.9)), seed=i) for i in range(64)]
    texts = ["".join(rng.choice(list("abcde"), size=rng.integers(2, 6))) for _ in range(64)]
    return store(tmp_path_factory.mktemp("clips"), recordings, texts)


def settings(
    batch: dict[str, float],
    accumulation: int = 1,
    save_steps: int = 2,
    init: dict[str, Any] = LAYER_NORM,
    best: int | None = None,
    augment: dict[str, Any] | None = None,
    gpus: int = 1,
    **more: Any,
) -> FinetuneSettings:
    plan = {"epochs": 2, "batch": batch, "gradient_accumulation": accumulation, "save_steps": save_steps}
    finetuning = {
        "learning_rate": 1e-3,
        "precision": "fp32",
        "logging_steps": 1,
        "threads": 1,
        "warmup_steps": 1,
    } | more
    return FinetuneSettings.model_validate(
        {"device": "cpu", "gpus": gpus, "plan": plan, "model": {"init": init}, "finetune": finetuning}
        | {
            "augment": augment or {},
            "checkpoints": {"best": best, "dev_clips": 0},
            "text": {},
            "batch_seconds": 20,
            "metric": "wer",
        }
    )


def planned(given: FinetuneSettings, clips: Stored) -> dict[str, Any]:
    """Return the parts of the plan that `train` reads."""
    batches = batch_stats(clips_from_table(pa.Table.from_pylist(clips[0])), given.plan).batches
    steps = -(-batches // given.plan.gradient_accumulation)
    return {
        "batches": batches,
        "total_steps": steps,
        "epochs": given.plan.epochs,
        "checkpoints": [*range(given.plan.save_steps, steps, given.plan.save_steps), steps],
        "gradient_checkpointing": given.finetune.gradient_checkpointing is True,
        "peak_throughput": 1e6,
        "gpu_memory_gib": 78.0,
        "fits_seconds": {"without_checkpointing": 410.0, "with_checkpointing": 2100.0},
    }


def training_inputs(
    given: FinetuneSettings, clips: Stored, letters: Wav2Vec2Processor, base: Path | None = None
) -> TrainingInputs:
    """Return the inputs of a training run whose dev clips are the training clips."""
    table = pa.Table.from_pylist(clips[0])
    return TrainingInputs(table, clips[1], letters, base, planned(given, clips), *clips)


def trained(
    work: Path, given: FinetuneSettings, clips: Stored, letters: Wav2Vec2Processor, base: Path | None = None
) -> dict[int, Weights]:
    """Train or resume in `work`; return the kept weights by step."""
    work.mkdir(parents=True, exist_ok=True)
    assert train("demo", given, training_inputs(given, clips, letters, base), work, work.parent / "board", CPU) is None
    return {
        int(folder.name.removeprefix("checkpoint-")): load_file(folder / "model.safetensors")
        for folder in (work / "checkpoints").iterdir()
    }


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_fine_tuned_from_a_base_folder(name: str, tmp_path: Path) -> None:
    vocab = vocabulary(["abcde"])
    init, letters = ARCHITECTURES[name], processor(vocab, VocabSettings(init=ARCHITECTURES[name]), base=None)
    base = tmp_path / "base"
    new_model(model_config(init, None, {}, len(vocab)), None, vocab).save_pretrained(base)
    letters.save_pretrained(base)
    # Beside a second of audio, one sample more and less than a number of frames, and the shortest clips.
    lengths = [16_000, 7999, 8000, 8079, 8081, 8319, 5000, 5001]
    clips = store(tmp_path / "clips", [recording(n / 16_000, seed=i) for i, n in enumerate(lengths)], ["ab"] * 8)
    given = settings({"clips": 4}).model_copy(update={"model": ModelConfig(base=str(base))})
    weights = trained(tmp_path / "work", given, clips, letters, base)
    assert len(weights) == 2
    assert any(not torch.equal(weights[2][key], weights[4][key]) for key in weights[2])
    assert all(bool(each.isfinite().all()) for each in weights[4].values())
    together = load_checkpoint(tmp_path / "work" / "checkpoints" / "checkpoint-4")
    _, losses = transcribe(*together, *clips, 60, CPU)
    assert losses == pytest.approx(transcribe(*together, *clips, 0.001, CPU)[1], rel=1e-4)
    assert np.isfinite(losses).all()


def logged(work: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (work / "training.jsonl").read_text().splitlines()]


def losses(work: Path) -> list[dict[str, Any]]:
    """Return the rows of the log with a loss, without the speed, which varies."""
    return [
        {key: value for key, value in line.items() if key not in ("audio_seconds_per_second", "mfu")}
        for line in logged(work)
        if "loss" in line
    ]


def assert_close(one: Weights, other: Weights) -> None:
    torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5)


def test_accumulation_equals_one_large_batch(tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor) -> None:
    # In transformers 5.23 itself, loss and gradient are four times as large.
    single = trained(tmp_path / "single", settings({"clips": 32}), clips, letters)
    parts = trained(tmp_path / "parts", settings({"clips": 8}, accumulation=4), clips, letters)
    assert set(single) == set(parts) == {2, 4}
    for one, other in zip(losses(tmp_path / "single"), losses(tmp_path / "parts"), strict=True):
        assert one["step"] == other["step"]
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)
        assert one["learning_rate"] == other["learning_rate"]
    for step in single:
        assert_close(single[step], parts[step])


class Batches(list[list[SampledClip]]):
    """Given batches with the interface of the `PlannedBatches` of one process."""

    def __init__(self, batches: list[list[int]], accumulation: int) -> None:
        super().__init__([SampledClip(i) for i in batch] for batch in batches)
        self._accumulation = accumulation

    def clips_in_step(self, step: int) -> int:
        return sum(map(len, self[step * self._accumulation : (step + 1) * self._accumulation]))


def steps_of(
    batches: list[list[int]], accumulation: int, work: Path, clips: Stored, letters: Wav2Vec2Processor
) -> tuple[list[dict[str, float]], Weights]:
    """Train on exactly these batches; return the log rows and the weights."""
    given = settings({"clips": 1}, accumulation)
    torch.manual_seed(0)
    vocab = letters.tokenizer.get_vocab()
    model = new_model(model_config(LAYER_NORM, None, {}, len(vocab)), None, vocab)
    trainer = CtcTrainer(
        model=model,
        args=training_arguments(given.plan, given.finetune, work, CPU),
        clips=ClipReader(pa.Table.from_pylist(clips[0]), clips[1]),
        data_collator=Collator(letters),
        batches=Batches(batches, accumulation),  # type: ignore[arg-type]  # the Trainer uses nothing else
        workers=0,
    )
    trainer.train()
    return [line for line in trainer.state.log_history if "loss" in line], model.state_dict()


def test_unequal_batches_weight_clips_equally(tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor) -> None:
    # Like batches by padded seconds: one long clip in a batch, or many short ones.
    unequal = [[0], [1, 2, 3, 4, 5, 6], [7, 8], [9, 10, 11, 12, 13], [14], [15, 16, 17]]
    joined = [list(itertools.chain(*unequal[:3])), list(itertools.chain(*unequal[3:]))]
    log, weights = steps_of(joined, 1, tmp_path / "joined", clips, letters)
    log_parts, weights_parts = steps_of(unequal, 3, tmp_path / "unequal", clips, letters)
    assert len(log) == len(log_parts) == 2
    for one, other in zip(log, log_parts, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)
    assert_close(weights, weights_parts)


def test_incomplete_last_step_is_a_mean(tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor) -> None:
    log, weights = steps_of([[0, 1, 2, 3], [4, 5]], 1, tmp_path / "joined", clips, letters)
    log_parts, weights_parts = steps_of([[0, 1], [2, 3], [4, 5]], 2, tmp_path / "parts", clips, letters)
    assert [line["loss"] for line in log] == pytest.approx([line["loss"] for line in log_parts], rel=1e-4)
    assert_close(weights, weights_parts)


def test_logged_loss_equals_that_of_transformers(tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor) -> None:
    log, _ = steps_of([[0, 1, 2]], 1, tmp_path, clips, letters)
    torch.manual_seed(0)
    vocab = letters.tokenizer.get_vocab()
    model = new_model(model_config(LAYER_NORM, None, {}, len(vocab)), None, vocab).eval()
    reader = ClipReader(pa.Table.from_pylist(clips[0]), clips[1])
    batch = Collator(letters)([reader[i] for i in (0, 1, 2)])
    model_inputs = {key: batch[key] for key in ("input_values", "attention_mask", "labels")}
    with torch.no_grad():
        # The loss of transformers is the mean over clips of the loss per label.
        expected = model(**model_inputs).loss
    assert log[0]["loss"] == pytest.approx(expected.item(), rel=1e-4)


class KilledError(Exception):
    """A simulated kill."""


def killed_at(monkeypatch: pytest.MonkeyPatch, step: int, event: str, train_it: Callable[[], Any]) -> None:
    """Run `train_it` until it is killed at the start of the callback `event` of `step`."""
    original = getattr(CheckpointCallback, event)

    def raise_killed(self: CheckpointCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if state.global_step == step:
            raise KilledError
        return original(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(CheckpointCallback, event, raise_killed)
        train_it()


def random_settings(accumulation: int) -> FinetuneSettings:
    """Return settings of two epochs of three steps, with all randomness of the model enabled."""
    return settings({"seconds": 14 / accumulation}, accumulation, init=STOCHASTIC)


@pytest.fixture(scope="module", params=[1, 2], ids=["", "accumulated"])
def uninterrupted(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    clips: Stored,
    letters: Wav2Vec2Processor,
) -> tuple[FinetuneSettings, Path, dict[int, Weights]]:
    """Return the settings, work folder and weights by step of an uninterrupted run."""
    given, work = random_settings(request.param), tmp_path_factory.mktemp("uninterrupted") / "work"
    return given, work, trained(work, given, clips, letters)


@pytest.mark.parametrize(
    ("step", "event", "resumed"),
    [(5, "on_step_end", 4), (4, "on_save", 2), (1, "on_step_end", None)],
    ids=["between saves", "before a save is complete", "before the first save"],
)
def test_resumed_weights_are_bit_identical(
    tmp_path: Path,
    clips: Stored,
    letters: Wav2Vec2Processor,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: tuple[FinetuneSettings, Path, dict[int, Weights]],
    step: int,
    event: str,
    resumed: int | None,
) -> None:
    given, uninterrupted_work, expected = uninterrupted
    work = tmp_path / "killed"
    killed_at(monkeypatch, step, event, lambda: trained(work, given, clips, letters))
    assert newest_resume_state(work) == (resumed and work / f"checkpoint-{resumed}")
    after = trained(work, given, clips, letters)
    assert set(after) == set(expected) >= {2, 4, 6}
    for each, weights in expected.items():
        for name, tensor in weights.items():
            assert torch.equal(after[each][name], tensor), f"step {each}: {name}"
    assert losses(work) == losses(uninterrupted_work)


CHEAPER: dict[str, dict[str, Any]] = {
    "lora": {"lora": {"rank": 4, "dropout": 0.1}, "gradient_checkpointing": True},
    "head": {"head_learning_rate": 1e-2, "head_only_steps": 3, "weight_decay": 0.1},
    "both": {"lora": {"rank": 4}, "head_learning_rate": 1e-2, "head_only_steps": 3},
}


@pytest.mark.parametrize("cheaper", CHEAPER)
def test_cheaper_training_resumes_bit_identically(
    tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor, monkeypatch: pytest.MonkeyPatch, cheaper: str
) -> None:
    # The states are of steps 2 and 4; with `head_only_steps`, in which step 3 is the last, one before and one after.
    given = settings({"seconds": 14}, init=STOCHASTIC, **CHEAPER[cheaper])
    expected = trained(tmp_path / "uninterrupted", given, clips, letters)
    work = tmp_path / "killed"
    for step in (3, 5):
        killed_at(monkeypatch, step, "on_step_end", lambda: trained(work, given, clips, letters))
    after = trained(work, given, clips, letters)
    assert set(after) == set(expected) >= {2, 4, 6}
    for step, weights in expected.items():
        assert after[step].keys() == weights.keys()
        assert all(torch.equal(after[step][name], tensor) for name, tensor in weights.items()), step
    assert losses(work) == losses(tmp_path / "uninterrupted")


def test_run_killed_at_its_end_repeats_nothing(tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor) -> None:
    given, work = settings({"clips": 32}), tmp_path / "work"
    first = trained(work, given, clips, letters)
    log = losses(work)
    again = trained(work, given, clips, letters)
    assert losses(work) == log
    for step, weights in first.items():
        assert all(torch.equal(again[step][name], tensor) for name, tensor in weights.items())
    steps = [line["step"] for line in logged(work) if "train_loss" in line]
    assert steps == [4]


class Clock:
    """A clock that only training moves: 1 s per step, 10 s per dev evaluation, 1,000 s until devices are free."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 5e5
        self.stop_at: int | None = None
        on_step_end, acquire = CheckpointCallback.on_step_end, finetune.acquire_devices

        def step(callback: CheckpointCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            self.now += 1
            if state.global_step == self.stop_at:
                signal.raise_signal(signal.SIGTERM)
            return on_step_end(callback, args, state, control, **kwargs)

        def evaluate(*_: object) -> dict[str, Any]:
            self.now += 10
            return {"dev_wer": 0.5, "dev_clips": 1, "dev_empty": 0}

        def wait(*args: Any) -> Any:
            self.now += 1000
            return acquire(*args)

        monkeypatch.setattr(CheckpointCallback, "on_step_end", step)
        monkeypatch.setattr(DevEvaluator, "__call__", evaluate)
        monkeypatch.setattr(finetune, "acquire_devices", wait)
        monkeypatch.setattr("speechmill.training.checkpoint_callback.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def recorded_time(tmp_path: Path) -> tuple[float, int]:
    record = read_json(tmp_path / "out" / "training.json")
    return record["wall_seconds"], record["sessions"]


def test_time_counts_steps_and_evaluations_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Arguments, clock: Clock
) -> None:
    run_main(monkeypatch, arguments | settings_arguments(settings({"clips": 32}, best=2)))
    # Four steps, evaluated at 2 and 4.
    assert recorded_time(tmp_path) == (4 + 20, 1)


def test_time_of_a_stopped_training_is_the_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Arguments, clock: Clock
) -> None:
    given = arguments | settings_arguments(settings({"clips": 32}, best=2))
    for clock.stop_at in (1, 3):
        with pytest.raises(SystemExit):
            run_main(monkeypatch, given)
    clock.stop_at = None
    run_main(monkeypatch, given)
    assert recorded_time(tmp_path) == (4 + 20, 3)


@pytest.mark.parametrize(
    ("step", "event", "sessions"), [(1, "on_step_end", 1), (3, "on_step_end", 2), (4, "on_save", 2)]
)
def test_time_lost_in_a_kill_is_not_counted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: Arguments,
    clock: Clock,
    step: int,
    event: str,
    sessions: int,
) -> None:
    killed_at(monkeypatch, step, event, lambda: run_main(monkeypatch, arguments))
    run_main(monkeypatch, arguments)
    assert recorded_time(tmp_path) == (4, sessions)


def test_run_killed_before_export_keeps_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Arguments, clock: Clock
) -> None:
    def raise_killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(finetune, "finish", raise_killed)
        run_main(monkeypatch, arguments)
    run_main(monkeypatch, arguments)
    assert recorded_time(tmp_path) == (4, 1)


def test_corrupt_state_falls_back_to_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Arguments, clock: Clock
) -> None:
    clock.stop_at = 3
    with pytest.raises(SystemExit):
        run_main(monkeypatch, arguments)
    (work,) = states(tmp_path)
    assert [read_training_time(work / f"checkpoint-{step}").wall_seconds for step in (2, 3)] == [2, 3]
    (work / "checkpoint-3" / "optimizer.pt").write_bytes(b"")
    clock.stop_at = None
    run_main(monkeypatch, arguments)
    # Step 3 was trained twice, and counts once.
    assert recorded_time(tmp_path) == (4, 2)


def test_log_has_no_times_of_one_session(tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor) -> None:
    trained(tmp_path / "work", settings({"clips": 64}), clips, letters)
    assert logged(tmp_path / "work")[-1].keys() == {"step", "epoch", "train_loss", "total_flos"}


def test_log_has_a_row_per_interval(tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor) -> None:
    trained(tmp_path / "work", settings({"clips": 8}, logging_steps=4, save_steps=100), clips, letters)
    lines = losses(tmp_path / "work")
    assert [(line["step"], line["epoch"]) for line in lines] == [(4, 0.5), (8, 1.0), (12, 1.5), (16, 2.0)]
    for line in logged(tmp_path / "work"):
        if "loss" in line:
            assert line["audio_seconds_per_second"] > 0
            assert line["mfu"] == line["audio_seconds_per_second"] / 1e6


def test_mfu_is_shown_only_on_a_gpu(tmp_path: Path, letters: Wav2Vec2Processor) -> None:
    plan = {"epochs": 1, "total_steps": 2, "checkpoints": [2], "peak_throughput": 10_000.0}
    earlier = TrainingTime(0.0, 0)
    board = tmp_path / "board"
    callback = CheckpointCallback("demo", tmp_path, board, plan, letters, None, None, "wer", 1, 0, earlier)
    for device, mfu in (("cpu", ""), ("cuda", ", MFU 0.4 % of an H100")):
        args: Any = SimpleNamespace(device=torch.device(device))
        callback.on_log(args, TrainerState(), TrainerControl(), {"loss": 1.5, "audio_seconds_per_second": 40.0})
        assert callback._progress.postfix == f"loss 1.500, 40 audio-s/s{mfu}"
    callback.close()


def test_checkpoint_loads_in_plain_transformers(tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor) -> None:
    weights = trained(tmp_path / "work", settings({"clips": 32}), clips, letters)
    for step, expected in weights.items():
        model, processor = load_checkpoint(tmp_path / "work" / "checkpoints" / f"checkpoint-{step}")
        assert torch.equal(model.state_dict()["lm_head.weight"], expected["lm_head.weight"])
        assert processor.tokenizer.get_vocab() == letters.tokenizer.get_vocab()
        assert model.lm_head.out_features == len(processor.tokenizer)


def test_clips_too_short_for_their_text_are_named(clips: Stored, letters: Wav2Vec2Processor) -> None:
    vocab = letters.tokenizer.get_vocab()
    model = new_model(model_config(LAYER_NORM, None, {}, len(vocab)), None, vocab)

    # 400 samples are one frame, 720 two, 1040 three: a stride of 320.
    def three(*texts: str) -> pa.Table:
        lengths = (("a", 1040), ("b", 1040), ("c", 720))
        return pa.Table.from_pylist(
            [{"id": i, "text": text, "num_samples": n} for (i, n), text in zip(lengths, texts, strict=True)]
        )

    collator = Collator(letters)
    check_frames(model, three("abc", "aa", "ab"), collator, "demo")
    with pytest.raises(SpeechmillError) as caught:
        check_frames(model, three("abc", "aab", "abc"), collator, "demo")
    message = str(caught.value)
    assert "2 training clips are too short for their text" in message
    assert "the first is b;" in message
    assert "set runs.demo.clips.frame_seconds to 0.020" in message
    with pytest.raises(SpeechmillError, match=r"the first is c; .* runs\.demo\.augment\.speed"):
        # At twice the speed, three frames become one.
        check_frames(model, three("a", "a", "ab"), collator, "demo", shortest=0.5)


@pytest.fixture
def base(tmp_path: Path, letters: Wav2Vec2Processor) -> Path:
    """Return a base model with the vocabulary of `letters`."""
    vocab = letters.tokenizer.get_vocab()
    torch.manual_seed(5)
    new_model(model_config(LAYER_NORM, None, {}, len(vocab)), None, vocab).save_pretrained(tmp_path / "base")
    letters.save_pretrained(tmp_path / "base")
    write_json({"commit": "c0ffee"}, tmp_path / "base.json")
    return tmp_path / "base"


def with_base(given: FinetuneSettings, base: Path) -> FinetuneSettings:
    return FinetuneSettings.model_validate(given.model_dump() | {"model": {"base": str(base)}})


CONVOLUTION, ATTENTION = (
    "wav2vec2.feature_extractor.conv_layers.0.conv.weight",
    "wav2vec2.encoder.layers.0.attention.k_proj.weight",
)


@pytest.mark.parametrize(("requested", "frozen"), [(None, True), (True, True), (False, False)])
def test_feature_encoder_of_a_base_is_frozen_by_default(
    tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor, base: Path, requested: bool | None, frozen: bool
) -> None:
    given = with_base(settings({"clips": 64}, freeze_feature_encoder=requested), base)
    weights = trained(tmp_path / "work", given, clips, letters, base)[2]
    before = load_file(base / "model.safetensors")
    assert torch.equal(weights[CONVOLUTION], before[CONVOLUTION]) is frozen
    assert not torch.equal(weights[ATTENTION], before[ATTENTION])


def changed_weights(before: Weights, after: Weights) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}


def test_lora_checkpoint_is_evaluated_as_it_is_saved(
    tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor, base: Path
) -> None:
    more = {"lora": {"targets": ["k_proj"]}, "learning_rate": 1e-2, "save_steps": 2, "best": 2}
    given = with_base(settings({"clips": 32}, **more), base)
    weights = trained(tmp_path / "work", given, clips, letters, base)
    before = load_file(base / "model.safetensors")
    projections = {name for name in before if "k_proj.weight" in name}
    assert changed_weights(before, weights[4]) == {"lm_head.weight", "lm_head.bias", *projections}
    model, processor = load_checkpoint(tmp_path / "work" / "checkpoints" / "checkpoint-4")
    hypotheses, clip_loss = transcribe(model, processor, *clips, given.batch_seconds, CPU)
    (row,) = [line for line in logged(tmp_path / "work") if line["step"] == 4 and "dev_wer" in line]
    assert row["dev_loss"] == np.mean(clip_loss)
    assert row["dev_wer"] == score(clips[0], hypotheses, clip_loss, given.text)[1]["wer"]


def test_only_the_head_is_trained_at_first(
    tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor, base: Path
) -> None:
    given = with_base(settings({"clips": 32}, save_steps=1, head_only_steps=2, weight_decay=0.5), base)
    weights = trained(tmp_path / "work", given, clips, letters, base)
    head, before = {"lm_head.weight", "lm_head.bias"}, load_file(base / "model.safetensors")
    # Weight decay and the warm-up of the moments start with the first gradient.
    assert changed_weights(before, weights[2]) == changed_weights(weights[1], weights[2]) == head
    assert ATTENTION in changed_weights(weights[2], weights[3])
    moments = torch.load(tmp_path / "work" / "checkpoint-4" / "optimizer.pt")["state"].values()
    assert {int(each["step"]) for each in moments} == {2, 4}


def test_training_of_the_head_alone_is_refused(tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor) -> None:
    with pytest.raises(SpeechmillError, match=r"runs\.demo\.finetune\.head_only_steps is 4, but .* only 4 steps"):
        trained(tmp_path / "work", settings({"clips": 32}, head_only_steps=4), clips, letters)


def test_optimizer_in_8_bits_needs_a_gpu_and_its_package(
    tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings({"clips": 32}, optimizer="adamw_8bit")
    with pytest.raises(SpeechmillError, match=r"runs\.demo\.finetune\.optimizer: adamw_8bit needs a CUDA GPU"):
        trained(tmp_path / "work", given, clips, letters)
    monkeypatch.setattr(finetune, "find_spec", lambda name: None)
    inputs = training_inputs(given, clips, letters)
    with pytest.raises(SpeechmillError, match="adamw_8bit needs the package bitsandbytes; install it"):
        train("demo", given, inputs, tmp_path / "work", tmp_path / "board", torch.device("cuda"))


def test_head_has_a_learning_rate_of_its_own(tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor) -> None:
    given = settings({"clips": 32}, head_learning_rate=1e-2, weight_decay=0.1, warmup_steps=0)
    trained(tmp_path / "work", given, clips, letters)
    groups = torch.load(tmp_path / "work" / "checkpoint-2" / "optimizer.pt")["param_groups"]
    # Half of the four steps of a linear schedule are done.
    assert all(group["lr"] == group["initial_lr"] / 2 for group in groups)
    found = [(group["initial_lr"], group["weight_decay"], len(group["params"])) for group in groups]
    (_, _, decayed), (_, _, others), *head = found
    assert found[:2] == [(1e-3, 0.1, decayed), (1e-3, 0.0, others)]
    # Its weights and its bias.
    assert head == [(1e-2, 0.1, 1), (1e-2, 0.0, 1)]
    model = prepare_model(given, training_inputs(given, clips, letters))
    assert decayed + others + 2 == sum(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(("requested", "frozen"), [(None, False), (True, True)])
def test_new_feature_encoder_is_trained_by_default(
    tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor, requested: bool | None, frozen: bool
) -> None:
    given = settings({"clips": 64}, save_steps=1, freeze_feature_encoder=requested)
    weights = trained(tmp_path / "work", given, clips, letters)
    assert torch.equal(weights[1][CONVOLUTION], weights[2][CONVOLUTION]) is frozen
    assert not torch.equal(weights[1][ATTENTION], weights[2][ATTENTION])


def test_base_head_is_kept_only_for_the_same_vocabulary(base: Path, letters: Wav2Vec2Processor) -> None:
    vocab = letters.tokenizer.get_vocab()
    others = {("z" if token == "a" else token): i for token, i in vocab.items()}
    before = load_file(base / "model.safetensors")
    for wanted, kept in ((vocab, True), (others, False)):
        model = new_model(model_config(None, base, {}, len(wanted)), base, wanted)
        assert torch.equal(model.lm_head.weight, before["lm_head.weight"]) is kept
        assert torch.equal(model.state_dict()[ATTENTION], before[ATTENTION])


def test_half_precision_base_is_trained_in_fp32(base: Path, letters: Wav2Vec2Processor) -> None:
    vocab = letters.tokenizer.get_vocab()
    model, _ = load_checkpoint(base)
    model.half().save_pretrained(base)
    for wanted in (vocab, {token.replace("a", "z"): i for token, i in vocab.items()}):
        loaded = new_model(model_config(None, base, {}, len(wanted)), base, wanted)
        assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_unknown_model_setting_is_named() -> None:
    with pytest.raises(SpeechmillError, match="model: wav2vec2 has no setting layer_drop"):
        model_config(LAYER_NORM | {"layer_drop": 0.1}, None, {}, 8)


def test_unknown_model_type_is_named() -> None:
    with pytest.raises(SpeechmillError, match=r"model\.init\.model_type: .*wav2vec3"):
        model_config({"model_type": "wav2vec3"}, None, {}, 8)


@pytest.mark.parametrize("init", [LAYER_NORM, GROUP_NORM], ids=["layer", "group"])
def test_head_and_token_ids_match_the_vocabulary(init: dict[str, Any]) -> None:
    config = model_config(init, None, {}, 8)
    assert new_model(config, None, {}).lm_head.out_features == 8
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (0, None, None)


def settings_arguments(given: FinetuneSettings) -> dict[str, list[str]]:
    """Return the settings as arguments of the stage, with those that do not change the weights separate."""
    values = given.model_dump()
    runtime = {
        "finetune": {key: values["finetune"].pop(key) for key in ("logging_steps", "workers", "resume_minutes")},
        "checkpoints": {"dev_clips": values["checkpoints"].pop("dev_clips")},
        "text": values.pop("text"),
        "batch_seconds": values.pop("batch_seconds"),
    }
    return {"--settings": [as_json(values)], "--runtime-settings": [as_json(runtime)]}


@pytest.fixture
def arguments(tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor) -> Arguments:
    """Return the arguments of the stage."""
    given = settings({"clips": 32})
    inputs = write_inputs(tmp_path, clips, letters, planned(given, clips))
    return inputs | settings_arguments(given) | output_arguments(tmp_path)


def run_main(monkeypatch: pytest.MonkeyPatch, arguments: Arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["finetune", *command_line(arguments)])
    finetune.main()


def states(tmp_path: Path) -> list[Path]:
    """Return the work folders of trainings that have not finished."""
    names = re.compile(r"[0-9a-f]{16}")
    return [path for path in (tmp_path / "work").iterdir() if names.fullmatch(path.name)]


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_stage_exports_planned_checkpoints_and_keeps_no_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Arguments
) -> None:
    run_main(monkeypatch, arguments)
    out = tmp_path / "out"
    records = {"training.json", "training.jsonl"}
    assert {path.name for path in (out / "checkpoints").iterdir()} == {"checkpoint-2", "checkpoint-4", *records}
    for name in records:
        assert (out / "checkpoints" / name).read_bytes() == (out / name).read_bytes()
    assert {path.name for path in (out / "checkpoints" / "checkpoint-4").iterdir()} == {
        "model.safetensors", "config.json", "processor_config.json", "tokenizer_config.json", "vocab.json",
        "sha256.json",
    }  # fmt: skip
    assert check_folder(out / "checkpoints" / "checkpoint-4").keys() >= {"model.safetensors"}
    record = read_json(out / "training.json")
    assert record["hyper_parameters"]["total_train_batch_size"] == 32
    assert record["hyper_parameters"]["training_steps"] == 4
    assert record["hardware"]["device"] == "cpu"
    assert record["kept"] == [2, 4]
    assert [line["step"] for line in logged(out) if "loss" in line] == [1, 2, 3, 4]
    assert states(tmp_path) == []
    (finished,) = (tmp_path / "work").glob("finished-*")
    assert list(finished.glob("checkpoint-*")) == []
    weights = [each / "checkpoints" / "checkpoint-4" / "model.safetensors" for each in (finished, out)]
    assert weights[0].samefile(weights[1])


def test_finished_training_whose_outputs_were_deleted_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Arguments, capsys: pytest.CaptureFixture[str]
) -> None:
    run_main(monkeypatch, arguments)
    first = files(tmp_path / "out")
    monkeypatch.setattr(finetune, "train", None)
    monkeypatch.setattr(finetune, "acquire_devices", None)
    for deleted in ("", "checkpoints", "checkpoints/checkpoint-2"):
        shutil.rmtree(tmp_path / "out" / deleted)
        run_main(monkeypatch, arguments)
        assert files(tmp_path / "out") == first
    assert "training has finished: its results are taken from" in capsys.readouterr().err


@pytest.mark.parametrize("point", ["finetune.finish", "finished.sync_files", "finetune.export", "finished.write_text"])
def test_training_killed_at_its_end_has_the_same_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Arguments, point: str
) -> None:
    def raise_killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(f"speechmill.training.{point}", raise_killed)
        run_main(monkeypatch, arguments)
    (log,) = (tmp_path / "work").glob("*/training.jsonl")
    steps = [row for row in read_log(log.parent) if "loss" in row]
    run_main(monkeypatch, arguments)
    assert [line for line in logged(tmp_path / "out") if "loss" in line] == steps
    assert read_json(tmp_path / "out" / "training.json")["kept"] == [2, 4]
    assert (tmp_path / "out" / "checkpoints" / "checkpoint-2").is_dir()


def test_finished_training_with_a_changed_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Arguments
) -> None:
    run_main(monkeypatch, arguments)
    (finished,) = (tmp_path / "work").glob("finished-*")
    weights = finished / "checkpoints" / "checkpoint-2" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(SpeechmillError, match=rf"{weights} has changed since .* rm -r {finished}"):
        run_main(monkeypatch, arguments)


@pytest.mark.parametrize("damaged", ["digest", "vocab"])
def test_changed_input_is_named_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Arguments, damaged: str
) -> None:
    (folder,), (file,) = arguments["--vocab"], arguments["--digest"]
    if damaged == "vocab":
        write_digests(folder)
        file = folder / "vocab.json"
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(SpeechmillError, match=str(file)):
        run_main(monkeypatch, arguments)


def test_stage_resumes_only_with_the_same_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Arguments, capsys: pytest.CaptureFixture[str]
) -> None:
    killed_at(monkeypatch, 3, "on_step_end", lambda: run_main(monkeypatch, arguments))
    (left,) = states(tmp_path)
    run_main(monkeypatch, arguments | settings_arguments(settings({"clips": 32}, weight_decay=0.1)))
    assert "resuming from" not in capsys.readouterr().err
    # The logging interval does not change the weights.
    run_main(monkeypatch, arguments | settings_arguments(settings({"clips": 32}, logging_steps=2)))
    start_over = f"(to start over instead: rm -r {left.parent})"
    assert f"resuming from step 2 {start_over}" in capsys.readouterr().err
    assert [line["step"] for line in logged(tmp_path / "out") if "loss" in line] == [1, 2, 4]


def test_base_in_pytorch_bin_format_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Arguments, base: Path
) -> None:
    # facebook/wav2vec2-xls-r-1b has a pytorch_model.bin and no model.safetensors.
    torch.save(load_file(base / "model.safetensors"), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    given = with_base(settings({"clips": 32}), base)
    run_main(
        monkeypatch,
        arguments | settings_arguments(given) | {"--base": [base], "--base-source": [base.with_suffix(".json")]},
    )
    assert (tmp_path / "out" / "checkpoints" / "checkpoint-4" / "model.safetensors").is_file()


def test_checkpoints_are_copied_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Arguments
) -> None:
    def fail(*_: object) -> None:
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr("os.link", fail)
    run_main(monkeypatch, arguments)
    assert (tmp_path / "out" / "checkpoints" / "checkpoint-4" / "model.safetensors").stat().st_size > 1000
    shutil.rmtree(tmp_path / "out")


def test_missing_checkpoint_is_an_error_before_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Arguments
) -> None:
    killed_at(monkeypatch, 4, "on_step_end", lambda: run_main(monkeypatch, arguments))
    (left,) = states(tmp_path)
    shutil.rmtree(left / "checkpoints" / "checkpoint-2")
    with pytest.raises(SpeechmillError, match=r"lacks the checkpoint of step 2.*rm -r"):
        run_main(monkeypatch, arguments)
    assert not (tmp_path / "out").exists()


def test_only_the_best_checkpoints_on_dev_are_kept(tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor) -> None:
    given = settings({"clips": 32}, save_steps=1, best=2, learning_rate=1e-2)
    weights = trained(tmp_path / "work", given, clips, letters)
    rows = [line for line in logged(tmp_path / "work") if "dev_wer" in line]
    assert [(row["step"], row["dev_clips"]) for row in rows] == [(step, len(clips[0])) for step in (1, 2, 3, 4)]
    # Those of the last step, and those of the step before, from whose resume state training could continue.
    kept = [kept_steps(rows[:end], [1, 2, 3, 4], 2, "wer") for end in (3, 4)]
    assert sorted(weights) == sorted({*kept[0], *kept[1]})
    step = min(weights)
    model, processor = load_checkpoint(tmp_path / "work" / "checkpoints" / f"checkpoint-{step}")
    hypotheses, losses = transcribe(model, processor, *clips, given.batch_seconds, CPU)
    assert rows[step - 1]["dev_wer"] == score(clips[0], hypotheses, losses, given.text)[1]["wer"]


def dev_rows(*scores: tuple[float | None, float | None, float | None]) -> list[dict[str, Any]]:
    """Return the rows of the log with the WER, the CER and the loss of each dev evaluation, from step 1."""
    return [
        {"step": step, "dev_wer": wer, "dev_cer": cer, "dev_loss": loss, "dev_clips": 1}
        for step, (wer, cer, loss) in enumerate(scores, start=1)
    ]


def test_kept_steps_rank_by_wer_then_later_step() -> None:
    rows = dev_rows(*((wer, 0.5, 1.0) for wer in (None, 0.5, 0.3, 0.5, 0.4)))
    assert [kept_steps(rows, [1, 2, 3, 4, 5], best, "wer") for best in (1, 2, 3, 5)] == [
        [3],
        [3, 5],
        [3, 4, 5],
        [1, 2, 3, 4, 5],
    ]
    assert kept_steps([], [2, 4], None, "wer") == [2, 4]


@pytest.mark.parametrize(
    ("metric", "kept"), [("wer", [[3], [2, 3], [2, 3, 4]]), ("cer", [[5], [3, 5], [2, 3, 5]]), ("loss", [[1]])]
)
def test_kept_steps_follow_metric_and_its_ties(metric: str, kept: list[list[int]]) -> None:
    # A sentence without spaces is a word: at WER 1 the first step writes nothing.
    rows = dev_rows((1.0, 1.0, 0.1), (1.0, 0.2, 3.0), (1.0, 0.2, 2.0), (1.0, None, 1.5), (None, 0.1, None))
    rows[3]["dev_cer"] = 0.3
    assert [kept_steps(rows, [1, 2, 3, 4, 5], best, metric) for best, _ in enumerate(kept, start=1)] == kept


def test_worse_checkpoint_is_deleted_after_the_commit(
    tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, work = settings({"clips": 32}, save_steps=1, best=1), tmp_path / "work"
    wers = iter([0.5, 0.4, 0.9, 0.9])
    monkeypatch.setattr(DevEvaluator, "__call__", lambda *_: {"dev_wer": next(wers), "dev_clips": 1, "dev_empty": 0})

    def raise_killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(
            "speechmill.training.checkpoint_callback.commit",
            lambda work, step: raise_killed() if step == 2 else commit(work, step),
        )
        trained(work, given, clips, letters)
    assert {path.name for path in (work / "checkpoints").iterdir()} == {"checkpoint-1", "checkpoint-2"}
    wers = iter([0.8, 0.9, 0.7])
    assert list(trained(work, given, clips, letters)) == [1]


def test_checkpoints_that_the_previous_state_needs_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clips: Stored, letters: Wav2Vec2Processor
) -> None:
    given = settings({"clips": 32}, save_steps=1, best=1)
    inputs = write_inputs(tmp_path, clips, letters, planned(given, clips))
    arguments = inputs | settings_arguments(given) | output_arguments(tmp_path)
    wers = iter([0.5, 0.6, 0.4])
    monkeypatch.setattr(DevEvaluator, "__call__", lambda *_: {"dev_wer": next(wers), "dev_clips": 1, "dev_empty": 0})
    killed_at(monkeypatch, 4, "on_step_end", lambda: run_main(monkeypatch, arguments))
    (work,) = states(tmp_path)
    (work / "checkpoint-3" / "optimizer.pt").write_bytes(b"")
    # Step 3 is trained again, as on a GPU: with another result, by which step 1 is the best.
    wers = iter([0.7, 0.6])
    run_main(monkeypatch, arguments)
    assert read_json(tmp_path / "out" / "training.json")["kept"] == [1]
    assert [path.name for path in (tmp_path / "out" / "checkpoints").glob("checkpoint-*")] == ["checkpoint-1"]


def test_log_with_long_intervals_is_equal_after_a_kill(
    tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings({"clips": 16}, logging_steps=3)
    trained(tmp_path / "uninterrupted", given, clips, letters)
    killed_at(monkeypatch, 5, "on_step_end", lambda: trained(tmp_path / "killed", given, clips, letters))
    trained(tmp_path / "killed", given, clips, letters)
    assert [line["step"] for line in losses(tmp_path / "killed")] == [3, 6]
    assert losses(tmp_path / "killed") == losses(tmp_path / "uninterrupted")
    ends = [read_log(tmp_path / name)[-1]["train_loss"] for name in ("killed", "uninterrupted")]
    assert ends[0] == ends[1]


def test_timed_saves_do_not_change_the_weights(tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor) -> None:
    rare, often = (
        settings({"clips": 32}, init=STOCHASTIC),
        settings({"clips": 32}, init=STOCHASTIC, resume_minutes=1e-9),
    )
    expected = trained(tmp_path / "rare", rare, clips, letters)
    after = trained(tmp_path / "often", often, clips, letters)
    assert {path.name for path in (tmp_path / "often").glob("checkpoint-*")} == {"checkpoint-3", "checkpoint-4"}
    assert set(after) == set(expected) == {2, 4}
    assert all(torch.equal(after[4][name], tensor) for name, tensor in expected[4].items())


def test_nan_loss_names_step_and_clips_and_keeps_state(
    tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The NaN of step 3 is noticed only before the save at step 4.
    given, work = settings({"clips": 16}, logging_steps=100), tmp_path / "work"
    calls = itertools.count(1)

    def nan_at_step_3(*args: Any) -> torch.Tensor:
        return clip_losses(*args) * (float("nan") if next(calls) == 3 else 1.0)

    monkeypatch.setattr("speechmill.training.trainer.clip_losses", nan_at_step_3)
    with pytest.raises(
        SpeechmillError, match=r"NaN or infinite at step 3, .*runs\.demo\.finetune\.learning_rate"
    ) as caught:
        trained(work, given, clips, letters)
    batches = list(PlannedBatches(clips_from_table(pa.Table.from_pylist(clips[0])), given.plan, 8))
    assert ", ".join(clips[0][sampled.clip]["id"] for sampled in batches[2]) in str(caught.value)
    assert newest_resume_state(work) == work / "checkpoint-2"
    assert not (work / "unfinished").exists()


def test_infinite_gradient_stops_before_a_save(
    tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def infinite_gradient(self: CtcTrainer, model: Any) -> torch.Tensor:
        if self.state.global_step == 3:
            model.lm_head.weight.grad.fill_(float("inf"))
        return torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)

    monkeypatch.setattr(CtcTrainer, "_clip_grad_norm", infinite_gradient)
    with pytest.raises(SpeechmillError, match="NaN or infinite at step 4"):
        trained(tmp_path / "work", settings({"clips": 32}, logging_steps=100), clips, letters)
    assert newest_resume_state(tmp_path / "work") == tmp_path / "work" / "checkpoint-2"


def test_fp16_overflows_are_counted_not_fatal(tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor) -> None:
    given = settings({"clips": 32})
    inputs = training_inputs(given, clips, letters)
    trainer = CtcTrainer(
        model=prepare_model(given, inputs),
        args=training_arguments(given.plan, given.finetune, tmp_path, CPU),
        clips=ClipReader(inputs.clips, inputs.shards),
        batches=Batches([[0]], 1),  # type: ignore[arg-type]  # the Trainer uses nothing else
        workers=0,
    )
    # A CPU cannot train in fp16.
    trainer.args.fp16 = True
    for step, norm in enumerate([1.0, float("inf"), float("nan"), 1.0], start=1):
        trainer._get_grad_norm(trainer.model, torch.tensor(norm))
        trainer.state.global_step = step
    trainer.log({"loss": 0.0})
    trainer.state.global_step += 1
    trainer.log({"loss": 0.0})
    assert [line["overflows"] for line in trainer.state.log_history] == [2, 0]


def test_blank_model_is_warned_about_once(
    tmp_path: Path,
    clips: Stored,
    letters: Wav2Vec2Processor,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    blank = {"dev_wer": 1.0, "dev_clips": 9, "dev_empty": 9}
    monkeypatch.setattr(DevEvaluator, "__call__", lambda *_: dict(blank))
    trained(tmp_path / "work", settings({"clips": 24}, save_steps=1, best=9), clips, letters)
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: at step")]
    # The first step is the warm-up, and three consecutive evaluations must be blank.
    assert len(warnings) == 1
    assert warnings[0].startswith("warning: at step 4 the model outputs no text for any dev clip, in 3 dev evaluations")
    assert "runs.demo.finetune.learning_rate" in warnings[0]


def test_out_of_memory_names_batch_and_what_fits(
    tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    given = settings({"clips": 64})
    monkeypatch.setattr("speechmill.training.trainer.forward", out_of_memory)
    with pytest.raises(SpeechmillError) as caught:
        trained(tmp_path / "work", given, clips, letters)
    seconds = 64 * max(clip["num_samples"] for clip in clips[0]) / 16000
    assert f"a batch of {seconds:.1f} s" in str(caught.value)
    assert "410 s fit into runs.demo.gpu_memory_gib, 78 GiB" in str(caught.value)
    assert "runs.demo.finetune.gradient_checkpointing to true, with which 2100 s" in str(caught.value)


def test_unused_mask_embedding_needs_no_gradient(clips: Stored, letters: Wav2Vec2Processor) -> None:
    unmasked, masked = (settings({"clips": 32}, init=init) for init in (LAYER_NORM, STOCHASTIC))
    assert not prepare_model(
        unmasked, training_inputs(unmasked, clips, letters)
    ).base_model.masked_spec_embed.requires_grad
    assert prepare_model(masked, training_inputs(masked, clips, letters)).base_model.masked_spec_embed.requires_grad


def test_batch_transform_updates_all_inputs(clips: Stored, letters: Wav2Vec2Processor) -> None:
    reader, collate = ClipReader(pa.Table.from_pylist(clips[0]), clips[1]), Collator(letters)
    batch = collate([reader[SampledClip(i, 7)] for i in (0, 1, 2)])
    transform = batch_transform(AugmentConfig(speed=[0.9]), 42, letters)
    assert transform is not None
    changed = transform(dict(batch))
    assert torch.equal(changed["num_samples"], (batch["num_samples"] * 10 + 8) // 9)
    assert torch.equal(changed["attention_mask"].sum(1), changed["num_samples"])
    assert torch.equal(changed["labels"], batch["labels"])
    real = changed["input_values"][0, : changed["num_samples"][0]]
    torch.testing.assert_close((real.mean(), real.std(correction=0)), (torch.tensor(0.0), torch.tensor(1.0)))
    assert batch_transform(AugmentConfig(), 42, letters) is None


def test_augmented_training_is_equal_after_a_kill(
    tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy = {"speed": [0.9, 1.1], "noise": {"probability": 0.5, "snr_db": [5, 20]}}
    given = settings({"seconds": 14}, augment=noisy)
    expected = trained(tmp_path / "uninterrupted", given, clips, letters)
    killed_at(monkeypatch, 3, "on_step_end", lambda: trained(tmp_path / "killed", given, clips, letters))
    after = trained(tmp_path / "killed", given, clips, letters)
    for step, weights in expected.items():
        assert all(torch.equal(after[step][name], tensor) for name, tensor in weights.items())
    plain = trained(tmp_path / "plain", settings({"seconds": 14}), clips, letters)
    assert not torch.equal(plain[2]["lm_head.weight"], expected[2]["lm_head.weight"])
