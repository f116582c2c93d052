"""The API description is complete and can be browsed without the internet."""

import re

import pytest
from litestar.testing import TestClient

from gateway.app import create_app
from gateway.config import Settings


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    settings = Settings(data_dir=str(tmp_path_factory.mktemp("gateway")), admin_token="t")
    with TestClient(create_app(settings, public_url="http://127.0.0.1:1")) as client:
        yield client


def test_the_page_and_everything_it_loads_come_from_the_gateway(client):
    page = client.get("/schema")
    assert page.status_code == 200
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) >= 3
    assert [url for url in loaded if not url.startswith("/") and not url.startswith("data:")] == []
    for url in loaded:
        if url.startswith("/"):
            assert client.get(url).status_code == 200, url


def test_every_path_of_the_contract_is_described(client):
    paths = client.get("/schema/openapi.json").json()["paths"]
    for path in (
        "/telemetry",
        "/ingest/load",
        "/config/feeders",
        "/config/feeders/{feeder_id}",
        "/prediction/horizon",
        "/features/vector",
        "/classification/state",
        "/optimization/plan",
        "/beckn/orders",
        "/beckn/orders/stats",
        "/beckn/orders/{order_id}",
        "/catalogue",
        "/beckn/{action}",
        "/audit/obp",
        "/audit/obp/{obp_id}",
        "/audit/entries",
        "/health/live",
        "/health/ready",
        "/metrics",
    ):
        assert path in paths, path


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics", "/schema/openapi.json"])
def test_open_paths_need_no_token(client, path):
    assert client.get(path).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/config/feeders", "/beckn/orders", "/beckn/orders/stats", "/catalogue", "/audit/entries", "/alarms"],
)
def test_everything_else_needs_a_token(client, path):
    refused = client.get(path)
    assert refused.status_code == 401
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.headers["www-authenticate"] == "Bearer"
    assert client.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert client.get(path, headers={"Authorization": "Bearer t"}).status_code == 200


@pytest.mark.parametrize(
    ("body", "named"),
    [
        pytest.param(b"{}", "rating_kw", id="no rating"),
        pytest.param(b'{"rating_kw": -1}', "rating_kw", id="negative rating"),
        pytest.param(b'{"rating_kw": 1, "timezone": "Mars/Base"}', "timezone", id="unknown zone"),
        pytest.param(b'{"rating_kw": 1, "colour": 1}', "colour", id="unknown field"),
        pytest.param(b"not json", "configuration", id="not JSON"),
    ],
)
def test_a_bad_configuration_names_the_field(client, body, named):
    answer = client.put("/config/feeders/F1", content=body, headers={"Authorization": "Bearer t"})
    assert answer.status_code == 400
    assert named in answer.json()["detail"]


def test_unknown_things_are_not_found(client):
    headers = {"Authorization": "Bearer t"}
    for path in (
        "/beckn/orders/nope",
        "/audit/obp/nope",
        "/config/feeders/nope",
        "/prediction/horizon?feeder_id=nope",
        "/nowhere",
    ):
        answer = client.get(path, headers=headers)
        assert answer.status_code == 404, path
        assert answer.json()["status"] == 404


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        pytest.param("application/json", 422, id="JSON"),
        pytest.param("application/x-www-form-urlencoded", 422, id="what curl -d says"),
        pytest.param("text/xml", 415, id="XML"),
        pytest.param("multipart/form-data; boundary=x", 415, id="a form with files"),
    ],
)
def test_telemetry_takes_json_whatever_a_simple_client_calls_it(client, content_type, status):
    answer = client.post(
        "/telemetry",
        content=b'{"feeder_id": "unknown", "timestamp": "2026-01-05T17:15:00Z", "load_kw": 1}',
        headers={"Authorization": "Bearer t", "Content-Type": content_type},
    )
    assert answer.status_code == status


def test_the_body_limits_of_beckn_messages_are_settings(tmp_path):
    settings = Settings(
        data_dir=str(tmp_path), admin_token="t", max_message_bytes=2048, max_catalogue_bytes=4096
    )
    with TestClient(create_app(settings, public_url="http://127.0.0.1:1")) as small:
        for action, size, status in (
            ("on_select", 2049, 413),
            ("on_select", 2048, 401),
            ("on_discover", 4097, 413),
            ("on_discover", 4096, 401),
        ):
            body = b'"' + b"x" * (size - 2) + b'"'
            answer = small.post(
                f"/beckn/{action}", content=body, headers={"Content-Type": "application/json"}
            )
            assert answer.status_code == status, (action, size)
