"""A server that gives every request a deadline and every head a bound, over real sockets."""

import asyncio
import contextlib
import time

import pytest
import uvicorn

from gateway.beckn.guard import MAX_HEAD_BYTES, GuardedProtocol

GRACE_S = 0.4
WAIT_S = 5.0


class Hasty(GuardedProtocol):
    grace_s = GRACE_S


class Quiet(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self):
        yield


async def app(scope, receive, send):
    """Answers at once on /early, else with the length of the body it has read."""
    size, more = 0, scope["path"] != "/early"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        more = message["more_body"]
    body = str(size).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def connected():
    config = uvicorn.Config(
        app,
        port=0,
        http=Hasty,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_keep_alive=30,
    )
    server = Quiet(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn tells it by a flag
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        server.should_exit = True
        await serving


async def everything(reader):
    """What comes until the server hangs up; fails where it does not."""
    with contextlib.suppress(ConnectionResetError):
        return await asyncio.wait_for(reader.read(), WAIT_S)
    return b""


async def answer(reader):
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT_S)
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return head, await reader.readexactly(length)


@pytest.mark.parametrize("sent", [b"POST / HT", b"POST / HTTP/1.1\r\nHost: x\r\nX-Slow: aaa"])
async def test_a_head_that_does_not_end_is_answered_408(sent):
    async with connected() as (reader, writer):
        writer.write(sent)
        started = time.monotonic()
        assert (await everything(reader)).startswith(b"HTTP/1.1 408 Request Timeout")
        assert GRACE_S * 0.5 < time.monotonic() - started < GRACE_S + 2


async def test_a_body_that_does_not_end_is_answered_408():
    async with connected() as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
        came = await everything(reader)
        assert came.startswith(b"HTTP/1.1 408")
        assert b"connection: close" in came


async def test_a_trickle_does_not_buy_time():
    async with connected() as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")

        async def trickle():
            with contextlib.suppress(OSError):
                while True:
                    writer.write(b"a")
                    await writer.drain()
                    await asyncio.sleep(0.05)

        sending = asyncio.create_task(trickle())
        try:
            assert (await everything(reader)).startswith(b"HTTP/1.1 408")
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


async def test_what_comes_after_an_early_answer_has_a_deadline_too():
    async with connected() as (reader, writer):
        writer.write(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
        came = await everything(reader)
        assert came.startswith(b"HTTP/1.1 200")
        assert came.count(b"HTTP/1.1") == 1


async def test_a_connection_that_never_says_anything_is_closed_without_a_word():
    async with connected() as (reader, _):
        assert await everything(reader) == b""


async def test_an_endless_head_is_answered_431_at_once():
    async with connected() as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nX-Long: ")
        with contextlib.suppress(OSError):
            for _ in range(64):
                writer.write(b"a" * (MAX_HEAD_BYTES // 4))
                await writer.drain()
        assert (await everything(reader))[:12] in (b"HTTP/1.1 431", b"")


async def test_a_large_body_at_a_fair_pace_outlives_the_grace():
    async with connected() as (reader, writer):
        pieces, size = 8, 64 * 1024
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (pieces * size))
        for _ in range(pieces):
            writer.write(b"a" * size)
            await writer.drain()
            await asyncio.sleep(GRACE_S / 4)
        head, body = await answer(reader)
        assert head.startswith(b"HTTP/1.1 200")
        assert int(body) == pieces * size


async def test_requests_on_one_connection_have_a_deadline_each():
    async with connected() as (reader, writer):
        for _ in range(3):
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
            assert (await answer(reader))[1] == b"3"
            await asyncio.sleep(GRACE_S * 0.6)
        # Idle between requests is the server's keep-alive, not the deadline's business.
        await asyncio.sleep(GRACE_S * 1.5)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
        assert (await answer(reader))[1] == b"3"
        writer.write(b"POST / HTTP/1.1\r\n")
        assert (await everything(reader)).startswith(b"HTTP/1.1 408")
