"""Errors of our own API as problem details.

Source: RFC 9457, Problem Details for HTTP APIs.
"""

import logging
from typing import Any
from uuid import uuid4

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException

from gateway.errors import GatewayError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A problem; ``code`` is stable, ``facts`` are values that help to mend the fault."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    instance: str | None = None
    facts: dict[str, Any] | None = None


def respond(problem: Problem, headers: dict[str, str] | None = None) -> Response[bytes]:
    """Answer with a problem."""
    return Response(
        msgspec.json.encode(problem), status_code=problem.status, media_type=MEDIA_TYPE, headers=headers
    )


def on_gateway_error(request: Request[Any, Any, Any], error: GatewayError) -> Response[bytes]:
    """Answer with the error's own code, status and facts."""
    return respond(
        Problem(
            title=type(error).__name__,
            status=error.http_status,
            detail=error.detail,
            code=error.code,
            instance=request.url.path,
            facts=error.facts or None,
        )
    )


def on_http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Answer for the framework's refusals: unknown paths, wrong parameters, bodies too large."""
    headers = dict(error.headers or {})
    if error.status_code == 401:
        headers["WWW-Authenticate"] = "Bearer"
    extra = error.extra if isinstance(error.extra, dict) else {"errors": error.extra} if error.extra else None
    return respond(
        Problem(
            title=type(error).__name__,
            status=error.status_code,
            detail=error.detail,
            code=f"http_{error.status_code}",
            instance=request.url.path,
            facts=extra,
        ),
        headers,
    )


def on_unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer a fault of ours without telling its insides; the reference stands in the log."""
    reference = str(uuid4())
    log.error("unexpected fault %s on %s", reference, request.url.path, exc_info=error)
    return respond(
        Problem(
            title="Internal error",
            status=500,
            detail=f"an unexpected fault; reference {reference}",
            code="internal",
            instance=request.url.path,
        )
    )
