"""What the demo says to the gateway and the sellers, against a server that answers as told."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from fluxeon.demo.client import GatewayApi, SellerApi
from fluxeon.demo.source import DemoFeeder, RatedBy, open_source
from fluxeon.demo.world import Endpoint, free_ports
from fluxeon.errors import CommandFailed
from gateway.errors import TelemetryError
from gateway.feeders import parse_config
from gateway.routes.problems import on_gateway_error
from gateway.telemetry.reading import Rejection, RejectionCode
from ml.series import LoadSeries

AT = datetime(2021, 3, 1, tzinfo=UTC)


class Answers:
    """A server: what it is to answer, and what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.body: Any = {}
        self.asked: list[tuple[str, str, str, bytes]] = []

    async def take(self, request: web.Request) -> web.Response:
        self.asked.append(
            (request.method, request.raw_path, request.headers["Authorization"], await request.read())
        )
        body = self.body if isinstance(self.body, bytes) else msgspec.json.encode(self.body)
        return web.Response(body=body, status=self.status, content_type="application/json")


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def endpoint(answers: Answers) -> AsyncIterator[Endpoint]:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answers.take)
    async with TestServer(app, host="127.0.0.1") as server:
        assert server.port is not None
        yield Endpoint("gateway", server.port, "secret")


async def test_put_feeder__sends_a_configuration_the_gateway_takes(answers, http, endpoint):
    gateway = GatewayApi(http, endpoint)
    await gateway.put_feeder(open_source("bundled").feeders[0])
    series = LoadSeries("north/1 a", 30, np.array([0]), np.array([1.0]))
    await gateway.put_feeder(DemoFeeder(series, 12.5, RatedBy.RULE))
    seeded, plain = (parse_config(body) for _, _, _, body in answers.asked)
    assert (seeded.name, seeded.rating_kw, seeded.country) == ("Canal Street", 2150.0, "DE")
    assert seeded.location is not None
    assert (plain.rating_kw, plain.sampling_min, plain.country) == (12.5, 30, None)
    assert [path for _, path, _, _ in answers.asked] == [
        "/config/feeders/FDR_001",
        "/config/feeders/north%2F1%20a",
    ]
    assert {token for _, _, token, _ in answers.asked} == {"Bearer secret"}


async def test_post_readings__takes_a_refusal_of_every_reading_for_an_answer(answers, http, endpoint):
    rejection = Rejection(index=0, feeder_id="A", code=RejectionCode.FUTURE, detail="too early")
    error = TelemetryError("none was acceptable", rejected=msgspec.to_builtins((rejection,)))

    class Asked:
        class url:  # noqa: N801 - as the framework spells it
            path = "/telemetry"

    answers.status, answers.body = 422, on_gateway_error(Asked, error).content
    answer = await GatewayApi(http, endpoint).post_readings([{"feeder_id": "A"}])
    assert (answer.accepted, answer.states) == (0, ())
    assert [(one.code, one.feeder_id, one.detail) for one in answer.rejected] == [
        ("future", "A", "too early")
    ]


async def test_ask__says_what_the_server_said_on_another_status(answers, http, endpoint):
    answers.status, answers.body = 503, {"detail": "the disk is full"}
    with pytest.raises(CommandFailed, match=r"POST /telemetry answered 503: .*the disk is full"):
        await GatewayApi(http, endpoint).post_readings([])


async def test_ask__names_an_answer_of_another_shape(answers, http, endpoint):
    answers.body = {"accepted": "many"}
    with pytest.raises(CommandFailed, match=r"answered what cannot be read: .*accepted"):
        await GatewayApi(http, endpoint).post_readings([])


async def test_ask__names_a_server_that_is_gone(http):
    gone = Endpoint("alpha", free_ports(1)[0], "secret")
    with pytest.raises(CommandFailed, match="alpha: POST /control/clock: "):
        await SellerApi(http, gone).tick(AT)


async def test_tick__says_the_event_time_and_reads_the_relief(answers, http, endpoint):
    answers.body = {"event_time": "x", "relief": {"A": -3.5}, "callbacks": 2}
    tick = await SellerApi(http, endpoint).tick(AT)
    assert (tick.relief_kw, tick.callbacks) == ({"A": -3.5}, 2)
    assert answers.asked[0][3] == b'{"event_time":"2021-03-01T00:00:00Z"}'


async def test_catalogue_ders__counts_a_der_sold_both_ways_once(answers, http, endpoint):
    answers.body = [
        {"der": {"der_id": der_id}, "bpp_id": seller, "offer_id": str(number)}
        for number, (seller, der_id) in enumerate([("a", "1"), ("a", "1"), ("a", "2"), ("b", "1")])
    ]
    assert await GatewayApi(http, endpoint).catalogue_ders("F") == {"a": 2, "b": 1}
    assert answers.asked[0][1] == "/catalogue?feeder_id=F"


async def test_waiting__counts_the_reports_under_way(answers, http, endpoint):
    answers.body = {"callbacks_waiting": 3}
    assert await SellerApi(http, endpoint).waiting() == 3
    assert answers.asked[0][:2] == ("GET", "/control/waiting")
