import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_samples import instants, texts
from wire_samples_v1 import built_documents

from gateway.beckn.envelope import AnswerKind, Context, parse_answer
from gateway.beckn.envelope_v1 import (
    ack_body,
    encode,
    error_code,
    nack_body,
    parse_context,
    parse_error,
    wire,
)
from gateway.beckn.model import PeerError
from gateway.errors import BecknRefusal


def _raw(**changes):
    return {**built_documents()["select"][0]["context"], **changes}


def test_parse_context__reads_what_wire_wrote():
    raw = _raw()
    assert wire(parse_context(raw)) == raw
    assert raw["location"] == {"country": {"code": "GBR"}, "city": {"code": "*"}}
    assert raw["domain"] == "demand-flexibility"


@given(
    st.builds(
        Context,
        version=st.sampled_from(["1.1.0", "1.1.1"]),
        action=texts,
        bap_id=texts,
        bap_uri=texts,
        bpp_id=st.none() | texts,
        bpp_uri=st.none() | texts,
        transaction_id=texts,
        message_id=texts,
        timestamp=instants,
        ttl=st.none() | texts,
        domain=st.none() | texts,
    )
)
@settings(deadline=None)
def test_context__survives_the_wire(context):
    decoded = json.loads(encode(context, {"x": 1}))
    assert parse_context(decoded["context"]) == context
    assert decoded["message"] == {"x": 1}


def test_parse_context__turns_the_timestamp_into_utc():
    read = parse_context(_raw(timestamp="2026-01-01T02:00:00+02:00"))
    assert read.timestamp == datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    assert read.timestamp.tzinfo is UTC


@pytest.mark.parametrize(
    "name", ["version", "action", "bap_id", "bap_uri", "transaction_id", "message_id", "timestamp"]
)
@pytest.mark.parametrize("how", ["absent", "null"])
def test_parse_context__requires(name, how):
    raw = _raw(**{name: None})
    if how == "absent":
        del raw[name]
    with pytest.raises(BecknRefusal) as refused:
        parse_context(raw)
    assert (refused.value.code, refused.value.path) == ("SCH_REQUIRED_FIELD_MISSING", f"/context/{name}")


@pytest.mark.parametrize(
    ("name", "other"), [("version", "core_version"), ("bap_id", "bapId"), ("message_id", "messageId")]
)
def test_parse_context__tells_the_spelling(name, other):
    raw = _raw()
    raw[other] = raw.pop(name)
    with pytest.raises(BecknRefusal, match=f"spells {other} as {name}"):
        parse_context(raw)


@pytest.mark.parametrize(
    ("changes", "path", "code"),
    [
        ({"bap_id": 7}, "/context/bap_id", "SCH_TYPE_NOT_SUPPORTED"),
        ({"timestamp": "yesterday"}, "/context/timestamp", "SCH_INVALID_FORMAT"),
        ({"timestamp": "2026-01-01T00:00:00"}, "/context/timestamp", "SCH_INVALID_FORMAT"),
        ({"location": "London"}, "/context/location", "SCH_TYPE_NOT_SUPPORTED"),
    ],
)
def test_parse_context__names_the_member_it_cannot_read(changes, path, code):
    with pytest.raises(BecknRefusal) as refused:
        parse_context(_raw(**changes))
    assert (refused.value.path, refused.value.code) == (path, code)


@pytest.mark.parametrize("raw", [None, [], "x"])
def test_parse_context__refuses_what_is_no_object(raw):
    with pytest.raises(BecknRefusal, match="must be an object"):
        parse_context(raw)


# --- answers ------------------------------------------------------------------------------------


def test_ack_body__is_the_published_one():
    assert ack_body("m") == b'{"message":{"ack":{"status":"ACK"}}}'
    assert parse_answer(200, ack_body("m")).kind is AnswerKind.ACK


def test_nack_body__has_its_error_in_both_places():
    body = json.loads(
        nack_body("m", code="SCH_INVALID_ENUM", detail="no", path="/message/order", cause="enum")
    )
    assert body == {
        "message": {
            "ack": {"status": "NACK"},
            "error": {
                "code": "30000",
                "message": "no",
                "details": {"path": "/message/order", "cause": "SCH_INVALID_ENUM enum"},
            },
        },
        "error": {"code": "30000", "paths": "/message/order", "message": "no"},
    }
    assert json.loads(nack_body(None, code="AUT_SIGNATURE_INVALID", detail="no"))["error"] == {
        "code": "AUT_SIGNATURE_INVALID",
        "message": "no",
    }


@pytest.mark.parametrize("http_status", [200, 400, 401])
def test_nack_body__is_read_as_a_refusal_wherever_its_error_is_looked_for(http_status):
    body = nack_body("m", code="BIZ_CONTRACT_NOT_FOUND", detail="which?", path="/message/order_id")
    root_only = json.loads(body)
    del root_only["message"]["error"]
    inner_only = json.loads(body)
    del inner_only["error"]
    for each in (body, json.dumps(root_only).encode(), json.dumps(inner_only).encode()):
        answer = parse_answer(http_status, each)
        assert (answer.kind, answer.code, answer.detail) == (AnswerKind.NACK, "30010", "which?")
        assert answer.path == "/message/order_id"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("SCH_REQUIRED_FIELD_MISSING", "30000"),
        ("CTX_TTL_EXPIRED", "30000"),
        ("CTX_TRANSACTION_ID_UNKNOWN", "30010"),
        ("NET_NOT_IMPLEMENTED", "40001"),
        ("BIZ_CONTRACT_MISMATCH", "40000"),
        ("POL_ANY", "50000"),
        ("AUT_SIGNATURE_MISSING", "AUT_SIGNATURE_MISSING"),
        ("NET_INTERNAL_ERROR", "NET_INTERNAL_ERROR"),
        ("CTX_MESSAGE_ID_DUPLICATE", "CTX_MESSAGE_ID_DUPLICATE"),
    ],
)
def test_error_code__is_the_networks_where_it_has_one(ours, theirs):
    assert error_code(ours) == theirs


def test_nack_body__lets_a_repeated_message_be_told_from_a_refused_one():
    body = nack_body("m", code="CTX_MESSAGE_ID_DUPLICATE", detail="again")
    assert parse_answer(400, body).duplicate


def test_parse_error__reads_what_a_callback_reports():
    assert parse_error({}) is None
    assert parse_error({"error": {"code": 40002, "message": "no", "paths": "/x"}}) == PeerError(
        code="40002", detail="no", path="/x"
    )
    assert str(PeerError()) == "error: no detail"
    with pytest.raises(BecknRefusal):
        parse_error({"error": "no"})
