"""Portfolios at any feeder, as the seller reads them."""

import json

import pytest

from gateway.types import DerType, Direction
from registry.bpp.portfolio import Portfolio, load_portfolio, parse_portfolio
from seeds.generate import FeederSite, deviation, offered_kw, portfolio_document
from seeds.load import SEEDS_DIR, Place, load_feeders, load_participants, load_templates

SITES = [
    FeederSite(feeder_id="A", rating_kw=114_000.0),
    FeederSite(feeder_id="B", rating_kw=42.2, location=Place(latitude=51.0, longitude=9.0)),
    FeederSite(feeder_id="dead", rating_kw=10.0),
]
PROVIDERS = ("alpha", "bravo", "charlie")


def generated(share: float = 0.13) -> dict[str, dict[str, object]]:
    templates = load_templates()
    return {
        one: portfolio_document(templates, one, one.title(), SITES, share_of_rating=share, about="")
        for one in PROVIDERS
    }


def read(document: dict[str, object]) -> Portfolio:
    return parse_portfolio(json.dumps(document).encode(), source="generated")


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.feeder_id)
def test_portfolio_document__offers_ten_to_fifteen_percent_of_the_rating(site: FeederSite):
    kw = sum(offered_kw(document, site.feeder_id) for document in generated().values())
    assert 0.10 <= kw / site.rating_kw <= 0.15
    assert kw / site.rating_kw == pytest.approx(0.13, rel=0.03)


@pytest.mark.parametrize("provider_id", PROVIDERS)
def test_portfolio_document__is_accepted_by_the_seller(provider_id: str):
    portfolio = read(generated()[provider_id])
    assert portfolio.feeder_ids == ("A", "B", "dead")
    assert len({der.der_id for der in portfolio.ders}) == 12


def test_portfolio_document__sells_both_directions_at_every_feeder():
    for document in generated().values():
        portfolio = read(document)
        for site in SITES:
            ders = [der for der in portfolio.ders if der.feeder_id == site.feeder_id]
            for direction in Direction:
                assert sum(der.rated_kw(direction) for der in ders) == pytest.approx(
                    sum(der.capacity_kw for der in ders)
                )


def test_portfolio_document__is_the_same_every_time():
    assert json.dumps(generated()) == json.dumps(generated())


def test_portfolio_document__gives_a_feeder_the_same_power_wherever_it_stands_in_the_list():
    templates = load_templates()
    alone = portfolio_document(templates, "alpha", "Alpha", SITES[1:2], share_of_rating=0.13, about="")
    assert offered_kw(alone, "B") == offered_kw(generated()["alpha"], "B")


def test_portfolio_document__leaves_out_places_that_are_not_known():
    ders = read(generated()["alpha"]).ders
    assert {der.feeder_id for der in ders if der.location is not None} == {"B"}


def test_portfolio_document__refuses_an_aggregator_without_template():
    with pytest.raises(KeyError):
        portfolio_document(load_templates(), "delta", "Delta", SITES, share_of_rating=0.1, about="")


def test_deviation__stays_within_one():
    values = [deviation("word", number) for number in range(2000)]
    assert -1 <= min(values) < -0.9
    assert 0.9 < max(values) < 1


def test_seeded_portfolios__serve_every_bundled_feeder_with_all_three_kinds():
    feeders = load_feeders()
    portfolios = [
        load_portfolio(SEEDS_DIR / "portfolios" / f"{one.provider_id}.json")
        for one in load_participants().participants
    ]
    for feeder in feeders:
        ders = [
            der for portfolio in portfolios for der in portfolio.ders if der.feeder_id == feeder.feeder_id
        ]
        assert {der.type for der in ders} == {DerType.BATTERY, DerType.EV, DerType.HVAC}
        assert sum(der.capacity_kw for der in ders) / feeder.rating_kw == pytest.approx(0.15, rel=0.02)


def test_seeded_portfolios__have_plausible_prices_and_responses():
    response_s = {DerType.BATTERY: (5, 10), DerType.EV: (60, 60), DerType.HVAC: (300, 300)}
    for provider_id in PROVIDERS:
        for der in load_portfolio(SEEDS_DIR / "portfolios" / f"{provider_id}.json").ders:
            assert 0.14 < float(der.price_per_kwh) < 0.60
            low, high = response_s[der.type]
            assert low <= der.response_time_s <= high
            assert 0.8 < der.delivery_mean < 1.0


def test_portfolio_document__prices_like_ders_alike_at_one_feeder_and_unlike_at_another():
    ders = read(generated()["bravo"]).ders
    prices = {
        site.feeder_id: {der.price_per_kwh for der in ders if der.feeder_id == site.feeder_id}
        for site in SITES
    }
    assert [len(each) for each in prices.values()] == [1, 1, 1]
    assert len(set.union(*prices.values())) > 1
