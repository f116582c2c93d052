"""Registry and one aggregator as real processes; a signed buyer drives them over loopback."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
from aiohttp import web

from gateway.beckn import v2
from gateway.beckn.client import BecknClient
from gateway.beckn.envelope import AnswerKind, Context, ack_body, encode, parse_answer
from gateway.beckn.resolver import RegistryClient
from gateway.beckn.schema import MessageSchemas
from gateway.beckn.signing import (
    Signer,
    bare_signature,
    digest,
    generate_private_key,
    parse_authorization,
    verify_signature,
)
from gateway.beckn.verify import verify_inbound
from gateway.clock import rfc3339, utc_now
from gateway.types import ContractStatus, DerType, Direction, OrderLine, OrderTerms, PerformanceStatus

ROOT = Path(__file__).resolve().parents[2]
BPP_ID = "bpp-alpha.example"
TOKEN = "control-token"
DAY = datetime(2020, 1, 6, tzinfo=UTC)
HOUR = timedelta(hours=1)
DEADLINE_S = 30.0


def der(number, **changes):
    return {
        "der_id": f"der:alpha:{number:06d}",
        "type": "battery",
        "feeder_id": f"FDR_{number:03d}",
        "direction": "both",
        "capacity_kw": 50.0,
        "min_kw": 1.0,
        "response_time_s": 0,
        "min_duration_min": 15,
        "max_duration_min": 120,
        "price_per_kwh": "0.30",
        "delivery_mean": 1.0,
        "delivery_sd": 0.0,
        "baseline": {"method": "NOMINATED", "kw": 5.0},
        "location": {"latitude": 51.5, "longitude": -0.1},
        "meter_ids": [f"mtr:{number}"],
    } | changes


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    """One process of the mock world, started and ended by us."""

    def __init__(self, call, port, log) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"from pathlib import Path; import registry.serve as s; {call}"],
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )

    @property
    def log(self):
        return self._log.read_text()

    async def ready(self, http, **wanted):
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            assert self._process.poll() is None, self.log
            with contextlib.suppress(Exception):
                document = await http.get_json(f"{self.url}/health/ready")
                if all(document.get(name) == value for name, value in wanted.items()):
                    return
            await asyncio.sleep(0.05)
        pytest.fail(f"not ready: {self.log}")

    def end(self, how=signal.SIGTERM):
        if self._process.poll() is None:
            self._process.send_signal(how)
        try:
            return self._process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(DEADLINE_S)
            raise


def start_registry(folder, port):
    return Process(f"s.run_registry('127.0.0.1', {port}, Path({str(folder)!r}))", port, folder / "log")


def start_bpp(folder, port, registry_url):
    portfolio = folder / "portfolio.json"
    portfolio.write_bytes(
        msgspec.json.encode(
            {
                "provider_id": "alpha",
                "provider_name": "Alpha Flex",
                "ders": [der(number) for number in range(1, 13)],
            }
        )
    )
    call = (
        f"s.run_bpp(subscriber_id={BPP_ID!r}, host='127.0.0.1', port={port}, "
        f"public_url='http://127.0.0.1:{port}', registry_url={registry_url!r}, "
        f"portfolio=Path({str(portfolio)!r}), data_dir=Path({str(folder)!r}), "
        f"control_token={TOKEN!r}, seed=7)"
    )
    return Process(call, port, folder / "log")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A registry and a BPP; ended by their handles."""
    registry_dir, bpp_dir = tmp_path_factory.mktemp("registry"), tmp_path_factory.mktemp("bpp")
    registry_port, bpp_port = free_port(), free_port()
    running = []
    try:
        # The BPP first: it waits for its registry.
        running.append(start_bpp(bpp_dir, bpp_port, f"http://127.0.0.1:{registry_port}"))
        running.append(start_registry(registry_dir, registry_port))
        yield running[0], running[1], bpp_dir
    finally:
        for process in running:
            process.end()


