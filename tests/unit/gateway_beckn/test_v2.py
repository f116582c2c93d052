import copy
import json
import math
import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_samples import (
    CONTRACT_ID,
    END,
    REPLACEMENTS,
    START,
    built_documents,
    contract_views,
    decimals,
    document,
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

from gateway.beckn import v2
from gateway.beckn.schema import MessageSchemas
from gateway.errors import BecknRefusal
from gateway.types import (
    CommittedLine,
    ContractStatus,
    DerPerformance,
    DerType,
    Direction,
    PerformanceStatus,
)

SCHEMAS = MessageSchemas.load()
LINE = ("contract", "commitments", 0)
CATALOG = ("catalogs", 0)


def _wire(action, message):
    """One trip over the wire: valid against the schema, decoded as a receiver would."""
    sent = document(action, message)
    assert SCHEMAS.faults(action, sent) == ()
    return sent["message"]


def _changed(message, path, value):
    """A copy with one member set, or removed where ``value`` is ``...``."""
    message = copy.deepcopy(message)
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


# --- round trips ------------------------------------------------------------------------------


@given(order_terms())
@settings(deadline=None, max_examples=50)
def test_order__survives_select(terms):
    assert v2.parse_order(_wire("select", v2.select_message(terms))) == (terms, None)


@given(st.data())
@settings(deadline=None, max_examples=50)
def test_order__survives_every_later_request(data):
    terms = data.draw(order_terms())
    # What init and confirm repeat of the price is what the seller said.
    view = _replace(
        data.draw(contract_views(terms)),
        obp_id=terms.obp_id,
        price_per_kwh=terms.price_per_kwh,
        currency=terms.currency,
    )
    for action, message in (
        ("init", v2.init_message(terms, view)),
        ("confirm", v2.confirm_message(terms, view)),
    ):
        assert v2.parse_order(_wire(action, message)) == (terms, view.contract_id)
    for action, message in (
        ("status", v2.status_message(terms, CONTRACT_ID)),
        ("cancel", v2.cancel_message(terms, CONTRACT_ID, "relieved")),
    ):
        assert v2.parse_order(_wire(action, message)) == (terms, CONTRACT_ID)


@given(st.data())
@settings(deadline=None, max_examples=50)
def test_contract__survives_every_callback(data):
    terms = data.draw(order_terms())
    view = data.draw(contract_views(terms))
    message = v2.contract_message(terms, view)
    for action in ("on_select", "on_init", "on_confirm", "on_status", "on_cancel"):
        assert v2.parse_contract(_wire(action, message)) == view


def _offer_id(offer):
    return offer.offer_id


@given(offer_lists())
@settings(deadline=None, max_examples=50)
def test_offers__survive_on_discover(offers):
    parsed = v2.parse_on_discover(_wire("on_discover", v2.on_discover_message(offers)))
    assert sorted(parsed, key=_offer_id) == sorted(offers, key=_offer_id)


@st.composite
def _asks(draw):
    start, end = draw(windows)
    location = draw(st.none() | locations)
    return v2.DiscoverAsk(
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
    message = v2.discover_message(
        ask.feeder_id,
        ask.direction,
        ask.kw,
        ask.window_start,
        ask.window_end,
        ask.location,
        min_kw=ask.min_kw,
        radius_m=ask.radius_m or 0.0,
    )
    assert v2.parse_discover(_wire("discover", message)) == ask


@given(texts)
@settings(deadline=None, max_examples=50)
def test_cancel_reason__survives(reason):
    message = v2.cancel_message(sample_terms(), CONTRACT_ID, reason)
    assert v2.parse_cancel_reason(_wire("cancel", message)) == reason
    assert v2.parse_cancel_reason(v2.status_message(sample_terms(), CONTRACT_ID)) is None


# --- where things stand -----------------------------------------------------------------------


def test_select__stands_where_the_mapping_says():
    message = v2.select_message(sample_terms())
    contract = message["contract"]
    assert [each["id"] for each in contract["commitments"]] == ["c1", "c2"]
    commitment = contract["commitments"][0]
    assert commitment["status"] == {"descriptor": {"code": "DRAFT"}}
    assert commitment["resources"][0]["id"] == "der:agg1:1"
    assert commitment["resources"][0]["quantity"] == {"unitQuantity": 50, "unitCode": "KWT"}
    assert commitment["offer"] == {"id": "offer-1", "resourceIds": ["der:agg1:1"]}
    assert commitment["commitmentAttributes"] == {
        "@context": "https://schemas.fluxeon.example/FlexCommitment/v1.0/context.jsonld",
        "@type": "FlexCommitment",
        "requestedKw": 50,
        "windowStart": "2026-01-05T17:00:00Z",
        "windowEnd": "2026-01-05T18:00:00Z",
    }
    assert contract["contractAttributes"]["obpId"] == "OBP-2026-000123"
    assert contract["contractAttributes"]["eventId"] == "EVT-1"
    assert contract["status"] == {"code": "DRAFT"}
    assert "id" not in contract


@pytest.mark.parametrize(
    ("status", "commitment", "price", "settled"),
    [
        (ContractStatus.DRAFT, "DRAFT", "PROPOSED", False),
        (ContractStatus.ACTIVE, "ACTIVE", "AGREED", False),
        (ContractStatus.COMPLETE, "CLOSED", "AGREED", True),
        (ContractStatus.CANCELLED, "CLOSED", "PROPOSED", False),
    ],
)
def test_contract__states_agree_with_each_other(status, commitment, price, settled):
    contract = v2.contract_message(sample_terms(), sample_view(status))["contract"]
    assert contract["status"] == {"code": status.value}
    assert {each["status"]["descriptor"]["code"] for each in contract["commitments"]} == {commitment}
    assert contract["consideration"][0]["status"] == {"code": price}
    assert ("settlements" in contract) is settled
    if settled:
        (settlement,) = contract["settlements"]
        assert settlement["considerationId"] == contract["consideration"][0]["id"]
        assert settlement["status"] == "COMMITTED"
        assert settlement["settlementAttributes"]["payable"] == "18.27"


def test_contract__completed_without_a_total_settles_without_an_amount():
    view = _replace(sample_view(), total_price=None)
    (settlement,) = _wire("on_status", v2.contract_message(sample_terms(), view))["contract"]["settlements"]
    assert "settlementAttributes" not in settlement


def test_requests__that_only_refer_to_a_contract_declare_no_state():
    for message in (
        v2.status_message(sample_terms(), CONTRACT_ID),
        v2.cancel_message(sample_terms(), CONTRACT_ID, "why"),
    ):
        assert "status" not in message["contract"]
        assert message["contract"]["id"] == CONTRACT_ID


def test_contract__repeats_the_order_where_the_view_is_silent():
    view = _replace(
        sample_view(ContractStatus.CANCELLED),
        obp_id=None,
        lines=(),
        window_start=None,
        window_end=None,
        price_per_kwh=None,
        currency=None,
        total_price=None,
        baselines=(),
        performance=(),
        decline_reason="asset is away",
    )
    terms = sample_terms()
    parsed = v2.parse_contract(_wire("on_select", v2.contract_message(terms, view)))
    assert (parsed.obp_id, parsed.window_start, parsed.window_end) == (terms.obp_id, START, END)
    assert (parsed.price_per_kwh, parsed.currency) == ("0.35", "GBP")
    assert parsed.decline_reason == "asset is away"
    assert {line.committed_kw for line in parsed.lines} == {0.0}


def test_on_discover__one_catalogue_per_provider_one_resource_per_der():
    offer = sample_offer()
    second = _replace(offer, offer_id="offer-2")
    other = _replace(offer, offer_id="offer-3", provider_id="agg2", ders=())
    catalogs = v2.on_discover_message([offer, other, second])["catalogs"]
    assert [catalog["provider"]["id"] for catalog in catalogs] == ["agg1", "agg2"]
    assert [each["id"] for each in catalogs[0]["resources"]] == ["der:agg1:1", "der:agg1:2"]
    assert [each["id"] for each in catalogs[0]["offers"]] == ["offer-1", "offer-2"]
    assert catalogs[0]["provider"]["availableAt"] == [
        {"geo": {"type": "Point", "coordinates": [-0.12, 51.5]}}
    ]


def test_on_discover__describes_a_der_sold_in_two_ways_in_two_catalogues():
    offer = sample_offer()
    raised = tuple(_replace(der, direction=Direction.INCREASE, capacity_kw=20.0) for der in offer.ders)
    other_way = _replace(offer, offer_id="offer-2", ders=raised)
    again = _replace(offer, offer_id="offer-3", ders=raised[:1])
    message = _wire("on_discover", v2.on_discover_message([offer, other_way, again]))
    assert [catalog["id"] for catalog in message["catalogs"]] == ["agg1:catalog:1", "agg1:catalog:2"]
    assert v2.parse_on_discover(message) == (offer, other_way, again)


def test_schema_context__leaves_out_what_is_no_address():
    contexts = ["https://x.example/a", "https://x.example/b c", "proof", ["https://x.example/d"], 7, "urn:x"]
    message = {"parts": [{"inner": {"@context": each}} for each in contexts]}
    assert v2.schema_context(message) == ("https://x.example/a",)


def test_schema_context__lists_the_packs_used_once_each():
    urls = v2.schema_context(v2.select_message(sample_terms()))
    names = [url.split("/")[3] for url in urls]
    assert names == ["FlexCommitment", "FlexContract", "FlexPrice", "FlexResource"]


# --- numbers and money ------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_builders__refuse_numbers_json_does_not_have(bad):
    terms = sample_terms()
    with pytest.raises(ValueError, match="finite"):
        v2.select_message(_replace(terms, lines=(_replace(terms.lines[0], kw=bad),)))
    line = CommittedLine(der_id="der:agg1:1", requested_kw=1.0, committed_kw=bad)
    with pytest.raises(ValueError, match="finite"):
        v2.contract_message(terms, _replace(sample_view(), lines=(line,)))
    with pytest.raises(ValueError, match="finite"):
        v2.discover_message("F", Direction.REDUCE, bad, START, END)
    offer = sample_offer()
    with pytest.raises(ValueError, match="finite"):
        v2.on_discover_message([_replace(offer, ders=(_replace(offer.ders[0], capacity_kw=bad),))])


@pytest.mark.parametrize("bad", ["", "nan", "1e5", "1,5", "£1", " 1", "1.", "Infinity", "१"])
def test_money__is_decimal_text_or_refused_on_both_sides(bad):
    with pytest.raises(ValueError, match="decimal text"):
        v2.select_message(_replace(sample_terms(), price_per_kwh=bad)) if bad else v2.contract_message(
            sample_terms(), _replace(sample_view(), total_price=bad)
        )
    path = ("contract", "consideration", 0, "considerationAttributes", "total")
    message = _changed(v2.contract_message(sample_terms(), sample_view()), path, bad)
    with pytest.raises(BecknRefusal) as refusal:
        v2.parse_contract(message)
    assert refusal.value.path == "/message/" + "/".join(map(str, path))


@given(decimals)
@settings(deadline=None, max_examples=50)
def test_money__as_a_number_is_read_by_its_shortest_text(amount):
    path = ("contract", "consideration", 0, "considerationAttributes", "total")
    message = _changed(v2.contract_message(sample_terms(), sample_view()), path, float(amount))
    assert float(v2.parse_contract(message).total_price) == float(amount)


@pytest.mark.parametrize(
    ("number", "text"), [(0.35, "0.35"), (1e-7, "0.0000001"), (10**22, "10000000000000000000000"), (7, "7")]
)
def test_money__as_a_number_never_has_an_exponent(number, text):
    path = ("contract", "consideration", 0, "considerationAttributes", "total")
    message = _changed(v2.contract_message(sample_terms(), sample_view()), path, number)
    parsed = v2.parse_contract(message).total_price
    assert float(parsed) == float(text)
    assert "e" not in parsed.lower()


# --- tolerance --------------------------------------------------------------------------------


def _with_strays(value):
    """The same document with an unknown member in every object."""
    if isinstance(value, dict):
        return {name: _with_strays(inner) for name, inner in value.items()} | {"x-stray": [1]}
    return [_with_strays(inner) for inner in value] if isinstance(value, list) else value


def test_parsers__ignore_members_they_do_not_know():
    terms, view, offer = sample_terms(), sample_view(), sample_offer()
    assert v2.parse_order(_with_strays(v2.select_message(terms))) == (terms, None)
    assert v2.parse_contract(_with_strays(v2.contract_message(terms, view))) == view
    plain = _replace(offer, ders=offer.ders[:1])
    assert v2.parse_on_discover(_with_strays(v2.on_discover_message([plain]))) == (plain,)
    discover = v2.discover_message("F", Direction.REDUCE, 1.0, START, END)
    assert v2.parse_discover(_with_strays(discover)) == v2.parse_discover(discover)


def test_parse_contract__takes_the_least_a_seller_may_send():
    message = {
        "contract": {
            "commitments": [
                {
                    "status": {},
                    "resources": [{"id": "der-1", "quantity": {"unitQuantity": 50, "unitCode": "kW"}}],
                    "offer": {"id": "o1", "resourceIds": ["der-1"]},
                }
            ],
            "performance": [{}],
        }
    }
    view = v2.parse_contract(_wire("on_status", message))
    assert view.contract_id is None
    assert view.status is ContractStatus.DRAFT
    assert view.lines == (CommittedLine(der_id="der-1", requested_kw=50.0, committed_kw=50.0),)
    assert view.price_per_kwh is view.total_price is view.window_start is view.obp_id is None
    assert view.performance == (DerPerformance(der_id="der-1", status=PerformanceStatus.SCHEDULED),)


def test_parse_contract__passes_over_considerations_that_are_no_money():
    terms, view = sample_terms(), sample_view()
    message = v2.contract_message(terms, view)
    others = [
        {"id": "q0", "status": {}},
        {
            "id": "q9",
            "status": {},
            "considerationAttributes": {"@context": "https://x.example/credits", "@type": "Credits"},
        },
    ]
    message["contract"]["consideration"] = [*others, *message["contract"]["consideration"]]
    assert v2.parse_contract(_wire("on_status", message)) == view
    message["contract"]["consideration"] = others
    assert v2.parse_contract(_wire("on_status", message)).price_per_kwh is None


@pytest.mark.parametrize(
    ("written", "read"),
    [("COMPLETE", PerformanceStatus.COMPLETED), ("in_progress", PerformanceStatus.IN_PROGRESS)],
)
def test_parse_contract__normalises_free_codes(written, read):
    message = _changed(
        v2.contract_message(sample_terms(), sample_view()),
        ("contract", "performance", 0, "status", "code"),
        written,
    )
    assert v2.parse_contract(message).performance[0].status is read


def test_parse_contract__reads_completed_as_complete():
    message = _changed(
        v2.contract_message(sample_terms(), sample_view()), ("contract", "status", "code"), "COMPLETED"
    )
    assert v2.parse_contract(message).status is ContractStatus.COMPLETE


def test_parse_contract__spreads_a_report_without_intervals_over_its_commitments():
    message = v2.contract_message(sample_terms(), _replace(sample_view(), performance=()))
    message["contract"]["performance"] = [{"status": {"code": "FAILED"}, "commitmentIds": ["c2", "c1"]}]
    reports = v2.parse_contract(message).performance
    assert [(report.der_id, report.status) for report in reports] == [
        ("der:agg1:2", PerformanceStatus.FAILED),
        ("der:agg1:1", PerformanceStatus.FAILED),
    ]


def test_parse_order__finds_the_provider_in_the_offer_too():
    message = v2.select_message(sample_terms())
    del message["contract"]["participants"]
    provider = {"id": "agg1", "descriptor": {}}
    message["contract"]["commitments"][1]["offer"]["provider"] = provider
    assert v2.parse_order(_wire("select", message))[0].provider_id == "agg1"


def test_parse_on_discover__takes_the_sender_for_catalogues_that_name_no_bpp():
    message = v2.on_discover_message([sample_offer()])
    del message["catalogs"][0]["bppId"], message["catalogs"][0]["bppUri"]
    (offer,) = v2.parse_on_discover(message, bpp_id="bpp-beta.example", bpp_uri="https://beta.example")
    assert (offer.bpp_id, offer.bpp_uri) == ("bpp-beta.example", "https://beta.example")
    with pytest.raises(BecknRefusal) as refusal:
        v2.parse_on_discover(message)
    assert refusal.value.path == "/message/catalogs/0/bppId"


def test_parse_on_discover__passes_over_inactive_catalogues():
    message = _changed(v2.on_discover_message([sample_offer()]), (*CATALOG, "isActive"), False)
    assert v2.parse_on_discover(_wire("on_discover", message)) == ()


def test_parse_on_discover__fills_in_what_a_seller_may_leave_out():
    message = v2.on_discover_message([sample_offer()])
    attributes = message["catalogs"][0]["resources"][0]["resourceAttributes"]
    for name in ("derType", "aggregatorId", "derId", "geo", "meterIds"):
        del attributes[name]
    message["catalogs"][0]["resources"][1]["resourceAttributes"]["derType"] = "flywheel"
    message["catalogs"][0]["offers"][0]["offerAttributes"] = {
        "@context": v2.context_url("FlexOffer"),
        "@type": "FlexOffer",
        "constraints": {"minNoticeS": 60, "maxEventsPerDay": 2},
    }
    del message["catalogs"][0]["provider"]["descriptor"]["name"]
    (offer,) = v2.parse_on_discover(_wire("on_discover", message))
    first, second = offer.ders
    assert offer.provider_name == "agg1"
    assert (first.type, first.aggregator_id, first.location, first.meter_ids) == (
        DerType.OTHER,
        "agg1",
        None,
        (),
    )
    assert first.constraints == {"minNoticeS": 60, "maxEventsPerDay": 2}
    assert second.type is DerType.OTHER
    assert second.constraints == {"minNoticeS": 300, "maxEventsPerDay": 2, "excludedPeriods": []}


@pytest.mark.parametrize(
    "intent",
    [
        {},
        {"textSearch": "flexibility"},
        {"filters": {"type": "jsonpath", "expression": "$[?(@.rating.value >= 4.0)]"}},
        {"spatial": [{"op": "S_WITHIN", "targets": "$.x"}]},
    ],
)
def test_parse_discover__asks_for_everything_where_it_is_not_understood(intent):
    assert v2.parse_discover(_wire("discover", {"intent": intent})) == v2.DiscoverAsk()


# --- refusals ---------------------------------------------------------------------------------

OFFER = (*CATALOG, "offers", 0)
PACK = (*CATALOG, "resources", 0, "resourceAttributes")
MISSING, TYPE, FORMAT, ENUM, OTHER = (
    "SCH_REQUIRED_FIELD_MISSING",
    "SCH_TYPE_NOT_SUPPORTED",
    "SCH_INVALID_FORMAT",
    "SCH_INVALID_ENUM",
    "SCH_SCHEMA_VALIDATION_FAILED",
)


def _refused(parse, message, path, code):
    with pytest.raises(BecknRefusal) as refusal:
        parse(message)
    pointer = "/message/" + "/".join(map(str, path))
    assert (refusal.value.path, refusal.value.code) == (pointer, code)
    assert refusal.value.http_status == 400
    assert pointer in refusal.value.detail


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        (("catalogs",), ..., MISSING),
        (("catalogs",), {}, TYPE),
        ((*CATALOG, "provider", "id"), ..., MISSING),
        ((*CATALOG, "isActive"), "yes", TYPE),
        ((*PACK, "feederId"), ..., MISSING),
        ((*PACK, "feederId"), "", FORMAT),
        ((*PACK, "direction"), "DOWN", ENUM),
        ((*PACK, "capacityKw"), ..., MISSING),
        ((*PACK, "capacityKw"), "50", TYPE),
        ((*PACK, "capacityKw"), True, TYPE),
        ((*PACK, "capacityKw"), -1, FORMAT),
        ((*PACK, "capacityKw"), math.inf, FORMAT),
        ((*PACK, "capacityKw"), 10**400, FORMAT),
        ((*PACK, "responseTimeS"), None, MISSING),
        ((*PACK, "minDurationMin"), 1.5, FORMAT),
        ((*PACK, "maxDurationMin"), "60", TYPE),
        ((*PACK, "meterIds"), "m1", TYPE),
        ((*PACK, "constraints"), [], TYPE),
        ((*PACK, "cryptoProof"), "abc", TYPE),
        ((*PACK, "geo", "type"), "Polygon", ENUM),
        ((*PACK, "geo", "coordinates"), [181, 0], FORMAT),
        ((*PACK, "geo", "coordinates"), [0], FORMAT),
        (PACK, ..., MISSING),
        ((*OFFER, "resourceIds"), ..., MISSING),
        ((*OFFER, "resourceIds", 0), "der:unknown", OTHER),
        ((*OFFER, "considerations"), [], MISSING),
        ((*OFFER, "considerations", 0, "considerationAttributes", "currency"), ..., MISSING),
        ((*OFFER, "considerations", 0, "considerationAttributes", "energyRatePerKwh"), "cheap", FORMAT),
        ((*OFFER, "validity", "startDate"), "soon", FORMAT),
        ((*OFFER, "validity", "endDate"), "2026-01-05T17:00:00", FORMAT),
    ],
)
def test_parse_on_discover__names_what_it_cannot_use(path, value, code):
    message = _changed(v2.on_discover_message([sample_offer()]), path, value)
    _refused(v2.parse_on_discover, message, path, code)


