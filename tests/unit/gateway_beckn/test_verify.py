"""Inbound messages: what is accepted, and that every other message is refused with the right code."""

import copy
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vectors import beckn_signatures as vectors

from gateway.beckn.dialect import Generation, Languages
from gateway.beckn.resolver import Participant, StaticKeys
from gateway.beckn.schema import MessageSchemas
from gateway.beckn.signing import Signer, bare_signature, digest
from gateway.beckn.verify import (
    challenge_headers,
    claimed_message_id,
    verify_inbound,
)
from gateway.errors import BecknRefusal, PeerUnavailable

NOW = datetime(2026, 1, 1, 0, 0, 5, tzinfo=UTC)
BAP_ID, BPP_ID = vectors.BAP_ID, vectors.BPP_ID
BAP = Signer.from_private(vectors.BAP_SEED, BAP_ID, vectors.KEY_ID)
BPP = Signer.from_private(vectors.BPP_SEED, BPP_ID, vectors.KEY_ID)
SENT = {vectors.R2_MESSAGE_ID: [(vectors.R2.signature, vectors.R2.header)]}
CALLBACK = json.loads(vectors.C1_BODY)
REQUEST = json.loads(vectors.R2.body)


@pytest.fixture(scope="module")
def languages():
    return Languages.load([Generation.V2])


def participant(signer: Signer, kind: str, **changes) -> Participant:
    fields = {
        "subscriber_id": signer.subscriber_id,
        "key_id": signer.key_id,
        "url": f"https://{signer.subscriber_id}/beckn",
        "type": kind,
        "signing_public_key": signer.public_key,
        "status": "SUBSCRIBED",
        "valid_from": NOW - timedelta(days=1),
        "valid_until": NOW + timedelta(days=1),
    }
    return Participant(**{**fields, **changes})


NO_SCHEMAS = Languages({Generation.V2: MessageSchemas("2.0.0", {})})
PEERS = (participant(BAP, "BAP"), participant(BPP, "BPP"))


class FakeKeys:
    """A resolver that does as it is told and counts."""

    def __init__(self, *answers: Participant, refreshed=None) -> None:
        self.known = {(each.subscriber_id, each.key_id): each for each in answers}
        self.refreshed = refreshed
        self.down = False
        self.refreshes = 0

    async def key(self, subscriber_id, key_id, *, refresh=False):
        self.refreshes += refresh
        if self.down or (refresh and self.refreshed == "down"):
            raise PeerUnavailable("registry down", retryable=True, retry_after_s=3.0)
        if refresh and self.refreshed is not None:
            return self.refreshed
        return self.known.get((subscriber_id, key_id))


def encode(document) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def changed(document, *path: str | int, to) -> dict:
    """A copy of a document with one member set, or removed where ``to`` is Ellipsis."""
    result = copy.deepcopy(document)
    node = result
    for name in path[:-1]:
        node = node[name]
    if to is ...:
        del node[path[-1]]
    else:
        node[path[-1]] = to
    return result


@pytest.fixture
def receive(languages):
    """Verify as a buyer; every argument can be replaced."""

    async def verify(body=vectors.C1_BODY, header=None, **changes):
        if header is None:
            header = BPP.authorization(body, now=NOW)
        arguments = {
            "action": "on_select",
            "body": body,
            "headers": {"Authorization": header},
            "resolver": FakeKeys(*PEERS),
            "schemas": languages,
            "own_id": BAP_ID,
            "role": "bap",
            "now": NOW,
            "sent_signatures": lambda message_id: SENT.get(message_id, []),
        }
        return await verify_inbound(**{**arguments, **changes})

    return verify


@pytest.fixture
def refusal(receive):
    """The refusal a message meets."""

    async def verify(body=vectors.C1_BODY, header=None, **changes) -> BecknRefusal:
        with pytest.raises(BecknRefusal) as refused:
            await receive(body, header, **changes)
        return refused.value

    return verify


