"""A plan covers the need with the best DERs, sells nothing twice and explains every decision."""

import random
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.flex.plan import FlexPlan, Objective, PlanPolicy, RankWeights, lapsed_offers, offer_key
from gateway.flex.rank import distance_km, make_plan
from gateway.flex.relief import Booking
from gateway.types import Der, DerType, Direction, FlexNeed, Location, NeedSlot, Offer

T0 = datetime(2026, 1, 5, 17, 0, tzinfo=UTC)
SLOT = timedelta(minutes=15)
LATE = PlanPolicy(late_start_s=900)
"""DERs of these tests may ramp up within their first slot, so that every slot can be reached."""


def need(*slots_kw: float, direction=Direction.REDUCE, location=None):
    return FlexNeed(
        need_id="n1",
        feeder_id="F",
        direction=direction,
        slots=tuple(NeedSlot(start=T0 + n * SLOT, kw=kw) for n, kw in enumerate(slots_kw)),
        decided_at=T0,
        location=location,
    )


def der(der_id="d1", **changes):
    facts = {
        "aggregator_id": "agg",
        "type": DerType.BATTERY,
        "feeder_id": "F",
        "direction": Direction.REDUCE,
        "capacity_kw": 50.0,
        "response_time_s": 30.0,
        "min_duration_min": 15,
        "max_duration_min": 120,
        "price_per_kwh": "0.20",
    }
    return Der(der_id=der_id, **(facts | changes))


def offer(*ders: Der, offer_id="o1", bpp_id="bpp", **changes):
    facts = {
        "bpp_uri": "https://bpp.example",
        "provider_id": "agg",
        "provider_name": "Aggregator",
        "price_per_kwh": "0.20",
        "currency": "GBP",
    }
    return Offer(offer_id=offer_id, bpp_id=bpp_id, ders=ders, **(facts | changes))


def book(der_id, start_slot, stop_slot, kw, *, obp_id="earlier", direction=Direction.REDUCE):
    return Booking(
        obp_id=obp_id,
        der_id=der_id,
        feeder_id="F",
        start=T0 + start_slot * SLOT,
        end=T0 + stop_slot * SLOT,
        kw=kw,
        direction=direction,
    )


def plan(wanted, *ders: Der, **options):
    return make_plan(wanted, [offer(*ders)], plan_id="p1", **({"policy": LATE} | options))


def lines(made):
    """What is ordered: DER, kW, first slot, slot after the last."""
    return [
        (line.der.der_id, line.kw, (order.window_start - T0) / SLOT, (order.window_end - T0) / SLOT)
        for order in made.orders
        for line in order.lines
    ]


def kws(slots):
    return [slot.kw for slot in slots]


def reason(made, der_id="d1"):
    (decision,) = [one for one in made.decisions if one.der_id == der_id]
    return decision.reason


# -- what is taken -------------------------------------------------------------------------------


def test_make_plan__covers_the_need_with_the_power_it_takes():
    made = plan(need(20, 20, 20, 20), der())
    assert lines(made) == [("d1", 20, 0, 4)]
    assert (kws(made.covered), kws(made.uncovered)) == ([20] * 4, [0] * 4)
    assert (made.complete, made.overshoot_kwh) == (True, 0)
    assert made.cost_estimate == "4.00"  # 20 kW x 1 h x 0.20


def test_make_plan__takes_the_best_ranked_first_and_no_more_than_needed():
    made = plan(
        need(0, 80, 80, 80),
        der("cheap", price_per_kwh="0.10"),
        der("dear", price_per_kwh="0.90"),
        der("middle", price_per_kwh="0.30"),
    )
    assert lines(made) == [("cheap", 50, 1, 4), ("middle", 30, 1, 4)]
    assert [(one.der_id, one.rank, one.taken) for one in made.decisions] == [
        ("cheap", 1, True),
        ("middle", 2, True),
        ("dear", 3, False),
    ]
    assert "not needed" in reason(made, "dear")