CONTRACT = ("contract",)
TERMS = (*LINE, "commitmentAttributes")
REPORT = (*CONTRACT, "performance", 0)
INTERVAL = (*REPORT, "performanceAttributes", "intervals", 0)


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        (CONTRACT, ..., MISSING),
        (CONTRACT, [], TYPE),
        ((*CONTRACT, "id"), 7, TYPE),
        ((*CONTRACT, "status", "code"), "CONFIRMED", ENUM),
        ((*CONTRACT, "commitments"), ..., MISSING),
        ((*CONTRACT, "commitments"), [], MISSING),
        ((*CONTRACT, "commitments"), {}, TYPE),
        ((*LINE, "resources"), [], OTHER),
        ((*LINE, "resources", 0, "id"), ..., MISSING),
        ((*LINE, "offer"), ..., MISSING),
        ((*TERMS, "requestedKw"), "50", TYPE),
        ((*TERMS, "committedKw"), -0.1, FORMAT),
        ((*TERMS, "windowEnd"), ..., MISSING),
        ((*TERMS, "windowEnd"), "2026-01-05T17:00:00Z", FORMAT),
        ((*TERMS, "windowStart"), "2026-01-05", FORMAT),
        ((*TERMS, "baseline", "method"), "10_of_10", ENUM),
        ((*TERMS, "baseline", "kw"), ..., MISSING),
        ((*REPORT, "commitmentIds"), ..., MISSING),
        ((*REPORT, "commitmentIds", 0), "c9", OTHER),
        ((*REPORT, "status", "code"), "HALFWAY", ENUM),
        ((*REPORT, "performanceAttributes", "intervals"), {}, TYPE),
        ((*INTERVAL, "usageWh"), ..., MISSING),
        ((*INTERVAL, "usageWh"), 1.5, FORMAT),
        ((*INTERVAL, "usageWh"), "1", TYPE),
        ((*INTERVAL, "end"), ..., MISSING),
        ((*CONTRACT, "consideration", 0, "considerationAttributes", "currency"), ..., MISSING),
        ((*CONTRACT, "contractAttributes", "obpId"), 1, TYPE),
    ],
)
def test_parse_contract__names_what_it_cannot_use(path, value, code):
    message = _changed(v2.contract_message(sample_terms(), sample_view()), path, value)
    _refused(v2.parse_contract, message, path, code)


