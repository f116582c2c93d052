"""Relief the sellers physically give, averaged over any interval. Pure.

Each tick of the event clock answers with every seller's mean relief since the tick before; a reading
needs the mean over its own interval, which may hold several ticks.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

KEPT = timedelta(hours=3)
"""How long ticks are remembered: longer than any sampling interval."""


class ReliefMeter:
    """Remembers ticks; relief is mean kW per feeder, > 0 lowers import."""

    def __init__(self) -> None:
        self._spans: list[tuple[datetime, datetime, dict[str, float]]] = []

    def record(self, start: datetime, end: datetime, answers: Iterable[Mapping[str, float]]) -> None:
        """Note the mean relief between two ticks, one mapping per seller."""
        total: defaultdict[str, float] = defaultdict(float)
        for answer in answers:
            for feeder_id, kw in answer.items():
                total[feeder_id] += kw
        self._spans.append((start, end, dict(total)))
        while self._spans[0][1] <= end - KEPT:
            self._spans.pop(0)

    def mean_kw(self, feeder_id: str, start: datetime, end: datetime) -> float:
        """Average the relief at a feeder over [start, end); zero where nothing is recorded."""
        energy = 0.0
        for left, right, kw in self._spans:
            overlap_s = (min(end, right) - max(start, left)).total_seconds()
            if overlap_s > 0:
                energy += kw.get(feeder_id, 0.0) * overlap_s
        return energy / (end - start).total_seconds()
