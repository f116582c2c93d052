"""What an answer or a callback must be. Every check raises Mismatch, saying both sides."""

from collections.abc import Iterable

from fluxeon.conformance.station import Arrival
from fluxeon.conformance.transport import Reply
from fluxeon.conformance.verdict import Mismatch
from gateway.beckn.envelope import Answer, AnswerKind, parse_answer

NOT_SERVER_FAULT = "a refusal with a 4xx status"


def said(reply: Reply) -> Answer:
    """Read an answer in any of the shapes in use."""
    return parse_answer(reply.status, reply.body)


def ack(reply: Reply) -> Answer:
    """Insist on an Ack that promises a callback, and return it."""
    answer = said(reply)
    if reply.status != 200 or answer.kind is not AnswerKind.ACK:
        raise Mismatch("200 with an ACK", reply.shown())
    return answer


def refusal(
    reply: Reply, statuses: Iterable[int], *, codes: Iterable[str] = (), nack_with: Iterable[int] = ()
) -> Answer:
    """Insist on a refusal, and return it.

    Args:
        reply: What came.
        statuses: HTTP statuses that fit the fault.
        codes: Beginnings of error codes that fit it; none: whatever it says.
        nack_with: Other statuses that are right where the body is a NACK (generation 1.1: 200).
    """
    wanted = sorted(set(statuses))
    answer = said(reply)
    named = f"{' or '.join(map(str, wanted))} with a NACK" + (f" ({', '.join(codes)}...)" if codes else "")
    fits = reply.status in wanted or (reply.status in nack_with and answer.kind is AnswerKind.NACK)
    if not fits:
        raise Mismatch(named, reply.shown())
    starts = tuple(codes)
    if starts and answer.code is not None and not answer.code.startswith(starts):
        raise Mismatch(named, f"code {answer.code}: {answer.detail}")
    return answer


def verified(arrival: Arrival | None, what: str, within_s: float) -> Arrival:
    """Insist on a message that came and that verifies in full."""
    if arrival is None:
        raise Mismatch(f"{what} within {within_s:g} s", "nothing")
    if arrival.verified is None:
        raise Mismatch(f"{what} that verifies", arrival.refusal or "one that does not")
    return arrival


def equal(what: str, expected: object, came: object) -> None:
    """Insist on a value."""
    if came != expected:
        raise Mismatch(f"{what} {expected!r}", repr(came))


def that(holds: bool, expected: str, came: object) -> None:
    """Insist on a fact."""
    if not holds:
        raise Mismatch(expected, str(came))