# --- accepted -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signature", "variant"),
    [
        (vectors.C1_BARE_SIGNATURE, "4-line-bare"),
        (vectors.C1_WHOLE_HEADER_SIGNATURE, "4-line-whole-header"),
    ],
)
async def test_callback_vectors__are_verified_and_say_how(receive, signature, variant):
    header = (
        'Signature keyId="bpp.agg.example|k1|ed25519",algorithm="ed25519",created="1767225602",'
        'expires="1767225902",headers="(created) (expires) digest request-signature",'
        f'signature="{signature}"'
    )
    verified = await receive(header=header)
    assert verified.variant == variant
    assert verified.signature == signature
    assert verified.digest == vectors.C1_DIGEST
    assert verified.body == vectors.C1_BODY
    assert verified.message == CALLBACK["message"]
    assert verified.context.message_id == vectors.R2_MESSAGE_ID
    assert verified.sender.subscriber_id == BPP_ID
    assert verified.headers == {"authorization": header}


async def test_push__verifies_with_three_lines(receive):
    assert (await receive()).variant == "3-line"


async def test_request__verifies_for_the_seller(receive):
    verified = await receive(vectors.R2.body, vectors.R2.header, action="select", own_id=BPP_ID, role="bpp")
    assert verified.variant == "3-line"
    assert verified.message["contract"]["descriptor"]["name"] == "50 kW ≤ £12"


async def test_header_names__are_read_in_any_case_and_only_those_that_matter(receive):
    header = BPP.authorization(vectors.C1_BODY, now=NOW)
    headers = {"AUTHORIZATION": header, "content-TYPE": "application/json", "X-Other": "1"}
    verified = await receive(headers=headers)
    assert verified.headers == {"authorization": header, "content-type": "application/json"}


async def test_discover__may_leave_the_seller_open(receive, refusal):
    document = changed(REQUEST, "context", "bppId", to=...)
    document = changed(document, "context", "action", to="discover")
    document["message"] = {"intent": {"textSearch": "battery"}}
    body = encode(document)
    arguments = {"own_id": BPP_ID, "role": "bpp", "header": BAP.authorization(body, now=NOW)}
    assert (await receive(body, action="discover", **arguments)).context.bpp_id is None
    body = encode(changed(REQUEST, "context", "bppId", to=...))
    arguments["header"] = BAP.authorization(body, now=NOW)
    refused = await refusal(body, action="select", **arguments)
    assert (refused.code, refused.path) == ("CTX_MISSING_FIELD", "/context/bppId")


async def test_discovery_service__may_answer_for_sellers_where_it_is_listed(receive, refusal):
    service = Signer.from_private(vectors.BPP_SEED, "ds.example", "k9")
    document = changed(CALLBACK, "context", "action", to="on_discover")
    document["message"] = {"catalogs": []}
    body = encode(document)
    arguments = {
        "header": service.authorization(body, now=NOW),
        "resolver": FakeKeys(participant(service, "CDS")),
        "action": "on_discover",
    }
    verified = await receive(body, **arguments, discovery_ids={"ds.example"})
    assert verified.sender.subscriber_id == "ds.example"
    assert (await refusal(body, **arguments)).code == "AUT_UNAUTHORIZED_ACTION"
    body = vectors.C1_BODY
    arguments |= {"header": service.authorization(body, now=NOW), "action": "on_select"}
    assert (await refusal(body, **arguments, discovery_ids={"ds.example"})).code == "AUT_UNAUTHORIZED_ACTION"


async def test_static_keys__serve_as_resolver(receive):
    assert (await receive(resolver=StaticKeys(PEERS, lambda: NOW))).sender == PEERS[1]


# --- 1 to 3: size, header, times ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "allowed"), [("on_select", 1024 * 1024), ("on_discover", 8 * 1024 * 1024)]
)
async def test_size__is_bounded_by_action(refusal, action, allowed):
    body = b" " * (allowed + 1)
    refused = await refusal(body, action=action)
    assert refused.http_status == 413
    assert str(allowed) in refused.detail
    assert (await refusal(body[1:], action=action)).code == "SCH_INVALID_JSON"


@pytest.mark.parametrize("headers", [{}, {"Authorization": ""}, {"Authorization": "Bearer abc"}])
async def test_unsigned__is_refused_with_a_challenge(refusal, headers):
    refused = await refusal(headers=headers)
    assert (refused.code, refused.http_status) == ("AUT_SIGNATURE_MISSING", 401)
    assert challenge_headers(refused, BAP_ID) == {
        "WWW-Authenticate": f'Signature realm="{BAP_ID}",headers="(created) (expires) digest"'
    }
    assert refused.facts["message_id"] == vectors.R2_MESSAGE_ID


