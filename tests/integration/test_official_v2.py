"""Our schemas against the official v2.0.0 document: the same verdict on everything."""

import json
import uuid
from typing import Any

import pytest
from official import official_schemas, official_validators
from schema_walk import Walk, pointer
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
    walk = Walk(
        lambda ref: pointer(theirs, ref.removeprefix("#")),
        lambda ref: pointer(shared, ref.partition("#")[2]),
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
