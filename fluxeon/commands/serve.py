"""``fluxeon serve``: the gateway."""

import os
from pathlib import Path
from typing import Annotated

import typer


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (FLUXEON_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (FLUXEON_PORT).", max=65535)] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of database and keys (FLUXEON_DATA_DIR).")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings (FLUXEON_CONFIG).")] = None,
) -> None:
    """Run the gateway: telemetry in, forecasts, states, plans and Beckn orders out, everything journalled.

    The first start in an empty data folder makes the database, a signing key and one administrator token,
    which is printed once. All settings: fluxeon settings.
    """
    from gateway.config import load_settings
    from gateway.serve import run

    run(
        load_settings(
            os.environ,  # noqa: TID251 - the command line reads the environment
            file=config,
            overrides={"host": host, "port": port, "data_dir": str(data_dir) if data_dir else None},
        ).settings
    )
