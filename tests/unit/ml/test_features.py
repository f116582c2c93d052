import math
from datetime import UTC, datetime

import numpy as np
import pytest

from ml.features import FEATURE_NAMES, FeederBatch, Frame, columns_of, feature_matrix, frame, history_slots

ORIGIN = int(datetime(2026, 1, 5, 17, 15, tzinfo=UTC).timestamp())  # a Monday
WIDTH = history_slots(15)


def _load(seed: int = 1, rows: int = 3, width: int = WIDTH) -> np.ndarray:
    rng = np.random.default_rng(seed)
    slots = np.arange(width)
    daily = 400 + 150 * np.sin(2 * np.pi * slots / 96)
    return (daily + np.cumsum(rng.normal(0, 5, (rows, width)), axis=1)).astype(np.float32)


def _frame(load: np.ndarray, rating: float = 700.0, **more: object) -> Frame:
    rows = load.shape[0]
    return frame(FeederBatch(load, np.full(rows, rating), np.full(rows, ORIGIN), 15, **more))  # type: ignore[arg-type]


def _get(seen: Frame, name: str) -> np.ndarray:
    return seen.features[:, columns_of((name,))[0]]


def test_names_are_unique_and_match_the_columns() -> None:
    assert len(set(FEATURE_NAMES)) == len(FEATURE_NAMES)
    assert _frame(_load()).features.shape == (3, len(FEATURE_NAMES))


def test_rows_do_not_depend_on_each_other() -> None:
    load = _load(rows=4)
    whole = _frame(load).features
    for row in range(4):
        assert np.array_equal(_frame(load[row : row + 1]).features[0], whole[row], equal_nan=True)


def test_load_and_rating_times_a_thousand_give_the_same_features() -> None:
    load = _load()
    big = _frame(load * np.float32(1000), 700_000.0)
    assert np.allclose(big.features, _frame(load).features, atol=2e-4, equal_nan=True)
    assert np.allclose(big.unit_kw, _frame(load).unit_kw * 1000, rtol=1e-5)


def test_a_mirrored_feeder_has_the_same_features_and_the_opposite_unit() -> None:
    load = _load()
    here, there = _frame(load), _frame(-load)
    assert np.array_equal(here.features, there.features, equal_nan=True)
    assert np.array_equal(here.unit_kw, -there.unit_kw)
    assert np.array_equal(here.now_kw, -there.now_kw)


def test_window_statistics_are_those_of_the_definition() -> None:
    load = _load()
    hour = load[:, -4:].astype(np.float64) / 700
    seen = _frame(load)
    mean, variance = hour.mean(axis=1), hour.var(axis=1)
    rms = np.sqrt((hour**2).mean(axis=1))
    kurtosis = ((hour - mean[:, None]) ** 4).mean(axis=1) / variance**2 - 3
    for name, expected in (
        ("mean_1h", mean),
        ("variance_1h", variance),
        ("min_1h", hour.min(axis=1)),
        ("max_1h", hour.max(axis=1)),
        ("rms_1h", rms),
        ("crest_factor_1h", np.abs(hour).max(axis=1) / rms),
    ):
        assert _get(seen, name) == pytest.approx(expected, rel=1e-3), name
    flat = variance < 1e-9
    assert _get(seen, "kurtosis_1h")[~flat] == pytest.approx(kurtosis[~flat], abs=0.02)


def test_a_flat_feeder_has_defined_statistics() -> None:
    seen = _frame(np.zeros((1, WIDTH), dtype=np.float32))
    assert _get(seen, "kurtosis_24h")[0] == 0
    assert _get(seen, "crest_factor_24h")[0] == 1
    known = [n for n in FEATURE_NAMES if not n.startswith("temperature")]
    assert np.isfinite(seen.features[:, columns_of(tuple(known))]).all()


def test_ramps_are_what_the_load_did_a_day_and_a_week_ago() -> None:
    load = _load()
    seen = _frame(load)
    unit = np.abs(seen.unit_kw)
    day = (load[:, -1 - 96 + 2] - load[:, -1 - 96]) / unit
    week = (load[:, -1 - 672 + 4] - load[:, -1 - 672]) / unit
    assert _get(seen, "ramp_day_30min") == pytest.approx(day, rel=1e-3, abs=1e-4)
    assert _get(seen, "ramp_week_60min") == pytest.approx(week, rel=1e-3, abs=1e-4)


def test_half_hourly_feeders_have_no_quarter_hour_columns() -> None:
    load = _load(width=history_slots(30))
    seen = frame(FeederBatch(load, np.full(3, 700.0), np.full(3, ORIGIN), 30))
    assert np.isnan(_get(seen, "ramp_day_15min")).all()
    assert np.isfinite(_get(seen, "ramp_day_30min")).all()
    assert _get(seen, "ramp_day_60min") == pytest.approx(
        (load[:, -1 - 48 + 2] - load[:, -1 - 48]) / seen.unit_kw, rel=1e-3, abs=1e-4
    )


def test_a_short_history_is_the_same_as_a_padded_one_and_only_loses_what_it_cannot_know() -> None:
    load = _load()
    short = _frame(load[:, -30:])
    padded = load.copy()
    padded[:, :-30] = np.nan
    assert np.array_equal(short.features, _frame(padded).features, equal_nan=True)
    assert np.isnan(_get(short, "ramp_day_15min")).all()
    assert np.isfinite(_get(short, "back_8")).all()
    assert _get(short, "known_24h") == pytest.approx(30 / 96)


def test_a_gap_is_bridged_by_the_last_known_value_for_an_hour_and_no_longer() -> None:
    load = _load()
    load[:, -4:] = np.nan
    assert _frame(load).now_kw == pytest.approx(load[:, -5])
    load[:, -5] = np.nan
    assert np.isnan(_frame(load).now_kw).all()


def test_calendar_follows_local_time() -> None:
    load = _load(rows=1)
    utc = _frame(load)
    assert _get(utc, "sin_day_1")[0] == pytest.approx(math.sin(2 * math.pi * 17.25 / 24), abs=1e-5)
    assert _get(utc, "sin_week")[0] == pytest.approx(math.sin(2 * math.pi / 7), abs=1e-5)  # Monday = 1
    assert _get(utc, "weekend")[0] == 0
    east = _frame(load, utc_offset_s=np.array([-2 * 86_400]))
    assert _get(east, "weekend")[0] == 1


def test_flags_and_temperature_are_taken_as_given() -> None:
    warmth = np.full((1, WIDTH), 10, dtype=np.float32)
    warmth[:, -5] = 8
    seen = _frame(_load(rows=1), holiday=np.array([True]), event=np.array([True]), temperature_c=warmth)
    assert _get(seen, "holiday")[0] == _get(seen, "event")[0] == 1
    assert _get(seen, "temperature")[0] == pytest.approx(0.5)
    assert _get(seen, "temperature_change_1h")[0] == pytest.approx(0.1)


@pytest.mark.parametrize(("rating", "step"), [(0.0, 15), (-1.0, 15), (math.nan, 15), (700.0, 20)])
def test_a_bad_rating_or_step_is_refused(rating: float, step: int) -> None:
    with pytest.raises(ValueError, match=r"rating|step"):
        feature_matrix(FeederBatch(_load(rows=1), np.array([rating]), np.array([ORIGIN]), step))


def test_unknown_feature_names_are_refused() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        columns_of(("loading", "nonsense"))
