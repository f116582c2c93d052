"""Which generation of Beckn is spoken: one :class:`Dialect` each, chosen by the peer's version.

Everything above this module speaks in the model's words: verbs (``discover``, ``on_select``,
``complete``), offers, order terms, contract views. What those are called and where they stand in a
message is the dialect's business.

* v2.0.0 LTS: ``discover``, contract model, camelCase context, signed Acks, chained callbacks.
* v1.1.x: ``search``, order model with tag groups, snake_case context, plain Acks.

COMPLETE is no action of either: it travels as ``status``, and a contract is complete when the seller
says so in an ``on_status`` or ``on_update`` (``docs/decisions/0004-complete-verb.md``).
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Protocol

import msgspec

from gateway.beckn import envelope, envelope_v1, service_v1, service_v2, v1, v2
from gateway.beckn.envelope import Context
from gateway.beckn.model import (
    DiscoverAsk,
    PeerError,
    Rating,
    RatingReply,
    Support,
    TrackAsk,
    Tracking,
    UpdateAsk,
)
from gateway.beckn.schema import MessageSchemas
from gateway.types import ContractView, Direction, Location, Offer, OrderTerms

Message = dict[str, Any]


class Generation(StrEnum):
    """Families of versions, as the command line names them."""

    V2 = "2.0"
    V1 = "1.1"


class Place(StrEnum):
    """Members of a message that refusals point at."""

    CATALOGUE = "catalogue"
    CONTRACT_ID = "contract id"
    """Of a contract that is spelled out."""
    REFERENCE = "reference"
    """Contract id of a request that only names its contract (status, cancel)."""
    LINES = "lines"


class Dialect(Protocol):
    """One generation, for buyer and seller; has no state.

    Parsers raise :class:`~gateway.errors.BecknRefusal`, builders :class:`ValueError` on values the wire
    cannot carry.
    """

    @property
    def generation(self) -> Generation:
        """Its family."""

    @property
    def versions(self) -> tuple[str, ...]:
        """Values of ``context.version``; the first is stated where nothing else is agreed."""

    @property
    def signs_answers(self) -> bool:
        """Whether Acks and Nacks carry a ``Signature`` header."""

    @property
    def chains_callbacks(self) -> bool:
        """Whether a solicited callback's signature covers that of its request."""

    # --- envelope ---

    def action(self, verb: str) -> str:
        """Name a verb on the wire."""

    def verb(self, action: str) -> str | None:
        """What an action of the wire is called in the model; None for an unknown one."""

    def member(self, name: str) -> str:
        """Name a member of the context (``bap_id``) on the wire."""

    def path(self, place: Place) -> str:
        """JSON pointer of a place in a message."""

    def encode(self, context: Context, message: Mapping[str, Any]) -> bytes:
        """Encode a message once: the bytes that are signed, sent and stored."""

    def parse_context(self, raw: Any) -> Context:
        """Read a decoded context."""

    def parse_error(self, document: Mapping[str, Any]) -> PeerError | None:
        """Read the error a callback reports, where the generation has that."""

    def ack_body(self, message_id: str, /) -> bytes:
        """Write an Ack."""

    def nack_body(
        self,
        message_id: str | None,
        /,
        *,
        code: str,
        detail: str,
        path: str | None = None,
        cause: str | None = None,
    ) -> bytes:
        """Write a Nack; ``code`` is one of ours, the generation may have its own for it."""

    # --- buyer ---

    def discover_message(  # noqa: PLR0917 - the need's members in their natural order
        self,
        need_feeder_id: str,
        direction: Direction,
        kw: float,
        window_start: datetime,
        window_end: datetime,
        location: Location | None = None,
    ) -> Message:
        """Ask for catalogues that can relieve a feeder."""

    def select_message(self, terms: OrderTerms, /) -> Message:
        """Ask for price and commitment."""

    def init_message(self, terms: OrderTerms, view: ContractView, /) -> Message:
        """Ask for final terms."""

    def confirm_message(self, terms: OrderTerms, view: ContractView, /) -> Message:
        """Accept the final terms."""

    def status_message(self, terms: OrderTerms, contract_id: str, /) -> Message:
        """Ask how a contract stands; also what COMPLETE sends."""

    def cancel_message(self, terms: OrderTerms, contract_id: str, reason: str, /) -> Message:
        """Ask to end a contract."""

    def update_message(
        self, terms: OrderTerms, view: ContractView, contract_id: str, /, *, completes: bool = False
    ) -> Message:
        """Ask to change a contract, or to end it as complete."""

    def track_message(self, terms: OrderTerms, contract_id: str, callback_url: str, /) -> Message:
        """Ask to follow a delivery."""

    def rate_message(self, ratings: Sequence[Rating], /) -> Message:
        """Rate."""

    def support_message(self, ask: Support, /) -> Message:
        """Ask for help."""

    def reference(self, terms: OrderTerms, view: ContractView, /) -> str | None:
        """The id under which a contract can be spoken of; None while there is none."""

    def parse_offers(
        self, message: Mapping[str, Any], error: PeerError | None, *, bpp_id: str, bpp_uri: str
    ) -> tuple[Offer, ...] | None:
        """Read a catalogue; None where the seller only reports an error."""

    def parse_reply(
        self, verb: str, message: Mapping[str, Any], error: PeerError | None, /
    ) -> ContractView | None:
        """Read a callback about a contract; None where it only reports an error and nothing has changed."""

    def parse_on_track(self, message: Mapping[str, Any], /) -> Tracking:
        """Read where a delivery can be followed."""

    def parse_on_rate(self, message: Mapping[str, Any], /) -> RatingReply:
        """Read what became of ratings."""

    # --- seller ---

    def on_discover_message(self, offers: Sequence[Offer], /) -> Message:
        """Publish offers."""

    def contract_message(self, terms: OrderTerms, view: ContractView, /) -> Message:
        """Declare the state of a contract."""

    def on_track_message(self, terms: OrderTerms, tracking: Tracking, /) -> Message:
        """Say where a delivery can be followed."""

    def on_rate_message(self, reply: RatingReply, /) -> Message:
        """Answer ratings."""

    def on_support_message(self, support: Support, /) -> Message:
        """Say whom to ask."""

    def parse_discover(self, message: Mapping[str, Any], /) -> DiscoverAsk:
        """Read what a buyer looks for."""

    def parse_order(self, message: Mapping[str, Any], /) -> tuple[OrderTerms, str | None]:
        """Read an order (select, init, confirm) and the contract id it names."""

    def parse_reference(self, message: Mapping[str, Any], /) -> str | None:
        """Read which contract a status or cancel is about."""

    def parse_cancel_reason(self, message: Mapping[str, Any], /) -> str | None:
        """Read why a buyer cancels."""

    def parse_update(self, message: Mapping[str, Any], /) -> UpdateAsk:
        """Read a wish to change a contract."""

    def parse_track(self, message: Mapping[str, Any], /) -> TrackAsk:
        """Read a wish to follow a delivery."""

    def parse_rate(self, message: Mapping[str, Any], /) -> tuple[Rating, ...]:
        """Read ratings."""

    def parse_support(self, message: Mapping[str, Any], /) -> Support:
        """Read a request for help, or (as a buyer) whom to ask."""


