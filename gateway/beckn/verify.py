"""Inbound Beckn messages: bytes in, a :class:`VerifiedMessage` or a refusal out. Fails closed.

The order is fixed and every step is one function:

1. size of the raw body
2. signature header, taken apart (a gateway's own header is taken apart and proven too)
3. the signature's times against ours
4. the signer's key, from the registry or a pin
5. digest and signature, with one fresh look at the registry where they do not fit
6. strict JSON, then the context: signer, receiver, action, version, ids, ttl
7. schema of the action

What the body says counts only once its signature has verified; the one exception is the messageId, which
is needed to find the request that a callback's fourth line chains to, and which decides nothing
else. Correlation and repeats are the caller's business.

Source: error codes and layer order of NFH-008; checks as the beckn-onix adapter does them and, for
the comparison of path and action, as it should.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec

from gateway.beckn.dialect import V2, Dialect, Languages, claimed, claimed_dialect
from gateway.beckn.envelope import Context
from gateway.beckn.model import PeerError
from gateway.beckn.resolver import KeyResolver, Participant, check_usable
from gateway.beckn.schema import MessageSchemas
from gateway.beckn.signing import (
    HEADERS_4,
    MalformedKey,
    ParsedSignature,
    challenge,
    digest,
    parse_authorization,
    verify_signature,
)
from gateway.beckn.strictjson import MAX_DEPTH, decode_strictly
from gateway.clock import rfc3339
from gateway.errors import BecknRefusal, PeerUnavailable

Role = Literal["bap", "bpp"]
SentSignatures = Callable[[str], Sequence[tuple[str, str]]]
"""messageId -> for each time we sent that request, its bare signature and whole Authorization value."""

CATALOGUE_ACTIONS = frozenset({"on_discover", "on_search"})
MAX_FAULTS_SHOWN = 5

_PEER_TYPES: Mapping[Role, frozenset[str]] = {"bap": frozenset({"BPP"}), "bpp": frozenset({"BAP"})}
_GATEWAY_TYPE = "BG"
_KEPT_HEADERS = ("authorization", "x-gateway-authorization", "content-type")


class InboundLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of what is read at all."""

    max_body_bytes: int = 1024 * 1024
    max_catalogue_bytes: int = 8 * 1024 * 1024
    """For on_discover and on_search."""
    future_skew_s: float = 5.0
    """How far ahead of our clock a signature may have been created; expiry knows no tolerance."""
    max_window_s: int = 3600
    """Longest life of a signature."""
    max_depth: int = MAX_DEPTH
    """Deepest nesting of JSON objects and arrays."""

    def max_bytes(self, action: str) -> int:
        """Largest body of an action, so that a server can stop reading in time."""
        return self.max_catalogue_bytes if action in CATALOGUE_ACTIONS else self.max_body_bytes


DEFAULT_LIMITS = InboundLimits()


class VerifiedMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message whose sender, bytes and form are proven. Only :func:`verify_inbound` makes one."""

    action: str
    """As posted and as the context says."""
    dialect: Dialect = V2
    """The generation it is in."""
    context: Context
    message: dict[str, Any]
    """Empty where a callback only reports an error."""
    error: PeerError | None = None
    """What a callback reports to have gone wrong, where its generation has that."""
    body: bytes
    """As received: what the signature covers."""
    headers: dict[str, str]
    """Authorization, X-Gateway-Authorization and Content-Type as received; names in lower case."""
    sender: Participant
    signature: str
    """The bare signature."""
    variant: str
    """How it verified: "3-line", "4-line-bare" or "4-line-whole-header"."""
    digest: str

    @property
    def verb(self) -> str:
        """The action in the model's words: ``on_discover`` also where the wire says on_search."""
        return self.dialect.verb(self.action) or self.action


def no_requests(_message_id: str) -> Sequence[tuple[str, str]]:
    """Say that we sent nothing: for receivers of requests and of pushes."""
    return ()


