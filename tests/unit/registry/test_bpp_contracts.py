from datetime import timedelta

import msgspec
import pytest
from bpp_samples import HOUR, START, catalogue, der_document, terms

from gateway.errors import BecknRefusal
from gateway.types import ContractStatus, Direction, PerformanceStatus
from registry.bpp.contracts import (
    Contract,
    Told,
    advance,
    cancel,
    confirm,
    contract_view,
    draft,
    free_energy_kwh,
    free_kw,
    offered_kw,
    play,
    quote,
    quote_view,
)

BEFORE = START - HOUR
SEED = 3


def drafted(sold, wanted, book=None, contract_id="c-1"):
    return draft(
        quote(sold, book or {}, wanted, now=BEFORE),
        wanted,
        contract_id=contract_id,
        bap_id="bap.example",
        bap_uri="http://bap/beckn",
        transaction_id="t-1",
    )


def confirmed(sold, wanted, book=None, contract_id="c-1", now=BEFORE):
    contract = drafted(sold, wanted, book, contract_id)
    return confirm(contract, wanted, quote(sold, book or {}, wanted, now=now), now=now)


def booked(sold, *contracts: Contract):
    book = {}
    for contract in contracts:
        for line in play(contract, sold, seed=SEED):
            book[line.der_id] = (*book.get(line.der_id, ()), line)
    return book


def only_der(sold):
    return sold.der("der:alpha:000001")


def test_quote__promises_what_was_asked_where_it_is_free():
    quoted = quote(catalogue(), {}, terms(), now=BEFORE)
    assert quoted.decline_reason is None
    (promise,) = quoted.promises
    assert (promise.requested_kw, promise.committed_kw) == (20, 20)
    assert 20 <= promise.ceiling_kw <= 50


def test_quote__promises_less_where_less_is_free():
    sold = catalogue()
    book = booked(sold, confirmed(sold, terms(("der:alpha:000001", 40.0))))
    quoted = quote(sold, book, terms(("der:alpha:000001", 30.0)), now=BEFORE)
    assert quoted.decline_reason is None
    assert quoted.promises[0].committed_kw == pytest.approx(8.0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"offer_id": "none"}, "UNKNOWN_OFFER", id="offer"),
        pytest.param(
            {"direction": Direction.INCREASE}, "OFFER_IS_FOR_ANOTHER_FEEDER_OR_DIRECTION", id="direction"
        ),
        pytest.param({"feeder_id": "FDR_9"}, "OFFER_IS_FOR_ANOTHER_FEEDER_OR_DIRECTION", id="feeder"),
        pytest.param({"lines": terms(("ghost", 1.0)).lines}, "UNKNOWN_DER", id="DER"),
        pytest.param({"lines": terms().lines * 2}, "DER_NAMED_TWICE", id="twice"),
        pytest.param({"window_end": BEFORE, "window_start": BEFORE - HOUR}, "WINDOW_HAS_PASSED", id="past"),
        pytest.param({"window_end": START + timedelta(minutes=5)}, "NO_FREE_CAPACITY", id="too short"),
        pytest.param({"window_end": START + 3 * HOUR}, "NO_FREE_CAPACITY", id="too long"),
        pytest.param(
            {"lines": terms(("der:alpha:000001", 4.0)).lines}, "NO_FREE_CAPACITY", id="below minimum"
        ),
    ],
)
def test_quote__declines_with_a_reason(changes, reason):
    wanted = terms(**changes)
    sold = catalogue()
    quoted = quote(sold, {}, wanted, now=BEFORE)
    assert quoted.decline_reason == reason
    assert all(promise.committed_kw == 0 for promise in quoted.promises)
    view = quote_view(quoted, wanted, sold)
    assert (view.status, view.decline_reason) == (ContractStatus.CANCELLED, reason)
    assert drafted(sold, wanted).status is ContractStatus.CANCELLED


def test_free_kw__overlapping_reservations_count_only_while_they_overlap():
    sold = catalogue(der_document(max_duration_min=240))
    half = timedelta(minutes=30)
    first = confirmed(sold, terms(("der:alpha:000001", 20.0), window_end=START + half), contract_id="a")
    second = confirmed(sold, terms(("der:alpha:000001", 20.0), window_start=START + half), contract_id="b")
    book = booked(sold, first, second)
    assert free_kw(only_der(sold), Direction.REDUCE, START, START + HOUR, book) == pytest.approx(29)
    assert free_kw(only_der(sold), Direction.REDUCE, START + HOUR, START + 2 * HOUR, book) == 50
    assert free_kw(only_der(sold), Direction.INCREASE, START, START + half, book) == pytest.approx(29)


