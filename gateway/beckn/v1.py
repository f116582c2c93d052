"""Translate between our model and Beckn v1.1 messages, for buyer and seller.

The only module that knows where a datum stands in a v1.1 message. Its functions are called as those
of :mod:`gateway.beckn.v2` and give and take the same values.

* One contract is one order; each DER of it is one item with one fulfilment ``f1``, ``f2``, ... in line
  order, whose stop carries feeder and window.
* Domain data without a place of its own stands in tag groups named ``flex-...``.
* Every number is decimal text; kW stand in ``quantity.*.measure``, money in ``price`` and ``quote``.
* An order has no state DRAFT: a draft has ``type`` DRAFT and no ``status``.
* Builders raise :class:`ValueError` on numbers decimal text cannot carry; parsers ignore what they do
  not need and raise :class:`~gateway.errors.BecknRefusal` with the place of what they cannot use.

Source: Beckn v1.1.1 (Intent, Catalog, Order); the demand-flexibility guides for the places.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import msgspec

from gateway.beckn import tags
from gateway.beckn.model import DiscoverAsk, PeerError, UpdateAsk
from gateway.beckn.reader import DECIMAL, At
from gateway.clock import rfc3339
from gateway.types import (
    BaselineMethod,
    BaselineTerm,
    CommittedLine,
    ContractStatus,
    ContractView,
    Der,
    DerPerformance,
    DerType,
    Direction,
    Location,
    MeterInterval,
    Offer,
    OrderLine,
    OrderTerms,
    PerformanceStatus,
)

KILOWATT: Final = "kW"
DELIVERY: Final = "DEMAND_RESPONSE"
"""Type of our fulfilments."""
DEFAULT_RADIUS_M: Final = 10_000.0
ITEM_OFFER: Final = "item:"
"""Begins the id we give the offer of an item that a catalogue lists without an offer; never sent."""

Message = dict[str, Any]

_KILOWATTS: Final = frozenset({"KW", "KWT", "KILOWATT"})
_METRES: Final = {"M": 1.0, "METER": 1.0, "METRE": 1.0, "KM": 1000.0}
_ORDER_SYNONYMS: Final = {"COMPLETED": "COMPLETE", "CANCELED": "CANCELLED"}
_STATE_SYNONYMS: Final = {
    "COMPLETE": "COMPLETED",
    "REQUESTED": "SCHEDULED",
    "CONFIRMED": "SCHEDULED",
    "ACCEPTED": "SCHEDULED",
    "SUBSCRIBED": "SCHEDULED",
    "IN-PROGRESS": "IN_PROGRESS",
    "REJECTED": "FAILED",
}
_UNSAID: Final = {
    "on_select": ContractStatus.DRAFT,
    "on_init": ContractStatus.DRAFT,
    "on_cancel": ContractStatus.CANCELLED,
}
"""What an order without status is, by the callback it stands in; ACTIVE in any other."""
_BINDING: Final = frozenset({"on_select", "on_init", "on_confirm"})
"""Callbacks that answer a step of the negotiation: an error in them ends it."""
_END: Final = "order.status"
"""update_target of a buyer that asks to complete an order (network-defined)."""
_ITEMS: Final = "order.items,order.fulfillments"


# --- small parts -----------------------------------------------------------------------------


def decimal(value: float, what: str) -> str:
    """Write a finite number as decimal text without an exponent; whole ones without a fraction."""
    if not math.isfinite(value):
        raise ValueError(f"{what} must be finite, not {value}")
    if float(value).is_integer() and abs(value) < 2**53:
        return str(int(value))
    return f"{Decimal(repr(float(value))):f}"


def _money(text: str, what: str) -> str:
    if not DECIMAL.fullmatch(text):
        raise ValueError(f"{what} must be decimal text, not {text!r}")
    return text


def _present(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _kilowatts(kw: float, what: str) -> dict[str, Any]:
    return {"measure": {"unit": KILOWATT, "value": decimal(kw, what)}}


def _gps(location: Location) -> str:
    """Write a point: latitude first."""
    return f"{decimal(location.latitude, 'latitude')},{decimal(location.longitude, 'longitude')}"


def _range(start: datetime | None, end: datetime | None) -> dict[str, Any]:
    return {
        "range": _present(
            start=None if start is None else rfc3339(start), end=None if end is None else rfc3339(end)
        )
    }


# --- buyer builds ----------------------------------------------------------------------------


def discover_message(  # noqa: PLR0917 - the need's members in their natural order
    need_feeder_id: str,
    direction: Direction,
    kw: float,
    window_start: datetime,
    window_end: datetime,
    location: Location | None = None,
    *,
    min_kw: float = 0.0,
    radius_m: float = DEFAULT_RADIUS_M,
) -> Message:
    """Ask for catalogues that can relieve a feeder (``search``).

    Args:
        need_feeder_id: Feeder that needs relief.
        direction: Which way net import must go.
        kw: Relief wanted in total; does not restrict the size of a DER.
        window_start: Start of delivery (event time).
        window_end: End of delivery (event time).
        location: Where the feeder is; adds a circle around it.
        min_kw: Smallest DER of interest.
        radius_m: Of the circle, metres.
    """
    place: dict[str, Any] = {"id": need_feeder_id}
    if location is not None:
        radius = {"type": "CONSTANT", "value": decimal(radius_m, "radius_m"), "unit": "m"}
        place |= {"gps": _gps(location), "circle": {"gps": _gps(location), "radius": radius}}
    return {
        "intent": {
            "item": {
                "quantity": {
                    "selected": _kilowatts(kw, "kw"),
                    "minimum": _kilowatts(min_kw, "min_kw"),
                },
                "tags": [
                    tags.group("flex-resource", ("feeder_id", need_feeder_id), ("direction", direction.value))
                ],
            },
            "fulfillment": {
                "type": DELIVERY,
                "stops": [{"type": "end", "location": place, "time": _range(window_start, window_end)}],
            },
        }
    }


def select_message(terms: OrderTerms) -> Message:
    """Ask one seller to price and commit the DERs of an order."""
    return {"order": _order(terms, None)}


def init_message(terms: OrderTerms, view: ContractView) -> Message:
    """Ask for final terms, repeating what the seller committed to in on_select."""
    return {"order": _order(terms, view, order_id=view.contract_id, payable=True)}


def confirm_message(terms: OrderTerms, view: ContractView) -> Message:
    """Accept the terms of on_init: commitments, price and baselines are repeated as agreed.

    Where the seller has given no id yet, the order goes under its OBP id.
    """
    return {"order": _order(terms, view, order_id=reference(terms, view), payable=True)}


def status_message(_terms: OrderTerms, contract_id: str) -> Message:
    """Ask for the state of an order."""
    return {"order_id": contract_id}


def cancel_message(_terms: OrderTerms, contract_id: str, reason: str) -> Message:
    """Ask to end an order. Reason ids are each network's own: the reason goes in words."""
    return {"order_id": contract_id, "descriptor": {"short_desc": reason}}


