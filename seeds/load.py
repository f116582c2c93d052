"""Reads the seeds: feeders, participants and portfolio templates, strictly.

Rules:

* Unknown members, missing members and values out of range are refused; the error names file and field.
* Seeds are data: readable files with their origin and licence in ``about``. Nothing here computes.
* Seeded portfolios (``portfolios/NAME.json``) are read by the seller that owns them, not here.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

SEEDS_DIR = Path(__file__).resolve().parent
SAMPLE_PATH = SEEDS_DIR / "sample.csv.gz"
"""The bundled load sample: wide CSV, one column of kW per feeder of ``feeders.json``."""
FEEDERS_PATH = SEEDS_DIR / "feeders.json"
PARTICIPANTS_PATH = SEEDS_DIR / "participants.json"
TEMPLATES_PATH = SEEDS_DIR / "portfolios" / "templates.json"

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Minutes = Annotated[int, msgspec.Meta(ge=1, le=1440)]
Money = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,9}(\.[0-9]{1,6})?$")]
TimeOfDay = Annotated[str, msgspec.Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]

Document = TypeVar("Document")


class SeedError(Exception):
    """A seed file that cannot be used; the message names file and field."""


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every seed: frozen, no unknown members."""


class Place(_Strict, frozen=True, kw_only=True):
    """Schematic coordinates, WGS 84 degrees."""

    latitude: Annotated[float, msgspec.Meta(ge=-90, le=90)]
    longitude: Annotated[float, msgspec.Meta(ge=-180, le=180)]


class Origin(_Strict, frozen=True, kw_only=True):
    """Where a feeder's load comes from: a SimBench grid and the feeder's first bus."""

    grid: Name
    head_bus: Name


class FeederSeed(_Strict, frozen=True, kw_only=True):
    """One feeder of the bundled sample."""

    feeder_id: Name
    name: Name
    substation: Name
    kind: Name
    """Voltage level and surroundings, for readers."""
    rating_kw: Positive
    interval_min: Literal[15, 30]
    country: Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{2}$")]
    """ISO 3166 country, for public holidays."""
    timezone: Name
    location: Place
    origin: Origin


class FeederFile(_Strict, frozen=True, kw_only=True):
    """``feeders.json``."""

    about: str
    feeders: tuple[FeederSeed, ...]


class ParticipantSeed(_Strict, frozen=True, kw_only=True):
    """One aggregator: its id in the registry and the portfolio template it sells from."""

    subscriber_id: Name
    provider_id: Name
    provider_name: Name
    about: str


class ParticipantFile(_Strict, frozen=True, kw_only=True):
    """``participants.json``."""

    about: str
    domain: Name
    gateway_id: Name
    participants: tuple[ParticipantSeed, ...]


class BaselineTemplate(_Strict, frozen=True, kw_only=True):
    """Baseline of a template DER; ``factor`` is in parts of its capacity."""

    method: Literal["NOMINATED", "FIXED_REF"]
    factor: float


class BatteryTemplate(_Strict, frozen=True, kw_only=True):
    """Energy of a template battery."""

    hours: Positive
    """Usable energy over capacity."""
    soc: Annotated[float, msgspec.Meta(ge=0, le=1)]
    """Part of the usable energy stored at rest."""
    recovery: NotNegative
    """Power of the return to rest, in parts of the capacity."""


class PluggedInTemplate(_Strict, frozen=True, kw_only=True):
    """A daily span, UTC."""

    start: TimeOfDay
    end: TimeOfDay


class EvTemplate(_Strict, frozen=True, kw_only=True):
    """Charge points of a template DER."""

    plugged_in: tuple[PluggedInTemplate, ...]
    catch_up_min: Minutes | None


class HvacTemplate(_Strict, frozen=True, kw_only=True):
    """Heating or cooling of a template DER."""

    comfort_min: Minutes
    rebound_fraction: Annotated[float, msgspec.Meta(ge=0, le=1)]
    rebound_min: Minutes


