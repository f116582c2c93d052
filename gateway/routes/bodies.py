"""Bodies of our own API."""

from typing import Any

from litestar import Request

from gateway.beckn.intake import joined_headers, media_fault
from gateway.errors import InvalidRequest


class UnsupportedMedia(InvalidRequest):
    """A body that is not plain JSON by its headers."""

    code = "unsupported_media_type"
    http_status = 415


async def json_body(request: Request[Any, Any, Any]) -> bytes:
    """Read the bytes of a JSON body; nothing is decompressed.

    Raises:
        UnsupportedMedia: Another content type, or a content coding.
        HTTPException: Larger than the application takes (413).
    """
    fault = media_fault(joined_headers(request.headers.multi_items()))
    if fault is not None:
        raise UnsupportedMedia(fault)
    return await request.body()