def update_message(
    terms: OrderTerms, view: ContractView, contract_id: str, *, completes: bool = False
) -> Message:
    """Ask to change an order, or to end it as complete."""
    order = _order(terms, view, order_id=contract_id, payable=True)
    if completes:
        order["status"] = ContractStatus.COMPLETE.value
    return {"update_target": _END if completes else _ITEMS, "order": order}


def reference(terms: OrderTerms, view: ContractView) -> str:
    """The id under which a confirmed order can be spoken of: the seller's, else ours."""
    return view.contract_id or terms.obp_id


# --- seller builds ---------------------------------------------------------------------------


def contract_message(terms: OrderTerms, view: ContractView) -> Message:
    """Declare the state of an order (on_select, on_init, on_confirm, on_status, on_update, on_cancel).

    Members the view leaves None (window, OBP id, price) are repeated from the order. A DER without a
    line in the view is committed with 0 kW. A COMPLETE order carries what is to be paid.
    """
    strangers = {report.der_id for report in view.performance} - {line.der_id for line in terms.lines}
    if strangers:
        raise ValueError(f"performance of {', '.join(sorted(strangers))}, which is not part of the order")
    order = _order(
        terms,
        view,
        order_id=view.contract_id,
        decline_reason=view.decline_reason,
        payable=view.status is ContractStatus.COMPLETE,
    )
    if view.status is ContractStatus.DRAFT:
        return {"order": {"type": "DRAFT", **order}}
    return {"order": {"status": view.status.value, **order}}


def on_discover_message(offers: Sequence[Offer]) -> Message:
    """Publish offers (``on_search``): one item per DER, one provider entry per provider if possible.

    A DER that different offers describe differently (a battery sold in both directions) takes a
    further entry of its provider, because items have one description per entry.
    """
    shelves: list[_Shelf] = []
    for offer in offers:
        fitting = next((each for each in shelves if each.takes(offer)), None)
        if fitting is None:
            fitting = _Shelf(offer)
            shelves.append(fitting)
        fitting.add(offer)
    return {
        "catalog": {
            "descriptor": {"name": "Demand flexibility"},
            "providers": [each.wire() for each in shelves],
        }
    }


