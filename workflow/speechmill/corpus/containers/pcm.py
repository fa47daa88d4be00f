"""Containers of PCM and of other encodings in blocks of a fixed size, so that the bytes give the number of samples.

Sources: Multimedia Programming Interface 1.0 (RIFF), EBU Tech 3306 (RF64), Apple's AIFF-C and Core Audio Format
specifications, Sonic Foundry's Wave64, the Creative Voice file format, and the manual pages of NIST SPHERE.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from speechmill.corpus.containers.info import MAX_MISSING_SECONDS, ContainerInfo, Content, by_bytes

Order = Literal["little", "big"]

# Programs that write to a pipe cannot go back to fill in a size, so they write about the largest one that fits. The
# smallest such value is SoX's 0x7f000000 in AIFF.
_UNKNOWN_SIZE = 0x7F000000

# Names by the bytes of a sample, and by the format code of WAV.
_INTEGERS = {1: "PCM_U8", 2: "PCM_16", 3: "PCM_24", 4: "PCM_32", 8: "PCM_64"}
_FLOATS = {4: "FLOAT", 8: "DOUBLE"}
_LAWS = {6: "ALAW", 7: "ULAW"}
_BLOCKS = {2: "MS_ADPCM", 0x11: "IMA_ADPCM", 0x31: "GSM610"}

# Bytes of a sample by its encoding.
_AIFF_BYTES = {b"fl32": 4, b"FL32": 4, b"fl64": 8, b"FL64": 8, b"ulaw": 1, b"ULAW": 1, b"alaw": 1, b"ALAW": 1}
_AIFF_INTEGERS = (b"NONE", b"sowt", b"twos", b"raw ", b"in24", b"in32")
_AU_BYTES = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}
_VOC_BYTES = {0: 1, 4: 2, 6: 1, 7: 1}

_NOT_ZERO = re.compile(rb"[^\0]")


@dataclass(frozen=True)
class _Format:
    """Samples in blocks of `block` bytes, each with `block_samples` samples of each channel."""

    rate: int
    channels: int
    block: int
    block_samples: int = 1
    subtype: str | None = None

    def seconds(self, size: int) -> float:
        return size / self.block * self.block_samples / self.rate


def _info(
    form: _Format | None, held: int, stated: int | None = None, correction: tuple[int, bytes] | None = None
) -> ContainerInfo:
    """Return the result for a file that holds `held` bytes of samples, where its header states `stated` bytes.

    `stated` is None if the header leaves the size open. Without a format, each missing byte counts as truncation.
    """
    missing = max((stated or 0) - held, 0)
    truncated = by_bytes(missing) if missing else None
    if form is None or form.rate < 1 or form.block < 1:
        return ContainerInfo(truncated=truncated, correction=correction)
    blocks, partial = divmod(held, form.block)
    samples = blocks * form.block_samples
    return ContainerInfo(
        truncated=truncated if form.seconds(missing) > MAX_MISSING_SECONDS else None,
        rate=form.rate,
        channels=form.channels,
        subtype=form.subtype,
        min_samples=samples,
        # An incomplete block of a codec holds some samples.
        max_samples=samples + (form.block_samples if partial and form.block_samples > 1 else 0),
        missing_samples=max((stated or 0) // form.block * form.block_samples - samples, 0),
        correction=correction,
    )


def _fault(what: str) -> ContainerInfo:
    return ContainerInfo(fault=what)


def _wave_format(chunk: bytes, order: Order) -> _Format | None:
    """Return the format of a WAV or W64 file; None if the bytes do not give the number of samples."""
    if len(chunk) < 16:
        return None
    code, channels, rate, _, block, bits = struct.unpack(("<" if order == "little" else ">") + "HHIIHH", chunk[:16])
    if code == 0xFFFE and len(chunk) >= 26:
        code = int.from_bytes(chunk[24:26], order)
    width = (bits + 7) // 8
    if channels == 0 or (width < block // channels <= 8 and block // channels in _INTEGERS and code in (1, 3)):
        return None  # padded samples, which decoders read in different ways
    if code == 1 and width in _INTEGERS:
        return _Format(rate, channels, channels * width, subtype=_INTEGERS[width])
    if code == 3 and width in _FLOATS:
        return _Format(rate, channels, channels * width, subtype=_FLOATS[width])
    if code in _LAWS:
        return _Format(rate, channels, channels, subtype=_LAWS[code])
    if code in _BLOCKS and len(chunk) >= 20:
        return _Format(rate, channels, block, int.from_bytes(chunk[18:20], order), _BLOCKS[code])
    return None


def _chunks(content: Content, offset: int, order: Order) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name, the offset of the content, and the size of each chunk of a RIFF or AIFF file."""
    while offset + 8 <= len(content):
        size = int.from_bytes(content[offset + 4 : offset + 8], order)
        yield content[offset : offset + 4], offset + 8, size
        offset += 8 + size + size % 2


