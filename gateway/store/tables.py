"""Every table of the gateway's database.

* Instants are integers: microseconds since 1970-01-01T00:00Z. :class:`UtcInstant` is the only
  place that converts; aware datetimes go in and aware UTC datetimes come out.
* ``body`` and ``config`` columns hold JSON text, ``blob`` ones exact bytes.
* Statements are written with the :class:`~sqlalchemy.Table` objects named in lower case at the
  foot (``flex_order``, ``reading``, ...); the classes above them are the definitions.
* Nothing here is particular to SQLite but storage hints, so that another database can follow.
"""

from datetime import UTC, datetime, timedelta

from sqlalchemy import BigInteger, Index, Integer, LargeBinary, MetaData, Table, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field, SQLModel

SCHEMA_VERSION = 1
"""Version of the tables below, kept in ``meta`` under :data:`SCHEMA_VERSION_KEY`."""

SCHEMA_VERSION_KEY = "schema_version"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_micros(instant: datetime) -> int:
    """Turn an aware instant into microseconds since the epoch, exactly.

    Raises:
        ValueError: ``instant`` is naive.
    """
    if instant.tzinfo is None:
        msg = f"a naive datetime cannot be stored: {instant.isoformat()}"
        raise ValueError(msg)
    return (instant - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """Turn microseconds since the epoch into an aware UTC instant, exactly."""
    return _EPOCH + timedelta(microseconds=micros)


class UtcInstant(TypeDecorator[datetime]):
    """Aware datetime in, integer microseconds in the database, aware UTC datetime out."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        """Convert on the way in; refuses naive instants."""
        return None if value is None else to_micros(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Convert on the way out."""
        return None if value is None else from_micros(value)


class _Counter(TypeDecorator[int]):
    """64-bit primary key that SQLite keeps as its row number (``INTEGER PRIMARY KEY``)."""

    impl = BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Integer:
        """Pick the spelling the database wants."""
        return Integer() if dialect.name == "sqlite" else BigInteger()


# Rows found by key alone are stored in key order, without a second tree.
_CLUSTERED = {"sqlite_with_rowid": False}


class Stored(SQLModel):
    """Base of all tables: a metadata of their own, apart from other programs' tables."""

    metadata = MetaData()


class Meta(Stored, table=True):
    """Facts about the database itself, such as its schema version."""

    __tablename__ = "meta"
    key: str = Field(sa_type=Text, primary_key=True)
    value: str = Field(sa_type=Text)


class Feeder(Stored, table=True):
    """Configuration of one feeder."""

    __tablename__ = "feeder"
    feeder_id: str = Field(sa_type=Text, primary_key=True)
    rating_kw: float
    config: str = Field(sa_type=Text)
    updated_at: datetime = Field(sa_type=UtcInstant)


class Reading(Stored, table=True):
    """One accepted telemetry reading; ``at`` is event time, the end of its interval."""

    __tablename__ = "reading"
    __table_args__ = _CLUSTERED
    feeder_id: str = Field(sa_type=Text, primary_key=True)
    at: datetime = Field(sa_type=UtcInstant, primary_key=True)
    load_kw: float
    voltage_v: float | None = None
    current_a: float | None = None
    temperature_c: float | None = None
    holiday_flag: bool | None = None
    event_flag: bool | None = None
    received_at: datetime = Field(sa_type=UtcInstant)


class FeederState(Stored, table=True):
    """Operating state of a feeder and what was learned about it; ``state`` NULL is Unknown."""

    __tablename__ = "feeder_state"
    feeder_id: str = Field(sa_type=Text, primary_key=True)
    state: int | None = None
    since: datetime = Field(sa_type=UtcInstant)
    last_reading_at: datetime = Field(sa_type=UtcInstant)
    memory: bytes = Field(sa_type=LargeBinary)
    learned: bytes = Field(sa_type=LargeBinary)
    updated_at: datetime = Field(sa_type=UtcInstant)


class FlexEvent(Stored, table=True):
    """A need for flexibility that a state change caused."""

    __tablename__ = "flex_event"
    need_id: str = Field(sa_type=Text, primary_key=True)
    feeder_id: str = Field(sa_type=Text, index=True)
    state_change_id: str = Field(sa_type=Text, index=True)
    status: str = Field(sa_type=Text, index=True)
    decided_at: datetime = Field(sa_type=UtcInstant)
    """Wall time of the decision."""
    event_at: datetime = Field(sa_type=UtcInstant)
    """Event time of the reading that caused it."""
    body: str = Field(sa_type=Text)


class FlexOrder(Stored, table=True):
    """One order: one offer of one seller for one need. ``version`` counts its moves."""

    __tablename__ = "flex_order"
    order_id: str = Field(sa_type=Text, primary_key=True)
    obp_id: str = Field(sa_type=Text, unique=True)
    need_id: str = Field(sa_type=Text, foreign_key="flex_event.need_id", index=True)
    feeder_id: str = Field(sa_type=Text, index=True)
    bpp_id: str = Field(sa_type=Text)
    state: str = Field(sa_type=Text, index=True)
    version: int
    transaction_id: str = Field(sa_type=Text, index=True)
    contract_id: str | None = Field(default=None, sa_type=Text)
    body: str = Field(sa_type=Text)
    detected_at: datetime = Field(sa_type=UtcInstant)
    confirm_sent_at: datetime | None = Field(default=None, sa_type=UtcInstant)
    created_at: datetime = Field(sa_type=UtcInstant)
    updated_at: datetime = Field(sa_type=UtcInstant)


class Outbox(Stored, table=True):
    """A signed message to send: the exact bytes and the signature over them."""

    __tablename__ = "outbox"
    __table_args__ = (Index("ix_outbox_due", "status", "next_attempt_at"),)
    message_id: str = Field(sa_type=Text, primary_key=True)
    order_id: str | None = Field(
        default=None, sa_type=Text, foreign_key="flex_order.order_id", nullable=True, index=True
    )
    peer_id: str = Field(sa_type=Text)
    url: str = Field(sa_type=Text)
    action: str = Field(sa_type=Text)
    transaction_id: str = Field(sa_type=Text, index=True)
    body: bytes = Field(sa_type=LargeBinary)
    signature: str = Field(sa_type=Text)
    status: str = Field(sa_type=Text)
    attempts: int = 0
    next_attempt_at: datetime | None = Field(default=None, sa_type=UtcInstant)
    created_at: datetime = Field(sa_type=UtcInstant)


class Inbox(Stored, table=True):
    """A message taken in: the same one again is answered the same, without effect."""

    __tablename__ = "inbox"
    __table_args__ = _CLUSTERED
    sender_id: str = Field(sa_type=Text, primary_key=True)
    action: str = Field(sa_type=Text, primary_key=True)
    message_id: str = Field(sa_type=Text, primary_key=True)
    body_digest: str = Field(sa_type=Text, primary_key=True)
    received_at: datetime = Field(sa_type=UtcInstant)
    answer: bytes | None = Field(default=None, sa_type=LargeBinary)


class Timer(Stored, table=True):
    """A wake-up of an order: due by wall time, and by event time where ``due_event`` is set."""

    __tablename__ = "timer"
    __table_args__ = _CLUSTERED
    order_id: str = Field(sa_type=Text, primary_key=True, foreign_key="flex_order.order_id")
    kind: str = Field(sa_type=Text, primary_key=True)
    due_wall: datetime = Field(sa_type=UtcInstant, index=True)
    due_event: datetime | None = Field(default=None, sa_type=UtcInstant)
    feeder_id: str = Field(sa_type=Text)


class Catalogue(Stored, table=True):
    """One DER of one standing offer. The seller is part of the key: none overwrites another's row."""

    __tablename__ = "catalogue"
    bpp_id: str = Field(sa_type=Text, primary_key=True)
    der_id: str = Field(sa_type=Text, primary_key=True)
    offer_id: str = Field(sa_type=Text, primary_key=True)
    feeder_id: str = Field(sa_type=Text, index=True)
    body: str = Field(sa_type=Text)
    fetched_at: datetime = Field(sa_type=UtcInstant)


class SettlementRowRecord(Stored, table=True):
    """Delivered volume of one DER in one settlement period; a correction is a new ``row_version``."""

    __tablename__ = "settlement_row"
    __table_args__ = _CLUSTERED
    obp_id: str = Field(sa_type=Text, primary_key=True)
    der_id: str = Field(sa_type=Text, primary_key=True, index=True)
    settlement_date: str = Field(sa_type=Text, primary_key=True)
    """Local calendar date, ``YYYY-MM-DD``."""
    settlement_period: int = Field(primary_key=True)
    row_version: int = Field(primary_key=True)
    row: str = Field(sa_type=Text)
    instructed_wh: int = Field(sa_type=BigInteger)
    baseline_wh: int = Field(sa_type=BigInteger)
    metered_wh: int = Field(sa_type=BigInteger)
    delivered_wh: int = Field(sa_type=BigInteger)
    method: str = Field(sa_type=Text)
    computed_at: datetime = Field(sa_type=UtcInstant)


class JournalEntry(Stored, table=True):
    """One journal entry. ``entry`` is the truth; the other columns repeat it for searching."""

    __tablename__ = "journal_entry"
    seq: int = Field(sa_type=_Counter, primary_key=True, sa_column_kwargs={"autoincrement": False})
    entry_id: str = Field(sa_type=Text, unique=True)
    at: datetime = Field(sa_type=UtcInstant)
    kind: str = Field(sa_type=Text)
    feeder_id: str | None = Field(default=None, sa_type=Text, index=True)
    transaction_id: str | None = Field(default=None, sa_type=Text, index=True)
    order_id: str | None = Field(default=None, sa_type=Text, index=True)
    obp_id: str | None = Field(default=None, sa_type=Text, index=True)
    event_id: str | None = Field(default=None, sa_type=Text, index=True)
    entry: bytes = Field(sa_type=LargeBinary)
    leaf_hash: bytes = Field(sa_type=LargeBinary)
    chain_hash: bytes = Field(sa_type=LargeBinary)


class PayloadBlob(Stored, table=True):
    """Exact bytes that journal entries refer to, once per distinct content and media type."""

    __tablename__ = "payload"
    digest: str = Field(sa_type=Text, primary_key=True)
    media_type: str = Field(sa_type=Text, primary_key=True)
    size: int = Field(sa_type=BigInteger)
    content: bytes = Field(sa_type=LargeBinary)


class JournalHead(Stored, table=True):
    """The signed head of the journal: one row, ``id`` 1."""

    __tablename__ = "journal_head"
    id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    origin: str = Field(sa_type=Text)
    size: int = Field(sa_type=BigInteger)
    chain_hash: bytes = Field(sa_type=LargeBinary)
    signature: bytes = Field(sa_type=LargeBinary)
    key_id: str = Field(sa_type=Text)


class ApiToken(Stored, table=True):
    """A bearer token of our own API, by its hash."""

    __tablename__ = "api_token"
    token_hash: str = Field(sa_type=Text, primary_key=True)
    name: str = Field(sa_type=Text)
    role: str = Field(sa_type=Text)
    created_at: datetime = Field(sa_type=UtcInstant)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcInstant)


class Alarm(Stored, table=True):
    """Something an operator should look at; standing while ``cleared_at`` is NULL."""

    __tablename__ = "alarm"
    alarm_id: str = Field(sa_type=Text, primary_key=True)
    feeder_id: str | None = Field(default=None, sa_type=Text, index=True)
    kind: str = Field(sa_type=Text)
    severity: str = Field(sa_type=Text)
    raised_at: datetime = Field(sa_type=UtcInstant)
    cleared_at: datetime | None = Field(default=None, sa_type=UtcInstant)
    detail: str = Field(sa_type=Text)


def _table(name: str) -> Table:
    return Stored.metadata.tables[name]


meta = _table("meta")
feeder = _table("feeder")
reading = _table("reading")
feeder_state = _table("feeder_state")
flex_event = _table("flex_event")
flex_order = _table("flex_order")
outbox = _table("outbox")
inbox = _table("inbox")
timer = _table("timer")
catalogue = _table("catalogue")
settlement_row = _table("settlement_row")
journal_entry = _table("journal_entry")
payload = _table("payload")
journal_head = _table("journal_head")
api_token = _table("api_token")
alarm = _table("alarm")
