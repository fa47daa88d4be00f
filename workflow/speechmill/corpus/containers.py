"""Containers of audio files: recognition of truncated files by the length that they promise, and the parts of FLAC."""

import itertools
import re
from dataclasses import dataclass
from typing import Literal

# Programs that write to a pipe cannot go back to fill in a size, so they write about the largest one that fits. The
# smallest such value is SoX's 0x7f000000 in AIFF.
_UNKNOWN_SIZE = 0x7F000000

_BYTE_ORDERS: dict[bytes, Literal["little", "big"]] = {b"RIFF": "little", b"RIFX": "big", b"FORM": "big"}


@dataclass(frozen=True)
class ContainerInfo:
    """Properties of a file's container that are known before decoding.

    Attributes:
        truncated: How the file is truncated, as in "by 12 bytes"; None if there is no evidence of it.
        min_samples: The minimum number of samples per channel that a decoder must find; 0 if unknown.
        chained: Whether it is an Ogg file with several streams, one after the other.
        unset_size_offset: The offset of a WAV file's size of the samples if its writer left it at zero, else None.
    """

    truncated: str | None = None
    min_samples: int = 0
    chained: bool = False
    unset_size_offset: int | None = None


def inspect_container(encoded: bytes) -> ContainerInfo:
    """Return what the container of a file promises; the default values for a format that promises nothing.

    Only explicit promises count as evidence of truncation: an MP3 file without a Xing or Info header, or an AAC
    stream, may end anywhere.
    """
    start = 0
    while encoded[start : start + 3] == b"ID3" and start + 10 <= len(encoded):
        # ID3v2.4, section 3.1: four bytes with seven bits each; the size excludes the header and the footer.
        a, b, c, d = encoded[start + 6 : start + 10]
        start += 10 + (a << 21 | b << 14 | c << 7 | d) + (10 if encoded[start + 5] & 0x10 else 0)
    if start > len(encoded):
        return ContainerInfo(truncated=_by_bytes(start - len(encoded)))
    marker = encoded[start : start + 4]
    if marker in _BYTE_ORDERS:
        return _chunks(encoded, _BYTE_ORDERS[marker])
    if marker == b"fLaC":
        return _flac(encoded[start:])
    if marker == b"OggS":
        return _ogg(encoded)
    if marker == b".snd":
        return _check_size(int.from_bytes(encoded[4:8]) + int.from_bytes(encoded[8:12]), encoded)
    if encoded[:8] == b"NIST_1A\n":
        return _check_size(_sphere_size(encoded), encoded)
    if encoded[4:8] == b"ftyp":
        return _check_size(_mp4_size(encoded), encoded)
    if marker == b"\x1a\x45\xdf\xa3":
        return _check_size(_webm_size(encoded), encoded)
    # An MP3 frame is at the start of the file or after a tag. Elsewhere, samples may look like a frame header.
    return _mp3(encoded, start) if start or encoded[:3] in _MP3_FRAME_BYTES else ContainerInfo()


def _by_bytes(missing: int) -> str:
    return f"by {missing} byte{'s' * (missing != 1)}"


def _check_size(size: int, encoded: bytes) -> ContainerInfo:
    """Return the result for a file that promises `size` bytes."""
    if len(encoded) < size < _UNKNOWN_SIZE:
        return ContainerInfo(truncated=_by_bytes(size - len(encoded)))
    return ContainerInfo()


def _chunks(encoded: bytes, byte_order: Literal["little", "big"]) -> ContainerInfo:
    """Inspect a WAV or AIFF file, which has its total size and the size of each chunk."""
    total = end = 8 + int.from_bytes(encoded[4:8], byte_order)
    offset = 12
    while offset + 8 <= len(encoded):
        name, size = encoded[offset : offset + 4], int.from_bytes(encoded[offset + 4 : offset + 8], byte_order)
        if name in (b"data", b"SSND"):
            if size == 0 and name == b"data" and total < len(encoded):
                return ContainerInfo(unset_size_offset=offset + 4)
            end = offset + 8 + size
            break
        offset += 8 + size + size % 2
    # If the total size is right, nothing is missing, and the size of the chunk is wrong.
    return ContainerInfo() if total == len(encoded) else _check_size(end, encoded)


