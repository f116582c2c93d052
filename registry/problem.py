"""Errors on the mock world's own endpoints, as problem details (RFC 9457)."""

import logging
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException

from gateway.errors import GatewayError

PROBLEM_TYPE = "application/problem+json"
_log = logging.getLogger("registry")


def problem(status: int, code: str, detail: str, **facts: Any) -> Response[bytes]:
    """Write one problem; ``facts`` become members (``field`` names the one at fault)."""
    document = {"type": f"urn:fluxeon:problem:{code}", "status": status, "code": code, "detail": detail}
    body = msgspec.json.encode({**document, **facts}, enc_hook=str)
    return Response(body, status_code=status, media_type=PROBLEM_TYPE)


def gateway_error(_request: Request[Any, Any, Any], error: GatewayError) -> Response[bytes]:
    """Answer an error raised on purpose."""
    return problem(error.http_status, error.code, error.detail, **error.facts)


def http_error(_request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Answer what the framework refuses (no such path or method, body too large)."""
    return problem(error.status_code, "http", error.detail)


def unforeseen(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer our own mistake: nothing of it leaves, the log has it."""
    _log.error("unforeseen path=%s", request.url.path, exc_info=error)
    return problem(500, "internal", "an internal error; it is logged")
