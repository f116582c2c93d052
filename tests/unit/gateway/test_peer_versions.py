"""Which version a seller is spoken to in: its registry record, or what is set here."""

from datetime import UTC, datetime

import msgspec
import pytest

from gateway.beckn.resolver import Participant, read_record
from gateway.beckn.signing import Signer, generate_private_key
from gateway.config import Settings, load_settings
from gateway.errors import ConfigError
from gateway.runtime import _market

SIGNER = Signer.from_private(generate_private_key(), "bap.example", "k1")
RECORD = {
    "subscriber_id": "bpp-a.example",
    "key_id": "k1",
    "url": "http://a/beckn",
    "type": "BPP",
    "signing_public_key": SIGNER.public_key,
    "status": "SUBSCRIBED",
}


@pytest.mark.parametrize(
    ("stated", "version"),
    [
        ({}, "2.0.0"),
        ({"version": "1.1.1"}, "1.1.1"),
        ({"core_version": "1.1.0"}, "1.1.0"),
        ({"protocol_version": "2.0.0"}, "2.0.0"),
    ],
)
def test_record__says_the_version_or_means_the_present_one(stated, version):
    assert read_record(RECORD | stated).version == version


def test_setting__is_read_from_the_environment():
    loaded = load_settings({"FLUXEON_PEER_VERSIONS": "bpp-a.example=1.1.1,bpp-b.example=2.0.0"})
    assert loaded.settings.version_of_peer == {"bpp-a.example": "1.1.1", "bpp-b.example": "2.0.0"}
    assert load_settings({}).settings.version_of_peer == {}


@pytest.mark.parametrize("text", ["bpp-a.example", "a=b", "=1.1.1", "a=1.1.1,,b=2.0.0"])
def test_setting__that_cannot_be_read_is_refused(text):
    with pytest.raises(ConfigError, match="peer_versions"):
        load_settings({"FLUXEON_PEER_VERSIONS": text})


class Registry:
    """Lists two sellers; remembers who subscribed."""

    subscribed = 0

    async def subscribe(self, _signer, **record):
        self.subscribed += 1

    async def participants(self, _kind, _domain):
        first = msgspec.convert(RECORD, Participant)
        return (first, msgspec.structs.replace(first, subscriber_id="bpp-b.example", version="1.1.0"))


async def test_sellers__speak_what_is_set_here_rather_than_what_the_registry_says():
    registry = Registry()
    settings = Settings(peer_versions="bpp-a.example=1.1.1")
    sellers = _market(
        registry, settings, SIGNER, "http://bap/beckn", lambda: datetime(2026, 1, 1, tzinfo=UTC)
    )
    assert [one.version for one in await sellers()] == ["1.1.1", "1.1.0"]
    assert [one.version for one in await sellers()] == ["1.1.1", "1.1.0"]
    assert registry.subscribed == 1