def test_make_plan__ties_are_broken_by_der_id():
    assert lines(plan(need(10), der("b"), der("c"), der("a"))) == [("a", 10, 0, 1)]


def test_make_plan__reports_what_stays_uncovered():
    made = plan(need(120, 40, 0, 60), der("a"), der("b", capacity_kw=20))
    assert not made.complete
    for slot, covered, uncovered in zip((120, 40, 0, 60), made.covered, made.uncovered, strict=True):
        assert covered.kw + uncovered.kw == pytest.approx(slot)
    assert made.uncovered[0].kw == 50


def test_make_plan__weighs_overshoot_against_cover():
    made = plan(need(0, 20, 40, 30), der())
    assert lines(made) == [("d1", 40, 1, 4)]
    assert made.overshoot_kwh == pytest.approx(30 / 4)
    strict = plan(need(0, 20, 40, 30), der(), policy=PlanPolicy(late_start_s=900, overshoot_penalty=5))
    assert strict.overshoot_kwh < made.overshoot_kwh


def test_make_plan__one_order_per_offer_and_window():
    made = make_plan(
        need(110, 110, 60, 60),
        [
            offer(der("a", capacity_kw=20), der("b", capacity_kw=20), offer_id="o1", bpp_id="alpha"),
            offer(der("c", capacity_kw=20), der("s", max_duration_min=30), offer_id="o1", bpp_id="beta"),
        ],
        plan_id="p",
        policy=LATE,
    )
    keys = [(offer_key(order.offer), order.window_start, order.window_end) for order in made.orders]
    assert len(keys) == len(set(keys)) == 3
    assert [order.priority for order in made.orders] == [1, 2, 3]
    for order in made.orders:
        assert order.offer.ders == tuple(line.der for line in order.lines)


def test_make_plan__orders_become_terms():
    (order,) = plan(need(20, 20), der()).orders
    terms = order.terms(obp_id="obp-7", need=need(20, 20))
    assert (terms.obp_id, terms.event_id, terms.feeder_id, terms.offer_id) == ("obp-7", "n1", "F", "o1")
    assert [(line.der_id, line.der_type, line.kw) for line in terms.lines] == [("d1", DerType.BATTERY, 20)]
    assert terms.requested_kwh == 10
    assert (terms.price_per_kwh, terms.currency) == ("0.20", "GBP")


def test_make_plan__a_der_listed_twice_is_sold_once_at_its_better_price():
    made = make_plan(
        need(60),
        [offer(der(price_per_kwh="0.50"), bpp_id="dear"), offer(der(price_per_kwh="0.20"), bpp_id="cheap")],
        plan_id="p",
        policy=LATE,
    )
    assert [(order.offer.bpp_id, order.lines[0].kw) for order in made.orders] == [("cheap", 50)]
    assert len(made.decisions) == 1


def test_make_plan__a_der_whose_first_listing_cannot_serve_is_taken_from_the_other():
    lapsed = offer(der(), bpp_id="a", offer_id="old", valid_until=T0)
    fresh = offer(der(), bpp_id="b", offer_id="new")
    made = make_plan(
        need(10), [lapsed, fresh], plan_id="p", policy=LATE, lapsed=lapsed_offers([lapsed, fresh], T0)
    )
    assert [(one.offer_id, one.taken) for one in made.decisions] == [("new", True)]


