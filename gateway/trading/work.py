"""One unit of work: what a decision writes, in one database transaction.

Rows, journal entries and messages to send are gathered here while a job runs on the writer
thread. They are committed together; only then is the world told. The journal entries are chained
at the end of the job, so that a job that fails leaves nothing behind.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from sqlalchemy import ColumnElement, Connection, select, update

from gateway.audit.journal import JournalDraft, Payload, append
from gateway.clock import Clock
from gateway.orders.order import Order
from gateway.store.database import Database
from gateway.store.sql import upsert
from gateway.store.tables import alarm as alarm_table

T = TypeVar("T")
NewId = Callable[[], str]
"""Gives a fresh UUID as text."""


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """A signed message that is stored and journalled, ready to leave."""

    message_id: str
    transaction_id: str
    action: str
    peer_id: str
    url: str
    body: bytes
    authorization: str
    order_id: str | None = None
    obp_id: str | None = None
    feeder_id: str | None = None
    need_id: str | None = None
    attempts: int = 1
    defer_s: float = 0.0
    """Wait before it leaves: what is not urgent makes way for orders."""


class RaisedAlarm(msgspec.Struct, frozen=True, kw_only=True):
    """An alarm as told to operators."""

    alarm_id: str
    kind: str
    severity: str
    detail: str
    raised_at: datetime
    feeder_id: str | None = None


class Work:
    """The open transaction with everything it will leave behind.

    Attributes:
        connection: SQLAlchemy Core connection inside the transaction.
        now: Wall time at which the job began.
        outgoing: Messages to send after the commit.
        alarms: Alarms raised in this job.
        orders: Orders as this job leaves them, by order id.
    """

    def __init__(self, connection: Connection, *, now: datetime, new_id: NewId) -> None:
        self.connection = connection
        self.now = now
        self.new_id = new_id
        self.outgoing: list[Outgoing] = []
        self.alarms: list[RaisedAlarm] = []
        self.orders: dict[str, Order] = {}
        self.drafts: list[JournalDraft] = []

    def note(
        self,
        kind: str,
        body: Mapping[str, Any],
        *,
        feeder_id: str | None = None,
        transaction_id: str | None = None,
        order_id: str | None = None,
        obp_id: str | None = None,
        event_id: str | None = None,
        payloads: Sequence[Payload] = (),
    ) -> None:
        """Add a journal entry; ``event_id`` is the need's id, ``body`` any JSON-encodable mapping."""
        self.drafts.append(
            JournalDraft(
                kind=kind,
                at=self.now,
                feeder_id=feeder_id,
                transaction_id=transaction_id,
                order_id=order_id,
                obp_id=obp_id,
                event_id=event_id,
                body=msgspec.to_builtins(body),
                payloads=tuple(payloads),
            )
        )

    def alarm(
        self,
        kind: str,
        detail: str,
        *,
        severity: str = "warning",
        feeder_id: str | None = None,
        order_id: str | None = None,
        obp_id: str | None = None,
        event_id: str | None = None,
    ) -> None:
        """Raise an alarm: a row for the operator and a journal entry.

        One that stands already is not raised again, so that an operator sees a condition once; it is
        raised anew after it was cleared. A condition of a feeder is one whatever its figures; of an order
        or a peer, alarms with the same detail are one.
        """
        same = _standing(kind, feeder_id)
        if feeder_id is None or order_id is not None:
            same = (*same, alarm_table.c.detail == detail)
        if self.connection.execute(select(alarm_table.c.alarm_id).where(*same).limit(1)).first():
            return
        raised = RaisedAlarm(
            alarm_id=self.new_id(),
            kind=kind,
            severity=severity,
            detail=detail,
            raised_at=self.now,
            feeder_id=feeder_id,
        )
        upsert(
            self.connection,
            alarm_table,
            [
                {
                    "alarm_id": raised.alarm_id,
                    "feeder_id": feeder_id,
                    "kind": kind,
                    "severity": severity,
                    "raised_at": self.now,
                    "cleared_at": None,
                    "detail": detail,
                }
            ],
        )
        self.alarms.append(raised)
        self.note(
            "alarm.raised",
            {"alarm_id": raised.alarm_id, "kind": kind, "severity": severity, "detail": detail},
            feeder_id=feeder_id,
            order_id=order_id,
            obp_id=obp_id,
            event_id=event_id,
        )

    def clear_alarm(self, kind: str, feeder_id: str | None = None, *, detail: str | None = None) -> None:
        """Clear the standing alarms of a kind: of a feeder, or of none; only those with a detail if given."""
        standing = _standing(kind, feeder_id)
        if detail is not None:
            standing = (*standing, alarm_table.c.detail == detail)
        ids = self.connection.execute(select(alarm_table.c.alarm_id).where(*standing)).scalars().all()
        if ids:
            self.connection.execute(update(alarm_table).where(*standing).values(cleared_at=self.now))
            self.note("alarm.cleared", {"alarm_ids": list(ids), "kind": kind}, feeder_id=feeder_id)


def _standing(kind: str, feeder_id: str | None) -> tuple[ColumnElement[bool], ...]:
    return (
        alarm_table.c.kind == kind,
        alarm_table.c.feeder_id == feeder_id,
        alarm_table.c.cleared_at.is_(None),
    )


class Ledger:
    """Runs units of work on the database and chains their journal entries."""

    def __init__(
        self,
        database: Database,
        *,
        clock: Clock,
        new_id: NewId,
        sign_head: Callable[[bytes], bytes],
        key_id: str,
    ) -> None:
        self._database = database
        self._clock = clock
        self._new_id = new_id
        self._sign_head = sign_head
        self._key_id = key_id

    async def commit(self, job: Callable[[Work], T]) -> tuple[T, Work]:
        """Run ``job`` in one transaction; return its result once everything is durable.

        Raises:
            StoreError: Nothing of the job was stored.
        """

        def run(connection: Connection) -> tuple[T, Work]:
            work = Work(connection, now=self._clock(), new_id=self._new_id)
            result = job(work)
            if work.drafts:
                append(connection, work.drafts, sign=self._sign_head, key_id=self._key_id)
            return result, work

        return await self._database.write(run)

    async def read(self, job: Callable[[Connection], T]) -> T:
        """Run ``job`` on committed data."""
        return await self._database.read(job)
