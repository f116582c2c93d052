import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_samples import (
    CONTRACT_ID,
    contract_views,
    locations,
    mutations,
    offer_lists,
    order_terms,
    powers,
    sample_offer,
    sample_terms,
    sample_view,
    texts,
    windows,
)
from wire_samples_v1 import VERSION, built_documents, document

from gateway.beckn import v1
from gateway.beckn.model import DiscoverAsk, PeerError
from gateway.beckn.schema import MessageSchemas
from gateway.errors import BecknRefusal
from gateway.types import (
    ContractStatus,
    DerPerformance,
    DerType,
    Direction,
    PerformanceStatus,
)

SCHEMAS = MessageSchemas.load(VERSION)
CALLBACKS = ("on_select", "on_init", "on_confirm", "on_status", "on_update", "on_cancel")


def _wire(action, message):
    """One trip over the wire: valid against the schema, decoded as a receiver would."""
    sent = document(action, message)
    assert SCHEMAS.faults(action, sent) == ()
    return sent["message"]


def _changed(message, path, value):
    """A copy with one member set, or removed where ``value`` is ``...``."""
    message = json.loads(json.dumps(message))
    here = message
    for part in path[:-1]:
        here = here[part]
    if value is ...:
        del here[path[-1]]
    else:
        here[path[-1]] = value
    return message


def _replace(struct, **changes):
    return msgspec.structs.replace(struct, **changes)


def _tags(holder, code):
    """What a tag group says, as a dictionary."""
    found = [group for group in holder["tags"] if group["descriptor"]["code"] == code]
    assert len(found) == 1
    return {tag["descriptor"]["code"]: tag["value"] for tag in found[0]["list"]}


# --- round trips ------------------------------------------------------------------------------


@given(order_terms())
@settings(deadline=None, max_examples=50)
def test_order__survives_select(terms):
    assert v1.parse_order(_wire("select", v1.select_message(terms))) == (terms, None)


@given(st.data())
@settings(deadline=None, max_examples=50)
def test_order__survives_every_later_request(data):
    terms = data.draw(order_terms())
    # What init, confirm and update repeat of the price is what the seller said.
    view = _replace(
        data.draw(contract_views(terms)),
        obp_id=terms.obp_id,
        price_per_kwh=terms.price_per_kwh,
        currency=terms.currency,
    )
    assert v1.parse_order(_wire("init", v1.init_message(terms, view))) == (terms, view.contract_id)
    confirmed = v1.parse_order(_wire("confirm", v1.confirm_message(terms, view)))
    assert confirmed == (terms, view.contract_id or terms.obp_id)
    for ends in (False, True):
        update = v1.parse_update(_wire("update", v1.update_message(terms, view, CONTRACT_ID, completes=ends)))
        assert (update.terms, update.contract_id, update.completes) == (terms, CONTRACT_ID, ends)


@given(st.data())
@settings(deadline=None, max_examples=50)
def test_contract__survives_every_callback(data):
    terms = data.draw(order_terms())
    view = data.draw(contract_views(terms))
    message = v1.contract_message(terms, view)
    for action in CALLBACKS:
        assert v1.parse_reply(action, _wire(action, message), None) == view


@given(offer_lists())
@settings(deadline=None, max_examples=50)
def test_offers__survive_on_search(offers):
    sent = _wire("on_search", v1.on_discover_message(offers))
    parsed = v1.parse_on_discover(sent, bpp_id="bpp-alpha.example", bpp_uri="https://bpp-alpha.example/beckn")
    assert sorted(parsed, key=_offer_id) == sorted(offers, key=_offer_id)


def _offer_id(offer):
    return offer.offer_id


@st.composite
def _asks(draw):
    start, end = draw(windows)
    location = draw(st.none() | locations)
    return DiscoverAsk(
        feeder_id=draw(texts),
        direction=draw(st.sampled_from(Direction)),
        min_kw=draw(powers),
        kw=draw(powers),
        window_start=start,
        window_end=end,
        location=location,
        radius_m=None if location is None else draw(powers),
    )