def test_contracts_never_reserve_more_than_the_capacity():
    sold = catalogue(der_document(min_kw=0))
    contracts = []
    for number in range(8):
        contract = confirmed(
            sold, terms(("der:alpha:000001", 9.0)), booked(sold, *contracts), contract_id=f"c-{number}"
        )
        contracts.append(contract)
    active = [each for each in contracts if each.status is ContractStatus.ACTIVE]
    assert sum(each.promises[0].ceiling_kw for each in active) <= 50 + 1e-9
    assert sum(each.promises[0].committed_kw for each in active) > 45
    assert contracts[-1].status is ContractStatus.CANCELLED
    minutes = zip(*(play(each, sold, seed=SEED)[0].trace.kw for each in active), strict=True)
    assert max(sum(minute) for minute in minutes) <= 50 + 1e-9


BATTERY = {"energy_kwh": 40.0, "soc_kwh": 20.0, "soc_min_kwh": 5.0, "efficiency": 1.0}


def test_quote__promises_no_more_than_the_energy_lasts_for():
    sold = catalogue(der_document(battery=BATTERY))
    quoted = quote(sold, {}, terms(("der:alpha:000001", 40.0)), now=BEFORE)
    assert quoted.promises[0].committed_kw == pytest.approx(15)
    assert quoted.promises[0].energy_kwh == pytest.approx(15)


def test_free_energy__what_was_delivered_and_what_is_promised_is_gone():
    sold = catalogue(der_document(battery=BATTERY, delivery_sd=0.0, delivery_mean=1.0))
    later = confirmed(sold, terms(("der:alpha:000001", 10.0)))
    book = booked(sold, later)
    der = only_der(sold)
    assert free_energy_kwh(der, Direction.REDUCE, START + HOUR, book) == pytest.approx(5)
    assert free_energy_kwh(der, Direction.REDUCE, START - HOUR, book) == pytest.approx(5)
    assert free_energy_kwh(der, Direction.INCREASE, START + HOUR, book) == pytest.approx(30)
    assert free_energy_kwh(der, Direction.INCREASE, START - HOUR, book) == pytest.approx(20)


def test_offered_kw__ignores_durations_and_sees_reservations():
    sold = catalogue(der_document(max_duration_min=30))
    der = only_der(sold)
    assert free_kw(der, Direction.REDUCE, START, START + HOUR, {}) == 0
    assert offered_kw(der, Direction.REDUCE, START, START + HOUR, {}) == 50
    wanted = terms(("der:alpha:000001", 20.0), window_end=START + timedelta(minutes=30))
    book = booked(sold, confirmed(sold, wanted))
    assert offered_kw(der, Direction.REDUCE, START, START + HOUR, book) == pytest.approx(29)


def test_offered_kw__leaves_out_who_is_not_there():
    ev = {"plugged_in": [{"start": "18:00", "end": "07:00"}]}
    sold = catalogue(der_document(type="EV", baseline={"method": "NOMINATED", "kw": 7}, ev=ev))
    assert offered_kw(only_der(sold), Direction.REDUCE, START, START + HOUR, {}) == 0
    assert offered_kw(only_der(sold), Direction.REDUCE, START + HOUR, START + 2 * HOUR, {}) == 7


def test_confirm__activates_a_draft():
    contract = confirmed(catalogue(), terms())
    assert contract.status is ContractStatus.ACTIVE
    assert contract.confirmed_at == BEFORE


def test_confirm__commits_less_where_another_came_first():
    sold = catalogue()
    mine = drafted(sold, terms(("der:alpha:000001", 40.0)))
    book = booked(sold, confirmed(sold, terms(("der:alpha:000001", 30.0)), contract_id="other"))
    quoted = quote(sold, book, mine.terms, now=BEFORE)
    contract = confirm(mine, mine.terms, quoted, now=BEFORE)
    assert contract.status is ContractStatus.ACTIVE
    assert contract.promises[0].committed_kw == pytest.approx(18.5)


def test_confirm__declines_where_nothing_is_left():
    sold = catalogue()
    mine = drafted(sold, terms(("der:alpha:000001", 40.0)))
    book = booked(sold, confirmed(sold, terms(("der:alpha:000001", 50.0)), contract_id="other"))
    contract = confirm(mine, mine.terms, quote(sold, book, mine.terms, now=BEFORE), now=BEFORE)
    assert (contract.status, contract.decline_reason) == (ContractStatus.CANCELLED, "NO_FREE_CAPACITY")
    assert play(contract, sold, seed=SEED) == ()


def test_confirm__never_commits_more_than_at_init():
    sold = catalogue()
    other = booked(sold, confirmed(sold, terms(("der:alpha:000001", 30.0)), contract_id="other"))
    mine = drafted(sold, terms(("der:alpha:000001", 40.0)), other)
    contract = confirm(mine, mine.terms, quote(sold, {}, mine.terms, now=BEFORE), now=BEFORE)
    assert contract.promises[0].committed_kw == pytest.approx(18.5)


@pytest.mark.parametrize(
    "changes",
    [
        {"window_end": START + 2 * HOUR},
        {"obp_id": "OBP-2"},
        {"lines": terms(("d2", 20.0)).lines},
        {"direction": Direction.INCREASE},
    ],
    ids=["window", "obp id", "DER", "direction"],
)
def test_confirm__refuses_other_terms_than_agreed(changes):
    sold = catalogue(der_document(), der_document(der_id="d2"))
    contract = drafted(sold, terms())
    other = msgspec.structs.replace(contract.terms, **changes)
    with pytest.raises(BecknRefusal) as caught:
        confirm(contract, other, quote(sold, {}, other, now=BEFORE), now=BEFORE)
    assert caught.value.code == "BIZ_CONTRACT_MISMATCH"


