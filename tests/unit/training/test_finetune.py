import itertools
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from transformers import Wav2Vec2Processor

from material import GROUP_NORM, LAYER_NORM, LIVELY, ROOT, as_json, recording, store
from speechmill.config.augment import AugmentConfig
from speechmill.core.command import SpeechmillError
from speechmill.core.tables import CLIPS, clips_digest, read_json, write_json, write_table
from speechmill.inference.evaluate import score
from speechmill.inference.log_probs import transcribe
from speechmill.model.batching import PlannedBatches, SampledClip, batch_stats, clips_of
from speechmill.model.clip_reader import ClipReader, Collator
from speechmill.model.ctc import clip_losses
from speechmill.model.models import load_checkpoint, model_config, new_model
from speechmill.training import finetune
from speechmill.training.checkpoint_callback import CheckpointCallback, kept_steps
from speechmill.training.dev_evaluator import DevEvaluator
from speechmill.training.finetune import FinetuneSettings, Materials, augmentation, check_frames, train, trainable
from speechmill.training.resume_state import commit, newest_resume_state, read_log
from speechmill.training.trainer import CtcTrainer, training_arguments

CPU = torch.device("cpu")
Stored = tuple[list[dict[str, Any]], list[Path]]
Weights = dict[str, torch.Tensor]


@pytest.fixture(autouse=True, scope="module")
def _swift_disk() -> Iterator[None]:
    """Nothing here cuts the power, so nothing has to wait for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Sixty-four clips of 0.3 to 0.9 s, each with two to five letters."""
    drawn = np.random.default_rng(0)
    recordings = [recording(float(drawn.uniform(0.3, 0.9)), seed=i) for i in range(64)]
    texts = ["".join(drawn.choice(list("abcde"), size=drawn.integers(2, 6))) for _ in range(64)]
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
    tuning = {"learning_rate": 1e-3, "precision": "fp32", "logging_steps": 1, "threads": 1, "warmup_steps": 1} | more
    return FinetuneSettings.model_validate(
        {"device": "cpu", "gpus": gpus, "plan": plan, "model": {"init": init}, "finetune": tuning}
        | {"augment": augment or {}, "checkpoints": {"best": best, "dev_clips": 0}, "text": {}, "batch_seconds": 20}
    )


def planned(given: FinetuneSettings, clips: Stored) -> dict[str, Any]:
    """What `train` reads of the plan."""
    batches = batch_stats(clips_of(pa.Table.from_pylist(clips[0])), given.plan).batches
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


def materials(given: FinetuneSettings, clips: Stored, letters: Wav2Vec2Processor, base: Path | None = None) -> Materials:
    """Clips that are dev as well."""
    table = pa.Table.from_pylist(clips[0])
    return Materials(table, clips[1], letters, base, planned(given, clips), *clips)


def trained(
    work: Path, given: FinetuneSettings, clips: Stored, letters: Wav2Vec2Processor, base: Path | None = None
) -> dict[int, Weights]:
    """Train, or go on training, in `work`: the weights that were kept, by step."""
    work.mkdir(parents=True, exist_ok=True)
    assert train("demo", given, materials(given, clips, letters, base), work, work.parent / "board", CPU) is None
    return {
        int(folder.name.removeprefix("checkpoint-")): load_file(folder / "model.safetensors")
        for folder in (work / "checkpoints").iterdir()
    }


def logged(work: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (work / "training.jsonl").read_text().splitlines()]


def losses(work: Path) -> list[dict[str, Any]]:
    """The lines of the log that have a loss, without the speed, which is another each time."""
    return [
        {key: value for key, value in line.items() if key not in ("audio_seconds_per_second", "mfu")}
        for line in logged(work)
        if "loss" in line
    ]


def assert_close(one: Weights, other: Weights) -> None:
    torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5)