@given(_asks())
@settings(deadline=None, max_examples=50)
def test_discover__survives(ask):
    message = v1.discover_message(
        ask.feeder_id,
        ask.direction,
        ask.kw,
        ask.window_start,
        ask.window_end,
        ask.location,
        min_kw=ask.min_kw,
        radius_m=0.0 if ask.radius_m is None else ask.radius_m,
    )
    assert v1.parse_discover(_wire("search", message)) == ask


@given(texts)
def test_cancel__survives(reason):
    sent = _wire("cancel", v1.cancel_message(sample_terms(), CONTRACT_ID, reason))
    assert v1.parse_reference(sent) == CONTRACT_ID
    assert v1.parse_cancel_reason(sent) == reason


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers__are_decimal_text_that_reads_back_exactly(number):
    text = v1.decimal(number, "x")
    assert "e" not in text.lower()
    assert float(text) == number


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_builders__refuse_numbers_text_cannot_carry(bad):
    terms = sample_terms()
    with pytest.raises(ValueError, match="finite"):
        v1.select_message(_replace(terms, lines=(_replace(terms.lines[0], kw=bad),)))
    with pytest.raises(ValueError, match="decimal"):
        v1.select_message(_replace(terms, price_per_kwh=str(bad)))


# --- places -----------------------------------------------------------------------------------


def test_confirm__stands_where_the_mapping_says():
    view = sample_view(ContractStatus.DRAFT)
    order = v1.confirm_message(sample_terms(), view)["order"]
    assert order["provider"] == {"id": "agg1"}
    assert order["id"] == CONTRACT_ID
    first = order["items"][0]
    assert first["id"] == "der:agg1:1"
    assert first["descriptor"]["code"] == "battery"
    assert first["quantity"] == {
        "selected": {"measure": {"unit": "kW", "value": "50"}},
        "allocated": {"measure": {"unit": "kW", "value": "45"}},
    }
    assert first["price"] == {"currency": "GBP", "value": "0.35"}
    assert _tags(first, "flex-resource") == {
        "der_id": "der:agg1:1",
        "feeder_id": "FDR_001",
        "direction": "REDUCE",
    }
    assert _tags(first, "flex-baseline") == {"method": "NOMINATED", "kw": "-3.5"}
    stop = order["fulfillments"][0]["stops"][0]
    assert stop["location"]["id"] == "FDR_001"
    assert stop["time"]["range"] == {"start": "2026-01-05T17:00:00Z", "end": "2026-01-05T18:00:00Z"}
    assert order["quote"]["price"] == {"currency": "GBP", "value": "18.27"}
    assert order["payments"][0]["type"] == "POST-FULFILLMENT"
    assert _tags(order, "flex-contract") == {
        "event_id": "EVT-1",
        "obp_id": "OBP-2026-000123",
        "feeder_id": "FDR_001",
        "direction": "REDUCE",
    }
    assert "status" not in order


def test_completion__is_an_order_that_says_complete_with_its_metered_intervals():
    order = v1.contract_message(sample_terms(), sample_view(ContractStatus.COMPLETE))["order"]
    assert order["status"] == "COMPLETE"
    delivery = order["fulfillments"][0]
    assert delivery["state"]["descriptor"]["code"] == "COMPLETED"
    assert _tags(delivery, "flex-performance") == {
        "start": "2026-01-05T17:00:00Z",
        "end": "2026-01-05T18:00:00Z",
        "usage_wh": "-44100",
    }
    assert order["payments"] == [
        {
            "type": "POST-FULFILLMENT",
            "status": "NOT-PAID",
            "params": {"amount": "18.27", "currency": "GBP"},
        }
    ]
    assert "state" not in order["fulfillments"][1]


