"""BODY: bytes that no honest peer sends. A 4xx, quickly; never a 5xx."""

import gzip
from collections.abc import Awaitable, Callable

from fluxeon.conformance import expect
from fluxeon.conformance.case import Case
from fluxeon.conformance.cases.making import refused
from fluxeon.conformance.draft import Draft, Shot
from fluxeon.conformance.session import Session
from fluxeon.conformance.transport import Reply
from fluxeon.conformance.verdict import Level

STRICT_JSON = "RFC 8259 and I-JSON (RFC 7493): one reading per text"
BOUNDS = "Robustness: bounds on what is read at all"
BAD = {400}
TOO_LARGE = {400, 413}
OVERSIZE_BYTES = 2 * 1024 * 1024
"""Over the bound of every action but a catalogue's."""
CATALOGUE_OVERSIZE_BYTES = 9 * 1024 * 1024
_CATALOGUES = ("on_discover", "on_search")
PROMPT_MS = 50.0
CUT_WITHIN_S = 20.0
SLOW_EVERY_S = 0.5


def _bytes(make: Callable[[bytes], bytes]) -> Callable[[Session, Draft], Shot]:
    """Spoil the bytes of a right body, then sign what has come of them."""
    return lambda _, draft: draft.shot(make(draft.body()))


def _inside(member: bytes) -> Callable[[bytes], bytes]:
    """Put one more member at the front of the context."""
    return lambda body: body.replace(b'"context":{', b'"context":{' + member + b",", 1)


def _padded(draft: Draft, size: int) -> bytes:
    body = draft.body()
    return _inside(b'"padding":"' + b"x" * (size - len(body)) + b'"')(body)


def _typed(value: str) -> Callable[[Session, Draft], Shot]:
    return lambda _, draft: draft.shot().with_header("Content-Type", value)


async def _chunked(session: Session) -> None:
    draft = session.probe()
    shot = draft.shot(_padded(draft, OVERSIZE_BYTES))
    reply = await session.station.transport.send_chunked(session.url(shot.action), shot.body, shot.headers)
    _cut(reply)


async def _declared(session: Session) -> None:
    shot = session.probe().shot()
    url = session.url(shot.action)
    reply = await session.station.transport.send_partly(url, 100 * OVERSIZE_BYTES, shot.headers)
    _cut(reply)


def _cut(reply: Reply) -> None:
    # Hanging up on a sender that has more to send is as good as an answer it may never read.
    if reply.status != 0 or reply.hung:
        expect.refusal(reply, TOO_LARGE)


async def _slow(session: Session) -> None:
    shot = session.probe().shot()
    reply = await session.station.transport.send_slowly(
        session.url(shot.action), shot.body, shot.headers, every_s=SLOW_EVERY_S, within_s=CUT_WITHIN_S
    )
    expect.that(
        not reply.hung and (reply.status == 0 or 400 <= reply.status < 500),
        f"408, or the connection closed, within {CUT_WITHIN_S:g} s",
        reply.shown(),
    )


