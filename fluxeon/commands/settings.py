"""``fluxeon settings``: what can be set, what it is, where it comes from."""

import os
from pathlib import Path
from typing import Annotated

import typer


def settings(
    config: Annotated[Path | None, typer.Option(help="TOML file of settings (FLUXEON_CONFIG).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
) -> None:
    """List every setting of the gateway: value, where the value comes from, meaning. Secrets are masked.

    Later sources win: defaults, the TOML file, FLUXEON_* variables, options of fluxeon serve.
    """
    import msgspec

    from gateway.config import load_settings

    infos = load_settings(os.environ, file=config).describe()  # noqa: TID251 - the command line reads it
    if as_json:
        typer.echo(msgspec.json.encode(infos))
        return
    for info in infos:
        value = "(not set)" if info.value is None else info.value
        typer.echo(f"{info.variable}={value}")
        typer.echo(f"    {info.meaning} [from {info.source}]")
