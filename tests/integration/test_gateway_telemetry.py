"""Telemetry over HTTP, as a SCADA system would post it: what is taken, what is refused, what is answered."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import count

import pytest
import pytest_asyncio
from harness import EVENING, HIGH_KW, QUIET_KW, SLOT, Network, network, reading

from gateway.clock import utc_now

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

_numbers = count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def net(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Network]:
    """One gateway for all tests here; each has feeders of its own."""
    async with network(tmp_path_factory.mktemp("telemetry") / "data") as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def feeder(net: Network) -> str:
    """A configured feeder without readings."""
    feeder_id = f"FDR_{next(_numbers):03d}"
    await net.configure(feeder_id)
    return feeder_id


def rejected(answer):
    return [(one["index"], one["code"]) for one in answer.json["rejected"]]


# --- shapes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/telemetry", "/ingest/load"])
async def test_one_reading_an_array_and_an_object__are_all_taken(net, feeder, path):
    one, two, three, four = (reading(feeder, EVENING + n * SLOT, QUIET_KW + n) for n in range(4))
    for body, accepted in ((one, 1), ([two, three], 2), ({"readings": [four]}, 1)):
        answer = await net.ask("POST", path, body)
        assert (answer.status, answer.json["accepted"], answer.json["rejected"]) == (200, accepted, [])
        assert [state["feeder_id"] for state in answer.json["states"]] == [feeder]


async def test_every_optional_field__is_taken(net, feeder):
    answer = await net.post(
        reading(
            feeder,
            EVENING,
            312.4,
            voltage_v=230.1,
            current_a=451.0,
            temperature_c=4.5,
            holiday_flag=False,
            event_flag=True,
        )
    )
    assert (answer.status, answer.json["accepted"]) == (200, 1)


@pytest.mark.parametrize(
    ("token", "headers"),
    [(None, {}), ("wrong", {}), (None, {"Authorization": "Basic abc"}), (None, {"Authorization": "Bearer"})],
)
async def test_without_the_token__nothing_is_read(net, feeder, token, headers):
    body = reading(feeder, EVENING, QUIET_KW)
    answer = await net.ask("POST", "/telemetry", body, token=token, headers=headers)
    assert (answer.status, answer.json["code"]) == (401, "http_401")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert (await net.get(f"/config/feeders/{feeder}"))["load_kw"] is None


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "not_json"),
        (b"{", "not_json"),
        (b'[{"feeder_id": "F", "timestamp": "2020-01-06T17:00:00Z", "load_kw": NaN}]', "not_json"),
        (b'[{"feeder_id": "F", "timestamp": "2020-01-06T17:00:00Z", "load_kw": -Infinity}]', "not_json"),
        (b"\xff\xfe", "not_json"),
        (b"[" * 100_000, "not_json"),
        (b"[]", "empty_batch"),
        (b'{"readings": []}', "empty_batch"),
        (b'{"readings": {}}', "wrong_shape"),
        (b'"text"', "wrong_shape"),
        (b"17", "wrong_shape"),
    ],
)
async def test_body_that_is_no_batch__is_refused_as_a_whole(net, body, code):
    answer = await net.ask("POST", "/telemetry", body)
    assert (answer.status, answer.json["code"]) == (400, code)
    assert answer.headers["content-type"] == "application/problem+json"


# --- readings, each on its own ------------------------------------------------------------------------


async def test_bad_readings__fail_alone_and_the_good_ones_of_the_batch_count(net, feeder):
    good = reading(feeder, EVENING, QUIET_KW)
    bad = [
        ({"timestamp": "2020-01-06T17:00:00Z", "load_kw": 1.0}, "missing_field"),
        (good | {"load_kw": "1"}, "wrong_type"),
        (good | {"load_kw": True}, "wrong_type"),
        (good | {"load_kw": None}, "missing_field"),
        (good | {"timestamp": 1578330000}, "wrong_type"),
        (good | {"timestamp": "06/01/2020"}, "wrong_type"),
        (good | {"timestamp": "2020-01-06T17:00:00"}, "naive_timestamp"),
        (good | {"feeder_id": 7}, "wrong_type"),
        (good | {"feeder_id": "x" * 129}, "out_of_range"),
        (good | {"feeder_id": "nobody"}, "unknown_feeder"),
        (good | {"load_kw": 1e308}, "implausible"),
        (good | {"load_kw": 400.0 * 5.01}, "implausible"),
        (good | {"temperature_c": 400.0}, "out_of_range"),
        (good | {"holiday_flag": "no"}, "wrong_type"),
        (good | {"timestamp": (utc_now() + timedelta(minutes=5)).isoformat()}, "future"),
        ("text", "wrong_type"),
        (None, "wrong_type"),
    ]
    batch = [document for document, _ in bad] + [good]
    answer = await net.ask("POST", "/telemetry", batch)
    assert answer.status == 200
    assert answer.json["accepted"] == 1
    assert rejected(answer) == [(index, code) for index, (_, code) in enumerate(bad)]
    assert all(one["detail"] for one in answer.json["rejected"])
    assert [state["feeder_id"] for state in answer.json["states"]] == [feeder]


async def test_number_beyond_every_double__fails_its_own_reading_only(net, feeder):
    text = json.dumps(
        [reading(feeder, EVENING, 123456789.0), reading(feeder, EVENING + SLOT, QUIET_KW)]
    ).replace("123456789.0", "1e400")
    answer = await net.ask("POST", "/telemetry", text.encode())
    assert (answer.status, answer.json["accepted"]) == (200, 1)
    assert rejected(answer) == [(0, "non_finite")]


async def test_batch_without_an_acceptable_reading__is_answered_422_with_the_reasons(net, feeder):
    answer = await net.post(reading("nobody", EVENING, 1.0), reading(feeder, EVENING, 1e308))
    assert (answer.status, answer.json["code"]) == (422, "no_acceptable_reading")
    codes = [one["code"] for one in answer.json["facts"]["rejected"]]
    assert codes == ["unknown_feeder", "implausible"]


async def test_same_reading_again__is_accepted_without_effect(net, feeder):
    await net.history(feeder)
    first = await net.post(reading(feeder, EVENING + SLOT, QUIET_KW + 3))
    before = await asyncio.to_thread(net.snapshot)
    again = await net.post(reading(feeder, EVENING + SLOT, QUIET_KW + 3))
    assert (again.status, again.json) == (200, first.json)
    assert await asyncio.to_thread(net.snapshot) == before
    twice = await net.post(*[reading(feeder, EVENING + 2 * SLOT, QUIET_KW)] * 3)
    assert (twice.json["accepted"], twice.json["rejected"]) == (3, [])


async def test_other_value_for_a_known_instant__is_a_conflict(net, feeder):
    await net.history(feeder)
    answer = await net.post(reading(feeder, EVENING, HIGH_KW), reading(feeder, EVENING + SLOT, QUIET_KW))
    assert rejected(answer) == [(0, "conflict")]
    assert "differs from 200" in answer.json["rejected"][0]["detail"]
    view = await net.get(f"/config/feeders/{feeder}")
    assert view["load_kw"] == QUIET_KW


async def test_late_reading__fills_a_gap_and_is_noted(net, feeder):
    await net.post(reading(feeder, EVENING, QUIET_KW), reading(feeder, EVENING + 2 * SLOT, QUIET_KW))
    answer = await net.post(reading(feeder, EVENING + SLOT, QUIET_KW + 9))
    assert (answer.status, answer.json["accepted"], answer.json["rejected"]) == (200, 1, [])
    (note,) = answer.json["notes"]
    assert (note["index"], note["code"]) == (0, "late")
    assert (await net.get(f"/config/feeders/{feeder}"))["history_slots"] == 3


async def test_unsorted_batch__is_no_error(net, feeder):
    steps = [reading(feeder, EVENING - n * SLOT, QUIET_KW + n) for n in range(8)]
    answer = await net.post(*steps)
    assert (answer.json["accepted"], answer.json["rejected"], answer.json["notes"]) == (8, [], [])
    assert answer.json["states"][0]["state"] == 0


async def test_ancient_reading__is_judged_by_the_feeders_own_newest(net, feeder):
    await net.post(reading(feeder, EVENING, QUIET_KW))
    answer = await net.post(
        reading(feeder, EVENING - timedelta(days=9), QUIET_KW),
        reading(feeder, EVENING - timedelta(days=7), QUIET_KW),
    )
    assert rejected(answer) == [(0, "ancient")]
    assert answer.json["accepted"] == 1


async def test_reading_a_little_ahead_of_our_clock__is_taken(net, feeder):
    answer = await net.post(reading(feeder, utc_now() + timedelta(seconds=30), QUIET_KW))
    assert (answer.status, answer.json["accepted"]) == (200, 1)


# --- decisions ----------------------------------------------------------------------------------------


async def test_transition__is_answered_once_with_its_plan_and_can_be_read_again(net, feeder):
    quiet = (await net.history(feeder)).json["states"][0]
    assert (quiet["state"], quiet["state_change"], quiet["last_state"]) == (0, None, 0)
    assert sum(quiet["probabilities"]) == pytest.approx(1.0)
    answer = await net.post(reading(feeder, EVENING + SLOT, HIGH_KW))
    (state,) = answer.json["states"]
    change = state["state_change"]
    assert (change["from"], change["to"], change["at"]) == (0, 2, "2020-01-06T17:15:00Z")
    assert change["confidence"] == 1.0
    assert change["plan"]["orders"] == []
    assert max(slot["kw"] for slot in change["plan"]["uncovered"]) == pytest.approx(40.0)
    assert [slot["start"] for slot in state["forecast"]] == [
        f"2020-01-06T{clock}:00Z" for clock in ("17:15", "17:30", "17:45", "18:00")
    ]
    assert all(slot["lower_kw"] <= slot["load_kw"] <= slot["upper_kw"] for slot in state["forecast"])
    shown = await net.get(f"/classification/state?feeder_id={feeder}")
    assert (shown["state"], shown["last_state"], shown["at"]) == (2, 2, change["at"])
    assert (await net.get(f"/prediction/horizon?feeder_id={feeder}"))["slots"] == state["forecast"]
    plan = await net.get(f"/optimization/plan?feeder_id={feeder}")
    assert plan["plan"]["plan_id"] == change["plan"]["plan_id"]
    held = (await net.post(reading(feeder, EVENING + 2 * SLOT, HIGH_KW + 1))).json["states"][0]
    assert (held["state"], held["state_change"]) == (2, None)
    (alarm,) = [one for one in await net.alarms("need_uncovered") if one["feeder_id"] == feeder]
    assert alarm["cleared_at"] is None


async def test_dead_meter__is_unknown_with_a_reason_alarmed_once_and_never_trades(net, feeder):
    for n in range(8):
        answer = await net.post(reading(feeder, EVENING + n * SLOT, 0.0))
    (state,) = answer.json["states"]
    assert (state["state"], state["probabilities"], state["last_state"]) == (None, None, 0)
    assert state["reason"].startswith("dead:")
    alarms = [one for one in await net.alarms("state_unknown") if one["feeder_id"] == feeder]
    assert len(alarms) == 1
    # A single live reading does not make a dead meter trustworthy.
    (state,) = (await net.post(reading(feeder, EVENING + 8 * SLOT, HIGH_KW))).json["states"]
    assert (state["state"], state["state_change"]) == (None, None)
    assert await net.orders(feeder) == []


async def test_meter_that_sticks_at_an_overload__holds_the_last_state_and_buys_nothing_more(net, feeder):
    await net.history(feeder)
    for n in range(1, 26):
        answer = await net.post(reading(feeder, EVENING + n * SLOT, HIGH_KW))
    (state,) = answer.json["states"]
    assert (state["state"], state["last_state"]) == (None, 2)
    assert state["reason"].startswith("frozen:")
    shown = await net.get(f"/classification/state?feeder_id={feeder}")
    assert (shown["state"], shown["last_state"], shown["quality_flags"]) == (None, 2, ["frozen"])


async def test_gap_of_hours__is_unknown_until_an_hour_is_known_again(net, feeder):
    await net.history(feeder)
    later = EVENING + timedelta(hours=5)
    (state,) = (await net.post(reading(feeder, later, QUIET_KW))).json["states"]
    assert (state["state"], state["reason"].split(":")[0]) == (None, "gapped")
    for n in range(1, 21):
        (state,) = (await net.post(reading(feeder, later + n * SLOT, QUIET_KW + n))).json["states"]
    assert (state["state"], state["reason"]) == (0, None)
    alarms = [one for one in await net.alarms("state_unknown") if one["feeder_id"] == feeder]
    assert [one["cleared_at"] is None for one in alarms] == [False]


async def test_ten_minute_sampling__is_averaged_onto_quarter_hours(net):
    feeder_id = f"FDR_{next(_numbers):03d}"
    await net.configure(feeder_id, sampling_min=10)
    await net.history(feeder_id, step_min=10)
    step = timedelta(minutes=10)
    origins = []
    for n, load in enumerate((220.0, 240.0, 260.0), start=1):
        (state,) = (await net.post(reading(feeder_id, EVENING + n * step, load))).json["states"]
        origins.append((await net.get(f"/classification/state?feeder_id={feeder_id}"))["at"])
        assert len(state["forecast"]) == 4
    assert origins == ["2020-01-06T17:00:00Z", "2020-01-06T17:15:00Z", "2020-01-06T17:30:00Z"]
    # 17:15 to 17:30 is 5 min of the second and 10 min of the third reading; the rule keeps it up.
    assert state["forecast"][0]["load_kw"] == pytest.approx((5 * 240 + 10 * 260) / 15, abs=0.01)


async def test_thirty_minute_sampling__has_the_horizons_30_and_60_only(net):
    feeder_id = f"FDR_{next(_numbers):03d}"
    await net.configure(feeder_id, sampling_min=30)
    await net.history(feeder_id, step_min=30)
    (state,) = (await net.post(reading(feeder_id, EVENING + 2 * SLOT, HIGH_KW))).json["states"]
    assert [slot["start"] for slot in state["forecast"]] == ["2020-01-06T17:30:00Z", "2020-01-06T18:00:00Z"]
    need = state["state_change"]["plan"]["need"]
    assert [slot["start"] for slot in need["slots"]] == [
        f"2020-01-06T{clock}:00Z" for clock in ("17:30", "17:45", "18:00", "18:15")
    ]


async def test_many_batches_at_once__are_all_taken_and_decided_in_order(net, feeder):
    await net.history(feeder)
    batches = [net.post(reading(feeder, EVENING + n * SLOT, QUIET_KW + n)) for n in range(1, 17)]
    answers = await asyncio.gather(*batches)
    assert {answer.status for answer in answers} == {200}
    view = await net.get(f"/config/feeders/{feeder}")
    assert (view["history_slots"], view["load_at"]) == (24, "2020-01-06T21:00:00Z")


# --- restarts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["clean stop", "kill"])
async def test_restart__keeps_windows_states_and_answers(net, how):
    calm, hot, dead = (f"FDR_{next(_numbers):03d}" for _ in range(3))
    for feeder_id in (calm, hot, dead):
        await net.configure(feeder_id)
    await net.history(calm)
    await net.history(hot)
    await net.post(reading(hot, EVENING + SLOT, HIGH_KW))
    await net.post(*(reading(dead, EVENING - n * SLOT, 0.0) for n in range(8)))

    async def answers():
        found = {}
        for feeder_id in (calm, hot, dead):
            for path in (
                f"/config/feeders/{feeder_id}",
                f"/prediction/horizon?feeder_id={feeder_id}",
                f"/features/vector?feeder_id={feeder_id}",
                f"/classification/state?feeder_id={feeder_id}",
            ):
                found[path] = await net.get(path)
        found["alarms"] = [one for one in await net.get("/alarms") if one["kind"] != "model_unavailable"]
        found["plan"] = await net.get(f"/optimization/plan?feeder_id={hot}")
        return found

    before = await answers()
    if how == "kill":
        net.kill_gateway()
    else:
        await net.stop_gateway()
    await net.start_gateway()
    assert await answers() == before
    # A reading that was known stays known, another value for it stays a conflict.
    again = await net.post(reading(hot, EVENING + SLOT, HIGH_KW))
    assert (again.status, again.json["states"][0]["state"]) == (200, 2)
    clash = await net.post(reading(hot, EVENING + SLOT, HIGH_KW + 1))
    assert clash.status == 422
    # The next quarter hour is decided on the history from before: still critical, no new transition.
    (state,) = (await net.post(reading(hot, EVENING + 2 * SLOT, HIGH_KW))).json["states"]
    assert (state["state"], state["state_change"]) == (2, None)

    assert await asyncio.to_thread(net.verify) > 0