class _Shelf:
    """A provider entry being filled."""

    def __init__(self, first: Offer) -> None:
        self._of = first
        self._ders: dict[str, Der] = {}
        self._offers: list[dict[str, Any]] = []
        self._places: dict[tuple[str, Location | None], str] = {}

    def takes(self, offer: Offer) -> bool:
        """Whether an offer fits in without describing a DER in two ways."""
        mine = (self._of.provider_id, self._of.provider_name)
        return (offer.provider_id, offer.provider_name) == mine and all(
            self._ders.get(der.der_id, der) == der for der in offer.ders
        )

    def add(self, offer: Offer) -> None:
        for der in offer.ders:
            self._ders[der.der_id] = der
            self._places.setdefault((der.feeder_id, der.location), f"f{len(self._places) + 1}")
        self._offers.append(
            _present(
                id=offer.offer_id,
                item_ids=[der.der_id for der in offer.ders],
                time=(
                    None
                    if offer.valid_from is None and offer.valid_until is None
                    else _range(offer.valid_from, offer.valid_until)
                ),
                tags=[
                    tags.group(
                        "flex-price",
                        ("energy_rate_per_kwh", _money(offer.price_per_kwh, "price_per_kwh")),
                        ("currency", offer.currency),
                    )
                ],
            )
        )

    def wire(self) -> dict[str, Any]:
        return {
            "id": self._of.provider_id,
            "descriptor": {"name": self._of.provider_name},
            "fulfillments": [
                {
                    "id": number,
                    "type": DELIVERY,
                    "stops": [
                        {
                            "type": "end",
                            "location": _present(id=feeder_id, gps=None if place is None else _gps(place)),
                        }
                    ],
                }
                for (feeder_id, place), number in self._places.items()
            ],
            "items": [_item(der, self._places[der.feeder_id, der.location]) for der in self._ders.values()],
            "offers": self._offers,
        }


def _item(der: Der, fulfillment_id: str) -> dict[str, Any]:
    """Describe a DER."""
    resource = tags.group(
        "flex-resource",
        ("der_id", der.der_id),
        ("aggregator_id", der.aggregator_id),
        ("feeder_id", der.feeder_id),
        ("direction", der.direction.value),
        ("response_time_s", decimal(der.response_time_s, "response_time_s")),
        ("min_duration_min", str(der.min_duration_min)),
        ("max_duration_min", str(der.max_duration_min)),
        (
            "ramp_kw_per_min",
            None if der.ramp_kw_per_min is None else decimal(der.ramp_kw_per_min, "ramp_kw_per_min"),
        ),
        *(("meter_ids", meter) for meter in der.meter_ids),
        ("crypto_proof", None if der.crypto_proof is None else tags.opaque(der.crypto_proof)),
    )
    constraints = tags.group(
        "flex-constraints", *((name, tags.opaque(value)) for name, value in der.constraints.items())
    )
    quantity = {"available": _kilowatts(der.capacity_kw, "capacity_kw")}
    if der.min_kw:
        quantity["minimum"] = _kilowatts(der.min_kw, "min_kw")
    return {
        "id": der.der_id,
        "descriptor": {"code": der.type.value},
        "price": {"currency": der.currency, "value": _money(der.price_per_kwh, "price_per_kwh")},
        "quantity": quantity,
        "fulfillment_ids": [fulfillment_id],
        "tags": tags.present(resource, constraints),
    }


def _order(
    terms: OrderTerms,
    view: ContractView | None,
    *,
    order_id: str | None = None,
    decline_reason: str | None = None,
    payable: bool = False,
) -> dict[str, Any]:
    """Write the order both sides send.

    Args:
        terms: What is ordered.
        view: What the seller said about it, if anything.
        order_id: Given by the seller; None before.
        decline_reason: Of a seller that does not deliver.
        payable: Whether payment is spoken of.
    """
    committed = None if view is None else {line.der_id: line.committed_kw for line in view.lines}
    baselines = {} if view is None else {term.der_id: term for term in view.baselines}
    reports = {} if view is None else {report.der_id: report for report in view.performance}
    start = (view and view.window_start) or terms.window_start
    end = (view and view.window_end) or terms.window_end
    currency = (view and view.currency) or terms.currency
    rate = _money((view and view.price_per_kwh) or terms.price_per_kwh, "price_per_kwh")
    total = None if view is None or view.total_price is None else _money(view.total_price, "total_price")
    price = {"currency": currency, "value": rate}
    payment = None
    if payable:
        params = None if total is None else {"amount": total, "currency": currency}
        payment = [_present(type="POST-FULFILLMENT", status="NOT-PAID", params=params)]
    offer = {"id": terms.offer_id, "item_ids": [line.der_id for line in terms.lines]}
    return _present(
        id=order_id,
        provider={"id": terms.provider_id},
        items=[
            _line(
                number,
                line,
                terms,
                committed_kw=None if committed is None else committed.get(line.der_id, 0.0),
                baseline=baselines.get(line.der_id),
                price=price,
            )
            for number, line in enumerate(terms.lines, 1)
        ],
        offers=None if terms.offer_id.startswith(ITEM_OFFER) else [offer],
        fulfillments=[
            _fulfillment(number, terms.feeder_id, (start, end), reports.get(line.der_id))
            for number, line in enumerate(terms.lines, 1)
        ],
        quote=None if total is None else {"price": {"currency": currency, "value": total}},
        payments=payment,
        tags=[
            tags.group(
                "flex-contract",
                ("event_id", terms.event_id),
                ("obp_id", (view and view.obp_id) or terms.obp_id),
                ("feeder_id", terms.feeder_id),
                ("direction", terms.direction.value),
                ("decline_reason", decline_reason or None),
            )
        ],
    )


