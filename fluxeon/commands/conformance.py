"""``fluxeon conformance``: does an implementation speak Beckn as it has to?"""

import asyncio
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

ADMIN_TOKEN = "FLUXEON_ADMIN_TOKEN"  # noqa: S105 - the name of the variable
CLOCK_TOKEN = "FLUXEON_CONTROL_TOKEN"  # noqa: S105 - the name of the variable

app = typer.Typer(
    help="Try an implementation of Beckn as its counterparty.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class TargetRole(StrEnum):
    """What the target is."""

    BAP = "bap"
    BPP = "bpp"


class Generation(StrEnum):
    """Protocol generations."""

    V1 = "1.1"
    V2 = "2.0"


@app.callback()
def conformance() -> None:
    """Try an implementation of Beckn as its counterparty."""


@app.command("run")
def run(
    *,
    target: Annotated[str, typer.Option(help="Base of the target's Beckn endpoints: URL/{action}.")],
    role: Annotated[TargetRole, typer.Option(help="What the target is: seller or buyer.")] = TargetRole.BPP,
    generation: Annotated[Generation, typer.Option(help="Protocol generation.")] = Generation.V2,
    registry: Annotated[
        list[str] | None,
        typer.Option(help="Registry the target asks; the suite registers there. Repeatable."),
    ] = None,
    serve_registry: Annotated[
        str | None, typer.Option(help="HOST:PORT on which the suite runs a registry of its own.")
    ] = None,
    listen: Annotated[
        str, typer.Option(help="HOST:PORT of the suite's endpoint; port 0: any.")
    ] = "127.0.0.1:0",
    public_url: Annotated[
        str | None, typer.Option(help="Base URL under which the target reaches the suite.")
    ] = None,
    target_id: Annotated[
        str | None, typer.Option(help="The target's subscriber id; default: found by its address.")
    ] = None,
    feeder_id: Annotated[
        str | None, typer.Option("--feeder", help="Order only at this feeder (sellers).")
    ] = None,
    clock_url: Annotated[
        str | None,
        typer.Option(
            help='Where a seller\'s event time is driven: POST {"event_time": ...}; the token comes from '
            "FLUXEON_CONTROL_TOKEN. Without it completion is not tried."
        ),
    ] = None,
    drive: Annotated[
        str | None,
        typer.Option(
            help="Base URL of a FLUXEON gateway's own API: telemetry posted there makes it buy; the token "
            "comes from FLUXEON_ADMIN_TOKEN. Other buyers you make buy by hand, within --patience."
        ),
    ] = None,
    patience: Annotated[
        float, typer.Option(help="Seconds to wait for a callback or a next request.", min=0.1)
    ] = 5.0,
    quiet: Annotated[float, typer.Option(help="Seconds of silence that count as nothing.", min=0.05)] = 0.5,
    only: Annotated[
        list[str] | None, typer.Option(help="Only cases whose id begins so, such as SIG. Repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as a JSON object.")] = False,
    junit: Annotated[Path | None, typer.Option(help="Write the report as JUnit XML.")] = None,
) -> None:
    """Play a counterparty against a target and print a scored report.

    How the target comes to trust the suite: the suite makes fresh keys and files them at a registry that
    the target asks. Either name that registry (--registry URL: v1 POST /subscribe and /lookup), or let
    the suite run one (--serve-registry HOST:PORT) and point the target at it before you start: the
    target has to register there itself, as a BPP or BAP under the address given as --target.

    A buyer (--role bap) is answered as one more seller. It must ask the registry for sellers after the suite
    has begun, and wait some seconds for an on_select: the cases are played while its select is open.

    A target behind another network address needs --listen 0.0.0.0:PORT and --public-url.

    Exit 0 when every MUST case passed; 1 otherwise, with what to mend on stdout.
    """
    import msgspec
    from rich.console import Console

    from fluxeon.conformance.report import show, verdict, write_junit
    from fluxeon.conformance.run import Options, conform
    from fluxeon.conformance.verdict import Result
    from fluxeon.errors import CommandFailed
    from gateway.clock import utc_now

    options = Options(
        target=target.rstrip("/"),
        role=role.value,
        generation=generation.value,
        registries=tuple(registry or ()),
        serve_registry=serve_registry,
        listen=listen,
        public_url=public_url,
        target_id=target_id,
        feeder_id=feeder_id,
        clock_url=clock_url,
        clock_token=os.environ.get(CLOCK_TOKEN),  # noqa: TID251 - secrets come this way
        drive_url=drive,
        drive_token=os.environ.get(ADMIN_TOKEN),  # noqa: TID251
        patience_s=patience,
        quiet_s=quiet,
        only=tuple(only or ()),
    )
    progress = Console(stderr=True)

    def tell(result: Result) -> None:
        if progress.is_terminal:
            progress.print(f"{result.id} {result.outcome}", highlight=False)

    report = asyncio.run(conform(options, clock=utc_now, tell=tell))
    if junit is not None:
        try:
            write_junit(report, junit)
        except OSError as error:
            raise CommandFailed(f"{junit}: {error.strerror}") from error
    if as_json:
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        show(report, Console(width=None if sys.stdout.isatty() else 120))
    if not report.conformant:
        raise CommandFailed(verdict(report))
