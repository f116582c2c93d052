"""``fluxeon bench``: how fast it is, against stated references."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def bench(
    *,
    name: Annotated[
        str | None, typer.Argument(help="Which: protocol, ingest, loop, journal or plan; default: all.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Interleaved rounds.", min=1)] = 5,
    large: Annotated[bool, typer.Option("--large", help="Also 100,000 feeders (ingest).")] = False,
    out: Annotated[Path, typer.Option(help="Where the report is written, as JSON.")] = Path("bench.json"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as a JSON object too.")] = False,
) -> None:
    """Measure our code and a reference beside it in one run, and report the ratios.

    Every figure is a median over interleaved rounds with its 10th and 90th percentile, because a busy
    machine slows both alike; absolute times hold for this machine at this moment only. A goal that is
    missed is said to be missed and is no failure: exit 0.
    """
    import msgspec
    from rich.console import Console

    from fluxeon.bench.runner import BENCHMARKS, Options, run_benchmarks, show, write_report
    from fluxeon.errors import BadUsage
    from gateway.clock import utc_now

    if name is not None and name not in BENCHMARKS:
        raise BadUsage(f"there is no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    console = Console(stderr=as_json, width=None if sys.stdout.isatty() else 160)
    report = run_benchmarks(
        [name] if name else list(BENCHMARKS),
        Options(rounds=rounds, large=large),
        clock=utc_now,
        tell=lambda outcome: show(outcome, console),
    )
    write_report(report, out)
    console.print(
        f"written to {out}; load {report.machine.load_before} before, {report.machine.load_after} after"
    )
    if as_json:
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