def _line(
    number: int,
    line: OrderLine,
    terms: OrderTerms,
    *,
    committed_kw: float | None,
    baseline: BaselineTerm | None,
    price: Mapping[str, str],
) -> dict[str, Any]:
    quantity = {"selected": _kilowatts(line.kw, "kw")}
    if committed_kw is not None:
        quantity["allocated"] = _kilowatts(committed_kw, "committed_kw")
    resource = tags.group(
        "flex-resource",
        ("der_id", line.der_id),
        ("feeder_id", terms.feeder_id),
        ("direction", terms.direction.value),
    )
    fixed = tags.group(
        "flex-baseline",
        ("method", None if baseline is None else baseline.method.value),
        ("kw", None if baseline is None else decimal(baseline.kw, "baseline kw")),
    )
    return {
        "id": line.der_id,
        "descriptor": {"code": line.der_type.value},
        "price": price,
        "quantity": quantity,
        "fulfillment_ids": [f"f{number}"],
        "tags": tags.present(resource, fixed),
    }


def _fulfillment(
    number: int, feeder_id: str, window: tuple[datetime, datetime], report: DerPerformance | None
) -> dict[str, Any]:
    """Write the delivery of one DER: where and when, and how it went where that is known."""
    intervals = () if report is None else report.intervals
    return _present(
        id=f"f{number}",
        type=DELIVERY,
        state=None if report is None else {"descriptor": {"code": report.status.value}},
        stops=[{"type": "end", "location": {"id": feeder_id}, "time": _range(*window)}],
        tags=[
            tags.group(
                "flex-performance",
                ("start", rfc3339(each.start)),
                ("end", rfc3339(each.end)),
                ("usage_wh", str(each.usage_wh)),
            )
            for each in intervals
        ]
        or None,
    )


# --- buyer reads -----------------------------------------------------------------------------


def parse_on_discover(
    message: Mapping[str, Any], *, bpp_id: str | None = None, bpp_uri: str | None = None
) -> tuple[Offer, ...]:
    """Read the offers of an on_search message.

    An item that no offer names is an offer of its own, under an id of ours (:data:`ITEM_OFFER`).

    Args:
        message: The ``message`` member, decoded.
        bpp_id: Of the sender: v1.1 catalogues do not name their BPP.
        bpp_uri: Likewise.

    Raises:
        BecknRefusal: A member we need is missing or ill-typed.
    """
    catalog = At(message).need("catalog")
    if bpp_id is None or bpp_uri is None:
        raise catalog.refuse("is of no known sender")
    providers = _entries(catalog.opt("providers"))
    return tuple(offer for provider in providers for offer in _offers(provider, bpp_id, bpp_uri))


