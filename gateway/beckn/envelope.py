"""The envelope: the context every generation shares, and v2's spelling of it, of Ack and of Nack.

Wire spelling of everything outside ``message`` lives here and in :mod:`gateway.beckn.envelope_v1`.

* The core schema requires no member of the context; :func:`parse_context` requires the ones a
  message cannot be handled without.
* A body is encoded once (:func:`encode`); those bytes are signed, sent and stored.
* Peers answer in several shapes (:func:`parse_answer`). An answer that cannot be read with a 2xx
  status is "accepted, unknown": wait for the callback until the deadline.

Source: Beckn v2.0.0 LTS (Context, Ack, AckNoCallback, Nack*), onix v1.7 for the bodies in practice.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from http import HTTPStatus
from typing import Annotated, Any, Final, TypeVar

import msgspec

from gateway.clock import rfc3339
from gateway.errors import BecknRefusal

VERSION: Final = "2.0.0"
DEFAULT_TTL: Final = "PT30S"

_REQUIRED: Final = ("version", "action", "bapId", "bapUri", "transactionId", "messageId", "timestamp")
_SNAKE: Final = {name: re.sub(r"([A-Z])", r"_\1", name).lower() for name in _REQUIRED}
_Aware = Annotated[datetime, msgspec.Meta(tz=True)]
_Shape = TypeVar("_Shape")


class Context(msgspec.Struct, rename="camel", kw_only=True, frozen=True):
    """Who says what to whom, when. Unknown keys of a peer are ignored.

    ``transaction_id`` and ``message_id`` are UUIDs on the wire; ``ttl`` is an ISO 8601 duration
    counted from ``timestamp`` (wall time). ``schema_context`` lists the JSON-LD contexts used.
    """

    version: str = VERSION
    action: str
    bap_id: str
    bap_uri: str
    bpp_id: str | None = None
    bpp_uri: str | None = None
    transaction_id: str
    message_id: str
    timestamp: _Aware
    ttl: str | None = DEFAULT_TTL
    network_id: str | None = None
    domain: str | None = None
    location: dict[str, Any] | None = None
    """v1.1: ``{"country": {"code": ...}, "city": {"code": ...}}``. v2.0.0 keeps it for history, we do not."""
    schema_context: tuple[str, ...] = ()
    request_digest: dict[str, Any] | str | None = None
    """``{"digest": "BLAKE-512=..."}``; a bare string of an older draft is tolerated."""

    def wire(self) -> dict[str, Any]:
        """Spell the context for the wire; absent members are left out."""
        spelled = {
            "version": self.version,
            "action": self.action,
            "bapId": self.bap_id,
            "bapUri": self.bap_uri,
            "bppId": self.bpp_id,
            "bppUri": self.bpp_uri,
            "transactionId": self.transaction_id,
            "messageId": self.message_id,
            "timestamp": rfc3339(self.timestamp),
            "ttl": self.ttl,
            "networkId": self.network_id,
            "domain": self.domain,
            "schemaContext": list(self.schema_context) or None,
            "requestDigest": self.request_digest,
        }
        return {name: value for name, value in spelled.items() if value is not None}


def parse_context(raw: Any, *, path: str = "/context") -> Context:
    """Read the ``context`` of a decoded message.

    Args:
        raw: The decoded JSON value; keys that are not known are ignored.
        path: JSON pointer of the value, for error messages.

    Raises:
        BecknRefusal: Not an object, a member we need is missing or has another type.
    """
    if not isinstance(raw, Mapping):
        raise BecknRefusal("SCH_TYPE_NOT_SUPPORTED", "context must be an object", path=path)
    for name in _REQUIRED:
        if raw.get(name) is None:
            detail = f"context.{name} is missing: send it"
            if _SNAKE[name] != name and _SNAKE[name] in raw:
                detail += f" (version {VERSION} spells {_SNAKE[name]} as {name})"
            raise BecknRefusal("SCH_REQUIRED_FIELD_MISSING", detail, path=f"{path}/{name}")
    # A location is v1's: what v2.0.0 keeps of it for history is not even read.
    read = {name: value for name, value in raw.items() if name != "location"} if "location" in raw else raw
    context = convert_context(read, Context, path=path)
    # Our default ttl is for what we send; a sender that states none has none.
    ttl = None if raw.get("ttl") is None else context.ttl
    return msgspec.structs.replace(context, timestamp=as_utc(context.timestamp, path=path), ttl=ttl)


def as_utc(timestamp: datetime, *, path: str) -> datetime:
    """Put the context's timestamp into UTC.

    Raises:
        BecknRefusal: In UTC it lies outside the years 1 to 9999.
    """
    try:
        return timestamp.astimezone(UTC)
    except OverflowError as exc:
        raise BecknRefusal(
            "SCH_INVALID_FORMAT", "context.timestamp lies outside the calendar", path=f"{path}/timestamp"
        ) from exc


def convert_context(raw: Any, kind: type[_Shape], *, path: str) -> _Shape:
    """Convert a decoded context into a struct that has its members.

    Raises:
        BecknRefusal: A member is missing or has another type; the path names it.
    """
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as exc:
        member = str(exc).rpartition("$.")[2].rstrip("`").split(".")[0].split("[")[0]
        code = "SCH_INVALID_FORMAT" if "RFC3339" in str(exc) or "timezone" in str(exc) else None
        raise BecknRefusal(
            code or "SCH_TYPE_NOT_SUPPORTED", f"context cannot be read: {exc}", path=f"{path}/{member}"
        ) from exc


def encode(context: Context, message: Mapping[str, Any]) -> bytes:
    """Encode a message once, as compact UTF-8 JSON: the bytes that are signed, sent and stored.

    Raises:
        ValueError: A number is NaN or infinite, or a text holds a lone surrogate.
    """
    return compact_json({"context": context.wire(), "message": message})


def ack_body(message_id: str) -> bytes:
    """Write the v2 Ack; key order is the one peers compare with."""
    return compact_json({"message": {"status": "ACK", "messageId": message_id}})


def nack_body(
    message_id: str | None,
    *,
    code: str,
    detail: str,
    path: str | None = None,
    cause: str | None = None,
) -> bytes:
    """Write the v2 Nack.

    Args:
        message_id: Of the refused message, where it could be read; left out otherwise.
        code: Error code (``SCH_``, ``AUT_``, ``CTX_``, ``NET_``, ``BIZ_``, ``POL_``).
        detail: What is wrong and how to mend it.
        path: JSON pointer of the failing member.
        cause: The rule that failed, for machines.
    """
    details = {name: value for name, value in (("path", path), ("cause", cause)) if value}
    error: dict[str, Any] = {"code": code, "message": detail}
    if details:
        error["details"] = details
    message: dict[str, Any] = {"status": "NACK"}
    if message_id:
        message["messageId"] = message_id
    message["error"] = error
    return compact_json({"message": message})


class AnswerKind(StrEnum):
    """What a peer's synchronous answer says about the callback."""

    ACK = "ACK"
    """Accepted; a callback follows."""
    NACK = "NACK"
    """Refused; no callback."""
    NO_CALLBACK = "NO_CALLBACK"
    """Understood, but no callback will come (AckNoCallback)."""
    UNKNOWN = "UNKNOWN"
    """Nothing readable. With a 2xx status wait for the callback; otherwise see ``retryable``."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A peer's synchronous answer, whatever shape it came in."""

    kind: AnswerKind
    http_status: int
    code: str | None = None
    detail: str | None = None
    path: str | None = None
    message_id: str | None = None
    signature: str | None = None
    """Counter-signature in the body (published LTS shape), unverified."""

    @property
    def retryable(self) -> bool:
        """Whether the same bytes may be sent again (429, 502 to 504, 408, 500 of the network kind)."""
        if self.http_status == HTTPStatus.INTERNAL_SERVER_ERROR:
            return self.code is None or self.code.startswith("NET_")
        return self.http_status in _RETRYABLE

    @property
    def duplicate(self) -> bool:
        """Whether the peer has this messageId already: after a lost Ack, the first try was accepted."""
        return self.code == "CTX_MESSAGE_ID_DUPLICATE"