@pytest.mark.parametrize(
    ("status", "spelled"),
    [
        (ContractStatus.DRAFT, {"type": "DRAFT"}),
        (ContractStatus.ACTIVE, {"status": "ACTIVE"}),
        (ContractStatus.CANCELLED, {"status": "CANCELLED"}),
    ],
)
def test_states__have_their_places(status, spelled):
    order = v1.contract_message(sample_terms(), sample_view(status))["order"]
    assert {name: order[name] for name in ("type", "status") if name in order} == spelled


def test_on_search__describes_each_der_once_and_its_place_in_a_fulfilment():
    catalog = v1.on_discover_message([sample_offer()])["catalog"]
    (provider,) = catalog["providers"]
    first, second = provider["items"]
    assert first["quantity"]["available"]["measure"] == {"unit": "kW", "value": "50"}
    assert _tags(first, "flex-resource")["response_time_s"] == "30"
    assert _tags(second, "flex-constraints") == {"minNoticeS": "300", "excludedPeriods": "[]"}
    assert second["quantity"]["minimum"]["measure"]["value"] == "2.5"
    places = {each["id"]: each["stops"][0]["location"] for each in provider["fulfillments"]}
    assert places[first["fulfillment_ids"][0]] == {"id": "FDR_001", "gps": "51.5,-0.12"}
    assert provider["offers"][0]["item_ids"] == ["der:agg1:1", "der:agg1:2"]


def test_on_search__describes_a_der_sold_in_two_ways_in_two_entries():
    reduce = sample_offer()
    rise = _replace(
        reduce,
        offer_id="offer-2",
        ders=tuple(_replace(der, direction=Direction.INCREASE) for der in reduce.ders),
    )
    message = v1.on_discover_message([reduce, rise])
    assert [each["id"] for each in message["catalog"]["providers"]] == ["agg1", "agg1"]


def test_performance__of_a_stranger_is_our_own_mistake():
    view = _replace(
        sample_view(), performance=(DerPerformance(der_id="other", status=PerformanceStatus.SCHEDULED),)
    )
    with pytest.raises(ValueError, match="other"):
        v1.contract_message(sample_terms(), view)


# --- what other sellers may write ---------------------------------------------------------------


def _item(**changes):
    return {
        "id": "d1",
        "quantity": {"selected": {"measure": {"unit": "kW", "value": "50"}}},
        "price": {"currency": "GBP", "value": "0.30"},
        **changes,
    }


def test_parse_contract__takes_the_least_a_seller_may_send():
    view = v1.parse_contract(_wire("on_select", {"order": {"items": [_item()]}}), verb="on_select")
    assert (view.lines[0].requested_kw, view.lines[0].committed_kw) == (50.0, 50.0)
    assert view.status is ContractStatus.DRAFT
    assert (view.contract_id, view.obp_id, view.window_start, view.total_price) == (None,) * 4


@pytest.mark.parametrize(
    ("verb", "order", "status"),
    [
        ("on_select", {}, ContractStatus.DRAFT),
        ("on_init", {}, ContractStatus.DRAFT),
        ("on_confirm", {}, ContractStatus.ACTIVE),
        ("on_confirm", {"type": "DRAFT"}, ContractStatus.DRAFT),
        ("on_status", {}, ContractStatus.ACTIVE),
        ("on_update", {}, ContractStatus.ACTIVE),
        ("on_cancel", {}, ContractStatus.CANCELLED),
        ("on_status", {"status": "COMPLETE"}, ContractStatus.COMPLETE),
        ("on_status", {"status": "COMPLETED"}, ContractStatus.COMPLETE),
        ("on_status", {"status": "Canceled"}, ContractStatus.CANCELLED),
    ],
)
def test_parse_contract__knows_the_status_of_an_order_that_does_not_say(verb, order, status):
    assert v1.parse_contract({"order": {"items": [_item()], **order}}, verb=verb).status is status