async def verify_inbound(
    *,
    action: str,
    body: bytes,
    headers: Mapping[str, str],
    resolver: KeyResolver,
    schemas: Languages | MessageSchemas,
    own_id: str,
    role: Role,
    now: datetime,
    sent_signatures: SentSignatures = no_requests,
    limits: InboundLimits = DEFAULT_LIMITS,
    discovery_ids: Collection[str] = (),
) -> VerifiedMessage:
    """Verify one inbound message.

    Args:
        action: The last part of the path it was posted to.
        body: The raw bytes.
        headers: HTTP headers; names in any case, repeated ones joined.
        resolver: Finds keys.
        schemas: The generations accepted; a single set of schemas accepts its own only.
        own_id: Our subscriber id, which the context must name.
        role: "bap" receives callbacks, "bpp" receives requests.
        now: Wall time, aware.
        sent_signatures: What we sent under a messageId (see :data:`SentSignatures`).
        limits: Bounds.
        discovery_ids: Subscriber ids of discovery services that may answer for sellers.

    Raises:
        BecknRefusal: 413 too large; 401 AUT_*; 400 SCH_* and CTX_*; 503 NET_DOWNSTREAM_UNAVAILABLE when
            the registry cannot be asked. The fact ``message_id`` holds the claimed messageId.
    """
    languages = schemas if isinstance(schemas, Languages) else Languages.of_one(schemas)
    try:
        check_size(action, body, limits)
        received = select_headers(headers)
        parsed = read_signature(received)
        check_times(parsed, now, limits)
        body_digest = digest(body)
        await check_gateway_header(received, body_digest, resolver, now, limits)
        sender = await resolve_key(parsed, resolver, now)
        requests = requests_answered(parsed, body, sent_signatures)
        sender, variant = await check_signature(parsed, body_digest, sender, requests, resolver, now)
        document = decode_document(body, limits)
        dialect, context = read_context(document, body, languages)
        check_signer(sender, dialect, context, action, role, discovery_ids)
        check_receiver(dialect, context, own_id, action, role)
        check_action(dialect, context, action, role, languages.schemas(dialect))
        check_ttl(context, now)
        check_schema(action, document, languages.schemas(dialect))
        error = dialect.parse_error(document)
    except BecknRefusal as refusal:
        refusal.facts.setdefault("message_id", claimed_message_id(body))
        raise
    return VerifiedMessage(
        action=action,
        dialect=dialect,
        context=context,
        message=document.get("message", {}),
        error=error,
        body=body,
        headers=received,
        sender=sender,
        signature=parsed.signature,
        variant=variant,
        digest=body_digest,
    )


def challenge_headers(refusal: BecknRefusal, own_id: str) -> dict[str, str]:
    """HTTP headers that must go with a refusal: the challenge of a 401, for whoever failed it."""
    if not refusal.challenge:
        return {}
    name = "Proxy-Authenticate" if refusal.facts.get("gateway") else "WWW-Authenticate"
    return {name: challenge(own_id)}


def claimed_message_id(body: bytes) -> str | None:
    """The context's message id as the body claims it, proven or not; None where it cannot be read."""
    message_id = claimed(body).message_id
    return message_id if message_id is not None and len(message_id) <= _MAX_ECHO_CHARS else None


# --- 1, 2, 3: the envelope of the bytes -----------------------------------------------------------------


def check_size(action: str, body: bytes, limits: InboundLimits) -> None:
    """Refuse a body over the action's bound, 413."""
    allowed = limits.max_bytes(action)
    if len(body) > allowed:
        raise BecknRefusal(
            "SCH_SCHEMA_VALIDATION_FAILED",
            f"the body has {len(body)} bytes; {action} may have {allowed}",
            http_status=413,
        )


def select_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Pick the headers that matter, refusing one that is there twice."""
    selected: dict[str, str] = {}
    for name, value in headers.items():
        key = name.lower()
        if key not in _KEPT_HEADERS:
            continue
        if key in selected:
            raise _unproven("AUT_SIGNATURE_INVALID", f"the header {key} is there twice")
        selected[key] = value
    return selected


def read_signature(received: Mapping[str, str]) -> ParsedSignature:
    """Take the sender's signature header apart."""
    header = received.get("authorization", "")
    if not header:
        raise _unproven(
            "AUT_SIGNATURE_MISSING", "sign the body and send the signature in the Authorization header"
        )
    return parse_authorization(header)


