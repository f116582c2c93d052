"""The v1.1 envelope: how context, Ack and Nack are spelled there.

* The specification requires nothing of a context but its action; what a message cannot be handled
  without is required here. Networks ask for domain and location too: we send both.
* A Nack carries its error twice: at the root, where the specification has it, and inside ``message``,
  where the reference adapter writes and reads it.
* Error codes are those of BECKN-005 where one fits; ours stands beside it in ``details.cause``.

Source: Beckn v1.1.1 (Context, Ack, Error), BECKN-005, onix v1.7 for the bodies in practice.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec

from gateway.beckn.envelope import Context, as_utc, compact_json, convert_context
from gateway.beckn.model import PeerError
from gateway.clock import rfc3339
from gateway.errors import BecknRefusal

VERSIONS: Final = ("1.1.1", "1.1.0")
"""Version strings of the generation; the first is the one we state where nothing else is agreed."""

_REQUIRED: Final = ("version", "action", "bap_id", "bap_uri", "transaction_id", "message_id", "timestamp")
_OLDER: Final = {"version": "core_version"}
_CAMEL: Final = {
    "bap_id": "bapId",
    "bap_uri": "bapUri",
    "transaction_id": "transactionId",
    "message_id": "messageId",
}

_CODES: Final = {
    "CTX_TRANSACTION_ID_UNKNOWN": "30010",
    "BIZ_CONTRACT_NOT_FOUND": "30010",
    "NET_NOT_IMPLEMENTED": "40001",
}
_FAMILIES: Final = {"SCH_": "30000", "CTX_": "30000", "BIZ_": "40000", "POL_": "50000"}
_UNMAPPED: Final = frozenset({"CTX_MESSAGE_ID_DUPLICATE"})
"""Told by our code alone: a peer that repeats a message must see that the first copy was taken."""


class _ContextV1(msgspec.Struct, kw_only=True, frozen=True):
    version: str
    action: str
    bap_id: str
    bap_uri: str
    bpp_id: str | None = None
    bpp_uri: str | None = None
    transaction_id: str
    message_id: str
    timestamp: Annotated[datetime, msgspec.Meta(tz=True)]
    ttl: str | None = None
    domain: str | None = None
    location: dict[str, Any] | None = None


def parse_context(raw: Any, *, path: str = "/context") -> Context:
    """Read the ``context`` of a decoded v1.1 message.

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
            other = next((each.get(name) for each in (_OLDER, _CAMEL) if each.get(name) in raw), None)
            if other is not None:
                detail += f" (version {VERSIONS[0]} spells {other} as {name})"
            raise BecknRefusal("SCH_REQUIRED_FIELD_MISSING", detail, path=f"{path}/{name}")
    read = convert_context(raw, _ContextV1, path=path)
    return Context(
        version=read.version,
        action=read.action,
        bap_id=read.bap_id,
        bap_uri=read.bap_uri,
        bpp_id=read.bpp_id,
        bpp_uri=read.bpp_uri,
        transaction_id=read.transaction_id,
        message_id=read.message_id,
        timestamp=as_utc(read.timestamp, path=path),
        ttl=read.ttl,
        domain=read.domain,
        location=read.location,
    )


def wire(context: Context) -> dict[str, Any]:
    """Spell a context for the wire; absent members are left out."""
    spelled = {
        "domain": context.domain,
        "location": context.location,
        "action": context.action,
        "version": context.version,
        "bap_id": context.bap_id,
        "bap_uri": context.bap_uri,
        "bpp_id": context.bpp_id,
        "bpp_uri": context.bpp_uri,
        "transaction_id": context.transaction_id,
        "message_id": context.message_id,
        "timestamp": rfc3339(context.timestamp),
        "ttl": context.ttl,
    }
    return {name: value for name, value in spelled.items() if value is not None}


def encode(context: Context, message: Mapping[str, Any]) -> bytes:
    """Encode a message once, as compact UTF-8 JSON: the bytes that are signed, sent and stored.

    Raises:
        ValueError: A number is NaN or infinite, or a text holds a lone surrogate.
    """
    return compact_json({"context": wire(context), "message": message})


def ack_body(_message_id: str) -> bytes:
    """Write the v1.1 Ack; it names no message."""
    return compact_json({"message": {"ack": {"status": "ACK"}}})


def nack_body(
    _message_id: str | None,
    *,
    code: str,
    detail: str,
    path: str | None = None,
    cause: str | None = None,
) -> bytes:
    """Write the v1.1 Nack.

    Args:
        _message_id: Not named in v1.1.
        code: Our error code; its counterpart of BECKN-005 is sent where there is one.
        detail: What is wrong and how to mend it.
        path: JSON pointer of the failing member.
        cause: The rule that failed; without one our own code stands there.
    """
    known = error_code(code)
    error: dict[str, Any] = {"code": known} | ({"paths": path} if path else {}) | {"message": detail}
    details = ({"path": path} if path else {}) | {"cause": f"{code} {cause}" if cause else code}
    inner = {"code": known, "message": detail, "details": details}
    return compact_json({"message": {"ack": {"status": "NACK"}, "error": inner}, "error": error})


def error_code(code: str) -> str:
    """The code of BECKN-005 for one of ours; ours where that list has none (signatures, network)."""
    if code in _UNMAPPED:
        return code
    return _CODES.get(code) or _FAMILIES.get(code[:4], code)


def parse_error(document: Mapping[str, Any]) -> PeerError | None:
    """Read the ``error`` of a callback; None where it has none.

    Raises:
        BecknRefusal: It is no object.
    """
    error = document.get("error")
    if error is None:
        return None
    if not isinstance(error, Mapping):
        raise BecknRefusal("SCH_TYPE_NOT_SUPPORTED", "error must be an object", path="/error")
    code, detail, path = (error.get(name) for name in ("code", "message", "paths"))
    return PeerError(
        code=None if code is None else str(code),
        detail=detail if isinstance(detail, str) else None,
        path=path if isinstance(path, str) else None,
    )
