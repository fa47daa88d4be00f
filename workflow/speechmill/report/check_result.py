"""The result of checking a model folder."""

from dataclasses import dataclass, field


@dataclass
class CheckResult:
    """The checks that passed and the differences that were found."""

    passed: list[str] = field(default_factory=list)
    """What agrees with the card, or was skipped, one line each."""
    differences: list[str] = field(default_factory=list)
    """What does not agree, one line each, with the cause."""

    def add(self, other: "CheckResult") -> None:
        """Append the lines of another result."""
        self.passed += other.passed
        self.differences += other.differences
