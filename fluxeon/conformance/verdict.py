"""How a conformance case ends: levels, outcomes, results, and the exceptions that say which."""

from enum import StrEnum

import msgspec


class Level(StrEnum):
    """How binding a case is."""

    MUST = "MUST"
    """Peers will not work with a target that fails it, or it can be cheated."""
    SHOULD = "SHOULD"
    """Practice of the field; failing it costs points, not the verdict."""


class Outcome(StrEnum):
    """How a case ended."""

    PASSED = "passed"
    FAILED = "failed"
    BLOCKED = "blocked"
    """Could not be tried, because something before it failed. Counts like a failure."""
    SKIPPED = "skipped"
    """Does not apply to this run. Does not count."""


class Mismatch(Exception):  # noqa: N818 - reads as what it is
    """The target did something else than expected."""

    def __init__(self, expected: str, came: str) -> None:
        super().__init__(f"expected {expected}; came {came}")
        self.expected = expected
        self.came = came


class Blocked(Exception):  # noqa: N818
    """A case cannot be tried, because what it builds on has failed."""


class NotApplicable(Exception):  # noqa: N818
    """A case does not apply to this target or these options."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How one case ended."""

    id: str
    title: str
    level: Level
    outcome: Outcome
    spec: str
    expected: str | None = None
    came: str | None = None
    mend: str | None = None
    """Only where it did not pass."""
    took_ms: float = 0.0
