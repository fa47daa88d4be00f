"""Scoring protocols: how references and hypotheses are normalised before they are compared."""

import re
from collections.abc import Sequence

from speechmill.config.evaluation import Protocol
from speechmill.config.text import TextConfig
from speechmill.text.normaliser import Normaliser, compose

# Source: `eval.py` of the Robust Speech Event, which produced the scores in the reference cards. These characters are
# deleted from references,
_IGNORED = re.compile('[,?.!\\-\\;\\:"“%‘”�—’…–]')

# then each of these sequences is replaced by one space, in this order.
_TO_SPACES = ("\n\n", "\n", "   ", "  ")


def apply_protocol(
    protocol: Protocol,
    clips: Sequence[tuple[str, str]],
    hypotheses: Sequence[str],
    text: TextConfig,
    special_tokens: Sequence[str] = (),
) -> tuple[list[str], list[str]]:
    """Return the references and the hypotheses normalised as `protocol` requires.

    Each of `clips` is a pair of the published sentence and the text normalised by the run's rules. `special_tokens` are
    the names under which hypotheses can contain special tokens.

    - `plain`: both sides are normalised by the run's rules, and jamo are composed to syllables. A special token in a
      hypothesis, such as `[UNK]`, becomes one character that no reference has, so that it is one wrong character in a
      wrong word; the rules would turn its name into letters.
    - `robust_speech_event`: the published sentence is lowercased and stripped of some punctuation; the hypothesis is
      the model's output with jamo composed. Source: `eval.py` of the Hugging Face Robust Speech Challenge, 2022.
    """
    composed = [compose(hypothesis) for hypothesis in hypotheses]
    if protocol == "robust_speech_event":
        return [event_reference(sentence) for sentence, _ in clips], composed
    normalise = Normaliser(text)
    # Composed again because the run's rules may decompose syllables.
    return [compose(reference) for _, reference in clips], [
        compose(normalise.hypothesis(each, special_tokens)) for each in composed
    ]


def event_reference(sentence: str) -> str:
    """Normalise a reference as the Robust Speech Event did: no stripping, no Unicode normalisation, no rule for ё."""
    reference = _IGNORED.sub("", sentence.lower())
    for spaces in _TO_SPACES:
        reference = " ".join(reference.split(spaces))
    return reference
