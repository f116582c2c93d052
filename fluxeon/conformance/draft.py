"""A message being made: right by default, wrong wherever a case wants it."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import msgspec

from fluxeon.conformance.speech import Speech
from gateway.beckn.signing import BACKDATE_S, SIGNATURE_TTL_S, Signer, digest

JSON_TYPE = ("Content-Type", "application/json")


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who signs: a key under a subscriber id, and where it is reached."""

    signer: Signer
    uri: str

    @property
    def id(self) -> str:
        """Subscriber id."""
        return self.signer.subscriber_id


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A message before it is encoded and signed.

    Attributes:
        action: Last part of the path it goes to.
        document: Context and message; change a copy of it with :meth:`change`.
        author: Who signs it.
        now: Wall time it is made at.
        speech: The generation it is written in.
        request_signature: What a solicited callback chains to (the fourth line).
        request_header: The whole header of the same request.
    """

    action: str
    document: dict[str, Any]
    author: Identity
    now: datetime
    speech: Speech
    request_signature: str | None = None
    request_header: str | None = None

    @property
    def message_id(self) -> str:
        """Its message id."""
        return str(self.document["context"][self.speech.member("message_id")])

    @property
    def transaction_id(self) -> str:
        """Its transaction id."""
        return str(self.document["context"][self.speech.member("transaction_id")])

    def change(self, edit: Callable[[dict[str, Any]], None]) -> "Draft":
        """Copy it with its document edited in place by ``edit``."""
        document = copy.deepcopy(self.document)
        edit(document)
        return replace(self, document=document)

    def context(self, **members: Any) -> "Draft":
        """Copy it with members of the context set; None removes one."""

        def edit(document: dict[str, Any]) -> None:
            for name, value in members.items():
                if value is None:
                    document["context"].pop(self.speech.member(name), None)
                else:
                    document["context"][self.speech.member(name)] = value

        return self.change(edit)

    def message(self, edit: Callable[[dict[str, Any]], None]) -> "Draft":
        """Copy it with its message edited in place by ``edit``."""
        return self.change(lambda document: edit(document["message"]))

    def by(self, author: Identity) -> "Draft":
        """Copy it with another signer; what it says of its sender stays."""
        return replace(self, author=author)

    def unchained(self) -> "Draft":
        """Copy it so that it is signed as three lines."""
        return replace(self, request_signature=None)

    def body(self) -> bytes:
        """Encode it as compact UTF-8 JSON."""
        return json.dumps(self.document, ensure_ascii=False, separators=(",", ":")).encode()

    def authorization(
        self, body: bytes, *, created: int | None = None, expires: int | None = None, chain: str | None = None
    ) -> str:
        """Sign a body.

        Args:
            body: What the signature shall cover.
            created: Unix seconds; default: a moment ago.
            expires: Unix seconds; default: five minutes later.
            chain: Fourth line instead of the draft's own.
        """
        begin = int(self.now.timestamp()) - BACKDATE_S if created is None else created
        end = begin + SIGNATURE_TTL_S if expires is None else expires
        return self.author.signer.header(
            digest(body), created=begin, expires=end, request_signature=chain or self.request_signature
        )

    def shot(self, body: bytes | None = None, header: str | None = None) -> "Shot":
        """Make it ready to send: these bytes, or its own, under this header, or a right one."""
        content = self.body() if body is None else body
        value = self.authorization(content) if header is None else header
        return Shot(action=self.action, body=content, headers=[JSON_TYPE, ("Authorization", value)])


@dataclass(frozen=True)
class Shot:
    """Exact bytes to send."""

    action: str
    body: bytes
    headers: list[tuple[str, str]] = field(default_factory=list)

    def header(self, name: str) -> str | None:
        """Find the first header of a name."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def with_header(self, name: str, value: str | None) -> "Shot":
        """Copy it with a header replaced, or removed where ``value`` is None."""
        others = [(key, each) for key, each in self.headers if key.lower() != name.lower()]
        return replace(self, headers=others if value is None else [*others, (name, value)])

    def and_header(self, name: str, value: str) -> "Shot":
        """Copy it with one more header."""
        return replace(self, headers=[*self.headers, (name, value)])
