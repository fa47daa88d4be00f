"""The languages of MMS (`facebook/mms-1b-all`), each of which has an adapter and an output layer in it.

Source: https://huggingface.co/spaces/mms-meta/MMS/raw/main/data/asr/all_langs.tsv, without the dialects of a language,
among which only a speaker can choose.
"""

from pathlib import Path

from speechmill.core.languages import languages_of

# Codes of a macrolanguage's usual member, where ISO 639 alone leaves several.
_USUAL = ("cmn-script_simplified", "nob", "swh", "npi", "ory", "zlm", "azj-script_latin", "ful", "aka", "ara")

_LANGUAGES = Path(__file__).with_name("mms_languages.txt").read_text(encoding="utf-8").split()


def mms_language(language: str, script: str) -> str | None:
    """Return the code by which MMS has a language in a script, or None if it lacks it.

    Args:
        language: A code of ISO 639, such as `tr`.
        script: The script of the texts as the first word of the Unicode names of its letters, such as `LATIN`.
    """
    found = languages_of(language, _LANGUAGES)
    written = [each for each in found if each.endswith(f"-script_{script.lower()}")]
    if written:
        return written[0]
    # Of Chinese, the script has another name.
    found = [each for each in found if "-script_" not in each or script in ("CJK", "ETHIOPIC", "TIFINAGH")]
    return found[0] if len(found) == 1 else next((each for each in found if each in _USUAL), None)
