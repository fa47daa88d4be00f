"""Which part of a reference stands against which part of a hypothesis."""

from collections.abc import Callable, Sequence

import jiwer

Pair = tuple[str | None, str | None]
"""A word or character of the reference and the one that stands against it; None where there is none."""


def aligned_words(references: Sequence[str], hypotheses: Sequence[str]) -> list[list[Pair]]:
    """For each reference and its hypothesis all words of both, in order, by jiwer's alignment."""
    return _aligned(jiwer.process_words, references, hypotheses)


def aligned_characters(references: Sequence[str], hypotheses: Sequence[str]) -> list[list[Pair]]:
    """For each reference and its hypothesis all characters of both, in order, by jiwer's alignment."""
    return _aligned(jiwer.process_characters, references, hypotheses)


def _aligned(
    process: Callable[[list[str], list[str]], jiwer.WordOutput | jiwer.CharacterOutput],
    references: Sequence[str],
    hypotheses: Sequence[str],
) -> list[list[Pair]]:
    if not references:
        return []
    found = process(list(references), list(hypotheses))
    return [
        [pair for chunk in chunks for pair in _pairs(chunk, reference, hypothesis)]
        for chunks, reference, hypothesis in zip(found.alignments, found.references, found.hypotheses, strict=True)
    ]


def _pairs(chunk: jiwer.AlignmentChunk, reference: Sequence[str], hypothesis: Sequence[str]) -> list[Pair]:
    wanted = reference[chunk.ref_start_idx : chunk.ref_end_idx]
    got = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
    if chunk.type == "delete":
        return [(word, None) for word in wanted]
    if chunk.type == "insert":
        return [(None, word) for word in got]
    return list(zip(wanted, got, strict=True))