_VERBS: Final = (
    "discover",
    "select",
    "init",
    "confirm",
    "status",
    "track",
    "update",
    "cancel",
    "rate",
    "support",
)
COMPLETE: Final = "complete"
"""The verb that is no action: it travels as ``status``."""


class _Names:
    """What verbs are called on the wire."""

    def __init__(self, names: Mapping[str, str]) -> None:
        actions = {verb: names.get(verb, verb) for verb in _VERBS}
        self._verbs = {action: verb for verb, action in actions.items()}
        self._verbs |= {f"on_{action}": f"on_{verb}" for action, verb in self._verbs.items()}
        self._actions = {verb: action for action, verb in self._verbs.items()} | {COMPLETE: actions["status"]}

    def action(self, verb: str) -> str:
        """Name a verb on the wire."""
        return self._actions[verb]

    def verb(self, action: str) -> str | None:
        """What an action is called in the model."""
        return self._verbs.get(action)


class _V2(_Names):
    """v2.0.0 LTS."""

    generation = Generation.V2
    versions: tuple[str, ...] = (envelope.VERSION,)
    signs_answers = True
    chains_callbacks = True

    _PATHS: Final = {
        Place.CATALOGUE: "/message/catalogs",
        Place.CONTRACT_ID: "/message/contract/id",
        Place.REFERENCE: "/message/contract/id",
        Place.LINES: "/message/contract/commitments",
    }

    def __init__(self) -> None:
        super().__init__({})

    def member(self, name: str) -> str:
        head, *rest = name.split("_")
        return head + "".join(part.capitalize() for part in rest)

    def path(self, place: Place) -> str:
        return self._PATHS[place]

    def encode(self, context: Context, message: Mapping[str, Any]) -> bytes:
        listed = msgspec.structs.replace(context, schema_context=v2.schema_context(message))
        return envelope.encode(listed, message)

    def parse_context(self, raw: Any) -> Context:
        return envelope.parse_context(raw)

    def parse_error(self, document: Mapping[str, Any]) -> PeerError | None:  # noqa: ARG002 - has none
        return None

    def parse_offers(
        self,
        message: Mapping[str, Any],
        error: PeerError | None,  # noqa: ARG002 - has none
        *,
        bpp_id: str,
        bpp_uri: str,
    ) -> tuple[Offer, ...] | None:
        return v2.parse_on_discover(message, bpp_id=bpp_id, bpp_uri=bpp_uri)

    def parse_reply(
        self,
        verb: str,  # noqa: ARG002 - a contract says its own status
        message: Mapping[str, Any],
        error: PeerError | None,  # noqa: ARG002 - has none
        /,
    ) -> ContractView | None:
        return v2.parse_contract(message)

    ack_body = staticmethod(envelope.ack_body)
    nack_body = staticmethod(envelope.nack_body)
    discover_message = staticmethod(v2.discover_message)
    select_message = staticmethod(v2.select_message)
    init_message = staticmethod(v2.init_message)
    confirm_message = staticmethod(v2.confirm_message)
    status_message = staticmethod(v2.status_message)
    cancel_message = staticmethod(v2.cancel_message)
    update_message = staticmethod(v2.update_message)
    track_message = staticmethod(service_v2.track_message)
    rate_message = staticmethod(service_v2.rate_message)
    support_message = staticmethod(service_v2.support_message)
    reference = staticmethod(v2.reference)
    parse_on_track = staticmethod(service_v2.parse_on_track)
    parse_on_rate = staticmethod(service_v2.parse_on_rate)
    on_discover_message = staticmethod(v2.on_discover_message)
    contract_message = staticmethod(v2.contract_message)
    on_track_message = staticmethod(service_v2.on_track_message)
    on_rate_message = staticmethod(service_v2.on_rate_message)
    on_support_message = staticmethod(service_v2.on_support_message)
    parse_discover = staticmethod(v2.parse_discover)
    parse_order = staticmethod(v2.parse_order)
    parse_reference = staticmethod(v2.parse_reference)
    parse_cancel_reason = staticmethod(v2.parse_cancel_reason)
    parse_update = staticmethod(v2.parse_update)
    parse_track = staticmethod(service_v2.parse_track)
    parse_rate = staticmethod(service_v2.parse_rate)
    parse_support = staticmethod(service_v2.parse_support)