# -- what is respected ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        pytest.param({"feeder_id": "G"}, {}, "serves feeder G, the need is at F", id="feeder"),
        pytest.param({"direction": Direction.INCREASE}, {}, "offers INCREASE, the need is REDUCE", id="side"),
        pytest.param({}, {"excluded": {"d1": "identity not proven"}}, "identity not proven", id="excluded"),
        pytest.param({}, {"lapsed": {("bpp", "o1")}}, "offer o1 is not valid now", id="lapsed"),
        pytest.param({"price_per_kwh": "free"}, {}, "price", id="no price"),
        pytest.param({"price_per_kwh": "NaN"}, {}, "price", id="NaN price"),
        pytest.param({"price_per_kwh": "1e999999"}, {}, "price", id="absurd price"),
        pytest.param({"price_per_kwh": "0." + "1" * 99}, {}, "price", id="endless price"),
        pytest.param({"currency": "EUR"}, {}, "priced in EUR, the plan is in GBP", id="currency"),
        pytest.param(
            {"price_per_kwh": "0.41"},
            {"policy": PlanPolicy(late_start_s=900, price_ceiling_per_kwh="0.40")},
            "0.41 GBP/kWh is above the ceiling of 0.40",
            id="ceiling",
        ),
        pytest.param({"capacity_kw": 0.0}, {}, "capacity of 0 kW", id="no capacity"),
        pytest.param({"capacity_kw": float("nan")}, {}, "capacity of nan kW", id="NaN capacity"),
        pytest.param({"capacity_kw": float("inf")}, {}, "capacity of inf kW", id="endless capacity"),
        pytest.param({"capacity_kw": 0.05}, {}, "less than the lot of 0.1 kW", id="less than a lot"),
        pytest.param({"min_kw": 51.0}, {}, "smallest lot of 51 kW", id="lot above capacity"),
        pytest.param({"min_kw": float("nan")}, {}, "smallest lot", id="NaN lot"),
        pytest.param({"response_time_s": -1.0}, {}, "response time", id="negative response"),
        pytest.param({"response_time_s": float("inf")}, {}, "response time", id="endless response"),
        pytest.param({"response_time_s": 3601.0}, {}, "needs 3601 s of notice", id="slow"),
        pytest.param({"constraints": {"minNoticeS": 7200}}, {}, "needs 7200 s of notice", id="notice"),
        pytest.param(
            {"min_duration_min": 20, "max_duration_min": 25}, {}, "no whole quarter hours", id="between slots"
        ),
        pytest.param({"max_duration_min": 10}, {}, "no whole quarter hours", id="too short"),
        pytest.param(
            {"min_duration_min": 15 * 10**9, "max_duration_min": 15 * 10**9},
            {},
            "more than a day",
            id="too long",
        ),
        pytest.param({"constraints": {"minKw": "lots"}}, {}, "constraints cannot be read", id="unreadable"),
        pytest.param({"constraints": {"max_events_per_day": 0}}, {}, "limit is 0", id="no events"),
        pytest.param(
            {"constraints": {"maxEventsPerDay": 1}},
            {"bookings": [book("d1", -20, -16, 5)]},
            "already ordered 1 times that day",
            id="events used up",
        ),
        pytest.param({}, {"bookings": [book("d1", -4, 8, 50)]}, "already sold: 50 of 50 kW", id="sold"),
        pytest.param(
            {},
            {"bookings": [book("d1", 0, 4, 1, direction=Direction.INCREASE)]},
            "already sold: 50 of 50 kW",
            id="sold the other way",
        ),
        pytest.param(
            {
                "constraints": {
                    "excludedPeriods": [{"start": "2026-01-05T00:00:00Z", "end": "2026-01-06T00:00:00Z"}]
                }
            },
            {},
            "excluded periods",
            id="excluded period",
        ),
        pytest.param({"ramp_kw_per_min": 0.1, "min_kw": 20.0}, {}, "cannot reach", id="slow ramp"),
    ],
)
def test_make_plan__says_why_a_der_cannot_serve(changes, options, words):
    made = plan(need(10, 10, 10, 10), der(**changes), **options)
    (decision,) = made.decisions
    assert words in decision.reason
    assert (decision.taken, decision.kw, decision.rank, decision.score) == (False, 0, None, None)
    assert made.orders == ()
    assert kws(made.uncovered) == [10] * 4


