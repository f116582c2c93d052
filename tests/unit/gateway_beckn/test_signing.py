"""Signing strings, headers, keys: checked against vectors made elsewhere, in both directions."""

from base64 import b64decode, b64encode
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vectors import beckn_signatures as vectors

from gateway.beckn import signing
from gateway.beckn.signing import (
    HEADERS_3,
    HEADERS_4,
    MalformedKey,
    ParsedSignature,
    Signer,
    bare_signature,
    challenge,
    counter_signing_string,
    decode_public_key,
    digest,
    generate_private_key,
    parse_authorization,
    signing_string,
    verify_counter_signature,
    verify_signature,
)
from gateway.errors import BecknRefusal

# RFC 8410, section 10: one key as PKCS8, as OneAsymmetricKey with its public half, and as SPKI.
RFC8410_PKCS8 = "MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC"
RFC8410_ONE_ASYMMETRIC_KEY = (
    "MHICAQEwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC"
    "oB8wHQYKKoZIhvcNAQkJFDEPDA1DdXJkbGUgQ2hhaXJzgSEAGb9ECWmEzf6FQbrB"
    "Z9w7lshQhqowtrbLDFw4rXAxZuE="
)
RFC8410_SPKI = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE="

BAP = Signer.from_private(vectors.BAP_SEED, vectors.BAP_ID, vectors.KEY_ID)
BPP = Signer.from_private(vectors.BPP_SEED, vectors.BPP_ID, vectors.KEY_ID)
BAP_KEY = decode_public_key(vectors.BAP_PUBLIC)
BPP_KEY = decode_public_key(vectors.BPP_PUBLIC)
SENT = [(vectors.R2.signature, vectors.R2.header)]

requests = pytest.mark.parametrize(
    "vector",
    [
        pytest.param(vectors.R1, id="R1 v1 search"),
        pytest.param(vectors.R2, id="R2 v2 select, raw UTF-8"),
        pytest.param(vectors.R3, id="R3 empty body"),
    ],
)


def ack(signature: str, headers: str = HEADERS_4) -> ParsedSignature:
    """A parsed Ack header with the times of A1."""
    return ParsedSignature(
        subscriber_id=vectors.BPP_ID,
        key_id=vectors.KEY_ID,
        algorithm="ed25519",
        created=vectors.A1.created,
        expires=vectors.A1.expires,
        headers=headers,
        signature=signature,
    )


def callback(signature: str) -> ParsedSignature:
    """A parsed callback header with the times of C1."""
    return ParsedSignature(
        subscriber_id=vectors.BPP_ID,
        key_id=vectors.KEY_ID,
        algorithm="ed25519",
        created=vectors.C1_CREATED,
        expires=vectors.C1_EXPIRES,
        headers=HEADERS_4,
        signature=signature,
    )


@requests
def test_request_vectors__are_reproduced_byte_for_byte(vector):
    assert digest(vector.body) == vector.digest
    assert signing_string(vector.created, vector.expires, vector.digest) == vector.signing_string
    assert BAP.sign(vector.signing_string) == vector.signature
    assert BAP.header(vector.digest, created=vector.created, expires=vector.expires) == vector.header


@requests
def test_request_vectors__verify(vector):
    parsed = parse_authorization(vector.header)
    assert (parsed.subscriber_id, parsed.key_id) == (vectors.BAP_ID, vectors.KEY_ID)
    assert (parsed.created, parsed.expires) == (vector.created, vector.expires)
    assert parsed.signature == vector.signature == bare_signature(vector.header)
    assert verify_signature(parsed, digest(vector.body), BAP_KEY) == "3-line"


def test_ack_vector__is_reproduced_and_verifies():
    vector = vectors.A1
    text = signing_string(
        vector.created, vector.expires, vector.digest, request_signature=vectors.R2.signature
    )
    assert digest(vector.body) == vector.digest
    assert text == vector.signing_string
    header = BPP.header(
        vector.digest,
        created=vector.created,
        expires=vector.expires,
        request_signature=vectors.R2.signature,
    )
    assert header == vector.header
    assert verify_signature(parse_authorization(header), vector.digest, BPP_KEY, SENT) == "4-line-bare"


def test_ack_vector__verifies_without_the_scheme_word_where_that_is_allowed():
    bare = vectors.A1.header.removeprefix("Signature ")
    parsed = parse_authorization(bare, scheme_optional=True)
    assert parsed == parse_authorization(vectors.A1.header)
    with pytest.raises(BecknRefusal, match="scheme"):
        parse_authorization(bare)


