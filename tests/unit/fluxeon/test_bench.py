"""Benchmarks run and report what they say they report; how long anything took is not judged here."""

import math
import os
import time

import msgspec
import pytest
from rich.console import Console

from fluxeon import cli
from fluxeon.bench import ingest, journal, loop, plan, protocol, runner
from fluxeon.bench.measure import Outcome, Ratio, Row, Spread, Table, interleave, judged, per_call_us, ratio
from gateway.clock import utc_now


def assert_sane(outcome: Outcome) -> None:
    """Every row fills its table; every figure is a positive number with its spread in order."""
    assert outcome.tables
    for table in outcome.tables:
        assert table.rows, table.title
        for row in table.rows:
            assert len(row.cells) == len(table.columns), (table.title, row.label)
            for cell in row.cells:
                if isinstance(cell, Spread):
                    assert cell.rounds >= 1
                    assert 0 <= cell.p10 <= cell.median <= cell.p90 < math.inf, (table.title, row.label)
    for one in outcome.ratios:
        assert (one.goal is None) == (one.reached is None)
    again = msgspec.json.decode(msgspec.json.encode(outcome), type=dict)
    assert again["name"] == outcome.name


def cell(outcome: Outcome, table: int, label: str, column: str) -> float:
    found = outcome.tables[table]
    row = next(row for row in found.rows if row.label.startswith(label))
    value = row.cells[found.columns.index(column)]
    return value.median if isinstance(value, Spread) else value


# --- measuring ----------------------------------------------------------------------------------------


def test_interleave__takes_turns_and_leaves_the_warm_up_out():
    seen = []

    def sample(name: str, value: float):
        return lambda: seen.append(name) or value

    taken = interleave({"a": sample("a", 1.0), "b": sample("b", 2.0)}, rounds=3)
    assert "".join(seen) == "ab" * 4
    assert taken == {"a": [1.0] * 3, "b": [2.0] * 3}


def test_ratio__compares_round_by_round():
    found = ratio("x", [2.0, 40.0, 6.0], [1.0, 10.0, 2.0], at_most=3.0)
    assert found.value.median == 3.0  # of 2, 4, 3
    assert found.reached is True
    assert judged("x", found.value, at_least=3.5).reached is False
    assert judged("x", found.value) == Ratio(name="x", value=found.value)


def test_per_call__counts_microseconds():
    sample = per_call_us(lambda: time.sleep(0.002), sample_s=0.004)
    assert sample() >= 2000


# --- the benchmarks that need no process --------------------------------------------------------------


def test_plan__reports_each_size():
    outcome = plan.measure(rounds=1, ders=(4, 9))
    assert_sane(outcome)
    assert [row.label for row in outcome.tables[0].rows] == ["4 DERs", "9 DERs"]
    assert cell(outcome, 0, "9 DERs", "orders") >= 1


def test_journal__shares_commits_and_verifies_what_was_written():
    outcome = journal.measure(rounds=1, entries=2 * journal.CALLERS, singles=3)
    assert_sane(outcome)
    assert cell(outcome, 0, "group commit", "entries per commit") > 1
    assert cell(outcome, 0, "one commit per entry", "entries per commit") == 1


def test_ingest__carries_readings_to_states_beside_the_bare_kernels():
    outcome = ingest.measure(rounds=1, feeders=(3,))
    assert_sane(outcome)
    together = cell(outcome, 0, "3 feeders", "together")
    assert together == pytest.approx(sum(cell(outcome, 0, "3 feeders", name) for name in ingest.STAGES))


def test_protocol__measures_messages_beside_the_primitives():
    outcome = protocol.measure(rounds=1, offer_counts=(1, 3), catalogues=1, requests=0)
    assert_sane(outcome)
    inbound = outcome.tables[0]
    assert [row.label for row in inbound.rows] == [
        "discover",
        "select",
        "init",
        "confirm",
        "on_discover, 1 offers",
        "on_discover, 3 offers",
    ]
    schemas = [one for one in outcome.ratios if one.name.startswith("python-jsonschema")]
    assert len(schemas) == len(inbound.rows)


# --- the ones that start processes --------------------------------------------------------------------


@pytest.mark.slow
def test_server__answers_every_callback():
    found = protocol.measure_server(rounds=1, requests=20)
    assert_sane(Outcome(name="server", tables=found.tables, ratios=found.ratios))
    assert len(found.tables[0].rows) == 3


@pytest.mark.slow
def test_loop__times_orders_and_their_stages():
    outcome = loop.measure(rounds=1, needs=2)
    assert_sane(outcome)
    assert cell(outcome, 0, "orders of the gateway", "flows") >= 2
    stages = outcome.tables[1]
    assert [row.label for row in stages.rows] == list(loop.STAGES)
    assert sum(row.cells[2] for row in stages.rows) == pytest.approx(1.0)


# --- the command --------------------------------------------------------------------------------------


def test_command__writes_the_report(monkeypatch, capsys, tmp_path):
    out = tmp_path / "bench.json"
    monkeypatch.setattr(
        "sys.argv", ["fluxeon", "bench", "plan", "--rounds", "1", "--json", "--out", str(out)]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    printed = msgspec.json.decode(capsys.readouterr().out, type=runner.BenchReport)
    assert msgspec.json.decode(out.read_bytes(), type=runner.BenchReport) == printed
    assert [outcome.name for outcome in printed.outcomes] == ["plan"]
    assert printed.machine.cores == os.cpu_count()


def test_command__names_what_there_is(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["fluxeon", "bench", "speed"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == cli.BAD_USAGE
    assert "protocol, ingest, loop, journal, plan" in capsys.readouterr().err


def test_show__prints_every_figure(capsys):
    spread = Spread(median=1.5, p10=1.0, p90=1234.5, rounds=5)
    outcome = Outcome(
        name="x",
        tables=(
            Table(title="T", columns=("a", "b"), rows=(Row(label="r", cells=(spread, None)),), note="n"),
        ),
        ratios=(judged("q", spread, at_least=2.0),),
    )
    runner.show(outcome, Console(width=120))
    shown = capsys.readouterr().out
    assert "1.5 [1 - 1,234]" in shown
    assert ">= 2" in shown


def test_report__says_when_it_cannot_be_written(tmp_path):
    report = runner.run_benchmarks([], runner.Options(), clock=utc_now, tell=lambda _: None)
    with pytest.raises(runner.CommandFailed, match="No such file"):
        runner.write_report(report, tmp_path / "missing" / "bench.json")
