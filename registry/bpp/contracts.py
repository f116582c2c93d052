"""The seller's order book: what is free, what is promised, how a contract lives. Pure.

::

    select   quote, nothing kept
    init     quote, kept as DRAFT under a contract id (or CANCELLED at once: declined)
    confirm  DRAFT -> ACTIVE with what is still free, or -> CANCELLED (declined)
    cancel   DRAFT | ACTIVE -> CANCELLED
    time     ACTIVE -> COMPLETE when event time passes the window's end

Rules:

* Only a confirmed contract holds capacity; select, init and confirm all look at what is free by then.
* A seller that can do less commits less; one that can do nothing declines, with a reason.
* Every move is idempotent: repeated, it answers what already is.
* All instants here are event time.
"""

import math
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from enum import IntEnum
from typing import Any

import msgspec

from gateway.clock import rfc3339
from gateway.errors import BecknRefusal
from gateway.types import (
    BaselineMethod,
    BaselineTerm,
    CommittedLine,
    ContractStatus,
    ContractView,
    DerPerformance,
    Direction,
    OrderLine,
    OrderTerms,
    PerformanceStatus,
)
from registry.bpp.catalogue import Catalogue, StandingOffer
from registry.bpp.physics import (
    MAX_OVERDELIVERY,
    Dispatch,
    Trace,
    grid_energy_kwh,
    is_present_throughout,
    meter,
    simulate,
    stored_change_kwh,
)
from registry.bpp.portfolio import PortfolioDer

CENT = Decimal("0.01")


class Told(IntEnum):
    """How far the buyer has been told, unasked, about a contract's delivery."""

    NOTHING = 0
    STARTED = 1
    FINISHED = 2


class Promise(msgspec.Struct, frozen=True, kw_only=True):
    """One DER's line in a contract. ``ceiling_kw`` and ``energy_kwh`` are fixed at confirmation."""

    der_id: str
    requested_kw: float
    committed_kw: float
    ceiling_kw: float
    """Capacity reserved: a little more than committed, where it is free."""
    energy_kwh: float | None = None
    """Energy it can exchange with the grid for this contract (batteries)."""


class Contract(msgspec.Struct, frozen=True, kw_only=True):
    """One order as the seller holds it."""

    contract_id: str
    bap_id: str
    bap_uri: str
    transaction_id: str
    beckn_version: str = "2.0.0"
    """Version the buyer speaks."""
    domain: str | None = None
    """As the buyer states it, with its location: repeated in what it is told unasked."""
    location: dict[str, Any] | None = None
    terms: OrderTerms
    status: ContractStatus
    promises: tuple[Promise, ...]
    price_per_kwh: str
    confirmed_at: datetime | None = None
    cancelled_at: datetime | None = None
    decline_reason: str | None = None
    told: Told = Told.NOTHING


class Quote(msgspec.Struct, frozen=True, kw_only=True):
    """What could be promised for some terms right now; ``decline_reason`` where that is nothing."""

    promises: tuple[Promise, ...]
    price_per_kwh: str
    decline_reason: str | None = None


class Played(msgspec.Struct, frozen=True, kw_only=True):
    """A confirmed contract's line with the trace its DER follows."""

    contract_id: str
    der_id: str
    feeder_id: str
    direction: Direction
    window_start: datetime
    window_end: datetime
    ceiling_kw: float
    trace: Trace


Book = Mapping[str, tuple[Played, ...]]
"""Confirmed lines per DER id, in the order they were confirmed."""


def free_kw(der: PortfolioDer, direction: Direction, start: datetime, end: datetime, book: Book) -> float:
    """Relief a DER can still promise over the whole of [start, end), kW >= 0.

    What it cannot do for its limits (capacity, duration, presence, energy) is not free; below its
    minimum nothing is.
    """
    minutes = (end - start).total_seconds() / 60
    if not der.min_duration_min <= minutes <= der.max_duration_min:
        return 0.0
    if not is_present_throughout(der, start, end):
        return 0.0
    return _limited_kw(der, direction, start, end, minutes=minutes, book=book)


def offered_kw(der: PortfolioDer, direction: Direction, start: datetime, end: datetime, book: Book) -> float:
    """Relief to put into a catalogue for a need over [start, end), kW >= 0.

    Unlike :func:`free_kw` it looks for what a part of the span could get: the buyer knows the DER's
    durations and may order less than its whole need.
    """
    shortest = timedelta(minutes=der.min_duration_min)
    if not is_present_throughout(der, start, min(end, start + shortest)):
        return 0.0
    return _limited_kw(der, direction, start, end, minutes=der.min_duration_min, book=book)