class Buyer:
    """A signed client and the receiver of its callbacks; every callback is verified in full."""

    def __init__(self, bpp, registry, port) -> None:
        self.bpp_uri = f"{bpp.url}/beckn"
        self.uri = f"http://127.0.0.1:{port}/beckn"
        self.id = f"bap-{port}.example"
        self.signer = Signer.from_private(generate_private_key(), self.id, "k1")
        self.http = BecknClient(utc_now)
        self.registry = RegistryClient(registry.url, self.http, utc_now)
        self.schemas = MessageSchemas.load()
        self.sent = defaultdict(list)
        self.inbox = asyncio.Queue()
        self.fail_next = 0

    async def receive(self, request):
        if self.fail_next:
            self.fail_next -= 1
            return web.Response(status=503)
        try:
            message = await verify_inbound(
                action=request.match_info["action"],
                body=await request.read(),
                headers=request.headers,
                resolver=self.registry,
                schemas=self.schemas,
                own_id=self.id,
                role="bap",
                now=utc_now(),
                sent_signatures=lambda message_id: self.sent.get(message_id, ()),
            )
        except Exception as error:
            await self.inbox.put(error)
            raise
        await self.inbox.put(message)
        return web.Response(body=ack_body(message.context.message_id), content_type="application/json")

    async def callback(self):
        message = await asyncio.wait_for(self.inbox.get(), DEADLINE_S)
        if isinstance(message, Exception):
            raise message
        return message

    def body(self, action, message, transaction_id, message_id=None, **changes):
        members = {
            "action": action,
            "bap_id": self.id,
            "bap_uri": self.uri,
            "bpp_id": BPP_ID,
            "bpp_uri": self.bpp_uri,
            "transaction_id": transaction_id,
            "message_id": message_id or str(uuid4()),
            "timestamp": utc_now(),
        } | changes
        return members["message_id"], encode(Context(**members), message)

    async def post(self, action, message_id, body, header=None):
        header = header or self.signer.authorization(body, now=utc_now())
        self.sent[message_id].append((bare_signature(header), header))
        return header, await self.http.post(f"{self.bpp_uri}/{action}", body, {"Authorization": header})

    async def ask(self, action, message, transaction_id, message_id=None):
        """Send a request, check the signed Ack, return the verified callback."""
        message_id, body = self.body(action, message, transaction_id, message_id)
        header, answer = await self.post(action, message_id, body)
        said = parse_answer(answer.status, answer.body)
        assert said.kind is AnswerKind.ACK, answer
        assert answer.body == ack_body(message_id)
        await self.check_answer_signature(header, answer)
        message = await self.callback()
        assert (message.action, message.variant) == (f"on_{action}", "4-line-bare")
        assert message.context.message_id == message_id
        assert message.context.transaction_id == transaction_id
        return message

    async def check_answer_signature(self, header, answer):
        parsed = parse_authorization(answer.headers["signature"])
        key = await self.registry.key(parsed.subscriber_id, parsed.key_id)
        assert key.subscriber_id == BPP_ID
        variant = verify_signature(
            parsed, digest(answer.body), key.public_key, [(bare_signature(header), header)]
        )
        assert variant == "4-line-bare"

    async def control(self, path, document=None, token=TOKEN):
        url = self.bpp_uri.replace("/beckn", "/control") + path
        headers = {"Authorization": f"Bearer {token}"}
        if document is None:
            return await self.http.get_json(url, headers=headers)
        answer = await self.http.post(url, msgspec.json.encode(document), headers)
        return answer.status, msgspec.json.decode(answer.body)

    async def clock(self, at):
        status, document = await self.control("/clock", {"event_time": rfc3339(at)})
        assert status == 200, document
        return document["relief"]

    async def order(self, number, start, *, kw=20.0, direction=Direction.REDUCE, end=None):
        """Take an order as far as on_confirm."""
        terms = terms_for(number, start, kw=kw, direction=direction, end=end)
        transaction_id = str(uuid4())
        selected = await self.ask("select", v2.select_message(terms), transaction_id)
        view = v2.parse_contract(selected.message)
        assert view.contract_id is None
        initialised = await self.ask("init", v2.init_message(terms, view), transaction_id)
        view = v2.parse_contract(initialised.message)
        confirmed = await self.ask("confirm", v2.confirm_message(terms, view), transaction_id)
        return terms, transaction_id, v2.parse_contract(confirmed.message)


