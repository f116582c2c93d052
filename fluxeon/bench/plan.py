"""``plan``: making a plan for 10, 60 and 200 DERs.

The reference takes the cheapest DERs until the need is covered and nothing else: no fit, no windows,
no criteria, no reasons.
"""

from collections.abc import Sequence
from decimal import Decimal

from fluxeon.bench import samples
from fluxeon.bench.measure import Outcome, Ratio, Row, Spread, Table, interleave, per_call_us, ratio
from gateway.flex.rank import make_plan
from gateway.types import FlexNeed, Offer

NAME = "plan"
DERS = (10, 60, 200)


def measure(*, rounds: int, ders: Sequence[int] = DERS) -> Outcome:
    """Measure plans over catalogues of several sizes.

    Args:
        rounds: Interleaved rounds.
        ders: Sizes of the catalogue, one offer per DER.
    """
    rows: list[Row] = []
    ratios: list[Ratio] = []
    for count in ders:
        catalogue = samples.offers(count)
        # Half of what the catalogue holds, so that about half of the DERs are taken.
        total_kw = sum(offer.ders[0].capacity_kw for offer in catalogue)
        need = samples.need([total_kw * share for share in (0.3, 0.5, 0.5, 0.2)])
        taken = interleave(
            {
                "plan": per_call_us(lambda n=need, c=catalogue: make_plan(n, c, plan_id="bench")),  # type: ignore[misc]
                "cheapest": per_call_us(lambda n=need, c=catalogue: cheapest_first(n, c)),  # type: ignore[misc]
            },
            rounds,
        )
        made = make_plan(need, catalogue, plan_id="bench")
        rows.append(
            Row(
                label=f"{count} DERs",
                cells=(len(made.orders), Spread.of(taken["plan"]), Spread.of(taken["cheapest"])),
            )
        )
        ratios.append(ratio(f"plan / cheapest first, {count} DERs", taken["plan"], taken["cheapest"]))
    return Outcome(
        name=NAME,
        tables=(
            Table(
                title="Plan: rank the catalogue, take greedily, give every DER a reason",
                columns=("orders", "make_plan, us", "cheapest first, us"),
                rows=tuple(rows),
                note="cheapest first is a bare sort by price: the reference, not a usable plan",
            ),
        ),
        ratios=tuple(ratios),
    )


def cheapest_first(need: FlexNeed, catalogue: Sequence[Offer]) -> list[tuple[str, float]]:
    """Take the cheapest DERs until the highest slot of the need is covered."""
    left_kw = max(slot.kw for slot in need.slots)
    taken = []
    listed = ((Decimal(one.price_per_kwh), one.der_id, one) for offer in catalogue for one in offer.ders)
    for _, der_id, one in sorted(listed, key=lambda entry: entry[:2]):
        if left_kw <= 0:
            break
        kw = min(left_kw, one.capacity_kw)
        taken.append((der_id, kw))
        left_kw -= kw
    return taken
