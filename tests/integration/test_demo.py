"""``fluxeon demo`` as a user runs it: real processes, real signatures, real storage."""

import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytestmark = pytest.mark.slow

LIMIT_S = 240


class Finished(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads(self.out.strip().splitlines()[-1])

    @property
    def urls(self) -> list[str]:
        return re.findall(r"http://127\.0\.0\.1:\d+", self.err)


def fluxeon(*words: str) -> Finished:
    done = subprocess.run(
        [sys.executable, "-m", "fluxeon", *words],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def demo(folder: Path, *words: str) -> Finished:
    return fluxeon("demo", "--once", "--json", "--no-dashboard", "--data-dir", str(folder), *words)


def assert_nobody_listens(urls: list[str]) -> None:
    assert len(urls) >= 5
    for url in urls:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(url.rsplit(":", 1)[1]))) != 0, f"{url} still listens"


def rows(days: int, load: Any) -> Iterator[str]:
    start = datetime(2023, 2, 6, tzinfo=UTC)
    for step in range(1, days * 96 + 1):
        yield f"{start + timedelta(minutes=15 * step):%Y-%m-%dT%H:%M:%SZ},{load(step)}"


def csv_file(folder: Path, name: str, days: int, load: Any) -> Path:
    path = folder / name
    path.write_text("\n".join(["timestamp,load_kw", *rows(days, load)]))
    return path


@pytest.fixture(scope="module")
def overloaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Finished, Path]:
    """One run over two simulated feeders, of which the first is overloaded."""
    folder = tmp_path_factory.mktemp("demo") / "data"
    return demo(folder, "--source", "simulator", "--feeders", "1"), folder


def test_demo__completes_orders_and_prints_the_contracts_summary(overloaded: tuple[Finished, Path]):
    done, folder = overloaded
    assert done.code == 0, done.err
    summary = done.summary
    assert (summary["feeders"], summary["readings"]) == (1, 12 * 96)
    assert summary["state_changes"] >= 1
    assert summary["data_dir"] == str(folder)
    assert summary["audit"]["verified"] is True
    assert summary["audit"]["entries"] > 20
    assert summary["urls"]["gateway"] in done.urls
    completed = [order for order in summary["orders"] if order["state"] == "COMPLETED"]
    assert completed
    assert len({order["obp_id"] for order in summary["orders"]}) == len(summary["orders"])
    for order in completed:
        assert order["feeder_id"] == "SIM_001"
        assert order["bpp_id"].startswith("bpp-")
        assert order["der_ids"]
        assert order["requested_kwh"] > 0
        assert 0 < order["delivered_kwh"] <= order["requested_kwh"] * 1.06
        assert order["detection_to_confirm_ms"] > 0
    timing = summary["detection_to_confirm_ms"]
    assert 0 < timing["p50"] <= timing["p95"] <= timing["max"]


def test_demo__tells_the_story_and_ends_every_process(overloaded: tuple[Finished, Path]):
    done, _ = overloaded
    assert "none seeded; generated" in done.err
    assert "was heading for" in done.err
    assert "kWh delivered" in done.err
    assert_nobody_listens(done.urls)
    assert len(done.out.strip().splitlines()) == 1


def test_demo__leaves_a_journal_that_verifies_and_notices_a_change(overloaded: tuple[Finished, Path]):
    done, folder = overloaded
    clean = fluxeon("audit", "verify", "--data-dir", str(folder), "--json")
    assert clean.code == 0, clean.err
    assert json.loads(clean.out)["entries"] >= done.summary["audit"]["entries"]
    keys = folder / "keys.json"
    keys.write_text(fluxeon("keys", "--data-dir", str(folder), "--json").out)
    assert fluxeon("audit", "verify", "--data-dir", str(folder), "--trust", str(keys)).code == 0
    foreign = json.loads(keys.read_text()) | {"key_id": "another"}
    keys.write_text(json.dumps(foreign))
    refused = fluxeon("audit", "verify", "--data-dir", str(folder), "--trust", str(keys))
    assert refused.code == 1
    assert "does not verify" in refused.err


def test_demo__leaves_no_secret_in_logs_or_process_lists(overloaded: tuple[Finished, Path]):
    _, folder = overloaded
    private = json.loads((folder / "signing-key.json").read_text())["private_key"]
    for log in (folder / "logs").iterdir():
        text = log.read_text()
        assert private not in text
        assert "Bearer" not in text


def test_demo__does_not_trade_on_a_dead_meter(tmp_path: Path):
    path = csv_file(tmp_path, "dead.csv", 10, lambda step: 80.0 if step % 97 == 0 else 0)
    done = demo(tmp_path / "data", "--source", f"csv:{path}")
    assert done.code == 0, done.err
    assert done.summary["orders"] == []
    assert any("dead" in alarm for alarm in done.summary["alarms"])
    assert "ALARM" in done.err


def test_demo__takes_empty_cells_for_missing_readings(tmp_path: Path):
    def load(step: int) -> str:
        return "" if step % 10 == 0 else f"{100 - 60 * math.sin(step / 96 * 2 * math.pi):.2f}"

    path = csv_file(tmp_path, "holes.csv", 9, load)
    done = demo(tmp_path / "data", "--source", f"csv:{path}", "--days", "0.25")
    assert done.code == 0, done.err
    # Of nine days six are history; in the first quarter of the seventh the load is low.
    assert done.summary["readings"] == sum(load(step) != "" for step in range(1, 6 * 96 + 24 + 1))
    assert done.summary["audit"]["verified"] is True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["terminate", "Ctrl-C"])
def test_demo__ends_every_process_when_it_is_told_to_stop(tmp_path: Path, number: signal.Signals):
    with (tmp_path / "err").open("w") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "fluxeon", "demo", "--once", "--data-dir", str(tmp_path / "data")],
            stdout=subprocess.DEVNULL,
            stderr=sink,
        )
        deadline = time.monotonic() + LIMIT_S
        while "history:" not in (tmp_path / "err").read_text():
            assert time.monotonic() < deadline
            assert process.poll() is None, (tmp_path / "err").read_text()
            time.sleep(0.1)
        os.kill(process.pid, number)
        assert process.wait(60) == 1
    text = (tmp_path / "err").read_text()
    assert text.splitlines()[-1].startswith("fluxeon: interrupted")
    assert "Traceback" not in text
    assert_nobody_listens(re.findall(r"http://127\.0\.0\.1:\d+", text))
