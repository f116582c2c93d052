"""Whatever is sent to the Beckn receiver and to POST /telemetry: a 4xx at once, never a 5xx, no effect.

Seeded and repeatable. ``make fuzz`` runs it for longer: FLUXEON_FUZZ_CASES and FLUXEON_FUZZ_SEED set how
many cases each test tries, and which.
"""

import contextlib
import gzip
import json
import os
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import uuid4

import pytest
from aiohttp import web
from fuzzing import (
    NASTY_HEADERS,
    NASTY_TYPES,
    call,
    spoil_document,
    spoil_text,
    spoilt_body,
)
from wire_samples import built_documents, full_documents, sample_offer, sample_terms, sample_view

from gateway.beckn.dialect import V1
from gateway.beckn.envelope import AnswerKind, parse_answer
from gateway.beckn.signing import Signer, generate_private_key
from gateway.beckn.strictjson import decode_strictly
from gateway.clock import rfc3339, utc_now
from gateway.config import Settings
from gateway.errors import BecknRefusal, InvalidRequest
from gateway.telemetry.reading import parse_batch
from gateway.types import ContractStatus

# What Litestar 3 will want spelled otherwise, it says once per handler: no matter here.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CASES = int(os.environ.get("FLUXEON_FUZZ_CASES", "1500"))
SEED = int(os.environ.get("FLUXEON_FUZZ_SEED", "20260105"))
OWN_ID, SELLER_ID = "bap.fuzz.example", "bpp.fuzz.example"
TOKEN = "fuzz-admin-token-0123456789"
PROMPT_S = 0.050
"""CPU time of a refusal; the slowest of thousands may meet a garbage collection."""
TELEMETRY = {
    "readings": [
        {
            "feeder_id": "FDR_001",
            "timestamp": "2026-01-05T17:15:00Z",
            "load_kw": 312.4,
            "voltage_v": 230.1,
            "current_a": 451.0,
            "temperature_c": 4.5,
            "holiday_flag": False,
            "event_flag": False,
        },
        {"feeder_id": "FDR_002", "timestamp": "2026-01-05T17:30:00+01:00", "load_kw": -3},
    ]
}
OPEN = [("Content-Type", "application/json"), ("Authorization", f"Bearer {TOKEN}")]


@pytest.fixture
def signer():
    return Signer.from_private(generate_private_key(), SELLER_ID, "k1")


