"""The result of checking a model folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from speechmill.core.command import SpeechmillError


@dataclass
class CheckResult:
    """The checks that passed and the differences that were found."""

    passed: list[str] = field(default_factory=list)
    """What agrees with the card, or was skipped, one line each."""
    differences: list[str] = field(default_factory=list)
    """What does not agree, one line each, with the cause."""

    @contextmanager
    def reporting(self, what: str) -> Iterator[None]:
        """Report an error in the block as a difference, so that other checks go on.

        A damaged file can cause any error, in any library that reads it. `what` says what is then not possible.
        """
        try:
            yield
        except SpeechmillError as error:
            self.differences.append(str(error))
        except Exception as error:
            self.differences.append(f"{what} ({type(error).__name__}: {error})")

    def add(self, other: "CheckResult") -> None:
        """Append the lines of another result."""
        self.passed += other.passed
        self.differences += other.differences