def _offers(provider: At, bpp_id: str, bpp_uri: str) -> Iterator[Offer]:
    provider_id = provider.need("id").text()
    name = provider.dig("descriptor", "name")
    stops = _stops(provider.opt("fulfillments"))
    items = {item.need("id").text(): item for item in _entries(provider.opt("items"))}
    ders = {item_id: _der(item, provider_id, stops) for item_id, item in items.items()}
    common: dict[str, Any] = {
        "bpp_id": bpp_id,
        "bpp_uri": bpp_uri,
        "provider_id": provider_id,
        "provider_name": name.text() if name else provider_id,
    }
    named: set[str] = set()
    for offer in _entries(provider.opt("offers")):
        chosen = []
        for item_id in _entries(offer.opt("item_ids")):
            if item_id.text() not in ders:
                raise item_id.refuse("is no item of this provider")
            chosen.append(ders[item_id.text()])
            named.add(item_id.text())
        price = tags.one(offer.opt("tags"), "flex-price")
        if price is None and not chosen:
            raise offer.missing("item_ids")
        begins, ends = offer.dig("time", "range", "start"), offer.dig("time", "range", "end")
        yield Offer(
            offer_id=offer.need("id").text(),
            ders=tuple(chosen),
            # SPEC ASSUMPTION: without a price of its own an offer costs what its dearest item does.
            price_per_kwh=(
                price.need("energy_rate_per_kwh").money()
                if price
                else max((der.price_per_kwh for der in chosen), key=Decimal)
            ),
            currency=price.need("currency").text() if price else chosen[0].currency,
            valid_from=begins.instant() if begins else None,
            valid_until=ends.instant() if ends else None,
            **common,
        )
    for der in ders.values():
        if der.der_id not in named:
            yield Offer(
                offer_id=ITEM_OFFER + der.der_id,
                ders=(der,),
                price_per_kwh=der.price_per_kwh,
                currency=der.currency,
                **common,
            )


def _entries(listed: At | None) -> Iterator[At]:
    """The entries of an array that may be absent."""
    return iter(()) if listed is None else listed.items()


def _stops(fulfillments: At | None) -> dict[str, At]:
    """The place of each fulfilment that has one, by the fulfilment's id."""
    found: dict[str, At] = {}
    for each in _entries(fulfillments):
        number = each.opt("id")
        for stop in _entries(each.opt("stops")):
            place = stop.opt("location")
            if number and place:
                found.setdefault(number.text(), place)
    return found


def _der(item: At, provider_id: str, stops: Mapping[str, At]) -> Der:
    resource = tags.one(item.opt("tags"), "flex-resource")
    if resource is None:
        raise item.missing("tags", "the tag group flex-resource")
    numbers = [each.text() for each in _entries(item.opt("fulfillment_ids"))]
    place = next((stops[number] for number in numbers if number in stops), None)
    gps = place.opt("gps") if place else None
    feeder = resource.opt("feeder_id") or (place.opt("id") if place else None) or resource.need("feeder_id")
    aggregator, ramp = resource.opt("aggregator_id"), resource.opt("ramp_kw_per_min")
    proof = resource.opt("crypto_proof")
    least = item.dig("quantity", "minimum", "measure")
    constraints = tags.one(item.opt("tags"), "flex-constraints")
    price = item.need("price")
    return Der(
        der_id=item.need("id").text(),
        aggregator_id=aggregator.text() if aggregator else provider_id,
        type=_der_type(item),
        feeder_id=feeder.text(),
        direction=resource.need("direction").code(Direction),
        capacity_kw=_read_kilowatts(item.need("quantity").need("available").need("measure")),
        response_time_s=resource.need("response_time_s").decimal(least=0),
        min_duration_min=resource.need("min_duration_min").whole_decimal(least=0),
        max_duration_min=resource.need("max_duration_min").whole_decimal(least=0),
        price_per_kwh=price.need("value").money(),
        currency=price.need("currency").text(),
        min_kw=_read_kilowatts(least) if least else 0.0,
        ramp_kw_per_min=ramp.decimal(least=0) if ramp else None,
        location=_point(gps) if gps else None,
        meter_ids=tuple(each.text() for each in resource.every("meter_ids")),
        constraints=(
            {name: tags.transparent(constraints.need(name)) for name in constraints.names()}
            if constraints
            else {}
        ),
        crypto_proof=_proof(proof) if proof else None,
    )


def _proof(at: At) -> dict[str, Any]:
    return At(tags.transparent(at), at.path).mapping()


def _der_type(item: At) -> DerType:
    """A kind of DER we do not know is OTHER: it is described by its numbers all the same."""
    code = item.dig("descriptor", "code")
    text = "" if code is None else code.text().upper()
    return next((kind for kind in DerType if kind.value.upper() == text), DerType.OTHER)


def _read_kilowatts(measure: At) -> float:
    unit = measure.need("unit")
    if unit.text().upper() not in _KILOWATTS:
        raise unit.refuse(f"must be {KILOWATT}", "SCH_INVALID_ENUM")
    return measure.need("value").decimal(least=0)


def _point(gps: At) -> Location:
    """A point written as ``latitude,longitude`` in degrees."""
    parts = [part.strip() for part in gps.text().split(",")]
    if len(parts) == 2 and all(DECIMAL.fullmatch(part) for part in parts):
        latitude, longitude = map(float, parts)
        if abs(latitude) <= 90 and abs(longitude) <= 180:
            return Location(latitude=latitude, longitude=longitude)
    raise gps.refuse('must be "latitude,longitude" in degrees', "SCH_INVALID_FORMAT")


