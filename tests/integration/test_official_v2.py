"""Our schemas against the official v2.0.0 document: the same verdict on everything."""

import json
import uuid
from typing import Any

import pytest
from official import official_schemas, official_validators
from wire_samples import built_documents, full_documents, mutations

from beckn_specs import index
from gateway.beckn.schema import MessageSchemas

VERSION = "2.0.0"


@pytest.fixture(scope="module")
def schemas():
    return MessageSchemas.load()


def test_official__has_the_actions_we_serve(reference_dir, schemas):
    assert set(official_validators(reference_dir)) == set(schemas.actions)


def test_built_messages__pass_the_official_document_and_ours(reference_dir, schemas):
    official = official_validators(reference_dir)
    for action, documents in built_documents().items():
        for document in documents:
            official[action].validate(document)
            assert schemas.faults(action, document) == ()


@pytest.mark.parametrize("action", index.ACTIONS[VERSION])
def test_schema__says_the_same_as_the_official_document(reference_dir, action):
    """Not sampled: both schemas are walked together and must state the same constraints everywhere."""
    theirs, ours = official_schemas(reference_dir)[action], index.action_schema(VERSION, action)
    shared = index.definitions(VERSION)
    walk = _Walk(
        lambda ref: _pointer(theirs, ref.removeprefix("#")),
        lambda ref: _pointer(shared, ref.partition("#")[2]),
    )
    walk.compare([theirs], [ours], action)
    assert walk.compared > 5


@pytest.mark.parametrize("action", index.ACTIONS[VERSION])
def test_verdict__is_the_official_one_whatever_place_is_changed(reference_dir, schemas, action):
    official = official_validators(reference_dir)[action]
    original = full_documents()[action]
    official.validate(original)
    refused = 0
    for number, (what, changed) in enumerate(mutations(original)):
        if number % 5:
            continue
        expected = official.is_valid(changed)
        assert (schemas.faults(action, changed) == ()) == expected, what
        refused += not expected
    assert refused > 10


def test_examples__get_the_same_verdict(reference_dir, schemas):
    official = official_validators(reference_dir)
    seen: dict[tuple[str, bool], int] = {}
    for folder in ("v2-valid", "v2-pre-lts-invalid"):
        for file in sorted((reference_dir / "spec" / "examples" / folder).glob("*.json")):
            for document in _fillings(json.loads(file.read_text(encoding="utf-8"))):
                action = document["context"]["action"]
                faults = schemas.faults(action, document)
                # An action the official document does not have (rating) is refused by both.
                expected = action in official and official[action].is_valid(document)
                assert (faults == ()) == expected, (file.name, faults)
                seen[folder, expected] = seen.get((folder, expected), 0) + 1
    assert seen["v2-valid", True] >= 1
    assert seen["v2-pre-lts-invalid", False] >= 40
    assert ("v2-pre-lts-invalid", True) not in seen


def _fillings(document: dict[str, Any]):
    """The example as it stands and, where it has placeholders, filled in."""
    yield document
    filled = json.loads(json.dumps(document))
    for name, value in filled["context"].items():
        if isinstance(value, str) and value.startswith("BENCH_"):
            filled["context"][name] = (
                "2026-01-01T00:00:00Z" if name == "timestamp" else str(uuid.UUID(int=7, version=4))
            )
    if filled != document:
        yield filled


SCALARS = frozenset({"type", "format", "pattern", "minItems", "maxItems", "minimum"})
DEMANDING = SCALARS | {"required", "enum", "const", "additionalProperties", "anyOf", "oneOf"}
ELSEWHERE = frozenset({"properties", "items", "allOf", "$ref"})
SILENT = frozenset(
    "title description example default deprecated x-tags $schema $comment $id components $defs".split()  # noqa: SIM905
)


class _Walk:
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
        left, right = (set().union(*map(_demands, side)) for side in sides)
        assert left == right, where
        left, right = map(_parts, sides)
        assert left.keys() == right.keys(), where
        for name in left:
            self.compare(left[name], right[name], f"{where}/{name}")


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


def _pointer(document, pointer):
    for part in pointer.strip("/").split("/"):
        document = document[part.replace("~1", "/").replace("~0", "~")]
    return document
