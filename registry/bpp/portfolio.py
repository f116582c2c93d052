"""What an aggregator has to sell: the portfolio file.

A portfolio is one JSON file, an object as :class:`Portfolio`::

    {"provider_id": "alpha", "provider_name": "Alpha Flex", "currency": "GBP",
     "about": "origin and licence of the data, free text",
     "ders": [{"der_id": "der:alpha:000001", "type": "battery", "feeder_id": "FDR_001",
               "direction": "both", "capacity_kw": 50.0, "min_kw": 5.0, "response_time_s": 30,
               "min_duration_min": 15, "max_duration_min": 120, "ramp_kw_per_min": 100.0,
               "price_per_kwh": "0.31", "delivery_mean": 0.97, "delivery_sd": 0.02,
               "baseline": {"method": "NOMINATED", "kw": 0.0},
               "location": {"latitude": 51.5, "longitude": -0.1}, "meter_ids": ["mtr:alpha:000001"],
               "battery": {"energy_kwh": 100.0, "soc_kwh": 60.0}}]}

Rules:

* Unknown members, missing members and values out of range are refused; the error names file and field.
* A member that describes one kind of DER (``battery``, ``ev``, ``hvac``) is refused on another kind.
* DERs of one type, feeder and price are sold together, once per direction: that is an offer
  (:mod:`registry.bpp.catalogue`).
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec

from gateway.errors import ConfigError
from gateway.types import DerType, Direction, Location

Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Money = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,9}(\.[0-9]{1,6})?$")]
TimeOfDay = Annotated[str, msgspec.Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]


class DirectionSold(StrEnum):
    """Directions a DER can be ordered in."""

    BOTH = "both"
    REDUCE = "REDUCE"
    INCREASE = "INCREASE"


class BaselineKind(StrEnum):
    """Baselines a seller can put into a contract by itself (others need metered history)."""

    NOMINATED = "NOMINATED"
    FIXED_REF = "FIXED_REF"


class Baseline(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the DER would import without an order: constant ``kw``, export negative."""

    method: BaselineKind
    kw: float


class Battery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Energy limits of a battery.

    It rests at ``soc_kwh`` and, after an order, returns there at ``recovery_kw`` (0: it never does).
    """

    energy_kwh: Positive
    """Usable capacity."""
    soc_kwh: NotNegative
    """Energy stored when no order is on."""
    soc_min_kwh: NotNegative = 0.0
    """Energy it keeps back."""
    efficiency: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.95
    """One way: of 1 kWh imported this much is stored, of 1 kWh stored this much is exported."""
    recovery_kw: NotNegative = 0.0
    """Grid power of the return to ``soc_kwh``."""


class PluggedIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A daily span, UTC, "HH:MM" to "HH:MM"; it may pass midnight."""

    start: TimeOfDay
    end: TimeOfDay


