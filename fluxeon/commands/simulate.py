"""``fluxeon simulate``: seeded load for experiments."""

from pathlib import Path
from typing import Annotated

import typer

from fluxeon.errors import BadUsage, CommandFailed


def simulate(
    feeders: Annotated[int, typer.Option(help="How many feeders.", min=1, max=1000)] = 4,
    days: Annotated[int, typer.Option(help="How many days; overloads fall after the eighth.", min=1)] = 12,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 1,
    output: Annotated[
        Path | None, typer.Option(help="File to write, .csv or .csv.gz; default: standard output.")
    ] = None,
) -> None:
    """Simulate feeder load: daily peaks, heating, noise and a few overloads that build up.

    Writes the wide CSV form that demo and evaluate read: timestamp, temperature_c, one column of kW per
    feeder, 15 min apart. Every second feeder gets overloaded.
    """
    from seeds.build_sample import write_gzip
    from seeds.simulator import simulate as simulated
    from seeds.simulator import wide_csv

    text = wide_csv(simulated(feeders=feeders, days=days, seed=seed))
    if output is None:
        typer.echo(text, nl=False)
        return
    if not output.name.endswith((".csv", ".csv.gz")):
        raise BadUsage(f"--output {output}: name it .csv or .csv.gz")
    try:
        if output.suffix == ".gz":
            write_gzip(output, text)
        else:
            output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandFailed(f"{output}: {error.strerror}") from error
    typer.echo(f"{output}: {feeders} feeders, {days} days", err=True)
