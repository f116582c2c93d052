"""The sellers' portfolios of one demo: seeded DERs where there are some, generated ones elsewhere."""

import json
from collections.abc import Sequence
from pathlib import Path

from fluxeon.demo.source import DemoFeeder
from seeds.build_portfolios import as_text
from seeds.generate import FeederSite, offered_kw, portfolio_document
from seeds.load import SEEDS_DIR, ParticipantSeed, load_templates

ABOUT = "Generated from seeds/portfolios/templates.json for the feeders of a demonstration."


def write_portfolios(
    sellers: Sequence[ParticipantSeed], files: Sequence[Path], feeders: Sequence[DemoFeeder]
) -> dict[str, float]:
    """Write every seller's portfolio file.

    Args:
        sellers: The sellers.
        files: Where each one's portfolio goes.
        feeders: The feeders to serve.

    Returns:
        Power offered by all sellers together at the feeders whose DERs were generated, kW.
    """
    templates = load_templates()
    seeded = {feeder.feeder_id for feeder in feeders if feeder.seed is not None}
    sites = [
        FeederSite(feeder_id=one.feeder_id, rating_kw=one.rating_kw) for one in feeders if one.seed is None
    ]
    offered = {site.feeder_id: 0.0 for site in sites}
    for seller, file in zip(sellers, files, strict=True):
        known = json.loads((SEEDS_DIR / "portfolios" / f"{seller.provider_id}.json").read_bytes())
        kept = [der for der in known["ders"] if der["feeder_id"] in seeded]
        generated = portfolio_document(
            templates,
            seller.provider_id,
            seller.provider_name,
            sites,
            share_of_rating=templates.share_of_rating,
            about=ABOUT,
            first_number=len(known["ders"]) + 1 if kept else 1,
        )
        for site in sites:
            offered[site.feeder_id] += offered_kw(generated, site.feeder_id)
        head = known if kept else generated
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(as_text({**head, "ders": [*kept, *generated["ders"]]}), encoding="utf-8")
    return offered
