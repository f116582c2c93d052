"""``protocol``: microseconds per Beckn message, in and out, beside the raw primitives; and the server.

* In: ``verify_inbound`` (header, times, key, digest, signature, strict JSON, context, schema), then a
  signed Ack. Out: build the message, encode it, check it against its schema, sign it.
* Beside it, on the same bytes: PyNaCl, BLAKE2b, msgspec, and python-jsonschema with the same schema.
* The server part (:mod:`fluxeon.bench.server`) posts callbacks to the real gateway.
* What 60 large catalogues cost the garbage collector is measured on offers as the gateway keeps them.
"""

import gc
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Any

import jsonschema
import msgspec
from nacl.signing import SigningKey, VerifyKey
from referencing import Registry, Resource

from beckn_specs import index
from fluxeon.bench import samples
from fluxeon.bench.measure import (
    Outcome,
    Ratio,
    Row,
    Sample,
    Spread,
    Table,
    interleave,
    judged,
    per_call_us,
    ratio,
    run_through,
)
from fluxeon.bench.messages import Kind, context_of, kinds, wire
from fluxeon.bench.server import measure_server
from gateway.beckn import v2
from gateway.beckn.envelope import ack_body, encode
from gateway.beckn.resolver import SUBSCRIBED, Participant, StaticKeys
from gateway.beckn.schema import MessageSchemas
from gateway.beckn.signing import (
    SIGNATURE_TTL_S,
    Signer,
    bare_signature,
    digest,
    generate_private_key,
    signing_string,
)
from gateway.beckn.strictjson import decode_strictly
from gateway.beckn.verify import VerifiedMessage, verify_inbound
from gateway.clock import utc_now

NAME = "protocol"
OFFERS = (1, 10, 100, 1000)
SMALL_BYTES = 3 * 1024
SMALL_FOR_SCHEMA_BYTES = 8 * 1024
PYTHON_SCHEMA_UP_TO = 100
"""Offers up to which python-jsonschema is run: beyond, one check takes a third of a second."""
LARGE_OFFERS = 1000
LARGE_CATALOGUES = 60
VERSION = "2.0.0"


def measure(
    *,
    rounds: int,
    offer_counts: tuple[int, ...] = OFFERS,
    catalogues: int = LARGE_CATALOGUES,
    requests: int = 300,
) -> Outcome:
    """Measure messages, the garbage collector and the server.

    Args:
        rounds: Interleaved rounds.
        offer_counts: Sizes of the catalogues in on_discover.
        catalogues: Catalogues of 1,000 offers alive while garbage is collected; 0 leaves that out.
        requests: Requests per server, round and level of concurrency; 0 leaves the server out.
    """
    now = utc_now()
    bench = _Bench(now)
    inbound: list[Row] = []
    outbound: list[Row] = []
    schema: list[Row] = []
    ratios: list[Ratio] = []
    for kind in kinds(now, offer_counts):
        taken, size = bench.run(kind, rounds)
        inbound.append(_inbound_row(kind, size, taken))
        outbound.append(_outbound_row(kind, size, taken))
        if "python-jsonschema" in taken:
            schema.append(
                Row(
                    label=kind.label,
                    cells=(size, Spread.of(taken["schema"]), Spread.of(taken["python-jsonschema"])),
                )
            )
            ratios.append(
                ratio(
                    f"python-jsonschema / schema check with formats, {kind.label}",
                    taken["python-jsonschema"],
                    taken["schema"],
                    at_least=150.0 if size < SMALL_FOR_SCHEMA_BYTES else 300.0,
                )
            )
        if size < SMALL_BYTES:
            rest = [
                1 - (verify + sign) / (took + ack)
                for verify, sign, took, ack in zip(
                    taken["ed25519 verify"],
                    taken["ed25519 sign"],
                    taken["inbound"],
                    taken["ack"],
                    strict=True,
                )
            ]
            ratios.append(
                judged(
                    f"neither Ed25519 nor HTTP, inbound and Ack, {kind.label}", Spread.of(rest), at_most=0.20
                )
            )
    tables = [
        Table(
            title="Inbound message: verify, decode, check the schema; then the signed Ack (us)",
            columns=("bytes", "inbound", "Ack", "Ed25519 verify", "Ed25519 sign", "BLAKE2b", "decode"),
            rows=tuple(inbound),
            note="from the fourth figure on: raw primitives on the same bytes (PyNaCl, hashlib, msgspec)",
        ),
        Table(
            title="Parts of our own in an inbound message (us)",
            columns=("strict decode", "msgspec decode", "schema", "header and digest"),
            rows=tuple(bench.parts),
        ),
        Table(
            title="Outbound message (us)",
            columns=("bytes", "build", "encode", "schema", "sign", "together"),
            rows=tuple(outbound),
            note="sign: digest, Ed25519 and header",
        ),
        Table(
            title="Schema check, formats asserted (us)",
            columns=("bytes", "ours", "python-jsonschema"),
            rows=tuple(schema),
        ),
    ]
    if catalogues:
        table, stalls = _garbage(now, rounds, catalogues)
        tables.append(table)
        ratios.append(stalls)
    if requests:
        found = measure_server(rounds=rounds, requests=requests)
        tables += found.tables
        ratios += found.ratios
    return Outcome(name=NAME, tables=tuple(tables), ratios=tuple(ratios))


