import json
import re
from pathlib import Path

import jsonschema_rs
import pytest
import wire_samples_v1
from hatchling.builders.wheel import WheelBuilder
from wire_samples import built_documents, full_documents

from beckn_specs import index
from gateway.beckn.v2 import CONTEXT_BASE

VERSION = "2.0.0"
PACKAGE = Path(index.__file__).parent
SOURCES = {"2.0.0": "Beckn Protocol v2.0.0 LTS", "1.1.1": "Beckn Protocol v1.1.1"}
VERSIONS = tuple(SOURCES)
OF_VERSION = [
    (version, schema)
    for version in VERSIONS
    for schema in (
        index.definitions(version),
        *(index.action_schema(version, action) for action in index.ACTIONS[version]),
    )
]
PACKS = [index.flex_schema(pack) for pack in index.FLEX_PACKS]
EVERY_SCHEMA = [*(schema for _, schema in OF_VERSION), *PACKS]


def _inside(value):
    yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _inside(inner)


@pytest.mark.parametrize(
    ("version", "schema"),
    [*OF_VERSION, *((VERSION, pack) for pack in PACKS)],
    ids=lambda each: each if isinstance(each, str) else each["title"],
)
def test_schema__is_valid_2020_12_and_names_its_source(version, schema):
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema_rs.meta.validate(schema)
    assert SOURCES[version] in schema["$comment"]


def test_schema__ids_are_unique():
    assert len({schema["$id"] for schema in EVERY_SCHEMA}) == len(EVERY_SCHEMA)


@pytest.mark.parametrize("version", VERSIONS)
def test_action_schemas__every_file_is_served_and_every_action_has_its_file(version):
    files = {path.stem for path in (PACKAGE / f"v{version}").glob("*.json")}
    assert files == {*index.ACTIONS[version], "definitions"}


@pytest.mark.parametrize("version", VERSIONS)
def test_definitions__each_names_its_counterpart_and_is_used(version):
    definitions = index.definitions(version)["$defs"]
    everything = [*definitions.values(), *(index.action_schema(version, a) for a in index.ACTIONS[version])]
    used = {
        part["$ref"].rpartition("/")[2]
        for schema in everything
        for part in _inside(schema)
        if isinstance(part, dict) and "$ref" in part
    }
    assert used == set(definitions)
    for schema in definitions.values():
        assert schema["$comment"].startswith(SOURCES[version])
        assert schema["description"]


@pytest.mark.parametrize("version", VERSIONS)
def test_action_schema__expects_its_own_action(version):
    for action in index.ACTIONS[version]:
        schema = index.action_schema(version, action)
        assert schema["properties"]["context"]["properties"]["action"]["const"] == action
        assert schema["title"] == action


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda: index.action_schema(VERSION, "complete"), id="action"),
        pytest.param(lambda: index.action_schema("1.1.0", "select"), id="version of an action"),
        pytest.param(lambda: index.definitions("9.9"), id="version"),
        pytest.param(lambda: index.flex_schema("../v2.0.0/select"), id="pack"),
    ],
)
def test_lookup__refuses_what_is_not_there(call):
    with pytest.raises(KeyError):
        call()


def test_flex_packs__hold_for_everything_the_translator_builds():
    validators = {
        f"{CONTEXT_BASE}/{pack}/v{index.FLEX_VERSION}/context.jsonld": jsonschema_rs.Draft202012Validator(
            dict(index.flex_schema(pack)), validate_formats=True
        )
        for pack in index.FLEX_PACKS
    }
    met = set()
    for documents in built_documents().values():
        for document in documents:
            for part in _inside(document["message"]):
                if isinstance(part, dict) and "@context" in part:
                    validators[part["@context"]].validate(part)
                    undeclared = set(part) - {"@context", "@type"}
                    undeclared -= set(index.flex_schema(part["@type"])["properties"])
                    assert not undeclared, (part["@type"], undeclared)
                    met.add(part["@type"])
    assert met == set(index.FLEX_PACKS) - {"FlexOffer"}


def test_package__ships_its_schemas_in_the_wheel():
    files = WheelBuilder(str(PACKAGE.parent)).recurse_included_files()
    shipped = {Path(each.distribution_path) for each in files}
    wanted = {path.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*.json")}
    assert len(wanted) == len(EVERY_SCHEMA)
    assert wanted <= shipped


def test_source__tells_of_every_folder_and_pack():
    text = (PACKAGE / "SOURCE.md").read_text(encoding="utf-8")
    for name in ("v2.0.0/", "v1.1.1/", "flex/v1.0/", "CC BY-NC-SA", *index.FLEX_PACKS):
        assert name in text


@pytest.mark.parametrize(
    ("version", "samples"),
    [("2.0.0", full_documents), ("1.1.1", wire_samples_v1.full_documents)],
    ids=VERSIONS,
)
def test_full_documents__use_every_member_of_every_definition(version, samples):
    """The samples other tests change place by place: a member they lack would go untested."""
    names = {
        name
        for documents in samples().values()
        for part in _inside(documents)
        if isinstance(part, dict)
        for name in part
    }
    definitions = index.definitions(version)["$defs"]
    members = {
        name
        for part in _inside(definitions)
        if isinstance(part, dict) and isinstance(part.get("properties"), dict)
        for name in part["properties"]
    }
    assert members - names == set()
    assert not re.search(r"/home/|/Users/|/root/", json.dumps(definitions))
