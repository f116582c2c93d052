"""Dead, stuck and silent meters are told from live ones, on made and on real load."""

import csv
import gzip
import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from numpy.typing import ArrayLike

from gateway.telemetry.quality import (
    QualityRules,
    assess_quality,
    assess_silence,
    usable_for_trading,
)
from gateway.telemetry.reading import Reading
from gateway.telemetry.window import FeederWindow

NOW = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
W = 776


def live(slots=W, seed=3):
    return np.random.default_rng(seed).uniform(40, 90, slots).astype(np.float32)


def window(*parts: ArrayLike):
    """Parts in order, the window before them missing."""
    known = np.concatenate([np.atleast_1d(np.asarray(part, dtype=np.float32)) for part in parts])
    return np.concatenate([np.full(W - len(known), np.nan, dtype=np.float32), known])


def judge(load_kw, rating_kw=100.0, step_min=15):
    quality = assess_quality(load_kw, rating_kw, step_min)
    return quality, usable_for_trading(quality)


def test_quality__a_live_meter_raises_no_flag_and_may_trade():
    quality, usability = judge(live())
    assert quality.flags == ()
    assert (usability.usable, usability.code) == (True, "ok")
    assert quality.history_h == 194


@pytest.mark.parametrize(
    ("load_kw", "code"),
    [
        pytest.param(np.full(W, np.nan, np.float32), "newest_missing", id="nothing known"),
        pytest.param(window(np.zeros(96)), "dead", id="a day of zeros"),
        pytest.param(window(np.zeros(4)), "dead", id="an hour of zeros and nothing else"),
        pytest.param(window(live(300), np.zeros(90), live(6)), "dead", id="nearly all of the last day zero"),
        pytest.param(window(np.tile([5, 5, 5, 6, 7], 20)), "frozen", id="three values in a day"),
        pytest.param(window(live(300), np.full(24, 55.0)), "frozen", id="six hours of one value"),
        pytest.param(window(live(300), np.nan), "newest_missing", id="newest slot missing"),
        pytest.param(window(live(3)), "short", id="three quarters of an hour"),
        pytest.param(window(np.full(20, 99.0)), "warming_up", id="five hours of one value"),
        pytest.param(window(np.tile([0, 10], 40)), "warming_up", id="two values in twenty hours"),
        pytest.param(window(live(300), [np.nan] * 3, live(1)), "gapped", id="most of the hour missing"),
        pytest.param(window(live(300), [np.nan] * 60, live(4)), "gapped", id="most of the day missing"),
    ],
)
def test_usable_for_trading__fails_closed_and_says_why(load_kw, code):
    _, usability = judge(load_kw)
    assert (usability.usable, usability.code) == (False, code)
    assert usability.reason


@pytest.mark.parametrize("rating_kw", [None, 0.0, float("nan"), float("inf"), -1.0])
def test_usable_for_trading__needs_a_rating(rating_kw):
    _, usability = judge(live(), rating_kw)
    assert (usability.usable, usability.code) == (False, "unrated")


@pytest.mark.parametrize(
    ("load_kw", "usable"),
    [
        pytest.param(window(live(300), np.full(23, 55.0)), True, id="just under six hours of one value"),
        pytest.param(window(np.tile([5, 6, 7, 8], 24)), True, id="four values in a day"),
        pytest.param(window(np.full(20, 60.0), [70, 80]), True, id="flat start, then two new values"),
        pytest.param(window(live(300), [np.nan] * 2, live(2)), True, id="half of the hour missing"),
        pytest.param(window(live(4)), True, id="an hour"),
        pytest.param(window(live(300), np.zeros(20), live(4)), True, id="a few hours of zero"),
    ],
)
def test_usable_for_trading__lets_the_doubtful_but_live_pass(load_kw, usable):
    assert judge(load_kw)[1].usable is usable


def test_quality__gaps_do_not_hide_a_stuck_meter():
    stuck = np.tile(np.float32([0, np.nan, 10, 0, np.nan, 0]), 120)
    quality, usability = judge(window(stuck))
    assert quality.frozen
    assert not usability.usable


def test_quality__flags_gaps_long_before_they_stop_trading():
    quality, usability = judge(window(live(300), [np.nan] * 12, live(84)))
    assert (quality.gapped, usability.usable) == (True, True)
    assert quality.missing_day == pytest.approx(12 / 96)


def test_quality__does_not_count_the_time_before_the_first_reading_as_missing():
    quality, _ = judge(window(live(8)))
    assert (quality.missing_hour, quality.missing_day, quality.gapped) == (0.0, 0.0, False)