def terms_for(number, start, *, kw=20.0, direction=Direction.REDUCE, end=None):
    feeder_id = f"FDR_{number:03d}"
    return OrderTerms(
        obp_id=f"OBP-{uuid4()}",
        event_id=f"need-{number}",
        feeder_id=feeder_id,
        direction=direction,
        offer_id=f"alpha:{feeder_id}:battery:{direction.value}:0.30",
        provider_id="alpha",
        window_start=start,
        window_end=end or start + HOUR,
        lines=(OrderLine(der_id=f"der:alpha:{number:06d}", der_type=DerType.BATTERY, kw=kw),),
        price_per_kwh="0.30",
        currency="GBP",
    )


@contextlib.asynccontextmanager
async def buyer_at(world):
    bpp, registry, _ = world
    buyer = Buyer(bpp, registry, free_port())
    await registry.ready(buyer.http)
    await bpp.ready(buyer.http, registered=True)
    now = utc_now()
    status = await buyer.registry.subscribe(
        buyer.signer,
        url=buyer.uri,
        type="BAP",
        domain="demand-flexibility",
        valid_from=now,
        valid_until=now + HOUR,
    )
    assert status == "SUBSCRIBED"
    application = web.Application()
    application.router.add_post("/beckn/{action}", buyer.receive)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(buyer.uri.split(":")[2].split("/")[0])).start()
    try:
        yield buyer
    finally:
        await buyer.http.close()
        await runner.cleanup()


async def test_an_order_from_discover_to_complete(world):
    async with buyer_at(world) as buyer:
        (participant,) = await buyer.registry.participants("BPP")
        assert participant.url == buyer.bpp_uri
        assert participant.serves_place("FDR_001")
        assert not participant.serves_place("FDR_999")

        start = DAY + timedelta(hours=17)
        await buyer.clock(start - HOUR)
        ask = v2.discover_message("FDR_001", Direction.REDUCE, 20.0, start, start + HOUR)
        found = await buyer.ask("discover", ask, str(uuid4()))
        (offer,) = v2.parse_on_discover(found.message)
        assert (offer.bpp_id, offer.bpp_uri, offer.price_per_kwh) == (BPP_ID, buyer.bpp_uri, "0.30")
        assert [(d.der_id, d.feeder_id, d.capacity_kw) for d in offer.ders] == [
            ("der:alpha:000001", "FDR_001", 50.0)
        ]

        terms, transaction_id, view = await buyer.order(1, start)
        assert view.status is ContractStatus.ACTIVE
        assert view.contract_id is not None
        assert [line.committed_kw for line in view.lines] == [20.0]
        assert view.total_price == "6.00"
        assert [(each.method.value, each.kw) for each in view.baselines] == [("NOMINATED", 5.0)]
        assert [each.status for each in view.performance] == [PerformanceStatus.SCHEDULED]

        rest = await buyer.ask("discover", ask, str(uuid4()))
        assert v2.parse_on_discover(rest.message)[0].ders[0].capacity_kw == pytest.approx(29.0)

        relief = await buyer.clock(start)
        assert relief["FDR_001"] == 0
        pushed = await buyer.callback()
        assert (pushed.action, pushed.variant) == ("on_status", "3-line")
        assert pushed.context.transaction_id == transaction_id
        started = v2.parse_contract(pushed.message)
        assert [each.status for each in started.performance] == [PerformanceStatus.IN_PROGRESS]

        relief = await buyer.clock(start + timedelta(minutes=15))
        assert relief["FDR_001"] == pytest.approx(20)
        assert relief["FDR_002"] == 0
        status = v2.status_message(terms, view.contract_id)
        halfway = v2.parse_contract((await buyer.ask("status", status, transaction_id)).message)
        assert [len(each.intervals) for each in halfway.performance] == [1]

        assert (await buyer.clock(start + 2 * HOUR))["FDR_001"] == pytest.approx(20 * 45 / 105)
        pushed = await buyer.callback()
        done = v2.parse_contract(pushed.message)
        assert pushed.variant == "3-line"
        assert done.status is ContractStatus.COMPLETE
        (report,) = done.performance
        assert report.status is PerformanceStatus.COMPLETED
        assert [each.usage_wh for each in report.intervals] == [-3750] * 4
        assert (report.intervals[0].start, report.intervals[-1].end) == (start, start + HOUR)
        again = v2.parse_contract((await buyer.ask("status", status, transaction_id)).message)
        assert again == done


