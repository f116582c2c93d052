"""What the demo says to the gateway and to the sellers: public APIs only.

Rules:

* An unexpected status ends the demo with what the server said, not with a traceback.
* Bodies are read into structs; members the demo does not use are ignored.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec

from fluxeon.demo.source import DemoFeeder
from fluxeon.demo.summary import OrderRow, StatsRow
from fluxeon.demo.world import Endpoint
from fluxeon.errors import CommandFailed
from gateway.clock import rfc3339

Shape = TypeVar("Shape")

JSON = {"Content-Type": "application/json"}
NOTHING_ACCEPTABLE = 422
MAX_SHOWN_CHARS = 300
MAX_ORDERS = 1000


class SlotRow(msgspec.Struct, frozen=True, kw_only=True):
    """One slot of a forecast: mean kW from ``start``."""

    start: datetime
    load_kw: float
    lower_kw: float
    upper_kw: float

    @property
    def bound_kw(self) -> float:
        """Highest |load| inside the interval."""
        return max(abs(self.lower_kw), abs(self.upper_kw))


class PlanLineRow(msgspec.Struct, frozen=True, kw_only=True):
    """One DER of a planned order."""

    kw: float


class PlanOrderRow(msgspec.Struct, frozen=True, kw_only=True):
    """One planned order."""

    window_start: datetime
    window_end: datetime
    lines: tuple[PlanLineRow, ...] = ()


class PlanRow(msgspec.Struct, frozen=True, kw_only=True):
    """A plan, as far as the demo shows it."""

    orders: tuple[PlanOrderRow, ...] = ()

    @property
    def peak_kw(self) -> float:
        """Highest power ordered at once."""
        starts = {order.window_start for order in self.orders}
        return max((self._kw_at(start) for start in starts), default=0.0)

    def _kw_at(self, instant: datetime) -> float:
        return sum(
            line.kw
            for order in self.orders
            if order.window_start <= instant < order.window_end
            for line in order.lines
        )


class ChangeRow(msgspec.Struct, frozen=True, kw_only=True, rename={"from_state": "from", "to_state": "to"}):
    """A transition in a telemetry answer."""

    id: str
    from_state: int | None
    to_state: int | None
    at: datetime
    confidence: float | None = None
    plan: PlanRow | None = None


class StateRow(msgspec.Struct, frozen=True, kw_only=True):
    """What a telemetry answer says about one feeder."""

    feeder_id: str
    state: int | None
    last_state: int | None = None
    forecast: tuple[SlotRow, ...] = ()
    state_change: ChangeRow | None = None
    reason: str | None = None
    plan: PlanRow | None = None


class RejectionRow(msgspec.Struct, frozen=True, kw_only=True):
    """A reading that was not taken."""

    code: str
    detail: str
    feeder_id: str | None = None


class _RejectedFacts(msgspec.Struct, frozen=True, kw_only=True):
    rejected: tuple[RejectionRow, ...]


class _NothingAcceptable(msgspec.Struct, frozen=True, kw_only=True):
    facts: _RejectedFacts


class TelemetryRow(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to ``POST /telemetry``."""

    accepted: int = 0
    rejected: tuple[RejectionRow, ...] = ()
    states: tuple[StateRow, ...] = ()


class AlarmRow(msgspec.Struct, frozen=True, kw_only=True):
    """An alarm of the gateway."""

    alarm_id: str
    kind: str
    detail: str
    feeder_id: str | None = None


class _CatalogueDer(msgspec.Struct, frozen=True, kw_only=True):
    der_id: str


class _CatalogueRow(msgspec.Struct, frozen=True, kw_only=True):
    der: _CatalogueDer
    bpp_id: str


class _ClockAnswer(msgspec.Struct, frozen=True, kw_only=True):
    relief: dict[str, float]
    callbacks: int


class _WaitingAnswer(msgspec.Struct, frozen=True, kw_only=True):
    callbacks_waiting: int


class Tick(msgspec.Struct, frozen=True, kw_only=True):
    """What passing event time led to at one seller: mean relief (> 0 lowers import), reports under way."""

    relief_kw: dict[str, float]
    callbacks: int


