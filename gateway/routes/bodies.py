"""Bodies of our own API."""

from typing import Any

from litestar import Request

from gateway.beckn.intake import joined_headers, media_fault
from gateway.errors import InvalidRequest

CLIENT_DEFAULT = "application/x-www-form-urlencoded"


class UnsupportedMedia(InvalidRequest):
    """A body that is not plain JSON by its headers."""

    code = "unsupported_media_type"
    http_status = 415


async def json_body(request: Request[Any, Any, Any]) -> bytes:
    """Read the bytes of a JSON body; nothing is decompressed.

    The type that command-line clients put on any data (form-urlencoded) is taken for JSON too: the
    bytes decide, and form data is no JSON.

    Raises:
        UnsupportedMedia: Another content type, or a content coding.
        HTTPException: Larger than the application takes (413).
    """
    headers = joined_headers(request.headers.multi_items())
    if headers.get("content-type", "").partition(";")[0].strip().lower() == CLIENT_DEFAULT:
        del headers["content-type"]
    fault = media_fault(headers)
    if fault is not None:
        raise UnsupportedMedia(fault)
    return await request.body()
