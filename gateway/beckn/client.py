"""Outbound HTTP to counterparties and registries, behind a small port.

* What is sent is the bytes that were signed; nothing here re-encodes them.
* An answer is the peer's word and is returned, whatever its status, unless the status says "not now"
  (408, 429, 502, 503, 504). That, a redirect and every fault of the transport is a
  :class:`~gateway.errors.PeerUnavailable` whose facts say whether the same bytes may be sent again.
* Redirects are refused (a signature speaks to one address), answers are capped while they are read,
  proxies and credentials of the environment are ignored, compressed answers are not asked for.

Facts of every ``PeerUnavailable`` raised here: ``retryable`` (bool), ``retry_after_s`` (float or
None, what the peer asked for), ``reason`` (timeout, connection, tls, url, redirect, oversize, http
or malformed), ``status`` (int or None), ``sent_at`` (datetime or None: None means that the body never
left completely), ``url``, ``body`` (of the answer, empty where there is none).
"""

import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec
from aiohttp.abc import AbstractStreamWriter

from gateway.clock import Clock
from gateway.errors import PeerUnavailable

MAX_ANSWER_BYTES = 64 * 1024
"""An Ack is some hundred bytes; a Nack with a cause some thousand."""

MAX_JSON_BYTES = 4 * 1024 * 1024
"""A registry's list of participants may be long."""

# Servers that close idle connections after 5 s (the default of several) must not win the race.
_KEEPALIVE_S = 4.0
_NOT_NOW = frozenset({408, 429, 502, 503, 504})


class HttpAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What came back for one request."""

    status: int
    headers: dict[str, str]
    """Names in lower case; repeated headers joined by a comma."""
    body: bytes
    sent_at: datetime
    """Wall instant at which the whole request had been handed to the network."""


class BecknClient:
    """Keep-alive connections to many peers.

    Opens its pool at the first request, inside the running loop; :meth:`close` ends it. Also an
    async context manager.

    Args:
        clock: Wall time.
        connect_timeout_s: For TCP and TLS together.
        read_timeout_s: Longest silence while an answer is awaited.
        total_timeout_s: Everything, including the wait for a free connection.
        connections_per_host: More requests to one host wait their turn.
        connections: The same over all hosts.
        max_answer_bytes: Cap of :meth:`post` answers.
        tls: For private certificate authorities; None uses the system's.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        connect_timeout_s: float = 2.0,
        read_timeout_s: float = 5.0,
        total_timeout_s: float = 10.0,
        connections_per_host: int = 32,
        connections: int = 256,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._clock = clock
        self._timeout = aiohttp.ClientTimeout(
            total=total_timeout_s, sock_connect=connect_timeout_s, sock_read=read_timeout_s
        )
        self._connections = connections
        self._connections_per_host = connections_per_host
        self._max_answer_bytes = max_answer_bytes
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection; a later request would open a new pool."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], *, max_bytes: int | None = None
    ) -> HttpAnswer:
        """Post bytes as they are.

        Args:
            url: Absolute http or https URL.
            body: The bytes that were signed.
            headers: Sent beside the defaults; Content-Type is application/json unless given.
            max_bytes: Cap of this answer, where it is not an Ack.

        Raises:
            PeerUnavailable: No usable answer; its facts are listed at the top of this module.
        """
        return await self._exchange("POST", url, body, headers, max_bytes or self._max_answer_bytes)

    async def post_json(
        self,
        url: str,
        document: Any,
        *,
        headers: Mapping[str, str] | None = None,
        max_bytes: int = MAX_JSON_BYTES,
    ) -> Any:
        """Post a JSON document and return the JSON document of the 2xx answer.

        Raises:
            PeerUnavailable: As :meth:`post`, and for any other status (in the fact ``status``).
        """
        body = msgspec.json.encode(document)
        return _json(url, await self._exchange("POST", url, body, headers or {}, max_bytes))

    async def get_json(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        max_bytes: int = MAX_JSON_BYTES,
    ) -> Any:
        """Get the JSON document of a 2xx answer.

        Raises:
            PeerUnavailable: As :meth:`post_json`.
        """
        return _json(url, await self._exchange("GET", url, None, headers or {}, max_bytes))

    async def _exchange(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str], max_bytes: int
    ) -> HttpAnswer:
        """Send once and read the answer within the caps; foreign errors end here."""
        payload = None if body is None else _StampedBody(body, self._clock)
        started_at = self._clock()
        try:
            async with self._pool().request(
                method, url, data=payload, headers=headers, allow_redirects=False
            ) as response:
                answer_body = await _read_capped(response.content, max_bytes)
                status = response.status
                answer_headers = _lower(response.headers)
        except TimeoutError as exc:
            raise _unavailable(url, "timed out", "timeout", payload, retryable=True) from exc
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as exc:
            raise _unavailable(url, "is not an http(s) URL", "url", payload, retryable=False) from exc
        except aiohttp.ClientSSLError as exc:
            raise _unavailable(url, f"failed TLS: {exc}", "tls", payload, retryable=False) from exc
        except (aiohttp.ClientError, OSError) as exc:
            detail = f"broke the connection: {type(exc).__name__}: {exc}"
            raise _unavailable(url, detail, "connection", payload, retryable=True) from exc

        if answer_body is None:
            detail = f"answered {status} with more than {max_bytes} bytes"
            raise _unavailable(url, detail, "oversize", payload, retryable=False, status=status)
        if 300 <= status < 400:
            detail = f"answered {status}; redirects are not followed"
            raise _unavailable(url, detail, "redirect", payload, retryable=False, status=status)
        if status in _NOT_NOW:
            raise _unavailable(
                url,
                f"answered {status}",
                "http",
                payload,
                retryable=True,
                status=status,
                retry_after_s=_retry_after_s(answer_headers.get("retry-after"), self._clock()),
                body=answer_body,
            )
        # A peer may answer before the body has left completely (413): then its answer is the instant.
        sent_at = started_at if payload is None else payload.sent_at or self._clock()
        return HttpAnswer(status=status, headers=answer_headers, body=answer_body, sent_at=sent_at)

    def _pool(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._connections,
                    limit_per_host=self._connections_per_host,
                    keepalive_timeout=_KEEPALIVE_S,
                    ssl=True if self._tls is None else self._tls,
                ),
                timeout=self._timeout,
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                # An Ack's signature covers the bytes as sent, and a small body must stay small.
                auto_decompress=False,
                headers={"Accept-Encoding": "identity", "User-Agent": "fluxeon"},
            )
        return self._session