def test_quality__counts_slots_of_thirty_minutes():
    quality, _ = judge(live(100), step_min=30)
    assert (quality.history_h, quality.distinct) == (50, 48)


def test_quality__rules_can_be_changed():
    rules = QualityRules(stuck_after_h=2)
    assert assess_quality(window(live(300), np.full(8, 5.0)), 100.0, 15, rules=rules).frozen


@pytest.mark.parametrize(("silent_s", "stale"), [(0, False), (3630, False), (3631, True), (-5, False)])
def test_assess_silence__counts_intervals_of_wall_time(silent_s, stale):
    silence = assess_silence(NOW - timedelta(seconds=silent_s), NOW, 15)
    assert (silence.stale, silence.limit_s) == (stale, 3630)
    assert silence.silent_s == max(0, silent_s)


def test_assess_silence__a_feeder_never_heard_of_is_stale_and_does_not_trade():
    silence = assess_silence(None, NOW, 15)
    assert silence.stale
    quality, _ = judge(live())
    assert usable_for_trading(quality, silence).code == "stale"
    assert usable_for_trading(quality, assess_silence(NOW, NOW, 15)).usable


# -- real load -----------------------------------------------------------------------------------

TRULY_STUCK = {"NL_WLS", "AU_Mascot", "UK_Stentaway"}
"""The dead meter; a stretch of 20 h and more of one and the same value in the other two."""
NAMES = [
    *("AU_Mascot", "MA_tet1", "MA_tet2", "NL_HAL", "NL_HFDP", "NL_LLS", "NL_OWD", "NL_WEW", "NL_WLS"),
    *("NLc_287", "NLc_307", "SB_lvrur0", "SB_mvurb0", "UK_Geevor", "UK_Stentaway"),
]


def read(reference_dir, name):
    """Slots and step of a file, as a window long enough for all of it would hold them."""
    meta = json.loads((reference_dir / "data" / "feeders.json").read_text())[name]
    step_min = 30 if meta["step_min"] == 30 else 15
    with gzip.open(reference_dir / "data" / f"{name}.csv.gz", "rt") as file:
        load_kw = np.array(
            [float(row["load_kw"]) if row["load_kw"] else np.nan for row in csv.DictReader(file)],
            dtype=np.float32,
        )
    if meta["step_min"] == 10:
        fine = np.repeat(load_kw, 2)[2:]
        load_kw = fine[: len(fine) // 3 * 3].reshape(-1, 3).mean(axis=1)
    return load_kw, step_min, meta["rating_kw"]


@pytest.mark.parametrize("name", NAMES)
def test_quality__only_stuck_meters_of_the_reference_data_are_called_stuck(reference_dir, name):
    load_kw, step_min, rating_kw = read(reference_dir, name)
    slots = 776 * 15 // step_min
    stride = 11 if name == "UK_Stentaway" else 37
    stuck_at, barred = [], 0
    for end in range(slots, len(load_kw), stride):
        quality = assess_quality(load_kw[end - slots : end], rating_kw, step_min)
        if quality.frozen or quality.dead:
            stuck_at.append(end)
        barred += not usable_for_trading(quality).usable
    origins = len(range(slots, len(load_kw), stride))
    if name == "NL_WLS":
        assert len(stuck_at) == barred == origins
    elif name in TRULY_STUCK:
        assert stuck_at
        day = 24 * 60 // step_min
        assert all(len(np.unique(load_kw[end - day : end])) < day - 10 for end in stuck_at)
        assert barred < origins / 100
    else:
        assert stuck_at == []
        assert barred <= 1


def test_quality__the_dead_meter_never_trades_from_its_first_reading_on(reference_dir):
    load_kw, _, rating_kw = read(reference_dir, "NL_WLS")
    began = datetime(2021, 7, 31, tzinfo=UTC)
    feeder = FeederWindow("NL_WLS")
    full_day_judged = 0
    for number, value in enumerate(load_kw[:2000], start=1):
        at = began + timedelta(minutes=15 * number)
        feeder.add(Reading(feeder_id="NL_WLS", timestamp=at, load_kw=float(value)))
        quality = assess_quality(feeder.history().load_kw, rating_kw, feeder.step_min)
        assert not usable_for_trading(quality).usable
        if number >= 96:
            assert quality.frozen
            full_day_judged += 1
    assert full_day_judged == 1905
    assert np.count_nonzero(load_kw[:2000]) > 3
