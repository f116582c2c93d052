"""Webhook bytes to readings, and which of them may enter the windows.

* A body is one reading, ``{"readings": [...]}`` or an array. A bad body fails as a whole
  (:class:`~gateway.errors.InvalidRequest`); a bad reading fails alone (:class:`Rejection`).
* ``timestamp`` is the END of the interval averaged over; ``load_kw`` > 0 is import.
* The windows know instants to the minute; seconds are kept in the reading as sent.
* Event time is compared with wall time in one place only: the ``future`` rule. A replay of old data
  passes it; a clock running ahead does not.
"""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, NoReturn, Protocol

import msgspec
from msgspec import Meta

from gateway.errors import InvalidRequest

MAX_FEEDER_ID_CHARS = 128


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """Averages over the interval that ends at ``timestamp`` (event time, aware UTC).

    Source: requirements, section 7 (load curve and exogenous data); contract, "A reading".
    """

    feeder_id: Annotated[str, Meta(min_length=1, max_length=MAX_FEEDER_ID_CHARS)]
    timestamp: Annotated[datetime, Meta(tz=True)]
    load_kw: float
    voltage_v: float | None = None
    current_a: float | None = None
    temperature_c: float | None = None
    holiday_flag: bool | None = None
    event_flag: bool | None = None
    irradiance: float | None = None
    """In the source's own unit."""
    wind_speed: float | None = None
    humidity: float | None = None


class RejectionCode(StrEnum):
    """Why a reading was not taken as new (``late`` only annotates one that was)."""

    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    NAIVE_TIMESTAMP = "naive_timestamp"
    NON_FINITE = "non_finite"
    OUT_OF_RANGE = "out_of_range"
    UNKNOWN_FEEDER = "unknown_feeder"
    FUTURE = "future"
    ANCIENT = "ancient"
    CONFLICT = "conflict"
    MISALIGNED = "misaligned"
    IMPLAUSIBLE = "implausible"
    LATE = "late"


class Rejection(msgspec.Struct, frozen=True, kw_only=True):
    """A reading of a batch, by its place in the batch, and what is wrong with it."""

    index: int
    feeder_id: str | None
    code: RejectionCode
    detail: str


ParsedReading = Reading | Rejection


class BatchLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one ``POST /telemetry``."""

    max_bytes: int = 64 * 1024 * 1024
    max_readings: int = 100_000


# Bounds no feeder leaves; what is implausible for one feeder is judged against its rating in admit().
# float32 holds all of them. Irradiance comes in W/m2 and in J/m2 per hour (3e6 seen).
_RANGES: dict[str, tuple[float, float]] = {
    "load_kw": (-math.inf, math.inf),
    "voltage_v": (0.0, 1e6),
    "current_a": (-1e6, 1e6),
    "temperature_c": (-90.0, 70.0),
    "irradiance": (-1e3, 1e8),
    "wind_speed": (0.0, 500.0),
    "humidity": (0.0, 110.0),
}
_OPTIONAL_NUMBERS = tuple(name for name in _RANGES if name != "load_kw")
_FLAGS = ("holiday_flag", "event_flag")
_MAX_DEPTH_NOTE = "the body is nested too deeply"


def parse_batch(body: bytes, limits: BatchLimits | None = None) -> tuple[ParsedReading, ...]:
    """Convert a body to readings, each on its own.

    Args:
        body: The request body, JSON in UTF-8.
        limits: Bounds; defaults apply without them.

    Returns:
        One item per reading in the order sent: a :class:`Reading` in UTC or a :class:`Rejection`.

    Raises:
        InvalidRequest: The body is too large, not JSON (a literal NaN or Infinity is not JSON), not one
            of the three shapes, empty, or holds too many readings.
    """
    bounds = limits or BatchLimits()
    if len(body) > bounds.max_bytes:
        raise InvalidRequest(
            f"the body has {len(body)} bytes, more than {bounds.max_bytes}",
            code="body_too_large",
            max_bytes=bounds.max_bytes,
        )
    document = _decode(body)
    items = _items(document)
    if not items:
        raise InvalidRequest("the body holds no reading", code="empty_batch")
    if len(items) > bounds.max_readings:
        raise InvalidRequest(
            f"the body holds {len(items)} readings, more than {bounds.max_readings}",
            code="too_many_readings",
            max_readings=bounds.max_readings,
        )
    return tuple(_convert(index, item) for index, item in enumerate(items))


def _decode(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.ValidationError:
        # A number beyond float64 (1e400) is legal JSON: it must fail its own reading only.
        return _decode_unbounded(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidRequest(f"the body is not JSON: {exc}", code="not_json") from exc
    except RecursionError as exc:
        raise InvalidRequest(_MAX_DEPTH_NOTE, code="not_json") from exc


def _decode_unbounded(body: bytes) -> Any:
    def refuse(literal: str) -> NoReturn:
        raise ValueError(f"{literal} is not JSON")

    try:
        # Whole numbers as floats too: an integer of many digits would take quadratic time.
        return json.loads(body, parse_constant=refuse, parse_int=float)
    except ValueError as exc:
        raise InvalidRequest(f"the body is not JSON: {exc}", code="not_json") from exc
    except RecursionError as exc:
        raise InvalidRequest(_MAX_DEPTH_NOTE, code="not_json") from exc


def _items(document: Any) -> list[Any]:
    if isinstance(document, list):
        return document
    if isinstance(document, dict):
        if "readings" not in document:
            return [document]
        readings = document["readings"]
        if isinstance(readings, list):
            return readings
        raise InvalidRequest("readings is not an array", code="wrong_shape")
    raise InvalidRequest("the body is neither a reading nor an array of readings", code="wrong_shape")


def _convert(index: int, item: Any) -> ParsedReading:
    try:
        reading = msgspec.convert(item, Reading)
        if _in_range(reading):
            if reading.timestamp.tzinfo is not UTC:
                return msgspec.structs.replace(reading, timestamp=reading.timestamp.astimezone(UTC))
            return reading
    except (msgspec.ValidationError, OverflowError) as exc:
        code, detail = _diagnose(item, str(exc))
    else:
        code, detail = _diagnose(item, "a value is out of range")
    named = item.get("feeder_id") if isinstance(item, dict) else None
    feeder_id = named if isinstance(named, str) and 0 < len(named) <= MAX_FEEDER_ID_CHARS else None
    return Rejection(index=index, feeder_id=feeder_id, code=code, detail=detail)


def _in_range(reading: Reading) -> bool:
    """Whether every number is finite and inside its range, and the id is printable."""
    if not math.isfinite(reading.load_kw) or not reading.feeder_id.isprintable():
        return False
    for name in _OPTIONAL_NUMBERS:
        value = getattr(reading, name)
        if value is not None:
            low, high = _RANGES[name]
            if not low <= value <= high:
                return False
    return True


def _diagnose(item: Any, fallback: str) -> tuple[RejectionCode, str]:
    """Name the first field that is wrong with a reading that failed (the slow path)."""
    if not isinstance(item, dict):
        return RejectionCode.WRONG_TYPE, f"a reading is an object, not {_json_type(item)}"
    for name in ("feeder_id", "timestamp", "load_kw"):
        if item.get(name) is None:
            how = "null" if name in item else "missing"
            return RejectionCode.MISSING_FIELD, f"{name} is {how}"
    checks = [_wrong_feeder_id(item["feeder_id"]), _wrong_timestamp(item["timestamp"])]
    checks += [_wrong_number(name, item.get(name)) for name in _RANGES]
    checks += [
        (RejectionCode.WRONG_TYPE, f"{name} is {_json_type(item[name])}, not a boolean")
        for name in _FLAGS
        if not isinstance(item.get(name), bool | None)
    ]
    return next((found for found in checks if found), (RejectionCode.WRONG_TYPE, fallback))


def _wrong_feeder_id(value: Any) -> tuple[RejectionCode, str] | None:
    if not isinstance(value, str):
        return RejectionCode.WRONG_TYPE, f"feeder_id is {_json_type(value)}, not a string"
    if not 0 < len(value) <= MAX_FEEDER_ID_CHARS:
        return RejectionCode.OUT_OF_RANGE, f"feeder_id has not 1 to {MAX_FEEDER_ID_CHARS} characters"
    if not value.isprintable():
        return RejectionCode.OUT_OF_RANGE, "feeder_id has unprintable characters"
    return None


def _wrong_timestamp(value: Any) -> tuple[RejectionCode, str] | None:
    if not isinstance(value, str):
        return RejectionCode.WRONG_TYPE, f"timestamp is {_json_type(value)}, not a string"
    try:
        instant = msgspec.convert(value, datetime)
    except msgspec.ValidationError:
        return RejectionCode.WRONG_TYPE, "timestamp is not an RFC 3339 instant such as 2026-01-05T17:15:00Z"
    if instant.tzinfo is None:
        return RejectionCode.NAIVE_TIMESTAMP, "timestamp has no zone; end it with Z for UTC"
    try:
        instant.astimezone(UTC)
    except OverflowError:
        return RejectionCode.OUT_OF_RANGE, "timestamp leaves the calendar when converted to UTC"
    return None


def _wrong_number(name: str, value: Any) -> tuple[RejectionCode, str] | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return RejectionCode.WRONG_TYPE, f"{name} is {_json_type(value)}, not a number"
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        return RejectionCode.NON_FINITE, f"{name} is not a finite number"
    low, high = _RANGES[name]
    if not low <= number <= high:
        return RejectionCode.OUT_OF_RANGE, f"{name} {number:g} is outside {low:g} to {high:g}"
    return None


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}
    return names.get(type(value), "an object")


class KnownReading(msgspec.Struct, frozen=True, kw_only=True):
    """What a window holds for an instant (float32 precision)."""

    load_kw: float
    temperature_c: float | None


class ReadingsSoFar(Protocol):
    """What admission asks of a feeder's window."""

    @property
    def newest_at(self) -> datetime | None:
        """Event time of the newest reading."""

    @property
    def length(self) -> timedelta:
        """How far back readings are kept."""

    def known(self, instant: datetime) -> KnownReading | None:
        """The reading held for an instant."""


