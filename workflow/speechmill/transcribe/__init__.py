"""Transcripts of recordings, with the times and the confidence of each word, by the model of a run.

All that is needed is the folder of the model, `results/runs/{run}/model`, and recordings:

    from speechmill.transcribe import transcribe

    for word in transcribe("interview.mp3", "results/runs/mine/model").words:
        print(word.start, word.end, word.text, word.confidence)

`python -m speechmill.transcribe` does the same for many files, and writes the formats of `formats`.
"""

from speechmill.transcribe.transcriber import Transcriber, transcribe
from speechmill.transcribe.transcript import Transcript, Word

__all__ = ["Transcriber", "Transcript", "Word", "transcribe"]
