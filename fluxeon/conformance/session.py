"""One target, one station, and what has been said between them."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import uuid4

from fluxeon.conformance import expect
from fluxeon.conformance.draft import Draft, Identity, Shot
from fluxeon.conformance.speech import Message, Speech
from fluxeon.conformance.station import Arrival, Station
from fluxeon.conformance.transport import Reply
from fluxeon.conformance.verdict import Blocked
from gateway.beckn.resolver import Participant
from gateway.beckn.verify import Role

Advance = Callable[[datetime], Awaitable[None]]


@dataclass(kw_only=True)
class Session:
    """What cases work with.

    Attributes:
        role: The target's role.
        uri: Base of its endpoints, ``{uri}/{action}``.
        target: Its registry record.
        station: Our side.
        speech: The generation.
        patience_s: Longest wait for a callback or a next message.
        quiet_s: How long silence is listened to, where nothing must come.
        feeder_id: Where relief is asked for; None: anywhere.
        advance: Lets the target's event time pass to an instant; None: not to be driven.
        probe: Makes a message that the target would take if it were left right.
        good_probe: Makes a message that the target takes without consequence.
        order_probe: Makes a message about an order that it would take if it were left right.
        refused: Message ids that were refused: nothing may ever follow them.
        facts: What earlier cases found, for later ones.
    """

    role: Role
    uri: str
    target: Participant
    station: Station
    speech: Speech
    patience_s: float
    quiet_s: float
    feeder_id: str | None = None
    advance: Advance | None = None
    probe: Callable[[], Draft]
    good_probe: Callable[[], Draft]
    order_probe: Callable[[], Draft]
    refused: set[str] = field(default_factory=set)
    facts: dict[str, Any] = field(default_factory=dict)

    def url(self, action: str) -> str:
        """Address of an action, as this generation calls it."""
        return f"{self.uri.rstrip('/')}/{action}"

    def fact(self, name: str) -> Any:
        """What an earlier case found.

        Raises:
            Blocked: It did not find it.
        """
        if name not in self.facts:
            raise Blocked(f"an earlier case did not get as far as: {name}")
        return self.facts[name]

    async def send(self, shot: Shot) -> Reply:
        """Send exact bytes."""
        return await self.station.transport.send(self.url(shot.action), shot.body, shot.headers)

    async def refuse(
        self,
        shot: Shot,
        statuses: set[int],
        *,
        codes: tuple[str, ...] = (),
        message_id: str | None = None,
    ) -> Reply:
        """Send what must be refused, and insist on it."""
        reply = await self.send(shot)
        expect.refusal(reply, statuses, codes=codes, nack_with=self.speech.nack_statuses)
        if message_id is not None:
            self.refused.add(message_id)
        return reply

    # --- messages of ours --------------------------------------------------------------------

    def request(
        self,
        action: str,
        message: Message,
        *,
        transaction_id: str | None = None,
        author: Identity | None = None,
    ) -> Draft:
        """Draft a buyer's request to the target."""
        buyer = author or self.station.me
        fields = {
            "bap_id": buyer.id,
            "bap_uri": buyer.uri,
            "bpp_id": self.target.subscriber_id,
            "bpp_uri": self.uri,
        }
        return self._draft(
            action,
            message,
            fields,
            buyer,
            transaction_id=transaction_id or str(uuid4()),
            message_id=str(uuid4()),
        )

    def callback(
        self,
        action: str,
        message: Message,
        *,
        request: Arrival | None = None,
        transaction_id: str | None = None,
        author: Identity | None = None,
    ) -> Draft:
        """Draft a seller's callback to the target: answering a request, or unasked."""
        seller = author or self.station.me
        fields = {
            "bap_id": self.target.subscriber_id,
            "bap_uri": self.uri,
            "bpp_id": seller.id,
            "bpp_uri": seller.uri,
        }
        if request is None:
            return self._draft(
                action,
                message,
                fields,
                seller,
                transaction_id=transaction_id or str(uuid4()),
                message_id=str(uuid4()),
            )
        draft = self._draft(
            action,
            message,
            fields,
            seller,
            transaction_id=transaction_id or str(request.context(self.speech.member("transaction_id"))),
            message_id=str(request.context(self.speech.member("message_id"))),
        )
        if request.verified is None:
            raise Blocked("the request that is answered does not verify")
        if not self.speech.dialect.chains_callbacks:
            return draft
        return Draft(
            **{
                **vars(draft),
                "request_signature": request.verified.signature,
                "request_header": request.headers.get("authorization"),
            }
        )

    def _draft(
        self,
        action: str,
        message: Message,
        fields: Mapping[str, str],
        author: Identity,
        *,
        transaction_id: str,
        message_id: str,
    ) -> Draft:
        now = self.station.clock()
        said: dict[str, str | None] = {
            **fields,
            "domain": self.station.domain,
            "transaction_id": transaction_id,
            "message_id": message_id,
        }
        return Draft(
            action=self.speech.verb(action),
            document={"context": self.speech.context(action, now, said), "message": message},
            author=author,
            now=now,
            speech=self.speech,
        )

    # --- messages of theirs ------------------------------------------------------------------

    async def arrival(
        self, action: str, *, message_id: str | None = None, within_s: float | None = None, since: int = 0
    ) -> Arrival | None:
        """Wait for a message of the target to any of our identities."""
        verb = self.speech.verb(action)
        member = self.speech.member("message_id")

        def wanted(arrival: Arrival) -> bool:
            return arrival.action == verb and message_id in (None, arrival.context(member))

        return await self.station.wait(wanted, self.patience_s if within_s is None else within_s, since=since)

    def heard(self, message_id: str) -> list[Arrival]:
        """List what came under a message id so far."""
        member = self.speech.member("message_id")
        return [each for each in self.station.arrivals if each.context(member) == message_id]
