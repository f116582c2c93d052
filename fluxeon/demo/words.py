"""What the demo says before and after, for somebody who sees it for the first time. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence

from fluxeon.demo.source import DemoSource, RatedBy
from fluxeon.demo.summary import COMPLETED, OrderRow, StateChange, Summary, money, story
from fluxeon.demo.window import Window

SHOWN_LINES = 6


def introduction(source: DemoSource, window: Window) -> list[str]:
    """Say what will be replayed, and where ratings come from that nobody configured."""
    count = len(source.feeders)
    start, live, end = (
        f"{at:%Y-%m-%d %H:%M}" for at in (window.history_start, window.live_start, window.live_end)
    )
    return [
        f"source     {source.title}: {count} feeder{'s' if count > 1 else ''}",
        f"history    {start} to {live} UTC",
        f"live       {live} to {end} UTC: {window.reason}",
        *shortened(
            [
                f"rating     {feeder.feeder_id}: {feeder.rating_kw:,.1f} kW, {feeder.rated_by}"
                for feeder in source.feeders
                if feeder.rated_by in (RatedBy.RULE, RatedBy.NO_LOAD)
            ]
        ),
    ]


def generated_ders(source: DemoSource, offered_kw: Mapping[str, float]) -> list[str]:
    """Say where DERs were generated because none are seeded."""
    return shortened(
        [
            f"DERs       {feeder.feeder_id}: none seeded; generated {offered_kw[feeder.feeder_id]:,.1f} kW "
            f"from templates, {offered_kw[feeder.feeder_id] / feeder.rating_kw:.0%} of its rating"
            for feeder in source.feeders
            if feeder.feeder_id in offered_kw
        ]
    )


def closing(
    summary: Summary,
    changes: Sequence[StateChange],
    orders: Sequence[OrderRow],
    names: dict[str, str],
) -> list[str]:
    """Say what came of it.

    Args:
        summary: The summary object.
        changes: All transitions.
        orders: All orders.
        names: How to call feeders and sellers.
    """
    lines = ["", "What happened", *story(changes, orders, names)]
    if not orders:
        lines.append("Nothing was bought: no trustworthy forecast came near a feeder's limits.")
    lines += alarm_lines(summary.alarms)
    lines += ["", *_figures(summary, orders)]
    lines += ["", "Look further", f"  fluxeon audit verify --data-dir {summary.data_dir}"]
    return lines


def alarm_lines(alarms: Sequence[str]) -> list[str]:
    """Say each kind of alarm once: its last text, and how often it was raised."""
    last: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for alarm in alarms:
        kind = alarm.partition(":")[0]
        last[kind] = alarm
        counts[kind] += 1
    return [
        f"ALARM  {text}" + (f" (the last of {counts[kind]} of this kind)" if counts[kind] > 1 else "")
        for kind, text in last.items()
    ]


def ways_in(url: str, token: str, orders: Sequence[OrderRow]) -> list[str]:
    """Say how to look around while the processes run."""
    obp_id = orders[-1].obp_id if orders else "OBP_ID"
    return [
        f"  {url}/schema  the API, described",
        f"  curl -H 'Authorization: Bearer {token}' {url}/audit/obp/{obp_id}",
        "The gateway stays up. Ctrl-C ends everything.",
    ]


def shortened(lines: list[str]) -> list[str]:
    """Keep a long list of like lines off the screen."""
    if len(lines) <= SHOWN_LINES:
        return lines
    word = lines[0].split()[0]
    return [*lines[:SHOWN_LINES], f"{word:<11}... and {len(lines) - SHOWN_LINES} more alike"]


def _figures(summary: Summary, orders: Sequence[OrderRow]) -> list[str]:
    completed = [order for order in orders if order.state == COMPLETED]
    requested = sum(order.requested_kwh for order in completed)
    delivered = sum(order.delivered_kwh or 0.0 for order in completed)
    first = (
        f"{summary.readings:,} readings of {summary.feeders} feeders led to {summary.state_changes} state "
        f"changes and {len(orders)} orders, {len(completed)} of them completed."
    )
    lines = [first]
    if completed:
        lines.append(
            f"Delivered {delivered:,.1f} of {requested:,.1f} kWh ordered ({delivered / requested:.0%}), "
            f"payable {money(completed) or 'nothing'}."
        )
    timing = summary.detection_to_confirm_ms
    if timing.p95 is not None:
        lines.append(
            f"From detection to CONFIRM on the wire: {timing.p50:.1f} ms median, {timing.p95:.1f} ms p95, "
            f"{timing.max:.1f} ms at most."
        )
    verified = "verify" if summary.audit.verified else "DO NOT VERIFY"
    lines.append(f"The journal's {summary.audit.entries} entries {verified}.")
    return lines
