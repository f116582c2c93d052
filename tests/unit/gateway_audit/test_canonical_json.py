import json
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audit.canonical import MAX_INTEGER, canonical_json
from gateway.audit.chain import leaf_hash

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def number(text: str) -> float:
    """Read a number without point as ECMAScript does: beyond 2**53 it is a double."""
    return int(text) if abs(int(text)) <= MAX_INTEGER else float(text)


@given(plain)
def test_what_is_written_reads_back_equal_and_writes_the_same_again(value):
    written = canonical_json(value)
    read = json.loads(written, parse_int=number)
    assert read == value
    assert canonical_json(read) == written


@given(st.dictionaries(st.text(), st.integers(0, 9), min_size=2))
def test_the_order_of_keys_in_hand_does_not_matter(value):
    assert canonical_json(dict(reversed(value.items()))) == canonical_json(value)


def test_keys_are_ordered_by_utf16_code_units():
    """The example of RFC 8785 section 3.2.3: an emoji sorts before a Hebrew presentation form."""
    value = {
        "€": "Euro Sign",
        "\r": "Carriage Return",
        "\ufb33": "Hebrew Letter Dalet With Dagesh",
        "1": "One",
        "😀": "Emoji: Grinning Face",
        "\x80": "Control",
        "ö": "Latin Small Letter O With Diaeresis",
    }
    assert list(json.loads(canonical_json(value))) == ["\r", "1", "\x80", "ö", "€", "😀", "\ufb33"]


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        ("0000000000000000", "0"),
        ("8000000000000000", "0"),
        ("0000000000000001", "5e-324"),
        ("8000000000000001", "-5e-324"),
        ("7fefffffffffffff", "1.7976931348623157e+308"),
        ("ffefffffffffffff", "-1.7976931348623157e+308"),
        ("4340000000000000", "9007199254740992"),
        ("c340000000000000", "-9007199254740992"),
        ("4430000000000000", "295147905179352830000"),
        ("44b52d02c7e14af5", "9.999999999999997e+22"),
        ("44b52d02c7e14af6", "1e+23"),
        ("44b52d02c7e14af7", "1.0000000000000001e+23"),
        ("444b1ae4d6e2ef4e", "999999999999999700000"),
        ("444b1ae4d6e2ef4f", "999999999999999900000"),
        ("444b1ae4d6e2ef50", "1e+21"),
        ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
        ("3eb0c6f7a0b5ed8d", "0.000001"),
        ("41b3de4355555553", "333333333.3333332"),
        ("41b3de4355555557", "333333333.33333343"),
        ("becbf647612f3696", "-0.0000033333333333333333"),
        ("43143ff3c1cb0959", "1424953923781206.2"),
    ],
)
def test_numbers_are_written_as_the_samples_of_rfc_8785_appendix_b(bits, text):
    value = struct.unpack(">d", bytes.fromhex(bits))[0]
    assert canonical_json(value) == text.encode()


def test_text_keeps_to_the_shortest_escapes():
    value = '\x00\b\t\n\x0b\f\r\x1f"\\/\x7f€'
    assert canonical_json(value) == '"\\u0000\\b\\t\\n\\u000b\\f\\r\\u001f\\"\\\\/\x7f€"'.encode()


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": [1, math.nan]}, "/a/1"),
        ({"a": math.inf}, "/a"),
        (MAX_INTEGER + 1, "/"),
        ({"x": {"y": -MAX_INTEGER - 1}}, "/x/y"),
        ({"x": b"bytes"}, "/x"),
        ({1: "x"}, "not text"),
        ("\ud800", "surrogate"),
        ({"\ud800": 1}, "surrogate"),
    ],
)
def test_what_has_no_single_spelling_is_refused_with_its_place(value, where):
    with pytest.raises(ValueError, match=where):
        canonical_json(value)


def test_the_leaf_of_a_settlement_document_is_the_published_one():
    """Computed elsewhere with another implementation of RFC 8785."""
    document = {
        "v": "1",
        "obp_id": "OBP-2026-000123",
        "der_did": "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK",
        "settlement_date": "2026-11-11",
        "settlement_period": 35,
        "direction": "TURN_DOWN",
        "baseline_method": "BL01",
        "baseline_wh": 52000,
        "metered_wh": 33000,
        "delivered_wh": 19000,
    }
    expected = "2fd484bbac75ce01581621e6ecd0d6c457197e1b17578705dd625a2396416aec"
    assert leaf_hash(canonical_json(document)).hex() == expected
