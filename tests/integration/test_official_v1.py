"""Our v1.1 schemas against the official v1.1.1 document: the same verdict but where SOURCE.md says so."""

import copy
import json
import re

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from official import official_schemas, official_validators
from schema_walk import Walk, pointer
from wire_samples import mutations
from wire_samples_v1 import VERSION, built_documents, document, full_documents

from beckn_specs import index
from gateway.beckn.schema import MessageSchemas

ACTIONS = index.ACTIONS[VERSION]
IDS = ("transaction_id", "message_id")
SAMPLED = 7
"""Every how many-th change is judged by both."""


@pytest.fixture(scope="module")
def schemas():
    return MessageSchemas.load(VERSION)


def _adjusted(reference_dir, action):
    """The official schema with our deliberate differences: ids may be any text."""
    schema = copy.deepcopy(official_schemas(reference_dir, VERSION)[action])
    context = schema["components"]["schemas"]["Context"]["properties"]
    for name in IDS:
        assert context[name].pop("format") == "uuid"
    return schema


@pytest.fixture(scope="module")
def judges(reference_dir):
    return {
        action: jsonschema_rs.Draft202012Validator(_adjusted(reference_dir, action), validate_formats=True)
        for action in ACTIONS
    }


def test_official__has_the_actions_we_serve(reference_dir, schemas):
    assert set(official_validators(reference_dir, VERSION)) == set(schemas.actions)


def test_built_messages__pass_the_official_document_and_ours(reference_dir, schemas):
    official = official_validators(reference_dir, VERSION)
    built = built_documents()
    assert set(built) == set(ACTIONS)
    for action, documents in built.items():
        for each in documents:
            official[action].validate(each)
            assert schemas.faults(action, each) == ()


@pytest.mark.parametrize("action", ACTIONS)
def test_schema__says_the_same_as_the_official_document(reference_dir, action):
    """Not sampled: both schemas are walked together and must state the same constraints everywhere."""
    theirs, ours = _adjusted(reference_dir, action), copy.deepcopy(dict(index.action_schema(VERSION, action)))
    shared = copy.deepcopy(dict(index.definitions(VERSION)))
    # Two patterns are written otherwise than published; tests below compare what they match.
    for schema, names in (
        (theirs["components"]["schemas"], ("DecimalValue", "Gps")),
        (shared["$defs"], ("DecimalText", "Coordinates")),
    ):
        for name, pattern in zip(names, ("decimal", "gps"), strict=True):
            schema[name]["pattern"] = pattern
    # "phone" is no format of JSON Schema, so it demands nothing.
    for name in ("phone", "callback_phone"):
        assert theirs["components"]["schemas"]["Support"]["properties"][name].pop("format") == "phone"
    walk = Walk(
        lambda ref: pointer(theirs, ref.removeprefix("#")),
        lambda ref: pointer(shared, ref.partition("#")[2]),
    )
    walk.compare([theirs], [ours], action)
    assert walk.compared > 3


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_patterns__match_what_the_published_ones_match(reference_dir, data):
    theirs = official_schemas(reference_dir, VERSION)["search"]["components"]["schemas"]
    ours = index.definitions(VERSION)["$defs"]
    for published, own in (("DecimalValue", "DecimalText"), ("Gps", "Coordinates")):
        pattern = theirs[published]["pattern"]
        near = st.from_regex(re.compile(pattern, re.ASCII)) | st.text("+-.,0123456789 x", max_size=14)
        text = data.draw(near)
        verdicts = [
            jsonschema_rs.Draft202012Validator({"pattern": each}).is_valid(text)
            for each in (pattern, ours[own]["pattern"])
        ]
        assert verdicts[0] == verdicts[1], (own, text)


def test_verdict__is_the_official_one_whatever_place_is_changed(judges, schemas):
    judged = refused = 0
    for action, original in full_documents().items():
        judges[action].validate(original)
        for number, (what, changed) in enumerate(mutations(original)):
            if number % SAMPLED:
                continue
            expected = judges[action].is_valid(changed)
            assert (schemas.faults(action, changed) == ()) == expected, (action, what)
            judged += 1
            refused += not expected
    assert judged >= 2000
    assert refused > 500


def test_verdict__of_changed_messages_of_ours_is_the_official_one(judges, schemas):
    judged = 0
    for action, documents in built_documents().items():
        for number, (what, changed) in enumerate(mutations(documents[-1])):
            if number % SAMPLED:
                continue
            expected = judges[action].is_valid(changed)
            assert (schemas.faults(action, changed) == ()) == expected, (action, what)
            judged += 1
    assert judged >= 2000


def test_ids__need_not_be_uuids_here(reference_dir, schemas):
    """The deliberate difference: networks use ids such as df-txn-1001."""
    official = official_validators(reference_dir, VERSION)["status"]
    for name in IDS:
        sent = document("status", {"order_id": "1"}, **{name: "df-txn-1001"})
        assert not official.is_valid(sent)
        assert schemas.faults("status", sent) == ()


def test_examples__get_the_same_verdict(reference_dir, schemas):
    official = official_validators(reference_dir, VERSION)
    valid = judged = 0
    for file in sorted((reference_dir / "spec" / "examples" / "v1.1-valid").glob("*.json")):
        example = json.loads(file.read_text(encoding="utf-8"))
        action = example["context"]["action"]
        expected = official[action].is_valid(example)
        assert (schemas.faults(action, example) == ()) == expected, file.name
        valid += expected
        judged += 1
    assert valid >= 13
    assert judged == 21
