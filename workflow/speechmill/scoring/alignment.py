"""Alignment of references with hypotheses."""

from collections.abc import Callable, Sequence

import jiwer

Pair = tuple[str | None, str | None]
"""An aligned word or character of the reference and of the hypothesis; None on the side that lacks one."""


def align_words(references: Sequence[str], hypotheses: Sequence[str]) -> list[list[Pair]]:
    """Return the aligned words of each reference and its hypothesis, in order, as jiwer aligns them."""
    return _align(jiwer.process_words, references, hypotheses)


def align_characters(references: Sequence[str], hypotheses: Sequence[str]) -> list[list[Pair]]:
    """Return the aligned characters of each reference and its hypothesis, in order, as jiwer aligns them."""
    return _align(jiwer.process_characters, references, hypotheses)


def _align(
    process: Callable[[list[str], list[str]], jiwer.WordOutput | jiwer.CharacterOutput],
    references: Sequence[str],
    hypotheses: Sequence[str],
) -> list[list[Pair]]:
    if not references:
        return []
    output = process(list(references), list(hypotheses))
    return [
        [pair for chunk in chunks for pair in _pairs(chunk, reference, hypothesis)]
        for chunks, reference, hypothesis in zip(output.alignments, output.references, output.hypotheses, strict=True)
    ]


def _pairs(chunk: jiwer.AlignmentChunk, reference: Sequence[str], hypothesis: Sequence[str]) -> list[Pair]:
    expected = reference[chunk.ref_start_idx : chunk.ref_end_idx]
    actual = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
    if chunk.type == "delete":
        return [(word, None) for word in expected]
    if chunk.type == "insert":
        return [(None, word) for word in actual]
    return list(zip(expected, actual, strict=True))
