"""JSON with exactly one spelling: the bytes that are hashed.

Source: RFC 8785 (JSON Canonicalization Scheme): no white space, keys in order of their UTF-16 code
units, numbers as ECMAScript writes them (``1.0`` is ``1``, ``-0.0`` is ``0``), strings as UTF-8 with
the shortest escapes. Refused, because a reader could take them for something else: NaN and the
infinities, integers beyond 2**53 - 1, lone surrogates, keys that are not text.
"""

import math
from json.encoder import encode_basestring as _quoted
from typing import Any

MAX_INTEGER = 2**53 - 1
"""Largest magnitude that every JSON reader keeps exactly."""


def canonical_json(value: Any) -> bytes:
    """Write plain JSON data in its one spelling.

    Args:
        value: None, booleans, integers, finite floats, text, and lists, tuples and dicts of these.

    Raises:
        ValueError: Something in ``value`` has no such spelling; the message says where.
    """
    parts: list[str] = []
    _write(value, parts, "")
    try:
        return "".join(parts).encode()
    except UnicodeEncodeError as exc:
        raise ValueError("a lone surrogate cannot be written as UTF-8") from exc


def _write(value: Any, parts: list[str], path: str) -> None:
    match value:
        case dict():
            _write_object(value, parts, path)
        case list() | tuple():
            separator = "["
            for index, item in enumerate(value):
                parts.append(separator)
                _write(item, parts, f"{path}/{index}")
                separator = ","
            parts.append("]" if value else "[]")
        case _:
            parts.append(_scalar(value, path or "/"))


def _scalar(value: Any, path: str) -> str:
    match value:
        case str():
            return _quoted(value)
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() if abs(value) <= MAX_INTEGER:
            return str(int(value))
        case float() if math.isfinite(value):
            return _number(value)
        case int() | float():
            raise ValueError(f"{path}: {value} is not a number that every JSON reader keeps")
        case _:
            raise ValueError(f"{path}: {type(value).__name__} is not JSON data")


def _write_object(value: dict[Any, Any], parts: list[str], path: str) -> None:
    for key in value:
        if not isinstance(key, str):
            raise ValueError(f"{path or '/'}: the key {key!r} is not text")  # noqa: TRY004
    separator = "{"
    for key in sorted(value, key=_utf16):
        parts.append(f"{separator}{_quoted(key)}:")
        _write(value[key], parts, f"{path}/{key}")
        separator = ","
    parts.append("}" if value else "{}")


def _utf16(key: str) -> bytes:
    return key.encode("utf-16-be", "surrogatepass")


def _number(value: float) -> str:
    """Write a finite float as ECMAScript's Number::toString does (ECMA-262, 6.1.6.1.20)."""
    if value == 0:
        return "0"
    text = repr(value)
    if "e" not in text:  # 1e-4 to 1e16: both lay the shortest digits out alike
        return text.removesuffix(".0")
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = text.lstrip("-").partition("e")
    digits = mantissa.replace(".", "")
    point = int(exponent) + 1  # digits before the decimal point
    if 0 < point <= 21:
        return f"{sign}{digits:0<{point}}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    tail = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{tail}e{point - 1:+d}"
