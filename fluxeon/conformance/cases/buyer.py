"""REQ, FLOW, DUP, SEQ for a target that buys (role bap). The suite sells."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec

from fluxeon.conformance import expect
from fluxeon.conformance.case import Case
from fluxeon.conformance.cases.seller import signed_by_target
from fluxeon.conformance.draft import Draft, Identity, Shot
from fluxeon.conformance.drive import Drive
from fluxeon.conformance.session import Session
from fluxeon.conformance.station import Arrival
from fluxeon.conformance.transport import Reply
from fluxeon.conformance.verdict import Blocked, Level, Mismatch, NotApplicable
from gateway.beckn.envelope import AnswerKind
from gateway.errors import BecknRefusal
from gateway.types import (
    BaselineMethod,
    BaselineTerm,
    CommittedLine,
    ContractStatus,
    ContractView,
    Der,
    DerPerformance,
    DerType,
    Direction,
    MeterInterval,
    Offer,
    OrderTerms,
    PerformanceStatus,
)

BUYER = frozenset({"bap"})
REQUESTS = "Beckn requests: signed over three lines, context complete, ids fresh"
FLOW = "Beckn transaction: discover, select, init, confirm, status (v1.1: search ...)"
REPEATS = "Beckn context.messageId: one message, one effect"
CORRELATION = "Beckn callbacks: transactionId, messageId, sender and action of the request they answer"
CAPACITY_KW = 500.0
PRICE = "0.10"
MAX_OVERLOADS = 8
_QUARTER = timedelta(minutes=15)


def offer_of(session: Session, feeder_id: str, direction: Direction) -> Offer:
    """What the suite sells: one large, quick, cheap battery."""
    me = session.station.me
    return Offer(
        offer_id=f"conformance:{feeder_id}:{direction.value}",
        bpp_id=me.id,
        bpp_uri=me.uri,
        provider_id="conformance",
        provider_name="Conformance suite",
        ders=(
            Der(
                der_id=f"der:conformance:{feeder_id}",
                aggregator_id="conformance",
                type=DerType.BATTERY,
                feeder_id=feeder_id,
                direction=direction,
                capacity_kw=CAPACITY_KW,
                response_time_s=0.0,
                min_duration_min=15,
                max_duration_min=240,
                price_per_kwh=PRICE,
                meter_ids=("mtr:conformance",),
            ),
        ),
        price_per_kwh=PRICE,
        currency="GBP",
        valid_from=session.station.clock(),
        valid_until=session.station.clock() + timedelta(days=1),
    )


def view_for(terms: OrderTerms, contract_id: str | None, status: ContractStatus) -> ContractView:
    """Accept terms in full."""
    return ContractView(
        contract_id=contract_id,
        status=status,
        obp_id=terms.obp_id,
        lines=tuple(
            CommittedLine(der_id=line.der_id, requested_kw=line.kw, committed_kw=line.kw)
            for line in terms.lines
        ),
        window_start=terms.window_start,
        window_end=terms.window_end,
        price_per_kwh=terms.price_per_kwh,
        currency=terms.currency,
        total_price=f"{terms.requested_kwh * float(terms.price_per_kwh):.2f}",
        baselines=tuple(
            BaselineTerm(der_id=line.der_id, method=BaselineMethod.NOMINATED, kw=0.0) for line in terms.lines
        ),
    )


def delivery(terms: OrderTerms, status: PerformanceStatus) -> tuple[DerPerformance, ...]:
    """Report every DER; complete ones delivered what was asked, metered per quarter hour."""
    sign = -1 if terms.direction is Direction.REDUCE else 1

    def intervals(kw: float) -> tuple[MeterInterval, ...]:
        count = int((terms.window_end - terms.window_start) / _QUARTER)
        return tuple(
            MeterInterval(
                start=terms.window_start + _QUARTER * number,
                end=terms.window_start + _QUARTER * (number + 1),
                usage_wh=round(sign * kw * 250),
            )
            for number in range(count)
        )

    return tuple(
        DerPerformance(
            der_id=line.der_id,
            status=status,
            intervals=intervals(line.kw) if status is PerformanceStatus.COMPLETED else (),
        )
        for line in terms.lines
    )


class Market:
    """The suite's stall: answers discovers and status requests by itself, leaves the rest to the cases."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.replies: list[Reply] = []
        """Answers to our catalogues."""
        self.faults: list[str] = []
        """Requests that cannot be read."""

    async def hear(self, arrival: Arrival) -> None:
        """Answer what needs no case."""
        speech = self._session.speech
        if arrival.identity != "me":
            return
        if arrival.action == speech.verb("discover"):
            try:
                feeder_id, direction = speech.read_ask(arrival.message)
            except BecknRefusal as exc:
                self.faults.append(exc.detail)
                return
            feeder = feeder_id or self._session.feeder_id
            if feeder is None:
                return
            offers = [offer_of(self._session, feeder, each) for each in Direction]
            wanted = [each for each in offers if direction in (None, each.ders[0].direction)]
            draft = self._session.callback("on_discover", speech.say_offers(wanted), request=arrival)
            self._session.facts["on_discover"] = draft
            self.replies.append(await self._session.send(draft.shot()))
        elif arrival.action == speech.verb("status") and "confirmed" in self._session.facts:
            draft = self._session.callback("on_status", current(self._session), request=arrival)
            await self._session.send(draft.shot())


