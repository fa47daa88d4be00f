"""Audio files of many containers and encoders, whole and with faults in their headers, as corpora have them.

All hold the second of speech-like noise that `speech` returns, unless their names say otherwise. ffmpeg, SoX and
libsndfile write them, or they are put together from bytes, so that a header can state anything.
"""

import struct
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

from material import noise

# Writes a file to the path given.
Write = Callable[[Path], None]
Edit = Callable[[bytes], bytes]


@dataclass(frozen=True)
class OddFile:
    """An audio file that a test can make.

    Attributes:
        suffix: The extension of the file's name.
        write: Writes the file to a path.
        reason: The reason with which it is rejected; None if it is decoded.
        message: A part of the message with which it is rejected.
        missing: The seconds that a decoded file lacks of what its header states.
        by_ffmpeg: Whether ffmpeg decodes all its samples right; if not, they are compared with those of `speech`.
        least: The least ratio of signal to difference in that comparison, in dB, where codecs or decoders differ.
        start: The number of samples at 16 kHz that ffmpeg does not discard at the start.
        longer: The most samples at 16 kHz by which the lengths differ.
    """

    suffix: str
    write: Write
    reason: str | None = None
    message: str = ""
    missing: float = 0.0
    by_ffmpeg: bool = True
    least: float = 45
    start: int = 0
    longer: int = 0

    def make(self, folder: Path) -> Path:
        """Write the file into `folder`, and return its path."""
        path = folder / f"odd{self.suffix}"
        self.write(path)
        return path


def speech(rate: int = 16_000) -> NDArray[np.float64]:
    """Return the second of sound that the files hold, shape (samples,); it is the same at all rates."""
    return np.asarray(soxr.resample(noise(1.0, 8_000, seed=7), 8_000, rate))


def int16() -> NDArray[np.int16]:
    """Return `speech` as little-endian 16-bit samples at 16 kHz."""
    return np.rint(speech() * 32767).astype("<i2")


def speech_u8() -> bytes:
    return np.rint(speech() * 127 + 128).astype(np.uint8).tobytes()


def by_libsndfile(kind: str, subtype: str, rate: int = 16_000, channels: int = 1, endian: str = "FILE") -> Write:
    gains = np.linspace(0.5, 1.5, channels) if channels > 1 else np.ones(1)

    def write(path: Path) -> None:
        sf.write(path, speech(rate)[:, np.newaxis] * gains, rate, format=kind, subtype=subtype, endian=endian)

    return write


def by_ffmpeg(*options: str, rate: int = 48_000, pipe: bool = False) -> Write:
    """Encode with ffmpeg, to a file or to a pipe, so that it cannot go back to its header."""

    def write(path: Path) -> None:
        source = path.with_name("source.wav")
        sf.write(source, speech(rate), rate)
        command = ["ffmpeg", "-v", "error", "-y", "-i", source, *options, "-" if pipe else path]
        encoded = subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL).stdout
        if pipe:
            path.write_bytes(encoded)

    return write


def by_sox(*options: str, rate: int = 16_000) -> Write:
    def write(path: Path) -> None:
        source = path.with_name("source.wav")
        sf.write(source, speech(rate), rate)
        subprocess.run(["sox", "-V1", "-D", source, *options, path], check=True)

    return write


def bytes_of(content: Callable[[], bytes]) -> Write:
    def write(path: Path) -> None:
        path.write_bytes(content())

    return write


def edited(write: Write, *edits: Edit) -> Write:
    """Return what writes a file with its bytes changed."""

    def write_edited(path: Path) -> None:
        write(path)
        encoded = path.read_bytes()
        for edit in edits:
            encoded = edit(encoded)
        path.write_bytes(encoded)

    return write_edited


def chunk(name: bytes, content: bytes, size: int | None = None, order: str = "<") -> bytes:
    """Return a chunk of RIFF or AIFF; `size` is what its header states if that is wrong."""
    header = name + struct.pack(f"{order}I", len(content) if size is None else size)
    return header + content + b"\0" * (len(content) % 2)


def riff(*chunks: bytes, size: int | None = None, name: bytes = b"RIFF", order: str = "<") -> bytes:
    content = b"WAVE" + b"".join(chunks)
    return name + struct.pack(f"{order}I", len(content) if size is None else size) + content


def wave_format(code: int = 1, bits: int = 16, rate: int = 16_000, channels: int = 1, order: str = "<") -> bytes:
    block = channels * bits // 8
    return chunk(b"fmt ", struct.pack(f"{order}HHIIHH", code, channels, rate, block * rate, block, bits), order=order)


