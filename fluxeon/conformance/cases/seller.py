"""FLOW, ACK, CBK, DUP, SEQ for a target that sells (role bpp)."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec

from fluxeon.conformance import expect
from fluxeon.conformance.case import Case
from fluxeon.conformance.draft import Draft, Identity, Shot
from fluxeon.conformance.session import Session
from fluxeon.conformance.speech import Message
from fluxeon.conformance.station import Arrival
from fluxeon.conformance.transport import Reply
from fluxeon.conformance.verdict import Level, Mismatch, NotApplicable
from gateway.beckn.envelope import AnswerKind
from gateway.beckn.signing import VARIANT_3, digest, parse_authorization, verify_signature
from gateway.errors import BecknRefusal
from gateway.types import (
    ContractStatus,
    ContractView,
    DerType,
    Offer,
    OrderLine,
    OrderTerms,
    PerformanceStatus,
)

SELLER = frozenset({"bpp"})
FLOW = "Beckn transaction: discover, select, init, confirm, status (v1.1: search ...)"
ACKS = "Beckn Ack; onix v1.7: body and Signature header"
CALLBACKS = "Beckn callbacks: context echoes the request; signature chains to it"
REPEATS = "Beckn context.messageId: one message, one effect"
ORDER = "Beckn contract states"
MAX_OFFERS_TRIED = 6
SHARE = 0.1
"""Share of a DER's capacity that is ordered: several orders have to fit."""
AHEAD = timedelta(hours=2)
_QUARTER = timedelta(minutes=15)
_DURATION = re.compile(r"P.*T?.*[0-9]+[WDHMS]")


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """A request with its answer and its callback."""

    draft: Draft
    shot: Shot
    reply: Reply
    callback: Arrival


async def ask(session: Session, draft: Draft) -> Exchange:
    """Send a request, insist on Ack and verified callback."""
    shot = draft.shot()
    reply = await post(session, draft, shot)
    expect.ack(reply)
    action = f"on_{draft.action}"
    came = await session.station.wait(
        lambda arrival: arrival.action == action and _message_id(session, arrival) == draft.message_id,
        session.patience_s,
    )
    if came is None:
        others = [
            each.action
            for each in session.station.arrivals
            if _transaction(session, each) == draft.transaction_id
        ]
        raise Mismatch(
            f"{action} with messageId {draft.message_id} within {session.patience_s:g} s",
            f"only {', '.join(others)} under other message ids" if others else "no callback",
        )
    arrival = expect.verified(came, action, session.patience_s)
    return Exchange(draft=draft, shot=shot, reply=reply, callback=arrival)


async def post(session: Session, draft: Draft, shot: Shot) -> Reply:
    """Send a request whose callback may chain to it."""
    header = shot.header("authorization")
    if header is not None:
        session.station.remember(draft.message_id, header)
    return await session.send(shot)


def _message_id(session: Session, arrival: Arrival) -> Any:
    return arrival.context(session.speech.member("message_id"))


def _transaction(session: Session, arrival: Arrival) -> Any:
    return arrival.context(session.speech.member("transaction_id"))


def view_of(session: Session, exchange: Exchange) -> ContractView:
    """Read the contract of a callback."""
    try:
        return session.speech.read_contract(exchange.callback.action, exchange.callback.message)
    except BecknRefusal as exc:
        raise Mismatch("a contract that can be read", f"{exc.path}: {exc.detail}") from exc


def terms_for(session: Session, offer: Offer, *, start: datetime | None = None) -> OrderTerms:
    """Make terms that an offer can meet: a little of its first DER, some hours ahead."""
    der = offer.ders[0]
    begin = start or session.facts.get("event_now") or session.station.clock()
    begin = _quarter(begin + (AHEAD if start is None else timedelta(0)))
    minutes = max(15, der.min_duration_min)
    kw = max(der.min_kw, min(der.capacity_kw, round(der.capacity_kw * SHARE, 3)))
    return OrderTerms(
        obp_id=f"OBP-{uuid4()}",
        event_id=f"need-{uuid4()}",
        feeder_id=der.feeder_id,
        direction=der.direction,
        offer_id=offer.offer_id,
        provider_id=offer.provider_id,
        window_start=begin,
        window_end=begin + timedelta(minutes=minutes),
        lines=(OrderLine(der_id=der.der_id, der_type=der.type, kw=kw),),
        price_per_kwh=offer.price_per_kwh,
        currency=offer.currency,
    )


