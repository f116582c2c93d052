"""Keys from a registry: only the record asked for, only while valid, one question at a time."""

import asyncio
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from vectors import beckn_signatures as vectors

from gateway.beckn.client import HttpAnswer
from gateway.beckn.resolver import Participant, RegistryClient, StaticKeys, read_record
from gateway.beckn.signing import (
    MalformedKey,
    Signer,
    decode_public_key,
    digest,
    parse_authorization,
    verify_signature,
)
from gateway.errors import BecknRefusal, PeerUnavailable

START = datetime(2026, 1, 1, tzinfo=UTC)
BASE = "https://registry.example"
SELLER = "bpp.agg.example"


class SteppingClock:
    """Wall time that moves when told to."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def step(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class FakeRegistry:
    """Stands in for the HTTP port: answers what it is told to and remembers what it was asked."""

    def __init__(self, clock: SteppingClock) -> None:
        self.clock = clock
        self.records: object = []
        self.status = 200
        self.down = False
        self.gate: asyncio.Event | None = None
        self.asked: list[tuple[str, dict, dict, bytes]] = []

    async def post(self, url, body, headers, *, max_bytes=None):
        self.asked.append((url, msgspec.json.decode(body), dict(headers), body))
        if self.gate is not None:
            await self.gate.wait()
        if self.down:
            raise PeerUnavailable("connection refused", retryable=True, retry_after_s=None)
        answer = self.records if isinstance(self.records, bytes) else msgspec.json.encode(self.records)
        return HttpAnswer(status=self.status, headers={}, body=answer, sent_at=self.clock())


def record(**changes):
    """A seller's record as registries publish it."""
    fields = {
        "subscriber_id": SELLER,
        "key_id": "k1",
        "url": "https://bpp.agg.example/beckn",
        "type": "BPP",
        "domain": "demand-flexibility",
        "signing_public_key": vectors.BPP_PUBLIC,
        "encr_public_key": "unused",
        "valid_from": "2025-01-01T00:00:00Z",
        "valid_until": "2027-01-01T00:00:00.000+00:00",
        "status": "SUBSCRIBED",
        "created": "2025-01-01T00:00:00Z",
    }
    fields.update(changes)
    return {name: value for name, value in fields.items() if value is not None}


@pytest.fixture
def clock():
    return SteppingClock()


@pytest.fixture
def registry(clock):
    return FakeRegistry(clock)


@pytest.fixture
def client(registry, clock):
    return RegistryClient(BASE + "/", registry, clock)


async def test_key__asks_for_the_two_ids_and_reads_the_record(client, registry):
    registry.records = [record(serves=["FDR_001"])]
    found = await client.key(SELLER, "k1")
    assert found.public_key == decode_public_key(vectors.BPP_PUBLIC)
    assert (found.url, found.type, found.serves) == ("https://bpp.agg.example/beckn", "BPP", ("FDR_001",))
    url, asked, headers, _ = registry.asked[0]
    assert (url, asked, headers) == (
        f"{BASE}/lookup",
        {"subscriber_id": SELLER, "key_id": "k1"},
        {},
    )


async def test_key__signs_the_question_where_a_registry_wants_that(registry, clock):
    registry.records = [record()]
    signer = Signer.from_private(vectors.BAP_SEED, "bap.flex.example", "k1")
    await RegistryClient(BASE, registry, clock, signer=signer).key(SELLER, "k1")
    _, _, headers, body = registry.asked[0]
    parsed = parse_authorization(headers["Authorization"])
    assert verify_signature(parsed, digest(body), decode_public_key(vectors.BAP_PUBLIC)) == "3-line"


@pytest.mark.parametrize(
    "aliases",
    [
        {"key_id": None, "unique_key_id": "k1", "url": None, "subscriber_url": "https://x.example"},
        {"key_id": None, "ukId": "k1"},
        {"key_id": None, "pub_key_id": "k1"},
        {"signing_public_key": "MCowBQYDK2VwAyEA" + vectors.BPP_PUBLIC},
    ],
    ids=["unique_key_id and subscriber_url", "ukId", "pub_key_id", "SPKI key"],
)
async def test_key__knows_the_names_and_forms_met_in_practice(client, registry, aliases):
    registry.records = [record(**aliases)]
    found = await client.key(SELLER, "k1")
    assert found.public_key == decode_public_key(vectors.BPP_PUBLIC)
    assert found.url.startswith("https://")


