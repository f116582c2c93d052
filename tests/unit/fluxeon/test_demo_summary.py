"""What came of a demo, as an object and in words."""

from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import msgspec
import numpy as np
import pytest
from rich.console import Console

from fluxeon.demo.client import PlanLineRow, PlanOrderRow, PlanRow
from fluxeon.demo.display import Board, FeederView, change_line, move_lines, render, short
from fluxeon.demo.source import DemoFeeder, DemoSource, RatedBy
from fluxeon.demo.summary import (
    AuditResult,
    Latency,
    MoveRow,
    OrderRow,
    StateChange,
    StatsRow,
    Summary,
    Urls,
    episodes,
    money,
    peak_kw,
    story,
    summarise,
)
from fluxeon.demo.window import Window
from fluxeon.demo.words import alarm_lines, closing, generated_ders, introduction, shortened, ways_in
from ml.series import LoadSeries

AT = datetime(2021, 9, 5, 17, 30, tzinfo=UTC)
NAMES = {"F1": "North", "bpp-a": "Alpha", "bpp-b": "Bravo"}


def order(number: int, **changes: Any) -> OrderRow:
    plain: dict[str, Any] = {
        "obp_id": f"obp-{number}",
        "order_id": f"order-{number}",
        "feeder_id": "F1",
        "bpp_id": "bpp-a",
        "der_ids": ("der:a:1",),
        "state": "COMPLETED",
        "open": False,
        "requested_kw": 80.0,
        "requested_kwh": 40.0,
        "delivered_kwh": 38.0,
        "window_start": AT + timedelta(minutes=30),
        "window_end": AT + timedelta(hours=1),
        "payable": "12.50",
        "currency": "GBP",
        "state_change_id": "change-1",
        "replan": False,
        "detected_at": AT,
        "detection_to_confirm_ms": 31.7,
        "moves": (),
    }
    return OrderRow(**{**plain, **changes})


def change(number: int = 1, **changes: Any) -> StateChange:
    plain: dict[str, Any] = {
        "id": f"change-{number}",
        "feeder_id": "F1",
        "at": AT,
        "before": 0,
        "after": 2,
        "worst_loading": 1.14,
        "worst_bound": 1.21,
        "asked_kw": 120.0,
    }
    return StateChange(**{**plain, **changes})


def summary(orders: tuple[OrderRow, ...] = (), **changes: Any) -> Summary:
    plain: dict[str, Any] = {
        "feeders": 1,
        "readings": 9216,
        "changes": [change()],
        "orders": orders,
        "stats": StatsRow(
            negotiating=0,
            detection_to_confirm_ms=Latency(p50=30.0, p95=40.0, max=41.0) if orders else Latency(),
            replan_to_confirm_ms=Latency(),
        ),
        "alarms": (),
        "audit": AuditResult(entries=412, verified=True),
        "urls": Urls(gateway="http://127.0.0.1:1"),
        "data_dir": "/somewhere",
        "source": "north.csv",
        "live": (AT, AT + timedelta(days=6)),
    }
    return summarise(**{**plain, **changes})


def test_summarise__has_every_member_of_the_contract():
    document = msgspec.json.decode(msgspec.json.encode(summary((order(1),))))
    assert {
        "feeders": 1,
        "readings": 9216,
        "state_changes": 1,
        "detection_to_confirm_ms": {"p50": 30.0, "p95": 40.0, "max": 41.0},
        "audit": {"entries": 412, "verified": True},
        "urls": {"gateway": "http://127.0.0.1:1", "dashboard": None},
        "data_dir": "/somewhere",
    }.items() <= document.items()
    (one,) = document["orders"]
    assert {
        "obp_id": "obp-1",
        "feeder_id": "F1",
        "bpp_id": "bpp-a",
        "der_ids": ["der:a:1"],
        "state": "COMPLETED",
        "requested_kwh": 40.0,
        "delivered_kwh": 38.0,
        "detection_to_confirm_ms": 31.7,
    }.items() <= one.items()


def test_summarise__gives_no_latency_rather_than_zero_without_orders():
    document = msgspec.json.decode(msgspec.json.encode(summary()))
    assert document["detection_to_confirm_ms"] == {"p50": None, "p95": None, "max": None}


def episode(number: int, *, hour: float = 0.0, feeder_id: str = "F1") -> list[StateChange]:
    """Up to Critical, down to Alert, back to Normal: an hour and a half in all."""
    start = AT + timedelta(hours=hour)
    states = [(0, 2, 1.14, 1.21), (2, 1, 1.02, 1.30), (1, 0, 0.7, 0.8)]
    return [
        change(
            10 * number + step,
            feeder_id=feeder_id,
            at=start + timedelta(minutes=45 * step),
            before=before,
            after=after,
            worst_loading=loading,
            worst_bound=bound,
        )
        for step, (before, after, loading, bound) in enumerate(states)
    ]


