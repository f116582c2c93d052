"""Takes a message off the network, within bounds, before anything looks at its meaning.

* The bound of the body is its action's; a declared length over it is refused before a byte is read,
  an undeclared one as soon as it is exceeded.
* Nothing is decompressed: a signature covers the bytes as sent, and a kilobyte may become a gigabyte.
* Repeated headers are joined, so that a second signature cannot hide behind the first.

How long a sender may take is the server's business (:mod:`gateway.beckn.guard`).
"""

from collections.abc import AsyncIterable, Iterable, Mapping

from gateway.errors import BecknRefusal

JSON_TYPE = "application/json"


def joined_headers(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers by lower-case name; repeated ones joined by a comma, in order."""
    joined: dict[str, str] = {}
    for name, value in pairs:
        key = name.lower()
        joined[key] = f"{joined[key]}, {value}" if key in joined else value
    return joined


def media_fault(headers: Mapping[str, str]) -> str | None:
    """Say why a body is not plain JSON by its headers, or None.

    Args:
        headers: Names in lower case. No Content-Type at all is taken for JSON.
    """
    coding = headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity"):
        return f"Content-Encoding {coding[:40]} is not taken: send the body as it is signed"
    media = headers.get("content-type")
    if media is None:
        return None
    essence = media.partition(";")[0].strip().lower()
    if essence == JSON_TYPE or (essence.startswith("application/") and essence.endswith("+json")):
        return None
    return f"Content-Type {essence[:40] or 'without a type'} is not taken: send {JSON_TYPE}"


def check_media(headers: Mapping[str, str]) -> None:
    """Refuse a body that is not plain JSON by its headers.

    Raises:
        BecknRefusal: 415.
    """
    fault = media_fault(headers)
    if fault is not None:
        raise BecknRefusal("SCH_INVALID_FORMAT", fault, http_status=415)


async def read_body(stream: AsyncIterable[bytes], *, declared: str | None, limit: int) -> bytes:
    """Read a body of bounded length.

    Args:
        stream: Its pieces as they come.
        declared: Content-Length, where there is one.
        limit: Largest length, bytes.

    Raises:
        BecknRefusal: 413. What has not been read stays unread.
    """
    if declared is not None and declared.isascii() and declared.isdigit() and int(declared[:20]) > limit:
        raise _too_large(limit)
    pieces = []
    size = 0
    async for piece in stream:
        size += len(piece)
        if size > limit:
            raise _too_large(limit)
        pieces.append(piece)
    return b"".join(pieces)


def _too_large(limit: int) -> BecknRefusal:
    return BecknRefusal(
        "SCH_SCHEMA_VALIDATION_FAILED", f"the body is larger than the {limit} bytes taken", http_status=413
    )
