"""Golden results from the Unicode Standard, SpecialCasing.txt, and section 3.13, table 3-17."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechmill.text.casing import change_case


@pytest.mark.parametrize(
    ("language", "text", "lower"),
    [
        ("tr", "ISPARTA İzmir", "ısparta izmir"),
        ("tr", "IĞDIR Işık İYİ", "ığdır ışık iyi"),
        ("az", "QIZ İLK", "qız ilk"),
        ("tr", "I\u0307zmir", "izmir"),  # Before_Dot and After_I
        ("tr", "I\u0323\u0307", "i\u0323"),  # a mark below may be between them
        ("tr", "I\u0301\u0307", "ı\u0301\u0307"),  # a mark above may not
        ("lt", "ŠIRDIS Į", "širdis į"),
        ("lt", "\u00cc\u00cd\u0128", "i\u0307\u0300i\u0307\u0301i\u0307\u0303"),
        ("lt", "I\u0300 J\u0303 \u012e\u0301", "i\u0307\u0300 j\u0307\u0303 \u012f\u0307\u0301"),  # More_Above
        ("lt", "I\u0323\u0300 I\u0323", "i\u0323\u0307\u0300 i\u0323"),
        (None, "ISPARTA İ", "isparta i\u0307"),
        (None, "ΟΔΟΣ ΟΔΟΣ", "οδος οδος"),  # Final_Sigma
    ],
)
def test_lower_case(language: Any, text: str, lower: str) -> None:
    # A dot is inserted directly after the letter, before marks below.
    expected = lower.replace("i\u0323\u0307\u0300", "i\u0307\u0323\u0300")
    assert change_case(text, "lower", language) == expected


@pytest.mark.parametrize(
    ("language", "text", "upper"),
    [
        ("tr", "ısparta izmir", "ISPARTA İZMİR"),
        ("az", "qız ilk", "QIZ İLK"),
        ("lt", "i\u0307\u0301 j\u0307\u0303 \u012f\u0307\u0301", "I\u0301 J\u0303 \u012e\u0301"),  # After_Soft_Dotted
        ("lt", "i\u0323\u0307 a\u0307", "I\u0323 A\u0307"),
        (None, "izmir straße", "IZMIR STRASSE"),
    ],
)
def test_upper_case(language: Any, text: str, upper: str) -> None:
    assert change_case(text, "upper", language) == upper


@given(st.text(st.sampled_from("abIiİıjJĮį\u0307\u0301\u0323 ")))
def test_case_without_rules_is_pythons(text: str) -> None:
    assert change_case(text, "lower", None) == text.lower()
    assert change_case(text, "upper", None) == text.upper()
    assert change_case(text, "keep", "tr") == text