def extensible(code: int, bits: int, valid_bits: int, rate: int = 16_000, channels: int = 1) -> bytes:
    """Return the format chunk of WAVE_FORMAT_EXTENSIBLE, in which a GUID holds the code."""
    block = channels * bits // 8
    start = struct.pack("<HHIIHHHHI", 0xFFFE, channels, rate, block * rate, block, bits, 22, valid_bits, 4)
    return chunk(b"fmt ", start + uuid.UUID(f"{code:08x}-0000-0010-8000-00aa00389b71").bytes_le)


PCM = wave_format()


def data(stated: int | None = None, keep: float = 1.0) -> bytes:
    """Return the data chunk of SPEECH in 16 bits, or of the first `keep` of it."""
    samples = int16()
    return chunk(b"data", samples[: round(keep * len(samples))].tobytes(), stated)


def w64_chunk(name: bytes, content: bytes, size: int | None = None, tail: str = "f3acd3118cd100c04f8edb8a") -> bytes:
    stated = 24 + len(content) if size is None else size
    return name + bytes.fromhex(tail) + struct.pack("<Q", stated) + content + bytes(-len(content) % 8)


def w64(form: bytes, samples: bytes, stated: int | None = None) -> bytes:
    """Return a Sony Wave64 file; `form` is the content of a format chunk, `stated` the size of the data."""
    parts = w64_chunk(b"fmt ", form) + w64_chunk(b"data", samples, None if stated is None else 24 + stated)
    body = b"wave" + bytes.fromhex("f3acd3118cd100c04f8edb8a") + parts
    return w64_chunk(b"riff", body, 24 + len(body), "2e91cf11a5d628db04c10000")


def voc(*blocks: tuple[int, bytes]) -> bytes:
    """Return a Creative Voice file of blocks, each with its type."""
    content = b"".join(bytes([kind]) + struct.pack("<I", len(block))[:3] + block for kind, block in blocks)
    return struct.pack("<19sBHHH", b"Creative Voice File", 0x1A, 26, 0x114, 0x111F) + content + b"\0"


VOC_FORMAT = struct.pack("<IBBHI", 16_000, 16, 1, 4, 0)


def voc_blocks() -> bytes:
    parts = [part.tobytes() for part in np.array_split(int16(), 40)]
    return voc((9, VOC_FORMAT + parts[0]), *((2, part) for part in parts[1:]))


def voc_8_bits(*blocks: tuple[int, bytes]) -> bytes:
    samples = np.rint(speech(8_000) * 127 + 128).astype(np.uint8).tobytes()
    # The time constant of 8 kHz is 256 - 1,000,000 / 8,000; then comes the codec, 0 for 8 bits.
    return voc((1, bytes([131, 0]) + samples[:3000]), *blocks, (2, samples[3000:]))


def voc_stereo() -> bytes:
    """Return a file of 8 bits in two channels, as block type 8 states before a block of type 1."""
    samples = np.repeat(np.rint(speech() * 127 + 128).astype(np.uint8), 2).tobytes()
    # The time constant of both channels together: 65,536 - 256,000,000 / 32,000.
    return voc((8, struct.pack("<HBB", 65_536 - 8_000, 0, 1)), (1, bytes([256 - 31, 0]) + samples))


def rf64(name: bytes, data_size: int) -> bytes:
    """Return a WAV file whose sizes are in a chunk of 64-bit numbers (EBU Tech 3306)."""
    sizes = struct.pack("<QQQI", 36 + 28 + 8 + S16_SIZE, data_size, S16_SIZE // 2, 0)
    return riff(chunk(b"ds64", sizes), PCM, data(0xFFFFFFFF), name=name, size=0xFFFFFFFF)


def three_gp(path: Path) -> None:
    """Write AMR in 3GP, as phones do."""
    source = path.with_name("source.amr")
    by_sox("-r", "8000", "-t", "amr-nb")(source)
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", source, "-c:a", "copy", path], check=True)


def silent_video(path: Path) -> None:
    command = ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", "color=s=16x16:d=0.2", "-c:v", "mpeg4", path]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def aiff(
    samples: bytes, kind: bytes = b"", frames: int = 16_000, stated: int | None = None, size: int | None = None
) -> bytes:
    """Return an AIFF file, or AIFC if `kind`, the compression, is given; 16 bits unless it is `fl32`."""
    bits = 32 if kind == b"fl32" else 16
    # The rate is a number of 80 bits: 16,000 is 0xFA00 * 2 ** -2, the exponent is biased by 16,383.
    common = struct.pack(">hIh", 1, frames, bits) + struct.pack(">HHIH", 16_383 + 13, 0xFA00, 0, 0)
    if kind:
        common += kind + b"\x00\x00"
    sound = struct.pack(">II", 0, 0) + samples
    parts = (b"AIFC" + chunk(b"FVER", struct.pack(">I", 0xA2805140), order=">")) if kind else b"AIFF"
    parts += chunk(b"COMM", common, order=">") + chunk(b"SSND", sound, stated, order=">")
    return b"FORM" + struct.pack(">I", len(parts) if size is None else size) + parts