def test_parse_contract__refuses_an_interval_that_ends_before_it_starts():
    message = _changed(
        v2.contract_message(sample_terms(), sample_view()), (*INTERVAL, "end"), "2026-01-05T16:00:00Z"
    )
    _refused(v2.parse_contract, message, INTERVAL, FORMAT)


def test_parse_contract__refuses_a_quantity_it_cannot_read_as_kilowatts():
    message = v2.contract_message(sample_terms(), sample_view())
    del message["contract"]["commitments"][0]["commitmentAttributes"]["requestedKw"]
    quantity = (*LINE, "resources", 0, "quantity")
    assert v2.parse_contract(message).lines[0].requested_kw == 50.0
    _refused(
        v2.parse_contract, _changed(message, (*quantity, "unitCode"), "KWH"), (*quantity, "unitCode"), ENUM
    )
    _refused(v2.parse_contract, _changed(message, quantity, 50), quantity, TYPE)
    _refused(
        v2.parse_contract,
        _changed(message, (*quantity, "unitQuantity"), "5"),
        (*quantity, "unitQuantity"),
        TYPE,
    )


@pytest.mark.parametrize(
    ("changes", "path", "says"),
    [
        ({"id": "c1"}, (*CONTRACT, "commitments", 1), "c1 stands for two commitments"),
        ({"resources": "of the first"}, (*CONTRACT, "commitments", 1), "der:agg1:1 is committed twice"),
        ({"commitmentAttributes": "another window"}, (*CONTRACT, "commitments", 1), "share one window"),
    ],
)
def test_parse_contract__refuses_ambiguous_commitments(changes, path, says):
    message = v2.contract_message(sample_terms(), sample_view())
    first, second = message["contract"]["commitments"]
    if "id" in changes:
        second["id"] = changes["id"]
    if "resources" in changes:
        second["resources"] = first["resources"]
    if "commitmentAttributes" in changes:
        second["commitmentAttributes"]["windowEnd"] = "2026-01-05T19:00:00Z"
    with pytest.raises(BecknRefusal, match=says) as refusal:
        v2.parse_contract(message)
    assert refusal.value.path == "/message/" + "/".join(map(str, path))


