"""The settings of the stage `card`, which the evidence folder keeps as `settings.json`."""

from pydantic import BaseModel

from speechmill.config.card import CardConfig
from speechmill.config.datasets import DrawnSplit
from speechmill.config.evaluation import ErrorRate, SelectConfig
from speechmill.config.published import Published
from speechmill.config.text import TextConfig
from speechmill.config.vocab import Vocab
from speechmill.core.direction import isolate
from speechmill.report.contamination import BaseTraining


class DatasetDescription(BaseModel):
    """A dataset as the card describes it."""

    name: str
    version: str
    licence: str
    hub_id: str | None
    hub_config: str | None
    language: str
    drawn: dict[str, DrawnSplit]
    audio_redistributable: bool
    text_redistributable: bool

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}".strip()


class TextDescription(BaseModel):
    """What the card says about a text of the language model."""

    name: str
    licence: str
    date: str | None


class SweepDescription(BaseModel):
    """What the card says about the sweep that a run belongs to."""

    name: str
    values: dict[str, str]
    """The values of the run by key, without the seed."""
    other_seeds: list[str]
    """The runs that differ only in their seed."""


class CardSettings(BaseModel):
    """The part of the configuration that the stage `card` reads."""

    run: str
    language: str
    card: CardConfig
    base: str | None
    """The Hub id of the base model, or the name of its folder."""
    base_run: str | None
    base_model: str | None
    """The Hub id of the model that the run starts from, perhaps through other runs."""
    base_training: BaseTraining | None = None
    """What is known about the training data of that model, and the scored sets; None without a base."""
    train: list[str]
    text: TextConfig
    vocab: Vocab = "characters"
    """What the vocabulary consists of."""
    select: SelectConfig
    metric: ErrorRate
    """The error rate that the card shows first, and of which it shows intervals and differences."""
    datasets: dict[str, DatasetDescription]
    texts: dict[str, TextDescription] = {}
    """The fetched texts of the language model."""
    roles: list[str]
    """What the clips of the run are used for: `train`, `dev`, and the scored sets."""
    published: list[Published] = []
    sweep: SweepDescription | None = None
    compared: dict[str, str] = {}
    """The runs that the card compares with, each with what its model is."""
    versions: dict[str, int]
    """The versions of the stages that determine the figures."""

    @property
    def restricted(self) -> set[str]:
        """The datasets whose sentences must not be redistributed."""
        return {name for name, dataset in self.datasets.items() if not dataset.text_redistributable}

    def set_title(self, name: str) -> str:
        """Return the display name of a scored set, or of a perturbed copy of one, with isolated right-to-left text."""
        dataset, split, *effect = name.split("-")
        return ", ".join([f"{isolate(self.datasets[dataset].title)} {split}", *effect])
