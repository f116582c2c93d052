"""``loop``: from the decision to the CONFIRM on its way, through real processes.

Registry, three idle mock sellers and the gateway run as in the demo. One feeder after the other is
driven into overload, so that each need is bought alone, with a handful of orders. When the needs are
through, the stages are read from the journal: decision -> SELECT sent -> on_select received ->
INIT sent -> on_init received -> CONFIRM sent.

The reference, taken in turns with the needs: as many flows at once as the need had orders, each of
three bare pairs (POST, then the peer's POST back), unsigned, with a peer that does nothing else.
"""

import asyncio
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Self

import aiohttp
import numpy as np
import uvloop
from aiohttp import web
from numpy.typing import NDArray
from sqlalchemy import select

from fluxeon.bench import samples
from fluxeon.bench.measure import Outcome, Row, Table, ratio
from fluxeon.bench.messages import wire
from fluxeon.bench.peers import Peer, started
from fluxeon.demo.client import GatewayApi, SellerApi
from fluxeon.demo.portfolios import write_portfolios
from fluxeon.demo.source import DemoFeeder, RatedBy
from fluxeon.demo.world import HOST, Layout, World, free_ports, lay_out
from fluxeon.errors import CommandFailed
from gateway.audit.chain import Entry, parse_entry
from gateway.beckn import v2
from gateway.clock import rfc3339, utc_now
from gateway.store.database import open_reader
from gateway.store.tables import journal_entry
from ml.series import LoadSeries
from seeds.load import load_participants

NAME = "loop"
NEEDS = 24
"""Needs measured, one per feeder; one more is run first and not counted."""
RATING_KW = 400.0
STEP_MIN = 15
HISTORY_SLOTS = 8 * 96
START = datetime(2026, 1, 5, tzinfo=UTC)
OVERLOAD = (1.02, 1.12, 1.2)
"""Loadings posted one after the other until something is bought."""
CATALOGUE_WITHIN_S = 40.0
TRADE_WITHIN_S = 15.0
POLL_S = 0.05
PAIRS = 3
CLOSED = frozenset({"CONFIRMED", "DELIVERING", "COMPLETING", "COMPLETED"})
STAGES = (
    "decision to SELECT written",
    "SELECT written to sent",
    "SELECT sent to on_select",
    "on_select to INIT sent",
    "INIT sent to on_init",
    "on_init to CONFIRM sent",
)