@pytest.mark.parametrize(
    "others",
    [
        pytest.param([], id="nothing"),
        pytest.param([record(subscriber_id="bpp.other.example")], id="another subscriber"),
        pytest.param([record(key_id="k2")], id="another key"),
        pytest.param([record(signing_public_key="AAAA")], id="key of 3 bytes"),
        pytest.param([record(signing_public_key=None)], id="no key"),
        pytest.param([record(valid_until="2027-01-01T00:00:00")], id="instant without a zone"),
        pytest.param([record(url=None)], id="no url"),
        pytest.param(["text", None, 7], id="no objects"),
    ],
)
async def test_key__is_unknown_where_no_record_is_the_one_asked_for(client, registry, others):
    registry.records = others
    assert await client.key(SELLER, "k1") is None


async def test_key__picks_the_record_asked_for_whatever_the_order(client, registry):
    registry.records = [record(key_id="k0", signing_public_key=vectors.BAP_PUBLIC), record()]
    assert (await client.key(SELLER, "k1")).signing_public_key == vectors.BPP_PUBLIC


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        pytest.param({"status": "UNSUBSCRIBED"}, "UNSUBSCRIBED", id="unsubscribed"),
        pytest.param({"status": "INITIATED"}, "INITIATED", id="not yet subscribed"),
        pytest.param({"status": "INVALID_SSL"}, "INVALID_SSL", id="invalid certificate"),
        pytest.param({"status": "subscribed"}, "subscribed", id="another spelling"),
        pytest.param({"status": None}, "none", id="no status"),
        pytest.param({"valid_from": "2026-01-01T00:00:01Z"}, "valid from 2026", id="not yet valid"),
        pytest.param({"valid_until": "2026-01-01T00:00:00Z"}, "valid until 2026", id="no longer valid"),
    ],
)
async def test_key__refuses_a_record_that_must_not_be_used(client, registry, changes, detail):
    registry.records = [record(**changes)]
    for _ in range(2):
        with pytest.raises(BecknRefusal, match=detail) as refused:
            await client.key(SELLER, "k1")
        assert (refused.value.code, refused.value.http_status) == ("AUT_KEY_EXPIRED_OR_REVOKED", 401)
    assert len(registry.asked) == 1


async def test_key__prefers_a_usable_record_over_a_revoked_one_of_the_same_key(client, registry):
    registry.records = [record(status="EXPIRED"), record()]
    assert (await client.key(SELLER, "k1")).status == "SUBSCRIBED"


async def test_key__refuses_two_keys_under_one_id(client, registry):
    registry.records = [record(), record(signing_public_key=vectors.BAP_PUBLIC)]
    with pytest.raises(BecknRefusal, match="several keys"):
        await client.key(SELLER, "k1")


async def test_key__prefers_the_type_of_our_peers(registry, clock):
    registry.records = [record(type="BAP"), record(type="BPP")]
    client = RegistryClient(BASE, registry, clock, peer_types=("BPP",))
    assert (await client.key(SELLER, "k1")).type == "BPP"


async def test_key__is_believed_for_five_minutes(client, registry, clock):
    registry.records = [record()]
    await client.key(SELLER, "k1")
    registry.records = []
    clock.step(299)
    assert await client.key(SELLER, "k1") is not None
    assert len(registry.asked) == 1
    clock.step(1)
    assert await client.key(SELLER, "k1") is None
    assert len(registry.asked) == 2


async def test_key__is_never_believed_past_its_validity(client, registry, clock):
    registry.records = [record(valid_until="2026-01-01T00:01:00Z")]
    await client.key(SELLER, "k1")
    clock.step(59)
    await client.key(SELLER, "k1")
    assert len(registry.asked) == 1
    clock.step(1)
    with pytest.raises(BecknRefusal, match="valid until"):
        await client.key(SELLER, "k1")
    assert len(registry.asked) == 2