class GatewayApi:
    """The gateway as its operators see it."""

    def __init__(self, http: aiohttp.ClientSession, endpoint: Endpoint) -> None:
        self._http = http
        self._endpoint = endpoint

    async def put_feeder(self, feeder: DemoFeeder) -> None:
        """Configure a feeder."""
        config: dict[str, Any] = {
            "rating_kw": feeder.rating_kw,
            "sampling_min": feeder.series.step_min,
        }
        if feeder.seed is not None:
            config |= {
                "name": feeder.seed.name,
                "substation": feeder.seed.substation,
                "country": feeder.seed.country,
                "timezone": feeder.seed.timezone,
                "location": msgspec.to_builtins(feeder.seed.location),
            }
        path = f"/config/feeders/{quote(feeder.feeder_id, safe='')}"
        await self._ask("PUT", path, dict[str, Any], body=config)

    async def post_readings(self, readings: Sequence[Mapping[str, Any]]) -> TelemetryRow:
        """Post a batch; one in which no reading was acceptable is an answer too."""
        status, body = await self._raw("POST", "/telemetry", body={"readings": readings})
        if status == NOTHING_ACCEPTABLE:
            return TelemetryRow(rejected=_rejections(body))
        return self._read("POST /telemetry", status, body, TelemetryRow)

    async def orders(self, *, newest: int) -> tuple[OrderRow, ...]:
        """List the newest orders with their moves, oldest first."""
        found = await self._ask("GET", "/beckn/orders", list[OrderRow], params={"limit": str(newest)})
        return tuple(sorted(found, key=lambda order: order.detected_at))

    async def orders_of(self, feeder_id: str) -> tuple[OrderRow, ...]:
        """List a feeder's orders with their moves, oldest first."""
        params = {"limit": str(MAX_ORDERS), "feeder_id": feeder_id}
        found = await self._ask("GET", "/beckn/orders", list[OrderRow], params=params)
        return tuple(sorted(found, key=lambda order: order.detected_at))

    async def stats(self) -> StatsRow:
        """Count the orders between decision and CONFIRM; latencies so far."""
        return await self._ask("GET", "/beckn/orders/stats", StatsRow)

    async def catalogue_ders(self, feeder_id: str) -> dict[str, int]:
        """Count the DERs known at a feeder, by seller."""
        rows = await self._ask("GET", "/catalogue", list[_CatalogueRow], params={"feeder_id": feeder_id})
        ders: dict[str, set[str]] = {}
        for row in rows:
            ders.setdefault(row.bpp_id, set()).add(row.der.der_id)
        return {seller: len(ids) for seller, ids in ders.items()}

    async def alarms(self, *, newest: int) -> tuple[AlarmRow, ...]:
        """List the newest alarms, oldest first."""
        params = {"limit": str(newest)}
        return tuple(reversed(await self._ask("GET", "/alarms", list[AlarmRow], params=params)))

    async def _ask(
        self,
        method: str,
        path: str,
        kind: type[Shape],
        *,
        body: Any = None,
        params: Mapping[str, str] | None = None,
    ) -> Shape:
        status, answer = await self._raw(method, path, body=body, params=params)
        return self._read(f"{method} {path}", status, answer, kind)

    async def _raw(
        self, method: str, path: str, *, body: Any = None, params: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        return await _request(self._http, self._endpoint, method, path, body=body, params=params)

    def _read(self, what: str, status: int, body: bytes, kind: type[Shape]) -> Shape:
        return _read(f"gateway: {what}", status, body, kind)


class SellerApi:
    """A seller's control endpoint: no part of Beckn, it stands for the passing of time."""

    def __init__(self, http: aiohttp.ClientSession, endpoint: Endpoint) -> None:
        self._http = http
        self._endpoint = endpoint

    async def tick(self, at: datetime) -> Tick:
        """Let event time pass to an instant."""
        status, body = await _request(
            self._http, self._endpoint, "POST", "/control/clock", body={"event_time": rfc3339(at)}
        )
        answer = _read(f"{self._endpoint.name}: POST /control/clock", status, body, _ClockAnswer)
        return Tick(relief_kw=answer.relief, callbacks=answer.callbacks)

    async def waiting(self) -> int:
        """Count the reports it has not delivered yet."""
        status, body = await _request(self._http, self._endpoint, "GET", "/control/waiting")
        answer = _read(f"{self._endpoint.name}: GET /control/waiting", status, body, _WaitingAnswer)
        return answer.callbacks_waiting


async def _request(
    http: aiohttp.ClientSession,
    endpoint: Endpoint,
    method: str,
    path: str,
    *,
    body: Any = None,
    params: Mapping[str, str] | None = None,
) -> tuple[int, bytes]:
    """Send a request; a connection that fails ends the demo."""
    try:
        async with http.request(
            method,
            endpoint.url + path,
            data=None if body is None else msgspec.json.encode(body),
            params=params,
            headers={**endpoint.headers, **JSON} if body is not None else endpoint.headers,
        ) as answer:
            return answer.status, await answer.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise CommandFailed(f"{endpoint.name}: {method} {path}: {error or type(error).__name__}") from error


def _read(what: str, status: int, body: bytes, kind: type[Shape]) -> Shape:
    """Read a body of a good answer.

    Raises:
        CommandFailed: Another status, or a body of another shape.
    """
    if not 200 <= status < 300:
        raise CommandFailed(f"{what} answered {status}: {body.decode(errors='replace')[:MAX_SHOWN_CHARS]}")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise CommandFailed(f"{what} answered what cannot be read: {error}") from error


def _rejections(body: bytes) -> tuple[RejectionRow, ...]:
    """Rejections inside the problem document of a batch without an acceptable reading."""
    return msgspec.json.decode(body, type=_NothingAcceptable).facts.rejected
