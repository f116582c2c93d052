"""Plays the cases of a role against a target, in order."""

import time
from collections.abc import Callable, Iterable
from datetime import datetime
from urllib.parse import urlsplit

import aiohttp
import msgspec

from fluxeon.conformance.case import Case
from fluxeon.conformance.cases import bodies, buyer, contexts, schemas, seller, signatures
from fluxeon.conformance.draft import Draft
from fluxeon.conformance.drive import Drive
from fluxeon.conformance.report import Report
from fluxeon.conformance.session import Advance, Session
from fluxeon.conformance.speech import SPEECHES
from fluxeon.conformance.station import Station
from fluxeon.conformance.verdict import Blocked, Mismatch, NotApplicable, Outcome, Result
from fluxeon.errors import BadUsage, CommandFailed
from gateway.beckn.verify import Role
from gateway.clock import Clock, rfc3339


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The command line of ``fluxeon conformance run``."""

    target: str
    role: Role = "bpp"
    generation: str = "2.0"
    registries: tuple[str, ...] = ()
    serve_registry: str | None = None
    listen: str = "127.0.0.1:0"
    public_url: str | None = None
    target_id: str | None = None
    feeder_id: str | None = None
    domain: str = "demand-flexibility"
    clock_url: str | None = None
    clock_token: str | None = None
    drive_url: str | None = None
    drive_token: str | None = None
    patience_s: float = 5.0
    quiet_s: float = 0.5
    only: tuple[str, ...] = ()
    """Case ids, or beginnings of them: leave out the others (what they build on is played)."""


Tell = Callable[[Result], None]


async def conform(options: Options, *, clock: Clock, tell: Tell) -> Report:
    """Run the suite.

    Args:
        options: What to try and how.
        clock: Wall time.
        tell: Told each result as it comes.

    Raises:
        BadUsage: The options do not fit each other.
        CommandFailed: The target or the registry cannot be reached at all.
    """
    speech = SPEECHES.get(options.generation)
    if speech is None:
        raise BadUsage(f"--generation {options.generation}: spoken here are {', '.join(SPEECHES)}")
    started, started_at = time.monotonic(), rfc3339(clock())
    station = Station(
        role="bap" if options.role == "bpp" else "bpp",
        speech=speech,
        clock=clock,
        listen=_address("--listen", options.listen),
        public_url=options.public_url,
        registries=options.registries,
        own_registry=_address("--serve-registry", options.serve_registry) if options.serve_registry else None,
        domain=options.domain,
    )
    async with station:
        target = await station.find_target(
            options.target, options.target_id, options.role.upper(), options.patience_s
        )
        session = Session(
            role=options.role,
            uri=options.target,
            target=target,
            station=station,
            speech=speech,
            patience_s=options.patience_s,
            quiet_s=options.quiet_s,
            feeder_id=options.feeder_id,
            advance=clock_driver(options.clock_url, options.clock_token) if options.clock_url else None,
            probe=_unset,
            good_probe=_unset,
            order_probe=_unset,
        )
        drive = None
        if options.drive_url is not None and options.role == "bap":
            feeder_id = options.feeder_id or f"CONFORMANCE-{station.me.id.split('.')[0][-8:]}"
            drive = Drive(options.drive_url, options.drive_token or "", feeder_id, clock)
            session.facts["drive"] = drive
        try:
            results = await play(session, cases_for(session), options.only, tell)
        finally:
            if drive is not None:
                await drive.close()
    return Report.of(
        results,
        target=options.target,
        subscriber_id=target.subscriber_id,
        role=options.role,
        generation=speech.generation,
        started_at=started_at,
        took_s=time.monotonic() - started,
    )


def cases_for(session: Session) -> list[Case]:
    """List the cases of a role and generation in the order they are played."""
    listed: tuple[Case, ...]
    if session.role == "bpp":
        seller.probes(session)
        listed = (
            *seller.FLOWS,
            *signatures.CASES,
            *signatures.AFTER_ONE,
            *signatures.LENIENT,
            *contexts.CASES,
            *schemas.CASES,
            *bodies.CASES,
            *seller.AFTER,
        )
    else:
        buyer.probes(session)
        listed = (
            *buyer.OPENING,
            # While a select is open, so that an on_select that gets through is seen by the init after it.
            *signatures.CASES,
            *contexts.CASES,
            *schemas.CASES,
            *buyer.NEGOTIATION,
            *buyer.DELIVERY,
            # Once the contract is ACTIVE: these need a message that is taken, or take their time.
            *signatures.AFTER_ONE,
            *signatures.LENIENT,
            *bodies.CASES,
            *buyer.ENDING,
        )
    generation = session.speech.generation
    return [case for case in listed if session.role in case.roles and generation in case.generations]


async def play(session: Session, cases: Iterable[Case], only: tuple[str, ...], tell: Tell) -> list[Result]:
    """Play cases one after the other; a failed one does not stop the run."""
    results = []
    for case in cases:
        wanted = not only or case.id.startswith(only)
        if not wanted and not case.id.startswith("FLOW"):
            continue
        result = await _play_one(session, case)
        if wanted:
            results.append(result)
            tell(result)
    return results


async def _play_one(session: Session, case: Case) -> Result:
    started = time.perf_counter()
    expected: str | None = None
    came: str | None = None
    try:
        await case.play(session)
        outcome = Outcome.PASSED
    except Mismatch as mismatch:
        outcome, expected, came = Outcome.FAILED, mismatch.expected, mismatch.came
    except Blocked as blocked:
        outcome, came = Outcome.BLOCKED, str(blocked)
    except NotApplicable as reason:
        outcome, came = Outcome.SKIPPED, str(reason)
    return Result(
        id=case.id,
        title=case.title,
        level=case.level,
        outcome=outcome,
        spec=case.spec,
        expected=expected,
        came=came,
        mend=None if outcome in (Outcome.PASSED, Outcome.SKIPPED) else case.mend,
        took_ms=round((time.perf_counter() - started) * 1000, 1),
    )


def clock_driver(url: str, token: str | None) -> Advance:
    """Make the driver of a seller's event time: ``POST url {"event_time": ...}``."""

    async def advance(at: datetime) -> None:
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        body = msgspec.json.encode({"event_time": rfc3339(at)})
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as http,
                http.post(url, data=body, headers=headers) as answer,
            ):
                if answer.status >= 300:
                    text = (await answer.text())[:200]
                    raise Mismatch(f"{url} to drive event time", f"{answer.status}: {text}")
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise Mismatch(f"{url} to drive event time", str(exc)) from exc

    return advance


def _address(option: str, text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise BadUsage(f"{option} {text}: {exc}") from exc
    if not host or port is None:
        raise BadUsage(f"{option} {text}: HOST:PORT is needed")
    return host, port


def _unset() -> Draft:
    raise CommandFailed("no role has been chosen")
