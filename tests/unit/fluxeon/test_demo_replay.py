"""The replay loop against a gateway and sellers that only take notes."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import msgspec
import numpy as np
import pytest
from rich.console import Console

from fluxeon.demo import replay as replay_module
from fluxeon.demo.client import (
    AlarmRow,
    ChangeRow,
    PlanLineRow,
    PlanOrderRow,
    PlanRow,
    RejectionRow,
    SlotRow,
    StateRow,
    TelemetryRow,
    Tick,
)
from fluxeon.demo.display import Board, Display, FeederView
from fluxeon.demo.replay import Replay
from fluxeon.demo.source import DemoFeeder, RatedBy
from fluxeon.demo.summary import Latency, MoveRow, OrderRow, StatsRow
from fluxeon.demo.window import Window
from fluxeon.errors import CommandFailed
from ml.series import LoadSeries

START = datetime(2021, 3, 1, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


class World:
    """What happened, in order, and what the others are to answer."""

    def __init__(self) -> None:
        self.log: list[tuple[str, Any]] = []
        self.relief: dict[tuple[str, datetime], float] = {}
        self.reports: dict[tuple[str, datetime], int] = {}
        self.answers: dict[datetime, TelemetryRow] = {}
        self.negotiating = 0
        self.orders: list[OrderRow] = []
        self.pages: list[int] = []
        self.completes_at: datetime | None = None
        self.alarms: list[AlarmRow] = []
        self.catalogue: dict[str, int] = {"alpha": 3, "bravo": 2}

    def posted(self) -> list[tuple[str, float]]:
        return [
            (one["timestamp"][11:16], one["load_kw"])
            for kind, what in self.log
            if kind == "post"
            for one in what
        ]

    def ticks(self) -> list[str]:
        return [f"{what:%H:%M}" for kind, what in self.log if kind == "tick"]


class FakeSeller:
    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.reports = 0

    async def tick(self, instant: datetime) -> Tick:
        if self.name == "alpha":
            self.world.log.append(("tick", instant))
        world = self.world
        if world.completes_at is not None and instant >= world.completes_at:
            world.orders = [_completed(order) for order in world.orders]
        reports = world.reports.pop((self.name, instant), 0)
        self.reports = reports
        return Tick(relief_kw={"A": world.relief.get((self.name, instant), 0.0)}, callbacks=reports)

    async def waiting(self) -> int:
        self.world.log.append(("waiting", self.name))
        self.reports = max(0, self.reports - 1)
        return self.reports


class FakeGateway:
    def __init__(self, world: World) -> None:
        self.world = world

    async def put_feeder(self, feeder: DemoFeeder) -> None:
        self.world.log.append(("put", feeder.feeder_id))

    async def post_readings(self, readings: Sequence[dict[str, Any]]) -> TelemetryRow:
        self.world.log.append(("post", list(readings)))
        instant = datetime.fromisoformat(readings[-1]["timestamp"])
        return self.world.answers.get(instant, TelemetryRow(accepted=len(readings)))

    async def stats(self) -> StatsRow:
        self.world.log.append(("stats", self.world.negotiating))
        left = self.world.negotiating
        self.world.negotiating = max(0, left - 1)
        return StatsRow(negotiating=left, detection_to_confirm_ms=Latency(), replan_to_confirm_ms=Latency())

    async def orders(self, *, newest: int) -> tuple[OrderRow, ...]:
        self.world.pages.append(newest)
        return tuple(self.world.orders[-newest:])

    async def orders_of(self, feeder_id: str) -> tuple[OrderRow, ...]:
        return tuple(order for order in self.world.orders if order.feeder_id == feeder_id)

    async def alarms(self, *, newest: int) -> tuple[AlarmRow, ...]:
        return tuple(self.world.alarms[-newest:])

    async def catalogue_ders(self, feeder_id: str) -> dict[str, int]:
        return self.world.catalogue


def _completed(order: OrderRow) -> OrderRow:
    return msgspec.structs.replace(order, open=False, state="COMPLETED", delivered_kwh=9.0)


def open_order(number: int = 1, **changes: Any) -> OrderRow:
    plain: dict[str, Any] = {
        "obp_id": f"obp-{number}",
        "order_id": f"{number}",
        "feeder_id": "A",
        "bpp_id": "alpha",
        "der_ids": ("der",),
        "state": "CONFIRMED",
        "open": True,
        "requested_kw": 10.0,
        "requested_kwh": 10.0,
        "delivered_kwh": None,
        "window_start": at(15),
        "window_end": at(75),
        "payable": None,
        "currency": "GBP",
        "state_change_id": "c1",
        "replan": False,
        "detected_at": START,
        "detection_to_confirm_ms": 20.0,
        "moves": (MoveRow(at=START, state="CONFIRMED", why=""),),
    }
    return OrderRow(**{**plain, **changes})


def answer(instant: datetime, *, state: int | None = 2, plan: bool = True) -> TelemetryRow:
    """A telemetry answer with a transition, and a plan of 30 kW."""
    window = PlanOrderRow(
        window_start=instant, window_end=instant + timedelta(hours=1), lines=(PlanLineRow(kw=30.0),)
    )
    change = ChangeRow(
        id="c1", from_state=0, to_state=2, at=instant, plan=PlanRow(orders=(window,)) if plan else None
    )
    slot = SlotRow(start=instant, load_kw=-120.0, lower_kw=-130.0, upper_kw=-110.0)
    row = StateRow(
        feeder_id="A", state=state, forecast=(slot,), state_change=change if state is not None else None
    )
    return TelemetryRow(accepted=1, states=(row,))


def build(
    world: World, loads: dict[int, float], *, live: tuple[int, int], speed: float | None = None
) -> Replay:
    """A replay of one feeder with load by minutes after START."""
    ends = np.array([int(at(minutes).timestamp()) for minutes in loads], dtype=np.int64)
    series = LoadSeries("A", 15, ends, np.array(list(loads.values())))
    console = Console(file=StringIO(), width=200)
    return Replay(
        feeders=[DemoFeeder(series, 100.0, RatedBy.RULE)],
        window=Window(START, at(live[0]), at(live[1]), ""),
        gateway=FakeGateway(world),
        sellers={name: FakeSeller(world, name) for name in ("alpha", "bravo")},
        display=Display(console, live=False),
        board=Board(title="t", feeders={"A": FeederView(feeder_id="A", label="A", rating_kw=100.0)}),
        speed=speed,
    )


def hourly(count: int, value: float = 50.0) -> dict[int, float]:
    return {15 * row: value for row in range(1, count + 1)}


async def test_prepare__sets_clocks_configures_and_loads_history_before_the_live_part():
    world = World()
    replay = build(world, hourly(8), live=(60, 120))
    await replay.prepare()
    assert [kind for kind, _ in world.log] == ["tick", "put", "post"]
    assert world.ticks() == ["01:00"]
    assert [time for time, _ in world.posted()] == ["00:15", "00:30", "00:45", "01:00"]
    assert replay.readings == 4


async def test_prepare__names_sellers_whose_offers_do_not_arrive(monkeypatch):
    monkeypatch.setattr(replay_module, "CATALOGUE_WITHIN_S", 0.05)
    world = World()
    world.catalogue = {"alpha": 3}
    with pytest.raises(CommandFailed, match="no offers of bravo at A"):
        await build(world, hourly(8), live=(60, 120)).prepare()


async def test_run__ticks_first_and_posts_the_load_less_both_sellers_relief():
    world = World()
    world.relief = {("alpha", at(30)): 10.0, ("bravo", at(30)): 2.5, ("alpha", at(45)): -4.0}
    replay = build(world, hourly(3), live=(0, 45))
    await replay.run()
    assert [kind for kind, _ in world.log] == ["tick", "post"] * 3
    assert world.posted() == [("00:15", 50.0), ("00:30", 37.5), ("00:45", 54.0)]
    assert replay.readings == 3


async def test_run__posts_nothing_for_a_missing_cell_but_lets_time_pass():
    world = World()
    await build(world, {15: 50.0, 30: float("nan"), 45: 50.0}, live=(0, 45)).run()
    assert [time for time, _ in world.posted()] == ["00:15", "00:45"]
    assert world.ticks() == ["00:15", "00:30", "00:45"]


async def test_run__keeps_relief_of_a_hole_out_of_the_next_reading():
    world = World()
    world.relief = {("alpha", at(60)): 20.0, ("alpha", at(75)): 5.0}
    await build(world, {15: 50.0, 75: 50.0}, live=(0, 75)).run()
    assert world.ticks() == ["00:15", "01:00", "01:15"]
    assert world.posted()[-1] == ("01:15", 45.0)


async def test_run__holds_the_next_instant_while_an_order_is_negotiated():
    world = World()
    world.negotiating = 3
    world.answers = {at(15): answer(at(15))}
    await build(world, hourly(2), live=(0, 30)).run()
    kinds = [kind for kind, _ in world.log]
    assert kinds == ["tick", "post", "stats", "stats", "stats", "stats", "tick", "post"]


async def test_run__does_not_ask_where_nothing_is_bought():
    world = World()
    world.answers = {at(15): answer(at(15), plan=False)}
    replay = build(world, hourly(2), live=(0, 30))
    await replay.run()
    assert "stats" not in [kind for kind, _ in world.log]
    assert len(replay.changes) == 1


async def test_run__goes_on_with_an_alarm_when_a_negotiation_never_ends(monkeypatch):
    monkeypatch.setattr(replay_module, "HOLD_AT_MOST_S", 0.05)
    world = World()
    world.negotiating = 10**9
    world.answers = {at(15): answer(at(15))}
    replay = build(world, hourly(2), live=(0, 30))
    await replay.run()
    assert len(world.posted()) == 2
    assert any("still being negotiated" in alarm for alarm in replay.alarms)


async def test_run__lets_reports_arrive_before_the_readings():
    world = World()
    world.reports = {("bravo", at(30)): 3}
    await build(world, hourly(2), live=(0, 30)).run()
    assert [kind for kind, _ in world.log] == [
        "tick",
        "post",
        "tick",
        "waiting",
        "waiting",
        "waiting",
        "post",
    ]
    assert {what for kind, what in world.log if kind == "waiting"} == {"bravo"}


async def test_run__does_not_wait_for_reports_for_ever(monkeypatch):
    monkeypatch.setattr(replay_module, "REPORTS_POLLS", 3)
    world = World()
    world.reports = {("bravo", at(15)): 10**9}
    await build(world, hourly(1), live=(0, 15)).run()
    assert [kind for kind, _ in world.log] == ["tick", "waiting", "waiting", "waiting", "post"]


async def test_run__notes_transitions_with_what_was_forecast():
    world = World()
    world.answers = {at(15): answer(at(15))}
    replay = build(world, hourly(2), live=(0, 30))
    await replay.run()
    (change,) = replay.changes
    assert (change.before, change.after, change.at) == (0, 2, at(15))
    assert (change.worst_loading, change.worst_bound) == (pytest.approx(1.2), pytest.approx(1.3))
    assert change.asked_kw == 30.0
    assert replay.board.feeders["A"].worst_kw == -120.0


async def test_run__says_a_kind_of_rejection_once_and_counts_all():
    world = World()
    rejected = TelemetryRow(rejected=(RejectionRow(code="implausible", detail="5 times the rating"),))
    world.answers = {at(15): rejected, at(30): rejected}
    replay = build(world, hourly(2), live=(0, 30))
    await replay.run()
    assert replay.rejected == {"implausible": 2}
    assert len(replay.alarms) == 1
    assert replay.readings == 0


async def test_run__shows_an_alarm_of_the_gateway_once_when_a_state_becomes_unknown():
    world = World()
    world.alarms = [AlarmRow(alarm_id="a1", kind="state_unknown", detail="A: dead: a dead meter")]
    world.answers = {at(15): answer(at(15), state=None), at(30): answer(at(30), state=None)}
    replay = build(world, hourly(2), live=(0, 30))
    await replay.run()
    await replay.drain()
    assert replay.alarms == ["state_unknown: A: dead: a dead meter"]


async def test_run__paces_itself_by_the_speed(monkeypatch):
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(replay_module.asyncio, "sleep", sleep)
    await build(World(), hourly(3), live=(0, 45), speed=90.0).run()
    assert [round(seconds) for seconds in slept] == [10, 20, 30]


async def test_drain__is_over_at_once_when_nothing_is_open():
    world = World()
    replay = build(world, hourly(12), live=(0, 45))
    await replay.run()
    world.log.clear()
    await replay.drain()
    assert world.log == []


async def test_drain__follows_the_source_until_every_order_is_terminal():
    world = World()
    replay = build(world, hourly(12), live=(0, 45))
    await replay.run()
    world.orders, world.completes_at = [open_order()], at(75)
    await replay.drain()
    assert world.posted()[-1][0] == "01:15"
    assert replay.open_orders == []
    assert replay.orders[0].delivered_kwh == 9.0


async def test_drain__lets_only_clocks_pass_once_the_source_has_ended():
    world = World()
    replay = build(world, hourly(3), live=(0, 45))
    await replay.run()
    world.orders, world.completes_at = [open_order()], at(75)
    posted = len(world.posted())
    await replay.drain()
    assert len(world.posted()) == posted
    assert world.ticks()[3:] == ["01:00", "01:15"]


async def test_drain__gives_up_naming_what_is_open(monkeypatch):
    monkeypatch.setattr(replay_module, "SETTLE_WITHIN_S", 0.1)
    world = World()
    replay = build(world, hourly(3), live=(0, 45))
    world.orders = [open_order()]
    with pytest.raises(CommandFailed, match=r"obp-1 \(CONFIRMED\)"):
        await replay.drain()


def many(count: int, **changes: Any) -> list[OrderRow]:
    """Terminal orders, one after the other."""
    return [
        open_order(
            number, open=False, state="COMPLETED", detected_at=START + timedelta(seconds=number), **changes
        )
        for number in range(count)
    ]


async def test_look__reads_back_to_the_oldest_open_order():
    world = World()
    replay = build(world, hourly(3), live=(0, 45))
    world.orders = many(100)
    world.orders[10] = open_order(10, detected_at=START + timedelta(seconds=10))
    await replay._look(always=True)
    assert len(replay.orders) == 100
    assert [order.order_id for order in replay.open_orders] == ["10"]
    world.orders[10] = _completed(world.orders[10])
    world.pages.clear()
    await replay._look(always=True)
    assert replay.open_orders == []
    assert world.pages == [32, 64, 128]


async def test_look__reads_little_when_nothing_old_is_open():
    world = World()
    replay = build(world, hourly(3), live=(0, 45))
    world.orders = many(100)
    await replay._look(always=True)
    world.orders += many(105)[100:]
    world.pages.clear()
    await replay._look(always=True)
    assert world.pages == [32]
    assert [order.order_id for order in replay.orders] == [str(number) for number in range(105)]


async def test_look__goes_feeder_by_feeder_past_the_largest_page():
    world = World()
    replay = build(world, hourly(3), live=(0, 45))
    world.orders = many(1500)
    await replay._look(always=True)
    assert len(replay.orders) == 1500