def au(samples: bytes, stated: int, encoding: int = 3, note: bytes = b"") -> bytes:
    return struct.pack(">4s5I", b".snd", 24 + len(note), stated, encoding, 16_000, 1) + note + samples


def caf(samples: bytes, stated: int) -> bytes:
    """Return a Core Audio file of big-endian 16-bit samples; a size of -1 means up to the end of the file."""
    description = struct.pack(">d4s5I", 16_000, b"lpcm", 0, 2, 1, 1, 16)
    head = b"caff" + struct.pack(">HH", 1, 0) + b"desc" + struct.pack(">q", len(description)) + description
    return head + b"data" + struct.pack(">qI", stated, 0) + samples


def sphere(samples: bytes, count: int, coding: str = "pcm", width: int = 2) -> bytes:
    fields = (
        f"NIST_1A\n   1024\nchannel_count -i 1\nsample_rate -i 16000\nsample_n_bytes -i {width}\n"
        f"sample_count -i {count}\nsample_coding -s{len(coding)} {coding}\nsample_byte_format -s2 01\n"
        f"sample_sig_bits -i {8 * width}\nend_head\n"
    )
    return fields.encode().ljust(1024) + samples


def replace_bytes(at: int, value: bytes) -> Edit:
    return lambda encoded: encoded[:at] + value + encoded[at + len(value) :]


def cut_bytes(count: int) -> Edit:
    """Return an edit that takes bytes off the end."""
    return lambda encoded: encoded[:-count]


def keep_share(share: float) -> Edit:
    return lambda encoded: encoded[: round(share * len(encoded))]


def flac_length(samples: int) -> Edit:
    """Return an edit of the number of samples in a FLAC file: RFC 9639, section 8.2, 36 bits up to byte 26."""
    return lambda encoded: encoded[:21] + bytes([encoded[21] & 0xF0]) + samples.to_bytes(4) + encoded[26:]


def id3(size: int) -> bytes:
    """Return an ID3v2 tag with `size` bytes, as a picture takes them."""
    content = b"APIC" + struct.pack(">IH", size - 10, 0) + b"\0image/jpeg\0\3\0" + b"\xff\xd8\xff\xe0"
    digits = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x03\0\0" + digits + content.ljust(size, b"\xff")


APE = b"APETAGEX" + struct.pack("<IIII", 2000, 32, 0, 1 << 31) + bytes(8)
APE_TAG = b"\xff\xfb" * 30 + APE + b"TAG" + bytes(125)


def xing_frames(change: Callable[[int], int]) -> Edit:
    """Return an edit of the number of frames in the Xing or Info header of an MP3 file."""

    def edit(encoded: bytes) -> bytes:
        at = max(encoded.find(b"Xing", 0, 4096), encoded.find(b"Info", 0, 4096)) + 8
        return encoded[:at] + change(int.from_bytes(encoded[at : at + 4])).to_bytes(4) + encoded[at + 4 :]

    return edit


def without_id3(encoded: bytes) -> bytes:
    if encoded[:3] != b"ID3":
        return encoded
    a, b, c, d = encoded[6:10]
    return encoded[10 + (a << 21 | b << 14 | c << 7 | d) :]


@dataclass
class Page:
    """A page of Ogg; `granule` is the position at its end."""

    flags: int
    granule: int
    serial: int
    lacing: bytes
    body: bytes

    def encode(self, number: int) -> bytes:
        head = struct.pack("<4sBBqIIIB", b"OggS", 0, self.flags, self.granule, self.serial, number, 0, len(self.lacing))
        whole = head + self.lacing + self.body
        return whole[:22] + struct.pack("<I", _ogg_crc(whole)) + whole[26:]


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1 ^ 0x04C11DB7 if value & 0x80000000 else value << 1) & 0xFFFFFFFF
        table.append(value)
    return table


_CRC = _crc_table()


def _ogg_crc(page: bytes) -> int:
    value = 0
    for byte in page:
        value = (value << 8 & 0xFFFFFFFF) ^ _CRC[value >> 24 ^ byte]
    return value