def test_episodes__go_from_leaving_normal_to_being_back_per_feeder():
    first, second = episode(1), episode(2, hour=0.25, feeder_id="F2")
    mixed = sorted([*first, *second[:2]], key=lambda one: one.at)
    assert [(one.feeder_id, len(one.changes), one.end) for one in episodes(mixed)] == [
        ("F1", 3, AT + timedelta(minutes=90)),
        ("F2", 2, None),
    ]


def test_story__tells_need_sellers_delivery_and_money_of_an_episode():
    later = {"window_start": AT + timedelta(minutes=45), "requested_kw": 20.0, "requested_kwh": 10.0}
    orders = [
        order(1, state_change_id="change-10"),
        order(2, state_change_id="change-11", bpp_id="bpp-b", delivered_kwh=7.0, payable="2.00", **later),
    ]
    (line,) = story(episode(1), orders, NAMES)
    assert line == (
        "Sun 05 Sep 17:30 to 19:00  North was heading for 114% of its rating (at worst 130%): up to 100.0 kW "
        "ordered from Alpha and Bravo in 2 orders, 45.0 of 50.0 kWh delivered (90%) for GBP 14.50"
    )


def test_story__says_what_did_not_complete():
    orders = [order(1), order(2, state="DECLINED", delivered_kwh=None, payable=None)]
    (line,) = story([change()], orders, NAMES)
    assert line.startswith("Sun 05 Sep 17:30  North")
    assert "38.0 of 40.0 kWh delivered" in line
    assert line.endswith("; 1 DECLINED")


def test_story__leaves_out_episodes_that_led_to_no_order():
    changes = [*episode(1), *episode(2, hour=5)]
    (line,) = story(changes, [order(1, state_change_id="change-20")], NAMES)
    assert line.startswith("Sun 05 Sep 22:30")


def test_story__tells_the_largest_of_many_episodes_and_counts_the_others():
    changes = [one for number in range(1, 21) for one in episode(number, hour=3 * number)]
    orders = [
        order(number, state_change_id=f"change-{10 * number}", requested_kwh=float(number))
        for number in range(1, 21)
    ]
    lines = story(changes, orders, NAMES)
    assert len(lines) == 13
    assert "of 9.0 kWh" in lines[0]
    assert "of 20.0 kWh" in lines[11]
    assert lines[12] == "... and 8 smaller episodes with 8 orders of 36.0 kWh"


def test_story__is_empty_when_nothing_was_traded():
    assert story(episode(1), [], NAMES) == []


def test_story__keeps_orders_whose_cause_was_not_seen():
    (line,) = story([], [order(1)], NAMES)
    assert line.startswith("North: up to 80.0 kW ordered from Alpha in one order")


def test_peak_kw__adds_what_runs_at_once():
    after = {"window_start": AT + timedelta(hours=1), "window_end": AT + timedelta(hours=2)}
    assert peak_kw([order(1), order(2, requested_kw=90.0, **after)]) == 90.0
    assert peak_kw([order(1), order(2, requested_kw=90.0)]) == 170.0


def test_money__adds_exactly_by_currency():
    orders = [order(1, payable="0.10"), order(2, payable="0.20"), order(3, payable="1.00", currency="EUR")]
    assert money(orders) == "EUR 1.00 + GBP 0.30"
    assert money([order(1, payable=None)]) == ""


def test_closing__says_figures_and_where_to_look():
    lines = closing(summary((order(1),)), [change()], [order(1)], NAMES)
    text = "\n".join(lines)
    assert "9,216 readings of 1 feeders led to 1 state changes and 1 orders, 1 of them completed." in text
    assert "Delivered 38.0 of 40.0 kWh ordered (95%), payable GBP 12.50." in text
    assert "30.0 ms median, 40.0 ms p95, 41.0 ms at most" in text
    assert "The journal's 412 entries verify." in text
    assert "fluxeon audit verify --data-dir /somewhere" in text


def test_closing__explains_that_nothing_was_bought_and_shows_alarms():
    dead = summary(alarms=("state_unknown: dead meter",))
    text = "\n".join(closing(dead, [], [], {}))
    assert "Nothing was bought" in text
    assert "ALARM  state_unknown: dead meter" in text
    assert "CONFIRM" not in text


