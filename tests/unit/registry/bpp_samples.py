"""DERs, portfolios and orders for the tests of the mock aggregator."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from gateway.types import DerType, Direction, OrderLine, OrderTerms
from registry.bpp.catalogue import Catalogue
from registry.bpp.portfolio import Portfolio, PortfolioDer, parse_portfolio

START = datetime(2026, 1, 5, 17, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


def der_document(**changes: Any) -> dict[str, Any]:
    return {
        "der_id": "der:alpha:000001",
        "type": "battery",
        "feeder_id": "FDR_001",
        "direction": "both",
        "capacity_kw": 50.0,
        "min_kw": 5.0,
        "response_time_s": 30,
        "min_duration_min": 15,
        "max_duration_min": 120,
        "price_per_kwh": "0.31",
        "delivery_mean": 0.97,
        "delivery_sd": 0.02,
        "baseline": {"method": "NOMINATED", "kw": 0.0},
    } | changes


def der(**changes: Any) -> PortfolioDer:
    return msgspec.convert(der_document(**changes), PortfolioDer)


def portfolio_bytes(*ders: dict[str, Any], **changes: Any) -> bytes:
    document = {"provider_id": "alpha", "provider_name": "Alpha Flex", "ders": list(ders)} | changes
    return msgspec.json.encode(document)


def portfolio(*ders: dict[str, Any]) -> Portfolio:
    return parse_portfolio(portfolio_bytes(*ders), source="test.json")


def catalogue(*ders: dict[str, Any]) -> Catalogue:
    return Catalogue(portfolio(*(ders or (der_document(),))))


def terms(*lines: tuple[str, float], **changes: Any) -> OrderTerms:
    wanted = lines or (("der:alpha:000001", 20.0),)
    base = OrderTerms(
        obp_id="OBP-1",
        event_id="need-1",
        feeder_id="FDR_001",
        direction=Direction.REDUCE,
        offer_id="alpha:FDR_001:battery:REDUCE:0.31",
        provider_id="alpha",
        window_start=START,
        window_end=START + HOUR,
        lines=tuple(OrderLine(der_id=der_id, der_type=DerType.BATTERY, kw=kw) for der_id, kw in wanted),
        price_per_kwh="0.31",
        currency="GBP",
    )
    return msgspec.structs.replace(base, **changes)
