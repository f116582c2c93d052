"""``fluxeon demo``: the whole story on one machine."""

import asyncio
import signal
import sys
from collections.abc import Coroutine
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fluxeon.commands.options import parse_instant
from fluxeon.errors import CommandFailed


class Generation(StrEnum):
    """Beckn generations the sellers speak."""

    V2 = "2.0"
    V1 = "1.1"
    MIXED = "mixed"


def demo(
    *,
    source: Annotated[
        str,
        typer.Option(
            help="What to replay: bundled, simulator or csv:PATH (long or wide form, .gz accepted)."
        ),
    ] = "bundled",
    feeders: Annotated[
        int | None, typer.Option(help="Only the first N feeders; with simulator: how many.", min=1)
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(
            help="Event seconds per wall second; default: as fast as it goes, watchable on a terminal.",
            min=0.001,
        ),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="End when every order is terminal and settled.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary object as the last line.")
    ] = False,
    no_dashboard: Annotated[  # noqa: ARG001 - part of the contract; there is no dashboard to leave out yet
        bool, typer.Option("--no-dashboard", help="Without the dashboard (this version has none).")
    ] = False,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Folder for databases, keys and logs, new or empty; default: data/demo-TIME."),
    ] = None,
    generation: Annotated[
        Generation, typer.Option(help="Beckn generation of the sellers; mixed: every other one speaks 1.1.")
    ] = Generation.V2,
    start: Annotated[
        datetime | None,
        typer.Option("--from", parser=parse_instant, help="Start of the live part (ISO 8601, UTC)."),
    ] = None,
    days: Annotated[float | None, typer.Option(help="Length of the live part in days.", min=0.01)] = None,
) -> None:
    """Replay real load through a gateway and three sellers, and watch overloads being bought off.

    Registry, sellers and gateway are real processes on free loopback ports, with keys of their own. Eight
    days are loaded as history; then every reading is posted as a meter would, less the relief the sellers
    deliver. Of a long file the days around its highest loading are taken. Ends with the verification of the
    journal and a summary; on a terminal the gateway then stays up until Ctrl-C, unless --once is given.
    """
    import msgspec
    from rich.console import Console

    from fluxeon.demo.display import Display
    from fluxeon.demo.run import DemoOptions, run_demo
    from fluxeon.demo.summary import Summary
    from gateway.clock import utc_now

    watched = sys.stdout.isatty() and not once
    options = DemoOptions(
        source=source,
        data_dir=data_dir or Path("data") / f"demo-{utc_now():%Y%m%d-%H%M%S}",
        feeders=feeders,
        speed=speed,
        start=start,
        days=days,
        fast=not watched,
        stay=watched,
        generation=generation.value,
    )
    finished = False

    def publish(summary: Summary) -> None:
        nonlocal finished
        finished = True
        if as_json:
            sys.stdout.write(msgspec.json.encode(summary).decode() + "\n")
            sys.stdout.flush()

    console = Console(stderr=True)
    display = Display(console, live=console.is_terminal)
    try:
        asyncio.run(_until_told(run_demo(options, display, publish)))
    except (KeyboardInterrupt, asyncio.CancelledError) as interruption:
        if not finished:
            raise CommandFailed("interrupted before the end; every process has been ended") from interruption


async def _until_told(work: Coroutine[None, None, None]) -> None:
    """Do the work; a request to terminate ends it as Ctrl-C does, so that the processes are ended."""
    task = asyncio.ensure_future(work)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    await task
