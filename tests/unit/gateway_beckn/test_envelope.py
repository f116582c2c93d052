import json
import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_samples import built_documents, instants, texts

from gateway.beckn.envelope import (
    AnswerKind,
    Context,
    ack_body,
    encode,
    nack_body,
    parse_answer,
    parse_context,
)
from gateway.errors import BecknRefusal

MESSAGE_ID = "33333333-3333-4333-8333-333333333333"


def _raw(**changes):
    return {**built_documents()["select"][0]["context"], **changes}


# --- context ----------------------------------------------------------------------------------


def test_parse_context__reads_what_wire_wrote():
    raw = _raw()
    assert parse_context(raw).wire() == raw


@given(
    st.builds(
        Context,
        action=texts,
        bap_id=texts,
        bap_uri=texts,
        bpp_id=st.none() | texts,
        bpp_uri=st.none() | texts,
        transaction_id=texts,
        message_id=texts,
        timestamp=instants,
        ttl=st.none() | texts,
        network_id=st.none() | texts,
        domain=st.none() | texts,
        schema_context=st.lists(texts, max_size=2).map(tuple),
        request_digest=st.none() | texts | st.just({"digest": "BLAKE-512=AA=="}),
    )
)
@settings(deadline=None)
def test_context__survives_the_wire(context):
    decoded = json.loads(encode(context, {"x": 1}))
    again = parse_context(decoded["context"])
    assert again.wire() == context.wire()
    assert decoded["message"] == {"x": 1}


def test_parse_context__ignores_what_it_does_not_know():
    assert parse_context(_raw(lineage=[1], bap_id="other", location={})) == parse_context(_raw())


def test_parse_context__does_not_invent_a_ttl():
    raw = _raw()
    del raw["ttl"]
    assert parse_context(raw).ttl is None


def test_parse_context__turns_the_timestamp_into_utc():
    context = parse_context(_raw(timestamp="2026-01-01T05:30:00.1234561+05:30"))
    assert context.timestamp == datetime(2026, 1, 1, 0, 0, 0, 123456, tzinfo=UTC)
    assert context.timestamp.tzinfo == UTC


@pytest.mark.parametrize(
    "name", ["version", "action", "bapId", "bapUri", "transactionId", "messageId", "timestamp"]
)
@pytest.mark.parametrize("how", ["absent", "null"])
def test_parse_context__requires(name, how):
    raw = _raw(**{name: None})
    if how == "absent":
        del raw[name]
    with pytest.raises(BecknRefusal) as refusal:
        parse_context(raw)
    assert refusal.value.code == "SCH_REQUIRED_FIELD_MISSING"
    assert refusal.value.path == f"/context/{name}"


def test_parse_context__tells_a_snake_case_sender_the_spelling():
    raw = _raw(bap_id="bap.fluxeon.example")
    del raw["bapId"]
    with pytest.raises(BecknRefusal, match="spells bap_id as bapId"):
        parse_context(raw)


@pytest.mark.parametrize(
    ("changes", "path", "code"),
    [
        pytest.param({"bapId": 7}, "/context/bapId", "SCH_TYPE_NOT_SUPPORTED", id="number for a text"),
        pytest.param({"schemaContext": "x"}, "/context/schemaContext", "SCH_TYPE_NOT_SUPPORTED", id="array"),
        pytest.param({"schemaContext": [1]}, "/context/schemaContext", "SCH_TYPE_NOT_SUPPORTED", id="entry"),
        pytest.param({"timestamp": "yesterday"}, "/context/timestamp", "SCH_INVALID_FORMAT", id="no instant"),
        pytest.param(
            {"timestamp": "2026-01-01T00:00:00"}, "/context/timestamp", "SCH_INVALID_FORMAT", id="no zone"
        ),
        pytest.param(
            {"timestamp": "2026-01-01T00:00:00+00:00Z"},
            "/context/timestamp",
            "SCH_INVALID_FORMAT",
            id="two zones",
        ),
        pytest.param(
            {"timestamp": 1767225600}, "/context/timestamp", "SCH_TYPE_NOT_SUPPORTED", id="unix time"
        ),
    ],
)
def test_parse_context__names_the_member_it_cannot_read(changes, path, code):
    with pytest.raises(BecknRefusal) as refusal:
        parse_context(_raw(**changes))
    assert (refusal.value.path, refusal.value.code) == (path, code)


@pytest.mark.parametrize("raw", [None, [], "context", 3])
def test_parse_context__refuses_what_is_no_object(raw):
    with pytest.raises(BecknRefusal) as refusal:
        parse_context(raw)
    assert refusal.value.path == "/context"


