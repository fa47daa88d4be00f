"""MP4 and WebM: nested boxes with sizes, and the duration that a header states."""

import struct
from collections.abc import Iterator

from speechmill.corpus.containers.info import ContainerInfo, Content, by_bytes


def inspect_mp4(content: Content) -> ContainerInfo:
    """Inspect an MP4 file (ISO/IEC 14496-12), also one of QuickTime or 3GPP.

    The number of samples is that of the edit list of the first audio track, or of its media header. In a file of
    fragments neither is known, and the sizes of the boxes show whether it is truncated.
    """
    end, samples, rate = 0, 0, None
    for kind, start, end in _mp4_boxes(content, 0, len(content)):
        if kind == b"moov":
            rate, samples = _mp4_length(content, start, min(end, len(content)))
    incomplete = by_bytes(end - len(content)) if end > len(content) else None
    if not (rate and samples):
        return ContainerInfo(truncated=incomplete)
    return ContainerInfo(incomplete=incomplete, rate=rate, fixed_rate=False, min_samples=samples)


def _mp4_boxes(content: Content, offset: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the type, the start of the content and the end of each box up to `stop`; the last end may be beyond it.

    Section 4.2: each box starts with its size; 0 means that it extends to the end of the file, 1 that a larger field
    follows.
    """
    while offset + 8 <= stop:
        size, header = int.from_bytes(content[offset : offset + 4]), 8
        if size == 1:
            size, header = int.from_bytes(content[offset + 8 : offset + 16]), 16
        if size == 0:
            size = stop - offset
        if size < header:
            return
        yield content[offset + 4 : offset + 8], offset + header, offset + size
        offset += size


def _mp4_length(content: Content, start: int, stop: int) -> tuple[int | None, int]:
    """Return the time scale of the first audio track in a `moov` box, and its length in that scale; 0 if unknown."""
    movie_scale = 0
    for kind, offset, end in _mp4_boxes(content, start, stop):
        if kind == b"mvhd":
            movie_scale, _ = _mp4_duration(content, offset)
        elif kind == b"trak":
            boxes = dict(_mp4_tree(content, offset, min(end, stop)))
            if content[boxes.get(b"hdlr", stop) + 8 : boxes.get(b"hdlr", stop) + 12] != b"soun" or b"mdhd" not in boxes:
                continue
            scale, duration = _mp4_duration(content, boxes[b"mdhd"])
            edits = _mp4_edits(content, boxes[b"elst"]) if b"elst" in boxes else 0
            # The edit list is in the movie's time scale, in which its numbers are rounded. Without one, decoders may
            # skip the encoder's delay.
            stated = (edits - 1) * scale // movie_scale if edits and movie_scale else duration - _MAX_DELAY
            return scale, max(min(duration, stated), 0)
    return None, 0


# Of AAC, in samples.
_MAX_DELAY = 4096


def _mp4_tree(content: Content, start: int, stop: int) -> Iterator[tuple[bytes, int]]:
    for kind, offset, end in _mp4_boxes(content, start, stop):
        yield kind, offset
        if kind in (b"mdia", b"edts"):
            yield from _mp4_tree(content, offset, min(end, stop))


def _mp4_duration(content: Content, offset: int) -> tuple[int, int]:
    """Return the time scale and the duration in an `mvhd` or `mdhd` box, 0 if unknown."""
    if content[offset] == 1:
        scale, duration = struct.unpack(">IQ", content[offset + 20 : offset + 32].ljust(12, b"\0"))
        return scale, duration if duration < 1 << 63 else 0
    scale, duration = struct.unpack(">II", content[offset + 12 : offset + 20].ljust(8, b"\0"))
    return scale, duration if duration < 0xFFFFFFFF else 0


def _mp4_edits(content: Content, offset: int) -> int:
    """Return the sum of the durations of the edits in an `elst` box, without empty edits."""
    wide = content[offset] == 1
    count, total = int.from_bytes(content[offset + 4 : offset + 8]), 0
    form = struct.Struct(">QqI" if wide else ">IiI")
    for i in range(min(count, 1000)):
        at = offset + 8 + i * form.size
        duration, media_time, _ = form.unpack(content[at : at + form.size].ljust(form.size, b"\0"))
        total += duration if media_time >= 0 else 0
    return total


# Identifiers of elements.
_SEGMENT, _INFO, _TRACKS, _TRACK = b"\x18\x53\x80\x67", b"\x15\x49\xa9\x66", b"\x16\x54\xae\x6b", b"\xae"
_SCALE, _DURATION, _DELAY = b"\x2a\xd7\xb1", b"\x44\x89", b"\x56\xaa"

# The last packet may end in samples to discard. Opus has packets of 20 ms, others of up to 26 ms.
_LAST_PACKET = 26


def inspect_webm(content: Content) -> ContainerInfo:
    """Inspect a WebM or Matroska file (RFC 8794, RFC 9559); samples are counted in milliseconds."""
    segment = next((element for element in _elements(content, 0, len(content)) if element[0] == _SEGMENT), None)
    if segment is None:
        return ContainerInfo(truncated="within its header")
    _, start, end = segment
    incomplete = by_bytes(end - len(content)) if end is not None and end > len(content) else None
    values: dict[bytes, bytes] = {}
    for kind, offset, stop in _elements(content, start, len(content)):
        if kind in (_INFO, _TRACKS):
            values |= _values(content, offset, min(stop or len(content), len(content)))
    duration = values.get(_DURATION, b"")
    if len(duration) in (4, 8):
        nanoseconds = struct.unpack(">f" if len(duration) == 4 else ">d", duration)[0] * _integer(values, _SCALE, 10**6)
        milliseconds = (nanoseconds - _integer(values, _DELAY, 0)) / 1e6 - _LAST_PACKET
        if 0 < milliseconds < 1e12:
            return ContainerInfo(incomplete=incomplete, rate=1000, fixed_rate=False, min_samples=int(milliseconds))
    return ContainerInfo(truncated=incomplete)


def _values(content: Content, start: int, stop: int) -> dict[bytes, bytes]:
    """Return the values of the elements that `inspect_webm` needs."""
    values: dict[bytes, bytes] = {}
    for kind, offset, end in _elements(content, start, stop):
        if kind == _TRACK:
            values |= _values(content, offset, min(end or stop, stop))
        elif kind in (_SCALE, _DURATION, _DELAY) and end is not None:
            values[kind] = content[offset:end]
    return values


def _integer(values: dict[bytes, bytes], kind: bytes, default: int) -> int:
    return int.from_bytes(values[kind]) if kind in values else default


def _elements(content: Content, offset: int, stop: int) -> Iterator[tuple[bytes, int, int | None]]:
    """Yield the identifier, the start of the content and the end of each element; the end is None if unknown."""
    while offset + 2 <= stop:
        id_length = 9 - content[offset].bit_length()
        size, length = _variable_integer(content, offset + id_length)
        start = offset + id_length + length
        # Section 6.2 of RFC 8794: all bits of the size are ones if it is unknown.
        end = None if size == (1 << 7 * length) - 1 else start + size
        yield content[offset : offset + id_length], start, end
        if end is None:
            return
        offset = end


def _variable_integer(content: Content, offset: int) -> tuple[int, int]:
    """Return a variable-length integer and its length in bytes, given by the leading zeros (RFC 8794, section 4)."""
    length = 9 - content[offset].bit_length() if offset < len(content) else 1
    return int.from_bytes(content[offset : offset + length]) & (1 << 7 * length) - 1, length