def test_four_batches_of_8_are_one_batch_of_32(tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor) -> None:
    # transformers 5.23 by itself makes loss and gradient four times as large.
    whole = trained(tmp_path / "whole", settings({"clips": 32}), clips, letters)
    parts = trained(tmp_path / "parts", settings({"clips": 8}, accumulation=4), clips, letters)
    assert set(whole) == set(parts) == {2, 4}
    for one, other in zip(losses(tmp_path / "whole"), losses(tmp_path / "parts"), strict=True):
        assert one["step"] == other["step"]
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)
        assert one["learning_rate"] == other["learning_rate"]
    for step in whole:
        assert_close(whole[step], parts[step])


class Batches(list[list[SampledClip]]):
    """Exactly these batches, as the `PlannedBatches` of one process."""

    def __init__(self, batches: list[list[int]], accumulation: int) -> None:
        super().__init__([SampledClip(i) for i in batch] for batch in batches)
        self._accumulation = accumulation

    def clips_in_step(self, step: int) -> int:
        return sum(map(len, self[step * self._accumulation : (step + 1) * self._accumulation]))


def steps_of(
    batches: list[list[int]], accumulation: int, work: Path, clips: Stored, letters: Wav2Vec2Processor
) -> tuple[list[dict[str, float]], Weights]:
    """What is logged, and the weights, when exactly these batches are trained on."""
    given = settings({"clips": 1}, accumulation)
    torch.manual_seed(0)
    vocab = letters.tokenizer.get_vocab()
    model = new_model(model_config(LAYER_NORM, None, {}, len(vocab)), None, vocab)
    trainer = CtcTrainer(
        model=model,
        args=training_arguments(given.plan, given.finetune, work, CPU),
        clips=ClipReader(pa.Table.from_pylist(clips[0]), clips[1]),
        data_collator=Collator(letters),
        batches=Batches(batches, accumulation),  # type: ignore[arg-type]  # all that a Trainer asks of it
        workers=0,
    )
    trainer.train()
    return [line for line in trainer.state.log_history if "loss" in line], model.state_dict()


def test_unequal_batches_count_each_clip_once(tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor) -> None:
    # As batches by padded seconds are: one long clip alone, many short ones together.
    unequal = [[0], [1, 2, 3, 4, 5, 6], [7, 8], [9, 10, 11, 12, 13], [14], [15, 16, 17]]
    joined = [list(itertools.chain(*unequal[:3])), list(itertools.chain(*unequal[3:]))]
    log, weights = steps_of(joined, 1, tmp_path / "joined", clips, letters)
    log_parts, weights_parts = steps_of(unequal, 3, tmp_path / "unequal", clips, letters)
    assert len(log) == len(log_parts) == 2
    for one, other in zip(log, log_parts, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)
    assert_close(weights, weights_parts)


def test_a_last_step_of_fewer_batches_is_a_mean_as_well(
    tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor
) -> None:
    log, weights = steps_of([[0, 1, 2, 3], [4, 5]], 1, tmp_path / "joined", clips, letters)
    log_parts, weights_parts = steps_of([[0, 1], [2, 3], [4, 5]], 2, tmp_path / "parts", clips, letters)
    assert [line["loss"] for line in log] == pytest.approx([line["loss"] for line in log_parts], rel=1e-4)
    assert_close(weights, weights_parts)


def test_the_logged_loss_is_that_of_the_model(tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor) -> None:
    log, _ = steps_of([[0, 1, 2]], 1, tmp_path, clips, letters)
    torch.manual_seed(0)
    vocab = letters.tokenizer.get_vocab()
    model = new_model(model_config(LAYER_NORM, None, {}, len(vocab)), None, vocab).eval()
    reader = ClipReader(pa.Table.from_pylist(clips[0]), clips[1])
    batch = Collator(letters)([reader[i] for i in (0, 1, 2)])
    given = {key: batch[key] for key in ("input_values", "attention_mask", "labels")}
    with torch.no_grad():
        theirs = model(**given).loss  # transformers' own: the mean over clips of the loss a label
    assert log[0]["loss"] == pytest.approx(theirs.item(), rel=1e-4)


class KilledError(Exception):
    """What stands for a kill."""