def parse_reply(verb: str, message: Mapping[str, Any], error: PeerError | None) -> ContractView | None:
    """Read a callback about a contract, an error-only one included.

    Args:
        verb: Which callback, in the model's words.
        message: The ``message`` member; empty where the callback has none.
        error: The ``error`` member, if there is one.

    Returns:
        What the seller says about the contract; None where it only reports an error about a contract
        that stays as it was.

    Raises:
        BecknRefusal: A member we need is missing or ill-typed.
    """
    order = At(message).opt("order")
    if error is not None and order is None:
        if verb not in _BINDING:
            return None
        return ContractView(
            contract_id=None,
            status=ContractStatus.CANCELLED,
            obp_id=None,
            lines=(),
            decline_reason=str(error),
        )
    view = parse_contract(message, verb=verb)
    if error is not None and verb in _BINDING and (order is None or order.opt("status") is None):
        # SPEC ASSUMPTION: an error beside an order that is not said to be active means: not on these terms.
        return msgspec.structs.replace(view, status=ContractStatus.CANCELLED, decline_reason=str(error))
    return view


def parse_contract(message: Mapping[str, Any], *, verb: str = "on_status") -> ContractView:
    """Read what a seller says about a contract.

    An item without ``allocated`` accepts what was selected.

    Args:
        message: The ``message`` member, decoded.
        verb: Which callback it stands in: says what an order without status is.

    Raises:
        BecknRefusal: A member we need is missing or ill-typed.
    """
    order = At(message).need("order")
    contract_id = order.opt("id")
    items = _read_items(order.need("items"))
    attributes = tags.one(order.opt("tags"), "flex-contract")
    obp_id = attributes.opt("obp_id") if attributes else None
    fulfillments = tuple(_entries(order.opt("fulfillments")))
    window = _read_window(fulfillments)
    rate, currency = _read_rate(items)
    total = order.dig("quote", "price")
    amount = total.opt("value") if total else None
    if total and amount:
        currency = _same_currency(currency, total.need("currency"))
    return ContractView(
        contract_id=contract_id.text() if contract_id else None,
        status=_read_status(order, verb),
        obp_id=obp_id.text() if obp_id else None,
        lines=tuple(each.line for each in items),
        window_start=window[0] if window else None,
        window_end=window[1] if window else None,
        price_per_kwh=rate,
        currency=currency,
        total_price=amount.money() if amount else None,
        baselines=tuple(each.baseline for each in items if each.baseline),
        performance=_read_performances(fulfillments, items),
        decline_reason=_read_decline_reason(order, attributes),
    )


def _read_status(order: At, verb: str) -> ContractStatus:
    status, kind = order.opt("status"), order.opt("type")
    if status is not None:
        return status.code(ContractStatus, _ORDER_SYNONYMS)
    if kind is not None and kind.text().upper() == "DRAFT":
        return ContractStatus.DRAFT
    # SPEC ASSUMPTION: v1.1 requires no status; the callback an order stands in says what became of it.
    return _UNSAID.get(verb, ContractStatus.ACTIVE)


def _read_decline_reason(order: At, attributes: tags.Group | None) -> str | None:
    reason = attributes.opt("decline_reason") if attributes else None
    for path in (("reason", "descriptor"), ("additional_description",)):
        descriptor = order.dig("cancellation", *path)
        for name in ("short_desc", "name", "code"):
            reason = reason or (descriptor.opt(name) if descriptor else None)
    return reason.text() if reason else None


class _Item(msgspec.Struct, frozen=True, kw_only=True):
    """One item of an order: one DER."""

    at: At
    line: CommittedLine
    kind: DerType
    rate: str | None
    currency: str | None
    fulfillment_ids: tuple[str, ...]
    baseline: BaselineTerm | None


def _read_items(listed: At) -> tuple[_Item, ...]:
    """The items of an order: at least one, each DER once."""
    found: dict[str, _Item] = {}
    for at in listed.items():
        item = _read_item(at)
        if found.setdefault(item.line.der_id, item) is not item:
            raise at.refuse(f"{item.line.der_id} is ordered twice")
    if not found:
        raise listed.refuse("needs at least one item", "SCH_REQUIRED_FIELD_MISSING")
    return tuple(found.values())