class _V1(_Names):
    """v1.1.x."""

    generation = Generation.V1
    versions: tuple[str, ...] = envelope_v1.VERSIONS
    signs_answers = False
    chains_callbacks = False

    _PATHS: Final = {
        Place.CATALOGUE: "/message/catalog",
        Place.CONTRACT_ID: "/message/order/id",
        Place.REFERENCE: "/message/order_id",
        Place.LINES: "/message/order/items",
    }

    def __init__(self) -> None:
        super().__init__({"discover": "search", "rate": "rating"})

    def member(self, name: str) -> str:
        return name

    def path(self, place: Place) -> str:
        return self._PATHS[place]

    def parse_context(self, raw: Any) -> Context:
        return envelope_v1.parse_context(raw)

    def parse_offers(
        self, message: Mapping[str, Any], error: PeerError | None, *, bpp_id: str, bpp_uri: str
    ) -> tuple[Offer, ...] | None:
        if error is not None and "catalog" not in message:
            return None
        return v1.parse_on_discover(message, bpp_id=bpp_id, bpp_uri=bpp_uri)

    encode = staticmethod(envelope_v1.encode)
    parse_error = staticmethod(envelope_v1.parse_error)
    ack_body = staticmethod(envelope_v1.ack_body)
    nack_body = staticmethod(envelope_v1.nack_body)
    parse_reply = staticmethod(v1.parse_reply)
    discover_message = staticmethod(v1.discover_message)
    select_message = staticmethod(v1.select_message)
    init_message = staticmethod(v1.init_message)
    confirm_message = staticmethod(v1.confirm_message)
    status_message = staticmethod(v1.status_message)
    cancel_message = staticmethod(v1.cancel_message)
    update_message = staticmethod(v1.update_message)
    track_message = staticmethod(service_v1.track_message)
    rate_message = staticmethod(service_v1.rate_message)
    support_message = staticmethod(service_v1.support_message)
    reference = staticmethod(v1.reference)
    parse_on_track = staticmethod(service_v1.parse_on_track)
    parse_on_rate = staticmethod(service_v1.parse_on_rate)
    on_discover_message = staticmethod(v1.on_discover_message)
    contract_message = staticmethod(v1.contract_message)
    on_track_message = staticmethod(service_v1.on_track_message)
    on_rate_message = staticmethod(service_v1.on_rate_message)
    on_support_message = staticmethod(service_v1.on_support_message)
    parse_discover = staticmethod(v1.parse_discover)
    parse_order = staticmethod(v1.parse_order)
    parse_reference = staticmethod(v1.parse_reference)
    parse_cancel_reason = staticmethod(v1.parse_cancel_reason)
    parse_update = staticmethod(v1.parse_update)
    parse_track = staticmethod(service_v1.parse_track)
    parse_rate = staticmethod(service_v1.parse_rate)
    parse_support = staticmethod(service_v1.parse_support)


