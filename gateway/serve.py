"""Run the gateway as a process."""

import gc
import logging
import socket
import sys

import uvicorn
from litestar import Litestar

from gateway.app import create_app
from gateway.beckn.guard import GuardedProtocol
from gateway.config import Settings
from gateway.errors import ConfigError


def run(settings: Settings) -> None:
    """Serve until stopped by a signal.

    Port 0 picks a free port, which is printed. A token made on first start is printed once, on
    stdout, and never again.

    Raises:
        ConfigError: The address cannot be bound, or the data folder cannot be used.
    """
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    # The event loop and the writer thread hand over to one another several times per message: the
    # default of 5 ms before a waiting thread may run would be most of an order's latency.
    sys.setswitchinterval(0.0005)
    listener = _bind(settings)
    host, port = listener.getsockname()[:2]
    base = settings.public_url or f"http://{host}:{port}"
    app = create_app(settings, public_url=base)
    server = _AnnouncingServer(
        uvicorn.Config(
            app,
            loop="uvloop",
            http=GuardedProtocol,
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=5,
        ),
        app,
        base,
    )
    server.run(sockets=[listener])
    if not server.started:
        raise ConfigError("the gateway could not start; the reason stands above")


def _bind(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as exc:
        listener.close()
        raise ConfigError(f"settings 'host' and 'port': cannot listen there: {exc}") from exc
    return listener


class _AnnouncingServer(uvicorn.Server):
    """Says where it listens once it does, and shows a new token once."""

    def __init__(self, config: uvicorn.Config, app: Litestar, base: str) -> None:
        super().__init__(config)
        self._app = app
        self._base = base

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then announce."""
        await super().startup(sockets=sockets)
        if not self.started:
            return
        # What is alive now stays: a full collection over it would stop the loop for tens of milliseconds.
        gc.collect()
        gc.freeze()
        print(f"FLUXEON gateway listening on {self._base}", flush=True)  # noqa: T201
        token = self._app.state.runtime.first_token
        if token is not None:
            print(f"administrator token (shown once): {token}", flush=True)  # noqa: T201
