"""Beckn callbacks: raw bytes in, a signed Ack or a signed Nack that names the reason out."""

import logging
from typing import Any
from uuid import uuid4

from litestar import Request, Response, post
from litestar.exceptions import HTTPException
from litestar.params import FromPath

from gateway.beckn.dialect import claimed_dialect
from gateway.beckn.intake import check_media, joined_headers, read_body
from gateway.beckn.signing import parse_authorization
from gateway.beckn.verify import challenge_headers, claimed_message_id, verify_inbound
from gateway.errors import BecknRefusal, GatewayError, StoreError
from gateway.routes.guards import OPEN
from gateway.routes.schema_notes import BECKN_BODY
from gateway.routes.wiring import Running
from gateway.runtime import Runtime

log = logging.getLogger(__name__)

JSON = "application/json"


@post(
    "/beckn/{action:str}",
    opt=OPEN,
    status_code=200,
    tags=["beckn"],
    summary="Receive a Beckn callback",
    description="`on_discover`, `on_select`, ... signed by the seller. Answers a signed Ack, or a Nack.",
    operation_class=BECKN_BODY,
    # The bound of each action is kept while reading.
    request_max_body_size=None,
)
async def receive_callback(
    action: FromPath[str], request: Request[Any, Any, Any], runtime: Running
) -> Response[bytes]:
    """Verify, correlate and take in one callback."""
    headers = joined_headers(request.headers.multi_items())
    body = b""
    try:
        check_media(headers)
        body = await read_body(
            request.stream(),
            declared=headers.get("content-length"),
            limit=runtime.limits.max_bytes(action),
        )
        message = await verify_inbound(
            action=action,
            body=body,
            headers=headers,
            resolver=runtime.resolver,
            schemas=runtime.languages,
            own_id=runtime.settings.subscriber_id,
            role="bap",
            now=runtime.clock(),
            sent_signatures=runtime.floor.sent_signatures,
            limits=runtime.limits,
        )
        answer = await runtime.pipeline.handle_callback(message)
    except BecknRefusal as refusal:
        return _refuse(runtime, action, refusal, headers, body)
    except StoreError as failure:
        return _refuse(runtime, action, _unavailable(failure), headers, body)
    except HTTPException as error:  # the framework's word on a request that cannot be read
        return _refuse(runtime, action, _unreadable(error), headers, body)
    except Exception:  # a peer reads Nacks, whatever has gone wrong here
        reference = str(uuid4())
        log.exception("unexpected fault %s on %.40s", reference, action)
        return _refuse(runtime, action, _unexpected(reference), headers, body)
    signed = {} if answer.signature is None else {"Signature": answer.signature}
    return Response(answer.body, media_type=JSON, headers=signed)


def _unreadable(error: HTTPException) -> BecknRefusal:
    return BecknRefusal("SCH_INVALID_FORMAT", error.detail, http_status=error.status_code)


def _unavailable(error: GatewayError) -> BecknRefusal:
    return BecknRefusal("NET_INTERNAL_ERROR", f"not stored: {error.detail}", http_status=503)


def _unexpected(reference: str) -> BecknRefusal:
    """A fault of ours, without telling its insides; the reference stands in the log."""
    return BecknRefusal("NET_INTERNAL_ERROR", f"an unexpected fault; reference {reference}", http_status=500)


def _refuse(
    runtime: Runtime, action: str, refusal: BecknRefusal, headers: dict[str, str], refused: bytes
) -> Response[bytes]:
    known = action if runtime.languages.verb(action) is not None else "unknown"
    runtime.metrics.refused(known, refusal.code)
    log.info("refused %s: %s %s", known, refusal.code, refusal.path or "")
    dialect = claimed_dialect(refused)
    body = dialect.nack_body(
        claimed_message_id(refused),
        code=refusal.code,
        detail=refusal.detail,
        path=refusal.path,
        cause=refusal.facts.get("rule"),
    )
    answered = challenge_headers(refusal, runtime.settings.subscriber_id)
    if dialect.signs_answers:
        answered["Signature"] = runtime.signer.authorization(
            body, now=runtime.clock(), request_signature=_request_signature(headers)
        )
    return Response(body, status_code=refusal.http_status, media_type=JSON, headers=answered)


def _request_signature(headers: dict[str, str]) -> str | None:
    """Bare signature of a callback, for the Nack's chain; None where it has none that can be read."""
    try:
        return parse_authorization(headers.get("authorization", "")).signature
    except BecknRefusal:
        return None
