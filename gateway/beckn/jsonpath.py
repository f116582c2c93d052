"""The little of JSONPath (RFC 9535) that discovery filters need: write one, read the tests in one.

This is no JSONPath engine. A filter we are sent may say anything; what is recognised narrows the
answer, the rest widens it, and the asker filters again.
"""

import json
import re
from collections.abc import Mapping
from typing import Final

import msgspec

_LITERAL: Final = r"""(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_NUMBER: Final = r"(?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"
_MEMBER: Final = r"""\b(?P<name>\w+)(?:['"]\])?\s*"""
_EQUAL: Final = re.compile(rf"{_MEMBER}==\s*{_LITERAL}", re.ASCII | re.DOTALL)
_LEAST: Final = re.compile(rf"{_MEMBER}>=?\s*{_NUMBER}", re.ASCII)


class Tests(msgspec.Struct, frozen=True):
    """Comparisons found in a filter, by member name; the first of a name counts."""

    equal: dict[str, str]
    least: dict[str, float]


def write(array: str, within: str, *, equal: Mapping[str, str], least: Mapping[str, float | int]) -> str:
    """Write a filter that keeps the entries of an array which pass every test.

    Args:
        array: Path of the array, such as ``$.catalogs[*].resources``.
        within: Member of an entry that holds the members tested.
        equal: Text each member must equal.
        least: Number each member must reach.
    """
    tests = [f"@.{within}.{name}=={_quote(text)}" for name, text in equal.items()]
    tests += [f"@.{within}.{name}>={json.dumps(number, allow_nan=False)}" for name, number in least.items()]
    return f"{array}[?({' && '.join(tests)})]"


def read(expression: str) -> Tests:
    """Find the comparisons of a member with a text (``==``) or a number (``>=``, ``>``)."""
    bare = _EQUAL.sub("", expression)
    equal = {found["name"]: _unquote(found["text"]) for found in reversed(list(_EQUAL.finditer(expression)))}
    least = {found["name"]: float(found["number"]) for found in reversed(list(_LEAST.finditer(bare)))}
    return Tests(equal, least)


def _quote(text: str) -> str:
    """Write a string literal in single quotes (RFC 9535, section 2.3.1.1)."""
    inner = json.dumps(text, ensure_ascii=False)[1:-1].replace('\\"', '"').replace("'", "\\'")
    return f"'{inner}'"


def _unquote(literal: str) -> str:
    """Read a string literal in either kind of quotes; a broken one as it stands."""
    inner = re.sub(r'''\\.|"''', _as_json, literal[1:-1], flags=re.DOTALL)
    try:
        return str(json.loads(f'"{inner}"', strict=False))
    except ValueError:
        return literal[1:-1]


def _as_json(found: re.Match[str]) -> str:
    return {"\\'": "'", '"': '\\"'}.get(found[0], found[0])
