"""Verified callbacks become events: correlate, refuse repeats, apply, answer.

Nothing here trusts a message more than its proof allows:

* a solicited callback must answer a request of ours: same transaction, same seller, matching action;
* an unsolicited one must be ``on_status``, ``on_update`` or ``on_cancel`` of a live order of that very
  seller;
* the same message again is answered the same and has no effect; other content under a used
  messageId goes through the order's own state machine.

A refusal leaves no trace in the state (it is counted and logged).

Source: Beckn v2.0.0 context rules; NFH-007 (dedupe on sender, action, message and bytes).
"""

from collections.abc import Callable

import msgspec
from sqlalchemy import bindparam, select
from sqlalchemy.engine import RowMapping

from gateway.audit.journal import Payload
from gateway.beckn.dialect import Place, claimed_dialect
from gateway.beckn.verify import VerifiedMessage
from gateway.catalogue import store_offers
from gateway.errors import BecknRefusal
from gateway.orders.order import TERMINAL, CallbackReceived, Order
from gateway.store.sql import insert_new
from gateway.store.tables import inbox, outbox
from gateway.trading.desk import Desk, LostRelief, load_order, orders_where
from gateway.trading.work import Work
from gateway.types import ContractView, Direction, Offer

_REQUEST = select(
    outbox.c.action, outbox.c.transaction_id, outbox.c.peer_id, outbox.c.order_id, outbox.c.body
).where(outbox.c.message_id == bindparam("message"))

UNSOLICITED = frozenset({"on_status", "on_update", "on_cancel"})


class Discovered(msgspec.Struct, frozen=True, kw_only=True):
    """A seller's offers in one direction at one feeder."""

    feeder_id: str
    direction: Direction
    bpp_id: str
    offers: tuple[Offer, ...]


class Reception(msgspec.Struct, frozen=True, kw_only=True):
    """What a callback led to."""

    answer: bytes
    repeated: bool = False
    lost: tuple[LostRelief, ...] = ()
    discovered: "Discovered | None" = None
    feeder_id: str | None = None
    order_id: str | None = None


def receive(work: Work, message: VerifiedMessage, answer: bytes, desk: Desk) -> Reception:
    """Take one verified callback in.

    Args:
        work: The open transaction.
        message: The verified message.
        answer: The Ack body that will be sent if this returns.
        desk: Applies events to orders.

    Raises:
        BecknRefusal: Uncorrelated, from the wrong seller, or unreadable. Nothing is stored.
    """
    taken_in = {
        "sender_id": message.sender.subscriber_id,
        "action": message.action,
        "message_id": message.context.message_id,
        "body_digest": message.digest,
        "received_at": work.now,
        "answer": answer,
    }
    if not insert_new(work.connection, inbox, taken_in):
        return Reception(answer=answer, repeated=True)
    # A refusal from here on undoes the insert with the rest of the job.
    request = _request_of(work, message)
    if message.verb == "on_discover":
        return _discovered(work, message, request, answer)
    return _contract(work, message, request, answer, desk)


def _request_of(work: Work, message: VerifiedMessage) -> RowMapping | None:
    """Our request that the callback answers, or None where it is unsolicited.

    Raises:
        BecknRefusal: It claims a request of ours but does not fit it.
    """
    context, dialect = message.context, message.dialect
    request = work.connection.execute(_REQUEST, {"message": context.message_id}).mappings().first()
    if request is None:
        if message.verb in UNSOLICITED:
            return None
        member = dialect.member("message_id")
        raise BecknRefusal(
            "CTX_MESSAGE_ID_UNKNOWN",
            f"{message.action} answers no request of ours ({member} {context.message_id})",
            path=f"/context/{member}",
        )
    asked_in = claimed_dialect(request["body"])
    if asked_in.generation is not dialect.generation:
        raise BecknRefusal(
            "CTX_VERSION_UNSUPPORTED",
            f"our {request['action']} was in version {asked_in.versions[0]}: answer it in that",
            path="/context/version",
        )
    if message.action != f"on_{request['action']}":
        raise BecknRefusal(
            "CTX_ACTION_MISMATCH",
            f"{message.action} cannot answer our {request['action']}",
            path="/context/action",
        )
    if context.transaction_id != request["transaction_id"]:
        member = dialect.member("transaction_id")
        raise BecknRefusal(
            "CTX_TRANSACTION_ID_UNKNOWN",
            f"{member} is not the one of the request",
            path=f"/context/{member}",
        )
    if message.sender.subscriber_id != request["peer_id"]:
        raise BecknRefusal(
            "AUT_UNAUTHORIZED_ACTION",
            f"the request went to {request['peer_id']}, not to {message.sender.subscriber_id}",
            http_status=401,
            challenge=True,
            path=f"/context/{dialect.member('bpp_id')}",
        )
    return request