class DerTemplate(_Strict, frozen=True, kw_only=True):
    """A group of like DERs that an aggregator has at each feeder it serves."""

    type: Literal["battery", "EV", "HVAC", "other"]
    count: Annotated[int, msgspec.Meta(ge=1, le=100)]
    share: Share
    """Part of the aggregator's power at the feeder that the group holds."""
    direction: Literal["both", "REDUCE", "INCREASE"]
    min_part: Annotated[float, msgspec.Meta(ge=0, le=1)]
    """Smallest order in parts of a DER's capacity."""
    response_time_s: NotNegative
    min_duration_min: Minutes
    max_duration_min: Minutes
    ramp_min: Positive | None
    """Minutes from nothing to full power; null: at once."""
    price_per_kwh: Money
    price_spread: Annotated[float, msgspec.Meta(ge=0, le=0.5)]
    """Greatest relative deviation of the price at one feeder."""
    delivery_mean: Annotated[float, msgspec.Meta(ge=0, le=1.2)]
    delivery_sd: Annotated[float, msgspec.Meta(ge=0, le=0.5)]
    baseline: BaselineTemplate
    battery: BatteryTemplate | None = None
    ev: EvTemplate | None = None
    hvac: HvacTemplate | None = None


class PortfolioTemplate(_Strict, frozen=True, kw_only=True):
    """What one aggregator has at any feeder."""

    provider_id: Name
    share: Share
    """Part of all aggregators' power at the feeder."""
    ders: tuple[DerTemplate, ...]


class TemplateFile(_Strict, frozen=True, kw_only=True):
    """``portfolios/templates.json``."""

    about: str
    currency: Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}$")]
    share_of_rating: Share
    """Power of all aggregators together at a feeder without seeded DERs, in parts of its rating."""
    share_of_rating_seeded: Share
    """The same for the bundled feeders' seeded portfolios."""
    templates: tuple[PortfolioTemplate, ...]


def load_feeders(path: Path = FEEDERS_PATH) -> tuple[FeederSeed, ...]:
    """Read the bundled feeders.

    Raises:
        SeedError: The file cannot be used; names file and field.
    """
    feeders = _read(path, FeederFile).feeders
    _refuse_repeats(path, "feeders", [feeder.feeder_id for feeder in feeders])
    return feeders


def load_participants(path: Path = PARTICIPANTS_PATH) -> ParticipantFile:
    """Read the network: its domain, the gateway's id, the aggregators.

    Raises:
        SeedError: The file cannot be used; names file and field.
    """
    network = _read(path, ParticipantFile)
    _refuse_repeats(path, "participants", [one.subscriber_id for one in network.participants])
    _refuse_repeats(path, "participants", [one.provider_id for one in network.participants])
    return network


def load_templates(path: Path = TEMPLATES_PATH) -> TemplateFile:
    """Read the portfolio templates; shares must add up to one.

    Raises:
        SeedError: The file cannot be used; names file and field.
    """
    document = _read(path, TemplateFile)
    _refuse_repeats(path, "templates", [one.provider_id for one in document.templates])
    _need_whole(path, "$.templates[...].share", [one.share for one in document.templates])
    for index, template in enumerate(document.templates):
        _need_whole(path, f"$.templates[{index}].ders[...].share", [der.share for der in template.ders])
    return document


def _read(path: Path, kind: type[Document]) -> Document:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise SeedError(f"{path.name}: cannot be read ({error.strerror})") from error
    except msgspec.DecodeError as error:
        raise SeedError(f"{path.name}: {error}") from error


def _refuse_repeats(path: Path, member: str, ids: Sequence[str]) -> None:
    for index, one in enumerate(ids):
        if one in ids[:index]:
            raise SeedError(f"{path.name}: $.{member}[{index}] repeats the id {one!r}")


def _need_whole(path: Path, field: str, shares: Sequence[float]) -> None:
    if abs(sum(shares) - 1) > 1e-9:
        raise SeedError(f"{path.name}: {field} add up to {sum(shares):g} instead of 1")