def check_times(parsed: ParsedSignature, now: datetime, limits: InboundLimits) -> None:
    """Refuse a signature from the future, one that has expired, and one that lives too long."""
    seconds = now.timestamp()
    if parsed.created > seconds + limits.future_skew_s:
        fault = "was created in the future"
    elif parsed.expires < seconds:
        fault = "has expired"
    elif parsed.expires <= parsed.created:
        fault = "expires before it begins"
    elif parsed.expires - parsed.created > limits.max_window_s:
        fault = f"lives longer than {limits.max_window_s} s"
    else:
        return
    raise _unproven(
        "AUT_SIGNATURE_INVALID",
        f"the signature {fault}: created {parsed.created}, expires {parsed.expires}, now {seconds:.3f}, "
        f"tolerated skew {limits.future_skew_s:g} s",
        created=parsed.created,
        expires=parsed.expires,
        now=round(seconds, 3),
        skew_s=limits.future_skew_s,
    )


# --- 4, 5: key and signature ----------------------------------------------------------------------------


async def resolve_key(parsed: ParsedSignature, resolver: KeyResolver, now: datetime) -> Participant:
    """Find the signer's key; refuse unknown, unusable and unreachable ones."""
    who = f"{parsed.subscriber_id}|{parsed.key_id}"
    try:
        participant = await resolver.key(parsed.subscriber_id, parsed.key_id)
    except PeerUnavailable as exc:
        raise BecknRefusal(
            "NET_DOWNSTREAM_UNAVAILABLE",
            f"the key of {who} cannot be looked up now; send the message again later",
            http_status=503,
            retry_after_s=exc.facts.get("retry_after_s"),
        ) from exc
    if participant is None:
        raise _unproven("AUT_SUBSCRIBER_NOT_FOUND", f"no registry knows {who}")
    if (participant.subscriber_id, participant.key_id) != (parsed.subscriber_id, parsed.key_id):
        raise _unproven("AUT_SUBSCRIBER_NOT_FOUND", f"the registry answered for another key than {who}")
    check_usable(participant, now)
    return participant


def requests_answered(
    parsed: ParsedSignature, body: bytes, sent_signatures: SentSignatures
) -> Sequence[tuple[str, str]]:
    """Find what the fourth line may chain to; nothing where none is declared."""
    if parsed.headers != HEADERS_4:
        return ()
    message_id = claimed_message_id(body)
    return () if message_id is None else sent_signatures(message_id)


async def check_signature(  # noqa: PLR0917 - one step of the line above, called there only
    parsed: ParsedSignature,
    body_digest: str,
    sender: Participant,
    requests: Sequence[tuple[str, str]],
    resolver: KeyResolver,
    now: datetime,
) -> tuple[Participant, str]:
    """Verify; where it fails, once more with a key that is fresh from the registry.

    Returns:
        The participant whose key verified and the variant of the signature.
    """
    try:
        return sender, _verified_by(sender, parsed, body_digest, requests)
    except BecknRefusal as refusal:
        try:
            fresh = await resolver.key(parsed.subscriber_id, parsed.key_id, refresh=True)
        except PeerUnavailable:
            # The key at hand is still within its life and does not fit: that is the answer.
            raise refusal from None
        if fresh is None or fresh.signing_public_key == sender.signing_public_key:
            raise
        check_usable(fresh, now)
        return fresh, _verified_by(fresh, parsed, body_digest, requests)