async def test_an_increase_raises_import(world):
    async with buyer_at(world) as buyer:
        start = DAY + timedelta(days=1)
        await buyer.clock(start)
        _, _, view = await buyer.order(2, start, direction=Direction.INCREASE)
        assert view.status is ContractStatus.ACTIVE
        assert (await buyer.callback()).action == "on_status"
        assert (await buyer.clock(start + HOUR))["FDR_002"] == pytest.approx(-20)
        done = v2.parse_contract((await buyer.callback()).message)
        assert [each.usage_wh for each in done.performance[0].intervals] == [6250] * 4


async def test_a_seller_that_can_do_less_commits_less_and_then_declines(world):
    async with buyer_at(world) as buyer:
        start = DAY + timedelta(days=2, hours=12)
        await buyer.clock(start - HOUR)
        _, _, first = await buyer.order(3, start, kw=40.0)
        _, _, second = await buyer.order(3, start, kw=40.0)
        assert first.lines[0].committed_kw == 40
        assert second.lines[0].committed_kw == pytest.approx(8)
        _, _, third = await buyer.order(3, start, kw=40.0)
        assert (third.status, third.decline_reason) == (ContractStatus.CANCELLED, "NO_FREE_CAPACITY")


async def test_a_cancelled_order_stops_and_frees_its_ders(world):
    async with buyer_at(world) as buyer:
        start = DAY + timedelta(days=3)
        await buyer.clock(start)
        terms, transaction_id, view = await buyer.order(4, start)
        assert (await buyer.callback()).action == "on_status"
        await buyer.clock(start + timedelta(minutes=15))
        message = v2.cancel_message(terms, view.contract_id, "peak has passed")
        answer = v2.parse_contract((await buyer.ask("cancel", message, transaction_id)).message)
        assert (answer.status, answer.decline_reason) == (
            ContractStatus.CANCELLED,
            "CANCELLED_BY_BUYER: peak has passed",
        )
        assert (await buyer.clock(start + HOUR))["FDR_004"] == 0


async def test_confirm_is_idempotent(world):
    async with buyer_at(world) as buyer:
        start = DAY + timedelta(days=4, hours=6)
        await buyer.clock(start - HOUR)
        terms, transaction_id, view = await buyer.order(5, start)
        confirm = v2.confirm_message(terms, view)
        again = v2.parse_contract((await buyer.ask("confirm", confirm, transaction_id)).message)
        assert again == view