def test_ack_vector__three_line_fallback_is_reproduced_and_verifies_although_four_are_declared():
    vector = vectors.A1
    text = signing_string(vector.created, vector.expires, vector.digest)
    assert BPP.sign(text) == vectors.A1_THREE_LINE_SIGNATURE
    parsed = ack(vectors.A1_THREE_LINE_SIGNATURE)
    assert verify_signature(parsed, vector.digest, BPP_KEY, SENT) == "3-line"
    assert verify_signature(parsed, vector.digest, BPP_KEY) == "3-line"


def test_ack_vector__lts_counter_signature_is_reproduced_and_verifies():
    vector = vectors.A1
    text = counter_signing_string(
        vector.created,
        vector.expires,
        vector.digest,
        request_digest=vectors.R2.digest,
        message_id=vectors.R2_MESSAGE_ID,
    )
    assert BPP.sign(text) == vectors.A1_COUNTER_SIGNATURE
    parsed = ack(vectors.A1_COUNTER_SIGNATURE, signing.HEADERS_COUNTER)
    facts = {"request_digest": vectors.R2.digest, "message_id": vectors.R2_MESSAGE_ID}
    verify_counter_signature(parsed, vector.digest, BPP_KEY, **facts)
    for name, wrong in (("request_digest", vectors.R1.digest), ("message_id", "3")):
        with pytest.raises(BecknRefusal, match="counter-signature"):
            verify_counter_signature(parsed, vector.digest, BPP_KEY, **{**facts, name: wrong})


@pytest.mark.parametrize(
    ("fourth_line", "signature", "variant"),
    [
        pytest.param(vectors.R2.signature, vectors.C1_BARE_SIGNATURE, "4-line-bare", id="bare"),
        pytest.param(
            vectors.R2.header, vectors.C1_WHOLE_HEADER_SIGNATURE, "4-line-whole-header", id="whole header"
        ),
    ],
)
def test_callback_vectors__are_reproduced_and_verify(fourth_line, signature, variant):
    text = signing_string(
        vectors.C1_CREATED, vectors.C1_EXPIRES, vectors.C1_DIGEST, request_signature=fourth_line
    )
    assert digest(vectors.C1_BODY) == vectors.C1_DIGEST
    assert BPP.sign(text) == signature
    earlier_try = (vectors.R1.signature, vectors.R1.header)
    parsed = callback(signature)
    assert verify_signature(parsed, vectors.C1_DIGEST, BPP_KEY, [earlier_try, *SENT]) == variant


@pytest.mark.parametrize(
    "sent", [[], [(vectors.R1.signature, vectors.R1.header)]], ids=["none", "another request"]
)
@pytest.mark.parametrize("signature", [vectors.C1_BARE_SIGNATURE, vectors.C1_WHOLE_HEADER_SIGNATURE])
def test_callback__chained_to_a_request_that_was_not_sent_is_refused(sent, signature):
    with pytest.raises(BecknRefusal) as refused:
        verify_signature(callback(signature), vectors.C1_DIGEST, BPP_KEY, sent)
    assert refused.value.code == "AUT_SIGNATURE_INVALID"


def test_verify_signature__refuses_every_single_bit_flipped_in_the_body():
    parsed = parse_authorization(vectors.R2.header)
    for position in range(len(vectors.R2.body)):
        changed = bytearray(vectors.R2.body)
        changed[position] ^= 1 << position % 8
        with pytest.raises(BecknRefusal) as refused:
            verify_signature(parsed, digest(bytes(changed)), BAP_KEY)
        assert refused.value.http_status == 401


def test_parse_and_verify__refuse_every_character_of_the_header_changed():
    """What the signature does not cover (the ids) must at least name another key."""
    header = vectors.R2.header
    original = parse_authorization(header)

    def accepted(changed: str) -> ParsedSignature | None:
        try:
            parsed = parse_authorization(changed)
            verify_signature(parsed, vectors.R2.digest, BAP_KEY)
        except BecknRefusal:
            return None
        return parsed

    renamed = 0
    for position, now in enumerate(header):
        for replacement in {" ", '"', ",", "|", "=", "0", "9", "A", "s", "\t", chr(ord(now) ^ 1)} - {now}:
            parsed = accepted(header[:position] + replacement + header[position + 1 :])
            if parsed is not None:
                assert (parsed.subscriber_id, parsed.key_id) != (original.subscriber_id, original.key_id)
                renamed += 1
    assert renamed > 0