def killed_at(monkeypatch: pytest.MonkeyPatch, step: int, event: str, train_it: Callable[[], Any]) -> None:
    """Run `train_it` until it is killed at the beginning of `event` of `step`."""
    original = getattr(CheckpointCallback, event)

    def dying(self: CheckpointCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if state.global_step == step:
            raise KilledError
        return original(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(CheckpointCallback, event, dying)
        train_it()


def lively(accumulation: int) -> FinetuneSettings:
    """Three steps an epoch, in two epochs."""
    return settings({"seconds": 14 / accumulation}, accumulation, init=LIVELY)


@pytest.fixture(scope="module", params=[1, 2], ids=["", "accumulated"])
def undisturbed(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    clips: Stored,
    letters: Wav2Vec2Processor,
) -> tuple[FinetuneSettings, Path, dict[int, Weights]]:
    """A training that nothing interrupted: its settings, where it was, and its weights by step."""
    given, work = lively(request.param), tmp_path_factory.mktemp("undisturbed") / "work"
    return given, work, trained(work, given, clips, letters)


@pytest.mark.parametrize(
    ("step", "event", "resumed"),
    [(5, "on_step_end", 4), (4, "on_save", 2), (1, "on_step_end", None)],
    ids=["between saves", "before a save is complete", "before the first save"],
)
def test_a_training_that_was_killed_ends_with_the_same_weights_bit_by_bit(
    tmp_path: Path,
    clips: Stored,
    letters: Wav2Vec2Processor,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: tuple[FinetuneSettings, Path, dict[int, Weights]],
    step: int,
    event: str,
    resumed: int | None,
) -> None:
    given, undisturbed_work, expected = undisturbed
    work = tmp_path / "killed"
    killed_at(monkeypatch, step, event, lambda: trained(work, given, clips, letters))
    assert newest_resume_state(work) == (resumed and work / f"checkpoint-{resumed}")
    after = trained(work, given, clips, letters)
    assert set(after) == set(expected) >= {2, 4, 6}
    for each, weights in expected.items():
        for name, tensor in weights.items():
            assert torch.equal(after[each][name], tensor), f"step {each}: {name}"
    assert losses(work) == losses(undisturbed_work)


def test_a_training_that_was_killed_at_its_very_end_has_nothing_left_to_do(
    tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor
) -> None:
    given, work = settings({"clips": 32}), tmp_path / "work"
    first = trained(work, given, clips, letters)
    log = losses(work)
    again = trained(work, given, clips, letters)
    assert losses(work) == log
    for step, weights in first.items():
        assert all(torch.equal(again[step][name], tensor) for name, tensor in weights.items())
    steps = [line["step"] for line in logged(work) if "train_runtime" in line]
    assert steps == [4]


def test_the_log_has_a_line_for_each_interval_with_the_epoch_of_the_plan(
    tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor
) -> None:
    trained(tmp_path / "work", settings({"clips": 8}, logging_steps=4, save_steps=100), clips, letters)
    lines = losses(tmp_path / "work")
    assert [(line["step"], line["epoch"]) for line in lines] == [(4, 0.5), (8, 1.0), (12, 1.5), (16, 2.0)]
    for line in logged(tmp_path / "work"):
        if "loss" in line:
            assert line["audio_seconds_per_second"] > 0
            assert line["mfu"] == line["audio_seconds_per_second"] / 1e6


def test_a_checkpoint_loads_in_plain_transformers(tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor) -> None:
    weights = trained(tmp_path / "work", settings({"clips": 32}), clips, letters)
    for step, expected in weights.items():
        model, processor = load_checkpoint(tmp_path / "work" / "checkpoints" / f"checkpoint-{step}")
        assert torch.equal(model.state_dict()["lm_head.weight"], expected["lm_head.weight"])
        assert processor.tokenizer.get_vocab() == letters.tokenizer.get_vocab()
        assert model.lm_head.out_features == len(processor.tokenizer)


def test_clips_that_are_too_short_for_their_text_are_named(clips: Stored, letters: Wav2Vec2Processor) -> None:
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
    assert "runs.demo.clips.frame_seconds to the model's 0.020" in message
    with pytest.raises(SpeechmillError, match=r"the first is c; .* runs\.demo\.augment\.speed"):
        # Twice as fast, three frames are left as one.
        check_frames(model, three("a", "a", "ab"), collator, "demo", shortest=0.5)


@pytest.fixture
def base(tmp_path: Path, letters: Wav2Vec2Processor) -> Path:
    """A base model with the vocabulary of `letters`."""
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


@pytest.mark.parametrize(("asked", "frozen"), [(None, True), (True, True), (False, False)])
def test_the_convolutions_of_a_base_stay_unless_said_otherwise(
    tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor, base: Path, asked: bool | None, frozen: bool
) -> None:
    given = with_base(settings({"clips": 64}, freeze_feature_encoder=asked), base)
    weights = trained(tmp_path / "work", given, clips, letters, base)[2]
    before = load_file(base / "model.safetensors")
    assert torch.equal(weights[CONVOLUTION], before[CONVOLUTION]) is frozen
    assert not torch.equal(weights[ATTENTION], before[ATTENTION])


@pytest.mark.parametrize(("asked", "frozen"), [(None, False), (True, True)])
def test_the_convolutions_of_new_weights_learn_unless_said_otherwise(
    tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor, asked: bool | None, frozen: bool
) -> None:
    given = settings({"clips": 64}, save_steps=1, freeze_feature_encoder=asked)
    weights = trained(tmp_path / "work", given, clips, letters)
    assert torch.equal(weights[1][CONVOLUTION], weights[2][CONVOLUTION]) is frozen
    assert not torch.equal(weights[1][ATTENTION], weights[2][ATTENTION])


def test_a_base_keeps_its_head_for_its_own_characters_alone(base: Path, letters: Wav2Vec2Processor) -> None:
    vocab = letters.tokenizer.get_vocab()
    others = {("z" if token == "a" else token): i for token, i in vocab.items()}
    before = load_file(base / "model.safetensors")
    for wanted, kept in ((vocab, True), (others, False)):
        model = new_model(model_config(None, base, {}, len(wanted)), base, wanted)
        assert torch.equal(model.lm_head.weight, before["lm_head.weight"]) is kept
        assert torch.equal(model.state_dict()[ATTENTION], before[ATTENTION])


def test_a_base_with_weights_in_half_precision_is_trained_in_full(base: Path, letters: Wav2Vec2Processor) -> None:
    vocab = letters.tokenizer.get_vocab()
    model, _ = load_checkpoint(base)
    model.half().save_pretrained(base)
    for wanted in (vocab, {token.replace("a", "z"): i for token, i in vocab.items()}):
        loaded = new_model(model_config(None, base, {}, len(wanted)), base, wanted)
        assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_a_setting_that_the_model_does_not_have_is_named() -> None:
    with pytest.raises(SpeechmillError, match="model: wav2vec2 has no setting layer_drop"):
        model_config(LAYER_NORM | {"layer_drop": 0.1}, None, {}, 8)


def test_a_model_type_that_is_not_there_is_named() -> None:
    with pytest.raises(SpeechmillError, match=r"model\.init\.model_type: .*wav2vec3"):
        model_config({"model_type": "wav2vec3"}, None, {}, 8)


@pytest.mark.parametrize("init", [LAYER_NORM, GROUP_NORM], ids=["layer", "group"])
def test_a_model_is_as_large_as_the_vocabulary_and_has_no_other_ids(init: dict[str, Any]) -> None:
    config = model_config(init, None, {}, 8)
    assert new_model(config, None, {}).lm_head.out_features == 8
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (0, None, None)


def slices(given: FinetuneSettings) -> dict[str, list[str]]:
    """The settings as the program takes them: what changes no weights apart."""
    whole = given.model_dump()
    pace = {
        "finetune": {key: whole["finetune"].pop(key) for key in ("logging_steps", "workers", "resume_minutes")},
        "checkpoints": {"dev_clips": whole["checkpoints"].pop("dev_clips")},
        "text": whole.pop("text"),
        "batch_seconds": whole.pop("batch_seconds"),
    }
    return {"--settings": [as_json(whole)], "--runtime-settings": [as_json(pace)]}


@pytest.fixture
def arguments(tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor) -> dict[str, Any]:
    """What the program is given, and has to write."""
    given = settings({"clips": 32})
    letters.save_pretrained(tmp_path / "vocab")
    write_table(clips[0], CLIPS, tmp_path / "train.parquet")
    (tmp_path / "train.sha256").write_text(clips_digest(clips[0]))
    write_json(
        {"run": "demo", "clips_per_batch": 32.0, "parameters": 1} | planned(given, clips), tmp_path / "plan.json"
    )
    return {
        "--run": ["demo"], **slices(given), "--gpus": [0], "--code": ["abc"],
        "--clips": [tmp_path / "train.parquet"], "--digest": [tmp_path / "train.sha256"], "--shards": clips[1],
        "--dev-clips": [tmp_path / "train.parquet"], "--dev-shards": clips[1],
        "--vocab": [tmp_path / "vocab"], "--base": [], "--base-source": [], "--plan": [tmp_path / "plan.json"],
        "--work": [tmp_path / "work"], "--checkpoints": [tmp_path / "out" / "checkpoints"],
        "--record": [tmp_path / "out" / "training.json"], "--log": [tmp_path / "out" / "training.jsonl"],
    }  # fmt: skip


def run_main(monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any]) -> None:
    given = [str(part) for key, values in arguments.items() for part in (key, *values)]
    monkeypatch.setattr(sys, "argv", ["finetune", *given])
    finetune.main()


def states(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "work").iterdir() if path.name != "tensorboard"]