def split_flac(encoded: bytes) -> tuple[bytes, memoryview] | None:
    """Return the STREAMINFO block (34 bytes) and the frames of a FLAC file, without tags, pictures and padding.

    Return None if it is not a FLAC file, or ends before its frames. Source: RFC 9639, section 8: STREAMINFO is the
    first metadata block, and the last metadata block has a flag.
    """
    offset, last = 4, encoded[:4] != b"fLaC"
    while not last and offset + 4 <= len(encoded):
        last = bool(encoded[offset] & 0x80)
        offset += 4 + int.from_bytes(encoded[offset + 1 : offset + 4])
    return (encoded[8:42], memoryview(encoded)[offset:]) if 4 < offset < len(encoded) and last else None


def _flac(encoded: bytes) -> ContainerInfo:
    if (parts := split_flac(encoded)) is None:
        return ContainerInfo(truncated="within its header")
    # The lowest 36 bits of these 8 bytes are the number of samples, 0 if unknown.
    return ContainerInfo(min_samples=int.from_bytes(parts[0][10:18]) & 0xFFFFFFFFF)


def _ogg(encoded: bytes) -> ContainerInfo:
    """Inspect an Ogg file: pages, of which the first and the last of each stream have a flag (RFC 3533, section 6)."""
    offset, ended, chained = 0, False, False
    while (offset := encoded.find(b"OggS", offset)) >= 0:
        segments = encoded[offset + 27 : offset + 27 + encoded[offset + 26]] if offset + 26 < len(encoded) else b""
        if offset + 27 > len(encoded) or len(segments) < encoded[offset + 26]:
            return ContainerInfo(truncated="within a page")
        first, last = bool(encoded[offset + 5] & 2), bool(encoded[offset + 5] & 4)
        offset += 27 + len(segments) + sum(segments)
        if offset > len(encoded):
            return ContainerInfo(truncated="within a page")
        chained |= first and ended
        ended = last
    return ContainerInfo(chained=chained) if ended else ContainerInfo(truncated="before its last page")


def _sphere_size(encoded: bytes) -> int:
    """Return the size in bytes of a NIST SPHERE file according to its header; 0 if unknown."""
    header = encoded[:1024]
    fields = dict(re.findall(rb"(\w+) -i (\d{1,12})\s", header))
    if b"embedded" in header or not {b"sample_count", b"sample_n_bytes", b"channel_count"} <= fields.keys():
        return 0
    header_size = re.match(rb"NIST_1A\n\s*(\d{1,6})\n", header)
    samples = int(fields[b"sample_count"]) * int(fields[b"channel_count"])
    return samples * int(fields[b"sample_n_bytes"]) + int(header_size[1] if header_size else 1024)


def _mp4_size(encoded: bytes) -> int:
    """Return the size in bytes of an MP4 file according to its boxes; 0 if unknown.

    Source: ISO/IEC 14496-12, section 4.2: each box starts with its size; 0 means that it extends to the end of the
    file, 1 that a larger field follows.
    """
    offset = 0
    while offset + 8 <= len(encoded):
        size = int.from_bytes(encoded[offset : offset + 4])
        if size == 1:
            size = int.from_bytes(encoded[offset + 8 : offset + 16])
        if size < 8:
            return 0
        offset += size
    return offset


def _webm_size(encoded: bytes) -> int:
    """Return the size in bytes of a WebM file according to its header and segment; 0 if unknown.

    Source: RFC 8794, section 6: all bits of the size are ones if it is unknown.
    """
    offset = 4
    header, length = _variable_integer(encoded, offset)
    offset += length + header + 4
    if offset >= len(encoded):
        return offset + 1
    size, length = _variable_integer(encoded, offset)
    return 0 if size == (1 << 7 * length) - 1 else offset + length + size


