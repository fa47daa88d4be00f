"""Languages that are written without spaces between words, where a word error rate says little."""

import re

# ISO 639 codes, of two and of three letters. Sources: Unicode Standard Annex #29, section 4, names Thai, Lao, Khmer,
# Myanmar and ideographic scripts as not using spaces between words; FLEURS and Whisper score the same languages by
# characters. Tibetan marks syllables, not words.
_LANGUAGES = {
    *("zh", "zho", "chi", "cmn", "yue", "wuu", "gan", "hsn", "hak", "nan", "cjy", "cdo", "lzh"),  # Chinese
    *("ja", "jpn", "th", "tha", "nod", "tts", "lo", "lao", "km", "khm", "my", "mya", "bur", "shn", "mnw"),
    *("bo", "bod", "tib", "dz", "dzo"),
}
# The scripts of these languages, ISO 15924.
_SCRIPTS = {
    *("hani", "hans", "hant", "jpan", "hira", "kana", "hrkt", "thai", "lana", "laoo", "khmr", "mymr", "tibt"),
}
_SCRIPT = re.compile(r"[a-z]{4}")


def separates_words(language: str) -> bool:
    """Return whether a language is written with spaces between words, given its code, such as `ru` or `zh-Hant-TW`.

    If the code has a script, as `zh-Latn` has, the script decides.
    """
    code, *subtags = language.lower().replace("_", "-").split("-")
    script = next((subtag for subtag in subtags if _SCRIPT.fullmatch(subtag)), None)
    return code not in _LANGUAGES if script is None else script not in _SCRIPTS