@contextlib.asynccontextmanager
async def started(tmp_path, signer):
    """The application, started, with a registry that knows one seller."""
    from gateway.app import create_app

    now = utc_now()
    record = {
        "subscriber_id": SELLER_ID,
        "key_id": "k1",
        "url": "http://127.0.0.1:9/beckn",
        "type": "BPP",
        "domain": "elsewhere",
        "signing_public_key": signer.public_key,
        "valid_from": rfc3339(now - timedelta(hours=1)),
        "valid_until": rfc3339(now + timedelta(hours=9)),
        "status": "SUBSCRIBED",
    }

    async def lookup(request):
        asked = await request.json()
        known = asked.get("subscriber_id") == SELLER_ID and asked.get("key_id") == "k1"
        return web.json_response([record] if known else [])

    async def subscribe(request):
        return web.json_response({"status": "SUBSCRIBED"})

    registry = web.Application()
    registry.router.add_post("/lookup", lookup)
    registry.router.add_post("/subscribe", subscribe)
    runner = web.AppRunner(registry, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    settings = Settings(
        data_dir=str(tmp_path),
        subscriber_id=OWN_ID,
        registry_url=f"http://127.0.0.1:{runner.addresses[0][1]}",
        admin_token=TOKEN,
    )
    try:
        app = create_app(settings, public_url="http://127.0.0.1:1")
        async with app.lifespan():
            yield app
    finally:
        await runner.cleanup()


def callbacks():
    """Right messages by callback, addressed to the gateway: as we build them, and with every member."""
    documents = {}
    every, built = full_documents(), built_documents()
    for action in sorted(each for each in every if each.startswith("on_")):
        documents[action] = [every[action], *built.get(action, ())]
        for document in documents[action]:
            document["context"] |= {"bapId": OWN_ID, "bppId": SELLER_ID, "bppUri": "http://127.0.0.1:9/beckn"}
    for action, message in older_callbacks():
        context = {
            "domain": "elsewhere",
            "action": action,
            "version": "1.1.1",
            "bap_id": OWN_ID,
            "bap_uri": "http://127.0.0.1:1/beckn",
            "bpp_id": SELLER_ID,
            "bpp_uri": "http://127.0.0.1:9/beckn",
            "transaction_id": str(uuid4()),
            "message_id": str(uuid4()),
            "ttl": "PT30S",
        }
        documents.setdefault(action, []).append({"context": context, "message": message})
    return documents


def older_callbacks():
    """Callbacks in the words of v1.1."""
    yield "on_search", V1.on_discover_message((sample_offer(),))
    for action in ("on_select", "on_init", "on_confirm", "on_status", "on_update", "on_cancel"):
        for status in ContractStatus:
            yield action, V1.contract_message(sample_terms(), sample_view(status))


def signed(random, signer, body):
    """Headers of a message: mostly right, else wrong in one way or several."""
    value = signer.authorization(body, now=utc_now())
    headers = [("Content-Type", "application/json")]
    kind = random.randrange(10)
    if kind == 0:
        value = spoil_text(random, value)
    elif kind == 1:
        value = random.choice(NASTY_HEADERS)
    elif kind == 2:
        headers = [("Content-Type", random.choice(NASTY_TYPES))]
    elif kind == 3:
        headers.append(("Authorization", value))
    if random.randrange(12) == 0:
        headers.append(("X-Gateway-Authorization", random.choice([value, *NASTY_HEADERS])))
    if random.randrange(30) == 0:
        headers.append(("Content-Encoding", "gzip"))
    if random.randrange(30) == 0:
        headers.append(("Content-Length", random.choice(("-1", "x", "9" * 30, "99999999"))))
    return [*headers, ("Authorization", value)]


async def entries(app):
    """How many entries the journal has."""
    answer = await call(app, "/audit/entries", b"", OPEN, method="GET")
    return answer.body.count(b'"seq"')


async def test_no_message_makes_the_beckn_receiver_fail(tmp_path, signer):
    async with started(tmp_path, signer) as gateway:
        await fuzz_beckn(gateway, signer)


async def fuzz_beckn(gateway, signer):
    random, documents = Random(SEED), callbacks()
    before = await entries(gateway)
    slow, taken, codes = [], 0, set()
    for number in range(CASES):
        action = random.choice([*documents, "select", "frobnicate"])
        document = random.choice(documents.get(action) or random.choice(list(documents.values())))
        document["context"]["timestamp"] = rfc3339(utc_now())
        if random.randrange(3):
            name = "messageId" if "messageId" in document["context"] else "message_id"
            document["context"][name] = str(uuid4())
        body = spoilt_body(random, document)
        answer = await call(
            gateway, f"/beckn/{action}", body, signed(random, signer, body), pieces=random.randint(1, 5)
        )
        said = parse_answer(answer.status, answer.body)
        assert answer.status == 200 or 400 <= answer.status < 500, (number, action, body[:300], answer)
        assert said.kind is (AnswerKind.ACK if answer.status == 200 else AnswerKind.NACK), (number, answer)
        assert said.code or answer.status == 200, (number, answer)
        assert (
            ("www-authenticate" in answer.headers)
            or ("proxy-authenticate" in answer.headers)
            or (answer.status != 401)
        )
        taken += answer.status == 200
        codes.add(said.code)
        slow += [answer.cpu_s] if answer.cpu_s > PROMPT_S else []
    # The cases reach every layer: header, key, JSON, context, schema, correlation.
    unmet = {
        "AUT_SIGNATURE_MISSING",
        "AUT_SIGNATURE_INVALID",
        "AUT_SUBSCRIBER_NOT_FOUND",
        "AUT_UNAUTHORIZED_ACTION",
        "SCH_INVALID_JSON",
        "SCH_INVALID_FORMAT",
        "SCH_TYPE_NOT_SUPPORTED",
        "CTX_MISSING_FIELD",
        "CTX_ACTION_MISMATCH",
        "CTX_MESSAGE_ID_UNKNOWN",
        "CTX_TRANSACTION_ID_UNKNOWN",
        "30000",
    } - codes
    assert not unmet, unmet
    # Nothing was asked of this seller: nothing it says may be believed.
    assert taken == 0
    assert await entries(gateway) == before
    assert len(slow) <= CASES / 200, sorted(slow)[-5:]


async def test_no_batch_makes_telemetry_fail(tmp_path, signer):
    async with started(tmp_path, signer) as gateway:
        await fuzz_telemetry(gateway)


async def fuzz_telemetry(gateway):
    random = Random(SEED + 1)
    rating = json.dumps({"rating_kw": 400.0}).encode()
    for feeder_id in ("FDR_001", "FDR_002"):
        done = await call(gateway, f"/config/feeders/{feeder_id}", rating, OPEN, method="PUT")
        assert done.status == 200, done
    slow, statuses = [], set()
    for number in range(CASES):
        batch = json.loads(json.dumps(TELEMETRY))
        for reading in batch["readings"]:
            at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=15 * random.randrange(4000))
            reading["timestamp"] = rfc3339(at)
        body = spoilt_body(random, random.choice((batch, batch["readings"], batch["readings"][0])))
        headers = OPEN if random.randrange(10) else [("Content-Type", random.choice(NASTY_TYPES)), OPEN[1]]
        answer = await call(gateway, "/telemetry", body, headers, pieces=random.randint(1, 3))
        assert answer.status == 200 or 400 <= answer.status < 500, (number, body[:300], answer)
        document = json.loads(answer.body)
        assert "accepted" in document if answer.status == 200 else document["code"], (number, answer)
        statuses.add(answer.status)
        if answer.status != 200 and answer.cpu_s > PROMPT_S:
            slow.append(answer.cpu_s)
    assert {200, 400, 415, 422} <= statuses
    assert len(slow) <= CASES / 200, sorted(slow)[-5:]