def test_parse_contract__refuses_intervals_of_several_ders_and_reports_said_twice():
    message = v2.contract_message(sample_terms(), sample_view())
    reports = message["contract"]["performance"]
    shared = _changed(message, (*REPORT, "commitmentIds"), ["c1", "c2"])
    _refused(v2.parse_contract, shared, (*REPORT, "performanceAttributes", "intervals"), OTHER)
    twice = _changed(message, (*CONTRACT, "performance"), reports * 2)
    _refused(v2.parse_contract, twice, (*CONTRACT, "performance", 1), OTHER)


ATTRIBUTES = (*CONTRACT, "contractAttributes")


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        ((*ATTRIBUTES, "obpId"), ..., MISSING),
        ((*ATTRIBUTES, "eventId"), ..., MISSING),
        ((*ATTRIBUTES, "feederId"), 7, TYPE),
        ((*ATTRIBUTES, "direction"), "UP", ENUM),
        (ATTRIBUTES, ..., MISSING),
        ((*CONTRACT, "participants"), ..., MISSING),
        ((*CONTRACT, "participants", 0, "id"), ..., MISSING),
        ((*CONTRACT, "consideration"), ..., MISSING),
        ((*CONTRACT, "consideration"), [], MISSING),
        ((*TERMS, "requestedKw"), -1, FORMAT),
    ],
)
def test_parse_order__names_what_it_cannot_use(path, value, code):
    _refused(v2.parse_order, _changed(v2.select_message(sample_terms()), path, value), path, code)


