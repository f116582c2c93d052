"""Wall time, as an argument.

Everything that needs the time takes a :data:`Clock`; tests pass a fixed or a stepping one.
"""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Returns the present instant, aware UTC."""


def utc_now() -> datetime:
    """The machine's wall clock: the one call to it in the project."""
    return datetime.now(UTC)  # noqa: TID251


def rfc3339(instant: datetime) -> str:
    """Write an aware instant as RFC 3339 UTC with ``Z`` and milliseconds only where it has them."""
    utc = instant.astimezone(UTC)
    spec = "milliseconds" if utc.microsecond else "seconds"
    return utc.isoformat(timespec=spec).replace("+00:00", "Z")
