"""Vocabularies of subwords, which the library sentencepiece finds in the training text.

The space is a token of its own, as in vocabularies of characters, and no subword contains it. So beam search with a
language model, forced alignment and the tokenizer of transformers, Wav2Vec2CTCTokenizer, work as with characters. They
all write a text with the longest subword at each position, from left to right, whichever `model_type` found the
subwords. Every single character of the training text is a token too.
"""

import io
import re
from collections.abc import Iterable

from speechmill.config.vocab import SentencePieceConfig
from speechmill.core.command import SpeechmillError
from speechmill.text.tokens import PAD, SPACE, UNKNOWN, WORD_START


def subword_vocabulary(texts: Iterable[str], settings: SentencePieceConfig) -> dict[str, int]:
    """Return the ids of PAD, UNKNOWN and SPACE, from 0, followed by those of the subwords of `texts`.

    The same texts in the same order always have the same subwords.

    Raises:
        SpeechmillError: The texts have fewer subwords than `settings.size`, or more characters.
    """
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            # sentencepiece reads a space and this character as the same.
            sentence_iterator=(text.replace(WORD_START, " ") for text in texts),
            model_writer=model,
            vocab_size=settings.size,
            model_type=settings.model_type,
            # The texts are normalised already, and all of their characters are needed.
            normalization_rule_name="identity",
            character_coverage=1.0,
            add_dummy_prefix=False,
            # Several threads may find other subwords.
            num_threads=1,
            pad_id=0,
            unk_id=1,
            bos_id=-1,
            eos_id=-1,
            pad_piece=PAD,
            unk_piece=UNKNOWN,
            # A symbol of its own is part of no other.
            user_defined_symbols=[WORD_START],
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _size_error(str(error), settings.size) from error
    found = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [found.id_to_piece(i) for i in range(len(found))]
    return {SPACE if piece == WORD_START else piece: i for i, piece in enumerate(pieces)}


def _size_error(message: str, size: int) -> SpeechmillError:
    if largest := re.search(r"set it to a value <= (\d+)", message):
        problem = f"the training text has too few subwords for it; the largest possible size is {largest[1]}"
    elif smallest := re.search(rf"smaller than required_chars\. {size} vs (\d+)", message):
        problem = f"the training text has more characters; the smallest possible size is {smallest[1]}"
    else:
        problem = f"sentencepiece found no subwords: {message}"
    return SpeechmillError(f"vocab.sentencepiece.size is {size}: {problem}")
