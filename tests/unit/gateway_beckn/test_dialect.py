"""What every dialect can do, and how the right one is found."""

import json
from datetime import UTC, datetime

import pytest
import wire_samples
import wire_samples_v1
from wire_samples import CONTRACT_ID, sample_offer, sample_terms, sample_view

from beckn_specs import index
from gateway.beckn.dialect import (
    COMPLETE,
    DIALECTS,
    V1,
    V2,
    Generation,
    Languages,
    Place,
    claimed,
    claimed_dialect,
    dialect_of,
    spoken,
)
from gateway.beckn.envelope import Context
from gateway.beckn.model import Rating, RatingReply, RatingSubject, Support, TrackAsk, Tracking
from gateway.beckn.schema import MessageSchemas
from gateway.types import ContractStatus

VERBS = ("discover", "select", "init", "confirm", "status", "track", "update", "cancel", "rate", "support")
SCHEMAS = {each.generation: MessageSchemas.load(each.versions[0]) for each in DIALECTS.values()}
URL = "https://bap.example/follow"
BOTH = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda each: each.generation.value)


def _wire(dialect, verb, message):
    """One trip over the wire: valid against the schema of the verb's action, decoded as a receiver would."""
    context = Context(
        version=dialect.versions[0],
        action=dialect.action(verb),
        bap_id="bap.example",
        bap_uri="https://bap.example/beckn",
        transaction_id=CONTRACT_ID,
        message_id=CONTRACT_ID,
        timestamp=datetime(2026, 1, 1, tzinfo=UTC),
    )
    sent = json.loads(dialect.encode(context, message))
    assert SCHEMAS[dialect.generation].faults(context.action, sent) == ()
    assert dialect.parse_context(sent["context"]).message_id == CONTRACT_ID
    return sent["message"]


# --- names --------------------------------------------------------------------------------------


@BOTH
def test_names__every_verb_has_an_action_with_a_schema_and_back(dialect):
    actions = set()
    for verb in (*VERBS, *(f"on_{verb}" for verb in VERBS)):
        action = dialect.action(verb)
        assert dialect.verb(action) == verb
        actions.add(action)
    assert actions == set(index.ACTIONS[dialect.versions[0]])
    assert dialect.verb("complete") is None
    assert dialect.action(COMPLETE) == "status"


def test_names__are_those_of_the_generation():
    assert [V1.action(verb) for verb in ("discover", "on_discover", "rate")] == [
        "search",
        "on_search",
        "rating",
    ]
    assert [V2.action(verb) for verb in ("discover", "on_discover", "rate")] == [
        "discover",
        "on_discover",
        "rate",
    ]
    assert (V1.verb("discover"), V2.verb("search")) == (None, None)
    assert (V1.member("bap_id"), V2.member("bap_id")) == ("bap_id", "bapId")
    assert (V1.member("transaction_id"), V2.member("transaction_id")) == ("transaction_id", "transactionId")


@BOTH
def test_paths__point_at_what_messages_have(dialect):
    terms, view = sample_terms(), sample_view(ContractStatus.ACTIVE)
    contract = {"message": dialect.contract_message(terms, view)}
    catalogue = {"message": dialect.on_discover_message([sample_offer()])}
    for place, document in (
        (Place.CATALOGUE, catalogue),
        (Place.CONTRACT_ID, contract),
        (Place.LINES, contract),
        (Place.REFERENCE, {"message": dialect.status_message(terms, CONTRACT_ID)}),
    ):
        here = document
        for part in dialect.path(place).strip("/").split("/"):
            here = here[part]
        assert here


# --- every verb, both ways ------------------------------------------------------------------------


@BOTH
def test_life_of_an_order__says_the_same_in_every_dialect(dialect):
    terms, view = sample_terms(), sample_view(ContractStatus.DRAFT)
    offer = sample_offer()
    for verb, message, named in (
        ("select", dialect.select_message(terms), None),
        ("init", dialect.init_message(terms, view), CONTRACT_ID),
        ("confirm", dialect.confirm_message(terms, view), CONTRACT_ID),
    ):
        assert dialect.parse_order(_wire(dialect, verb, message)) == (terms, named)
    for verb, message in (
        ("status", dialect.status_message(terms, CONTRACT_ID)),
        ("cancel", dialect.cancel_message(terms, CONTRACT_ID, "relieved")),
    ):
        assert dialect.parse_reference(_wire(dialect, verb, message)) == CONTRACT_ID
    cancel = _wire(dialect, "cancel", dialect.cancel_message(terms, CONTRACT_ID, "relieved"))
    assert dialect.parse_cancel_reason(cancel) == "relieved"
    for status in ContractStatus:
        said = sample_view(status)
        for verb in ("on_select", "on_init", "on_confirm", "on_status", "on_update", "on_cancel"):
            message = _wire(dialect, verb, dialect.contract_message(terms, said))
            assert dialect.parse_reply(verb, message, None) == said
    published = _wire(dialect, "on_discover", dialect.on_discover_message([offer]))
    assert dialect.parse_offers(published, None, bpp_id=offer.bpp_id, bpp_uri=offer.bpp_uri) == (offer,)
    assert dialect.reference(terms, view) == CONTRACT_ID


