"""Webhook bytes become readings, and a batch is judged, without losing or inventing anything."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import InvalidRequest
from gateway.telemetry.reading import (
    AdmissionRules,
    BatchLimits,
    Reading,
    Rejection,
    RejectionCode,
    admit,
    minute_of,
    parse_batch,
)
from gateway.telemetry.window import FeederWindow

T0 = datetime(2026, 1, 5, 17, 15, tzinfo=UTC)
GOOD = {"feeder_id": "F1", "timestamp": "2026-01-05T17:15:00Z", "load_kw": 312.4}


def encode(document):
    return json.dumps(document).encode()


def make(minutes=0.0, load_kw=100.0, feeder_id="F1", temperature_c=None):
    return Reading(
        feeder_id=feeder_id,
        timestamp=T0 + timedelta(minutes=minutes),
        load_kw=load_kw,
        temperature_c=temperature_c,
    )


def judge(batch, *, windows=None, ratings=None, now=T0 + timedelta(days=1), **rules):
    return admit(
        tuple(batch),
        windows=windows or {},
        ratings_kw=ratings if ratings is not None else {"F1": 400.0, "F2": 400.0},
        now=now,
        rules=AdmissionRules(**rules),
    )


# -- parse ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(GOOD, id="one object"),
        pytest.param([GOOD], id="an array"),
        pytest.param({"readings": [GOOD]}, id="an object with readings"),
    ],
)
def test_parse_batch__accepts_the_three_body_shapes(document):
    assert parse_batch(encode(document)) == (Reading(feeder_id="F1", timestamp=T0, load_kw=312.4),)


def test_parse_batch__keeps_every_field_and_ignores_unknown_ones():
    full = GOOD | {
        "voltage_v": 230.1,
        "current_a": 451.0,
        "temperature_c": 4.5,
        "holiday_flag": False,
        "event_flag": True,
        "irradiance": 1552900.0,
        "wind_speed": 3.2,
        "humidity": 0.7,
        "dow": 1,
    }
    (reading,) = parse_batch(encode(full))
    assert isinstance(reading, Reading)
    del full["dow"]
    full["timestamp"] = T0
    assert {name: getattr(reading, name) for name in full} == full


def test_parse_batch__converts_offsets_to_utc():
    (reading,) = parse_batch(encode(GOOD | {"timestamp": "2026-01-05T18:15:00+01:00"}))
    assert isinstance(reading, Reading)
    assert reading.timestamp == T0
    assert reading.timestamp.tzinfo is UTC


@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param(b"", "not_json", id="empty body"),
        pytest.param(b"load=3", "not_json", id="not JSON"),
        pytest.param(b'{"load_kw": 1}}', "not_json", id="trailing bytes"),
        pytest.param(b'[{"load_kw": NaN}]', "not_json", id="NaN literal"),
        pytest.param(b'[{"load_kw": -Infinity}]', "not_json", id="Infinity literal"),
        pytest.param(b'[{"a": 1e999}, {"load_kw": NaN}]', "not_json", id="NaN beside a huge number"),
        pytest.param(b'{"feeder_id": "\xff"}', "not_json", id="not UTF-8"),
        pytest.param(b"[" * 50_000, "not_json", id="nested without end"),
        pytest.param(b"[1e999, " + b"[" * 50_000, "not_json", id="huge number, then nested without end"),
        pytest.param(b"[]", "empty_batch", id="empty array"),
        pytest.param(b'{"readings": []}', "empty_batch", id="empty readings"),
        pytest.param(b'{"readings": {}}', "wrong_shape", id="readings not an array"),
        pytest.param(b"17", "wrong_shape", id="a number"),
        pytest.param(b'"x"', "wrong_shape", id="a string"),
        pytest.param(b"null", "wrong_shape", id="null"),
    ],
)
def test_parse_batch__refuses_a_bad_body_as_a_whole(body, code):
    with pytest.raises(InvalidRequest) as caught:
        parse_batch(body)
    assert (caught.value.code, caught.value.http_status) == (code, 400)


def test_parse_batch__enforces_its_limits_exactly():
    body = encode([GOOD, GOOD])
    assert len(parse_batch(body, BatchLimits(max_bytes=len(body), max_readings=2))) == 2
    with pytest.raises(InvalidRequest) as caught:
        parse_batch(body, BatchLimits(max_bytes=len(body) - 1))
    assert caught.value.code == "body_too_large"
    with pytest.raises(InvalidRequest) as caught:
        parse_batch(body, BatchLimits(max_readings=1))
    assert caught.value.code == "too_many_readings"


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        pytest.param({"feeder_id": None}, "missing_field", "feeder_id", id="null id"),
        pytest.param({"load_kw": None}, "missing_field", "load_kw", id="null load"),
        pytest.param({"feeder_id": 7}, "wrong_type", "feeder_id", id="number as id"),
        pytest.param({"feeder_id": ""}, "out_of_range", "feeder_id", id="empty id"),
        pytest.param({"feeder_id": "x" * 129}, "out_of_range", "feeder_id", id="long id"),
        pytest.param({"feeder_id": "a\nb"}, "out_of_range", "feeder_id", id="control character"),
        pytest.param({"load_kw": "312"}, "wrong_type", "load_kw", id="string as load"),
        pytest.param({"load_kw": True}, "wrong_type", "load_kw", id="boolean as load"),
        pytest.param({"load_kw": [1]}, "wrong_type", "load_kw", id="array as load"),
        pytest.param({"load_kw": 10**400}, "non_finite", "load_kw", id="integer beyond float64"),
        pytest.param({"timestamp": 1767633300}, "wrong_type", "timestamp", id="epoch seconds"),
        pytest.param({"timestamp": "yesterday"}, "wrong_type", "timestamp", id="no instant"),
        pytest.param({"timestamp": "2026-02-30T00:00:00Z"}, "wrong_type", "timestamp", id="no such day"),
        pytest.param({"timestamp": "2026-01-05T17:15:00"}, "naive_timestamp", "timestamp", id="naive"),
        pytest.param(
            {"timestamp": "0001-01-01T00:00:00+10:00"}, "out_of_range", "timestamp", id="before the calendar"
        ),
        pytest.param({"temperature_c": "warm"}, "wrong_type", "temperature_c", id="string as temperature"),
        pytest.param({"temperature_c": 200}, "out_of_range", "temperature_c", id="hot"),
        pytest.param({"voltage_v": -1}, "out_of_range", "voltage_v", id="negative voltage"),
        pytest.param({"holiday_flag": 1}, "wrong_type", "holiday_flag", id="number as flag"),
        pytest.param({"event_flag": "no"}, "wrong_type", "event_flag", id="string as flag"),
    ],
)
def test_parse_batch__fails_only_the_reading_that_is_wrong(change, code, field):
    first, second, third = parse_batch(encode([GOOD, GOOD | change, GOOD]))
    assert isinstance(first, Reading)
    assert isinstance(third, Reading)
    assert isinstance(second, Rejection)
    assert (second.index, second.code) == (1, code)
    assert field in second.detail


@pytest.mark.parametrize("field", ["feeder_id", "timestamp", "load_kw"])
def test_parse_batch__names_the_field_that_is_missing(field):
    (rejection,) = parse_batch(encode({name: value for name, value in GOOD.items() if name != field}))
    assert isinstance(rejection, Rejection)
    assert (rejection.code, rejection.detail) == ("missing_field", f"{field} is missing")
    assert rejection.feeder_id == (None if field == "feeder_id" else "F1")


def test_parse_batch__fails_only_the_reading_whose_number_leaves_float64():
    body = b'[{"feeder_id":"F1","timestamp":"2026-01-05T17:15:00Z","load_kw":1e999},' + encode(GOOD) + b"]"
    bad, good = parse_batch(body)
    assert isinstance(bad, Rejection)
    assert bad.code == "non_finite"
    assert good == Reading(feeder_id="F1", timestamp=T0, load_kw=312.4)


def test_parse_batch__rejects_an_item_that_is_no_object():
    (rejection,) = parse_batch(b"[[1, 2]]")
    assert isinstance(rejection, Rejection)
    assert (rejection.code, rejection.feeder_id) == ("wrong_type", None)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                name: json_values | st.just(value)
                for name, value in (GOOD | {"temperature_c": 3.0, "event_flag": True}).items()
            },
        )
        | json_values,
        min_size=1,
        max_size=5,
    )
)
def test_parse_batch__gives_one_item_per_reading_whatever_is_sent(items):
    parsed = parse_batch(encode(items))
    assert len(parsed) == len(items)
    for index, item in enumerate(parsed):
        if isinstance(item, Rejection):
            assert item.index == index
            assert item.detail
        else:
            assert item.timestamp.utcoffset() == timedelta(0)


# -- admit ---------------------------------------------------------------------------------------


def test_admit__takes_an_unsorted_batch_oldest_first_and_calls_none_of_it_late():
    admission = judge([make(30), make(0), make(15)])
    assert [reading.timestamp for reading in admission.fresh] == [
        T0,
        T0 + timedelta(minutes=15),
        T0 + timedelta(minutes=30),
    ]
    assert (admission.accepted, admission.rejected, admission.notes) == (3, (), ())


def test_admit__refuses_unknown_feeders_unless_they_may_register():
    refused = judge([make(feeder_id="F9")])
    assert [item.code for item in refused.rejected] == [RejectionCode.UNKNOWN_FEEDER]
    assert judge([make(feeder_id="F9")], auto_register=True).accepted == 1


def test_admit__keeps_the_rejections_of_parsing_and_sorts_all_by_index():
    parsed = parse_batch(encode([GOOD | {"feeder_id": "F9"}, GOOD | {"load_kw": "x"}, GOOD]))
    admission = judge(parsed)
    assert [(item.index, item.code) for item in admission.rejected] == [
        (0, "unknown_feeder"),
        (1, "wrong_type"),
    ]
    assert admission.accepted == 1


@pytest.mark.parametrize(("ahead_s", "taken"), [(120, 1), (121, 0)])
def test_admit__judges_the_future_by_wall_time_with_tolerance(ahead_s, taken):
    admission = judge([make()], now=T0 - timedelta(seconds=ahead_s))
    assert admission.accepted == taken
    assert [item.code for item in admission.rejected] == ["future"] * (1 - taken)


def test_admit__takes_a_replay_of_the_distant_past():
    assert judge([make()], now=T0 + timedelta(days=4000)).accepted == 1


@pytest.mark.parametrize(
    ("load_kw", "rating_kw", "taken"),
    [
        (2000.0, 400.0, True),
        (-2000.0, 400.0, True),
        (2000.1, 400.0, False),
        (-2000.1, 400.0, False),
        (2000.1, None, True),
        (1e308, None, False),
        (1e308, 400.0, False),
    ],
)
def test_admit__judges_the_plausible_against_the_rating(load_kw, rating_kw, taken):
    admission = judge([make(load_kw=load_kw)], ratings={"F1": rating_kw})
    assert [item.code for item in admission.rejected] == ([] if taken else ["implausible"])


def test_admit__accepts_identical_readings_without_effect_and_refuses_others():
    window = FeederWindow("F1")
    window.add(make(0, 312.4, temperature_c=4.5))
    admission = judge(
        [
            make(0, 312.4, temperature_c=4.5),
            make(0, 312.4),
            make(0, 312.5),
            make(0, 312.4, temperature_c=5.5),
        ],
        windows={"F1": window},
    )
    assert (admission.fresh, admission.duplicates, admission.accepted) == ((), 2, 2)
    assert [(item.index, item.code) for item in admission.rejected] == [(2, "conflict"), (3, "conflict")]
    assert "312.5" in admission.rejected[0].detail


def test_admit__sees_repetitions_within_one_batch():
    admission = judge([make(0, 1.0), make(0, 2.0), make(0, 1.0)])
    assert [reading.load_kw for reading in admission.fresh] == [1.0]
    assert admission.duplicates == 1
    assert [(item.index, item.code) for item in admission.rejected] == [(1, "conflict")]


def test_admit__knows_feeders_apart():
    admission = judge([make(0, 1.0), make(0, 2.0, feeder_id="F2")])
    assert (len(admission.fresh), admission.rejected) == (2, ())


def test_admit__fills_gaps_with_late_readings_and_says_so():
    window = FeederWindow("F1")
    for minutes in (0, 15, 45):
        window.add(make(minutes))
    admission = judge([make(30, 5.0)], windows={"F1": window})
    assert [reading.load_kw for reading in admission.fresh] == [5.0]
    assert [(item.index, item.code) for item in admission.notes] == [(0, "late")]


def test_admit__refuses_what_is_older_than_the_window():
    window = FeederWindow("F1")
    window.add(make(0))
    edge = -window.length.total_seconds() / 60
    admission = judge([make(edge), make(edge + 15)], windows={"F1": window})
    assert [(item.index, item.code) for item in admission.rejected] == [(0, "ancient")]
    assert [item.index for item in admission.notes] == [1]


def test_admit__measures_ancient_at_each_readings_turn_so_that_history_can_be_sent_in_one_batch():
    admission = judge([make(1440 * day) for day in reversed(range(30))], now=T0 + timedelta(days=40))
    assert admission.accepted == 30


def test_admit__tells_readings_closer_than_a_minute_from_conflicts():
    admission = judge([make(0, 1.0), make(0.2, 2.0)])
    assert [(item.index, item.code) for item in admission.rejected] == [(1, "misaligned")]


def test_minute_of__rounds_to_the_nearest_minute():
    assert minute_of(T0 + timedelta(seconds=29)) == minute_of(T0)
    assert minute_of(T0 + timedelta(seconds=30)) == minute_of(T0) + 1
    assert minute_of(T0 - timedelta(seconds=30)) == minute_of(T0)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-20, 20), st.sampled_from([1.0, 2.0]), st.sampled_from(["F1", "F2", "F3"])),
        min_size=1,
        max_size=30,
    )
)
def test_admit__what_it_lets_through_the_windows_take_and_nothing_is_lost(rows):
    windows = {"F1": FeederWindow("F1"), "F2": FeederWindow("F2")}
    windows["F1"].add(make(0, 1.0))
    admission = judge([make(15 * n, load, feeder) for n, load, feeder in rows], windows=windows)
    assert admission.accepted + len(admission.rejected) == len(rows)
    for reading in admission.fresh:
        assert windows[reading.feeder_id].add(reading).outcome in {"newest", "filled"}
