"""Section `runs.*.publish`: where on the Hugging Face Hub a model goes when its user asks for that."""

from pydantic import Field

from speechmill.config.base import Section


class PublishConfig(Section):
    """The repository that the model's folder is uploaded to."""

    repo: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="the model's repository, `NAME/MODEL`, under your name or that of an organisation; made if it is"
        " not there, and what else is in it stays",
    )
    private: bool = Field(
        False, description="whether only you may see the repository; a public one that is there is then not touched"
    )
    branch: str = Field(
        "main", pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$", description="the repository's branch, made if it is not there"
    )
