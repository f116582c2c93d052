"""The replay as data: history, instants, relief."""

from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pytest

from fluxeon.demo.relief import KEPT, ReliefMeter
from fluxeon.demo.script import Sample, history_batches, instants, reading
from fluxeon.demo.source import DemoFeeder, RatedBy
from fluxeon.demo.window import Window
from gateway.telemetry.reading import Reading, parse_batch
from ml.series import LoadSeries

START = datetime(2021, 3, 1, tzinfo=UTC)
NAN = float("nan")


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def feeder(
    name: str, rows: dict[int, float], *, step_min: int = 15, exogenous: dict[str, list[float]] | None = None
) -> DemoFeeder:
    """A feeder with load by minutes after START (interval ends)."""
    ends = np.array([int(at(minutes).timestamp()) for minutes in rows], dtype=np.int64)
    columns = {key: np.array(values) for key, values in (exogenous or {}).items()}
    return DemoFeeder(
        LoadSeries(name, step_min, ends, np.array(list(rows.values())), columns), 100.0, RatedBy.RULE
    )


def test_instants__are_in_order_and_hold_every_feeder_that_has_a_value():
    found = instants([feeder("A", {15: 1.0, 30: 2.0}), feeder("B", {15: 5.0, 45: 6.0})], START, at(45))
    assert [instant.at for instant in found] == [at(15), at(30), at(45)]
    assert [[(one.feeder_id, one.load_kw) for one in instant.samples] for instant in found] == [
        [("A", 1.0), ("B", 5.0)],
        [("A", 2.0)],
        [("B", 6.0)],
    ]


def test_instants__exclude_the_start_and_include_the_end():
    found = instants([feeder("A", {15: 1.0, 30: 2.0, 45: 3.0})], at(15), at(30))
    assert [instant.at for instant in found] == [at(30)]


def test_instants__post_nothing_for_a_missing_cell():
    found = instants([feeder("A", {15: NAN, 30: 2.0})], START, at(30))
    assert [len(instant.samples) for instant in found] == [0, 1]


def test_instants__carry_what_is_known_of_the_weather():
    source = feeder(
        "A",
        {15: 1.0, 30: 2.0},
        exogenous={
            "temperature_c": [4.5, NAN],
            "holiday_flag": [1.0, 0.0],
            "load_max_kw": [9.0, 9.0],
            "irradiance": [3e6, 0.0],
        },
    )
    first, second = (instant.samples[0].extras for instant in instants([source], START, at(30)))
    assert first == {"temperature_c": 4.5, "irradiance": 3e6, "holiday_flag": True}
    assert second == {"irradiance": 0.0, "holiday_flag": False}
    assert second["holiday_flag"] is False


def test_reading__is_what_the_gateway_takes():
    sample = Sample("A", 15, 100.0, {"temperature_c": 4.5, "event_flag": True})
    document = reading(sample, at(15), relief_kw=12.34567)
    (parsed,) = parse_batch(b"[" + msgspec.json.encode(document) + b"]")
    assert isinstance(parsed, Reading)
    assert (parsed.load_kw, parsed.timestamp) == (87.6543, at(15))
    assert (parsed.temperature_c, parsed.event_flag) == (4.5, True)


def test_reading__raises_export_by_negative_relief():
    assert reading(Sample("A", 15, -100.0, {}), at(15), relief_kw=-20.0)["load_kw"] == -80.0


def test_history_batches__hold_everything_once_in_order():
    source = [feeder(name, {15 * row: float(row) for row in range(1, 101)}) for name in ("A", "B")]
    window = Window(START, at(15 * 60), at(15 * 100), "")
    batches = list(history_batches(source, window, size=50))
    readings = [one for batch in batches for one in batch]
    assert [len(batch) for batch in batches] == [50, 50, 20]
    assert len(readings) == 120
    assert len({(one["feeder_id"], one["timestamp"]) for one in readings}) == 120
    assert [one["timestamp"] for one in readings] == sorted(one["timestamp"] for one in readings)
    assert readings[-1]["timestamp"] == "2021-03-01T15:00:00Z"


def test_history_batches__are_none_without_history():
    assert list(history_batches([feeder("A", {15: 1.0, 30: 1.0})], Window(START, START, at(30), ""))) == []


# --- relief ---------------------------------------------------------------------------------


def test_relief__adds_up_sellers_over_one_tick():
    meter = ReliefMeter()
    meter.record(START, at(15), [{"A": 10.0, "B": 1.0}, {"A": 5.0}, {}])
    assert meter.mean_kw("A", START, at(15)) == 15.0
    assert meter.mean_kw("B", START, at(15)) == 1.0
    assert meter.mean_kw("C", START, at(15)) == 0.0


def test_relief__is_averaged_over_the_ticks_of_an_interval():
    meter = ReliefMeter()
    meter.record(START, at(10), [{"A": 30.0}])
    meter.record(at(10), at(30), [{"A": 0.0}])
    assert meter.mean_kw("A", START, at(30)) == pytest.approx(10.0)


def test_relief__counts_only_the_part_of_a_tick_inside_the_interval():
    meter = ReliefMeter()
    meter.record(START, at(60), [{"A": 8.0}])
    assert meter.mean_kw("A", at(45), at(60)) == pytest.approx(8.0)
    meter.record(at(60), at(65), [{"A": -4.0}])
    assert meter.mean_kw("A", at(60), at(75)) == pytest.approx(-4.0 / 3)


def test_relief__forgets_what_no_interval_reaches():
    meter = ReliefMeter()
    meter.record(START, at(15), [{"A": 8.0}])
    meter.record(at(15), at(15) + KEPT, [{"A": 0.0}])
    assert meter.mean_kw("A", START, at(15)) == 0.0
