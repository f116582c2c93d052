"""CTX: what a message says about itself. Each of these is signed correctly; its content is at fault."""

from datetime import timedelta
from typing import Any

from fluxeon.conformance import expect
from fluxeon.conformance.case import Case
from fluxeon.conformance.cases.making import refused
from fluxeon.conformance.draft import Draft, Shot
from fluxeon.conformance.session import Session
from fluxeon.conformance.verdict import Level
from gateway.clock import rfc3339

CONTEXT = "Beckn context: members a message cannot be handled without"
BAD = {400}
CODES = ("CTX_", "SCH_", "3")
"""Families of v2.0.0, and the numbers of v1.1 (30000: invalid request)."""


def _without(*members: str) -> "Any":
    def make(_session: Session, draft: Draft) -> Shot:
        # Without its message id a callback's chain cannot be followed: three lines.
        return draft.unchained().context(**dict.fromkeys(members)).shot()

    return make


def _sender(session: Session) -> str:
    return "bap" if session.role == "bpp" else "bpp"


def _receiver(session: Session) -> str:
    return "bpp" if session.role == "bpp" else "bap"


def _other_path(session: Session, draft: Draft) -> Shot:
    """Post the message to the path of another action."""
    shot = draft.shot()
    elsewhere = session.speech.verb("status" if session.role == "bpp" else "on_status")
    return Shot(action=elsewhere, body=shot.body, headers=shot.headers)


def _aged(draft: Draft, seconds: float, ttl: str) -> Shot:
    return draft.context(timestamp=rfc3339(draft.now - timedelta(seconds=seconds)), ttl=ttl).shot()


def _no_context(draft: Draft) -> Shot:
    return draft.change(lambda document: document.pop("context")).shot()


def _context_of(draft: Draft, value: Any) -> Shot:
    return draft.change(lambda document: document.update(context=value)).shot()


async def _names_the_member(session: Session) -> None:
    """A NACK has to help: which member is at fault?"""
    draft = session.probe().context(transaction_id=None)
    reply = await session.send(draft.shot())
    answer = expect.refusal(reply, BAD, nack_with=session.speech.nack_statuses)
    member = session.speech.member("transaction_id")
    told = f"{answer.path or ''} {answer.detail or ''}"
    expect.that(member in told, f"a NACK that names {member} (details.path or message)", reply.shown())
    expect.that(bool(answer.code), "an error code", reply.shown())


async def _echoes_message_id(session: Session) -> None:
    draft = session.probe().context(ttl="soon")
    reply = await session.send(draft.shot())
    answer = expect.refusal(reply, BAD, nack_with=session.speech.nack_statuses)
    expect.equal("message.messageId", draft.message_id, answer.message_id)


