"""The loop: event time passes at the sellers, their relief changes the load, the gateway is told.

One instant::

    tick the sellers' event clock -> relief they gave -> POST readings (load - relief) -> answer
    -> hold while an order is between decision and CONFIRM -> show what has changed

Rules:

* The replayer paces itself; the gateway gets the same requests as from any telemetry source.
* Nothing is invented: a missing cell is not posted, and when the source ends only clocks go on.
* Every wait is bounded.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from fluxeon.demo.client import MAX_ORDERS, ChangeRow, GatewayApi, SellerApi, StateRow, TelemetryRow
from fluxeon.demo.display import Board, Display, change_line, move_lines
from fluxeon.demo.relief import ReliefMeter
from fluxeon.demo.script import DRAIN, Instant, history_batches, instants, reading
from fluxeon.demo.source import DemoFeeder
from fluxeon.demo.summary import OrderRow, StateChange
from fluxeon.demo.window import Window
from fluxeon.errors import CommandFailed

CATALOGUE_WITHIN_S = 30.0
HOLD_AT_MOST_S = 20.0
SETTLE_WITHIN_S = 90.0
FIRST_POLL_S = 0.03
"""Nothing is agreed sooner: asking earlier would only slow the negotiation down."""
SLOWEST_POLL_S = 0.1
REPORTS_POLL_S = 0.01
REPORTS_POLLS = 100
ORDERS_EVERY_S = 0.5
"""How often orders are looked at while some are open and nothing is known to have happened."""
CLOCK_STEP = timedelta(minutes=15)
FEW_ORDERS = 32
NEWEST_ALARMS = 100


class Replay:
    """Replays one window of one source.

    Args:
        feeders: What to replay.
        window: Which days.
        gateway: The gateway's API.
        sellers: The sellers' clocks, by seller id.
        display: Where to show it.
        board: The screen's state, with every feeder on it.
        speed: Event seconds per wall second; None: as fast as the loop closes.
    """

    def __init__(
        self,
        *,
        feeders: Sequence[DemoFeeder],
        window: Window,
        gateway: GatewayApi,
        sellers: dict[str, SellerApi],
        display: Display,
        board: Board,
        speed: float | None,
    ) -> None:
        self._feeders = feeders
        self._window = window
        self._gateway = gateway
        self._sellers = sellers
        self._display = display
        self.board = board
        self._speed = speed
        self._relief = ReliefMeter()
        self._ticked_at = window.live_start
        self._callbacks_due = False
        self._looked_at = 0.0
        self.readings = 0
        self.rejected: dict[str, int] = {}
        self.changes: list[StateChange] = []
        self.alarms: list[str] = []
        self._known_alarms: set[str] = set()

    @property
    def orders(self) -> tuple[OrderRow, ...]:
        """Orders as last looked at."""
        return self.board.orders

    @property
    def open_orders(self) -> list[OrderRow]:
        """Orders on which something is still to happen."""
        return [order for order in self.orders if order.open]

    # --- before ---------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Set the clocks, configure the feeders, wait for the catalogue, load the history.

        Raises:
            CommandFailed: The sellers' offers do not arrive.
        """
        say = self._display.say
        await self._tick(self._window.live_start)
        for feeder in self._feeders:
            await self._gateway.put_feeder(feeder)
        ders = await self._wait_for_catalogue()
        say(f"catalogue: {ders} DERs of {len(self._sellers)} sellers at {len(self._feeders)} feeders")
        before = self.readings
        for batch in history_batches(self._feeders, self._window):
            await self._take(await self._gateway.post_readings(batch))
        say(f"history: {self.readings - before} readings up to {self._window.live_start:%d %b %Y %H:%M} UTC")

    async def _wait_for_catalogue(self) -> int:
        """Wait until every seller's offers at every feeder are known; count the DERs."""
        missing = [feeder.feeder_id for feeder in self._feeders]
        total = 0
        deadline = time.monotonic() + CATALOGUE_WITHIN_S
        while missing:
            counts = await self._gateway.catalogue_ders(missing[-1])
            if set(self._sellers) <= set(counts):
                total += sum(counts.values())
                missing.pop()
                continue
            if time.monotonic() > deadline:
                silent = sorted(set(self._sellers) - set(counts))
                raise CommandFailed(
                    f"no offers of {', '.join(silent)} at {missing[-1]} within {CATALOGUE_WITHIN_S:.0f} s"
                )
            await asyncio.sleep(SLOWEST_POLL_S)
        return total

    # --- the live part ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Replay the live part, instant by instant."""
        script = instants(self._feeders, self._window.live_start, self._window.live_end)
        self.board.total = len(script)
        began = time.monotonic()
        for done, instant in enumerate(script, start=1):
            if self._speed is not None:
                due = began + (instant.at - self._window.live_start).total_seconds() / self._speed
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self._play(instant)
            self.board.done = done
            self._display.update()

    async def _play(self, instant: Instant) -> None:
        """Play one instant: clocks, relief, readings, answer, hold."""
        shortest = min((sample.step_min for sample in instant.samples), default=None)
        if shortest is not None and self._ticked_at < instant.at - timedelta(minutes=shortest):
            # A hole in the source: close the span before this interval, so that relief does not leak into it.
            await self._tick(instant.at - timedelta(minutes=shortest))
        await self._tick(instant.at)
        relief = {
            sample.feeder_id: self._relief.mean_kw(
                sample.feeder_id, instant.at - timedelta(minutes=sample.step_min), instant.at
            )
            for sample in instant.samples
        }
        self.board.event_time = instant.at
        if instant.samples:
            readings = [
                reading(sample, instant.at, relief_kw=relief[sample.feeder_id]) for sample in instant.samples
            ]
            answer = await self._gateway.post_readings(readings)
            for sample in instant.samples:
                view = self.board.feeders[sample.feeder_id]
                view.relief_kw = relief[sample.feeder_id]
                view.load_kw = sample.load_kw - view.relief_kw
            await self._take(answer)
        await self._look()

    async def _tick(self, at: datetime) -> None:
        """Let event time pass at every seller at once; remember the relief they gave."""
        ticks = await asyncio.gather(*(seller.tick(at) for seller in self._sellers.values()))
        if at > self._ticked_at:
            self._relief.record(self._ticked_at, at, [tick.relief_kw for tick in ticks])
        self._ticked_at = at
        reporting = [
            seller for seller, tick in zip(self._sellers.values(), ticks, strict=True) if tick.callbacks
        ]
        if reporting:
            self._callbacks_due = True
            await self._reports_delivered(reporting)

    async def _reports_delivered(self, sellers: Sequence[SellerApi]) -> None:
        """Let sellers' reports arrive before the next readings are posted.

        In real time there are minutes between the end of a delivery and the reading that covers it;
        here there would be a millisecond, and both would compete for the machine.
        """
        for seller in sellers:
            for _ in range(REPORTS_POLLS):
                if not await seller.waiting():
                    break
                await asyncio.sleep(REPORTS_POLL_S)

    async def _take(self, answer: TelemetryRow) -> None:
        """Read a telemetry answer; hold while something it caused is being negotiated."""
        self.readings += answer.accepted
        self.board.readings = self.readings
        for rejection in answer.rejected:
            self.rejected[rejection.code] = self.rejected.get(rejection.code, 0) + 1
            if self.rejected[rejection.code] == 1:
                self._alarm(f"reading rejected: {rejection.code}: {rejection.detail}")
        for row in answer.states:
            self._note_state(row)
        if any(row.plan is not None or _plans(row.state_change) for row in answer.states):
            await self._hold()

    def _note_state(self, row: StateRow) -> None:
        """Keep what an answer says about a feeder."""
        shown = self.board.feeders[row.feeder_id]
        worst = max(row.forecast, key=lambda slot: abs(slot.load_kw), default=None)
        if (row.state is None) != (shown.state is None):
            self._looked_at = 0.0
        shown.state, shown.reason = row.state, row.reason
        shown.worst_kw = worst.load_kw if worst else None
        if row.state_change is not None:
            change = StateChange(
                id=row.state_change.id,
                feeder_id=row.feeder_id,
                at=row.state_change.at,
                before=row.state_change.from_state,
                after=row.state_change.to_state,
                worst_loading=abs(worst.load_kw) / shown.rating_kw if worst else 0.0,
                worst_bound=max((slot.bound_kw for slot in row.forecast), default=0.0) / shown.rating_kw,
                asked_kw=row.state_change.plan.peak_kw if row.state_change.plan else 0.0,
            )
            self.changes.append(change)
            self._display.event(change_line(change, shown.label))

    def _alarm(self, text: str) -> None:
        self.alarms.append(text)
        self._display.event(f"ALARM  {text}")

    async def _hold(self) -> None:
        """Hold event time while an order is between decision and CONFIRM."""
        deadline = time.monotonic() + HOLD_AT_MOST_S
        pause_s = FIRST_POLL_S
        await asyncio.sleep(pause_s)
        while (await self._gateway.stats()).negotiating:
            if time.monotonic() > deadline:
                self._alarm(f"an order is still being negotiated after {HOLD_AT_MOST_S:.0f} s; going on")
                break
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, SLOWEST_POLL_S)
        self._looked_at = 0.0

    async def _look(self, *, always: bool = False) -> None:
        """Look at orders and alarms where something may have happened."""
        now = time.monotonic()
        overdue = bool(self.open_orders) and now - self._looked_at > ORDERS_EVERY_S
        if not (always or overdue or self._callbacks_due or self._looked_at == 0.0):
            return
        self._looked_at = now
        self._callbacks_due = False
        fresh = await self._newest_orders()
        for line in move_lines(self.orders, fresh, self.board.sellers):
            self._display.event(line)
        merged = {order.order_id: order for order in (*self.orders, *fresh)}
        self.board.orders = tuple(sorted(merged.values(), key=lambda order: order.detected_at))
        for alarm in await self._gateway.alarms(newest=NEWEST_ALARMS):
            if alarm.alarm_id not in self._known_alarms:
                self._known_alarms.add(alarm.alarm_id)
                self._alarm(f"{alarm.kind}: {alarm.detail}")
        self._display.update()

    async def _newest_orders(self) -> tuple[OrderRow, ...]:
        """Look at the newest orders, back to the oldest that was open when last looked at.

        Terminal orders do not change, so there is no need to read them again.
        """
        known = {order.order_id for order in self.orders}
        wanted = {order.order_id for order in self.open_orders}
        newest = FEW_ORDERS
        while newest < MAX_ORDERS:
            fresh = await self._gateway.orders(newest=newest)
            seen = {order.order_id for order in fresh}
            if len(fresh) < newest or (seen & known and wanted <= seen):
                return fresh
            newest *= 2
        parts = [await self._gateway.orders_of(feeder_id) for feeder_id in self.board.feeders]
        return tuple(order for part in parts for order in part)

    # --- after ------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Let event time go on until every order is terminal.

        1 follow the source for a while, 2 let only the clocks pass the open windows, 3 wait.

        Raises:
            CommandFailed: Orders are still open after all that.
        """
        await self._look(always=True)
        end = self._window.live_end
        for instant in instants(self._feeders, end, end + DRAIN):
            if not self.open_orders:
                return
            await self._play(instant)
            await self._look(always=True)
        await self._pass_open_windows()
        deadline = time.monotonic() + SETTLE_WITHIN_S
        while self.open_orders:
            if time.monotonic() > deadline:
                raise CommandFailed(f"not settled within {SETTLE_WITHIN_S:.0f} s: {_named(self.open_orders)}")
            await asyncio.sleep(SLOWEST_POLL_S)
            await self._look(always=True)

    async def _pass_open_windows(self) -> None:
        """Let the sellers' clocks pass the windows of open orders; no readings are made up."""
        last = max((order.window_end for order in self.open_orders), default=self._ticked_at)
        while self.open_orders and self._ticked_at <= last:
            await self._tick(self._ticked_at + CLOCK_STEP)
            await self._look(always=True)


def _plans(change: ChangeRow | None) -> bool:
    return change is not None and change.plan is not None


def _named(orders: Iterable[OrderRow]) -> str:
    return ", ".join(f"{order.obp_id} ({order.state})" for order in orders)
