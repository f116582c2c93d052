"""Everything a running gateway is made of, wired in one place.

Only :func:`start` builds sessions, stores and clients; nothing is built at import.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from uuid import uuid4

import msgspec

from gateway.access import Role, TokenGate, load_tokens, new_token, store_token
from gateway.beckn.client import BecknClient
from gateway.beckn.dialect import Languages
from gateway.beckn.resolver import KeyResolver, Participant, RegistryClient, StaticKeys
from gateway.beckn.signing import Signer
from gateway.beckn.verify import InboundLimits
from gateway.catalogue import Catalogue, load_catalogue
from gateway.clock import Clock
from gateway.config import SECRET_FIELDS, Settings
from gateway.flex.need import NeedPolicy
from gateway.forecasting import Forecaster, ThresholdRule
from gateway.keyring import SignBytes, load_signer
from gateway.metrics import Metrics
from gateway.orders.order import LifecyclePolicy
from gateway.pipeline import Pipeline
from gateway.roster import Roster
from gateway.store.database import Database
from gateway.telemetry.quality import QualityRules
from gateway.telemetry.reading import AdmissionRules, BatchLimits
from gateway.trading.buyer import Buyer
from gateway.trading.courier import Courier
from gateway.trading.desk import Address, Desk
from gateway.trading.floor import TradingFloor
from gateway.trading.work import Ledger, NewId, Work
from ml.errors import ModelUnavailableError
from ml.model import RiskModel

log = logging.getLogger(__name__)

SUBSCRIPTION_LIFE = timedelta(days=365)

ListSellers = Callable[[], Awaitable[tuple[Participant, ...]]]


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """A started gateway.

    Attributes:
        beckn_uri: Where peers reach our Beckn endpoints (``bapUri``).
        first_token: The administrator's token where it was made just now, to be shown once.
        model_fault: Why the threshold rule stands in for the model; None when the model is loaded.
    """

    settings: Settings
    clock: Clock
    beckn_uri: str
    signer: Signer
    languages: Languages
    ledger: Ledger
    database: Database
    gate: TokenGate
    resolver: KeyResolver
    client: BecknClient
    roster: Roster
    catalogue: Catalogue
    buyer: Buyer
    floor: TradingFloor
    pipeline: Pipeline
    metrics: Metrics
    limits: InboundLimits
    first_token: str | None
    model_fault: str | None

    async def stop(self) -> None:
        """Stop cleanly: deliveries end, what was learned is stored, the database is closed."""
        await self.floor.stop()
        await self.roster.store_learned()
        await self.client.close()
        await self.database.close()


async def start(settings: Settings, *, clock: Clock, public_url: str) -> Runtime:
    """Build and start a gateway.

    Args:
        settings: Checked settings.
        clock: Wall time.
        public_url: Base URL under which peers reach us.

    Raises:
        ConfigError: The data folder, the key or the database cannot be used.
    """
    data_dir = Path(settings.data_dir)
    database = Database.open(data_dir)
    signer = load_signer(data_dir, settings.subscriber_id)
    new_id: NewId = lambda: str(uuid4())  # noqa: E731 - the one source of ids
    ledger = Ledger(database, clock=clock, new_id=new_id, sign_head=SignBytes(signer), key_id=signer.key_id)
    forecaster, model_fault = _load_model(settings)
    first_token = await _first_start(ledger, settings, signer, model_fault)
    gate = TokenGate(await ledger.read(load_tokens))
    metrics = Metrics()
    client = BecknClient(
        clock,
        connect_timeout_s=settings.connect_timeout_s,
        read_timeout_s=settings.answer_timeout_s,
        total_timeout_s=settings.connect_timeout_s + settings.answer_timeout_s,
    )
    beckn_uri = f"{public_url.rstrip('/')}/beckn"
    registry = _registry(settings, client, clock)
    resolver: KeyResolver = registry or StaticKeys((), clock)
    desk = Desk(
        signer=signer,
        address=Address(
            bap_id=settings.subscriber_id,
            bap_uri=beckn_uri,
            domain=settings.domain,
            ttl_s=settings.message_ttl_s,
            signature_ttl_s=settings.signature_ttl_s,
            location={
                "country": {"code": settings.country_code},
                "city": {"code": settings.city_code},
            },
        ),
        policy=LifecyclePolicy(
            callback_timeout_s=settings.callback_timeout_s,
            poll_interval_s=settings.poll_interval_s,
            max_polls=settings.max_polls,
        ),
        completion_grace_s=settings.completion_grace_s,
    )
    roster = Roster(ledger)
    await roster.load()
    catalogue = await ledger.read(load_catalogue)
    floor = TradingFloor(
        ledger=ledger,
        desk=desk,
        resolver=resolver,
        list_sellers=_market(registry, settings, signer, beckn_uri, clock) if registry else None,
        catalogue=catalogue,
        metrics=metrics,
        clock=clock,
        courier=partial(Courier, client, attempts=settings.send_attempts),
        participants_refresh_s=settings.participants_refresh_s,
        catalogue_refresh_s=settings.catalogue_refresh_s,
    )
    buyer = Buyer(
        desk=desk,
        catalogue=catalogue,
        sellers=lambda: floor.sellers,
        default_need=NeedPolicy(target_loading=settings.target_loading, growth_share=settings.buy_growth),
    )
    pipeline = Pipeline(
        ledger=ledger,
        roster=roster,
        forecaster=forecaster,
        buyer=buyer,
        floor=floor,
        signer=signer,
        metrics=metrics,
        clock=clock,
        rules=AdmissionRules(
            future_tolerance_s=settings.future_tolerance_s,
            max_loading_factor=settings.max_loading_factor,
            auto_register=settings.auto_register_feeders,
        ),
        limits=BatchLimits(max_bytes=settings.max_body_bytes, max_readings=settings.max_batch_readings),
        quality=QualityRules(silence_intervals=settings.stale_after_intervals),
    )
    await floor.start(
        buyer,
        lambda: tuple(one.feeder_id for one in roster.values() if one.config),
        watch=pipeline.look_after,
    )
    return Runtime(
        settings=settings,
        clock=clock,
        beckn_uri=beckn_uri,
        signer=signer,
        languages=Languages.load(),
        ledger=ledger,
        database=database,
        gate=gate,
        resolver=resolver,
        client=client,
        roster=roster,
        catalogue=catalogue,
        buyer=buyer,
        floor=floor,
        pipeline=pipeline,
        metrics=metrics,
        limits=InboundLimits(
            future_skew_s=settings.clock_skew_s,
            max_body_bytes=settings.max_message_bytes,
            max_catalogue_bytes=settings.max_catalogue_bytes,
        ),
        first_token=first_token,
        model_fault=model_fault,
    )


def _load_model(settings: Settings) -> tuple[Forecaster, str | None]:
    """The risk model, or the stated threshold rule with the reason it stands in."""
    try:
        return RiskModel.load(Path(settings.model_dir) if settings.model_dir else None), None
    except ModelUnavailableError as exc:
        log.exception("the risk model cannot be used; the threshold rule stands in")
        return ThresholdRule(), str(exc)


async def _first_start(
    ledger: Ledger, settings: Settings, signer: Signer, model_fault: str | None
) -> str | None:
    """Journal the start; let the administrator in. Returns a token made just now."""
    known = await ledger.read(load_tokens)
    made = None if settings.admin_token or known else new_token()
    token = settings.admin_token or made

    def job(work: Work) -> None:
        if token is not None:
            store_token(work.connection, token, name="admin", role=Role.ADMIN, now=work.now)
        work.note(
            "gateway.started",
            {
                "subscriber_id": signer.subscriber_id,
                "key_id": signer.key_id,
                "public_key": signer.public_key,
                "settings": {
                    name: value
                    for name, value in msgspec.to_builtins(settings).items()
                    if name not in SECRET_FIELDS
                },
            },
        )
        if model_fault is not None:
            work.alarm("model_unavailable", f"threshold rule in force: {model_fault}", severity="critical")
        else:
            work.clear_alarm("model_unavailable")

    await ledger.commit(job)
    return made


def _registry(settings: Settings, client: BecknClient, clock: Clock) -> RegistryClient | None:
    if settings.registry_url is None:
        return None
    return RegistryClient(settings.registry_url, client, clock, peer_types=("BPP",))


def _market(
    registry: RegistryClient, settings: Settings, signer: Signer, beckn_uri: str, clock: Clock
) -> ListSellers:
    """List sellers; subscribe ourselves first, once."""
    subscribed = not settings.register

    async def list_sellers() -> tuple[Participant, ...]:
        nonlocal subscribed
        if not subscribed:
            now = clock()
            await registry.subscribe(
                signer,
                url=beckn_uri,
                type="BAP",
                domain=settings.domain,
                valid_from=now,
                valid_until=now + SUBSCRIPTION_LIFE,
            )
            subscribed = True
        sellers = await registry.participants("BPP", settings.domain)
        return tuple(
            msgspec.structs.replace(seller, version=chosen)
            if (chosen := settings.version_of_peer.get(seller.subscriber_id))
            else seller
            for seller in sellers
        )

    return list_sellers