async def test_a_repeated_message_is_acknowledged_without_effect(world):
    async with buyer_at(world) as buyer:
        terms = terms_for(6, DAY + timedelta(days=30))
        transaction_id = str(uuid4())
        select = v2.select_message(terms)
        view = v2.parse_contract((await buyer.ask("select", select, transaction_id)).message)
        message_id, body = buyer.body("init", v2.init_message(terms, view), transaction_id)
        answers = []
        for _ in range(2):
            header, answer = await buyer.post("init", message_id, body)
            await buyer.check_answer_signature(header, answer)
            answers.append(answer.body)
        assert answers[0] == answers[1] == ack_body(message_id)
        assert (await buyer.callback()).action == "on_init"

        _, other = buyer.body("init", v2.init_message(terms, view), transaction_id, message_id, ttl="PT31S")
        _, answer = await buyer.post("init", message_id, other)
        said = parse_answer(answer.status, answer.body)
        assert (said.kind, said.code) == (AnswerKind.NACK, "CTX_MESSAGE_ID_DUPLICATE")
        # The next callback is of a later request: the repetitions caused none.
        assert (await buyer.ask("select", select, str(uuid4()))).action == "on_select"


async def test_refusals_are_signed_nacks(world):
    async with buyer_at(world) as buyer:
        terms = terms_for(7, DAY + timedelta(days=30))

        async def refused(path, message, sign=None, action=None):
            message_id, body = buyer.body(action or path, message, str(uuid4()))
            header = (sign or buyer.signer).authorization(body, now=utc_now())
            header, answer = await buyer.post(path, message_id, body, header)
            await buyer.check_answer_signature(header, answer)
            said = parse_answer(answer.status, answer.body)
            assert (said.kind, said.message_id) == (AnswerKind.NACK, message_id)
            return answer.status, said.code, said.path

        forger = Signer.from_private(generate_private_key(), buyer.id, "k1")
        stranger = Signer.from_private(generate_private_key(), "nobody.example", "k1")
        select = v2.select_message(terms)
        status = v2.status_message(terms, str(uuid4()))
        assert await refused("select", select, sign=forger) == (401, "AUT_SIGNATURE_INVALID", None)
        assert await refused("select", select, sign=stranger) == (401, "AUT_SUBSCRIBER_NOT_FOUND", None)
        assert await refused("update", {"contract": {}}) == (400, "NET_NOT_IMPLEMENTED", None)
        assert (await refused("status", status))[:2] == (400, "CTX_TRANSACTION_ID_UNKNOWN")
        assert (await refused("select", {"order": {}}))[0] == 400
        assert (await refused("select", select, action="init"))[1] == "CTX_ACTION_MISMATCH"
        assert buyer.inbox.empty()