async def check_gateway_header(
    received: Mapping[str, str],
    body_digest: str,
    resolver: KeyResolver,
    now: datetime,
    limits: InboundLimits,
) -> None:
    """Verify the X-Gateway-Authorization a v1 gateway adds, where there is one.

    It has the sender's grammar and digest and the gateway's own key, and does not replace the sender's.

    Raises:
        BecknRefusal: With the fact ``gateway``: the challenge goes into Proxy-Authenticate.
    """
    header = received.get("x-gateway-authorization")
    if header is None:
        return
    try:
        parsed = parse_authorization(header)
        check_times(parsed, now, limits)
        gateway = await resolve_key(parsed, resolver, now)
        if gateway.type != _GATEWAY_TYPE:
            raise _unproven("AUT_UNAUTHORIZED_ACTION", f"{gateway.subscriber_id} is not a gateway")
        _verified_by(gateway, parsed, body_digest, ())
    except BecknRefusal as refusal:
        refusal.facts["gateway"] = True
        raise


def _verified_by(
    participant: Participant,
    parsed: ParsedSignature,
    body_digest: str,
    requests: Sequence[tuple[str, str]],
) -> str:
    try:
        return verify_signature(parsed, body_digest, participant.public_key, requests)
    except MalformedKey as exc:
        raise _unproven("AUT_KEY_NOT_FOUND", f"{participant.subscriber_id}: {exc.detail}") from exc


# --- 6: JSON and context --------------------------------------------------------------------------------


def decode_document(body: bytes, limits: InboundLimits = DEFAULT_LIMITS) -> dict[str, Any]:
    """Decode strictly (see :mod:`gateway.beckn.strictjson`) into an object with an object ``message``.

    A document that has an ``error`` may lack the message; whether it may is for its schema to say.

    Raises:
        BecknRefusal: SCH_INVALID_JSON, or SCH_* for the outermost form, 400.
    """
    document = decode_strictly(body, max_depth=limits.max_depth)
    if not isinstance(document, dict):
        raise BecknRefusal("SCH_TYPE_NOT_SUPPORTED", "the body must be a JSON object", path="/")
    if "message" not in document and "error" not in document:
        raise BecknRefusal("SCH_REQUIRED_FIELD_MISSING", "message is missing: send it", path="/message")
    if not isinstance(document.get("message", {}), dict):
        raise BecknRefusal("SCH_TYPE_NOT_SUPPORTED", "message must be an object", path="/message")
    return document


def read_context(document: Mapping[str, Any], body: bytes, languages: Languages) -> tuple[Dialect, Context]:
    """Read the context; what is missing or malformed there has its own family of codes.

    The version decides the generation. Without one the message is refused in the generation its
    spelling suggests.
    """
    raw = document.get("context")
    version = raw.get("version") if isinstance(raw, Mapping) else None
    if isinstance(version, str):
        accepted = languages.of(version)
        if accepted is None:
            raise BecknRefusal(
                "CTX_VERSION_UNSUPPORTED",
                f"context.version is {_short(version)}; {_listed(languages.versions)} spoken here",
                path="/context/version",
            )
        dialect = accepted
    else:
        dialect = claimed_dialect(body, default=languages.default)
    try:
        context = dialect.parse_context(raw)
    except BecknRefusal as exc:
        missing = exc.code == "SCH_REQUIRED_FIELD_MISSING" or "context" not in document
        code = "CTX_MISSING_FIELD" if missing else "CTX_INVALID_FIELD"
        raise BecknRefusal(code, exc.detail, path=exc.path) from exc
    for name, value in (("transaction_id", context.transaction_id), ("message_id", context.message_id)):
        if not value:
            member = dialect.member(name)
            raise BecknRefusal("CTX_MISSING_FIELD", f"context.{member} is empty", path=f"/context/{member}")
    return dialect, context


def check_signer(  # noqa: PLR0917 - one step of the line above, called there only
    sender: Participant,
    dialect: Dialect,
    context: Context,
    action: str,
    role: Role,
    discovery_ids: Collection[str],
) -> None:
    """Refuse a message that speaks for somebody else than its signer."""
    if role == "bap" and action in CATALOGUE_ACTIONS and sender.subscriber_id in discovery_ids:
        return
    member = dialect.member("bpp_id" if role == "bap" else "bap_id")
    claimed = context.bpp_id if role == "bap" else context.bap_id
    if claimed != sender.subscriber_id:
        raise _unproven(
            "AUT_UNAUTHORIZED_ACTION",
            f"signed by {sender.subscriber_id}, but context.{member} is {_short(claimed)}",
            path=f"/context/{member}",
        )
    if sender.type not in _PEER_TYPES[role]:
        raise _unproven(
            "AUT_UNAUTHORIZED_ACTION",
            f"{sender.subscriber_id} is registered as {sender.type} and may not send {action}",
            path=f"/context/{member}",
        )