def _read_item(at: At) -> _Item:
    der_id = at.need("id").text()
    quantity = at.need("quantity")
    # The demand-flexibility guide writes quantity.measure, which the specification does not have.
    selected = quantity.dig("selected", "measure") or quantity.opt("measure")
    allocated = quantity.dig("allocated", "measure")
    asked = selected or allocated
    if asked is None:
        raise quantity.missing("selected", "its measure in kW")
    fixed = tags.one(at.opt("tags"), "flex-baseline")
    price = at.opt("price")
    rate = price.opt("value") if price else None
    return _Item(
        at=at,
        # SPEC ASSUMPTION: a seller that repeats an item without an allocation accepts what was asked.
        line=CommittedLine(
            der_id=der_id,
            requested_kw=_read_kilowatts(asked),
            committed_kw=_read_kilowatts(allocated or asked),
        ),
        kind=_der_type(at),
        rate=rate.money() if rate else None,
        currency=price.need("currency").text() if price and rate else None,
        fulfillment_ids=tuple(each.text() for each in _entries(at.opt("fulfillment_ids"))),
        baseline=(
            BaselineTerm(
                der_id=der_id,
                method=fixed.need("method").code(BaselineMethod),
                kw=fixed.need("kw").decimal(),
            )
            if fixed
            else None
        ),
    )


def _read_rate(items: Sequence[_Item]) -> tuple[str | None, str | None]:
    """The energy rate and its currency, which all items of an order share."""
    priced = [each for each in items if each.rate is not None]
    for each in priced[1:]:
        if (each.rate, each.currency) != (priced[0].rate, priced[0].currency):
            raise each.at.need("price").refuse("all items of an order share one price per kWh")
    return (priced[0].rate, priced[0].currency) if priced else (None, None)


def _same_currency(known: str | None, stated: At) -> str:
    if known is not None and stated.text() != known:
        raise stated.refuse(f"must be {known}, the currency of the items")
    return stated.text()


def _read_window(fulfillments: Iterable[At]) -> tuple[datetime, datetime] | None:
    """The delivery window, which all fulfilments of an order share."""
    window = None
    for stop in (stop for each in fulfillments for stop in _entries(each.opt("stops"))):
        span = stop.dig("time", "range")
        if span is None:
            continue
        end = span.need("end")
        found = (span.need("start").instant(), end.instant())
        if found[0] >= found[1]:
            raise end.refuse("must be after start", "SCH_INVALID_FORMAT")
        if window and found != window:
            raise span.refuse("all fulfillments of an order share one window")
        window = found
    return window


def _read_performances(listed: Sequence[At], items: Sequence[_Item]) -> tuple[DerPerformance, ...]:
    """The delivery reports, each DER at most once; a fulfilment without a state reports nothing."""
    found: dict[str, DerPerformance] = {}
    of: dict[str, list[str]] = {}
    for item in items:
        for number in item.fulfillment_ids:
            of.setdefault(number, []).append(item.line.der_id)
    for at in listed:
        code = at.dig("state", "descriptor", "code")
        intervals = [_read_interval(each) for each in tags.groups(at.opt("tags"), "flex-performance")]
        if code is None and not intervals:
            continue
        status = code.code(PerformanceStatus, _STATE_SYNONYMS) if code else PerformanceStatus.SCHEDULED
        covered = _covered(at, of, items, alone=len(listed) == 1)
        if intervals and len(covered) != 1:
            raise at.refuse("meter intervals belong to exactly one item")
        for der_id in covered:
            report = DerPerformance(der_id=der_id, status=status, intervals=tuple(intervals))
            if found.setdefault(der_id, report) is not report:
                raise at.refuse(f"{der_id} is reported twice: send one fulfillment per item")
    return tuple(found.values())


def _covered(at: At, of: Mapping[str, list[str]], items: Sequence[_Item], *, alone: bool) -> list[str]:
    """DERs a fulfilment is about; the only one of an order need not be named by its items."""
    number = at.opt("id")
    named = of.get(number.text(), []) if number else []
    if named:
        return named
    if alone and not of:
        return [item.line.der_id for item in items]
    raise at.refuse("no item names this fulfillment: put its id into fulfillment_ids")


def _read_interval(group: tags.Group) -> MeterInterval:
    start, end = group.need("start").instant(), group.need("end").instant()
    if start >= end:
        raise group.at.refuse("end must be after start", "SCH_INVALID_FORMAT")
    return MeterInterval(start=start, end=end, usage_wh=group.need("usage_wh").whole_decimal())


# --- seller reads ----------------------------------------------------------------------------


