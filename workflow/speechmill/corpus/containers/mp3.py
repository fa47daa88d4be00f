"""MP3: the number of frames, counted and as a Xing or Info header states it. Sources: ISO/IEC 11172-3 and 13818-3."""

import itertools
import re

from speechmill.corpus.containers.info import MAX_MISSING_SECONDS, ContainerInfo, Content


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


MP3_FRAME_BYTES = _mp3_frame_bytes()

# The marker, flags of which the lowest bit means that the number of frames is present, and that number.
_XING = re.compile(rb"(?:Xing|Info)...[\x01\x03\x05\x07\x09\x0b\x0d\x0f](....)", re.DOTALL)


def _next_mp3_frame(content: Content, offset: int) -> int:
    """Return the offset of the next frame that is followed by another frame or the end; -1 if there is none."""
    while (offset := content.find(b"\xff", offset)) >= 0:
        if size := MP3_FRAME_BYTES.get(content[offset : offset + 3]):
            following = offset + size
            if following >= len(content) or content[following : following + 3] in MP3_FRAME_BYTES:
                return offset
        offset += 1
    return -1


def inspect_mp3(content: Content, start: int) -> ContainerInfo:
    """Compare the number of frames with the one in the Xing or Info header.

    That header is a frame itself, with its marker at one of four offsets. Some encoders count it as a frame, so one
    missing frame is no evidence of truncation, unless the last frame is incomplete.
    """
    first = offset = _next_mp3_frame(content, start)
    frames = end = 0
    while offset >= 0:
        if size := MP3_FRAME_BYTES.get(content[offset : offset + 3]):
            frames += 1
            end = offset = offset + size
        else:
            offset = _next_mp3_frame(content, offset)
    incomplete = end > len(content)
    frames -= incomplete
    if first < 0:
        return ContainerInfo()
    # MPEG-1 has twice as many samples per frame.
    frame_samples = 1152 if content[first + 1] & 0x08 else 576
    rate = _rate(content[first : first + 3])
    # A decoder may skip a frame or two that depend on a missing one.
    skipped = 2 * frame_samples
    missing = 0
    if header := _XING.search(content, first, first + 52):
        frames = max(frames - 1, 0)
        stated = int.from_bytes(header[1])
        # Some encoders count the header.
        missing = 0 if stated - frames == 1 and not incomplete else max(stated - frames, 0)
        if missing * frame_samples > MAX_MISSING_SECONDS * rate:
            return ContainerInfo(truncated=f"after {frames} of its {stated} frames")
        # The header may ask the decoder to skip the encoder's delay and padding, 12 bits each.
        skipped += 2 * 4095
    return ContainerInfo(
        rate=rate,
        min_samples=max(frames * frame_samples - skipped, 0),
        # Each frame of a damaged file may be decoded, and the delay of the decoder.
        max_samples=(frames + 3) * frame_samples,
        missing_samples=missing * frame_samples,
    )


def _rate(header: bytes) -> int:
    divisor = {3: 1, 2: 2, 0: 4}[header[1] >> 3 & 3]
    return (44_100, 48_000, 32_000)[header[2] >> 2 & 3] // divisor
