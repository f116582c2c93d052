"""``fluxeon train`` and ``fluxeon evaluate``: the risk model."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from fluxeon.commands.options import parse_instant
from fluxeon.errors import BadUsage, CommandFailed

COLUMNS = {
    "minutes": "min",
    "mae_kw": "MAE kW",
    "nmae": "nMAE",
    "persistence_nmae": "persist.",
    "naive_nmae": "naive",
    "pinball": "pinball",
    "coverage_80": "cover 80",
    "width": "width",
}
"""Figures of a horizon and their headings."""


def train(
    sources: Annotated[list[Path], typer.Argument(help="CSV files of load (.gz accepted), as for demo.")],
    out: Annotated[Path, typer.Option(help="Folder for graphs and cards.")],
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 7,
    facts: Annotated[
        Path | None,
        typer.Option(help="JSON object: per file stem, licence, source and group, for the model cards."),
    ] = None,
) -> None:
    """Train the risk model and write its ONNX graphs with their cards.

    Needs the extra packages: pip install 'fluxeon[train]'. Point FLUXEON_MODEL_DIR at the folder to serve it.
    """
    import msgspec

    try:
        from ml.train import train as train_
    except ImportError as error:
        raise CommandFailed(
            f"training needs more packages ({error.name}): pip install 'fluxeon[train]'"
        ) from error

    known: dict[str, dict[str, Any]] = {}
    if facts is not None:
        try:
            known = msgspec.json.decode(facts.read_bytes(), type=dict[str, dict[str, Any]])
        except (OSError, msgspec.DecodeError) as error:
            raise CommandFailed(f"{facts}: {error}") from error
    about = {stem: {name: str(value) for name, value in one.items()} for stem, one in known.items()}
    for path in train_(
        sources, out, seed=seed, facts=about, progress=lambda line: typer.echo(line, err=True)
    ):
        typer.echo(str(path))


def evaluate(
    *,
    source: Annotated[str, typer.Option(help="csv:PATH, bundled or simulator, as for demo.")],
    rating_kw: Annotated[
        float | None,
        typer.Option(
            help="Rating; default: as configured, else 99th percentile of the next hour's highest |load|."
        ),
    ] = None,
    start: Annotated[
        datetime | None,
        typer.Option("--from", parser=parse_instant, help="Score from this instant (ISO 8601, UTC) on."),
    ] = None,
    stride: Annotated[int, typer.Option(help="Score every n-th origin.", min=1)] = 1,
    feeder: Annotated[str | None, typer.Option(help="Which feeder, where the source has several.")] = None,
    model_dir: Annotated[
        Path | None, typer.Option(help="Folder of the model; default: the shipped one.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the newest week into this .svg file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the contract's JSON object.")] = False,
) -> None:
    """Back-test the model on a load series, exactly as serving would have run.

    Strictly causal: at every origin only the last eight days are visible. Errors are relative to the 99.5th
    percentile of |load|; naive is the better of persistence and persistence plus the usual ramp.
    """
    import msgspec

    from fluxeon.demo.source import RatedBy, open_source
    from ml.evaluate import backtest, summary
    from ml.evaluate import plot as draw
    from ml.model import RiskModel

    feeders = open_source(source).feeders
    names = [one.feeder_id for one in feeders]
    if feeder is None and len(names) > 1:
        raise BadUsage(f"--feeder: name one of {', '.join(names)}")
    if feeder is not None and feeder not in names:
        raise BadUsage(f"--feeder {feeder}: the source has {', '.join(names)}")
    chosen = feeders[0 if feeder is None else names.index(feeder)]
    if rating_kw is None and chosen.rated_by in (RatedBy.SEED, RatedBy.SIMULATOR):
        rating_kw = chosen.rating_kw
    run = backtest(chosen.series, RiskModel.load(model_dir), rating_kw=rating_kw)
    scores = summary(run, start_s=int(start.timestamp()) if start else None, stride=stride)
    if plot is not None:
        draw(run, plot)
    if as_json:
        typer.echo(msgspec.json.encode(scores))
    else:
        _show(scores)


def _show(scores: dict[str, Any]) -> None:
    """Print the scores as a table."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(f"{scores['feeder']}: {scores['rows']} origins, rating {scores['rating_kw']:,.1f} kW")
    table = Table(box=None, header_style="dim")
    for heading in COLUMNS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for row in scores["horizons"]:
        table.add_row(*("-" if row[name] is None else f"{row[name]:.4g}" for name in COLUMNS))
    console.print(table)
    for name, value in scores["state"].items():
        console.print(f"{name.replace('_', ' '):<22}{'-' if value is None else format(value, '.4g')}")