def _limited_kw(
    der: PortfolioDer, direction: Direction, start: datetime, end: datetime, *, minutes: float, book: Book
) -> float:
    """Capacity not reserved in [start, end), as far as the energy lasts for so many minutes."""
    played = [
        line for line in book.get(der.der_id, ()) if line.window_start < end and start < line.window_end
    ]
    # Reservations only begin at the span's start or at their own: the peak is at one of these.
    instants = [start, *(line.window_start for line in played if line.window_start > start)]
    reserved = max(
        sum(line.ceiling_kw for line in played if line.window_start <= instant < line.window_end)
        for instant in instants
    )
    kw = der.rated_kw(direction) - reserved
    energy_kwh = free_energy_kwh(der, direction, start, book)
    if energy_kwh is not None:
        kw = min(kw, energy_kwh / (minutes / 60))
    kw = math.floor(kw * 1000 + 1e-6) / 1000
    return kw if kw > 0 and kw >= der.min_kw else 0.0


def free_energy_kwh(der: PortfolioDer, direction: Direction, start: datetime, book: Book) -> float | None:
    """Energy a battery can exchange with the grid from ``start`` on, net of what is promised later.

    Returns:
        kWh >= 0 on the grid's side, or None where the DER has no energy limit.
    """
    if der.battery is None:
        return None
    stored = der.battery.soc_kwh
    promised = 0.0
    for line in book.get(der.der_id, ()):
        origin = line.trace.origin
        stored += stored_change_kwh(
            der.battery,
            line.direction,
            given=line.trace.energy_kwh(origin, start, taken=False),
            taken=line.trace.energy_kwh(origin, start, given=False),
        )
        if line.direction == direction:
            promised += line.trace.energy_kwh(max(start, origin), line.trace.ends_at, taken=False)
    return max(0.0, grid_energy_kwh(der.battery, direction, stored) - promised)


def quote(catalogue: Catalogue, book: Book, terms: OrderTerms, *, now: datetime) -> Quote:
    """Say what can be promised for these terms at this event time."""
    offered = catalogue.offer(terms.offer_id)
    ders = {} if offered is None else {der.der_id: der for der in offered.ders}
    reason = _decline_reason(offered, terms, now)
    if reason is None:
        promises = tuple(_promise(ders[line.der_id], line, terms, book) for line in terms.lines)
        if not any(promise.committed_kw > 0 for promise in promises):
            reason = "NO_FREE_CAPACITY"
    else:
        promises = tuple(
            Promise(der_id=line.der_id, requested_kw=line.kw, committed_kw=0.0, ceiling_kw=0.0)
            for line in terms.lines
        )
    price = terms.price_per_kwh if offered is None else offered.price_per_kwh
    return Quote(promises=promises, price_per_kwh=price, decline_reason=reason)


def _decline_reason(offered: StandingOffer | None, terms: OrderTerms, now: datetime) -> str | None:
    """Why these terms cannot be met whatever is free, or None."""
    if offered is None:
        return "UNKNOWN_OFFER"
    if (offered.feeder_id, offered.direction) != (terms.feeder_id, terms.direction):
        return "OFFER_IS_FOR_ANOTHER_FEEDER_OR_DIRECTION"
    named = [line.der_id for line in terms.lines]
    if not set(named) <= {der.der_id for der in offered.ders}:
        return "UNKNOWN_DER"
    if len(set(named)) < len(named):
        return "DER_NAMED_TWICE"
    if terms.window_end <= max(now, terms.window_start):
        return "WINDOW_HAS_PASSED"
    return None


def _promise(der: PortfolioDer, line: OrderLine, terms: OrderTerms, book: Book) -> Promise:
    """What one DER can promise for its line: nothing rather than less than its minimum."""
    free = free_kw(der, terms.direction, terms.window_start, terms.window_end, book)
    committed = min(line.kw, free)
    if committed < der.min_kw:
        committed = 0.0
    return Promise(
        der_id=der.der_id,
        requested_kw=line.kw,
        committed_kw=committed,
        ceiling_kw=min(free, committed * MAX_OVERDELIVERY),
        energy_kwh=free_energy_kwh(der, terms.direction, terms.window_start, book),
    )


