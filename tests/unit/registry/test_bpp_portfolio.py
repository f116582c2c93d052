from datetime import timedelta

import pytest
from bpp_samples import START, catalogue, der_document, portfolio, portfolio_bytes

from gateway.errors import ConfigError
from gateway.types import Direction
from registry.bpp.portfolio import load_portfolio, parse_portfolio


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        pytest.param({"capacity_kw": 0}, "$.ders[0].capacity_kw", id="no capacity"),
        pytest.param({"capacity_kw": "50"}, "$.ders[0].capacity_kw", id="number as text"),
        pytest.param({"type": "nuclear"}, "$.ders[0].type", id="unknown type"),
        pytest.param({"price_per_kwh": "1,5"}, "$.ders[0].price_per_kwh", id="price with a comma"),
        pytest.param({"delivery_mean": 1.5}, "$.ders[0].delivery_mean", id="delivers too much"),
        pytest.param({"baseline": {"method": "BL01", "kw": 1}}, "$.ders[0].baseline.method", id="baseline"),
        pytest.param({"colour": "red"}, "colour", id="unknown member"),
        pytest.param({"min_kw": 60}, "$.ders[0].min_kw", id="minimum above capacity"),
        pytest.param({"min_duration_min": 240}, "$.ders[0].min_duration_min", id="durations crossed"),
        pytest.param({"ev": {}}, "$.ders[0].ev", id="EV member on a battery"),
        pytest.param(
            {"battery": {"energy_kwh": 10, "soc_kwh": 11}}, "$.ders[0].battery.soc_kwh", id="fuller than full"
        ),
        pytest.param(
            {"location": {"latitude": 91, "longitude": 0}}, "$.ders[0].location.latitude", id="off the map"
        ),
        pytest.param(
            {"type": "EV", "ev": {"plugged_in": [{"start": "7:00", "end": "08:00"}]}},
            "$.ders[0].ev.plugged_in[0].start",
            id="time of day",
        ),
        pytest.param(
            {"type": "EV", "baseline": {"method": "NOMINATED", "kw": -1}},
            "$.ders[0].baseline.kw",
            id="EV that feeds in",
        ),
    ],
)
def test_parse_portfolio__names_file_and_field(changes, named):
    with pytest.raises(ConfigError) as caught:
        parse_portfolio(portfolio_bytes(der_document(**changes)), source="alpha.json")
    assert str(caught.value).startswith("alpha.json: ")
    assert named in str(caught.value)


def test_parse_portfolio__refuses_a_der_id_given_twice():
    with pytest.raises(ConfigError, match=r"\$\.ders\[1\]\.der_id"):
        parse_portfolio(portfolio_bytes(der_document(), der_document()), source="alpha.json")


def test_parse_portfolio__refuses_an_empty_portfolio():
    with pytest.raises(ConfigError, match=r"\$\.ders must hold"):
        parse_portfolio(portfolio_bytes(), source="alpha.json")


def test_load_portfolio__names_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.json"):
        load_portfolio(tmp_path / "none.json")


def test_an_ev_can_only_defer_what_it_draws():
    ev = portfolio(
        der_document(type="EV", capacity_kw=11, min_kw=0, baseline={"method": "FIXED_REF", "kw": 7})
    ).ders[0]
    assert ev.rated_kw(Direction.REDUCE) == 7
    assert ev.rated_kw(Direction.INCREASE) == 11


def _offers(sold, feeder_id, direction, free=lambda der, _: der.capacity_kw):
    return sold.offers(
        feeder_id, direction, bpp_id="bpp.example", bpp_uri="http://x/beckn", wall_now=START, free_kw=free
    )


def test_offers__are_made_per_type_feeder_and_direction():
    sold = catalogue(
        der_document(),
        der_document(der_id="d2"),
        der_document(der_id="d3", type="HVAC", direction="REDUCE"),
        der_document(der_id="d4", feeder_id="FDR_002"),
    )
    found = {
        offer.offer_id: [der.der_id for der in offer.ders]
        for direction in Direction
        for offer in _offers(sold, None, direction)
    }
    assert found == {
        "alpha:FDR_001:battery:REDUCE:0.31": ["der:alpha:000001", "d2"],
        "alpha:FDR_001:battery:INCREASE:0.31": ["der:alpha:000001", "d2"],
        "alpha:FDR_001:HVAC:REDUCE:0.31": ["d3"],
        "alpha:FDR_002:battery:REDUCE:0.31": ["d4"],
        "alpha:FDR_002:battery:INCREASE:0.31": ["d4"],
    }
    assert [offer.offer_id for offer in _offers(sold, "FDR_002", Direction.REDUCE)] == [
        "alpha:FDR_002:battery:REDUCE:0.31"
    ]


def test_offers__one_price_each():
    sold = catalogue(der_document(), der_document(der_id="d2", price_per_kwh="0.2"))
    offers = _offers(sold, "FDR_001", Direction.REDUCE)
    assert [(offer.price_per_kwh, [der.der_id for der in offer.ders]) for offer in offers] == [
        ("0.2", ["d2"]),
        ("0.31", ["der:alpha:000001"]),
    ]


def test_offers__leave_out_what_is_not_free_and_show_what_is():
    sold = catalogue(der_document(), der_document(der_id="d2"))
    (offer,) = _offers(sold, "FDR_001", Direction.REDUCE, lambda der, _: 12.5 if der.der_id == "d2" else 0.0)
    assert [(der.der_id, der.capacity_kw) for der in offer.ders] == [("d2", 12.5)]
    assert offer.valid_until - offer.valid_from == timedelta(hours=24)
    assert _offers(sold, "FDR_001", Direction.REDUCE, lambda *_: 0.0) == ()
