"""``fluxeon demo`` with sellers of either generation of Beckn, and of both: the same story each time."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from gateway.beckn.dialect import claimed
from gateway.orders.order import Order
from gateway.store.database import open_reader
from gateway.store.tables import flex_order, outbox

pytestmark = pytest.mark.slow

LIMIT_S = 240


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], Path]]:
    """The summary of one run per choice, and the folder it left."""
    told = {}
    for generation in ("2.0", "1.1", "mixed"):
        folder = tmp_path_factory.mktemp("demo") / "data"
        words = ("demo", "--once", "--json", "--no-dashboard", "--data-dir", str(folder))
        world = ("--source", "simulator", "--feeders", "1", "--generation", generation)
        done = subprocess.run(
            [sys.executable, "-m", "fluxeon", *words, *world],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        told[generation] = (json.loads(done.stdout.strip().splitlines()[-1]), folder)
    return told


@pytest.mark.parametrize("generation", ["2.0", "1.1", "mixed"])
def test_demo__completes_orders_whatever_is_spoken(stories, generation):
    summary, _ = stories[generation]
    done = [order for order in summary["orders"] if order["state"] == "COMPLETED"]
    assert done
    assert all(order["delivered_kwh"] > 0 for order in done)
    assert not [order for order in summary["orders"] if order["state"] in {"FAILED", "UNSETTLED"}]
    assert summary["audit"]["verified"]


def test_demo__sees_and_buys_the_same_in_every_generation(stories):
    seen = {
        generation: (summary["feeders"], summary["readings"], summary["state_changes"])
        for generation, (summary, _) in stories.items()
    }
    assert len(set(seen.values())) == 1, seen
    bought = {generation: _first_purchase(folder) for generation, (_, folder) in stories.items()}
    assert bought["2.0"] == bought["1.1"] == bought["mixed"]
    assert bought["2.0"]


def _first_purchase(folder: Path) -> list[Any]:
    """What the first decision ordered and what came of it.

    Later decisions see how far earlier orders are just then, which hangs on how fast the replay runs.
    """
    with open_reader(folder) as connection:
        bodies = connection.execute(select(flex_order.c.body)).scalars().all()
    orders = [msgspec.json.decode(body, type=Order) for body in bodies]
    decided_at = min(order.decided_event_at for order in orders)
    return sorted(
        [order.bpp_id, order.terms.offer_id, str(order.terms.lines), order.state, order.delivered_wh]
        for order in orders
        if order.decided_event_at == decided_at
    )


def test_demo__speaks_to_each_seller_in_its_own_version(stories):
    versions = {generation: _versions(folder) for generation, (_, folder) in stories.items()}
    assert {each for found in versions["2.0"].values() for each in found} == {"2.0.0"}
    assert {each for found in versions["1.1"].values() for each in found} == {"1.1.1"}
    assert all(len(found) == 1 for found in versions["mixed"].values())
    assert {each for found in versions["mixed"].values() for each in found} == {"2.0.0", "1.1.1"}


def _versions(folder: Path) -> dict[str, set[str | None]]:
    """Versions of what was sent, by seller."""
    found: dict[str, set[str | None]] = {}
    with open_reader(folder) as connection:
        for row in connection.execute(select(outbox.c.peer_id, outbox.c.body)):
            found.setdefault(row.peer_id, set()).add(claimed(row.body).version)
    return found
