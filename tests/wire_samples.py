"""Sample values and messages of the v2 wire, and small changes of them.

``full_documents`` holds one valid message per action that uses every member the schemas know, so that
changing each place in turn meets every rule.
"""

import copy
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from gateway.beckn import v2
from gateway.beckn.envelope import Context
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

CONTRACT_ID = "550e8400-e29b-41d4-a716-446655440000"
START = datetime(2026, 1, 5, 17, tzinfo=UTC)
END = START + timedelta(hours=1)


def sample_terms() -> OrderTerms:
    return OrderTerms(
        obp_id="OBP-2026-000123",
        event_id="EVT-1",
        feeder_id="FDR_001",
        direction=Direction.REDUCE,
        offer_id="offer-1",
        provider_id="agg1",
        window_start=START,
        window_end=END,
        lines=(
            OrderLine(der_id="der:agg1:1", der_type=DerType.BATTERY, kw=50.0),
            OrderLine(der_id="der:agg1:2", der_type=DerType.EV, kw=7.2),
        ),
        price_per_kwh="0.35",
        currency="GBP",
    )


def sample_view(status: ContractStatus = ContractStatus.COMPLETE) -> ContractView:
    return ContractView(
        contract_id=CONTRACT_ID,
        status=status,
        obp_id="OBP-2026-000123",
        lines=(
            CommittedLine(der_id="der:agg1:1", requested_kw=50.0, committed_kw=45.0),
            CommittedLine(der_id="der:agg1:2", requested_kw=7.2, committed_kw=7.2),
        ),
        window_start=START,
        window_end=END,
        price_per_kwh="0.35",
        currency="GBP",
        total_price="18.27",
        baselines=(BaselineTerm(der_id="der:agg1:1", method=BaselineMethod.NOMINATED, kw=-3.5),),
        performance=(
            DerPerformance(
                der_id="der:agg1:1",
                status=PerformanceStatus.COMPLETED,
                intervals=(MeterInterval(start=START, end=END, usage_wh=-44_100),),
            ),
        ),
        decline_reason=None,
    )


def sample_offer() -> Offer:
    def der(number: int, **changes: Any) -> Der:
        return Der(
            der_id=f"der:agg1:{number}",
            aggregator_id="agg1",
            type=DerType.BATTERY,
            feeder_id="FDR_001",
            direction=Direction.REDUCE,
            capacity_kw=50.0,
            response_time_s=30.0,
            min_duration_min=15,
            max_duration_min=120,
            price_per_kwh=changes.pop("price_per_kwh", "0.35"),
            **changes,
        )

    return Offer(
        offer_id="offer-1",
        bpp_id="bpp-alpha.example",
        bpp_uri="https://bpp-alpha.example/beckn",
        provider_id="agg1",
        provider_name="Aggregator one",
        ders=(
            der(1, location=Location(latitude=51.5, longitude=-0.12), meter_ids=("m1", "m2")),
            der(
                2,
                price_per_kwh="0.40",
                currency="EUR",
                min_kw=2.5,
                ramp_kw_per_min=10.0,
                constraints={"minNoticeS": 300, "excludedPeriods": []},
                crypto_proof={"type": "did", "proof": "abc"},
            ),
        ),
        price_per_kwh="0.35",
        currency="GBP",
        valid_from=START - timedelta(days=1),
        valid_until=END + timedelta(days=1),
    )


def document(action: str, message: dict[str, Any]) -> dict[str, Any]:
    """A message as it stands on the wire, after one trip through JSON."""
    context = Context(
        action=action,
        bap_id="bap.fluxeon.example",
        bap_uri="https://bap.fluxeon.example/beckn",
        bpp_id="bpp-alpha.example",
        bpp_uri="https://bpp-alpha.example/beckn",
        transaction_id="11111111-1111-4111-8111-111111111111",
        message_id="22222222-2222-4222-8222-222222222222",
        timestamp=datetime(2026, 1, 1, tzinfo=UTC),
        schema_context=v2.schema_context(message),
    )
    decoded: dict[str, Any] = json.loads(json.dumps({"context": context.wire(), "message": message}))
    return decoded


