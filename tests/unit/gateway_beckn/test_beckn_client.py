"""The HTTP port against real servers on loopback: what is sent, what is refused, what may be retried."""

import asyncio
import contextlib
import gzip
import socket
import ssl
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from aiohttp import web

from gateway.beckn.client import BecknClient
from gateway.clock import utc_now
from gateway.errors import PeerUnavailable

BODY = b'{"context":{},"message":{"note":"\xc2\xa312"}}'

BEFORE_THE_TOTAL = timedelta(seconds=0.9)
"""The narrower time-out has ended the call, not the total one."""


@pytest.fixture
async def client():
    async with BecknClient(
        utc_now, connect_timeout_s=0.3, read_timeout_s=0.3, total_timeout_s=1.0, connections_per_host=4
    ) as opened:
        yield opened


@pytest.fixture
async def serve():
    """Serve a handler at every path and method; gives the base URL."""
    runners = []

    async def start(handler) -> str:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        runners.append(runner)
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    yield start
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
async def serve_raw():
    """Serve raw bytes: a handler of reader and writer; gives the base URL."""
    servers, tasks = [], []

    async def start(handler) -> str:
        async def guarded(reader, writer):
            tasks.append(asyncio.current_task())
            try:
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                    await handler(reader, writer)
            finally:
                writer.close()

        server = await asyncio.start_server(guarded, "127.0.0.1", 0)
        servers.append(server)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for server in servers:
        server.close()
        await server.wait_closed()


