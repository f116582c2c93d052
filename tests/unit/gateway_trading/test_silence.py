"""A feeder that falls silent becomes Unknown, keeps its last state, and is decided anew when it speaks."""

from trading_world import ALPHA, FEEDER, HIGH_KW, offer

from gateway.orders.order import OrderState


async def test_silence__holds_the_state_says_unknown_and_alarms_once(world):
    await world.overload(offer(ALPHA))
    feeder = world.roster[FEEDER]
    held = feeder.assessment.state
    world.clock.advance(4 * 15 * 60 + 31)
    await world.pipeline.note_silence()
    await world.pipeline.note_silence()
    assert feeder.assessment.state is None
    assert feeder.assessment.last_state == held == feeder.memory.state
    assert feeder.assessment.reason.startswith("stale")
    assert len(await world.alarms("state_unknown")) == 1


async def test_silence_within_the_limit__changes_nothing(world):
    await world.overload(offer(ALPHA))
    before = world.roster[FEEDER].assessment
    world.clock.advance(4 * 15 * 60)
    await world.pipeline.note_silence()
    assert world.roster[FEEDER].assessment == before
    assert await world.alarms("state_unknown") == []


async def test_a_reading_after_silence__clears_the_alarm_and_decides_anew(world):
    await world.overload(offer(ALPHA))
    world.clock.advance(2 * 60 * 60)
    await world.pipeline.note_silence()
    answer = await world.slot(HIGH_KW)
    assert answer.states[0].state == 2
    (alarm,) = await world.alarms("state_unknown")
    assert alarm["cleared_at"] is not None


async def test_silence__survives_a_restart_and_never_lowers_the_state(world):
    await world.overload(offer(ALPHA))
    world.clock.advance(2 * 60 * 60)
    await world.pipeline.note_silence()
    await world.restart()
    feeder = world.roster[FEEDER]
    assert feeder.assessment.state is None
    assert feeder.memory.state == 2
    assert {order.state for order in await world.orders()} & {OrderState.SELECTING, OrderState.FAILED}
