"""The command line: assembles the commands and turns failures into exit codes.

Exit codes: 0 success, 1 failed with one line on stderr, 2 bad usage.

Heavy modules are imported inside the commands, so that ``--help`` is quick.
"""

import sys

import typer

from fluxeon.commands import audit, bench, conformance, demo, keys, model, serve, settings, simulate, world
from fluxeon.errors import BadUsage, CommandFailed
from gateway.errors import ConfigError, GatewayError
from ml.errors import MlError
from seeds.load import SeedError

FAILED = 1
BAD_USAGE = 2

app = typer.Typer(
    name="fluxeon",
    help=(
        "FLUXEON sees feeder overloads coming, buys demand flexibility over the Beckn protocol, and leaves "
        "evidence a regulator can check. Start with: fluxeon demo"
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("demo")(demo.demo)
app.command("serve")(serve.serve)
app.command("registry")(world.registry)
app.command("bpp")(world.bpp)
app.command("simulate")(simulate.simulate)
app.command("train")(model.train)
app.command("evaluate")(model.evaluate)
app.add_typer(audit.app, name="audit")
app.add_typer(conformance.app, name="conformance")
app.command("keys")(keys.keys)
app.command("settings")(settings.settings)
app.command("bench")(bench.bench)


def main() -> None:
    """Run the command line."""
    try:
        app()
    except BadUsage as error:
        _end(str(error), BAD_USAGE)
    except (CommandFailed, ConfigError, GatewayError, MlError, SeedError) as error:
        _end(str(error), FAILED)


def _end(reason: str, code: int) -> None:
    """Say why, on one line, and leave."""
    sys.stderr.write(f"fluxeon: {' '.join(reason.split())}\n")
    sys.exit(code)
