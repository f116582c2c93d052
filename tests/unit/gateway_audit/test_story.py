import asyncio
import base64
from datetime import timedelta

import msgspec
import pytest
from journal_world import KEY_ID, START, sign
from sqlalchemy import insert

from gateway.audit.journal import JournalDraft, Payload, append
from gateway.audit.story import entries_from, search, story_of
from gateway.errors import InvalidRequest, NotFound
from gateway.store.database import Database, open_reader
from gateway.store.tables import flex_event, flex_order, settlement_row

SECOND = timedelta(seconds=1)


def note(connection, kind, second, *, payloads=(), **refs):
    draft = JournalDraft(
        kind=kind, at=START + second * SECOND, body={"headers": {"x": kind}}, payloads=payloads, **refs
    )
    append(connection, [draft], sign=sign, key_id=KEY_ID)


def add_need(connection, number, feeder_id="FDR_001"):
    row = {
        "need_id": f"need-{number}",
        "feeder_id": feeder_id,
        "state_change_id": f"change-{number}",
        "status": "OPEN",
        "decided_at": START,
        "event_at": START + timedelta(days=number),
        "body": '{"kw":40}',
    }
    connection.execute(insert(flex_event), row)


def add_order(connection, name, need, *, bpp="bpp-alpha.example", ders=("der:alpha:1",), provider="alpha"):
    body = {"terms": {"provider_id": provider, "lines": [{"der_id": der, "kw": 20} for der in ders]}}
    row = {
        "order_id": f"order-{name}",
        "obp_id": f"obp-{name}",
        "need_id": f"need-{need}",
        "feeder_id": f"FDR_00{need}",
        "bpp_id": bpp,
        "state": "COMPLETED",
        "version": 3,
        "transaction_id": f"tx-{name}",
        "body": msgspec.json.encode(body).decode(),
        "detected_at": START,
        "created_at": START + SECOND,
        "updated_at": START + SECOND,
    }
    connection.execute(insert(flex_order), row)


def add_row(connection, name, period, delivered_wh, *, version=1, der="der:alpha:1"):
    row = {
        "obp_id": f"obp-{name}",
        "der_id": der,
        "settlement_date": "2026-01-05",
        "settlement_period": period,
        "row_version": version,
        "row": f'{{"delivered_wh":{delivered_wh}}}',
        "instructed_wh": 20_000,
        "baseline_wh": 52_000,
        "metered_wh": 52_000 - delivered_wh,
        "delivered_wh": delivered_wh,
        "method": "NOMINATED",
        "computed_at": START,
    }
    connection.execute(insert(settlement_row), row)


def fill(connection):
    """Two orders of one need, and one of another need whose state change is its own."""
    add_need(connection, 1)
    add_need(connection, 2)
    for name, need in (("a", 1), ("b", 1), ("c", 2)):
        add_order(connection, name, need)
    note(connection, "state.changed", 0, feeder_id="FDR_001", event_id="change-1")
    note(connection, "need.decided", 1, feeder_id="FDR_001", event_id="need-1")
    note(connection, "beckn.sent discover", 2, transaction_id="tx-discover", event_id="need-1")
    note(
        connection,
        "beckn.sent a",
        5,
        transaction_id="tx-a",
        order_id="order-a",
        obp_id="obp-a",
        event_id="need-1",
        payloads=(
            Payload(b'{"message":{"kw":20}}'),
            Payload(b"\x00\x01", "application/octet-stream"),
            Payload(b"{broken", "application/json; charset=utf-8"),
        ),
    )
    note(connection, "beckn.sent b", 4, transaction_id="tx-b", order_id="order-b", obp_id="obp-b")
    note(connection, "refused for a", 6, transaction_id="tx-a")
    note(connection, "alarm of b", 7, order_id="order-b", event_id="need-1")
    note(connection, "state.changed", 8, feeder_id="FDR_001", event_id="change-2")
    note(connection, "timer of a", 3, order_id="order-a")
    add_row(connection, "a", 35, 19_000)
    add_row(connection, "a", 36, 14_400)
    add_row(connection, "a", 36, 14_000, version=2)
    add_row(connection, "b", 35, 1)