def measure(*, rounds: int, needs: int | None = None) -> Outcome:
    """Measure needs one after the other.

    Args:
        rounds: Of five, the default number of needs is taken; more or fewer in proportion.
        needs: How many needs instead.

    Raises:
        CommandFailed: A process failed, or a need was not bought in time.
    """
    with tempfile.TemporaryDirectory(prefix="fluxeon-bench-") as folder, started(("callback",), {}) as peers:
        return uvloop.run(_measure(Path(folder), peers["callback"], needs or max(2, NEEDS * rounds // 5)))


async def _measure(folder: Path, peer: Peer, needs: int) -> Outcome:
    feeders = [_feeder(number) for number in range(needs + 1)]
    network = load_participants()
    layout = lay_out(folder, network.participants)
    write_portfolios(
        network.participants, [layout.portfolio(seller) for seller in network.participants], feeders
    )
    world = World(layout, domain=network.domain, gateway_id=network.gateway_id)
    bare: list[list[float]] = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as http:
        try:
            await world.start(http, lambda _: None)
            buying = _Buying(
                GatewayApi(http, layout.gateway),
                [SellerApi(http, endpoint) for _, endpoint in layout.sellers],
                len(layout.sellers),
            )
            await buying.prepare(feeders)
            async with _BareFlows(peer) as flows:
                for feeder in feeders:
                    orders = await buying.need(feeder)
                    bare.append(await flows.run(orders))
            world.check()
        finally:
            await asyncio.to_thread(world.stop)
    return _outcome(layout, [feeder.feeder_id for feeder in feeders[1:]], bare[1:])


class _Buying:
    """Drives feeders into overload, one at a time."""

    def __init__(self, gateway: GatewayApi, sellers: Sequence[SellerApi], expected: int) -> None:
        self._gateway = gateway
        self._sellers = sellers
        self._expected = expected

    async def prepare(self, feeders: Sequence[DemoFeeder]) -> None:
        """Configure every feeder, wait for its catalogue, load its history."""
        await self._tick(START + timedelta(minutes=STEP_MIN * HISTORY_SLOTS))
        for feeder in feeders:
            await self._gateway.put_feeder(feeder)
        deadline = time.monotonic() + CATALOGUE_WITHIN_S
        for feeder in feeders:
            while len(await self._gateway.catalogue_ders(feeder.feeder_id)) < self._expected:
                if time.monotonic() > deadline:
                    raise CommandFailed(f"no catalogue for {feeder.feeder_id} in time")
                await asyncio.sleep(POLL_S)
        for feeder in feeders:
            await self._gateway.post_readings(
                [
                    _reading(feeder.feeder_id, slot, float(load))
                    for slot, load in enumerate(feeder.series.load_kw, 1)
                ]
            )

    async def need(self, feeder: DemoFeeder) -> int:
        """Overload one feeder; returns how many orders that led to, once all are agreed.

        Raises:
            CommandFailed: Nothing was bought, or it was not agreed in time.
        """
        for place, loading in enumerate(OVERLOAD, 1):
            slot = HISTORY_SLOTS + place
            answer = await self._gateway.post_readings(
                [_reading(feeder.feeder_id, slot, RATING_KW * loading)]
            )
            state = answer.states[0]
            plan = (state.state_change.plan if state.state_change else None) or state.plan
            if plan is not None and plan.orders:
                return await self._agreed(feeder.feeder_id)
        raise CommandFailed(f"nothing was bought for {feeder.feeder_id} at {loading:.0%} of its rating")

    async def _agreed(self, feeder_id: str) -> int:
        deadline = time.monotonic() + TRADE_WITHIN_S
        while time.monotonic() < deadline:
            await asyncio.sleep(POLL_S)
            orders = await self._gateway.orders_of(feeder_id)
            if orders and all(order.state in CLOSED or not order.open for order in orders):
                return len(orders)
        raise CommandFailed(f"the orders for {feeder_id} were not agreed in time")

    async def _tick(self, at: datetime) -> None:
        for seller in self._sellers:
            await seller.tick(at)


class _BareFlows:
    """The reference: unsigned POSTs and callbacks, nothing checked, nothing stored."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._port = free_ports(1)[0]
        self._http = aiohttp.ClientSession()
        now = utc_now()
        self._body = wire("select", v2.select_message(samples.terms(start=now)), samples.uuid_text(1), now)

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/{flow}", self._called_back)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, self._port).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()
        await self._runner.cleanup()

    async def _called_back(self, request: web.Request) -> web.Response:
        await request.read()
        self._waiting.pop(request.match_info["flow"]).set_result(None)
        return web.Response(body=b"{}")

    async def run(self, count: int) -> list[float]:
        """Run flows at once; milliseconds from the common start to the end of each."""
        begin = time.perf_counter_ns()

        async def flow(number: int) -> float:
            url = f"http://{HOST}:{self._port}/{number}"
            for _ in range(PAIRS):
                called = self._waiting[str(number)] = asyncio.get_running_loop().create_future()
                async with self._http.post(
                    f"http://{HOST}:{self._peer.port}/?{url}", data=self._body
                ) as answer:
                    await answer.read()
                await called
            return (time.perf_counter_ns() - begin) / 1e6

        return list(await asyncio.gather(*(flow(number) for number in range(count))))


def _outcome(layout: Layout, feeder_ids: Sequence[str], bare: Sequence[Sequence[float]]) -> Outcome:
    stages = _stages(layout.folder, feeder_ids)
    per_need = [[sum(parts) for parts in stages[feeder_id]] for feeder_id in feeder_ids if stages[feeder_id]]
    every = np.array([total for need in per_need for total in need])
    flows = np.array([took for round_ in bare for took in round_])
    parts = np.array([parts for feeder_id in feeder_ids for parts in stages[feeder_id]])
    medians = [float(np.median(need)) for need in per_need]
    bare_medians = [float(np.median(round_)) for round_ in bare]
    return Outcome(
        name=NAME,
        tables=(
            Table(
                title="Detection to CONFIRM (ms), one need at a time",
                columns=("flows", "p50", "p95", "max"),
                rows=(
                    _latency("orders of the gateway", every),
                    _latency("bare flows of three POST and callback pairs (reference)", flows),
                ),
                note=f"{len(per_need)} needs, {len(every) / len(per_need):.1f} orders each on average",
            ),
            Table(
                title="Where the time of an order goes (ms)",
                columns=("p50", "p95", "share of the mean"),
                rows=tuple(
                    Row(
                        label=label,
                        cells=(
                            float(np.median(parts[:, place])),
                            float(np.percentile(parts[:, place], 95)),
                            float(parts[:, place].mean() / every.mean()),
                        ),
                    )
                    for place, label in enumerate(STAGES)
                ),
                note="sent: the body had left; received: its transaction had begun",
            ),
        ),
        ratios=(ratio("detection to CONFIRM / bare flow, median of each need", medians, bare_medians),),
    )


def _latency(label: str, taken_ms: NDArray[np.float64]) -> Row:
    return Row(
        label=label,
        cells=(
            len(taken_ms),
            float(np.median(taken_ms)),
            float(np.percentile(taken_ms, 95)),
            float(taken_ms.max()),
        ),
    )


def _stages(folder: Path, feeder_ids: Sequence[str]) -> dict[str, list[list[float]]]:
    """Length of each stage in ms, per order of each feeder's first plan, from the journal.

    Raises:
        CommandFailed: No order got as far as CONFIRM.
    """
    by_order: dict[str, dict[str, datetime]] = defaultdict(dict)
    feeder_of: dict[str, str] = {}
    for entry in _entries(folder):
        order_id, feeder_id = entry.refs.order_id, entry.refs.feeder_id
        if order_id is None or feeder_id is None or feeder_id not in feeder_ids:
            continue
        marks = by_order[order_id]
        if entry.kind == "order.opened" and not entry.body["order"].get("replan"):
            feeder_of[order_id] = feeder_id
            marks["detected"] = _instant(entry.body["order"]["detected_at"])
        elif entry.kind == "beckn.sent":
            marks.setdefault(f"{entry.body['action']} written", _instant(entry.at))
        elif entry.kind == "beckn.answered":
            marks.setdefault(f"{entry.body['action']} sent", _instant(entry.body["sent_at"]))
        elif entry.kind == "beckn.received":
            marks.setdefault(f"{entry.body['action']} received", _instant(entry.at))
    names = (
        "detected",
        "select written",
        "select sent",
        "on_select received",
        "init sent",
        "on_init received",
        "confirm sent",
    )
    stages: dict[str, list[list[float]]] = defaultdict(list)
    for order_id, feeder_id in feeder_of.items():
        marks = by_order[order_id]
        if all(name in marks for name in names):
            stages[feeder_id].append(
                [(marks[later] - marks[earlier]).total_seconds() * 1000 for earlier, later in pairwise(names)]
            )
    if not stages:
        raise CommandFailed("no order got as far as CONFIRM")
    return stages


def _entries(folder: Path) -> list[Entry]:
    with open_reader(folder) as connection:
        rows = connection.execute(select(journal_entry.c.entry).order_by(journal_entry.c.seq)).scalars()
        return [parse_entry(row) for row in rows]


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _feeder(number: int) -> DemoFeeder:
    """A feeder at half load for eight days."""
    source = np.random.default_rng(number)
    slots = np.arange(1, HISTORY_SLOTS + 1)
    shape = 0.5 + 0.1 * np.sin(2 * np.pi * slots / 96) + 0.01 * source.standard_normal(HISTORY_SLOTS)
    series = LoadSeries(
        feeder_id=f"BENCH_{number:03d}",
        step_min=STEP_MIN,
        end_s=np.asarray(int(START.timestamp()) + slots * STEP_MIN * 60, dtype=np.int64),
        load_kw=np.asarray(RATING_KW * shape, dtype=np.float64),
    )
    return DemoFeeder(series=series, rating_kw=RATING_KW, rated_by=RatedBy.SIMULATOR)


def _reading(feeder_id: str, slot: int, load_kw: float) -> dict[str, object]:
    return {
        "feeder_id": feeder_id,
        "timestamp": rfc3339(START + timedelta(minutes=STEP_MIN * slot)),
        "load_kw": round(load_kw, 3),
    }
