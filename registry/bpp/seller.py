"""The seller at work: one place that holds its state and turns messages and time into answers.

* Decisions are pure (:mod:`registry.bpp.contracts`) and taken one after the other on the event loop, so
  that no two orders are promised the same kilowatt.
* A confirmed or cancelled contract is durable before the message that made it so is acknowledged.
* A draft binds nobody and stays in memory: its id follows from its transaction, and a confirm carries
  all it held, so that one drafted before a crash can still be confirmed.
"""

import logging
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4, uuid5

from gateway.beckn.dialect import Place, dialect_of
from gateway.beckn.envelope import Context
from gateway.beckn.verify import VerifiedMessage
from gateway.clock import Clock, rfc3339
from gateway.errors import BecknRefusal, GatewayError, StoreError
from gateway.types import ContractStatus, Direction, OrderTerms
from registry.bpp.catalogue import Catalogue
from registry.bpp.contracts import (
    Contract,
    Played,
    advance,
    cancel,
    confirm,
    contract_view,
    draft,
    offered_kw,
    play,
    quote,
    quote_view,
)
from registry.bpp.physics import import_relief_kw
from registry.bpp.portfolio import PortfolioDer
from registry.bpp.storage import Callback, Change, Ledger, Taken

CALLBACK_TTL = timedelta(minutes=10)
"""How long a callback is worth delivering, wall time; its ``ttl`` says the same."""
MAX_REMEMBERED_QUESTIONS = 20_000
"""Messages that changed nothing, remembered in memory only to recognise repetitions."""
MAX_DRAFTS = 20_000
"""Contracts drafted and neither confirmed nor cancelled."""
_CONTRACTS = UUID("6a1f5d0e-3c0b-5f6e-9f57-0d6d4e0f2b11")
"""Namespace of contract ids."""
_DECLARING = frozenset({"confirm", "status", "cancel"})
"""Verbs whose answer tells of contracts that must not be lost afterwards."""
_log = logging.getLogger("bpp")


_Answer = tuple[dict[str, Any], Contract | None]
"""The callback's message, and the contract as the request has changed it (None: not at all)."""


class TimeReversed(GatewayError):  # noqa: N818 - reads as what it is
    """Event time was told to run backwards."""

    code = "event_time_reversed"
    http_status = 409


