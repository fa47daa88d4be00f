"""Section `runs.*.card`: what only its author can say about a model."""

from pydantic import Field

from speechmill.config.base import Section


class CardConfig(Section):
    """What the card says beside what was measured."""

    title: str = Field(description="the heading of the card and the name in its model-index")
    licence: str = Field("apache-2.0", description="the licence of the model, as the Hugging Face Hub spells it")
    description: str = Field(description="what the model is and for whom: the section `Model description`")
    uses: str = Field(description="what it is meant for and what not: the section `Intended uses & limitations`")
    tags: list[str] = Field(default_factory=list, description="tags beside `automatic-speech-recognition`")