def check_receiver(dialect: Dialect, context: Context, own_id: str, action: str, role: Role) -> None:
    """Refuse a message that is meant for somebody else."""
    member = dialect.member("bap_id" if role == "bap" else "bpp_id")
    named = context.bap_id if role == "bap" else context.bpp_id
    if named is None and dialect.verb(action) == "discover":
        return  # a discover without a seller asks whoever receives it
    if named is None:
        raise BecknRefusal(
            "CTX_MISSING_FIELD", f"context.{member} is missing: send it", path=f"/context/{member}"
        )
    if named != own_id:
        raise BecknRefusal(
            "CTX_INVALID_FIELD",
            f"context.{member} is {_short(named)}, but this is {own_id}",
            path=f"/context/{member}",
        )


def check_action(
    dialect: Dialect, context: Context, action: str, role: Role, schemas: MessageSchemas
) -> None:
    """Refuse an action that is not the path's, not this role's, or unknown."""
    if context.action != action:
        raise BecknRefusal(
            "CTX_ACTION_MISMATCH",
            f"context.action is {_short(context.action)}, but it was posted to {action}",
            path="/context/action",
        )
    verb = dialect.verb(action)
    if verb is None or verb.startswith("on_") != (role == "bap") or action not in schemas.actions:
        raise BecknRefusal("NET_NOT_IMPLEMENTED", f"{action} is not served here", path="/context/action")


def check_ttl(context: Context, now: datetime) -> None:
    """Refuse a message that is older than it wants to live (wall time)."""
    if context.ttl is None:
        return
    try:
        ttl = msgspec.convert(context.ttl, timedelta)
    except msgspec.ValidationError as exc:
        raise BecknRefusal(
            "CTX_INVALID_FIELD",
            f"context.ttl {_short(context.ttl)} is not an ISO 8601 duration such as PT30S",
            path="/context/ttl",
        ) from exc
    age = now - context.timestamp
    if age > ttl:
        raise BecknRefusal(
            "CTX_TTL_EXPIRED",
            f"sent {rfc3339(context.timestamp)} with ttl {context.ttl}, received {rfc3339(now)}",
            path="/context/ttl",
            age_s=age.total_seconds(),
        )


# --- 7: schema ------------------------------------------------------------------------------------------


def check_schema(action: str, document: Mapping[str, Any], schemas: MessageSchemas) -> None:
    """Refuse a document its schema refuses, naming the first few faults."""
    faults = schemas.faults(action, document)
    if not faults:
        return
    shown = faults[:MAX_FAULTS_SHOWN]
    detail = "; ".join(f"{fault.path}: {fault.detail}" for fault in shown)
    if len(faults) > len(shown):
        detail += f"; and {len(faults) - len(shown)} more"
    raise BecknRefusal(
        faults[0].code,
        detail,
        path=";".join(dict.fromkeys(fault.path for fault in shown)),
        rule=faults[0].rule,
    )


_MAX_ECHO_CHARS = 128


def _listed(versions: Sequence[str]) -> str:
    return f"{versions[0]} is" if len(versions) == 1 else f"{', '.join(versions[:-1])} and {versions[-1]} are"


def _short(value: str | None) -> str:
    """Quote what a peer sent, within bounds."""
    text = repr(value)
    return text if len(text) <= _MAX_ECHO_CHARS else text[:_MAX_ECHO_CHARS] + "..."


def _unproven(code: str, detail: str, *, path: str | None = None, **facts: Any) -> BecknRefusal:
    return BecknRefusal(code, detail, http_status=401, path=path, challenge=True, **facts)
