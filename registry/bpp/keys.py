"""The seller's signing key: made on first start, readable by its owner only."""

import os
from pathlib import Path
from uuid import uuid4

import msgspec

from gateway.beckn.signing import MalformedKey, Signer, generate_private_key
from gateway.errors import ConfigError

FILE_NAME = "signing-key.json"


class _KeyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key_id: str
    private_key: str
    """Base64 of the seed."""


def load_or_create_signer(data_dir: Path, subscriber_id: str) -> Signer:
    """Read the key, or make one with a fresh key id and file it with mode 0600.

    Raises:
        ConfigError: The file cannot be read, written or used; its content is never shown.
    """
    path = data_dir / FILE_NAME
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _create(path)
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path} may be read by others: chmod 600")
        key = msgspec.json.decode(path.read_bytes(), type=_KeyFile)
        return Signer.from_private(key.private_key, subscriber_id, key.key_id)
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}") from exc
    except (msgspec.DecodeError, MalformedKey) as exc:
        raise ConfigError(f"{path} holds no signing key") from exc


def _create(path: Path) -> None:
    """Write the whole file aside first: a crash must not leave half a key in its place."""
    text = msgspec.json.encode(_KeyFile(key_id=str(uuid4()), private_key=generate_private_key()))
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
