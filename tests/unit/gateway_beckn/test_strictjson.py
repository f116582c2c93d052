"""Strict JSON: what two readers could understand differently is refused, in any layout."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.beckn.strictjson import decode_strictly
from gateway.errors import BecknRefusal

DEEP = b'{"message":{},"x":' + b"[" * 63 + b"]" * 63 + b"}"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="cut short"),
        pytest.param(b'{"message":{}} {}', id="two documents"),
        pytest.param(b'\xef\xbb\xbf{"message":{}}', id="byte order mark"),
        pytest.param(b'{"message":{},"x":"\xff"}', id="no UTF-8"),
        pytest.param(b'{"message":{},"x":"\xed\xa0\x80"}', id="raw surrogate"),
        pytest.param(b'{"message":{},"x":"\\ud800"}', id="lone surrogate"),
        pytest.param(b'{"message":{},"x":NaN}', id="NaN"),
        pytest.param(b'{"message":{},"x":-Infinity}', id="infinity"),
        pytest.param(b'{"message":{},"x":1e999}', id="number out of range"),
        pytest.param(b'{"message":{},"x":' + b"1" * 5000 + b"}", id="endless integer"),
        pytest.param(b'{"message":{},"message":{}}', id="key twice"),
        pytest.param(b'{"message":{"a":[{"b":1,"c":2,"\\u0062":3}]}}', id="key twice, inside, escaped"),
        pytest.param(b'{"message":{},"x":"\x01"}', id="control character"),
        pytest.param(DEEP.replace(b"[", b"[[", 1).replace(b"]", b"]]", 1), id="65 levels"),
        pytest.param(b"[" * 100_000, id="100,000 levels"),
    ],
)
def test_decode_strictly__refuses(body):
    with pytest.raises(BecknRefusal) as refused:
        decode_strictly(body)
    assert (refused.value.code, refused.value.http_status) == ("SCH_INVALID_JSON", 400)


def test_decode_strictly__reads_64_levels():
    assert decode_strictly(DEEP)["message"] == {}
    with pytest.raises(BecknRefusal, match="deeper than 63"):
        decode_strictly(DEEP, max_depth=63)


def test_decode_strictly__reads_escapes_and_exponents():
    assert decode_strictly(b'{"a":"\\ud83d\\ude00","b":1e3}') == {"a": "😀", "b": 1e3}


@pytest.mark.parametrize("body", [b"7", b'"text"', b"null", b"[]", b"[1,[2]]"])
def test_decode_strictly__leaves_the_outer_form_to_the_caller(body):
    assert decode_strictly(body) == json.loads(body)


NAMES = st.sampled_from(["a", "b", ":", '"', '":', " :", '"\\":', "\\u0061", "é"])
BLANKS = st.sampled_from(["", " ", "\n", "\t "])


@st.composite
def objects(draw, depth=3) -> tuple[str, bool]:
    """JSON text of an object in any layout, and whether some object in it has a key twice."""
    parts, names, twice = [], [], False
    for _ in range(draw(st.integers(0, 4))):
        name = draw(NAMES)
        names.append(name)
        if depth and draw(st.booleans()):
            value, inner = draw(objects(depth=depth - 1))
            twice = twice or inner
        else:
            value = json.dumps(draw(NAMES), ensure_ascii=draw(st.booleans()))
        key = json.dumps(name, ensure_ascii=draw(st.booleans()))
        if name == "a" and draw(st.booleans()):
            key = '"\\u0061"'
        parts.append(draw(BLANKS) + key + draw(BLANKS) + ":" + draw(BLANKS) + value)
    return "{" + ",".join(parts) + draw(BLANKS) + "}", twice or len(set(names)) < len(names)


@given(objects())
def test_json__a_key_twice_is_found_in_any_layout(drawn):
    text, twice = drawn
    body = b'{"message":' + text.encode() + b"}"
    if twice:
        with pytest.raises(BecknRefusal, match="is there twice"):
            decode_strictly(body)
    else:
        assert decode_strictly(body) == json.loads(body)