@given(st.integers(min_value=0, max_value=63), st.integers(min_value=1, max_value=255))
def test_verify_signature__refuses_any_other_signature(position, mask):
    raw = bytearray(b64decode(vectors.R2.signature))
    raw[position] ^= mask
    changed = vectors.R2.header.replace(vectors.R2.signature, b64encode(bytes(raw)).decode())
    with pytest.raises(BecknRefusal):
        verify_signature(parse_authorization(changed), vectors.R2.digest, BAP_KEY)


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_signer__round_trips_any_body_and_no_other(body, other):
    now = datetime(2026, 1, 1, tzinfo=UTC)
    parsed = parse_authorization(BPP.authorization(body, now=now))
    assert verify_signature(parsed, digest(body), BPP_KEY) == "3-line"
    if other != body:
        with pytest.raises(BecknRefusal):
            verify_signature(parsed, digest(other), BPP_KEY)
    with pytest.raises(BecknRefusal):
        verify_signature(parsed, digest(body), BAP_KEY)


def test_signer_authorization__begins_a_second_ago_and_lasts_as_asked():
    now = datetime(2026, 1, 1, 0, 0, 1, 900_000, tzinfo=UTC)
    assert BAP.authorization(vectors.R2.body, now=now) == vectors.R2.header
    short = parse_authorization(BAP.authorization(b"{}", now=now, ttl_s=30))
    assert short.expires - short.created == 30


def test_signer_authorization__chains_an_answer_to_its_request():
    now = datetime(2026, 1, 1, 0, 0, 2, tzinfo=UTC)
    header = BPP.authorization(vectors.A1.body, now=now, request_signature=vectors.R2.signature)
    assert header == vectors.A1.header


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(vectors.R2.header.replace(",", ", "), id="blanks after commas"),
        pytest.param(vectors.R2.header.replace('"1767225600"', "1767225600"), id="unquoted integer"),
        pytest.param(f'"{vectors.R2.header}"', id="stray quotes around the value"),
        pytest.param(
            "Signature " + ",".join(reversed(vectors.R2.header.removeprefix("Signature ").split(","))),
            id="another order",
        ),
    ],
)
def test_parse_authorization__reads_what_peers_are_known_to_send(header):
    parsed = parse_authorization(header)
    assert parsed == parse_authorization(vectors.R2.header)
    assert verify_signature(parsed, vectors.R2.digest, BAP_KEY) == "3-line"


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        pytest.param("Signature keyId", "Bearer keyId", "AUT_SIGNATURE_MISSING", id="another scheme"),
        pytest.param("|k1|", "|", "AUT_SIGNATURE_INVALID", id="keyId of two parts"),
        pytest.param("|k1|", "|k|1|", "AUT_SIGNATURE_INVALID", id="keyId of four parts"),
        pytest.param("|k1|", "||", "AUT_SIGNATURE_INVALID", id="empty key id"),
        pytest.param("|ed25519", "|rsa", "AUT_SIGNATURE_INVALID", id="algorithm in keyId"),
        pytest.param('algorithm="ed25519"', 'algorithm="rsa"', "AUT_SIGNATURE_INVALID", id="algorithm"),
        pytest.param('algorithm="ed25519",', "", "AUT_SIGNATURE_INVALID", id="missing attribute"),
        pytest.param(
            'created="', 'created="1",created="', "AUT_SIGNATURE_INVALID", id="attribute given twice"
        ),
        pytest.param('created="', 'nonce="1",created="', "AUT_SIGNATURE_INVALID", id="unknown attribute"),
        pytest.param("1767225600", "-1", "AUT_SIGNATURE_INVALID", id="negative time"),
        pytest.param("1767225600", "01767225600", "AUT_SIGNATURE_INVALID", id="time with a leading zero"),
        pytest.param("1767225600", "1767225600.0", "AUT_SIGNATURE_INVALID", id="fractional time"),
        pytest.param("1767225600", "\u0661\u0662", "AUT_SIGNATURE_INVALID", id="other digits"),
        pytest.param("1767225600", "9" * 40, "AUT_SIGNATURE_INVALID", id="time beyond all time"),
        pytest.param("lC5yCg==", "lC5yCh==", "AUT_SIGNATURE_INVALID", id="spare bits of base64"),
        pytest.param("lC5yCg==", "lC5yCg", "AUT_SIGNATURE_INVALID", id="unpadded base64"),
        pytest.param("/UUZ", "_UUZ", "AUT_SIGNATURE_INVALID", id="URL-safe base64"),
        pytest.param("lC5yCg==", "", "AUT_SIGNATURE_INVALID", id="short signature"),
        pytest.param("bap.flex", "b" * 5000, "AUT_SIGNATURE_INVALID", id="endless header"),
    ],
)
def test_parse_authorization__refuses(old, new, code):
    assert old in vectors.R2.header
    with pytest.raises(BecknRefusal) as refused:
        parse_authorization(vectors.R2.header.replace(old, new, 1))
    assert (refused.value.code, refused.value.http_status) == (code, 401)
    assert refused.value.challenge