def built_documents() -> dict[str, list[dict[str, Any]]]:
    """Every kind of message the translator builds, by action."""
    terms, offer = sample_terms(), sample_offer()
    place = Location(latitude=51.5, longitude=-0.12)
    built: dict[str, list[dict[str, Any]]] = {
        "discover": [
            v2.discover_message("FDR_001", Direction.REDUCE, 60.0, START, END, where)
            for where in (None, place)
        ],
        "on_discover": [v2.on_discover_message(offers) for offers in ((), (offer,))],
        "select": [v2.select_message(terms)],
        "init": [v2.init_message(terms, sample_view(ContractStatus.DRAFT))],
        "confirm": [v2.confirm_message(terms, sample_view(ContractStatus.DRAFT))],
        "status": [v2.status_message(terms, CONTRACT_ID)],
        "cancel": [v2.cancel_message(terms, CONTRACT_ID, "feeder relieved")],
    }
    for action in ("on_select", "on_init", "on_confirm", "on_status", "on_cancel", "on_update"):
        built[action] = [v2.contract_message(terms, sample_view(status)) for status in ContractStatus]
    return {action: [document(action, each) for each in messages] for action, messages in built.items()}


def full_documents() -> dict[str, dict[str, Any]]:
    """One valid message per action, using every member the schemas know."""
    uri, uuid, instant = "https://x.example/y", CONTRACT_ID, "2026-01-05T17:00:00Z"
    bag = {"@context": uri, "@type": "FlexThing", "more": [1, None, {"deep": True}]}
    link = {
        "label": "terms",
        "url": uri,
        "mimeType": "application/pdf",
        "standard": "vc",
        "security": {
            "checksum": "00",
            "checksumAlgorithm": "SHA256",
            "signature": "s",
            "signatureAlgorithm": "Ed25519",
            "keyId": "k",
        },
    }
    words = {
        "code": "CODE",
        "name": "Name",
        "shortDesc": "short",
        "longDesc": "long",
        "thumbnailImage": uri,
        "docs": [link],
        "mediaFile": [{"label": "l", "mimeType": "image/png", "uri": uri}],
    }
    point = {"type": "Point", "coordinates": [-0.12, 51.5], "bbox": [-1, 50, 1, 52]}
    gathered = {"type": "GeometryCollection", "geometries": [point]}
    address = {
        "streetAddress": "1 High Street",
        "extendedAddress": "Flat 2",
        "addressLocality": "Leeds",
        "addressRegion": "Yorkshire",
        "postalCode": "LS1",
        "addressCountry": "GB",
    }
    provider = {
        "id": "agg1",
        "descriptor": words,
        "availableAt": [{"geo": point, "address": address}, {"geo": gathered}],
        "providerAttributes": bag,
    }
    period = {"startDate": instant, "endDate": instant, "startTime": "08:00:00Z", "endTime": "18:00:00Z"}
    hours = {"startTime": "08:00:00Z", "endTime": "18:00:00Z"}
    resource = {"id": "r1", "descriptor": words, "resourceAttributes": bag}
    price = {"id": "q1", "status": {"code": "PROPOSED"}, "considerationAttributes": bag}
    # An add-on has to fail as one of the two open shapes to be the other.
    addon = {"id": "a1", "validity": "not a period", "resourceAttributes": bag}
    offer = {
        "id": "o1",
        "descriptor": words,
        "provider": provider,
        "resourceIds": ["r1"],
        "addOns": [addon],
        "considerations": [price],
        "validity": period,
        "availableTo": [{"type": "NETWORK", "id": "n"}],
        "offerAttributes": bag,
    }
    contract = {
        "id": uuid,
        "descriptor": words,
        "status": {"code": "ACTIVE", "name": "active"},
        "commitments": [
            {
                "id": "c1",
                "status": {"descriptor": {"code": "ACTIVE"}},
                "resources": [{**resource, "quantity": {"unitQuantity": 50, "unitCode": "KWT"}}],
                "offer": offer,
                "commitmentAttributes": bag,
            }
        ],
        "consideration": [price],
        "participants": [{"id": "agg1", "descriptor": words, "participantAttributes": bag}],
        "performance": [
            {
                "id": "p1",
                "status": {"code": "ANY_CODE"},
                "commitmentIds": ["c1"],
                "performanceAttributes": bag,
            }
        ],
        "settlements": [
            {"id": "s1", "considerationId": "q1", "status": "COMMITTED", "settlementAttributes": bag}
        ],
        "contractAttributes": bag,
    }
    catalog = {
        "id": "cat1",
        "descriptor": words,
        "provider": provider,
        "bppId": "bpp",
        "bppUri": uri,
        "isActive": True,
        "validity": hours,
        "resources": [resource],
        "offers": [offer],
        "publishDirectives": {
            "catalogType": "master",
            "updateMode": "FULL",
            "resourceDirectives": [{"resourceId": "r1", "extends": {"masterResourceId": "m1"}}],
        },
    }
    goals = ["visual-similarity", "text-from-audio"]
    intent = {
        "textSearch": "text",
        "filters": {"type": "jsonpath", "expression": "$", "more": 1},
        "spatial": [
            {
                "op": "S_DWITHIN",
                "targets": ["$.geo"],
                "geometry": point,
                "distanceMeters": 10.5,
                "quantifier": "ANY",
                "srid": "EPSG:4326",
            },
            {"op": "S_WITHIN", "targets": "$.geo"},
        ],
        "mediaSearch": {
            "media": [
                {
                    "id": "m",
                    "type": "image",
                    "url": uri,
                    "contentType": "image/png",
                    "textHint": "t",
                    "language": "en",
                    "startMs": 0,
                    "endMs": 10,
                }
            ],
            "options": {
                "goals": goals,
                "augment_text_search": True,
                "restrict_results_to_media_proximity": False,
            },
        },
    }
    tracking = {"url": uri, "status": "ACTIVE", "contract": contract, "trackingAttributes": bag}
    support = {"orderId": "o", "descriptor": words, "channels": [bag]}
    rating = {
        "target": {"id": "t", "descriptor": words, "targetAttributes": bag},
        "range": {"value": 5},
        "feedbackFormSubmission": {
            "id": uri,
            "submissionId": uuid,
            "data": {"question": "answer"},
            "submittedAt": instant,
        },
    }
    messages: dict[str, dict[str, Any]] = {
        "discover": {"intent": intent, "textSearch": "t", "text_search": "t"},
        "on_discover": {"catalogs": [catalog]},
        "track": {"tracking": tracking},
        "on_track": {"tracking": tracking},
        "rate": {"ratingInputs": [rating]},
        "on_rate": {"ratings": [rating]},
        "support": {"support": support},
        "on_support": {"support": support},
    }
    for action in ("select", "init", "confirm", "status", "update", "cancel"):
        messages[action] = messages[f"on_{action}"] = {"contract": contract}
    documents = {action: document(action, message) for action, message in messages.items()}
    for each in documents.values():
        each["context"] |= {
            "networkId": "net/reg",
            "domain": "deg",
            "location": {"city": {"code": "std:080"}, "country": {"code": "GBR"}},
            "key": "k",
            "requestDigest": {"digest": "BLAKE-512=" + "A" * 86 + "=="},
            "unknown": {"any": "thing"},
        }
    return documents