def test_alarm_lines__say_each_kind_once():
    assert alarm_lines(["uncovered: 1 kW", "state_unknown: dead", "uncovered: 2 kW"]) == [
        "ALARM  uncovered: 2 kW (the last of 2 of this kind)",
        "ALARM  state_unknown: dead",
    ]


def test_closing__does_not_hide_a_broken_journal():
    text = "\n".join(closing(summary(audit=AuditResult(entries=4, verified=False)), [], [], {}))
    assert "The journal's 4 entries DO NOT VERIFY." in text


def test_ways_in__name_an_order_that_exists():
    assert any("/audit/obp/obp-7" in line for line in ways_in("http://h", "token", [order(7)]))


def test_shortened__keeps_long_lists_off_the_screen():
    lines = [f"rating     F{number}" for number in range(9)]
    assert shortened(lines[:6]) == lines[:6]
    assert shortened(lines)[6:] == ["rating     ... and 3 more alike"]


def test_introduction__says_where_unconfigured_ratings_come_from():
    series = LoadSeries("F1", 15, np.array([0]), np.array([1.0]))
    source = DemoSource("north.csv", (DemoFeeder(series, 1234.5, RatedBy.RULE),))
    text = "\n".join(introduction(source, Window(AT, AT, AT, "around the peak")))
    assert "F1: 1,234.5 kW, 99th percentile" in text
    assert "around the peak" in text
    (line,) = generated_ders(source, {"F1": 160.5})
    assert "none seeded; generated 160.5 kW" in line
    assert "13% of its rating" in line


# --- plan and screen --------------------------------------------------------------------------


def planned(start_min: int, minutes: int, *kw: float) -> PlanOrderRow:
    start = AT + timedelta(minutes=start_min)
    return PlanOrderRow(
        window_start=start,
        window_end=start + timedelta(minutes=minutes),
        lines=tuple(PlanLineRow(kw=one) for one in kw),
    )


def test_plan__peak_is_what_is_ordered_at_once():
    plan = PlanRow(orders=(planned(0, 30, 10.0, 5.0), planned(15, 30, 20.0), planned(60, 15, 30.0)))
    assert plan.peak_kw == 35.0
    assert PlanRow().peak_kw == 0.0


def test_change_line__says_from_where_to_where():
    assert change_line(change(), "North") == (
        "05 Sep 17:30  North: Normal -> Critical, heading for 114% of rating; plan: 120.0 kW"
    )
    assert (
        change_line(change(before=2, after=0), "North")
        == "05 Sep 17:30  North: Critical -> Normal; plan: 120.0 kW"
    )
    assert "plan" not in change_line(change(asked_kw=0.0), "North")


def moved(*states: str) -> tuple[MoveRow, ...]:
    return tuple(MoveRow(at=AT, state=state, why=f"because {state}") for state in states)


def test_move_lines__say_only_what_is_new():
    known = [order(1, moves=moved("SELECTING"), delivered_kwh=None, state="SELECTING")]
    now = [
        order(1, moves=moved("SELECTING", "INITIALISING", "CONFIRMING"), delivered_kwh=None),
        order(2, moves=moved("SELECTING", "DECLINED"), delivered_kwh=None, state="DECLINED"),
    ]
    assert move_lines(known, now, {"bpp-a": "Alpha"}) == [
        "    order obp-1 F1 Alpha: initialising > confirming",
        "    order obp-2 F1 Alpha: selecting > declined (because DECLINED)",
    ]
    assert move_lines(now, now, {}) == []


def test_move_lines__say_the_volume_once_it_is_known():
    (line,) = move_lines([], [order(1, moves=moved("COMPLETED"))], {})
    assert line.endswith("completed, 38.0 of 40.0 kWh")


@pytest.mark.parametrize(("obp_id", "shown"), [("obp-12", "obp-12"), ("0123456789abcdef", "..89abcdef")])
def test_short__keeps_the_end_of_an_id(obp_id: str, shown: str):
    assert short(obp_id) == shown


def test_render__shows_state_loading_and_orders():
    board = Board(
        title="north.csv",
        feeders={
            "F1": FeederView(feeder_id="F1", label="F1 North", rating_kw=200.0, state=2, load_kw=-150.0)
        },
        sellers={"bpp-a": "Alpha"},
        event_time=AT,
        orders=(order(1, moves=moved("SELECTING", "CONFIRMED")),),
        total=4,
        done=1,
    )
    board.events.append("something happened")
    console = Console(width=160, record=True, file=StringIO())
    console.print(render(board))
    text = console.export_text()
    for word in (
        "F1 North",
        "Critical",
        "-150.0",
        "75%",
        "selecting > confirmed",
        "1 COMPLETED",
        "something",
    ):
        assert word in text