def current(session: Session) -> dict[str, Any]:
    """Describe the contract as it now is."""
    return session.speech.say_contract(session.fact("terms"), session.fact("confirmed"))


def _next(session: Session, action: str) -> Arrival | None:
    """Find the newest request of a kind that came to us."""
    verb = session.speech.verb(action)
    found = [each for each in session.station.arrivals if each.action == verb and each.identity == "me"]
    return found[-1] if found else None


# --- REQ ----------------------------------------------------------------------------------------


async def _discover(session: Session) -> None:
    drive: Drive | None = session.facts.get("drive")
    if drive is not None:
        await drive.prepare()
    came = await session.arrival("discover")
    arrival = expect.verified(came, "a signed discover", session.patience_s)
    session.facts["discovered"] = arrival
    market: Market = session.facts["market"]
    for _ in range(20):
        if market.replies or market.faults:
            break
        await asyncio.sleep(0.05)
    expect.that(not market.faults, "a discover that can be read", "; ".join(market.faults))
    expect.that(bool(market.replies), "an answer to our on_discover", "none")
    expect.ack(market.replies[0])


async def _select(session: Session) -> None:
    drive: Drive | None = session.facts.get("drive")
    came = None
    if drive is None:
        came = await session.arrival("select")
    else:
        for _ in range(MAX_OVERLOADS):
            await drive.overload()
            came = await session.arrival("select", within_s=1.0)
            if came is not None:
                break
    arrival = expect.verified(came, "a signed select of our offer", session.patience_s)
    _read_select(session, arrival)


def _read_select(session: Session, arrival: Arrival) -> None:
    try:
        terms, _ = session.speech.read_order(arrival.message)
    except BecknRefusal as exc:
        raise Mismatch("an order that can be read", f"{exc.path}: {exc.detail}") from exc
    expect.that(terms.offer_id.startswith("conformance:"), "our offer", terms.offer_id)
    session.facts |= {"terms": terms, "selected": arrival}


async def _complete_context(session: Session) -> None:
    arrival: Arrival = session.fact("selected")
    speech, me = session.speech, session.station.me
    for member, value in (
        ("bap_id", session.target.subscriber_id),
        ("bpp_id", me.id),
        ("bpp_uri", me.uri),
        ("version", speech.version),
    ):
        expect.equal(f"context.{speech.member(member)}", value, arrival.context(speech.member(member)))
    for member in ("transaction_id", "message_id"):
        value = arrival.context(speech.member(member))
        expect.that(_is_uuid(value), f"a UUID in context.{speech.member(member)}", repr(value))
    ttl = arrival.context("ttl")
    expect.that(isinstance(ttl, str) and ttl.startswith("P"), "context.ttl as ISO 8601 duration", repr(ttl))


