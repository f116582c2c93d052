"""Messages and orders of realistic size to measure with: same figures on every run."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from gateway.types import (
    BaselineMethod,
    BaselineTerm,
    CommittedLine,
    ContractStatus,
    ContractView,
    Der,
    DerPerformance,
    DerType,
    Direction,
    FlexNeed,
    Location,
    NeedSlot,
    Offer,
    OrderLine,
    OrderTerms,
    PerformanceStatus,
)

BUYER_ID = "bap.fluxeon.example"
BUYER_URI = "https://bap.fluxeon.example/beckn"
SELLER_ID = "bpp-alpha.example"
SELLER_URI = "https://bpp-alpha.example/beckn"
FEEDER_ID = "FDR_001"
TRANSACTION_ID = str(UUID(int=0x11111111111141118111111111111111))
CONTRACT_ID = str(UUID(int=0x550E8400E29B41D4A716446655440000))
OBP_ID = f"OBP-{UUID(int=0x22222222222242228222222222222222)}"
START = datetime(2026, 1, 5, 17, tzinfo=UTC)
DERS_IN_ORDER = 3
CURRENCY = "GBP"
_TYPES = (DerType.BATTERY, DerType.EV, DerType.HVAC)


def uuid_text(number: int) -> str:
    """A valid UUID (version 4 by its bits) that depends on the number alone."""
    return str(UUID(int=(number << 80) | 0x4000_8000_0000_0000_0000 | number & 0xFFFF_FFFF))


def der(number: int, *, feeder_id: str = FEEDER_ID) -> Der:
    """One DER of a catalogue; power, price and place vary with its number."""
    return Der(
        der_id=f"der:alpha:{number:06d}",
        aggregator_id="alpha",
        type=_TYPES[number % len(_TYPES)],
        feeder_id=feeder_id,
        direction=Direction.REDUCE,
        capacity_kw=5.0 + number * 7 % 40,
        min_kw=0.5,
        response_time_s=float((5, 60, 300)[number % 3]),
        min_duration_min=15,
        max_duration_min=120,
        price_per_kwh=f"0.{20 + number * 13 % 40:02d}",
        ramp_kw_per_min=10.0,
        location=Location(latitude=51.5 + number % 50 / 1000, longitude=-0.12),
        meter_ids=(f"mtr:alpha:{number:06d}",),
    )


def offers(count: int, *, start: datetime = START) -> tuple[Offer, ...]:
    """A catalogue of as many offers, one DER each."""
    return tuple(
        Offer(
            offer_id=f"offer-{number}",
            bpp_id=SELLER_ID,
            bpp_uri=SELLER_URI,
            provider_id="alpha",
            provider_name="Alpha Storage",
            ders=(one,),
            price_per_kwh=one.price_per_kwh,
            currency=CURRENCY,
            valid_from=start - timedelta(days=1),
            valid_until=start + timedelta(days=1),
        )
        for number in range(1, count + 1)
        for one in (der(number),)
    )


def terms(*, start: datetime = START, ders: int = DERS_IN_ORDER) -> OrderTerms:
    """An order of a few DERs for an hour."""
    return OrderTerms(
        obp_id=OBP_ID,
        event_id=uuid_text(7),
        feeder_id=FEEDER_ID,
        direction=Direction.REDUCE,
        offer_id="offer-1",
        provider_id="alpha",
        window_start=start,
        window_end=start + timedelta(hours=1),
        lines=tuple(
            OrderLine(der_id=one.der_id, der_type=one.type, kw=one.capacity_kw)
            for one in map(der, range(1, ders + 1))
        ),
        price_per_kwh="0.31",
        currency=CURRENCY,
    )


def view(
    agreed: OrderTerms,
    *,
    contract_id: str | None = CONTRACT_ID,
    status: ContractStatus = ContractStatus.DRAFT,
    delivering: bool = False,
) -> ContractView:
    """What the seller says about the order: everything asked for is committed."""
    return ContractView(
        contract_id=contract_id,
        status=status,
        obp_id=agreed.obp_id,
        lines=tuple(
            CommittedLine(der_id=line.der_id, requested_kw=line.kw, committed_kw=line.kw)
            for line in agreed.lines
        ),
        window_start=agreed.window_start,
        window_end=agreed.window_end,
        price_per_kwh=agreed.price_per_kwh,
        currency=agreed.currency,
        total_price="18.27",
        baselines=tuple(
            BaselineTerm(der_id=line.der_id, method=BaselineMethod.NOMINATED, kw=0.0) for line in agreed.lines
        ),
        performance=tuple(
            DerPerformance(der_id=line.der_id, status=PerformanceStatus.IN_PROGRESS) for line in agreed.lines
        )
        if delivering
        else (),
    )


def need(kw: Sequence[float], *, start: datetime = START) -> FlexNeed:
    """Relief wanted over the next hour."""
    return FlexNeed(
        need_id=uuid_text(7),
        feeder_id=FEEDER_ID,
        direction=Direction.REDUCE,
        slots=tuple(
            NeedSlot(start=start + timedelta(minutes=15 * place), kw=value) for place, value in enumerate(kw)
        ),
        decided_at=start,
        location=Location(latitude=51.5, longitude=-0.12),
    )
