"""The demo's processes: registry, sellers and gateway, started and stopped by pid.

Rules:

* Every process is ``python -m fluxeon ...`` with its own folder, log file and session, on a free
  loopback port; secrets go through the environment, never through the command line.
* A process that dies or is not ready in time ends the demo with the last line of its log.
* Whatever happens, every process started here is ended here: asked first, killed after a grace.
"""

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from fluxeon.errors import CommandFailed
from gateway.config import PREFIX
from seeds.load import ParticipantSeed

HOST = "127.0.0.1"
READY_WITHIN_S = 60.0
POLL_S = 0.05
STOP_GRACE_S = 8.0
WATCH_S = 0.5
CONTROL_TOKEN_VARIABLE = PREFIX + "CONTROL_TOKEN"


@dataclass(frozen=True)
class Endpoint:
    """Where a process listens and what opens its protected paths."""

    name: str
    port: int
    token: str

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://{HOST}:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        """Headers that open its protected paths."""
        return {"Authorization": f"Bearer {self.token}"}


@dataclass(frozen=True)
class Layout:
    """Who listens where, and the folder everything is kept in; the gateway's data is at its top."""

    folder: Path
    registry: Endpoint
    gateway: Endpoint
    sellers: tuple[tuple[ParticipantSeed, Endpoint], ...]

    def seller_dir(self, seller: ParticipantSeed) -> Path:
        """A seller's data folder."""
        return self.folder / "sellers" / seller.provider_id

    def portfolio(self, seller: ParticipantSeed) -> Path:
        """A seller's portfolio file."""
        return self.folder / "portfolios" / f"{seller.provider_id}.json"

    def log(self, name: str) -> Path:
        """A process's log file."""
        return self.folder / "logs" / f"{name}.log"


def lay_out(folder: Path, sellers: Sequence[ParticipantSeed]) -> Layout:
    """Pick a free port and a fresh token for every process."""
    ports = free_ports(len(sellers) + 2)
    names = ["registry", "gateway", *(seller.provider_id for seller in sellers)]
    registry, gateway, *rest = (
        Endpoint(name, port, secrets.token_urlsafe(32)) for name, port in zip(names, ports, strict=True)
    )
    return Layout(folder, registry, gateway, tuple(zip(sellers, rest, strict=True)))


def free_ports(count: int) -> list[int]:
    """Find loopback ports nobody listens on; all are held until the last is found, so they differ."""
    holders = [socket.socket() for _ in range(count)]
    try:
        for holder in holders:
            holder.bind((HOST, 0))
        return [int(holder.getsockname()[1]) for holder in holders]
    finally:
        for holder in holders:
            holder.close()


