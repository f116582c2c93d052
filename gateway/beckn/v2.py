"""Translate between our model and Beckn v2.0.0 messages, for buyer and seller.

The only module that knows where a datum stands in a v2 message.

* One order is one contract; each DER of it is one commitment ``c1``, ``c2``, ... in line order.
* Domain data stands in attribute packs (``@context``, ``@type``) named ``Flex...``.
* kW are JSON numbers, money is decimal text, instants are RFC 3339 UTC.
* Builders raise :class:`ValueError` on values that JSON cannot carry (NaN, infinity); parsers
  ignore what they do not need and raise :class:`~gateway.errors.BecknRefusal` with the JSON
  pointer of what is missing or ill-typed.

Source: Beckn v2.0.0 LTS (Contract, Commitment, Catalog, Intent); our attribute packs in
``beckn_specs/flex``.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from gateway.beckn import jsonpath
from gateway.beckn.model import DiscoverAsk, UpdateAsk
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

CONTEXT_BASE: Final = "https://schemas.fluxeon.example"
"""Where the JSON-LD contexts of the attribute packs are published."""

KILOWATT: Final = "KWT"
"""UN/ECE code of the kilowatt."""

DEFAULT_RADIUS_M: Final = 10_000.0

Message = dict[str, Any]

_ADDRESS: Final = re.compile(r"https?://[!#$%&'()*+,./0-9:;=?@A-Z_a-z~-]+")
_GEO_TARGET: Final = "$['availableAt'][*]['geo']"
_KILOWATT_CODES: Final = frozenset({"KWT", "KW"})

_COMMITMENT_STATUS: Final = {
    ContractStatus.DRAFT: "DRAFT",
    ContractStatus.ACTIVE: "ACTIVE",
    ContractStatus.COMPLETE: "CLOSED",
    ContractStatus.CANCELLED: "CLOSED",
}
_PRICE_STATUS: Final = {
    ContractStatus.DRAFT: "PROPOSED",
    ContractStatus.ACTIVE: "AGREED",
    ContractStatus.COMPLETE: "AGREED",
    ContractStatus.CANCELLED: "PROPOSED",
}
_CONTRACT_SYNONYMS: Final = {"COMPLETED": "COMPLETE"}
_PERFORMANCE_SYNONYMS: Final = {"COMPLETE": "COMPLETED"}


# --- attribute packs -------------------------------------------------------------------------


def context_url(pack: str) -> str:
    """Address of the JSON-LD context of an attribute pack, such as ``FlexResource``."""
    return f"{CONTEXT_BASE}/{pack}/v1.0/context.jsonld"


def schema_context(message: Mapping[str, Any]) -> tuple[str, ...]:
    """List the JSON-LD contexts a message uses, for ``context.schemaContext``.

    Data passed on unread (constraints, proofs) may call anything a context; only web addresses are
    listed, because ``schemaContext`` takes nothing else.
    """
    named: set[str] = set()
    stack: list[Any] = [dict(message)]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            url = value.get("@context")
            if isinstance(url, str):
                named.add(url)
            value = value.values()
        for inner in value:
            # Most of a catalogue is texts and numbers: only what can hold a context is looked at again.
            kind = type(inner)
            if kind is dict or kind is list:
                stack.append(inner)
    return tuple(sorted(url for url in named if _ADDRESS.fullmatch(url)))


def _pack(pack: str, **members: Any) -> dict[str, Any]:
    """Fill an attribute pack, leaving out members that are None."""
    present = {name: value for name, value in members.items() if value is not None}
    return {"@context": context_url(pack), "@type": pack, **present}


def wire_number(value: float, what: str) -> float | int:
    """Write a finite number; whole ones without a fraction."""
    if not math.isfinite(value):
        raise ValueError(f"{what} must be finite, not {value}")
    return int(value) if float(value).is_integer() and abs(value) < 2**53 else float(value)


def _money(text: str, what: str) -> str:
    if not DECIMAL.fullmatch(text):
        raise ValueError(f"{what} must be decimal text, not {text!r}")
    return text


def _present(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _geo(location: Location) -> dict[str, Any]:
    """Write a point as GeoJSON, longitude first (RFC 7946)."""
    return {
        "type": "Point",
        "coordinates": [
            wire_number(location.longitude, "longitude"),
            wire_number(location.latitude, "latitude"),
        ],
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
    """Ask for catalogues that can relieve a feeder.

    The filter narrows by feeder, direction and DER size; the document root it is applied to is not
    specified in v2.0.0, so answers are filtered again locally. What is wanted in total, and when,
    goes beside the expression (``filters`` is an open object), where it restricts nothing.

    Args:
        need_feeder_id: Feeder that needs relief.
        direction: Which way net import must go.
        kw: Relief wanted in total; does not restrict the size of a DER.
        window_start: Start of delivery (event time).
        window_end: End of delivery (event time).
        location: Where the feeder is; adds a distance constraint.
        min_kw: Smallest DER of interest.
        radius_m: Of the distance constraint, metres.
    """
    expression = jsonpath.write(
        "$.catalogs[*].resources",
        "resourceAttributes",
        equal={"feederId": need_feeder_id, "direction": direction.value},
        least={"capacityKw": wire_number(min_kw, "min_kw")},
    )
    wanted = _pack(
        "FlexCommitment",
        requestedKw=wire_number(kw, "kw"),
        windowStart=rfc3339(window_start),
        windowEnd=rfc3339(window_end),
    )
    intent: dict[str, Any] = {
        "filters": {
            "type": "jsonpath",
            "expression": expression,
            "commitmentAttributes": wanted,
        }
    }
    if location is not None:
        intent["spatial"] = [
            {
                "op": "S_DWITHIN",
                "targets": _GEO_TARGET,
                "geometry": _geo(location),
                "distanceMeters": wire_number(radius_m, "radius_m"),
                "quantifier": "ANY",
            }
        ]
    return {"intent": intent}


def select_message(terms: OrderTerms) -> Message:
    """Ask one seller to price and commit the DERs of an order."""
    return {"contract": _contract(terms, None, status=ContractStatus.DRAFT)}


def init_message(terms: OrderTerms, view: ContractView) -> Message:
    """Ask for final terms, repeating what the seller committed to in on_select."""
    return {"contract": _contract(terms, view, status=ContractStatus.DRAFT, contract_id=view.contract_id)}


def confirm_message(terms: OrderTerms, view: ContractView) -> Message:
    """Accept the terms of on_init: commitments, price and baselines are repeated as agreed."""
    return {"contract": _contract(terms, view, status=ContractStatus.DRAFT, contract_id=view.contract_id)}


def status_message(terms: OrderTerms, contract_id: str) -> Message:
    """Ask for the state of a contract; v2.0.0 requires its commitments beside its id."""
    return {"contract": _contract(terms, None, status=None, contract_id=contract_id)}


def cancel_message(terms: OrderTerms, contract_id: str, reason: str) -> Message:
    """Ask to end a contract; the reason stands in FlexContract."""
    contract = _contract(terms, None, status=None, contract_id=contract_id, cancel_reason=reason)
    return {"contract": contract}


def update_message(
    terms: OrderTerms, view: ContractView, contract_id: str, *, completes: bool = False
) -> Message:
    """Ask to change a running contract, or to end it as complete (``requestedTransition``)."""
    contract = _contract(terms, view, status=ContractStatus.ACTIVE, contract_id=contract_id)
    if completes:
        contract["contractAttributes"]["requestedTransition"] = ContractStatus.COMPLETE.value
    return {"contract": contract}


def reference(_terms: OrderTerms, view: ContractView) -> str | None:
    """The id under which a contract can be spoken of; None until the seller has given one."""
    return view.contract_id


# --- seller builds ---------------------------------------------------------------------------


def contract_message(terms: OrderTerms, view: ContractView) -> Message:
    """Declare the state of a contract (on_select, on_init, on_confirm, on_status, on_cancel).

    Members the view leaves None (window, OBP id, price) are repeated from the order. A DER without a
    line in the view is committed with 0 kW. A COMPLETE contract carries its settlement record.
    """
    contract = _contract(
        terms, view, status=view.status, contract_id=view.contract_id, decline_reason=view.decline_reason
    )
    if view.performance:
        numbers = {line.der_id: n for n, line in enumerate(terms.lines, 1)}
        contract["performance"] = [_performance(report, numbers) for report in view.performance]
    if view.status is ContractStatus.COMPLETE:
        payable = view.total_price
        settlement = _present(id="s1", considerationId="q1", status="COMMITTED")
        if payable is not None:
            settlement["settlementAttributes"] = _pack(
                "FlexSettlement", payable=payable, currency=view.currency or terms.currency
            )
        contract["settlements"] = [settlement]
    return {"contract": contract}


def on_discover_message(offers: Sequence[Offer]) -> Message:
    """Publish offers: one resource per DER, one catalogue per provider if that is possible.

    A DER that different offers describe differently (a battery sold in both directions) takes a
    further catalogue of its provider, because resources have one description per catalogue.
    """
    catalogs: list[_Catalog] = []
    for offer in offers:
        resources = {der.der_id: _resource(der, offer) for der in offer.ders}
        fitting = next((each for each in catalogs if each.takes(offer, resources)), None)
        if fitting is None:
            siblings = sum(each.is_of(offer) for each in catalogs)
            fitting = _Catalog(f"{offer.provider_id}:catalog:{siblings + 1}", offer)
            catalogs.append(fitting)
        fitting.add(offer, resources)
    return {"catalogs": [each.wire() for each in catalogs]}


class _Catalog:
    """A catalogue being filled."""

    def __init__(self, catalog_id: str, first: Offer) -> None:
        self._id = catalog_id
        self._of = first
        self._resources: dict[str, dict[str, Any]] = {}
        self._offers: list[dict[str, Any]] = []
        self._places: dict[Location, None] = {}

    def is_of(self, offer: Offer) -> bool:
        """Whether the catalogue belongs to an offer's provider and BPP."""
        return _seller(self._of) == _seller(offer)

    def takes(self, offer: Offer, resources: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether an offer fits in without describing a DER in two ways."""
        return self.is_of(offer) and all(
            self._resources.get(der_id, resource) == resource for der_id, resource in resources.items()
        )

    def add(self, offer: Offer, resources: Mapping[str, dict[str, Any]]) -> None:
        self._resources.update(resources)
        self._offers.append(_offer(offer))
        self._places.update((der.location, None) for der in offer.ders if der.location is not None)

    def wire(self) -> dict[str, Any]:
        name = self._of.provider_name
        provider: dict[str, Any] = {"id": self._of.provider_id, "descriptor": {"name": name}}
        if self._places:
            provider["availableAt"] = [{"geo": _geo(place)} for place in self._places]
        return {
            "id": self._id,
            "descriptor": {"name": f"Demand flexibility of {name}"},
            "bppId": self._of.bpp_id,
            "bppUri": self._of.bpp_uri,
            "provider": provider,
            "isActive": True,
            "resources": list(self._resources.values()),
            "offers": self._offers,
        }


def _seller(offer: Offer) -> tuple[str, str, str, str]:
    return (offer.bpp_id, offer.bpp_uri, offer.provider_id, offer.provider_name)


def _resource(der: Der, offer: Offer) -> dict[str, Any]:
    own_price = der.price_per_kwh != offer.price_per_kwh
    own_currency = der.currency != offer.currency
    return {
        "id": der.der_id,
        "descriptor": {"code": der.type.value},
        "resourceAttributes": _pack(
            "FlexResource",
            derId=der.der_id,
            derType=der.type.value,
            aggregatorId=der.aggregator_id,
            feederId=der.feeder_id,
            direction=der.direction.value,
            capacityKw=wire_number(der.capacity_kw, "capacity_kw"),
            responseTimeS=wire_number(der.response_time_s, "response_time_s"),
            minDurationMin=der.min_duration_min,
            maxDurationMin=der.max_duration_min,
            minKw=wire_number(der.min_kw, "min_kw") if der.min_kw else None,
            rampKwPerMin=(
                None if der.ramp_kw_per_min is None else wire_number(der.ramp_kw_per_min, "ramp_kw_per_min")
            ),
            geo=None if der.location is None else _geo(der.location),
            meterIds=list(der.meter_ids) or None,
            energyRatePerKwh=_money(der.price_per_kwh, "price_per_kwh") if own_price else None,
            currency=der.currency if own_currency else None,
            constraints=der.constraints or None,
            cryptoProof=der.crypto_proof,
        ),
    }


def _offer(offer: Offer) -> dict[str, Any]:
    spelled: dict[str, Any] = {
        "id": offer.offer_id,
        "resourceIds": [der.der_id for der in offer.ders],
        "considerations": [
            {
                "id": f"{offer.offer_id}:price",
                "status": {"code": "PROPOSED"},
                "considerationAttributes": _pack(
                    "FlexPrice",
                    currency=offer.currency,
                    energyRatePerKwh=_money(offer.price_per_kwh, "price_per_kwh"),
                ),
            }
        ],
    }
    if offer.valid_from is not None or offer.valid_until is not None:
        spelled["validity"] = _present(
            startDate=None if offer.valid_from is None else rfc3339(offer.valid_from),
            endDate=None if offer.valid_until is None else rfc3339(offer.valid_until),
        )
    return spelled


def _performance(report: DerPerformance, numbers: Mapping[str, int]) -> dict[str, Any]:
    number = numbers.get(report.der_id)
    if number is None:
        raise ValueError(f"performance of {report.der_id}, which is not part of the order")
    spelled: dict[str, Any] = {
        "id": f"p{number}",
        "status": {"code": report.status.value},
        "commitmentIds": [f"c{number}"],
    }
    if report.intervals:
        spelled["performanceAttributes"] = _pack(
            "FlexPerformance",
            intervals=[
                {"start": rfc3339(each.start), "end": rfc3339(each.end), "usageWh": each.usage_wh}
                for each in report.intervals
            ],
        )
    return spelled


def _contract(
    terms: OrderTerms,
    view: ContractView | None,
    *,
    status: ContractStatus | None,
    contract_id: str | None = None,
    decline_reason: str | None = None,
    cancel_reason: str | None = None,
) -> dict[str, Any]:
    """Write the contract both sides send.

    Args:
        terms: What is ordered.
        view: What the seller said about it, if anything.
        status: Declared state; None where the sender declares none and only refers to the contract.
        contract_id: Given by the seller; None before.
        decline_reason: Of a seller that does not deliver.
        cancel_reason: Of a buyer that wants out.
    """
    state = status or ContractStatus.ACTIVE
    committed = None if view is None else {line.der_id: line.committed_kw for line in view.lines}
    baselines = {} if view is None else {term.der_id: term for term in view.baselines}
    obp_id = (view and view.obp_id) or terms.obp_id
    start = (view and view.window_start) or terms.window_start
    end = (view and view.window_end) or terms.window_end
    rate = (view and view.price_per_kwh) or terms.price_per_kwh
    total = None if view is None else view.total_price
    return {
        **_present(id=contract_id, status=None if status is None else {"code": status.value}),
        "commitments": [
            _commitment(
                number,
                line,
                terms,
                state=state,
                committed_kw=None if committed is None else committed.get(line.der_id, 0.0),
                window=(start, end),
                baseline=baselines.get(line.der_id),
            )
            for number, line in enumerate(terms.lines, 1)
        ],
        "consideration": [
            {
                "id": "q1",
                "status": {"code": _PRICE_STATUS[state]},
                "considerationAttributes": _pack(
                    "FlexPrice",
                    currency=(view and view.currency) or terms.currency,
                    energyRatePerKwh=_money(rate, "price_per_kwh"),
                    total=None if total is None else _money(total, "total_price"),
                ),
            }
        ],
        "participants": [{"id": terms.provider_id, "descriptor": {"code": "SELLER"}}],
        "contractAttributes": _pack(
            "FlexContract",
            eventId=terms.event_id,
            obpId=obp_id,
            feederId=terms.feeder_id,
            direction=terms.direction.value,
            declineReason=decline_reason or None,
            cancelReason=cancel_reason or None,
        ),
    }


def _commitment(
    number: int,
    line: OrderLine,
    terms: OrderTerms,
    *,
    state: ContractStatus,
    committed_kw: float | None,
    window: tuple[datetime, datetime],
    baseline: BaselineTerm | None,
) -> dict[str, Any]:
    asked = wire_number(line.kw, "kw")
    return {
        "id": f"c{number}",
        "status": {"descriptor": {"code": _COMMITMENT_STATUS[state]}},
        "resources": [
            {
                "id": line.der_id,
                "quantity": {"unitQuantity": asked, "unitCode": KILOWATT},
                "resourceAttributes": _pack(
                    "FlexResource", derType=line.der_type.value, feederId=terms.feeder_id
                ),
            }
        ],
        "offer": {"id": terms.offer_id, "resourceIds": [line.der_id]},
        "commitmentAttributes": _pack(
            "FlexCommitment",
            requestedKw=asked,
            committedKw=None if committed_kw is None else wire_number(committed_kw, "committed_kw"),
            windowStart=rfc3339(window[0]),
            windowEnd=rfc3339(window[1]),
            baseline=(
                None
                if baseline is None
                else {"method": baseline.method.value, "kw": wire_number(baseline.kw, "baseline kw")}
            ),
        ),
    }


# --- reading ---------------------------------------------------------------------------------


# --- buyer reads -----------------------------------------------------------------------------


def parse_on_discover(
    message: Mapping[str, Any], *, bpp_id: str | None = None, bpp_uri: str | None = None
) -> tuple[Offer, ...]:
    """Read the offers of an on_discover message; inactive catalogues are passed over.

    Args:
        message: The ``message`` member, decoded.
        bpp_id: Of the sender, for catalogues that do not name their BPP. Whether a catalogue may
            name another BPP than its sender is the caller's decision.
        bpp_uri: Likewise.

    Raises:
        BecknRefusal: A member we need is missing or ill-typed.
    """
    found: list[Offer] = []
    for catalog in At(message).need("catalogs").items():
        active = catalog.opt("isActive")
        if active is None or active.flag():
            found.extend(_read_catalog(catalog, bpp_id, bpp_uri))
    return tuple(found)


def _read_catalog(catalog: At, bpp_id: str | None, bpp_uri: str | None) -> Iterator[Offer]:
    stated_id, stated_uri = catalog.opt("bppId"), catalog.opt("bppUri")
    seller_id = stated_id.text() if stated_id else (bpp_id or catalog.need("bppId").text())
    seller_uri = stated_uri.text() if stated_uri else (bpp_uri or catalog.need("bppUri").text())
    provider = catalog.need("provider")
    provider_id = provider.need("id").text()
    name = provider.dig("descriptor", "name")
    resources = {}
    listed = catalog.opt("resources")
    for resource in listed.items() if listed else ():
        resources[resource.need("id").text()] = resource
    offered = catalog.opt("offers")
    for offer in offered.items() if offered else ():
        rate, currency = _read_rate(offer.need("considerations"))
        ders = []
        for resource_id in offer.need("resourceIds").items():
            described = resources.get(resource_id.text())
            if described is None:
                raise resource_id.refuse("is no resource of this catalogue")
            common = offer.dig("offerAttributes", "constraints")
            ders.append(_read_der(described, provider_id, rate, currency, common.mapping() if common else {}))
        begins, ends = offer.dig("validity", "startDate"), offer.dig("validity", "endDate")
        yield Offer(
            offer_id=offer.need("id").text(),
            bpp_id=seller_id,
            bpp_uri=seller_uri,
            provider_id=provider_id,
            provider_name=name.text() if name else provider_id,
            ders=tuple(ders),
            price_per_kwh=rate,
            currency=currency,
            valid_from=begins.instant() if begins else None,
            valid_until=ends.instant() if ends else None,
        )


def _read_rate(considerations: At) -> tuple[str, str]:
    """The energy rate and its currency: of the first consideration that has one."""
    for each in considerations.items():
        attributes = each.opt("considerationAttributes")
        rate = attributes.opt("energyRatePerKwh") if attributes else None
        if attributes and rate:
            return rate.money(), attributes.need("currency").text()
    raise considerations.refuse(
        "needs an entry with considerationAttributes.energyRatePerKwh", "SCH_REQUIRED_FIELD_MISSING"
    )


def _read_der(resource: At, provider_id: str, rate: str, currency: str, common: Mapping[str, Any]) -> Der:
    attributes = resource.need("resourceAttributes")
    aggregator = attributes.opt("aggregatorId")
    ramp = attributes.opt("rampKwPerMin")
    least = attributes.opt("minKw")
    geo = attributes.opt("geo")
    meters = attributes.opt("meterIds")
    own_rate, own_currency = attributes.opt("energyRatePerKwh"), attributes.opt("currency")
    constraints = attributes.opt("constraints")
    proof = attributes.opt("cryptoProof")
    return Der(
        der_id=resource.need("id").text(),
        aggregator_id=aggregator.text() if aggregator else provider_id,
        type=_read_der_type(attributes.opt("derType")),
        feeder_id=attributes.need("feederId").text(),
        direction=attributes.need("direction").code(Direction),
        capacity_kw=attributes.need("capacityKw").number(least=0),
        response_time_s=attributes.need("responseTimeS").number(least=0),
        min_duration_min=attributes.need("minDurationMin").whole(least=0),
        max_duration_min=attributes.need("maxDurationMin").whole(least=0),
        price_per_kwh=own_rate.money() if own_rate else rate,
        currency=own_currency.text() if own_currency else currency,
        min_kw=least.number(least=0) if least else 0.0,
        ramp_kw_per_min=ramp.number(least=0) if ramp else None,
        location=geo.point() if geo else None,
        meter_ids=tuple(each.text() for each in meters.items()) if meters else (),
        constraints={**common, **(constraints.mapping() if constraints else {})},
        crypto_proof=proof.mapping() if proof else None,
    )


def _read_der_type(at: At | None) -> DerType:
    """A kind of DER we do not know is OTHER: it is described by its numbers all the same."""
    if at is None:
        return DerType.OTHER
    text = at.text().upper()
    return next((kind for kind in DerType if kind.value.upper() == text), DerType.OTHER)


def parse_contract(message: Mapping[str, Any]) -> ContractView:
    """Read what a seller says about a contract.

    A commitment without ``committedKw`` accepts what was asked, a contract without status is a
    DRAFT, a performance without status is SCHEDULED.

    Raises:
        BecknRefusal: A member we need is missing or ill-typed.
    """
    contract = At(message).need("contract")
    contract_id = contract.opt("id")
    status = contract.dig("status", "code")
    attributes = contract.opt("contractAttributes")
    obp_id = attributes.opt("obpId") if attributes else None
    reason = attributes.opt("declineReason") if attributes else None
    commitments = _read_commitments(contract.need("commitments"))
    window = next((each.window for each in commitments if each.window), (None, None))
    price = _read_price(contract.opt("consideration"))
    return ContractView(
        contract_id=contract_id.text() if contract_id else None,
        status=status.code(ContractStatus, _CONTRACT_SYNONYMS) if status else ContractStatus.DRAFT,
        obp_id=obp_id.text() if obp_id else None,
        lines=tuple(each.line for each in commitments),
        window_start=window[0],
        window_end=window[1],
        price_per_kwh=price.rate,
        currency=price.currency,
        total_price=price.total,
        baselines=tuple(each.baseline for each in commitments if each.baseline),
        performance=_read_performances(contract.opt("performance"), commitments),
        decline_reason=reason.text() if reason else None,
    )


class _Price(msgspec.Struct, frozen=True):
    rate: str | None = None
    total: str | None = None
    currency: str | None = None


def _read_price(consideration: At | None) -> _Price:
    """The first consideration that speaks of money; nothing where none does."""
    for each in consideration.items() if consideration else ():
        attributes = each.opt("considerationAttributes")
        if attributes is None:
            continue
        rate, total = attributes.opt("energyRatePerKwh"), attributes.opt("total")
        if rate is None and total is None:
            continue
        return _Price(
            rate=rate.money() if rate else None,
            total=total.money() if total else None,
            currency=attributes.need("currency").text(),
        )
    return _Price()


class _Commitment(msgspec.Struct, frozen=True, kw_only=True):
    """One commitment: one DER."""

    commitment_id: str | None
    line: CommittedLine
    kind: DerType
    offer_id: str
    window: tuple[datetime, datetime] | None
    baseline: BaselineTerm | None


def _read_commitments(listed: At) -> tuple[_Commitment, ...]:
    """The commitments of an order: at least one, each DER once, all over one window."""
    commitments: list[_Commitment] = []
    ders: set[str] = set()
    ids: set[str] = set()
    window = None
    for at in listed.items():
        commitment = _read_commitment(at)
        if commitment.line.der_id in ders:
            raise at.refuse(f"{commitment.line.der_id} is committed twice")
        if commitment.commitment_id in ids:
            raise at.refuse(f"{commitment.commitment_id} stands for two commitments")
        if commitment.window and window and commitment.window != window:
            raise at.refuse("all commitments of an order share one window")
        ders.add(commitment.line.der_id)
        if commitment.commitment_id is not None:
            ids.add(commitment.commitment_id)
        window = window or commitment.window
        commitments.append(commitment)
    if not commitments:
        raise listed.refuse("needs at least one commitment", "SCH_REQUIRED_FIELD_MISSING")
    return tuple(commitments)


def _read_commitment(at: At) -> _Commitment:
    resource = _only_resource(at)
    der_id = resource.need("id").text()
    commitment_id = at.opt("id")
    attributes = at.opt("commitmentAttributes")
    asked = _read_asked(resource, attributes)
    # SPEC ASSUMPTION: a seller that repeats a commitment without committedKw accepts what was asked.
    given = attributes.opt("committedKw") if attributes else None
    baseline = attributes.opt("baseline") if attributes else None
    return _Commitment(
        commitment_id=commitment_id.text() if commitment_id else None,
        line=CommittedLine(
            der_id=der_id, requested_kw=asked, committed_kw=given.number(least=0) if given else asked
        ),
        kind=_read_der_type(resource.dig("resourceAttributes", "derType")),
        offer_id=at.need("offer").need("id").text(),
        window=_read_window(attributes) if attributes else None,
        baseline=BaselineTerm(
            der_id=der_id,
            method=baseline.need("method").code(BaselineMethod),
            kw=baseline.need("kw").number(),
        )
        if baseline
        else None,
    )


def _only_resource(commitment: At) -> At:
    resources = commitment.need("resources")
    found = list(resources.items())
    if len(found) != 1:
        raise resources.refuse("must hold exactly one DER: send one commitment per DER")
    return found[0]


def _read_asked(resource: At, attributes: At | None) -> float:
    requested = attributes.opt("requestedKw") if attributes else None
    if requested:
        return requested.number(least=0)
    quantity = resource.need("quantity")
    unit = quantity.need("unitCode")
    if unit.text().upper() not in _KILOWATT_CODES:
        raise unit.refuse(f"must be {KILOWATT} (kilowatt)", "SCH_INVALID_ENUM")
    return quantity.need("unitQuantity").number(least=0)


def _read_window(attributes: At) -> tuple[datetime, datetime] | None:
    if attributes.opt("windowStart") is None and attributes.opt("windowEnd") is None:
        return None
    start, end = attributes.need("windowStart"), attributes.need("windowEnd")
    window = (start.instant(), end.instant())
    if window[0] >= window[1]:
        raise end.refuse("must be after windowStart", "SCH_INVALID_FORMAT")
    return window


def _read_performances(listed: At | None, commitments: Sequence[_Commitment]) -> tuple[DerPerformance, ...]:
    """The delivery reports, each DER at most once."""
    ders = {each.commitment_id: each.line.der_id for each in commitments}
    only = commitments[0].line.der_id if len(commitments) == 1 else None
    found: dict[str, DerPerformance] = {}
    for at in listed.items() if listed else ():
        for report in _read_performance(at, ders, only):
            if found.setdefault(report.der_id, report) is not report:
                raise at.refuse(f"{report.der_id} is reported twice: send one performance per commitment")
    return tuple(found.values())


def _read_performance(at: At, ders: Mapping[str | None, str], only: str | None) -> Iterator[DerPerformance]:
    """One report per DER covered; what speaks of a contract's ``only`` DER need not name it."""
    code = at.dig("status", "code")
    status = code.code(PerformanceStatus, _PERFORMANCE_SYNONYMS) if code else PerformanceStatus.SCHEDULED
    intervals = at.dig("performanceAttributes", "intervals")
    named = at.opt("commitmentIds")
    covered = [only] if only and not named else []
    for each in at.need("commitmentIds").items() if not covered else ():
        der_id = ders.get(each.text())
        if der_id is None:
            raise each.refuse("is no commitment of this contract")
        covered.append(der_id)
    if intervals and len(covered) != 1:
        raise intervals.refuse("meter intervals belong to exactly one commitment")
    metered = tuple(_read_interval(each) for each in intervals.items()) if intervals else ()
    for der_id in covered:
        yield DerPerformance(der_id=der_id, status=status, intervals=metered)


def _read_interval(at: At) -> MeterInterval:
    start, end = at.need("start").instant(), at.need("end").instant()
    if start >= end:
        raise at.refuse("end must be after start", "SCH_INVALID_FORMAT")
    return MeterInterval(start=start, end=end, usage_wh=at.need("usageWh").whole())


# --- seller reads ----------------------------------------------------------------------------


def parse_order(message: Mapping[str, Any]) -> tuple[OrderTerms, str | None]:
    """Read an order (select, init, confirm, status, cancel) and the contract id it names.

    Raises:
        BecknRefusal: A member we need is missing or ill-typed.
    """
    contract = At(message).need("contract")
    contract_id = contract.opt("id")
    listed = contract.need("commitments")
    commitments = _read_commitments(listed)
    window = next((each.window for each in commitments if each.window), None)
    if window is None:
        raise next(listed.items()).need("commitmentAttributes").missing("windowStart")
    if len({each.offer_id for each in commitments}) != 1:
        raise listed.refuse("all commitments of an order are of one offer")
    attributes = contract.need("contractAttributes")
    rate, currency = _read_rate(contract.need("consideration"))
    terms = OrderTerms(
        obp_id=attributes.need("obpId").text(),
        event_id=attributes.need("eventId").text(),
        feeder_id=attributes.need("feederId").text(),
        direction=attributes.need("direction").code(Direction),
        offer_id=commitments[0].offer_id,
        provider_id=_read_provider(contract),
        window_start=window[0],
        window_end=window[1],
        lines=tuple(
            OrderLine(der_id=each.line.der_id, der_type=each.kind, kw=each.line.requested_kw)
            for each in commitments
        ),
        price_per_kwh=rate,
        currency=currency,
    )
    return terms, contract_id.text() if contract_id else None


def parse_reference(message: Mapping[str, Any]) -> str | None:
    """Read which contract a request (status, cancel) is about; it repeats the whole order.

    Raises:
        BecknRefusal: A member of the order is missing or ill-typed.
    """
    return parse_order(message)[1]


def parse_update(message: Mapping[str, Any]) -> UpdateAsk:
    """Read a wish to change a contract.

    Raises:
        BecknRefusal: A member we need is missing or ill-typed.
    """
    terms, contract_id = parse_order(message)
    wanted = At(message).dig("contract", "contractAttributes", "requestedTransition")
    ends = wanted is not None and wanted.code(ContractStatus, _CONTRACT_SYNONYMS) is ContractStatus.COMPLETE
    return UpdateAsk(contract_id=contract_id, terms=terms, completes=ends)


def parse_cancel_reason(message: Mapping[str, Any]) -> str | None:
    """Read why a buyer cancels; None where it does not say."""
    reason = At(message).dig("contract", "contractAttributes", "cancelReason")
    return reason.text() if reason else None


def _read_provider(contract: At) -> str:
    """The seller among the participants, or the provider the offer names."""
    participants = contract.opt("participants")
    for each in participants.items() if participants else ():
        code = each.dig("descriptor", "code")
        if code and code.text().upper() == "SELLER":
            return each.need("id").text()
    for commitment in contract.need("commitments").items():
        named = commitment.dig("offer", "provider", "id")
        if named:
            return named.text()
    raise contract.missing("participants", "the provider, with descriptor.code SELLER")


def parse_discover(message: Mapping[str, Any]) -> DiscoverAsk:
    """Read what a buyer looks for.

    Only the comparisons our own builder writes are understood in the filter expression; others
    restrict nothing, and the answer is simply wider than asked.

    Raises:
        BecknRefusal: A member we need is ill-typed.
    """
    intent = At(message).need("intent")
    filters = intent.opt("filters")
    ask: dict[str, Any] = {}
    if filters:
        ask.update(_read_tests(filters.need("expression")))
        wanted = filters.opt("commitmentAttributes")
        if wanted:
            kw = wanted.opt("requestedKw")
            ask["kw"] = kw.number(least=0) if kw else None
            window = _read_window(wanted)
            if window:
                ask["window_start"], ask["window_end"] = window
    spatial = intent.opt("spatial")
    for each in spatial.items() if spatial else ():
        operator = each.opt("op")
        if operator and operator.value == "S_DWITHIN":
            ask["location"] = each.need("geometry").point()
            distance = each.opt("distanceMeters")
            ask["radius_m"] = distance.number(least=0) if distance else None
            break
    return DiscoverAsk(**ask)


def _read_tests(at: At) -> dict[str, Any]:
    tests = jsonpath.read(at.text())
    ask: dict[str, Any] = {}
    if "feederId" in tests.equal:
        ask["feeder_id"] = tests.equal["feederId"]
    if "direction" in tests.equal:
        ask["direction"] = At(tests.equal["direction"], at.path).code(Direction)
    if "capacityKw" in tests.least:
        ask["min_kw"] = tests.least["capacityKw"]
    return ask
