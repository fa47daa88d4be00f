import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2Processor

from material import LAYER_NORM, recording, store
from speechmill.config.text import TextConfig
from speechmill.inference.evaluate import score
from speechmill.inference.log_probs import transcribe
from speechmill.model.labels import written_special_tokens
from speechmill.model.models import model_config, new_model
from speechmill.training.dev_evaluator import DevEvaluator, spread_over_lengths

CPU = torch.device("cpu")
Clips = tuple[list[dict[str, Any]], list[Path]]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    recordings = [recording(0.3 + 0.1 * i, seed=i) for i in range(6)]
    return store(tmp_path_factory.mktemp("dev"), recordings, ["ab", "a b", "cd", "e", "abc de", "a"])


@pytest.fixture
def model(letters: Wav2Vec2Processor) -> Any:
    vocab = letters.tokenizer.get_vocab()
    torch.manual_seed(3)
    model = new_model(model_config(LAYER_NORM | {"hidden_dropout": 0.5}, None, {}, len(vocab)), None, vocab)
    torch.nn.init.normal_(model.lm_head.weight)
    return model.train()


def test_scores_equal_those_of_the_evaluate_stage(clips: Clips, letters: Wav2Vec2Processor, model: Any) -> None:
    found = DevEvaluator(*clips, letters, TextConfig(), 10)(model, CPU)
    outputs = transcribe(model.eval(), letters, *clips, 10, CPU)
    special_tokens = written_special_tokens(letters)
    expected = score(clips[0], *outputs, TextConfig(), special_tokens=special_tokens)[1]
    rates = {f"dev_{name}": expected[name] for name in ("wer", "cer", "loss")}
    assert found == {**rates, "dev_clips": 6, "dev_empty": 0}
    assert found["dev_wer"] > 0


def test_evaluation_leaves_mode_and_random_states(clips: Clips, letters: Wav2Vec2Processor, model: Any) -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    DevEvaluator(*clips, letters, TextConfig(), 10)(model, CPU)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])


def test_empty_hypotheses_are_counted(clips: Clips, letters: Wav2Vec2Processor, model: Any) -> None:
    with torch.no_grad():
        model.lm_head.bias[0] = 1000.0
    found = DevEvaluator(*clips, letters, TextConfig(), 10)(model, CPU)
    assert (found["dev_wer"], found["dev_cer"], found["dev_clips"], found["dev_empty"]) == (1.0, 1.0, 6, 6)


def test_dev_clips_are_spread_over_lengths() -> None:
    clips = [{"id": i, "num_samples": n} for i, n in enumerate([50, 10, 40, 20, 30])]
    assert [clip["num_samples"] for clip in spread_over_lengths(clips, 3)] == [10, 30, 50]
    assert [clip["num_samples"] for clip in spread_over_lengths(clips, 9)] == [10, 20, 30, 40, 50]
    assert spread_over_lengths(clips, 0) == []
    assert spread_over_lengths([], 3) == []