async def test_key__unknown_stays_unknown_for_half_a_minute(client, registry, clock):
    assert await client.key(SELLER, "k1") is None
    registry.records = [record()]
    clock.step(29)
    assert await client.key(SELLER, "k1") is None
    assert len(registry.asked) == 1
    clock.step(1)
    assert await client.key(SELLER, "k1") is not None


async def test_key__refresh_asks_again_but_not_at_a_forgers_pace(client, registry, clock):
    registry.records = [record()]
    await client.key(SELLER, "k1")
    registry.records = [record(signing_public_key=vectors.BAP_PUBLIC)]
    clock.step(9)
    assert (await client.key(SELLER, "k1", refresh=True)).signing_public_key == vectors.BPP_PUBLIC
    clock.step(1)
    assert (await client.key(SELLER, "k1", refresh=True)).signing_public_key == vectors.BAP_PUBLIC
    assert (await client.key(SELLER, "k1", refresh=True)).signing_public_key == vectors.BAP_PUBLIC
    assert len(registry.asked) == 2


async def test_key__a_refresh_that_finds_the_key_revoked_forgets_it(client, registry, clock):
    registry.records = [record()]
    await client.key(SELLER, "k1")
    registry.records = [record(status="UNSUBSCRIBED")]
    clock.step(10)
    with pytest.raises(BecknRefusal):
        await client.key(SELLER, "k1", refresh=True)
    with pytest.raises(BecknRefusal):
        await client.key(SELLER, "k1")


async def test_key__concurrent_questions_share_one_request(client, registry):
    registry.records = [record()]
    registry.gate = asyncio.Event()
    waiting = [asyncio.create_task(client.key(SELLER, "k1")) for _ in range(20)]
    other = asyncio.create_task(client.key(SELLER, "k2"))
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    registry.gate.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert {each.key_id for each in results[1:]} == {"k1"}
    assert await other is None
    assert len(registry.asked) == 2


async def test_key__a_failed_shared_request_fails_all_and_is_tried_again_later(client, registry):
    registry.down = True
    results = await asyncio.gather(client.key(SELLER, "k1"), client.key(SELLER, "k1"), return_exceptions=True)
    assert [type(each) for each in results] == [PeerUnavailable, PeerUnavailable]
    assert len(registry.asked) == 1
    registry.down, registry.records = False, [record()]
    assert await client.key(SELLER, "k1") is not None


async def test_key__outage_spares_fresh_keys_and_fails_stale_ones(client, registry, clock):
    registry.records = [record()]
    await client.key(SELLER, "k1")
    registry.down = True
    clock.step(299)
    assert await client.key(SELLER, "k1") is not None
    clock.step(1)
    with pytest.raises(PeerUnavailable):
        await client.key(SELLER, "k1")


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        pytest.param(500, b"[]", id="server error"),
        pytest.param(401, b"[]", id="not allowed to ask"),
        pytest.param(200, b"<html>", id="no JSON"),
        pytest.param(200, b'{"message":{"ack":{"status":"NACK"}}}', id="no array"),
    ],
)
async def test_key__a_useless_answer_proves_nothing(client, registry, status, answer):
    registry.status, registry.records = status, answer
    with pytest.raises(PeerUnavailable, match=r"registry\.example"):
        await client.key(SELLER, "k1")


async def test_key__not_found_means_unknown(client, registry):
    registry.status, registry.records = 404, b"not found"
    assert await client.key(SELLER, "k1") is None


async def test_key__made_up_ids_do_not_push_real_keys_out(registry, clock):
    client = RegistryClient(BASE, registry, clock, max_cached_keys=3)
    registry.records = [record()]
    await client.key(SELLER, "k1")
    for number in range(10):
        assert await client.key(f"made-up-{number}.example", "k1") is None
    asked = len(registry.asked)
    assert await client.key(SELLER, "k1") is not None
    assert len(registry.asked) == asked
    assert await client.key("made-up-9.example", "k1") is None
    assert len(registry.asked) == asked
    assert await client.key("made-up-0.example", "k1") is None
    assert len(registry.asked) == asked + 1


