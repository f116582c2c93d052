"""Who takes part in the network: the mock registry's records. Pure.

Rules:

* A participant proves possession: its first record is signed with the very key it publishes, a later
  one with a key already on file for it.
* A key id stands for one key for ever; a new key needs a new key id.
* An older signed request never overwrites what a newer one wrote (replay).

Source: Beckn v1 registry API (Subscription, Subscriber), as practised by the onix adapter.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Annotated, Literal, TypeVar

import msgspec

from gateway.beckn.envelope import VERSION
from gateway.beckn.signing import MalformedKey, ParsedSignature, decode_public_key, verify_signature
from gateway.errors import BecknRefusal, GatewayError, InvalidRequest

DEFAULT_VALIDITY = timedelta(days=365)
CLOCK_SKEW = timedelta(seconds=5)
"""How far in our future a signature may have been made."""
MAX_SIGNATURE_LIFE = timedelta(hours=1)

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
_Id = Annotated[str, msgspec.Meta(pattern=r"^[!#-{}~]{1,255}$")]
"""May stand in a keyId: printable, without blank, quote and bar."""
_Version = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,4}(\.[0-9]{1,4}){1,3}$")]
_Url = Annotated[str, msgspec.Meta(pattern=r"^https?://[^\s]+$", max_length=2048)]
_Instant = Annotated[datetime, msgspec.Meta(tz=True)]
_Shape = TypeVar("_Shape")
_MISSING = re.compile(r"field `([^`]+)`")
_PATH = re.compile(r"at `\$\.?([^`]*)`")
Kind = Literal["BAP", "BPP", "BG", "CDS"]
Status = Literal["SUBSCRIBED", "EXPIRED"]


class Conflict(GatewayError):  # noqa: N818 - reads as what it is
    """A record that contradicts the one on file."""

    code = "conflict"
    http_status = 409


class Unproven(GatewayError):  # noqa: N818
    """No proof of possession of a key that may write this record."""

    code = "not_proven"
    http_status = 401


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """What a participant sends to POST /subscribe; members not listed here are ignored."""

    subscriber_id: _Id
    key_id: _Id
    url: _Url
    """Base of its endpoints: ``{url}/{action}``."""
    type: Kind
    domain: _Text
    signing_public_key: _Text
    encr_public_key: str | None = None
    valid_from: _Instant | None = None
    valid_until: _Instant | None = None
    serves: tuple[_Text, ...] = ()
    """Feeder ids or areas; empty: everywhere."""
    version: _Version = VERSION
    """Version of Beckn to be spoken to in."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One key of one participant as the registry keeps it."""

    subscriber_id: str
    key_id: str
    url: str
    type: Kind
    domain: str
    signing_public_key: str
    encr_public_key: str | None = None
    valid_from: datetime
    valid_until: datetime
    status: Status = "SUBSCRIBED"
    serves: tuple[str, ...] = ()
    version: str = VERSION
    created: datetime
    updated: datetime
    signed_at: int
    """Unix seconds: ``created`` of the signature that wrote it."""