class AdmissionRules(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of admission. ``max_abs_load_kw`` holds for feeders whose rating is not known."""

    future_tolerance_s: float = 120.0
    max_loading_factor: float = 5.0
    max_abs_load_kw: float = 1e7
    auto_register: bool = False


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """A batch, judged.

    Attributes:
        fresh: Readings that change a window, oldest first; within an instant as sent.
        duplicates: Identical readings sent again: accepted, without effect.
        rejected: Everything refused, in batch order.
        notes: Accepted readings older than the newest (code ``late``), in batch order.
    """

    fresh: tuple[Reading, ...]
    duplicates: int
    rejected: tuple[Rejection, ...]
    notes: tuple[Rejection, ...]

    @property
    def accepted(self) -> int:
        """Readings accepted, those without effect included."""
        return len(self.fresh) + self.duplicates


def minute_of(instant: datetime) -> int:
    """Minute since 1970 nearest to an aware instant: the resolution of the windows."""
    return int((instant.timestamp() + 30) // 60)


def admit(
    batch: tuple[ParsedReading, ...],
    *,
    windows: Mapping[str, ReadingsSoFar],
    ratings_kw: Mapping[str, float | None],
    now: datetime,
    rules: AdmissionRules | None = None,
) -> Admission:
    """Judge a parsed batch against what the windows know. Changes nothing.

    Readings are judged in the order of their timestamps, so that an unsorted batch is no error and
    each is compared with the newest before it.

    Args:
        batch: From :func:`parse_batch`.
        windows: By feeder id; a feeder without readings yet may be missing.
        ratings_kw: Every known feeder; None where no rating is configured.
        now: Wall time, for the ``future`` rule only.
        rules: Bounds; defaults apply without them.
    """
    bounds = rules or AdmissionRules()
    horizon = now + timedelta(seconds=bounds.future_tolerance_s)
    newest: dict[str, datetime | None] = {}
    in_batch: dict[tuple[str, int], KnownReading] = {}
    fresh: list[Reading] = []
    duplicates = 0
    rejected = [item for item in batch if isinstance(item, Rejection)]
    notes: list[Rejection] = []

    numbered = [
        (item.timestamp, index, item) for index, item in enumerate(batch) if isinstance(item, Reading)
    ]
    numbered.sort(key=lambda entry: entry[:2])
    for instant, index, reading in numbered:
        feeder_id = reading.feeder_id
        window = windows.get(feeder_id)
        if feeder_id not in newest:
            newest[feeder_id] = window.newest_at if window is not None else None
        latest = newest[feeder_id]

        fault = _fault(reading, horizon, ratings_kw, bounds)
        if fault is None and latest is not None and window is not None and instant <= latest - window.length:
            fault = (RejectionCode.ANCIENT, f"older than the window that ends at {latest.isoformat()}")
        if fault is None:
            key = (feeder_id, minute_of(instant))
            held = in_batch.get(key) or (window.known(instant) if window is not None else None)
            if held is not None:
                fault = _clash(reading, held)
                if fault is None:
                    duplicates += 1
                    continue
        if fault is not None:
            rejected.append(Rejection(index=index, feeder_id=feeder_id, code=fault[0], detail=fault[1]))
            continue

        in_batch[key] = KnownReading(load_kw=reading.load_kw, temperature_c=reading.temperature_c)
        fresh.append(reading)
        if latest is not None and instant < latest:
            detail = f"older than the newest reading ({latest.isoformat()}); fills a gap"
            notes.append(Rejection(index=index, feeder_id=feeder_id, code=RejectionCode.LATE, detail=detail))
        else:
            newest[feeder_id] = instant
    return Admission(
        fresh=tuple(fresh),
        duplicates=duplicates,
        rejected=tuple(sorted(rejected, key=lambda item: item.index)),
        notes=tuple(sorted(notes, key=lambda item: item.index)),
    )


def _fault(
    reading: Reading, horizon: datetime, ratings_kw: Mapping[str, float | None], rules: AdmissionRules
) -> tuple[RejectionCode, str] | None:
    """What is wrong with a reading whatever the window holds."""
    known = reading.feeder_id in ratings_kw
    if not known and not rules.auto_register:
        return RejectionCode.UNKNOWN_FEEDER, f"feeder {reading.feeder_id!r} is not configured"
    if reading.timestamp > horizon:
        return RejectionCode.FUTURE, f"more than {rules.future_tolerance_s:g} s ahead of our clock"
    rating_kw = ratings_kw.get(reading.feeder_id)
    limit_kw = rules.max_abs_load_kw
    if rating_kw is not None:
        limit_kw = min(limit_kw, rules.max_loading_factor * rating_kw)
    if abs(reading.load_kw) > limit_kw:
        return RejectionCode.IMPLAUSIBLE, f"|load_kw| {abs(reading.load_kw):g} is above {limit_kw:g} kW"
    return None


def _clash(reading: Reading, held: KnownReading) -> tuple[RejectionCode, str] | None:
    """None where the reading says what is already known (to float32, as the windows hold it)."""
    if not _same(reading.load_kw, held.load_kw):
        detail = f"load_kw {reading.load_kw:g} differs from {held.load_kw:g} known for this instant"
    elif (
        reading.temperature_c is not None
        and held.temperature_c is not None
        and not _same(reading.temperature_c, held.temperature_c)
    ):
        detail = (
            f"temperature_c {reading.temperature_c:g} differs from {held.temperature_c:g} "
            "known for this instant"
        )
    else:
        return None
    if reading.timestamp.second or reading.timestamp.microsecond:
        return RejectionCode.MISALIGNED, f"second reading within one minute; {detail}"
    return RejectionCode.CONFLICT, detail


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1.2e-7, abs_tol=1e-6)
