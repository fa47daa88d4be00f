"""Fixtures of the tests that need a model."""

import gc
import sys
from pathlib import Path

import pytest
import torch
from transformers import Wav2Vec2Processor

from material import GROUP_NORM, LAYER_NORM
from speechmill.model.models import model_config, new_model
from speechmill.text.vocab import VocabSettings, processor, vocabulary

# The package that asks Mozilla Data Collective refuses earlier Pythons, where collective.py says so; flashlight-text is
# not there for later ones, where decoders.py says so.
collect_ignore = ["test_collective.py"] if sys.version_info < (3, 11, 4) else []
if sys.version_info >= (3, 13):
    collect_ignore += ["test_decoders.py", "test_lm.py", "test_lm_weights.py"]


@pytest.fixture(autouse=True, scope="session")
def _swift() -> None:
    # The models here are too small to be shared out, and sums depend on the number of threads.
    torch.set_num_threads(1)
    # Each training collects garbage, and would look through all that the imports have made.
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def letters() -> Wav2Vec2Processor:
    """A processor of the letters a to e, for a model that takes a mask."""
    return processor(vocabulary(["abcde"]), VocabSettings(init={"feat_extract_norm": "layer"}), base=None)


@pytest.fixture(scope="session", params=["layer", "group"])
def checkpoints(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of step 0: random weights, with a norm by layer or by group."""
    init = {"layer": LAYER_NORM, "group": GROUP_NORM}[request.param]
    made = processor(vocabulary(["abcde"]), VocabSettings(init=init), base=None)
    vocab = made.tokenizer.get_vocab()
    torch.manual_seed(1)
    model = new_model(model_config(init, None, {}, len(vocab)), None, vocab)
    # Random weights hear the same in every clip; these listen to what comes.
    torch.nn.init.normal_(model.lm_head.weight)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder / "checkpoint-0")
    made.save_pretrained(folder / "checkpoint-0")
    return folder
