"""``fluxeon registry`` and ``fluxeon bpp``: the mock world as processes of their own."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class SellerGeneration(StrEnum):
    """Beckn generations a seller can speak."""

    V2 = "2.0"
    V1 = "1.1"


Host = Annotated[str, typer.Option(help="Address to listen on.")]
DataDir = Annotated[Path, typer.Option(help="Its folder; made where it is missing.")]


def registry(
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)],
    data_dir: DataDir,
    host: Host = "127.0.0.1",
) -> None:
    """Run a mock Beckn registry: who takes part, where, and with which key.

    Participants subscribe with a signed request; anyone may look them up.
    """
    from registry.serve import run_registry

    run_registry(host, port, data_dir)


def bpp(
    *,
    subscriber_id: Annotated[str, typer.Option(help="Its id on the network, such as bpp-alpha.example.")],
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)],
    registry_url: Annotated[str, typer.Option(help="Base URL of the registry.")],
    portfolio: Annotated[Path, typer.Option(help="What it sells: a file as in seeds/portfolios/.")],
    data_dir: DataDir,
    host: Host = "127.0.0.1",
    public_url: Annotated[
        str | None, typer.Option(help="Base URL under which others reach it; default http://HOST:PORT.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of its imperfect delivery.")] = 0,
    generation: Annotated[
        SellerGeneration, typer.Option(help="Generation of Beckn it takes requests in.")
    ] = SellerGeneration.V2,
) -> None:
    """Run a mock aggregator (Beckn BPP) that sells the flexibility of its DERs.

    It makes a key of its own on the first start and registers itself. With FLUXEON_CONTROL_TOKEN set,
    POST /control/clock with that bearer token drives its event time, as a replay of old data needs;
    otherwise event time is wall time.
    """
    from gateway.beckn.dialect import Generation
    from registry.serve import run_bpp

    run_bpp(
        subscriber_id=subscriber_id,
        host=host,
        port=port,
        public_url=public_url or f"http://{host}:{port}",
        registry_url=registry_url,
        portfolio=portfolio,
        data_dir=data_dir,
        control_token=os.environ.get("FLUXEON_CONTROL_TOKEN"),  # noqa: TID251 - secrets come this way
        seed=seed,
        generation=Generation(generation.value),
    )
