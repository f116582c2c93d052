"""Feeders: their configuration and what is known of each at this moment.

The runtime state (window, learned corrections, state memory) is rebuilt from the store on start,
so a restarted gateway goes on where the last one stopped.
"""

from datetime import date, datetime
from enum import StrEnum
from functools import cache, lru_cache
from typing import Annotated
from zoneinfo import ZoneInfo, available_timezones

import holidays
import msgspec
from msgspec import Meta

from gateway.errors import InvalidRequest
from gateway.flex.need import NeedPolicy
from gateway.flex.plan import RankWeights
from gateway.telemetry.quality import Quality, Usability
from gateway.telemetry.window import FeederWindow
from gateway.types import Location
from ml.conformal import LearnedState
from ml.state import StateMemory, StatePolicy


class Automation(StrEnum):
    """What may be done without a person."""

    AUTOMATIC = "automatic"
    """Plan and trade."""
    OFF = "off"
    """Watch and plan; never trade."""


class FeederConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Configuration of one feeder (``PUT /config/feeders/{feeder_id}``)."""

    rating_kw: Annotated[float, Meta(gt=0, le=1e9, description="thermal rating, kW")]
    name: str | None = None
    substation: str | None = None
    location: Location | None = None
    timezone: Annotated[str, Meta(description="IANA zone, for the calendar of the forecast")] = "UTC"
    country: str | None = None
    """ISO 3166 code, for its holidays."""
    sampling_min: Annotated[int, Meta(ge=1, le=60)] | None = None
    """Sampling interval in minutes; inferred from the readings when absent."""
    automation: Automation = Automation.AUTOMATIC
    thresholds: StatePolicy = StatePolicy()
    need: NeedPolicy | None = None
    weights: RankWeights = msgspec.field(default_factory=RankWeights)

    def __post_init__(self) -> None:
        """Refuse what no reading could be judged with.

        Raises:
            ValueError: Names the field.
        """
        if self.timezone not in _timezones():
            raise ValueError(f"timezone '{self.timezone}' is not an IANA zone")
        if self.country is not None and self.country not in _countries():
            raise ValueError(f"country '{self.country}' has no known holiday calendar")


@cache
def _timezones() -> frozenset[str]:
    return frozenset(available_timezones())


@cache
def _countries() -> frozenset[str]:
    return frozenset(holidays.list_supported_countries())


def parse_config(body: bytes) -> FeederConfig:
    """Read a configuration from a request body.

    Raises:
        InvalidRequest: Names the failing field.
    """
    try:
        return msgspec.json.decode(body, type=FeederConfig)
    except (msgspec.ValidationError, msgspec.DecodeError, ValueError) as exc:
        raise InvalidRequest(f"feeder configuration: {exc}", code="invalid_configuration") from exc


class ForecastSlot(msgspec.Struct, frozen=True, kw_only=True):
    """Forecast of one slot: average kW from ``start``, with the 80 % interval."""

    start: datetime
    load_kw: float
    lower_kw: float
    upper_kw: float


class Assessment(msgspec.Struct, frozen=True, kw_only=True):
    """The newest decision about a feeder.

    Attributes:
        origin_at: End of the newest slot it rests on (event time).
        state: 0, 1, 2, or None for Unknown.
        last_state: The state held before it became Unknown, else the state itself.
        reason: Why it is Unknown.
    """

    origin_at: datetime
    state: int | None
    last_state: int
    since: datetime
    probabilities: tuple[float, float, float] | None
    forecast: tuple[ForecastSlot, ...]
    features: tuple[float | None, ...]
    model_id: str
    reason: str | None = None


class SavedFeeder(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored of a feeder's runtime state, so that a restart goes on from there."""

    memory: StateMemory
    assessment: Assessment | None
    unknown_since: datetime | None
    state_change_id: str | None
    uncovered: dict[datetime, float] | None


class Feeder:
    """One feeder at run time.

    Attributes:
        feeder_id: Its id.
        config: Its configuration; None where it was auto-registered and may not trade.
        window: Rolling history of MEASURED load.
        learned: What the model has learned online about it.
        unsaved_slots: Slots it has learned from since that was stored.
        memory: Memory of the state machine.
        assessment: The newest decision.
        quality: Flags of the newest window, with the verdict on trading.
        unknown_since: Event time since which the state is Unknown.
        uncovered: kW per slot start that the last plan left uncovered; None since last Normal.
        last_arrival_at: Wall time of the newest reading.
        state_change_id: Id of the newest state change.
    """

    def __init__(self, feeder_id: str, config: FeederConfig | None) -> None:
        self.feeder_id = feeder_id
        self.config = config
        self.window = FeederWindow(feeder_id, sampling_min=config.sampling_min if config else None)
        self.learned: LearnedState | None = None
        self.unsaved_slots = 0
        self.memory = StateMemory()
        self.assessment: Assessment | None = None
        self.quality: tuple[Quality, Usability] | None = None
        self.unknown_since: datetime | None = None
        self.uncovered: dict[datetime, float] | None = None
        self.last_arrival_at: datetime | None = None
        self.state_change_id: str | None = None

    def restore(self, saved: SavedFeeder) -> None:
        """Take over what has been stored."""
        self.memory = saved.memory
        self.assessment = saved.assessment
        self.unknown_since = saved.unknown_since
        self.state_change_id = saved.state_change_id
        self.uncovered = saved.uncovered

    @property
    def rating_kw(self) -> float | None:
        """Rating in kW, where one is configured."""
        return self.config.rating_kw if self.config else None

    @property
    def policy(self) -> StatePolicy:
        """Operating point of its state machine."""
        return self.config.thresholds if self.config else StatePolicy()

    def utc_offset_s(self, instant: datetime) -> int:
        """Local time minus UTC at an instant, seconds."""
        zone = ZoneInfo(self.config.timezone) if self.config else ZoneInfo("UTC")
        offset = instant.astimezone(zone).utcoffset()
        return int(offset.total_seconds()) if offset is not None else 0

    def is_holiday(self, instant: datetime) -> bool:
        """Whether the feeder's local day is a public holiday of its country."""
        if self.config is None or self.config.country is None:
            return False
        local = instant.astimezone(ZoneInfo(self.config.timezone)).date()
        return local in _holidays(self.config.country, local.year)


@lru_cache(maxsize=256)
def _holidays(country: str, year: int) -> frozenset[date]:
    """Public holidays of a country in a year."""
    return frozenset(holidays.country_holidays(country, years=year))
