"""What the routes answer, in one process and without peers: figures, plans, pages, refusals."""

import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from litestar.testing import TestClient

from gateway.app import create_app
from gateway.beckn.signing import parse_authorization
from gateway.clock import rfc3339
from gateway.config import Settings
from gateway.errors import StoreError
from gateway.orders.order import Order, OrderState
from gateway.routes.orders import latency, order_stats
from gateway.types import Der, DerType, Direction, Offer, OrderLine, OrderTerms

EVENING = datetime(2020, 1, 6, 17, 0, tzinfo=UTC)
SLOT = timedelta(minutes=15)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A gateway without a registry, deciding by the threshold rule; the administrator calls."""
    folder = tmp_path_factory.mktemp("gateway")
    settings = Settings(
        data_dir=str(folder), admin_token="t", model_dir=str(folder / "none"), max_batch_readings=100
    )
    with TestClient(
        create_app(settings, public_url="http://127.0.0.1:1"), raise_server_exceptions=False
    ) as client:
        client.headers["Authorization"] = "Bearer t"
        yield client


@pytest.fixture(scope="module")
def runtime(client):
    return client.app.state.runtime


@pytest.fixture(scope="module")
def hot(client, runtime):
    """A feeder in an overload, with an offer but nobody to order from automatically."""
    feeder_id = "HOT"
    configured = client.put(
        f"/config/feeders/{feeder_id}", json={"rating_kw": 400.0, "automation": "off", "name": "High Street"}
    )
    assert configured.status_code == 200
    battery = Der(
        der_id="der:a:1",
        aggregator_id="a",
        type=DerType.BATTERY,
        feeder_id=feeder_id,
        direction=Direction.REDUCE,
        capacity_kw=50.0,
        response_time_s=0.0,
        min_duration_min=15,
        max_duration_min=120,
        price_per_kwh="0.30",
    )
    offer = Offer(
        offer_id="a:1",
        bpp_id="bpp-a.example",
        bpp_uri="http://127.0.0.1:1/beckn",
        provider_id="a",
        provider_name="A",
        ders=(battery, msgspec.structs.replace(battery, der_id="der:a:2", crypto_proof={"type": "did"})),
        price_per_kwh="0.30",
        currency="GBP",
    )
    runtime.catalogue.replace(feeder_id, "bpp-a.example", Direction.REDUCE, (offer,))
    loads = [200.0 + n for n in range(8)] + [380.0]
    answer = post(client, *((EVENING + n * SLOT, load) for n, load in enumerate(loads)), feeder_id=feeder_id)
    assert answer.json()["states"][0]["state"] == 2
    return feeder_id


def post(client, *readings: tuple[datetime, float], feeder_id):
    return client.post(
        "/telemetry",
        json=[{"feeder_id": feeder_id, "timestamp": rfc3339(at), "load_kw": load} for at, load in readings],
    )


# --- feeders ------------------------------------------------------------------------------------------


def test_configuration__is_shown_as_it_was_set_and_journalled_with_what_it_was(client):
    first = {"rating_kw": 400.0, "timezone": "Europe/London", "country": "GB", "sampling_min": 15}
    second = first | {"rating_kw": 500.0, "thresholds": {"alert_loading": 0.8, "critical_loading": 0.95}}
    for body in (first, second):
        assert client.put("/config/feeders/F%201", json=body).status_code == 200
    shown = client.get("/config/feeders/F%201").json()
    assert shown["config"]["rating_kw"] == 500.0
    assert shown["config"]["thresholds"]["critical_loading"] == 0.95
    assert "F 1" in [one["feeder_id"] for one in client.get("/config/feeders").json()]
    entries = client.get("/audit/entries", params={"limit": 1000}).json()["entries"]
    bodies = [
        one["body"]
        for one in entries
        if one["kind"] == "config.changed" and one["refs"]["feeder_id"] == "F 1"
    ]
    assert [
        (body["before"] and body["before"]["rating_kw"], body["after"]["rating_kw"]) for body in bodies
    ] == [(None, 400.0), (400.0, 500.0)]
    assert {body["by"] for body in bodies} == {"admin"}


@pytest.mark.parametrize(
    "thresholds",
    [
        {"alert_loading": 1.2, "critical_loading": 0.9},
        {"alert_probability": 0.0},
        {"rise_after": 0},
        {"colour": "red"},
    ],
)
def test_thresholds_that_make_no_sense__are_refused(client, thresholds):
    refused_configuration(client, thresholds=thresholds)


@pytest.mark.parametrize(
    "need",
    [
        {"target_loading": 0.0},
        {"target_loading": -1.0},
        {"target_loading": 1.5},
        {"quantile_weight": 2.0},
        {"min_lot_kw": -1.0},
        {"growth_share": -0.1},
        {"tarket_loading": 0.9},
    ],
)
def test_need_policies_that_make_no_sense__are_refused(client, need):
    refused_configuration(client, need=need)


@pytest.mark.parametrize("weights", [{"price": -1.0}, {"beauty": 1.0}, {"type_preference": {"EV": 2.0}}])
def test_weights_that_make_no_sense__are_refused(client, weights):
    refused_configuration(client, weights=weights)


def refused_configuration(client, **changes):
    answer = client.put("/config/feeders/F2", json={"rating_kw": 1.0, **changes})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_configuration")
    assert client.get("/config/feeders/F2").status_code == 404


@pytest.mark.parametrize("name", ["x" * 129, "a%00b", "a%0Ab"])
def test_feeder_id_nobody_could_print__is_refused(client, name):
    assert client.put(f"/config/feeders/{name}", json={"rating_kw": 1.0}).status_code == 400


def test_feeder_nothing_has_come_from__has_nothing_to_show(client):
    client.put("/config/feeders/NEW", json={"rating_kw": 1.0})
    for path in ("/prediction/horizon", "/features/vector", "/classification/state"):
        answer = client.get(path, params={"feeder_id": "NEW"})
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
        assert client.get(path).status_code == 400
    assert client.get("/config/feeders/NEW").json()["state_reason"] == "nothing has come yet"


def test_features__are_named_and_bound_to_their_window(client, hot):
    shown = client.get("/features/vector", params={"feeder_id": hot}).json()
    assert shown["window_end"] == "2020-01-06T19:00:00Z"
    assert len(shown["features"]) > 10
    assert any(value is not None for value in shown["features"].values())


def test_more_readings_than_allowed_in_one_batch__are_refused(client):
    answer = post(client, *((EVENING + n * SLOT, 1.0) for n in range(101)), feeder_id="NEW")
    assert (answer.status_code, answer.json()["code"]) == (400, "too_many_readings")


# --- plans --------------------------------------------------------------------------------------------


def test_dry_run__plans_for_the_newest_forecast_and_orders_nothing(client, runtime, hot):
    before = client.get("/audit/entries", params={"limit": 1000}).json()
    answer = client.post("/optimization/plan", json={"feeder_id": hot})
    assert answer.status_code == 200
    plan = answer.json()
    assert plan["plan_id"] == "dry-run"
    assert sum(line["kw"] for line in plan["orders"][0]["lines"]) == pytest.approx(40.0)
    assert {one["der_id"]: one["taken"] for one in plan["decisions"]} == {"der:a:1": True, "der:a:2": False}
    assert client.get("/beckn/orders").json() == []
    assert client.get("/audit/entries", params={"limit": 1000}).json() == before


def test_dry_run__takes_other_weights_and_refuses_senseless_ones(client, hot):
    weighed = client.post("/optimization/plan", json={"feeder_id": hot, "weights": {"price": 9.0}})
    assert weighed.json()["weights"]["price"] == 9.0
    for weights in ({"price": -1.0}, {"beauty": 1.0}, "much"):
        answer = client.post("/optimization/plan", json={"feeder_id": hot, "weights": weights})
        assert answer.status_code == 400, weights
        assert answer.headers["content-type"] == "application/problem+json"


def test_plan_where_none_can_be_made__says_why(client, hot):
    assert client.post("/optimization/plan", json={"feeder_id": "nobody"}).status_code == 404
    client.put("/config/feeders/CALM", json={"rating_kw": 400.0})
    assert client.get("/optimization/plan", params={"feeder_id": "CALM"}).status_code == 404
    post(client, *((EVENING + n * SLOT, 100.0 + n) for n in range(8)), feeder_id="CALM")
    answer = client.post("/optimization/plan", json={"feeder_id": "CALM"})
    assert (answer.status_code, answer.json()["code"]) == (404, "no_need")
    made = client.get("/optimization/plan", params={"feeder_id": hot}).json()
    assert made["traded"] is False


def test_catalogue__tells_what_is_known_of_an_identity(client, hot):
    rows = client.get("/catalogue", params={"feeder_id": hot}).json()
    assert {row["der"]["der_id"]: row["identity"] for row in rows} == {
        "der:a:1": "no proof presented",
        "der:a:2": "proof presented, not verified",
    }
    assert client.get("/catalogue", params={"feeder_id": "nobody"}).json() == []
    assert client.get("/catalogue").json() == rows


# --- orders -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "code"),
    [({"state": "SLEEPING"}, "unknown_state"), ({"limit": "0"}, "http_400"), ({"limit": "x"}, "http_400")],
)
def test_questions_about_orders_that_make_no_sense__are_refused(client, params, code):
    answer = client.get("/beckn/orders", params=params)
    assert (answer.status_code, answer.json()["code"]) == (400, code)


def test_cancelling_what_does_not_exist__is_not_found(client):
    answer = client.post("/beckn/orders/nope/cancel", json={"reason": "none"})
    assert (answer.status_code, answer.json()["facts"]) == (404, {"order_id": "nope"})
    assert client.post("/beckn/orders/nope/cancel", json={"why": "x"}).status_code == 400


def test_figures_without_orders__are_empty_not_zero(client):
    stats = client.get("/beckn/orders/stats").json()
    assert (stats["orders"], stats["completed_share"]) == (0, None)
    assert stats["detection_to_confirm_ms"] == {"count": 0, "p50": None, "p95": None, "max": None}


@pytest.mark.parametrize(
    ("values", "p50", "p95"),
    [([7.0], 7.0, 7.0), ([3.0, 1.0], 2.0, 3.0), ([float(n) for n in range(1, 101)], 50.5, 95.0)],
)
def test_latency__is_median_nearest_rank_and_maximum(values, p50, p95):
    found = latency(values)
    assert (found.count, found.p50, found.p95, found.max) == (len(values), p50, p95, max(values))


def order(
    state: OrderState, *, ms: float | None = None, replan: bool = False, wh: int | None = None
) -> Order:
    terms = OrderTerms(
        obp_id="o",
        event_id="n",
        feeder_id="F",
        direction=Direction.REDUCE,
        offer_id="f",
        provider_id="a",
        window_start=EVENING,
        window_end=EVENING + 4 * SLOT,
        lines=(OrderLine(der_id="d", der_type=DerType.EV, kw=10.0),),
        price_per_kwh="0.30",
        currency="GBP",
    )
    return Order(
        order_id="1",
        obp_id="o",
        need_id="n",
        state_change_id="s",
        feeder_id="F",
        bpp_id="b",
        bpp_uri="u",
        transaction_id="t",
        terms=terms,
        detected_at=EVENING,
        decided_event_at=EVENING,
        state=state,
        replan=replan,
        confirm_sent_at=None if ms is None else EVENING + timedelta(milliseconds=ms),
        delivered_wh=wh,
    )


def test_figures__count_first_plans_and_replans_apart():
    stats = order_stats(
        [
            order(OrderState.COMPLETED, ms=20.0, wh=9_000),
            order(OrderState.COMPLETED, ms=30.0, replan=True, wh=1_500),
            order(OrderState.DECLINED),
            order(OrderState.CONFIRMED, ms=40.0),
            order(OrderState.SELECTING),
        ]
    )
    assert (stats.orders, stats.negotiating, stats.agreed, stats.terminal) == (5, 1, 1, 3)
    assert stats.completed_share == pytest.approx(2 / 3, abs=1e-4)
    assert (stats.requested_kwh, stats.delivered_kwh) == (50.0, 10.5)
    assert (stats.detection_to_confirm_ms.count, stats.detection_to_confirm_ms.max) == (2, 40.0)
    assert (stats.replan_to_confirm_ms.count, stats.replan_to_confirm_ms.p50) == (1, 30.0)


# --- alarms and audit ---------------------------------------------------------------------------------


def test_alarms__are_listed_newest_first_and_by_whether_they_stand(client, hot):
    client.put("/config/feeders/DEAD", json={"rating_kw": 400.0})
    for n in range(6):
        post(client, (EVENING + n * SLOT, 0.0), feeder_id="DEAD")
    alarms = client.get("/alarms").json()
    assert alarms == sorted(alarms, key=lambda one: one["raised_at"], reverse=True)
    kinds = {(one["kind"], one["feeder_id"]) for one in alarms}
    assert {("model_unavailable", None), ("state_unknown", "DEAD")} <= kinds
    standing = client.get("/alarms", params={"standing": "true"}).json()
    assert {one["alarm_id"] for one in standing} == {
        one["alarm_id"] for one in alarms if one["cleared_at"] is None
    }


def test_journal__is_paged_in_order(client, hot):
    whole = client.get("/audit/entries", params={"limit": 1000}).json()["entries"]
    paged = []
    while len(paged) < len(whole):
        page = client.get("/audit/entries", params={"from_seq": len(paged) + 1, "limit": 3}).json()["entries"]
        assert 0 < len(page) <= 3
        paged += page
    assert paged == whole
    assert [one["seq"] for one in whole] == list(range(1, len(whole) + 1))


@pytest.mark.parametrize("params", [{"from": "yesterday"}, {"limit": "0"}, {"limit": "100000"}])
def test_searches_that_make_no_sense__are_refused(client, params):
    answer = client.get("/audit/obp", params=params)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")


# --- Beckn paths --------------------------------------------------------------------------------------


def callback(client, body=b"{}", action="on_select", **headers):
    headers = {"Content-Type": "application/json", "Authorization": ""} | headers
    return client.post(f"/beckn/{action}", content=body, headers=headers)


def test_beckn_path__needs_a_signature_and_takes_no_token(client):
    for authorization in ("", "Bearer t"):
        answer = callback(client, Authorization=authorization)
        assert answer.status_code == 401
        assert answer.json()["message"]["error"]["code"] == "AUT_SIGNATURE_MISSING"
        assert answer.headers["www-authenticate"].startswith("Signature ")


def test_without_a_registry__no_signer_is_trusted(client, runtime):
    body = json.dumps({"context": {"messageId": "m"}, "message": {}}).encode()
    signed = runtime.signer.authorization(body, now=runtime.clock())
    answer = callback(client, body, Authorization=signed)
    assert answer.status_code == 401
    assert answer.json()["message"]["error"]["code"] == "AUT_SUBSCRIBER_NOT_FOUND"


@pytest.mark.parametrize(
    ("fault", "status"), [(StoreError("disk full"), 503), (RuntimeError("a secret of ours"), 500)]
)
def test_fault_of_ours__is_a_signed_nack_that_tells_no_secret(client, runtime, monkeypatch, fault, status):
    async def verified(**_named):
        raise fault

    monkeypatch.setattr("gateway.routes.beckn.verify_inbound", verified)
    answer = callback(client, b'{"context": {"version": "2.0.0", "messageId": "m-1"}, "message": {}}')
    assert answer.status_code == status
    message = answer.json()["message"]
    assert (message["status"], message["messageId"]) == ("NACK", "m-1")
    assert message["error"]["code"] == "NET_INTERNAL_ERROR"
    assert "secret" not in answer.text
    assert parse_authorization(answer.headers["signature"]).key_id == runtime.signer.key_id


def test_fault_of_ours_on_our_own_api__is_a_problem_with_a_reference(client, runtime, monkeypatch):
    async def fail(_body):
        raise RuntimeError("a secret of ours")

    monkeypatch.setattr(runtime.pipeline, "handle_telemetry", fail)
    answer = client.post("/telemetry", json=[])
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "secret" not in answer.text
    assert "reference" in answer.json()["detail"]