class _StampedBody(aiohttp.Payload):
    """A request body that notes when it had been handed over.

    A trace hook (``on_request_chunk_sent``) would fire before the bytes are written, not after.
    """

    _autoclose = True

    def __init__(self, body: bytes, clock: Clock) -> None:
        super().__init__(body, content_type="application/json")
        self._body = body
        self._size = len(body)
        self._clock = clock
        self.sent_at: datetime | None = None

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._body.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        await writer.write(self._body)
        self.sent_at = self._clock()


async def _read_capped(content: aiohttp.StreamReader, max_bytes: int) -> bytes | None:
    """Read a body, or None as soon as it exceeds the cap."""
    chunks = []
    size = 0
    async for chunk in content.iter_any():
        size += len(chunk)
        if size > max_bytes:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    result: dict[str, str] = {}
    for name, value in headers.items():
        key = name.lower()
        result[key] = f"{result[key]}, {value}" if key in result else value
    return result


def _json(url: str, answer: HttpAnswer) -> Any:
    if not 200 <= answer.status < 300:
        raise PeerUnavailable(
            f"{url} answered {answer.status}",
            retryable=answer.status >= 500,
            retry_after_s=None,
            reason="http",
            status=answer.status,
            sent_at=answer.sent_at,
            url=url,
            body=answer.body,
        )
    try:
        return msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise PeerUnavailable(
            f"{url} answered something that is not JSON",
            retryable=False,
            retry_after_s=None,
            reason="malformed",
            status=answer.status,
            sent_at=answer.sent_at,
            url=url,
            body=answer.body,
        ) from exc


def _retry_after_s(value: str | None, now: datetime) -> float | None:
    """Seconds a peer asks us to wait: a number or an HTTP date (RFC 9110, section 10.2.3)."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        instant = parsedate_to_datetime(value)
    except ValueError:
        return None
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    return max(0.0, (instant - now).total_seconds())


def _unavailable(
    url: str,
    detail: str,
    reason: str,
    payload: _StampedBody | None,
    *,
    retryable: bool,
    status: int | None = None,
    retry_after_s: float | None = None,
    body: bytes = b"",
) -> PeerUnavailable:
    return PeerUnavailable(
        f"{url} {detail}",
        retryable=retryable,
        retry_after_s=retry_after_s,
        reason=reason,
        status=status,
        sent_at=None if payload is None else payload.sent_at,
        url=url,
        body=body,
    )
