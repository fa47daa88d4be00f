"""The alignment of a long recording with its transcript, and its division into clips.

The recording is given by the log-probabilities of a CTC model, which can be a memory-mapped file of any length:

1. *Anchors.* Sequences of tokens that occur exactly once in the greedy hypothesis and exactly once in the transcript,
   and in the same order in both, divide the recording into windows. Long sequences are tried first, shorter ones only
   in windows that are still too large. (Moreno et al., A recursive algorithm for the forced alignment of very long
   audio segments, 1998.) A text that repeats itself has no such sequences: there, the anchors are sequences that are
   equal in the alignment with the smallest Levenshtein distance.
2. *Alignment.* In each window, the Viterbi algorithm finds the best path through the CTC states of its words. Between
   any two words the path can leave the text: it can pass over audio at a cost for each token of the greedy hypothesis,
   and over words at a cost for each of their tokens. So memory depends on the largest window only.
3. *Scores.* The score of a frame is the log-probability of its token minus that of the most probable token: 0 where the
   model agrees with the text. The score of a piece is that of its worst part, as in CTC segmentation (Kürzinger et al.,
   CTC-Segmentation of Large Corpora for German End-to-end Speech Recognition, 2020).
4. *Cuts.* The words between two places where text and audio differ are divided at pauses by dynamic programming.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from rapidfuzz.distance import Levenshtein

from speechmill.inference.levels import first_pause

# The lengths of sequences of tokens that are searched for anchors, without word separators.
_ANCHOR_TOKENS = (24, 16, 12, 8)

# An anchor is used at most every so many frames.
_ANCHOR_SPACING = 1500

# Windows with more cells, frames times tokens, are divided if they have anchors.
_LARGE_WINDOW = 1 << 21

# Windows with more cells and without anchors are not aligned: their audio and text do not match.
_LARGEST_WINDOW = 1 << 25

# Costs of leaving the text: once, at the end of a line or elsewhere; for each token of the greedy hypothesis that is
# passed over; for each token of the text.
_LEAVE_LINE, _LEAVE, _EXTRA_TOKEN, _MISSING_TOKEN = 2.0, 14.0, 1.0, 2.5

# Costs of each further frame in a token, and of each frame between two tokens of a word.
_HOLD_TOKEN, _HOLD_BLANK = 0.3, 0.05

# The lowest score of a frame, so that a single frame cannot decide.
_LOWEST = -10.0

# Tokens in the part of a piece that determines its score; a part consists of whole words.
_PART_TOKENS = 8

# Seconds between two tokens from which a cut is possible.
_MIN_PAUSE = 0.24

# The largest distance in seconds of a cut from the first and the last token of a piece. Models emit a token when its
# sound begins, so there is more speech after the last frame of a token than before its first one.
_MARGIN_BEFORE, _MARGIN_AFTER = 0.1, 0.2

# The longest time in seconds from the last token of a piece to the end of its sound, and from there to the cut.
_MAX_TAIL, _MARGIN_QUIET = 0.6, 0.06

# The gain of a word in a piece, compared with that of a second of pause at a cut.
_WORD_GAIN = 10.0

_BLOCK = 1 << 14
"""Frames that are read at a time."""

_BLOCK_CELLS = 1 << 20
"""Scores, frames times tokens, that are in memory at a time."""

_IMPOSSIBLE = -1e30
"""The log-probability of an impossible state."""


class SegmentSettings(BaseModel):
    """The lengths of pieces."""

    min_seconds: float
    max_seconds: float


class Stretch(NamedTuple):
    """A stretch of a recording with the words from `first_word` up to, but not including, `end_word`."""

    start_seconds: float
    end_seconds: float
    first_word: int
    end_word: int
    score: float
    """At most 0: the mean, over the tokens of the worst part, of the log-probability minus that of the greedy path."""
    reason: str = ""
    """Why it is left out, empty for pieces:

    - `pause`: no speech and no text
    - `no_text`: speech without text
    - `no_audio`: text without speech
    - `different`: text and speech that do not match
    - `no_pause`: no pause between it and text or speech that is left out
    - `short`: shorter than `min_seconds`
    - `long`: longer than `max_seconds`, without a pause in the right place
    """


class Segmentation(NamedTuple):
    """A recording with its text: pieces and what is left out, each in order.

    Together they contain every second of the recording and every word of the text exactly once.
    """

    pieces: list[Stretch]
    left_out: list[Stretch]


class _Text(NamedTuple):
    """The words that have tokens."""

    tokens: NDArray[np.int64]
    bounds: NDArray[np.int64]
    """The position of the first token of each word, and the number of tokens; shape (words + 1,)."""
    leave: NDArray[np.float64]
    """The cost of leaving the text before each word and at the end; shape (words + 1,)."""


class _Window(NamedTuple):
    """A range of frames and the range of words that is aligned to it."""

    start: int
    stop: int
    first: int
    end: int


class _Greedy(NamedTuple):
    """The tokens of the greedy hypothesis without blanks and separators, and the first frame of each."""

    tokens: NDArray[np.int64]
    frames: NDArray[np.int64]
    has_token: NDArray[np.bool_]
    """Whether the most probable token of a frame is neither blank nor separator; shape (frames,)."""


class _Path(NamedTuple):
    """What the frames contain; arrays of shape (frames,)."""

    word: NDArray[np.int32]
    """The word of a frame or before it, -1 before the first one."""
    kind: NDArray[np.int8]
    score: NDArray[np.float32]


_OUTSIDE, _TOKEN, _BLANK = 0, 1, 2


class _Moves(NamedTuple):
    """How the best path reaches each state in each frame; if no array says so, from the same state.

    The blank and the state outside the text that have the number of a token or of a word are before it.
    """

    from_blank: NDArray[np.bool_]
    """A token: from the blank before it; shape (frames, tokens)."""
    from_previous: NDArray[np.bool_]
    """A token: from the token before it or from outside; shape (frames, tokens)."""
    from_outside: NDArray[np.bool_]
    """The first token of a word with `from_previous`: from outside; shape (frames, words)."""
    from_token: NDArray[np.bool_]
    """A blank: from the token before it; shape (frames, tokens + 1)."""
    entered: NDArray[np.bool_]
    """Outside: from the text, by its last token or the blank after it; shape (frames, words + 1)."""
    entered_from_token: NDArray[np.bool_]
    """Outside with `entered`: from the token; shape (frames, words + 1)."""
    skipped: NDArray[np.bool_]
    """Outside: from before an earlier word in the same frame; shape (frames, words + 1)."""
    last: tuple[int, int]
    """The kind and the number of the last state."""


class _Words(NamedTuple):
    """The words of the text; arrays of shape (words,), times in frames."""

    aligned: NDArray[np.bool_]
    """Whether the best path contains the word."""
    start: NDArray[np.int64]
    """Where a piece that begins with the word starts."""
    stop: NDArray[np.int64]
    """Where a piece that ends with the word stops."""
    before: NDArray[np.int64]
    """The frames without a token before the word."""
    extra_before: NDArray[np.bool_]
    """Whether there is speech without text before the word, and after the last one; shape (words + 1,)."""
    scores: NDArray[np.float64]
    """The sum over the frames of a word and the pause after it."""
    lengths: NDArray[np.int64]
    """The number of tokens."""


def align(
    log_probs: NDArray[np.float16],
    words: Sequence[Sequence[int]],
    blank: int,
    separator: int | None,
    frame_seconds: float,
    settings: SegmentSettings,
    line_ends: Collection[int] = (),
    levels: NDArray[np.float32] | None = None,
) -> Segmentation:
    """Align a recording with its transcript, and divide both into pieces.

    Args:
        log_probs: Natural logarithms, shape (frames, vocabulary); may be memory-mapped.
        words: The token ids of each word of the transcript, with a separator only where
            one written word is several spoken ones, such as a number. A word without any token, such as a dash,
            belongs to the word before it.
        blank: The id of the CTC blank.
        separator: The id of the token between words, if the vocabulary has one.
        frame_seconds: The time between two frames.
        settings: The lengths of pieces.
        line_ends: Numbers of words, counted from 0, before which the transcript has a line break. Pieces end there
            rather than elsewhere.
        levels: The root mean square of the samples of each frame, on any scale, shape (frames,). With it a piece ends
            where its sound does; otherwise at most 0.2 s after its last token.
    """
    numbers = [i for i, word in enumerate(words) if len(word)]
    breaks = {0, len(numbers), *(bisect_left(numbers, i) for i in line_ends)}
    leave = np.full(len(numbers) + 1, _LEAVE)
    leave[list(breaks)] = _LEAVE_LINE
    text = _Text(
        np.array([token for i in numbers for token in words[i]], dtype=np.int64),
        np.cumsum([0, *(len(words[i]) for i in numbers)]),
        leave,
    )
    greedy = _greedy_tokens(log_probs, blank, separator)
    frames = len(log_probs)
    path = _Path(np.full(frames, -1, np.int32), np.zeros(frames, np.int8), np.zeros(frames, np.float32))
    for window in _windows(_Window(0, frames, 0, len(numbers)), greedy, text):
        _align_window(log_probs, window, text, greedy, blank, separator, path)
    stretches = _stretches(_timed(path, greedy, text, levels, frame_seconds), frame_seconds, settings, breaks)
    return _complete(stretches, numbers, len(words), path, greedy, frame_seconds)


def _greedy_tokens(log_probs: NDArray[np.float16], blank: int, separator: int | None) -> _Greedy:
    """Return the tokens of the greedy hypothesis, read in blocks."""
    best = np.empty(len(log_probs), np.int64)
    for start in range(0, len(best), _BLOCK):
        best[start : start + _BLOCK] = log_probs[start : start + _BLOCK].argmax(1)
    has_token = (best != blank) & (best != (blank if separator is None else separator))
    first = np.flatnonzero(has_token & (np.diff(best, prepend=-1) != 0))
    return _Greedy(best[first], first, has_token)


def _windows(window: _Window, greedy: _Greedy, text: _Text) -> Iterator[_Window]:
    """Yield the parts of `window` between anchors, in order."""
    bounds = text.bounds
    low, high = np.searchsorted(greedy.frames, window[:2])
    first, end = bounds[window.first], bounds[window.end]
    cells = (window.stop - window.start) * (end - first)
    if cells > _LARGE_WINDOW:
        sequences = greedy.tokens[low:high], text.tokens[first:end]
        methods = [(_anchors, size) for size in _ANCHOR_TOKENS]
        if cells > _LARGEST_WINDOW:
            methods.append((_repeated_anchors, _ANCHOR_TOKENS[-1]))
        for find, size in methods:
            pairs = find(*sequences, size) + np.array([[low], [first]])
            cuts = _anchor_cuts(pairs, size, greedy.frames, bounds)
            if cuts:
                edges = [(window.start, window.first), *cuts, (window.stop, window.end)]
                for (a, c), (b, d) in pairwise(edges):
                    yield from _windows(_Window(a, b, c, d), greedy, text)
                return
    yield window


def _repeated_anchors(one: NDArray[np.int64], other: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return what `_anchors` does, for sequences that are equal in the alignment with the smallest distance."""
    blocks = Levenshtein.editops(one.tolist(), other.tolist()).as_matching_blocks()
    pairs = [(block.a + i, block.b + i) for block in blocks for i in range(block.size - size + 1)]
    return np.array(pairs, np.int64).reshape(-1, 2).T


