"""Section `runs.*.publish`: the repository on the Hugging Face Hub for the model."""

from pydantic import Field

from speechmill.config.base import Section

_REPOSITORY = r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$"
"""The form of the name of a repository on the Hub."""


class PublishConfig(Section):
    """The repository that `snakemake publish` uploads the model folder to."""

    repo: str = Field(
        pattern=_REPOSITORY,
        description="repository of the model, `NAME/MODEL`, owned by you or by an organisation; created if it does not"
        " exist, and its other files are kept",
    )
    private: bool = Field(
        False, description="whether the repository must be private; an existing public one is then refused"
    )
    branch: str = Field(
        "main",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$",
        description="branch of the repository, created if it does not exist",
    )
    space: str | None = Field(
        None,
        pattern=_REPOSITORY,
        description="Space to create or update with the page `app.py` of the model, `NAME/SPACE`; none by default",
    )
