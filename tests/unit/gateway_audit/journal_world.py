"""A small journal on disk, signed with a known key."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from nacl.signing import SigningKey

from gateway.audit.journal import JournalDraft, Payload, append
from gateway.store.database import Database

KEY = SigningKey(bytes(range(32)))
KEY_ID = "k1"
TRUSTED = {KEY_ID: bytes(KEY.verify_key)}
START = datetime(2026, 1, 5, 17, 15, tzinfo=UTC)


def sign(text: bytes) -> bytes:
    return KEY.sign(text).signature


def draft(number: int, **refs: str | None) -> JournalDraft:
    """An entry with a payload of its own and one that every third shares."""
    return JournalDraft(
        kind="beckn.sent",
        at=START + timedelta(seconds=number, microseconds=number),
        body={"number": number, "kw": 12.5, "headers": {"authorization": f"Signature {number}"}},
        payloads=(
            Payload(f'{{"message":{number}}}'.encode()),
            Payload(f"shared {number % 3}".encode(), "text/plain"),
        ),
        **refs,
    )


async def write_journal(data_dir: Path, entries: int, *, per_job: int = 4) -> None:
    database = Database.open(data_dir)
    drafts = [
        draft(number, feeder_id="FDR_001", transaction_id=f"t{number % 2}", order_id=None)
        for number in range(1, entries + 1)
    ]
    for first in range(0, entries, per_job):
        part = drafts[first : first + per_job]
        await database.write(lambda connection, part=part: append(connection, part, sign=sign, key_id=KEY_ID))
    await database.close()