def test_the_program_hands_over_what_the_plan_lists_and_tidies_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any]
) -> None:
    run_main(monkeypatch, arguments)
    out = tmp_path / "out"
    assert {path.name for path in (out / "checkpoints").iterdir()} == {"checkpoint-2", "checkpoint-4"}
    assert {path.name for path in (out / "checkpoints" / "checkpoint-4").iterdir()} == {
        "model.safetensors", "config.json", "processor_config.json", "tokenizer_config.json", "vocab.json",
    }  # fmt: skip
    record = read_json(out / "training.json")
    assert record["hyper_parameters"]["total_train_batch_size"] == 32
    assert record["hyper_parameters"]["training_steps"] == 4
    assert record["hardware"]["device"] == "cpu"
    assert record["kept"] == [2, 4]
    assert [line["step"] for line in logged(out) if "loss" in line] == [1, 2, 3, 4]
    assert states(tmp_path) == []


def test_a_program_that_was_killed_goes_on_and_one_with_other_settings_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    killed_at(monkeypatch, 3, "on_step_end", lambda: run_main(monkeypatch, arguments))
    (left,) = states(tmp_path)
    run_main(monkeypatch, arguments | slices(settings({"clips": 32}, weight_decay=0.1)))
    assert "going on from" not in capsys.readouterr().err
    # A line of the log every step or every second one changes no weights.
    run_main(monkeypatch, arguments | slices(settings({"clips": 32}, logging_steps=2)))
    start_again = f"(to start again instead: rm -r {left.parent})"
    assert f"going on from step 2 {start_again}" in capsys.readouterr().err
    assert [line["step"] for line in logged(tmp_path / "out") if "loss" in line] == [1, 2, 4]


