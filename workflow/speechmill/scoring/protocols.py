"""Scoring protocols: which texts are compared."""

import re
from collections.abc import Sequence

from speechmill.config.evaluation import Protocol
from speechmill.config.text import TextConfig
from speechmill.text.normaliser import Normaliser, compose

# Source: `eval.py` of the Robust Speech Event, as the reference cards used it: these are deleted from references,
_IGNORED = re.compile('[,?.!\\-\\;\\:"“%‘”�—’…–]')

# and then these, in this order, become one space.
_TO_SPACES = ("\n\n", "\n", "   ", "  ")


def scored_texts(
    protocol: Protocol, clips: Sequence[tuple[str, str]], hypotheses: Sequence[str], text: TextConfig
) -> tuple[list[str], list[str]]:
    """The references and the hypotheses as `protocol` compares them.

    Each of `clips` is a (sentence as published, text after the run's normalisation).

    - `plain`: reference and hypothesis both go through the run's normalisation, and jamo are composed to syllables.
    - `robust_speech_event`: the published sentence in lower case, without some signs, and the hypothesis as the model
      gives it, with jamo composed. Source: `eval.py` of the Hugging Face Robust Speech Challenge, 2022.
    """
    composed = [compose(hypothesis) for hypothesis in hypotheses]
    if protocol == "robust_speech_event":
        return [event_reference(sentence) for sentence, _ in clips], composed
    normalise = Normaliser(text)
    # Composed again: the rules may take syllables apart, and references are not.
    return [compose(reference) for _, reference in clips], [compose(normalise(each)) for each in composed]


def event_reference(sentence: str) -> str:
    """A reference of the Robust Speech Event: no stripping, no Unicode normal form, no rule for ё."""
    reference = _IGNORED.sub("", sentence.lower())
    for spaces in _TO_SPACES:
        reference = " ".join(reference.split(spaces))
    return reference