def _is_uuid(value: Any) -> bool:
    try:
        UUID(str(value))
    except ValueError:
        return False
    return True


async def _fresh_ids(session: Session) -> None:
    speech = session.speech
    asked = [session.fact(name) for name in ("selected", "initialised", "confirming")]
    messages = [each.context(speech.member("message_id")) for each in asked]
    transactions = {each.context(speech.member("transaction_id")) for each in asked}
    expect.that(len(set(messages)) == len(messages), "a messageId of its own per request", messages)
    expect.that(len(transactions) == 1, "one transactionId from select to confirm", transactions)


async def _three_lines(session: Session) -> None:
    for name in ("discovered", "selected", "initialised", "confirming"):
        arrival: Arrival = session.fact(name)
        variant = arrival.verified.variant if arrival.verified else "none"
        expect.equal(f"signature of {arrival.action}", "3-line", variant)


async def _asked_again(session: Session) -> None:
    """Our 503 on the first init has to be followed by the same bytes."""
    verb = session.speech.verb("init")
    came = [each for each in session.station.arrivals if each.action == verb]
    expect.that(len(came) >= 2, "the request again after our 503", f"{len(came)} tries")
    expect.that(came[0].body == came[1].body, "the same bytes again", "another body")


# --- FLOW ---------------------------------------------------------------------------------------


async def _quiet(session: Session) -> None:
    """Nothing that was refused may have moved the order on."""
    session.fact("selected")
    await asyncio.sleep(session.quiet_s)
    moved = _next(session, "init")
    expect.that(moved is None, "no init: every on_select so far was refused", "an init")
    drive: Drive | None = session.facts.get("drive")
    if drive is not None:
        states = {each.state for each in await drive.orders() if each.bpp_id == session.station.me.id}
        expect.that(states == {"SELECTING"}, "the order still SELECTING", states)


def draft_for(session: Session, action: str) -> Draft:
    """Draft the right answer to the newest request of a kind."""
    asked = _next(session, action)
    if asked is None:
        raise Blocked(f"no {action} has come")
    terms, _ = session.speech.read_order(asked.message)
    contract_id = None if action == "select" else session.facts.setdefault("contract_id", str(uuid4()))
    status = ContractStatus.ACTIVE if action == "confirm" else ContractStatus.DRAFT
    view = view_for(terms, contract_id, status)
    return session.callback(f"on_{action}", session.speech.say_contract(terms, view), request=asked)


async def _on_select(session: Session) -> None:
    session.fact("selected")
    session.station.busy[session.speech.verb("init")] = 1
    draft = draft_for(session, "select")
    shot = draft.shot()
    session.facts["on_select"] = (draft, shot)
    reply = await session.send(shot)
    expect.ack(reply)
    session.facts["on_select_reply"] = reply
    came = await session.station.wait(
        lambda each: each.action == session.speech.verb("init"), session.patience_s
    )
    arrival = expect.verified(came, "an init after on_select", session.patience_s)
    session.facts["initialised"] = arrival
    # The first init has met our 503: wait for the one that was acknowledged.
    await session.station.wait(
        lambda each: each.action == session.speech.verb("init") and each is not arrival, session.patience_s
    )
    session.station.busy[session.speech.verb("init")] = 0


async def _ack_signature(session: Session) -> None:
    reply, (draft, shot) = session.fact("on_select_reply"), session.fact("on_select")
    answer = expect.ack(reply)
    if session.speech.generation == "2.0":
        expect.equal("message.messageId of the Ack", draft.message_id, answer.message_id)
    await signed_by_target(session, reply, shot)


