"""What a dispatched DER physically does, minute by minute, and what its meter reads.

Rules:

* Pure and deterministic: the same dispatch and seed give the same trace, whenever and however often.
* Relief is positive in the ordered direction, never above what the contract reserved (``ceiling_kw``).
  What comes back after the order (thermal rebound, charging that catches up, a battery returning to its
  resting charge) is negative relief after the window.
* Everything is event time.
"""

from datetime import datetime, timedelta
from hashlib import blake2b
from random import Random
from statistics import NormalDist

import msgspec

from gateway.types import SLOT_MIN, DerType, Direction, MeterInterval
from registry.bpp.portfolio import Battery, Hvac, PluggedIn, PortfolioDer

STEP_S = 60.0
"""Time step of the simulation in seconds."""
MAX_OVERDELIVERY = 1.05
"""Most a device gives of what was committed; the share above 1 is reserved with it."""
MINUTE_NOISE = 1 / 3
"""Spread of single minutes, as a part of ``delivery_sd``."""
_NORMAL = NormalDist()
_MINUTES_A_DAY = 24 * 60


class Dispatch(msgspec.Struct, frozen=True, kw_only=True):
    """One DER's part in one contract, as fixed when it was confirmed."""

    stream: str
    """Names its chances: what is dispatched alike fares alike in every run, whatever its ids."""
    direction: Direction
    kw: float
    """Committed relief."""
    ceiling_kw: float
    """Most it may give: what was reserved of its capacity."""
    window_start: datetime
    window_end: datetime
    confirmed_at: datetime
    energy_kwh: float | None = None
    """Energy it can exchange with the grid in this direction (batteries)."""
    stopped_at: datetime | None = None
    """When a cancellation ended it."""


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """Relief over time, piecewise constant: ``kw[i]`` from ``edges_s[i]`` to ``edges_s[i + 1]``.

    Edges are seconds since ``origin``. Outside them the relief is zero.
    """

    origin: datetime
    edges_s: tuple[float, ...]
    kw: tuple[float, ...]

    @property
    def ends_at(self) -> datetime:
        """Instant after which nothing more happens."""
        return self.origin + timedelta(seconds=self.edges_s[-1])

    def energy_kwh(self, start: datetime, end: datetime, *, given: bool = True, taken: bool = True) -> float:
        """Integrate relief over [start, end).

        Args:
            start: Event time.
            end: Event time; nothing is counted where it is not after ``start``.
            given: Count positive relief.
            taken: Count negative relief (what comes back after an order).
        """
        low = (start - self.origin).total_seconds()
        high = (end - self.origin).total_seconds()
        total = 0.0
        for left, right, kw in zip(self.edges_s, self.edges_s[1:], self.kw, strict=False):
            span_s = min(high, right) - max(low, left)
            if span_s > 0 and (given if kw > 0 else taken):
                total += kw * span_s / 3600
        return total


def simulate(der: PortfolioDer, dispatch: Dispatch, *, seed: int) -> Trace:
    """Play one DER through its contract.

    1 draw how well it delivers, 2 step through the window: response, ramp, comfort, presence, energy,
    3 let what was moved come back.

    Args:
        der: The DER.
        dispatch: What it was told to do.
        seed: Of the whole portfolio; every dispatch of a DER draws from a stream of its own.
    """
    rng = _stream(seed, dispatch.stream, der.der_id)
    goal_kw = dispatch.kw * max(0.0, der.delivery_mean + der.delivery_sd * _gauss(rng))
    end_at = min(dispatch.window_end, dispatch.stopped_at or dispatch.window_end)
    window_s = max(0.0, (end_at - dispatch.window_start).total_seconds())
    signal_s = max(0.0, (dispatch.confirmed_at - dispatch.window_start).total_seconds())
    lead_s = max(0.0, (dispatch.window_start - dispatch.confirmed_at).total_seconds())
    # The schedule is known from the confirmation on: what notice there is shortens the response.
    begin_s = signal_s + max(0.0, der.response_time_s - lead_s)
    left_kwh = dispatch.energy_kwh
    edges, powers, moved_kwh = [0.0], [], 0.0
    while edges[-1] < window_s:
        start_s = edges[-1]
        stop_s = min(start_s + STEP_S, window_s)
        hours = (stop_s - start_s) / 3600
        noise = 1 + der.delivery_sd * MINUTE_NOISE * _gauss(rng)
        kw = _ramped_kw(goal_kw, der.ramp_kw_per_min, start_s - begin_s, stop_s - begin_s) * max(0.0, noise)
        middle_s = (start_s + stop_s) / 2
        kw *= _stamina(der, middle_s - begin_s)
        if not is_present(der, dispatch.window_start + timedelta(seconds=middle_s)):
            kw = 0.0
        kw = min(kw, dispatch.ceiling_kw, der.rated_kw(dispatch.direction))
        if left_kwh is not None:
            kw = min(kw, left_kwh / hours)
            left_kwh = max(0.0, left_kwh - kw * hours)
        moved_kwh += kw * hours
        edges.append(stop_s)
        powers.append(kw)
    back_kwh, back_h = _comes_back(der, dispatch.direction, moved_kwh)
    if back_kwh > 0:
        edges.append(edges[-1] + back_h * 3600)
        powers.append(-back_kwh / back_h)
    return Trace(origin=dispatch.window_start, edges_s=tuple(edges), kw=tuple(powers))