def test_context__writes_utc_and_leaves_out_what_is_absent():
    context = Context(
        action="status",
        bap_id="b",
        bap_uri="https://b.example",
        transaction_id="t",
        message_id="m",
        timestamp=datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
        ttl=None,
    )
    assert context.wire() == {
        "version": "2.0.0",
        "action": "status",
        "bapId": "b",
        "bapUri": "https://b.example",
        "transactionId": "t",
        "messageId": "m",
        "timestamp": "2026-01-01T00:00:00Z",
    }


# --- bodies -----------------------------------------------------------------------------------


def test_encode__is_compact_utf8_in_a_stable_order():
    body = encode(parse_context(_raw()), {"name": "50 kW ≤ £12"})
    assert body.startswith(b'{"context":{"version":"2.0.0","action":"select","bapId":')
    assert body.endswith('"message":{"name":"50 kW ≤ £12"}}'.encode())
    assert encode(parse_context(_raw()), {"name": "50 kW ≤ £12"}) == body


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_encode__refuses_what_is_not_json(number):
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode(parse_context(_raw()), {"kw": number})


def test_encode__refuses_a_lone_surrogate():
    with pytest.raises(ValueError, match="surrogates not allowed"):
        encode(parse_context(_raw()), {"text": "\ud800"})


def test_ack_body__is_the_one_adapters_sign():
    assert ack_body(MESSAGE_ID) == f'{{"message":{{"status":"ACK","messageId":"{MESSAGE_ID}"}}}}'.encode()


def test_nack_body__tells_code_detail_path_and_cause():
    body = nack_body(MESSAGE_ID, code="SCH_INVALID_ENUM", detail="use ANY", path="/message/x", cause="enum")
    assert body == (
        f'{{"message":{{"status":"NACK","messageId":"{MESSAGE_ID}","error":{{"code":"SCH_INVALID_ENUM",'
        '"message":"use ANY","details":{"path":"/message/x","cause":"enum"}}}}'.encode()
    )


def test_nack_body__leaves_out_what_is_not_known():
    assert nack_body(None, code="SCH_INVALID_JSON", detail="no JSON") == (
        b'{"message":{"status":"NACK","error":{"code":"SCH_INVALID_JSON","message":"no JSON"}}}'
    )


# --- answers ----------------------------------------------------------------------------------

ERROR = {"code": "BIZ_X", "message": "no"}
READ = ("BIZ_X", "no", None)
NOTHING = (None, None, None)


