"""Seeded mutations of headers and bodies, and a way to put raw bytes into an ASGI application."""

import asyncio
import copy
import json
import time
from typing import Any, NamedTuple

NASTY_TOKENS = (
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"-0.0",
    b"9" * 5000,
    b"1" + b"0" * 400,
    b"1e-999",
    b"null",
    b"true",
    b"{}",
    b"[]",
    b"[" * 300,
    b'{"a":' * 300,
    b'"\\ud800"',
    b'"\\u0000"',
    b'"' + b"\xf0\x9f\x94\x8c" * 50 + b'"',
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\x00",
    b"'",
    b"//",
    b'"a":1,"a":2',
    b"0x10",
    b"01",
    b"\r\n",
)
NASTY_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**63,
    2**64,
    10**40,
    1e308,
    -1e-308,
    "",
    " ",
    "\u0000",
    "../../etc/passwd",
    "%s%n",
    "9" * 400,
    "NaN",
    "2026-02-30T25:61:61Z",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999Z",
    "9999-12-31T23:59:59-23:59",
    "2026-01-05T17:15:00",
    "P9999999999Y",
    "PT1E9S",
    "x" * 5000,
    "\U0001f50c" * 20,
    [],
    {},
    [[]],
    {"": {}},
    [None] * 50,
    {"@context": 7, "@type": []},
)
NASTY_HEADERS = (
    "",
    " ",
    "Signature",
    "Signature ",
    "Bearer x",
    'Signature keyId="a|b|ed25519"',
    'Signature keyId="' + "|" * 500 + '"',
    "Signature " + "," * 2000,
    'Signature keyId="a|b|ed25519",algorithm="ed25519",created="1",expires="2",headers="",signature="AAAA"',
    "\u00ff" * 300,
    "Signature " + 'signature="' + "A" * 4000 + '"',
)
NASTY_TYPES = (
    "application/json; charset=utf-16",
    "text/plain",
    "",
    ";",
    "application/",
    "multipart/form-data",
    "x" * 3000,
)


class Given(NamedTuple):
    """What an application answered, and the CPU time until then."""

    status: int
    headers: dict[str, str]
    body: bytes
    cpu_s: float


async def call(app, path, body, headers, *, pieces=1, method="POST") -> Given:
    """Put one request into an ASGI application; ``pieces`` chunks, as a network delivers it."""
    size = max(1, -(-len(body) // pieces))
    chunks = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
    queue = [
        {"type": "http.request", "body": chunk, "more_body": number < len(chunks) - 1}
        for number, chunk in enumerate(chunks)
    ]
    answer: dict[str, Any] = {"status": 0, "headers": [], "body": b""}

    async def receive():
        if queue:
            return queue.pop(0)
        await asyncio.sleep(3600)
        return {"type": "http.disconnect"}

    async def send(message):
        if message["type"] == "http.response.start":
            answer["status"], answer["headers"] = message["status"], message["headers"]
        else:
            answer["body"] += message.get("body", b"")

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
        "extensions": {},
    }
    started = time.process_time()
    await app(scope, receive, send)
    cpu_s = time.process_time() - started
    return Given(
        status=answer["status"],
        headers={name.decode(): value.decode("latin-1") for name, value in answer["headers"]},
        body=answer["body"],
        cpu_s=cpu_s,
    )


def spoil_bytes(random, body: bytes) -> bytes:
    """Change bytes: flips, cuts, repetitions, nasty tokens."""
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(body) + 1)
        kind = random.randrange(5)
        if kind == 0 and body:
            at = random.randrange(len(body))
            body = body[:at] + bytes([random.randrange(256)]) + body[at + 1 :]
        elif kind == 1:
            body = body[:at] + body[at + random.randint(1, 40) :]
        elif kind == 2:
            piece = body[at : at + random.randint(1, 200)]
            body = body[:at] + piece * random.randint(1, 4) + body[at:]
        elif kind == 3:
            body = body[:at] + random.choice(NASTY_TOKENS) + body[at:]
        else:
            colons = [index for index, byte in enumerate(body) if byte == ord(":")]
            if colons:
                at = random.choice(colons) + 1
                body = body[:at] + random.choice(NASTY_TOKENS) + b"," + body[at:]
    return body


def spoil_document(random, document: Any) -> Any:
    """Change a decoded document: drop, rename, retype, repeat somewhere inside."""
    document = copy.deepcopy(document)
    for _ in range(random.randint(1, 3)):
        places = list(_places(document))
        if not places:
            return random.choice(NASTY_VALUES)
        parent, key = random.choice(places)
        kind = random.randrange(5)
        if kind == 0:
            del parent[key]
        elif kind == 1 and isinstance(parent, dict):
            parent[random.choice(("", "id", "@type", "x" * 300, str(key).upper()))] = parent.pop(key)
        elif kind == 2 and isinstance(parent, list):
            parent.extend(copy.deepcopy(parent[:3]) * random.randint(1, 5))
        elif kind == 3:
            parent[key] = [parent[key]]
        else:
            parent[key] = copy.deepcopy(random.choice(NASTY_VALUES))
    return document


def _places(node):
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in list(children):
        yield node, key
        yield from _places(child)


def spoilt_body(random, document: Any) -> bytes:
    """Encode a document, changed before or after, or not at all."""
    kind = random.randrange(8)
    if kind >= 4:
        document = spoil_document(random, document)
    body = json.dumps(document, separators=(",", ":"), ensure_ascii=random.random() < 0.5).encode(
        errors="surrogatepass"
    )
    return spoil_bytes(random, body) if kind in (1, 2, 3, 7) else body


def spoil_text(random, text: str) -> str:
    """Change characters of a header value; what HTTP cannot carry is left out."""
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(text) + 1)
        insert = random.choice(("", '"', ",", "|", "=", " ", "\t", "0", "-1", "\u00e9", "A" * 50))
        text = text[:at] + insert + text[at + random.randint(0, 3) :]
    return text
