import asyncio
import sqlite3
import stat

import msgspec
import pytest
from bpp_samples import HOUR, START, catalogue, terms

from gateway.errors import ConfigError, StoreError
from registry.bpp.contracts import draft, quote
from registry.bpp.keys import load_or_create_signer
from registry.bpp.storage import Callback, Change, Ledger, Taken


def contract(contract_id="c-1", **changes):
    wanted = terms()
    made = draft(
        quote(catalogue(), {}, wanted, now=START - HOUR),
        wanted,
        contract_id=contract_id,
        bap_id="bap.example",
        bap_uri="http://bap/beckn",
        transaction_id="t-1",
    )
    return msgspec.structs.replace(made, **changes)


def callback(number):
    return Callback(
        number=number,
        action="on_init",
        transaction_id="t-1",
        message_id=f"m-{number}",
        url="http://bap/beckn/on_init",
        body=b'{"x":"\xc3\xa9"}',
        request_signature="c2ln",
        void_at=START,
    )


async def test_ledger__remembers_everything_it_was_told(tmp_path):
    ledger = Ledger(tmp_path)
    change = Change(
        contracts=(contract(),),
        taken=(Taken(sender_id="bap.example", message_id="m-1", digest="d"),),
        owed=(callback(1), callback(2)),
        event_time=START,
    )
    await ledger.write(change)
    await ledger.write(Change(contracts=(contract(confirmed_at=START),)))
    ledger.strike_off(1)
    await ledger.close()

    reopened = Ledger(tmp_path)
    remembered = reopened.remembered()
    assert remembered.contracts == (contract(confirmed_at=START),)
    assert remembered.taken == change.taken
    assert remembered.owed == (callback(2),)
    assert remembered.event_time == START
    await reopened.close()


async def test_ledger__many_writers_share_commits(tmp_path):
    ledger = Ledger(tmp_path)
    commits = []
    ledger._db.set_trace_callback(lambda sql: commits.append(sql) if sql == "BEGIN" else None)
    await asyncio.gather(*(ledger.write(Change(contracts=(contract(f"c-{n}"),))) for n in range(50)))
    assert len(ledger.remembered().contracts) == 50
    assert len(commits) <= 5
    await ledger.close()


async def test_ledger__is_durable_when_write_returns(tmp_path):
    ledger = Ledger(tmp_path)
    await ledger.write(Change(event_time=START))
    # Copies of the files as a crash would leave them, without closing.
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for file in tmp_path.glob("bpp.sqlite*"):
        (crashed / file.name).write_bytes(file.read_bytes())
    await ledger.close()
    after = Ledger(crashed)
    assert after.remembered().event_time == START
    await after.close()


async def test_ledger__refuses_a_second_process(tmp_path):
    ledger = Ledger(tmp_path)
    with pytest.raises(StoreError, match="locked"):
        Ledger(tmp_path)
    await ledger.close()


async def test_ledger__a_failed_commit_fails_all_who_wait_for_it(tmp_path):
    ledger = Ledger(tmp_path)
    await ledger.write(Change(owed=(callback(1),)))
    twice = [ledger.write(Change(owed=(callback(number),))) for number in (2, 1)]
    results = await asyncio.gather(*twice, return_exceptions=True)
    assert all(isinstance(result, StoreError) for result in results)
    assert ledger.remembered().owed == (callback(1),)
    await ledger.write(Change(owed=(callback(3),)))
    await ledger.close()


async def test_ledger__names_a_file_that_is_no_database(tmp_path):
    (tmp_path / "bpp.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match=r"bpp\.sqlite"):
        Ledger(tmp_path)


async def test_ledger__names_a_record_it_cannot_read(tmp_path):
    await Ledger(tmp_path).close()
    with sqlite3.connect(tmp_path / "bpp.sqlite") as database:
        database.execute("INSERT INTO contract VALUES ('c', '{}')")
    database.close()
    ledger = Ledger(tmp_path)
    with pytest.raises(StoreError, match="missing required field"):
        ledger.remembered()
    await ledger.close()


def test_signer__is_made_once_and_kept_private(tmp_path):
    first = load_or_create_signer(tmp_path, "bpp.example")
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = load_or_create_signer(tmp_path, "bpp.example")
    assert (again.key_id, again.public_key) == (first.key_id, first.public_key)
    assert load_or_create_signer(tmp_path / "other", "bpp.example").public_key != first.public_key


def test_signer__refuses_a_key_others_can_read(tmp_path):
    load_or_create_signer(tmp_path, "bpp.example")
    (file,) = tmp_path.iterdir()
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_or_create_signer(tmp_path, "bpp.example")


def test_signer__never_shows_a_broken_key(tmp_path):
    load_or_create_signer(tmp_path, "bpp.example")
    (file,) = tmp_path.iterdir()
    file.write_text('{"key_id": "k", "private_key": "secretsecret"}')
    with pytest.raises(ConfigError) as caught:
        load_or_create_signer(tmp_path, "bpp.example")
    assert "secretsecret" not in str(caught.value)