async def read_request(reader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    return head + await reader.readexactly(len(BODY))


async def unavailable(awaitable) -> PeerUnavailable:
    with pytest.raises(PeerUnavailable) as failed:
        await awaitable
    assert {"retryable", "retry_after_s", "reason", "status", "sent_at", "url", "body"} <= set(
        failed.value.facts
    )
    return failed.value


async def test_post__sends_the_bytes_as_they_are_and_returns_the_answer(client, serve):
    seen = {}

    async def handler(request):
        seen.update(body=await request.read(), headers=dict(request.headers), method=request.method)
        return web.Response(body=b'{"message":{}}', headers={"Signature": "s", "X-A": "1"})

    base = await serve(handler)
    answer = await client.post(f"{base}/beckn/select", BODY, {"Authorization": "Signature x"})
    assert seen["body"] == BODY
    assert seen["method"] == "POST"
    assert seen["headers"]["Authorization"] == "Signature x"
    assert seen["headers"]["Content-Type"] == "application/json"
    assert seen["headers"]["Content-Length"] == str(len(BODY))
    assert seen["headers"]["Accept-Encoding"] == "identity"
    assert (answer.status, answer.body) == (200, b'{"message":{}}')
    assert (answer.headers["signature"], answer.headers["x-a"]) == ("s", "1")


@pytest.mark.parametrize("status", [200, 202, 400, 401, 404, 409, 413, 500, 501])
async def test_post__returns_the_peers_word_whatever_its_status(client, serve, status):
    async def handler(_request):
        return web.Response(status=status, body=b'{"message":{"status":"NACK"}}')

    answer = await client.post(await serve(handler), BODY, {})
    assert (answer.status, answer.body) == (status, b'{"message":{"status":"NACK"}}')


async def test_sent_at__lies_between_the_call_and_the_answer(client, serve):
    arrived, release = asyncio.Event(), asyncio.Event()

    async def handler(request):
        await request.read()
        arrived.set()
        await release.wait()
        return web.Response()

    base = await serve(handler)
    called = utc_now()
    call = asyncio.create_task(client.post(base, BODY, {}))
    await arrived.wait()
    await asyncio.sleep(0.02)
    before_the_answer = utc_now()
    release.set()
    assert called < (await call).sent_at < before_the_answer


async def test_sent_at__of_a_large_body_is_when_its_end_has_left(client, serve_raw):
    size = 32 * 1024 * 1024
    reading_from = {}

    async def handler(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.1)
        reading_from["at"] = utc_now()
        left = size
        while left:
            left -= len(await reader.read(1024 * 1024))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    base = await serve_raw(handler)
    answer = await client.post(base, bytes(size), {})
    assert answer.sent_at > reading_from["at"]


async def test_connections__are_kept_and_bounded_per_host(client, serve):
    ports, open_now, most = set(), 0, 0

    async def handler(request):
        nonlocal open_now, most
        ports.add(request.transport.get_extra_info("peername")[1])
        open_now += 1
        most = max(most, open_now)
        await asyncio.sleep(0.01)
        open_now -= 1
        return web.Response()

    base = await serve(handler)
    await asyncio.gather(*(client.post(base, BODY, {}) for _ in range(20)))
    assert most == 4
    assert len(ports) == 4


async def test_silence__times_out_and_may_be_retried(client, serve):
    async def handler(_request):
        await asyncio.sleep(5)
        return web.Response()

    base = await serve(handler)
    started = utc_now()
    failed = await unavailable(client.post(base, BODY, {}))
    assert utc_now() - started < BEFORE_THE_TOTAL
    assert (failed.facts["reason"], failed.facts["retryable"]) == ("timeout", True)
    assert failed.facts["sent_at"] is not None
    assert failed.code == "NET_PEER_UNAVAILABLE"


async def test_a_trickle__meets_the_total_time_out(client, serve_raw):
    async def handler(reader, writer):
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(1000):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    base = await serve_raw(handler)
    started = utc_now()
    failed = await unavailable(client.post(base, BODY, {}))
    assert failed.facts["reason"] == "timeout"
    assert timedelta(seconds=0.9) < utc_now() - started < timedelta(seconds=2)


async def test_no_room_for_a_connection__times_out(client):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        with contextlib.ExitStack() as stack:
            for _ in range(4):
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(address)
            started = utc_now()
            failed = await unavailable(client.post(f"http://127.0.0.1:{address[1]}/", BODY, {}))
    assert utc_now() - started < BEFORE_THE_TOTAL
    assert (failed.facts["reason"], failed.facts["retryable"]) == ("timeout", True)
    assert failed.facts["sent_at"] is None


async def test_refused_connection__never_sent_anything(client):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    failed = await unavailable(client.post(f"http://127.0.0.1:{port}/", BODY, {}))
    assert (failed.facts["reason"], failed.facts["retryable"]) == ("connection", True)
    assert failed.facts["sent_at"] is None


async def test_reset__after_the_request_is_retryable_and_says_it_was_sent(client, serve_raw):
    async def handler(reader, writer):
        await read_request(reader)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()

    failed = await unavailable(client.post(await serve_raw(handler), BODY, {}))
    assert (failed.facts["reason"], failed.facts["retryable"]) == ("connection", True)
    assert failed.facts["sent_at"] is not None


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"not HTTP\r\n\r\n", id="no HTTP"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", id="cut short"),
    ],
)
async def test_broken_answer__is_no_answer(client, serve_raw, answer):
    async def handler(reader, writer):
        await read_request(reader)
        writer.write(answer)
        await writer.drain()

    failed = await unavailable(client.post(await serve_raw(handler), BODY, {}))
    assert (failed.facts["reason"], failed.facts["retryable"]) == ("connection", True)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect__is_refused_and_not_followed(client, serve, status):
    visited = []

    async def handler(request):
        visited.append(request.path)
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    failed = await unavailable(client.post(await serve(handler), BODY, {}))
    assert (failed.facts["reason"], failed.facts["retryable"]) == ("redirect", False)
    assert failed.facts["status"] == status
    assert visited == ["/"]


@pytest.mark.parametrize("chunked", [False, True])
async def test_oversize_answer__is_refused_while_it_is_read(client, serve, chunked):
    sent = 0

    async def handler(request):
        nonlocal sent
        response = web.StreamResponse()
        if not chunked:
            response.content_length = 1024 * 1024 * 1024
        await response.prepare(request)
        for _ in range(1024):
            await response.write(bytes(1024 * 1024))
            sent += 1
        return response

    failed = await unavailable(client.post(await serve(handler), BODY, {}))
    assert (failed.facts["reason"], failed.facts["retryable"]) == ("oversize", False)
    assert failed.facts["status"] == 200
    assert sent < 100


async def test_answer_of_exactly_the_cap__is_read(client, serve):
    async def handler(request):
        return web.Response(body=bytes(64 * 1024 + int(request.path[1:])))

    base = await serve(handler)
    assert len((await client.post(f"{base}/0", BODY, {})).body) == 64 * 1024
    assert (await unavailable(client.post(f"{base}/1", BODY, {}))).facts["reason"] == "oversize"
    assert len((await client.post(f"{base}/1", BODY, {}, max_bytes=100_000)).body) == 64 * 1024 + 1