async def _prompt(session: Session) -> None:
    """The slowest of some bad bodies, each sent thrice and the quickest counted."""
    spoilt: dict[str, Callable[[bytes], bytes]] = {
        "nesting": lambda _: b"[" * 500_000,
        "a number of 100 kB": _inside(b'"n":' + b"9" * 100_000),
        "half a document": lambda body: body[: len(body) // 2],
    }
    for name, make in spoilt.items():
        took = []
        for _ in range(3):
            reply = await session.send(session.probe().shot(make(session.probe().body())))
            took.append(reply.took_ms)
        expect.that(min(took) < PROMPT_MS, f"{name} refused within {PROMPT_MS:g} ms", f"{min(took):.0f} ms")


async def _unsigned_large(session: Session) -> None:
    """A large body without a signature must not cost more than a small one."""
    draft = session.probe()
    shot = draft.shot(_padded(draft, 1_000_000)).with_header("Authorization", None)
    expect.refusal(await session.send(shot), {401, 413}, nack_with=session.speech.nack_statuses)


def _method(method: str) -> Callable[[Session], Awaitable[None]]:
    async def play(session: Session) -> None:
        shot = session.probe().shot()
        reply = await session.station.transport.send(
            session.url(shot.action), b"", shot.headers, method=method
        )
        expect.refusal(reply, {400, 401, 404, 405})

    return play


CASES: tuple[Case, ...] = (
    refused(
        "BODY-001",
        "an empty body",
        _bytes(lambda _: b""),
        spec=STRICT_JSON,
        mend="Answer 400 to an empty body.",
        statuses={400, 401},
    ),
    refused(
        "BODY-002",
        "text that is not JSON",
        _bytes(lambda _: b"<xml/>"),
        spec=STRICT_JSON,
        mend="Answer 400 SCH_INVALID_JSON, not 500.",
        statuses={400, 401},
    ),
    refused(
        "BODY-003",
        "half a document",
        _bytes(lambda body: body[: len(body) // 2]),
        spec=STRICT_JSON,
        mend="Answer 400 SCH_INVALID_JSON, not 500.",
        statuses={400, 401},
    ),
    refused(
        "BODY-004",
        "a list instead of an object",
        _bytes(lambda body: b"[" + body + b"]"),
        spec="Beckn envelope: an object",
        mend="Check the outermost type: 400, not 500.",
        statuses={400, 401},
    ),
    refused(
        "BODY-005",
        "bytes that are not UTF-8",
        _bytes(_inside(b'"note":"\xff\xfe"')),
        spec=STRICT_JSON,
        mend="Decode as strict UTF-8; do not replace bad bytes: 400.",
        statuses=BAD,
    ),
    refused(
        "BODY-006",
        "half a surrogate pair",
        _bytes(_inside(b'"note":"\\ud800"')),
        spec=STRICT_JSON,
        mend="Refuse a lone surrogate: it cannot be written back as UTF-8.",
        statuses=BAD,
        level=Level.SHOULD,
    ),
    refused(
        "BODY-007",
        "the literal NaN",
        _bytes(_inside(b'"note":NaN')),
        spec=STRICT_JSON,
        mend="NaN is no JSON: 400. Python's json needs parse_constant for that.",
        statuses=BAD,
    ),
    refused(
        "BODY-008",
        "the literal Infinity",
        _bytes(_inside(b'"note":-Infinity')),
        spec=STRICT_JSON,
        mend="Infinity is no JSON: 400.",
        statuses=BAD,
    ),
    refused(
        "BODY-009",
        "a number beyond every range",
        _bytes(_inside(b'"note":1e999')),
        spec="RFC 7493, section 2.2: numbers within IEEE 754 double precision",
        mend="Refuse a number that overflows: 400.",
        statuses=BAD,
        level=Level.SHOULD,
    ),
    refused(
        "BODY-010",
        "a key that is there twice",
        _bytes(_inside(b'"action":"frobnicate"')),
        spec="RFC 7493, section 2.3: names are unique",
        mend="Refuse repeated keys: readers that pick another one act on another message.",
        statuses=BAD,
    ),
    refused(
        "BODY-011",
        "nesting of 100 000 levels",
        _bytes(_inside(b'"note":' + b"[" * 100_000 + b"]" * 100_000)),
        spec=BOUNDS,
        mend="Bound the depth (64 is plenty): 400, not a crash.",
        statuses=BAD,
    ),
    refused(
        "BODY-012",
        "nesting of 500 levels",
        _bytes(_inside(b'"note":' + b'{"a":' * 500 + b"1" + b"}" * 500)),
        spec=BOUNDS,
        mend="Bound the depth (64 is plenty): what is stored must be readable by every tool.",
        statuses=BAD,
        level=Level.SHOULD,
    ),
    refused(
        "BODY-013",
        "a byte order mark",
        _bytes(lambda body: b"\xef\xbb\xbf" + body),
        spec="RFC 8259, section 8.1: no byte order mark",
        mend="Refuse a byte order mark: 400.",
        statuses=BAD,
        level=Level.SHOULD,
    ),
    refused(
        "BODY-014",
        "another content type",
        _typed("text/plain"),
        spec="Beckn: JSON over HTTP",
        mend="Take application/json only: 415 (or 400).",
        statuses={400, 415},
        level=Level.SHOULD,
    ),
    refused(
        "BODY-015",
        "a compressed body",
        lambda _, draft: draft.shot(gzip.compress(draft.body())).and_header("Content-Encoding", "gzip"),
        spec="Beckn signing: digest of the body as sent; " + BOUNDS,
        mend="Do not decompress (a kilobyte may become a gigabyte): 415 (or 400).",
        statuses={400, 401, 415},
    ),
    refused(
        "BODY-016",
        "a body over the bound",
        lambda session, draft: draft.shot(
            _padded(draft, CATALOGUE_OVERSIZE_BYTES if draft.action in _CATALOGUES else OVERSIZE_BYTES)
            if session.role == "bap"
            else _padded(draft, OVERSIZE_BYTES)
        ),
        spec=BOUNDS,
        mend="Bound the body per action (1 MiB; 8 MiB for catalogues): 413.",
        statuses=TOO_LARGE | {0},
    ),
    Case(
        id="BODY-017",
        title="a body over the bound, in chunks",
        spec=BOUNDS,
        mend="Count while you read: a chunked body declares no length. 413.",
        play=_chunked,
    ),
    Case(
        id="BODY-018",
        title="a declared length far over the bound",
        spec=BOUNDS,
        mend="Refuse by Content-Length before you read: 413.",
        play=_declared,
    ),
    Case(
        id="BODY-019",
        title="a large body without a signature",
        spec=BOUNDS,
        mend="Check the header before the body: 401.",
        play=_unsigned_large,
    ),
    Case(
        id="BODY-020",
        title="GET instead of POST",
        spec="Beckn paths: all are POST",
        mend="Answer 405.",
        play=_method("GET"),
    ),
    Case(
        id="BODY-021",
        title="bad bodies are refused at once",
        spec=BOUNDS,
        mend="Refuse before you do costly work; look at what you do with nesting and with long numbers.",
        play=_prompt,
        level=Level.SHOULD,
    ),
    Case(
        id="BODY-022",
        title="a sender of one byte every half second",
        spec=BOUNDS,
        mend="Give a whole request a deadline, not only every read: 408, and close the connection.",
        play=_slow,
        level=Level.SHOULD,
    ),
)