def draft(
    quoted: Quote,
    terms: OrderTerms,
    *,
    contract_id: str,
    bap_id: str,
    bap_uri: str,
    transaction_id: str,
    beckn_version: str = "2.0.0",
    domain: str | None = None,
    location: dict[str, Any] | None = None,
) -> Contract:
    """Keep a quote as a contract: DRAFT, or CANCELLED at once where nothing can be promised."""
    declined = quoted.decline_reason is not None
    return Contract(
        contract_id=contract_id,
        bap_id=bap_id,
        bap_uri=bap_uri,
        transaction_id=transaction_id,
        beckn_version=beckn_version,
        domain=domain,
        location=location,
        terms=terms,
        status=ContractStatus.CANCELLED if declined else ContractStatus.DRAFT,
        promises=quoted.promises,
        price_per_kwh=quoted.price_per_kwh,
        decline_reason=quoted.decline_reason,
    )


def confirm(
    contract: Contract, terms: OrderTerms, quoted: Quote, *, now: datetime, lines_at: str | None = None
) -> Contract:
    """Activate a draft with what is still free, or decline it. Any other status stays as it is.

    Args:
        contract: As kept at init.
        terms: As the buyer confirms them; only the lines' kW may have changed.
        quoted: What can be promised for ``terms`` now.
        now: Event time.
        lines_at: JSON pointer of the lines in the buyer's message, for a refusal.

    Raises:
        BecknRefusal: The buyer confirms something else than was agreed at init.
    """
    if contract.status != ContractStatus.DRAFT:
        return contract
    agreed = contract.terms
    if _subject(terms) != _subject(agreed):
        raise BecknRefusal(
            "BIZ_CONTRACT_MISMATCH",
            "confirm repeats offer, feeder, direction, window and DERs of the init; they differ here",
            path=lines_at,
        )
    if quoted.decline_reason is not None:
        return msgspec.structs.replace(
            contract,
            status=ContractStatus.CANCELLED,
            promises=quoted.promises,
            decline_reason=quoted.decline_reason,
        )
    drafted = {promise.der_id: promise.committed_kw for promise in contract.promises}
    promises = []
    for promise in quoted.promises:
        committed = min(promise.committed_kw, drafted[promise.der_id])
        ceiling = min(promise.ceiling_kw, committed * MAX_OVERDELIVERY)
        promises.append(msgspec.structs.replace(promise, committed_kw=committed, ceiling_kw=ceiling))
    return msgspec.structs.replace(
        contract,
        terms=terms,
        status=ContractStatus.ACTIVE,
        promises=tuple(promises),
        confirmed_at=now,
    )


def cancel(contract: Contract, *, now: datetime, reason: str | None = None) -> Contract:
    """End a draft or running contract; what is complete or cancelled stays as it is.

    Args:
        contract: As it is.
        now: Event time: what runs stops here.
        reason: As the buyer gives it.
    """
    if contract.status not in (ContractStatus.DRAFT, ContractStatus.ACTIVE):
        return contract
    said = "CANCELLED_BY_BUYER" if reason is None else f"CANCELLED_BY_BUYER: {reason}"
    return msgspec.structs.replace(
        contract, status=ContractStatus.CANCELLED, cancelled_at=now, decline_reason=said
    )


def advance(contract: Contract, *, now: datetime) -> tuple[Contract, tuple[datetime, ...]]:
    """Let event time pass over a contract.

    Returns:
        The contract, and the event times whose status the buyer is now to be told, oldest first: the
        window's start when that has been reached, its end when that has.
    """
    if contract.status != ContractStatus.ACTIVE:
        return contract, ()
    start, end = contract.terms.window_start, contract.terms.window_end
    tell: list[datetime] = []
    told = contract.told
    if told < Told.STARTED and start <= now:
        # A contract confirmed late starts when it was confirmed.
        tell.append(max(start, contract.confirmed_at or start))
        told = Told.STARTED
    if now < end:
        return msgspec.structs.replace(contract, told=told), tuple(tell)
    tell.append(end)
    done = msgspec.structs.replace(contract, status=ContractStatus.COMPLETE, told=Told.FINISHED)
    return done, tuple(tell)


def play(contract: Contract, catalogue: Catalogue, *, seed: int) -> tuple[Played, ...]:
    """Fix what the DERs of a confirmed contract physically do (also of one cancelled since)."""
    if contract.confirmed_at is None:
        return ()
    terms = contract.terms
    lines = []
    for promise in contract.promises:
        der = catalogue.der(promise.der_id)
        if der is None or promise.committed_kw <= 0:
            continue
        dispatch = Dispatch(
            stream=f"{terms.offer_id}|{rfc3339(terms.window_start)}",
            direction=terms.direction,
            kw=promise.committed_kw,
            ceiling_kw=promise.ceiling_kw,
            window_start=terms.window_start,
            window_end=terms.window_end,
            confirmed_at=contract.confirmed_at,
            energy_kwh=promise.energy_kwh,
            stopped_at=contract.cancelled_at,
        )
        lines.append(
            Played(
                contract_id=contract.contract_id,
                der_id=der.der_id,
                feeder_id=der.feeder_id,
                direction=terms.direction,
                window_start=terms.window_start,
                window_end=min(terms.window_end, contract.cancelled_at or terms.window_end),
                ceiling_kw=promise.ceiling_kw,
                trace=simulate(der, dispatch, seed=seed),
            )
        )
    return tuple(lines)


