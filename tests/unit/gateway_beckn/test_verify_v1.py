"""Inbound messages of the older generation: accepted beside v2.0.0, refused in their own words."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from vectors import beckn_signatures as vectors
from wire_samples import sample_terms, sample_view
from wire_samples_v1 import document

from gateway.beckn.dialect import V1, V2, Generation, Languages
from gateway.beckn.model import PeerError
from gateway.beckn.resolver import Participant, StaticKeys
from gateway.beckn.signing import Signer
from gateway.beckn.verify import claimed_message_id, verify_inbound
from gateway.errors import BecknRefusal
from gateway.types import ContractStatus

NOW = datetime(2026, 1, 1, 0, 0, 5, tzinfo=UTC)
BAP = Signer.from_private(vectors.BAP_SEED, vectors.BAP_ID, vectors.KEY_ID)
BPP = Signer.from_private(vectors.BPP_SEED, vectors.BPP_ID, vectors.KEY_ID)
PEERS = tuple(
    Participant(
        subscriber_id=signer.subscriber_id,
        key_id=signer.key_id,
        url=f"https://{signer.subscriber_id}/beckn",
        type=kind,
        signing_public_key=signer.public_key,
        status="SUBSCRIBED",
    )
    for signer, kind in ((BAP, "BAP"), (BPP, "BPP"))
)
ADDRESSED = {
    "bap_id": vectors.BAP_ID,
    "bpp_id": vectors.BPP_ID,
    "timestamp": "2026-01-01T00:00:00Z",
    "ttl": "PT30S",
}


@pytest.fixture(scope="module")
def languages():
    return Languages.load()


@pytest.fixture
def receive(languages):
    """Verify as a buyer of both generations."""

    async def verify(sent, **changes):
        body = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
        arguments = {
            "action": "on_select",
            "headers": {"Authorization": BPP.authorization(body, now=NOW)},
            "resolver": StaticKeys(PEERS, lambda: NOW),
            "schemas": languages,
            "own_id": vectors.BAP_ID,
            "role": "bap",
            "now": NOW,
        }
        return await verify_inbound(body=body, **{**arguments, **changes})

    return verify


@pytest.fixture
def refusal(receive):
    async def verify(sent, **changes) -> BecknRefusal:
        with pytest.raises(BecknRefusal) as refused:
            await receive(sent, **changes)
        return refused.value

    return verify


def on_select(**context):
    message = V1.contract_message(sample_terms(), sample_view(ContractStatus.DRAFT))
    return document("on_select", message, **{**ADDRESSED, **context})


async def test_search_vector__is_verified(receive):
    verified = await receive(
        vectors.R1.body,
        headers={"Authorization": vectors.R1.header},
        action="search",
        own_id=vectors.BPP_ID,
        role="bpp",
    )
    assert (verified.dialect, verified.verb, verified.action) == (V1, "discover", "search")
    assert verified.context.bpp_id is None
    assert verified.context.version == "1.1.1"


@pytest.mark.parametrize("version", ["1.1.0", "1.1.1"])
async def test_callback__is_verified_beside_v2(receive, version):
    verified = await receive(on_select(version=version))
    assert (verified.dialect, verified.context.version, verified.error) == (V1, version, None)
    assert verified.context.location == {"country": {"code": "GBR"}, "city": {"code": "*"}}
    assert (await receive(vectors.C1_BODY)).dialect is V2


async def test_callback__may_chain_to_its_request(receive):
    sent = on_select()
    body = json.dumps(sent).encode()
    header = BPP.authorization(body, now=NOW, request_signature=vectors.R1.signature)
    asked = {sent["context"]["message_id"]: [(vectors.R1.signature, vectors.R1.header)]}
    verified = await receive(
        body, headers={"Authorization": header}, sent_signatures=lambda message_id: asked.get(message_id, [])
    )
    assert verified.variant == "4-line-bare"


async def test_callback__may_hold_an_error_instead_of_a_message(receive, refusal):
    sent = on_select()
    del sent["message"]
    assert (await refusal(sent)).path == "/message"
    sent["error"] = {"code": "40002", "message": "sold out"}
    verified = await receive(sent)
    assert verified.message == {}
    assert verified.error == PeerError(code="40002", detail="sold out")


async def test_error_instead_of_a_message__is_not_v2s_way(refusal):
    sent = json.loads(vectors.C1_BODY)
    sent["error"] = sent.pop("message")
    refused = await refusal(sent)
    assert (refused.code, refused.path) == ("SCH_REQUIRED_FIELD_MISSING", "/message")


async def test_ids__may_be_any_text(receive):
    verified = await receive(on_select(transaction_id="df-txn-1001", message_id="m-1"))
    assert verified.context.transaction_id == "df-txn-1001"


@pytest.mark.parametrize(
    ("changes", "code", "path"),
    [
        ({"bap_id": None}, "CTX_MISSING_FIELD", "/context/bap_id"),
        ({"bap_id": "other.example"}, "CTX_INVALID_FIELD", "/context/bap_id"),
        ({"bpp_id": "other.example"}, "AUT_UNAUTHORIZED_ACTION", "/context/bpp_id"),
        ({"message_id": ""}, "CTX_MISSING_FIELD", "/context/message_id"),
        ({"action": "on_init"}, "CTX_ACTION_MISMATCH", "/context/action"),
        ({"version": "1.0.0"}, "CTX_VERSION_UNSUPPORTED", "/context/version"),
        ({"version": None}, "CTX_MISSING_FIELD", "/context/version"),
        ({"ttl": "PT1S"}, "CTX_TTL_EXPIRED", "/context/ttl"),
        ({"ttl": "30"}, "CTX_INVALID_FIELD", "/context/ttl"),
        ({"timestamp": "2026-01-01T00:00:00+00:00Z"}, "CTX_INVALID_FIELD", "/context/timestamp"),
    ],
)
async def test_context__is_refused_by_field_as_v1_spells_it(refusal, changes, code, path):
    refused = await refusal(on_select(**changes))
    assert (refused.code, refused.path) == (code, path)


async def test_version__says_which_are_spoken(refusal, languages):
    refused = await refusal(on_select(version="0.9.4"))
    assert "2.0.0, 1.1.1 and 1.1.0 are spoken here" in refused.detail
    old = Languages.load([Generation.V1])
    refused = await refusal(vectors.C1_BODY, schemas=old)
    assert "1.1.1 and 1.1.0 are spoken here" in refused.detail
    refused = await refusal(on_select(), schemas=Languages({Generation.V2: languages.schemas(V2)}))
    assert "2.0.0 is spoken here" in refused.detail


async def test_actions__of_the_other_generation_are_not_served(refusal):
    for action, sent in (("on_discover", on_select()), ("on_search", json.loads(vectors.C1_BODY))):
        sent["context"]["action"] = action
        assert (await refusal(sent, action=action)).code == "NET_NOT_IMPLEMENTED"


async def test_schema__faults_name_the_place(refusal):
    sent = on_select()
    sent["message"]["order"]["items"][0]["quantity"]["selected"]["measure"]["value"] = 50
    refused = await refusal(sent)
    assert (refused.code, refused.path) == (
        "SCH_TYPE_NOT_SUPPORTED",
        "/message/order/items/0/quantity/selected/measure/value",
    )


async def test_contract__where_an_order_belongs_is_explained(refusal):
    sent = on_select()
    sent["context"]["action"] = "on_init"
    sent["message"] = {"contract": {}}
    refused = await refusal(sent, action="on_init")
    assert "contract belongs to version 2.0.0" in refused.detail


async def test_every_byte_of_a_message_counts(refusal):
    body = json.dumps(on_select()).encode()
    header = {"Authorization": BPP.authorization(body, now=NOW)}
    for position in range(0, len(body), 97):
        flipped = body[:position] + bytes([body[position] ^ 1]) + body[position + 1 :]
        assert (await refusal(flipped, headers=header)).code == "AUT_SIGNATURE_INVALID"


async def test_expired_signature__is_refused_as_in_v2(refusal):
    refused = await refusal(on_select(), now=NOW + timedelta(hours=1))
    assert (refused.code, refused.challenge) == ("AUT_SIGNATURE_INVALID", True)


def test_claimed_message_id__is_read_in_either_spelling():
    assert claimed_message_id(b'{"context":{"message_id":"a"}}') == "a"
    assert claimed_message_id(b'{"context":{"message_id":"a","messageId":"b"}}') == "b"