@pytest.mark.parametrize(
    ("response_s", "first"),
    [(0.0, 0), (30.0, 1), (900.0, 1), (901.0, 2), (2700.0, 3)],
)
def test_make_plan__a_der_is_ready_before_its_slot_starts(response_s, first):
    made = plan(need(10, 10, 10, 10), der(response_time_s=response_s), policy=PlanPolicy())
    assert lines(made) == [("d1", 10, first, 4)]


def test_make_plan__counts_response_from_the_instant_given():
    made = plan(need(10, 10), der(), policy=PlanPolicy(), now_event=T0 - timedelta(seconds=30))
    assert lines(made) == [("d1", 10, 0, 2)]


def test_make_plan__a_ramp_limits_what_is_reached_in_time():
    made = plan(
        need(0, 40),
        der(ramp_kw_per_min=2.0, response_time_s=300.0, max_duration_min=30),
        policy=PlanPolicy(),
    )
    assert lines(made) == [("d1", 20, 1, 2)]


@pytest.mark.parametrize(
    ("least", "most", "first", "stop"),
    [(15, 15, 1, 2), (15, 30, 1, 3), (20, 30, 1, 3), (60, 60, 1, 5), (15, 120, 1, 4)],
)
def test_make_plan__windows_are_whole_slots_between_minimum_and_maximum(least, most, first, stop):
    made = plan(need(0, 30, 20, 20), der(min_duration_min=least, max_duration_min=most, capacity_kw=20))
    assert lines(made) == [("d1", 20, first, stop)]


def test_make_plan__runs_past_the_need_only_as_long_as_it_must():
    made = plan(need(20, 20, 20, 20), der(min_duration_min=90, max_duration_min=240))
    assert lines(made) == [("d1", 20, 0, 6)]
    assert made.overshoot_kwh == 10


def test_make_plan__does_not_run_long_for_little():
    made = plan(need(0, 0, 0, 20), der(min_duration_min=90))
    assert made.orders == ()
    assert "not worth it" in reason(made)


def test_make_plan__smallest_lots_are_kept_and_must_be_worth_it():
    assert lines(plan(need(20), der(min_kw=30.0))) == [("d1", 30, 0, 1)]
    assert plan(need(5), der(min_kw=30.0)).orders == ()


def test_make_plan__says_when_the_open_slots_are_out_of_reach():
    made = plan(
        need(10, 50), der("a", max_duration_min=15), der("b", response_time_s=890.0), policy=PlanPolicy()
    )
    assert kws(made.uncovered) == [10, 0]
    assert "lie outside" in reason(made, "b")


def test_make_plan__sells_only_what_is_not_booked():
    made = plan(need(50, 50), der(), bookings=[book("d1", 0, 1, 20), book("d1", 1, 2, 30.05, obp_id="other")])
    assert lines(made) == [("d1", 19.9, 0, 2)]
    other = plan(need(50, 50), der(), bookings=[book("d2", 0, 2, 50)])
    assert lines(other) == [("d1", 50, 0, 2)]


def test_make_plan__bookings_past_the_need_bar_windows_that_reach_there():
    made = plan(need(20, 20), der(min_duration_min=45), bookings=[book("d1", 2, 3, 50)])
    assert made.orders == ()
    assert "already sold" in reason(made)


def test_make_plan__keeps_excluded_periods_free():
    shut = {"excluded_periods": [{"start": "2026-01-05T17:20:00Z", "end": "2026-01-05T17:25:00Z"}]}
    made = plan(need(20, 20, 20, 20), der(constraints=shut))
    assert lines(made) == [("d1", 20, 2, 4)]


def test_make_plan__answers_export_with_ders_that_raise_import():
    made = plan(need(20, direction=Direction.INCREASE), der("up", direction=Direction.INCREASE), der("down"))
    assert lines(made) == [("up", 20, 0, 1)]


def test_make_plan__a_need_of_nothing_orders_nothing():
    made = plan(need(0, 0), der())
    assert (made.orders, made.complete, made.cost_estimate) == ((), True, "0.00")
    assert reason(made) == "no slot needs relief"


