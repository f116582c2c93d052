"""The Beckn messages that are measured, with what their sender builds them from."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from fluxeon.bench import samples
from gateway.beckn import v2
from gateway.beckn.envelope import Context, encode
from gateway.types import Direction

Build = Callable[[], dict[str, Any]]


class Kind(NamedTuple):
    """One kind of message; ``to_buyer`` where a seller sends it."""

    label: str
    action: str
    build: Build
    to_buyer: bool = False


def kinds(now: datetime, offer_counts: tuple[int, ...]) -> tuple[Kind, ...]:
    """List the messages of one trade, with catalogues of several sizes."""
    start = now + timedelta(hours=1)
    terms = samples.terms(start=start)
    selected = samples.view(terms, contract_id=None)
    agreed = samples.view(terms)
    return (
        Kind(
            "discover",
            "discover",
            lambda: v2.discover_message(
                samples.FEEDER_ID, Direction.REDUCE, 40.0, start, start + timedelta(hours=1)
            ),
        ),
        Kind("select", "select", lambda: v2.select_message(terms)),
        Kind("init", "init", lambda: v2.init_message(terms, selected)),
        Kind("confirm", "confirm", lambda: v2.confirm_message(terms, agreed)),
        *(_catalogue(count, start) for count in offer_counts),
    )


def _catalogue(count: int, start: datetime) -> Kind:
    offered = samples.offers(count, start=start)
    return Kind(
        f"on_discover, {count} offers", "on_discover", lambda: v2.on_discover_message(offered), to_buyer=True
    )


def context_of(action: str, message: dict[str, Any], message_id: str, now: datetime) -> Context:
    """The context a message of ours has on the wire."""
    return Context(
        action=action,
        bap_id=samples.BUYER_ID,
        bap_uri=samples.BUYER_URI,
        bpp_id=samples.SELLER_ID,
        bpp_uri=samples.SELLER_URI,
        transaction_id=samples.TRANSACTION_ID,
        message_id=message_id,
        timestamp=now,
        schema_context=v2.schema_context(message),
    )


def wire(action: str, message: dict[str, Any], message_id: str, now: datetime) -> bytes:
    """The bytes of a message as they are signed and sent."""
    return encode(context_of(action, message, message_id, now), message)
