"""The demo's processes, and the portfolios they sell from."""

import asyncio
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import numpy as np
import pytest

from fluxeon.demo import world as world_module
from fluxeon.demo.portfolios import write_portfolios
from fluxeon.demo.source import DemoFeeder, RatedBy, open_source
from fluxeon.demo.world import World, free_ports, last_line, lay_out, seller_generation
from fluxeon.errors import CommandFailed
from ml.series import LoadSeries
from registry.bpp.portfolio import load_portfolio
from seeds.load import load_participants

SELLERS = load_participants().participants


def unknown(name: str, rating_kw: float) -> DemoFeeder:
    end = int(datetime(2021, 3, 1, tzinfo=UTC).timestamp())
    return DemoFeeder(LoadSeries(name, 15, np.array([end]), np.array([1.0])), rating_kw, RatedBy.RULE)


def test_free_ports__differ():
    ports = free_ports(50)
    assert len(set(ports)) == 50
    assert min(ports) > 1023


def test_lay_out__gives_everyone_a_port_and_a_secret_of_its_own(tmp_path: Path):
    layout = lay_out(tmp_path, SELLERS)
    endpoints = [layout.registry, layout.gateway, *(endpoint for _, endpoint in layout.sellers)]
    assert len({endpoint.port for endpoint in endpoints}) == 5
    assert len({endpoint.token for endpoint in endpoints}) == 5
    assert min(len(endpoint.token) for endpoint in endpoints) >= 40


def test_last_line__is_the_last_that_says_something(tmp_path: Path):
    log = tmp_path / "x.log"
    assert last_line(log) == "it wrote nothing"
    log.write_text("first\n  the reason  \n\n")
    assert last_line(log) == "the reason"


def test_commands__carry_no_secret(tmp_path: Path):
    layout = lay_out(tmp_path, SELLERS)
    world = World(layout, domain="d", gateway_id="g")
    words = world._registry_command() + world._gateway_command()
    for seller, endpoint in layout.sellers:
        words += world._seller_command(seller, endpoint, "1.1")
    secrets = {layout.gateway.token, *(endpoint.token for _, endpoint in layout.sellers)}
    assert not secrets & set(words)


def launch(world: World, script: str) -> int:
    """Start a child that is a Python script instead of a command of ours."""
    world.layout.log("x").parent.mkdir(parents=True, exist_ok=True)
    world._launch("child", ["-c", script], {})
    return world.running[-1].process.pid


@pytest.fixture
def scripted(monkeypatch, tmp_path: Path) -> World:
    """A world whose children are scripts."""
    popen = world_module.subprocess.Popen

    def run(words, **options):
        assert words[1:4] == ["-m", "fluxeon", "-c"]
        return popen([words[0], "-c", words[4]], **options)

    monkeypatch.setattr(world_module.subprocess, "Popen", run)
    return World(lay_out(tmp_path, SELLERS), domain="d", gateway_id="g")


def test_check__names_a_process_that_died_with_its_last_words(scripted: World):
    launch(scripted, "import sys; print('starting'); sys.exit('the port is taken')")
    scripted.running[0].process.wait(10)
    with pytest.raises(CommandFailed, match="child ended with code 1: the port is taken"):
        scripted.check()


def test_stop__ends_every_child_even_one_that_ignores_it(scripted: World, monkeypatch):
    monkeypatch.setattr(world_module, "STOP_GRACE_S", 0.3)
    ready = "print('up', flush=True); time.sleep(60)"
    pids = [
        launch(scripted, f"import time; {ready}"),
        launch(scripted, f"import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); {ready}"),
    ]
    log = scripted.layout.log("child")
    deadline = time.monotonic() + 20
    while log.read_text().count("up") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    scripted.stop()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert scripted.running == []


async def test_ready__gives_up_in_time_and_says_what_the_log_says(scripted: World, monkeypatch):
    monkeypatch.setattr(world_module, "READY_WITHIN_S", 0.2)
    endpoint = scripted.layout.registry
    scripted.layout.log("x").parent.mkdir(parents=True, exist_ok=True)
    scripted.layout.log("registry").write_text("still thinking\n")
    async with aiohttp.ClientSession() as http:
        with pytest.raises(CommandFailed, match="registry is not ready after 0 s: still thinking"):
            await scripted._ready(http, endpoint)


async def test_watch__ends_when_a_process_does(scripted: World, monkeypatch):
    monkeypatch.setattr(world_module, "WATCH_S", 0.01)
    launch(scripted, "raise SystemExit('gone')")
    with pytest.raises(CommandFailed, match="gone"):
        await asyncio.wait_for(scripted.watch(), 10)


# --- portfolios -----------------------------------------------------------------------------------


def written(tmp_path: Path, feeders: list[DemoFeeder]) -> tuple[dict[str, float], list]:
    files = [tmp_path / f"{seller.provider_id}.json" for seller in SELLERS]
    offered = write_portfolios(SELLERS, files, feeders)
    return offered, [load_portfolio(file) for file in files]


def test_write_portfolios__generates_for_a_feeder_without_seeds(tmp_path: Path):
    offered, portfolios = written(tmp_path, [unknown("NORTH", 5000.0)])
    assert 0.10 <= offered["NORTH"] / 5000.0 <= 0.15
    assert [portfolio.feeder_ids for portfolio in portfolios] == [("NORTH",)] * 3
    assert sum(der.capacity_kw for portfolio in portfolios for der in portfolio.ders) == pytest.approx(
        offered["NORTH"]
    )


def test_write_portfolios__keeps_the_seeded_ders_of_the_feeders_that_are_replayed(tmp_path: Path):
    offered, portfolios = written(tmp_path, list(open_source("bundled", feeders=2).feeders))
    assert offered == {}
    assert [portfolio.feeder_ids for portfolio in portfolios] == [("FDR_001", "FDR_002")] * 3
    assert [len(portfolio.ders) for portfolio in portfolios] == [8, 8, 8]


def test_write_portfolios__mixes_seeded_and_generated_without_repeating_an_id(tmp_path: Path):
    seeded = open_source("bundled").feeders[4]
    offered, portfolios = written(tmp_path, [seeded, unknown("NORTH", 800.0)])
    assert set(offered) == {"NORTH"}
    for portfolio in portfolios:
        assert portfolio.feeder_ids == ("FDR_005", "NORTH")
        assert len({der.der_id for der in portfolio.ders}) == 8


@pytest.mark.parametrize(
    ("chosen", "spoken"),
    [("2.0", {"2.0"}), ("1.1", {"1.1"}), ("mixed", {"1.1", "2.0"})],
)
def test_seller_generation__mixes_both_among_the_sellers(chosen: str, spoken: set[str]):
    assert {seller_generation(chosen, number) for number in range(len(SELLERS))} == spoken
