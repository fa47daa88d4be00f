"""What `shards` reads of a dataset's section."""

from typing import Literal

from speechmill.config.base import Section

Resampler = Literal["soxr", "sox", "torchaudio"]


class ShardSettings(Section):
    """What is written about a shard, and what resamples its clips."""

    name: str
    version: str
    licence: str
    resampler: Resampler
