"""What came of a demo: the contract's summary object, and the same in words. Pure.

Rules:

* Latencies are the gateway's own figures; with no order there is none: null, not zero.
* Energy is positive in the ordered direction.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec

COMPLETED = "COMPLETED"
TOLD_EPISODES = 12
STATE_NAMES = {None: "Unknown", 0: "Normal", 1: "Alert", 2: "Critical"}


class MoveRow(msgspec.Struct, frozen=True, kw_only=True):
    """One step of an order's life as the gateway reports it."""

    at: datetime
    state: str
    why: str


class OrderRow(msgspec.Struct, frozen=True, kw_only=True):
    """An order as ``GET /beckn/orders`` gives it; members not used here are ignored."""

    obp_id: str
    order_id: str
    feeder_id: str
    bpp_id: str
    der_ids: tuple[str, ...]
    state: str
    open: bool
    """Whether something is still to happen."""
    requested_kw: float
    requested_kwh: float
    delivered_kwh: float | None
    window_start: datetime
    window_end: datetime
    payable: str | None
    currency: str
    state_change_id: str
    replan: bool
    detected_at: datetime
    detection_to_confirm_ms: float | None
    moves: tuple[MoveRow, ...]


class StateChange(msgspec.Struct, frozen=True, kw_only=True):
    """A transition as the telemetry answer reported it, with what was forecast then.

    Attributes:
        worst_loading: Highest |forecast| / rating over the horizon.
        worst_bound: The same of the 80 % interval's outer end.
        asked_kw: Highest power the plan orders at once; 0 where nothing was bought.
    """

    id: str
    feeder_id: str
    at: datetime
    before: int | None
    after: int | None
    worst_loading: float
    worst_bound: float
    asked_kw: float = 0.0


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Detection to CONFIRM over some orders, wall ms; None without any."""

    p50: float | None = None
    p95: float | None = None
    max: float | None = None


class AuditResult(msgspec.Struct, frozen=True, kw_only=True):
    """What the verification of the journal found."""

    entries: int
    verified: bool


class Urls(msgspec.Struct, frozen=True, kw_only=True):
    """Where the gateway was reached."""

    gateway: str
    dashboard: str | None = None


class OrderSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One order in the summary."""

    obp_id: str
    feeder_id: str
    bpp_id: str
    der_ids: tuple[str, ...]
    state: str
    requested_kwh: float
    delivered_kwh: float | None
    detection_to_confirm_ms: float | None
    replan: bool


