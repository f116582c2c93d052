"""Check messages against the schemas of their protocol version, and say how to mend them.

* jsonschema-rs decides, formats asserted; the same engine tells where and by which rule a message
  fails, so that verdict and explanation cannot differ.
* A refused message must not cost more than an accepted one by orders of magnitude: the engine gathers
  every fault before it hands out the first, so a large message is told its first fault only.
* Codes are those adapters in the field send (onix v1.7 error map).
* The sentence in a fault is for the sender's developer: what to change, not only what is wrong.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

import jsonschema_rs
import msgspec

from beckn_specs import index

MAX_FAULTS: Final = 20
"""Faults reported of one message."""

MAX_VALUES_EXPLAINED: Final = 1_000
"""Values (scalars, arrays, objects) in a message up to which all its faults are told."""

_OTHER: Final = "SCH_SCHEMA_VALIDATION_FAILED"
_MAX_SHOWN_CHARS: Final = 60
_CODES: Final[Mapping[str, str]] = {
    "required": "SCH_REQUIRED_FIELD_MISSING",
    "additionalProperties": "SCH_FIELD_NOT_ALLOWED",
    "enum": "SCH_INVALID_ENUM",
    "const": "SCH_INVALID_ENUM",
    "format": "SCH_INVALID_FORMAT",
    "pattern": "SCH_INVALID_FORMAT",
    "type": "SCH_TYPE_NOT_SUPPORTED",
}
_FORMATS: Final[Mapping[str, str]] = {
    "uuid": "a UUID, such as 7d6a3c1e-52f0-4d4b-9b0e-3f1f0a1c2d3e",
    "uri": "an absolute URI, such as https://bap.example/beckn",
    "date-time": "an RFC 3339 instant with a zone, such as 2026-01-05T17:00:00Z",
    "time": "an RFC 3339 time of day with a zone, such as 17:00:00Z",
}


class SchemaFault(msgspec.Struct, frozen=True, kw_only=True):
    """One reason why a message is refused.

    ``path`` is a JSON pointer from the message's root to the member at fault (to where it should be,
    if it is missing); ``rule`` the schema keyword that failed; ``detail`` says how to mend it.
    """

    path: str
    rule: str
    code: str
    detail: str


class MessageSchemas:
    """The schemas of one protocol version, compiled once; safe to share."""

    def __init__(self, version: str, validators: Mapping[str, jsonschema_rs.Validator]) -> None:
        self.version = version
        self._validators = dict(validators)

    @classmethod
    def load(cls, version: str = "2.0.0") -> "MessageSchemas":
        """Compile the schemas of a version.

        Raises:
            KeyError: There are no schemas of that version.
        """
        shared = index.definitions(version)
        registry = jsonschema_rs.Registry([(str(shared["$id"]), dict(shared))])
        return cls(
            version,
            {
                action: jsonschema_rs.Draft202012Validator(
                    dict(index.action_schema(version, action)), validate_formats=True, registry=registry
                )
                for action in index.ACTIONS[version]
            },
        )

    @property
    def actions(self) -> tuple[str, ...]:
        """Actions that have a schema."""
        return tuple(self._validators)

    def faults(self, action: str, document: Any) -> tuple[SchemaFault, ...]:
        """Check a decoded message.

        Args:
            action: As the path says; an action without a schema is itself a fault.
            document: The whole message, ``{"context": ..., "message": ...}``, as decoded from JSON.

        Returns:
            Nothing for a valid message, else up to :data:`MAX_FAULTS` faults.
        """
        validator = self._validators.get(action)
        if validator is None:
            known = ", ".join(self._validators)
            detail = f"{_show(action)} is no action of version {self.version}: use one of {known}"
            return (
                SchemaFault(path="/context/action", rule="enum", code="SCH_INVALID_FORMAT", detail=detail),
            )
        if validator.is_valid(document):
            return ()
        try:
            errors = list(islice(_errors(validator, document), MAX_FAULTS))
        except ValueError:
            # The engine judges any depth but shows nothing below 255 levels.
            detail = "a part nested deeper than 255 levels does not fit: make it flatter"
            return (SchemaFault(path="", rule="depth", code=_OTHER, detail=detail),)
        found = (fault for error in errors for fault in _explain(error, document))
        return tuple(islice(found, MAX_FAULTS))


def _errors(validator: jsonschema_rs.Validator, document: Any) -> Iterator[jsonschema_rs.ValidationError]:
    """The faults of an invalid document: all of a small one, the first of a large one."""
    if _is_small(document):
        yield from validator.iter_errors(document)
        return
    try:
        validator.validate(document)
    except jsonschema_rs.ValidationError as error:
        yield error


def _is_small(document: Any) -> bool:
    """Whether a document holds at most :data:`MAX_VALUES_EXPLAINED` values."""
    pending = [document]
    for _ in range(MAX_VALUES_EXPLAINED):
        if not pending:
            return True
        value = pending.pop()
        if isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
    return not pending


def _explain(error: jsonschema_rs.ValidationError, document: Any) -> Iterator[SchemaFault]:
    """Turn one engine error into faults: one per member for members that must go."""
    rule = error.kind.name
    place = _pointer(error.instance_path)
    value = _follow(document, error.instance_path)
    names: Sequence[str | None] = [None]
    if rule == "required":
        names = [error.kind.as_dict()["property"]]
    elif rule == "additionalProperties":
        names = error.kind.as_dict()["unexpected"]
    for name in names:
        yield SchemaFault(
            path=place if name is None else place + _pointer([name]),
            rule=rule,
            code=_CODES.get(rule, _OTHER),
            detail=_sentence(error, value, name),
        )


def _sentence(  # noqa: C901, PLR0911, PLR0912 - a table, one rule a row
    error: jsonschema_rs.ValidationError, value: Any, name: str | None = None
) -> str:
    """Say how to mend an error; ``name`` is the member at fault inside ``value``, if it is one."""
    facts = error.kind.as_dict()
    match error.kind.name:
        case "required":
            name = facts["property"]
            members = value if isinstance(value, dict) else {}
            hint = _OLD_MODEL if name == "contract" and "order" in members else ""
            hint = _NEW_MODEL if name == "order" and "contract" in members else hint
            return f"{name} is missing: add it{hint}"
        case "additionalProperties":
            return f"{_show(name)} is not allowed here: remove it{_stray(name or '')}"
        case "type":
            return f"must be {' or '.join(facts['types'])}, not {_kind(value)}"
        case "enum":
            return f"must be one of {', '.join(map(str, facts['options']))}, not {_show(value)}"
        case "const":
            return f"must be {_show(facts['expected_value'])}, not {_show(value)}"
        case "format":
            wanted = _FORMATS.get(facts["format"], facts["format"])
            return f"must be {wanted}, not {_show(value)}"
        case "pattern":
            return f"must match {facts['pattern']}, not {_show(value)}"
        case "minItems":
            return f"needs at least {facts['limit']} entries, not {len(value)}"
        case "maxItems":
            return f"takes at most {facts['limit']} entries, not {len(value)}"
        case "minimum":
            return f"must be at least {facts['limit']}, not {_show(value)}"
        case "anyOf" | "oneOf" if any(facts["context"]):
            return "fits none of the allowed forms: " + ", or ".join(_branches(error, value))
        case "oneOf":
            return "fits several forms of which exactly one may apply: make it fit one"
        case rule:
            return f"breaks the rule {rule}"


_NEW_MODEL: Final = " (version 1.1 carries an order; contract belongs to version 2.0.0)"
_OLD_MODEL: Final = " (version 2.0.0 carries a contract; order belongs to drafts before it)"


def _branches(error: jsonschema_rs.ValidationError, value: Any) -> Iterator[str]:
    """What each alternative of anyOf and oneOf asks for; each branch says its first fault."""
    depth = len(error.instance_path)
    for errors in error.kind.as_dict()["context"]:
        if errors:
            inner = errors[0].instance_path[depth:]
            where = f"{_pointer(inner)} " if inner else ""
            yield where + _sentence(errors[0], _follow(value, inner))


def _stray(name: str) -> str:
    """Recognise what the drafts before 2.0.0 called things."""
    if name == "order":
        return _OLD_MODEL
    if ":" in name:
        return " (members of version 2.0.0 have no prefix)"
    if "_" in name:
        return " (members of version 2.0.0 are in camelCase)"
    return ""


def _pointer(parts: Sequence[str | int]) -> str:
    """Write a JSON pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def _follow(document: Any, parts: Sequence[str | int]) -> Any:
    for part in parts:
        document = document[part]
    return document


def _kind(value: Any) -> str:
    """Name a value's JSON type."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case str():
            return "string"
        case int() | float():
            return "number"
        case list():
            return "array"
        case _:
            return "object"


def _show(value: Any) -> str:
    """Show a value as JSON, cut short: it comes from outside and may be of any size."""
    if isinstance(value, dict | list):
        return f"an {_kind(value)}"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_SHOWN_CHARS else text[: _MAX_SHOWN_CHARS - 3] + "..."
