"""One trading world per test, on a folder of its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from trading_world import TradingWorld

from gateway.trading import buyer, courier, desk, floor


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TradingWorld]:
    """A started world whose timers are looked at only when a test says so."""
    monkeypatch.setattr(floor, "TIMER_TICK_S", 3600.0)
    for module, pause in (
        (courier, "FIRST_PAUSE_S"),
        (floor, "RECEIPTS_PAUSE_S"),
        (desk, "STATUS_PAUSE_S"),
        (buyer, "REFRESH_PAUSE_S"),
    ):
        monkeypatch.setattr(module, pause, 0.0)
    made = await TradingWorld(tmp_path).start()
    yield made
    await made.close()