class StatsRow(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /beckn/orders/stats``, as far as it is used here."""

    negotiating: int
    detection_to_confirm_ms: Latency
    """Over orders of first plans."""
    replan_to_confirm_ms: Latency


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The contract's summary object.

    ``replan_to_confirm_ms``, ``alarms``, ``source`` and ``live`` are additions.
    """

    feeders: int
    readings: int
    state_changes: int
    orders: tuple[OrderSummary, ...]
    detection_to_confirm_ms: Latency
    """Over orders of first plans."""
    replan_to_confirm_ms: Latency
    alarms: tuple[str, ...]
    audit: AuditResult
    urls: Urls
    data_dir: str
    source: str
    live: tuple[datetime, datetime]


def summarise_order(order: OrderRow) -> OrderSummary:
    """Reduce an order to what the summary shows."""
    return OrderSummary(
        obp_id=order.obp_id,
        feeder_id=order.feeder_id,
        bpp_id=order.bpp_id,
        der_ids=order.der_ids,
        state=order.state,
        requested_kwh=order.requested_kwh,
        delivered_kwh=order.delivered_kwh,
        detection_to_confirm_ms=order.detection_to_confirm_ms,
        replan=order.replan,
    )


def summarise(
    *,
    feeders: int,
    readings: int,
    changes: Sequence[StateChange],
    orders: Sequence[OrderRow],
    stats: StatsRow,
    alarms: Sequence[str],
    audit: AuditResult,
    urls: Urls,
    data_dir: str,
    source: str,
    live: tuple[datetime, datetime],
) -> Summary:
    """Put the summary together."""
    return Summary(
        feeders=feeders,
        readings=readings,
        state_changes=len(changes),
        orders=tuple(summarise_order(order) for order in orders),
        detection_to_confirm_ms=stats.detection_to_confirm_ms,
        replan_to_confirm_ms=stats.replan_to_confirm_ms,
        alarms=tuple(alarms),
        audit=audit,
        urls=urls,
        data_dir=data_dir,
        source=source,
        live=live,
    )


class Episode(msgspec.Struct, frozen=True, kw_only=True):
    """From leaving Normal to being back there: the transitions of one feeder between."""

    feeder_id: str
    changes: tuple[StateChange, ...]
    end: datetime | None
    """When it was Normal again; None: not yet."""


def episodes(changes: Sequence[StateChange]) -> list[Episode]:
    """Group transitions into episodes, in the order of their starts."""
    running: dict[str, list[StateChange]] = {}
    found: list[Episode] = []
    for change in changes:
        running.setdefault(change.feeder_id, []).append(change)
        if change.after == 0:
            group = tuple(running.pop(change.feeder_id))
            found.append(Episode(feeder_id=change.feeder_id, changes=group, end=change.at))
    found += [Episode(feeder_id=one, changes=tuple(group), end=None) for one, group in running.items()]
    return sorted(found, key=lambda episode: episode.changes[0].at)


def story(changes: Sequence[StateChange], orders: Sequence[OrderRow], names: dict[str, str]) -> list[str]:
    """Tell what happened, one line per episode that led to orders, in the order of time.

    Of many episodes the largest are told, the others counted.

    Args:
        changes: All transitions.
        orders: All orders.
        names: How to call feeders and sellers; an id without a name stands for itself.
    """
    causes: defaultdict[str, list[OrderRow]] = defaultdict(list)
    for order in orders:
        causes[order.state_change_id].append(order)
    traded: list[tuple[Episode, list[OrderRow]]] = []
    for episode in episodes(changes):
        bought = [order for change in episode.changes for order in causes.pop(change.id, [])]
        if bought:
            traded.append((episode, bought))
    largest = sorted((_ordered_kwh(bought) for _, bought in traded), reverse=True)[:TOLD_EPISODES]
    told = [one for one in traded if _ordered_kwh(one[1]) >= (largest or [0.0])[-1]]
    lines = [_episode_line(episode, bought, names) for episode, bought in told]
    rest = [bought for episode, bought in traded if (episode, bought) not in told]
    if rest:
        kwh = sum(_ordered_kwh(bought) for bought in rest)
        lines.append(
            f"... and {len(rest)} smaller episodes with {sum(map(len, rest))} orders of {kwh:.1f} kWh"
        )
    # Orders whose cause was not seen, should there be any.
    lines += [
        f"{names.get(order.feeder_id, order.feeder_id)}: {_trade([order], names)}"
        for group in causes.values()
        for order in group
    ]
    return lines


def _ordered_kwh(orders: Sequence[OrderRow]) -> float:
    return sum(order.requested_kwh for order in orders)


def _episode_line(episode: Episode, orders: Sequence[OrderRow], names: dict[str, str]) -> str:
    feeder = names.get(episode.feeder_id, episode.feeder_id)
    worst = max(episode.changes, key=lambda change: change.worst_loading)
    bound = max(change.worst_bound for change in episode.changes)
    when = episode.changes[0].at.strftime("%a %d %b %H:%M")
    until = f" to {episode.end:%H:%M}" if episode.end is not None else ""
    heading = f"was heading for {worst.worst_loading:.0%} of its rating (at worst {bound:.0%})"
    return f"{when}{until}  {feeder} {heading}: {_trade(orders, names)}"


def _trade(orders: Sequence[OrderRow], names: dict[str, str]) -> str:
    """What was bought from whom, what came of it, and what it costs."""
    sellers = sorted({names.get(order.bpp_id, order.bpp_id) for order in orders})
    agreed = [order for order in orders if order.delivered_kwh is not None]
    words = f"up to {peak_kw(orders):,.1f} kW ordered from {_listed(sellers)}"
    words += f" in {len(orders)} orders" if len(orders) > 1 else " in one order"
    if agreed:
        ordered = sum(order.requested_kwh for order in agreed)
        delivered = sum(order.delivered_kwh or 0.0 for order in agreed)
        share = f" ({delivered / ordered:.0%})" if ordered > 0 else ""
        words += f", {delivered:,.1f} of {ordered:,.1f} kWh delivered{share}"
    paid = money(orders)
    if paid:
        words += f" for {paid}"
    failed = [order for order in orders if order.state != COMPLETED]
    if failed:
        words += "; " + _listed(sorted({f"{_count(failed, state)} {state}" for state in _states(failed)}))
    return words


def peak_kw(orders: Sequence[OrderRow]) -> float:
    """Return the highest power ordered at once."""
    return max(
        sum(one.requested_kw for one in orders if one.window_start <= order.window_start < one.window_end)
        for order in orders
    )


def money(orders: Sequence[OrderRow]) -> str:
    """Add up what is payable, by currency; empty where nothing is."""
    totals: defaultdict[str, Decimal] = defaultdict(Decimal)
    for order in orders:
        if order.payable is not None:
            totals[order.currency] += Decimal(order.payable)
    return " + ".join(f"{currency} {total:.2f}" for currency, total in sorted(totals.items()))


def _states(orders: Sequence[OrderRow]) -> set[str]:
    return {order.state for order in orders}


def _count(orders: Sequence[OrderRow], state: str) -> int:
    return sum(order.state == state for order in orders)


def _listed(words: Sequence[str]) -> str:
    """Join words as a sentence does."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def to_json(summary: Summary) -> dict[str, Any]:
    """Give the summary as a JSON object."""
    document: dict[str, Any] = msgspec.to_builtins(summary)
    return document
