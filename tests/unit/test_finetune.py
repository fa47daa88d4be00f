import itertools
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import Wav2Vec2Processor

from material import GROUP_NORM, LAYER_NORM, as_json, recording, store
from speechmill import finetune
from speechmill.batching import all_batches
from speechmill.clip_reader import ClipReader, Collator
from speechmill.command import SpeechmillError
from speechmill.finetune import Settings, check_frames, train
from speechmill.models import load_checkpoint, model_config, new_model
from speechmill.states import newest_state
from speechmill.tables import CLIPS, clips_digest, read_json, write_json, write_table
from speechmill.trainer import CtcTrainer, Recorder, training_arguments

CPU = torch.device("cpu")
Clips = tuple[list[dict[str, Any]], list[Path]]
Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    """Sixty-four clips of 0.3 to 0.9 s, each with two to five letters."""
    drawn = np.random.default_rng(0)
    recordings = [recording(float(drawn.uniform(0.3, 0.9)), seed=i) for i in range(64)]
    texts = ["".join(drawn.choice(list("abcde"), size=drawn.integers(2, 6))) for _ in range(64)]
    return store(tmp_path_factory.mktemp("clips"), recordings, texts)


def settings(
    batch: dict[str, float], accumulation: int = 1, save_steps: int = 2, init: dict[str, Any] = LAYER_NORM, **more: Any
) -> Settings:
    plan = {"epochs": 2, "batch": batch, "gradient_accumulation": accumulation, "save_steps": save_steps}
    tuning = {"learning_rate": 1e-3, "precision": "fp32", "logging_steps": 1, "threads": 1, "warmup_steps": 1} | more
    return Settings.model_validate({"device": "cpu", "plan": plan, "model": {"init": init}, "finetune": tuning})


def planned(given: Settings, clips: Clips) -> dict[str, Any]:
    """What `train` reads of the plan."""
    lengths = np.array([clip["num_samples"] for clip in clips[0]])
    batches = len(list(all_batches(lengths, given.plan.batch, given.plan.seed, given.plan.epochs)))
    steps = -(-batches // given.plan.gradient_accumulation)
    return {
        "batches": batches,
        "total_steps": steps,
        "epochs": given.plan.epochs,
        "checkpoints": [*range(given.plan.save_steps, steps, given.plan.save_steps), steps],
    }


def trained(
    work: Path, given: Settings, clips: Clips, letters: Wav2Vec2Processor, base: Path | None = None
) -> dict[int, Weights]:
    """Train, or go on training, in `work`: the weights that were kept, by step."""
    work.mkdir(parents=True, exist_ok=True)
    train("demo", given, *clips, letters, base, planned(given, clips), work, work.parent / "board", CPU)
    return {
        int(folder.name.removeprefix("checkpoint-")): load_file(folder / "model.safetensors")
        for folder in (work / "checkpoints").iterdir()
    }


def logged(work: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (work / "training.jsonl").read_text().splitlines()]


def losses(work: Path) -> list[dict[str, Any]]:
    """The lines of the log that have a loss, without the speed, which is another each time."""
    return [
        {key: value for key, value in line.items() if key != "audio_seconds_per_second"}
        for line in logged(work)
        if "loss" in line
    ]


def assert_close(one: Weights, other: Weights) -> None:
    torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5)


def test_four_batches_of_8_are_one_batch_of_32(tmp_path: Path, clips: Clips, letters: Wav2Vec2Processor) -> None:
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


def steps_of(
    batches: list[list[int]], accumulation: int, work: Path, clips: Clips, letters: Wav2Vec2Processor
) -> tuple[list[dict[str, float]], Weights]:
    """What is logged, and the weights, when exactly these batches are trained on."""
    given = settings({"clips": 1}, accumulation)
    torch.manual_seed(0)
    vocab = letters.tokenizer.get_vocab()
    model = new_model(model_config(LAYER_NORM, None, {}, len(vocab)), None, vocab)
    trainer = CtcTrainer(
        model=model,
        args=training_arguments(given.plan, given.finetune, work, CPU),
        clips=ClipReader(*clips),
        data_collator=Collator(letters),
        batches=batches,  # type: ignore[arg-type]
        workers=0,
    )
    trainer.train()
    return [line for line in trainer.state.log_history if "loss" in line], model.state_dict()


def test_unequal_batches_count_each_clip_once(tmp_path: Path, clips: Clips, letters: Wav2Vec2Processor) -> None:
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
    tmp_path: Path, clips: Clips, letters: Wav2Vec2Processor
) -> None:
    log, weights = steps_of([[0, 1, 2, 3], [4, 5]], 1, tmp_path / "joined", clips, letters)
    log_parts, weights_parts = steps_of([[0, 1], [2, 3], [4, 5]], 2, tmp_path / "parts", clips, letters)
    assert [line["loss"] for line in log] == pytest.approx([line["loss"] for line in log_parts], rel=1e-4)
    assert_close(weights, weights_parts)