class Seller:
    """Contracts, deliveries and event time of one aggregator.

    Args:
        subscriber_id: Its id on the network.
        uri: Base of its Beckn endpoints.
        catalogue: What it sells.
        ledger: Its durable memory, read back here.
        clock: Wall time; also its event time until that is driven.
        seed: Of the delivery's imperfections.
    """

    def __init__(
        self,
        *,
        subscriber_id: str,
        uri: str,
        catalogue: Catalogue,
        ledger: Ledger,
        clock: Clock,
        seed: int,
    ) -> None:
        self._id = subscriber_id
        self._uri = uri
        self._catalogue = catalogue
        self._ledger = ledger
        self._clock = clock
        self._seed = seed
        self._contracts: dict[str, Contract] = {}
        self._drafts: OrderedDict[str, None] = OrderedDict()
        self._running: dict[str, None] = {}
        self._played: dict[str, tuple[Played, ...]] = {}
        self._book: defaultdict[str, tuple[Played, ...]] = defaultdict(tuple)
        self._moving: list[Played] = []
        self._taken: dict[tuple[str, str], str] = {}
        self._questions: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._relief = dict.fromkeys(catalogue.feeder_ids, 0.0)
        self._broken: str | None = None
        remembered = ledger.remembered()
        self._event_time = remembered.event_time
        self.owed = remembered.owed
        """Callbacks a former run still owed."""
        self._number = max((each.number for each in remembered.owed), default=0)
        for contract in sorted(remembered.contracts, key=_confirmed):
            self._keep(contract)
        self._taken.update({(each.sender_id, each.message_id): each.digest for each in remembered.taken})
        self._answers: Mapping[str, Callable[[VerifiedMessage], _Answer]] = {
            "discover": self._discover,
            "select": self._select,
            "init": self._init,
            "confirm": self._confirm,
            "status": self._status,
            "cancel": self._cancel,
        }

    @property
    def verbs(self) -> frozenset[str]:
        """What it takes, in the model's words."""
        return frozenset(self._answers)

    @property
    def broken(self) -> str | None:
        """Why it can take no more messages (its memory failed), or None."""
        return self._broken

    @property
    def driven(self) -> bool:
        """Whether event time is set from outside."""
        return self._event_time is not None

    def event_now(self) -> datetime:
        """Present event time."""
        return self._event_time or self._clock()

    # --- messages ----------------------------------------------------------------------------

    async def take(self, message: VerifiedMessage) -> tuple[Callback, ...]:
        """Act on a verified message; returns once its effect is durable.

        Returns:
            The callbacks to send after the Ack; none where the message was taken before.

        Raises:
            BecknRefusal: It cannot be acted on; nothing has changed.
            StoreError: Its effect could not be stored; the seller takes no more messages.
        """
        self._check_memory()
        ref = (message.sender.subscriber_id, message.context.message_id)
        known = self._taken.get(ref) or self._questions.get(ref)
        if known is not None:
            if known != message.digest:
                raise BecknRefusal(
                    "CTX_MESSAGE_ID_DUPLICATE",
                    "this messageId came with another body before: use a fresh one",
                    path=f"/context/{message.dialect.member('message_id')}",
                )
            # Its first copy may still be on the way to the disk: an Ack promises that it is there.
            await self._written(self._ledger.settle())
            return ()
        answer, contract = self._answers[message.verb](message)
        callback = self._answer(message, answer)
        if contract is None:
            self._questions[ref] = message.digest
            if len(self._questions) > MAX_REMEMBERED_QUESTIONS:
                self._questions.popitem(last=False)
            if message.verb in _DECLARING:
                # What the answer tells may have been decided a moment ago and not be on disk yet.
                await self._written(self._ledger.settle())
            return (callback,)
        self._taken[ref] = message.digest
        advanced, told = self._let_time_pass([contract.contract_id])
        await self._written(
            self._ledger.write(
                Change(
                    contracts=(advanced.get(contract.contract_id, contract),),
                    taken=(Taken(sender_id=ref[0], message_id=ref[1], digest=message.digest),),
                    owed=(callback, *told),
                )
            )
        )
        return (callback, *told)

    def _discover(self, message: VerifiedMessage) -> _Answer:
        ask = message.dialect.parse_discover(message.message)
        start = ask.window_start or self.event_now()
        end = ask.window_end

        def free(der: PortfolioDer, direction: Direction) -> float:
            until = end or start + timedelta(minutes=der.min_duration_min)
            kw = offered_kw(der, direction, start, until, self._book)
            return kw if kw >= ask.min_kw else 0.0

        offers = self._catalogue.offers(
            ask.feeder_id,
            ask.direction,
            bpp_id=self._id,
            bpp_uri=self._uri,
            wall_now=self._clock(),
            free_kw=free,
        )
        return message.dialect.on_discover_message(offers), None

    def _select(self, message: VerifiedMessage) -> _Answer:
        terms, _ = message.dialect.parse_order(message.message)
        quoted = quote(self._catalogue, self._book, terms, now=self.event_now())
        view = quote_view(quoted, terms, self._catalogue)
        return message.dialect.contract_message(terms, view), None

    def _init(self, message: VerifiedMessage) -> _Answer:
        terms, named = message.dialect.parse_order(message.message)
        contract_id = self._contract_id(message)
        if named is not None and named != contract_id:
            raise _unknown_contract(named, message)
        existing = self._contracts.get(contract_id)
        if existing is not None and existing.status != ContractStatus.DRAFT:
            return self._say(existing), None
        contract = self._draft(message, terms)
        self._keep(contract)
        self._forget_old_drafts(contract_id)
        return self._say(contract), None

    def _confirm(self, message: VerifiedMessage) -> _Answer:
        terms, named = message.dialect.parse_order(message.message)
        contract_id = self._contract_id(message)
        if named == contract_id and contract_id not in self._contracts:
            # Drafted in a former life: the confirm carries all that the draft held.
            self._keep(self._draft(message, terms))
        contract = self._find(message, named)
        now = self.event_now()
        quoted = quote(self._catalogue, self._book, terms, now=now)
        lines_at = message.dialect.path(Place.LINES)
        return self._move(contract, confirm(contract, terms, quoted, now=now, lines_at=lines_at))

    def _draft(self, message: VerifiedMessage, terms: OrderTerms) -> Contract:
        return draft(
            quote(self._catalogue, self._book, terms, now=self.event_now()),
            terms,
            contract_id=self._contract_id(message),
            bap_id=message.sender.subscriber_id,
            bap_uri=message.context.bap_uri,
            transaction_id=message.context.transaction_id,
            beckn_version=message.context.version,
            domain=message.context.domain,
            location=message.context.location,
        )

    def _contract_id(self, message: VerifiedMessage) -> str:
        """The id of the one contract a transaction can have: always the same, so never to be lost."""
        name = f"{self._id}|{message.sender.subscriber_id}|{message.context.transaction_id}"
        return str(uuid5(_CONTRACTS, name))

    def _forget_old_drafts(self, contract_id: str) -> None:
        """Bound the drafts nobody confirmed."""
        self._drafts[contract_id] = None
        if len(self._drafts) > MAX_DRAFTS:
            oldest, _ = self._drafts.popitem(last=False)
            if self._contracts[oldest].status == ContractStatus.DRAFT:
                del self._contracts[oldest], self._played[oldest]

    def _status(self, message: VerifiedMessage) -> _Answer:
        return self._say(self._find(message, message.dialect.parse_reference(message.message))), None

    def _cancel(self, message: VerifiedMessage) -> _Answer:
        contract = self._find(message, message.dialect.parse_reference(message.message))
        reason = message.dialect.parse_cancel_reason(message.message)
        return self._move(contract, cancel(contract, now=self.event_now(), reason=reason))

    def _move(self, before: Contract | None, after: Contract) -> _Answer:
        """Hold a contract as a message has made it, and say so."""
        if after == before:
            return self._say(after), None
        self._keep(after)
        return self._say(after), after

    def _find(self, message: VerifiedMessage, named: str | None) -> Contract:
        """The contract a message is about: of this buyer, in this transaction.

        Raises:
            BecknRefusal: There is none, or the message names another.
        """
        contract_id = self._contract_id(message)
        contract = self._contracts.get(contract_id)
        if contract is None:
            raise BecknRefusal(
                "CTX_TRANSACTION_ID_UNKNOWN",
                "no contract was made in this transaction: init first",
                path=f"/context/{message.dialect.member('transaction_id')}",
            )
        if named is not None and named != contract_id:
            raise _unknown_contract(named, message)
        return contract

    # --- time --------------------------------------------------------------------------------

    async def set_event_time(self, at: datetime) -> tuple[dict[str, float], tuple[Callback, ...]]:
        """Let event time pass to an instant.

        Told the same instant again, it answers the same: a driver may repeat a lost request.

        Returns:
            Average relief per feeder since the instant told before, kW > 0 lowers import, and the
            callbacks that are now due.

        Raises:
            TimeReversed: Event time is past that already.
            StoreError: The change could not be stored; the seller takes no more messages.
        """
        self._check_memory()
        before = self._event_time
        if before is not None and at < before:
            raise TimeReversed(
                f"event time is {rfc3339(before)} already", field="event_time", event_time=rfc3339(before)
            )
        if at == before:
            await self._written(self._ledger.settle())
            return self._relief, ()
        self._relief = self._average_relief(before, at)
        self._event_time = at
        changed, told = self._let_time_pass(tuple(self._running))
        await self._written(
            self._ledger.write(Change(contracts=tuple(changed.values()), owed=told, event_time=at))
        )
        return self._relief, told

    async def follow_wall_time(self) -> tuple[Callback, ...]:
        """Let wall time pass as event time; nothing happens where event time is driven.

        Raises:
            StoreError: As :meth:`set_event_time`.
        """
        if self.driven or self._broken is not None:
            return ()
        changed, told = self._let_time_pass(tuple(self._running))
        if changed:
            await self._written(self._ledger.write(Change(contracts=tuple(changed.values()), owed=told)))
        return told

    def _let_time_pass(self, contract_ids: Iterable[str]) -> tuple[dict[str, Contract], tuple[Callback, ...]]:
        """Advance contracts to the present event time.

        Returns:
            Those that changed, and the status messages their buyers are now to get unasked.
        """
        changed: dict[str, Contract] = {}
        told: list[Callback] = []
        for contract_id in contract_ids:
            contract, instants = advance(self._contracts[contract_id], now=self.event_now())
            if not instants:
                continue
            changed[contract_id] = contract
            self._keep(contract)
            told.extend(self._push(contract, at) for at in instants)
        return changed, tuple(told)

    def _average_relief(self, since: datetime | None, until: datetime) -> dict[str, float]:
        relief = dict.fromkeys(self._catalogue.feeder_ids, 0.0)
        if since is None:
            return relief
        hours = (until - since).total_seconds() / 3600
        for line in self._moving:
            kw = line.trace.energy_kwh(since, until) / hours
            relief[line.feeder_id] += import_relief_kw(kw, line.direction)
        self._moving = [line for line in self._moving if line.trace.ends_at > until]
        return relief

    # --- state -------------------------------------------------------------------------------

    def _keep(self, contract: Contract) -> None:
        """Hold a contract as it now is, with what its DERs do."""
        contract_id = contract.contract_id
        before = self._contracts.get(contract_id)
        self._contracts[contract_id] = contract
        if contract.status == ContractStatus.ACTIVE:
            self._running[contract_id] = None
        else:
            self._running.pop(contract_id, None)
        if before is not None and _dispatched(before) == _dispatched(contract):
            return
        lines = play(contract, self._catalogue, seed=self._seed)
        for line in self._played.get(contract_id, ()):
            others = tuple(each for each in self._book[line.der_id] if each.contract_id != contract_id)
            self._book[line.der_id] = others
        self._moving = [line for line in self._moving if line.contract_id != contract_id]
        self._played[contract_id] = lines
        for line in lines:
            self._book[line.der_id] += (line,)
        if self._event_time is None:
            self._moving.extend(lines)
        else:
            self._moving.extend(line for line in lines if line.trace.ends_at > self._event_time)

    def _check_memory(self) -> None:
        if self._broken is not None:
            raise StoreError(f"the seller's memory failed: {self._broken}")

    async def _written(self, writing: Awaitable[None]) -> None:
        """Wait for the disk. What failed there is ahead of it in memory: nothing may follow."""
        try:
            await writing
        except StoreError as exc:
            self._broken = exc.detail
            _log.exception("memory_failed")
            raise

    def state(self) -> dict[str, Any]:
        """Contracts and DERs as they are, for the control endpoint."""
        now = self.event_now()
        ders: dict[str, dict[str, Any]] = {}
        for feeder_id in self._catalogue.feeder_ids:
            for der in self._catalogue.ders_at(feeder_id):
                lines = self._book.get(der.der_id, ())
                on = [line for line in lines if line.window_start <= now < line.window_end]
                ders[der.der_id] = {
                    "type": der.type,
                    "feeder_id": der.feeder_id,
                    "capacity_kw": der.capacity_kw,
                    "reserved_kw": sum(line.ceiling_kw for line in on),
                    "contracts": len(lines),
                }
        return {
            "event_time": rfc3339(now),
            "driven": self.driven,
            "contracts": [
                {
                    "contract_id": each.contract_id,
                    "obp_id": each.terms.obp_id,
                    "status": each.status,
                    "window_start": rfc3339(each.terms.window_start),
                    "window_end": rfc3339(each.terms.window_end),
                    "lines": each.promises,
                    "decline_reason": each.decline_reason,
                }
                for each in self._contracts.values()
            ],
            "ders": ders,
        }

    # --- what is said ------------------------------------------------------------------------

    def _say(self, contract: Contract, *, at: datetime | None = None) -> dict[str, Any]:
        """Describe a contract as of an event time, the present by default."""
        now = self.event_now() if at is None else at
        lines = self._played[contract.contract_id]
        view = contract_view(contract, lines, self._catalogue, now=now)
        return dialect_of(contract.beckn_version).contract_message(contract.terms, view)

    def _answer(self, request: VerifiedMessage, message: dict[str, Any]) -> Callback:
        """Write a solicited callback: the request's message id, chained to its signature."""
        context = request.context
        return self._callback(
            verb=f"on_{request.verb}",
            version=context.version,
            bap_id=context.bap_id,
            bap_uri=context.bap_uri,
            transaction_id=context.transaction_id,
            message_id=context.message_id,
            domain=context.domain,
            location=context.location,
            message=message,
            request_signature=request.signature if request.dialect.chains_callbacks else None,
        )

    def _push(self, contract: Contract, at: datetime) -> Callback:
        """Write an on_status nobody asked for."""
        return self._callback(
            verb="on_status",
            version=contract.beckn_version,
            bap_id=contract.bap_id,
            bap_uri=contract.bap_uri,
            transaction_id=contract.transaction_id,
            message_id=str(uuid4()),
            domain=contract.domain,
            location=contract.location,
            message=self._say(contract, at=at),
            request_signature=None,
        )

    def _callback(
        self,
        *,
        verb: str,
        version: str,
        bap_id: str,
        bap_uri: str,
        transaction_id: str,
        message_id: str,
        domain: str | None,
        location: dict[str, Any] | None,
        message: dict[str, Any],
        request_signature: str | None,
    ) -> Callback:
        now = self._clock()
        self._number += 1
        dialect = dialect_of(version)
        action = dialect.action(verb)
        context = Context(
            version=version,
            action=action,
            bap_id=bap_id,
            bap_uri=bap_uri,
            bpp_id=self._id,
            bpp_uri=self._uri,
            transaction_id=transaction_id,
            message_id=message_id,
            timestamp=now,
            ttl=f"PT{int(CALLBACK_TTL.total_seconds() // 60)}M",
            domain=domain,
            location=location,
        )
        return Callback(
            number=self._number,
            action=action,
            transaction_id=transaction_id,
            message_id=message_id,
            url=f"{bap_uri.rstrip('/')}/{action}",
            body=dialect.encode(context, message),
            request_signature=request_signature,
            void_at=now + CALLBACK_TTL,
        )


def _dispatched(contract: Contract) -> tuple[datetime | None, datetime | None]:
    """When its DERs were told to start and to stop: what a trace depends on once terms are fixed."""
    return contract.confirmed_at, contract.cancelled_at


def _confirmed(contract: Contract) -> float:
    return 0.0 if contract.confirmed_at is None else contract.confirmed_at.timestamp()


def _unknown_contract(contract_id: str, message: VerifiedMessage) -> BecknRefusal:
    place = Place.REFERENCE if message.verb in {"status", "cancel"} else Place.CONTRACT_ID
    return BecknRefusal(
        "BIZ_CONTRACT_NOT_FOUND",
        f"contract {contract_id} is not of this transaction",
        path=message.dialect.path(place),
    )