REPLACEMENTS: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2.5,
    "",
    "some text",
    CONTRACT_ID,
    "2026-01-05T17:00:00Z",
    "ACTIVE",
    [],
    {},
    [{}],
)


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Paths of a value and of everything inside it."""
    yield path
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from places(inner, (*path, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*path, index))


def mutations(original: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Change one place at a time; each change is undone before the next, so copy to keep one.

    Yields:
        What was changed, and the changed document.
    """
    for path in places(copy.deepcopy(original)):
        yield from _at(original, path)


def _at(root: dict[str, Any], path: tuple[str | int, ...]) -> Iterator[tuple[str, Any]]:
    if not path:
        yield from ((f"root={each!r}", each) for each in REPLACEMENTS)
        return
    parent: Any = root
    for part in path[:-1]:
        parent = parent[part]
    last, value = path[-1], parent[path[-1]]
    where = "/".join(map(str, path))
    if isinstance(parent, dict):
        members = dict(parent)
        del parent[last]
        yield f"{where} removed", root
        parent[f"{last}X"] = value
        yield f"{where} renamed", root
        parent.clear()
        parent.update(members)
    replacements = list(REPLACEMENTS)
    if isinstance(value, str):
        replacements += [value + "x", value.lower(), value + "\n", " " + value]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        replacements += [str(value), -value - 1, value + 0.5]
    elif isinstance(value, list):
        replacements += [[*value, None], value * 2, [*value, "text"], value[1:]]
    elif isinstance(value, dict):
        replacements += [{**value, "stray": 1}, {**value, "order": {}}, [value]]
    for each in replacements:
        parent[last] = each
        yield f"{where}={each!r:.80}", root
    parent[last] = value


