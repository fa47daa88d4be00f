"""Languages that are written without spaces between words, where a word error rate says little."""

# ISO 639 codes, of two and of three letters. Sources: Unicode Standard Annex #29, section 4, names Thai, Lao, Khmer,
# Myanmar and ideographic scripts as not using spaces between words; FLEURS and Whisper score the same languages by
# characters. Tibetan marks syllables, not words.
_LANGUAGES = {
    *("zh", "zho", "chi", "cmn", "yue", "wuu", "gan", "hsn", "hak", "nan", "cjy", "cdo", "lzh"),  # Chinese
    *("ja", "jpn", "th", "tha", "nod", "tts", "lo", "lao", "km", "khm", "my", "mya", "bur", "shn", "mnw"),
    *("bo", "bod", "tib", "dz", "dzo"),
}


def separates_words(code: str) -> bool:
    """Return whether a language is written with spaces between words, given its code in ISO 639, such as `ru`."""
    return code not in _LANGUAGES
