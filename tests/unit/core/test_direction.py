import pytest

from speechmill.core.direction import code_point, isolate, on_dotted_circle

FSI, PDI = "\u2068", "\u2069"
ARABIC, HEBREW = "كتاب", "ספר"


@pytest.mark.parametrize("text", [ARABIC, HEBREW, "\u0663", f"abc {ARABIC} 1", "\u200f!"])
def test_right_to_left_text_is_isolated(text: str) -> None:
    assert isolate(text) == f"{FSI}{text}{PDI}"


@pytest.mark.parametrize("text", ["", "abc 12 → 3", "раз", "हिन्दी", "中文"])
def test_left_to_right_text_is_unchanged(text: str) -> None:
    assert isolate(text) == text


def test_isolated_text_is_not_isolated_twice() -> None:
    title = f"{isolate(ARABIC)} 8.0 dev"
    assert isolate(title) == title
    assert isolate(f"{title} {HEBREW}") == f"{FSI}{ARABIC} 8.0 dev {HEBREW}{PDI}"


@pytest.mark.parametrize("control", list("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"))
def test_unpaired_formatting_is_removed(control: str) -> None:
    # LRE, RLE, PDF, LRO, RLO, LRI, RLI, FSI, PDI: UAX #9, sections 2.1 to 2.5.
    assert isolate(f"a{control}b") == "ab"
    assert isolate(f"a{control}{ARABIC}") == f"{FSI}a{ARABIC}{PDI}"


def test_leading_mark_is_put_on_dotted_circle() -> None:
    assert on_dotted_circle("\u0301a") == "◌\u0301a"
    assert on_dotted_circle("a\u0301") == "a\u0301"
    assert on_dotted_circle("") == ""


def test_code_points_have_at_least_four_digits() -> None:
    assert [code_point(each) for each in "\t\u200f\U0001f600"] == ["U+0009", "U+200F", "U+1F600"]
