from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import StrEnum

import msgspec
import pytest
from journal_world import KEY, KEY_ID, START, draft, sign
from sqlalchemy import delete, func, select

from gateway.audit import chain
from gateway.audit.journal import JournalDraft, Payload, append, read_head
from gateway.errors import JournalBroken
from gateway.store.database import Database
from gateway.store.tables import journal_entry, journal_head, payload


@pytest.fixture
async def database(tmp_path):
    opened = Database.open(tmp_path)
    yield opened
    await opened.close()


def appending(*drafts: JournalDraft):
    return lambda connection: append(connection, drafts, sign=sign, key_id=KEY_ID)


def count(table):
    return lambda connection: connection.execute(select(func.count()).select_from(table)).scalar_one()


async def test_entries_are_numbered_from_one_without_gaps_across_jobs(database):
    first = await database.write(appending(draft(1), draft(2)))
    second = await database.write(appending(draft(3)))
    assert [entry.seq for entry in first + second] == [1, 2, 3]
    assert len({entry.entry_id for entry in first + second}) == 3


async def test_the_chain_hash_is_the_one_of_the_written_rule(database):
    appended = await database.write(appending(draft(1), draft(2)))
    head = await database.read(read_head)
    expected = chain.genesis(head.origin)
    for entry in appended:
        expected = chain.link(expected, entry.leaf_hash)
        assert entry.chain_hash == expected
    assert (head.size, head.chain_hash, head.key_id) == (2, expected, KEY_ID)
    KEY.verify_key.verify(chain.head_text(head.origin, 2, expected), head.signature)


async def test_an_entry_keeps_everything_its_draft_says(database):
    (appended,) = await database.write(
        appending(draft(7, feeder_id="F", transaction_id="t", order_id="o", obp_id="p", event_id="e"))
    )
    row = await database.read(lambda connection: connection.execute(select(journal_entry)).one())
    entry = chain.parse_entry(row.entry)
    assert entry.id == row.entry_id == appended.entry_id
    assert entry.at == "2026-01-05T17:15:07.000007Z"
    assert row.at == START + timedelta(seconds=7, microseconds=7)
    assert entry.refs == chain.Refs(feeder_id="F", transaction_id="t", order_id="o", obp_id="p", event_id="e")
    assert entry.body == {"number": 7, "kw": 12.5, "headers": {"authorization": "Signature 7"}}
    assert [ref.media_type for ref in entry.payloads] == ["application/json", "text/plain"]
    assert entry.payloads[0].digest == chain.payload_digest(b'{"message":7}')


async def test_equal_payloads_are_kept_once_and_other_media_types_apart(database):
    twice = Payload(b"same")
    other = Payload(b"same", "text/plain")
    drafts = [
        JournalDraft(kind="k", at=START, body={}, payloads=(twice, other)),
        JournalDraft(kind="k", at=START, body={}, payloads=(twice, twice)),
    ]
    await database.write(appending(*drafts))
    await database.write(appending(*drafts))
    assert await database.read(count(payload)) == 2


async def test_an_entry_that_cannot_be_written_leaves_the_journal_as_it_was(database):
    await database.write(appending(draft(1)))
    bad = JournalDraft(kind="k", at=START, body={"kw": float("nan")}, payloads=(Payload(b"orphan"),))
    with pytest.raises(ValueError, match="/body/kw"):
        await database.write(appending(draft(2), bad))
    assert await database.read(count(journal_entry)) == 1
    assert await database.read(count(payload)) == 2
    assert (await database.write(appending(draft(2))))[0].seq == 2


async def test_a_job_that_fails_after_appending_leaves_no_entry(database):
    def job(connection):
        appending(draft(1))(connection)
        raise LookupError

    with pytest.raises(LookupError):
        await database.write(job)
    assert await database.read(count(journal_entry)) == 0
    assert await database.read(read_head) is None


async def test_nothing_appended_starts_no_journal(database):
    assert await database.write(appending()) == []
    assert await database.read(read_head) is None