class Ev(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of a charge point; what it draws is its baseline."""

    plugged_in: tuple[PluggedIn, ...] = ()
    """When a car is there (empty: always)."""
    catch_up_min: Annotated[int, msgspec.Meta(ge=1, le=1440)] | None = None
    """Deferred energy is drawn evenly over so many minutes after the order (absent: later, unseen)."""


class Hvac(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Thermal limits of heating or cooling."""

    comfort_min: Annotated[int, msgspec.Meta(ge=1, le=1440)] = 60
    """Minutes at full relief; then it fades linearly to none over as many minutes again."""
    rebound_fraction: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.3
    """Part of the energy moved that comes back after the order."""
    rebound_min: Annotated[int, msgspec.Meta(ge=1, le=1440)] = 60
    """Minutes over which it comes back, evenly."""


class PortfolioDer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One DER as its aggregator knows it.

    ``capacity_kw`` is the relief it can give in each direction it is sold in. An EV gives at most its
    baseline in REDUCE: it can only defer what it draws.
    """

    der_id: Name
    type: DerType
    feeder_id: Name
    direction: DirectionSold
    capacity_kw: Positive
    min_kw: NotNegative = 0.0
    response_time_s: NotNegative
    """From the order (or its confirmation, if later than the window's start) to the first kW."""
    min_duration_min: Annotated[int, msgspec.Meta(ge=1, le=1440)]
    max_duration_min: Annotated[int, msgspec.Meta(ge=1, le=1440)]
    ramp_kw_per_min: Positive | None = None
    """Absent: full power at once."""
    price_per_kwh: Money
    delivery_mean: Annotated[float, msgspec.Meta(ge=0, le=1.2)]
    """Expected part of the committed power that is delivered, 1 = all."""
    delivery_sd: Annotated[float, msgspec.Meta(ge=0, le=0.5)]
    baseline: Baseline
    location: Location | None = None
    meter_ids: tuple[Name, ...] = ()
    crypto_proof: dict[str, Any] | None = None
    """Proof of the DER's identity, passed on as it is."""
    battery: Battery | None = None
    ev: Ev | None = None
    hvac: Hvac | None = None

    def sold_in(self, direction: Direction) -> bool:
        """Say whether it can be ordered in this direction."""
        return self.direction == DirectionSold.BOTH or self.direction.value == direction.value

    def rated_kw(self, direction: Direction) -> float:
        """Greatest relief in this direction, kW: an EV can only defer what it draws."""
        if not self.sold_in(direction):
            return 0.0
        if self.type == DerType.EV and direction == Direction.REDUCE:
            return min(self.capacity_kw, max(self.baseline.kw, 0.0))
        return self.capacity_kw


class Portfolio(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything one aggregator sells, at one currency."""

    provider_id: Name
    provider_name: Name
    ders: tuple[PortfolioDer, ...]
    currency: Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}$")] = "GBP"
    about: str = ""
    """Origin and licence of the data, for readers."""

    @property
    def feeder_ids(self) -> tuple[str, ...]:
        """The feeders it has DERs at, sorted."""
        return tuple(sorted({der.feeder_id for der in self.ders}))


def parse_portfolio(text: bytes, *, source: str) -> Portfolio:
    """Read a portfolio from JSON text.

    Args:
        text: The file's content.
        source: Name of the file, for the error.

    Raises:
        ConfigError: What is wrong, with file and field.
    """
    try:
        portfolio = msgspec.json.decode(text, type=Portfolio)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{source}: {error}") from error
    faults = _faults(portfolio)
    if faults:
        raise ConfigError(f"{source}: {'; '.join(faults[:5])}")
    return portfolio


def load_portfolio(path: Path) -> Portfolio:
    """Read a portfolio file.

    Raises:
        ConfigError: The file cannot be read or is no portfolio; names file and field.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    return parse_portfolio(text, source=str(path))


def _faults(portfolio: Portfolio) -> list[str]:
    """What single-field limits cannot say: relations between members, uniqueness."""
    faults = []
    seen: dict[str, int] = {}
    if not portfolio.ders:
        faults.append("$.ders must hold at least one DER")
    for index, der in enumerate(portfolio.ders):
        at = f"$.ders[{index}]"
        if der.der_id in seen:
            faults.append(f"{at}.der_id {der.der_id!r} is already that of $.ders[{seen[der.der_id]}]")
        seen.setdefault(der.der_id, index)
        faults.extend(f"{at}{fault}" for fault in _der_faults(der))
    return faults


def _der_faults(der: PortfolioDer) -> list[str]:
    """Relations inside one DER; each text starts with the member's name."""
    checks = [
        (der.min_kw > der.capacity_kw, ".min_kw is above capacity_kw"),
        (der.min_duration_min > der.max_duration_min, ".min_duration_min is above max_duration_min"),
        (der.battery is not None and der.type != DerType.BATTERY, ".battery is only for type battery"),
        (der.ev is not None and der.type != DerType.EV, ".ev is only for type EV"),
        (der.hvac is not None and der.type != DerType.HVAC, ".hvac is only for type HVAC"),
        (der.type == DerType.EV and der.baseline.kw < 0, ".baseline.kw of an EV is below 0"),
    ]
    if der.battery is not None:
        low, rest, full = der.battery.soc_min_kwh, der.battery.soc_kwh, der.battery.energy_kwh
        checks.append((not low <= rest <= full, ".battery.soc_kwh is outside soc_min_kwh to energy_kwh"))
    if der.location is not None:
        checks.append((abs(der.location.latitude) > 90, ".location.latitude is outside -90 to 90"))
        checks.append((abs(der.location.longitude) > 180, ".location.longitude is outside -180 to 180"))
    return [fault for bad, fault in checks if bad]
