"""SIG: whose message is it, and is it as they wrote it?"""

import asyncio
import json
import os
import time
from base64 import b64decode, b64encode

from fluxeon.conformance import expect
from fluxeon.conformance.case import Case
from fluxeon.conformance.cases.making import AUT, UNPROVEN, refused, taken
from fluxeon.conformance.draft import Draft, Shot
from fluxeon.conformance.session import Session
from fluxeon.conformance.verdict import Level
from gateway.beckn.signing import bare_signature, digest, signing_string

HEADER = "Beckn signing (BECKN-006; v2.0.0 Signature): Authorization header"
TIMES = "Beckn signing: created and expires (onix signvalidator: 5 s of skew on created, none on expires)"
KEYS = "Beckn signing: keyId is subscriber_id|unique_key_id|ed25519, found in the registry"
BODY = "Beckn signing: digest is BLAKE2b-512 over the raw body as sent"


def _swap(draft: Draft, old: str, new: str) -> Shot:
    """Write a right header and replace a part of it."""
    header = draft.authorization(draft.body())
    if old not in header:
        raise RuntimeError(f"{old!r} is not in the header")
    return draft.shot(header=header.replace(old, new, 1))


def _key_id(draft: Draft) -> str:
    signer = draft.author.signer
    return f'keyId="{signer.subscriber_id}|{signer.key_id}|ed25519"'


def _times(draft: Draft, created_in_s: int, expires_in_s: int) -> Shot:
    now = int(draft.now.timestamp())
    body = draft.body()
    header = draft.authorization(body, created=now + created_in_s, expires=now + expires_in_s)
    return draft.shot(body, header)


def _later(draft: Draft, member: str, by_s: int) -> Shot:
    """Change a time in the header after signing."""
    header = draft.authorization(draft.body())
    value = header.split(f'{member}="')[1].split('"')[0]
    return draft.shot(header=header.replace(f'{member}="{value}"', f'{member}="{int(value) + by_s}"'))


def _signature(draft: Draft, change: bytes | None, *, url_safe: bool = False) -> Shot:
    """Replace the signature's bytes, or spell them otherwise."""
    header = draft.authorization(draft.body())
    old = bare_signature(header)
    raw = b64decode(old) if change is None else change
    new = b64encode(raw).decode()
    if url_safe:
        new = new.rstrip("=") if new.translate(_URL_SAFE) == new else new.translate(_URL_SAFE)
    return draft.shot(header=header.replace(old, new))


_URL_SAFE = str.maketrans("+/", "-_")


def _one_byte(draft: Draft) -> Shot:
    """Change one byte of the body inside a string value, so that all else stays right."""
    body = draft.body()
    header = draft.authorization(body)
    mark = draft.transaction_id.encode()
    at = body.index(mark) + len(mark) - 1
    other = b"0" if body[at : at + 1] != b"0" else b"1"
    return draft.shot(body[:at] + other + body[at + 1 :], header)


def _other_lines(draft: Draft) -> Shot:
    """Sign the three lines with a line feed after the last."""
    body = draft.body()
    created = int(draft.now.timestamp()) - 1
    lines = signing_string(created, created + 300, digest(body), request_signature=draft.request_signature)
    header = draft.authorization(body, created=created, expires=created + 300)
    return draft.shot(header=header.replace(bare_signature(header), draft.author.signer.sign(lines + b"\n")))


def _fewer_lines(draft: Draft) -> Shot:
    """Sign the times only."""
    created = int(draft.now.timestamp()) - 1
    header = draft.unchained().authorization(draft.body(), created=created, expires=created + 300)
    lines = f"(created): {created}\n(expires): {created + 300}".encode()
    header = header.replace(bare_signature(header), draft.author.signer.sign(lines))
    return draft.shot(header=header.replace("(created) (expires) digest", "(created) (expires)"))


