"""The mock registry over HTTP: ``POST /subscribe``, ``POST /lookup``, ``GET /health/ready``.

Source: Beckn v1 registry API; lookups are open (unsigned), as in the networks that run it.
"""

import logging
from pathlib import Path
from typing import Any

import msgspec
from litestar import Litestar, Request, Response, get, post
from litestar.exceptions import HTTPException

from gateway.beckn.signing import digest, parse_authorization
from gateway.clock import Clock
from gateway.errors import BecknRefusal, GatewayError
from registry.directory import Unproven, lookup, parse_fragment, parse_subscription, subscribe
from registry.problem import gateway_error, http_error, unforeseen
from registry.records import RecordFile

MAX_BODY_BYTES = 1024 * 1024
_log = logging.getLogger("registry")


def create_registry(data_dir: Path, *, clock: Clock) -> Litestar:
    """Build the registry on its folder.

    Raises:
        StoreError: The folder or its file cannot be used.
    """
    file = RecordFile(data_dir)

    @post("/subscribe", status_code=200)
    async def subscribe_(request: Request[Any, Any, Any]) -> Response[bytes]:
        """File a participant's record, once it has proven to hold a key that may write it."""
        body = await request.body()
        try:
            signature = parse_authorization(request.headers.get("authorization", ""))
        except BecknRefusal as exc:
            raise Unproven(exc.detail, field="Authorization") from exc
        record = subscribe(file.records, parse_subscription(body), signature, digest(body), now=clock())
        file.put(record)
        _log.info("subscribed subscriber_id=%s key_id=%s", record.subscriber_id, record.key_id)
        return _json(record)

    @post("/lookup", status_code=200)
    async def lookup_(request: Request[Any, Any, Any]) -> Response[bytes]:
        """List the records that match a fragment of one."""
        return _json(lookup(file.records, parse_fragment(await request.body()), now=clock()))

    @get("/health/ready")
    async def ready() -> dict[str, str]:
        """Say that the records are loaded."""
        return {"status": "ready"}

    return Litestar(
        [subscribe_, lookup_, ready],
        openapi_config=None,
        logging_config=None,
        request_max_body_size=MAX_BODY_BYTES,
        exception_handlers={
            GatewayError: gateway_error,
            HTTPException: http_error,
            Exception: unforeseen,
        },
    )


def _json(document: Any) -> Response[bytes]:
    return Response(msgspec.json.encode(document), media_type="application/json")