def test_parse_order__needs_a_window_and_one_offer():
    message = v2.select_message(sample_terms())
    mixed = _changed(message, (*CONTRACT, "commitments", 1, "offer", "id"), "offer-2")
    _refused(v2.parse_order, mixed, (*CONTRACT, "commitments"), OTHER)
    for commitment in message["contract"]["commitments"]:
        del commitment["commitmentAttributes"]["windowStart"]
        del commitment["commitmentAttributes"]["windowEnd"]
    _refused(v2.parse_order, message, (*TERMS, "windowStart"), MISSING)


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        (("intent",), ..., MISSING),
        (("intent", "filters", "expression"), 7, TYPE),
        (("intent", "filters", "expression"), "$[?@.direction=='UP']", ENUM),
        (("intent", "filters", "commitmentAttributes", "requestedKw"), "60", TYPE),
        (("intent", "filters", "commitmentAttributes", "windowEnd"), ..., MISSING),
        (("intent", "spatial", 0, "geometry"), ..., MISSING),
        (("intent", "spatial", 0, "distanceMeters"), -1, FORMAT),
    ],
)
def test_parse_discover__names_what_it_cannot_use(path, value, code):
    message = built_documents()["discover"][1]["message"]
    _refused(v2.parse_discover, _changed(message, path, value), path, code)


