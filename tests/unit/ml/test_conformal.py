import numpy as np
import pytest

from ml.conformal import EXPERTS, LOCAL_INPUTS, Issued, LearnedState, LearningRates, finish, prepare
from ml.errors import LearnedStateError
from ml.features import FEATURE_NAMES, Frame

STEP_S = 900
QUICK = LearningRates(warm_days=1.0, refit_slots=24, ridge=10.0)


def _frame(sign: float = 1.0, now: float = 50.0, **features: float) -> Frame:
    values = np.zeros((1, len(FEATURE_NAMES)), dtype=np.float32)
    for name, value in features.items():
        values[0, FEATURE_NAMES.index(name)] = value
    return Frame(values, np.array([now]), np.array([10.0 * sign]))


def _quantiles() -> np.ndarray:
    middle = np.array([0.1, 0.2, 0.3, 0.4])
    return np.stack([middle - 0.5, middle, middle + 1.0], axis=1)[None]


def test_an_empty_state_gives_the_global_forecast() -> None:
    answer, _ = finish(prepare(_frame(), _quantiles()), [LearnedState(15)])
    assert answer[0, :, 1] == pytest.approx([51, 52, 53, 54])
    assert answer[0, :, 0] == pytest.approx([46, 47, 48, 49])
    assert answer[0, :, 2] == pytest.approx([61, 62, 63, 64])


def test_a_mirrored_frame_gives_the_mirrored_forecast() -> None:
    answer, _ = finish(prepare(_frame(), _quantiles()), [LearnedState(15)])
    turned, _ = finish(prepare(_frame(-1.0, -50.0), _quantiles()), [LearnedState(15)])
    assert np.allclose(turned[:, :, ::-1], -answer)


def test_quantiles_that_cross_are_put_in_order() -> None:
    crossed = _quantiles()[:, :, ::-1]
    answer, _ = finish(prepare(_frame(), crossed), [LearnedState(15)])
    assert (np.diff(answer, axis=2) > 0).all()


def test_an_unknown_present_load_gives_no_forecast_and_is_not_remembered() -> None:
    state = LearnedState(15)
    answer, issued = finish(prepare(_frame(now=np.nan), _quantiles()), [state])
    assert np.isnan(answer).all()
    state.remember(0, issued, 0)
    state.observe(STEP_S, 50.0)
    assert state.observed == 0


def _live(state: LearnedState, slots: int, noise: float, seed: int = 3, bias: float = 0.0) -> np.ndarray:
    """A feeder that moves by yesterday's ramp plus noise, while the global model sees no change."""
    rng = np.random.default_rng(seed)
    ramps = rng.normal(0, 1, slots + 8)
    load, inside = 50.0, np.zeros((slots, 4, 2), dtype=bool)
    flat = np.stack([np.full(4, -0.5), np.zeros(4), np.full(4, 0.5)], axis=1)[None]
    loads = np.empty(slots + 8)
    for i in range(slots + 8):
        load = 50.0 + 10.0 * (ramps[max(i - 1, 0) : i].sum() + noise * rng.normal() + bias)
        loads[i] = load
    pending: list[tuple[int, np.ndarray]] = []
    for i in range(slots):
        state.observe(i * STEP_S, loads[i])
        for at, answer in pending:
            h = i - at - 1
            if 0 <= h < 4:
                inside[at, h] = loads[i] >= answer[0, h, 0], loads[i] <= answer[0, h, 2]
        known = {f"ramp_day_{15 * (h + 1)}min": ramps[i + h] for h in range(4)}
        answer, issued = finish(prepare(_frame(now=loads[i], **known), flat), [state])
        state.remember(i * STEP_S, issued, 0)
        pending = [*pending[-4:], (i, answer)]
    return inside


def test_each_side_of_the_interval_comes_to_hold_ninety_per_cent() -> None:
    state = LearnedState(15)
    inside = _live(state, 4000, 1.0)
    late = inside[1000:3990]
    assert late.mean(axis=0) == pytest.approx(np.full((4, 2), 0.9), abs=0.02)


def test_the_local_correction_learns_what_the_global_model_does_not_know() -> None:
    state = LearnedState(15, QUICK)
    _live(state, 1500, 0.2)
    local = EXPERTS.index("local")
    assert (state.weights[local] > 1 / len(EXPERTS)).all()
    ramp = LOCAL_INPUTS.index("ramp_day_15min")
    assert state.coefficients[ramp, 0] > 0.3


def test_outcomes_are_taken_in_order_once_and_missing_ones_teach_nothing() -> None:
    state = LearnedState(15)
    _, issued = finish(prepare(_frame(), _quantiles()), [state])
    state.remember(0, issued, 0)
    state.observe(STEP_S, float("nan"))
    assert state.observed == 0
    state.observe(STEP_S, 51.0)
    assert state.observed == 0, "a slot that was missing is not taken later"
    state.observe(2 * STEP_S, 52.0)
    state.observe(2 * STEP_S, 99.0)
    state.observe(2 * STEP_S + 60, 99.0)
    assert state.observed == 1


def test_a_state_survives_its_bytes_and_goes_on_alike() -> None:
    state = LearnedState(15, QUICK)
    _live(state, 600, 0.5)
    twin = LearnedState.from_bytes(state.to_bytes(), QUICK)
    assert twin.to_bytes() == state.to_bytes()
    for one in (state, twin):
        one.observe(600 * STEP_S, 55.0)
    assert twin.to_bytes() == state.to_bytes()
    assert len(state.to_bytes()) < 40_000


@pytest.mark.parametrize("cut", [b"", b"\xc1", None])
def test_damaged_bytes_are_refused(cut: bytes | None) -> None:
    data = LearnedState(15).to_bytes()[:-20] if cut is None else cut
    with pytest.raises(LearnedStateError):
        LearnedState.from_bytes(data)


def test_a_batch_gives_each_feeder_its_own() -> None:
    taught = LearnedState(15, QUICK)
    _live(taught, 600, 0.3)
    seen = Frame(np.repeat(_frame().features, 2, axis=0), np.array([50.0, 50.0]), np.array([10.0, 10.0]))
    ready = prepare(seen, np.repeat(_quantiles(), 2, axis=0))
    both, issued = finish(ready, [LearnedState(15), taught])
    alone, _ = finish(prepare(_frame(), _quantiles()), [taught])
    assert np.allclose(both[1], alone[0])
    assert not np.allclose(both[0], both[1])
    assert isinstance(issued, Issued)
