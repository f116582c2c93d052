from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from gateway.beckn.signing import Signer, digest, generate_private_key, parse_authorization
from gateway.errors import InvalidRequest, StoreError
from registry.directory import (
    Conflict,
    Unproven,
    lookup,
    parse_fragment,
    parse_subscription,
    subscribe,
)
from registry.records import RecordFile

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def signer(subscriber_id="bpp-alpha.example", key_id="k1"):
    return Signer.from_private(generate_private_key(), subscriber_id, key_id)


def body(key, **changes):
    document = {
        "subscriber_id": key.subscriber_id,
        "key_id": key.key_id,
        "url": "http://127.0.0.1:9001/beckn",
        "type": "BPP",
        "domain": "demand-flexibility",
        "signing_public_key": key.public_key,
        "nonce": "ignored",
    } | changes
    return msgspec.json.encode({name: value for name, value in document.items() if value is not None})


def filed(directory, key, *, signed_by=None, now=NOW, signed_at=None, **changes):
    """Subscribe and file, as the application does."""
    text = body(key, **changes)
    header = (signed_by or key).authorization(text, now=signed_at or now)
    record = subscribe(
        directory, parse_subscription(text), parse_authorization(header), digest(text), now=now
    )
    directory[record.subscriber_id, record.key_id] = record
    return record


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        pytest.param({"subscriber_id": None}, "subscriber_id", id="missing"),
        pytest.param({"subscriber_id": "a|b"}, "subscriber_id", id="bar in an id"),
        pytest.param({"url": "ftp://x"}, "url", id="url"),
        pytest.param({"type": "BPB"}, "type", id="type"),
        pytest.param({"signing_public_key": "c2hvcnQ="}, "signing_public_key", id="short key"),
        pytest.param({"valid_until": "2026-01-01T00:00:00"}, "valid_until", id="no zone"),
        pytest.param({"serves": ["F1", 2]}, "serves[1]", id="inside a list"),
    ],
)
def test_parse_subscription__names_the_field(changes, field):
    with pytest.raises(InvalidRequest) as caught:
        parse_subscription(body(signer(), **changes))
    assert caught.value.facts["field"] == field


def test_parse_subscription__refuses_what_is_not_json():
    with pytest.raises(InvalidRequest):
        parse_subscription(b"{")


def test_subscribe__files_a_first_record_signed_with_its_own_key():
    directory = {}
    key = signer()
    record = filed(directory, key, serves=["F1"])
    assert record.status == "SUBSCRIBED"
    assert (record.valid_from, record.valid_until) == (NOW, NOW + timedelta(days=365))
    assert record.serves == ("F1",)


def test_subscribe__refuses_a_first_record_signed_with_another_key():
    impostor = signer()
    with pytest.raises(Unproven) as caught:
        filed({}, signer(), signed_by=impostor)
    assert caught.value.facts["field"] == "signing_public_key"


def test_subscribe__refuses_a_signature_of_somebody_else():
    with pytest.raises(Unproven) as caught:
        filed({}, signer(), signed_by=signer("bpp-beta.example"))
    assert caught.value.facts["field"] == "subscriber_id"


def test_subscribe__a_new_key_needs_one_on_file():
    directory = {}
    first, second, third = signer(), signer(key_id="k2"), signer(key_id="k3")
    filed(directory, first)
    with pytest.raises(Unproven):
        filed(directory, second)
    filed(directory, second, signed_by=first)
    filed(directory, third, signed_by=second)
    assert [key_id for _, key_id in directory] == ["k1", "k2", "k3"]


def test_subscribe__a_key_id_never_changes_its_key():
    directory = {}
    first = signer()
    filed(directory, first)
    with pytest.raises(Conflict):
        filed(directory, signer(), signed_by=first)


def test_subscribe__an_expired_key_vouches_for_nobody():
    directory = {}
    first = signer()
    filed(directory, first, valid_until="2026-01-02T00:00:00Z")
    later = NOW + timedelta(days=3)
    with pytest.raises(Unproven):
        filed(directory, signer(key_id="k2"), signed_by=first, now=later)