def test_a_base_with_weights_in_the_older_format_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], base: Path
) -> None:
    # facebook/wav2vec2-xls-r-1b has a pytorch_model.bin and no model.safetensors.
    torch.save(load_file(base / "model.safetensors"), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    given = with_base(settings({"clips": 32}), base)
    run_main(
        monkeypatch,
        arguments | slices(given) | {"--base": [base], "--base-source": [base.with_suffix(".json")]},
    )
    assert (tmp_path / "out" / "checkpoints" / "checkpoint-4" / "model.safetensors").is_file()


def test_a_disk_that_links_nothing_gets_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any]
) -> None:
    def refused(*_: object) -> None:
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr("os.link", refused)
    run_main(monkeypatch, arguments)
    assert (tmp_path / "out" / "checkpoints" / "checkpoint-4" / "model.safetensors").stat().st_size > 1000
    shutil.rmtree(tmp_path / "out")


def test_a_checkpoint_that_something_removed_is_missed_before_it_is_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any]
) -> None:
    killed_at(monkeypatch, 4, "on_step_end", lambda: run_main(monkeypatch, arguments))
    (left,) = states(tmp_path)
    shutil.rmtree(left / "checkpoints" / "checkpoint-2")
    with pytest.raises(SpeechmillError, match=r"lacks the checkpoint of step 2.*rm -r"):
        run_main(monkeypatch, arguments)
    assert not (tmp_path / "out").exists()