@pytest.fixture(scope="module")
def connection(tmp_path_factory):
    path = tmp_path_factory.mktemp("story")

    async def write():
        database = Database.open(path)
        await database.write(fill)
        await database.close()

    asyncio.run(write())
    with open_reader(path) as opened:
        yield opened


def test_a_story_has_all_that_led_to_the_order_and_nothing_of_its_siblings(connection):
    story = story_of(connection, "obp-a")
    assert [entry["kind"] for entry in story["entries"]] == [
        "state.changed",
        "need.decided",
        "beckn.sent discover",
        "timer of a",
        "beckn.sent a",
        "refused for a",
    ]
    assert story["entries"][0]["refs"] == {"feeder_id": "FDR_001", "event_id": "change-1"}
    assert story["related_obp_ids"] == ["obp-b"]


def test_a_story_shows_messages_as_they_were(connection):
    (sent,) = [entry for entry in story_of(connection, "obp-a")["entries"] if entry["kind"] == "beckn.sent a"]
    assert sent["body"] == {"headers": {"x": "beckn.sent a"}}
    assert sent["payloads"][0]["json"] == {"message": {"kw": 20}}
    assert base64.b64decode(sent["payloads"][1]["base64"]) == b"\x00\x01"
    assert base64.b64decode(sent["payloads"][2]["base64"]) == b"{broken"
    assert [payload["size"] for payload in sent["payloads"]] == [21, 2, 7]


def test_a_story_has_the_order_the_need_and_every_version_of_its_settlement(connection):
    story = story_of(connection, "obp-a")
    (order,) = story["orders"]
    assert (order["obp_id"], order["state"]) == ("obp-a", "COMPLETED")
    assert order["body"]["terms"]["provider_id"] == "alpha"
    assert order["detected_at"] == "2026-01-05T17:15:00.000000Z"
    assert [need["need_id"] for need in story["needs"]] == ["need-1"]
    assert [(row["settlement_period"], row["row_version"]) for row in story["settlement"]] == [
        (35, 1),
        (36, 1),
        (36, 2),
    ]
    assert story["head"]["size"] == 9
    assert msgspec.json.decode(msgspec.json.encode(story)) == story


def test_a_story_is_told_from_the_journal_alone_where_the_order_row_is_gone(tmp_path):
    async def write():
        database = Database.open(tmp_path)
        await database.write(
            lambda connection: note(connection, "sent", 1, obp_id="lost", transaction_id="t", event_id="e")
        )
        await database.write(lambda connection: note(connection, "received", 2, transaction_id="t"))
        await database.close()

    asyncio.run(write())
    with open_reader(tmp_path) as connection:
        story = story_of(connection, "lost")
    assert [entry["kind"] for entry in story["entries"]] == ["sent", "received"]
    assert story["orders"] == []


def test_an_unknown_obp_id_is_not_found(connection):
    with pytest.raises(NotFound, match="no-such"):
        story_of(connection, "no-such")


def test_entries_come_in_pages_that_join_without_loss(connection):
    seen, position = [], 1
    while position is not None:
        page = entries_from(connection, position, 4)
        seen += [entry["seq"] for entry in page["entries"]]
        position = page["next_seq"]
    assert seen == list(range(1, 10))
    assert entries_from(connection, 100, 4)["entries"] == []


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_a_page_of_no_sensible_size_is_refused(connection, limit):
    with pytest.raises(InvalidRequest, match="limit"):
        entries_from(connection, 1, limit)
    with pytest.raises(InvalidRequest, match="limit"):
        search(connection, limit=limit)


