"""Beckn callbacks: raw bytes in, a signed Ack or a Nack that names the reason out."""

from typing import Any

from litestar import Request, Response, post

from gateway.beckn.envelope import nack_body
from gateway.beckn.signing import challenge
from gateway.beckn.verify import verify_inbound
from gateway.errors import BecknRefusal, GatewayError, StoreError
from gateway.routes.guards import OPEN
from gateway.routes.schema_notes import BECKN_BODY
from gateway.runtime import Runtime

JSON = "application/json"


@post(
    "/beckn/{action:str}",
    opt=OPEN,
    status_code=200,
    tags=["beckn"],
    summary="Receive a Beckn callback",
    description="`on_discover`, `on_select`, ... signed by the seller. Answers a signed Ack, or a Nack.",
    operation_class=BECKN_BODY,
)
async def receive_callback(action: str, request: Request[Any, Any, Any], runtime: Runtime) -> Response[bytes]:
    """Verify, correlate and take in one callback."""
    body = await request.body()
    try:
        message = await verify_inbound(
            action=action,
            body=body,
            headers=dict(request.headers),
            resolver=runtime.resolver,
            schemas=runtime.schemas,
            own_id=runtime.settings.subscriber_id,
            role="bap",
            now=runtime.clock(),
            sent_signatures=runtime.floor.sent_signatures,
        )
        answer = await runtime.pipeline.handle_callback(message)
    except BecknRefusal as refusal:
        return _refuse(runtime, action, refusal)
    except StoreError as error:
        return _refuse(runtime, action, _unavailable(error))
    return Response(answer.body, media_type=JSON, headers={"Signature": answer.signature})


def _unavailable(error: GatewayError) -> BecknRefusal:
    return BecknRefusal("NET_INTERNAL_ERROR", f"not stored: {error.detail}", http_status=503)


def _refuse(runtime: Runtime, action: str, refusal: BecknRefusal) -> Response[bytes]:
    known = action if action in runtime.schemas.actions else "unknown"
    runtime.metrics.refused(known, refusal.code)
    message_id = refusal.facts.get("message_id")
    headers = {"WWW-Authenticate": challenge(runtime.settings.subscriber_id)} if refusal.challenge else {}
    return Response(
        nack_body(
            message_id if isinstance(message_id, str) else None,
            code=refusal.code,
            detail=refusal.detail,
            path=refusal.path,
        ),
        status_code=refusal.http_status,
        media_type=JSON,
        headers=headers,
    )