_RETRYABLE: Final = frozenset({408, 429, 502, 503, 504})
_NO_CALLBACK: Final = frozenset({202, 409})


def parse_answer(http_status: int, body: bytes) -> Answer:
    """Read the answer to a message we sent.

    The status may stand at ``message.status`` (onix), ``message.ack.status`` (v1 and mocks),
    ``status`` (published LTS), ``ack.status`` or ``ack_status``; the error at ``message.error``,
    ``error`` or, from a pre-processor, at the root.

    Args:
        http_status: As received. 202 and 409 mean that no callback follows an ACK; 200 with a
            NACK is a NACK.
        body: As received; may be empty or not JSON.
    """
    document = _document(body)
    message = _member(document, "message")
    status = _status(document, message)
    error = _error(document, message)
    refused = 300 <= http_status < 500 and http_status not in _RETRYABLE
    # SPEC ASSUMPTION: v2.0.0 says 409 for "no callback", later drafts and onix say 202; both are taken
    # so. A 4xx without a readable status is a refusal, whatever its body claims.
    if status == "NACK":
        kind = AnswerKind.NACK
    elif http_status in _NO_CALLBACK and (status == "ACK" or http_status == HTTPStatus.CONFLICT):
        kind = AnswerKind.NO_CALLBACK
    elif status == "ACK" and 200 <= http_status < 300:
        kind = AnswerKind.ACK
    elif refused:
        kind = AnswerKind.NACK
    else:
        kind = AnswerKind.UNKNOWN
    details = _member(error, "details")
    return Answer(
        kind=kind,
        http_status=http_status,
        code=_text(error, "code", "errorCode"),
        detail=_text(error, "message", "errorMessage"),
        path=_text(details, "path") or _text(error, "path", "paths"),
        message_id=_text(message, "messageId", "message_id") or _text(document, "messageId"),
        signature=_text(document, "signature"),
    )


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _member(parent: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = parent.get(name)
    return value if isinstance(value, dict) else {}


def _text(parent: Mapping[str, Any], *names: str) -> str | None:
    for name in names:
        value = parent.get(name)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if isinstance(value, list) and value:
            return ";".join(map(str, value))
    return None


def _status(document: Mapping[str, Any], message: Mapping[str, Any]) -> str | None:
    places = (
        _text(message, "status"),
        _text(_member(message, "ack"), "status"),
        _text(document, "status"),
        _text(_member(document, "ack"), "status"),
        _text(document, "ack_status"),
        _text(message, "ack_status"),
    )
    for place in places:
        if place is not None and place.upper() in {"ACK", "NACK"}:
            return place.upper()
    return None


def _error(document: Mapping[str, Any], message: Mapping[str, Any]) -> Mapping[str, Any]:
    for error in (_member(message, "error"), _member(document, "error")):
        if error:
            return error
    return document if "code" in document or "errorCode" in document else {}


def compact_json(value: Any) -> bytes:
    """Encode a value as compact UTF-8 JSON.

    Raises:
        ValueError: A number is NaN or infinite, or a text holds a lone surrogate.
    """
    try:
        body = msgspec.json.encode(value)
    except (TypeError, OverflowError):
        return _standard_json(value)
    # A number that is none is written as null there, without a word: look whether it was one.
    return _standard_json(value) if b"null" in body else body


def _standard_json(value: Any) -> bytes:
    """Encode with the standard library: slower, says what it refuses, takes every kind of number."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode()