V2: Final[Dialect] = _V2()
V1: Final[Dialect] = _V1()
DIALECTS: Final[Mapping[Generation, Dialect]] = {Generation.V2: V2, Generation.V1: V1}
_BY_VERSION: Final = {version: each for each in DIALECTS.values() for version in each.versions}


def dialect_of(version: str) -> Dialect:
    """The dialect of a version that is known to be spoken (from our own records).

    Raises:
        KeyError: No dialect has that version.
    """
    return _BY_VERSION[version]


def spoken(version: str) -> Dialect | None:
    """The dialect of a version somebody names, or None where it is not spoken here."""
    return _BY_VERSION.get(version)


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What a body says of itself, proven or not."""

    version: str | None = None
    message_id: str | None = None
    snake_case: bool = False
    """Its message id is spelled as v1.1 does."""


def claimed(body: bytes) -> Claim:
    """Read what a body claims; nothing of one that cannot be read."""
    try:
        context = _CLAIMED.decode(body).context
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Claim()
    camel, snake = _text(context.messageId), _text(context.message_id)
    return Claim(
        version=_text(context.version),
        message_id=camel if camel is not None else snake,
        snake_case=camel is None and snake is not None,
    )


def claimed_dialect(body: bytes, *, default: Dialect = V2) -> Dialect:
    """The generation a body seems to be in, for answering in the sender's language."""
    claim = claimed(body)
    if claim.version is not None:
        return spoken(claim.version) or (V1 if claim.version.startswith("1.") else default)
    if claim.message_id is None:
        return default
    return V1 if claim.snake_case else V2


class Languages:
    """The generations accepted at one place, each with its schemas; safe to share."""

    def __init__(self, schemas: Mapping[Generation, MessageSchemas]) -> None:
        self._schemas = dict(schemas)
        self.versions = tuple(version for each in self._schemas for version in DIALECTS[each].versions)

    @classmethod
    def load(cls, generations: Iterable[Generation] = tuple(Generation)) -> "Languages":
        """Compile the schemas of the generations; the first is taken where a message names none."""
        return cls({each: MessageSchemas.load(DIALECTS[each].versions[0]) for each in generations})

    @classmethod
    def of_one(cls, schemas: MessageSchemas) -> "Languages":
        """Accept the one generation some schemas are of."""
        return cls({dialect_of(schemas.version).generation: schemas})

    @property
    def default(self) -> Dialect:
        """The first generation."""
        return DIALECTS[next(iter(self._schemas))]

    def of(self, version: str) -> Dialect | None:
        """The dialect of a version, or None where it is not accepted here."""
        dialect = spoken(version)
        return dialect if dialect is not None and dialect.generation in self._schemas else None

    def schemas(self, dialect: Dialect) -> MessageSchemas:
        """The schemas of a generation.

        Raises:
            KeyError: It is not accepted here.
        """
        return self._schemas[dialect.generation]

    def verb(self, action: str) -> str | None:
        """What an action of any accepted generation is called in the model; None for an unknown one."""
        named = (DIALECTS[each].verb(action) for each in self._schemas)
        return next((verb for verb in named if verb is not None), None)


class _ClaimedContext(msgspec.Struct):
    version: Any = None
    message_id: Any = None
    messageId: Any = None  # noqa: N815 - v2's spelling beside v1's


class _Claimed(msgspec.Struct):
    context: _ClaimedContext


_CLAIMED: Final = msgspec.json.Decoder(_Claimed)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