@pytest.mark.parametrize(
    ("status", "body", "kind", "error"),
    [
        # Where a status may stand.
        pytest.param(200, {"message": {"status": "ACK", "messageId": "m"}}, "ACK", NOTHING, id="onix"),
        pytest.param(200, {"message": {"ack": {"status": "ACK"}}}, "ACK", NOTHING, id="v1 and mocks"),
        pytest.param(200, {"status": "ACK", "signature": "s"}, "ACK", NOTHING, id="published"),
        pytest.param(200, {"ack": {"status": "ACK"}}, "ACK", NOTHING, id="ack at the root"),
        pytest.param(200, {"transaction_id": "t", "ack_status": "ACK"}, "ACK", NOTHING, id="ack_status"),
        pytest.param(201, {"status": "ack"}, "ACK", NOTHING, id="other success, lower case"),
        # Where an error may stand.
        pytest.param(
            400,
            {
                "message": {
                    "status": "NACK",
                    "messageId": "m",
                    "error": {**ERROR, "details": {"path": "/a;/b", "cause": "c"}},
                }
            },
            "NACK",
            ("BIZ_X", "no", "/a;/b"),
            id="onix",
        ),
        pytest.param(
            400,
            {"status": "NACK", "error": {"errorCode": "E", "errorMessage": "no"}},
            "NACK",
            ("E", "no", None),
            id="published",
        ),
        pytest.param(
            200,
            {
                "message": {"ack": {"status": "NACK"}},
                "error": {"code": 30004, "paths": "a.b", "message": "no"},
            },
            "NACK",
            ("30004", "no", "a.b"),
            id="v1, error at the root",
        ),
        pytest.param(
            200, {"message": {"ack": {"status": "NACK"}, "error": ERROR}}, "NACK", READ, id="v1, error inside"
        ),
        pytest.param(
            400,
            {"message": {"status": "NACK", "error": {"code": "E", "paths": ["/a", "/b"]}}},
            "NACK",
            ("E", None, "/a;/b"),
            id="several paths",
        ),
        pytest.param(400, ERROR, "NACK", READ, id="bare error of a pre-processor"),
        pytest.param(401, {"message": {"status": "NACK", "error": ERROR}}, "NACK", READ, id="unauthorised"),
        # No callback.
        pytest.param(202, {"message": {"status": "ACK", "error": ERROR}}, "NO_CALLBACK", READ, id="202"),
        pytest.param(409, {"status": "ACK", "error": ERROR}, "NO_CALLBACK", READ, id="409"),
        pytest.param(409, None, "NO_CALLBACK", NOTHING, id="409 without a word"),
        pytest.param(202, {"message": {"status": "NACK", "error": ERROR}}, "NACK", READ, id="202 refusing"),
        # Nothing readable.
        pytest.param(200, None, "UNKNOWN", NOTHING, id="empty"),
        pytest.param(202, None, "UNKNOWN", NOTHING, id="202 empty"),
        pytest.param(200, {"message": "ACK"}, "UNKNOWN", NOTHING, id="a word for an object"),
        pytest.param(200, {"message": {"status": "OK"}}, "UNKNOWN", NOTHING, id="another status"),
        pytest.param(200, {"message": {"status": True}}, "UNKNOWN", NOTHING, id="no text"),
        pytest.param(200, ["ACK"], "UNKNOWN", NOTHING, id="array"),
        pytest.param(500, {"error": ERROR}, "UNKNOWN", READ, id="server error"),
        pytest.param(503, {"message": {"status": "ACK"}}, "UNKNOWN", NOTHING, id="contradiction, 5xx"),
        pytest.param(400, {"message": {"status": "ACK"}}, "NACK", NOTHING, id="contradiction, 4xx"),
        pytest.param(404, None, "NACK", NOTHING, id="no such path"),
        pytest.param(307, None, "NACK", NOTHING, id="redirect"),
        pytest.param(429, None, "UNKNOWN", NOTHING, id="too many"),
    ],
)
def test_parse_answer__reads_every_shape(status, body, kind, error):
    answer = parse_answer(status, b"" if body is None else json.dumps(body).encode())
    assert answer.kind is AnswerKind(kind)
    assert (answer.code, answer.detail, answer.path) == error
    assert answer.http_status == status


@pytest.mark.parametrize(
    "body", [b"<html>", b"\xff\xfe", b"{", b'{"message":NaN}', b"[" * 100_000, b'{"status":"\\ud800"}']
)
def test_parse_answer__of_rubbish_is_unknown(body):
    assert parse_answer(200, body).kind is AnswerKind.UNKNOWN
    assert parse_answer(400, body).kind is AnswerKind.NACK


@given(st.integers(100, 599), st.binary(max_size=64))
@settings(deadline=None)
def test_parse_answer__never_fails(status, body):
    assert parse_answer(status, body).http_status == status


def test_parse_answer__keeps_the_message_id_and_the_counter_signature():
    assert parse_answer(200, ack_body(MESSAGE_ID)).message_id == MESSAGE_ID
    assert parse_answer(200, b'{"status":"ACK","signature":"Signature k"}').signature == "Signature k"


def test_parse_answer__reads_our_own_bodies():
    nack = nack_body(MESSAGE_ID, code="CTX_TTL_EXPIRED", detail="too late", path="/context/ttl")
    answer = parse_answer(400, nack)
    assert (answer.kind, answer.code, answer.detail, answer.path, answer.message_id) == (
        AnswerKind.NACK,
        "CTX_TTL_EXPIRED",
        "too late",
        "/context/ttl",
        MESSAGE_ID,
    )
    assert parse_answer(200, ack_body(MESSAGE_ID)).kind is AnswerKind.ACK


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [
        (429, None, True),
        (502, None, True),
        (503, "BIZ_X", True),
        (504, None, True),
        (500, "NET_INTERNAL_ERROR", True),
        (500, None, True),
        (500, "BIZ_X", False),
        (400, "SCH_X", False),
        (401, None, False),
        (404, None, False),
        (200, None, False),
    ],
)
def test_answer__says_whether_the_same_bytes_may_go_again(status, code, retryable):
    body = json.dumps({"error": {"code": code}}).encode() if code else b""
    assert parse_answer(status, body).retryable is retryable


def test_answer__knows_that_a_duplicate_was_accepted_before():
    assert parse_answer(400, nack_body(None, code="CTX_MESSAGE_ID_DUPLICATE", detail="again")).duplicate
    assert not parse_answer(400, nack_body(None, code="CTX_TTL_EXPIRED", detail="late")).duplicate
