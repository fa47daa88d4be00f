"""What is removed from the files of a model folder, so that the folder may be published.

From the files about any corpus: example sentences, and speaker ids. From those about a corpus whose sentences must not
be redistributed (`redistribute: false`), in addition: clip ids, which may be paths that name a speaker, and words, also
those that the model outputs for its clips, which are mostly the words that were spoken. Its clips are numbered in the
order of their set, so that whoever has the recordings can still check every figure.

Characters are kept, and the values of gender, age and accent, which the card shows by error rate.
"""

from collections.abc import Collection, Sequence
from typing import Any

# `marks_dropped` has a sentence for each combining mark that the text rules deleted.
_EXAMPLES = {"example", "examples", "marks_dropped"}


def anonymised(name: str, content: Any, restricted: Collection[str]) -> Any:
    """Return the content of a JSON file of the evidence without what must not be published.

    Args:
        name: The name of the file in the evidence folder.
        content: Its content.
        restricted: The datasets whose sentences must not be redistributed.
    """
    content = _without_examples(content)
    if name == "breakdown.json":
        return content | {"sets": {each: _breakdown(each, of, restricted) for each, of in content["sets"].items()}}
    if name == "usage.json":
        return [
            row | {"clip": "1", "printed": None} if is_restricted(row["set"], restricted) else row for row in content
        ]
    return content


def is_restricted(set_name: str, restricted: Collection[str]) -> bool:
    """Return whether a set, or a perturbed copy of one, belongs to one of the datasets `restricted`."""
    return set_name.split("-")[0] in restricted


def clip_names(ids: Sequence[str], restricted: bool) -> list[str]:
    """Return the names in the evidence of the clips of a set with these ids, in order: their ids, or numbers from 1."""
    return [str(number) for number in range(1, len(ids) + 1)] if restricted else list(ids)


def _without_examples(content: Any) -> Any:
    """Return JSON without the keys whose values are sentences or clips, at any depth."""
    if isinstance(content, dict):
        return {key: _without_examples(each) for key, each in content.items() if key not in _EXAMPLES}
    return [_without_examples(each) for each in content] if isinstance(content, list) else content


def _breakdown(set_name: str, decoders: dict[str, Any], restricted: Collection[str]) -> dict[str, Any]:
    """Return the scores of a set by decoder with numbers in place of speaker ids, and without words if restricted."""
    anonymous = {}
    for decoder, scores in decoders.items():
        groups, confusions = scores["groups"], scores["confusions"]
        speakers = [
            row if row["value"] is None else row | {"value": str(number)}
            for number, row in enumerate(groups["speaker"], start=1)
        ]
        if is_restricted(set_name, restricted):
            confusions = confusions | {"words": {kind: [] for kind in confusions["words"]}}
        anonymous[decoder] = scores | {"groups": groups | {"speaker": speakers}, "confusions": confusions}
    return anonymous
