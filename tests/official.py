"""Validators made from the official documents, where a copy of them is at hand."""

from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import yaml

DIALECT = "https://json-schema.org/draft/2020-12/schema"
FILES = {"2.0.0": "v2.0.0/beckn.yaml", "1.1.1": "v1.1.1/transaction.yaml"}


@cache
def official_schemas(reference_dir: Path, version: str = "2.0.0") -> dict[str, dict[str, Any]]:
    """One 2020-12 schema per action: the request body of its path, with the components it refers to."""
    text = (reference_dir / "spec" / FILES[version]).read_text(encoding="utf-8")
    document = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    components = {"schemas": _without_dialects(document["components"]["schemas"])}
    schemas = {}
    for path, item in document["paths"].items():
        if path.startswith("/catalog/"):
            continue
        body = item["post"]["requestBody"]["content"]["application/json"]["schema"]
        schemas[path.removeprefix("/")] = {"$schema": DIALECT, "components": components, **body}
    return schemas


@cache
def official_validators(
    reference_dir: Path, version: str = "2.0.0"
) -> dict[str, jsonschema_rs.Draft202012Validator]:
    """One validator per action, formats asserted; ``.is_valid(document)`` is the official verdict."""
    return {
        action: jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
        for action, schema in official_schemas(reference_dir, version).items()
    }


def _without_dialects(schemas: dict[str, Any]) -> dict[str, Any]:
    """Drop ``$schema`` inside components: it says what the root says, and may stand at a root only."""
    return {name: {k: v for k, v in schema.items() if k != "$schema"} for name, schema in schemas.items()}
