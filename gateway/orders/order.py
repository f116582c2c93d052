"""An order as data: its state, the events that move it and the commands that follow.

No coroutine holds an order while it waits. Everything here is a frozen struct that is stored as
JSON, so any process can pick up any order at any time.
"""

from datetime import datetime
from enum import StrEnum

import msgspec

from gateway.types import ContractView, OrderTerms


class OrderState(StrEnum):
    """Where an order is in its life; the first word of each line is the Beckn step it waits in."""

    PLANNED = "PLANNED"
    SELECTING = "SELECTING"
    INITIALISING = "INITIALISING"
    CONFIRMING = "CONFIRMING"
    CONFIRMED = "CONFIRMED"
    DELIVERING = "DELIVERING"
    COMPLETING = "COMPLETING"
    CANCELLING = "CANCELLING"
    COMPLETED = "COMPLETED"
    UNSETTLED = "UNSETTLED"
    DECLINED = "DECLINED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


NEGOTIATING = frozenset(
    {OrderState.PLANNED, OrderState.SELECTING, OrderState.INITIALISING, OrderState.CONFIRMING}
)
"""Between decision and the seller's answer to CONFIRM: nothing is agreed yet."""

AGREED = frozenset({OrderState.CONFIRMED, OrderState.DELIVERING, OrderState.COMPLETING})
"""The seller is bound."""

TERMINAL = frozenset(
    {
        OrderState.COMPLETED,
        OrderState.UNSETTLED,
        OrderState.DECLINED,
        OrderState.FAILED,
        OrderState.CANCELLED,
    }
)
"""Nothing more will happen. UNSETTLED is delivery without usable evidence: a person must look."""

BOOKING = NEGOTIATING | AGREED | {OrderState.CANCELLING}
"""States in which the order's DERs count as taken."""


class TimerKind(StrEnum):
    """Durable alarms of an order."""

    REPLY = "REPLY"
    """The callback to our last request is overdue (wall time)."""
    END = "END"
    """The delivery window has ended (event time)."""
    POLL = "POLL"
    """Ask again for the completion report (wall time)."""


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """One step in an order's life, as shown to operators and auditors."""

    at: datetime
    state: OrderState
    why: str


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One need bought from one offer of one seller, from plan to settlement."""

    order_id: str
    obp_id: str
    need_id: str
    state_change_id: str
    feeder_id: str
    bpp_id: str
    bpp_uri: str
    beckn_version: str = "2.0.0"
    """Version of Beckn the order is traded in; part of the seller's address, fixed for its life."""
    transaction_id: str
    terms: OrderTerms
    detected_at: datetime
    """Wall time of the decision that caused the order: the detection clock starts here."""
    decided_event_at: datetime
    """Event time of the reading behind that decision."""
    replaces: str | None = None
    """OBP id of the order this one stands in for."""
    replan: bool = False
    """True where the order comes from a re-plan, not from the first plan of a decision."""
    state: OrderState = OrderState.PLANNED
    version: int = 0
    contract: ContractView | None = None
    awaiting: str | None = None
    """messageId of the request whose callback we wait for."""
    attempts: int = 0
    """How often the present step has been asked."""
    confirm_sent_at: datetime | None = None
    confirmed_at: datetime | None = None
    delivery_started_at: datetime | None = None
    completed_at: datetime | None = None
    delivered_wh: int | None = None
    payable: str | None = None
    """Decimal text in the terms' currency."""
    failure: str | None = None
    moves: tuple[Move, ...] = ()

    @property
    def detection_to_confirm_ms(self) -> float | None:
        """Wall time from the causing decision to the CONFIRM having left, in milliseconds."""
        if self.confirm_sent_at is None:
            return None
        return (self.confirm_sent_at - self.detected_at).total_seconds() * 1000

    @property
    def committed_kw(self) -> dict[str, float]:
        """Relief each DER is held to: committed once the seller has answered, asked before."""
        if self.contract is not None and self.contract.lines:
            return {line.der_id: line.committed_kw for line in self.contract.lines}
        return {line.der_id: line.kw for line in self.terms.lines}


# --- events -----------------------------------------------------------------------------------


class Started(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The order has been written down and trading may begin."""

    at: datetime


class Answered(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The peer's synchronous answer to a request of ours."""

    at: datetime
    message_id: str
    action: str
    accepted: bool
    sent_at: datetime
    """Wall time at which the request had left."""
    detail: str = ""
    copies: int = 1
    """How many copies of the request had been sent, the answered one included."""


class SendFailed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A request could not be delivered, retries included."""

    at: datetime
    message_id: str
    action: str
    detail: str


class CallbackReceived(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A verified, correlated callback of the order's seller."""

    at: datetime
    action: str
    message_id: str
    view: ContractView


class TimerFired(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A durable timer has come due."""

    at: datetime
    kind: TimerKind


class CancelRequested(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """An operator or a policy wants out."""

    at: datetime
    reason: str


class Settled(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Delivered volume has been computed from the seller's signed meter intervals."""

    at: datetime
    delivered_wh: int
    payable: str


class SettlementFailed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Delivered volume could not be computed: evidence is missing or contradictory."""

    at: datetime
    reason: str


Event = (
    Started
    | Answered
    | SendFailed
    | CallbackReceived
    | TimerFired
    | CancelRequested
    | Settled
    | SettlementFailed
)


# --- commands ---------------------------------------------------------------------------------


class Verb(StrEnum):
    """What we ask of the seller. COMPLETE is carried by the wire's ``status`` (docs/decisions)."""

    SELECT = "select"
    INIT = "init"
    CONFIRM = "confirm"
    STATUS = "status"
    COMPLETE = "complete"
    CANCEL = "cancel"


class Send(msgspec.Struct, frozen=True, kw_only=True):
    """Send a new request; ``awaited`` means the order waits for its callback."""

    verb: Verb
    awaited: bool = True
    reason: str = ""


class Resend(msgspec.Struct, frozen=True, kw_only=True):
    """Send the awaited request again: same bytes, same messageId, signed anew."""


class SetTimer(msgspec.Struct, frozen=True, kw_only=True):
    """Arm a timer after ``wall_s`` seconds of wall time, or at ``event_at`` in event time."""

    kind: TimerKind
    wall_s: float | None = None
    event_at: datetime | None = None


class ClearTimer(msgspec.Struct, frozen=True, kw_only=True):
    """Disarm one timer, or all of them."""

    kind: TimerKind | None = None


class Settle(msgspec.Struct, frozen=True, kw_only=True):
    """Compute delivered volume from the completion report; answers with Settled or SettlementFailed."""


class Replan(msgspec.Struct, frozen=True, kw_only=True):
    """Relief that was counted on is not coming: cover the need anew."""

    reason: str


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """Tell the operator."""

    kind: str
    detail: str


Command = Send | Resend | SetTimer | ClearTimer | Settle | Replan | Alarm


class LifecyclePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of the life cycle, in seconds of wall time and in counts."""

    callback_timeout_s: float = 1.5
    max_asks: int = 2
    """How often SELECT and INIT are asked before the seller is given up."""
    max_confirm_asks: int = 3
    poll_interval_s: float = 1.0
    max_polls: int = 60
    max_cancel_asks: int = 3
