"""The words every stage shares: feeders, needs, offers, orders and deliveries.

Rules that hold everywhere:

* Power is kW, energy kWh (integer Wh where money depends on it); the unit ends the name.
* ``load_kw`` > 0 is import from the grid, < 0 is export to it.
* Relief is positive in the ordered :class:`Direction`.
* Instants are aware UTC datetimes. *Event time* is the telemetry's clock (windows, delivery,
  settlement); *wall time* is ours (signatures, time-outs, the SLA). Names say which is meant.
* A slot or a reading's interval is named by its start in the future and by its end in the past,
  as the telemetry contract has it.
"""

from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any

import msgspec

SLOT_MIN = 15
"""Length of a planning slot in minutes (four of them make the horizon)."""

HORIZON_SLOTS = 4


class Direction(StrEnum):
    """What the ordered DERs do to the feeder's net import."""

    REDUCE = "REDUCE"
    """Lower net import: discharge, charge later, heat less. Answers an import overload."""
    INCREASE = "INCREASE"
    """Raise net import: charge, consume, curtail generation. Answers an export overload."""


class DerType(StrEnum):
    """Kinds of distributed energy resource (requirements, section 7: DER catalogue)."""

    BATTERY = "battery"
    EV = "EV"
    HVAC = "HVAC"
    OTHER = "other"


class GridState(IntEnum):
    """Operating state of a feeder (R22)."""

    NORMAL = 0
    ALERT = 1
    CRITICAL = 2


class BaselineMethod(StrEnum):
    """How the counterfactual consumption of a DER is fixed."""

    NOMINATED = "NOMINATED"
    FIXED_REF = "FIXED_REF"
    BL01 = "BL01"
    ZERO = "ZERO"


class Location(msgspec.Struct, frozen=True, kw_only=True):
    """A point on the map, WGS 84 degrees."""

    latitude: float
    longitude: float


class NeedSlot(msgspec.Struct, frozen=True, kw_only=True):
    """Relief wanted in one 15-min slot: average ``kw`` > 0 from ``start`` (event time)."""

    start: datetime
    kw: float


class FlexNeed(msgspec.Struct, frozen=True, kw_only=True):
    """Relief a feeder needs over the horizon (R27).

    ``slots`` are consecutive 15-min slots; ``kw`` 0 where nothing is needed.
    """

    need_id: str
    feeder_id: str
    direction: Direction
    slots: tuple[NeedSlot, ...]
    decided_at: datetime
    """Event time of the reading that caused the decision."""
    location: Location | None = None


class Der(msgspec.Struct, frozen=True, kw_only=True):
    """One DER of the normalised flexibility catalogue (requirements, section 7)."""

    der_id: str
    """Universal id, ``der:{aggregator}:{number}`` unless the aggregator uses a DID."""
    aggregator_id: str
    type: DerType
    feeder_id: str
    direction: Direction
    capacity_kw: float
    response_time_s: float
    min_duration_min: int
    max_duration_min: int
    price_per_kwh: str
    """Decimal text in ``currency``."""
    currency: str = "GBP"
    min_kw: float = 0.0
    ramp_kw_per_min: float | None = None
    location: Location | None = None
    meter_ids: tuple[str, ...] = ()
    constraints: dict[str, Any] = {}
    crypto_proof: dict[str, Any] | None = None


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A seller's standing offer: some DERs at one price, valid for a while."""

    offer_id: str
    bpp_id: str
    bpp_uri: str
    provider_id: str
    provider_name: str
    ders: tuple[Der, ...]
    price_per_kwh: str
    currency: str
    valid_from: datetime | None = None
    valid_until: datetime | None = None
    beckn_version: str = "2.0.0"
    """Version of Beckn its BPP is spoken to in, from the registry; part of its address."""


class OrderLine(msgspec.Struct, frozen=True, kw_only=True):
    """One DER's part of an order: constant ``kw`` over the order's window."""

    der_id: str
    der_type: DerType
    kw: float


class OrderTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of one seller: DERs of one offer over one delivery window (event time)."""

    obp_id: str
    event_id: str
    """Id of the need that caused the order."""
    feeder_id: str
    direction: Direction
    offer_id: str
    provider_id: str
    window_start: datetime
    window_end: datetime
    lines: tuple[OrderLine, ...]
    price_per_kwh: str
    currency: str

    @property
    def duration_h(self) -> float:
        """Length of the delivery window in hours."""
        return (self.window_end - self.window_start).total_seconds() / 3600

    @property
    def requested_kwh(self) -> float:
        """Energy ordered, positive in the ordered direction."""
        return sum(line.kw for line in self.lines) * self.duration_h


class BaselineTerm(msgspec.Struct, frozen=True, kw_only=True):
    """Baseline of one DER as fixed in the contract: constant net import over the window."""

    der_id: str
    method: BaselineMethod
    kw: float


class ContractStatus(StrEnum):
    """State of a contract as the seller declares it (v2.0.0 Contract.status.code)."""

    DRAFT = "DRAFT"
    ACTIVE = "ACTIVE"
    CANCELLED = "CANCELLED"
    COMPLETE = "COMPLETE"


class CommittedLine(msgspec.Struct, frozen=True, kw_only=True):
    """The seller's answer to an order line: what it commits to."""

    der_id: str
    requested_kw: float
    committed_kw: float


class MeterInterval(msgspec.Struct, frozen=True, kw_only=True):
    """Metered net import of a DER over [start, end): integer Wh, export negative."""

    start: datetime
    end: datetime
    usage_wh: int


class PerformanceStatus(StrEnum):
    """Progress of a DER's delivery (free codes in v2.0.0 Performance.status)."""

    SCHEDULED = "SCHEDULED"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


class DerPerformance(msgspec.Struct, frozen=True, kw_only=True):
    """Delivery report of one DER, with its meter intervals once there are any."""

    der_id: str
    status: PerformanceStatus
    intervals: tuple[MeterInterval, ...] = ()


class ContractView(msgspec.Struct, frozen=True, kw_only=True):
    """What a seller says about a contract in on_select, on_init, on_confirm, on_status, on_cancel."""

    contract_id: str | None
    status: ContractStatus
    obp_id: str | None
    lines: tuple[CommittedLine, ...]
    window_start: datetime | None = None
    window_end: datetime | None = None
    price_per_kwh: str | None = None
    currency: str | None = None
    total_price: str | None = None
    baselines: tuple[BaselineTerm, ...] = ()
    performance: tuple[DerPerformance, ...] = ()
    decline_reason: str | None = None