def meter(
    trace: Trace, *, direction: Direction, baseline_kw: float, start: datetime, end: datetime
) -> tuple[MeterInterval, ...]:
    """Read the meter over [start, end): net import per quarter hour of the clock, clipped to the span.

    The meter reads what the DER would have imported (``baseline_kw``) less the relief of this contract
    (REDUCE), or plus it (INCREASE). A DER shared by two contracts is metered per contract.
    """
    sign = -1 if direction == Direction.REDUCE else 1
    readings = []
    for left, right in quarter_hours(start, end):
        hours = (right - left).total_seconds() / 3600
        kwh = baseline_kw * hours + sign * trace.energy_kwh(left, right)
        readings.append(MeterInterval(start=left, end=right, usage_wh=round(kwh * 1000)))
    return tuple(readings)


def quarter_hours(start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    """Cut [start, end) at the quarter hours of the clock."""
    slot = timedelta(minutes=SLOT_MIN)
    spans = []
    left = start
    while left < end:
        into_slot = timedelta(
            minutes=left.minute % SLOT_MIN, seconds=left.second, microseconds=left.microsecond
        )
        right = min(left - into_slot + slot, end)
        spans.append((left, right))
        left = right
    return spans


def import_relief_kw(kw: float, direction: Direction) -> float:
    """Turn relief in the ordered direction into change of the feeder's load: > 0 lowers import."""
    return kw if direction == Direction.REDUCE else -kw


def stored_change_kwh(battery: Battery, direction: Direction, *, given: float, taken: float) -> float:
    """Change of a battery's charge by energy exchanged with the grid.

    Args:
        battery: Its losses.
        direction: Of the contract.
        given: Energy in the ordered direction, >= 0.
        taken: Energy against it, <= 0 (on the way back to rest).
    """
    exported, imported = (given, -taken) if direction == Direction.REDUCE else (-taken, given)
    return imported * battery.efficiency - exported / battery.efficiency


def grid_energy_kwh(battery: Battery, direction: Direction, stored_kwh: float) -> float:
    """Energy a battery holding ``stored_kwh`` can still give to (REDUCE) or take from the grid."""
    if direction == Direction.REDUCE:
        return max(0.0, stored_kwh - battery.soc_min_kwh) * battery.efficiency
    return max(0.0, battery.energy_kwh - stored_kwh) / battery.efficiency


def is_present(der: PortfolioDer, at: datetime) -> bool:
    """Say whether the DER is there to be controlled: an EV only while it is plugged in."""
    if der.ev is None or not der.ev.plugged_in:
        return True
    minute = at.hour * 60 + at.minute
    return any(_covers(span, minute) for span in der.ev.plugged_in)


def is_present_throughout(der: PortfolioDer, start: datetime, end: datetime) -> bool:
    """Say whether the DER is there for the whole of [start, end)."""
    if der.ev is None or not der.ev.plugged_in:
        return True
    minutes = max(1, int((end - start).total_seconds() // 60))
    minutes = min(minutes, _MINUTES_A_DAY)
    return all(is_present(der, start + timedelta(minutes=minute)) for minute in range(minutes))


def _covers(span: PluggedIn, minute: int) -> bool:
    start, end = _minute(span.start), _minute(span.end)
    if start == end:
        return True
    return start <= minute < end if start < end else minute >= start or minute < end


def _minute(text: str) -> int:
    return int(text[:2]) * 60 + int(text[3:])


def _stream(seed: int, stream: str, der_id: str) -> Random:
    name = f"{seed}|{stream}|{der_id}".encode()
    return Random(int.from_bytes(blake2b(name, digest_size=16).digest(), "big"))


def _gauss(rng: Random) -> float:
    """Standard normal by inversion: unlike ``Random.gauss`` the sequence is guaranteed across versions."""
    return _NORMAL.inv_cdf((rng.getrandbits(52) + 0.5) / 2**52)


def _ramped_kw(goal_kw: float, ramp_kw_per_min: float | None, start_s: float, stop_s: float) -> float:
    """Average power between two instants counted from the first kW, rising linearly to the goal."""
    if stop_s <= 0 or goal_kw <= 0:
        return 0.0
    rise_s = 0.0 if ramp_kw_per_min is None else goal_kw / ramp_kw_per_min * 60

    def work(seconds: float) -> float:
        """Power integrated from the first kW on, kW s."""
        if seconds <= 0:
            return 0.0
        if seconds < rise_s:
            return goal_kw * seconds * seconds / rise_s / 2
        return goal_kw * (seconds - rise_s / 2)

    return (work(stop_s) - work(start_s)) / (stop_s - start_s)


def _stamina(der: PortfolioDer, active_s: float) -> float:
    """Part of its power a DER still gives after so long: comfort ends the relief of heating and cooling."""
    if der.type != DerType.HVAC or active_s <= 0:
        return 1.0
    comfort_s = (der.hvac or Hvac()).comfort_min * 60
    return min(1.0, max(0.0, 2 - active_s / comfort_s))


def _comes_back(der: PortfolioDer, direction: Direction, moved_kwh: float) -> tuple[float, float]:
    """Energy that comes back after an order (kWh, >= 0) and the hours over which it does."""
    if der.type == DerType.HVAC:
        hvac = der.hvac or Hvac()
        return moved_kwh * hvac.rebound_fraction, hvac.rebound_min / 60
    if der.ev is not None and der.ev.catch_up_min is not None:
        return moved_kwh, der.ev.catch_up_min / 60
    if der.battery is not None and der.battery.recovery_kw > 0:
        losses = der.battery.efficiency**2
        back_kwh = moved_kwh / losses if direction == Direction.REDUCE else moved_kwh * losses
        return back_kwh, back_kwh / der.battery.recovery_kw
    return 0.0, 0.0
