"""Who may call: bearer tokens everywhere, but on the paths that say they are open."""

from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException
from litestar.handlers import BaseRouteHandler

from gateway.access import Caller
from gateway.runtime import Runtime

OPEN = {"open": True}
"""Mark of a handler that needs no token (health, metrics, schema; Beckn paths carry signatures)."""


async def require_token(connection: ASGIConnection, handler: BaseRouteHandler) -> None:  # type: ignore[type-arg]
    """Refuse a request without a known token. A coroutine, since a plain function would cost a thread.

    Raises:
        NotAuthorizedException: 401.
    """
    if handler.opt.get("open") or connection.url.path.startswith("/schema"):
        return
    runtime: Runtime = connection.app.state.runtime
    caller = runtime.gate.caller(connection.headers.get("authorization"))
    if caller is None:
        raise NotAuthorizedException("a bearer token is needed: Authorization: Bearer TOKEN")
    connection.scope["user"] = caller


def caller_of(connection: ASGIConnection) -> Caller:  # type: ignore[type-arg]
    """The caller the guard has let in."""
    caller: Caller = connection.scope["user"]
    return caller