async def _nack_signature(session: Session) -> None:
    draft = session.probe().context(version="9.9.9")
    shot = draft.shot()
    await signed_by_target(session, await session.refuse(shot, {400}), shot)


async def _on_init(session: Session) -> None:
    draft = draft_for(session, "init")
    body = draft.body()
    # What the reference adapter emits: the fourth line holds the whole header.
    chain = draft.request_header if draft.request_signature else None
    shot = draft.shot(body, draft.authorization(body, chain=chain))
    session.facts["on_init"] = (draft, shot)
    expect.ack(await session.send(shot))
    came = await session.arrival("confirm")
    arrival = expect.verified(came, "a confirm after on_init", session.patience_s)
    session.facts["confirming"] = arrival
    _, contract_id = session.speech.read_order(arrival.message)
    expect.equal("contract id in confirm", session.facts["contract_id"], contract_id)


async def _on_confirm(session: Session) -> None:
    draft = draft_for(session, "confirm")
    terms, _ = session.speech.read_order(session.fact("confirming").message)
    view = view_for(terms, session.facts["contract_id"], ContractStatus.ACTIVE)
    scheduled = msgspec.structs.replace(view, performance=delivery(terms, PerformanceStatus.SCHEDULED))
    session.facts |= {"terms": terms, "confirmed": scheduled}
    # What the reference adapter signs once it has lost the request: three lines.
    shot = draft.unchained().shot()
    session.facts["on_confirm"] = (draft, shot)
    expect.ack(await session.send(shot))
    await _state(session, {"CONFIRMED", "DELIVERING", "COMPLETING"})


async def _state(session: Session, states: set[str]) -> None:
    """Insist on the state of our order, where it can be seen."""
    drive: Drive | None = session.facts.get("drive")
    if drive is None:
        return
    seen = set()
    for _ in range(int(session.patience_s / 0.1)):
        seen = {each.state for each in await drive.orders() if each.bpp_id == session.station.me.id}
        if seen & states:
            return
        await asyncio.sleep(0.1)
    raise Mismatch(f"an order that is {' or '.join(sorted(states))}", ", ".join(sorted(seen)) or "none")


def push(session: Session, *, author: Identity | None = None, transaction_id: str | None = None) -> Draft:
    """Draft an unasked on_status that says nothing new."""
    asked: Arrival = session.fact("confirming")
    member = session.speech.member("transaction_id")
    return session.callback(
        "on_status",
        current(session),
        transaction_id=transaction_id or str(asked.context(member)),
        author=author,
    )


async def _unasked(session: Session) -> None:
    expect.ack(await session.send(push(session).shot()))


async def _delivering(session: Session) -> None:
    drive: Drive | None = session.facts.get("drive")
    terms: OrderTerms = session.fact("terms")
    session.facts["confirmed"] = msgspec.structs.replace(
        session.fact("confirmed"), performance=delivery(terms, PerformanceStatus.IN_PROGRESS)
    )
    expect.ack(await session.send(push(session).shot()))
    if drive is not None:
        await _state(session, {"DELIVERING"})


async def _complete(session: Session) -> None:
    drive: Drive | None = session.facts.get("drive")
    terms: OrderTerms = session.fact("terms")
    session.facts["confirmed"] = msgspec.structs.replace(
        session.fact("confirmed"),
        status=ContractStatus.COMPLETE,
        performance=delivery(terms, PerformanceStatus.COMPLETED),
    )
    if drive is not None:
        while drive.now <= terms.window_end:
            await drive.calm()
        # It asks when the window is over, and the stall answers.
        await _state(session, {"COMPLETED"})
        return
    expect.ack(await session.send(push(session).shot()))


async def _after_completion(session: Session) -> None:
    drive: Drive | None = session.facts.get("drive")
    session.facts["confirmed"] = msgspec.structs.replace(
        session.fact("confirmed"), status=ContractStatus.CANCELLED, decline_reason="too late"
    )
    reply = await session.send(push(session).shot())
    expect.that(200 <= reply.status < 500, "an Ack without effect, or a refusal", reply.shown())
    if drive is not None:
        await _state(session, {"COMPLETED"})


