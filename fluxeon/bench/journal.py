"""``journal``: durable appends by group commit beside one commit per entry, and verification.

Reference of the appends is the same database with one caller, so that every entry has a commit (and
a forced write to the disk) of its own. A bare append of 4 KiB with fdatasync shows what the disk takes.
"""

import asyncio
import os
import tempfile
import time
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection

from fluxeon.bench import samples
from fluxeon.bench.measure import Outcome, Row, Spread, Table, ratio
from gateway.audit.journal import JournalDraft, Payload, append
from gateway.audit.verify import verify_data_dir
from gateway.beckn.signing import decode_public_key
from gateway.clock import utc_now
from gateway.keyring import SignBytes, load_signer
from gateway.store.database import Database

NAME = "journal"
CALLERS = 32
ENTRIES = 640
"""Per round by group commit."""
SINGLES = 80
"""Per round with a commit each."""
PAYLOAD_BYTES = 2048
PAGE = bytes(4096)
PAGES = 80


def measure(*, rounds: int, entries: int = ENTRIES, singles: int = SINGLES) -> Outcome:
    """Measure appends and verification on a database of its own, in the folder for temporary files.

    Args:
        rounds: Interleaved rounds.
        entries: Entries per round that share commits; a multiple of the callers.
        singles: Entries per round that have a commit each.
    """
    with tempfile.TemporaryDirectory(prefix="fluxeon-bench-") as folder:
        return asyncio.run(_measure(Path(folder), rounds, entries, singles))


async def _measure(folder: Path, rounds: int, entries: int, singles: int) -> Outcome:
    signer = load_signer(folder, samples.BUYER_ID)
    sign = SignBytes(signer)
    database = Database.open(folder)
    number = 0

    async def add() -> None:
        nonlocal number
        number += 1
        drafts = [_draft(number, utc_now())]

        def job(connection: Connection) -> None:
            append(connection, drafts, sign=sign, key_id=signer.key_id)

        await database.write(job)

    async def caller(count: int) -> None:
        for _ in range(count):
            await add()

    async def timed_us(callers: int, count: int) -> float:
        begin = time.perf_counter_ns()
        await asyncio.gather(*(caller(count // callers) for _ in range(callers)))
        return (time.perf_counter_ns() - begin) / count / 1000

    single: list[float] = []
    group: list[float] = []
    bare: list[float] = []
    commits: list[float] = []
    try:
        await timed_us(CALLERS, CALLERS)
        for _ in range(rounds):
            single.append(await timed_us(1, singles))
            before = database.stats()
            group.append(await timed_us(CALLERS, entries))
            after = database.stats()
            commits.append((after.writes - before.writes) / (after.commits - before.commits))
            bare.append(_bare_write_us(folder / "bare"))
    finally:
        await database.close()
    verify = []
    keys = {signer.key_id: decode_public_key(signer.public_key)}
    for _ in range(rounds):
        begin = time.perf_counter_ns()
        report = verify_data_dir(folder, keys)
        verify.append((time.perf_counter_ns() - begin) / report.entries / 1000)
    return Outcome(
        name=NAME,
        tables=(
            Table(
                title=f"Journal: entries with a payload of {PAYLOAD_BYTES} bytes, synchronous=FULL",
                columns=("us per entry", "entries per second", "entries per commit"),
                rows=(
                    _row(f"group commit, {CALLERS} callers", group, Spread.of(commits)),
                    _row("one commit per entry (reference)", single, 1),
                    _row("bare append of 4 KiB and fdatasync", bare, None),
                    _row("verification, payloads included", verify, None),
                ),
            ),
        ),
        ratios=(ratio("one commit per entry / group commit", single, group, at_least=8.0),),
    )


def _row(label: str, taken_us: list[float], commits: Spread | int | None) -> Row:
    return Row(
        label=label, cells=(Spread.of(taken_us), Spread.of([1e6 / value for value in taken_us]), commits)
    )


def _draft(number: int, now: datetime) -> JournalDraft:
    return JournalDraft(
        kind="beckn.received",
        at=now,
        feeder_id=samples.FEEDER_ID,
        transaction_id=samples.TRANSACTION_ID,
        order_id=samples.uuid_text(number),
        obp_id=samples.OBP_ID,
        event_id=samples.uuid_text(7),
        body={
            "action": "on_status",
            "message_id": samples.uuid_text(number),
            "peer_id": samples.SELLER_ID,
            "solicited": True,
            "headers": {"authorization": "Signature " + "x" * 280, "content-type": "application/json"},
        },
        payloads=(Payload(content=number.to_bytes(8, "big") * (PAYLOAD_BYTES // 8)),),
    )


def _bare_write_us(path: Path) -> float:
    """Append pages, each forced to the disk; microseconds per page."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        begin = time.perf_counter_ns()
        for _ in range(PAGES):
            os.write(descriptor, PAGE)
            os.fdatasync(descriptor)
        return (time.perf_counter_ns() - begin) / PAGES / 1000
    finally:
        os.close(descriptor)
