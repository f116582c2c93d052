"""Read members out of a decoded message, and name the place when one cannot be used.

Shared by the translators of every protocol generation: they differ in where a datum stands, not in
what a number, an amount of money or an instant is.
"""

import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final, TypeVar

import msgspec

from gateway.errors import BecknRefusal
from gateway.types import Location

ROOT: Final = "/message"
"""JSON pointer of what translators read."""

DECIMAL: Final = re.compile(r"[+-]?(\d+(\.\d+)?|\.\d+)", re.ASCII)
"""Decimal text: what money is written as."""

_Code = TypeVar("_Code", bound=StrEnum)


class At:
    """A value and the JSON pointer where it stands; every read names the place when it fails."""

    __slots__ = ("path", "value")

    def __init__(self, value: Any, path: str = ROOT) -> None:
        self.value = value
        self.path = path

    def refuse(self, detail: str, code: str = "SCH_SCHEMA_VALIDATION_FAILED") -> BecknRefusal:
        """The refusal to raise when the value cannot be used."""
        return BecknRefusal(code, f"{self.path}: {detail}", path=self.path)

    def opt(self, name: str) -> "At | None":
        """The member, or None where it is absent or null."""
        if not isinstance(self.value, dict):
            raise self.refuse("must be an object", "SCH_TYPE_NOT_SUPPORTED")
        value = self.value.get(name)
        return None if value is None else At(value, f"{self.path}/{_escape(name)}")

    def need(self, name: str) -> "At":
        """The member; refuses where it is absent or null."""
        found = self.opt(name)
        if found is None:
            raise self.missing(name)
        return found

    def missing(self, name: str, what: str = "it") -> BecknRefusal:
        """The refusal for an absent member, or for one that lacks ``what`` is needed of it."""
        absent = At(None, f"{self.path}/{_escape(name)}")
        return absent.refuse(f"is missing: send {what}", "SCH_REQUIRED_FIELD_MISSING")

    def dig(self, *names: str) -> "At | None":
        """Follow optional members."""
        here: At | None = self
        for name in names:
            if here is None:
                return None
            here = here.opt(name)
        return here

    def items(self) -> "Iterator[At]":
        """The entries of an array."""
        if not isinstance(self.value, list):
            raise self.refuse("must be an array", "SCH_TYPE_NOT_SUPPORTED")
        return (At(value, f"{self.path}/{index}") for index, value in enumerate(self.value))

    def mapping(self) -> dict[str, Any]:
        """The object itself, for data that is passed on unread."""
        if not isinstance(self.value, dict):
            raise self.refuse("must be an object", "SCH_TYPE_NOT_SUPPORTED")
        return self.value

    def text(self) -> str:
        """A string that is not empty."""
        if not isinstance(self.value, str):
            raise self.refuse("must be a string", "SCH_TYPE_NOT_SUPPORTED")
        if not self.value:
            raise self.refuse("must not be empty", "SCH_INVALID_FORMAT")
        return self.value

    def number(self, *, least: float | None = None) -> float:
        """A finite JSON number; text that looks like one is refused."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.refuse("must be a JSON number", "SCH_TYPE_NOT_SUPPORTED")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self.refuse("must be a finite number", "SCH_INVALID_FORMAT")
        if least is not None and number < least:
            raise self.refuse(f"must be at least {least:g}", "SCH_INVALID_FORMAT")
        return number

    def whole(self, *, least: int | None = None) -> int:
        """A whole JSON number; 44.0 is one."""
        number = self.number(least=least)
        if not number.is_integer():
            raise self.refuse("must be a whole number", "SCH_INVALID_FORMAT")
        return int(self.value)

    def money(self) -> str:
        """Decimal text; a JSON number is taken by its shortest decimal form."""
        if isinstance(self.value, int | float) and not isinstance(self.value, bool):
            return f"{Decimal(repr(self.number())):f}"
        text = self.text()
        if not DECIMAL.fullmatch(text):
            raise self.refuse('must be decimal text such as "0.35"', "SCH_INVALID_FORMAT")
        return text

    def decimal(self, *, least: float | None = None) -> float:
        """A finite number written as decimal text, as v1.1 has all its numbers."""
        text = self.text()
        if not DECIMAL.fullmatch(text):
            raise self.refuse('must be decimal text such as "12.5"', "SCH_INVALID_FORMAT")
        return At(float(text), self.path).number(least=least)

    def whole_decimal(self, *, least: int | None = None) -> int:
        """A whole number written as decimal text."""
        number = self.decimal(least=least)
        if not number.is_integer():
            raise self.refuse("must be a whole number", "SCH_INVALID_FORMAT")
        return int(Decimal(self.value))

    def flag(self) -> bool:
        """True or false."""
        if not isinstance(self.value, bool):
            raise self.refuse("must be true or false", "SCH_TYPE_NOT_SUPPORTED")
        return self.value

    def instant(self) -> datetime:
        """An RFC 3339 instant, as aware UTC."""
        text = self.text()
        try:
            instant = msgspec.convert(text, datetime)
        except msgspec.ValidationError as exc:
            raise self.refuse("must be an RFC 3339 instant", "SCH_INVALID_FORMAT") from exc
        if instant.tzinfo is None:
            raise self.refuse("must carry a zone, such as Z", "SCH_INVALID_FORMAT")
        try:
            return instant.astimezone(UTC)
        except OverflowError as exc:
            raise self.refuse("lies outside the calendar", "SCH_INVALID_FORMAT") from exc

    def code(self, kind: type[_Code], synonyms: Mapping[str, str] | None = None) -> _Code:
        """One of an enumeration's values, in any case; ``synonyms`` maps upper-case spellings to them."""
        text = self.text()
        spelled = (synonyms or {}).get(text.upper(), text)
        for member in kind:
            if member.value.upper() == spelled.upper():
                return member
        known = ", ".join(member.value for member in kind)
        raise self.refuse(f"must be one of {known}", "SCH_INVALID_ENUM")

    def point(self) -> Location:
        """A GeoJSON point: longitude first (RFC 7946)."""
        kind = self.need("type")
        if kind.value != "Point":
            raise kind.refuse("must be Point", "SCH_INVALID_ENUM")
        at = self.need("coordinates")
        pair = [each.number() for each in at.items()]
        if len(pair) < 2 or abs(pair[0]) > 180 or abs(pair[1]) > 90:
            raise at.refuse("must be [longitude, latitude] in degrees", "SCH_INVALID_FORMAT")
        return Location(latitude=pair[1], longitude=pair[0])


def _escape(name: str) -> str:
    """Escape a member name for a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")
