"""Which schema serves which action: the package's data, loaded.

Files of one protocol version stand together; ``definitions.json`` holds what they share. Each file
names in ``$comment`` what it was written from; SOURCE.md tells the rest.
"""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

Schema = Mapping[str, Any]

ACTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "2.0.0": (
        "discover",
        "on_discover",
        "select",
        "on_select",
        "init",
        "on_init",
        "confirm",
        "on_confirm",
        "status",
        "on_status",
        "track",
        "on_track",
        "update",
        "on_update",
        "cancel",
        "on_cancel",
        "rate",
        "on_rate",
        "support",
        "on_support",
    ),
    "1.1.1": (
        "search",
        "on_search",
        "select",
        "on_select",
        "init",
        "on_init",
        "confirm",
        "on_confirm",
        "status",
        "on_status",
        "track",
        "on_track",
        "update",
        "on_update",
        "cancel",
        "on_cancel",
        "rating",
        "on_rating",
        "support",
        "on_support",
    ),
}
"""Actions by protocol version."""

FLEX_VERSION: Final = "1.0"

FLEX_PACKS: Final = (
    "FlexResource",
    "FlexOffer",
    "FlexPrice",
    "FlexCommitment",
    "FlexContract",
    "FlexPerformance",
    "FlexSettlement",
)
"""Attribute packs: the domain's data inside the core's open ``Attributes``."""


def action_schema(version: str, action: str) -> Schema:
    """Load the JSON Schema (draft 2020-12) of a whole message.

    Raises:
        KeyError: No schema of that version serves the action.
    """
    if action not in ACTIONS[version]:
        raise KeyError(action)
    return _load(f"v{version}", f"{action}.json")


def definitions(version: str) -> Schema:
    """Load what the schemas of a version share; they refer to it by its ``$id``.

    Raises:
        KeyError: The version is not known.
    """
    if version not in ACTIONS:
        raise KeyError(version)
    return _load(f"v{version}", "definitions.json")


def flex_schema(pack: str) -> Schema:
    """Load the JSON Schema of an attribute pack.

    Raises:
        KeyError: There is no such pack.
    """
    if pack not in FLEX_PACKS:
        raise KeyError(pack)
    return _load("flex", f"v{FLEX_VERSION}", pack, "attributes.json")


@cache
def _load(*parts: str) -> Schema:
    """Read one file of the package; callers share the result and must not change it."""
    schema: Schema = json.loads(files(__package__).joinpath(*parts).read_text(encoding="utf-8"))
    return schema
