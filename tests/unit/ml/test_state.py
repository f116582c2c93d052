import pytest

from ml.state import ALERT, CRITICAL, NORMAL, StateMemory, StatePolicy, next_state

CALM, WARM, HOT = (0.95, 0.04, 0.01), (0.2, 0.75, 0.05), (0.05, 0.15, 0.8)


def _run(policy: StatePolicy, rows: list[tuple[float, float, float]]) -> list[int | None]:
    memory, states = StateMemory(), []
    for i, row in enumerate(rows):
        memory = next_state(policy, memory, row, i * 900)
        states.append(memory.state)
    return states


def test_default_policy_follows_clear_probabilities_at_once() -> None:
    assert _run(StatePolicy(), [CALM, WARM, HOT, HOT, CALM]) == [NORMAL, ALERT, CRITICAL, CRITICAL, NORMAL]


def test_a_state_is_held_between_the_two_thresholds() -> None:
    policy = StatePolicy(critical_probability=0.5, alert_probability=0.5, release_ratio=0.6)
    between = (0.1, 0.55, 0.35)
    assert _run(policy, [between]) == [ALERT]
    assert _run(policy, [HOT, between, (0.1, 0.65, 0.25)]) == [CRITICAL, CRITICAL, ALERT]


def test_rising_needs_consecutive_decisions() -> None:
    policy = StatePolicy(rise_after=2)
    assert _run(policy, [CALM, HOT, CALM, HOT, HOT]) == [NORMAL, NORMAL, NORMAL, NORMAL, CRITICAL]


def test_falling_needs_consecutive_decisions_and_the_dwell() -> None:
    assert _run(StatePolicy(fall_after=2), [HOT, CALM, HOT, CALM, CALM]) == [2, 2, 2, 2, 0]
    assert _run(StatePolicy(dwell_s=2700), [HOT, CALM, CALM, CALM, CALM]) == [2, 2, 2, 0, 0]


def test_since_is_the_event_time_of_the_change() -> None:
    policy = StatePolicy()
    memory = next_state(policy, StateMemory(), CALM, 100)
    memory = next_state(policy, memory, CALM, 200)
    assert memory.since_s == 100
    assert next_state(policy, memory, HOT, 300).since_s == 300


@pytest.mark.parametrize(
    "bad",
    [
        {"alert_loading": 1.2},
        {"alert_loading": 0.0},
        {"critical_probability": 0.0},
        {"release_ratio": 1.5},
        {"rise_after": 0},
        {"dwell_s": -1},
    ],
)
def test_contradicting_policies_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        StatePolicy(**bad)
