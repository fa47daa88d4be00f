import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hub_server import LICENCES as SPEECH_LICENCES
from speechmill.config.hub_ids import check_hub_id
from speechmill.config.hub_metadata import LICENCES, check_language, check_licence, front_matter_errors


@pytest.mark.parametrize("code", ["ru", "rus", "nan", "no", "multilingual"])
def test_language_of_the_hub_is_kept(code: str) -> None:
    assert check_language(code) == code


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("zh-CN", "write `zh`; a locale of Common Voice belongs into `datasets"),
        ("sv_SE", "write `sv`; a locale"),
        ("nan-tw", "write `nan`; a locale"),
        ("Korean", "write `ko`$"),
        ("cn", "look it up at https://iso639-3"),
        ("code-switching", "look it up"),
    ],
)
def test_other_language_is_refused_with_advice(text: str, advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        check_language(text)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("Apache-2.0", "`apache-2.0`"), ("CC-BY-SA-4.0", "`cc-by-sa-4.0`"), ("CC BY 4.0", "`cc-by-4.0`"),
        ("MIT", "`mit`"), ("GPL-3.0-only", "`gpl-3.0`"), ("GPL-3.0-or-later", "`gpl-3.0`"), ("cc0", "`cc0-1.0`"),
        ("LicenseRef-private", "`other`"), ("proprietary", "`other`"), ("", "`other`"),
    ],
)  # fmt: skip
def test_unknown_licence_has_the_nearest(text: str, advice: str) -> None:
    with pytest.raises(ValueError, match=f"write {advice}"):
        check_licence(text)


def test_every_licence_of_the_hub_is_kept() -> None:
    assert set(SPEECH_LICENCES) <= set(LICENCES)
    assert [check_licence(each) for each in LICENCES] == list(LICENCES)


@pytest.mark.parametrize(
    "name",
    [
        "a/b", "facebook/mms-1b-all", "mozilla-foundation/common_voice_8_0", "a/b/c", "b", "/a/b", "./a", "a/..",
        "a/b.git", "a--b/c", "a/b--c", "a b/c", "a/", "a/-b", "a/b.", "~/b", "a" * 60 + "/" + "b" * 60,
        "a/" + "b" * 97, "а/б",
    ],
)  # fmt: skip
def test_id_is_valid_where_the_client_says_so(name: str) -> None:
    try:
        validate_repo_id(name)
        valid = "/" in name
    except HFValidationError:
        valid = False
    if valid:
        assert check_hub_id(name) == name
    else:
        with pytest.raises(ValueError, match="no id of the Hugging Face Hub"):
            check_hub_id(name)


@pytest.mark.parametrize(
    "address", ["https://huggingface.co/datasets/a/b", "https://hf.co/a/b", "huggingface.co/a/b/tree/main"]
)
def test_address_suggests_the_id(address: str) -> None:
    with pytest.raises(ValueError, match="write `a/b`"):
        check_hub_id(address)


def test_front_matter_errors_name_key_and_value() -> None:
    valid = {"language": ["ru", "ko"], "license": "mit", "base_model": "a/b", "datasets": ["a/b"], "tags": ["x y"]}
    assert front_matter_errors(valid) == []
    assert front_matter_errors({}) == []
    errors = front_matter_errors(
        {"language": ["ru", "zh-CN"], "license": "MIT", "base_model": "./b", "datasets": ["c"]}
    )
    assert [each.split(": ")[:2] for each in errors] == [
        ["language", "zh-CN"], ["license", "MIT"], ["base_model", "./b"], ["datasets", "c"],
    ]  # fmt: skip