def inspect_wav(content: Content, start: int) -> ContainerInfo:
    """Inspect a WAV file, also in big-endian order (RIFX) or with 64-bit sizes (RF64, BW64)."""
    order: Order = "big" if content[start : start + 4] == b"RIFX" else "little"
    end = len(content)
    total = start + 8 + int.from_bytes(content[start + 4 : start + 8], order)
    form, wide_size = None, None
    for name, offset, size in _chunks(content, start + 12, order):
        if name == b"fmt ":
            form = _wave_format(content[offset : offset + min(size, 40)], order)
        elif name == b"ds64":
            wide_size = offset + 8
        elif name == b"data":
            size_offset, size_bytes = offset - 4, 4
            if wide_size is not None and size == 0xFFFFFFFF:
                size_offset, size_bytes = wide_size, 8
                size = int.from_bytes(content[wide_size : wide_size + 8], order)
            if size >= _UNKNOWN_SIZE and end - offset < size:
                return _info(form, end - offset)
            if offset + size >= end:
                # If the size of the file is right, nothing is missing, and the size of the samples is wrong.
                return _info(form, end - offset, None if total == end else size)
            rest = _after_wav_samples(content, offset + size, order)
            if rest == "unknown bytes" and (size == 0 or total == end):
                return _info(form, end - offset, None, (size_offset, (end - offset).to_bytes(size_bytes, order)))
            if rest and (form is None or form.seconds(end - offset - size) > MAX_MISSING_SECONDS):
                return _fault(
                    f"after the samples that its header states, {end - offset - size} bytes with {rest} follow"
                )
            return _info(form, size, size)
    missing = total - end
    return ContainerInfo(truncated=by_bytes(missing) if 0 < missing < _UNKNOWN_SIZE else None)


def _after_wav_samples(content: Content, offset: int, order: Order) -> str | None:
    """Return what follows the samples, if it may be samples as well; None for other chunks and for zeros."""
    if not _NOT_ZERO.search(content, offset):
        return None
    for name, _, _ in _chunks(content, offset + offset % 2, order):
        if name in (b"data", b"RIFF", b"RIFX", b"RF64"):
            return f"a second {name.decode()} chunk"
        if not name.decode("latin-1").isprintable() or not name.isascii():
            return "unknown bytes"
    return None


_W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")


def inspect_w64(content: Content) -> ContainerInfo:
    """Inspect a Sony Wave64 file, whose chunks have a name of 16 bytes, and a size that includes name and size."""
    form = None
    offset, end = 40, len(content)
    while offset + 24 <= end:
        name, size = content[offset : offset + 16], int.from_bytes(content[offset + 16 : offset + 24], "little") - 24
        start = offset + 24
        if name == b"fmt " + _W64_TAIL:
            form = _wave_format(content[start : start + min(size, 40)], "little")
        elif name == b"data" + _W64_TAIL:
            if size >= 1 << 62 or size < 0:
                return _info(form, end - start)
            after = start + size + -size % 8
            if after + 24 < end and content[after + 4 : after + 16] != _W64_TAIL and _NOT_ZERO.search(content, after):
                return _fault(f"after the samples that its header states, {end - after} unknown bytes follow")
            return _info(form, min(size, end - start), size)
        offset = start + max(size, 0) + -size % 8
    return ContainerInfo(truncated="before its samples")


def inspect_aiff(content: Content) -> ContainerInfo:
    """Inspect an AIFF or AIFF-C file, whose chunks may have any order."""
    total, end = 8 + int.from_bytes(content[4:8]), len(content)
    form, samples = None, None
    for name, offset, size in _chunks(content, 12, "big"):
        if name == b"COMM":
            form = _aiff_format(content[offset : offset + min(size, 22)])
        elif name == b"SSND":
            samples = offset + 8, max(size - 8, 0)
    if samples is None:
        return ContainerInfo(truncated=by_bytes(total - end) if end < total < _UNKNOWN_SIZE else None)
    start, size = samples
    if size == 0 or start + size >= end:
        unknown = size == 0 or size >= _UNKNOWN_SIZE - 8 or total == end
        return _info(form, max(end - start, 0), None if unknown else size)
    return _info(form, size, size)


def _aiff_format(chunk: bytes) -> _Format | None:
    if len(chunk) < 18:
        return None
    channels, bits = int.from_bytes(chunk[:2]), int.from_bytes(chunk[6:8])
    # The rate is a floating-point number of 80 bits, with the exponent in front.
    rate = int.from_bytes(chunk[10:18]) >> max(16_383 + 63 - (int.from_bytes(chunk[8:10]) & 0x7FFF), 0)
    kind = chunk[18:22] or b"NONE"
    width = (bits + 7) // 8 if kind in _AIFF_INTEGERS else _AIFF_BYTES.get(kind, 0)
    return _Format(rate, channels, channels * width)


