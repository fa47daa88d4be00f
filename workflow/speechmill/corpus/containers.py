"""What an audio file's own structure says of its length, so that a file that was cut short is known as such."""

import itertools
import re
from dataclasses import dataclass
from typing import Literal

# A program that writes to a pipe cannot come back to fill in a size, and promises the most that fits, give or take
# a header; SoX promises 0x7f000000 in AIFF.
_NEVER_FILLED_IN = 0x7F000000

_ORDERS: dict[bytes, Literal["little", "big"]] = {b"RIFF": "little", b"RIFX": "big", b"FORM": "big"}


@dataclass(frozen=True)
class Structure:
    """What is known of a file before any of it is decoded.

    Attributes:
        cut_short: How the file is cut short, as in "by 12 bytes"; None where nothing in it says so.
        least_samples: Samples a channel that a decoder must find; 0 where the file does not say.
        chained: Whether it is Ogg with several streams, one after the other.
        open_size: Where a WAV's writer left a size of zero before the samples; None where it did not.
    """

    cut_short: str | None = None
    least_samples: int = 0
    chained: bool = False
    open_size: int | None = None


def inspect(encoded: bytes) -> Structure:
    """The structure of a file of any kind; nothing is known of a kind that promises nothing.

    Only what a file says of itself counts as evidence: an MP3 without a Xing or Info header, or an AAC stream, may
    end anywhere.
    """
    start = 0
    while encoded[start : start + 3] == b"ID3" and start + 10 <= len(encoded):
        # ID3v2.4, section 3.1: four bytes of seven bits each, without the header and the footer.
        a, b, c, d = encoded[start + 6 : start + 10]
        start += 10 + (a << 21 | b << 14 | c << 7 | d) + (10 if encoded[start + 5] & 0x10 else 0)
    if start > len(encoded):
        return Structure(cut_short=_by(start - len(encoded)))
    marker = encoded[start : start + 4]
    if marker in _ORDERS:
        return _chunks(encoded, _ORDERS[marker])
    if marker == b"fLaC":
        return _flac(encoded[start:])
    if marker == b"OggS":
        return _ogg(encoded)
    if marker == b".snd":
        return _ending_at(int.from_bytes(encoded[4:8]) + int.from_bytes(encoded[8:12]), encoded)
    if encoded.startswith(b"NIST_1A\n"):
        return _ending_at(_end_of_sphere(encoded), encoded)
    if encoded[4:8] == b"ftyp":
        return _ending_at(_end_of_boxes(encoded), encoded)
    if marker == b"\x1a\x45\xdf\xa3":
        return _ending_at(_end_of_segment(encoded), encoded)
    # Anywhere else than at the start or behind a tag, what looks like a frame may be samples.
    return _mp3(encoded, start) if start or encoded[:3] in _MP3_LENGTHS else Structure()


def _by(missing: int) -> str:
    return f"by {missing} byte{'s' * (missing != 1)}"


def _ending_at(end: int, encoded: bytes) -> Structure:
    """The structure of a file that promises `end` bytes."""
    return Structure(cut_short=_by(end - len(encoded))) if len(encoded) < end < _NEVER_FILLED_IN else Structure()


def _chunks(encoded: bytes, order: Literal["little", "big"]) -> Structure:
    """WAV and AIFF: a size of the whole, and one of each chunk."""
    whole = end = 8 + int.from_bytes(encoded[4:8], order)
    at = 12
    while at + 8 <= len(encoded):
        size = int.from_bytes(encoded[at + 4 : at + 8], order)
        if encoded[at : at + 4] in (b"data", b"SSND"):
            if size == 0 and encoded[at : at + 4] == b"data" and whole < len(encoded):
                return Structure(open_size=at + 4)
            end = at + 8 + size
            break
        at += 8 + size + size % 2
    # Where the size of the whole is right, nothing is missing: the writer erred in the other.
    return Structure() if whole == len(encoded) else _ending_at(end, encoded)


def bare_flac(encoded: bytes) -> tuple[bytes, memoryview] | None:
    """The STREAMINFO block (34 bytes) and the frames of a FLAC file, without tags, pictures and padding.

    RFC 9639, section 8: metadata blocks, of which the first is STREAMINFO and the last is marked. None where it is no
    FLAC file, or ends before its frames.
    """
    at, last = 4, not encoded.startswith(b"fLaC")
    while not last and at + 4 <= len(encoded):
        last = bool(encoded[at] & 0x80)
        at += 4 + int.from_bytes(encoded[at + 1 : at + 4])
    return (encoded[8:42], memoryview(encoded)[at:]) if 4 < at < len(encoded) and last else None


def _flac(encoded: bytes) -> Structure:
    if (parts := bare_flac(encoded)) is None:
        return Structure(cut_short="within its header")
    # The lowest 36 bits of these 8 bytes are the number of samples, 0 where it is unknown.
    return Structure(least_samples=int.from_bytes(parts[0][10:18]) & 0xFFFFFFFFF)


def _ogg(encoded: bytes) -> Structure:
    """RFC 3533, section 6: pages, of which each stream's first and last are marked."""
    at, ended, chained = 0, False, False
    while (at := encoded.find(b"OggS", at)) >= 0:
        segments = encoded[at + 27 : at + 27 + encoded[at + 26]] if at + 26 < len(encoded) else b""
        if at + 27 > len(encoded) or len(segments) < encoded[at + 26]:
            return Structure(cut_short="within a page")
        first, last = bool(encoded[at + 5] & 2), bool(encoded[at + 5] & 4)
        at += 27 + len(segments) + sum(segments)
        if at > len(encoded):
            return Structure(cut_short="within a page")
        chained |= first and ended
        ended = last
    return Structure(chained=chained) if ended else Structure(cut_short="before its last page")