def test_make_plan__an_empty_catalogue_leaves_the_need_uncovered():
    made = make_plan(need(10), [], plan_id="p")
    assert (made.decisions, kws(made.uncovered)) == ((), [10])


@pytest.mark.parametrize("kw", [float("nan"), float("inf")])
def test_make_plan__refuses_a_need_that_is_no_number(kw):
    with pytest.raises(ValueError, match="finite"):
        plan(need(kw), der())


def test_make_plan__refuses_slots_with_a_gap():
    gap = msgspec.structs.replace(need(10, 10, 10), slots=need(10, 10, 10).slots[::2])
    with pytest.raises(ValueError, match="consecutive"):
        plan(gap, der())


def test_lapsed_offers__are_those_outside_their_validity():
    catalogue = [
        offer(offer_id="open"),
        offer(offer_id="ends now", valid_until=T0),
        offer(offer_id="ends later", valid_until=T0 + SLOT),
        offer(offer_id="begins now", valid_from=T0),
        offer(offer_id="begins later", valid_from=T0 + SLOT),
    ]
    assert {key[1] for key in lapsed_offers(catalogue, T0)} == {"ends now", "begins later"}


# -- how it is scored ----------------------------------------------------------------------------


def only(criterion):
    names = ("capacity", "response", "duration", "price", "location", "reliability", "type")
    return RankWeights(**{name: float(name == criterion) for name in names})


HERE = Location(latitude=51.0, longitude=4.0)


@pytest.mark.parametrize(
    ("criterion", "better", "worse"),
    [
        ("capacity", {"capacity_kw": 30.0}, {"capacity_kw": 20.0}),
        ("response", {"response_time_s": 5.0}, {"response_time_s": 500.0}),
        ("duration", {"max_duration_min": 60}, {"max_duration_min": 30}),
        ("price", {"price_per_kwh": "0.1"}, {"price_per_kwh": "0.2"}),
        ("price", {"price_per_kwh": "-0.1"}, {"price_per_kwh": "0"}),
        ("location", {"location": HERE}, {"location": Location(latitude=51.2, longitude=4.0)}),
        ("location", {"location": HERE}, {}),
        ("reliability", {"aggregator_id": "good"}, {"aggregator_id": "bad"}),
        ("type", {"type": DerType.BATTERY}, {"type": DerType.HVAC}),
    ],
)
def test_make_plan__each_criterion_alone_decides_the_ranking(criterion, better, worse):
    made = plan(
        need(100, 100, 100, 100, location=HERE),
        der("a", **worse),
        der("z", **better),
        weights=only(criterion),
        reliability={"good": 0.95, "bad": 0.4},
    )
    assert [one.der_id for one in made.decisions] == ["z", "a"]
    assert made.decisions[0].score > made.decisions[1].score
    assert made.decisions[0].parts.keys() == only(criterion).by_criterion().keys()


def test_make_plan__a_ders_own_record_outweighs_its_aggregators():
    made = plan(
        need(200),
        der("a"),
        der("z"),
        weights=only("reliability"),
        reliability={"agg": 0.5, "z": 0.9},
    )
    assert [one.der_id for one in made.decisions] == ["z", "a"]


@pytest.mark.parametrize("record", [float("nan"), float("inf"), -3.0, 7.0])
def test_make_plan__odd_records_and_positions_do_not_upset_the_ranking(record):
    nowhere = Location(latitude=float("nan"), longitude=0.0)
    made = plan(need(200, location=HERE), der("a", location=nowhere), der("b"), reliability={"a": record})
    for decision in made.decisions:
        assert all(0 <= part <= 1 for part in decision.parts.values())
        assert 0 <= decision.score <= 1


