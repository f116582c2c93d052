"""Track, rate and support in v2.0.0 messages: what happens beside an order.

Source: Beckn v2.0.0 LTS (Tracking, RatingInput, Support). Contacts are ``ContactPoint`` of schema.org,
because the core leaves a support channel open.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.beckn import v2
from gateway.beckn.model import Rating, RatingReply, RatingSubject, Support, TrackAsk, Tracking
from gateway.beckn.reader import At
from gateway.types import OrderTerms

CONTACT_CONTEXT: Final = "https://schema.org/docs/jsonldcontext.jsonld"
_CALL_BACK: Final = "call back"

Message = dict[str, Any]


def track_message(terms: OrderTerms, contract_id: str, callback_url: str) -> Message:
    """Ask to follow a delivery. v2.0.0 requires an address and a status in the request already."""
    contract = v2.status_message(terms, contract_id)["contract"]
    return {"tracking": {"url": callback_url, "status": "ACTIVE", "contract": contract}}


def parse_track(message: Mapping[str, Any]) -> TrackAsk:
    """Read a wish to follow a delivery."""
    at = At(message).need("tracking")
    contract_id = at.dig("contract", "id")
    return TrackAsk(
        contract_id=contract_id.text() if contract_id else None, callback_url=at.need("url").text()
    )


def on_track_message(terms: OrderTerms, tracking: Tracking) -> Message:
    """Say where a delivery can be followed."""
    spelled: Message = {"url": tracking.url, "status": "ACTIVE" if tracking.active else "INACTIVE"}
    if tracking.contract_id is not None:
        spelled["contract"] = v2.status_message(terms, tracking.contract_id)["contract"]
    return {"tracking": spelled}


def parse_on_track(message: Mapping[str, Any]) -> Tracking:
    """Read where a delivery can be followed."""
    at = At(message).need("tracking")
    contract_id = at.dig("contract", "id")
    return Tracking(
        url=at.need("url").text(),
        active=at.need("status").text().upper() == "ACTIVE",
        contract_id=contract_id.text() if contract_id else None,
    )


def rate_message(ratings: Sequence[Rating]) -> Message:
    """Rate orders, DERs or sellers."""
    return {"ratingInputs": [_rating(each) for each in ratings]}


def parse_rate(message: Mapping[str, Any]) -> tuple[Rating, ...]:
    """Read ratings."""
    return tuple(_read_rating(each) for each in At(message).need("ratingInputs").items())


def on_rate_message(reply: RatingReply) -> Message:
    """Repeat the ratings taken; v2.0.0 has no place for a form without them."""
    return {"ratings": [_rating(each) for each in reply.ratings]}


def parse_on_rate(message: Mapping[str, Any]) -> RatingReply:
    """Read which ratings were taken."""
    return RatingReply(ratings=tuple(_read_rating(each) for each in At(message).need("ratings").items()))


def support_message(ask: Support) -> Message:
    """Ask for help with a contract."""
    return {"support": _support(ask)}


def on_support_message(support: Support) -> Message:
    """Say whom to ask."""
    return {"support": _support(support)}


def parse_support(message: Mapping[str, Any]) -> Support:
    """Read a request for help, or whom to ask."""
    at = At(message).need("support")
    contract_id = at.opt("orderId")
    found: dict[str, str] = {}
    listed = at.opt("channels")
    for channel in listed.items() if listed else ():
        kind = channel.opt("contactType")
        back = kind is not None and kind.value == _CALL_BACK
        for name, place in (("phone", "telephone"), ("email", "email"), ("url", "url")):
            value = channel.opt(place)
            if value is not None:
                found.setdefault("callback_phone" if back and name == "phone" else name, value.text())
    return Support(contract_id=contract_id.text() if contract_id else None, **found)


def _support(support: Support) -> Message:
    spelled: Message = {} if support.contract_id is None else {"orderId": support.contract_id}
    contact = {"telephone": support.phone, "email": support.email, "url": support.url}
    channels = [_channel(contact)] if any(contact.values()) else []
    if support.callback_phone is not None:
        channels.append(_channel({"contactType": _CALL_BACK, "telephone": support.callback_phone}))
    return spelled | ({"channels": channels} if channels else {})


def _channel(members: Mapping[str, str | None]) -> Message:
    present = {name: value for name, value in members.items() if value is not None}
    return {"@context": CONTACT_CONTEXT, "@type": "ContactPoint", **present}


def _rating(rating: Rating) -> Message:
    target = {"id": rating.subject_id, "descriptor": {"code": rating.subject.value}}
    return {"target": target, "range": {"value": v2.wire_number(rating.value, "rating")}}


def _read_rating(at: At) -> Rating:
    target = at.need("target")
    code = target.dig("descriptor", "code")
    return Rating(
        subject=code.code(RatingSubject) if code else RatingSubject.ORDER,
        subject_id=target.need("id").text(),
        value=at.need("range").need("value").number(),
    )
