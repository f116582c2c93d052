"""The online part of a back-test: forecasts issued and judged in the order of time, one feeder.

The same :mod:`ml.conformal` code as in serving; only the part that no learned state enters is computed
for all origins at once.
"""

import numpy as np

from ml.conformal import RATES, LearnedState, LearningRates, finish, prepare
from ml.dataset import Origins
from ml.series import Floats, GridSeries


def replay(
    grid: GridSeries, origins: Origins, quantiles: Floats, rates: LearningRates = RATES
) -> tuple[Floats, LearnedState]:
    """Run the learned state through a series, empty at first.

    Args:
        grid: The load; a slot is observed when it has passed.
        origins: Where forecasts start, oldest first.
        quantiles: (m, H, 3) global quantiles of the origins, in the frame's volatilities.
        rates: How fast the feeder's past counts.

    Returns:
        kW quantiles (m, H, 3) as serving would have given them, and the state at the end.
    """
    state = LearnedState(grid.step_min, rates)
    ready = prepare(origins.frame, quantiles)
    result = np.empty_like(quantiles)
    ends = grid.end_s.tolist()
    load = grid.load_kw.tolist()
    seen = 0
    for row, (slot, origin_s) in enumerate(
        zip(origins.slot.tolist(), origins.origin_s.tolist(), strict=True)
    ):
        for past in range(seen, slot + 1):
            state.observe(ends[past], load[past])
        seen = slot + 1
        answer, issued = finish(ready.rows(row, row + 1), (state,))
        state.remember(origin_s, issued, 0)
        result[row] = answer[0]
    return result, state