def test_rank_weights__objectives_put_different_ders_first():
    ders = (
        der("cheap", price_per_kwh="0.05", type=DerType.HVAC),
        der("sure", price_per_kwh="0.40", type=DerType.HVAC),
        der("gentle", price_per_kwh="0.40", type=DerType.BATTERY),
    )
    first = {
        objective: plan(
            need(10),
            *ders,
            weights=RankWeights.for_objective(objective),
            reliability={"cheap": 0.5, "sure": 1.0, "gentle": 0.5},
        )
        .decisions[0]
        .der_id
        for objective in (Objective.COST, Objective.RELIABILITY, Objective.CURTAILMENT)
    }
    assert first == {"cost": "cheap", "reliability": "sure", "curtailment": "gentle"}
    assert RankWeights.for_objective(Objective.BALANCED) == RankWeights()


@pytest.mark.parametrize(
    "weights",
    [
        {"price": -1.0},
        {"price": float("nan")},
        {"capacity": 0, "response": 0, "duration": 0, "price": 0, "location": 0, "reliability": 0, "type": 0},
        {"type_preference": {DerType.EV: 1.5}},
    ],
)
def test_rank_weights__refuses_what_cannot_rank(weights):
    with pytest.raises(ValueError, match=r"weight|preference"):
        RankWeights(**weights)


@pytest.mark.parametrize(
    "limits",
    [
        {"lot_w": 0},
        {"response_scale_s": 0},
        {"distance_scale_km": 0},
        {"overshoot_penalty": -1},
        {"late_start_s": -1},
        {"price_ceiling_per_kwh": "cheap"},
        {"price_ceiling_per_kwh": "NaN"},
    ],
)
def test_plan_policy__refuses_limits_that_make_no_sense(limits):
    with pytest.raises(ValueError, match=r"plan|ceiling"):
        PlanPolicy(**limits)


def test_distance_km__matches_known_distances():
    paris, london = (
        Location(latitude=48.8566, longitude=2.3522),
        Location(latitude=51.5074, longitude=-0.1278),
    )
    assert distance_km(paris, london) == pytest.approx(343.6, abs=1)
    assert distance_km(paris, paris) == 0
    antipode = Location(latitude=-48.8566, longitude=-177.6478)
    assert distance_km(paris, antipode) == pytest.approx(20015, abs=1)


# -- what always holds ---------------------------------------------------------------------------

ders = st.builds(
    lambda number, facts: der(f"d{number}", **facts),
    st.integers(0, 12),
    st.fixed_dictionaries(
        {
            "capacity_kw": st.floats(0.05, 80),
            "response_time_s": st.sampled_from([0.0, 10.0, 600.0, 1500.0, 9000.0]),
            "min_duration_min": st.sampled_from([0, 15, 20, 30, 60, 90]),
            "max_duration_min": st.sampled_from([15, 30, 60, 240]),
            "price_per_kwh": st.sampled_from(["0.1", "0.15", "0.2", "0.9"]),
            "min_kw": st.sampled_from([0.0, 0.0, 3.3, 25.0]),
            "type": st.sampled_from(list(DerType)),
            "feeder_id": st.sampled_from(["F", "F", "F", "G"]),
            "direction": st.sampled_from([Direction.REDUCE, Direction.REDUCE, Direction.INCREASE]),
            "ramp_kw_per_min": st.sampled_from([None, None, 1.0]),
        }
    ),
)
catalogues = st.lists(
    st.builds(
        lambda number, bpp, members: offer(*members, offer_id=f"o{number}", bpp_id=bpp),
        st.integers(0, 99),
        st.sampled_from(["alpha", "beta"]),
        st.lists(ders, max_size=6, unique_by=lambda one: one.der_id),
    ),
    max_size=5,
    unique_by=offer_key,
)
needs = st.lists(st.one_of(st.just(0.0), st.integers(1, 1500).map(lambda n: n / 10)), min_size=1, max_size=5)
bookings = st.lists(
    st.builds(
        lambda number, start, length, kw, direction: book(
            f"d{number}", start, start + length, kw, obp_id=f"b{number}{start}", direction=direction
        ),
        st.integers(0, 12),
        st.integers(-2, 6),
        st.integers(1, 4),
        st.floats(0, 60),
        st.sampled_from(list(Direction)),
    ),
    max_size=8,
    unique_by=lambda one: (one.obp_id, one.der_id),
)


