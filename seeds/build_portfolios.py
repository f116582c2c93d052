"""Writes the seeded portfolios of the bundled feeders from the templates.

Run ``python -m seeds.build_portfolios`` after a change of ``feeders.json`` or ``templates.json``; a test
compares the files with what this would write.
"""

import json
import sys
from typing import Any

from seeds.generate import FeederSite, portfolio_document
from seeds.load import SEEDS_DIR, load_feeders, load_participants, load_templates

ABOUT = "Seeded portfolio at the bundled feeders, invented; written by seeds/build_portfolios.py."


def seeded_portfolios() -> dict[str, dict[str, Any]]:
    """Build every aggregator's portfolio at the bundled feeders, by provider id."""
    templates = load_templates()
    sites = [
        FeederSite(feeder_id=one.feeder_id, rating_kw=one.rating_kw, location=one.location)
        for one in load_feeders()
    ]
    return {
        one.provider_id: portfolio_document(
            templates,
            one.provider_id,
            one.provider_name,
            sites,
            share_of_rating=templates.share_of_rating_seeded,
            about=ABOUT,
        )
        for one in load_participants().participants
    }


def as_text(document: dict[str, Any]) -> str:
    """Write a portfolio with one DER a line."""
    head = {name: value for name, value in document.items() if name != "ders"}
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}," for name, value in head.items()]
    ders = ",\n".join("    " + json.dumps(der) for der in document["ders"])
    return "{\n" + "\n".join(lines) + '\n  "ders": [\n' + ders + "\n  ]\n}\n"


def main() -> int:
    """Write the files."""
    for provider_id, document in seeded_portfolios().items():
        path = SEEDS_DIR / "portfolios" / f"{provider_id}.json"
        path.write_text(as_text(document), encoding="utf-8")
        sys.stdout.write(f"{path.name}: {len(document['ders'])} DERs\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
