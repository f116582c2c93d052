"""``fluxeon audit``: the evidence."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Check the evidence the gateway leaves.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def audit() -> None:
    """Check the evidence the gateway leaves."""


@app.command("verify")
def verify(
    data_dir: Annotated[
        Path, typer.Option(help="Data folder of the gateway.", envvar="FLUXEON_DATA_DIR")
    ] = Path("data"),
    trust: Annotated[
        Path | None,
        typer.Option(help="File of public keys to trust (fluxeon keys --json); default: the folder's own."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Verify the journal: every entry, every payload, the chain through them and the signed head.

    Works on the stored bytes alone, also while the gateway runs. Exit 0 when everything verifies; exit 1
    with the number and id of the first bad entry otherwise.
    """
    import msgspec

    from fluxeon.audit import verify_folder
    from fluxeon.errors import CommandFailed
    from gateway.errors import JournalBroken

    try:
        report = verify_folder(data_dir, trust=trust)
    except JournalBroken as broken:
        if as_json:
            document = {
                "verified": False,
                "seq": broken.seq,
                "entry_id": broken.entry_id,
                "detail": broken.detail,
            }
            typer.echo(msgspec.json.encode(document))
        name = f"entry {broken.seq} ({broken.entry_id or 'id unknown'})"
        raise CommandFailed(f"the journal does not verify at {name}: {broken.detail}") from broken
    if as_json:
        typer.echo(msgspec.json.encode({"verified": True, **msgspec.to_builtins(report)}))
        return
    typer.echo(
        f"verified: {report.entries} entries and {report.payloads} payloads ({report.payload_bytes} bytes) "
        f"of {report.origin}, head signed with key {report.key_id}"
    )