def inspect_au(content: Content) -> ContainerInfo:
    """Inspect a Sun or NeXT file, in which nothing follows the samples."""
    if len(content) < 24:
        return ContainerInfo(truncated="within its header")
    start, size, encoding, rate, channels = struct.unpack(">5I", content[4:24])
    held = len(content) - start
    form = _Format(rate, channels, channels * _AU_BYTES.get(encoding, 0))
    if size == 0 and held > 0:
        return _info(form, held, None, (8, held.to_bytes(4)))
    return _up_to_the_end(form, held, size)


def _up_to_the_end(form: _Format, held: int, stated: int) -> ContainerInfo:
    """Return the result for a file in which all bytes up to its end are samples."""
    if stated >= _UNKNOWN_SIZE:
        return _info(form, held)
    if held > stated and form.block and form.rate and form.seconds(held - stated) <= MAX_MISSING_SECONDS:
        held = stated
    return _info(form, held, max(stated, held))


def inspect_caf(content: Content) -> ContainerInfo:
    """Inspect a Core Audio file; its last chunk may have the size -1, which means up to the end."""
    form, offset, end = None, 8, len(content)
    while offset + 12 <= end:
        name, size = content[offset : offset + 4], int.from_bytes(content[offset + 4 : offset + 12], signed=True)
        start = offset + 12
        if name == b"desc" and start + 32 <= end:
            rate, kind, flags, block, block_samples, channels, _ = struct.unpack(">d4s5I", content[start : start + 32])
            if kind in (b"lpcm", b"alaw", b"ulaw") and 0 < rate < 1 << 32 and channels:
                subtype = _FLOATS.get(block // channels) if kind == b"lpcm" and flags & 1 else None
                form = _Format(round(rate), channels, block, block_samples, subtype)
        elif name == b"data":
            # The samples follow a counter of edits in 4 bytes.
            if size < 0:
                return _info(form, end - start - 4, None, (offset + 4, (end - start).to_bytes(8)))
            after = content[start + size : start + size + 4]
            if len(after) == 4 and not (after.isascii() and after.decode().isprintable()):
                return _fault(f"after the samples that its header states, {end - start - size} unknown bytes follow")
            return _info(form, min(size, end - start) - 4, size - 4)
        if size < 0:
            break
        offset = start + size
    return ContainerInfo(truncated="before its samples")


def inspect_sphere(content: Content) -> ContainerInfo:
    """Inspect a NIST SPHERE file; the number of compressed bytes is unknown."""
    header = content[:1024]
    fields = {name: int(value) for name, value in re.findall(rb"(\w+) -i (\d{1,12})\s", header)}
    coding = re.search(rb"sample_coding -s\d+ (\S+)", header)
    needed = {b"sample_count", b"sample_n_bytes", b"channel_count", b"sample_rate"}
    if not needed <= fields.keys() or (coding and coding[1] not in (b"pcm", b"ulaw", b"alaw", b"mu-law")):
        return ContainerInfo()
    header_size = re.match(rb"NIST_1A\n\s*(\d{1,6})\n", header)
    block = fields[b"channel_count"] * fields[b"sample_n_bytes"]
    form = _Format(fields[b"sample_rate"], fields[b"channel_count"], block)
    held = len(content) - int(header_size[1] if header_size else 1024)
    return _up_to_the_end(form, held, fields[b"sample_count"] * block)


def inspect_voc(content: Content) -> ContainerInfo:
    """Inspect a Creative Voice file, whose samples are in several blocks."""
    form: _Format | None = None
    extended: _Format | None = None
    offset, end = int.from_bytes(content[20:22], "little"), len(content)
    held = 0
    while offset + 4 <= end and (kind := content[offset]):
        size = int.from_bytes(content[offset + 1 : offset + 4], "little")
        start, block = offset + 4, content[offset + 4 : offset + 16].ljust(12, b"\0")
        header = 0
        if kind == 8:
            constant, codec, mode = struct.unpack("<HBB", block[:4])
            channels = mode + 1
            rate = round(256_000_000 / (65_536 - constant) / channels)
            extended = _Format(rate, channels, channels * _VOC_BYTES.get(codec, 0))
        elif kind == 1:
            header = 2
            form = extended or _Format(round(1_000_000 / (256 - block[0])), 1, _VOC_BYTES.get(block[1], 0))
        elif kind == 9:
            header = 12
            rate, _, channels, codec = struct.unpack("<IBBH", block[:8])
            form = _Format(rate, channels, channels * _VOC_BYTES.get(codec, 0))
        elif kind in (3, 6, 7):
            return _fault("it has blocks of silence or repeated blocks, which decoders skip")
        if kind in (1, 2, 9):
            held += max(size - header, 0)
        offset = start + size
    if offset > end:
        return ContainerInfo(truncated="within a block")
    return _info(form, held, held)
