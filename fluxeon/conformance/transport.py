"""Sends exact bytes: well-formed requests with any headers, and requests that no client library makes."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from urllib.parse import urlsplit

import aiohttp
import msgspec
from multidict import CIMultiDict, CIMultiDictProxy

ANSWER_WITHIN_S = 10.0
MAX_ANSWER_BYTES = 1024 * 1024
_CHUNK = 64 * 1024


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What the target answered; ``status`` 0 where it hung up without an answer."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    took_ms: float
    hung: bool = False
    """Whether it neither answered nor hung up in time."""

    def shown(self) -> str:
        """Describe it in a line."""
        if self.hung:
            return "nothing: no answer, and the connection stays open"
        if self.status == 0:
            return "no HTTP answer (the connection was closed)"
        text = self.body[:160].decode(errors="replace")
        return f"{self.status} {text!r}"


class Transport:
    """Connections to the target; opens at the first request, :meth:`close` ends it."""

    def __init__(self) -> None:
        self._http: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close every connection."""
        if self._http is not None:
            await self._http.close()

    async def send(
        self, url: str, body: bytes, headers: Iterable[tuple[str, str]], *, method: str = "POST"
    ) -> Reply:
        """Send one request with these headers in this order, repeated ones included."""
        started = time.perf_counter()
        try:
            async with self._session().request(
                method,
                url,
                data=body if method == "POST" else None,
                headers=CIMultiDict(headers),
                skip_auto_headers=("Content-Type", "User-Agent"),
                allow_redirects=False,
            ) as answer:
                content = await answer.content.read(MAX_ANSWER_BYTES)
                return Reply(
                    status=answer.status,
                    headers=_lower(answer.headers),
                    body=content,
                    took_ms=(time.perf_counter() - started) * 1000,
                )
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            took_ms = (time.perf_counter() - started) * 1000
            return Reply(status=0, headers={}, body=b"", took_ms=took_ms, hung=isinstance(exc, TimeoutError))

    async def send_chunked(self, url: str, body: bytes, headers: Sequence[tuple[str, str]]) -> Reply:
        """Send a body of undeclared length."""
        pieces = [body[at : at + _CHUNK] for at in range(0, len(body), _CHUNK)]
        head = [*headers, ("Transfer-Encoding", "chunked")]
        return await self._raw(url, head, (_chunk(piece) for piece in [*pieces, b""]))

    async def send_partly(self, url: str, declared: int, headers: Sequence[tuple[str, str]]) -> Reply:
        """Declare a length and send only the head: what a target decides before it reads."""
        head = [*headers, ("Content-Length", str(declared)), ("Expect", "100-continue")]
        return await self._raw(url, head, ())

    async def send_slowly(
        self, url: str, body: bytes, headers: Sequence[tuple[str, str]], *, every_s: float, within_s: float
    ) -> Reply:
        """Send a body byte by byte."""
        head = [*headers, ("Content-Length", str(len(body)))]
        pieces = (body[at : at + 1] for at in range(len(body)))
        return await self._raw(url, head, pieces, every_s=every_s, within_s=within_s)

    async def _raw(
        self,
        url: str,
        headers: Sequence[tuple[str, str]],
        pieces: Iterable[bytes],
        *,
        every_s: float = 0.0,
        within_s: float = ANSWER_WITHIN_S,
    ) -> Reply:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        started = time.perf_counter()
        reader, writer = await asyncio.open_connection(
            parts.hostname, port, ssl=True if parts.scheme == "https" else None
        )
        lines = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}", *(f"{n}: {v}" for n, v in headers)]
        writer.write(("\r\n".join([*lines, "Connection: close"]) + "\r\n\r\n").encode())
        sending = asyncio.create_task(_write(writer, pieces, every_s))
        hung = False
        try:
            async with asyncio.timeout(within_s):
                status, answer_headers, body = await _read_answer(reader)
        except TimeoutError:
            status, answer_headers, body, hung = 0, {}, b"", True
        except (OSError, asyncio.IncompleteReadError, ValueError):
            status, answer_headers, body = 0, {}, b""
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            writer.close()
        took_ms = (time.perf_counter() - started) * 1000
        return Reply(status=status, headers=answer_headers, body=body, took_ms=took_ms, hung=hung)

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._http = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=ANSWER_WITHIN_S),
                connector=aiohttp.TCPConnector(keepalive_timeout=2.0),
                auto_decompress=False,
                trust_env=False,
                headers={"Accept-Encoding": "identity"},
            )
        return self._http


async def _write(writer: asyncio.StreamWriter, pieces: Iterable[bytes], every_s: float) -> None:
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        if every_s:
            await asyncio.sleep(every_s)


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Read status, headers and body, passing over interim answers."""
    status = 100
    headers: dict[str, str] = {}
    while 100 <= status < 200:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split(" ")[1])
        pairs = (line.partition(":") for line in head[1:] if line)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    length = headers.get("content-length")
    body = b"".join([piece async for piece in _pieces(reader, int(length) if length else MAX_ANSWER_BYTES)])
    return status, headers, body


async def _pieces(reader: asyncio.StreamReader, length: int) -> AsyncIterator[bytes]:
    left = length
    while left > 0:
        piece = await reader.read(min(left, _CHUNK))
        if not piece:
            return
        left -= len(piece)
        yield piece


def _chunk(piece: bytes) -> bytes:
    return f"{len(piece):x}\r\n".encode() + piece + b"\r\n"


def _lower(headers: CIMultiDictProxy[str]) -> dict[str, str]:
    return {name.lower(): ", ".join(headers.getall(name)) for name in headers}
