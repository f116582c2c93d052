"""Every message of a short real run against the official v2.0.0 document, where a copy is at hand."""

from collections import Counter
from pathlib import Path

import pytest
from harness import journalled_messages
from official import official_validators
from short_run import ShortRun

from fluxeon.audit import own_key
from gateway.beckn.signing import (
    bare_signature,
    decode_public_key,
    digest,
    parse_authorization,
    verify_signature,
)

pytestmark = pytest.mark.slow

SPOKEN = {"discover", "select", "init", "confirm", "status", "cancel"}


def test_every_journalled_message__is_valid_by_the_official_document(
    reference_dir: Path, short_run: ShortRun
):
    official = official_validators(reference_dir)
    seen: Counter[str] = Counter()
    for message in journalled_messages(short_run.folder):
        document = message.document
        action = document["context"]["action"]
        official[action].validate(document)
        seen[action] += 1
    assert set(seen) == SPOKEN | {f"on_{action}" for action in SPOKEN}


def test_every_request__has_one_answer(short_run: ShortRun):
    messages = [one.document["context"] for one in journalled_messages(short_run.folder)]
    answered = Counter(
        (context["action"], context["messageId"]) for context in messages if context["action"][:3] == "on_"
    )
    asked = [context for context in messages if context["action"] in SPOKEN]
    assert len({context["messageId"] for context in asked}) == len(asked)
    for context in asked:
        assert answered.pop((f"on_{context['action']}", context["messageId"])) == 1
    # What is left nobody asked for: reports of sellers.
    assert {action for action, _ in answered} == {"on_status"}


def test_short_run__delivers_in_both_directions_and_cancels(short_run: ShortRun):
    by_feeder: dict[str, set[tuple[str, str]]] = {}
    for order in short_run.orders:
        by_feeder.setdefault(order["feeder_id"], set()).add((order["state"], order["direction"]))
    assert by_feeder == {
        "FDR_001": {("COMPLETED", "REDUCE")},
        "FDR_002": {("COMPLETED", "INCREASE")},
        "FDR_003": {("CANCELLED", "REDUCE")},
    }
    for order in short_run.orders:
        if order["state"] == "COMPLETED":
            assert 0 < order["delivered_kwh"] <= order["requested_kwh"] * 1.06
            assert float(order["payable"]) > 0


def test_every_message__carries_a_signature_that_a_third_party_can_check(short_run: ShortRun):
    """From the journal alone, with the public keys: the bytes kept are the bytes that were signed."""
    own = own_key(short_run.folder)
    signatures: dict[str, list[tuple[str, str]]] = {}
    variants: Counter[str] = Counter()
    for message in journalled_messages(short_run.folder):
        header = message.facts["headers"]["authorization"]
        parsed = parse_authorization(header)
        message_id = message.document["context"]["messageId"]
        if message.sent:
            assert parsed.key_id == own.key_id
            verify_signature(parsed, digest(message.content), decode_public_key(own.public_key), ())
            signatures.setdefault(message_id, []).append((bare_signature(header), header))
            continue
        recorded = message.facts["signature"]
        assert parsed.subscriber_id == message.facts["peer_id"] == message.document["context"]["bppId"]
        variant = verify_signature(
            parsed,
            digest(message.content),
            decode_public_key(recorded["public_key"]),
            signatures.get(message_id, ()),
        )
        assert variant == recorded["variant"]
        variants[variant] += 1
    assert set(variants) == {"4-line-bare", "3-line"}
