"""Bearer tokens of our own API: 256 random bits, kept as SHA-256 only.

A token this long needs no slow hash: it cannot be guessed, and the database does not give it back.
"""

import hashlib
import hmac
import secrets
from datetime import datetime
from enum import StrEnum

import msgspec
from sqlalchemy import Connection, select

from gateway.store.sql import upsert
from gateway.store.tables import api_token


class Role(StrEnum):
    """What a token's holder may do."""

    ADMIN = "admin"


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who is calling, as the journal names them."""

    name: str
    role: Role


def new_token() -> str:
    """Make a token: 43 URL-safe characters."""
    return secrets.token_urlsafe(32)


def token_hash(token: str) -> str:
    """Hash under which a token is stored (hex SHA-256)."""
    return hashlib.sha256(token.encode()).hexdigest()


def store_token(connection: Connection, token: str, *, name: str, role: Role, now: datetime) -> None:
    """Let ``token`` in; a token already known is left in force."""
    upsert(
        connection,
        api_token,
        [
            {
                "token_hash": token_hash(token),
                "name": name,
                "role": role.value,
                "created_at": now,
                "revoked_at": None,
            }
        ],
    )


def load_tokens(connection: Connection) -> dict[str, Caller]:
    """Read the tokens in force: hash -> caller."""
    rows = connection.execute(select(api_token).where(api_token.c.revoked_at.is_(None)))
    return {row.token_hash: Caller(name=row.name, role=Role(row.role)) for row in rows}


class TokenGate:
    """Answers who holds a token. Loaded at start; fails closed."""

    def __init__(self, callers: dict[str, Caller]) -> None:
        self._callers = callers

    def caller(self, authorization: str | None) -> Caller | None:
        """Caller of an ``Authorization: Bearer`` header value, or None."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return None
        wanted = token_hash(token.strip())
        for known, caller in self._callers.items():
            if hmac.compare_digest(known, wanted):
                return caller
        return None
