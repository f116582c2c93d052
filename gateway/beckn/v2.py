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

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final, TypeVar

import msgspec

from gateway.clock import rfc3339
from gateway.errors import BecknRefusal
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
_Code = TypeVar("_Code", bound=StrEnum)

_ROOT: Final = "/message"
_GEO_TARGET: Final = "$['availableAt'][*]['geo']"
_KILOWATT_CODES: Final = frozenset({"KWT", "KW"})
_DECIMAL: Final = re.compile(r"[+-]?(\d+(\.\d+)?|\.\d+)", re.ASCII)

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


class DiscoverAsk(msgspec.Struct, frozen=True, kw_only=True):
    """What a buyer looks for, as far as its message says. ``None`` where it does not say."""

    feeder_id: str | None = None
    direction: Direction | None = None
    min_kw: float = 0.0
    """Smallest DER of interest."""
    kw: float | None = None
    """Relief wanted in total."""
    window_start: datetime | None = None
    window_end: datetime | None = None
    location: Location | None = None
    radius_m: float | None = None


# --- attribute packs -------------------------------------------------------------------------


def context_url(pack: str) -> str:
    """Address of the JSON-LD context of an attribute pack, such as ``FlexResource``."""
    return f"{CONTEXT_BASE}/{pack}/v1.0/context.jsonld"


def schema_context(message: Mapping[str, Any]) -> tuple[str, ...]:
    """List the JSON-LD contexts a message uses, for ``context.schemaContext``."""
    found: set[str] = set()
    stack: list[Any] = [message]
    while stack:
        value = stack.pop()
        if isinstance(value, Mapping):
            url = value.get("@context")
            if isinstance(url, str):
                found.add(url)
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)
    return tuple(sorted(found))


def _pack(pack: str, **members: Any) -> dict[str, Any]:
    """Fill an attribute pack, leaving out members that are None."""
    present = {name: value for name, value in members.items() if value is not None}
    return {"@context": context_url(pack), "@type": pack, **present}


def _number(value: float, what: str) -> float | int:
    """Write a finite number; whole ones without a fraction."""
    if not math.isfinite(value):
        raise ValueError(f"{what} must be finite, not {value}")
    return int(value) if float(value).is_integer() and abs(value) < 2**53 else float(value)


def _money(text: str, what: str) -> str:
    if not _DECIMAL.fullmatch(text):
        raise ValueError(f"{what} must be decimal text, not {text!r}")
    return text