@pytest.mark.parametrize("declared", ["digest", "(created) (expires)", f"{HEADERS_3} host", ""])
def test_verify_signature__refuses_another_list_of_signed_lines(declared):
    header = vectors.R2.header.replace(f'headers="{HEADERS_3}"', f'headers="{declared}"')
    with pytest.raises(BecknRefusal, match="declared"):
        verify_signature(parse_authorization(header), vectors.R2.digest, BAP_KEY)


@pytest.mark.parametrize(
    ("text", "public"),
    [
        pytest.param(vectors.BAP_SEED, vectors.BAP_PUBLIC, id="seed"),
        pytest.param(f" {vectors.BAP_SEED}\n", vectors.BAP_PUBLIC, id="seed with blanks"),
        pytest.param(vectors.BAP_PRIVATE_64, vectors.BAP_PUBLIC, id="seed and public key"),
        pytest.param(RFC8410_PKCS8, RFC8410_SPKI, id="PKCS8 DER"),
        pytest.param(RFC8410_ONE_ASYMMETRIC_KEY, RFC8410_SPKI, id="PKCS8 DER with public key"),
        pytest.param(
            f"-----BEGIN PRIVATE KEY-----\n{RFC8410_PKCS8}\n-----END PRIVATE KEY-----\n",
            RFC8410_SPKI,
            id="PKCS8 PEM",
        ),
    ],
)
def test_signer_from_private__reads_every_encoding(text, public):
    signer = Signer.from_private(text, "a.example", "k1")
    assert decode_public_key(signer.public_key) == decode_public_key(public)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("not base64!", id="no base64"),
        pytest.param(b64encode(bytes(31)).decode(), id="31 bytes"),
        pytest.param(
            b64encode(b64decode(vectors.BAP_SEED) + b64decode(vectors.BPP_PUBLIC)).decode(),
            id="foreign public half",
        ),
        pytest.param(RFC8410_SPKI, id="a public key"),
    ],
)
def test_signer_from_private__refuses_and_never_shows_the_key(text):
    with pytest.raises(MalformedKey) as refused:
        Signer.from_private(text, "a.example", "k1")
    if text:
        assert text not in str(refused.value)


@pytest.mark.parametrize(("subscriber_id", "key_id"), [("a|b", "k"), ("a", 'k"'), ("a", ""), ("a,b", "k")])
def test_signer__refuses_ids_that_would_break_the_header(subscriber_id, key_id):
    with pytest.raises(MalformedKey, match="keyId"):
        Signer.from_private(vectors.BAP_SEED, subscriber_id, key_id)


def test_signer__does_not_show_its_key():
    assert vectors.BAP_SEED not in repr(BAP)
    assert vectors.BAP_PUBLIC in repr(BAP)


def test_generate_private_key__makes_a_new_usable_key_each_time():
    first, second = generate_private_key(), generate_private_key()
    assert first != second
    assert len(b64decode(first)) == 32
    assert Signer.from_private(first, "a.example", "k1").public_key != BAP.public_key


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("%%%", id="no base64"),
        pytest.param(b64encode(bytes(33)).decode(), id="33 bytes"),
        pytest.param(b64encode(bytes(44)).decode(), id="another DER"),
        pytest.param(RFC8410_PKCS8, id="a private key"),
    ],
)
def test_decode_public_key__refuses(text):
    with pytest.raises(MalformedKey):
        decode_public_key(text)


def test_verify_signature__refuses_a_key_of_another_length():
    with pytest.raises(MalformedKey, match="32 bytes"):
        verify_signature(parse_authorization(vectors.R2.header), vectors.R2.digest, BAP_KEY[:31])


def test_challenge__is_the_text_peers_expect():
    assert challenge("bap.flex.example") == (
        'Signature realm="bap.flex.example",headers="(created) (expires) digest"'
    )
