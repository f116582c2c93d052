"""SCH: messages that are signed and addressed correctly, but are not what the action's schema says."""

from collections.abc import Callable
from typing import Any

from fluxeon.conformance import expect
from fluxeon.conformance.case import Case
from fluxeon.conformance.draft import Draft
from fluxeon.conformance.session import Session
from fluxeon.conformance.verdict import Level

V1_ONLY = frozenset({"1.1"})
V2_ONLY = frozenset({"2.0"})
MODEL = "Beckn v2.0.0 Contract model: required members, closed objects, enumerations"
ORDER = "Beckn v1.1 Order: Scalar and Price values are decimal text; status is an enumeration"
ENVELOPE = "Beckn envelope: message and its root member"

Edit = Callable[[dict[str, Any]], None]


def _spoilt(
    case_id: str,
    title: str,
    edit: Callable[[Session, dict[str, Any]], None],
    mend: str,
    *,
    spec: str = MODEL,
    generations: frozenset[str] = V2_ONLY,
    level: Level = Level.MUST,
) -> Case:
    """Make a case in which the message of an order is spoilt by ``edit``."""

    async def play(session: Session) -> None:
        draft = session.order_probe().change(lambda document: edit(session, document))
        message_id = draft.message_id if session.role == "bpp" else None
        await session.refuse(draft.shot(), {400, 422}, message_id=message_id)

    return Case(
        id=case_id,
        title=title,
        spec=spec,
        mend=mend,
        play=play,
        generations=generations,
        level=level,
    )


def _root(session: Session, value: Any) -> Edit:
    return lambda document: document["message"].update({session.speech.order_root: value})


def _commitment(document: dict[str, Any]) -> dict[str, Any]:
    first: dict[str, Any] = document["message"]["contract"]["commitments"][0]
    return first


def _item(document: dict[str, Any]) -> dict[str, Any]:
    first: dict[str, Any] = document["message"]["order"]["items"][0]
    return first


def _measure(document: dict[str, Any], value: Any) -> None:
    _item(document)["quantity"]["selected"]["measure"]["value"] = value


async def _names_the_path(session: Session) -> None:
    draft: Draft = session.order_probe().change(lambda document: _commitment(document).pop("resources"))
    reply = await session.send(draft.shot())
    answer = expect.refusal(reply, {400, 422}, nack_with=session.speech.nack_statuses)
    told = f"{answer.path or ''} {answer.detail or ''}"
    expect.that(
        "resources" in told and "commitments" in told, "a NACK that points at the member", reply.shown()
    )
    expect.that(bool(answer.code and answer.code.startswith("SCH_")), "a code SCH_...", f"code {answer.code}")


CASES: tuple[Case, ...] = (
    _spoilt(
        "SCH-001",
        "no message",
        lambda _, document: document.pop("message"),
        "Refuse a body without message: 400.",
        spec=ENVELOPE,
        generations=frozenset({"1.1", "2.0"}),
    ),
    _spoilt(
        "SCH-002",
        "a message that is a list",
        lambda _, document: document.update(message=[]),
        "Check types before you read: 400, not 500.",
        spec=ENVELOPE,
        generations=frozenset({"1.1", "2.0"}),
    ),
    _spoilt(
        "SCH-003",
        "no order in the message",
        lambda session, document: document["message"].pop(session.speech.order_root),
        "message.contract (v1.1: message.order) is required: 400.",
        spec=ENVELOPE,
        generations=frozenset({"1.1", "2.0"}),
    ),
    _spoilt(
        "SCH-004",
        "an order that is text",
        lambda session, document: _root(session, "order")(document),
        "Check types before you read: 400, not 500.",
        spec=ENVELOPE,
        generations=frozenset({"1.1", "2.0"}),
    ),
    _spoilt(
        "SCH-005",
        "a contract without commitments",
        lambda _, document: document["message"]["contract"].pop("commitments"),
        "Contract.commitments is required: 400 SCH_REQUIRED_FIELD_MISSING.",
    ),
    _spoilt(
        "SCH-006",
        "an empty list of commitments",
        lambda _, document: document["message"]["contract"].update(commitments=[]),
        "Contract.commitments holds at least one: 400.",
    ),
    _spoilt(
        "SCH-007",
        "a commitment without resources",
        lambda _, document: _commitment(document).pop("resources"),
        "Commitment.resources is required: 400.",
    ),
    _spoilt(
        "SCH-008",
        "a committed resource without quantity",
        lambda _, document: _commitment(document)["resources"][0].pop("quantity"),
        "Inside a commitment a resource needs id and quantity: 400.",
    ),
    _spoilt(
        "SCH-009",
        "a contract status nobody has published",
        lambda _, document: document["message"]["contract"].update(status={"code": "CONFIRMED"}),
        "Contract.status.code is DRAFT, ACTIVE, CANCELLED or COMPLETE: 400 SCH_INVALID_ENUM.",
    ),
    _spoilt(
        "SCH-010",
        "an unknown member of the contract",
        lambda _, document: document["message"]["contract"].update(frobnicate=1),
        "Contract is closed (additionalProperties false): 400 SCH_FIELD_NOT_ALLOWED.",
    ),
    _spoilt(
        "SCH-011",
        "an unknown member of the message",
        lambda _, document: document["message"].update(order={}),
        "message is closed here (additionalProperties false): 400 SCH_FIELD_NOT_ALLOWED.",
    ),
    _spoilt(
        "SCH-012",
        "attributes without @type",
        lambda _, document: _commitment(document)["commitmentAttributes"].pop("@type"),
        "Attributes need @context and @type: 400.",
    ),
    _spoilt(
        "SCH-013",
        "commitments under the names of v1.1",
        lambda _, document: document["message"].update(contract={"items": [{"id": "x"}]}),
        "Do not read a v1.1 order as a v2.0.0 contract: 400.",
    ),
    _spoilt(
        "SCH-101",
        "a quantity as a JSON number",
        lambda _, document: _measure(document, 5),
        "Scalar.value is decimal text in v1.1: 400 for a number.",
        spec=ORDER,
        generations=V1_ONLY,
    ),
    _spoilt(
        "SCH-102",
        "a quantity that is no decimal",
        lambda _, document: _measure(document, "five"),
        "Scalar.value matches [+-]?([0-9]*[.])?[0-9]+: 400 for anything else.",
        spec=ORDER,
        generations=V1_ONLY,
    ),
    _spoilt(
        "SCH-103",
        "an order status nobody has published",
        lambda _, document: document["message"]["order"].update(status="CONFIRMED"),
        "Order.status is ACTIVE, COMPLETE or CANCELLED: 400.",
        spec=ORDER,
        generations=V1_ONLY,
    ),
    _spoilt(
        "SCH-104",
        "items under one key instead of in a list",
        lambda _, document: document["message"]["order"].update(items=_item(document)),
        "Order.items is a list: 400, not 500.",
        spec=ORDER,
        generations=V1_ONLY,
    ),
    _spoilt(
        "SCH-105",
        "a contract of v2.0.0",
        lambda _, document: document.update(message={"contract": {"commitments": [{"id": "c1"}]}}),
        "Do not read a v2.0.0 contract as a v1.1 order: 400.",
        spec=ORDER,
        generations=V1_ONLY,
    ),
    Case(
        id="SCH-014",
        title="a NACK points at the faulty member",
        spec="onix v1.7: details.path; codes SCH_*",
        mend="Put the JSON path of the failing member into details.path, and a SCH_ code.",
        play=_names_the_path,
        level=Level.SHOULD,
        generations=V2_ONLY,
    ),
)