def _twice(draft: Draft) -> Shot:
    shot = draft.shot()
    return shot.and_header("Authorization", _signature(draft, os.urandom(64)).headers[-1][1])


async def _reused(session: Session) -> None:
    """Send a right message, then another body under the first one's header."""
    first = session.good_probe().shot()
    expect.ack(await session.send(first))
    second = session.probe()
    message_id = second.message_id if session.role == "bpp" else None
    shot = second.shot(header=first.header("authorization"))
    await session.refuse(shot, UNPROVEN, codes=AUT, message_id=message_id)


async def _past_validity(session: Session) -> None:
    await asyncio.sleep(max(0.0, session.station.brief_until + 0.2 - time.monotonic()))
    brief = session.station.brief
    sender = {"bpp": "bap", "bap": "bpp"}[session.role]
    draft = session.probe().by(brief).context(**{f"{sender}_id": brief.id, f"{sender}_uri": brief.uri})
    message_id = draft.message_id if session.role == "bpp" else None
    await session.refuse(draft.shot(), UNPROVEN, codes=AUT, message_id=message_id)


def _from(session: Session, draft: Draft, name: str) -> Shot:
    """Let another identity speak for itself."""
    identity = getattr(session.station, name)
    sender = {"bpp": "bap", "bap": "bpp"}[session.role]
    return draft.by(identity).context(**{f"{sender}_id": identity.id, f"{sender}_uri": identity.uri}).shot()


async def _challenge(session: Session) -> None:
    reply = await session.send(session.probe().shot().with_header("Authorization", None))
    value = reply.headers.get("www-authenticate", "")
    expect.that(
        reply.status == 401 and value.startswith('Signature realm="') and "headers=" in value,
        'WWW-Authenticate: Signature realm="SUBSCRIBER",headers="(created) (expires) digest"',
        f"{reply.status}, WWW-Authenticate: {value or 'absent'}",
    )


async def _gateway_header(session: Session) -> None:
    draft = session.probe()
    forged = draft.by(session.station.stranger).unchained()
    shot = draft.shot().and_header("X-Gateway-Authorization", forged.authorization(draft.body()))
    reply = await session.refuse(shot, UNPROVEN, codes=AUT)
    expect.that(
        "proxy-authenticate" in reply.headers, "a Proxy-Authenticate challenge", sorted(reply.headers)
    )


def _pretty(draft: Draft) -> bytes:
    return json.dumps(draft.document, ensure_ascii=True, indent=2).encode()


def _spaced(draft: Draft) -> Shot:
    return draft.shot(header=draft.authorization(draft.body()).replace('",', '", '))


def _bare_times(draft: Draft) -> Shot:
    header = draft.authorization(draft.body())
    for member in ("created", "expires"):
        value = header.split(f'{member}="')[1].split('"')[0]
        header = header.replace(f'{member}="{value}"', f"{member}={value}")
    return draft.shot(header=header)


def _with_text(draft: Draft) -> Draft:
    """Put text outside ASCII where every reader passes over it."""

    def edit(document: dict[str, object]) -> None:
        context = document["context"]
        if isinstance(context, dict):
            context["note"] = "50 kW \u2264 \u00a312 \U0001f50c"

    return draft.change(edit)