def ogg_pages(encoded: bytes) -> Iterator[Page]:
    at = 0
    while at < len(encoded):
        count = encoded[at + 26]
        lacing = encoded[at + 27 : at + 27 + count]
        start = at + 27 + count
        granule, serial = struct.unpack_from("<qI", encoded, at + 6)
        yield Page(encoded[at + 5], granule, serial, lacing, encoded[start : start + sum(lacing)])
        at = start + sum(lacing)


def ogg(pages: list[Page]) -> bytes:
    return b"".join(page.encode(number) for number, page in enumerate(pages))


def first_audio_beside_headers(encoded: bytes) -> bytes:
    """Put the first audio packets of Ogg Vorbis onto the page on which the headers end."""
    first, second, third, *rest = ogg_pages(encoded)
    joint = Page(third.flags, third.granule, second.serial, second.lacing + third.lacing, second.body + third.body)
    assert len(joint.lacing) <= 255
    return ogg([first, joint, *rest])


def shifted_granules(shift: int) -> Edit:
    """Return an edit that moves the start of the samples: a recording of a running stream starts above 0."""

    def edit(encoded: bytes) -> bytes:
        pages = list(ogg_pages(encoded))
        for page in pages:
            page.granule += shift if page.granule > 0 else 0
        return ogg(pages)

    return edit


def last_granule(change: int) -> Edit:
    def edit(encoded: bytes) -> bytes:
        pages = list(ogg_pages(encoded))
        pages[-1].granule += change
        return ogg(pages)

    return edit


def chained(encoded: bytes) -> bytes:
    pages = list(ogg_pages(encoded))
    again = [Page(page.flags, page.granule, page.serial + 1, page.lacing, page.body) for page in pages]
    return ogg(pages) + ogg(again)


def _riff_bytes(*chunks: bytes, size: int | None = None) -> Write:
    return bytes_of(lambda: riff(*chunks, size=size))


def _scaled(bits: int, used_bits: int | None = None) -> bytes:
    """Return `speech` as little-endian integers, of which the upper `used_bits` hold the sample."""
    width = bits // 8
    used = used_bits or bits
    # In the precision of 64 bits, the largest float64 below 1 still fits.
    samples = np.rint(speech() * 2.0 ** (used - 1)).astype("<i8") << (bits - used)
    return samples.view(np.uint8).reshape(-1, 8)[:, :width].tobytes()


def _floats(kind: str = "<f4") -> bytes:
    return speech().astype(kind).tobytes()


S16, S16_SIZE = int16().tobytes(), 2 * 16_000
LIST = chunk(b"LIST", b"INFOISFT\x0e\0\0\0Lavf59.27.100\0")
# 0.045 s, two buffers of a recorder that writes its header before it stops.
SHORT_BY = 1452

FLAC = by_libsndfile("FLAC", "PCM_16")
VORBIS = by_ffmpeg("-c:a", "libvorbis", "-page_duration", "200000", rate=16_000)
OPUS = by_ffmpeg("-c:a", "libopus", "-f", "opus")
MP3 = by_ffmpeg("-b:a", "64k", "-f", "mp3")
M4A_IN_FRONT = by_ffmpeg("-movflags", "+faststart")