def test_checkpoints_are_tried_on_dev_and_only_the_best_are_kept(
    tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor
) -> None:
    given = settings({"clips": 32}, save_steps=1, best=2, learning_rate=1e-2)
    weights = trained(tmp_path / "work", given, clips, letters)
    rows = [line for line in logged(tmp_path / "work") if "dev_wer" in line]
    assert [(row["step"], row["dev_clips"]) for row in rows] == [(step, len(clips[0])) for step in (1, 2, 3, 4)]
    assert sorted(weights) == kept_steps(rows, [1, 2, 3, 4], 2)
    step = min(weights)
    model, processor = load_checkpoint(tmp_path / "work" / "checkpoints" / f"checkpoint-{step}")
    hypotheses, losses = transcribe(model, processor, *clips, given.batch_seconds, CPU)
    assert rows[step - 1]["dev_wer"] == score(clips[0], hypotheses, losses, given.text)[1]["wer"]


def test_the_best_have_the_lowest_wer_the_earlier_of_two_and_never_one_without() -> None:
    rows = [{"step": step, "dev_wer": wer} for step, wer in ((1, None), (2, 0.5), (3, 0.3), (4, 0.5), (5, 0.4))]
    assert [kept_steps(rows, [1, 2, 3, 4, 5], best) for best in (1, 2, 3, 5)] == [
        [3],
        [3, 5],
        [2, 3, 5],
        [1, 2, 3, 4, 5],
    ]
    assert kept_steps([], [2, 4], None) == [2, 4]