def quote_view(quoted: Quote, terms: OrderTerms, catalogue: Catalogue) -> ContractView:
    """Put a quote into the words of an on_select."""
    status = ContractStatus.DRAFT if quoted.decline_reason is None else ContractStatus.CANCELLED
    return ContractView(
        contract_id=None,
        status=status,
        obp_id=terms.obp_id,
        lines=_committed(quoted.promises),
        window_start=terms.window_start,
        window_end=terms.window_end,
        price_per_kwh=quoted.price_per_kwh,
        currency=catalogue.currency,
        total_price=total_price(quoted.promises, quoted.price_per_kwh, terms.duration_h),
        baselines=_baselines(quoted.promises, catalogue),
        decline_reason=quoted.decline_reason,
    )


def contract_view(
    contract: Contract, played: Iterable[Played], catalogue: Catalogue, *, now: datetime
) -> ContractView:
    """Put a contract into the words of an on_init, on_confirm, on_status or on_cancel at an event time."""
    terms = contract.terms
    status = contract.status
    if status == ContractStatus.COMPLETE and now < terms.window_end:
        status = ContractStatus.ACTIVE
    return ContractView(
        contract_id=contract.contract_id,
        status=status,
        obp_id=terms.obp_id,
        lines=_committed(contract.promises),
        window_start=terms.window_start,
        window_end=terms.window_end,
        price_per_kwh=contract.price_per_kwh,
        currency=catalogue.currency,
        total_price=total_price(contract.promises, contract.price_per_kwh, terms.duration_h),
        baselines=_baselines(contract.promises, catalogue),
        performance=_performance(contract, played, catalogue, now),
        decline_reason=contract.decline_reason,
    )


def total_price(promises: Iterable[Promise], price_per_kwh: str, duration_h: float) -> str:
    """Price of the committed energy, decimal text, rounded half up to the cent."""
    kwh = sum((Decimal(repr(promise.committed_kw)) for promise in promises), Decimal(0))
    total = kwh * Decimal(repr(duration_h)) * Decimal(price_per_kwh)
    return str(total.quantize(CENT, rounding=ROUND_HALF_UP))


def _subject(terms: OrderTerms) -> tuple[object, ...]:
    """What a contract is about, apart from how much of it."""
    ders = tuple(line.der_id for line in terms.lines)
    return (
        terms.obp_id,
        terms.offer_id,
        terms.feeder_id,
        terms.direction,
        terms.window_start,
        terms.window_end,
        ders,
    )


def _committed(promises: Iterable[Promise]) -> tuple[CommittedLine, ...]:
    return tuple(
        CommittedLine(der_id=each.der_id, requested_kw=each.requested_kw, committed_kw=each.committed_kw)
        for each in promises
    )


def _baselines(promises: Iterable[Promise], catalogue: Catalogue) -> tuple[BaselineTerm, ...]:
    ders = (catalogue.der(promise.der_id) for promise in promises)
    return tuple(
        BaselineTerm(der_id=der.der_id, method=BaselineMethod(der.baseline.method.value), kw=der.baseline.kw)
        for der in ders
        if der is not None
    )


def _performance(
    contract: Contract, played: Iterable[Played], catalogue: Catalogue, now: datetime
) -> tuple[DerPerformance, ...]:
    """Delivery of every line so far; quarter hours appear when they are over."""
    reports = []
    for line in played:
        der = catalogue.der(line.der_id)
        if der is None or line.contract_id != contract.contract_id:
            continue
        readings = meter(
            line.trace,
            direction=line.direction,
            baseline_kw=der.baseline.kw,
            start=line.window_start,
            end=line.window_end,
        )
        if contract.status == ContractStatus.CANCELLED:
            status = PerformanceStatus.FAILED
        elif now >= line.window_end:
            status = PerformanceStatus.COMPLETED
        elif now >= line.window_start:
            status = PerformanceStatus.IN_PROGRESS
        else:
            status = PerformanceStatus.SCHEDULED
        over = tuple(reading for reading in readings if reading.end <= now)
        reports.append(DerPerformance(der_id=der.der_id, status=status, intervals=over))
    return tuple(reports)
