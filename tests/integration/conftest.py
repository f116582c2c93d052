"""One short run of everything, shared by the tests that read what it has left behind."""

import asyncio
from pathlib import Path

import pytest
from short_run import ShortRun, run_short


@pytest.fixture(scope="session")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> ShortRun:
    """Data folder of a gateway that traded with two mock sellers and was stopped; read only."""
    folder = tmp_path_factory.mktemp("short") / "data"
    return asyncio.run(run_short(Path(folder)))
