"""``fluxeon demo`` from top to bottom.

source -> window -> portfolios -> processes -> feeders, catalogue, history -> replay -> drain
-> journal verified -> summary. The processes are ended on every way out.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import aiohttp

from fluxeon.audit import verify_folder
from fluxeon.demo.client import GatewayApi, SellerApi
from fluxeon.demo.display import Board, Display, FeederView
from fluxeon.demo.portfolios import write_portfolios
from fluxeon.demo.replay import Replay
from fluxeon.demo.source import DemoSource, open_source
from fluxeon.demo.summary import AuditResult, StatsRow, Summary, Urls, summarise
from fluxeon.demo.window import Window, choose_window
from fluxeon.demo.words import closing, generated_ders, introduction, ways_in
from fluxeon.demo.world import Layout, World, lay_out
from fluxeon.errors import CommandFailed
from gateway.errors import JournalBroken
from seeds.load import load_participants

WATCHABLE_S = 75.0
"""Length of a replay for people to watch, seconds of wall time."""
REQUEST_TIMEOUT_S = 120.0


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """The command line of ``fluxeon demo``.

    Attributes:
        source: ``bundled``, ``simulator`` or ``csv:PATH``.
        data_dir: Folder of everything the demo leaves behind; must be new or empty.
        feeders: How many feeders.
        speed: Event seconds per wall second.
        start: Start of the live part.
        days: Its length.
        fast: Without a speed: as fast as the loop closes, instead of watchable.
        stay: Keep the processes running after the summary, until told to stop.
        generation: Beckn generation of the sellers, ``2.0``, ``1.1`` or ``mixed``.
    """

    source: str
    data_dir: Path
    feeders: int | None = None
    speed: float | None = None
    start: datetime | None = None
    days: float | None = None
    fast: bool = False
    stay: bool = False
    generation: str = "2.0"


async def run_demo(options: DemoOptions, display: Display, publish: Callable[[Summary], None]) -> None:
    """Run a demo.

    Args:
        options: What to replay and how.
        display: Where to show it.
        publish: Told the summary once, before the processes are ended.

    Raises:
        BadUsage: The options do not fit the source.
        SeriesError: The source cannot be read.
        CommandFailed: A process failed, an order did not end, or the journal does not verify.
    """
    source = open_source(options.source, feeders=options.feeders)
    window = choose_window(source.feeders, start=options.start, days=options.days)
    network = load_participants()
    layout = lay_out(fresh_folder(options.data_dir), network.participants)
    for line in introduction(source, window):
        display.say(line)
    files = [layout.portfolio(seller) for seller in network.participants]
    for line in generated_ders(source, write_portfolios(network.participants, files, source.feeders)):
        display.say(line)
    world = World(layout, domain=network.domain, gateway_id=network.gateway_id, generation=options.generation)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)) as http:
        try:
            await world.start(http, display.say)
            gateway = GatewayApi(http, layout.gateway)
            sellers = {one.subscriber_id: SellerApi(http, endpoint) for one, endpoint in layout.sellers}
            board = _board(source, layout)
            replay = Replay(
                feeders=source.feeders,
                window=window,
                gateway=gateway,
                sellers=sellers,
                display=display,
                board=board,
                speed=pace(options, window),
            )
            await _play(replay, display)
            world.check()
            summary = _summary(replay, source, window, layout, await gateway.stats())
            names = {view.feeder_id: view.label for view in board.feeders.values()}
            for line in closing(summary, replay.changes, replay.orders, names | board.sellers):
                display.say(line)
            publish(summary)
            _insist_on_evidence(summary)
            if options.stay:
                for line in ways_in(layout.gateway.url, layout.gateway.token, replay.orders):
                    display.say(line)
                await world.watch()
        except CommandFailed:
            # A dead process explains a failed request better than the request does.
            world.check()
            raise
        finally:
            display.close()
            await asyncio.to_thread(world.stop)


async def _play(replay: Replay, display: Display) -> None:
    """History, live part, settlement; the board is on the screen meanwhile."""
    await replay.prepare()
    display.open(replay.board)
    await replay.run()
    await replay.drain()
    display.close()


def _insist_on_evidence(summary: Summary) -> None:
    if not summary.audit.verified:
        raise CommandFailed("the journal does not verify")


def fresh_folder(folder: Path) -> Path:
    """Make the demo's folder.

    Raises:
        CommandFailed: It holds something already: a replay starts from nothing, and nothing is deleted.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise CommandFailed(f"{folder} is not empty: name another --data-dir, or remove it")
    except OSError as error:
        raise CommandFailed(f"{folder}: {error.strerror}") from error
    return folder.resolve()


def _board(source: DemoSource, layout: Layout) -> Board:
    """Lay out the screen."""
    views = [
        FeederView(
            feeder_id=one.feeder_id,
            label=f"{one.feeder_id} {one.seed.name}" if one.seed else one.feeder_id,
            rating_kw=one.rating_kw,
        )
        for one in source.feeders
    ]
    return Board(
        title=source.title,
        feeders={view.feeder_id: view for view in views},
        sellers={seller.subscriber_id: seller.provider_name for seller, _ in layout.sellers},
    )


def pace(options: DemoOptions, window: Window) -> float | None:
    """Choose the event seconds per wall second; None: as fast as the loop closes."""
    if options.speed is not None or options.fast:
        return options.speed
    return (window.live_end - window.live_start).total_seconds() / WATCHABLE_S


def _summary(replay: Replay, source: DemoSource, window: Window, layout: Layout, stats: StatsRow) -> Summary:
    return summarise(
        feeders=len(source.feeders),
        readings=replay.readings,
        changes=replay.changes,
        orders=replay.orders,
        stats=stats,
        alarms=replay.alarms,
        audit=_verify(layout.folder),
        urls=Urls(gateway=layout.gateway.url),
        data_dir=str(layout.folder),
        source=source.title,
        live=(window.live_start, window.live_end),
    )


def _verify(folder: Path) -> AuditResult:
    """Verify the journal from its storage, as ``fluxeon audit verify`` does."""
    try:
        report = verify_folder(folder)
    except JournalBroken as broken:
        return AuditResult(entries=max(0, broken.seq - 1), verified=False)
    return AuditResult(entries=report.entries, verified=True)