def _quarter(instant: datetime) -> datetime:
    step = int(_QUARTER.total_seconds())
    return datetime.fromtimestamp(-(-int(instant.timestamp()) // step) * step, UTC)


# --- FLOW ---------------------------------------------------------------------------------------


async def _discover(session: Session) -> None:
    exchange = await ask(session, session.request("discover", session.speech.ask_open()))
    session.facts["discover"] = exchange
    try:
        offers = session.speech.read_offers(
            exchange.callback.message, session.target.subscriber_id, session.uri
        )
    except BecknRefusal as exc:
        raise Mismatch("a catalogue that can be read", f"{exc.path}: {exc.detail}") from exc
    here = [each for each in offers if each.ders and _serves(session, each)]
    where = f" at feeder {session.feeder_id}" if session.feeder_id else ""
    expect.that(bool(here), f"at least one offer{where}", f"{len(offers)} offers")
    # A parked car may decline at some hours; a battery rarely does.
    here.sort(key=lambda offer: offer.ders[0].type is not DerType.BATTERY)
    session.facts["offers"] = here


def _serves(session: Session, offer: Offer) -> bool:
    return session.feeder_id is None or any(der.feeder_id == session.feeder_id for der in offer.ders)


async def _select(session: Session) -> None:
    reasons = []
    for offer in session.fact("offers")[:MAX_OFFERS_TRIED]:
        terms = terms_for(session, offer)
        exchange = await ask(session, session.request("select", session.speech.select(terms)))
        view = view_of(session, exchange)
        if view.status is ContractStatus.DRAFT and sum(line.committed_kw for line in view.lines) > 0:
            session.facts |= {"offer": offer, "terms": terms, "select": exchange, "selected": view}
            expect.that(view.price_per_kwh is not None, "a price per kWh in on_select", "none")
            return
        reasons.append(view.decline_reason or f"status {view.status}, nothing committed")
    raise Mismatch("an offer of the catalogue that can be ordered", f"all declined: {'; '.join(reasons)}")


async def _init(session: Session) -> None:
    terms, select = session.fact("terms"), session.fact("select")
    message = session.speech.init(terms, session.fact("selected"))
    draft = session.request("init", message, transaction_id=select.draft.transaction_id)
    exchange = await ask(session, draft)
    view = view_of(session, exchange)
    session.facts |= {"init": exchange, "initialised": view}
    expect.that(view.status is ContractStatus.DRAFT, "a DRAFT contract in on_init", view.status)
    expect.equal("obpId", terms.obp_id, view.obp_id)
    expect.that(_fits_id(session, view.contract_id), "a contract id (v2: a UUID)", view.contract_id)


def _fits_id(session: Session, contract_id: str | None) -> bool:
    if not contract_id:
        return False
    if session.speech.generation != "2.0":
        return True
    try:
        UUID(contract_id)
    except ValueError:
        return False
    return True


async def _confirm(session: Session) -> None:
    exchange, view = await confirmed(session)
    session.facts |= {"confirm": exchange, "confirmed": view}
    expect.that(view.status is ContractStatus.ACTIVE, "an ACTIVE contract in on_confirm", view.status)
    before: ContractView = session.fact("initialised")
    expect.equal("contract id", before.contract_id, view.contract_id)
    committed = {line.der_id: line.committed_kw for line in view.lines}
    asked = {line.der_id: line.kw for line in session.fact("terms").lines}
    expect.equal("committed DERs", sorted(asked), sorted(committed))
    over = [der for der, kw in committed.items() if kw > asked[der] + 1e-6]
    expect.that(not over, "no more committed than asked", committed)


async def confirmed(session: Session) -> tuple[Exchange, ContractView]:
    """Confirm the order of FLOW."""
    terms, init = session.fact("terms"), session.fact("init")
    message = session.speech.confirm(terms, session.fact("initialised"))
    draft = session.request("confirm", message, transaction_id=init.draft.transaction_id)
    exchange = await ask(session, draft)
    return exchange, view_of(session, exchange)


async def _status(session: Session) -> None:
    view: ContractView = session.fact("confirmed")
    came = await status_of(session, session.fact("terms"), session.fact("confirm").draft, view.contract_id)
    session.facts["status"] = came
    now = view_of(session, came)
    expect.equal("contract id", view.contract_id, now.contract_id)
    expect.that(
        now.status in (ContractStatus.ACTIVE, ContractStatus.COMPLETE), "an ACTIVE contract", now.status
    )


async def status_of(session: Session, terms: OrderTerms, of: Draft, contract_id: str | None) -> Exchange:
    """Ask for a contract's state."""
    message = session.speech.status(terms, contract_id or str(uuid4()))
    return await ask(session, session.request("status", message, transaction_id=of.transaction_id))


async def _complete(session: Session) -> None:
    if session.advance is None:
        raise NotApplicable("needs --clock-url: the target's event time cannot be driven")
    terms: OrderTerms = session.fact("terms")
    view: ContractView = session.fact("confirmed")
    of: Draft = session.fact("confirm").draft
    since = len(session.station.arrivals)
    await session.advance(terms.window_start + _QUARTER / 3)
    await session.advance(terms.window_end + _QUARTER)
    session.facts["event_now"] = terms.window_end + _QUARTER
    pushed = await session.station.wait(
        lambda arrival: (
            _transaction(session, arrival) == of.transaction_id
            and arrival.verified is not None
            and session.speech.read_contract(arrival.action, arrival.message).status
            is ContractStatus.COMPLETE
        ),
        session.patience_s,
        since=since,
    )
    session.facts["pushed"] = pushed
    done = view_of(session, await status_of(session, terms, of, view.contract_id))
    expect.that(done.status is ContractStatus.COMPLETE, "a COMPLETE contract after its window", done.status)
    states = {report.status for report in done.performance}
    expect.that(states == {PerformanceStatus.COMPLETED}, "every performance COMPLETED", states or "none")
    metered = [interval for report in done.performance for interval in report.intervals]
    expect.that(bool(metered), "meter intervals of the delivery", "none")


async def _cancel(session: Session) -> None:
    terms, exchange, view = await new_order(session, until="confirm")
    message = session.speech.cancel(terms, view.contract_id or "", "conformance")
    draft = session.request("cancel", message, transaction_id=exchange.draft.transaction_id)
    after = view_of(session, await ask(session, draft))
    expect.that(after.status is ContractStatus.CANCELLED, "a CANCELLED contract in on_cancel", after.status)
    session.facts["cancelled"] = (terms, exchange, view)


async def new_order(session: Session, *, until: str) -> tuple[OrderTerms, Exchange, ContractView]:
    """Take a fresh order as far as ``init`` or ``confirm``."""
    terms = terms_for(session, session.fact("offer"))
    speech = session.speech
    exchange = await ask(session, session.request("select", speech.select(terms)))
    view = view_of(session, exchange)
    transaction_id = exchange.draft.transaction_id
    steps: Iterable[tuple[str, Callable[[OrderTerms, ContractView], Message]]] = (
        ("init", speech.init),
        ("confirm", speech.confirm),
    )
    for action, write in steps:
        draft = session.request(action, write(terms, view), transaction_id=transaction_id)
        exchange = await ask(session, draft)
        view = view_of(session, exchange)
        if action == until:
            break
    return terms, exchange, view


# --- ACK ----------------------------------------------------------------------------------------


async def _ack_status(session: Session) -> None:
    shot = session.good_probe().shot()
    expect.ack(await session.send(shot))


async def _ack_body(session: Session) -> None:
    draft = session.good_probe()
    reply = await session.send(draft.shot())
    answer = expect.ack(reply)
    if session.speech.generation == "2.0":
        expect.equal("message.messageId of the Ack", draft.message_id, answer.message_id)
    kind = reply.headers.get("content-type", "")
    expect.that(kind.startswith("application/json"), "Content-Type application/json", kind or "none")


async def _ack_signature(session: Session) -> None:
    draft = session.good_probe()
    shot = draft.shot()
    reply = await session.send(shot)
    expect.ack(reply)
    await signed_by_target(session, reply, shot)


async def signed_by_target(session: Session, reply: Reply, shot: Shot) -> None:
    """Insist on the Ack's Signature header: by the target's key, over these bytes, chained to ours."""
    if not session.speech.dialect.signs_answers:
        raise NotApplicable(f"answers of generation {session.speech.generation} are not signed")
    header = reply.headers.get("signature")
    if header is None:
        raise Mismatch("a Signature header on the Ack", "none")
    authorization = shot.header("authorization") or ""
    try:
        parsed = parse_authorization(header, scheme_optional=True)
        expect.equal("signer", session.target.subscriber_id, parsed.subscriber_id)
        key = await session.station.registry.key(parsed.subscriber_id, parsed.key_id)
        expect.that(key is not None, "a key the registry knows", parsed.key_id)
        ours = parse_authorization(authorization).signature
        variant = verify_signature(
            parsed, digest(reply.body), session.target.public_key, [(ours, authorization)]
        )
    except BecknRefusal as exc:
        raise Mismatch("a Signature header that verifies over the Ack's bytes", exc.detail) from exc
    expect.that(
        variant != VARIANT_3, "a fourth line request-signature with our signature", f"{variant} signature"
    )


async def _nack_signature(session: Session) -> None:
    draft = session.probe().context(version="9.9.9")
    shot = draft.shot()
    reply = await session.refuse(shot, {400}, message_id=draft.message_id)
    await signed_by_target(session, reply, shot)


# --- CBK ----------------------------------------------------------------------------------------


def _exchanges(session: Session) -> list[Exchange]:
    names = ("discover", "select", "init", "confirm", "status")
    found = [session.facts[name] for name in names if name in session.facts]
    if not found:
        session.fact("select")
    return found


async def _echo(session: Session) -> None:
    speech = session.speech
    for exchange in _exchanges(session):
        context = exchange.draft.document["context"]
        for member in ("transaction_id", "message_id", "bap_id", "bap_uri"):
            name = speech.member(member)
            expect.equal(
                f"{exchange.callback.action} context.{name}", context[name], exchange.callback.context(name)
            )
        expect.equal(
            f"{exchange.callback.action} bppId",
            session.target.subscriber_id,
            exchange.callback.context(speech.member("bpp_id")),
        )
        expect.equal("version", speech.version, exchange.callback.context(speech.member("version")))


async def _fresh(session: Session) -> None:
    for exchange in _exchanges(session):
        ttl = exchange.callback.context("ttl")
        expect.that(
            isinstance(ttl, str) and _DURATION.fullmatch(ttl) is not None,
            "context.ttl as ISO 8601 duration",
            repr(ttl),
        )
        expect.that(
            exchange.callback.context("timestamp") != exchange.draft.document["context"]["timestamp"],
            "a timestamp of its own in the callback",
            "the request's",
        )


async def _chained(session: Session) -> None:
    if not session.speech.dialect.chains_callbacks:
        raise NotApplicable(f"callbacks of generation {session.speech.generation} are not chained")
    for exchange in _exchanges(session):
        verified = exchange.callback.verified
        variant = verified.variant if verified else "none"
        expect.that(
            variant != VARIANT_3, "a signature of four lines", f"{exchange.callback.action}: {variant}"
        )


async def _retried(session: Session) -> None:
    draft = session.request("select", session.speech.select(session.fact("terms")))
    action = session.speech.verb("on_select")
    session.station.busy[action] = 1
    try:
        expect.ack(await post(session, draft, draft.shot()))
        deadline = session.patience_s
        step = 0.1
        while deadline > 0 and len(session.heard(draft.message_id)) < 2:
            await asyncio.sleep(step)
            deadline -= step
    finally:
        session.station.busy[action] = 0
    came = session.heard(draft.message_id)
    expect.that(len(came) >= 2, "the callback again after our 503", f"{len(came)} tries")
    expect.that(came[0].body == came[-1].body, "the same bytes again", "another body")


async def _unasked(session: Session) -> None:
    if session.advance is None:
        raise NotApplicable("needs --clock-url: the target's event time cannot be driven")
    pushed: Arrival | None = session.fact("pushed")
    arrival = expect.verified(pushed, "an on_status of its own accord", session.patience_s)
    variant = arrival.verified.variant if arrival.verified else ""
    expect.equal("signature variant", VARIANT_3, variant)
    ours = {exchange.draft.message_id for exchange in _exchanges(session)}
    expect.that(_message_id(session, arrival) not in ours, "a fresh messageId", "one of ours")


# --- DUP ----------------------------------------------------------------------------------------


async def _same_again(session: Session) -> None:
    """The very same request again: acknowledged, answered once."""
    terms, exchange, view = await new_order(session, until="init")
    message = session.speech.confirm(terms, view)
    draft = session.request("confirm", message, transaction_id=exchange.draft.transaction_id)
    first = await ask(session, draft)
    again = await session.send(first.shot)
    _acknowledged_again(again)
    fresh = draft.shot()
    _acknowledged_again(await post(session, draft, fresh))
    await asyncio.sleep(session.quiet_s)
    came = session.heard(draft.message_id)
    expect.that(len(came) == 1, "one callback for one messageId", f"{len(came)}")


def _acknowledged_again(reply: Reply) -> None:
    answer = expect.said(reply)
    fine = answer.kind in (AnswerKind.ACK, AnswerKind.NO_CALLBACK) or answer.duplicate
    expect.that(fine and reply.status < 500, "an Ack (or a NACK that says: duplicate)", reply.shown())


async def _other_content(session: Session) -> None:
    draft = session.good_probe()
    expect.ack(await post(session, draft, draft.shot()))
    other = draft.change(lambda document: document["context"].update(note="another body"))
    reply = await session.send(other.shot())
    answer = expect.said(reply)
    expect.that(
        answer.kind is not AnswerKind.ACK and 200 <= reply.status < 500,
        "a refusal (400 or 409, CTX_MESSAGE_ID_DUPLICATE)",
        reply.shown(),
    )


# --- SEQ ----------------------------------------------------------------------------------------


async def not_active(session: Session, draft: Draft, expected: str) -> None:
    """Insist that a request is refused, or answered by a contract that is not in force."""
    shot = draft.shot()
    reply = await post(session, draft, shot)
    answer = expect.said(reply)
    if answer.kind is not AnswerKind.ACK:
        expect.that(0 < reply.status < 500, expected, reply.shown())
        return
    came = await session.station.wait(
        lambda each: each.action == f"on_{draft.action}" and _message_id(session, each) == draft.message_id,
        session.patience_s,
    )
    if came is None:
        return
    status = session.speech.read_contract(came.action, came.message).status
    expect.that(status is ContractStatus.CANCELLED, expected, f"an Ack and a contract that is {status}")


def _spoilt(
    write: Callable[[Session], Awaitable[Draft]], expected: str
) -> Callable[[Session], Awaitable[None]]:
    async def play(session: Session) -> None:
        await not_active(session, await write(session), expected)

    return play


async def _confirm_first(session: Session) -> Draft:
    terms = terms_for(session, session.fact("offer"))
    view = msgspec.structs.replace(session.fact("initialised"), contract_id=None, obp_id=terms.obp_id)
    return session.request("confirm", session.speech.confirm(terms, view))


async def _status_of_nothing(session: Session) -> Draft:
    terms = terms_for(session, session.fact("offer"))
    return session.request("status", session.speech.status(terms, str(uuid4())))


async def _other_contract(session: Session) -> Draft:
    terms, exchange, view = await new_order(session, until="init")
    strange = msgspec.structs.replace(view, contract_id=str(uuid4()))
    message = session.speech.confirm(terms, strange)
    return session.request("confirm", message, transaction_id=exchange.draft.transaction_id)


async def _other_window(session: Session) -> Draft:
    terms, exchange, view = await new_order(session, until="init")
    length = terms.window_end - terms.window_start
    moved = msgspec.structs.replace(
        terms, window_start=terms.window_end, window_end=terms.window_end + length
    )
    shifted = msgspec.structs.replace(view, window_start=moved.window_start, window_end=moved.window_end)
    message = session.speech.confirm(moved, shifted)
    return session.request("confirm", message, transaction_id=exchange.draft.transaction_id)


async def _after_cancel(session: Session) -> Draft:
    terms, exchange, view = session.fact("cancelled")
    message = session.speech.confirm(terms, view)
    return session.request("confirm", message, transaction_id=exchange.draft.transaction_id)


async def _no_such_offer(session: Session) -> Draft:
    terms = msgspec.structs.replace(terms_for(session, session.fact("offer")), offer_id="no-such-offer")
    return session.request("select", session.speech.select(terms))


async def _in_the_past(session: Session) -> Draft:
    past = datetime(2001, 1, 1, tzinfo=UTC)
    terms = terms_for(session, session.fact("offer"), start=past)
    return session.request("select", session.speech.select(terms))


async def _somebody_elses(session: Session) -> None:
    terms, exchange, view = await new_order(session, until="confirm")
    thief: Identity = session.station.other
    message = session.speech.cancel(terms, view.contract_id or "", "not mine")
    draft = session.request("cancel", message, transaction_id=exchange.draft.transaction_id, author=thief)
    await not_active_for(session, draft)
    after = view_of(session, await status_of(session, terms, exchange.draft, view.contract_id))
    expect.that(after.status is ContractStatus.ACTIVE, "our contract still ACTIVE", after.status)


async def not_active_for(session: Session, draft: Draft) -> None:
    """Insist that a stranger to a contract is refused, or told that there is none."""
    reply = await post(session, draft, draft.shot())
    answer = expect.said(reply)
    expect.that(
        answer.kind is not AnswerKind.ACK and 0 < reply.status < 500,
        "a refusal: the contract is another buyer's",
        reply.shown(),
    )


async def _quiet(session: Session) -> None:
    """Nothing follows what was refused."""
    await asyncio.sleep(session.quiet_s)
    answered = sorted(
        {each.action for each in session.station.arrivals if _message_id(session, each) in session.refused}
    )
    expect.that(not answered, "no callback for a refused message", f"{', '.join(answered)}")


def _case(  # noqa: PLR0917 - the columns of the tables below
    case_id: str,
    title: str,
    play: Callable[[Session], Awaitable[None]],
    spec: str,
    mend: str,
    level: Level = Level.MUST,
) -> Case:
    return Case(id=case_id, title=title, play=play, spec=spec, mend=mend, level=level, roles=SELLER)


FLOWS: tuple[Case, ...] = (
    _case(
        "FLOW-001",
        "discover is answered by a catalogue",
        _discover,
        FLOW,
        "Ack a discover, then POST on_discover with your catalogue to {bapUri}/on_discover, signed.",
    ),
    _case(
        "FLOW-002",
        "select is answered by a price and a commitment",
        _select,
        FLOW,
        "Answer select by on_select: the commitments you can keep, and their price; status DRAFT.",
    ),
    _case(
        "FLOW-003",
        "init is answered by final terms under a contract id",
        _init,
        FLOW,
        "Give the contract an id (v2: a UUID) by on_init, and repeat the buyer's obpId.",
    ),
    _case(
        "FLOW-004",
        "confirm makes the contract ACTIVE",
        _confirm,
        FLOW,
        "Answer confirm by on_confirm: same contract id, status ACTIVE, no more kW than asked.",
    ),
    _case(
        "FLOW-005",
        "status is answered by the contract",
        _status,
        FLOW,
        "Answer status by on_status with the contract as it is.",
    ),
    _case(
        "FLOW-006",
        "cancel ends the contract",
        _cancel,
        FLOW,
        "Answer cancel by on_cancel with status CANCELLED.",
    ),
)

AFTER: tuple[Case, ...] = (
    _case(
        "ACK-001",
        "an Ack with status 200",
        _ack_status,
        ACKS,
        'Answer 200 {"message":{"status":"ACK","messageId":"..."}}; an empty 200 promises nothing.',
    ),
    _case(
        "ACK-002",
        "the Ack's message id and content type",
        _ack_body,
        ACKS,
        "Repeat the request's messageId in the Ack, and send it as application/json.",
    ),
    _case(
        "ACK-003",
        "the Ack's signature",
        _ack_signature,
        "onix ackSigner, NFH-007: response header Signature, four lines",
        "Sign the exact Ack bytes: three lines and request-signature: the bare signature of the request.",
    ),
    _case(
        "ACK-004",
        "the NACK's signature",
        _nack_signature,
        "NFH-007: Signature header on every status",
        "Sign NACKs like Acks, so that a refusal can be proven.",
        Level.SHOULD,
    ),
    _case(
        "CBK-001",
        "callbacks echo the request",
        _echo,
        CALLBACKS,
        "Copy transactionId, messageId, bapId and bapUri into the callback; name yourself as bppId.",
    ),
    _case(
        "CBK-002",
        "callbacks have a time and a ttl of their own",
        _fresh,
        "Beckn context: timestamp, ttl",
        "Set timestamp when you write the callback, and a ttl such as PT30S.",
    ),
    _case(
        "CBK-003",
        "callbacks chain to the request's signature",
        _chained,
        "NFH-007, section 3.3; onix: fourth line request-signature",
        "Sign a solicited callback over four lines: the fourth is the request's bare signature.",
        Level.SHOULD,
    ),
    _case(
        "CBK-004",
        "a callback is sent again after 503",
        _retried,
        "Retry table: 429, 502, 503, 504 and faults of the network",
        "Send the same bytes again, freshly signed, when the buyer says not now.",
        Level.SHOULD,
    ),
    _case(
        "DUP-001",
        "the same confirm three times is one confirm",
        _same_again,
        REPEATS,
        "Remember sender and messageId with the body's digest: Ack a repetition, and do nothing.",
    ),
    _case(
        "DUP-002",
        "another body under a used message id",
        _other_content,
        REPEATS,
        "Refuse other content under a known messageId: CTX_MESSAGE_ID_DUPLICATE.",
        Level.SHOULD,
    ),
    _case(
        "SEQ-001",
        "confirm without init",
        _spoilt(_confirm_first, "a refusal: there is no contract to confirm"),
        ORDER,
        "Do not make a contract ACTIVE that was never drafted.",
    ),
    _case(
        "SEQ-002",
        "status of a contract that does not exist",
        _spoilt(_status_of_nothing, "a refusal: there is no such contract"),
        ORDER,
        "Refuse status of an unknown contract: CTX_TRANSACTION_ID_UNKNOWN.",
    ),
    _case(
        "SEQ-003",
        "confirm under another contract id",
        _spoilt(_other_contract, "a refusal: this is not the contract of the transaction"),
        ORDER,
        "Compare contract.id with the one you gave at on_init.",
    ),
    _case(
        "SEQ-004",
        "confirm of another window than agreed",
        _spoilt(_other_window, "a refusal: these are not the agreed terms"),
        ORDER,
        "Compare what is confirmed with what was agreed at on_init.",
    ),
    _case(
        "SEQ-005",
        "confirm after cancel",
        _spoilt(_after_cancel, "a refusal, or a contract that stays CANCELLED"),
        ORDER,
        "CANCELLED is final.",
    ),
    _case(
        "SEQ-006",
        "an order of an offer that does not exist",
        _spoilt(_no_such_offer, "a refusal, or a decline by on_select"),
        ORDER,
        "Decline an unknown offer: on_select with status CANCELLED and a reason, or a NACK.",
    ),
    _case(
        "SEQ-007",
        "an order in the past",
        _spoilt(_in_the_past, "a refusal, or a decline by on_select"),
        ORDER,
        "Decline a window that has passed.",
    ),
    _case(
        "SEQ-008",
        "another buyer cancels our contract",
        _somebody_elses,
        ORDER,
        "A contract belongs to the buyer that made it: look it up by sender and transaction.",
    ),
    _case(
        "FLOW-007",
        "completion, with meter intervals",
        _complete,
        "COMPLETE: contract COMPLETE, performance COMPLETED with intervals",
        "When the window is over, declare the contract COMPLETE with the metered intervals of each DER.",
    ),
    _case(
        "CBK-005",
        "an unasked on_status",
        _unasked,
        "NFH-013: on_status at any time in an active transaction, three lines, fresh messageId",
        "Push on_status with a new messageId, signed over three lines: it answers no request.",
        Level.SHOULD,
    ),
    _case(
        "END-001",
        "nothing follows a refused message",
        _quiet,
        "Beckn Ack: a NACK promises that no callback comes",
        "Refuse before you act: a refused message must not be answered by a callback.",
    ),
)


def probes(session: Session) -> None:
    """Set what the groups of both roles send to a seller."""

    def discover() -> Draft:
        return session.request("discover", session.speech.ask_open())

    def order() -> Draft:
        return session.request("select", session.speech.select(session.fact("terms")))

    session.probe = discover
    session.good_probe = discover
    session.order_probe = order