ODD_FILES: dict[str, OddFile] = {
    **{
        f"{kind} {subtype}": OddFile(suffix, by_libsndfile(kind, subtype, rate))
        for kind, suffix, rate, subtypes in [
            ("WAV", ".wav", 16_000, "PCM_U8 PCM_24 PCM_32 DOUBLE ULAW ALAW"),
            ("WAV", ".wav", 8_000, "IMA_ADPCM GSM610"),
            ("WAVEX", ".wav", 44_100, "PCM_16 FLOAT"),
            ("RF64", ".wav", 16_000, "PCM_16"),
            ("W64", ".w64", 16_000, "PCM_16 FLOAT GSM610"),
            ("CAF", ".caf", 16_000, "FLOAT ALAC_16"),
            ("AIFF", ".aiff", 16_000, "PCM_S8 PCM_24 FLOAT ULAW"),
            ("AU", ".au", 16_000, "PCM_24 ALAW"),
            ("NIST", ".sph", 16_000, "PCM_16 ULAW"),
            ("FLAC", ".flac", 48_000, "PCM_S8 PCM_24"),
            ("MP3", ".mp3", 16_000, "MPEG_LAYER_III"),
            ("OGG", ".ogg", 16_000, "OPUS"),
        ]
        for subtype in subtypes.split()
    },
    # ffmpeg decodes G.721 with another predictor, and no other format of these.
    **{
        f"{kind} {subtype}": OddFile(suffix, by_libsndfile(kind, subtype), by_ffmpeg=False, least=30, longer=80)
        for kind, suffix, subtype in [
            ("WAV", ".wav", "G721_32"),
            ("PAF", ".paf", "PCM_16"),
            ("SVX", ".iff", "PCM_16"),
            ("HTK", ".htk", "PCM_16"),
            ("MAT5", ".mat", "FLOAT"),
        ]
    },
    "WAV MS_ADPCM": OddFile(".wav", by_libsndfile("WAV", "MS_ADPCM"), least=30),
    # ffmpeg does not cut the last block of Vorbis to the stated length, or cuts too much.
    "OGG VORBIS": OddFile(".ogg", by_libsndfile("OGG", "VORBIS"), longer=128),
    "wav of three channels": OddFile(".wav", by_libsndfile("WAVEX", "PCM_16", 32_000, channels=3)),
    "wav in big-endian order (RIFX)": OddFile(".wav", by_libsndfile("WAV", "PCM_16", endian="BIG"), by_ffmpeg=False),
    "caf of integers in little-endian order": OddFile(".caf", by_libsndfile("CAF", "PCM_16", endian="LITTLE")),
    # What encoders write.
    "wav from ffmpeg's pipe": OddFile(".wav", by_ffmpeg("-f", "wav", pipe=True)),
    "wav of mp3": OddFile(".wav", by_ffmpeg("-c:a", "libmp3lame")),
    "wav of G.726": OddFile(".wav", by_ffmpeg("-c:a", "g726", rate=8_000)),
    "w64 of floats by ffmpeg": OddFile(".w64", by_ffmpeg("-c:a", "pcm_f32le")),
    "w64 of 24 bits by ffmpeg": OddFile(".w64", by_ffmpeg("-c:a", "pcm_s24le")),
    "aiff of little-endian samples (sowt)": OddFile(".aiff", by_ffmpeg("-c:a", "pcm_s16le")),
    "caf of opus": OddFile(".caf", by_ffmpeg("-c:a", "libopus")),
    "voc by ffmpeg": OddFile(".voc", by_ffmpeg(rate=16_000)),
    "au from ffmpeg's pipe": OddFile(".au", by_ffmpeg("-f", "au", pipe=True)),
    "flac of unknown length": OddFile(".flac", by_ffmpeg("-f", "flac", pipe=True)),
    "flac in ogg": OddFile(".oga", by_ffmpeg("-c:a", "flac")),
    "opus": OddFile(".opus", by_ffmpeg()),
    "opus of two channels from a pipe": OddFile(".opus", by_ffmpeg("-ac", "2", "-f", "opus", pipe=True)),
    "vorbis by ffmpeg": OddFile(".ogg", by_ffmpeg("-c:a", "libvorbis"), longer=43),
    "speex": OddFile(".spx", by_ffmpeg("-c:a", "libspeex", "-ar", "16000")),
    "mp3 of variable bitrate without a Xing header": OddFile(".mp3", by_ffmpeg("-q:a", "3", "-write_xing", "0")),
    "mp3 of constant bitrate without a Xing header": OddFile(".mp3", by_ffmpeg("-b:a", "48k", "-write_xing", "0")),
    "mp3 of 8 kHz": OddFile(".mp3", by_ffmpeg(rate=8_000)),
    "mp3 by sox": OddFile(".mp3", by_sox(rate=22_050)),
    "mp2": OddFile(".mp2", by_ffmpeg("-c:a", "mp2")),
    "m4a": OddFile(".m4a", by_ffmpeg()),
    "m4a of alac": OddFile(".m4a", by_ffmpeg("-c:a", "alac", "-sample_fmt", "s16p")),
    "m4a with its index in front": OddFile(".m4a", by_ffmpeg("-movflags", "+faststart")),
    "m4a in fragments": OddFile(".mp4", by_ffmpeg("-movflags", "frag_keyframe+empty_moov", "-frag_duration", "200000")),
    "mov of 16 bits": OddFile(".mov", by_ffmpeg("-c:a", "pcm_s16be")),
    "mp4 of opus": OddFile(".mp4", by_ffmpeg("-c:a", "libopus", "-strict", "-2")),
    "aac without a container": OddFile(".aac", by_ffmpeg()),
    "webm": OddFile(".webm", by_ffmpeg()),
    "webm from a pipe": OddFile(".webm", by_ffmpeg("-f", "webm", pipe=True)),
    "mkv of vorbis": OddFile(".mkv", by_ffmpeg("-c:a", "libvorbis")),
    "mkv of flac": OddFile(".mkv", by_ffmpeg("-c:a", "flac")),
    "wma": OddFile(".wma", by_ffmpeg()),
    "tta": OddFile(".tta", by_ffmpeg()),
    "wavpack": OddFile(".wv", by_ffmpeg("-sample_fmt", "s16p")),
    "ac3": OddFile(".ac3", by_ffmpeg()),
    "transport stream of aac": OddFile(".ts", by_ffmpeg("-c:a", "aac")),
    "amr": OddFile(".amr", by_sox("-r", "8000", "-t", "amr-nb")),
    "3gp of amr": OddFile(".3gp", lambda path: three_gp(path)),
    "gsm without a header": OddFile(".gsm", by_sox("-r", "8000", "-t", "gsm"), by_ffmpeg=False, least=10),
    "mu-law without a header": OddFile(".ul", by_sox("-r", "8000", "-t", "ul"), by_ffmpeg=False, least=25),
    "dialogic adpcm without a header": OddFile(".vox", by_sox("-r", "8000", "-t", "vox"), by_ffmpeg=False, least=20),
    # WAV with unusual encodings, chunks and sizes.
    "wav of 64-bit integers": OddFile(".wav", bytes_of(lambda: riff(wave_format(1, 64), chunk(b"data", _scaled(64))))),
    "wav of 24 bits in 32": OddFile(
        ".wav", bytes_of(lambda: riff(extensible(1, 32, 24), chunk(b"data", _scaled(32, 24)))), by_ffmpeg=False
    ),
    "wav of 20 bits in 24": OddFile(
        ".wav", bytes_of(lambda: riff(extensible(1, 24, 20), chunk(b"data", _scaled(24, 20))))
    ),
    "wav of doubles with a GUID": OddFile(
        ".wav", bytes_of(lambda: riff(extensible(3, 64, 64), chunk(b"data", _floats("<f8"))))
    ),
    "wav of half-precision floats": OddFile(
        ".wav",
        bytes_of(lambda: riff(wave_format(3, 16), chunk(b"data", _floats("<f2")))),
        reason="unreadable",
    ),
    "wav with chunks on both sides of its samples": OddFile(".wav", _riff_bytes(LIST, PCM, LIST, data(), LIST)),
    "wav with an odd chunk that is not padded": OddFile(
        ".wav",
        bytes_of(lambda: riff(PCM, chunk(b"LIST", b"INFO\0" * 3)[:-1], data())),
        reason="unreadable",
        message="No 'data' chunk",
    ),
    "wav of one byte a sample, an odd number": OddFile(
        ".wav", bytes_of(lambda: riff(wave_format(1, 8), chunk(b"data", speech_u8()[:15_999])[:-1]))
    ),
    "wav behind a tag": OddFile(".wav", bytes_of(lambda: id3(500) + riff(PCM, data()))),
    "wav before zeros": OddFile(".wav", bytes_of(lambda: riff(PCM, data()) + bytes(600))),
    "wav of two data chunks": OddFile(
        ".wav",
        bytes_of(lambda: riff(PCM, chunk(b"data", S16[:16_000]), chunk(b"data", S16[16_000:]))),
        reason="unreadable",
    ),
    "wav behind another wav": OddFile(
        ".wav", bytes_of(lambda: riff(PCM, data()) + riff(PCM, data())), reason="unreadable"
    ),
    "wav of unknown size": OddFile(".wav", _riff_bytes(PCM, data(0xFFFFFFFF), size=0xFFFFFFFF)),
    "wav whose size was never written": OddFile(".wav", _riff_bytes(PCM, data(0), size=0)),
    "wav that states two buffers too many": OddFile(
        ".wav", _riff_bytes(PCM, data(S16_SIZE + SHORT_BY), size=36 + S16_SIZE + SHORT_BY), missing=SHORT_BY / 32_000
    ),
    "wav that lacks half": OddFile(
        ".wav", _riff_bytes(PCM, data(S16_SIZE, keep=0.5), size=36 + S16_SIZE), reason="truncated"
    ),
    "wav that lacks its last byte": OddFile(".wav", edited(_riff_bytes(PCM, data()), cut_bytes(1)), missing=1 / 16_000),
    "wav whose data states half, its file all": OddFile(
        ".wav", bytes_of(lambda: riff(PCM, data(S16_SIZE // 2))), by_ffmpeg=False
    ),
    "wav that states half": OddFile(
        ".wav", _riff_bytes(PCM, data(S16_SIZE // 2), size=36 + S16_SIZE // 2), reason="unreadable"
    ),
    "wav whose data states too much, its file not": OddFile(".wav", bytes_of(lambda: riff(PCM, data(3 * S16_SIZE)))),
    "wav with a wrong block size": OddFile(".wav", edited(_riff_bytes(PCM, data()), replace_bytes(32, b"\x01\x00"))),
    "rf64 of unknown size": OddFile(".wav", bytes_of(lambda: rf64(b"RF64", 0)), by_ffmpeg=False),
    "bw64": OddFile(".wav", bytes_of(lambda: rf64(b"BW64", S16_SIZE))),
    "rf64 that lacks half": OddFile(
        ".wav", edited(bytes_of(lambda: rf64(b"RF64", S16_SIZE)), cut_bytes(S16_SIZE // 2)), reason="truncated"
    ),
    "w64 that states two buffers too many": OddFile(
        ".w64", bytes_of(lambda: w64(PCM[8:], S16, S16_SIZE + SHORT_BY)), missing=SHORT_BY / 32_000
    ),
    "w64 that lacks half": OddFile(".w64", bytes_of(lambda: w64(PCM[8:], S16[:16_000], S16_SIZE)), reason="truncated"),
    # Other containers whose header states a length.
    "voc of many blocks": OddFile(".voc", bytes_of(voc_blocks)),
    "voc of 8 bits with a text": OddFile(".voc", bytes_of(lambda: voc_8_bits((5, b"a text\0")))),
    "voc with silence": OddFile(
        ".voc", bytes_of(lambda: voc_8_bits((3, b"\xff\x03\x83"))), reason="unreadable", message="silence"
    ),
    "voc with a repeated block": OddFile(
        ".voc", bytes_of(lambda: voc_8_bits((6, b"\x01\0"), (7, b""))), reason="unreadable", message="repeated"
    ),
    "voc of two channels": OddFile(".voc", bytes_of(voc_stereo)),
    "voc that lacks half": OddFile(".voc", edited(bytes_of(voc_blocks), keep_share(0.5)), reason="truncated"),
    "aiff": OddFile(".aiff", bytes_of(lambda: aiff(int16().byteswap().tobytes()))),
    "aifc of floats (fl32)": OddFile(".aifc", bytes_of(lambda: aiff(_floats(">f4"), b"fl32"))),
    "aifc in little-endian order (sowt)": OddFile(".aifc", bytes_of(lambda: aiff(S16, b"sowt"))),
    "aiff of no stated samples": OddFile(".aiff", bytes_of(lambda: aiff(int16().byteswap().tobytes(), frames=0))),
    "aiff that states two buffers too many": OddFile(
        ".aiff",
        bytes_of(lambda: aiff(int16().byteswap().tobytes()[:-SHORT_BY], stated=8 + S16_SIZE, size=46 + S16_SIZE)),
        missing=SHORT_BY / 32_000,
    ),
    "aiff that states half": OddFile(
        ".aiff", bytes_of(lambda: aiff(int16().byteswap().tobytes(), frames=8_000, stated=8 + S16_SIZE))
    ),
    "au of unknown size": OddFile(".au", bytes_of(lambda: au(int16().byteswap().tobytes(), 0xFFFFFFFF))),
    "au of size 0": OddFile(".au", bytes_of(lambda: au(int16().byteswap().tobytes(), 0))),
    "au with a note": OddFile(
        ".au", bytes_of(lambda: au(int16().byteswap().tobytes(), S16_SIZE, note=b"recorded in a forest\0\0\0\0"))
    ),
    "au that states two buffers too many": OddFile(
        ".au", bytes_of(lambda: au(int16().byteswap().tobytes(), S16_SIZE + SHORT_BY)), missing=SHORT_BY / 32_000
    ),
    "au that states half": OddFile(".au", bytes_of(lambda: au(int16().byteswap().tobytes(), S16_SIZE // 2))),
    "caf of unknown size": OddFile(".caf", bytes_of(lambda: caf(int16().byteswap().tobytes(), -1))),
    "caf that lacks half": OddFile(
        ".caf", bytes_of(lambda: caf(int16().byteswap().tobytes()[:16_000], S16_SIZE + 4)), reason="truncated"
    ),
    "caf that states half": OddFile(
        ".caf", bytes_of(lambda: caf(int16().byteswap().tobytes(), S16_SIZE // 2 + 4)), reason="unreadable"
    ),
    "sphere that states two buffers too many": OddFile(
        ".sph", bytes_of(lambda: sphere(S16, 16_000 + SHORT_BY // 2)), missing=SHORT_BY / 32_000
    ),
    "sphere that states half": OddFile(".sph", bytes_of(lambda: sphere(S16, 8_000))),
    "sphere of no stated samples": OddFile(".sph", bytes_of(lambda: sphere(S16, 0))),
    # FLAC.
    "flac behind a tag": OddFile(".flac", edited(FLAC, lambda encoded: id3(70_000) + encoded)),
    "flac with a wrong checksum of its samples": OddFile(".flac", edited(FLAC, replace_bytes(26, bytes(range(16))))),
    "flac that states half": OddFile(".flac", edited(FLAC, flac_length(8_000))),
    "flac that states a little too much": OddFile(".flac", edited(FLAC, flac_length(16_800)), missing=0.05),
    "flac that states too much": OddFile(".flac", edited(FLAC, flac_length(24_000)), reason="truncated"),
    "flac that lacks half": OddFile(".flac", edited(FLAC, keep_share(0.5)), reason="truncated"),
    "flac before a tag": OddFile(".flac", edited(FLAC, lambda encoded: encoded + b"TAG" + bytes(125))),
    # Ogg.
    "vorbis with audio beside the headers": OddFile(".ogg", edited(VORBIS, first_audio_beside_headers), longer=128),
    "vorbis of a running stream": OddFile(".ogg", edited(VORBIS, shifted_granules(160_000)), longer=128),
    "vorbis whose start is cut off": OddFile(".ogg", edited(VORBIS, shifted_granules(-300)), start=300, longer=128),
    "vorbis of two streams": OddFile(".ogg", edited(VORBIS, chained), longer=512),
    "vorbis before zeros": OddFile(".ogg", edited(VORBIS, lambda encoded: encoded + bytes(1000)), longer=128),
    "vorbis that states a little too much": OddFile(
        ".ogg", edited(VORBIS, last_granule(800)), missing=0.042, longer=800
    ),
    "vorbis that states too much": OddFile(".ogg", edited(VORBIS, last_granule(8000)), reason="truncated"),
    "vorbis that states less": OddFile(".ogg", edited(VORBIS, last_granule(-300)), longer=428),
    "vorbis that lacks half": OddFile(".ogg", edited(VORBIS, keep_share(0.5)), reason="truncated"),
    "opus of a running stream": OddFile(".opus", edited(OPUS, shifted_granules(480_000))),
    "opus that states too much": OddFile(".opus", edited(OPUS, last_granule(24_000)), reason="truncated"),
    "opus that lacks its last byte": OddFile(".opus", edited(OPUS, cut_bytes(1)), missing=0.0065),
    # MP3.
    "mp3 with a large picture": OddFile(".mp3", edited(MP3, without_id3, lambda encoded: id3(300_000) + encoded)),
    "mp3 with an APE tag": OddFile(".mp3", edited(MP3, lambda encoded: encoded + APE_TAG)),
    "mp3 behind zeros": OddFile(".mp3", edited(MP3, without_id3, lambda encoded: bytes(2000) + encoded)),
    "mp3 that states half": OddFile(".mp3", edited(MP3, xing_frames(lambda frames: frames // 2))),
    "mp3 that states two frames too many": OddFile(
        ".mp3", edited(MP3, xing_frames(lambda frames: frames + 2)), missing=0.048
    ),
    "mp3 that states too much": OddFile(
        ".mp3", edited(MP3, xing_frames(lambda frames: 2 * frames)), reason="truncated"
    ),
    "mp3 that lacks half": OddFile(".mp3", edited(MP3, keep_share(0.5)), reason="truncated"),
    # MP4, WebM and others.
    "m4a that lacks its last byte": OddFile(".m4a", edited(M4A_IN_FRONT, cut_bytes(1)), missing=0.0177),
    "m4a that lacks half": OddFile(".m4a", edited(M4A_IN_FRONT, keep_share(0.5)), reason="truncated"),
    "m4a without its index": OddFile(".m4a", edited(by_ffmpeg(), keep_share(0.8)), reason="truncated"),
    "webm that lacks half": OddFile(".webm", edited(by_ffmpeg(), keep_share(0.5)), reason="truncated"),
    "amr that lacks half a frame": OddFile(
        ".amr", edited(by_sox("-r", "8000", "-t", "amr-nb"), cut_bytes(5)), least=30
    ),
    "wavpack that lacks half": OddFile(".wv", edited(by_ffmpeg(), keep_share(0.5)), reason="unreadable"),
    "tta that lacks half": OddFile(".tta", edited(by_ffmpeg(), keep_share(0.5)), reason="unreadable"),
    "a web page": OddFile(".wav", bytes_of(lambda: b"<!doctype html><title>404</title>"), reason="unreadable"),
    "a video without sound": OddFile(".mp4", lambda path: silent_video(path), reason="unreadable"),
}
