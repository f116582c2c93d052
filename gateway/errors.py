"""The exception tree. Every error carries facts, a stable code and the HTTP status it answers with.

::

    GatewayError
        TelemetryError            a reading that cannot be used
        ModelError                a model or its card that cannot be trusted
        BecknError                a message refused, or a peer that failed
            BecknRefusal          an inbound message refused: becomes a NACK, changes nothing
            PeerUnavailable       a counterparty that did not answer
        StoreError                durable state that could not be written or read
        JournalBroken             the journal does not verify
        SettlementRefused         volumes that must not be computed from what is there
    ConfigError                   before serving: names the setting, never its value
"""

from typing import Any


class GatewayError(Exception):
    """Base of everything FLUXEON raises on purpose.

    Attributes:
        code: Stable machine-readable code.
        http_status: Status our own API answers with.
        facts: Values a reader needs to mend the fault.
    """

    code = "internal"
    http_status = 500

    def __init__(self, detail: str, *, code: str | None = None, **facts: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.facts = facts
        if code is not None:
            self.code = code


class InvalidRequest(GatewayError):  # noqa: N818 - reads as what it is
    """A request on our own API that cannot be served as sent."""

    code = "invalid_request"
    http_status = 400


class NotFound(GatewayError):  # noqa: N818
    """Something asked for by id that does not exist."""

    code = "not_found"
    http_status = 404


class TelemetryError(GatewayError):
    """A reading or a batch that cannot be used."""

    code = "invalid_reading"
    http_status = 422


class ModelError(GatewayError):
    """A model, its card or its inputs cannot be trusted."""

    code = "model_unavailable"
    http_status = 503


class BecknError(GatewayError):
    """Base of protocol faults."""

    code = "SCH_SCHEMA_VALIDATION_FAILED"
    http_status = 400


class BecknRefusal(BecknError):  # noqa: N818
    """An inbound Beckn message is refused: answered with a NACK, no effect.

    ``path`` points at the failing field where there is one; ``challenge`` asks for the
    WWW-Authenticate header (signature faults).
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        http_status: int = 400,
        path: str | None = None,
        challenge: bool = False,
        **facts: Any,
    ) -> None:
        super().__init__(detail, code=code, **facts)
        self.http_status = http_status
        self.path = path
        self.challenge = challenge


class PeerUnavailable(BecknError):  # noqa: N818
    """A counterparty could not be reached or answered with a server error; worth a retry."""

    code = "NET_PEER_UNAVAILABLE"
    http_status = 502


class StoreError(GatewayError):
    """Durable state could not be written or read."""

    code = "store_unavailable"
    http_status = 503


class JournalBroken(GatewayError):  # noqa: N818
    """The journal does not verify.

    Attributes:
        seq: Number of the first bad entry.
        entry_id: Its id, where one can still be read.
    """

    code = "journal_broken"

    def __init__(self, seq: int, entry_id: str | None, detail: str) -> None:
        super().__init__(detail, seq=seq, entry_id=entry_id)
        self.seq = seq
        self.entry_id = entry_id


class SettlementRefused(GatewayError):  # noqa: N818
    """Delivered volume must not be computed from what is there (never counted as zero)."""

    code = "settlement_refused"
    http_status = 409


class ConfigError(Exception):
    """A setting that prevents the start. Names the setting, never its value."""
