"""Section `runs.*.model.trained_on`: the training data of a base model, as far as it is known."""

from pydantic import Field

from speechmill.config.base import Section


class TrainedOn(Section):
    """A corpus that a base model was trained on."""

    name: str = Field(
        min_length=1, description="name or Hub id of the corpus, such as `Common Voice` or `google/fleurs`"
    )
    version: str | None = Field(
        None, description='release, such as `"8.0"`; default: that in the name, as in `common_voice_8_0`, if any'
    )
    splits: list[str] = Field(default_factory=list, description="splits that it was trained on; default: unknown")
    labels: bool | None = Field(
        None,
        description="whether it was trained with transcripts; false for pre-training on audio alone, as of XLS-R."
        " Default: unknown",
    )