def _end_of_sphere(encoded: bytes) -> int:
    header = encoded[:1024]
    fields = dict(re.findall(rb"(\w+) -i (\d{1,12})\s", header))
    if b"embedded" in header or not {b"sample_count", b"sample_n_bytes", b"channel_count"} <= fields.keys():
        return 0
    size = re.match(rb"NIST_1A\n\s*(\d{1,6})\n", header)
    samples = int(fields[b"sample_count"]) * int(fields[b"channel_count"])
    return samples * int(fields[b"sample_n_bytes"]) + int(size[1] if size else 1024)


def _end_of_boxes(encoded: bytes) -> int:
    """MP4 (ISO/IEC 14496-12, section 4.2): boxes, each with its size; 0 reaches to the end, 1 means a longer field."""
    at = 0
    while at + 8 <= len(encoded):
        size = int.from_bytes(encoded[at : at + 4])
        if size == 1:
            size = int.from_bytes(encoded[at + 8 : at + 16])
        if size < 8:
            return 0
        at += size
    return at


def _end_of_segment(encoded: bytes) -> int:
    """WebM (RFC 8794, section 6): a header, then a segment whose size is all ones where it was never filled in."""
    at = 4
    header, length = _variable_integer(encoded, at)
    at += length + header + 4
    if at >= len(encoded):
        return at + 1
    size, length = _variable_integer(encoded, at)
    return 0 if size == (1 << 7 * length) - 1 else at + length + size


def _variable_integer(encoded: bytes, at: int) -> tuple[int, int]:
    """RFC 8794, section 4: an integer, and the bytes that it takes, which the zeros before its first one tell."""
    length = 9 - encoded[at].bit_length() if at < len(encoded) else 1
    return int.from_bytes(encoded[at : at + length]) & (1 << 7 * length) - 1, length


def _mp3_lengths() -> dict[bytes, int]:
    """The bytes of a frame by the first three bytes of its header.

    Layer III of MPEG-1 (ISO/IEC 11172-3, section 2.4.2.3), MPEG-2 (ISO/IEC 13818-3) and "MPEG-2.5", half as fast.
    """
    kbps_1 = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
    kbps_2 = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
    lengths = {}
    # A frame has 1152 samples in MPEG-1 and 576 in the others; an eighth of that is its bytes for a bit a sample.
    for version, kbps, eighth, slower in ((3, kbps_1, 144, 1), (2, kbps_2, 72, 2), (0, kbps_2, 72, 4)):
        for i, rate in enumerate((44_100, 48_000, 32_000)):
            for j, bitrate in enumerate(kbps, 1):
                length = eighth * 1000 * bitrate // (rate // slower)
                for padded, private, unprotected in itertools.product((0, 1), repeat=3):
                    second = 0xE0 | version << 3 | 1 << 1 | unprotected
                    third = j << 4 | i << 2 | padded << 1 | private
                    lengths[bytes((0xFF, second, third))] = length + padded
    return lengths


_MP3_LENGTHS = _mp3_lengths()

# The word, flags of which the lowest says that the number of frames is there, and that number.
_XING = re.compile(rb"(?:Xing|Info)...[\x01\x03\x05\x07\x09\x0b\x0d\x0f](....)", re.DOTALL)


def _next_mp3_frame(encoded: bytes, at: int) -> int:
    """Where the first frame from `at` on is that another or the end follows; -1 where there is none."""
    while (at := encoded.find(b"\xff", at)) >= 0:
        if length := _MP3_LENGTHS.get(encoded[at : at + 3]):
            follows = at + length
            if follows >= len(encoded) or encoded[follows : follows + 3] in _MP3_LENGTHS:
                return at
        at += 1
    return -1


def _mp3(encoded: bytes, start: int) -> Structure:
    """The frames that are there, against those that a Xing or Info header promises.

    That header is a frame of its own, with the word at one of four places. Some writers count it among the frames, so
    one frame less is no evidence, unless the last is broken.
    """
    first = at = _next_mp3_frame(encoded, start)
    frames = end = 0
    while at >= 0:
        if length := _MP3_LENGTHS.get(encoded[at : at + 3]):
            frames += 1
            end = at = at + length
        else:
            at = _next_mp3_frame(encoded, at)
    broken = end > len(encoded)
    frames -= broken
    if first < 0:
        return Structure()
    # MPEG-1 has twice as many samples in a frame.
    a_frame = 1152 if encoded[first + 1] & 0x08 else 576
    # What a decoder may leave out: a frame or two that lean on one that is not there.
    left_out = 2 * a_frame
    if header := _XING.search(encoded, first, first + 52):
        frames = max(frames - 1, 0)
        promised = int.from_bytes(header[1])
        if frames < promised - 1 or (broken and frames < promised):
            return Structure(cut_short=f"after {frames} of its {promised} frames")
        # The header may ask to leave out the encoder's delay and padding, 12 bits each.
        left_out += 2 * 4095
    return Structure(least_samples=max(frames * a_frame - left_out, 0))