def test_parse_contract__reads_the_guides_bare_measure_and_other_units():
    item = _item(quantity={"measure": {"unit": "KW", "value": "12.5"}})
    assert v1.parse_contract({"order": {"items": [item]}}).lines[0].committed_kw == 12.5
    with pytest.raises(BecknRefusal) as refused:
        v1.parse_contract({"order": {"items": [_item(quantity={"measure": {"unit": "MW", "value": "1"}})]}})
    assert refused.value.path == "/message/order/items/0/quantity/measure/unit"


def test_parse_contract__one_fulfilment_of_all_items_reports_for_each():
    order = {
        "items": [_item(), _item(id="d2")],
        "fulfillments": [{"id": "f", "state": {"descriptor": {"code": "In_Progress"}}}],
    }
    view = v1.parse_contract({"order": order})
    assert [(each.der_id, each.status) for each in view.performance] == [
        ("d1", PerformanceStatus.IN_PROGRESS),
        ("d2", PerformanceStatus.IN_PROGRESS),
    ]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("ACCEPTED", PerformanceStatus.SCHEDULED),
        ("COMPLETE", PerformanceStatus.COMPLETED),
        ("REJECTED", PerformanceStatus.FAILED),
    ],
)
def test_parse_contract__normalises_delivery_states(code, status):
    order = {"items": [_item()], "fulfillments": [{"state": {"descriptor": {"code": code}}}]}
    assert v1.parse_contract({"order": order}).performance[0].status is status


def test_parse_contract__finds_the_reason_in_the_cancellation_too():
    order = {"items": [_item()], "cancellation": {"reason": {"descriptor": {"name": "too hot"}}}}
    assert v1.parse_contract({"order": order}, verb="on_cancel").decline_reason == "too hot"


def test_parse_reply__of_an_error_only_callback():
    error = PeerError(code="40002", detail="sold out")
    for verb in ("on_select", "on_init", "on_confirm"):
        view = v1.parse_reply(verb, {}, error)
        assert (view.status, view.decline_reason) == (ContractStatus.CANCELLED, "40002: sold out")
    for verb in ("on_status", "on_update", "on_cancel"):
        assert v1.parse_reply(verb, {}, error) is None


def test_parse_reply__of_an_error_beside_an_order():
    error = PeerError(code="40002", detail="less than asked")
    beside = {"order": {"items": [_item()]}}
    assert v1.parse_reply("on_select", beside, error).status is ContractStatus.CANCELLED
    active = {"order": {"items": [_item()], "status": "ACTIVE"}}
    assert v1.parse_reply("on_confirm", active, error).status is ContractStatus.ACTIVE
    assert v1.parse_reply("on_status", beside, error).status is ContractStatus.ACTIVE


def test_parse_reply__with_neither_order_nor_error_is_refused():
    with pytest.raises(BecknRefusal) as refused:
        v1.parse_reply("on_select", {}, None)
    assert refused.value.path == "/message/order"


def _shelf(**changes):
    item = {
        "id": "d1",
        "price": {"currency": "GBP", "value": "0.30"},
        "quantity": {"available": {"measure": {"unit": "kW", "value": "5"}}},
        "tags": [
            {
                "descriptor": {"code": "flex-resource"},
                "list": [
                    {"descriptor": {"code": code}, "value": value}
                    for code, value in (
                        ("feeder_id", "F1"),
                        ("direction", "reduce"),
                        ("response_time_s", "30"),
                        ("min_duration_min", "15"),
                        ("max_duration_min", "60"),
                    )
                ],
            }
        ],
        **changes,
    }
    return {"catalog": {"providers": [{"id": "agg", "items": [item]}]}}


def test_parse_on_discover__an_item_without_an_offer_is_one_and_is_ordered_without():
    (offer,) = v1.parse_on_discover(_shelf(), bpp_id="b", bpp_uri="http://b")
    assert (offer.offer_id, offer.price_per_kwh, offer.provider_name) == ("item:d1", "0.30", "agg")
    assert offer.ders[0].type is DerType.OTHER
    terms = sample_terms()
    terms = _replace(terms, offer_id=offer.offer_id, lines=(_replace(terms.lines[0], der_id="d1"),))
    message = _wire("select", v1.select_message(terms))
    assert "offers" not in message["order"]
    assert v1.parse_order(message) == (terms, None)


