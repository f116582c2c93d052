"""Our signing key: made on first start, kept in the data folder, readable by its owner only.

The key signs Beckn messages and the head of the journal. The private half never leaves the file.
"""

import os
from base64 import b64decode
from pathlib import Path
from uuid import uuid4

import msgspec

from gateway.beckn.signing import Signer, generate_private_key
from gateway.errors import ConfigError

KEY_FILE = "signing-key.json"


class StoredKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The key file: the seed in base64 and the id peers find the public half under."""

    key_id: str
    private_key: str


def load_signer(data_dir: Path, subscriber_id: str) -> Signer:
    """Load our key, making one in an empty data folder.

    Raises:
        ConfigError: The key file cannot be read or holds no key. A damaged key is never replaced.
    """
    path = data_dir / KEY_FILE
    if not path.exists():
        _create(path)
    try:
        stored = msgspec.json.decode(path.read_bytes(), type=StoredKey)
        return Signer.from_private(stored.private_key, subscriber_id, stored.key_id)
    except (OSError, msgspec.MsgspecError) as exc:
        raise ConfigError(f"the key file {path} cannot be read: {exc}") from exc


class SignBytes:
    """Callable that signs bytes with our key."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    def __call__(self, text: bytes) -> bytes:
        """Sign ``text``."""
        return b64decode(self._signer.sign(text))


def _create(path: Path) -> None:
    """Write a new key so that no half-written file can be left behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = StoredKey(key_id=str(uuid4()), private_key=generate_private_key())
    scratch = path.with_suffix(".new")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(stored))
        file.flush()
        os.fsync(file.fileno())
    scratch.rename(path)
