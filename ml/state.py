"""From probabilities to an operating state that does not flicker. Pure.

Rules:

* 0 Normal, 1 Alert, 2 Critical. An upward move needs the probability of at least that class to reach
  its threshold on ``rise_after`` consecutive decisions; a downward move needs it to fall below the
  lower threshold on ``fall_after`` consecutive ones, and the state to have lasted ``dwell_s``.
* Nothing here reads a clock: ``now_s`` is event time.

Source: requirements R22 to R25.
"""

from collections.abc import Sequence

import msgspec

from ml.features import ALERT_LOADING, CRITICAL_LOADING

NORMAL, ALERT, CRITICAL = 0, 1, 2


class StatePolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Operating point of one feeder (R24: configurable per feeder).

    Attributes:
        alert_loading: Loading (|load| / rating) from which an hour counts as Alert.
        critical_loading: Loading from which an hour counts as Critical.
        alert_probability: Rise to Alert when P(Alert or Critical) reaches this.
        critical_probability: Rise to Critical when P(Critical) reaches this.
        release_ratio: A state is left when its probability is below threshold x this (hysteresis).
        rise_after: Consecutive decisions needed to rise.
        fall_after: Consecutive decisions needed to fall.
        dwell_s: Shortest stay in a raised state, seconds.
    """

    alert_loading: float = ALERT_LOADING
    critical_loading: float = CRITICAL_LOADING
    alert_probability: float = 0.4
    critical_probability: float = 0.3
    release_ratio: float = 0.7
    rise_after: int = 1
    fall_after: int = 1
    dwell_s: int = 0

    def __post_init__(self) -> None:
        """Refuse thresholds that contradict each other.

        Raises:
            ValueError: Names the setting.
        """
        if not 0 < self.alert_loading <= self.critical_loading:
            raise ValueError("alert_loading must be positive and at most critical_loading")
        for name in ("alert_probability", "critical_probability", "release_ratio"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in (0, 1]")
        if self.rise_after < 1 or self.fall_after < 1 or self.dwell_s < 0:
            raise ValueError("rise_after and fall_after must be at least 1, dwell_s at least 0")


class StateMemory(msgspec.Struct, frozen=True, kw_only=True):
    """What the state machine remembers of one feeder.

    Attributes:
        state: 0, 1 or 2; None before the first decision.
        since_s: Event time (unix seconds) since which it holds.
        rising: Consecutive decisions that asked for a higher state.
        falling: Consecutive decisions that asked for a lower one.
    """

    state: int | None = None
    since_s: int = 0
    rising: int = 0
    falling: int = 0


def next_state(
    policy: StatePolicy, memory: StateMemory, probabilities: Sequence[float], now_s: int
) -> StateMemory:
    """Decide the state at ``now_s``.

    Args:
        policy: Operating point.
        memory: What the last decision left.
        probabilities: P(Normal), P(Alert), P(Critical) of the worst of now and the next hour.
        now_s: Event time of the decision, unix seconds.
    """
    at_least = (1.0, probabilities[1] + probabilities[2], probabilities[2])
    threshold = (0.0, policy.alert_probability, policy.critical_probability)
    wanted = max(level for level in (NORMAL, ALERT, CRITICAL) if at_least[level] >= threshold[level])
    if memory.state is None:
        return StateMemory(state=wanted, since_s=now_s)
    held = memory.state
    if wanted > held:
        if memory.rising + 1 >= policy.rise_after:
            return StateMemory(state=wanted, since_s=now_s)
        return StateMemory(state=held, since_s=memory.since_s, rising=memory.rising + 1)
    # Hysteresis: every level up to the held one is kept while its probability is above the release line.
    kept = max(
        level
        for level in range(held + 1)
        if at_least[level] >= threshold[level] * (policy.release_ratio if level > wanted else 1.0)
    )
    if kept < held:
        lasted = now_s - memory.since_s >= policy.dwell_s
        if lasted and memory.falling + 1 >= policy.fall_after:
            return StateMemory(state=kept, since_s=now_s)
        return StateMemory(state=held, since_s=memory.since_s, falling=memory.falling + 1)
    return StateMemory(state=held, since_s=memory.since_s)