async def test_two_signature_headers__are_refused(refusal):
    header = BPP.authorization(vectors.C1_BODY, now=NOW)
    refused = await refusal(headers={"Authorization": header, "authorization": header})
    assert refused.code == "AUT_SIGNATURE_INVALID"
    joined = await refusal(header=f"{header}, {header}")
    assert joined.code == "AUT_SIGNATURE_INVALID"


def times(created_s: float, expires_s: float) -> str:
    """A header whose times lie so many seconds from now."""
    now = int(NOW.timestamp())
    return BPP.header(digest(vectors.C1_BODY), created=now + created_s, expires=now + expires_s)


@pytest.mark.parametrize(
    ("created_s", "expires_s"),
    [(5, 300), (-300, 0), (-3600, 0), (0, 3600), (-1, 1)],
    ids=["created 5 s ahead", "expires now", "an hour ago", "for an hour", "for 2 s"],
)
async def test_times__are_accepted_up_to_the_bounds(receive, created_s, expires_s):
    assert (await receive(header=times(created_s, expires_s))).variant == "3-line"


@pytest.mark.parametrize(
    ("created_s", "expires_s", "words"),
    [
        pytest.param(6, 300, "future", id="created 6 s ahead"),
        pytest.param(-300, -1, "expired", id="expired by 1 s"),
        pytest.param(1, 0, "before it begins", id="expires before created"),
        pytest.param(0, 0, "before it begins", id="no life"),
        pytest.param(-1, 3600, "longer than 3600", id="too long a life"),
    ],
)
async def test_times__are_refused_beyond_them_with_the_figures(refusal, created_s, expires_s, words):
    refused = await refusal(header=times(created_s, expires_s))
    assert (refused.code, refused.http_status) == ("AUT_SIGNATURE_INVALID", 401)
    assert words in refused.detail
    now = int(NOW.timestamp())
    assert refused.facts["created"] == now + created_s
    assert refused.facts["expires"] == now + expires_s
    assert (refused.facts["now"], refused.facts["skew_s"]) == (now, 5.0)
    for figure in (now + created_s, now + expires_s, f"{now}.000", "skew 5 s"):
        assert str(figure) in refused.detail


async def test_times__a_fraction_of_a_second_past_expiry_is_past(refusal):
    refused = await refusal(header=times(-10, 0), now=NOW + timedelta(milliseconds=1))
    assert "expired" in refused.detail


# --- 4, 5: key and signature ----------------------------------------------------------------------------


async def test_key__unknown_to_the_registry_is_refused(refusal):
    refused = await refusal(resolver=FakeKeys())
    assert (refused.code, refused.http_status) == ("AUT_SUBSCRIBER_NOT_FOUND", 401)
    assert refused.challenge


async def test_key__registry_down_accepts_nothing_and_asks_to_come_again(refusal):
    resolver = FakeKeys(*PEERS)
    resolver.down = True
    refused = await refusal(resolver=resolver)
    assert (refused.code, refused.http_status) == ("NET_DOWNSTREAM_UNAVAILABLE", 503)
    assert refused.facts["retry_after_s"] == 3.0
    assert challenge_headers(refused, BAP_ID) == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "UNSUBSCRIBED"},
        {"valid_until": NOW},
        {"valid_from": NOW + timedelta(seconds=1)},
    ],
    ids=["unsubscribed", "no longer valid", "not yet valid"],
)
async def test_key__not_usable_now_is_refused_whatever_the_resolver_says(refusal, changes):
    refused = await refusal(resolver=FakeKeys(participant(BPP, "BPP", **changes)))
    assert (refused.code, refused.http_status) == ("AUT_KEY_EXPIRED_OR_REVOKED", 401)


async def test_key__of_another_participant_is_refused_whatever_the_resolver_says(refusal):
    class Confused(FakeKeys):
        async def key(self, subscriber_id, key_id, *, refresh=False):
            return PEERS[1]

    body = encode(changed(CALLBACK, "context", "bppId", to="evil.example"))
    evil = Signer.from_private(vectors.BPP_SEED, "evil.example", "k1")
    refused = await refusal(body, evil.authorization(body, now=NOW), resolver=Confused())
    assert refused.code == "AUT_SUBSCRIBER_NOT_FOUND"


async def test_key__of_a_wrong_length_is_refused(refusal):
    refused = await refusal(resolver=FakeKeys(participant(BPP, "BPP", signing_public_key="AAAA")))
    assert (refused.code, refused.http_status) == ("AUT_KEY_NOT_FOUND", 401)