def test_the_logged_loss_is_that_of_the_model(tmp_path: Path, clips: Clips, letters: Wav2Vec2Processor) -> None:
    log, _ = steps_of([[0, 1, 2]], 1, tmp_path, clips, letters)
    torch.manual_seed(0)
    vocab = letters.tokenizer.get_vocab()
    model = new_model(model_config(LAYER_NORM, None, {}, len(vocab)), None, vocab).eval()
    reader = ClipReader(*clips)
    batch = Collator(letters)([reader[i] for i in (0, 1, 2)])
    batch.pop("num_samples")
    with torch.no_grad():
        theirs = model(**batch).loss  # transformers' own: the mean over clips of the loss a label
    assert log[0]["loss"] == pytest.approx(theirs.item(), rel=1e-4)


class KilledError(Exception):
    """What stands for a kill."""


# With all that draws lots, so that its state has to come back too: dropout, layers left out, masks.
LIVELY = LAYER_NORM | {
    "hidden_dropout": 0.1,
    "layerdrop": 0.3,
    "apply_spec_augment": True,
    "mask_time_prob": 0.3,
    "mask_time_length": 2,
}


def killed_at(monkeypatch: pytest.MonkeyPatch, step: int, event: str, train_it: Callable[[], Any]) -> None:
    """Run `train_it` until it is killed at the beginning of `event` of `step`."""
    original = getattr(Recorder, event)

    def dying(self: Recorder, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if state.global_step == step:
            raise KilledError
        return original(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(Recorder, event, dying)
        train_it()


def lively(accumulation: int) -> Settings:
    """Three steps an epoch, in two epochs."""
    return settings({"seconds": 14 / accumulation}, accumulation, init=LIVELY)


@pytest.fixture(scope="module", params=[1, 2], ids=["", "accumulated"])
def undisturbed(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    clips: Clips,
    letters: Wav2Vec2Processor,
) -> tuple[Settings, Path, dict[int, Weights]]:
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
    clips: Clips,
    letters: Wav2Vec2Processor,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: tuple[Settings, Path, dict[int, Weights]],
    step: int,
    event: str,
    resumed: int | None,
) -> None:
    given, undisturbed_work, expected = undisturbed
    work = tmp_path / "killed"
    killed_at(monkeypatch, step, event, lambda: trained(work, given, clips, letters))
    assert newest_state(work) == (resumed and work / f"checkpoint-{resumed}")
    after = trained(work, given, clips, letters)
    assert set(after) == set(expected) >= {2, 4, 6}
    for each, weights in expected.items():
        for name, tensor in weights.items():
            assert torch.equal(after[each][name], tensor), f"step {each}: {name}"
    assert losses(work) == losses(undisturbed_work)


def test_a_training_that_was_killed_at_its_very_end_has_nothing_left_to_do(
    tmp_path: Path, clips: Clips, letters: Wav2Vec2Processor
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
    tmp_path: Path, clips: Clips, letters: Wav2Vec2Processor
) -> None:
    trained(tmp_path / "work", settings({"clips": 8}, logging_steps=4, save_steps=100), clips, letters)
    lines = losses(tmp_path / "work")
    assert [(line["step"], line["epoch"]) for line in lines] == [(4, 0.5), (8, 1.0), (12, 1.5), (16, 2.0)]
    assert all(line["audio_seconds_per_second"] > 0 for line in logged(tmp_path / "work") if "loss" in line)


def test_states_are_used_only_when_they_are_complete(tmp_path: Path) -> None:
    for step, complete in ((2, True), (10, True), (12, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if complete:
            (tmp_path / f"checkpoint-{step}" / "complete").touch()
    (tmp_path / "checkpoints").mkdir()
    lines = [{"step": step, "loss": 1.0} for step in (2, 10, 11, 12)]
    (tmp_path / "training.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert newest_state(tmp_path) == tmp_path / "checkpoint-10"
    assert [line["step"] for line in logged(tmp_path)] == [2, 10]


def test_a_line_of_the_log_that_a_kill_cut_short_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "complete").touch()
    (tmp_path / "training.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "lo')
    assert newest_state(tmp_path) == tmp_path / "checkpoint-2"
    assert [line["step"] for line in logged(tmp_path)] == [1, 2]


def test_a_checkpoint_loads_in_plain_transformers(tmp_path: Path, clips: Clips, letters: Wav2Vec2Processor) -> None:
    weights = trained(tmp_path / "work", settings({"clips": 32}), clips, letters)
    for step, expected in weights.items():
        model, processor = load_checkpoint(tmp_path / "work" / "checkpoints" / f"checkpoint-{step}")
        assert torch.equal(model.state_dict()["lm_head.weight"], expected["lm_head.weight"])
        assert processor.tokenizer.get_vocab() == letters.tokenizer.get_vocab()
        assert model.lm_head.out_features == len(processor.tokenizer)


def test_clips_that_are_too_short_for_their_text_are_named(clips: Clips, letters: Wav2Vec2Processor) -> None:
    vocab = letters.tokenizer.get_vocab()
    model = new_model(model_config(LAYER_NORM, None, {}, len(vocab)), None, vocab)
    # 400 samples are one frame, 720 two, 1040 three: a stride of 320.
    three = [{"id": name, "num_samples": samples} for name, samples in (("a", 1040), ("b", 1040), ("c", 720))]
    check_frames(model, three, [[3, 4, 5], [3, 3], [3, 4]], "demo")
    with pytest.raises(SpeechmillError) as caught:
        check_frames(model, three, [[3, 4, 5], [3, 3, 4], [3, 4, 5]], "demo")
    message = str(caught.value)
    assert "2 training clips are too short for their text" in message
    assert "the first is b;" in message
    assert "runs.demo.clips.frame_seconds" in message


@pytest.fixture
def base(tmp_path: Path, letters: Wav2Vec2Processor) -> Path:
    """A base model with the vocabulary of `letters`."""
    vocab = letters.tokenizer.get_vocab()
    torch.manual_seed(5)
    new_model(model_config(LAYER_NORM, None, {}, len(vocab)), None, vocab).save_pretrained(tmp_path / "base")
    letters.save_pretrained(tmp_path / "base")
    write_json({"commit": "c0ffee"}, tmp_path / "base.json")
    return tmp_path / "base"


def with_base(given: Settings, base: Path) -> Settings:
    return Settings.model_validate(given.model_dump() | {"model": {"base": str(base)}})


CONVOLUTION, ATTENTION = (
    "wav2vec2.feature_extractor.conv_layers.0.conv.weight",
    "wav2vec2.encoder.layers.0.attention.k_proj.weight",
)


@pytest.mark.parametrize(("asked", "frozen"), [(None, True), (True, True), (False, False)])
def test_the_convolutions_of_a_base_stay_unless_said_otherwise(
    tmp_path: Path, clips: Clips, letters: Wav2Vec2Processor, base: Path, asked: bool | None, frozen: bool
) -> None:
    given = with_base(settings({"clips": 64}, freeze_feature_encoder=asked), base)
    weights = trained(tmp_path / "work", given, clips, letters, base)[2]
    before = load_file(base / "model.safetensors")
    assert torch.equal(weights[CONVOLUTION], before[CONVOLUTION]) is frozen
    assert not torch.equal(weights[ATTENTION], before[ATTENTION])


@pytest.mark.parametrize(("asked", "frozen"), [(None, False), (True, True)])
def test_the_convolutions_of_new_weights_learn_unless_said_otherwise(
    tmp_path: Path, clips: Clips, letters: Wav2Vec2Processor, asked: bool | None, frozen: bool
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


@pytest.fixture
def arguments(tmp_path: Path, clips: Clips, letters: Wav2Vec2Processor) -> dict[str, Any]:
    """What the program is given, and has to write."""
    given = settings({"clips": 32})
    letters.save_pretrained(tmp_path / "vocab")
    write_table(clips[0], CLIPS, tmp_path / "train.parquet")
    (tmp_path / "train.sha256").write_text(clips_digest(clips[0]))
    write_json(
        {"run": "demo", "clips_per_batch": 32.0, "parameters": 1} | planned(given, clips), tmp_path / "plan.json"
    )
    return {
        "--run": ["demo"], "--settings": [as_json(given.model_dump())], "--gpus": [0], "--code": ["abc"],
        "--clips": [tmp_path / "train.parquet"], "--digest": [tmp_path / "train.sha256"], "--shards": clips[1],
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
    assert [line["step"] for line in logged(out) if "loss" in line] == [1, 2, 3, 4]
    assert states(tmp_path) == []


def test_a_program_that_was_killed_goes_on_and_one_with_other_settings_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    killed_at(monkeypatch, 3, "on_step_end", lambda: run_main(monkeypatch, arguments))
    (left,) = states(tmp_path)
    other = arguments | {"--settings": [as_json(settings({"clips": 32}, weight_decay=0.1).model_dump())]}
    run_main(monkeypatch, other)
    assert "going on from" not in capsys.readouterr().err
    run_main(monkeypatch, arguments)
    assert f"going on from {left}/checkpoint-2" in capsys.readouterr().err
    assert [line["step"] for line in logged(tmp_path / "out") if "loss" in line] == [1, 2, 3, 4]


def test_a_base_with_weights_in_the_older_format_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], base: Path
) -> None:
    # facebook/wav2vec2-xls-r-1b has a pytorch_model.bin and no model.safetensors.
    torch.save(load_file(base / "model.safetensors"), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    given = with_base(settings({"clips": 32}), base)
    run_main(
        monkeypatch,
        arguments
        | {"--base": [base], "--base-source": [base.with_suffix(".json")], "--settings": [as_json(given.model_dump())]},
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
