"""A batch is decided and stored whole, or it leaves no trace and may be sent again."""

import asyncio
from typing import Any

import pytest
from trading_world import EVENT, FEEDER, HIGH_KW, QUIET_KW, SLOT, offer

from gateway.errors import ModelError, StoreError
from gateway.store.tables import feeder_state, reading


async def assert_untouched(world, readings):
    assert world.roster[FEEDER].window.newest_at == EVENT
    assert world.roster[FEEDER].assessment.origin_at == EVENT
    assert len(await world.rows(reading)) == readings
    assert await world.orders() == []
    # The same batch, sent again, counts as new.
    answer = await world.slot(HIGH_KW)
    assert answer.states[0].state_change.to_state == 2
    assert len(await world.rows(reading)) == readings + 1


@pytest.fixture
async def ready(world):
    await world.configure()
    world.put_offers(offer("bpp-alpha.example"))
    await world.quiet_history()
    return world


async def test_forecast_that_fails__leaves_no_trace_of_its_batch(ready, monkeypatch):
    def fail(*_args: Any, **_named: Any):
        raise ModelError("the graph answered nonsense")

    stored = len(await ready.rows(reading))
    monkeypatch.setattr(ready.pipeline._forecaster, "assess", fail)
    with pytest.raises(ModelError):
        await ready.post((EVENT + SLOT, HIGH_KW))
    monkeypatch.undo()
    await assert_untouched(ready, stored)


async def test_store_that_fails__leaves_no_trace_of_the_batch(ready, monkeypatch):
    async def fail(_job):
        raise StoreError("disk full")

    stored = len(await ready.rows(reading))
    monkeypatch.setattr(ready.ledger, "commit", fail)
    with pytest.raises(StoreError):
        await ready.post((EVENT + SLOT, HIGH_KW))
    # A reading that only fills a gap decides nothing; it must not stay in memory alone either.
    gap = EVENT - 20 * SLOT
    with pytest.raises(StoreError):
        await ready.post((gap, QUIET_KW))
    monkeypatch.undo()
    assert ready.roster[FEEDER].window.known(gap) is None
    await assert_untouched(ready, stored)


async def test_decision_that_fails_inside_the_transaction__leaves_no_trace(ready, monkeypatch):
    def fail(*_args: Any):
        raise ModelError("the quantiles cross")

    stored = len(await ready.rows(reading))
    monkeypatch.setattr(ready.buyer, "decide", fail)
    with pytest.raises(ModelError):
        await ready.post((EVENT + SLOT, HIGH_KW))
    monkeypatch.undo()
    await assert_untouched(ready, stored)


async def test_same_transition_posted_by_two_at_once__is_decided_once(ready):
    answers = await asyncio.gather(*(ready.post((EVENT + SLOT, HIGH_KW)) for _ in range(3)))
    changes = [answer.states[0].state_change for answer in answers]
    assert sum(change is not None for change in changes) == 1
    assert len(await ready.orders()) == 1
    assert len(await ready.entries("state.changed")) == 1


async def test_crash__loses_little_of_what_was_learned(ready):
    for n in range(5):
        await ready.slot(QUIET_KW + n)
    await ready.pipeline.look_after()
    learned = ready.roster[FEEDER].learned.to_bytes()
    await ready.slot(QUIET_KW + 5)
    assert ready.roster[FEEDER].learned.to_bytes() != learned
    await ready.restart()
    assert ready.roster[FEEDER].learned.to_bytes() == learned


async def test_what_was_learned__is_stored_a_few_feeders_at_a_time_the_longest_waiting_first(ready):
    for feeder_id in ("FDR_002", "FDR_003"):
        await ready.configure(feeder_id)
        await ready.quiet_history(feeder_id)
    await ready.slot(QUIET_KW, "FDR_003")
    await ready.roster.store_learned(at_most=1)
    assert {one.feeder_id: one.unsaved_slots for one in ready.roster.values()} == {
        FEEDER: 1,
        "FDR_002": 1,
        "FDR_003": 0,
    }
    await ready.roster.store_learned()
    assert sum(one.unsaved_slots for one in ready.roster.values()) == 0
    stored = {row["feeder_id"]: row["learned"] for row in await ready.rows(feeder_state)}
    assert stored == {one.feeder_id: one.learned.to_bytes() for one in ready.roster.values()}
    commits = ready.database.stats().commits
    await ready.roster.store_learned()
    assert ready.database.stats().commits == commits


async def test_restart__restores_window_state_quality_and_uncovered_need(ready):
    await ready.slot(HIGH_KW + 60.0)  # 100 kW wanted, 50 on offer
    before = ready.roster[FEEDER]
    await ready.restart()
    after = ready.roster[FEEDER]
    assert after is not before
    for name in ("memory", "assessment", "unknown_since", "state_change_id", "uncovered", "quality"):
        assert getattr(after, name) == getattr(before, name), name
    assert after.uncovered
    assert (after.window.history().load_kw == before.window.history().load_kw).sum() == 9
    orders = len(await ready.orders())
    await ready.slot(HIGH_KW + 60.0)
    ready.put_offers()
    # The uncovered need was known before the restart: it is not bought for a second time.
    fresh = (await ready.orders())[orders:]
    assert all(order.terms.window_start > EVENT + 4 * SLOT for order in fresh)
    await ready.slot(QUIET_KW)
