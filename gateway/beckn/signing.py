"""Beckn HTTP signatures: Ed25519 over a few lines of text that carry a BLAKE2b-512 digest.

The one file that spells signing strings and the one file that touches PyNaCl.

* The bytes digested are the bytes on the wire: serialise once, sign those bytes, send those bytes.
* A request or a push signs three lines; a solicited callback and an Ack sign a fourth that chains
  them to the signature they answer.
* Everything that verifies raises; there is no bool to forget.
* The text of a header must be canonical: every character is either covered by the signature or
  refused when it is not the expected one, so that no altered header passes as the original.

Source: BECKN-006 (signing of requests); Signature and CounterSignature of the v2.0.0 LTS
document; the header, Ack and callback forms that the beckn-onix adapter puts on the wire.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from hashlib import blake2b

import msgspec
from nacl.exceptions import CryptoError
from nacl.signing import SigningKey, VerifyKey

from gateway.errors import BecknError, BecknRefusal

ALGORITHM = "ed25519"
HEADERS_3 = "(created) (expires) digest"
HEADERS_4 = "(created) (expires) digest request-signature"
HEADERS_COUNTER = "(created) (expires) digest (request-digest) (message-id)"

SIGNATURE_TTL_S = 300
"""Life of a signature in seconds (what adapters in the field emit, whatever the message's ttl)."""

BACKDATE_S = 1
"""``created`` lies this long before now: some peers refuse any instant in their future."""

VARIANT_3 = "3-line"
VARIANT_4_BARE = "4-line-bare"
VARIANT_4_WHOLE = "4-line-whole-header"

_MAX_HEADER_CHARS = 4096
_ATTRIBUTES = ("keyId", "algorithm", "created", "expires", "headers", "signature")
_ATTRIBUTE = re.compile(r' *([A-Za-z]+)=(?:"([^",]*)"|([0-9]+)) *')
_UNIX_SECONDS = re.compile(r"(?:0|[1-9][0-9]{0,11})")
_SPKI_PREFIX = bytes.fromhex("302a300506032b6570032100")
_PKCS8_ED25519 = bytes.fromhex("300506032b657004220420")
_PKCS8_ED25519_AT = 5


class MalformedKey(BecknError):  # noqa: N818 - reads as what it is
    """Key material that is not an Ed25519 key in a known encoding. Never shows the material."""

    code = "malformed_key"


class ParsedSignature(msgspec.Struct, frozen=True, kw_only=True):
    """A signature header taken apart; nothing in it is trusted yet."""

    subscriber_id: str
    key_id: str
    algorithm: str
    created: int
    """Unix seconds."""
    expires: int
    """Unix seconds."""
    headers: str
    """The declared list of signed lines."""
    signature: str
    """Canonical base64 of the 64 signature bytes: the *bare* signature."""


def digest(body: bytes) -> str:
    """Base64 (padded, not URL-safe) of the unkeyed 64-byte BLAKE2b digest of the raw body."""
    return b64encode(blake2b(body).digest()).decode()


def signing_string(
    created: int,
    expires: int,
    body_digest: str,
    *,
    request_signature: str | None = None,
) -> bytes:
    """Build the bytes to sign: three lines, or four when they answer a request.

    Args:
        created: Unix seconds.
        expires: Unix seconds.
        body_digest: :func:`digest` of the raw body.
        request_signature: Bare signature of the request that is answered (the fourth line).
    """
    # The label says BLAKE-512 although the algorithm is BLAKE2b-512: that is what is on the wire.
    lines = f"(created): {created}\n(expires): {expires}\ndigest: BLAKE-512={body_digest}"
    if request_signature is not None:
        lines += f"\nrequest-signature: {request_signature}"
    return lines.encode()


def counter_signing_string(
    created: int,
    expires: int,
    body_digest: str,
    *,
    request_digest: str,
    message_id: str,
) -> bytes:
    """Build the bytes of an LTS CounterSignature, the Ack signature of the published document.

    Args:
        created: Unix seconds.
        expires: Unix seconds.
        body_digest: Digest of the Ack body.
        request_digest: Digest of the body that is acknowledged.
        message_id: Its ``context.messageId``.
    """
    # SPEC ASSUMPTION: the published digest would cover the body that contains the signature; the
    # body without its signature member is meant.
    return (
        f"(created): {created}\n(expires): {expires}\ndigest: BLAKE-512={body_digest}\n"
        f"(request-digest): BLAKE-512={request_digest}\n(message-id): {message_id}"
    ).encode()


def generate_private_key() -> str:
    """Make a new private key: base64 of its 32-byte seed."""
    return b64encode(bytes(SigningKey.generate())).decode()


class Signer:
    """Our signing key under our subscriber id. Signs; never shows the key."""

    __slots__ = ("_key", "_prefix", "key_id", "public_key", "subscriber_id")

    def __init__(self, seed: bytes, *, subscriber_id: str, key_id: str) -> None:
        """Take a 32-byte seed; :meth:`from_private` takes the encodings keys come in."""
        for name, value in (("subscriber_id", subscriber_id), ("key_id", key_id)):
            if not value or not value.isascii() or not value.isprintable() or set(value) & set('|",'):
                raise MalformedKey(f"{name} {value!r} cannot stand in a keyId", name=name)
        self._key = SigningKey(seed)
        self.subscriber_id = subscriber_id
        self.key_id = key_id
        self.public_key = b64encode(bytes(self._key.verify_key)).decode()
        self._prefix = (
            f'Signature keyId="{subscriber_id}|{key_id}|{ALGORITHM}",algorithm="{ALGORITHM}",created="'
        )

    def __repr__(self) -> str:
        return f"Signer({self.subscriber_id}|{self.key_id}, public_key={self.public_key})"

    @classmethod
    def from_private(cls, text: str, subscriber_id: str, key_id: str) -> "Signer":
        """Read a private key: base64 of the seed, of seed and public key, or PKCS8 (DER or PEM).

        Raises:
            MalformedKey: No Ed25519 private key, or a public half that is not its own.
        """
        return cls(_private_seed(text), subscriber_id=subscriber_id, key_id=key_id)

    def sign(self, signing_bytes: bytes) -> str:
        """Ed25519 signature of the bytes, base64 (88 characters)."""
        return b64encode(self._key.sign(signing_bytes).signature).decode()

    def header(
        self,
        body_digest: str,
        *,
        created: int,
        expires: int,
        request_signature: str | None = None,
    ) -> str:
        """Build a header value from a digest and explicit times (Unix seconds)."""
        signature = self.sign(
            signing_string(created, expires, body_digest, request_signature=request_signature)
        )
        headers = HEADERS_3 if request_signature is None else HEADERS_4
        # The layout is literal: peers look for `,signature="` to extract the bare signature.
        return f'{self._prefix}{created}",expires="{expires}",headers="{headers}",signature="{signature}"'

    def authorization(
        self,
        body: bytes,
        *,
        now: datetime,
        ttl_s: int = SIGNATURE_TTL_S,
        request_signature: str | None = None,
    ) -> str:
        """Value of ``Authorization`` for a request body, or of ``Signature`` for an Ack body.

        Args:
            body: The exact bytes that will be sent.
            now: Wall time, aware.
            ttl_s: Life of the signature in seconds.
            request_signature: Bare signature of the request that a solicited callback or an Ack
                answers; None for requests and unsolicited pushes.
        """
        created = int(now.timestamp()) - BACKDATE_S
        return self.header(
            digest(body),
            created=created,
            expires=created + ttl_s,
            request_signature=request_signature,
        )


def bare_signature(header: str) -> str:
    """Base64 signature inside a header value that :class:`Signer` wrote."""
    return header.rpartition(',signature="')[2].removesuffix('"')


def challenge(subscriber_id: str) -> str:
    """Value of ``WWW-Authenticate`` (or ``Proxy-Authenticate``) that goes with a 401.

    Args:
        subscriber_id: The receiver's own subscriber id.
    """
    return f'Signature realm="{subscriber_id}",headers="{HEADERS_3}"'


def parse_authorization(header: str, *, scheme_optional: bool = False) -> ParsedSignature:
    """Take a signature header apart.

    Lenient only where peers are known to differ: order of the attributes, blanks around them,
    unquoted times, stray quotes around the whole value. Whatever is not covered by the signature
    must be exactly what is expected.

    Args:
        header: Value of Authorization, X-Gateway-Authorization or an Ack's Signature header.
        scheme_optional: The word ``Signature`` may be missing (Ack headers of some peers).

    Raises:
        BecknRefusal: AUT_SIGNATURE_MISSING (empty or another scheme) or AUT_SIGNATURE_INVALID.
    """
    text = header.strip(" ")
    if len(text) > _MAX_HEADER_CHARS:
        raise _invalid(f"signature header longer than {_MAX_HEADER_CHARS} characters")
    if text.startswith('"') and text.endswith('""'):
        text = text[1:-1]
    if text.startswith("Signature "):
        text = text.removeprefix("Signature ")
    elif not scheme_optional:
        raise _refusal("AUT_SIGNATURE_MISSING", "the header does not use the Signature scheme")
    fields = _attributes(text)

    key_parts = fields["keyId"].split("|")
    if len(key_parts) != 3 or not all(key_parts):
        raise _invalid("keyId must be subscriber_id|key_id|algorithm")
    subscriber_id, key_id, key_algorithm = key_parts
    if fields["algorithm"] != ALGORITHM or key_algorithm != ALGORITHM:
        raise _invalid(f"algorithm must be {ALGORITHM} in keyId and in algorithm")
    return ParsedSignature(
        subscriber_id=subscriber_id,
        key_id=key_id,
        algorithm=ALGORITHM,
        created=_unix_seconds("created", fields["created"]),
        expires=_unix_seconds("expires", fields["expires"]),
        headers=fields["headers"],
        signature=_canonical_signature(fields["signature"]),
    )


def verify_signature(
    parsed: ParsedSignature,
    body_digest: str,
    public_key: bytes,
    request_signatures: Sequence[tuple[str, str]] = (),
) -> str:
    """Check a request's, a callback's or an Ack's signature.

    Where four lines are declared, the fourth is tried as the bare signature of each request given,
    then as its whole header value (what some adapters store and sign), and three lines come last
    (what they sign when they have lost the request).

    Args:
        parsed: The header.
        body_digest: :func:`digest` of the raw body received.
        public_key: 32 bytes.
        request_signatures: For each time the answered request was sent: its bare signature and the
            whole Authorization value.

    Returns:
        The variant that verified: "4-line-bare", "4-line-whole-header" or "3-line".

    Raises:
        BecknRefusal: AUT_SIGNATURE_INVALID, 401.
    """
    key = _verify_key(public_key)
    signature = b64decode(parsed.signature)
    for variant, fourth_line in _candidates(parsed.headers, request_signatures):
        text = signing_string(parsed.created, parsed.expires, body_digest, request_signature=fourth_line)
        if _verifies(key, text, signature):
            return variant
    raise _invalid(f"the signature of {parsed.subscriber_id}|{parsed.key_id} does not fit the body")


def verify_counter_signature(
    parsed: ParsedSignature,
    body_digest: str,
    public_key: bytes,
    *,
    request_digest: str,
    message_id: str,
) -> None:
    """Check an LTS CounterSignature (five lines, see :func:`counter_signing_string`).

    Raises:
        BecknRefusal: AUT_SIGNATURE_INVALID, 401.
    """
    text = counter_signing_string(
        parsed.created,
        parsed.expires,
        body_digest,
        request_digest=request_digest,
        message_id=message_id,
    )
    if not _verifies(_verify_key(public_key), text, b64decode(parsed.signature)):
        raise _invalid(f"the counter-signature of {parsed.subscriber_id}|{parsed.key_id} does not fit")


@lru_cache(maxsize=4096)
def decode_public_key(text: str) -> bytes:
    """Read a public key as registries publish it: base64 of the raw 32 bytes or of DER SPKI.

    Raises:
        MalformedKey: Anything else.
    """
    raw = _base64(text, "public key")
    if len(raw) == len(_SPKI_PREFIX) + 32 and raw.startswith(_SPKI_PREFIX):
        raw = raw[len(_SPKI_PREFIX) :]
    if len(raw) != 32:
        raise MalformedKey(f"an Ed25519 public key has 32 bytes, not {len(raw)}", length=len(raw))
    return raw


@lru_cache(maxsize=4096)
def _verify_key(public_key: bytes) -> VerifyKey:
    if len(public_key) != 32:
        raise MalformedKey(
            f"an Ed25519 public key has 32 bytes, not {len(public_key)}", length=len(public_key)
        )
    return VerifyKey(public_key)


def _verifies(key: VerifyKey, text: bytes, signature: bytes) -> bool:
    try:
        key.verify(text, signature)
    except CryptoError:
        return False
    return True


def _candidates(headers: str, request_signatures: Sequence[tuple[str, str]]) -> list[tuple[str, str | None]]:
    """Fourth lines to try, in order, each with the name of its variant."""
    if headers == HEADERS_3:
        return [(VARIANT_3, None)]
    if headers != HEADERS_4:
        raise _invalid(f"the signed lines must be declared as {HEADERS_3!r} or {HEADERS_4!r}")
    bare: list[tuple[str, str | None]] = [(VARIANT_4_BARE, pair[0]) for pair in request_signatures]
    whole: list[tuple[str, str | None]] = [(VARIANT_4_WHOLE, pair[1]) for pair in request_signatures]
    return [*bare, *whole, (VARIANT_3, None)]


def _attributes(text: str) -> dict[str, str]:
    """Split ``name="value",...`` into exactly the six known attributes."""
    fields: dict[str, str] = {}
    for part in text.split(","):
        match = _ATTRIBUTE.fullmatch(part)
        if match is None or match[1] not in _ATTRIBUTES or match[1] in fields:
            raise _invalid(
                'the header must list keyId, algorithm, created, expires, headers, signature="..."'
            )
        name, quoted, bare = match.groups()
        if bare is not None and name not in ("created", "expires"):
            raise _invalid(f"{name} must be quoted")
        fields[name] = bare if quoted is None else quoted
    missing = [name for name in _ATTRIBUTES if name not in fields]
    if missing:
        raise _invalid(f"the signature header lacks {', '.join(missing)}")
    return fields


def _unix_seconds(name: str, text: str) -> int:
    if _UNIX_SECONDS.fullmatch(text) is None:
        raise _invalid(f"{name} must be whole Unix seconds")
    return int(text)


def _canonical_signature(text: str) -> str:
    try:
        raw = b64decode(text, validate=True)
    except ValueError as exc:
        raise _invalid("signature is not base64") from exc
    # Base64 has spare bits at its end: without this, other spellings of the same bytes would pass.
    if len(raw) != 64 or b64encode(raw).decode() != text:
        raise _invalid("signature must be the canonical base64 of 64 bytes")
    return text


def _private_seed(text: str) -> bytes:
    armoured = [line for line in text.split("\n") if not line.startswith("-----")]
    raw = _base64("".join(line.strip() for line in armoured), "private key")
    if len(raw) == 32:
        return raw
    if len(raw) == 64:
        seed, public = raw[:32], raw[32:]
        if bytes(SigningKey(seed).verify_key) != public:
            raise MalformedKey("the public half of the private key is not its own")
        return seed
    seed_at = _PKCS8_ED25519_AT + len(_PKCS8_ED25519)
    if raw[:1] == b"\x30" and raw[_PKCS8_ED25519_AT:seed_at] == _PKCS8_ED25519 and len(raw) >= seed_at + 32:
        return raw[seed_at : seed_at + 32]
    raise MalformedKey(
        f"an Ed25519 private key has 32 or 64 bytes or is PKCS8, not {len(raw)} bytes", length=len(raw)
    )


def _base64(text: str, what: str) -> bytes:
    try:
        return b64decode(text.strip(), validate=True)
    except ValueError as exc:
        raise MalformedKey(f"{what} is not base64") from exc


def _refusal(code: str, detail: str) -> BecknRefusal:
    return BecknRefusal(code, detail, http_status=401, challenge=True)


def _invalid(detail: str) -> BecknRefusal:
    return _refusal("AUT_SIGNATURE_INVALID", detail)
