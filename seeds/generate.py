"""Turns portfolio templates into an aggregator's portfolio at given feeders: pure, repeatable.

Rules:

* The aggregators' power at a feeder adds up to ``share_of_rating`` of its rating before rounding; each
  DER's power, price and delivery vary with its id, never with a clock or a random source.
* The same feeder gets the same DERs in the same order, so ids are stable.
* The result is a JSON object as the seller's portfolio file has it; the seller checks it on reading.
* An aggregator's DERs of one kind and base price cost the same at a feeder: they are one offer.
* A DER sits within a few kilometres of its feeder's place; without a place it has none.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from seeds.load import DerTemplate, Place, PortfolioTemplate, TemplateFile

VARIATION = 0.15
"""Greatest relative deviation of a DER's power from its group's mean."""
NEARBY_DEG = 0.02
LEAST_KW = 0.01
BEST_DELIVERY = 0.995


class FeederSite(msgspec.Struct, frozen=True, kw_only=True):
    """What a portfolio needs to know of a feeder."""

    feeder_id: str
    rating_kw: float
    location: Place | None = None


def deviation(*words: object) -> float:
    """Return a number in [-1, 1) that depends on the words alone."""
    digest = blake2b("/".join(map(str, words)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**63 - 1


def portfolio_document(
    templates: TemplateFile,
    provider_id: str,
    provider_name: str,
    sites: Sequence[FeederSite],
    *,
    share_of_rating: float,
    about: str,
    first_number: int = 1,
) -> dict[str, Any]:
    """Build one aggregator's portfolio.

    Args:
        templates: The templates and their currency.
        provider_id: Whose; must have a template.
        provider_name: For readers.
        sites: The feeders it serves, in the order of its DER numbers.
        share_of_rating: Power of all aggregators together, in parts of each feeder's rating.
        about: Origin of the data.
        first_number: Number of the first DER.

    Raises:
        KeyError: There is no template of that provider.
    """
    template = {one.provider_id: one for one in templates.templates}[provider_id]
    ders: list[dict[str, Any]] = []
    for site in sites:
        ders += _ders_at(template, site, share_of_rating, first_number=first_number + len(ders))
    return {
        "provider_id": provider_id,
        "provider_name": provider_name,
        "currency": templates.currency,
        "about": about,
        "ders": ders,
    }


def offered_kw(document: Mapping[str, Any], feeder_id: str) -> float:
    """Sum the power a portfolio holds at a feeder, kW."""
    return sum(float(der["capacity_kw"]) for der in document["ders"] if der["feeder_id"] == feeder_id)


def _ders_at(
    template: PortfolioTemplate, site: FeederSite, share_of_rating: float, *, first_number: int
) -> list[dict[str, Any]]:
    """All DERs of one aggregator at one feeder."""
    total_kw = site.rating_kw * share_of_rating * template.share
    ders: list[dict[str, Any]] = []
    for place, group in enumerate(template.ders):
        weights = [
            1 + VARIATION * deviation(template.provider_id, site.feeder_id, place, unit, "kw")
            for unit in range(group.count)
        ]
        price = float(group.price_per_kwh) * (
            1 + group.price_spread * deviation(template.provider_id, site.feeder_id, group.type, "price")
        )
        for unit, weight in enumerate(weights):
            kw = max(LEAST_KW, _rounded(total_kw * group.share * weight / sum(weights)))
            number = first_number + len(ders)
            ders.append(_der(template.provider_id, group, site, number, unit=unit, kw=kw, price=price))
    return ders


def _der(
    provider_id: str, group: DerTemplate, site: FeederSite, number: int, *, unit: int, kw: float, price: float
) -> dict[str, Any]:
    """One DER as the portfolio file has it."""
    words = (provider_id, site.feeder_id, number, unit)
    der: dict[str, Any] = {
        "der_id": f"der:{provider_id}:{number:06d}",
        "type": group.type,
        "feeder_id": site.feeder_id,
        "direction": group.direction,
        "capacity_kw": kw,
        "min_kw": _rounded(kw * group.min_part),
        "response_time_s": group.response_time_s,
        "min_duration_min": group.min_duration_min,
        "max_duration_min": group.max_duration_min,
        "price_per_kwh": f"{price:.3f}",
        "delivery_mean": round(min(BEST_DELIVERY, group.delivery_mean + 0.02 * deviation(*words, "mean")), 3),
        "delivery_sd": group.delivery_sd,
        "baseline": {"method": group.baseline.method, "kw": _rounded(kw * group.baseline.factor)},
        "meter_ids": [f"mtr:{provider_id}:{number:06d}"],
    }
    if group.ramp_min is not None:
        der["ramp_kw_per_min"] = max(LEAST_KW, _rounded(kw / group.ramp_min))
    if site.location is not None:
        der["location"] = {
            "latitude": round(site.location.latitude + NEARBY_DEG * deviation(*words, "lat"), 4),
            "longitude": round(site.location.longitude + NEARBY_DEG * deviation(*words, "lon"), 4),
        }
    der.update(_kind_members(group, kw))
    return der


def _kind_members(group: DerTemplate, kw: float) -> dict[str, Any]:
    """The member that describes the kind of DER, sized to its power."""
    if group.battery is not None:
        energy_kwh = max(LEAST_KW, _rounded(kw * group.battery.hours))
        return {
            "battery": {
                "energy_kwh": energy_kwh,
                "soc_kwh": min(energy_kwh, _rounded(energy_kwh * group.battery.soc)),
                "recovery_kw": _rounded(kw * group.battery.recovery),
            }
        }
    if group.ev is not None:
        ev: dict[str, Any] = {"catch_up_min": group.ev.catch_up_min}
        if group.ev.plugged_in:
            ev["plugged_in"] = [{"start": span.start, "end": span.end} for span in group.ev.plugged_in]
        return {"ev": ev}
    if group.hvac is not None:
        return {"hvac": msgspec.structs.asdict(group.hvac)}
    return {}


def _rounded(value: float) -> float:
    """Round to three significant digits, at least to 10 W."""
    return round(float(f"{value:.3g}"), 2)