async def test_a_journal_whose_head_is_gone_is_not_continued(database):
    await database.write(appending(draft(1)))
    await database.write(lambda connection: connection.execute(delete(journal_head)).rowcount)
    with pytest.raises(JournalBroken, match="no head"):
        await database.write(appending(draft(2)))


async def test_two_journals_never_share_an_origin(database, tmp_path):
    other = Database.open(tmp_path / "other")
    for each in (database, other):
        await each.write(appending(draft(1)))
    origins = [(await each.read(read_head)).origin for each in (database, other)]
    await other.close()
    assert origins[0] != origins[1]
    assert chain.genesis(origins[0]) != chain.genesis(origins[1])


class Colour(StrEnum):
    RED = "RED"


class Facts(msgspec.Struct):
    at: datetime
    price: Decimal
    colour: Colour
    pair: tuple[int, float]


def test_a_body_may_hold_structs_instants_decimals_and_enums():
    facts = Facts(datetime(2026, 1, 5, tzinfo=UTC), Decimal("0.10"), Colour.RED, (1, 2.0))
    data = chain.entry_bytes(
        seq=1,
        entry_id="i",
        at=START.astimezone(timezone(timedelta(hours=5))),
        kind="k",
        refs=chain.Refs(obp_id="x"),
        payloads=(),
        body={"facts": facts},
    )
    assert data == (
        b'{"at":"2026-01-05T17:15:00.000000Z","body":{"facts":{"at":"2026-01-05T00:00:00Z",'
        b'"colour":"RED","pair":[1,2],"price":"0.10"}},"id":"i","kind":"k","payloads":[],'
        b'"refs":{"obp_id":"x"},"seq":1,"v":1}'
    )


@pytest.mark.parametrize(
    ("body", "match"),
    [
        pytest.param({"x": object()}, "not JSON data", id="an object"),
        pytest.param({"x": 2**60}, "/body/x", id="an integer that readers round"),
    ],
)
def test_a_body_without_a_single_spelling_is_refused(body, match):
    with pytest.raises(ValueError, match=match):
        chain.entry_bytes(seq=1, entry_id="i", at=START, kind="k", refs=chain.Refs(), payloads=(), body=body)


def test_a_naive_instant_is_refused():
    with pytest.raises(ValueError, match="naive"):
        chain.entry_bytes(
            seq=1,
            entry_id="i",
            at=START.replace(tzinfo=None),
            kind="k",
            refs=chain.Refs(),
            payloads=(),
            body={},
        )


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{}", id="no members"),
        pytest.param(b"\xff", id="no text"),
        pytest.param(
            b'{"at":"","body":{},"id":"","kind":"","payloads":[],"refs":{},"seq":1,"v":2}', id="version 2"
        ),
        pytest.param(
            b'{"at":"","body":{},"id":"","kind":"","payloads":[],"refs":{},"seq":1,"v":1,"x":1}',
            id="unknown member",
        ),
    ],
)
def test_bytes_that_are_no_entry_are_refused(data):
    with pytest.raises(ValueError, match="journal entry"):
        chain.parse_entry(data)


def test_hashes_have_one_domain_each():
    """Entry, link and origin of the same bytes never hash alike; RFC 6962 leaves the 0x01 to nodes."""
    left, right = bytes(32), bytes(range(32))
    hashes = {
        chain.leaf_hash(left + right),
        chain.link(left, right),
        chain.link(right, left),
        chain.genesis((left + right).decode("latin-1")),
    }
    assert len(hashes) == 4
    assert chain.leaf_hash(b"").hex().startswith("6e340b9c")  # RFC 6962: the leaf of an empty entry
    with pytest.raises(ValueError, match="32 bytes"):
        chain.link(left, right + b"\x00")


def test_the_head_is_a_text_that_says_what_it_is():
    text = chain.head_text("fluxeon/1", 12, bytes(32))
    assert text == b"fluxeon journal head v1\nfluxeon/1\n12\n" + b"A" * 43 + b"=\n"