PARSERS = {
    "discover": v2.parse_discover,
    "on_discover": v2.parse_on_discover,
    "select": v2.parse_order,
    "cancel": v2.parse_cancel_reason,
    "on_status": v2.parse_contract,
}


@pytest.mark.parametrize("action", PARSERS)
def test_parsers__only_ever_refuse_whatever_they_are_sent(action):
    """Any place changed to anything: a value or a refusal with a pointer, never another error."""
    pointers = []
    for built in built_documents()[action]:
        for _what, changed in mutations(built["message"]):
            try:
                PARSERS[action](changed)
            except BecknRefusal as refusal:
                pointers.append(refusal.path)
    assert len(pointers) > 5
    assert all(pointer.startswith("/message") for pointer in pointers)


@pytest.mark.parametrize("rubbish", [each for each in REPLACEMENTS if not isinstance(each, dict)], ids=repr)
@pytest.mark.parametrize("action", PARSERS)
def test_parsers__refuse_what_is_no_message(action, rubbish):
    with pytest.raises(BecknRefusal) as refusal:
        PARSERS[action](rubbish)
    assert refusal.value.path == "/message"


def test_parse_contract__takes_time_in_proportion():
    terms = sample_terms()
    lines = tuple(_replace(terms.lines[0], der_id=f"der-{number}") for number in range(3000))
    message = v2.select_message(_replace(terms, lines=lines))
    last = f"c{len(lines)}"
    message["contract"]["performance"] = [{"commitmentIds": [last] * 100_000}]
    begun = time.perf_counter()
    with pytest.raises(BecknRefusal, match="reported twice"):
        v2.parse_contract(json.loads(json.dumps(message)))
    assert time.perf_counter() - begun < 3
