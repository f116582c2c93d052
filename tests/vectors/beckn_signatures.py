"""Signature vectors made elsewhere: facts, not output of our own code.

Seeds are 00..1f (buyer) and 20..3f (seller). The signatures were reproduced
with the signer of the beckn-onix adapter (Go), or, where it has no such form, computed with
libsodium from the signing string the document gives.
"""

from typing import NamedTuple

BAP_SEED = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
BAP_PRIVATE_64 = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8DoQe/884Qvh1w3RjnS8CZZ+TWMJulDV8d3IZkElUxuA=="
BAP_PUBLIC = "A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg="
BPP_SEED = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8="
BPP_PUBLIC = "Kay64UG8yvCyLhqU000LxzYeUm0L/hLIl5S8kyKWbdc="

BAP_ID = "bap.flex.example"
BPP_ID = "bpp.agg.example"
KEY_ID = "k1"


class Vector(NamedTuple):
    """One signed body with everything that lies between it and its signature."""

    body: bytes
    created: int
    expires: int
    digest: str
    signing_string: bytes
    signature: str
    header: str


def _string(created: int, expires: int, digest: str, fourth_line: str = "") -> bytes:
    text = f"(created): {created}\n(expires): {expires}\ndigest: BLAKE-512={digest}{fourth_line}"
    return text.encode()


_R1_DIGEST = "i2F3xFdzJveedm0mOCicvgBhdQnjBiAdVhByaFF7YGH5t7Mqysv6qmozgnyxewTLsZyk3negFTCr+u+Fc8Js1Q=="
R1 = Vector(
    body=(
        b'{"context":{"domain":"demand-flexibility","action":"search","version":"1.1.1",'
        b'"bap_id":"bap.flex.example","bap_uri":"https://bap.flex.example/beckn",'
        b'"transaction_id":"11111111-1111-4111-8111-111111111111",'
        b'"message_id":"22222222-2222-4222-8222-222222222222",'
        b'"timestamp":"2026-01-01T00:00:00.000Z","ttl":"PT30S"},"message":{"intent":{}}}'
    ),
    created=1767225600,
    expires=1767225900,
    digest=_R1_DIGEST,
    signing_string=(
        b"(created): 1767225600\n(expires): 1767225900\ndigest: BLAKE-512="
        b"i2F3xFdzJveedm0mOCicvgBhdQnjBiAdVhByaFF7YGH5t7Mqysv6qmozgnyxewTLsZyk3negFTCr+u+Fc8Js1Q=="
    ),
    signature="i+83DNs8wWAUlYs3gtOaBX2cWmQ82epkUukMu8ffI/Z4KFEOApWZpgvEJLMczzGI7O2cL1zUXUi1l4wpkZAECg==",
    header=(
        'Signature keyId="bap.flex.example|k1|ed25519",algorithm="ed25519",created="1767225600",'
        'expires="1767225900",headers="(created) (expires) digest",signature="'
        'i+83DNs8wWAUlYs3gtOaBX2cWmQ82epkUukMu8ffI/Z4KFEOApWZpgvEJLMczzGI7O2cL1zUXUi1l4wpkZAECg=="'
    ),
)

# The descriptor holds raw UTF-8 (U+2264, U+00A3): escaping it would change the digest.
R2_BODY = (
    '{"context":{"version":"2.0.0","action":"select","bapId":"bap.flex.example",'
    '"bapUri":"https://bap.flex.example/beckn","bppId":"bpp.agg.example",'
    '"bppUri":"https://bpp.agg.example/beckn","transactionId":"11111111-1111-4111-8111-111111111111",'
    '"messageId":"33333333-3333-4333-8333-333333333333","timestamp":"2026-01-01T00:00:00.000Z",'
    '"ttl":"PT30S"},"message":{"contract":{"descriptor":{"name":"50 kW \u2264 \u00a312"},'
    '"commitments":[{"id":"c1","status":{"descriptor":{"code":"DRAFT"}},'
    '"resources":[{"id":"der-1","quantity":{"unitQuantity":50,"unitCode":"KWT"}}],'
    '"offer":{"id":"o1","resourceIds":["der-1"]}}]}}}'
)
R2_MESSAGE_ID = "33333333-3333-4333-8333-333333333333"
_R2_DIGEST = "JVXEuugl+OaP9NrNr55FAz/n6lD74tkcxMl3dzlEXBkHEOAvCwyr5sAfecmRGp5wy7rZrrZpmeOgkDfdvl/N8A=="
_R2_SIGNATURE = "/UUZjei8DGod4aNx1YKddl5aBk75PwvoeEsbC5vOo5Jf7fnO8+f75QkcakihfZh0v7Xcii4HTK7odtL1lC5yCg=="
R2 = Vector(
    body=R2_BODY.encode(),
    created=1767225600,
    expires=1767225900,
    digest=_R2_DIGEST,
    signing_string=_string(1767225600, 1767225900, _R2_DIGEST),
    signature=_R2_SIGNATURE,
    header=(
        'Signature keyId="bap.flex.example|k1|ed25519",algorithm="ed25519",created="1767225600",'
        'expires="1767225900",headers="(created) (expires) digest",signature="'
        '/UUZjei8DGod4aNx1YKddl5aBk75PwvoeEsbC5vOo5Jf7fnO8+f75QkcakihfZh0v7Xcii4HTK7odtL1lC5yCg=="'
    ),
)