class Fragment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What POST /lookup may ask for; an absent member restricts nothing."""

    subscriber_id: str | None = None
    key_id: str | None = None
    url: str | None = None
    type: str | None = None
    domain: str | None = None
    status: str | None = None
    serves: str | tuple[str, ...] | None = None
    """Only participants that serve (all of) these, or serve everywhere."""


Directory = Mapping[tuple[str, str], Record]
"""Records by subscriber id and key id."""


def parse_subscription(body: bytes) -> Subscription:
    """Read the body of POST /subscribe.

    Raises:
        InvalidRequest: Not JSON, or a member is missing or wrong; the fact ``field`` names it.
    """
    subscription = _decode(body, Subscription)
    try:
        decode_public_key(subscription.signing_public_key)
    except MalformedKey as exc:
        raise InvalidRequest(exc.detail, field="signing_public_key") from exc
    return subscription


def parse_fragment(body: bytes) -> Fragment:
    """Read the body of POST /lookup.

    Raises:
        InvalidRequest: Not JSON, or a member is unknown or wrong; the fact ``field`` names it.
    """
    return _decode(body, Fragment)


def subscribe(
    directory: Directory,
    subscription: Subscription,
    signature: ParsedSignature,
    body_digest: str,
    *,
    now: datetime,
) -> Record:
    """Judge a subscription and make the record to file.

    Args:
        directory: What is on file.
        subscription: The body.
        signature: Its Authorization header.
        body_digest: Of the raw body.
        now: Wall time.

    Raises:
        Unproven: The signature is not one that may write this record.
        Conflict: The key id stands for another key, or a newer request has been filed.
        InvalidRequest: The validity is empty or past.
    """
    _check_times(signature, now)
    if signature.subscriber_id != subscription.subscriber_id:
        raise Unproven("keyId names another subscriber than the record", field="subscriber_id")
    own = {
        key_id: each
        for (subscriber, key_id), each in directory.items()
        if subscriber == subscription.subscriber_id
    }
    on_file = own.get(subscription.key_id)
    if on_file is not None and on_file.signing_public_key != subscription.signing_public_key:
        raise Conflict(
            "this key_id stands for another key: publish a new key under a new key_id", field="key_id"
        )
    if own:
        signer = own.get(signature.key_id)
        if signer is None or signer.valid_until < now:
            raise Unproven(
                "this subscriber is on file: sign with one of its valid keys there", field="key_id"
            )
        public_key = signer.signing_public_key
    else:
        if signature.key_id != subscription.key_id:
            raise Unproven("a first record is signed with the key it publishes", field="key_id")
        public_key = subscription.signing_public_key
    try:
        verify_signature(signature, body_digest, decode_public_key(public_key))
    except BecknRefusal as exc:
        raise Unproven(exc.detail, field="signing_public_key") from exc
    if on_file is not None and signature.created < on_file.signed_at:
        raise Conflict("a newer subscription of this key has been filed", field="key_id")
    valid_from = subscription.valid_from or now
    valid_until = subscription.valid_until or valid_from + DEFAULT_VALIDITY
    if valid_until <= max(valid_from, now):
        raise InvalidRequest("valid_until is not after valid_from and now", field="valid_until")
    return Record(
        subscriber_id=subscription.subscriber_id,
        key_id=subscription.key_id,
        url=subscription.url,
        type=subscription.type,
        domain=subscription.domain,
        signing_public_key=subscription.signing_public_key,
        encr_public_key=subscription.encr_public_key,
        valid_from=valid_from,
        valid_until=valid_until,
        serves=subscription.serves,
        version=subscription.version,
        created=now if on_file is None else on_file.created,
        updated=now,
        signed_at=signature.created,
    )


def lookup(directory: Directory, fragment: Fragment, *, now: datetime) -> list[Record]:
    """Find the records that match every member of the fragment, in the order they were filed.

    A record past its validity is shown with status EXPIRED.
    """
    wanted = {
        name: value
        for name in ("subscriber_id", "key_id", "url", "type", "domain", "status")
        if (value := getattr(fragment, name)) is not None
    }
    places = (fragment.serves,) if isinstance(fragment.serves, str) else fragment.serves or ()
    return [
        record
        for record in _as_of(directory.values(), now)
        if all(getattr(record, name) == value for name, value in wanted.items())
        and (not record.serves or set(places) <= set(record.serves))
    ]


def _as_of(records: Iterable[Record], now: datetime) -> Iterable[Record]:
    for record in records:
        expired = record.valid_until < now
        yield msgspec.structs.replace(record, status="EXPIRED") if expired else record


def _check_times(signature: ParsedSignature, now: datetime) -> None:
    """Refuse signatures of another time than now."""
    seconds = now.timestamp()
    if signature.created > seconds + CLOCK_SKEW.total_seconds():
        raise Unproven("the signature was made in the future", field="created")
    if signature.expires < seconds:
        raise Unproven("the signature has expired", field="expires")
    if not 0 < signature.expires - signature.created <= MAX_SIGNATURE_LIFE.total_seconds():
        raise Unproven("the signature lives longer than an hour, or not at all", field="expires")


def _decode(body: bytes, kind: type[_Shape]) -> _Shape:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as exc:
        raise InvalidRequest(str(exc), field=_field(str(exc))) from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidRequest(f"the body is not JSON: {exc}", field=None) from exc


def _field(message: str) -> str | None:
    """Find the member a msgspec error is about."""
    missing = _MISSING.search(message)
    path = _PATH.search(message)
    names = [part for part in ((path[1] if path else ""), (missing[1] if missing else "")) if part]
    return ".".join(names) or None
