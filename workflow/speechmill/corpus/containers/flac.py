"""FLAC: the number of samples, and the parts of a file. Source: RFC 9639."""

import math

from speechmill.corpus.containers.info import ContainerInfo, Content

# The last frame is looked for in this many bytes; a frame of 65,535 samples in stereo without compression has 262,140.
_MAX_FRAME_BYTES = 1 << 18


def split_flac(encoded: Content, start: int = 0) -> tuple[bytes, memoryview] | None:
    """Return the STREAMINFO block (34 bytes) and the frames of a FLAC file, without tags, pictures and padding.

    Return None if it is not a FLAC file, or ends before its frames. Source: section 8: STREAMINFO is the first
    metadata block, and the last metadata block has a flag.
    """
    offset, last = start + 4, encoded[start : start + 4] != b"fLaC"
    while not last and offset + 4 <= len(encoded):
        last = bool(encoded[offset] & 0x80)
        offset += 4 + int.from_bytes(encoded[offset + 1 : offset + 4])
    if not (start + 4 < offset < len(encoded) and last):
        return None
    return encoded[start + 8 : start + 42], memoryview(encoded)[offset:]


def inspect_flac(content: Content, start: int) -> ContainerInfo:
    """Return the number of samples that the header states, or that the last frame shows if those are more."""
    parts = split_flac(content, start)
    if parts is None:
        return ContainerInfo(truncated="within its header")
    stream_info, frames = parts
    # Section 8.2: rate in 20 bits, channels minus one in 3, bits minus one in 5, samples in 36, 0 if unknown.
    packed = int.from_bytes(stream_info[10:18])
    stated = packed & 0xFFFFFFFFF
    with frames:
        last = bytes(frames[-_MAX_FRAME_BYTES:])
    samples = max(stated, _end_of_last_frame(last, stream_info, stated))
    return ContainerInfo(
        rate=packed >> 44,
        channels=(packed >> 41 & 7) + 1,
        min_samples=samples,
        max_samples=samples or math.inf,
    )


def _end_of_last_frame(content: bytes, stream_info: bytes, stated: int) -> int:
    """Return the number of samples up to the end of the last frame; 0 if it is not found.

    Section 9: a frame starts with 15 fixed bits, and a checksum follows its header. Where the result differs from the
    stated number, the checksum at the end of the frame is compared as well.
    """
    if content[-128:-125] == b"TAG":
        content = content[:-128]
    offset = len(content)
    while (offset := content.rfind(b"\xff", 0, offset)) >= 0:
        end = _end_of_frame(content[offset : offset + 16], stream_info)
        if end is not None and (end == stated or _crc(content[offset:], 16, 0x8005) == 0):
            return end
    return 0


def _end_of_frame(header: bytes, stream_info: bytes) -> int | None:
    """Return the number of samples up to the end of the frame that starts with `header`; None if none does."""
    if len(header) < 6 or header[1] & 0xFE != 0xF8 or header[3] & 1:
        return None
    size_code, rate_code = header[2] >> 4, header[2] & 15
    # The number of a frame or a sample is coded like a character in UTF-8.
    extra = max(7 - (~header[4] & 0xFF).bit_length(), 0) if header[4] & 0x80 else 0
    length = 5 + max(extra - 1, 0)
    number = header[4] & (0x7F >> extra)
    for byte in header[5:length]:
        number = number << 6 | byte & 0x3F
    size_bytes = {6: 1, 7: 2}.get(size_code, 0)
    block = int.from_bytes(header[length : length + size_bytes]) + 1 if size_bytes else _BLOCK_SIZES.get(size_code)
    length += size_bytes + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if block is None or rate_code == 15 or length >= len(header) or _crc(header[: length + 1], 8, 0x07):
        return None
    first = number if header[1] & 1 else number * int.from_bytes(stream_info[:2])
    return first + block


_BLOCK_SIZES = {1: 192} | {i: 576 << i - 2 for i in range(2, 6)} | {i: 256 << i - 8 for i in range(8, 16)}


def _crc(content: bytes, bits: int, polynomial: int) -> int:
    """Return the checksum of bytes; it is 0 if they end with their checksum."""
    value, top, mask = 0, 1 << bits - 1, (1 << bits) - 1
    for byte in content:
        value ^= byte << bits - 8
        for _ in range(8):
            value = (value << 1 ^ polynomial if value & top else value << 1) & mask
    return value