# --- hypothesis -------------------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
decimals = st.decimals(min_value=-1000, max_value=1000, places=4, allow_nan=False).map(
    lambda value: f"{value:f}"
)
powers = st.floats(min_value=0, max_value=1e6, allow_nan=False)
signed = st.floats(min_value=-1e6, max_value=1e6, allow_nan=False)
instants = st.integers(946_684_800_000, 4_070_908_800_000).map(
    lambda ms: datetime.fromtimestamp(ms // 1000, UTC) + timedelta(milliseconds=ms % 1000)
)
locations = st.builds(
    Location,
    latitude=st.floats(min_value=-90, max_value=90),
    longitude=st.floats(min_value=-180, max_value=180),
)
windows = st.tuples(instants, st.integers(1, 96)).map(lambda w: (w[0], w[0] + timedelta(minutes=15 * w[1])))


@st.composite
def order_terms(draw: st.DrawFn) -> OrderTerms:
    ders = draw(st.lists(texts, min_size=1, max_size=5, unique=True))
    start, end = draw(windows)
    return OrderTerms(
        obp_id=draw(texts),
        event_id=draw(texts),
        feeder_id=draw(texts),
        direction=draw(st.sampled_from(Direction)),
        offer_id=draw(texts),
        provider_id=draw(texts),
        window_start=start,
        window_end=end,
        lines=tuple(
            OrderLine(der_id=der, der_type=draw(st.sampled_from(DerType)), kw=draw(powers)) for der in ders
        ),
        price_per_kwh=draw(decimals),
        currency=draw(st.sampled_from(["GBP", "EUR", "INR"])),
    )


@st.composite
def contract_views(draw: st.DrawFn, terms: OrderTerms) -> ContractView:
    """A view a seller may have of an order: every line answered, each DER reported at most once."""
    baselines = [
        BaselineTerm(der_id=line.der_id, method=draw(st.sampled_from(BaselineMethod)), kw=draw(signed))
        for line in terms.lines
        if draw(st.booleans())
    ]
    reports = [
        DerPerformance(
            der_id=line.der_id,
            status=draw(st.sampled_from(PerformanceStatus)),
            intervals=tuple(
                MeterInterval(start=start, end=end, usage_wh=draw(st.integers(-(10**9), 10**9)))
                for start, end in draw(st.lists(windows, max_size=3))
            ),
        )
        for line in terms.lines
        if draw(st.booleans())
    ]
    return ContractView(
        contract_id=draw(st.none() | st.uuids().map(str)),
        status=draw(st.sampled_from(ContractStatus)),
        obp_id=draw(texts),
        lines=tuple(
            CommittedLine(der_id=line.der_id, requested_kw=line.kw, committed_kw=draw(powers))
            for line in terms.lines
        ),
        window_start=terms.window_start,
        window_end=terms.window_end,
        price_per_kwh=draw(decimals),
        currency=draw(st.sampled_from(["GBP", "EUR", "INR"])),
        total_price=draw(st.none() | decimals),
        baselines=tuple(baselines),
        performance=tuple(reports),
        decline_reason=draw(st.none() | texts),
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)


@st.composite
def offer_lists(draw: st.DrawFn) -> list[Offer]:
    """Offers of some providers; offers may share DERs and describe them differently."""
    der_ids = draw(st.lists(texts, max_size=4, unique=True))
    offers = []
    for number in range(draw(st.integers(0, 3))):
        provider = draw(st.sampled_from(["agg1", "agg2"]))
        ders = tuple(
            Der(
                der_id=der_id,
                aggregator_id=draw(texts),
                type=draw(st.sampled_from(DerType)),
                feeder_id=draw(texts),
                direction=draw(st.sampled_from(Direction)),
                capacity_kw=draw(powers),
                response_time_s=draw(powers),
                min_duration_min=draw(st.integers(0, 600)),
                max_duration_min=draw(st.integers(0, 600)),
                price_per_kwh=draw(decimals),
                currency=draw(st.sampled_from(["GBP", "EUR"])),
                min_kw=draw(powers),
                ramp_kw_per_min=draw(st.none() | powers),
                location=draw(st.none() | locations),
                meter_ids=tuple(draw(st.lists(texts, max_size=2))),
                constraints=draw(st.dictionaries(texts, json_values, max_size=2)),
                crypto_proof=draw(st.none() | st.dictionaries(texts, json_values, max_size=2)),
            )
            for der_id in der_ids
            if draw(st.booleans())
        )
        offers.append(
            Offer(
                offer_id=f"offer-{number}",
                bpp_id="bpp-alpha.example",
                bpp_uri="https://bpp-alpha.example/beckn",
                provider_id=provider,
                provider_name=f"Name of {provider}",
                ders=ders,
                price_per_kwh=draw(decimals),
                currency=draw(st.sampled_from(["GBP", "EUR"])),
                valid_from=draw(st.none() | instants),
                valid_until=draw(st.none() | instants),
            )
        )
    return offers
