"""An HTTP/1.1 server protocol that gives every request a deadline and every head a bound.

uvicorn reads as slowly as a peer sends, and lets a head grow without end. A receiver that strangers
can reach must not: a handful of connections of one byte a minute would stay for ever.

* A request has :data:`GRACE_S` seconds, and more only for what it has sent: its body must come at
  :data:`LEAST_BYTES_PER_S` or faster. Then it is answered 408 and the connection is closed.
* That holds for what is sent after an early answer too.
* A head over :data:`MAX_HEAD_BYTES` is answered 431.

A request that comes in one piece starts no timer.
"""

from asyncio import BaseTransport, TimerHandle

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

GRACE_S = 10.0
LEAST_BYTES_PER_S = 64 * 1024
MAX_HEAD_BYTES = 64 * 1024
"""Beside one read of the socket, which is taken whole."""

_ANSWERS = {
    408: (b"Request Timeout", b'{"code":"receive_deadline","message":"the request did not come in time"}'),
    431: (b"Request Header Fields Too Large", b'{"code":"head_too_large","message":"shorten the headers"}'),
}


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a receive deadline."""

    grace_s = GRACE_S

    _timer: TimerHandle | None = None
    _begun_at = 0.0
    _head_bytes = 0
    _body_bytes = 0
    _in_head = True
    _complete = True

    def connection_made(self, transport: BaseTransport) -> None:
        """Wait for the first request, but not for ever."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._complete = False
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes in; a request that is not complete after them has a deadline."""
        super().data_received(data)
        if self._complete or self.transport.is_closing():
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._cut(431)
                return
        if self._timer is None:
            self._watch()

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._complete = False
        self._in_head = True
        self._head_bytes = self._body_bytes = 0

    def on_headers_complete(self) -> None:
        """Pass from head to body."""
        self._in_head = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Count what earns the sender time."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request's reception."""
        self._complete = True
        self._unwatch()
        super().on_message_complete()

    def _watch(self) -> None:
        self._begun_at = self.loop.time()
        self._timer = self.loop.call_later(self.grace_s, self._look)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """Close a request that is behind its time; look again when it could be."""
        due_at = self._begun_at + self.grace_s + self._body_bytes / LEAST_BYTES_PER_S
        left_s = due_at - self.loop.time()
        if left_s > 0:
            self._timer = self.loop.call_later(left_s, self._look)
            return
        self._timer = None
        if not self.transport.is_closing():
            self._cut(408)

    def _cut(self, status: int) -> None:
        """Answer where nothing has been answered yet, and close."""
        self._unwatch()
        idle = self._in_head and self._head_bytes == 0
        answered = not self._in_head and self.cycle is not None and self.cycle.response_started
        if not idle and not answered:
            reason, body = _ANSWERS[status]
            self.transport.write(
                b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
                b"connection: close\r\n\r\n%b" % (status, reason, len(body), body)
            )
        self.transport.close()