def _anchors(one: NDArray[np.int64], other: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return the positions in both of sequences of `size` tokens that occur once in each; both ascend; shape (2, n)."""
    hashes = []
    for tokens in (one, other):
        count = max(0, len(tokens) - size + 1)
        values = np.zeros(count, np.uint64)
        for i in range(size):
            values = values * np.uint64(0x9E3779B97F4A7C15) + tokens[i : i + count].astype(np.uint64) + np.uint64(1)
        unique, positions, counts = np.unique(values, return_index=True, return_counts=True)
        hashes.append((unique[counts == 1], positions[counts == 1]))
    _, in_one, in_other = np.intersect1d(hashes[0][0], hashes[1][0], assume_unique=True, return_indices=True)
    pairs = np.stack([hashes[0][1][in_one], hashes[1][1][in_other]])
    pairs = pairs[:, pairs[0].argsort()]
    return pairs[:, _longest_ascending(pairs[1].tolist())]


def _longest_ascending(values: list[int]) -> list[int]:
    """Return the positions of a longest ascending subsequence of different values."""
    lowest: list[int] = []
    ends: list[int] = []
    before: list[int] = []
    for i, value in enumerate(values):
        length = bisect_left(lowest, value)
        before.append(ends[length - 1] if length else -1)
        lowest[length : length + 1], ends[length : length + 1] = [value], [i]
    chain = [ends[-1]] if ends else []
    while chain and before[chain[-1]] >= 0:
        chain.append(before[chain[-1]])
    return chain[::-1]


def _anchor_cuts(
    pairs: NDArray[np.int64], size: int, frames: NDArray[np.int64], bounds: NDArray[np.int64]
) -> list[tuple[int, int]]:
    """Return (frame, word) pairs at which a window is divided: where most anchors agree."""
    hypothesis, text = pairs
    # The number of anchors close to each one in both sequences.
    near = [np.searchsorted(each, each + reach) for reach in (-50, 51) for each in pairs]
    support = np.minimum(near[2], near[3]) - np.maximum(near[0], near[1])
    # The middle word boundary within the sequence; it has a token on either side.
    words = np.searchsorted(bounds, text + size // 2)
    inside = np.minimum(bounds[np.minimum(words, len(bounds) - 1)] - text, size)
    usable = np.flatnonzero((inside < size) & (inside > 0) & (support >= size // 2))
    best: dict[int, int] = {}
    for i in usable.tolist():
        bucket = int(frames[hypothesis[i]]) // _ANCHOR_SPACING
        if bucket not in best or support[i] > support[best[bucket]]:
            best[bucket] = i
    cuts: list[tuple[int, int]] = []
    for i in best.values():
        after = hypothesis[i] + inside[i]
        cut = (int(frames[after]), int(words[i]))
        if not cuts or (cut[0] > cuts[-1][0] and cut[1] > cuts[-1][1]):
            cuts.append(cut)
    return cuts


def _align_window(
    log_probs: NDArray[np.float16],
    window: _Window,
    text: _Text,
    greedy: _Greedy,
    blank: int,
    separator: int | None,
    path: _Path,
) -> None:
    """Write the best path through a window to `path`."""
    start, stop, first_word, end_word = window
    bounds = text.bounds[first_word : end_word + 1]
    tokens, bounds = text.tokens[bounds[0] : bounds[-1]], bounds - bounds[0]
    n, num_frames = len(tokens), stop - start
    path.word[start:stop] = first_word - 1
    if not n or not num_frames or n * num_frames > _LARGEST_WINDOW:
        return
    leave = text.leave[first_word : end_word + 1]
    moves = _best_moves(log_probs, window, tokens, bounds, leave, greedy, blank, separator)
    chosen = _follow_back(moves, bounds, window, path)
    block = max(1, _BLOCK_CELLS // n)
    for t in range(0, num_frames, block):
        rows = slice(start + t, min(stop, start + t + block))
        token_scores, blank_scores, gap_scores = _frame_scores(log_probs[rows], tokens, blank, separator)
        scores = np.column_stack([token_scores, gap_scores, blank_scores])
        of_path = scores[np.arange(len(scores)), chosen[t : t + block]]
        path.score[rows] = np.where(path.kind[rows] == _OUTSIDE, 0, of_path)


def _best_moves(
    log_probs: NDArray[np.float16],
    window: _Window,
    tokens: NDArray[np.int64],
    bounds: NDArray[np.int64],
    leave: NDArray[np.float64],
    greedy: _Greedy,
    blank: int,
    separator: int | None,
) -> _Moves:
    """Return how the best path reaches each state of a window, by the Viterbi algorithm.

    The states are those of CTC, one for each token and one for the blank before it and at the end (which may be a
    separator at the bounds of words), and one before each word and at the end for audio without text.
    """
    start, stop = window.start, window.stop
    n, num_frames = len(tokens), stop - start
    firsts, lasts = bounds[:-1], bounds - 1
    # A token that follows an equal one needs a blank between them.
    repeated = np.flatnonzero(tokens[1:] == tokens[:-1]) + 1
    missing = bounds * _MISSING_TOKEN
    begins = np.zeros(num_frames, bool)
    low, high = np.searchsorted(greedy.frames, (start, stop))
    begins[greedy.frames[low:high] - start] = True
    may_leave = begins | ~greedy.has_token[start:stop]
    may_leave[0] = True

    from_blank, from_previous = (np.zeros((num_frames, n), bool) for _ in range(2))
    from_token = np.zeros((num_frames, n + 1), bool)
    from_outside = np.zeros((num_frames, len(firsts)), bool)
    entered, entered_from_token, skipped = (np.zeros((num_frames, len(bounds)), bool) for _ in range(3))

    token_state, outside = np.full(n + 1, _IMPOSSIBLE), np.full(len(bounds), _IMPOSSIBLE)
    # The token before the first one is impossible.
    blank_state = np.full(n + 1, _IMPOSSIBLE)
    blank_state[0] = 0.0
    block = max(1, _BLOCK_CELLS // n)
    for t in range(num_frames):
        if t % block == 0:
            token_scores, blank_scores, gap_scores = _frame_scores(
                log_probs[start + t : min(stop, start + t + block)], tokens, blank, separator
            )
        i = t % block
        # token_state[j + 1] is that of token j, blank_state[j] that of the blank before it.
        stay, previous = token_state[1:].copy(), token_state[:-1].copy()
        previous[repeated] = _IMPOSSIBLE
        word_start = previous[firsts]
        np.greater(outside[:-1], word_start, out=from_outside[t])
        previous[firsts] = np.maximum(outside[:-1], word_start)
        stay -= _HOLD_TOKEN
        np.greater(blank_state[:-1], stay, out=from_blank[t])
        best = np.maximum(blank_state[:-1], stay)
        np.greater(previous, best, out=from_previous[t])
        np.maximum(best, previous, out=best)
        best += token_scores[i]

        last_token, gap = token_state[lasts + 1], blank_state[bounds]
        np.greater(last_token, gap, out=entered_from_token[t])
        # A token of the greedy hypothesis is passed over as a whole.
        enter = np.maximum(last_token, gap) - (leave if may_leave[t] else -_IMPOSSIBLE)
        np.greater(enter, outside, out=entered[t])
        outside = np.maximum(enter, outside) + missing
        if begins[t]:
            outside -= _EXTRA_TOKEN
        reached = np.maximum.accumulate(outside)
        np.greater(reached, outside, out=skipped[t])
        outside = reached - missing

        np.greater(token_state, blank_state, out=from_token[t])
        blank_state = np.maximum(token_state, blank_state)
        blank_state += blank_scores[i] - _HOLD_BLANK
        blank_state[bounds] += gap_scores[i] - blank_scores[i] + _HOLD_BLANK
        token_state[1:] = best

    kind = int(np.argmax([outside[-1], token_state[-1], blank_state[-1]]))
    last = {_OUTSIDE: len(firsts), _TOKEN: n - 1, _BLANK: n}[kind]
    return _Moves(
        from_blank, from_previous, from_outside, from_token, entered, entered_from_token, skipped, (kind, last)
    )


def _follow_back(moves: _Moves, bounds: NDArray[np.int64], window: _Window, path: _Path) -> NDArray[np.int64]:
    """Write the words and the kinds of the frames of a window to `path`, and return the token of each frame.

    The token is its number in the window, the number of tokens between two words, and -1 for other blanks; (frames,).
    """
    word_of = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds)).tolist()
    word_at = {int(bound): word for word, bound in enumerate(bounds)}
    (kind, at), num_frames = moves.last, len(moves.entered)
    chosen = np.full(num_frames, -1, np.int64)
    for t in range(num_frames - 1, -1, -1):
        frame = window.start + t
        if kind == _OUTSIDE:
            while moves.skipped[t, at]:
                at -= 1
            path.word[frame], path.kind[frame] = window.first + at - 1, _OUTSIDE
            if moves.entered[t, at]:
                kind = _TOKEN if moves.entered_from_token[t, at] else _BLANK
                at = int(bounds[at]) - (1 if kind == _TOKEN else 0)
        elif kind == _TOKEN:
            path.word[frame], path.kind[frame], chosen[t] = window.first + word_of[at], _TOKEN, at
            if moves.from_previous[t, at]:
                if at in word_at and moves.from_outside[t, word_at[at]]:
                    kind, at = _OUTSIDE, word_at[at]
                else:
                    at -= 1
            elif moves.from_blank[t, at]:
                kind = _BLANK
        else:
            path.word[frame], path.kind[frame] = window.first + (word_of[at - 1] if at else -1), _BLANK
            chosen[t] = bounds[-1] if at in word_at else -1
            if moves.from_token[t, at]:
                kind, at = _TOKEN, at - 1
    return chosen


def _frame_scores(
    log_probs: NDArray[np.float16], tokens: NDArray[np.int64], blank: int, separator: int | None
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return the scores of the tokens, (frames, tokens), and of a blank within and after a word, (frames,) each."""
    values = log_probs.astype(np.float32)
    values = np.maximum(values - values.max(1, keepdims=True), _LOWEST)
    gap = values[:, blank]
    if separator is not None:
        gap = np.maximum(gap, values[:, separator])
        # Within a word, such as a number in digits, there are several spoken words, with or without a separator.
        values[:, separator] = gap
    return values[:, tokens], values[:, blank], gap


def _timed(
    path: _Path, greedy: _Greedy, text: _Text, levels: NDArray[np.float32] | None, frame_seconds: float
) -> _Words:
    """Return the times and scores of all words."""
    num_words, frames = len(text.bounds) - 1, len(path.word)
    tokens = np.flatnonzero(path.kind == _TOKEN)
    first, last = np.full(num_words, -1), np.full(num_words, -1)
    first[path.word[tokens][::-1]] = tokens[::-1]
    last[path.word[tokens]] = tokens
    # Frames with a token: of the text, or of the greedy hypothesis where the path leaves the text.
    with_token = np.flatnonzero((path.kind == _TOKEN) | greedy.has_token & (path.kind == _OUTSIDE))
    padded = np.concatenate([[-1], with_token, [frames]])
    before = first - padded[np.searchsorted(with_token, first)] - 1
    after = padded[np.searchsorted(with_token, last, "right") + 1] - last - 1
    extra = with_token[path.kind[with_token] == _OUTSIDE]
    extra_before = np.zeros(num_words + 1, bool)
    extra_before[path.word[extra] + 1] = True
    inside = (path.kind != _OUTSIDE) & (path.word >= 0)
    scores = np.bincount(path.word[inside], path.score[inside], num_words).astype(np.float64)
    start = first - np.minimum(round(_MARGIN_BEFORE / frame_seconds), (before + 1) // 2)
    stop = last + 1 + np.minimum(round(_MARGIN_AFTER / frame_seconds), after // 2)
    if levels is not None:
        reach, margin = round(_MAX_TAIL / frame_seconds), round(_MARGIN_BEFORE / frame_seconds)
        for word in np.flatnonzero((first >= 0) & (after > 2 * margin)):
            end = last[word] + 1
            quiet = _quiet_after(levels, int(end), int(min(reach, after[word])))
            if quiet is not None:
                stop[word] = min(quiet + round(_MARGIN_QUIET / frame_seconds), end + after[word] - margin)
    return _Words(first >= 0, start, stop, before, extra_before, scores, np.diff(text.bounds))


def _quiet_after(levels: NDArray[np.float32], frame: int, reach: int) -> int | None:
    """Return the first of three quiet frames from `frame` on, within `reach` frames; None if the sound goes on.

    Frames are quiet if they are about as quiet as the quietest, or have a hundredth of the amplitude before.
    """
    around = levels[frame : frame + reach]
    pause = first_pause(around <= max(2 * float(around.min()), float(levels[max(0, frame - 5) : frame].max()) / 100))
    return None if pause is None else frame + pause


def _stretches(
    words: _Words, frame_seconds: float, settings: SegmentSettings, breaks: Collection[int]
) -> Iterator[Stretch]:
    """Yield the stretches of consecutive aligned words, in order, with times in frames."""
    runs: list[tuple[int, int]] = []
    for word in np.flatnonzero(words.aligned).tolist():
        if runs and runs[-1][1] == word and not words.extra_before[word]:
            runs[-1] = (runs[-1][0], word + 1)
        else:
            runs.append((word, word + 1))
    for start, end in runs:
        yield from _divide(start, end, words, frame_seconds, settings, breaks)


def _divide(
    start: int, end: int, words: _Words, frame_seconds: float, settings: SegmentSettings, breaks: Collection[int]
) -> Iterator[Stretch]:
    """Divide consecutive words at pauses: into as few left out as possible, then at the best pauses."""
    cuts = [start, *(i for i in range(start + 1, end) if words.before[i] * frame_seconds >= _MIN_PAUSE), end]
    # Where the audio lacks words of a line, others of that line may be wrong too, up to the next pause.
    low = 0 if start in breaks or words.aligned[start - 1] else 1
    high = len(cuts) - (1 if end in breaks or words.aligned[end] else 2)
    shortest, longest = settings.min_seconds / frame_seconds, settings.max_seconds / frame_seconds
    best, previous = [0.0], [-1]
    for j in range(1, len(cuts)):
        # A previous cut of -1 leaves out the words since the cut before.
        value, chosen = best[j - 1], -1
        for i in range(j - 1, low - 1, -1):
            length = words.stop[cuts[j] - 1] - words.start[cuts[i]]
            if length > longest or j > high:
                break
            if length >= shortest:
                gain = best[i] + _WORD_GAIN * (cuts[j] - cuts[i])
                if j < len(cuts) - 1:
                    pause = min(words.before[cuts[j]] * frame_seconds, 1.0)
                    gain += pause + (1.0 if cuts[j] in breaks else -1.0) if len(breaks) > 2 else pause - 0.5
                if gain > value:
                    value, chosen = gain, i
        best.append(value)
        previous.append(chosen)
    parts = []
    j = len(cuts) - 1
    while j > 0:
        i, reason = previous[j], ""
        if i < 0:
            i = j - 1
            while i > 0 and previous[i] < 0:
                i -= 1
            length = words.stop[cuts[j] - 1] - words.start[cuts[i]]
            reason = "no_pause" if i < low or j > high else "long" if length > longest else "short"
        parts.append((cuts[i], cuts[j], reason))
        j = i
    for a, b, reason in reversed(parts):
        score = _score(words.scores[a:b], words.lengths[a:b])
        yield Stretch(int(words.start[a]), int(words.stop[b - 1]), a, b, score, reason)


def _score(sums: NDArray[np.float64], lengths: NDArray[np.int64]) -> float:
    """Return the lowest mean score per token of parts of consecutive words with at least _PART_TOKENS tokens."""
    worst, total, tokens, start = 0.0, 0.0, 0, 0
    found = False
    for end in range(len(sums)):
        total, tokens = total + sums[end], tokens + int(lengths[end])
        while tokens - lengths[start] >= _PART_TOKENS:
            total, tokens, start = total - sums[start], tokens - int(lengths[start]), start + 1
        if tokens >= _PART_TOKENS:
            worst, found = min(worst, total / tokens), True
    return float(worst if found else total / tokens)


def _complete(
    stretches: Iterable[Stretch], numbers: list[int], num_words: int, path: _Path, greedy: _Greedy, frame_seconds: float
) -> Segmentation:
    """Add what lies between the stretches, number the words as in the transcript, and return times in seconds.

    `numbers` are those of the words that have tokens, among all `num_words` words of the transcript.
    """
    frames = len(path.word)
    extra = greedy.has_token & (path.kind == _OUTSIDE)
    bounds = [*numbers, num_words]
    every: list[Stretch] = []
    frame = word = done = 0
    for stretch in (*stretches, Stretch(frames, frames, len(numbers), len(numbers), 0.0)):
        following = bounds[stretch.first_word]
        text, speech = stretch.first_word > done, bool(extra[frame : int(stretch.start_seconds)].any())
        if text or speech:
            reason = "different" if text and speech else "no_audio" if text else "no_text"
            every.append(Stretch(frame, stretch.start_seconds, word, following, _LOWEST, reason))
            word = following
        elif every and stretch.start_seconds >= frame:
            # Words without tokens belong to the word before them.
            every[-1] = every[-1]._replace(end_word=following)
            word = following
        if not (text or speech) and (stretch.start_seconds > frame or not every):
            end = following if stretch.first_word == len(numbers) else word
            every.append(Stretch(frame, stretch.start_seconds, word, end, _LOWEST, "pause"))
            word = end
        if stretch.end_word > stretch.first_word:
            done = stretch.end_word
            end = numbers[done - 1] + 1
            every.append(stretch._replace(first_word=word, end_word=end))
            word = end
        frame = int(stretch.end_seconds)
    scaled = [
        each._replace(start_seconds=each.start_seconds * frame_seconds, end_seconds=each.end_seconds * frame_seconds)
        for each in every
        if each.end_seconds > each.start_seconds or each.end_word > each.first_word
    ]
    return Segmentation([each for each in scaled if not each.reason], [each for each in scaled if each.reason])