CASES: tuple[Case, ...] = (
    refused(
        "CTX-001",
        "posted to another action's path",
        _other_path,
        spec="CTX_ACTION_MISMATCH: context.action equals the path's last segment",
        mend="Compare context.action with the path: a signature does not cover the path.",
        statuses=BAD,
    ),
    refused(
        "CTX-002",
        "no message id",
        _without("message_id"),
        spec=CONTEXT,
        mend="Refuse a message without messageId: 400.",
        statuses=BAD,
        codes=CODES,
    ),
    refused(
        "CTX-003",
        "no transaction id",
        _without("transaction_id"),
        spec=CONTEXT,
        mend="Refuse a message without transactionId: 400.",
        statuses=BAD,
        codes=CODES,
    ),
    refused(
        "CTX-004",
        "an empty message id",
        lambda _, draft: draft.unchained().context(message_id="").shot(),
        spec=CONTEXT,
        mend="An empty messageId identifies nothing: 400.",
        statuses=BAD,
        codes=CODES,
    ),
    refused(
        "CTX-005",
        "no version",
        _without("version"),
        spec=CONTEXT,
        mend="Without a version the message cannot be interpreted: 400.",
        statuses=BAD,
        codes=CODES,
    ),
    refused(
        "CTX-006",
        "a version nobody has published",
        lambda _, draft: draft.context(version="9.9.9").shot(),
        spec="Beckn context.version: a constant per generation",
        mend="Refuse versions you do not speak, and say which you do.",
        statuses=BAD,
        codes=CODES,
    ),
    refused(
        "CTX-007",
        "no sender",
        lambda session, draft: draft.context(**{f"{_sender(session)}_id": None}).shot(),
        spec=CONTEXT,
        mend="A message that names no sender cannot be matched with its signer: 400 or 401.",
        statuses={400, 401},
    ),
    refused(
        "CTX-008",
        "no timestamp",
        _without("timestamp"),
        spec=CONTEXT,
        mend="Refuse a message without timestamp: its ttl cannot be judged.",
        statuses=BAD,
        codes=CODES,
    ),
    refused(
        "CTX-009",
        "a timestamp without a zone",
        lambda _, draft: draft.context(timestamp="2026-01-01T00:00:00").shot(),
        spec="Beckn context.timestamp: RFC 3339, zone mandatory",
        mend="Do not guess a zone: 400.",
        statuses=BAD,
        codes=CODES,
    ),
    refused(
        "CTX-010",
        "older than its ttl",
        lambda _, draft: _aged(draft, 600, "PT30S"),
        spec="Beckn context.ttl: how long the message is valid from its timestamp on",
        mend="Refuse a message whose timestamp + ttl has passed, and say both: 400.",
        statuses={400, 408, 410},
        codes=CODES,
    ),
    refused(
        "CTX-011",
        "a ttl that is no duration",
        lambda _, draft: draft.context(ttl="soon").shot(),
        spec="Beckn context.ttl: ISO 8601 duration",
        mend="Refuse a ttl that cannot be read: 400.",
        statuses=BAD,
        codes=CODES,
        level=Level.SHOULD,
    ),
    refused(
        "CTX-012",
        "meant for somebody else",
        lambda session, draft: draft.context(
            **{f"{_receiver(session)}_id": "somebody-else.conformance.example"}
        ).shot(),
        spec="Beckn context: bppId (requests) or bapId (callbacks) is the receiver",
        mend="Refuse a message that names another receiver: it may have been diverted.",
        statuses={400, 401, 403},
    ),
    refused(
        "CTX-013",
        "no context at all",
        lambda _, draft: _no_context(draft),
        spec="Beckn envelope: context and message",
        mend="Refuse a body without context: 400.",
        statuses={400, 401},
    ),
    refused(
        "CTX-014",
        "a context that is a list",
        lambda _, draft: _context_of(draft, []),
        spec="Beckn envelope: context is an object",
        mend="Check types before you read: 400, not 500.",
        statuses={400, 401},
    ),
    refused(
        "CTX-015",
        "ids that are numbers",
        lambda _, draft: draft.unchained().context(transaction_id=7, message_id=8).shot(),
        spec="Beckn context: ids are strings",
        mend="Check types before you read: 400, not 500.",
        statuses=BAD,
        codes=CODES,
    ),
    refused(
        "CTX-016",
        "an action nobody has published",
        lambda session, draft: Shot(
            action="on_frobnicate" if session.role == "bap" else "frobnicate",
            body=(shot := draft.context(action="frobnicate").shot()).body,
            headers=shot.headers,
        ),
        spec="Beckn paths: one per action",
        mend="Answer 400 or 404 to an action you do not serve, not 500 and not 200.",
        statuses={400, 404, 405, 501},
    ),
    refused(
        "CTX-017",
        "an action of the other role",
        lambda session, draft: Shot(
            action=session.speech.verb("select" if session.role == "bap" else "on_select"),
            body=(
                shot := draft.context(
                    action=session.speech.verb("select" if session.role == "bap" else "on_select")
                ).shot()
            ).body,
            headers=shot.headers,
        ),
        spec="Beckn paths: requests go to sellers, callbacks to buyers",
        mend="Serve requests as a seller and callbacks as a buyer only.",
        statuses={400, 401, 404, 405, 501},
    ),
    Case(
        id="CTX-018",
        title="a NACK says what to mend",
        spec="Beckn Error: code, message, details.path",
        mend="Put the failing member's path and a sentence into the NACK's error.",
        play=_names_the_member,
        level=Level.SHOULD,
    ),
    Case(
        id="CTX-019",
        title="a NACK carries the message id",
        spec="onix v1.7 NACK body: message.messageId of the refused message",
        mend="Repeat messageId in the NACK where it can be read.",
        play=_echoes_message_id,
        level=Level.SHOULD,
        generations=frozenset({"2.0"}),
    ),
)
