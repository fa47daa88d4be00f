"""Ids of models and datasets on the Hugging Face Hub."""

import re
from typing import Annotated

from pydantic import AfterValidator

# Source: `validate_repo_id` of huggingface_hub, with an owner, which only old datasets lack.
_HUB_ID = re.compile(r"(?!.*(--|\.\.))(?!.*\.git$)\b[\w.-]+\b/\b[\w.-]{1,96}\b", re.ASCII)
_ADDRESS = re.compile(r"^(https?://)?(huggingface\.co|hf\.co)/(datasets/)?")


def check_hub_id(name: str) -> str:
    """Return `name` if it has the form of the id of a model or dataset on the Hub, `owner/name`.

    Raises:
        ValueError: It does not, for instance because it is a path or an address.
    """
    if _HUB_ID.fullmatch(name):
        return name
    shortened = "/".join(_ADDRESS.sub("", name).split("/")[:2])
    advice = f": write `{shortened}`" if shortened != name and _HUB_ID.fullmatch(shortened) else ""
    raise ValueError(f"this is no id of the Hugging Face Hub, which has the form `owner/name`{advice}")


HubId = Annotated[str, AfterValidator(check_hub_id)]
"""The id of a model or dataset on the Hub, `owner/name`."""