CASES: tuple[Case, ...] = (
    refused(
        "SIG-001",
        "a message without a signature",
        lambda _, draft: draft.shot().with_header("Authorization", None),
        spec=HEADER,
        mend="Refuse a request without an Authorization header: 401, AUT_SIGNATURE_MISSING.",
        statuses=UNPROVEN,
        codes=AUT,
    ),
    refused(
        "SIG-002",
        "an empty signature header",
        lambda _, draft: draft.shot(header=""),
        spec=HEADER,
        mend="Treat an empty Authorization header as a missing one: 401.",
        statuses=UNPROVEN,
        codes=AUT,
    ),
    refused(
        "SIG-003",
        "another authentication scheme",
        lambda _, draft: draft.shot(header="Bearer abcdef"),
        spec=HEADER,
        mend="Accept only the scheme word Signature: 401 for any other.",
        statuses=UNPROVEN,
        codes=AUT,
    ),
    refused(
        "SIG-004",
        "a made-up signature",
        lambda _, draft: _signature(draft, os.urandom(64)),
        spec=HEADER,
        mend="Verify the Ed25519 signature; a well-formed header proves nothing.",
        statuses=UNPROVEN,
        codes=AUT,
    ),
    refused(
        "SIG-005",
        "one byte of the body changed after signing",
        lambda _, draft: _one_byte(draft),
        spec=BODY,
        mend="Compute the digest from the body you received and put it into the signing string.",
        statuses=UNPROVEN,
        codes=AUT,
    ),
    refused(
        "SIG-006",
        "a line feed added to the body after signing",
        lambda _, draft: draft.shot(draft.body() + b"\n", draft.authorization(draft.body())),
        spec=BODY,
        mend="Verify over the raw bytes, before parsing; never over a document encoded again.",
        statuses=UNPROVEN,
        codes=AUT,
    ),
    refused(
        "SIG-008",
        "an expired signature",
        lambda _, draft: _times(draft, -310, -10),
        spec=TIMES,
        mend="Refuse when expires is before your clock, without tolerance; say created, expires and now.",
        statuses=UNPROVEN,
        codes=AUT,
    ),
    refused(
        "SIG-009",
        "a signature from the future",
        lambda _, draft: _times(draft, 120, 420),
        spec=TIMES,
        mend="Refuse when created is more than some seconds (5 by default) ahead of your clock.",
        statuses=UNPROVEN,
        codes=AUT,
    ),
    refused(
        "SIG-010",
        "a signature that expires before it begins",
        lambda _, draft: _times(draft, 3, 2),
        spec=TIMES,
        mend="Refuse when expires is not after created.",
        statuses=UNPROVEN,
        codes=AUT,
        level=Level.SHOULD,
    ),
    refused(
        "SIG-011",
        "a signature that lives for a week",
        lambda _, draft: _times(draft, -1, 7 * 86400),
        spec="Beckn signing: expires - created is the request's ttl; networks cap it (an hour)",
        mend="Cap expires - created: a stolen message must not be good for days.",
        statuses=UNPROVEN,
        codes=AUT,
        level=Level.SHOULD,
    ),
    refused(
        "SIG-012",
        "created changed after signing",
        lambda _, draft: _later(draft, "created", -1),
        spec="Beckn signing: (created) is the first signed line",
        mend="Build the signing string from the created of the header.",
        statuses=UNPROVEN,
        codes=AUT,
    ),
    refused(
        "SIG-013",
        "expires extended after signing",
        lambda _, draft: _later(draft, "expires", 60),
        spec="Beckn signing: (expires) is the second signed line",
        mend="Build the signing string from the expires of the header.",
        statuses=UNPROVEN,
        codes=AUT,
    ),
    refused(
        "SIG-014",
        "a keyId of two parts",
        lambda _, draft: _swap(draft, _key_id(draft), f'keyId="{draft.author.id}|ed25519"'),
        spec=KEYS,
        mend="Answer 401 (not 500) to a keyId that has not exactly three parts.",
        statuses={400, 401},
    ),
    refused(
        "SIG-015",
        "a keyId with an empty part",
        lambda _, draft: _swap(draft, _key_id(draft), f'keyId="{draft.author.id}||ed25519"'),
        spec=KEYS,
        mend="Answer 401 (not 500) to a keyId with an empty part.",
        statuses={400, 401},
    ),
    refused(
        "SIG-016",
        "another algorithm attribute",
        lambda _, draft: _swap(draft, 'algorithm="ed25519"', 'algorithm="rsa-sha256"'),
        spec="Beckn signing: algorithm is ed25519 and equals the keyId's third part",
        mend="Refuse any algorithm but ed25519; the attribute is not signed, so check it yourself.",
        statuses={400, 401},
    ),
    refused(
        "SIG-017",
        "another algorithm in the keyId",
        lambda _, draft: _swap(draft, "|ed25519", "|hs256"),
        spec="Beckn signing: algorithm is ed25519 and equals the keyId's third part",
        mend="Compare the keyId's third part with the algorithm attribute.",
        statuses={400, 401},
    ),
    refused(
        "SIG-018",
        "a subscriber no registry knows",
        lambda session, draft: _from(session, draft, "stranger"),
        spec=KEYS,
        mend="Look the signer up in the registry; 401 AUT_SUBSCRIBER_NOT_FOUND when it is not there.",
        statuses=UNPROVEN,
        codes=AUT,
    ),
    refused(
        "SIG-019",
        "an unknown key of a known subscriber",
        lambda _, draft: _swap(draft, _key_id(draft), f'keyId="{draft.author.id}|k999|ed25519"'),
        spec=KEYS,
        mend="Look up both subscriber and key id; do not fall back to the subscriber's other keys.",
        statuses=UNPROVEN,
        codes=AUT,
    ),
    refused(
        "SIG-020",
        "a registered participant that speaks for another",
        lambda session, draft: draft.by(session.station.other).shot(),
        spec="Beckn signing: keyId's subscriber is the sender named in the context",
        mend="Compare the keyId's subscriber with bapId (requests) or bppId (callbacks) of the context: 401.",
        statuses=UNPROVEN,
        codes=AUT,
    ),
    refused(
        "SIG-021",
        "our keyId with somebody else's key",
        lambda session, draft: draft.by(session.station.thief).shot(),
        spec=KEYS,
        mend="Verify with the public key of the registry, whatever key the signer used.",
        statuses=UNPROVEN,
        codes=AUT,
    ),
    refused(
        "SIG-022",
        "a signature in the URL-safe alphabet, or unpadded",
        lambda _, draft: _signature(draft, None, url_safe=True),
        spec="Beckn signing: standard base64 with padding (RFC 4648, section 4)",
        mend="Decode strictly: one spelling per signature, else replays cannot be told from new messages.",
        statuses=UNPROVEN,
        codes=AUT,
        level=Level.SHOULD,
    ),
    refused(
        "SIG-023",
        "a signature of 63 bytes",
        lambda _, draft: _signature(draft, os.urandom(63)),
        spec="Ed25519: a signature has 64 bytes",
        mend="Check the length before you verify: 401, not 500.",
        statuses={400, 401},
    ),
    refused(
        "SIG-024",
        "a signature that leaves the digest out",
        lambda _, draft: _fewer_lines(draft),
        spec="Beckn signing: headers is (created) (expires) digest",
        mend="Do not let the sender choose what is signed: require all three lines.",
        statuses={400, 401},
    ),
    refused(
        "SIG-025",
        "two Authorization headers, one of them right",
        lambda _, draft: _twice(draft),
        spec="RFC 9110, section 5.3: such headers may not be repeated",
        mend="Refuse a repeated Authorization header: two readers may each pick another one.",
        statuses={400, 401},
    ),
    refused(
        "SIG-026",
        "a signing string with a line feed at its end",
        lambda _, draft: _other_lines(draft),
        spec="Beckn signing: lines joined by a single LF, none after the last",
        mend="Build the signing string exactly; do not try variants of it.",
        statuses=UNPROVEN,
        codes=AUT,
    ),
    refused(
        "SIG-027",
        "a time that is no whole number",
        lambda _, draft: _swap(draft, 'created="', 'created="1.'),
        spec="Beckn signing: created and expires are Unix seconds",
        mend="Answer 401 (not 500) to times that are no integers.",
        statuses={400, 401},
    ),
    refused(
        "SIG-028",
        "an attribute that is there twice",
        lambda _, draft: _swap(draft, ',algorithm="', ',created="1",algorithm="'),
        spec=HEADER,
        mend="Refuse a header in which an attribute is repeated.",
        statuses={400, 401},
    ),
    refused(
        "SIG-029",
        "a participant registered in the receiver's own role",
        lambda session, draft: _from(session, draft, "miscast"),
        spec="Registry record: type is BAP or BPP",
        mend="Take requests from BAPs only, and callbacks from BPPs only: 401 AUT_UNAUTHORIZED_ACTION.",
        statuses={401, 403},
        codes=AUT,
    ),
    refused(
        "SIG-030",
        "a header of 100 kB",
        lambda _, draft: _swap(draft, 'keyId="', 'keyId="' + "a" * 100_000),
        spec="Robustness: a header is some hundred bytes",
        mend="Bound the header: 4xx, or close the connection; never 5xx.",
        statuses={0, 400, 401, 413, 431},
    ),
    Case(
        id="SIG-032",
        title="a gateway's signature that does not verify, beside a right one",
        spec="BECKN-006: X-Gateway-Authorization; its failure is challenged by Proxy-Authenticate",
        mend="Verify X-Gateway-Authorization where it is sent; refuse with 401 and Proxy-Authenticate.",
        play=_gateway_header,
        level=Level.SHOULD,
    ),
    Case(
        id="SIG-033",
        title="the challenge that goes with a 401",
        spec="BECKN-006, section on failures: WWW-Authenticate",
        mend='Send WWW-Authenticate: Signature realm="ID",headers="(created) (expires) digest" with 401.',
        play=_challenge,
    ),
)