def parse_order(message: Mapping[str, Any]) -> tuple[OrderTerms, str | None]:
    """Read an order (select, init, confirm, update) and the order id it names.

    Raises:
        BecknRefusal: A member we need is missing or ill-typed.
    """
    order = At(message).need("order")
    order_id = order.opt("id")
    items = _read_items(order.need("items"))
    fulfillments = order.need("fulfillments")
    window = _read_window(fulfillments.items())
    if window is None:
        raise fulfillments.refuse("needs a stop with time.range", "SCH_REQUIRED_FIELD_MISSING")
    rate, currency = _read_rate(items)
    if rate is None or currency is None:
        raise items[0].at.missing("price", "the price per kWh")
    attributes = tags.one(order.opt("tags"), "flex-contract")
    if attributes is None:
        raise order.missing("tags", "the tag group flex-contract")
    terms = OrderTerms(
        obp_id=attributes.need("obp_id").text(),
        event_id=attributes.need("event_id").text(),
        feeder_id=attributes.need("feeder_id").text(),
        direction=attributes.need("direction").code(Direction),
        offer_id=_read_offer(order, items),
        provider_id=order.need("provider").need("id").text(),
        window_start=window[0],
        window_end=window[1],
        lines=tuple(
            OrderLine(der_id=each.line.der_id, der_type=each.kind, kw=each.line.requested_kw)
            for each in items
        ),
        price_per_kwh=rate,
        currency=currency,
    )
    return terms, order_id.text() if order_id else None


def _read_offer(order: At, items: Sequence[_Item]) -> str:
    """The offer an order is of; one item may be ordered without an offer."""
    listed = order.opt("offers")
    named = list(_entries(listed))
    if len(named) == 1:
        return named[0].need("id").text()
    if not named and len(items) == 1:
        return ITEM_OFFER + items[0].line.der_id
    raise (listed or order).refuse("all items of an order are of one offer: name it in offers")


def parse_reference(message: Mapping[str, Any]) -> str | None:
    """Read which order a request (status, track, cancel) is about.

    Raises:
        BecknRefusal: It does not say, or not as text.
    """
    return At(message).need("order_id").text()


def parse_cancel_reason(message: Mapping[str, Any]) -> str | None:
    """Read why a buyer cancels; None where it does not say."""
    at = At(message)
    descriptor = at.opt("descriptor")
    for name in ("short_desc", "long_desc", "name", "code"):
        reason = descriptor.opt(name) if descriptor else None
        if reason:
            return reason.text()
    code = at.opt("cancellation_reason_id")
    return code.text() if code else None


def parse_update(message: Mapping[str, Any]) -> UpdateAsk:
    """Read a wish to change an order.

    Raises:
        BecknRefusal: A member we need is missing or ill-typed.
    """
    at = At(message)
    targets = {part.strip() for part in at.need("update_target").text().split(",")}
    terms, order_id = parse_order(message)
    status = at.need("order").opt("status")
    ends = bool(targets & {_END, "status"}) and status is not None
    return UpdateAsk(
        contract_id=order_id,
        terms=terms,
        completes=bool(
            ends and status and status.code(ContractStatus, _ORDER_SYNONYMS) is ContractStatus.COMPLETE
        ),
    )


def parse_discover(message: Mapping[str, Any]) -> DiscoverAsk:
    """Read what a buyer looks for; what an intent does not say restricts nothing.

    Raises:
        BecknRefusal: A member we need is ill-typed.
    """
    intent = At(message).opt("intent")
    if intent is None:
        return DiscoverAsk()
    ask: dict[str, Any] = {}
    resource = tags.one(intent.dig("item", "tags"), "flex-resource")
    feeder = resource.opt("feeder_id") if resource else None
    direction = resource.opt("direction") if resource else None
    wanted = intent.dig("item", "quantity", "selected", "measure")
    least = intent.dig("item", "quantity", "minimum", "measure")
    delivery = intent.opt("fulfillment")
    for stop in _entries(delivery.opt("stops") if delivery else None):
        place = stop.opt("location")
        feeder = feeder or (place.opt("id") if place else None)
        centre = place.dig("circle", "gps") or place.opt("gps") if place else None
        if centre and "location" not in ask:
            radius = place.dig("circle", "radius") if place else None
            ask["location"] = _point(centre)
            ask["radius_m"] = _read_metres(radius) if radius else None
    window = _read_window([delivery]) if delivery else None
    if window:
        ask["window_start"], ask["window_end"] = window
    return DiscoverAsk(
        feeder_id=feeder.text() if feeder else None,
        direction=direction.code(Direction) if direction else None,
        kw=_read_kilowatts(wanted) if wanted else None,
        min_kw=_read_kilowatts(least) if least else 0.0,
        **ask,
    )


def _read_metres(radius: At) -> float:
    unit = radius.need("unit")
    factor = _METRES.get(unit.text().upper())
    if factor is None:
        raise unit.refuse("must be m or km", "SCH_INVALID_ENUM")
    return radius.need("value").decimal(least=0) * factor