# ---- the search --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def orders(tmp_path_factory):
    """Five needs on five days, two orders each; the second is sold by beta and has odd DER ids."""
    path = tmp_path_factory.mktemp("search")

    def fill_orders(connection):
        for need in range(1, 6):
            add_need(connection, need)
            add_order(connection, f"{need}a", need, ders=("der:alpha:1", "der:alpha:11"))
            add_order(
                connection,
                f"{need}b",
                need,
                bpp="bpp-beta.example",
                ders=(f"did:example:%_{need}", 'quo"te\\é'),
                provider="beta",
            )
        add_row(connection, "1a", 35, 19_000)
        add_row(connection, "1a", 36, 14_400)
        add_row(connection, "1a", 36, 14_000, version=2)

    async def write():
        database = Database.open(path)
        await database.write(fill_orders)
        await database.close()

    asyncio.run(write())
    with open_reader(path) as opened:
        yield opened


def found(connection, **conditions):
    return [item["obp_id"] for item in search(connection, **conditions)["items"]]


def test_a_search_gives_the_newest_decision_first(orders):
    assert found(orders) == [f"obp-{need}{part}" for need in (5, 4, 3, 2, 1) for part in "ab"]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        pytest.param({"feeder_id": "FDR_002"}, ["obp-2a", "obp-2b"], id="feeder"),
        pytest.param({"der_id": "der:alpha:11", "feeder_id": "FDR_003"}, ["obp-3a"], id="DER on feeder"),
        pytest.param({"der_id": "did:example:%_4"}, ["obp-4b"], id="DER id with wildcards"),
        pytest.param({"der_id": "did:example:__4"}, [], id="wildcards match only themselves"),
        pytest.param({"der_id": "der:alpha"}, [], id="part of a DER id"),
        pytest.param({"der_id": 'quo"te\\é', "feeder_id": "FDR_001"}, ["obp-1b"], id="DER id to be escaped"),
        pytest.param({"aggregator_id": "beta", "feeder_id": "FDR_001"}, ["obp-1b"], id="provider"),
        pytest.param({"aggregator_id": "alpha", "feeder_id": "FDR_001"}, ["obp-1a"], id="within DER ids"),
        pytest.param(
            {"aggregator_id": "bpp-beta.example", "feeder_id": "FDR_005"}, ["obp-5b"], id="subscriber id"
        ),
        pytest.param({"aggregator_id": "alph"}, [], id="part of a name"),
        pytest.param(
            {"from_at": START + timedelta(days=2), "to_at": START + timedelta(days=3)},
            ["obp-2a", "obp-2b"],
            id="from is included, to is not",
        ),
        pytest.param({"feeder_id": "none"}, [], id="nothing"),
    ],
)
def test_a_search_finds_by_what_is_asked(orders, conditions, expected):
    assert found(orders, **conditions) == expected


@pytest.mark.parametrize("limit", [1, 3, 10])
@pytest.mark.parametrize("conditions", [{}, {"der_id": "der:alpha:1"}])
def test_pages_of_a_search_join_without_loss_or_repetition(orders, limit, conditions, monkeypatch):
    monkeypatch.setattr("gateway.audit.story.SCAN_PAGE", 3)
    seen, cursor = [], None
    while True:
        page = search(orders, **conditions, limit=limit, cursor=cursor)
        assert len(page["items"]) <= limit
        seen += [item["obp_id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    monkeypatch.undo()
    assert seen == found(orders, **conditions)


def test_a_summary_counts_the_newest_version_of_each_settlement_row(orders):
    (item, *_) = search(orders, feeder_id="FDR_001")["items"]
    assert item["obp_id"] == "obp-1a"
    assert item["delivered_wh"] == 33_000
    assert item["der_ids"] == ["der:alpha:1", "der:alpha:11"]
    assert item["event_at"] == "2026-01-06T17:15:00.000000Z"
    assert search(orders, feeder_id="FDR_002")["items"][0]["delivered_wh"] is None


@pytest.mark.parametrize("cursor", ["x", "!!!!", "eHh4", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5IHg"])
def test_a_cursor_of_ones_own_making_is_refused(orders, cursor):
    with pytest.raises(InvalidRequest, match="cursor"):
        search(orders, cursor=cursor)