class _Bench:
    """Keys, schemas and what was found about the parts."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._schemas = MessageSchemas.load(VERSION)
        self._buyer = Signer.from_private(generate_private_key(), samples.BUYER_ID, "k1")
        self._seller = Signer.from_private(generate_private_key(), samples.SELLER_ID, "k1")
        self._keys = StaticKeys(
            (participant(self._buyer, "BAP"), participant(self._seller, "BPP")), lambda: now
        )
        self.parts: list[Row] = []

    def run(self, kind: Kind, rounds: int) -> tuple[dict[str, list[float]], int]:
        """Measure one kind of message; returns the samples and the size of the body in bytes."""
        now, schemas = self._now, self._schemas
        message = kind.build()
        message_id = samples.uuid_text(1)
        body = wire(kind.action, message, message_id, now)
        document = msgspec.json.decode(body)
        sender = self._seller if kind.to_buyer else self._buyer
        receiver = self._buyer if kind.to_buyer else self._seller
        asked = self._buyer.authorization(b"{}", now=now)
        header = sender.authorization(
            body, now=now, request_signature=bare_signature(asked) if kind.to_buyer else None
        )
        headers = {"authorization": header, "content-type": "application/json"}
        answer = ack_body(message_id)
        context = context_of(kind.action, message, message_id, now)
        raw_sign = SigningKey.generate()
        created = int(now.timestamp())
        text = signing_string(created, created + SIGNATURE_TTL_S, digest(body))
        raw_signature = raw_sign.sign(text).signature
        raw_verify = VerifyKey(bytes(raw_sign.verify_key))
        decode = msgspec.json.Decoder().decode

        def receive() -> VerifiedMessage:
            return run_through(
                verify_inbound(
                    action=kind.action,
                    body=body,
                    headers=headers,
                    resolver=self._keys,
                    schemas=schemas,
                    own_id=receiver.subscriber_id,
                    role="bap" if kind.to_buyer else "bpp",
                    now=now,
                    sent_signatures=lambda _: ((bare_signature(asked), asked),),
                )
            )

        def send() -> str:
            built = kind.build()
            made = context_of(kind.action, built, message_id, now)
            ready = encode(made, built)
            schemas.faults(kind.action, {"context": made.wire(), "message": built})
            return sender.authorization(ready, now=now)

        cases: dict[str, Sample] = {
            "inbound": per_call_us(receive),
            "ack": per_call_us(
                lambda: receiver.authorization(answer, now=now, request_signature=bare_signature(header))
            ),
            "ed25519 verify": per_call_us(lambda: raw_verify.verify(text, raw_signature)),
            "ed25519 sign": per_call_us(lambda: raw_sign.sign(text)),
            "blake2b": per_call_us(lambda: blake2b(body).digest()),
            "decode": per_call_us(lambda: decode(body)),
            "strict": per_call_us(lambda: decode_strictly(body)),
            "schema": per_call_us(lambda: schemas.faults(kind.action, document)),
            "outbound": per_call_us(send),
            "build": per_call_us(kind.build),
            "encode": per_call_us(lambda: encode(context, message)),
            "sign": per_call_us(lambda: sender.authorization(body, now=now)),
        }
        if len(body) < PYTHON_SCHEMA_UP_TO * 2_000:
            slow = python_validator(kind.action)
            if not slow.is_valid(document):
                raise RuntimeError(f"python-jsonschema refuses our {kind.label}")
            cases["python-jsonschema"] = per_call_us(lambda: slow.is_valid(document))
        if schemas.faults(kind.action, document):
            raise RuntimeError(f"our {kind.label} does not fit its schema")
        taken = interleave(cases, rounds)
        parts = ("strict", "decode", "schema", "sign")
        self.parts.append(Row(label=kind.label, cells=tuple(Spread.of(taken[name]) for name in parts)))
        return taken, len(body)


def _inbound_row(kind: Kind, size: int, taken: Mapping[str, Sequence[float]]) -> Row:
    names = ("inbound", "ack", "ed25519 verify", "ed25519 sign", "blake2b", "decode")
    return Row(label=kind.label, cells=(size, *(Spread.of(taken[name]) for name in names)))


def _outbound_row(kind: Kind, size: int, taken: Mapping[str, Sequence[float]]) -> Row:
    names = ("build", "encode", "schema", "sign", "outbound")
    return Row(label=kind.label, cells=(size, *(Spread.of(taken[name]) for name in names)))


def participant(signer: Signer, kind: str) -> Participant:
    """A signer as the registry would publish it."""
    return Participant(
        subscriber_id=signer.subscriber_id,
        key_id=signer.key_id,
        url=samples.BUYER_URI if kind == "BAP" else samples.SELLER_URI,
        type=kind,
        signing_public_key=signer.public_key,
        status=SUBSCRIBED,
    )


def python_validator(action: str) -> Any:
    """python-jsonschema with the schema of an action, formats asserted."""
    shared = dict(index.definitions(VERSION))
    registry: Registry[Any] = Registry().with_resource(str(shared["$id"]), Resource.from_contents(shared))
    kind = jsonschema.Draft202012Validator
    return kind(
        dict(index.action_schema(VERSION, action)), registry=registry, format_checker=kind.FORMAT_CHECKER
    )


def _garbage(now: datetime, rounds: int, catalogues: int) -> tuple[Table, Ratio]:
    """Time full collections with catalogues alive: as offers, and as decoded documents."""
    body = wire(
        "on_discover",
        v2.on_discover_message(samples.offers(LARGE_OFFERS, start=now)),
        samples.uuid_text(1),
        now,
    )

    def collections(keep: list[Any]) -> list[float]:
        gc.collect()
        taken = []
        for _ in range(rounds):
            begin = time.perf_counter_ns()
            gc.collect()
            taken.append((time.perf_counter_ns() - begin) / 1e6)
        keep.clear()
        return taken

    # What the program itself keeps alive (here: the other benchmarks' samples) is left out of account.
    gc.collect()
    gc.freeze()
    bare = collections([])
    as_offers = collections(
        _alive(
            catalogues,
            lambda: v2.parse_on_discover(
                msgspec.json.decode(body)["message"], bpp_id=samples.SELLER_ID, bpp_uri=samples.SELLER_URI
            ),
        )
    )
    as_documents = collections(_alive(catalogues, lambda: msgspec.json.decode(body)))
    gc.unfreeze()
    table = Table(
        title=f"Full garbage collection with {catalogues} catalogues of {LARGE_OFFERS} offers alive (ms)",
        columns=("ms",),
        rows=(
            Row(label="no catalogue", cells=(Spread.of(bare),)),
            Row(label="offers, as the gateway keeps them", cells=(Spread.of(as_offers),)),
            Row(label="decoded documents (reference)", cells=(Spread.of(as_documents),)),
        ),
        note="a full collection stops the event loop for as long; the program's own objects left out",
    )
    return table, judged("stall by a full collection, ms", Spread.of(as_offers), at_most=20.0)


def _alive(count: int, make: Any) -> list[Any]:
    gc.disable()
    try:
        return [make() for _ in range(count)]
    finally:
        gc.enable()
