"""Ogg: pages, the positions that they state, and the durations of the packets of Vorbis and Opus.

Sources: RFC 3533 (pages), Vorbis I specification, sections 4.2 and A.2, RFC 7845 and RFC 6716, section 3.1 (Opus).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from speechmill.corpus.containers.info import MAX_MISSING_SECONDS, ContainerInfo, Content

_UNKNOWN = (1 << 64) - 1

# The usual size in samples.
_SHORT_BLOCK = 256


@dataclass
class _Stream:
    """One logical stream, page by page.

    Attributes:
        packets: The first three packets.
        duration: Returns the samples of a packet; None if the codec is another than Vorbis or Opus.
        headers: The number of packets before the first one with audio.
        count: The number of packets so far.
        start: The position of the first sample.
        held: The samples of all packets.
        position: The position of the newest page.
    """

    packets: list[bytes] = field(default_factory=list)
    duration: Callable[[bytes], int] | None = None
    rate: int | None = None
    channels: int | None = None
    skipped: int = 0
    headers: int = 0
    count: int = 0
    start: int | None = None
    held: int = 0
    position: int = 0
    ended: bool = False
    partial: bytes = b""

    def add_page(self, position: int, last: bool, packets: list[bytes], complete: bool) -> None:
        """Add the packets that end on a page, the position that it states, and whether all its packets are there."""
        for packet in packets:
            if len(self.packets) < 3:
                self.packets.append(packet)
            self.count += 1
            if self.count == 1 and packet[:8] == b"OpusHead" and len(packet) >= 19:
                self.rate, self.channels, self.headers, self.duration = 48_000, packet[9], 2, _opus_samples
                self.skipped = int.from_bytes(packet[10:12], "little")
            elif self.count == 1 and packet[:7] == b"\x01vorbis" and len(packet) >= 29:
                self.rate, self.channels, self.headers = int.from_bytes(packet[12:16], "little"), packet[11], 3
            elif self.count == 3 and self.packets[0][:7] == b"\x01vorbis":
                self.duration = _vorbis_durations(self.packets[0], packet)
            elif self.duration and self.count > self.headers:
                self.held += self.duration(packet)
        # Pages of headers have the position 0.
        if 0 < position < _UNKNOWN:
            if self.start is None:
                # A stream may begin above 0. One that begins below has samples to discard, unless it ends here.
                self.start = max(position - self.held, 0) if complete else 0
            self.position = position
        self.ended = last

    @property
    def stated(self) -> int:
        """The number of samples that the last page states."""
        return max(self.position - (self.start or 0) - self.skipped, 0)


def _opus_samples(packet: bytes) -> int:
    """Return the samples at 48 kHz of an Opus packet, which its first byte gives, with the number of frames."""
    if not packet:
        return 0
    config, code = packet[0] >> 3, packet[0] & 3
    if config < 12:
        frame = (480, 960, 1920, 2880)[config & 3]
    elif config < 16:
        frame = (480, 960)[config & 1]
    else:
        frame = (120, 240, 480, 960)[config & 3]
    frames = (1, 2, 2)[code] if code < 3 else (packet[1] & 0x3F if len(packet) > 1 else 0)
    return frame * frames


def _vorbis_durations(identification: bytes, setup: bytes) -> Callable[[bytes], int] | None:
    """Return a function of the samples that each packet completes; None if the modes are not found.

    A packet completes a quarter of the sizes of its block and of the previous one. Its mode, which gives the size, is
    at the end of the setup header: 6 bits with their number minus one, then for each mode a flag for long blocks, 32
    zero bits, and 8 bits below 64; then a bit that is one.
    """
    sizes = 1 << (identification[28] & 15), 1 << (identification[28] >> 4)
    bits = int.from_bytes(setup, "little")
    end = bits.bit_length() - 1
    long_blocks: list[int] = []
    modes = 0
    for at in range(end - 41, 48, -41):
        if (bits >> at + 33) & 0xFF > 63 or (bits >> at + 1) & 0xFFFFFFFF or len(long_blocks) == 64:
            break
        long_blocks.insert(0, (bits >> at) & 1)
        if (bits >> at - 6 & 0x3F) + 1 == len(long_blocks):
            modes = len(long_blocks)
    if not modes:
        return None
    long_blocks = long_blocks[-modes:]
    mask = (1 << (modes - 1).bit_length()) - 1
    previous: int | None = None

    def duration(packet: bytes) -> int:
        nonlocal previous
        if not packet or packet[0] & 1:
            return 0
        mode = packet[0] >> 1 & mask
        block = sizes[long_blocks[mode]] if mode < modes else 0
        samples = 0 if previous is None else (previous + block) // 4
        previous = block
        return samples

    return duration


def inspect_ogg(content: Content) -> ContainerInfo:
    """Inspect an Ogg file, which may have several streams, one after the other."""
    streams: list[_Stream] = []
    by_serial: dict[bytes, _Stream] = {}
    offset, truncated, parallel = 0, None, False
    while (offset := content.find(b"OggS", offset)) >= 0:
        header = content[offset : offset + 27]
        lacing = content[offset + 27 : offset + 27 + header[26]] if len(header) == 27 else b""
        if len(header) < 27 or len(lacing) < header[26]:
            truncated = "within a page"
            break
        continued, first, last = bool(header[5] & 1), bool(header[5] & 2), bool(header[5] & 4)
        start = offset + 27 + len(lacing)
        offset = start + sum(lacing)
        if first:
            parallel |= any(not stream.ended for stream in streams)
            by_serial[header[14:18]] = _Stream()
            streams.append(by_serial[header[14:18]])
        if offset > len(content) and not last:
            truncated = "within a page"
        if stream := by_serial.get(header[14:18]):
            packets, stream.partial = _packets(content, start, lacing, stream.partial if continued else b"")
            stream.add_page(int.from_bytes(header[6:14], "little"), last, packets, offset <= len(content))
        if offset > len(content):
            break
    if truncated or not streams or not streams[-1].ended:
        return ContainerInfo(truncated=truncated or "before its last page")
    ffmpeg_only = "reads only the first of the chained streams" if len(streams) > 1 and not parallel else None
    if any(stream.skipped and stream.start for stream in streams):
        ffmpeg_only = "keeps the encoder's delay of an Opus stream that starts above 0"
    formats = {(stream.rate, stream.channels) for stream in streams}
    if parallel or len(formats) > 1 or not all(stream.duration for stream in streams):
        return ContainerInfo(truncated="within a page" if offset > len(content) else None, ffmpeg_only=ffmpeg_only)
    rate, channels = formats.pop()
    stated = sum(stream.stated for stream in streams)
    held = sum(max(stream.held - stream.skipped, 0) for stream in streams)
    # ffmpeg, which alone reads several streams, may drop a short block of each.
    dropped = _SHORT_BLOCK * (len(streams) - 1)
    missing = max(stated - held, 0)
    return ContainerInfo(
        truncated=f"by {missing} samples" if missing > MAX_MISSING_SECONDS * (rate or 1) else None,
        rate=rate,
        fixed_rate=streams[0].headers == 3,
        channels=channels,
        min_samples=max(min(stated, held) - dropped, 0),
        # Not all decoders skip the samples before and after those that the pages state, and ffmpeg adds some between
        # streams.
        max_samples=streams[0].held if len(streams) == 1 else math.inf,
        missing_samples=missing,
        ffmpeg_only=ffmpeg_only,
    )


def _packets(content: Content, start: int, lacing: bytes, partial: bytes) -> tuple[list[bytes], bytes]:
    """Return the complete packets that end on a page, and the bytes of the one that continues on the next page."""
    packets, length = [], 0
    for size in lacing:
        length += size
        if start + length > len(content):
            break
        if size < 255:
            packets.append(partial + content[start : start + length])
            start, length, partial = start + length, 0, b""
    return packets, partial + content[start : start + length]