def _variable_integer(encoded: bytes, offset: int) -> tuple[int, int]:
    """Return a variable-length integer and its length in bytes, given by the leading zeros (RFC 8794, section 4)."""
    length = 9 - encoded[offset].bit_length() if offset < len(encoded) else 1
    return int.from_bytes(encoded[offset : offset + length]) & (1 << 7 * length) - 1, length


def _mp3_frame_bytes() -> dict[bytes, int]:
    """Return the size in bytes of an MP3 frame by the first three bytes of its header.

    Layer III of MPEG-1 (ISO/IEC 11172-3, section 2.4.2.3), of MPEG-2 (ISO/IEC 13818-3), which has half the sampling
    rates, and of "MPEG-2.5", which has a quarter.
    """
    mpeg1_kbps = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
    mpeg2_kbps = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
    sizes = {}
    # A frame has 1152 samples in MPEG-1 and 576 in the others; divided by 8, its bytes at one bit per sample.
    for version, kbps, eighth, divisor in ((3, mpeg1_kbps, 144, 1), (2, mpeg2_kbps, 72, 2), (0, mpeg2_kbps, 72, 4)):
        for i, rate in enumerate((44_100, 48_000, 32_000)):
            for j, bitrate in enumerate(kbps, 1):
                size = eighth * 1000 * bitrate // (rate // divisor)
                for padded, private, unprotected in itertools.product((0, 1), repeat=3):
                    second = 0xE0 | version << 3 | 1 << 1 | unprotected
                    third = j << 4 | i << 2 | padded << 1 | private
                    sizes[bytes((0xFF, second, third))] = size + padded
    return sizes


_MP3_FRAME_BYTES = _mp3_frame_bytes()

# The marker, flags of which the lowest bit means that the number of frames is present, and that number.
_XING = re.compile(rb"(?:Xing|Info)...[\x01\x03\x05\x07\x09\x0b\x0d\x0f](....)", re.DOTALL)


def _next_mp3_frame(encoded: bytes, offset: int) -> int:
    """Return the offset of the next frame that is followed by another frame or the end; -1 if there is none."""
    while (offset := encoded.find(b"\xff", offset)) >= 0:
        if size := _MP3_FRAME_BYTES.get(encoded[offset : offset + 3]):
            following = offset + size
            if following >= len(encoded) or encoded[following : following + 3] in _MP3_FRAME_BYTES:
                return offset
        offset += 1
    return -1


def _mp3(encoded: bytes, start: int) -> ContainerInfo:
    """Compare the number of frames with the one in the Xing or Info header.

    That header is a frame itself, with its marker at one of four offsets. Some encoders count it as a frame, so one
    missing frame is no evidence of truncation, unless the last frame is incomplete.
    """
    first = offset = _next_mp3_frame(encoded, start)
    frames = end = 0
    while offset >= 0:
        if size := _MP3_FRAME_BYTES.get(encoded[offset : offset + 3]):
            frames += 1
            end = offset = offset + size
        else:
            offset = _next_mp3_frame(encoded, offset)
    incomplete = end > len(encoded)
    frames -= incomplete
    if first < 0:
        return ContainerInfo()
    # MPEG-1 has twice as many samples per frame.
    frame_samples = 1152 if encoded[first + 1] & 0x08 else 576
    # A decoder may skip a frame or two that depend on a missing one.
    skipped = 2 * frame_samples
    if header := _XING.search(encoded, first, first + 52):
        frames = max(frames - 1, 0)
        promised = int.from_bytes(header[1])
        if frames < promised - 1 or (incomplete and frames < promised):
            return ContainerInfo(truncated=f"after {frames} of its {promised} frames")
        # The header may ask the decoder to skip the encoder's delay and padding, 12 bits each.
        skipped += 2 * 4095
    return ContainerInfo(min_samples=max(frames * frame_samples - skipped, 0))