BAD_BODIES = {
    "empty": b"",
    "not JSON": b"<xml/>",
    "nothing but brackets": b"[" * 1_000_000,
    "objects in objects": b'{"a":' * 200_000,
    "closed nesting": b"[" * 100_000 + b"]" * 100_000,
    "not UTF-8": b'{"readings":"\xff\xfe"}',
    "NaN": b'[{"feeder_id":"F","timestamp":"2026-01-05T17:15:00Z","load_kw":NaN}]',
    "Infinity": b'[{"feeder_id":"F","timestamp":"2026-01-05T17:15:00Z","load_kw":Infinity}]',
    "beyond a double": b'[{"feeder_id":"F","timestamp":"2026-01-05T17:15:00Z","load_kw":1e999}]',
    "a million digits": b'{"load_kw":' + b"9" * 1_000_000 + b"}",
    "a key twice": b'{"readings":[],"readings":[1]}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "half a surrogate": b'["\\ud800"]',
    "a number": b"7",
    "null": b"null",
    "a hundred thousand empty readings": b"[" + b"{}," * 100_001 + b"{}]",
    "a gzip bomb": gzip.compress(b"0" * 10_000_000),
}


async def quickest(app, path, body, headers, *, pieces=1):
    """The same request three times; the quickest answer."""
    answers = [await call(app, path, body, headers, pieces=pieces) for _ in range(3)]
    return min(answers, key=lambda answer: answer.cpu_s)


async def test_a_bad_body_is_refused_at_once_on_both_paths(tmp_path, signer):
    async with started(tmp_path, signer) as gateway:
        for name, body in BAD_BODIES.items():
            telemetry = await quickest(gateway, "/telemetry", body, OPEN)
            assert 400 <= telemetry.status < 500, (name, telemetry)
            assert telemetry.cpu_s < PROMPT_S, (name, telemetry)
            proof = ("Authorization", signer.authorization(body, now=utc_now()))
            for headers in ([OPEN[0], proof], OPEN[:1]):
                beckn = await quickest(gateway, "/beckn/on_status", body, headers)
                assert 400 <= beckn.status < 500, (name, beckn)
                assert parse_answer(beckn.status, beckn.body).kind is AnswerKind.NACK, (name, beckn)
                assert beckn.cpu_s < PROMPT_S, (name, beckn)


async def test_what_is_not_plain_json_is_refused_by_its_headers(tmp_path, signer):
    body = json.dumps(TELEMETRY).encode()
    async with started(tmp_path, signer) as gateway:
        for strange in (("Content-Encoding", "gzip"), ("Content-Type", "text/csv")):
            headers = [*(each for each in OPEN if each[0] != strange[0]), strange]
            assert (await call(gateway, "/telemetry", body, headers)).status == 415
            answer = await call(gateway, "/beckn/on_status", body, headers)
            assert (answer.status, parse_answer(answer.status, answer.body).code) == (
                415,
                "SCH_INVALID_FORMAT",
            )


async def test_a_body_over_its_actions_limit_is_cut_off(tmp_path, signer):
    async with started(tmp_path, signer) as gateway:
        for action, limit in (("on_status", 2**20), ("on_discover", 2**23)):
            body = b'{"a":"' + b"x" * limit + b'"}'
            for length in ([("Content-Length", str(len(body)))], []):
                answer = await quickest(gateway, f"/beckn/{action}", body, [OPEN[0], *length], pieces=200)
                assert answer.status == 413
                assert answer.cpu_s < PROMPT_S
            small = b'{"a":"' + b"x" * (limit - 100) + b'"}'
            assert (await call(gateway, f"/beckn/{action}", small, [OPEN[0]], pieces=200)).status == 401


def test_the_strict_decoder_never_fails_otherwise_than_by_refusal():
    random, documents = Random(SEED + 2), [each for kind in callbacks().values() for each in kind]
    codes = set()
    for _ in range(CASES * 2):
        body = spoilt_body(random, random.choice(documents))
        try:
            decoded = decode_strictly(body)
        except BecknRefusal as refusal:
            codes.add(refusal.code)
            continue
        # What is taken has one reading only, and can be written back.
        assert json.loads(body) == decoded
        json.dumps(decoded, allow_nan=False).encode()
    assert codes == {"SCH_INVALID_JSON"}


def test_the_batch_parser_never_fails_otherwise_than_by_refusal():
    random = Random(SEED + 3)
    refused = 0
    for _ in range(CASES):
        body = json.dumps(spoil_document(random, TELEMETRY)).encode()
        try:
            assert parse_batch(body)
        except InvalidRequest:
            refused += 1
    assert 0 < refused < CASES