@dataclass
class Running:
    """One child process."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def failure(self) -> str | None:
        """Say how it died, with the last line it wrote, or None while it lives."""
        code = self.process.poll()
        if code is None:
            return None
        return f"{self.name} ended with code {code}: {last_line(self.log)} (log: {self.log})"


@dataclass
class World:
    """The processes of one demo."""

    layout: Layout
    domain: str
    gateway_id: str
    generation: str = "2.0"
    """Beckn generation of the sellers; with ``mixed`` every other one speaks 1.1."""
    running: list[Running] = field(default_factory=list)

    async def start(self, http: aiohttp.ClientSession, say: Callable[[str], None]) -> None:
        """Start everything and wait until it is ready.

        Raises:
            CommandFailed: A process died or is not ready in time.
        """
        layout = self.layout
        layout.log("x").parent.mkdir(parents=True, exist_ok=True)
        say(f"registry   {layout.registry.url}")
        self._launch("registry", self._registry_command(), {})
        await self._ready(http, layout.registry)
        for number, (seller, endpoint) in enumerate(layout.sellers):
            spoken = seller_generation(self.generation, number)
            say(
                f"seller     {endpoint.url}  {seller.provider_name} ({seller.subscriber_id}), {seller.about}"
                f"; speaks Beckn {spoken}"
            )
            self._launch(
                seller.provider_id,
                self._seller_command(seller, endpoint, spoken),
                {CONTROL_TOKEN_VARIABLE: endpoint.token},
            )
        say(f"gateway    {layout.gateway.url}")
        self._launch("gateway", self._gateway_command(), self._gateway_environment())
        for _, endpoint in layout.sellers:
            await self._ready(http, endpoint, registered=True)
        await self._ready(http, layout.gateway)

    def check(self) -> None:
        """Make sure that every process lives.

        Raises:
            CommandFailed: One has ended.
        """
        for child in self.running:
            failure = child.failure()
            if failure is not None:
                raise CommandFailed(failure)

    async def watch(self) -> None:
        """Keep running until told to stop.

        Raises:
            CommandFailed: A process has ended.
        """
        while True:
            self.check()
            await asyncio.sleep(WATCH_S)

    def stop(self) -> None:
        """End every process started here: sellers' buyer first, the registry last."""
        for child in reversed(self.running):
            if child.process.poll() is None:
                child.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_GRACE_S
        for child in reversed(self.running):
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
        self.running.clear()

    def _launch(self, name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        log = self.layout.log(name)
        with log.open("ab") as sink:
            # A session of its own: Ctrl-C reaches the demo alone, which then ends its children in order.
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "fluxeon", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},  # noqa: TID251 - handed on to children
                start_new_session=True,
            )
        self.running.append(Running(name, process, log))

    async def _ready(
        self, http: aiohttp.ClientSession, endpoint: Endpoint, *, registered: bool = False
    ) -> None:
        """Wait until a process answers that it is ready (and known to the registry)."""
        deadline = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline:
            self.check()
            try:
                async with http.get(f"{endpoint.url}/health/ready") as answer:
                    if answer.status == 200 and (not registered or (await answer.json())["registered"]):
                        return
            except aiohttp.ClientConnectionError:
                pass  # not listening yet: that is what is waited for
            await asyncio.sleep(POLL_S)
        log = self.layout.log(endpoint.name)
        raise CommandFailed(
            f"{endpoint.name} is not ready after {READY_WITHIN_S:.0f} s: {last_line(log)} (log: {log})"
        )

    def _registry_command(self) -> list[str]:
        return [
            "registry",
            *("--host", HOST, "--port", str(self.layout.registry.port)),
            *("--data-dir", str(self.layout.folder / "registry")),
        ]

    def _seller_command(self, seller: ParticipantSeed, endpoint: Endpoint, generation: str) -> list[str]:
        return [
            "bpp",
            *("--subscriber-id", seller.subscriber_id),
            *("--host", HOST, "--port", str(endpoint.port)),
            *("--public-url", endpoint.url, "--registry-url", self.layout.registry.url),
            *("--portfolio", str(self.layout.portfolio(seller))),
            *("--data-dir", str(self.layout.seller_dir(seller))),
            *("--generation", generation),
        ]

    def _gateway_command(self) -> list[str]:
        gateway = self.layout.gateway
        return [
            "serve",
            "--host",
            HOST,
            "--port",
            str(gateway.port),
            "--data-dir",
            str(self.layout.folder),
        ]

    def _gateway_environment(self) -> dict[str, str]:
        gateway = self.layout.gateway
        return {
            PREFIX + "ADMIN_TOKEN": gateway.token,
            PREFIX + "REGISTRY_URL": self.layout.registry.url,
            PREFIX + "PUBLIC_URL": gateway.url,
            PREFIX + "SUBSCRIBER_ID": self.gateway_id,
            PREFIX + "DOMAIN": self.domain,
        }


def seller_generation(chosen: str, number: int) -> str:
    """Generation the n-th seller (from 0) speaks in a demo of a generation."""
    if chosen != "mixed":
        return chosen
    return "2.0" if number % 2 == 0 else "1.1"


def last_line(log: Path) -> str:
    """Return the last line of a log that says something."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")
