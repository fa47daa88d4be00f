"""What the containers of audio files state and hold, by which the results of decoders are judged."""

from speechmill.corpus.containers.boxes import inspect_mp4, inspect_webm
from speechmill.corpus.containers.flac import inspect_flac, split_flac
from speechmill.corpus.containers.info import MAX_MISSING_SECONDS, ContainerInfo, Content, by_bytes
from speechmill.corpus.containers.mp3 import MP3_FRAME_BYTES, inspect_mp3
from speechmill.corpus.containers.ogg import inspect_ogg
from speechmill.corpus.containers.pcm import (
    inspect_aiff,
    inspect_au,
    inspect_caf,
    inspect_sphere,
    inspect_voc,
    inspect_w64,
    inspect_wav,
)

__all__ = ["MAX_MISSING_SECONDS", "ContainerInfo", "Content", "inspect_container", "split_flac"]


def inspect_container(content: Content) -> ContainerInfo:
    """Return what the container of a file states and holds; the default values for a format that states nothing.

    Only explicit statements count as evidence of truncation: an MP3 file without a Xing or Info header, or an AAC
    stream, may end anywhere.
    """
    start = 0
    while content[start : start + 3] == b"ID3" and start + 10 <= len(content):
        # ID3v2.4, section 3.1: four bytes with seven bits each; the size excludes the header and the footer.
        a, b, c, d = content[start + 6 : start + 10]
        start += 10 + (a << 21 | b << 14 | c << 7 | d) + (10 if content[start + 5] & 0x10 else 0)
    if start > len(content):
        return ContainerInfo(truncated=by_bytes(start - len(content)))
    marker = content[start : start + 4]
    if marker in (b"RIFF", b"RIFX", b"RF64", b"BW64"):
        return inspect_wav(content, start)
    if marker == b"fLaC":
        return inspect_flac(content, start)
    if start == 0:
        for name, inspect in _BY_START.items():
            if content[: len(name)] == name:
                return inspect(content)
        if content[4:8] == b"ftyp":
            return inspect_mp4(content)
    # An MP3 frame is at the start of the file or after a tag. Elsewhere, samples may look like a frame header.
    return inspect_mp3(content, start) if start or content[:3] in MP3_FRAME_BYTES else ContainerInfo()


_BY_START = {
    b"OggS": inspect_ogg,
    b"FORM": inspect_aiff,
    b".snd": inspect_au,
    b"caff": inspect_caf,
    b"NIST_1A\n": inspect_sphere,
    b"riff\x2e\x91\xcf\x11": inspect_w64,
    b"Creative Voice File\x1a": inspect_voc,
    b"\x1a\x45\xdf\xa3": inspect_webm,
}
