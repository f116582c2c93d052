"""``fluxeon keys``: the public half of the gateway's key."""

from pathlib import Path
from typing import Annotated

import typer


def keys(
    data_dir: Annotated[
        Path, typer.Option(help="Data folder of the gateway.", envvar="FLUXEON_DATA_DIR")
    ] = Path("data"),
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Show the gateway's public key and its id.

    Peers verify our messages with it, auditors the journal. Keep the --json form elsewhere and give it to
    fluxeon audit verify --trust: a data folder cannot vouch for itself. The private key is never shown.
    """
    import msgspec

    from fluxeon.audit import own_key

    key = own_key(data_dir)
    if as_json:
        typer.echo(msgspec.json.encode(key))
    else:
        typer.echo(f"key id      {key.key_id}\npublic key  {key.public_key}  (Ed25519, base64)")