@settings(deadline=None)
@given(needs, catalogues, bookings, st.randoms(use_true_random=False))
def test_make_plan__always_holds_its_promises(slots_kw, catalogue, booked, shuffle):
    wanted = need(*slots_kw)
    made = make_plan(wanted, catalogue, plan_id="p", bookings=booked)

    # Neither the order of the catalogue nor that of the bookings matters.
    mixed = catalogue[:]
    shuffle.shuffle(mixed)
    assert make_plan(wanted, mixed, plan_id="p", bookings=booked[::-1]) == made

    # Every DER has exactly one decision, with a reason; those taken are those ordered, once.
    everyone = {one.der_id for each in catalogue for one in each.ders}
    assert sorted(one.der_id for one in made.decisions) == sorted(everyone)
    assert all(one.reason for one in made.decisions)
    ordered = [(line.der.der_id, line.kw) for order in made.orders for line in order.lines]
    assert len({der_id for der_id, _ in ordered}) == len(ordered)
    assert sorted(ordered) == sorted((one.der_id, one.kw) for one in made.decisions if one.taken)

    given_kw = [0.0] * len(slots_kw)
    cost = Decimal(0)
    for order in made.orders:
        minutes = (order.window_end - order.window_start) / timedelta(minutes=1)
        cost += sum(
            Decimal(str(line.kw)) * Decimal(order.price_per_kwh) * int(minutes) / 60 for line in order.lines
        )
        for line in order.lines:
            one = line.der
            assert one in order.offer.ders
            assert (one.feeder_id, one.direction) == ("F", Direction.REDUCE)
            assert one.min_duration_min <= minutes <= one.max_duration_min
            assert order.window_start - T0 >= timedelta(seconds=one.response_time_s)
            assert one.min_kw - 1e-9 <= line.kw <= one.capacity_kw + 1e-9
            slot = order.window_start
            while slot < order.window_end:
                sold = [
                    b for b in booked if b.der_id == one.der_id and b.start < slot + SLOT and slot < b.end
                ]
                sold = [b for b in sold if b.kw > 0]
                assert all(b.direction is Direction.REDUCE for b in sold)
                assert line.kw + sum(b.kw for b in sold) <= one.capacity_kw + 1e-6
                number = round((slot - T0) / SLOT)
                if number < len(given_kw):
                    given_kw[number] += line.kw
                slot += SLOT

    for asked, got, covered, uncovered in zip(slots_kw, given_kw, made.covered, made.uncovered, strict=True):
        assert covered.kw == pytest.approx(min(asked, got), abs=1e-6)
        assert covered.kw + uncovered.kw == pytest.approx(asked, abs=1e-6)
    assert Decimal(made.cost_estimate) == pytest.approx(cost, abs=Decimal("0.0051"))
    assert msgspec.json.decode(msgspec.json.encode(made), type=FlexPlan) == made


def test_make_plan__two_hundred_ders_take_milliseconds():
    rng = random.Random(7)
    catalogue = [
        offer(
            *(
                der(
                    f"d{group}-{number}",
                    capacity_kw=rng.uniform(2, 20),
                    price_per_kwh=f"{rng.uniform(0.05, 0.5):.3f}",
                    response_time_s=rng.uniform(0, 900),
                )
                for number in range(10)
            ),
            offer_id=f"o{group}",
        )
        for group in range(20)
    ]
    wanted = need(0, 300, 500, 400)
    make_plan(wanted, catalogue, plan_id="warm")
    began = time.process_time()
    made = make_plan(wanted, catalogue, plan_id="p")
    assert time.process_time() - began < 0.25
    assert made.complete
    assert len(made.decisions) == 200
