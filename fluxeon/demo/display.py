"""What is seen while the demo runs.

:class:`Board` is the state of the screen, plain data that the replay updates. :class:`Display` shows
it: live on a terminal, as lines otherwise. Everything goes to stderr; stdout is for the summary.
"""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fluxeon.demo.summary import STATE_NAMES, OrderRow, StateChange

STYLES = {None: "magenta", 0: "green", 1: "yellow", 2: "bold red"}
SHOWN_EVENTS = 12
SHOWN_ORDERS = 10
REFRESH_PER_S = 8


@dataclass
class FeederView:
    """One feeder as it stands."""

    feeder_id: str
    label: str
    rating_kw: float
    state: int | None = 0
    load_kw: float | None = None
    relief_kw: float = 0.0
    worst_kw: float | None = None
    reason: str | None = None


@dataclass
class Board:
    """Everything on the screen."""

    title: str
    feeders: dict[str, FeederView]
    sellers: dict[str, str] = field(default_factory=dict)
    event_time: datetime | None = None
    done: int = 0
    total: int = 0
    readings: int = 0
    orders: tuple[OrderRow, ...] = ()
    events: deque[str] = field(default_factory=lambda: deque(maxlen=SHOWN_EVENTS))


class Display:
    """Shows a board and says lines.

    Args:
        console: Where to; a terminal gets the live board.
        live: Whether to draw the board (a terminal is needed).
    """

    def __init__(self, console: Console, *, live: bool) -> None:
        self._console = console
        self._board: Board | None = None
        self._live = Live(console=console, refresh_per_second=REFRESH_PER_S, transient=True) if live else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the board off the screen."""
        self.close()

    def say(self, line: str) -> None:
        """Say a line, above the board where there is one."""
        self._console.print(escape(line), highlight=False, soft_wrap=True)

    def open(self, board: Board) -> None:
        """Show a board from now on."""
        self._board = board
        if self._live is not None:
            self._live.start()
            self.update()

    def event(self, line: str) -> None:
        """Note something that happened: on the board, or as a line."""
        if self._live is not None and self._board is not None:
            self._board.events.append(line)
        else:
            self.say(line)

    def update(self) -> None:
        """Draw what has changed."""
        if self._live is not None and self._board is not None:
            self._live.update(render(self._board))

    def close(self) -> None:
        """Take the board off the screen; what happened stays as lines."""
        if self._live is not None:
            self._live.stop()
            if self._board is not None:
                for line in self._board.events:
                    self.say(line)
                self._board.events.clear()
        self._board = None


def render(board: Board) -> RenderableType:
    """Draw the board."""
    done = f"{board.done / board.total:4.0%}" if board.total else ""
    when = board.event_time.strftime("%a %d %b %Y %H:%M UTC") if board.event_time else ""
    head = Text.assemble(("FLUXEON  ", "bold"), board.title, "   ", (when, "bold cyan"), "   ", done)
    return Group(head, _feeder_table(board), _order_table(board), *(Text(line) for line in board.events))


def _feeder_table(board: Board) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("feeder", "state"):
        table.add_column(name)
    for name in ("load kW", "of rating", "next hour's worst", "relief kW"):
        table.add_column(name, justify="right")
    for view in board.feeders.values():
        table.add_row(
            Text(view.label),
            Text(STATE_NAMES.get(view.state, "?"), style=STYLES.get(view.state, "")),
            _number(view.load_kw),
            _share(view.load_kw, view.rating_kw),
            _share(view.worst_kw, view.rating_kw),
            _number(view.relief_kw) if abs(view.relief_kw) >= 0.05 else "",
        )
    return table


def _order_table(board: Board) -> RenderableType:
    if not board.orders:
        return Text("no orders yet", style="dim")
    counts = Counter(order.state for order in board.orders)
    title = f"{len(board.orders)} orders: " + ", ".join(
        f"{number} {state}" for state, number in sorted(counts.items())
    )
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")
    for name in ("OBP id", "feeder", "seller", "life so far"):
        table.add_column(name, no_wrap=name != "life so far")
    for name in ("ordered kWh", "delivered kWh", "to CONFIRM ms"):
        table.add_column(name, justify="right")
    for order in board.orders[-SHOWN_ORDERS:]:
        table.add_row(
            short(order.obp_id),
            order.feeder_id,
            board.sellers.get(order.bpp_id, order.bpp_id),
            " > ".join(move.state.lower() for move in order.moves) or order.state.lower(),
            f"{order.requested_kwh:.1f}",
            "" if order.delivered_kwh is None else f"{order.delivered_kwh:.1f}",
            "" if order.detection_to_confirm_ms is None else f"{order.detection_to_confirm_ms:.1f}",
        )
    return table


def change_line(change: StateChange, label: str) -> str:
    """Say a transition as a line."""
    before, after = STATE_NAMES.get(change.before, "?"), STATE_NAMES.get(change.after, "?")
    heading = f", heading for {change.worst_loading:.0%} of rating" if change.after else ""
    bought = f"; plan: {change.asked_kw:.1f} kW" if change.asked_kw > 0 else ""
    return f"{change.at:%d %b %H:%M}  {label}: {before} -> {after}{heading}{bought}"


def move_lines(known: Sequence[OrderRow], now: Iterable[OrderRow], sellers: dict[str, str]) -> list[str]:
    """Say the moves orders have made since they were last looked at, one line per order."""
    before = {order.order_id: len(order.moves) for order in known}
    lines = []
    for order in now:
        fresh = order.moves[before.get(order.order_id, 0) :]
        if not fresh:
            continue
        path = " > ".join(move.state.lower() for move in fresh)
        seller = sellers.get(order.bpp_id, order.bpp_id)
        line = f"    order {short(order.obp_id)} {order.feeder_id} {seller}: {path}"
        last = fresh[-1]
        if order.delivered_kwh is not None:
            line += f", {order.delivered_kwh:.1f} of {order.requested_kwh:.1f} kWh"
        elif last.state in ("DECLINED", "FAILED", "CANCELLED", "UNSETTLED"):
            line += f" ({last.why})"
        lines.append(line)
    return lines


def short(obp_id: str) -> str:
    """Shorten an id for the screen: its end tells them apart."""
    return obp_id if len(obp_id) <= 12 else f"..{obp_id[-8:]}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"


def _share(value: float | None, rating_kw: float) -> Text:
    if value is None:
        return Text("")
    loading = abs(value) / rating_kw
    style = "bold red" if loading >= 1 else "yellow" if loading >= 0.9 else ""
    return Text(f"{loading:.0%}", style=style)
