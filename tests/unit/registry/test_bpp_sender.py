import asyncio
from collections import deque
from datetime import timedelta

import pytest
from bpp_samples import START

from gateway.beckn.client import HttpAnswer
from gateway.beckn.envelope import ack_body, nack_body
from gateway.beckn.signing import (
    Signer,
    decode_public_key,
    digest,
    generate_private_key,
    parse_authorization,
    verify_signature,
)
from gateway.errors import PeerUnavailable
from registry.bpp import sender as sender_module
from registry.bpp.sender import Sender
from registry.bpp.storage import Callback

SIGNER = Signer.from_private(generate_private_key(), "bpp.example", "k1")
ACK = (200, ack_body("m"))
BUSY = PeerUnavailable("busy", retryable=True, retry_after_s=None, reason="http")
GONE = PeerUnavailable("no such host", retryable=False, retry_after_s=None, reason="url")


class Peer:
    """Stands for the HTTP client: plays a script of answers and notes what it was sent."""

    def __init__(self, *script: object) -> None:
        self.script = deque(script)
        self.sent = []

    async def post(self, url, body, headers):
        self.sent.append((url, body, headers["Authorization"]))
        await asyncio.sleep(0)
        answer = self.script.popleft() if self.script else ACK
        if isinstance(answer, Exception):
            raise answer
        status, text = answer
        return HttpAnswer(status=status, headers={}, body=text, sent_at=START)


def callback(number=1, transaction_id="t-1", request_signature=None, void_at=START + timedelta(minutes=10)):
    return Callback(
        number=number,
        action="on_status",
        transaction_id=transaction_id,
        message_id=f"m-{number}",
        url="http://bap/beckn/on_status",
        body=f"body {number}".encode(),
        request_signature=request_signature,
        void_at=void_at,
    )


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(sender_module, "FIRST_PAUSE_S", 0.0)


async def delivered(peer, *callbacks: Callback, clock=lambda: START):
    done = []
    all_done = asyncio.Event()

    def note(callback):
        done.append(callback)
        if len(done) == len(callbacks):
            all_done.set()

    sender = Sender(peer, SIGNER, clock, note)
    for each in callbacks:
        sender.enqueue(each)
    await asyncio.wait_for(all_done.wait(), 5)
    await sender.close()
    return done


async def test_sender__signs_three_lines_unasked_and_four_in_answer():
    peer = Peer()
    await delivered(peer, callback(1), callback(2, request_signature="c2ln"))
    for (_, body, header), pairs, variant in zip(
        peer.sent, ((), [("c2ln", "whole")]), ("3-line", "4-line-bare"), strict=True
    ):
        parsed = parse_authorization(header)
        assert verify_signature(parsed, digest(body), decode_public_key(SIGNER.public_key), pairs) == variant


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(BUSY, id="not now"),
        pytest.param((500, nack_body("m", code="NET_INTERNAL_ERROR", detail="x")), id="their fault"),
        pytest.param((500, b""), id="a bare 500"),
    ],
)
async def test_sender__sends_the_same_bytes_again(answer):
    peer = Peer(answer, answer)
    done = await delivered(peer, callback())
    assert [body for _, body, _ in peer.sent] == [b"body 1"] * 3
    assert [each.number for each in done] == [1]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(GONE, id="never reachable"),
        pytest.param((400, nack_body("m", code="SCH_INVALID_FORMAT", detail="x")), id="nack"),
        pytest.param((401, nack_body("m", code="AUT_SIGNATURE_INVALID", detail="x")), id="not trusted"),
        pytest.param((404, b""), id="no such path"),
        pytest.param((200, b"thanks"), id="accepted in other words"),
        pytest.param((409, nack_body("m", code="CTX_MESSAGE_ID_DUPLICATE", detail="x")), id="had it"),
    ],
)
async def test_sender__does_not_insist(answer):
    peer = Peer(answer)
    done = await delivered(peer, callback())
    assert (len(peer.sent), len(done)) == (1, 1)


async def test_sender__gives_up_in_the_end():
    peer = Peer(*[BUSY] * 100)
    done = await delivered(peer, callback())
    assert (len(peer.sent), len(done)) == (sender_module.MAX_TRIES, 1)


async def test_sender__drops_what_a_receiver_would_drop():
    peer = Peer()
    done = await delivered(peer, callback(void_at=START))
    assert (peer.sent, len(done)) == ([], 1)


async def test_sender__keeps_the_order_within_a_transaction_only():
    peer = Peer(BUSY, BUSY)
    await delivered(peer, callback(1), callback(2), callback(3, "t-2"))
    bodies = [body for _, body, _ in peer.sent]
    assert [each for each in bodies if each != b"body 3"][-2:] == [b"body 1", b"body 2"]
    assert bodies.index(b"body 3") < bodies.index(b"body 2")


async def test_sender__stops_when_it_is_closed():
    class Silent(Peer):
        async def post(self, *_args: object, **_kwargs: object):
            await asyncio.sleep(3600)

    done = []
    sender = Sender(Silent(), SIGNER, lambda: START, done.append)
    sender.enqueue(callback())
    await asyncio.sleep(0)
    await sender.close()
    assert done == []
