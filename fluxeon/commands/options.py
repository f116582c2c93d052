"""Options that several commands share."""

from datetime import UTC, datetime

import typer


def parse_instant(text: str | datetime) -> datetime:
    """Read an ISO 8601 date or instant; without an offset it is UTC."""
    if isinstance(text, datetime):
        return text
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not ISO 8601, such as 2021-09-02T06:00:00Z") from error
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
