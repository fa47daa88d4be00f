"""Sets of clips, `{dataset}-{split}`, and the stored splits that hold their clips."""

from speechmill.config.root import Config


def stored_splits(config: Config, set_name: str) -> list[tuple[str, str]]:
    """Return the stored (dataset, split) pairs that can hold clips of a set, `{dataset}-{split}`.

    A clip is stored under the first of the listed splits that contains it, so in that split or in one listed before it.
    """
    dataset, split = set_name.split("-")
    section = config.datasets[dataset]
    listed = section.drawn[split].of if split in section.drawn else split
    return [(dataset, each) for each in section.splits[: section.splits.index(listed) + 1]]