_R3_DIGEST = "eGoC90IBWQPGxv2FJVLScpEvR0DhWEdhiobiF/cfVBnSXhAxr+5YUxOJZESTTrBLkDpoWxRIt1XVb3Aa/pvizg=="
R3 = Vector(
    body=b"",
    created=1767225600,
    expires=1767225900,
    digest=_R3_DIGEST,
    signing_string=_string(1767225600, 1767225900, _R3_DIGEST),
    signature="bUAmfaZj4JbUZzOwBiE6WwoizeeJFDEnmNJ/hdtrd0hQ8IH8OYSL7i8rRhjaECuZ++j/nETCYo1tnVWiUulBCg==",
    header=(
        'Signature keyId="bap.flex.example|k1|ed25519",algorithm="ed25519",created="1767225600",'
        'expires="1767225900",headers="(created) (expires) digest",signature="'
        'bUAmfaZj4JbUZzOwBiE6WwoizeeJFDEnmNJ/hdtrd0hQ8IH8OYSL7i8rRhjaECuZ++j/nETCYo1tnVWiUulBCg=="'
    ),
)

_A1_DIGEST = "iJFSyZlGu/O6QERoAvlLUSGEYnfl2ZseLQfh67vRPI2o0s7EYxeHjz6Yk/GjHK1/zJc4g1Agr3S+B/mZIx3v3w=="
A1 = Vector(
    body=b'{"message":{"status":"ACK","messageId":"33333333-3333-4333-8333-333333333333"}}',
    created=1767225601,
    expires=1767225901,
    digest=_A1_DIGEST,
    signing_string=(
        b"(created): 1767225601\n(expires): 1767225901\ndigest: BLAKE-512="
        b"iJFSyZlGu/O6QERoAvlLUSGEYnfl2ZseLQfh67vRPI2o0s7EYxeHjz6Yk/GjHK1/zJc4g1Agr3S+B/mZIx3v3w==\n"
        b"request-signature: "
        b"/UUZjei8DGod4aNx1YKddl5aBk75PwvoeEsbC5vOo5Jf7fnO8+f75QkcakihfZh0v7Xcii4HTK7odtL1lC5yCg=="
    ),
    signature="RDX/7epeGgct6EgzXB2i8hwdt8Z6EFN7RQ5B9zSRILqp6/3VC37ynnhASQVuE8bW9qHswYa6DPcgbUdki95QCA==",
    header=(
        'Signature keyId="bpp.agg.example|k1|ed25519",algorithm="ed25519",created="1767225601",'
        'expires="1767225901",headers="(created) (expires) digest request-signature",signature="'
        'RDX/7epeGgct6EgzXB2i8hwdt8Z6EFN7RQ5B9zSRILqp6/3VC37ynnhASQVuE8bW9qHswYa6DPcgbUdki95QCA=="'
    ),
)
A1_THREE_LINE_SIGNATURE = (
    "5eltiBLgTYkyUrp9ZRTyGvDIEJZOUdMTfL10UQe2W92c4w60m1CN3wRhhly/q1Cow4Ock9bpEa8SAeX4zp5OBw=="
)
A1_COUNTER_SIGNATURE = (
    "0FQV89OOnvK6aU38JNUZRWsjWjTG1UBPFjs7MSvXixK5+SDR2OsZCQuXswt1bX7eInLihawq1/9qTSV+4h5rBQ=="
)

# A solicited on_select to R2: its body is R2 with another action and instant and no descriptor.
C1_BODY = (
    R2_BODY.replace('"action":"select"', '"action":"on_select"')
    .replace("T00:00:00.000Z", "T00:00:02.000Z")
    .replace('"descriptor":{"name":"50 kW \u2264 \u00a312"},', "")
    .encode()
)
C1_CREATED = 1767225602
C1_EXPIRES = 1767225902
C1_DIGEST = "om5wVAT9xM6byDZ/+ecDJbOndmVbcvePMhCtOn1/F26OMqcHy03imaNR01JLCiLxfLp/YDjXPW2TpYOUlBVNFA=="
C1_BARE_SIGNATURE = "FxE+J1g6goFG695VA6dAuoBbzAj8OSqcOLLMLYqDV1PBGCyIrLmpLyukG+LJKbt0NNcliPtDlLi3i42JVIPXCg=="
C1_WHOLE_HEADER_SIGNATURE = (
    "T9cO86QG7WVn2n6Zj8+AukrBpbNEt1pToq0oCoEl2GCP/6XnF1ahEAZmXzBJQ4qKd2/h7HPvefbk7Qe+9wA2Bg=="
)
