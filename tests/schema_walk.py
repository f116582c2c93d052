"""Compare two schemas by what they demand, not by how they are put together."""

from typing import Any

SCALARS = frozenset({"type", "format", "pattern", "minItems", "maxItems", "minimum", "maximum"})
DEMANDING = SCALARS | {"required", "enum", "const", "additionalProperties", "anyOf", "oneOf"}
ELSEWHERE = frozenset({"properties", "items", "allOf", "$ref"})
SILENT = frozenset(
    "title description example default deprecated x-tags $schema $comment $id components $defs".split()  # noqa: SIM905
)


class Walk:
    """Compare two schemas by what they demand of each place, however they are put together.

    A place is described by a list of subschemas that all apply. ``$ref`` and ``allOf`` only add to
    the list, so two lists demand the same if their keywords do, place by place.
    """

    def __init__(self, theirs, ours) -> None:
        self._resolvers = (theirs, ours)
        self._seen = set()
        self.compared = 0

    def compare(self, theirs, ours, where):
        sides = [
            _flatten(side, resolve) for side, resolve in zip((theirs, ours), self._resolvers, strict=True)
        ]
        key = tuple(frozenset(map(id, side)) for side in sides)
        if key in self._seen:
            return
        self._seen.add(key)
        self.compared += 1
        left, right = ({each for schema in side for each in _demands(schema)} for side in sides)
        assert left == right, (where, left ^ right)
        left, right = map(_parts, sides)
        for name in left | right:
            # A part one side says nothing of may only wrap nothing on the other.
            self.compare(left.get(name, []), right.get(name, []), f"{where}/{name}")


def _flatten(schemas, resolve):
    flat, pending = [], list(schemas)
    while pending:
        schema = pending.pop()
        flat.append(schema)
        pending += schema.get("allOf", [])
        if "$ref" in schema:
            pending.append(resolve(schema["$ref"]))
    return flat


def _demands(schema):
    """What a schema says of the value itself."""
    unknown = set(schema) - DEMANDING - ELSEWHERE - SILENT
    assert not unknown
    demands = {(keyword, schema[keyword]) for keyword in SCALARS & set(schema)}
    demands |= {("required", name) for name in schema.get("required", ())}
    if "enum" in schema:
        demands.add(("one of", frozenset(schema["enum"])))
    if "const" in schema:
        demands.add(("one of", frozenset([schema["const"]])))
    if schema.get("additionalProperties") is False:
        demands.add(("closed", frozenset(schema.get("properties", ()))))
    return demands


def _parts(schemas):
    """What schemas say of the parts of a value; parts nothing is said of are left out."""
    parts: dict[str, list[Any]] = {}
    for schema in schemas:
        for name, inner in schema.get("properties", {}).items():
            parts.setdefault(f"member {name}", []).append(inner)
        if "items" in schema:
            parts.setdefault("entry", []).append(schema["items"])
        if isinstance(schema.get("additionalProperties"), dict):
            parts.setdefault("other member", []).append(schema["additionalProperties"])
        for keyword in ("anyOf", "oneOf"):
            for number, inner in enumerate(schema.get(keyword, ())):
                parts.setdefault(f"{keyword} {number}", []).append(inner)
    return {name: inner for name, inner in parts.items() if any(set(each) - SILENT for each in inner)}


def pointer(document, pointer):
    for part in pointer.strip("/").split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        document = document[int(name) if isinstance(document, list) else name]
    return document
