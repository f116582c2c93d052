"""Makes our own gateway want to buy: telemetry of a feeder that runs into its rating.

For any other buyer the operator does that by hand, while the suite waits.
"""

import math
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import aiohttp
import msgspec

from fluxeon.errors import CommandFailed
from gateway.clock import Clock, rfc3339

RATING_KW = 100.0
STEP = timedelta(minutes=15)
HISTORY = timedelta(days=9)
BACK = timedelta(days=3)
"""How far before now the feeder's present begins: its time runs ahead while the suite plays."""
TIMEOUT_S = 60.0


class OrderSeen(msgspec.Struct, frozen=True, kw_only=True):
    """An order as the gateway shows it."""

    order_id: str
    state: str
    bpp_id: str
    transaction_id: str
    delivered_kwh: float | None = None


class _Orders(msgspec.Struct, frozen=True, kw_only=True):
    orders: tuple[OrderSeen, ...]


class Drive:
    """Telemetry of one feeder to a gateway's own API.

    Args:
        base_url: Of the API.
        token: Bearer token of an administrator.
        feeder_id: A feeder of ours; made there.
        clock: Wall time.
    """

    def __init__(self, base_url: str, token: str, feeder_id: str, clock: Clock) -> None:
        self.feeder_id = feeder_id
        self._base = base_url.rstrip("/")
        self._http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S), headers={"Authorization": f"Bearer {token}"}
        )
        quarter = int(STEP.total_seconds())
        begin = (clock() - BACK).timestamp() // quarter * quarter
        self.now = datetime.fromtimestamp(begin, clock().tzinfo)
        """Event time: the end of the last slot posted."""

    async def close(self) -> None:
        """Close the connection."""
        await self._http.close()

    async def prepare(self) -> None:
        """Make the feeder and give it a history of calm days.

        Raises:
            CommandFailed: The gateway refuses.
        """
        slots = int(HISTORY / STEP)
        instants = [self.now - STEP * number for number in range(slots - 1, -1, -1)]
        await self._ask(
            "PUT", f"/config/feeders/{self.feeder_id}", {"rating_kw": RATING_KW, "sampling_min": 15}
        )
        await self._post((at, _calm_kw(at)) for at in instants)

    async def overload(self) -> None:
        """Post one more slot, over the rating."""
        self.now += STEP
        await self._post([(self.now, 1.25 * RATING_KW + self.now.hour % 3)])

    async def calm(self) -> None:
        """Post one more slot, well below the rating."""
        self.now += STEP
        await self._post([(self.now, _calm_kw(self.now))])

    async def orders(self) -> tuple[OrderSeen, ...]:
        """List the feeder's orders."""
        answer = await self._ask("GET", f"/beckn/orders?feeder_id={self.feeder_id}", None)
        try:
            return msgspec.json.decode(answer, type=_Orders).orders
        except msgspec.ValidationError:
            return msgspec.json.decode(answer, type=tuple[OrderSeen, ...])

    async def _post(self, readings: Iterable[tuple[datetime, float]]) -> None:
        batch = [
            {"feeder_id": self.feeder_id, "timestamp": rfc3339(at), "load_kw": round(kw, 3)}
            for at, kw in readings
        ]
        await self._ask("POST", "/telemetry", {"readings": batch})

    async def _ask(self, method: str, path: str, document: Any) -> bytes:
        try:
            async with self._http.request(
                method,
                self._base + path,
                data=None if document is None else msgspec.json.encode(document),
                headers={"Content-Type": "application/json"},
            ) as answer:
                body = await answer.read()
                if answer.status >= 300:
                    text = body[:300].decode(errors="replace")
                    raise CommandFailed(f"--drive {self._base}{path} answered {answer.status}: {text}")
                return body
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise CommandFailed(f"--drive {self._base}{path}: {exc or type(exc).__name__}") from exc


def _calm_kw(at: datetime) -> float:
    """A day like any other: lowest at four in the morning, well below the rating, never quite still."""
    hours = at.hour + at.minute / 60
    return 45.0 + 10.0 * math.sin((hours - 10) * math.pi / 12) + (at.minute % 7) * 0.1
