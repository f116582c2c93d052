"""The container topology says what the command line understands."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from fluxeon.cli import app

ROOT = Path(__file__).resolve().parents[3]
SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_each_service_uses_options_its_command_has(name):
    command, *arguments = SERVICES[name]["command"]
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    options = [argument for argument in arguments if argument.startswith("--")]
    assert options
    for option in options:
        assert option in shown.output, f"fluxeon {command} has no {option}"


def test_the_sellers_portfolios_exist():
    for service in SERVICES.values():
        for argument in service["command"]:
            if argument.startswith("/srv/fluxeon/"):
                assert (ROOT / argument.removeprefix("/srv/fluxeon/")).is_file(), argument


def test_the_image_copies_every_package():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = {line.split()[1] for line in lines if line.startswith("COPY")}
    for package in ("beckn_specs", "fluxeon", "gateway", "ml", "registry", "seeds", "requirements"):
        assert package in copied