async def test_a_second_signature_and_an_endless_body_are_refused(world):
    async with buyer_at(world) as buyer:
        message = v2.select_message(terms_for(7, DAY + timedelta(days=30)))
        message_id, body = buyer.body("select", message, str(uuid4()))
        header = buyer.signer.authorization(body, now=utc_now())

        async def raw(head, body):
            port = int(world[0].url.rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            lines = ["POST /beckn/select HTTP/1.1", "Host: x", "Connection: close", *head, "", ""]
            writer.write("\r\n".join(lines).encode() + body)
            answer = await asyncio.wait_for(reader.read(), DEADLINE_S)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            top, _, content = answer.partition(b"\r\n\r\n")
            return parse_answer(int(top.split()[1]), content)

        twice = [f"Authorization: {header}"] * 2
        said = await raw([*twice, f"Content-Length: {len(body)}"], body)
        assert (said.http_status, said.code, said.message_id) == (401, "AUT_SIGNATURE_INVALID", message_id)
        said = await raw([twice[0], f"Content-Length: {2**30}"], b"x" * 1000)
        assert (said.http_status, said.kind) == (413, AnswerKind.NACK)


async def test_a_callback_is_sent_again_until_it_is_taken(world):
    async with buyer_at(world) as buyer:
        buyer.fail_next = 2
        ask = v2.select_message(terms_for(8, DAY + timedelta(days=30)))
        assert (await buyer.ask("select", ask, str(uuid4()))).action == "on_select"


async def test_control_needs_its_token_and_runs_forward_only(world):
    async with buyer_at(world) as buyer:
        at = DAY + timedelta(days=5)
        first = await buyer.clock(at)
        assert await buyer.clock(at) == first
        status, document = await buyer.control("/clock", {"event_time": rfc3339(at - HOUR)})
        assert (status, document["code"], document["field"]) == (409, "event_time_reversed", "event_time")
        status, document = await buyer.control("/clock", {"event_time": "yesterday"})
        assert (status, document["field"]) == (400, "event_time")
        for token in ("wrong", ""):
            status, _ = await buyer.control("/clock", {"event_time": rfc3339(at + HOUR)}, token=token)
            assert status == 401
        state = await buyer.control("/state")
        assert state["event_time"] == rfc3339(at)
        assert state["ders"]["der:alpha:000009"]["capacity_kw"] == 50


async def test_registry_refuses_what_is_not_proven(world):
    async with buyer_at(world) as buyer:
        forged = Signer.from_private(generate_private_key(), BPP_ID, "stolen")
        with pytest.raises(Exception, match="401") as caught:
            await buyer.registry.subscribe(
                forged,
                url="http://127.0.0.1:1/beckn",
                type="BPP",
                domain="demand-flexibility",
                valid_from=utc_now(),
                valid_until=utc_now() + HOUR,
            )
        assert caught.value.facts["status"] == 401
        answer = await buyer.http.post(f"{world[1].url}/lookup", b'{"colour": "red"}', {})
        problem = msgspec.json.decode(answer.body)
        assert (answer.status, problem["code"], problem["field"]) == (400, "invalid_request", "colour")
        assert answer.headers["content-type"] == "application/problem+json"


async def test_both_remember_everything_after_being_killed(tmp_path):
    registry_dir, bpp_dir = tmp_path / "registry", tmp_path / "bpp"
    registry_dir.mkdir()
    bpp_dir.mkdir()
    ports = free_port(), free_port()
    registry = start_registry(registry_dir, ports[0])
    bpp = start_bpp(bpp_dir, ports[1], registry.url)
    try:
        start = DAY + timedelta(hours=12)
        async with buyer_at((bpp, registry, bpp_dir)) as buyer:
            await buyer.clock(start - HOUR)
            terms, transaction_id, view = await buyer.order(1, start)
            assert view.status is ContractStatus.ACTIVE
            bpp.end(signal.SIGKILL)
            registry.end(signal.SIGKILL)
            registry = start_registry(registry_dir, ports[0])
            bpp = start_bpp(bpp_dir, ports[1], registry.url)
            await registry.ready(buyer.http)
            await bpp.ready(buyer.http, registered=True)
            status = v2.status_message(terms, view.contract_id)
            # Callbacks it may still have owed at its end come first.
            message_id, body = buyer.body("status", status, transaction_id)
            await buyer.post("status", message_id, body)
            message = await buyer.callback()
            while message.context.message_id != message_id:
                message = await buyer.callback()
            assert v2.parse_contract(message.message) == view
            relief = await buyer.clock(start + HOUR)
            assert relief["FDR_001"] == pytest.approx(10)
    finally:
        bpp.end()
        registry.end()


async def test_an_end_by_signal_is_clean_and_logs_no_content(world):
    bpp, registry, bpp_dir = world
    async with buyer_at(world) as buyer:
        terms = terms_for(9, DAY + timedelta(days=30))
        await buyer.ask("select", v2.select_message(terms), str(uuid4()))
        assert "taken action=select" in bpp.log
        assert terms.obp_id not in bpp.log
        assert "Traceback" not in bpp.log + registry.log
        (key_file,) = bpp_dir.glob("signing-key.json")
        assert key_file.stat().st_mode & 0o077 == 0
        assert msgspec.json.decode(key_file.read_bytes())["private_key"] not in bpp.log
