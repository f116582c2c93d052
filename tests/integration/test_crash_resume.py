"""A gateway that is killed in the middle of a negotiation goes on where it was.

Every kill comes at a known point: while the seller holds a callback back, or from inside the seller's
handling of a request, before it has acknowledged. Nothing here depends on how fast anybody is.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest
import pytest_asyncio
from harness import EVENING, SLOT, Network, ScriptedSeller, eventually, network, scripted_seller

from gateway.beckn.verify import VerifiedMessage

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

_numbers = count(1)


@dataclass
class Trade:
    """A feeder of its own, traded with one seller."""

    net: Network
    seller: ScriptedSeller
    feeder_id: str
    order: dict[str, Any]

    @property
    def transaction_id(self) -> str:
        return str(self.order["transaction_id"])

    async def complete(self) -> dict[str, Any]:
        """Let event time pass the window; the seller reports a full delivery."""
        await self.net.order_in(self.feeder_id, "CONFIRMED")
        self.seller.finished = True
        await self.net.let_pass(self.feeder_id, EVENING + SLOT, EVENING + 5 * SLOT)
        done = await self.net.order_in(self.feeder_id, "COMPLETED")
        self.seller.finished = False
        return done

    async def check(self, done: dict[str, Any]) -> None:
        """One CONFIRM for the one order, everything delivered counted once, and the evidence whole."""
        assert [order["obp_id"] for order in await self.net.orders(self.feeder_id)] == [done["obp_id"]]
        assert done["obp_id"] == self.order["obp_id"]
        assert done["delivered_kwh"] == done["requested_kwh"]
        copies = await asyncio.to_thread(self.net.contexts, "confirm", self.transaction_id)
        assert len({context["messageId"] for context in copies}) == 1, copies
        assert len({one.digest for one in self.seller.of("confirm", self.transaction_id)}) == 1
        states = [move["state"] for move in done["moves"]]
        # An answer may have been awaited twice, but no step was gone through twice.
        assert [state for before, state in zip(["", *states], states, strict=False) if state != before] == [
            "SELECTING",
            "INITIALISING",
            "CONFIRMING",
            "CONFIRMED",
            "COMPLETING",
            "COMPLETED",
        ]
        assert await asyncio.to_thread(self.net.verify) > 0
        story = await self.net.get(f"/audit/obp/{done['obp_id']}")
        assert story["obp_id"] == done["obp_id"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Network, ScriptedSeller]]:
    async with AsyncExitStack() as stack:
        net = await stack.enter_async_context(
            # Long enough that a restart on a busy machine comes before any time-out.
            network(tmp_path_factory.mktemp("crash") / "data", gateway=False, callback_timeout_s=20)
        )
        seller = await stack.enter_async_context(scripted_seller(net, "bpp-alpha.example"))
        await net.start_gateway()
        yield net, seller


async def trade(stage: tuple[Network, ScriptedSeller], *, hold: str | None = None) -> Trade:
    """Run a feeder into an overload."""
    net, seller = stage
    if hold is not None:
        seller.hold(hold)
    feeder_id = f"FDR_{next(_numbers):03d}"
    await net.overload(feeder_id)
    (order,) = await net.orders(feeder_id)
    return Trade(net, seller, feeder_id, order)


@pytest.mark.parametrize(
    ("held", "state"), [("select", "SELECTING"), ("init", "INITIALISING"), ("confirm", "CONFIRMING")]
)
async def test_kill_while_the_seller_thinks__the_order_completes_after_the_restart(stage, held, state):
    deal = await trade(stage, hold=held)
    net, seller = stage
    await seller.request(held, deal.transaction_id)
    await net.order_in(deal.feeder_id, state)
    net.kill_gateway()
    seller.release(held)  # it speaks while nobody listens, and keeps trying
    await net.start_gateway()
    done = await deal.complete()
    await deal.check(done)


@pytest.mark.parametrize("action", ["select", "init", "confirm"])
async def test_kill_before_the_ack_has_come__the_request_is_repeated_as_it_was(stage, action):
    net, seller = stage
    killed = asyncio.Event()

    async def kill(_message: VerifiedMessage) -> None:
        del seller.on_request[action]
        net.kill_gateway()
        killed.set()

    seller.on_request[action] = kill
    deal = await trade_until_killed(stage, killed)
    await net.start_gateway()
    await net.order_in(deal.feeder_id, "CONFIRMED")
    copies = seller.of(action, deal.transaction_id)
    assert len(copies) >= 2
    assert len({one.body for one in copies}) == 1
    assert len({one.signature for one in copies}) == len(copies)
    done = await deal.complete()
    await deal.check(done)


async def trade_until_killed(stage: tuple[Network, ScriptedSeller], killed: asyncio.Event) -> Trade:
    """As :func:`trade`, for a gateway that may die before its order can be read over HTTP."""
    net, seller = stage
    feeder_id = f"FDR_{next(_numbers):03d}"
    before = len(seller.of("select"))
    try:
        await net.overload(feeder_id)
    except OSError:  # it was killed while it answered
        assert killed.is_set()
    await asyncio.wait_for(killed.wait(), 30)
    request = seller.of("select")[before]
    attributes = request.message["contract"]["contractAttributes"]
    order = {"transaction_id": request.context.transaction_id, "obp_id": attributes["obpId"]}
    return Trade(net, seller, feeder_id, order)


async def test_kill_during_delivery__the_window_still_ends_and_settles(stage):
    deal = await trade(stage)
    net, _ = stage
    await net.order_in(deal.feeder_id, "CONFIRMED")
    await net.let_pass(deal.feeder_id, EVENING + SLOT, EVENING + 2 * SLOT)
    net.kill_gateway()
    await net.start_gateway()
    deal.seller.finished = True
    await net.let_pass(deal.feeder_id, EVENING + 2 * SLOT, EVENING + 5 * SLOT)
    done = await net.order_in(deal.feeder_id, "COMPLETED")
    deal.seller.finished = False
    await deal.check(done)


async def test_kill_after_completion__nothing_is_done_again(stage):
    deal = await trade(stage)
    net, seller = stage
    done = await deal.complete()
    requests = len(seller.requests)
    net.kill_gateway()
    await net.start_gateway()
    (again,) = await net.orders(deal.feeder_id)
    assert again == done
    await net.let_pass(deal.feeder_id, EVENING + 5 * SLOT, EVENING + 6 * SLOT)
    assert [one.action for one in seller.requests[requests:] if one.action != "discover"] == []
    await deal.check(again)


async def test_restart_after_the_confirm_has_lapsed__is_cancelled_with_an_alarm_never_dropped(stage):
    """The one doubt that cannot be resolved: was the CONFIRM taken? It ends in the open, bound to nothing."""
    net, seller = stage
    await net.stop_gateway()
    await net.start_gateway(message_ttl_s=3, callback_timeout_s=3)
    killed = asyncio.Event()

    async def kill(_message: VerifiedMessage) -> None:
        del seller.on_request["confirm"]
        net.kill_gateway()
        killed.set()

    seller.on_request["confirm"] = kill
    seller.hold("confirm")
    deal = await trade_until_killed(stage, killed)
    await asyncio.sleep(4.0)  # longer than a message of ours wants to live
    await net.start_gateway()
    ended = await net.order_in(deal.feeder_id, "CANCELLED")
    assert [one.code for one in seller.refusals] == ["CTX_TTL_EXPIRED"]
    assert len(seller.of("cancel", deal.transaction_id)) == 1
    (alarm,) = await net.alarms("confirm_in_doubt")
    assert ended["order_id"] in alarm["detail"]
    copies = await asyncio.to_thread(net.contexts, "confirm", deal.transaction_id)
    assert len({context["messageId"] for context in copies}) == 1
    # What the seller says late has no effect any more.
    seller.release("confirm")
    await eventually(lambda: _taken(net, "on_confirm", deal.transaction_id), "the late on_confirm")
    assert (await net.orders(deal.feeder_id))[0]["state"] == "CANCELLED"
    assert await asyncio.to_thread(net.verify) > 0


async def _taken(net: Network, action: str, transaction_id: str) -> bool:
    return bool(await asyncio.to_thread(net.contexts, action, transaction_id))