def test_a_checkpoint_that_is_worse_is_dropped_only_when_the_state_of_the_better_one_is_whole(
    tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, work = settings({"clips": 32}, save_steps=1, best=1), tmp_path / "work"
    wers = iter([0.5, 0.4, 0.9, 0.9])
    monkeypatch.setattr(DevEvaluator, "__call__", lambda *_: {"dev_wer": next(wers), "dev_clips": 1, "dev_empty": 0})

    def dying(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr("speechmill.training.checkpoint_callback.seal", lambda work, step: dying() if step == 2 else commit(work, step))
        trained(work, given, clips, letters)
    assert {path.name for path in (work / "checkpoints").iterdir()} == {"checkpoint-1", "checkpoint-2"}
    wers = iter([0.8, 0.9, 0.7])
    assert list(trained(work, given, clips, letters)) == [1]


def test_a_training_that_logs_rarely_logs_the_same_after_a_kill(
    tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings({"clips": 16}, logging_steps=3)
    trained(tmp_path / "undisturbed", given, clips, letters)
    killed_at(monkeypatch, 5, "on_step_end", lambda: trained(tmp_path / "killed", given, clips, letters))
    trained(tmp_path / "killed", given, clips, letters)
    assert [line["step"] for line in losses(tmp_path / "killed")] == [3, 6]
    assert losses(tmp_path / "killed") == losses(tmp_path / "undisturbed")
    ends = [read_log(tmp_path / name)[-1]["train_loss"] for name in ("killed", "undisturbed")]
    assert ends[0] == ends[1]


def test_states_are_saved_every_so_many_minutes_as_well_and_change_nothing(
    tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor
) -> None:
    rare, often = settings({"clips": 32}, init=LIVELY), settings({"clips": 32}, init=LIVELY, resume_minutes=1e-9)
    expected = trained(tmp_path / "rare", rare, clips, letters)
    after = trained(tmp_path / "often", often, clips, letters)
    assert {path.name for path in (tmp_path / "often").glob("checkpoint-*")} == {"checkpoint-3", "checkpoint-4"}
    assert set(after) == set(expected) == {2, 4}
    assert all(torch.equal(after[4][name], tensor) for name, tensor in expected[4].items())


def test_a_loss_that_is_not_finite_stops_with_step_and_clips_and_keeps_the_last_good_state(
    tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What spoils step 3 is noticed only when step 4 is to be saved.
    given, work = settings({"clips": 16}, logging_steps=100), tmp_path / "work"
    calls = itertools.count(1)

    def corrupt_file_error(*args: Any) -> torch.Tensor:
        return clip_losses(*args) * (float("nan") if next(calls) == 3 else 1.0)

    monkeypatch.setattr("speechmill.training.trainer.clip_losses", corrupt_file_error)
    with pytest.raises(
        SpeechmillError, match=r"NaN or infinite at step 3, .*runs\.demo\.finetune\.learning_rate"
    ) as caught:
        trained(work, given, clips, letters)
    batches = list(PlannedBatches(clips_of(pa.Table.from_pylist(clips[0])), given.plan, 8))
    assert ", ".join(clips[0][drawn.clip]["id"] for drawn in batches[2]) in str(caught.value)
    assert newest_resume_state(work) == work / "checkpoint-2"
    assert not (work / "unfinished").exists()


def test_a_gradient_that_is_not_finite_is_noticed_before_the_weights_that_it_spoils_are_saved(
    tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def corrupt_file_error(self: CtcTrainer, model: Any) -> torch.Tensor:
        if self.state.global_step == 3:
            model.lm_head.weight.grad.fill_(float("inf"))
        return torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)

    monkeypatch.setattr(CtcTrainer, "_clip_grad_norm", corrupt_file_error)
    with pytest.raises(SpeechmillError, match="NaN or infinite at step 4"):
        trained(tmp_path / "work", settings({"clips": 32}, logging_steps=100), clips, letters)
    assert newest_resume_state(tmp_path / "work") == tmp_path / "work" / "checkpoint-2"


def test_steps_that_overflow_in_fp16_are_counted_and_stop_nothing(
    tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor
) -> None:
    given = settings({"clips": 32})
    made = materials(given, clips, letters)
    trainer = CtcTrainer(
        model=trainable(given, made),
        args=training_arguments(given.plan, given.finetune, tmp_path, CPU),
        clips=ClipReader(made.clips, made.shards),
        batches=Batches([[0]], 1),  # type: ignore[arg-type]  # all that a Trainer asks of it
        workers=0,
    )
    # A CPU has no fp16 to train in.
    trainer.args.fp16 = True
    for step, norm in enumerate([1.0, float("inf"), float("nan"), 1.0], start=1):
        trainer._get_grad_norm(trainer.model, torch.tensor(norm))
        trainer.state.global_step = step
    trainer.log({"loss": 0.0})
    trainer.state.global_step += 1
    trainer.log({"loss": 0.0})
    assert [line["overflows"] for line in trainer.state.log_history] == [2, 0]


def test_a_model_that_stays_blank_is_called_so_once(
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
    # The first step is the warm-up, and three saves in a row have to be blank.
    assert len(warnings) == 1
    assert warnings[0].startswith("warning: at step 4 the model writes nothing for any clip of dev, for 3 saves")
    assert "runs.demo.finetune.learning_rate" in warnings[0]


def test_a_device_without_memory_is_told_with_what_was_asked_and_what_fits(
    tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    given = settings({"clips": 64})
    monkeypatch.setattr("speechmill.training.trainer.forward", full)
    with pytest.raises(SpeechmillError) as caught:
        trained(tmp_path / "work", given, clips, letters)
    seconds = 64 * max(clip["num_samples"] for clip in clips[0]) / 16000
    assert f"a batch of {seconds:.1f} s" in str(caught.value)
    assert "410 s fit into runs.demo.gpu_memory_gib, 78 GiB" in str(caught.value)
    assert "runs.demo.finetune.gradient_checkpointing to true, with which 2100 s" in str(caught.value)


def test_weights_that_nothing_uses_have_no_gradient_to_wait_for(clips: Stored, letters: Wav2Vec2Processor) -> None:
    still, masked = (settings({"clips": 32}, init=init) for init in (LAYER_NORM, LIVELY))
    assert not trainable(still, materials(still, clips, letters)).base_model.masked_spec_embed.requires_grad
    assert trainable(masked, materials(masked, clips, letters)).base_model.masked_spec_embed.requires_grad


def test_clips_are_changed_by_the_number_of_their_batch_and_heard_as_the_processor_would(
    clips: Stored, letters: Wav2Vec2Processor
) -> None:
    reader, collate = ClipReader(pa.Table.from_pylist(clips[0]), clips[1]), Collator(letters)
    batch = collate([reader[SampledClip(i, 7)] for i in (0, 1, 2)])
    change = augmentation(AugmentConfig(speed=[0.9]), 42, letters)
    assert change is not None
    changed = change(dict(batch))
    assert torch.equal(changed["num_samples"], (batch["num_samples"] * 10 + 8) // 9)
    assert torch.equal(changed["attention_mask"].sum(1), changed["num_samples"])
    assert torch.equal(changed["labels"], batch["labels"])
    real = changed["input_values"][0, : changed["num_samples"][0]]
    torch.testing.assert_close((real.mean(), real.std(correction=0)), (torch.tensor(0.0), torch.tensor(1.0)))
    assert augmentation(AugmentConfig(), 42, letters) is None


def test_a_training_with_changed_clips_is_the_same_after_a_kill(
    tmp_path: Path, clips: Stored, letters: Wav2Vec2Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy = {"speed": [0.9, 1.1], "noise": {"probability": 0.5, "snr_db": [5, 20]}}
    given = settings({"seconds": 14}, augment=noisy)
    expected = trained(tmp_path / "undisturbed", given, clips, letters)
    killed_at(monkeypatch, 3, "on_step_end", lambda: trained(tmp_path / "killed", given, clips, letters))
    after = trained(tmp_path / "killed", given, clips, letters)
    for step, weights in expected.items():
        assert all(torch.equal(after[step][name], tensor) for name, tensor in weights.items())
    plain = trained(tmp_path / "plain", settings({"seconds": 14}), clips, letters)
    assert not torch.equal(plain[2]["lm_head.weight"], expected[2]["lm_head.weight"])


def test_two_processes_are_one_with_twice_the_accumulation(
    tmp_path: Path,
    clips: Stored,
    letters: Wav2Vec2Processor,
    monkeypatch: pytest.MonkeyPatch,
    arguments: dict[str, Any],
) -> None:
    # Six batches, so that of the four of the second step two only fill up.
    one, two = settings({"clips": 24}, accumulation=4), settings({"clips": 24}, accumulation=2, gpus=2)
    expected = trained(tmp_path / "one", one, clips, letters)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "workflow"))
    write_json(read_json(tmp_path / "plan.json") | planned(one, clips), tmp_path / "plan.json")
    run_main(monkeypatch, arguments | slices(two))
    out = tmp_path / "out"
    lines = [line for line in logged(out) if "loss" in line]
    for line, other in zip(lines, losses(tmp_path / "one"), strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert line["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
    for step, weights in expected.items():
        assert_close(load_file(out / "checkpoints" / f"checkpoint-{step}" / "model.safetensors"), weights)
    assert read_json(out / "training.json")["hyper_parameters"]["num_devices"] == 2
    assert states(tmp_path) == []
