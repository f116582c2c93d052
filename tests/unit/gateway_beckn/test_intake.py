"""Bounds, media types and headers before a message is looked at."""

import pytest

from gateway.beckn.intake import check_media, joined_headers, media_fault, read_body
from gateway.errors import BecknRefusal


async def stream(*pieces: bytes):
    for piece in pieces:
        yield piece


async def test_a_body_is_read_as_it_comes():
    assert await read_body(stream(b"ab", b"", b"c"), declared="3", limit=3) == b"abc"


@pytest.mark.parametrize("declared", ["4", "9" * 50])
async def test_a_declared_length_over_the_limit_is_refused_before_a_byte_is_read(declared):
    async def untouched():
        pytest.fail("was read")
        yield b""

    with pytest.raises(BecknRefusal) as refused:
        await read_body(untouched(), declared=declared, limit=3)
    assert refused.value.http_status == 413


async def test_an_undeclared_length_is_cut_off_at_the_limit():
    seen = []

    async def endless():
        while True:
            seen.append(1)
            yield b"ab"

    with pytest.raises(BecknRefusal) as refused:
        await read_body(endless(), declared=None, limit=9)
    assert (refused.value.http_status, len(seen)) == (413, 5)


@pytest.mark.parametrize("declared", ["-1", "x", "", "\u0663"])
async def test_a_length_that_is_no_number_decides_nothing(declared):
    assert await read_body(stream(b"abc"), declared=declared, limit=3) == b"abc"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "application/json"},
        {"content-type": "Application/JSON; charset=utf-8"},
        {"content-type": "application/ld+json"},
        {"content-encoding": "identity"},
    ],
)
def test_json_is_taken(headers):
    assert media_fault(headers) is None
    check_media(headers)


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": ""},
        {"content-type": "application/json, text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "text/json+json"},
        {"content-encoding": "gzip"},
        {"content-type": "application/json", "content-encoding": "br"},
    ],
)
def test_anything_else_is_refused_and_named(headers):
    with pytest.raises(BecknRefusal, match="is not taken") as refused:
        check_media(headers)
    assert refused.value.http_status == 415


def test_repeated_headers_are_joined_in_order_whatever_their_case():
    pairs = [("Authorization", "one"), ("X-A", "x"), ("authorization", "two")]
    assert joined_headers(pairs) == {"authorization": "one, two", "x-a": "x"}