def _present(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _geo(location: Location) -> dict[str, Any]:
    """Write a point as GeoJSON, longitude first (RFC 7946)."""
    return {
        "type": "Point",
        "coordinates": [_number(location.longitude, "longitude"), _number(location.latitude, "latitude")],
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
    attributes = "@.resourceAttributes"
    tests = (
        f"{attributes}.feederId=={_quote(need_feeder_id)}",
        f"{attributes}.direction=={_quote(direction.value)}",
        f"{attributes}.capacityKw>={json.dumps(_number(min_kw, 'min_kw'))}",
    )
    wanted = _pack(
        "FlexCommitment",
        requestedKw=_number(kw, "kw"),
        windowStart=rfc3339(window_start),
        windowEnd=rfc3339(window_end),
    )
    intent: dict[str, Any] = {
        "filters": {
            "type": "jsonpath",
            "expression": f"$.catalogs[*].resources[?({' && '.join(tests)})]",
            "commitmentAttributes": wanted,
        }
    }
    if location is not None:
        intent["spatial"] = [
            {
                "op": "S_DWITHIN",
                "targets": _GEO_TARGET,
                "geometry": _geo(location),
                "distanceMeters": _number(radius_m, "radius_m"),
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
    return {"contract": _contract(terms, None, status=ContractStatus.ACTIVE, contract_id=contract_id)}


def cancel_message(terms: OrderTerms, contract_id: str, reason: str) -> Message:
    """Ask to end a contract; the state asked for is CANCELLED, the reason stands in FlexContract."""
    contract = _contract(
        terms, None, status=ContractStatus.CANCELLED, contract_id=contract_id, cancel_reason=reason
    )
    return {"contract": contract}


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
    """Publish offers: one catalogue per provider, one resource per DER.

    Raises:
        ValueError: A DER is described in two ways within one provider's offers.
    """
    by_provider: dict[tuple[str, str, str, str], list[Offer]] = {}
    for offer in offers:
        key = (offer.bpp_id, offer.bpp_uri, offer.provider_id, offer.provider_name)
        by_provider.setdefault(key, []).append(offer)
    return {"catalogs": [_catalog(*key, grouped) for key, grouped in by_provider.items()]}


def _catalog(
    bpp_id: str, bpp_uri: str, provider_id: str, provider_name: str, offers: Sequence[Offer]
) -> dict[str, Any]:
    resources: dict[str, dict[str, Any]] = {}
    places: dict[Location, None] = {}
    for offer in offers:
        for der in offer.ders:
            resource = _resource(der, offer)
            if resources.setdefault(der.der_id, resource) != resource:
                raise ValueError(f"{der.der_id} is described in two ways by offers of {provider_id}")
            if der.location is not None:
                places[der.location] = None
    provider: dict[str, Any] = {"id": provider_id, "descriptor": {"name": provider_name}}
    if places:
        provider["availableAt"] = [{"geo": _geo(place)} for place in places]
    return {
        "id": f"{provider_id}:catalog",
        "descriptor": {"name": f"Demand flexibility of {provider_name}"},
        "bppId": bpp_id,
        "bppUri": bpp_uri,
        "provider": provider,
        "isActive": True,
        "resources": list(resources.values()),
        "offers": [_offer(offer) for offer in offers],
    }


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
            capacityKw=_number(der.capacity_kw, "capacity_kw"),
            responseTimeS=_number(der.response_time_s, "response_time_s"),
            minDurationMin=der.min_duration_min,
            maxDurationMin=der.max_duration_min,
            minKw=_number(der.min_kw, "min_kw") if der.min_kw else None,
            rampKwPerMin=(
                None if der.ramp_kw_per_min is None else _number(der.ramp_kw_per_min, "ramp_kw_per_min")
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
    status: ContractStatus,
    contract_id: str | None = None,
    decline_reason: str | None = None,
    cancel_reason: str | None = None,
) -> dict[str, Any]:
    """Write the contract both sides send; ``view`` adds what the seller said about it."""
    committed = None if view is None else {line.der_id: line.committed_kw for line in view.lines}
    baselines = {} if view is None else {term.der_id: term for term in view.baselines}
    obp_id = (view and view.obp_id) or terms.obp_id
    start = (view and view.window_start) or terms.window_start
    end = (view and view.window_end) or terms.window_end
    rate = (view and view.price_per_kwh) or terms.price_per_kwh
    total = None if view is None else view.total_price
    return {
        **_present(id=contract_id),
        "status": {"code": status.value},
        "commitments": [
            _commitment(
                number,
                line,
                terms,
                status=status,
                committed_kw=None if committed is None else committed.get(line.der_id, 0.0),
                window=(start, end),
                baseline=baselines.get(line.der_id),
            )
            for number, line in enumerate(terms.lines, 1)
        ],
        "consideration": [
            {
                "id": "q1",
                "status": {"code": _PRICE_STATUS[status]},
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
            declineReason=decline_reason,
            cancelReason=cancel_reason,
        ),
    }


def _commitment(
    number: int,
    line: OrderLine,
    terms: OrderTerms,
    *,
    status: ContractStatus,
    committed_kw: float | None,
    window: tuple[datetime, datetime],
    baseline: BaselineTerm | None,
) -> dict[str, Any]:
    asked = _number(line.kw, "kw")
    return {
        "id": f"c{number}",
        "status": {"descriptor": {"code": _COMMITMENT_STATUS[status]}},
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
            committedKw=None if committed_kw is None else _number(committed_kw, "committed_kw"),
            windowStart=rfc3339(window[0]),
            windowEnd=rfc3339(window[1]),
            baseline=(
                None
                if baseline is None
                else {"method": baseline.method.value, "kw": _number(baseline.kw, "baseline kw")}
            ),
        ),
    }


# --- reading ---------------------------------------------------------------------------------


class _At:
    """A value and the JSON pointer where it stands; every read names the place when it fails."""

    __slots__ = ("path", "value")

    def __init__(self, value: Any, path: str = _ROOT) -> None:
        self.value = value
        self.path = path

    def refuse(self, detail: str, code: str = "SCH_SCHEMA_VALIDATION_FAILED") -> BecknRefusal:
        return BecknRefusal(code, f"{self.path}: {detail}", path=self.path)

    def opt(self, name: str) -> "_At | None":
        """The member, or None where it is absent or null."""
        if not isinstance(self.value, dict):
            raise self.refuse("must be an object", "SCH_TYPE_NOT_SUPPORTED")
        value = self.value.get(name)
        return None if value is None else _At(value, f"{self.path}/{_escape(name)}")

    def need(self, name: str) -> "_At":
        found = self.opt(name)
        if found is None:
            raise self.missing(name)
        return found

    def missing(self, name: str) -> BecknRefusal:
        """The refusal for an absent member."""
        absent = _At(None, f"{self.path}/{_escape(name)}")
        return absent.refuse("is missing: send it", "SCH_REQUIRED_FIELD_MISSING")

    def dig(self, *names: str) -> "_At | None":
        """Follow optional members."""
        here: _At | None = self
        for name in names:
            if here is None:
                return None
            here = here.opt(name)
        return here

    def items(self) -> "Iterator[_At]":
        if not isinstance(self.value, list):
            raise self.refuse("must be an array", "SCH_TYPE_NOT_SUPPORTED")
        return (_At(value, f"{self.path}/{index}") for index, value in enumerate(self.value))

    def mapping(self) -> dict[str, Any]:
        if not isinstance(self.value, dict):
            raise self.refuse("must be an object", "SCH_TYPE_NOT_SUPPORTED")
        return self.value

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.refuse("must be a string", "SCH_TYPE_NOT_SUPPORTED")
        if not self.value:
            raise self.refuse("must not be empty", "SCH_INVALID_FORMAT")
        return self.value

    def number(self, *, least: float | None = None) -> float:
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.refuse("must be a JSON number", "SCH_TYPE_NOT_SUPPORTED")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self.refuse("must be a finite number", "SCH_INVALID_FORMAT")
        if least is not None and number < least:
            raise self.refuse(f"must be at least {least:g}", "SCH_INVALID_FORMAT")
        return number

    def whole(self, *, least: int | None = None) -> int:
        number = self.number(least=least)
        if not number.is_integer():
            raise self.refuse("must be a whole number", "SCH_INVALID_FORMAT")
        return int(self.value)

    def money(self) -> str:
        """Decimal text; a JSON number is taken by its shortest decimal form."""
        if isinstance(self.value, int | float) and not isinstance(self.value, bool):
            return f"{Decimal(repr(self.number())):f}"
        text = self.text()
        if not _DECIMAL.fullmatch(text):
            raise self.refuse('must be decimal text such as "0.35"', "SCH_INVALID_FORMAT")
        return text

    def instant(self) -> datetime:
        text = self.text()
        try:
            instant = msgspec.convert(text, datetime)
        except msgspec.ValidationError as exc:
            raise self.refuse("must be an RFC 3339 instant", "SCH_INVALID_FORMAT") from exc
        if instant.tzinfo is None:
            raise self.refuse("must carry a zone, such as Z", "SCH_INVALID_FORMAT")
        return instant.astimezone(UTC)

    def code(self, kind: type[_Code], synonyms: Mapping[str, str] | None = None) -> _Code:
        text = self.text()
        spelled = (synonyms or {}).get(text.upper(), text)
        for member in kind:
            if member.value.upper() == spelled.upper():
                return member
        known = ", ".join(member.value for member in kind)
        raise self.refuse(f"must be one of {known}", "SCH_INVALID_ENUM")

    def point(self) -> Location:
        """A GeoJSON point, longitude first."""
        kind = self.need("type")
        if kind.value != "Point":
            raise kind.refuse("must be Point", "SCH_INVALID_ENUM")
        at = self.need("coordinates")
        pair = [each.number() for each in at.items()]
        if len(pair) < 2 or abs(pair[0]) > 180 or abs(pair[1]) > 90:
            raise at.refuse("must be [longitude, latitude] in degrees", "SCH_INVALID_FORMAT")
        return Location(latitude=pair[1], longitude=pair[0])


def _escape(name: str) -> str:
    """Escape a member name for a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def _flag(at: "_At | None", *, default: bool) -> bool:
    if at is None:
        return default
    if not isinstance(at.value, bool):
        raise at.refuse("must be true or false", "SCH_TYPE_NOT_SUPPORTED")
    return at.value


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
    for catalog in _At(message).need("catalogs").items():
        if _flag(catalog.opt("isActive"), default=True):
            found.extend(_read_catalog(catalog, bpp_id, bpp_uri))
    return tuple(found)


def _read_catalog(catalog: _At, bpp_id: str | None, bpp_uri: str | None) -> Iterator[Offer]:
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


def _read_rate(considerations: _At) -> tuple[str, str]:
    """The energy rate and its currency: of the first consideration that has one."""
    for each in considerations.items():
        attributes = each.opt("considerationAttributes")
        rate = attributes.opt("energyRatePerKwh") if attributes else None
        if attributes and rate:
            return rate.money(), attributes.need("currency").text()
    raise considerations.refuse(
        "needs an entry with considerationAttributes.energyRatePerKwh", "SCH_REQUIRED_FIELD_MISSING"
    )


def _read_der(resource: _At, provider_id: str, rate: str, currency: str, common: Mapping[str, Any]) -> Der:
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


def _read_der_type(at: _At | None) -> DerType:
    """A kind of DER we do not know is OTHER: it is described by its numbers all the same."""
    if at is None:
        return DerType.OTHER
    text = at.text().upper()
    return next((kind for kind in DerType if kind.value.upper() == text), DerType.OTHER)


def parse_contract(message: Mapping[str, Any]) -> ContractView:
    """Read what a seller says about a contract.

    A commitment without ``committedKw`` accepts what was asked. A contract without status is a
    DRAFT; a performance without status is SCHEDULED.

    Raises:
        BecknRefusal: A member we need is missing or ill-typed.
    """
    contract = _At(message).need("contract")
    contract_id = contract.opt("id")
    status = contract.dig("status", "code")
    attributes = contract.opt("contractAttributes")
    obp_id = attributes.opt("obpId") if attributes else None
    reason = attributes.opt("declineReason") if attributes else None
    commitments = _Commitments.read(contract.need("commitments"))
    price = _read_price(contract.opt("consideration"))
    performance = contract.opt("performance")
    reports: list[DerPerformance] = []
    for each in performance.items() if performance else ():
        reports.extend(_read_performance(each, commitments.der_by_id))
    return ContractView(
        contract_id=contract_id.text() if contract_id else None,
        status=status.code(ContractStatus, _CONTRACT_SYNONYMS) if status else ContractStatus.DRAFT,
        obp_id=obp_id.text() if obp_id else None,
        lines=commitments.lines,
        window_start=commitments.window[0] if commitments.window else None,
        window_end=commitments.window[1] if commitments.window else None,
        price_per_kwh=price.rate,
        currency=price.currency,
        total_price=price.total,
        baselines=commitments.baselines,
        performance=tuple(reports),
        decline_reason=reason.text() if reason else None,
    )


class _Price(msgspec.Struct, frozen=True):
    rate: str | None = None
    total: str | None = None
    currency: str | None = None


def _read_price(consideration: _At | None) -> _Price:
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


class _Commitments(msgspec.Struct, frozen=True):
    """The commitments of one contract, one DER each, all over one window."""

    lines: tuple[CommittedLine, ...]
    kinds: tuple[DerType, ...]
    offer_ids: tuple[str, ...]
    window: tuple[datetime, datetime] | None
    baselines: tuple[BaselineTerm, ...]
    der_by_id: dict[str, str]

    @classmethod
    def read(cls, commitments: _At) -> "_Commitments":
        lines: list[CommittedLine] = []
        kinds: list[DerType] = []
        offers: list[str] = []
        baselines: list[BaselineTerm] = []
        window: tuple[datetime, datetime] | None = None
        ders: dict[str, str] = {}
        for commitment in commitments.items():
            resource = _only_resource(commitment)
            der_id = resource.need("id").text()
            if any(line.der_id == der_id for line in lines):
                raise resource.refuse(f"{der_id} is committed twice")
            attributes = commitment.opt("commitmentAttributes")
            asked = _read_asked(resource, attributes)
            given = attributes.opt("committedKw") if attributes else None
            committed_kw = given.number(least=0) if given else asked
            lines.append(CommittedLine(der_id=der_id, requested_kw=asked, committed_kw=committed_kw))
            kinds.append(_read_der_type(resource.dig("resourceAttributes", "derType")))
            offers.append(commitment.need("offer").need("id").text())
            commitment_id = commitment.opt("id")
            if commitment_id and ders.setdefault(commitment_id.text(), der_id) != der_id:
                raise commitment_id.refuse("stands for two commitments")
            if attributes is None:
                continue
            stated = _read_window(attributes)
            if stated and window and stated != window:
                raise attributes.refuse("all commitments of an order share one window")
            window = window or stated
            baseline = attributes.opt("baseline")
            if baseline:
                baselines.append(
                    BaselineTerm(
                        der_id=der_id,
                        method=baseline.need("method").code(BaselineMethod),
                        kw=baseline.need("kw").number(),
                    )
                )
        if not lines:
            raise commitments.refuse("needs at least one commitment", "SCH_REQUIRED_FIELD_MISSING")
        return cls(tuple(lines), tuple(kinds), tuple(offers), window, tuple(baselines), ders)


def _only_resource(commitment: _At) -> _At:
    resources = commitment.need("resources")
    found = list(resources.items())
    if len(found) != 1:
        raise resources.refuse("must hold exactly one DER: send one commitment per DER")
    return found[0]


def _read_asked(resource: _At, attributes: _At | None) -> float:
    requested = attributes.opt("requestedKw") if attributes else None
    if requested:
        return requested.number(least=0)
    quantity = resource.need("quantity")
    unit = quantity.need("unitCode")
    if unit.text().upper() not in _KILOWATT_CODES:
        raise unit.refuse(f"must be {KILOWATT} (kilowatt)", "SCH_INVALID_ENUM")
    return quantity.need("unitQuantity").number(least=0)


def _read_window(attributes: _At) -> tuple[datetime, datetime] | None:
    if attributes.opt("windowStart") is None and attributes.opt("windowEnd") is None:
        return None
    start, end = attributes.need("windowStart"), attributes.need("windowEnd")
    window = (start.instant(), end.instant())
    if window[0] >= window[1]:
        raise end.refuse("must be after windowStart", "SCH_INVALID_FORMAT")
    return window


def _read_performance(report: _At, ders: Mapping[str, str]) -> Iterator[DerPerformance]:
    code = report.dig("status", "code")
    status = code.code(PerformanceStatus, _PERFORMANCE_SYNONYMS) if code else PerformanceStatus.SCHEDULED
    intervals = report.dig("performanceAttributes", "intervals")
    named = report.opt("commitmentIds")
    covered: list[str] = []
    for each in named.items() if named else ():
        committed = ders.get(each.text())
        if committed is None:
            raise each.refuse("is no commitment of this contract")
        covered.append(committed)
    if named is None:
        if len(ders) != 1:
            raise report.missing("commitmentIds")
        covered = list(ders.values())
    if intervals and len(covered) != 1:
        raise intervals.refuse("meter intervals belong to exactly one commitment")
    metered = tuple(_read_interval(each) for each in intervals.items()) if intervals else ()
    for der_id in covered:
        yield DerPerformance(der_id=der_id, status=status, intervals=metered)


def _read_interval(at: _At) -> MeterInterval:
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
    contract = _At(message).need("contract")
    contract_id = contract.opt("id")
    listed = contract.need("commitments")
    commitments = _Commitments.read(listed)
    if commitments.window is None:
        raise next(iter(listed.items())).need("commitmentAttributes").missing("windowStart")
    if len(set(commitments.offer_ids)) != 1:
        raise listed.refuse("all commitments of an order are of one offer")
    attributes = contract.need("contractAttributes")
    rate, currency = _read_rate(contract.need("consideration"))
    terms = OrderTerms(
        obp_id=attributes.need("obpId").text(),
        event_id=attributes.need("eventId").text(),
        feeder_id=attributes.need("feederId").text(),
        direction=attributes.need("direction").code(Direction),
        offer_id=commitments.offer_ids[0],
        provider_id=_read_provider(contract),
        window_start=commitments.window[0],
        window_end=commitments.window[1],
        lines=tuple(
            OrderLine(der_id=line.der_id, der_type=kind, kw=line.requested_kw)
            for line, kind in zip(commitments.lines, commitments.kinds, strict=True)
        ),
        price_per_kwh=rate,
        currency=currency,
    )
    return terms, contract_id.text() if contract_id else None


def parse_cancel_reason(message: Mapping[str, Any]) -> str | None:
    """Read why a buyer cancels; None where it does not say."""
    reason = _At(message).dig("contract", "contractAttributes", "cancelReason")
    return reason.text() if reason else None


def _read_provider(contract: _At) -> str:
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
    raise _At(None, f"{contract.path}/participants").refuse(
        "needs the provider, with descriptor.code SELLER", "SCH_REQUIRED_FIELD_MISSING"
    )


_STRING: Final = r"""(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_MEMBER_END: Final = r"""(?:['"]\])?\s*"""
_FEEDER_TEST: Final = re.compile(rf"\bfeederId{_MEMBER_END}==\s*{_STRING}")
_DIRECTION_TEST: Final = re.compile(rf"\bdirection{_MEMBER_END}==\s*{_STRING}")
_CAPACITY_TEST: Final = re.compile(
    rf"\bcapacityKw{_MEMBER_END}>=?\s*(?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"
)


def parse_discover(message: Mapping[str, Any]) -> DiscoverAsk:
    """Read what a buyer looks for.

    Only the comparisons our own builder writes are understood in the filter expression; others
    restrict nothing, and the answer is simply wider than asked.

    Raises:
        BecknRefusal: A member we need is ill-typed.
    """
    intent = _At(message).need("intent")
    filters = intent.opt("filters")
    ask: dict[str, Any] = {}
    if filters:
        ask.update(_read_expression(filters.need("expression")))
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


def _read_expression(at: _At) -> dict[str, Any]:
    expression = at.text()
    ask: dict[str, Any] = {}
    feeder = _FEEDER_TEST.search(expression)
    if feeder:
        ask["feeder_id"] = _unquote(feeder["text"])
    direction = _DIRECTION_TEST.search(expression)
    if direction:
        ask["direction"] = _At(_unquote(direction["text"]), at.path).code(Direction)
    capacity = _CAPACITY_TEST.search(expression)
    if capacity:
        ask["min_kw"] = float(capacity["number"])
    return ask


def _quote(text: str) -> str:
    """Write a JSONPath string literal in single quotes (RFC 9535, section 2.3.1.1)."""
    inner = json.dumps(text, ensure_ascii=False)[1:-1].replace('\\"', '"').replace("'", "\\'")
    return f"'{inner}'"


def _unquote(literal: str) -> str:
    """Read a JSONPath string literal in either kind of quotes; text as it stands if it is broken."""
    inner = re.sub(
        r"""\\.|["]""", lambda m: {"\\'": "'", '"': '\\"'}.get(m[0], m[0]), literal[1:-1], flags=re.DOTALL
    )
    try:
        return str(json.loads(f'"{inner}"', strict=False))
    except ValueError:
        return literal[1:-1]