AFTER_ONE: tuple[Case, ...] = (
    Case(
        id="SIG-007",
        title="the signature of an earlier message over another body",
        spec=BODY,
        mend="Do not trust a signature because it verified before: check it against this body.",
        play=_reused,
    ),
    Case(
        id="SIG-031",
        title="a key whose validity at the registry is over",
        spec="Registry record: valid_until",
        mend="Check valid_from and valid_until at every message, also for a cached key: 401.",
        play=_past_validity,
    ),
)
"""These need a message that was taken before, or time."""

LENIENT: tuple[Case, ...] = (
    taken(
        "SIG-101",
        "JSON with blanks, line feeds and escapes, signed as sent",
        lambda _, draft: draft.shot(_pretty(draft)),
        spec=BODY,
        mend="Verify over the raw bytes: a document that you encode again has another digest.",
    ),
    taken(
        "SIG-102",
        "text outside ASCII as raw UTF-8, signed as sent",
        lambda _, draft: _with_text(draft).shot(),
        spec=BODY,
        mend="Verify over the raw bytes; do not escape or normalise text before the digest.",
    ),
    taken(
        "SIG-103",
        "a signature that expires in ten seconds",
        lambda _, draft: _times(draft, -1, 10),
        spec=TIMES,
        mend="Do not demand a longer life of a signature than the sender gives it.",
    ),
    taken(
        "SIG-104",
        "a clock two seconds ahead of yours",
        lambda _, draft: _times(draft, 2, 302),
        spec=TIMES,
        mend="Tolerate some seconds of skew (5) on created.",
        level=Level.SHOULD,
    ),
    taken(
        "SIG-105",
        "blanks after the commas of the header",
        lambda _, draft: _spaced(draft),
        spec="onix signvalidator: parts are trimmed",
        mend="Split the header on commas and trim: several implementations write blanks.",
        level=Level.SHOULD,
    ),
    taken(
        "SIG-106",
        "times without quotes",
        lambda _, draft: _bare_times(draft),
        spec="onix signvalidator: unquoted integers are read",
        mend='Read created=1 like created="1".',
        level=Level.SHOULD,
    ),
)
"""Unusual, but right: these have to be taken."""
