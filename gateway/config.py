"""Settings: one frozen struct, one loader, each field with its meaning and unit.

Sources, later ones win: defaults, a TOML file (``--config`` or ``FLUXEON_CONFIG``), the
environment (``FLUXEON_<FIELD>``), the command line. Unknown names in a file are refused. Only this module
and the command line read the environment; values travel as arguments.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, inspect

from gateway.errors import ConfigError

PREFIX = "FLUXEON_"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be set. Durations in seconds of wall time unless the name says otherwise."""

    data_dir: Annotated[str, Meta(description="folder of the database and the keys")] = "data"
    host: Annotated[str, Meta(description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Meta(description="port to listen on; 0 picks a free one", ge=0, le=65535)] = 8080
    public_url: Annotated[
        str | None, Meta(description="base URL under which peers reach us; default http://host:port")
    ] = None
    subscriber_id: Annotated[str, Meta(description="our id in the Beckn registry")] = "fluxeon.localhost"
    domain: Annotated[str, Meta(description="Beckn domain we trade in")] = "demand-flexibility"
    country_code: Annotated[
        str, Meta(description="our market's country as older networks write it (ISO 3166, three letters)")
    ] = "GBR"
    city_code: Annotated[str, Meta(description="our market's city as older networks write it; * is any")] = (
        "*"
    )
    peer_versions: Annotated[
        str,
        Meta(
            description="Beckn versions of sellers whose registry record lacks them: id=1.1.1,id=2.0.0",
            pattern=r"^([^=,\s]+=[0-9.]+(,[^=,\s]+=[0-9.]+)*)?$",
        ),
    ] = ""
    registry_url: Annotated[
        str | None, Meta(description="registry for keys and participants; without one no peer is trusted")
    ] = None
    register: Annotated[bool, Meta(description="subscribe ourselves at the registry on start")] = True
    admin_token: Annotated[
        str | None,
        Meta(description="secret: bearer token of the administrator; default: made and printed once"),
    ] = None

    auto_register_feeders: Annotated[
        bool, Meta(description="accept telemetry of unknown feeders; their rating must still be set to trade")
    ] = False
    future_tolerance_s: Annotated[
        float, Meta(description="how far ahead of our clock a reading may be", ge=0)
    ] = 120.0
    max_loading_factor: Annotated[
        float, Meta(description="readings above this multiple of the rating are implausible", gt=1)
    ] = 5.0
    max_batch_readings: Annotated[int, Meta(description="readings in one POST /telemetry", ge=1)] = 100_000
    max_body_bytes: Annotated[int, Meta(description="body of one POST on our own API", ge=1024)] = (
        64 * 1024 * 1024
    )
    max_message_bytes: Annotated[int, Meta(description="body of one Beckn message", ge=1024)] = 1024 * 1024
    max_catalogue_bytes: Annotated[int, Meta(description="body of one on_discover or on_search", ge=1024)] = (
        8 * 1024 * 1024
    )
    stale_after_intervals: Annotated[
        float, Meta(description="silence, in sampling intervals, after which a feeder is stale", gt=1)
    ] = 4.0

    message_ttl_s: Annotated[int, Meta(description="ttl in the context of our messages", ge=1)] = 30
    signature_ttl_s: Annotated[int, Meta(description="life of our signatures", ge=5, le=3600)] = 300
    clock_skew_s: Annotated[
        float, Meta(description="how far ahead a peer's signature may be", ge=0, le=60)
    ] = 5.0
    callback_timeout_s: Annotated[
        float, Meta(description="wait for a callback before asking again", gt=0)
    ] = 1.5
    connect_timeout_s: Annotated[float, Meta(description="wait for a peer's connection", gt=0)] = 1.0
    answer_timeout_s: Annotated[float, Meta(description="wait for a peer's Ack", gt=0)] = 2.0
    send_attempts: Annotated[
        int, Meta(description="deliveries of one message before giving up", ge=1, le=10)
    ] = 4
    poll_interval_s: Annotated[
        float, Meta(description="pause between requests for a completion report", gt=0)
    ] = 1.0
    max_polls: Annotated[int, Meta(description="requests for a completion report before giving up", ge=1)] = (
        60
    )
    catalogue_refresh_s: Annotated[
        float, Meta(description="age at which the standing catalogue is refreshed", gt=0)
    ] = 300.0
    participants_refresh_s: Annotated[
        float, Meta(description="age at which the registry is asked for sellers", gt=0)
    ] = 60.0
    completion_grace_s: Annotated[
        float,
        Meta(description="how late, by our own clock, the window of a silent feeder is closed"),
    ] = 120.0

    target_loading: Annotated[
        float, Meta(description="loading that relief is bought down to", gt=0, le=1)
    ] = 0.90
    buy_growth: Annotated[
        float, Meta(description="growth of the uncovered need, as share of the rating, that buys again", ge=0)
    ] = 0.01
    model_dir: Annotated[
        str | None, Meta(description="folder of the risk model; default: the shipped one")
    ] = None

    @property
    def version_of_peer(self) -> dict[str, str]:
        """Beckn version by subscriber id, where one is set here."""
        pairs = (pair.partition("=") for pair in self.peer_versions.split(",") if pair)
        return {subscriber_id: version for subscriber_id, _, version in pairs}


SECRET_FIELDS = frozenset({"admin_token"})


class SettingInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One setting as listed by ``fluxeon settings``; secrets are masked."""

    name: str
    variable: str
    value: Any
    source: str
    meaning: str


class LoadedSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings with where each value came from."""

    settings: Settings
    sources: dict[str, str]

    def describe(self) -> tuple[SettingInfo, ...]:
        """List every setting with its variable, value, source and meaning."""
        infos = []
        for field in inspect.type_info(Settings).fields:  # type: ignore[attr-defined]
            value = getattr(self.settings, field.name)
            if field.name in SECRET_FIELDS and value is not None:
                value = "***"
            infos.append(
                SettingInfo(
                    name=field.name,
                    variable=PREFIX + field.name.upper(),
                    value=value,
                    source=self.sources.get(field.name, "default"),
                    meaning=_meaning(field.type),
                )
            )
        return tuple(infos)


def _meaning(declared: Any) -> str:
    """Description of a field, from the Meta around its type."""
    extra = getattr(declared, "extra_json_schema", None) or {}
    description = extra.get("description")
    return str(description) if description is not None else ""


def load_settings(
    environment: Mapping[str, str], *, file: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> LoadedSettings:
    """Merge the sources and check every value.

    Args:
        environment: Usually ``os.environ``; only ``FLUXEON_*`` names of settings are read.
        file: TOML file; ``FLUXEON_CONFIG`` names one too.
        overrides: Values of the command line; None means not given.

    Raises:
        ConfigError: An unknown name or a value out of range; names the setting, not its value.
    """
    names = {field.name for field in msgspec.structs.fields(Settings)}
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    path = file or (Path(environment[PREFIX + "CONFIG"]) if environment.get(PREFIX + "CONFIG") else None)
    if path is not None:
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as exc:
            raise ConfigError(f"settings file {path} cannot be read: {exc}") from exc
        for name, value in document.items():
            if name not in names:
                raise ConfigError(f"unknown setting '{name}' in {path}")
            values[name], sources[name] = value, str(path)
    for name in names:
        variable = PREFIX + name.upper()
        if environment.get(variable):
            values[name], sources[name] = environment[variable], variable
    for name, value in (overrides or {}).items():
        if value is not None:
            values[name], sources[name] = value, "command line"
    return LoadedSettings(settings=_checked(values, sources), sources=sources)


def _checked(values: dict[str, Any], sources: dict[str, str]) -> Settings:
    """Convert each value alone so that an error can name its setting."""
    types = msgspec.structs.fields(Settings)
    converted: dict[str, Any] = {}
    for field in types:
        if field.name not in values:
            continue
        try:
            converted[field.name] = msgspec.convert(values[field.name], field.type, strict=False)
        except msgspec.ValidationError as exc:
            origin = sources.get(field.name, "default")
            why = "is not acceptable" if field.name in SECRET_FIELDS else str(exc)
            raise ConfigError(f"setting '{field.name}' (from {origin}): {why}") from exc
    return Settings(**converted)
