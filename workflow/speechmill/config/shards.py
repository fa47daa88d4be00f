"""Settings of the stage `shards`."""

from typing import Literal

from speechmill.config.base import Section

Resampler = Literal["soxr", "sox", "torchaudio"]


class ShardSettings(Section):
    """The metadata of a shard and the resampler of its clips."""

    name: str
    version: str
    licence: str
    resampler: Resampler
