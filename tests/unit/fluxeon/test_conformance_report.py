"""What a run's results come to: score, verdict, table, JUnit."""

import io
import xml.etree.ElementTree as ET

import pytest
from rich.console import Console

from fluxeon.conformance.case import Case
from fluxeon.conformance.cases import bodies, buyer, contexts, schemas, seller, signatures
from fluxeon.conformance.report import Report, show, verdict, write_junit
from fluxeon.conformance.run import Options, conform, play
from fluxeon.conformance.verdict import Blocked, Level, Mismatch, NotApplicable, Outcome
from fluxeon.errors import BadUsage
from gateway.clock import utc_now


def case(case_id, error=None, level=Level.MUST):
    async def act(_session):
        if error is not None:
            raise error

    return Case(id=case_id, title="a title", spec="a section", mend="do so", play=act, level=level)


async def report(*cases: Case):
    told = []
    results = await play(None, cases, (), told.append)
    assert told == results
    return Report.of(
        results,
        target="http://127.0.0.1:1/beckn",
        subscriber_id="x.example",
        role="bpp",
        generation="2.0",
        started_at="2026-01-05T17:15:00Z",
        took_s=1.25,
    )


async def test_a_failed_should_costs_points_but_not_the_verdict():
    made = await report(case("A-1"), case("A-2", Mismatch("a", "b"), Level.SHOULD))
    assert (made.passed, made.failed, made.score, made.conformant) == (1, 1, 50.0, True)


@pytest.mark.parametrize("error", [Mismatch("a", "b"), Blocked("no offer")])
async def test_a_must_that_did_not_pass_is_decisive(error):
    made = await report(case("A-1"), case("A-2", error))
    assert (made.score, made.conformant) == (50.0, False)


async def test_what_does_not_apply_does_not_count():
    made = await report(case("A-1"), case("A-2", NotApplicable("no clock")))
    assert (made.passed, made.skipped, made.score, made.conformant) == (1, 1, 100.0, True)


async def test_nothing_tried_is_not_conformant():
    made = await report(case("A-1", NotApplicable("no clock")))
    assert (made.score, made.conformant) == (0.0, False)


async def test_a_failure_says_what_was_expected_what_came_and_how_to_mend_it():
    made = await report(case("A-1"), case("A-2", Mismatch("401", "200 [ok]")))
    passed, failed = made.cases
    assert (passed.outcome, passed.mend) == (Outcome.PASSED, None)
    assert (failed.expected, failed.came, failed.mend) == ("401", "200 [ok]", "do so")
    sheet = io.StringIO()
    show(made, Console(file=sheet, width=120))
    for words in ("A-2", "expected  401", "came      200 [ok]", "to mend   do so", verdict(made)[:60]):
        assert words in sheet.getvalue()


async def test_junit_has_a_case_per_case_and_survives_any_byte(tmp_path):
    errors = (None, Mismatch("x", "\x00<&\ud800"), Blocked("b"), NotApplicable("n"))
    made = await report(*(case(f"A-{number}", error) for number, error in enumerate(errors)))
    write_junit(made, tmp_path / "junit.xml")
    suite = ET.parse(tmp_path / "junit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("4", "2", "1")
    assert [each.tag for testcase in suite for each in testcase] == ["failure", "failure", "skipped"]


def test_case_ids_are_unique_within_a_role_and_every_case_tells_how_to_mend():
    shared = (*signatures.CASES, *signatures.AFTER_ONE, *signatures.LENIENT, *contexts.CASES)
    shared = (*shared, *schemas.CASES, *bodies.CASES)
    for own in (
        (*seller.FLOWS, *seller.AFTER),
        (*buyer.OPENING, *buyer.NEGOTIATION, *buyer.DELIVERY, *buyer.ENDING),
    ):
        ids = [each.id for each in (*shared, *own)]
        assert len(set(ids)) == len(ids)
        assert all(each.mend.endswith(".") and each.spec and each.title for each in (*shared, *own))


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1", "127.0.0.1:x", ":1"])
async def test_an_address_without_host_and_port_is_bad_usage(address):
    with pytest.raises(BadUsage, match="--listen"):
        await conform(Options(target="http://x/beckn", listen=address), clock=utc_now, tell=print)
