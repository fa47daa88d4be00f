"""Values that the Hugging Face Hub accepts in the front matter of a card; it refuses an upload with any others."""

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from speechmill.config.hub_ids import check_hub_id
from speechmill.core.languages import is_code, suggest_code

# Source: the table in https://huggingface.co/docs/hub/repositories-licenses, August 2026.
LICENCES = (
    "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m", "bigscience-bloom-rail-1.0",
    "bigcode-openrail-m", "afl-3.0", "artistic-2.0", "bsl-1.0", "bsd", "bsd-2-clause", "bsd-3-clause",
    "bsd-3-clause-clear", "c-uda", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0",
    "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
    "cdla-sharing-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "wtfpl", "ecl-2.0", "epl-1.0", "epl-2.0",
    "etalab-2.0", "eupl-1.1", "eupl-1.2", "agpl-3.0", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1",
    "lgpl-3.0", "isc", "h-research", "intel-research", "lppl-1.3c", "ms-pl", "apple-ascl", "apple-amlr", "mpl-2.0",
    "odc-by", "odbl", "openmdw-1.0", "openmdw-1.1", "openrail++", "osl-3.0", "postgresql", "ofl-1.1", "ncsa",
    "unlicense", "zlib", "pddl", "lgpl-lr", "deepfloyd-if-license", "fair-noncommercial-research-license", "llama2",
    "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "grok2-community", "gemma", "unknown", "other",
)  # fmt: skip
"""The licences of the Hub."""

_MULTILINGUAL = "multilingual"


def check_language(code: str) -> str:
    """Return `code` if it is a language for the Hub.

    Source: the Hub's message, "It must be an ISO 639-1, 639-2 or 639-3 code (two/three letters), or a special value
    like "code", "multilingual"".

    Raises:
        ValueError: It is not, for instance because it is a locale with a region.
    """
    if is_code(code) or code == _MULTILINGUAL:
        return code
    suggested = suggest_code(code)
    advice = f"write `{suggested}`" if suggested else "look it up at https://iso639-3.sil.org"
    locale = "; a locale of Common Voice belongs into `datasets.*.language`" if re.search(r"\w[-_]\w", code) else ""
    raise ValueError(f"the Hugging Face Hub takes codes of ISO 639-1, 639-2 and 639-3 only: {advice}{locale}")


def _norwegian(value: object) -> object:
    if value is False:
        raise ValueError('YAML reads `no` as false: write "no", in quotes')
    return value


def check_licence(licence: str) -> str:
    """Return `licence` if it is a licence for the Hub.

    Raises:
        ValueError: It is not.
    """
    if licence in LICENCES:
        return licence
    lower = re.sub(r"[\s_]+", "-", licence.strip().lower())
    # SPDX has suffixes that the Hub lacks; a name may lack its version.
    lower = re.sub(r"-(only|or-later)$", "", lower)
    longer = [each for each in LICENCES if each.startswith(f"{lower}-")]
    close = longer or difflib.get_close_matches(lower, LICENCES, n=1)
    advice = f"write `{close[0]}`" if close else "write `other` for a licence that it does not know"
    raise ValueError(
        f"this is no licence of the Hugging Face Hub: {advice}; the list is at"
        " https://huggingface.co/docs/hub/repositories-licenses"
    )


HubLanguage = Annotated[str, BeforeValidator(_norwegian), AfterValidator(check_language)]
"""A language code for the front matter of a card."""

HubLicence = Annotated[str, AfterValidator(check_licence)]
"""A licence for the front matter of a card."""

_CHECKS: dict[str, Callable[[str], str]] = {
    "language": check_language,
    "license": check_licence,
    "base_model": check_hub_id,
    "datasets": check_hub_id,
}


def front_matter_errors(front_matter: Mapping[str, Any]) -> list[str]:
    """Return an error message for each value of a card's front matter that the Hub refuses."""
    errors = []
    for key, check in _CHECKS.items():
        value = front_matter.get(key)
        for each in value if isinstance(value, list) else [] if value is None else [value]:
            try:
                check(str(each))
            except ValueError as error:
                errors.append(f"{key}: {each}: {error}")
    return errors
