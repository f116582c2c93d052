"""Track, rating and support in v1.1 messages: what happens beside an order.

Source: Beckn v1.1.1 (Tracking, Rating, Support, XInput).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.beckn import v1
from gateway.beckn.model import Rating, RatingReply, RatingSubject, Support, TrackAsk, Tracking
from gateway.beckn.reader import At
from gateway.types import OrderTerms

Message = dict[str, Any]

_SUPPORT: Final = (
    ("ref_id", "contract_id"),
    ("callback_phone", "callback_phone"),
    ("phone", "phone"),
    ("email", "email"),
    ("url", "url"),
)
"""Place on the wire, place in the model."""


def track_message(_terms: OrderTerms, contract_id: str, callback_url: str) -> Message:
    """Ask to follow a delivery."""
    return {"order_id": contract_id, "callback_url": callback_url}


def parse_track(message: Mapping[str, Any]) -> TrackAsk:
    """Read a wish to follow a delivery."""
    callback_url = At(message).opt("callback_url")
    return TrackAsk(
        contract_id=v1.parse_reference(message), callback_url=callback_url.text() if callback_url else None
    )


def on_track_message(_terms: OrderTerms, tracking: Tracking) -> Message:
    """Say where a delivery can be followed; ``id`` is the order's here."""
    spelled = {"url": tracking.url, "status": "active" if tracking.active else "inactive"}
    if tracking.contract_id is not None:
        spelled["id"] = tracking.contract_id
    return {"tracking": spelled}


def parse_on_track(message: Mapping[str, Any]) -> Tracking:
    """Read where a delivery can be followed."""
    at = At(message).need("tracking")
    contract_id = at.opt("id")
    return Tracking(
        url=at.need("url").text(),
        active=at.need("status").text().upper() == "ACTIVE",
        contract_id=contract_id.text() if contract_id else None,
    )


def rate_message(ratings: Sequence[Rating]) -> Message:
    """Rate orders, DERs or sellers (``rating``)."""
    return {
        "ratings": [
            {
                "rating_category": each.subject.value.capitalize(),
                "id": each.subject_id,
                "value": v1.decimal(each.value, "rating"),
            }
            for each in ratings
        ]
    }


def parse_rate(message: Mapping[str, Any]) -> tuple[Rating, ...]:
    """Read ratings."""
    listed = At(message).opt("ratings")
    return tuple(
        Rating(
            subject=each.need("rating_category").code(RatingSubject),
            subject_id=each.need("id").text(),
            value=each.need("value").decimal(),
        )
        for each in (listed.items() if listed else ())
    )


def on_rate_message(reply: RatingReply) -> Message:
    """Thank for ratings, with a form where there are further questions (``on_rating``)."""
    return {} if reply.form_url is None else {"feedback_form": {"form": {"url": reply.form_url}}}


def parse_on_rate(message: Mapping[str, Any]) -> RatingReply:
    """Read whether a seller has further questions."""
    url = At(message).dig("feedback_form", "form", "url")
    return RatingReply(form_url=url.text() if url else None)


def support_message(ask: Support) -> Message:
    """Ask for help with an order."""
    return {"support": _support(ask)}


def on_support_message(support: Support) -> Message:
    """Say whom to ask."""
    return {"support": _support(support)}


def parse_support(message: Mapping[str, Any]) -> Support:
    """Read a request for help, or whom to ask."""
    at = At(message).opt("support")
    found = {}
    for place, name in _SUPPORT:
        value = at.opt(place) if at else None
        if value is not None:
            found[name] = value.text()
    return Support(**found)


def _support(support: Support) -> Message:
    spelled = {place: getattr(support, name) for place, name in _SUPPORT}
    return {place: value for place, value in spelled.items() if value is not None}