async def test_signature__that_does_not_fit_is_tried_once_with_a_fresh_key(receive, refusal):
    stale = participant(BPP, "BPP", signing_public_key=vectors.BAP_PUBLIC)
    resolver = FakeKeys(stale, refreshed=PEERS[1])
    verified = await receive(resolver=resolver)
    assert verified.sender == PEERS[1]
    assert resolver.refreshes == 1

    resolver = FakeKeys(stale)
    assert (await refusal(resolver=resolver)).code == "AUT_SIGNATURE_INVALID"
    assert resolver.refreshes == 1


async def test_signature__that_does_not_fit_stays_refused_while_the_registry_is_down(refusal):
    resolver = FakeKeys(*PEERS, refreshed="down")
    refused = await refusal(header=BAP.authorization(b"", now=NOW).replace(BAP_ID, BPP_ID), resolver=resolver)
    assert (refused.code, refused.http_status) == ("AUT_SIGNATURE_INVALID", 401)
    assert resolver.refreshes == 1


async def test_signature__fresh_key_must_be_usable_too(refusal):
    stale = participant(BPP, "BPP", signing_public_key=vectors.BAP_PUBLIC)
    resolver = FakeKeys(stale, refreshed=participant(BPP, "BPP", status="EXPIRED"))
    assert (await refusal(resolver=resolver)).code == "AUT_KEY_EXPIRED_OR_REVOKED"


async def test_signature__chained_to_what_we_never_sent_is_refused(refusal):
    header = BPP.authorization(vectors.C1_BODY, now=NOW, request_signature=vectors.R1.signature)
    assert (await refusal(header=header)).code == "AUT_SIGNATURE_INVALID"


async def test_body__every_byte_changed_is_refused(refusal):
    """Through the whole line: no change of the body may be read as something milder."""
    header = BPP.authorization(vectors.C1_BODY, now=NOW)
    for position in range(len(vectors.C1_BODY)):
        body = bytearray(vectors.C1_BODY)
        body[position] ^= 1 << position % 8
        refused = await refusal(bytes(body), header)
        assert (refused.code, refused.http_status) == ("AUT_SIGNATURE_INVALID", 401)


async def test_header__every_character_changed_is_refused(refusal):
    header = BPP.authorization(vectors.C1_BODY, now=NOW, request_signature=vectors.R2.signature)
    for position, character in enumerate(header):
        for replacement in (" ", '"', "9", chr(ord(character) ^ 1)):
            if replacement == character:
                continue
            refused = await refusal(header=header[:position] + replacement + header[position + 1 :])
            assert refused.http_status == 401
            assert refused.code.startswith("AUT_")


@given(st.binary(max_size=200), st.text(max_size=200))
async def test_anything__is_refused_or_verified_but_never_breaks(body, header):
    with pytest.raises(BecknRefusal) as refused:
        await verify_inbound(
            action="on_select",
            body=body,
            headers={"Authorization": header},
            resolver=FakeKeys(*PEERS),
            schemas=NO_SCHEMAS,
            own_id=BAP_ID,
            role="bap",
            now=NOW,
        )
    assert refused.value.http_status == 401


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
async def test_anything_signed__is_refused_with_a_code(body):
    with pytest.raises(BecknRefusal) as refused:
        await verify_inbound(
            action="on_select",
            body=body,
            headers={"Authorization": BPP.authorization(body, now=NOW)},
            resolver=FakeKeys(*PEERS),
            schemas=NO_SCHEMAS,
            own_id=BAP_ID,
            role="bap",
            now=NOW,
        )
    assert refused.value.http_status == 400
    assert refused.value.code.startswith(("SCH_", "CTX_"))


# --- gateway header -------------------------------------------------------------------------------------

GATEWAY = Signer.from_private(vectors.BAP_SEED, "bg.example", "k1")


async def test_gateway_header__is_verified_beside_the_senders(receive):
    headers = {
        "Authorization": BPP.authorization(vectors.C1_BODY, now=NOW),
        "X-Gateway-Authorization": GATEWAY.authorization(vectors.C1_BODY, now=NOW),
    }
    verified = await receive(headers=headers, resolver=FakeKeys(*PEERS, participant(GATEWAY, "BG")))
    assert verified.sender.subscriber_id == BPP_ID
    assert verified.headers["x-gateway-authorization"] == headers["X-Gateway-Authorization"]


