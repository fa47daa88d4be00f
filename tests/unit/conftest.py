"""Fixtures of tests that need a model."""

import gc
import sys
from pathlib import Path

import pytest
import torch
from transformers import Wav2Vec2Processor

from material import GROUP_NORM, LAYER_NORM
from speechmill.model.models import model_config, new_model
from speechmill.text.vocab import VocabSettings, processor, vocabulary

# The client of Mozilla Data Collective does not support earlier versions of Python, and flashlight-text has no packages
# for later ones; collective.py and decoders.py report this to the user.
collect_ignore = ["test_collective.py"] if sys.version_info < (3, 11, 4) else []
if sys.version_info >= (3, 13):
    collect_ignore += ["test_decoders.py", "test_lm.py", "test_lm_weights.py", "test_same_hypotheses.py"]


@pytest.fixture(autouse=True, scope="session")
def _single_thread() -> None:
    # The models are too small for several threads, and sums depend on the number of threads.
    torch.set_num_threads(1)
    # Every training runs the garbage collector, which would traverse all objects of the imported modules.
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def letters() -> Wav2Vec2Processor:
    """A processor with the letters a to e, for a model with an attention mask."""
    return processor(
        vocabulary(["abcde"]), VocabSettings(init={"model_type": "wav2vec2", "feat_extract_norm": "layer"}), base=None
    )


@pytest.fixture(scope="session", params=["layer", "group"])
def checkpoints(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of step 0: random weights, with layer norm or group norm."""
    init = {"layer": LAYER_NORM, "group": GROUP_NORM}[request.param]
    new_processor = processor(vocabulary(["abcde"]), VocabSettings(init=init), base=None)
    vocab = new_processor.tokenizer.get_vocab()
    torch.manual_seed(1)
    model = new_model(model_config(init, None, {}, len(vocab)), None, vocab)
    # With the default initialisation, the outputs would be the same for every clip.
    torch.nn.init.normal_(model.lm_head.weight)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder / "checkpoint-0")
    new_processor.save_pretrained(folder / "checkpoint-0")
    return folder