def test_parse_on_discover__an_offer_without_a_price_costs_what_its_dearest_item_does():
    message = _shelf()
    provider = message["catalog"]["providers"][0]
    second = {**provider["items"][0], "id": "d2", "price": {"currency": "GBP", "value": "1.2"}}
    provider["items"].append(second)
    provider["offers"] = [{"id": "o", "item_ids": ["d1", "d2"]}]
    (offer,) = v1.parse_on_discover(message, bpp_id="b", bpp_uri="http://b")
    assert (offer.offer_id, offer.price_per_kwh) == ("o", "1.2")


def test_parse_on_discover__understands_tags_named_by_a_bare_code():
    message = _shelf()
    group = message["catalog"]["providers"][0]["items"][0]["tags"][0]
    group["code"] = group.pop("descriptor")["code"]
    for tag in group["list"]:
        tag["code"] = tag.pop("descriptor")["code"]
    assert v1.parse_on_discover(message, bpp_id="b", bpp_uri="http://b")[0].ders[0].feeder_id == "F1"


def test_parse_on_discover__finds_the_feeder_at_the_stop():
    message = _shelf(fulfillment_ids=["f"])
    provider = message["catalog"]["providers"][0]
    del provider["items"][0]["tags"][0]["list"][0]
    place = {"id": "F9", "gps": "51.5, -0.1"}
    provider["fulfillments"] = [{"id": "f", "stops": [{"location": place}]}]
    (der,) = v1.parse_on_discover(message, bpp_id="b", bpp_uri="http://b")[0].ders
    assert (der.feeder_id, der.location.latitude, der.location.longitude) == ("F9", 51.5, -0.1)


def test_parse_discover__asks_for_everything_where_nothing_is_said():
    assert v1.parse_discover({}) == DiscoverAsk()
    assert v1.parse_discover({"intent": {}}) == DiscoverAsk()


# --- refusals -----------------------------------------------------------------------------------

ITEM = ("order", "items", 0)


@pytest.mark.parametrize(
    ("path", "value", "at", "code"),
    [
        ((*ITEM, "id"), ..., None, "SCH_REQUIRED_FIELD_MISSING"),
        ((*ITEM, "quantity", "selected", "measure", "value"), "12 kW", None, "SCH_INVALID_FORMAT"),
        ((*ITEM, "quantity", "selected", "measure", "value"), "-5", None, "SCH_INVALID_FORMAT"),
        ((*ITEM, "quantity", "selected", "measure", "value"), "9" * 400, None, "SCH_INVALID_FORMAT"),
        ((*ITEM, "price", "value"), "cheap", None, "SCH_INVALID_FORMAT"),
        ((*ITEM, "price", "currency"), ..., None, "SCH_REQUIRED_FIELD_MISSING"),
        ((*ITEM, "price", "value"), "9.99", "/order/items/1/price", "SCH_SCHEMA_VALIDATION_FAILED"),
        (("order", "items", 1, "id"), "der:agg1:1", "/order/items/1", "SCH_SCHEMA_VALIDATION_FAILED"),
        (("order", "items"), [], None, "SCH_REQUIRED_FIELD_MISSING"),
        (("order", "quote", "price", "currency"), "EUR", None, "SCH_SCHEMA_VALIDATION_FAILED"),
        (("order", "status"), "GONE", None, "SCH_INVALID_ENUM"),
        (
            ("order", "fulfillments", 0, "stops", 0, "time", "range", "end"),
            "2026-01-05T17:00:00Z",
            None,
            "SCH_INVALID_FORMAT",
        ),
        (
            ("order", "fulfillments", 1, "stops", 0, "time", "range", "end"),
            "2026-01-05T19:00:00Z",
            "/order/fulfillments/1/stops/0/time/range",
            "SCH_SCHEMA_VALIDATION_FAILED",
        ),
        (
            ("order", "fulfillments", 0, "id"),
            "f9",
            "/order/fulfillments/0",
            "SCH_SCHEMA_VALIDATION_FAILED",
        ),
        (
            ("order", "fulfillments", 0, "tags", 0, "list", 2, "value"),
            "1.5",
            None,
            "SCH_INVALID_FORMAT",
        ),
        (
            ("order", "fulfillments", 0, "tags", 0, "list", 2),
            {},
            "/order/fulfillments/0/tags/0",
            "SCH_REQUIRED_FIELD_MISSING",
        ),
    ],
)
def test_parse_contract__names_what_it_cannot_use(path, value, at, code):
    message = _changed(v1.contract_message(sample_terms(), sample_view()), path, value)
    with pytest.raises(BecknRefusal) as refused:
        v1.parse_contract(message)
    wanted = at or "/" + "/".join(map(str, path))
    assert (refused.value.path, refused.value.code) == (f"/message{wanted}", code)