@pytest.mark.parametrize(
    ("gateway_header", "kind", "code"),
    [
        pytest.param("", "BG", "AUT_SIGNATURE_MISSING", id="empty"),
        pytest.param(
            GATEWAY.authorization(b"other", now=NOW), "BG", "AUT_SIGNATURE_INVALID", id="other body"
        ),
        pytest.param(
            GATEWAY.authorization(vectors.C1_BODY, now=NOW - timedelta(hours=1)),
            "BG",
            "AUT_SIGNATURE_INVALID",
            id="expired",
        ),
        pytest.param(
            GATEWAY.authorization(vectors.C1_BODY, now=NOW), "BAP", "AUT_UNAUTHORIZED_ACTION", id="no gateway"
        ),
    ],
)
async def test_gateway_header__that_fails_asks_the_gateway_for_proof(refusal, gateway_header, kind, code):
    headers = {
        "Authorization": BPP.authorization(vectors.C1_BODY, now=NOW),
        "X-Gateway-Authorization": gateway_header,
    }
    refused = await refusal(headers=headers, resolver=FakeKeys(*PEERS, participant(GATEWAY, kind)))
    assert (refused.code, refused.http_status) == (code, 401)
    assert list(challenge_headers(refused, BAP_ID)) == ["Proxy-Authenticate"]


async def test_gateway_header__does_not_replace_the_senders(refusal):
    headers = {"X-Gateway-Authorization": GATEWAY.authorization(vectors.C1_BODY, now=NOW)}
    refused = await refusal(headers=headers, resolver=FakeKeys(*PEERS, participant(GATEWAY, "BG")))
    assert refused.code == "AUT_SIGNATURE_MISSING"


# --- 6: JSON and context --------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b'{"message":{},"message":{}}', b'{"message":{},"x":NaN}'])
async def test_json__that_readers_may_understand_differently_is_refused(refusal, body):
    refused = await refusal(body)
    assert (refused.code, refused.http_status) == ("SCH_INVALID_JSON", 400)
    assert not refused.challenge


@pytest.mark.parametrize(
    ("body", "code", "path"),
    [
        (b"[]", "SCH_TYPE_NOT_SUPPORTED", "/"),
        (b'"text"', "SCH_TYPE_NOT_SUPPORTED", "/"),
        (b"{}", "SCH_REQUIRED_FIELD_MISSING", "/message"),
        (b'{"message":[]}', "SCH_TYPE_NOT_SUPPORTED", "/message"),
        (b'{"message":{}}', "CTX_MISSING_FIELD", "/context"),
        (b'{"message":{},"context":7}', "CTX_INVALID_FIELD", "/context"),
    ],
)
async def test_outer_form__is_refused_by_field(refusal, body, code, path):
    refused = await refusal(body)
    assert (refused.code, refused.path, refused.http_status) == (code, path, 400)


@pytest.mark.parametrize(
    ("member", "value", "code"),
    [
        ("version", ..., "CTX_MISSING_FIELD"),
        ("action", ..., "CTX_MISSING_FIELD"),
        ("bapId", ..., "CTX_MISSING_FIELD"),
        ("bapUri", ..., "CTX_MISSING_FIELD"),
        ("transactionId", ..., "CTX_MISSING_FIELD"),
        ("messageId", ..., "CTX_MISSING_FIELD"),
        ("messageId", "", "CTX_MISSING_FIELD"),
        ("messageId", 7, "CTX_INVALID_FIELD"),
        ("timestamp", ..., "CTX_MISSING_FIELD"),
        ("timestamp", "2026-01-01T00:00:02", "CTX_INVALID_FIELD"),
        ("version", "1.1.0", "CTX_VERSION_UNSUPPORTED"),
        ("version", "2.0.1", "CTX_VERSION_UNSUPPORTED"),
        ("action", "on_init", "CTX_ACTION_MISMATCH"),
        ("bapId", "other.example", "CTX_INVALID_FIELD"),
        ("ttl", "30", "CTX_INVALID_FIELD"),
        ("ttl", "PT2S", "CTX_TTL_EXPIRED"),
        ("timestamp", "2025-12-31T23:59:34Z", "CTX_TTL_EXPIRED"),
    ],
)
async def test_context__is_refused_by_field(refusal, member, value, code):
    refused = await refusal(encode(changed(CALLBACK, "context", member, to=value)))
    assert (refused.code, refused.http_status) == (code, 400)
    assert refused.path == ("/context/ttl" if code == "CTX_TTL_EXPIRED" else f"/context/{member}")


