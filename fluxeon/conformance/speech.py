"""The words of a protocol generation, as far as the suite needs them.

Cases speak of ``discover``, ``bap_id`` and an order's terms; a :class:`Speech` says them.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from gateway.beckn import v2
from gateway.beckn.envelope import VERSION
from gateway.clock import rfc3339
from gateway.types import ContractView, Direction, Offer, OrderTerms

Message = dict[str, Any]

_V2_NAMES = {
    "version": "version",
    "action": "action",
    "bap_id": "bapId",
    "bap_uri": "bapUri",
    "bpp_id": "bppId",
    "bpp_uri": "bppUri",
    "transaction_id": "transactionId",
    "message_id": "messageId",
    "timestamp": "timestamp",
    "ttl": "ttl",
    "domain": "domain",
}


class Speech(msgspec.Struct, frozen=True, kw_only=True):
    """One generation's words.

    Attributes:
        generation: As the command line names it.
        version: ``context.version``.
        names: Members of the context: our name -> the wire's.
        verbs: Actions that are called otherwise than in v2.0.0.
        nack_statuses: HTTP statuses that may carry a NACK beside the one that fits the fault.
        order_root: Member of ``message`` that holds an order.
        ask_open: ``message`` of a discover that restricts nothing.
        select: Likewise for the other requests of a buyer ...
        read_offers: Offers in the ``message`` of an on_discover.
        read_contract: The contract in the ``message`` of any other callback.
        read_order: The terms in the ``message`` of a request.
        read_ask: Feeder and direction in the ``message`` of a discover.
        say_offers: ``message`` of an on_discover.
        say_contract: ``message`` of any other callback.
    """

    generation: str
    version: str
    names: Mapping[str, str]
    verbs: Mapping[str, str] = {}
    nack_statuses: frozenset[int] = frozenset()
    order_root: str
    ask_open: Callable[[], Message]
    select: Callable[[OrderTerms], Message]
    init: Callable[[OrderTerms, ContractView], Message]
    confirm: Callable[[OrderTerms, ContractView], Message]
    status: Callable[[OrderTerms, str], Message]
    cancel: Callable[[OrderTerms, str, str], Message]
    read_offers: Callable[[Mapping[str, Any], str, str], tuple[Offer, ...]]
    read_contract: Callable[[Mapping[str, Any]], ContractView]
    read_order: Callable[[Mapping[str, Any]], tuple[OrderTerms, str | None]]
    read_ask: Callable[[Mapping[str, Any]], tuple[str | None, Direction | None]]
    say_offers: Callable[[Sequence[Offer]], Message]
    say_contract: Callable[[OrderTerms, ContractView], Message]

    def verb(self, action: str) -> str:
        """Name an action (``discover``, ``on_select``) as this generation does."""
        prefix = "on_" if action.startswith("on_") else ""
        plain = action.removeprefix("on_")
        return prefix + self.verbs.get(plain, plain)

    def member(self, name: str) -> str:
        """Name a member of the context on the wire."""
        return self.names[name]

    def context(self, action: str, now: datetime, fields: Mapping[str, str | None]) -> Message:
        """Write a context; members that are None are left out."""
        said: dict[str, str | None] = {
            "domain": None,
            "version": self.version,
            "action": self.verb(action),
            **fields,
            "timestamp": rfc3339(now),
            "ttl": "PT30S",
        }
        return {self.names[name]: value for name, value in said.items() if value is not None}


def _read_offers(message: Mapping[str, Any], bpp_id: str, bpp_uri: str) -> tuple[Offer, ...]:
    return v2.parse_on_discover(message, bpp_id=bpp_id, bpp_uri=bpp_uri)


def _read_ask(message: Mapping[str, Any]) -> tuple[str | None, Direction | None]:
    ask = v2.parse_discover(message)
    return ask.feeder_id, ask.direction


V2 = Speech(
    generation="2.0",
    version=VERSION,
    names=_V2_NAMES,
    order_root="contract",
    ask_open=lambda: {"intent": {"textSearch": "flexibility"}},
    select=v2.select_message,
    init=v2.init_message,
    confirm=v2.confirm_message,
    status=v2.status_message,
    cancel=v2.cancel_message,
    read_offers=_read_offers,
    read_contract=v2.parse_contract,
    read_order=v2.parse_order,
    read_ask=_read_ask,
    say_offers=v2.on_discover_message,
    say_contract=v2.contract_message,
)

SPEECHES: Mapping[str, Speech] = {V2.generation: V2}
"""By generation, as far as they are spoken here."""