def _note(
    work: Work,
    message: VerifiedMessage,
    answer: bytes,
    *,
    solicited: bool,
    order: Order | None = None,
    feeder_id: str | None = None,
) -> None:
    work.note(
        "beckn.received",
        {
            "action": message.action,
            "message_id": message.context.message_id,
            "peer_id": message.sender.subscriber_id,
            "solicited": solicited,
            "headers": message.headers,
            "signature": {
                "variant": message.variant,
                "key_id": message.sender.key_id,
                "public_key": message.sender.signing_public_key,
                "digest": message.digest,
            },
            "answer": {"status": 200, "body": answer.decode()},
        },
        feeder_id=order.feeder_id if order else feeder_id,
        transaction_id=message.context.transaction_id,
        order_id=order.order_id if order else None,
        obp_id=order.obp_id if order else None,
        event_id=order.need_id if order else None,
        payloads=[Payload(content=message.body, media_type="application/json")],
    )


def _discovered(work: Work, message: VerifiedMessage, request: RowMapping | None, answer: bytes) -> Reception:
    if request is None:
        raise BecknRefusal("CTX_MESSAGE_ID_UNKNOWN", f"{message.action} without a request of ours")
    sent = msgspec.json.decode(request["body"])
    asked = message.dialect.parse_discover(sent["message"])
    if asked.feeder_id is None or asked.direction is None:
        raise RuntimeError(f"our discover {message.context.message_id} names no feeder or direction")
    sender = message.sender.subscriber_id
    offers = message.dialect.parse_offers(
        message.message, message.error, bpp_id=sender, bpp_uri=message.sender.url
    )
    if offers is None:
        # The seller could not answer: what it offered before stands until it lapses.
        _note(work, message, answer, solicited=True, feeder_id=asked.feeder_id)
        return Reception(answer=answer, feeder_id=asked.feeder_id)
    foreign = sorted({offer.bpp_id for offer in offers} - {sender})
    if foreign:
        raise BecknRefusal(
            "AUT_UNAUTHORIZED_ACTION",
            f"{sender} may not publish offers of {', '.join(foreign)}",
            http_status=401,
            challenge=True,
            path=message.dialect.path(Place.CATALOGUE),
        )
    # Orders go to the address in the registry, whatever the catalogue says, in the version asked in.
    offers = tuple(
        msgspec.structs.replace(offer, bpp_uri=message.sender.url, beckn_version=sent["context"]["version"])
        for offer in offers
    )
    found = Discovered(feeder_id=asked.feeder_id, direction=asked.direction, bpp_id=sender, offers=offers)
    store_offers(
        work.connection,
        feeder_id=found.feeder_id,
        bpp_id=sender,
        direction=found.direction,
        offers=offers,
        now=work.now,
    )
    _note(work, message, answer, solicited=True, feeder_id=asked.feeder_id)
    return Reception(answer=answer, discovered=found, feeder_id=asked.feeder_id)


def _contract(
    work: Work, message: VerifiedMessage, request: RowMapping | None, answer: bytes, desk: Desk
) -> Reception:
    view = message.dialect.parse_reply(message.verb, message.message, message.error)
    order = _order_of(work, message, request, view)
    _note(work, message, answer, solicited=request is not None, order=order)
    if view is None:
        # Only an error about an order that stays as it is: silence, as far as its life cycle goes.
        return Reception(answer=answer, feeder_id=order.feeder_id, order_id=order.order_id)
    if message.verb == "on_init" and view.contract_id is None:
        # Where a generation lets a buyer name the order, it is named now; the seller may name it anew.
        named = message.dialect.reference(order.terms, view)
        view = msgspec.structs.replace(view, contract_id=named)
    lost = desk.apply(
        work,
        order,
        CallbackReceived(at=work.now, action=message.verb, message_id=message.context.message_id, view=view),
        extra=lambda: {"message_id": message.context.message_id, "action": message.action},
    )
    return Reception(answer=answer, lost=tuple(lost), feeder_id=order.feeder_id, order_id=order.order_id)


def _order_of(
    work: Work, message: VerifiedMessage, request: RowMapping | None, view: ContractView | None
) -> Order:
    """Find the order a contract callback is about.

    Raises:
        BecknRefusal: None of that seller is alive under the transaction.
    """
    if request is not None and request["order_id"] is not None:
        return load_order(work.connection, request["order_id"])
    mine: Callable[[Order], bool] = lambda order: (  # noqa: E731 - reads as the condition it is
        order.bpp_id == message.sender.subscriber_id
        and order.state not in TERMINAL
        and order.contract is not None
        and (view is None or view.contract_id in (None, order.contract.contract_id))
    )
    found = [
        order
        for order in orders_where(work.connection, transaction_id=message.context.transaction_id)
        if mine(order)
    ]
    if len(found) != 1:
        member = message.dialect.member("transaction_id")
        raise BecknRefusal(
            "CTX_TRANSACTION_ID_UNKNOWN",
            f"no live order of {message.sender.subscriber_id} under this {member}",
            path=f"/context/{member}",
        )
    return found[0]
