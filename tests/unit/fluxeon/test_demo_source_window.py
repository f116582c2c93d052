"""What the demo replays, and which days of it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from fluxeon.demo.source import (
    NO_LOAD_RATING_KW,
    DemoFeeder,
    RatedBy,
    open_source,
)
from fluxeon.demo.window import HISTORY, choose_window, highest_loading
from fluxeon.errors import BadUsage
from ml.errors import SeriesError
from ml.series import LoadSeries, rating_of
from seeds.load import load_feeders

START = datetime(2021, 3, 1, tzinfo=UTC)


def feeder(load_kw: list[float], *, step_min: int = 15, rating_kw: float = 100.0) -> DemoFeeder:
    """One feeder whose first interval starts at START."""
    ends = int(START.timestamp()) + 60 * step_min * np.arange(1, len(load_kw) + 1, dtype=np.int64)
    return DemoFeeder(
        LoadSeries("F", step_min, ends, np.array(load_kw, dtype=float)), rating_kw, RatedBy.RULE
    )


def flat(days: float, *, peak_day: float | None = None, height: float = 120.0, rows: int = 4) -> DemoFeeder:
    load = [50.0] * int(days * 96)
    if peak_day is not None:
        at = int(peak_day * 96)
        load[at : at + rows] = [height] * rows
    return feeder(load)


# --- source ---------------------------------------------------------------------------------


def test_open_source__bundled_has_the_seeded_feeders_and_ratings():
    source = open_source("bundled")
    assert [one.feeder_id for one in source.feeders] == [one.feeder_id for one in load_feeders()]
    assert {one.rated_by for one in source.feeders} == {RatedBy.SEED}
    assert source.feeders[0].rating_kw == load_feeders()[0].rating_kw


def test_open_source__takes_the_first_feeders():
    assert [one.feeder_id for one in open_source("bundled", feeders=2).feeders] == ["FDR_001", "FDR_002"]


def test_open_source__simulates_as_many_feeders_as_asked_for():
    source = open_source("simulator", feeders=9)
    assert len(source.feeders) == 9
    assert {one.rated_by for one in source.feeders} == {RatedBy.SIMULATOR}
    assert "temperature_c" in source.feeders[0].series.exogenous


def test_open_source__rates_an_unknown_feeder_by_the_rule(tmp_path: Path):
    path = tmp_path / "north.csv"
    rows = [f"2021-03-01T{hour:02d}:00:00Z,{10 + hour}" for hour in range(24)]
    path.write_text("\n".join(["timestamp,load_kw", *rows]))
    (one,) = open_source(f"csv:{path}").feeders
    assert one.feeder_id == "north"
    assert one.rated_by is RatedBy.RULE
    assert one.rating_kw == rating_of(one.series)
    assert one.seed is None


def test_open_source__keeps_the_seeded_rating_of_a_feeder_the_seeds_know(tmp_path: Path):
    path = tmp_path / "two.csv"
    rows = [f"2021-03-01T{hour:02d}:00:00Z,5,{7 + hour}" for hour in range(24)]
    path.write_text("\n".join(["timestamp,FDR_002,other", *rows]))
    seeded, other = open_source(f"csv:{path}").feeders
    assert (seeded.rated_by, seeded.rating_kw) == (RatedBy.SEED, 1265.0)
    assert (other.rated_by, other.seed) == (RatedBy.RULE, None)


def test_open_source__lets_a_feeder_without_any_load_be_watched(tmp_path: Path):
    path = tmp_path / "dead.csv"
    rows = [f"2021-03-01T{hour:02d}:00:00Z,0" for hour in range(24)]
    path.write_text("\n".join(["timestamp,load_kw", *rows]))
    (one,) = open_source(f"csv:{path}").feeders
    assert (one.rating_kw, one.rated_by) == (NO_LOAD_RATING_KW, RatedBy.NO_LOAD)


@pytest.mark.parametrize("text", ["bundle", "csv:", "csv", "", "simulator:3"])
def test_open_source__refuses_an_unknown_kind(text: str):
    with pytest.raises(BadUsage, match="use bundled, simulator or csv:PATH"):
        open_source(text)


def test_open_source__refuses_more_feeders_than_there_are():
    with pytest.raises(BadUsage, match="--feeders 13: the source has 12"):
        open_source("bundled", feeders=13)


def test_open_source__names_a_file_that_is_missing(tmp_path: Path):
    with pytest.raises(SeriesError, match=r"none\.csv: cannot be read"):
        open_source(f"csv:{tmp_path}/none.csv")


# --- window ---------------------------------------------------------------------------------


def test_choose_window__replays_a_short_source_whole():
    window = choose_window([flat(14)])
    assert window.history_start == START
    assert window.live_start == START + HISTORY
    assert window.live_end == START + timedelta(days=14)


def test_choose_window__gives_a_source_shorter_than_the_history_two_thirds_of_it():
    window = choose_window([flat(3)])
    assert window.live_start == START + timedelta(days=2)
    assert window.live_end == START + timedelta(days=3)


def test_choose_window__puts_the_highest_loading_of_a_long_source_into_the_live_part():
    window = choose_window([flat(90, peak_day=40.5)])
    assert window.live_start == START + timedelta(days=38)
    assert window.live_end == START + timedelta(days=42)
    assert window.history_start == START + timedelta(days=30)
    assert "120% of rating on 2021-04-10" in window.reason


@pytest.mark.parametrize(
    ("peak_day", "live_start"),
    [pytest.param(8.5, 8, id="right after the history"), pytest.param(89.9, 86, id="at the very end")],
)
def test_choose_window__stays_inside_the_source(peak_day: float, live_start: int):
    window = choose_window([flat(90, peak_day=peak_day)])
    assert window.live_start == START + timedelta(days=live_start)
    assert window.live_end - window.live_start == timedelta(days=4)


def test_choose_window__takes_days_and_start_as_asked_for():
    start = START + timedelta(days=20)
    window = choose_window([flat(90, peak_day=40)], start=start, days=1.5)
    assert (window.live_start, window.live_end) == (start, start + timedelta(days=1.5))
    assert window.history_start == start - HISTORY


def test_choose_window__loads_what_history_there_is():
    window = choose_window([flat(90)], start=START + timedelta(days=1), days=1)
    assert window.history_start == START


def test_choose_window__shortens_a_short_source_to_the_days_asked_for():
    window = choose_window([flat(14)], days=2)
    assert window.live_end == START + HISTORY + timedelta(days=2)


@pytest.mark.parametrize("days", [-1, 90])
def test_choose_window__refuses_a_start_outside_the_source(days: int):
    with pytest.raises(BadUsage, match="the source goes from 2021-03-01 to 2021-05-30"):
        choose_window([flat(90)], start=START + timedelta(days=days))


def test_choose_window__refuses_no_days():
    with pytest.raises(BadUsage, match="--days"):
        choose_window([flat(90)], days=0)


def test_highest_loading__is_held_for_an_hour_not_a_single_wild_reading():
    steady = flat(30, peak_day=20, height=110)
    wild = flat(30, peak_day=10, height=900, rows=3)
    at, loading = highest_loading([steady, wild], not_before=START)
    assert loading == pytest.approx(1.1)
    assert at == START + timedelta(days=20, hours=1)


def test_highest_loading__counts_export_and_passes_over_holes():
    load = [10.0] * 200
    load[50:54] = [-130.0, float("nan"), -130.0, -130.0]
    load[80:84] = [-95.0] * 4
    at, loading = highest_loading([feeder(load)], not_before=START)
    assert loading == pytest.approx(0.95)
    assert at == START + timedelta(minutes=15 * 84)


def test_highest_loading__looks_only_where_history_can_precede():
    at, loading = highest_loading([flat(30, peak_day=2)], not_before=START + HISTORY)
    assert loading == pytest.approx(0.5)
    assert at > START + HISTORY


def test_highest_loading__knows_nothing_of_an_empty_source():
    empty = feeder([float("nan")] * 100)
    assert highest_loading([empty], not_before=START) == (START, 0.0)