def test_parse_contract__refuses_intervals_of_several_ders():
    message = v1.contract_message(sample_terms(), sample_view())
    for item in message["order"]["items"]:
        item["fulfillment_ids"] = ["f1"]
    with pytest.raises(BecknRefusal, match="exactly one item"):
        v1.parse_contract(message)


def test_tags__that_stand_twice_are_refused():
    message = v1.select_message(sample_terms())
    groups = message["order"]["tags"]
    groups[0]["list"].append({"descriptor": {"code": "obp_id"}, "value": "OBP-other"})
    with pytest.raises(BecknRefusal, match="obp_id stands twice"):
        v1.parse_order(message)
    with pytest.raises(BecknRefusal, match="flex-contract stands twice"):
        v1.parse_order(_changed(message, ("order", "tags"), groups * 2))


@pytest.mark.parametrize(
    ("path", "at"),
    [
        (("order", "tags"), "/message/order/tags"),
        (("order", "provider"), "/message/order/provider"),
        (("order", "fulfillments"), "/message/order/fulfillments"),
        ((*ITEM, "quantity"), "/message/order/items/0/quantity"),
    ],
)
def test_parse_order__names_what_is_missing(path, at):
    with pytest.raises(BecknRefusal) as refused:
        v1.parse_order(_changed(v1.select_message(sample_terms()), path, ...))
    assert (refused.value.path, refused.value.code) == (at, "SCH_REQUIRED_FIELD_MISSING")


def test_parse_order__needs_one_offer():
    for offers in ([], [{"id": "a"}, {"id": "b"}]):
        with pytest.raises(BecknRefusal, match="one offer"):
            v1.parse_order(_changed(v1.select_message(sample_terms()), ("order", "offers"), offers))


PARSERS = {
    "search": v1.parse_discover,
    "on_search": lambda message: v1.parse_on_discover(message, bpp_id="b", bpp_uri="http://b"),
    "select": v1.parse_order,
    "update": v1.parse_update,
    "cancel": lambda message: (v1.parse_reference(message), v1.parse_cancel_reason(message)),
    "on_status": v1.parse_contract,
}


@pytest.mark.parametrize("action", PARSERS)
def test_parsers__only_ever_refuse_whatever_they_are_sent(action):
    original = built_documents()[action][-1]["message"]
    paths = []
    for number, (_, changed) in enumerate(mutations(original)):
        if number % 3:
            continue
        try:
            PARSERS[action](changed)
        except BecknRefusal as refusal:
            paths.append(refusal.path)
    assert len(paths) > 5
    assert all(path.startswith("/message") for path in paths)


@pytest.mark.parametrize("rubbish", [None, [], "x", 7, {"order": None}, {"catalog": []}])
def test_parsers__refuse_what_is_no_message(rubbish):
    for action in ("on_search", "select", "update", "on_status"):
        with pytest.raises(BecknRefusal):
            PARSERS[action](rubbish)