# --- DUP ----------------------------------------------------------------------------------------


async def _same_again(session: Session) -> None:
    draft, shot = session.fact("on_select")
    before = len(session.station.arrivals)
    for again in (shot, draft.shot()):
        answer = expect.said(await session.send(again))
        expect.that(
            answer.kind in (AnswerKind.ACK, AnswerKind.NO_CALLBACK) or answer.duplicate,
            "an Ack (or a NACK that says: duplicate)",
            f"{answer.http_status} {answer.code}",
        )
    await asyncio.sleep(session.quiet_s)
    since = session.station.arrivals[before:]
    inits = [each for each in since if each.action == session.speech.verb("init")]
    expect.that(not inits, "no second init", f"{len(inits)}")


async def _other_content(session: Session) -> None:
    draft, _ = session.fact("on_select")
    before = len(session.station.arrivals)
    other = draft.change(lambda document: document["context"].update(note="another body"))
    reply = await session.send(other.shot())
    expect.that(200 <= reply.status < 500, "an Ack without effect, or a refusal", reply.shown())
    await asyncio.sleep(session.quiet_s)
    inits = [each for each in session.station.arrivals[before:] if each.action == session.speech.verb("init")]
    expect.that(not inits, "no second init", f"{len(inits)}")


# --- SEQ ----------------------------------------------------------------------------------------


def _refused(write: Callable[[Session], Shot], statuses: set[int]) -> Callable[[Session], Awaitable[None]]:
    async def play(session: Session) -> None:
        await session.refuse(write(session), statuses)

    return play


def _as(session: Session, draft: Draft, action: str) -> Shot:
    """Give an answer the name of another callback."""
    verb = session.speech.verb(action)
    changed = draft.context(action=verb)
    return Shot(action=verb, body=(shot := changed.shot()).body, headers=shot.headers)


def _early(session: Session) -> Shot:
    return _as(session, draft_for(session, "select"), "on_confirm")


def _unasked_confirm(session: Session) -> Shot:
    terms: OrderTerms = session.fact("terms")
    view = view_for(terms, str(uuid4()), ContractStatus.ACTIVE)
    return session.callback("on_confirm", session.speech.say_contract(terms, view)).shot()


def _unasked_catalogue(session: Session) -> Shot:
    offer = offer_of(session, session.fact("terms").feeder_id, Direction.REDUCE)
    return session.callback("on_discover", session.speech.say_offers([offer])).shot()


def _other_transaction(session: Session) -> Shot:
    draft, _ = session.fact("on_select")
    changed: Draft = draft.context(transaction_id=str(uuid4()))
    return changed.shot()


def _other_seller(session: Session) -> Shot:
    """Another registered seller answers a request that went to us."""
    other = session.station.other
    draft = draft_for(session, "init")
    return draft.by(other).context(bpp_id=other.id, bpp_uri=other.uri).shot()


def _other_seller_pushes(session: Session) -> Shot:
    return push(session, author=session.station.other).shot()


def _unknown_transaction(session: Session) -> Shot:
    return push(session, transaction_id=str(uuid4())).shot()


def _other_contract(session: Session) -> Shot:
    terms, view = session.fact("terms"), session.fact("confirmed")
    strange = msgspec.structs.replace(view, contract_id=str(uuid4()))
    return (
        push(session)
        .change(lambda document: document.update(message=session.speech.say_contract(terms, strange)))
        .shot()
    )


async def _foreign_offers(session: Session) -> None:
    """A catalogue that sells in another seller's name."""
    if session.speech.generation != "2.0":
        raise NotApplicable("a v1.1 catalogue names no BPP")
    draft: Draft = session.fact("on_discover")

    def edit(message: dict[str, Any]) -> None:
        for catalog in message["catalogs"]:
            catalog["bppId"] = session.station.other.id

    await session.refuse(draft.message(edit).shot(), {400, 401, 403})


