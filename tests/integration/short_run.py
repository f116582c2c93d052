"""A short real run: registry, two mock sellers and a gateway; every verb that is spoken, both directions.

* FDR_001 is overloaded by import: delivered and settled.
* FDR_002 is overloaded by export: the need is to consume; delivered and settled.
* FDR_003 is overloaded and its order is cancelled by the operator after it was confirmed.
* FDR_004 is quiet.
"""

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from harness import (
    EVENING,
    HIGH_KW,
    QUIET_KW,
    SLOT,
    Network,
    eventually,
    journalled_messages,
    network,
    reading,
)

from gateway.clock import rfc3339
from seeds.load import ParticipantSeed

FEEDERS = ("FDR_001", "FDR_002", "FDR_003", "FDR_004")
SELLERS = tuple(
    ParticipantSeed(
        subscriber_id=f"bpp-{name}.example", provider_id=name, provider_name=name.title(), about="test"
    )
    for name in ("alpha", "bravo")
)


class ShortRun(NamedTuple):
    """What the run left behind: the gateway's data folder, and its orders as last read over HTTP."""

    folder: Path
    orders: tuple[dict[str, Any], ...]


async def run_short(folder: Path) -> ShortRun:
    """Run it and stop every process."""
    await asyncio.to_thread(_write_portfolios, folder)
    async with network(folder, SELLERS, callback_timeout_s=20) as net:
        for feeder_id in FEEDERS:
            await net.configure(feeder_id)
        for feeder_id in FEEDERS:
            await net.catalogue_of(feeder_id, sellers=len(SELLERS))
        await _tick(net, EVENING)
        for feeder_id in FEEDERS:
            sign = -1 if feeder_id == "FDR_002" else 1
            steps = [(EVENING - n * SLOT, sign * (QUIET_KW + n)) for n in reversed(range(8))]
            await net.post(*(reading(feeder_id, at, load) for at, load in steps))
        at = EVENING + SLOT
        await _play(net, at, HIGH_KW)
        for feeder_id in FEEDERS[:3]:
            await _confirmed(net, feeder_id)
        await _cancel(net, "FDR_003")
        while at < EVENING + 6 * SLOT:
            at += SLOT
            await _play(net, at, QUIET_KW)
        await eventually(lambda: _all_ended(net), "every order has ended and every request its answer")
        orders = tuple([order for feeder_id in FEEDERS for order in await net.orders(feeder_id)])
        await net.stop_gateway()
    return ShortRun(folder, orders)


def _write_portfolios(folder: Path) -> None:
    for seller in SELLERS:
        portfolio = folder / "portfolios" / f"{seller.provider_id}.json"
        portfolio.parent.mkdir(parents=True, exist_ok=True)
        portfolio.write_bytes(msgspec.json.encode(_portfolio(seller)))


def _portfolio(seller: ParticipantSeed) -> dict[str, Any]:
    name = seller.provider_id
    return {
        "provider_id": name,
        "provider_name": seller.provider_name,
        "ders": [
            {
                "der_id": f"der:{name}:{feeder_id}",
                "type": "battery",
                "feeder_id": feeder_id,
                "direction": "both",
                "capacity_kw": 30.0,
                "min_kw": 1.0,
                "response_time_s": 0,
                "min_duration_min": 15,
                "max_duration_min": 120,
                "price_per_kwh": "0.30",
                "delivery_mean": 0.95,
                "delivery_sd": 0.02,
                "baseline": {"method": "NOMINATED", "kw": 1.0},
                "location": {"latitude": 51.5, "longitude": -0.1},
                "meter_ids": [f"mtr:{name}:{feeder_id}"],
            }
            for feeder_id in FEEDERS
        ],
    }


async def _tick(net: Network, at: datetime) -> None:
    """Tell the sellers the event time."""
    for _, endpoint in net.layout.sellers:
        async with net.http.post(
            f"{endpoint.url}/control/clock", json={"event_time": rfc3339(at)}, headers=endpoint.headers
        ) as answer:
            assert answer.status == 200, await answer.text()


async def _play(net: Network, at: datetime, load_kw: float) -> None:
    await _tick(net, at)
    load = load_kw + at.minute / 60
    loads = {"FDR_001": load, "FDR_002": -load, "FDR_003": load, "FDR_004": QUIET_KW + at.minute / 60}
    answer = await net.post(*(reading(feeder_id, at, kw) for feeder_id, kw in loads.items()))
    assert (answer.status, answer.json["rejected"]) == (200, [])


async def _confirmed(net: Network, feeder_id: str) -> None:
    async def found() -> bool:
        orders = await net.orders(feeder_id)
        return bool(orders) and all(order["state"] in {"CONFIRMED", "DELIVERING"} for order in orders)

    await eventually(found, f"confirmed orders at {feeder_id}")


async def _cancel(net: Network, feeder_id: str) -> None:
    for order in await net.orders(feeder_id):
        answer = await net.ask(
            "POST", f"/beckn/orders/{order['order_id']}/cancel", {"reason": "the feeder was reconfigured"}
        )
        assert answer.status == 202, answer


async def _all_ended(net: Network) -> bool:
    await asyncio.sleep(0.2)
    stats = await net.get("/beckn/orders/stats")
    if not stats["orders"] or stats["terminal"] < stats["orders"]:
        return False
    messages = [one.document["context"] for one in await asyncio.to_thread(journalled_messages, net.folder)]
    said = {(context["action"], context["messageId"]) for context in messages}
    return all((f"on_{action}", name) in said for action, name in said if not action.startswith("on_"))
