"""JSON that every reader must understand the same way.

Refused: invalid UTF-8, NaN and infinities (also by overflow), lone surrogates, a key twice in one
object, deep nesting. msgspec refuses all but the last two; those are found by counting members and
keys, and only a text whose count leaves a doubt is parsed again with a slower, watchful parser.

A signature covers bytes; two readers that decode the same bytes differently would act on different
messages (RFC 8259, section 4, leaves a repeated key open).
"""

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from gateway.errors import BecknRefusal

MAX_DEPTH = 64
"""Levels of objects and arrays; messages in the field use about a dozen."""

_JSON = msgspec.json.Decoder()
_BLANK_AND_COLON = ((b"\n", b"\n:"), (b"\r", b"\r:"), (b"\t", b"\t:"))
"""A byte that is found quickly or, mostly, is not there at all; and the pair it would have to be in."""


def decode_strictly(body: bytes, *, max_depth: int = MAX_DEPTH) -> Any:
    """Decode JSON text.

    Args:
        body: UTF-8 without a byte order mark.
        max_depth: Levels of objects and arrays.

    Raises:
        BecknRefusal: SCH_INVALID_JSON, 400.
    """
    try:
        document = _JSON.decode(body)
        if _count_members(document, max_depth) != _count_keys(body):
            _look_for_a_key_twice(body)
    except (ValueError, RecursionError) as exc:
        raise BecknRefusal("SCH_INVALID_JSON", f"the body is not strict JSON: {exc}") from exc
    return document


def _count_members(document: Any, max_depth: int) -> int:
    """Count the members of all objects, refusing to go deeper than ``max_depth`` levels."""
    members = depth = 0
    level: list[Any] = [document] if isinstance(document, dict | list) else []
    while level:
        depth += 1
        if depth > max_depth:
            raise ValueError(f"nested deeper than {max_depth} levels")
        below: list[Any] = []
        for node in level:
            if type(node) is dict:
                members += len(node)
                children: Iterable[Any] = node.values()
            else:
                children = node
            for child in children:
                kind = type(child)
                if kind is dict or kind is list:
                    below.append(child)
        level = below
    return members


def _count_keys(body: bytes) -> int:
    """Count the keys in valid JSON text: exactly or too many, or -1 where that cannot be promised.

    Every key ends in a quote, and a colon follows. Unless there are blanks before some colon, each key is
    counted; strings that hold such a pair themselves only add to the count. So where the count equals
    the number of members decoded, no key was there twice.
    """
    if b" :" in body or any(blank in body and pair in body for blank, pair in _BLANK_AND_COLON):
        return -1
    return body.count(b'":')


def _look_for_a_key_twice(body: bytes) -> None:
    """Parse again, slowly, watching every object.

    Raises:
        ValueError: There is one.
    """
    json.loads(body, object_pairs_hook=_refuse_repeats)


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise ValueError(f"the key {name[:64]!r} is there twice in one object")
        seen.add(name)
