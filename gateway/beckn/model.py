"""What Beckn messages say, in words of no generation.

Translators (:mod:`gateway.beckn.v1`, :mod:`gateway.beckn.v2`) read these out of messages and write
messages from them; offers, orders and contracts are in :mod:`gateway.types`.
"""

from datetime import datetime
from enum import StrEnum

import msgspec

from gateway.types import Direction, Location, OrderTerms


class DiscoverAsk(msgspec.Struct, frozen=True, kw_only=True):
    """What a buyer looks for, as far as its message says. ``None`` where it does not say."""

    feeder_id: str | None = None
    direction: Direction | None = None
    min_kw: float = 0.0
    """Smallest DER of interest."""
    kw: float | None = None
    """Relief wanted in total."""
    window_start: datetime | None = None
    window_end: datetime | None = None
    location: Location | None = None
    radius_m: float | None = None


class PeerError(msgspec.Struct, frozen=True, kw_only=True):
    """What a seller reports to have gone wrong, instead of an answer or beside one (v1.1 callbacks)."""

    code: str | None = None
    detail: str | None = None
    path: str | None = None

    def __str__(self) -> str:
        return f"{self.code or 'error'}: {self.detail or 'no detail'}"


class UpdateAsk(msgspec.Struct, frozen=True, kw_only=True):
    """A buyer's wish to change a running contract."""

    contract_id: str | None
    terms: OrderTerms
    """As the buyer wants them from now on."""
    completes: bool = False
    """It asks to end the contract as complete before its window has passed."""


class TrackAsk(msgspec.Struct, frozen=True, kw_only=True):
    """A buyer's wish to follow a delivery."""

    contract_id: str | None
    callback_url: str | None = None
    """Where it would like to be told."""


class Tracking(msgspec.Struct, frozen=True, kw_only=True):
    """Where a delivery can be followed."""

    url: str
    active: bool
    contract_id: str | None = None


class RatingSubject(StrEnum):
    """What is rated."""

    ORDER = "ORDER"
    ITEM = "ITEM"
    FULFILLMENT = "FULFILLMENT"
    PROVIDER = "PROVIDER"
    AGENT = "AGENT"
    SUPPORT = "SUPPORT"


class Rating(msgspec.Struct, frozen=True, kw_only=True):
    """One rating."""

    subject: RatingSubject
    subject_id: str
    value: float


class RatingReply(msgspec.Struct, frozen=True, kw_only=True):
    """What a seller makes of ratings."""

    ratings: tuple[Rating, ...] = ()
    """As it took them (v2.0.0 repeats them)."""
    form_url: str | None = None
    """A form with further questions (v1.1 may send one)."""


class Support(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to ask about a contract; a request names the contract and perhaps where to call back."""

    contract_id: str | None = None
    callback_phone: str | None = None
    phone: str | None = None
    email: str | None = None
    url: str | None = None
