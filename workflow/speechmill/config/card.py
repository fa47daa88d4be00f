"""Section `runs.*.card`: the parts of the model card that only the author can write."""

from pydantic import Field

from speechmill.config.base import Section
from speechmill.config.hub_metadata import HubLicence


class CardConfig(Section):
    """Text of the model card; all figures in it come from the run."""

    title: str = Field(description="title of the card and name of the model in its model-index")
    licence: HubLicence = Field(
        "apache-2.0",
        description="licence of the model, as an identifier of the Hugging Face Hub; `other` for one that it does not"
        " know",
    )
    description: str = Field(
        description="what the model is: the card's section `Model description`, in Markdown. HTML in it is text in the"
        " page of the card, which has no images but the plots"
    )
    uses: str = Field(
        description="what the model is and is not meant for, in Markdown like `description`: the card's section"
        " `Intended uses & limitations`"
    )
    tags: list[str] = Field(default_factory=list, description="tags in addition to `automatic-speech-recognition`")
