"""The courier: sends stored messages, again if need be, and reports how each one fared.

A message leaves only after the transaction that stored it has been committed. Whatever happens to
this process, the outbox still says which messages are owed; :meth:`Courier.resume` sends them
after a restart. Retries repeat the same bytes with the same messageId under a fresh signature.

Source: retry table of Beckn NFH-008 as far as peers follow it: time-outs, 429 and 5xx are tried
again with growing pauses; any other refusal is final.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime

import msgspec

from gateway.beckn.client import BecknClient, HttpAnswer
from gateway.beckn.envelope import Answer, AnswerKind, parse_answer
from gateway.errors import PeerUnavailable
from gateway.trading.work import Outgoing

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 5.0


class Delivered(msgspec.Struct, frozen=True, kw_only=True):
    """A peer answered: ``answer`` is what it said, ``sent_at`` when the request had left."""

    outgoing: Outgoing
    answer: Answer
    sent_at: datetime
    status: int
    headers: dict[str, str]
    body: bytes


class Undelivered(msgspec.Struct, frozen=True, kw_only=True):
    """No usable answer after every attempt."""

    outgoing: Outgoing
    detail: str


Report = Callable[[Delivered | Undelivered], Awaitable[None]]
Repeat = Callable[[Outgoing], Awaitable[Outgoing | None]]


class Courier:
    """Delivers messages in tasks of their own.

    Args:
        client: The HTTP port.
        attempts: Deliveries of one message, the first included.
        report: Told once per message how it ended.
        repeat: Signs and stores a message for another attempt; None where nobody waits for it any more.
    """

    def __init__(self, client: BecknClient, *, attempts: int, report: Report, repeat: Repeat) -> None:
        self._client = client
        self._attempts = attempts
        self._report = report
        self._repeat = repeat
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, messages: Iterable[Outgoing]) -> None:
        """Start delivering; returns at once."""
        for message in messages:
            task = asyncio.create_task(self._deliver(message), name=f"deliver {message.message_id}")
            self._tasks.add(task)
            task.add_done_callback(self._finished)

    @property
    def in_flight(self) -> int:
        """Messages being delivered now."""
        return len(self._tasks)

    async def close(self) -> None:
        """Stop; messages without an answer stay owed in the outbox."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _deliver(self, message: Outgoing) -> None:
        if message.defer_s:
            await asyncio.sleep(message.defer_s)
        pause_s = FIRST_PAUSE_S
        tries = 0
        while True:
            tries += 1
            try:
                answered = await self._client.post(
                    message.url, message.body, {"Authorization": message.authorization}
                )
            except PeerUnavailable as exc:
                detail, retryable = exc.detail, bool(exc.facts.get("retryable"))
                wait_s = exc.facts.get("retry_after_s")
            else:
                answer = parse_answer(answered.status, answered.body)
                if not answer.retryable:
                    await self._report(_delivered(message, answer, answered))
                    return
                detail, retryable, wait_s = (
                    f"HTTP {answered.status} {answer.detail or ''}".strip(),
                    True,
                    None,
                )
            if not retryable or tries >= self._attempts:
                await self._report(Undelivered(outgoing=message, detail=detail))
                return
            await asyncio.sleep(min(wait_s or pause_s, MAX_PAUSE_S))
            pause_s = min(pause_s * 2, MAX_PAUSE_S)
            again = await self._repeat(message)
            if again is None:
                return
            message = again

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            log.error("%s: %s", task.get_name(), failure, exc_info=failure)


def _delivered(message: Outgoing, answer: Answer, answered: HttpAnswer) -> Delivered:
    if answer.duplicate:
        # The peer has this messageId already, so an earlier attempt was taken in.
        answer = msgspec.structs.replace(answer, kind=AnswerKind.ACK)
    return Delivered(
        outgoing=message,
        answer=answer,
        sent_at=answered.sent_at,
        status=answered.status,
        headers=answered.headers,
        body=answered.body,
    )