@pytest.mark.parametrize(
    ("member", "value"),
    [("ttl", ...), ("ttl", "PT3S"), ("ttl", "P999999999D"), ("timestamp", "2025-12-31T23:59:35Z")],
)
async def test_context__ttl_is_alive_to_its_last_instant(receive, member, value):
    assert await receive(encode(changed(CALLBACK, "context", member, to=value)))


@pytest.mark.parametrize("claimed", ["other.example", BAP_ID, ..., None, "x" * 100_000])
async def test_signer__must_be_the_seller_the_context_names(refusal, claimed):
    refused = await refusal(encode(changed(CALLBACK, "context", "bppId", to=claimed)))
    assert (refused.code, refused.http_status) == ("AUT_UNAUTHORIZED_ACTION", 401)
    assert refused.path == "/context/bppId"
    assert len(refused.detail) < 300


async def test_signer__must_be_the_buyer_the_context_names(refusal):
    header = BPP.authorization(vectors.R2.body, now=NOW)
    refused = await refusal(vectors.R2.body, header, action="select", own_id=BPP_ID, role="bpp")
    assert (refused.code, refused.path) == ("AUT_UNAUTHORIZED_ACTION", "/context/bapId")


async def test_signer__registered_in_another_role_is_refused(refusal):
    refused = await refusal(resolver=FakeKeys(participant(BPP, "BAP")))
    assert refused.code == "AUT_UNAUTHORIZED_ACTION"
    assert "registered as BAP" in refused.detail


@pytest.mark.parametrize("action", ["select", "on_complete", "on_search"])
async def test_action__of_another_role_or_unknown_is_refused(refusal, action):
    body = encode(changed(CALLBACK, "context", "action", to=action))
    refused = await refusal(body, action=action)
    assert (refused.code, refused.http_status) == ("NET_NOT_IMPLEMENTED", 400)


# --- 7: schema ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "code", "path"),
    [
        pytest.param(
            changed(CALLBACK, "message", "contract", "commitments", 0, "resources", 0, "quantity", to=...),
            "SCH_REQUIRED_FIELD_MISSING",
            "/message/contract/commitments/0/resources/0/quantity",
            id="missing member",
        ),
        pytest.param(
            changed(CALLBACK, "message", "order", to={}),
            "SCH_FIELD_NOT_ALLOWED",
            "/message/order",
            id="member of another version",
        ),
        pytest.param(
            changed(CALLBACK, "context", "messageId", to="no uuid"),
            "SCH_INVALID_FORMAT",
            "/context/messageId",
            id="no uuid",
        ),
    ],
)
async def test_schema__faults_become_refusals_that_name_the_place(refusal, document, code, path):
    refused = await refusal(encode(document))
    assert (refused.code, refused.http_status, refused.path) == (code, 400, path)
    assert path in refused.detail


async def test_schema__many_faults_are_cut_short(refusal):
    document = copy.deepcopy(CALLBACK)
    resource = document["message"]["contract"]["commitments"][0]["resources"][0]
    del resource["quantity"]
    document["message"]["contract"]["commitments"][0]["resources"] = [resource] * 9
    refused = await refusal(encode(document))
    assert refused.path.count(";") == 4
    assert "4 more" in refused.detail


# --- helpers for the route ------------------------------------------------------------------------------


async def test_refusals__carry_the_claimed_message_id(refusal):
    refused = await refusal(encode(changed(CALLBACK, "context", "action", to="on_init")))
    assert refused.facts["message_id"] == vectors.R2_MESSAGE_ID


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"context":{}}',
        b'{"context":{"messageId":7}}',
        b'{"context":{"messageId":"' + b"x" * 200 + b'"}}',
        b"[" * 100_000,
    ],
    ids=range(7),
)
def test_claimed_message_id__is_none_where_it_cannot_be_read(body):
    assert claimed_message_id(body) is None


async def test_signed_twice__both_sendings_count_for_the_fourth_line(receive):
    again = BAP.authorization(vectors.R2.body, now=NOW)
    sent = [*SENT[vectors.R2_MESSAGE_ID], (bare_signature(again), again)]
    header = BPP.authorization(vectors.C1_BODY, now=NOW, request_signature=bare_signature(again))
    assert (await receive(header=header, sent_signatures=lambda _: sent)).variant == "4-line-bare"