async def _settled(session: Session) -> None:
    drive: Drive | None = session.facts.get("drive")
    if drive is None:
        raise NotApplicable("needs --drive: what the target has settled cannot be seen")
    session.fact("terms")
    mine = [each for each in await drive.orders() if each.bpp_id == session.station.me.id]
    terms: OrderTerms = session.fact("terms")
    done = [each for each in mine if each.state == "COMPLETED"]
    expect.that(len(done) == 1, "one completed order", [each.state for each in mine])
    delivered = done[0].delivered_kwh or 0.0
    expect.that(
        abs(delivered - terms.requested_kwh) < 0.01, f"{terms.requested_kwh:.3f} kWh delivered", delivered
    )


def _case(  # noqa: PLR0917 - the columns of the tables below
    case_id: str,
    title: str,
    play: Callable[[Session], Awaitable[None]],
    spec: str,
    mend: str,
    level: Level = Level.MUST,
) -> Case:
    return Case(id=case_id, title=title, play=play, spec=spec, mend=mend, level=level, roles=BUYER)


OPENING: tuple[Case, ...] = (
    _case(
        "FLOW-101",
        "a discover comes, and its answer is taken",
        _discover,
        FLOW,
        "Ask every registered seller with a signed discover; Ack its on_discover.",
    ),
    _case(
        "FLOW-102",
        "a need leads to a select of our offer",
        _select,
        FLOW,
        "Order from the catalogue with a signed select at the address of the registry.",
    ),
    _case(
        "REQ-001",
        "the context of a request",
        _complete_context,
        REQUESTS,
        "Fill bapId, bapUri, bppId, bppUri, version, timestamp, ttl, and UUIDs as ids.",
    ),
    _case(
        "SEQ-101",
        "on_confirm before anything was confirmed",
        _refused(_early, {400, 409}),
        CORRELATION,
        "Refuse a callback whose action does not answer the request of its messageId.",
    ),
    _case(
        "SEQ-102",
        "a catalogue in another seller's name",
        _foreign_offers,
        CORRELATION,
        "Refuse a catalogue whose bppId is not its signer's (unless it is a discovery service).",
    ),
    _case(
        "SEQ-103",
        "a catalogue nobody asked for",
        _refused(_unasked_catalogue, {400, 401, 409}),
        CORRELATION,
        "Refuse an on_discover whose messageId is no discover of yours.",
    ),
)

NEGOTIATION: tuple[Case, ...] = (
    _case(
        "END-101",
        "nothing follows from what was refused",
        _quiet,
        "Beckn Ack: a NACK means that the message has no effect",
        "Refuse before you act: no init may follow a refused on_select.",
    ),
    _case(
        "FLOW-103",
        "on_select leads to init",
        _on_select,
        FLOW,
        "Take an on_select that keeps to the terms, and ask for the final ones by init.",
    ),
    _case(
        "ACK-101",
        "the Ack's message id and signature",
        _ack_signature,
        "onix ackSigner, NFH-007: response header Signature, four lines",
        "Sign the exact Ack bytes: three lines and request-signature: the bare signature of the callback.",
    ),
    _case(
        "DUP-101",
        "the same on_select three times is one",
        _same_again,
        REPEATS,
        "Remember sender, action and messageId with the digest: Ack a repetition, and do nothing.",
    ),
    _case(
        "DUP-102",
        "another body under a used message id",
        _other_content,
        REPEATS,
        "Other content under a used messageId must not move an order that has moved on.",
    ),
    _case(
        "SEQ-104",
        "on_select under another transaction",
        _refused(_other_transaction, {400, 409}),
        CORRELATION,
        "Compare transactionId with the request's: CTX_TRANSACTION_ID_UNKNOWN.",
    ),
    _case(
        "SEQ-105",
        "another seller answers our request",
        _refused(_other_seller, {400, 401, 403}),
        CORRELATION,
        "Compare the signer with the seller the request went to.",
    ),
    _case(
        "REQ-002",
        "a request is sent again after 503",
        _asked_again,
        "Retry table: 429, 502, 503, 504 and faults of the network",
        "Send the same bytes again, freshly signed, when the seller says not now.",
        Level.SHOULD,
    ),
    _case(
        "FLOW-104",
        "on_init, chained to the whole header, leads to confirm",
        _on_init,
        "onix: the fourth line holds the whole stored Authorization header",
        "Try the bare signature, then the whole header; repeat the contract id in confirm.",
    ),
    _case(
        "SEQ-106",
        "an on_confirm nobody asked for",
        _refused(_unasked_confirm, {400, 409}),
        CORRELATION,
        "Refuse an on_confirm whose messageId is no confirm of yours.",
    ),
    _case(
        "FLOW-105",
        "on_confirm, signed over three lines",
        _on_confirm,
        "onix: three lines where the request is no longer stored",
        "Fall back to three lines, and record which variant verified.",
    ),
    _case(
        "REQ-003",
        "ids of requests",
        _fresh_ids,
        REQUESTS,
        "Keep transactionId from select to confirm; give every request a messageId of its own.",
    ),
    _case(
        "REQ-004",
        "requests are signed over three lines",
        _three_lines,
        REQUESTS,
        "A request answers nothing: three lines.",
    ),
)

