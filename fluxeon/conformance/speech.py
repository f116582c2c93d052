"""The words of a protocol generation, as far as the suite needs them.

Cases speak of ``discover``, ``bap_id`` and an order's terms; a :class:`Speech` says them in the words
of its :class:`~gateway.beckn.dialect.Dialect`. Contexts are plain objects here, because cases spoil them.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from gateway.beckn.dialect import V1, V2, Dialect, Generation, Languages
from gateway.clock import rfc3339
from gateway.errors import BecknRefusal
from gateway.types import ContractView, Direction, Offer

Message = dict[str, Any]

_OPEN_INTENT: Mapping[Generation, Message] = {
    Generation.V2: {"intent": {"textSearch": "flexibility"}},
    Generation.V1: {"intent": {}},
}
_ORDER_ROOT: Mapping[Generation, str] = {Generation.V2: "contract", Generation.V1: "order"}
_NACK_STATUSES: Mapping[Generation, frozenset[int]] = {
    Generation.V2: frozenset(),
    # BECKN-005: acknowledgements of both kinds come with 200.
    Generation.V1: frozenset({200}),
}


class Speech:
    """One generation's words.

    Attributes:
        dialect: What it is made of.
        nack_statuses: HTTP statuses that may carry a NACK beside the one that fits the fault.
        order_root: Member of ``message`` that holds an order.
    """

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.nack_statuses = _NACK_STATUSES[dialect.generation]
        self.order_root = _ORDER_ROOT[dialect.generation]
        self.select = dialect.select_message
        self.init = dialect.init_message
        self.confirm = dialect.confirm_message
        self.status = dialect.status_message
        self.cancel = dialect.cancel_message
        self.read_order = dialect.parse_order
        self.say_contract = dialect.contract_message

    @property
    def generation(self) -> str:
        """As the command line names it."""
        return self.dialect.generation.value

    @property
    def version(self) -> str:
        """``context.version``."""
        return self.dialect.versions[0]

    def languages(self) -> Languages:
        """Load the schemas of this generation alone."""
        return Languages.load([self.dialect.generation])

    def verb(self, action: str) -> str:
        """Name an action (``discover``, ``on_select``) on the wire."""
        return self.dialect.action(action)

    def member(self, name: str) -> str:
        """Name a member of the context on the wire."""
        return self.dialect.member(name)

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
        return {self.member(name): value for name, value in said.items() if value is not None}

    def ask_open(self) -> Message:
        """Write the ``message`` of a discover that restricts nothing."""
        return dict(_OPEN_INTENT[self.dialect.generation])

    def read_ask(self, message: Mapping[str, Any]) -> tuple[str | None, Direction | None]:
        """Read feeder and direction of a discover."""
        ask = self.dialect.parse_discover(message)
        return ask.feeder_id, ask.direction

    def read_offers(self, message: Mapping[str, Any], bpp_id: str, bpp_uri: str) -> tuple[Offer, ...]:
        """Read the offers of an on_discover."""
        return self.dialect.parse_offers(message, None, bpp_id=bpp_id, bpp_uri=bpp_uri) or ()

    def read_contract(self, action: str, message: Mapping[str, Any]) -> ContractView:
        """Read the contract of any other callback.

        Raises:
            BecknRefusal: It cannot be read, or there is none.
        """
        view = self.dialect.parse_reply(self.dialect.verb(action) or action, message, None)
        if view is None:
            raise BecknRefusal("SCH_REQUIRED_FIELD_MISSING", f"{action} holds no order", path="/message")
        return view

    def say_offers(self, offers: Sequence[Offer]) -> Message:
        """Write the ``message`` of an on_discover."""
        return self.dialect.on_discover_message(offers)


SPEECHES: Mapping[str, Speech] = {dialect.generation.value: Speech(dialect) for dialect in (V2, V1)}
"""By generation, as the command line names them."""
