"""Builds the bundled load sample from the SimBench data set: reproducible to the byte.

``simbench`` is no dependency of FLUXEON. To build the sample anew, in an environment of its own::

    python -m venv /tmp/simbench && /tmp/simbench/bin/pip install simbench==1.6.3 msgspec
    /tmp/simbench/bin/python -m seeds.build_sample

Rules:

* Which feeders is data: ``seeds/feeders.json`` names, for each, the SimBench grid and the first bus
  after the substation's busbar. The feeder is everything that hangs on that bus when the busbar is
  taken away.
* Load is the sum of the load profiles minus the sum of the generation profiles downstream, kW, without
  grid losses. The shapes are measured, the sum is synthetic: the sample is semi-real.
* SimBench's year has one row per 15 min from 2016-01-01 00:00 Central European Time. Its clock labels
  are local; the rows are even in time, so UTC is counted from the first row. A row is named by the
  interval's end.

Source: SimBench, https://simbench.de, ODbL 1.0; see ``seeds/LICENCE-DATA.md``.
"""

import argparse
import gzip
import io
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from seeds.load import SAMPLE_PATH, FeederSeed, load_feeders

YEAR_START = datetime(2015, 12, 31, 23, 0, tzinfo=UTC)
"""2016-01-01 00:00 Central European Time."""
STEP = timedelta(minutes=15)
SAMPLE_START = datetime(2016, 11, 16, 0, 15, tzinfo=UTC)
"""End of the first interval kept: eight days of warm-up, then six days with overloads in both directions."""
SAMPLE_DAYS = 14


def downstream(start: int, edges: Iterable[tuple[int, int]], without: int) -> set[int]:
    """Collect the buses reached from ``start`` when the bus ``without`` is taken away."""
    neighbours: dict[int, set[int]] = {}
    for one, other in edges:
        if without not in (one, other):
            neighbours.setdefault(one, set()).add(other)
            neighbours.setdefault(other, set()).add(one)
    reached, frontier = {start}, [start]
    while frontier:
        fresh = neighbours.get(frontier.pop(), set()) - reached
        reached |= fresh
        frontier.extend(fresh)
    return reached


def feeder_load_kw(net: Any, values: Any, head_bus: str) -> list[float]:
    """Sum a feeder's load minus generation over SimBench's year.

    Args:
        net: The SimBench grid (a pandapower net).
        values: Its absolute profile values, MW.
        head_bus: Name of the feeder's first bus.

    Raises:
        ValueError: The grid has no such bus, or it is no neighbour of a busbar.
    """
    found = net.bus.index[net.bus.name == head_bus]
    if len(found) != 1:
        raise ValueError(f"{head_bus!r} names {len(found)} buses of the grid")
    head = int(found[0])
    opened = {int(at) for at in net.switch.element[(net.switch.et == "l") & ~net.switch.closed]}
    lines = zip(net.line.index, net.line.from_bus, net.line.to_bus, net.line.in_service, strict=True)
    edges = [(int(a), int(b)) for at, a, b, on in lines if on and int(at) not in opened]
    busbars = {int(bus) for bus in net.trafo.lv_bus}
    beside = [bar for bar in busbars if (bar, head) in edges or (head, bar) in edges]
    if len(beside) != 1:
        raise ValueError(f"{head_bus!r} is not next to the substation's busbar")
    buses = downstream(head, edges, beside[0])
    total = None
    for element, sign in (("load", 1.0), ("sgen", -1.0)):
        table = getattr(net, element)
        columns = table.index[table.bus.isin(buses)]
        part = values[(element, "p_mw")][columns].sum(axis=1) * (1000.0 * sign)
        total = part if total is None else total + part
    return [float(value) for value in total]  # type: ignore[union-attr]


def year_load_kw(feeders: Sequence[FeederSeed]) -> dict[str, list[float]]:
    """Read every feeder's year from SimBench: kW per 15 min, by feeder id."""
    import simbench

    grids: dict[str, tuple[Any, Any]] = {}
    loads: dict[str, list[float]] = {}
    for feeder in feeders:
        code = feeder.origin.grid
        if code not in grids:
            net = simbench.get_simbench_net(code)
            grids[code] = net, simbench.get_absolute_values(net, profiles_instead_of_study_cases=True)
        loads[feeder.feeder_id] = feeder_load_kw(*grids[code], feeder.origin.head_bus)
    return loads


def sample_csv(loads: dict[str, list[float]]) -> str:
    """Write the sample's days as wide CSV: ``timestamp``, then one column of kW per feeder."""
    first = (SAMPLE_START - YEAR_START) // STEP
    text = io.StringIO(newline="")
    text.write(",".join(["timestamp", *loads]) + "\n")
    for row in range(first, first + SAMPLE_DAYS * 96):
        instant = (YEAR_START + row * STEP).strftime("%Y-%m-%dT%H:%M:%SZ")
        text.write(",".join([instant, *(f"{load[row]:.5g}" for load in loads.values())]) + "\n")
    return text.getvalue()


def write_gzip(path: Path, text: str) -> None:
    """Write text compressed, without the clock or the file's name in the header."""
    with path.open("wb") as raw, gzip.GzipFile("", "wb", compresslevel=9, fileobj=raw, mtime=0) as packed:
        packed.write(text.encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the sample."""
    parser = argparse.ArgumentParser(description="Build the bundled load sample from SimBench.")
    parser.add_argument("--output", type=Path, default=SAMPLE_PATH, help="where to write the sample")
    options = parser.parse_args(arguments)
    feeders = load_feeders()
    loads = year_load_kw(feeders)
    write_gzip(options.output, sample_csv(loads))
    sys.stdout.write(f"{options.output}: {options.output.stat().st_size} bytes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
