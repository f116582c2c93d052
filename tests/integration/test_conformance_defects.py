"""The conformance suite finds every defect of a deliberately broken peer, and nothing in a right one."""

import socket

import msgspec
import pytest
from broken_peer import BrokenBuyer, BrokenSeller

from fluxeon.conformance.run import Options, conform
from fluxeon.conformance.verdict import Outcome
from gateway.clock import utc_now

SELLER_DEFECTS = {
    "accepts-unsigned": "SIG-001",
    "ignores-the-body-digest": "SIG-005",
    "caches-signatures": "SIG-007",
    "ignores-expiry": "SIG-008",
    "accepts-the-future": "SIG-009",
    "trusts-unknown-subscribers": "SIG-018",
    "accepts-the-wrong-subscriber": "SIG-020",
    "takes-anyone-for-a-peer": "SIG-029",
    "does-not-challenge": "SIG-033",
    "encodes-json-again": "SIG-101",
    "ignores-the-path": "CTX-001",
    "ignores-ttl": "CTX-010",
    "ignores-the-receiver": "CTX-012",
    "refuses-without-reason": "CTX-018",
    "refuses-with-200": "CTX-005",
    "ignores-the-schema": "SCH-005",
    "answers-500-on-bad-json": "BODY-003",
    "accepts-a-key-twice": "BODY-010",
    "answers-200-without-ack": "ACK-001",
    "acks-another-message": "ACK-002",
    "does-not-sign-acks": "ACK-003",
    "signs-other-ack-bytes": "ACK-003",
    "never-calls-back": "FLOW-001",
    "calls-back-under-another-id": "FLOW-001",
    "calls-back-in-another-transaction": "CBK-001",
    "signs-callbacks-with-another-key": "FLOW-001",
    "does-not-sign-callbacks": "FLOW-001",
    "changes-callbacks-after-signing": "FLOW-001",
    "never-tries-again": "CBK-004",
    "acts-twice-on-duplicates": "DUP-001",
    "confirms-without-init": "SEQ-001",
    "serves-any-buyer": "SEQ-008",
    "acts-on-what-it-refuses": "END-001",
}
BUYER_DEFECTS = {
    "accepts-unsigned": "SIG-001",
    "ignores-the-body-digest": "SIG-005",
    "ignores-expiry": "SIG-008",
    "accepts-the-wrong-subscriber": "SIG-020",
    "ignores-the-path": "CTX-001",
    "ignores-ttl": "CTX-010",
    "ignores-the-schema": "SCH-005",
    "answers-500-on-bad-json": "BODY-003",
    "does-not-sign-acks": "ACK-101",
    "acts-on-what-it-refuses": "END-101",
    "acts-twice-on-duplicates": "DUP-101",
    "takes-any-sellers-answer": "SEQ-105",
    "takes-what-nobody-asked": "SEQ-106",
    "repeats-message-ids": "REQ-003",
    "forgets-the-contract-id": "FLOW-104",
    "signs-with-another-key": "FLOW-101",
}


@pytest.fixture
def portfolio(tmp_path):
    der = {
        "der_id": "der:broken:000001",
        "type": "battery",
        "feeder_id": "FDR_1",
        "direction": "both",
        "capacity_kw": 500.0,
        "min_kw": 1.0,
        "response_time_s": 0,
        "min_duration_min": 15,
        "max_duration_min": 120,
        "price_per_kwh": "0.30",
        "delivery_mean": 1.0,
        "delivery_sd": 0.0,
        "baseline": {"method": "NOMINATED", "kw": 0.0},
        "location": {"latitude": 51.5, "longitude": -0.1},
        "meter_ids": ["mtr:1"],
    }
    path = tmp_path / "portfolio.json"
    path.write_bytes(
        msgspec.json.encode({"provider_id": "broken", "provider_name": "Broken Flex", "ders": [der]})
    )
    return path


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def outcomes(peer, *only: str):
    """Run the suite against a peer; case id -> how it ended."""
    port = free_port()
    async with peer.running(f"http://127.0.0.1:{port}"):
        report = await conform(
            Options(
                target=peer.uri,
                role=peer.role,
                serve_registry=f"127.0.0.1:{port}",
                patience_s=1.0 if any(each in NEVER_COMES for each in peer.defects) else 5.0,
                quiet_s=0.15,
                only=only,
            ),
            clock=utc_now,
            tell=lambda _: None,
        )
    return {each.id: each for each in report.cases}


NEVER_COMES = {
    "never-calls-back",
    "calls-back-under-another-id",
    "calls-back-in-another-transaction",
    "signs-callbacks-with-another-key",
    "does-not-sign-callbacks",
    "changes-callbacks-after-signing",
    "answers-200-without-ack",
    "never-tries-again",
    "signs-with-another-key",
    "acts-on-what-it-refuses",
    "ignores-the-schema",
}


@pytest.mark.slow
@pytest.mark.parametrize(("defect", "case_id"), SELLER_DEFECTS.items())
async def test_each_defect_of_a_seller_is_found_by_its_case(defect, case_id, portfolio, tmp_path):
    # What is acted on although refused shows only where something was refused.
    also = ("CTX-010",) if defect == "acts-on-what-it-refuses" else ()
    found = await outcomes(BrokenSeller(tmp_path, portfolio, [defect]), case_id, *also)
    assert found[case_id].outcome is Outcome.FAILED, found[case_id]
    assert found[case_id].expected
    assert found[case_id].came
    assert found[case_id].mend


@pytest.mark.slow
@pytest.mark.parametrize(("defect", "case_id"), BUYER_DEFECTS.items())
async def test_each_defect_of_a_buyer_is_found_by_its_case(defect, case_id):
    also = ("SIG-009",) if defect == "acts-on-what-it-refuses" else ()
    found = await outcomes(BrokenBuyer([defect]), case_id, "REQ", *also)
    assert found[case_id].outcome is Outcome.FAILED, found[case_id]
    assert found[case_id].mend


async def test_a_seller_without_a_defect_passes_all_these_cases(portfolio, tmp_path):
    found = await outcomes(BrokenSeller(tmp_path, portfolio), *SELLER_DEFECTS.values())
    assert {each.id: each.came for each in found.values() if each.outcome is not Outcome.PASSED} == {}
    assert len(found) >= len(set(SELLER_DEFECTS.values()))


async def test_a_buyer_without_a_defect_passes_all_these_cases():
    found = await outcomes(BrokenBuyer(), *BUYER_DEFECTS.values(), "REQ", "SIG-009")
    assert {each.id: each.came for each in found.values() if each.outcome is not Outcome.PASSED} == {}
    assert len(found) >= len(set(BUYER_DEFECTS.values()))
