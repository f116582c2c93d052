"""The seeded simulator."""

from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest

from ml.series import parse_series
from seeds.simulator import simulate, wide_csv

WARM_UP_STEPS = 8 * 96


def test_simulate__is_the_same_to_the_byte():
    text = wide_csv(simulate(feeders=4, days=12, seed=7))
    assert text == wide_csv(simulate(feeders=4, days=12, seed=7))
    assert text != wide_csv(simulate(feeders=4, days=12, seed=8))


def test_simulate__has_not_changed_since_it_was_published():
    digest = sha256(wide_csv(simulate(feeders=2, days=9, seed=1)).encode()).hexdigest()
    assert digest == "e6501538374c490ed3bbdc598205e7496768051d71906237651357cef2861328"


def test_simulate__gives_a_feeder_the_same_load_whatever_its_company():
    assert simulate(feeders=1, seed=3)[0] == simulate(feeders=5, seed=3)[0]


@pytest.mark.parametrize("seed", range(1, 9))
def test_simulate__overloads_every_second_feeder_after_the_warm_up_only(seed: int):
    for number, feeder in enumerate(simulate(feeders=6, days=12, seed=seed)):
        loading = [abs(load) / feeder.rating_kw for load in feeder.load_kw]
        assert max(loading[:WARM_UP_STEPS]) < 0.85
        assert (max(loading[WARM_UP_STEPS:]) >= 1.0) == (number % 2 == 0)
        assert max(loading) < 1.2


def test_simulate__lets_a_spike_build_up():
    feeder = simulate(feeders=1, days=12, seed=1)[0]
    loading = [load / feeder.rating_kw for load in feeder.load_kw]
    first = next(step for step, value in enumerate(loading) if value >= 1)
    assert loading[first - 4] < loading[first - 2] < loading[first]


def test_simulate__answers_to_temperature_and_weekend():
    feeder = simulate(feeders=2, days=14, seed=1)[1]
    by_day = [feeder.load_kw[day * 96 : day * 96 + 96] for day in range(14)]
    monday_peak, saturday_peak = max(by_day[0][60:84]), max(by_day[5][60:84])
    assert saturday_peak < monday_peak
    assert min(feeder.temperature_c) < max(feeder.temperature_c) - 3


def test_wide_csv__is_read_back_as_load_series():
    feeders = simulate(feeders=3, days=2, seed=1)
    series = parse_series(wide_csv(feeders), stem="sim", name="sim.csv")
    assert [one.feeder_id for one in series] == ["SIM_001", "SIM_002", "SIM_003"]
    for feeder, one in zip(feeders, series, strict=True):
        assert list(one.load_kw) == list(feeder.load_kw)
        assert list(one.exogenous["temperature_c"]) == list(feeder.temperature_c)
        assert datetime.fromtimestamp(one.end_s[0], UTC) == feeder.ends[0]


def test_simulate__names_intervals_by_their_end():
    start = datetime(2024, 2, 29, tzinfo=UTC)
    feeder = simulate(feeders=1, days=1, start=start)[0]
    assert feeder.ends[0] == start + timedelta(minutes=15)
    assert feeder.ends[-1] == start + timedelta(days=1)
    assert len(feeder.load_kw) == 96


@pytest.mark.parametrize(
    "arguments",
    [{"feeders": 0}, {"days": 0}, {"start": datetime(2024, 1, 1)}],  # noqa: DTZ001 - the fault under test
    ids=["no feeder", "no day", "naive start"],
)
def test_simulate__refuses(arguments: dict):
    with pytest.raises(ValueError):
        simulate(**arguments)
