"""What a transcription returns."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Word:
    """A word of a transcript; in a language that is written without spaces between words, a character.

    Attributes:
        text: The word.
        start: When it begins, in seconds from the start of the recording.
        end: When it ends, in seconds; not before `start`, and not after the start of the next word.
        confidence: From 0 to 1: how probable it is that the word is right, if the transcript is `calibrated`; otherwise
            the mean probability that the model gives the tokens of the word, which is not the same, see `WordSpan`.
    """

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True)
class Transcript:
    """The transcript of a recording.

    Attributes:
        text: The text, which has the words in their order; empty if the recording contains no speech.
        words: The words, in the order of time.
        seconds: The length of the recording.
        missing_seconds: What the file lacks of the length that its header states.
        calibrated: Whether the confidence of the words was calibrated on dev, as `confidence.json` of the model says.
    """

    text: str
    words: list[Word]
    seconds: float
    missing_seconds: float = 0.0
    calibrated: bool = False