async def test_participants__lists_one_usable_record_per_subscriber_in_order(client, registry):
    registry.records = [
        record(subscriber_id="c.example", status="EXPIRED"),
        record(subscriber_id="b.example", key_id="new", valid_from="2025-06-01T00:00:00Z"),
        record(subscriber_id="b.example", key_id="old"),
        record(subscriber_id="a.example"),
        record(subscriber_id="d.example", type="BAP"),
        record(subscriber_id="e.example", domain="retail"),
        record(subscriber_id="f.example", signing_public_key="AA=="),
    ]
    found = await client.participants("BPP", domain="demand-flexibility")
    assert [(each.subscriber_id, each.key_id) for each in found] == [
        ("a.example", "k1"),
        ("b.example", "new"),
    ]
    assert registry.asked[0][1] == {"type": "BPP", "domain": "demand-flexibility"}


async def test_participants__spares_the_first_callback_a_lookup(client, registry):
    registry.records = [record()]
    await client.participants()
    assert await client.key(SELLER, "k1") is not None
    assert len(registry.asked) == 1


async def test_subscribe__sends_our_record_signed_with_the_key_it_names(client, registry):
    registry.records = {"status": "UNDER_SUBSCRIPTION"}
    signer = Signer.from_private(vectors.BAP_SEED, "bap.flex.example", "k1")
    status = await client.subscribe(
        signer,
        url="https://bap.flex.example/beckn",
        type="BAP",
        domain="demand-flexibility",
        valid_from=START,
        valid_until=START + timedelta(days=365),
        serves=("FDR_001",),
    )
    assert status == "UNDER_SUBSCRIPTION"
    url, sent, headers, body = registry.asked[0]
    assert url == f"{BASE}/subscribe"
    assert sent.pop("nonce")
    assert sent == {
        "subscriber_id": "bap.flex.example",
        "key_id": "k1",
        "url": "https://bap.flex.example/beckn",
        "type": "BAP",
        "domain": "demand-flexibility",
        "signing_public_key": vectors.BAP_PUBLIC,
        "valid_from": "2026-01-01T00:00:00Z",
        "valid_until": "2027-01-01T00:00:00Z",
        "serves": ["FDR_001"],
        "version": "2.0.0",
    }
    parsed = parse_authorization(headers["Authorization"])
    verify_signature(parsed, digest(body), decode_public_key(sent["signing_public_key"]))


async def test_subscribe__says_why_the_registry_refused(client, registry):
    registry.status, registry.records = 401, {"detail": "sign with a key on file"}
    signer = Signer.from_private(vectors.BAP_SEED, "bap.flex.example", "k1")
    with pytest.raises(PeerUnavailable, match="sign with a key on file") as refused:
        await client.subscribe(
            signer, url="https://x", type="BAP", domain="d", valid_from=START, valid_until=START
        )
    assert refused.value.facts["retryable"] is False
    assert refused.value.facts["status"] == 401


def pin(**changes) -> Participant:
    return read_record(record(**changes))


async def test_static_keys__find_pins_and_nothing_else(clock):
    keys = StaticKeys([pin(), pin(subscriber_id="a.example")], clock)
    assert await keys.key(SELLER, "k1", refresh=True) == pin()
    assert await keys.key(SELLER, "k2") is None
    assert [each.subscriber_id for each in await keys.participants()] == ["a.example", SELLER]
    assert await keys.participants("BAP") == ()


async def test_static_keys__expire_too(clock):
    keys = StaticKeys([pin(valid_until="2026-01-01T00:01:00Z")], clock)
    assert await keys.key(SELLER, "k1") is not None
    clock.step(60)
    with pytest.raises(BecknRefusal):
        await keys.key(SELLER, "k1")
    assert await keys.participants() == ()


def test_read_record__refuses_what_is_no_record():
    with pytest.raises(msgspec.ValidationError):
        read_record([])
    with pytest.raises(MalformedKey):
        read_record(record(signing_public_key="AAAA"))


@pytest.mark.parametrize(
    ("serves", "place", "expected"),
    [((), "F1", True), (("F1", "F2"), "F1", True), (("F2",), "F1", False)],
    ids=["everywhere", "named", "not named"],
)
def test_participant__serves(serves, place, expected):
    assert pin(serves=list(serves)).serves_place(place) is expected
