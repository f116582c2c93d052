"""Verification of a journal from its storage, with the keys to trust.

Rules:

* Without a key file the data folder's own key is trusted: that shows damage and tampering by anyone
  who does not hold the key. A key kept elsewhere (``fluxeon keys --json``) shows more.
"""

from pathlib import Path

import msgspec

from gateway.audit.verify import VerifyReport, verify_data_dir
from gateway.beckn.signing import MalformedKey, decode_public_key
from gateway.errors import ConfigError
from gateway.keyring import KEY_FILE, load_signer


class PublicKey(msgspec.Struct, frozen=True, kw_only=True):
    """A public key as ``fluxeon keys --json`` prints it; other members are ignored."""

    key_id: str
    public_key: str
    """Base64 of the 32 bytes, or of the SPKI form."""


def own_key(data_dir: Path) -> PublicKey:
    """Read the public half of a gateway's key.

    Raises:
        ConfigError: There is none; none is made.
    """
    if not (data_dir / KEY_FILE).is_file():
        raise ConfigError(f"{data_dir} holds no signing key ({KEY_FILE}): no gateway has run there")
    signer = load_signer(data_dir, "local")
    return PublicKey(key_id=signer.key_id, public_key=signer.public_key)


def read_keys(path: Path) -> tuple[PublicKey, ...]:
    """Read a file of trusted keys: one key as JSON, or a list of them.

    Raises:
        ConfigError: The file cannot be read.
    """
    try:
        return _as_keys(msgspec.json.decode(path.read_bytes(), type=PublicKey | list[PublicKey]))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} holds no keys: {error}") from error


def verify_folder(data_dir: Path, *, trust: Path | None = None) -> VerifyReport:
    """Verify the journal of a gateway's data folder.

    Args:
        data_dir: The folder.
        trust: File of trusted public keys; None trusts the folder's own.

    Raises:
        ConfigError: No readable database or no usable key.
        JournalBroken: The first bad entry.
    """
    keys = (own_key(data_dir),) if trust is None else read_keys(trust)
    try:
        trusted = {key.key_id: decode_public_key(key.public_key) for key in keys}
    except MalformedKey as error:
        raise ConfigError(f"{trust or data_dir}: {error.detail}") from error
    return verify_data_dir(data_dir, trusted)


def _as_keys(document: PublicKey | list[PublicKey]) -> tuple[PublicKey, ...]:
    return tuple(document) if isinstance(document, list) else (document,)
