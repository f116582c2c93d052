"""Sample messages of the v1.1 wire; values and changes are those of :mod:`wire_samples`.

``full_documents`` holds one valid message per action that uses every member the schemas know: each
definition is filled in where it is met first and left empty after that, so that messages stay small.
"""

import json
from datetime import UTC, datetime
from functools import cache
from typing import Any

from wire_samples import CONTRACT_ID, END, START, sample_offer, sample_terms, sample_view

from beckn_specs import index
from gateway.beckn.dialect import V1
from gateway.beckn.envelope import Context
from gateway.beckn.model import Rating, RatingReply, RatingSubject, Support, Tracking
from gateway.types import ContractStatus, Direction, Location

VERSION = "1.1.1"
URL = "https://x.example/y"
SUPPORT = Support(
    contract_id=CONTRACT_ID, callback_phone="1", phone="+44 1", email="a@b.example", url="https://x.example"
)
RATINGS = (
    Rating(subject=RatingSubject.ORDER, subject_id=CONTRACT_ID, value=4.5),
    Rating(subject=RatingSubject.PROVIDER, subject_id="agg1", value=5.0),
)


def document(action: str, message: dict[str, Any], /, **changes: Any) -> dict[str, Any]:
    """A message as it stands on the wire, after one trip through JSON."""
    context = Context(
        version=VERSION,
        action=action,
        bap_id="bap.fluxeon.example",
        bap_uri="https://bap.fluxeon.example/beckn",
        bpp_id="bpp-alpha.example",
        bpp_uri="https://bpp-alpha.example/beckn",
        transaction_id="11111111-1111-4111-8111-111111111111",
        message_id="22222222-2222-4222-8222-222222222222",
        timestamp=datetime(2026, 1, 1, tzinfo=UTC),
        domain="demand-flexibility",
        location={"country": {"code": "GBR"}, "city": {"code": "*"}},
    )
    decoded: dict[str, Any] = json.loads(V1.encode(context, message))
    decoded["context"] |= changes
    return decoded


def built_documents() -> dict[str, list[dict[str, Any]]]:
    """Every kind of message the translator builds, by action."""
    terms, offer = sample_terms(), sample_offer()
    place = Location(latitude=51.5, longitude=-0.12)
    draft = sample_view(ContractStatus.DRAFT)
    built: dict[str, list[dict[str, Any]]] = {
        "search": [
            V1.discover_message("FDR_001", Direction.REDUCE, 60.0, START, END, where)
            for where in (None, place)
        ],
        "on_search": [V1.on_discover_message(offers) for offers in ((), (offer,))],
        "select": [V1.select_message(terms)],
        "init": [V1.init_message(terms, draft)],
        "confirm": [V1.confirm_message(terms, draft)],
        "status": [V1.status_message(terms, CONTRACT_ID)],
        "cancel": [V1.cancel_message(terms, CONTRACT_ID, "feeder relieved")],
        "update": [V1.update_message(terms, draft, CONTRACT_ID, completes=ends) for ends in (False, True)],
        "track": [V1.track_message(terms, CONTRACT_ID, URL)],
        "on_track": [
            V1.on_track_message(terms, Tracking(url=URL, active=active, contract_id=CONTRACT_ID))
            for active in (False, True)
        ],
        "rating": [V1.rate_message(RATINGS)],
        "on_rating": [V1.on_rate_message(RatingReply(form_url=url)) for url in (None, URL)],
        "support": [V1.support_message(SUPPORT)],
        "on_support": [V1.on_support_message(SUPPORT)],
    }
    for action in ("on_select", "on_init", "on_confirm", "on_status", "on_cancel", "on_update"):
        built[action] = [V1.contract_message(terms, sample_view(status)) for status in ContractStatus]
    return {action: [document(action, each) for each in messages] for action, messages in built.items()}


@cache
def _definitions() -> dict[str, Any]:
    return dict(index.definitions(VERSION)["$defs"])


def full_documents() -> dict[str, dict[str, Any]]:
    """One valid message per action, using every member the schemas know."""
    documents = {}
    for action in index.ACTIONS[VERSION]:
        documents[action] = _fill(index.action_schema(VERSION, action), set())
    return documents


_TEXTS = {
    "uri": URL,
    "date-time": "2026-01-05T17:00:00Z",
    "date": "2026-01-05",
    "uuid": CONTRACT_ID,
    "email": "a@b.example",
}


def _fill(schema: dict[str, Any], met: set[str]) -> Any:
    """A value that fits a schema and uses all its members; definitions already met stay empty."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        found = _definitions()[name]
        if "properties" in found and name in met:
            return {}
        met.add(name)
        value, beside = _fill(found, met), schema.get("properties")
        return value | _fill({"properties": beside}, met) if beside else value
    if "properties" in schema:
        return {name: _fill(inner, met) for name, inner in schema["properties"].items()}
    if schema.get("type") == "array":
        return [_fill(schema["items"], met)]
    if "additionalProperties" in schema:
        return {"any": _fill(schema["additionalProperties"], met)}
    return _plain(schema)


def _plain(schema: dict[str, Any]) -> Any:
    """A value that has no parts."""
    if "enum" in schema or "const" in schema:
        return schema.get("enum", [schema.get("const")])[0]
    if "pattern" in schema:
        return "51.5,-0.12" if "," in schema["pattern"] else "12.5"
    if schema.get("type") == "string":
        return _TEXTS.get(schema.get("format", ""), "text")
    return {"integer": 1, "boolean": True, "object": {}}.get(schema.get("type", ""), "anything")
