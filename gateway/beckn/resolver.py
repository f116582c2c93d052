"""Whose key is this? Participants and their keys, from a v1-style registry or pinned.

* A record counts only if it is the one asked for, SUBSCRIBED, within its validity, and holds a key of
  the right length; the registry's order of records is not trusted.
* Known keys are believed for five minutes and never past their validity; unknown ones stay unknown
  for half a minute. A failed signature may ask again once, but not more often than every ten
  seconds per key: a forger must not turn us against the registry.
* Concurrent questions for one key share one request.
* A registry that cannot be reached proves nothing: without a fresh answer the question fails.

Source: Beckn v1 registry API (Subscriber, Subscription, /lookup, /subscribe) with the field names met
in practice.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Protocol
from uuid import uuid4

import msgspec

from gateway.beckn.client import MAX_JSON_BYTES, HttpAnswer
from gateway.beckn.envelope import VERSION
from gateway.beckn.signing import MalformedKey, Signer, decode_public_key
from gateway.clock import Clock, rfc3339
from gateway.errors import BecknRefusal, PeerUnavailable

log = logging.getLogger(__name__)

SUBSCRIBED = "SUBSCRIBED"

POSITIVE_TTL_S = 300.0
NEGATIVE_TTL_S = 30.0
REFRESH_AFTER_S = 10.0
MAX_CACHED_KEYS = 10_000

_ALIASES = {
    "subscriber_id": ("subscriber_id",),
    "key_id": ("key_id", "unique_key_id", "ukId", "pub_key_id"),
    "url": ("url", "subscriber_url"),
    "type": ("type",),
    "domain": ("domain",),
    "signing_public_key": ("signing_public_key",),
    "valid_from": ("valid_from",),
    "valid_until": ("valid_until",),
    "status": ("status",),
    "serves": ("serves",),
    "version": ("version", "protocol_version", "core_version"),
}

_Aware = Annotated[datetime, msgspec.Meta(tz=True)]
_Text = Annotated[str, msgspec.Meta(min_length=1)]
_KeyRef = tuple[str, str]


class Participant(msgspec.Struct, frozen=True, kw_only=True):
    """One key of one network participant, as a registry publishes it."""

    subscriber_id: _Text
    key_id: _Text
    url: str
    """Base of its endpoints: ``{url}/{action}``."""
    type: str
    """BAP, BPP, BG or CDS."""
    domain: str = ""
    signing_public_key: str
    """Base64, as published (raw or SPKI)."""
    valid_from: _Aware | None = None
    valid_until: _Aware | None = None
    status: str = ""
    serves: tuple[str, ...] = ()
    """Feeder ids or areas; empty means everywhere."""
    version: str = VERSION
    """Version of Beckn it wants to be spoken to in (:mod:`gateway.beckn.dialect`)."""

    @property
    def public_key(self) -> bytes:
        """The 32 raw bytes of the signing key.

        Raises:
            MalformedKey: It is no Ed25519 key.
        """
        return decode_public_key(self.signing_public_key)

    def serves_place(self, place: str) -> bool:
        """Whether the participant serves a feeder or area."""
        return not self.serves or place in self.serves


class KeyResolver(Protocol):
    """Finds the participant behind the two ids of a keyId."""

    async def key(self, subscriber_id: str, key_id: str, *, refresh: bool = False) -> Participant | None:
        """Find a usable key.

        Args:
            subscriber_id: First part of the keyId.
            key_id: Second part.
            refresh: Ask the source again (a signature has just failed).

        Returns:
            The participant, or None where the source does not know it.

        Raises:
            BecknRefusal: AUT_KEY_EXPIRED_OR_REVOKED, 401: known, but not to be used now.
            PeerUnavailable: The source cannot be asked and nothing fresh is known.
        """
        ...


class Poster(Protocol):
    """The part of :class:`~gateway.beckn.client.BecknClient` a registry needs."""

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], *, max_bytes: int | None = None
    ) -> HttpAnswer:
        """Post bytes and return the answer; raises PeerUnavailable."""
        ...


def check_usable(participant: Participant, now: datetime) -> None:
    """Refuse a key that must not be used at an instant (wall time).

    Raises:
        BecknRefusal: AUT_KEY_EXPIRED_OR_REVOKED, 401.
    """
    who = f"{participant.subscriber_id}|{participant.key_id}"
    if participant.status != SUBSCRIBED:
        raise _unusable(f"{who} has status {participant.status or 'none'!r}, not {SUBSCRIBED}")
    if participant.valid_from is not None and now < participant.valid_from:
        raise _unusable(f"{who} is valid from {rfc3339(participant.valid_from)} only")
    if participant.valid_until is not None and now >= participant.valid_until:
        raise _unusable(f"{who} was valid until {rfc3339(participant.valid_until)}")


class StaticKeys:
    """Participants pinned by hand. Asks nobody.

    Args:
        participants: The pins; a later one with the same ids replaces an earlier one.
        clock: Wall time.
    """

    def __init__(self, participants: Iterable[Participant], clock: Clock) -> None:
        self._pins = {(pin.subscriber_id, pin.key_id): pin for pin in participants}
        self._clock = clock

    async def key(
        self,
        subscriber_id: str,
        key_id: str,
        *,
        refresh: bool = False,  # noqa: ARG002 - pins do not change
    ) -> Participant | None:
        """Find a pin; see :meth:`KeyResolver.key`."""
        pin = self._pins.get((subscriber_id, key_id))
        if pin is not None:
            check_usable(pin, self._clock())
        return pin

    async def participants(
        self,
        type: str = "BPP",  # noqa: A002 - the wire's word
        domain: str | None = None,
    ) -> tuple[Participant, ...]:
        """List the usable pins of one kind, one per subscriber."""
        return _newest_usable(self._pins.values(), type, domain, self._clock())


class RegistryClient:
    """A v1-style registry: ``POST {base}/lookup`` and ``POST {base}/subscribe``.

    Args:
        base_url: Registry URL without a trailing path.
        http: Posts bytes.
        clock: Wall time.
        signer: Signs lookups too, where a registry wants that.
        peer_types: Where one key stands under several types, these are preferred.
        positive_ttl_s: How long a known key is believed.
        negative_ttl_s: How long an unknown or unusable key is not asked for again.
        refresh_after_s: Youngest age at which a forced refresh is honoured.
        max_cached_keys: Bound of each cache.
    """

    def __init__(
        self,
        base_url: str,
        http: Poster,
        clock: Clock,
        *,
        signer: Signer | None = None,
        peer_types: Sequence[str] = (),
        positive_ttl_s: float = POSITIVE_TTL_S,
        negative_ttl_s: float = NEGATIVE_TTL_S,
        refresh_after_s: float = REFRESH_AFTER_S,
        max_cached_keys: int = MAX_CACHED_KEYS,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._http = http
        self._clock = clock
        self._signer = signer
        self._peer_types = frozenset(peer_types)
        self._positive_ttl = timedelta(seconds=positive_ttl_s)
        self._negative_ttl = timedelta(seconds=negative_ttl_s)
        self._refresh_after = timedelta(seconds=refresh_after_s)
        # Two caches: made-up ids must not push real keys out.
        self._known = _Cache(max_cached_keys)
        self._unknown = _Cache(max_cached_keys)
        self._flying: dict[_KeyRef, asyncio.Task[_Finding]] = {}

    async def key(self, subscriber_id: str, key_id: str, *, refresh: bool = False) -> Participant | None:
        """Find a usable key; see :meth:`KeyResolver.key`."""
        ref = (subscriber_id, key_id)
        now = self._clock()
        cached = self._known.get(ref) or self._unknown.get(ref)
        if (
            cached is None
            or now >= cached.until
            or (refresh and now >= cached.found_at + self._refresh_after)
        ):
            cached = await self._shared_lookup(ref)
        if cached.refusal is not None:
            # A fresh exception each time: one that is raised twice collects two tracebacks.
            raise _unusable(cached.refusal)
        return cached.participant

    async def participants(
        self,
        type: str = "BPP",  # noqa: A002 - the wire's word
        domain: str | None = None,
    ) -> tuple[Participant, ...]:
        """List the usable participants of one kind, one per subscriber, by subscriber id.

        Their keys are remembered, so that a first callback needs no lookup.

        Args:
            type: BAP, BPP, BG or CDS.
            domain: Only this Beckn domain.

        Raises:
            PeerUnavailable: The registry gave no usable answer.
        """
        wanted = {"type": type} if domain is None else {"type": type, "domain": domain}
        records = await self._lookup(wanted)
        now = self._clock()
        usable = _newest_usable(records, type, domain, now)
        for participant in usable:
            ref = (participant.subscriber_id, participant.key_id)
            self._remember(ref, [each for each in records if (each.subscriber_id, each.key_id) == ref], now)
        return usable

    async def subscribe(
        self,
        signer: Signer,
        *,
        url: str,
        type: str,  # noqa: A002 - the wire's word
        domain: str,
        valid_from: datetime,
        valid_until: datetime,
        serves: Sequence[str] = (),
        version: str = VERSION,
    ) -> str | None:
        """Publish our own record, signed with the key it names as proof that we hold it.

        Args:
            signer: Our key and ids.
            url: Base of our endpoints.
            type: BAP or BPP.
            domain: Beckn domain.
            valid_from: Aware, wall time.
            valid_until: Aware, wall time.
            serves: Feeder ids or areas; empty means everywhere.
            version: Version of Beckn to be spoken to in.

        Returns:
            The status the registry states, or None where it states none.

        Raises:
            PeerUnavailable: Unreachable, or refused (the facts hold status and answer).
        """
        record = {
            "subscriber_id": signer.subscriber_id,
            "key_id": signer.key_id,
            "url": url,
            "type": type,
            "domain": domain,
            "signing_public_key": signer.public_key,
            "valid_from": rfc3339(valid_from),
            "valid_until": rfc3339(valid_until),
            "serves": list(serves),
            "version": version,
            "nonce": str(uuid4()),
        }
        document = await self._ask("/subscribe", record, signer)
        status = document.get("status") if isinstance(document, dict) else None
        return status if isinstance(status, str) else None

    async def _shared_lookup(self, ref: _KeyRef) -> "_Finding":
        """Ask once, however many are waiting for this key."""
        task = self._flying.get(ref)
        if task is None:
            task = asyncio.create_task(self._look_up_key(ref), name=f"look up {ref[0]}|{ref[1]}")
            self._flying[ref] = task
            task.add_done_callback(lambda done: self._landed(ref, done))
        # One waiter that gives up must not take the answer from the others.
        return await asyncio.shield(task)

    def _landed(self, ref: _KeyRef, task: "asyncio.Task[_Finding]") -> None:
        self._flying.pop(ref, None)
        if not task.cancelled():
            # Waiters raise it; where none is left it is marked as seen here.
            task.exception()

    async def _look_up_key(self, ref: _KeyRef) -> "_Finding":
        records = await self._lookup({"subscriber_id": ref[0], "key_id": ref[1]})
        matching = tuple(each for each in records if (each.subscriber_id, each.key_id) == ref)
        return self._remember(ref, matching, self._clock())

    def _remember(self, ref: _KeyRef, matching: Sequence[Participant], now: datetime) -> "_Finding":
        """Judge the records of one key and cache the result, good or bad."""
        participant, refusal = _judge(matching, self._peer_types, now)
        self._known.drop(ref)
        self._unknown.drop(ref)
        if participant is None:
            finding = _Finding(
                participant=None, refusal=refusal, found_at=now, until=now + self._negative_ttl
            )
            self._unknown.put(ref, finding)
            return finding
        until = now + self._positive_ttl
        if participant.valid_until is not None:
            until = min(until, participant.valid_until)
        finding = _Finding(participant=participant, refusal=None, found_at=now, until=until)
        self._known.put(ref, finding)
        return finding

    async def _lookup(self, fragment: Mapping[str, str]) -> list[Participant]:
        """Records that match a fragment; unreadable ones are left out and logged."""
        document = await self._ask("/lookup", fragment, self._signer)
        if not isinstance(document, list):
            raise self._useless("/lookup", "an answer that is not an array")
        records = []
        for raw in document:
            try:
                records.append(read_record(raw))
            except (msgspec.ValidationError, MalformedKey) as exc:
                log.warning("registry record left out (asked for %s): %s", dict(fragment), exc)
        return records

    async def _ask(self, path: str, document: Mapping[str, Any], signer: Signer | None) -> Any:
        """Post JSON and return the decoded answer; an unknown subscriber's 404 is an empty list."""
        body = msgspec.json.encode(document)
        headers = {} if signer is None else {"Authorization": signer.authorization(body, now=self._clock())}
        answer = await self._http.post(self._base_url + path, body, headers, max_bytes=MAX_JSON_BYTES)
        if path == "/lookup" and answer.status == 404:
            return []
        if not 200 <= answer.status < 300:
            excerpt = answer.body[:200].decode(errors="replace")
            raise self._useless(path, f"{answer.status}: {excerpt}", answer)
        try:
            return msgspec.json.decode(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise self._useless(path, "something that is not JSON", answer) from exc

    def _useless(self, path: str, detail: str, answer: HttpAnswer | None = None) -> PeerUnavailable:
        return PeerUnavailable(
            f"registry {self._base_url}{path} answered {detail}",
            retryable=answer is not None and answer.status >= 500,
            retry_after_s=None,
            reason="http",
            status=None if answer is None else answer.status,
            url=self._base_url + path,
        )


def read_record(raw: Any) -> Participant:
    """Read one element of a lookup answer, under any of the names its fields are known by.

    Raises:
        msgspec.ValidationError: A field is missing or has another form.
        MalformedKey: The signing key is no Ed25519 key.
    """
    if not isinstance(raw, dict):
        raise msgspec.ValidationError("a record must be an object")
    fields: dict[str, Any] = {}
    for name, aliases in _ALIASES.items():
        value = next((raw[alias] for alias in aliases if raw.get(alias) is not None), None)
        if value is not None:
            fields[name] = value
    participant = msgspec.convert(fields, Participant)
    decode_public_key(participant.signing_public_key)
    return participant


class _Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What the registry's answer for one key came to: a participant, a refusal, or neither."""

    participant: Participant | None
    refusal: str | None
    found_at: datetime
    until: datetime


class _Cache:
    """Findings by key, bounded; the least recently used goes first."""

    def __init__(self, limit: int) -> None:
        self._entries: OrderedDict[_KeyRef, _Finding] = OrderedDict()
        self._limit = limit

    def get(self, ref: _KeyRef) -> _Finding | None:
        found = self._entries.get(ref)
        if found is not None:
            self._entries.move_to_end(ref)
        return found

    def put(self, ref: _KeyRef, finding: _Finding) -> None:
        self._entries[ref] = finding
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def drop(self, ref: _KeyRef) -> None:
        self._entries.pop(ref, None)


def _judge(
    matching: Sequence[Participant], peer_types: frozenset[str], now: datetime
) -> tuple[Participant | None, str | None]:
    """Choose among the records of one key: the usable one, else why there is none."""
    usable = []
    refusal = None
    for record in matching:
        try:
            check_usable(record, now)
        except BecknRefusal as exc:
            refusal = exc.detail
        else:
            usable.append(record)
    if not usable:
        return None, refusal
    if len({record.public_key for record in usable}) > 1:
        return None, f"{usable[0].subscriber_id}|{usable[0].key_id} stands for several keys"
    return next((record for record in usable if record.type in peer_types), usable[0]), None


def _newest_usable(
    records: Iterable[Participant],
    type: str,  # noqa: A002 - the wire's word
    domain: str | None,
    now: datetime,
) -> tuple[Participant, ...]:
    """Usable records of one kind, the latest key of each subscriber, by subscriber id."""
    newest: dict[str, Participant] = {}
    for record in records:
        if record.type != type or (domain is not None and record.domain != domain):
            continue
        try:
            check_usable(record, now)
        except BecknRefusal as exc:
            log.info("participant left out: %s", exc.detail)
            continue
        rival = newest.get(record.subscriber_id)
        if rival is None or _age(record) > _age(rival):
            newest[record.subscriber_id] = record
    return tuple(newest[subscriber_id] for subscriber_id in sorted(newest))


def _age(record: Participant) -> float:
    return record.valid_from.timestamp() if record.valid_from is not None else float("-inf")


def _unusable(detail: str) -> BecknRefusal:
    return BecknRefusal("AUT_KEY_EXPIRED_OR_REVOKED", detail, http_status=401, challenge=True)