async def test_compressed_answer__is_not_unpacked(client, serve):
    packed = gzip.compress(bytes(10_000_000))

    async def handler(_request):
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    assert (await client.post(await serve(handler), BODY, {})).body == packed


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
@pytest.mark.parametrize(
    ("retry_after", "expected"),
    [
        (None, None),
        ("7", 7.0),
        ("Thu, 01 Jan 2026 00:00:30 GMT", 30.0),
        ("Wed, 31 Dec 2025 00:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
    ],
)
async def test_not_now__is_retryable_when_the_peer_says(serve, status, retry_after, expected):
    async def handler(_request):
        headers = {} if retry_after is None else {"Retry-After": retry_after}
        return web.Response(status=status, body=b'{"message":{}}', headers=headers)

    async with BecknClient(lambda: datetime(2026, 1, 1, tzinfo=UTC)) as client:
        failed = await unavailable(client.post(await serve(handler), BODY, {}))
    assert (failed.facts["reason"], failed.facts["retryable"]) == ("http", True)
    assert (failed.facts["status"], failed.facts["body"]) == (status, b'{"message":{}}')
    assert failed.facts["retry_after_s"] == expected


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "nonsense", "", "http://", "file:///etc/passwd"])
async def test_url__that_is_not_http_is_not_worth_a_retry(client, url):
    failed = await unavailable(client.post(url, BODY, {}))
    assert (failed.facts["reason"], failed.facts["retryable"]) == ("url", False)


async def test_tls__to_a_server_without_it_fails(client, serve):
    async def handler(_request):
        return web.Response()

    base = await serve(handler)
    failed = await unavailable(client.post(base.replace("http:", "https:"), BODY, {}))
    assert (failed.facts["reason"], failed.facts["retryable"]) == ("tls", False)


async def test_tls__context_is_used(serve):
    async def handler(_request):
        return web.Response()

    context = ssl.create_default_context()
    async with BecknClient(utc_now, tls=context) as client:
        base = await serve(handler)
        assert (await client.post(base, BODY, {})).status == 200


async def test_environment__names_no_proxy_and_no_password(client, serve, monkeypatch):
    seen = {}

    async def handler(request):
        seen.update(request.headers)
        return web.Response(headers={"Set-Cookie": "a=b; Path=/"})

    # By name: cookies of bare addresses are not kept anyway.
    base = (await serve(handler)).replace("127.0.0.1", "localhost")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    for _ in range(2):
        assert (await client.post(base, BODY, {})).status == 200
    assert "Authorization" not in seen
    assert "Cookie" not in seen


async def test_json__is_posted_and_read(client, serve):
    async def handler(request):
        asked = msgspec.json.decode(await request.read()) if request.method == "POST" else None
        return web.json_response([request.method, request.path, asked, request.headers.get("X-A")])

    base = await serve(handler)
    posted = await client.post_json(f"{base}/lookup", {"a": 1}, headers={"X-A": "1"})
    assert posted == ["POST", "/lookup", {"a": 1}, "1"]
    assert await client.get_json(f"{base}/control") == ["GET", "/control", None, None]


@pytest.mark.parametrize(
    ("status", "body", "failure"),
    [
        (404, b"{}", ("http", False)),
        (500, b"{}", ("http", True)),
        (503, b"{}", ("http", True)),
        (200, b"<html>", ("malformed", False)),
        (200, b"\xff", ("malformed", False)),
        (200, b'"' + b"x" * 200 + b'"', ("oversize", False)),
    ],
)
async def test_json__anything_but_a_2xx_document_fails(client, serve, status, body, failure):
    async def handler(_request):
        return web.Response(status=status, body=body)

    failed = await unavailable(client.get_json(await serve(handler), max_bytes=100))
    assert (failed.facts["reason"], failed.facts["retryable"]) == failure
    assert failed.facts["status"] == status


async def test_cancelled_call__ends_as_cancelled(client, serve):
    async def handler(_request):
        await asyncio.sleep(5)
        return web.Response()

    call = asyncio.create_task(client.post(await serve(handler), BODY, {}))
    await asyncio.sleep(0.02)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_close__may_come_before_any_request_and_twice(serve):
    async def handler(_request):
        return web.Response()

    client = BecknClient(utc_now)
    await client.close()
    assert (await client.post(await serve(handler), BODY, {})).status == 200
    await client.close()
    await client.close()