def contracts_in_every_status(sold):
    active = confirmed(sold, terms())
    return {
        ContractStatus.DRAFT: drafted(sold, terms()),
        ContractStatus.ACTIVE: active,
        ContractStatus.COMPLETE: advance(active, now=START + HOUR)[0],
        ContractStatus.CANCELLED: cancel(active, now=START),
    }


@pytest.mark.parametrize(
    ("move", "allowed"),
    [
        pytest.param(
            lambda c, sold: confirm(c, c.terms, quote(sold, {}, c.terms, now=BEFORE), now=BEFORE),
            {ContractStatus.DRAFT: ContractStatus.ACTIVE},
            id="confirm",
        ),
        pytest.param(
            lambda c, _: cancel(c, now=START),
            {
                ContractStatus.DRAFT: ContractStatus.CANCELLED,
                ContractStatus.ACTIVE: ContractStatus.CANCELLED,
            },
            id="cancel",
        ),
        pytest.param(
            lambda c, _: advance(c, now=START + HOUR)[0],
            {ContractStatus.ACTIVE: ContractStatus.COMPLETE},
            id="time",
        ),
    ],
)
def test_moves__only_the_lawful_ones_change_anything(move, allowed):
    sold = catalogue()
    for status, contract in contracts_in_every_status(sold).items():
        assert contract.status is status
        moved = move(contract, sold)
        assert moved.status is allowed.get(status, status)
        if status not in allowed:
            assert moved == contract
        assert move(moved, sold) == moved


def test_advance__tells_start_and_end_once():
    contract = confirmed(catalogue(), terms())
    assert advance(contract, now=START - timedelta(seconds=1)) == (contract, ())
    started, told = advance(contract, now=START + timedelta(minutes=1))
    assert (started.status, started.told, told) == (ContractStatus.ACTIVE, Told.STARTED, (START,))
    assert advance(started, now=START + timedelta(minutes=2)) == (started, ())
    done, told = advance(started, now=START + 2 * HOUR)
    assert (done.status, done.told, told) == (ContractStatus.COMPLETE, Told.FINISHED, (START + HOUR,))
    assert advance(done, now=START + 3 * HOUR) == (done, ())


def test_advance__a_leap_over_the_window_tells_both_in_order():
    contract = confirmed(catalogue(), terms())
    assert advance(contract, now=START + 5 * HOUR)[1] == (START, START + HOUR)


def test_contract_view__grows_with_event_time():
    sold = catalogue()
    contract = confirmed(sold, terms())
    played = play(contract, sold, seed=SEED)

    def seen(minutes):
        view = contract_view(contract, played, sold, now=START + timedelta(minutes=minutes))
        (report,) = view.performance
        return report.status, len(report.intervals)

    assert seen(-1) == (PerformanceStatus.SCHEDULED, 0)
    assert seen(0) == (PerformanceStatus.IN_PROGRESS, 0)
    assert seen(31) == (PerformanceStatus.IN_PROGRESS, 2)
    assert seen(60) == (PerformanceStatus.COMPLETED, 4)


def test_contract_view__says_price_and_baseline():
    sold = catalogue(der_document(baseline={"method": "FIXED_REF", "kw": 3.5}))
    contract = drafted(sold, terms(("der:alpha:000001", 33.5), window_end=START + timedelta(minutes=90)))
    view = contract_view(contract, (), sold, now=BEFORE)
    assert view.total_price == "15.58"
    assert [(term.der_id, term.method.value, term.kw) for term in view.baselines] == [
        ("der:alpha:000001", "FIXED_REF", 3.5)
    ]
    assert view.performance == ()


def test_contract_view__a_cancelled_delivery_is_metered_to_its_end():
    sold = catalogue()
    contract = cancel(confirmed(sold, terms()), now=START + timedelta(minutes=20), reason="not needed")
    view = contract_view(contract, play(contract, sold, seed=SEED), sold, now=START + HOUR)
    (report,) = view.performance
    assert (view.status, view.decline_reason) == (
        ContractStatus.CANCELLED,
        "CANCELLED_BY_BUYER: not needed",
    )
    assert report.status is PerformanceStatus.FAILED
    assert [(each.end - START).total_seconds() / 60 for each in report.intervals] == [15, 20]


def test_contract_view__a_cancellation_before_the_window_delivers_nothing():
    sold = catalogue()
    contract = cancel(confirmed(sold, terms()), now=BEFORE)
    (line,) = play(contract, sold, seed=SEED)
    assert line.trace.energy_kwh(BEFORE, START + 9 * HOUR) == 0
    assert free_kw(only_der(sold), Direction.REDUCE, START, START + HOUR, booked(sold, contract)) == 50