DELIVERY: tuple[Case, ...] = (
    _case(
        "FLOW-106",
        "an unasked on_status of a live contract",
        _unasked,
        "NFH-013: on_status at any time in an active transaction",
        "Take an on_status with a fresh messageId for a contract that is alive: 200.",
    ),
    _case(
        "SEQ-107",
        "on_status of a transaction that does not exist",
        _refused(_unknown_transaction, {400, 404, 409}),
        CORRELATION,
        "Refuse a status that belongs to no order of yours.",
    ),
    _case(
        "SEQ-108",
        "another seller reports on our contract",
        _refused(_other_seller_pushes, {400, 401, 403, 404}),
        CORRELATION,
        "Take reports from the contract's own seller only.",
    ),
    _case(
        "SEQ-109",
        "on_status under another contract id",
        _refused(_other_contract, {400, 404, 409}),
        CORRELATION,
        "Compare the contract id with the agreed one.",
    ),
)

ENDING: tuple[Case, ...] = (
    _case(
        "ACK-102",
        "the NACK's signature",
        _nack_signature,
        "NFH-007: Signature header on every status",
        "Sign NACKs like Acks, so that a refusal can be proven.",
        Level.SHOULD,
    ),
    _case(
        "FLOW-107",
        "delivery has begun",
        _delivering,
        "Performance.status IN_PROGRESS",
        "Take the report of a delivery in progress.",
    ),
    _case(
        "FLOW-108",
        "completion, with meter intervals",
        _complete,
        "COMPLETE: contract COMPLETE, performance COMPLETED with intervals",
        "Complete the order from the seller's declaration and its meter intervals.",
    ),
    _case(
        "SEQ-110",
        "a cancellation after completion",
        _after_completion,
        "Beckn contract states: COMPLETE is final",
        "Acknowledge what comes late, and let it change nothing.",
    ),
    _case(
        "FLOW-109",
        "what was delivered is what was metered",
        _settled,
        "Performance: volumes come from meter intervals",
        "Add up the intervals per DER; take neither the order nor a declared total for delivered.",
    ),
)


def probes(session: Session) -> None:
    """Set what the groups of both roles send to a buyer while its select is open."""
    session.facts["market"] = market = Market(session)
    session.station.hearers.append(market.hear)

    def answer() -> Draft:
        return draft_for(session, "select")

    def status() -> Draft:
        return push(session)

    def either() -> Draft:
        # Once there is a contract, its reports are the message that costs nothing.
        return status() if "confirmed" in session.facts else answer()

    session.probe = either
    session.good_probe = status
    session.order_probe = either
