"""How a journal entry becomes bytes, and how each entry seals all before it. Pure.

* An *entry* is canonical JSON (:mod:`gateway.audit.canonical`); its exact bytes are stored.
* ``leaf = SHA-256(0x00 || entry)``: the leaf hash of RFC 6962 section 2.1, so that a Merkle tree
  (whose nodes take 0x01) can be grown over the stored leaves without touching them.
* ``chain(0) = SHA-256(0x03 || origin)`` and ``chain(n) = SHA-256(0x02 || chain(n-1) || leaf(n))``.
  Both inputs of a link have a fixed length; no two uses of SHA-256 share a first byte, so a hash
  of one kind never passes for another.
* The *head* is what gets signed: a text that ends in a line feed with the fixed first line, the
  journal's origin, its size and its chain hash in base64 (the layout of C2SP checkpoints; the first
  line keeps a chain head from passing for a tree's checkpoint).
* A *payload* is bytes too large or too foreign for an entry; the entry names it by SHA-256, media
  type and size.
"""

import base64
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from gateway.audit.canonical import canonical_json

ENTRY_VERSION = 1
HEAD_TITLE = "fluxeon journal head v1"

_LEAF = b"\x00"
_LINK = b"\x02"
_GENESIS = b"\x03"


class Refs(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an entry is about: the ids by which it is found again."""

    feeder_id: str | None = None
    transaction_id: str | None = None
    order_id: str | None = None
    obp_id: str | None = None
    event_id: str | None = None
    """Id of a need or of a state change."""


class PayloadRef(msgspec.Struct, frozen=True, kw_only=True):
    """How an entry names a payload."""

    digest: str
    media_type: str
    size: int


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A journal entry as it reads from its bytes."""

    v: int
    seq: int
    id: str
    at: str
    """Wall time, RFC 3339 UTC with six decimals."""
    kind: str
    refs: Refs
    payloads: tuple[PayloadRef, ...]
    body: dict[str, Any]


_decode_entry = msgspec.json.Decoder(Entry).decode


def entry_bytes(
    *,
    seq: int,
    entry_id: str,
    at: datetime,
    kind: str,
    refs: Refs,
    payloads: Sequence[PayloadRef],
    body: Any,
) -> bytes:
    """Write an entry.

    Args:
        seq: Its number, from 1 without gaps.
        entry_id: Its own id.
        at: Wall time, aware.
        kind: What happened, one word.
        refs: What it is about.
        payloads: Payloads it brings, in order.
        body: JSON data; structs, enums, decimals and aware datetimes are turned into it.

    Raises:
        ValueError: The body cannot be written, or ``at`` is naive.
    """
    try:
        plain = msgspec.to_builtins(body, str_keys=True)
    except (TypeError, msgspec.MsgspecError) as exc:
        raise ValueError(f"the body of a {kind} entry is not JSON data: {exc}") from exc
    return canonical_json(
        {
            "v": ENTRY_VERSION,
            "seq": seq,
            "id": entry_id,
            "at": instant_text(at),
            "kind": kind,
            "refs": msgspec.to_builtins(refs),
            "payloads": msgspec.to_builtins(payloads),
            "body": plain,
        }
    )


def parse_entry(data: bytes) -> Entry:
    """Read an entry back.

    Raises:
        ValueError: The bytes are not an entry of a known version.
    """
    try:
        entry = _decode_entry(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise ValueError(f"not a journal entry: {exc}") from exc
    if entry.v != ENTRY_VERSION:
        raise ValueError(f"a journal entry of unknown version {entry.v}")
    return entry


def instant_text(instant: datetime) -> str:
    """Write an aware instant as RFC 3339 UTC, always with six decimals.

    Raises:
        ValueError: ``instant`` is naive.
    """
    if instant.tzinfo is None:
        raise ValueError(f"a naive datetime in a journal entry: {instant.isoformat()}")
    return instant.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def payload_digest(content: bytes) -> str:
    """Name a payload by its content: ``sha256:`` and lower-case hex."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def leaf_hash(entry: bytes) -> bytes:
    """Hash an entry's bytes (RFC 6962 section 2.1: the hash of a leaf)."""
    return hashlib.sha256(_LEAF + entry).digest()


def genesis(origin: str) -> bytes:
    """Chain hash of a journal without entries: binds the chain to its origin."""
    return hashlib.sha256(_GENESIS + origin.encode()).digest()


def link(previous: bytes, leaf: bytes) -> bytes:
    """Chain hash after an entry.

    Args:
        previous: Chain hash before it, 32 bytes.
        leaf: Its leaf hash, 32 bytes.

    Raises:
        ValueError: Either has another length.
    """
    if len(previous) != 32 or len(leaf) != 32:
        raise ValueError("a chain links hashes of 32 bytes")
    return hashlib.sha256(_LINK + previous + leaf).digest()


def head_text(origin: str, size: int, chain_hash: bytes) -> bytes:
    """Write the text that is signed for a journal of ``size`` entries."""
    chain = base64.b64encode(chain_hash).decode()
    return f"{HEAD_TITLE}\n{origin}\n{size}\n{chain}\n".encode()