@BOTH
@pytest.mark.parametrize("ends", [False, True])
def test_update__survives(dialect, ends):
    terms, view = sample_terms(), sample_view(ContractStatus.ACTIVE)
    message = _wire(dialect, "update", dialect.update_message(terms, view, CONTRACT_ID, completes=ends))
    ask = dialect.parse_update(message)
    assert (ask.terms, ask.contract_id, ask.completes) == (terms, CONTRACT_ID, ends)


@BOTH
def test_track__survives(dialect):
    terms = sample_terms()
    message = _wire(dialect, "track", dialect.track_message(terms, CONTRACT_ID, URL))
    assert dialect.parse_track(message) == TrackAsk(contract_id=CONTRACT_ID, callback_url=URL)
    for tracking in (
        Tracking(url=URL, active=True, contract_id=CONTRACT_ID),
        Tracking(url=URL, active=False),
    ):
        message = _wire(dialect, "on_track", dialect.on_track_message(terms, tracking))
        assert dialect.parse_on_track(message) == tracking


@BOTH
def test_ratings__survive(dialect):
    ratings = tuple(Rating(subject=each, subject_id=f"id of {each}", value=4.5) for each in RatingSubject)
    assert dialect.parse_rate(_wire(dialect, "rate", dialect.rate_message(ratings))) == ratings
    reply = (
        RatingReply(ratings=ratings) if dialect is V2 else RatingReply(form_url="https://bpp.example/form")
    )
    assert dialect.parse_on_rate(_wire(dialect, "on_rate", dialect.on_rate_message(reply))) == reply


@BOTH
@pytest.mark.parametrize(
    "support",
    [
        Support(contract_id=CONTRACT_ID),
        Support(contract_id=CONTRACT_ID, callback_phone="+44 1"),
        Support(contract_id=CONTRACT_ID, phone="+44 2", email="help@bpp.example", url="https://bpp.example"),
        Support(contract_id="1", callback_phone="3", phone="4"),
    ],
)
def test_support__survives(dialect, support):
    for verb, message in (
        ("support", dialect.support_message(support)),
        ("on_support", dialect.on_support_message(support)),
    ):
        assert dialect.parse_support(_wire(dialect, verb, message)) == support


# --- the right dialect ----------------------------------------------------------------------------


def test_spoken__knows_every_version_and_no_other():
    assert {version: spoken(version) for version in ("2.0.0", "1.1.0", "1.1.1")} == {
        "2.0.0": V2,
        "1.1.0": V1,
        "1.1.1": V1,
    }
    assert [spoken(version) for version in ("", "2.0.1", "1.1", "0.9.4")] == [None] * 4
    with pytest.raises(KeyError):
        dialect_of("3.0.0")


@pytest.mark.parametrize(
    ("body", "dialect"),
    [
        (b'{"context":{"version":"2.0.0"}}', V2),
        (b'{"context":{"version":"1.1.0","messageId":"m"}}', V1),
        (b'{"context":{"version":"1.0.0"}}', V1),
        (b'{"context":{"message_id":"m"}}', V1),
        (b'{"context":{"messageId":"m"}}', V2),
        (b'{"context":{"messageId":"m","message_id":"n"}}', V2),
        (b'{"context":{"version":5,"message_id":"m"}}', V1),
    ],
)
def test_claimed_dialect__goes_by_version_then_by_spelling(body, dialect):
    other = V1 if dialect is V2 else V2
    assert claimed_dialect(body, default=other) is dialect


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"{}", b'{"context":[]}', b"[" * 100_000])
def test_claimed_dialect__of_rubbish_is_the_default(body):
    assert claimed_dialect(body) is V2
    assert claimed_dialect(body, default=V1) is V1
    assert claimed(body).message_id is None


def test_languages__accept_what_they_were_loaded_for():
    both, old = Languages.load(), Languages.load([Generation.V1])
    assert both.versions == ("2.0.0", "1.1.1", "1.1.0")
    assert (both.of("2.0.0"), both.of("1.1.1"), both.of("9")) == (V2, V1, None)
    assert (old.of("2.0.0"), old.of("1.1.0"), old.default) == (None, V1, V1)
    assert both.schemas(V1).version == "1.1.1"
    assert (both.verb("search"), both.verb("discover"), both.verb("complete")) == (
        "discover",
        "discover",
        None,
    )
    assert old.verb("discover") is None
    with pytest.raises(KeyError):
        old.schemas(V2)
    assert Languages.of_one(MessageSchemas("1.1.1", {})).of("2.0.0") is None


def test_samples__of_both_generations_are_told_apart():
    for samples, dialect in ((wire_samples, V2), (wire_samples_v1, V1)):
        for documents in samples.built_documents().values():
            assert claimed_dialect(json.dumps(documents[0]).encode()) is dialect
