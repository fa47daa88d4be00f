"""The base model of a recipe, and the settings of training that follow from it and from the hours of speech."""

from dataclasses import dataclass
from typing import Any

from speechmill.config.model import ModelConfig
from speechmill.recipe.mms import mms_language

# Below this, adapters of a model that already knows the language learn more than a complete model does.
_MMS_HOURS = 10
_LARGE_HOURS = 100

# Sizes of the files of weights, for `make plan`.
_XLS_R = {"base": "facebook/wav2vec2-xls-r-300m", "revision": "main", "expected_bytes": 1_270_000_000}
_XLS_R_1B = {"base": "facebook/wav2vec2-xls-r-1b", "revision": "main", "expected_bytes": 3_850_000_000}
MMS = {"base": "facebook/mms-1b-all", "revision": "main", "expected_bytes": 3_860_000_000}
"""The keys of `model` for MMS, except for its language."""

_STEPS = 4000
_MIN_EPOCHS, _MAX_EPOCHS = 5, 60

# MMS has no head for other languages; of one with the same letters, the alignment is less accurate.
_SAME_SCRIPT = {"LATIN": "eng", "CYRILLIC": "rus", "ARABIC": "ara", "DEVANAGARI": "hin", "ETHIOPIC": "amh"}


@dataclass(frozen=True)
class Base:
    """The base model of a recipe.

    Attributes:
        model: The section `model`.
        title: Its name, for the card.
        why: Why it is chosen, for a comment.
        learning_rate: The peak learning rate, as in published recipes for it.
        adapters: Whether only adapters and output layer are trained.
        licence: The licence of a model that is made from it.
    """

    model: dict[str, Any]
    title: str
    why: str
    learning_rate: str
    adapters: bool = False
    licence: str = "apache-2.0"


def choose_base(language: str, script: str, hours: float, given: str | None) -> Base:
    """Return the base model for a language and a number of hours with text.

    Args:
        language: A code of ISO 639.
        script: The script of the texts, the first word of the Unicode names of its letters.
        hours: Hours of speech with text.
        given: The Hub id or the folder of a base that the user wants.
    """
    if given is not None:
        return Base(
            _section(given), given.rpartition("/")[2] or given, "The base that was given.", "3.0e-4", licence="other"
        )
    code = mms_language(language, script)
    if code is not None and hours < _MMS_HOURS:
        why = (
            f"MMS was fine-tuned on this language, as {code}, and with less than {_MMS_HOURS} hours, training its"
            " adapters gives the better model. Its licence forbids commercial use; facebook/wav2vec2-xls-r-300m, with"
            " `train_only_adapters: false` and a learning rate of 3.0e-4, has no such terms."
        )
        return Base(MMS | {"target_lang": code}, "MMS 1B", why, "1.0e-3", True, "cc-by-nc-4.0")
    if hours < _LARGE_HOURS:
        why = f"With less than {_LARGE_HOURS} hours, a larger model is slower and hardly better."
        if code is None and hours < _MMS_HOURS:
            why = "MMS lacks this language, and the data are too few for a larger model."
        return Base(_XLS_R, "XLS-R 300M", why, "3.0e-4")
    return Base(_XLS_R_1B, "XLS-R 1B", f"With more than {_LARGE_HOURS} hours, the large model is better.", "5.0e-5")


def _section(given: str) -> dict[str, Any]:
    """Return the section `model` for a Hub id or a folder, which has no revision."""
    model = {"base": given, "revision": "main"}
    return {"base": given} if ModelConfig.model_validate(model).base_is_folder else model


def aligner(language: str, script: str, given: str | None) -> tuple[dict[str, Any], str]:
    """Return the section `model` of a dataset that aligns recordings with their text, and a comment on it."""
    if given is not None:
        return _section(given), "The base that was given; it must write the language."
    code = mms_language(language, script)
    if code is not None:
        return MMS | {"target_lang": code}, "MMS supports this language."
    other = _SAME_SCRIPT.get(script, "eng")
    return MMS | {"target_lang": other}, (
        f"No model is known that writes this language. MMS for {other} is a poor substitute: look at the scores and the"
        " worst pieces in audit.html. After a first round, align again with `model: {run: NAME}`."
    )


def length(hours: float, max_seconds: float) -> dict[str, int]:
    """Return the seconds of a batch, the epochs, the steps between checkpoints, and the steps of the warm-up."""
    seconds = max(100 if hours >= 1 else 40, int(max_seconds))
    per_epoch = max(1, round(hours * 3600 / seconds))
    epochs = min(_MAX_EPOCHS, max(_MIN_EPOCHS, round(_STEPS / per_epoch)))
    steps = epochs * per_epoch
    return {
        "seconds": seconds,
        "epochs": epochs,
        "steps": steps,
        "save_steps": max(10, steps // 8),
        "warmup_steps": max(5, min(500, steps // 10)),
    }
