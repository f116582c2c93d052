"""Run the mock world's processes: blocking, one per call, until the process is told to stop."""

import logging
from pathlib import Path

import uvicorn
from litestar import Litestar

from gateway.beckn.dialect import Generation
from gateway.beckn.guard import GuardedProtocol
from gateway.clock import utc_now
from registry.app import create_registry
from registry.bpp.app import DEFAULT_DOMAIN, BppSettings, create_bpp

KEEP_ALIVE_S = 75
"""Longer than any of our clients keeps an idle connection, so that none meets a closed one."""


def run_registry(host: str, port: int, data_dir: Path) -> None:
    """Serve the mock registry.

    Args:
        host: Address to listen on.
        port: Port to listen on.
        data_dir: Its folder; created where it is missing.

    Raises:
        StoreError: The folder cannot be used.
    """
    _log_to_stderr()
    _serve(create_registry(data_dir, clock=utc_now), host, port)


def run_bpp(
    *,
    subscriber_id: str,
    host: str,
    port: int,
    public_url: str,
    registry_url: str,
    portfolio: Path,
    data_dir: Path,
    control_token: str | None = None,
    seed: int = 0,
    domain: str = DEFAULT_DOMAIN,
    generation: Generation = Generation.V2,
) -> None:
    """Serve one mock aggregator.

    Args:
        subscriber_id: Its id on the network, such as ``bpp-alpha.example``.
        host: Address to listen on.
        port: Port to listen on.
        public_url: Base URL under which others reach it.
        registry_url: Where it registers and looks up keys.
        portfolio: Its portfolio file (:mod:`registry.bpp.portfolio`).
        data_dir: Its folder for key and database; created where it is missing.
        control_token: Bearer token of ``/control``; None closes it.
        seed: Of the delivery's imperfections.
        domain: Beckn domain it registers in.
        generation: Generation of Beckn it takes requests in.

    Raises:
        ConfigError: Portfolio or key cannot be used.
        StoreError: The folder cannot be used.
    """
    _log_to_stderr()
    settings = BppSettings(
        subscriber_id=subscriber_id,
        public_url=public_url,
        registry_url=registry_url,
        portfolio=portfolio,
        data_dir=data_dir,
        control_token=control_token,
        seed=seed,
        domain=domain,
        generation=generation,
    )
    _serve(create_bpp(settings, clock=utc_now), host, port)


def _serve(app: Litestar, host: str, port: int) -> None:
    uvicorn.run(
        app,
        host=host,
        port=port,
        loop="uvloop",
        http=GuardedProtocol,
        ws="none",
        access_log=False,
        log_config=None,
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_S,
        server_header=False,
        timeout_graceful_shutdown=3,
    )


def _log_to_stderr() -> None:
    """One line per event; libraries only from warnings on."""
    logging.basicConfig(
        level=logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    for name in ("registry", "bpp"):
        logging.getLogger(name).setLevel(logging.INFO)
