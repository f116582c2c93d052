"""Our own seller and our own gateway, as real processes, pass the whole conformance suite."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ADMIN, CONTROL = "conformance-admin-token", "conformance-control-token"
READY_WITHIN_S = 60.0

pytestmark = pytest.mark.slow


def free_ports(count):
    holders = [socket.socket() for _ in range(count)]
    try:
        for holder in holders:
            holder.bind(("127.0.0.1", 0))
        return [holder.getsockname()[1] for holder in holders]
    finally:
        for holder in holders:
            holder.close()


def fluxeon(*arguments: str, **environment):
    return {
        "args": [sys.executable, "-m", "fluxeon", *arguments],
        "cwd": ROOT,
        "env": {**os.environ, "PYTHONPATH": str(ROOT), **environment},
    }


@contextlib.contextmanager
def process(log, command):
    with log.open("ab") as sink:
        running = subprocess.Popen(**command, stdout=sink, stderr=subprocess.STDOUT)
    try:
        yield running
    finally:
        if running.poll() is None:
            running.send_signal(signal.SIGTERM)
        try:
            running.wait(15)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait(15)


def ready(url, running, log):
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        assert running.poll() is None, log.read_text()
        with (
            contextlib.suppress(urllib.error.URLError, ConnectionError),
            urllib.request.urlopen(f"{url}/health/ready") as answer,
        ):
            document = json.load(answer)
            if document.get("registered", True):
                return
        time.sleep(0.1)
    pytest.fail(f"not ready: {log.read_text()}")


@pytest.fixture
def registry_url(tmp_path):
    (port,) = free_ports(1)
    url, log = f"http://127.0.0.1:{port}", tmp_path / "registry.log"
    command = fluxeon("registry", "--port", str(port), "--data-dir", str(tmp_path / "registry"))
    with process(log, command) as running:
        ready(url, running, log)
        yield url


def conformance(*arguments: str, **environment):
    done = subprocess.run(
        **fluxeon("conformance", "run", "--json", *arguments, **environment),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.stdout, done.stderr
    return done, json.loads(done.stdout)


def not_passed(report):
    return [
        (each["id"], each["outcome"], each.get("came"))
        for each in report["cases"]
        if each["outcome"] not in ("passed", "skipped")
    ]


@pytest.mark.parametrize(("generation", "cases", "skipped"), [("2.0", 120, 0), ("1.1", 110, 3)])
def test_our_seller_is_conformant(registry_url, tmp_path, generation, cases, skipped):
    (port,) = free_ports(1)
    url, log, junit = f"http://127.0.0.1:{port}", tmp_path / "bpp.log", tmp_path / "junit.xml"
    command = fluxeon(
        "bpp",
        *(
            "--generation",
            generation,
            "--subscriber-id",
            "bpp-alpha.example",
            "--port",
            str(port),
            "--registry-url",
            registry_url,
        ),
        *(
            "--portfolio",
            str(ROOT / "seeds" / "portfolios" / "alpha.json"),
            "--data-dir",
            str(tmp_path / "bpp"),
        ),
        FLUXEON_CONTROL_TOKEN=CONTROL,
    )
    with process(log, command) as running:
        ready(url, running, log)
        done, report = conformance(
            *("--generation", generation, "--target", f"{url}/beckn", "--registry", registry_url),
            *("--clock-url", f"{url}/control/clock", "--junit", str(junit)),
            FLUXEON_CONTROL_TOKEN=CONTROL,
        )
    assert not_passed(report) == []
    assert (done.returncode, report["conformant"], report["score"]) == (0, True, 100.0)
    assert report["passed"] >= cases
    assert report["skipped"] == skipped
    suite = ET.parse(junit).getroot()
    assert (suite.get("tests"), suite.get("failures")) == (
        str(report["passed"] + report["skipped"]),
        "0",
    )


@pytest.mark.parametrize(("generation", "cases", "skipped"), [("2.0", 120, 0), ("1.1", 110, 3)])
def test_our_gateway_is_conformant(registry_url, tmp_path, generation, cases, skipped):
    (port,) = free_ports(1)
    url, log = f"http://127.0.0.1:{port}", tmp_path / "gateway.log"
    command = fluxeon(
        "serve",
        *("--port", str(port), "--data-dir", str(tmp_path / "gateway")),
        FLUXEON_ADMIN_TOKEN=ADMIN,
        FLUXEON_REGISTRY_URL=registry_url,
        FLUXEON_SUBSCRIBER_ID="bap.fluxeon.example",
        FLUXEON_CALLBACK_TIMEOUT_S="30",
    )
    with process(log, command) as running:
        ready(url, running, log)
        done, report = conformance(
            *("--role", "bap", "--target", f"{url}/beckn", "--registry", registry_url),
            *("--generation", generation, "--drive", url),
            FLUXEON_ADMIN_TOKEN=ADMIN,
        )
    assert not_passed(report) == []
    assert (done.returncode, report["conformant"], report["score"]) == (0, True, 100.0)
    assert report["passed"] >= cases
    assert report["skipped"] == skipped


def test_a_target_nobody_knows_ends_with_one_line(registry_url):
    done = subprocess.run(
        **fluxeon(
            "conformance",
            "run",
            *("--target", "http://127.0.0.1:9/beckn", "--registry", registry_url, "--patience", "0.3"),
        ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("fluxeon: a BPP at http://127.0.0.1:9/beckn is not in the registry")
    assert done.stderr.count("\n") == 1
