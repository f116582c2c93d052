"""Carries callbacks to their buyers: signed afresh for each try, in order within a transaction.

Source: retry table of the Beckn error-code drafts: the same bytes and message id again on "not now"
(timeouts, connection faults, 408, 429, 500 of the network kind, 502 to 504); a NACK is final.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from gateway.beckn.client import BecknClient
from gateway.beckn.envelope import AnswerKind, parse_answer
from gateway.beckn.signing import Signer
from gateway.clock import Clock
from gateway.errors import PeerUnavailable
from registry.bpp.storage import Callback

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 15.0
MAX_TRIES = 12
_log = logging.getLogger("bpp")


class Sender:
    """Delivers callbacks in the background; one worker per transaction with something to send.

    Args:
        http: Connections to the buyers.
        signer: The seller's key.
        clock: Wall time.
        done: Told the number of each callback that needs no more sending: delivered, refused or void.
    """

    def __init__(
        self, http: BecknClient, signer: Signer, clock: Clock, done: Callable[[Callback], None]
    ) -> None:
        self._http = http
        self._signer = signer
        self._clock = clock
        self._done = done
        self._queues: dict[str, deque[Callback]] = {}
        self._workers: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        """Callbacks not delivered yet."""
        return sum(len(queue) for queue in self._queues.values())

    def enqueue(self, callback: Callback) -> None:
        """Send a callback after those of the same transaction before it."""
        queue = self._queues.get(callback.transaction_id)
        if queue is not None:
            queue.append(callback)
            return
        queue = self._queues[callback.transaction_id] = deque([callback])
        worker = asyncio.get_running_loop().create_task(self._drain(callback.transaction_id, queue))
        self._workers.add(worker)
        worker.add_done_callback(self._workers.discard)

    async def close(self) -> None:
        """Stop sending; what is not delivered stays owed."""
        for worker in tuple(self._workers):
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def _drain(self, transaction_id: str, queue: deque[Callback]) -> None:
        try:
            while queue:
                await self._deliver(queue[0])
                self._done(queue.popleft())
        finally:
            del self._queues[transaction_id]

    async def _deliver(self, callback: Callback) -> None:
        """Try until it is answered, refused or not worth another try."""
        name = f"action={callback.action} message_id={callback.message_id}"
        for number in range(MAX_TRIES):
            now = self._clock()
            if now >= callback.void_at:
                _log.warning("callback_void %s tries=%d", name, number)
                return
            pause_s = min(FIRST_PAUSE_S * 2**number, LONGEST_PAUSE_S)
            signature = self._signer.authorization(
                callback.body, now=now, request_signature=callback.request_signature
            )
            try:
                answer = await self._http.post(callback.url, callback.body, {"Authorization": signature})
            except PeerUnavailable as exc:
                if not exc.facts.get("retryable"):
                    _log.warning("callback_failed %s reason=%s", name, exc.facts.get("reason"))
                    return
                await asyncio.sleep(max(pause_s, exc.facts.get("retry_after_s") or 0.0))
                continue
            said = parse_answer(answer.status, answer.body)
            accepted = said.kind in (AnswerKind.ACK, AnswerKind.NO_CALLBACK) or said.duplicate
            if accepted or (said.kind is AnswerKind.UNKNOWN and answer.status < 300):
                _log.info("callback %s bytes=%d", name, len(callback.body))
                return
            if not said.retryable:
                _log.warning("callback_refused %s status=%d code=%s", name, answer.status, said.code)
                return
            await asyncio.sleep(pause_s)
        _log.warning("callback_given_up %s tries=%d", name, MAX_TRIES)
