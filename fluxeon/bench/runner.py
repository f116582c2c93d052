"""Which benchmarks there are, and how they are run, shown and written down.

A new benchmark is one line in :data:`BENCHMARKS`.
"""

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table as RichTable

from fluxeon.bench import ingest, journal, loop, plan, protocol
from fluxeon.bench.measure import Cell, Outcome, Spread, Table
from fluxeon.errors import CommandFailed
from gateway.clock import Clock

ROUNDS = 5


class Options(NamedTuple):
    """What the command line chooses."""

    rounds: int = ROUNDS
    large: bool = False
    """Measure what takes minutes and gigabytes too."""


class Benchmark(NamedTuple):
    """One benchmark."""

    about: str
    run: Callable[[Options], Outcome]


BENCHMARKS: Final[Mapping[str, Benchmark]] = MappingProxyType(
    {
        protocol.NAME: Benchmark(
            "Beckn messages in and out, beside the raw primitives; callbacks to the gateway",
            lambda options: protocol.measure(rounds=options.rounds),
        ),
        ingest.NAME: Benchmark(
            "telemetry bytes to states, beside the bare kernels",
            lambda options: ingest.measure(
                rounds=options.rounds,
                feeders=(*ingest.FEEDERS, ingest.LARGE) if options.large else ingest.FEEDERS,
            ),
        ),
        loop.NAME: Benchmark(
            "detection to CONFIRM through real processes, beside bare round trips",
            lambda options: loop.measure(rounds=options.rounds),
        ),
        journal.NAME: Benchmark(
            "durable appends by group commit beside single commits; verification",
            lambda options: journal.measure(rounds=options.rounds),
        ),
        plan.NAME: Benchmark(
            "plans over catalogues of several sizes", lambda options: plan.measure(rounds=options.rounds)
        ),
    }
)


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where it was measured; a load near or above the cores says that others were at work."""

    cores: int
    processor: str
    system: str
    python: str
    load_before: float
    """Mean number of runnable processes over the last minute, before the first benchmark."""
    load_after: float


class BenchReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything ``bench.json`` holds."""

    at: datetime
    machine: Machine
    rounds: int
    outcomes: tuple[Outcome, ...]


def run_benchmarks(
    names: Sequence[str], options: Options, *, clock: Clock, tell: Callable[[Outcome], None]
) -> BenchReport:
    """Run benchmarks one after the other.

    Args:
        names: Which, in this order; each in :data:`BENCHMARKS`.
        options: How.
        clock: Wall time, for the report.
        tell: Told each outcome as it comes.

    Raises:
        CommandFailed: One could not be run.
    """
    at, load_before = clock(), os.getloadavg()[0]
    outcomes = []
    for name in names:
        begin = time.monotonic()
        outcome = BENCHMARKS[name].run(options)
        outcome = msgspec.structs.replace(outcome, took_s=round(time.monotonic() - begin, 1))
        tell(outcome)
        outcomes.append(outcome)
    return BenchReport(
        at=at,
        machine=Machine(
            cores=os.cpu_count() or 1,
            processor=_processor(),
            system=platform.platform(),
            python=platform.python_version(),
            load_before=round(load_before, 2),
            load_after=round(os.getloadavg()[0], 2),
        ),
        rounds=options.rounds,
        outcomes=tuple(outcomes),
    )


def write_report(report: BenchReport, path: Path) -> None:
    """Write a report as JSON.

    Raises:
        CommandFailed: The file cannot be written.
    """
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    except OSError as error:
        raise CommandFailed(f"{path}: {error.strerror}") from error


def show(outcome: Outcome, console: Console) -> None:
    """Print an outcome as tables: median, with p10 and p90 where there are rounds."""
    console.rule(f"{outcome.name}  ({outcome.took_s:.0f} s)", align="left")
    for table in outcome.tables:
        console.print(_rich(table))
        if table.note:
            console.print(f"  {table.note}", style="dim", highlight=False)
    if outcome.ratios:
        shown = RichTable(title="Ratios and goals, median [p10 - p90]", title_justify="left")
        for name in ("", "measured", "goal", "reached"):
            shown.add_column(name, justify="left" if not name else "right")
        for one in outcome.ratios:
            reached = "" if one.reached is None else "yes" if one.reached else "no"
            shown.add_row(one.name, text(one.value), one.goal or "", reached)
        console.print(shown)


def _rich(table: Table) -> RichTable:
    shown = RichTable(title=table.title, title_justify="left")
    shown.add_column("")
    for name in table.columns:
        shown.add_column(name, justify="right")
    for row in table.rows:
        shown.add_row(row.label, *map(text, row.cells))
    return shown


def text(cell: Cell) -> str:
    """Write a figure with three significant digits."""
    match cell:
        case None:
            return "-"
        case Spread():
            return f"{_number(cell.median)} [{_number(cell.p10)} - {_number(cell.p90)}]"
        case float():
            return _number(cell)
        case _:
            return str(cell)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _processor() -> str:
    """Name of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