def test_subscribe__a_replayed_older_request_changes_nothing():
    directory = {}
    key = signer()
    filed(directory, key, now=NOW)
    moved = filed(directory, key, now=NOW + timedelta(seconds=60), url="http://127.0.0.1:9002/beckn")
    assert moved.url.endswith(":9002/beckn")
    assert moved.created == NOW
    with pytest.raises(Conflict):
        filed(directory, key, now=NOW + timedelta(seconds=90), signed_at=NOW)


@pytest.mark.parametrize(
    ("signed_at", "field"),
    [
        pytest.param(NOW - timedelta(minutes=10), "expires", id="expired"),
        pytest.param(NOW + timedelta(seconds=30), "created", id="from the future"),
    ],
)
def test_subscribe__refuses_signatures_of_another_time(signed_at, field):
    with pytest.raises(Unproven) as caught:
        filed({}, signer(), signed_at=signed_at)
    assert caught.value.facts["field"] == field


def test_subscribe__refuses_a_changed_body():
    key = signer()
    text = body(key)
    header = parse_authorization(key.authorization(text, now=NOW))
    changed = text.replace(b":9001", b":9002")
    with pytest.raises(Unproven):
        subscribe({}, parse_subscription(changed), header, digest(changed), now=NOW)


def test_subscribe__refuses_a_validity_that_is_past():
    with pytest.raises(InvalidRequest) as caught:
        filed({}, signer(), valid_until="2025-12-31T00:00:00Z")
    assert caught.value.facts["field"] == "valid_until"


def test_lookup__matches_every_member_of_the_fragment():
    directory = {}
    filed(directory, signer("a.example"), serves=["F1", "F2"])
    filed(directory, signer("b.example"), serves=[])
    filed(directory, signer("c.example"), type="BAP", domain="other", valid_until="2026-01-02T00:00:00Z")

    def found(now=NOW, **fragment):
        text = msgspec.json.encode(fragment)
        return [each.subscriber_id[0] for each in lookup(directory, parse_fragment(text), now=now)]

    assert found() == ["a", "b", "c"]
    assert found(subscriber_id="a.example") == ["a"]
    assert found(subscriber_id="a.example", key_id="k2") == []
    assert found(type="BPP") == ["a", "b"]
    assert found(domain="other") == ["c"]
    assert found(type="BPP", serves="F1") == ["a", "b"]
    assert found(type="BPP", serves="F3") == ["b"]
    assert found(serves=["F1", "F3"], type="BPP") == ["b"]
    assert found(status="SUBSCRIBED", now=NOW + timedelta(days=2)) == ["a", "b"]
    assert found(status="EXPIRED", now=NOW + timedelta(days=2)) == ["c"]


def test_lookup__refuses_a_member_it_does_not_know():
    with pytest.raises(InvalidRequest) as caught:
        parse_fragment(b'{"unique_key_id": "k1"}')
    assert caught.value.facts["field"] == "unique_key_id"


def test_record_file__remembers_in_order(tmp_path):
    file = RecordFile(tmp_path / "registry")
    directory = {}
    records = [filed(directory, signer(f"{name}.example"), serves=["F1"]) for name in "ba"]
    for record in records:
        file.put(record)
    assert list(RecordFile(tmp_path / "registry").records.values()) == records


def test_record_file__a_failed_write_changes_nothing(tmp_path, monkeypatch):
    file = RecordFile(tmp_path)
    first = filed({}, signer("a.example"))
    file.put(first)

    def fail(_handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("registry.records.os.fsync", fail)
    with pytest.raises(StoreError, match="No space"):
        file.put(filed({}, signer("b.example")))
    assert list(file.records.values()) == [first]
    monkeypatch.undo()
    assert list(RecordFile(tmp_path).records.values()) == [first]


def test_record_file__names_a_file_it_cannot_read(tmp_path):
    (tmp_path / "participants.json").write_text("{}")
    with pytest.raises(StoreError, match=r"participants\.json"):
        RecordFile(tmp_path)
