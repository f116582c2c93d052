"""Tag groups: where v1.1 messages carry the data of a domain.

A group is named by ``descriptor.code`` and lists tags that are named likewise; every value is a text.
Inbound, a bare ``code`` beside the list is understood too (drafts before 1.1 wrote it there).

Source: Beckn v1.1.1 (TagGroup, Tag); BECKN-009 for the older spelling.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from gateway.beckn.reader import At


def group(code: str, *tags: tuple[str, str | None]) -> dict[str, Any]:
    """Write a tag group; tags whose value is None are left out."""
    return {
        "descriptor": {"code": code},
        "list": [{"descriptor": {"code": name}, "value": value} for name, value in tags if value is not None],
    }


def present(*groups: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    """The groups that hold a tag, or None where none does."""
    return [each for each in groups if each["list"]] or None


class Group:
    """The tags of one group, by code."""

    def __init__(self, at: At, values: Mapping[str, list[At]]) -> None:
        self.at = at
        self._values = values

    def opt(self, code: str) -> At | None:
        """The value of a tag, or None where it is absent; refuses a tag that stands twice."""
        found = self._values.get(code, ())
        if len(found) > 1:
            raise found[1].refuse(f"the tag {code} stands twice in its group")
        return found[0] if found else None

    def need(self, code: str) -> At:
        """The value of a tag; refuses where it is absent."""
        found = self.opt(code)
        if found is None:
            raise self.at.refuse(f"the tag {code} is missing: send it", "SCH_REQUIRED_FIELD_MISSING")
        return found

    def every(self, code: str) -> tuple[At, ...]:
        """The values of a tag that may stand several times."""
        return tuple(self._values.get(code, ()))

    def names(self) -> tuple[str, ...]:
        """Codes of the tags, in order."""
        return tuple(self._values)


def groups(at: At | None, code: str) -> Iterator[Group]:
    """The groups of a code in the ``tags`` of a message, each on its own."""
    for each in at.items() if at else ():
        if _code(each) == code:
            listed = each.opt("list")
            values: dict[str, list[At]] = {}
            for tag in listed.items() if listed else ():
                name, value = _code(tag), tag.opt("value")
                if name is not None and value is not None:
                    values.setdefault(name, []).append(value)
            yield Group(each, values)


def one(at: At | None, code: str) -> Group | None:
    """The only group of a code, or None where there is none; refuses several."""
    found = list(groups(at, code))
    if len(found) > 1:
        raise found[1].at.refuse(f"the tag group {code} stands twice")
    return found[0] if found else None


def opaque(value: Any) -> str:
    """Write a JSON value as the text of a tag: texts as they are, everything else as JSON.

    A text that would be taken for JSON is quoted, so that it comes back as the text it was.
    """
    if isinstance(value, str) and not _is_json(value):
        return value
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def transparent(at: At) -> Any:
    """Read what :func:`opaque` wrote; what is no JSON is a text."""
    if not isinstance(at.value, str):
        raise at.refuse("must be a string", "SCH_TYPE_NOT_SUPPORTED")
    try:
        return msgspec.json.decode(at.value)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return at.value


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return False
    return True


def _code(at: At) -> str | None:
    """What a tag or a group is called; None where it has no name."""
    named = at.dig("descriptor", "code") or at.opt("code")
    return named.text() if named else None
