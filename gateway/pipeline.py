"""The two straight lines of the product, top to bottom.

::

    POST /telemetry    bytes -> readings -> windows -> outlook (forecast, probabilities) -> state
                       -> need -> plan -> orders -> signed messages -> journal; committed, then sent
    POST /beckn/on_x   bytes -> verified message -> order move -> next message -> journal; committed,
                       then acknowledged

One batch of telemetry is handled at a time, so that a feeder's decisions follow one another; what
they share with callbacks (bookings, orders) is settled inside the database transaction.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
import numpy as np

from gateway.audit.journal import Payload
from gateway.beckn.signing import Signer
from gateway.beckn.verify import VerifiedMessage
from gateway.clock import Clock
from gateway.errors import TelemetryError
from gateway.feeders import Assessment, Feeder, ForecastSlot, SavedFeeder
from gateway.flex.plan import FlexPlan
from gateway.forecasting import Advance, Forecaster, Outlook, outlooks
from gateway.metrics import Metrics
from gateway.roster import LEARNED_AT_ONCE, Roster, save_states
from gateway.store.sql import upsert
from gateway.store.tables import reading as reading_table
from gateway.telemetry.quality import (
    DEFAULT_RULES,
    QualityRules,
    Silence,
    assess_quality,
    assess_silence,
    usable_for_trading,
)
from gateway.telemetry.reading import AdmissionRules, BatchLimits, Reading, Rejection, admit, parse_batch
from gateway.trading.buyer import Buyer, Purchase, feeder_decision
from gateway.trading.callbacks import Reception, receive
from gateway.trading.floor import TradingFloor
from gateway.trading.work import Ledger, Work
from gateway.types import GridState
from ml.features import FEATURE_NAMES
from ml.state import StateMemory, next_state


class StateChange(msgspec.Struct, frozen=True, kw_only=True, rename={"from_state": "from", "to_state": "to"}):
    """A State Change Event (R25); ``at`` is the event time it rests on."""

    id: str
    from_state: int
    to_state: int
    at: datetime
    confidence: float
    plan: FlexPlan | None = None


class FeederAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """What the answer to a POST says about one feeder; ``state`` null is Unknown, with a reason."""

    feeder_id: str
    state: int | None
    probabilities: tuple[float, float, float] | None
    forecast: tuple[ForecastSlot, ...]
    state_change: StateChange | None = None
    last_state: int | None = None
    reason: str | None = None
    plan: FlexPlan | None = None
    """A plan made without a transition, because the uncovered need grew."""


class TelemetryAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to ``POST /telemetry``."""

    accepted: int
    rejected: tuple[Rejection, ...]
    states: tuple[FeederAnswer, ...]
    notes: tuple[Rejection, ...] = ()


class CallbackAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes and signature of our Ack; unsigned where the peer's generation has no signed answers."""

    body: bytes
    signature: str | None


class _Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What one feeder's newest slot leads to."""

    feeder: Feeder
    outlook: Outlook | None
    memory: StateMemory
    assessment: Assessment
    changed_from: GridState | None
    became_unknown: bool
    known_again: bool


class Pipeline:
    """Carries readings and callbacks down the line.

    Args:
        ledger: Runs units of work.
        roster: The feeders.
        forecaster: The risk model or its fallback.
        buyer: Plans and orders.
        floor: Sends messages, keeps the open orders in view.
        signer: Signs Acks.
        metrics: Counts.
        clock: Wall time.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        roster: Roster,
        forecaster: Forecaster,
        buyer: Buyer,
        floor: TradingFloor,
        signer: Signer,
        metrics: Metrics,
        clock: Clock,
        rules: AdmissionRules,
        limits: BatchLimits,
        quality: QualityRules = DEFAULT_RULES,
    ) -> None:
        self._ledger = ledger
        self._roster = roster
        self._forecaster = forecaster
        self._buyer = buyer
        self._floor = floor
        self._signer = signer
        self._metrics = metrics
        self._clock = clock
        self._rules = rules
        self._limits = limits
        self._quality = quality
        self._started_at = clock()
        self._turn = asyncio.Lock()

    # --- telemetry ------------------------------------------------------------------------------

    async def handle_telemetry(self, body: bytes) -> TelemetryAnswer:
        """Take a batch of readings in and decide for every feeder whose grid moved on.

        Raises:
            InvalidRequest: The body is not a batch (400).
            TelemetryError: No reading was acceptable (422); the facts list why.
            StoreError: Nothing was stored (503).
        """
        parsed = parse_batch(body, self._limits)
        async with self._turn:
            now = self._clock()
            admission = admit(
                parsed,
                windows=self._roster.windows,
                ratings_kw=self._roster.ratings_kw,
                now=now,
                rules=self._rules,
            )
            self._metrics.readings(admission)
            if admission.accepted == 0:
                raise TelemetryError(
                    f"none of {len(parsed)} readings was acceptable",
                    code="no_acceptable_reading",
                    rejected=msgspec.to_builtins(admission.rejected),
                )
            touched = sorted({one.feeder_id for one in parsed if isinstance(one, Reading)} & self._roster.ids)
            if admission.fresh:
                touched = sorted(set(touched) | {one.feeder_id for one in admission.fresh})
            changes = await self._decide(admission.fresh, now)
        return TelemetryAnswer(
            accepted=admission.accepted,
            rejected=admission.rejected,
            notes=admission.notes,
            states=tuple(self._answer(feeder_id, changes.get(feeder_id)) for feeder_id in touched),
        )

    async def _decide(self, fresh: Sequence[Reading], now: datetime) -> dict[str, "_Outcome"]:
        """Windows -> outlooks -> states -> one transaction -> messages on their way."""
        if not fresh:
            return {}
        try:
            advances = self._advance(fresh, now)
            rated = [one for one in advances if one.feeder.rating_kw is not None]
            found = outlooks(self._forecaster, rated)
            verdicts = [_judge(one.feeder, found.get(one.feeder.feeder_id)) for one in advances]
            decided_at = self._clock()  # the detection clock starts here, at the decision
            outcomes, work = await self._ledger.commit(
                lambda work: self._write(work, fresh, verdicts, received_at=now, detected_at=decided_at)
            )
        except BaseException:
            # Memory has moved on, the disk has not: go back to what is stored.
            await self._roster.reload({one.feeder_id for one in fresh})
            raise
        for verdict in verdicts:
            feeder, saved = _saved(verdict, outcomes.get(verdict.feeder.feeder_id))
            feeder.restore(saved)
        self._floor.after(work)
        for verdict in verdicts:
            self._metrics.state(verdict.feeder.feeder_id, verdict.assessment.state)
        return outcomes

    def _advance(self, fresh: Sequence[Reading], now: datetime) -> list[Advance]:
        """Put readings into the windows; list the feeders whose newest closed slot moved."""
        before: dict[str, datetime | None] = {}
        flags: dict[str, Reading] = {}
        for one in fresh:
            feeder = self._roster.get_or_register(one.feeder_id)
            before.setdefault(one.feeder_id, feeder.window.origin_at)
            feeder.last_arrival_at = now
        self._roster.take_in(fresh)
        for one in fresh:
            flags[one.feeder_id] = one
        advances = []
        for feeder_id, origin_before in sorted(before.items()):
            feeder = self._roster[feeder_id]
            origin_at = feeder.window.origin_at
            if origin_at is None or origin_at == origin_before or feeder.window.complete_slots == 0:
                continue
            newest = flags[feeder_id]
            advances.append(
                Advance(
                    feeder=feeder,
                    origin_before=origin_before,
                    bookings=self._floor.bookings(feeder_id),
                    holiday=bool(newest.holiday_flag),
                    event=bool(newest.event_flag),
                )
            )
        return advances

    def _write(
        self,
        work: Work,
        fresh: Sequence[Reading],
        verdicts: Sequence[_Verdict],
        *,
        received_at: datetime,
        detected_at: datetime,
    ) -> dict[str, "_Outcome"]:
        """Everything a batch leaves behind, in one transaction."""
        upsert(
            work.connection,
            reading_table,
            [
                {
                    "feeder_id": one.feeder_id,
                    "at": one.timestamp,
                    "load_kw": one.load_kw,
                    "voltage_v": one.voltage_v,
                    "current_a": one.current_a,
                    "temperature_c": one.temperature_c,
                    "holiday_flag": one.holiday_flag,
                    "event_flag": one.event_flag,
                    "received_at": received_at,
                }
                for one in fresh
            ],
        )
        outcomes = {}
        for verdict in verdicts:
            outcome = self._write_verdict(work, verdict, detected_at)
            if outcome is not None:
                outcomes[verdict.feeder.feeder_id] = outcome
        save_states(work, [_saved(one, outcomes.get(one.feeder.feeder_id)) for one in verdicts])
        for verdict in verdicts:
            self._floor.event_time_passed(work, verdict.feeder.feeder_id, verdict.assessment.origin_at)
        return outcomes

    def _write_verdict(self, work: Work, verdict: _Verdict, detected_at: datetime) -> "_Outcome | None":
        feeder, assessment = verdict.feeder, verdict.assessment
        if verdict.became_unknown:
            work.alarm(
                "state_unknown",
                f"{feeder.feeder_id}: {assessment.reason}; last known state "
                f"{GridState(assessment.last_state).name}",
                feeder_id=feeder.feeder_id,
            )
        if verdict.known_again:
            work.clear_alarm("state_unknown", feeder.feeder_id)
        if assessment.state is None or verdict.outlook is None:
            return None
        change = self._note_change(work, verdict)
        state = GridState(assessment.state)
        if change is not None and state is GridState.NORMAL:
            work.clear_alarm("need_uncovered", feeder.feeder_id)
        if state is GridState.NORMAL or feeder.config is None:
            return _Outcome(change=change, uncovered_reset=state is GridState.NORMAL)
        purchase = self._buyer.decide(
            work,
            feeder_decision(
                feeder,
                verdict.outlook.rows,
                origin_at=assessment.origin_at,
                previous_state=verdict.changed_from if change else state,
                state=state,
                state_change_id=change.id if change else feeder.state_change_id or work.new_id(),
                detected_at=detected_at,
            ),
        )
        if change is not None and purchase.plan is not None:
            change = msgspec.structs.replace(change, plan=purchase.plan)
        return _Outcome(change=change, purchase=purchase)

    def _note_change(self, work: Work, verdict: _Verdict) -> StateChange | None:
        """Write a transition down with everything it was decided on."""
        if verdict.changed_from is None or verdict.outlook is None or verdict.assessment.state is None:
            return None
        feeder, outlook = verdict.feeder, verdict.outlook
        change = StateChange(
            id=work.new_id(),
            from_state=int(verdict.changed_from),
            to_state=verdict.assessment.state,
            at=outlook.origin_at,
            confidence=_confidence(outlook.probabilities, verdict.assessment.state),
        )
        work.note(
            "state.changed",
            {
                "change": change,
                "probabilities": outlook.probabilities,
                "forecast": outlook.slots,
                "features": dict(zip(FEATURE_NAMES, map(_plain, outlook.features), strict=True)),
                "model_id": outlook.model_id,
                "rating_kw": feeder.rating_kw,
                "policy": feeder.policy,
                "reading": _newest(feeder),
                "window": {
                    "slots": len(outlook.window_kw),
                    "step_min": feeder.window.step_min,
                    "dtype": "<f4",
                },
            },
            feeder_id=feeder.feeder_id,
            event_id=change.id,
            payloads=[
                Payload(
                    content=np.ascontiguousarray(outlook.window_kw, dtype="<f4").tobytes(),
                    media_type="application/octet-stream",
                )
            ],
        )
        return change

    def _answer(self, feeder_id: str, outcome: "_Outcome | None") -> FeederAnswer:
        feeder = self._roster[feeder_id]
        assessment = feeder.assessment
        if assessment is None:
            return FeederAnswer(
                feeder_id=feeder_id,
                state=None,
                probabilities=None,
                forecast=(),
                reason="no complete slot yet" if feeder.config else "no rating is configured",
            )
        change = outcome.change if outcome else None
        purchase = outcome.purchase if outcome else None
        return FeederAnswer(
            feeder_id=feeder_id,
            state=assessment.state,
            probabilities=assessment.probabilities,
            forecast=assessment.forecast,
            state_change=change,
            last_state=assessment.last_state,
            reason=assessment.reason,
            plan=purchase.plan if purchase and change is None else None,
        )

    async def look_after(self) -> None:
        """Do what nobody waits for, every few seconds: notice silence, keep what has been learned."""
        await self.note_silence()
        await self._roster.store_learned(at_most=LEARNED_AT_ONCE)

    async def note_silence(self) -> None:
        """Say Unknown of feeders from which nothing has come for too long (wall time).

        The last state is held and an alarm raised; the next reading decides anew. After a restart the
        silence counts from the start.
        """
        async with self._turn:
            now = self._clock()
            silent: list[tuple[Feeder, SavedFeeder]] = []
            for feeder in self._roster.values():
                held = feeder.assessment
                if held is None or held.state is None:
                    continue
                silence = assess_silence(
                    feeder.last_arrival_at or self._started_at,
                    now,
                    feeder.window.sampling_min,
                    rules=self._quality,
                )
                if silence.stale:
                    silent.append((feeder, _silenced(feeder, held, silence)))
            if not silent:
                return

            def write(work: Work) -> None:
                for feeder, saved in silent:
                    reason = saved.assessment.reason if saved.assessment else ""
                    work.alarm("state_unknown", f"{feeder.feeder_id}: {reason}", feeder_id=feeder.feeder_id)
                save_states(work, silent)

            _, work = await self._ledger.commit(write)
            for feeder, saved in silent:
                feeder.restore(saved)
                self._metrics.state(feeder.feeder_id, None)
            self._floor.after(work)

    # --- callbacks ------------------------------------------------------------------------------

    async def handle_callback(self, message: VerifiedMessage) -> CallbackAnswer:
        """Take a verified callback in; what it leads to is durable before the Ack is returned.

        Raises:
            BecknRefusal: It fits no request or order of ours; nothing was changed.
            StoreError: Nothing was stored; the peer will try again.
        """
        answer = message.dialect.ack_body(message.context.message_id)
        reception, work = await self._ledger.commit(lambda work: self._receive(work, message, answer))
        self._floor.after(work)
        if reception.discovered is not None:
            await self._floor.take_offers(reception.discovered)
        self._metrics.callback(message.action, repeated=reception.repeated)
        return CallbackAnswer(
            body=reception.answer,
            signature=(
                self._signer.authorization(
                    reception.answer, now=self._clock(), request_signature=message.signature
                )
                if message.dialect.signs_answers
                else None
            ),
        )

    def _receive(self, work: Work, message: VerifiedMessage, answer: bytes) -> Reception:
        reception = receive(work, message, answer, self._floor.desk)
        for lost in reception.lost:
            self._buyer.replan(work, lost)
        return reception


class _Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What the transaction decided for one feeder."""

    change: StateChange | None = None
    purchase: Purchase | None = None
    uncovered_reset: bool = False


def _judge(feeder: Feeder, outlook: Outlook | None) -> _Verdict:
    """Outlook -> state. Doubt never lowers a state: it holds the last one and says Unknown."""
    origin_at = feeder.window.origin_at
    if origin_at is None:
        raise RuntimeError(f"{feeder.feeder_id} has no closed slot")
    quality = assess_quality(feeder.window.history().load_kw, feeder.rating_kw, feeder.window.step_min)
    usable = usable_for_trading(quality)
    feeder.quality = (quality, usable)
    held = GridState(feeder.memory.state or 0)
    reason = None if usable.usable else f"{usable.code}: {usable.reason}"
    if outlook is None and reason is None:
        reason = "unrated: no rating is configured"
    if reason is None and outlook is not None and not np.isfinite(outlook.probabilities).all():
        reason = "newest_missing: the newest slot was not measured"
    known = reason is None and outlook is not None
    memory = feeder.memory
    if known and outlook is not None:
        memory = next_state(feeder.policy, memory, outlook.probabilities, int(origin_at.timestamp()))
    state = GridState(memory.state or 0) if known else None
    since = datetime.fromtimestamp(memory.since_s, origin_at.tzinfo) if memory.since_s else origin_at
    return _Verdict(
        feeder=feeder,
        outlook=outlook,
        memory=memory,
        assessment=Assessment(
            origin_at=origin_at,
            state=int(state) if state is not None else None,
            last_state=int(state if state is not None else held),
            since=since if known else feeder.unknown_since or origin_at,
            probabilities=outlook.probabilities if known and outlook is not None else None,
            forecast=outlook.slots if outlook is not None and _finite(outlook) else (),
            features=tuple(map(_plain, outlook.features)) if outlook is not None else (),
            model_id=outlook.model_id if outlook is not None else "none",
            reason=reason,
        ),
        changed_from=held if state is not None and state is not held else None,
        became_unknown=not known and feeder.unknown_since is None,
        known_again=known and feeder.unknown_since is not None,
    )


def _silenced(feeder: Feeder, held: Assessment, silence: Silence) -> SavedFeeder:
    """A feeder's state once it has fallen silent."""
    reason = f"stale: nothing came for {silence.silent_s:.0f} s (limit {silence.limit_s:.0f} s)"
    return SavedFeeder(
        memory=feeder.memory,
        assessment=msgspec.structs.replace(held, state=None, probabilities=None, reason=reason),
        unknown_since=held.origin_at,
        state_change_id=feeder.state_change_id,
        uncovered=feeder.uncovered,
    )


def _saved(verdict: _Verdict, outcome: _Outcome | None) -> tuple[Feeder, SavedFeeder]:
    """What a restarted gateway needs to go on with this feeder."""
    feeder = verdict.feeder
    uncovered, change_id = feeder.uncovered, feeder.state_change_id
    if outcome is not None:
        change_id = outcome.change.id if outcome.change else change_id
        if outcome.purchase is not None and outcome.purchase.plan is not None:
            uncovered = outcome.purchase.uncovered
        elif outcome.uncovered_reset:
            uncovered = None
    unknown_since = feeder.unknown_since
    if verdict.became_unknown:
        unknown_since = verdict.assessment.origin_at
    elif verdict.known_again:
        unknown_since = None
    saved = SavedFeeder(
        memory=verdict.memory,
        assessment=verdict.assessment,
        unknown_since=unknown_since,
        state_change_id=change_id,
        uncovered=uncovered,
    )
    return feeder, saved


def _confidence(probabilities: tuple[float, float, float], state: int) -> float:
    """Probability of the state or a worse one; of Normal, its own."""
    return round(probabilities[0] if state == 0 else sum(probabilities[state:]), 6)


def _finite(outlook: Outlook) -> bool:
    return all(np.isfinite((row.q10, row.q50, row.q90)).all() for row in outlook.rows)


def _plain(value: float) -> float | None:
    """A JSON number, or None where the feature could not be computed."""
    number = float(value)
    return number if np.isfinite(number) else None


def _newest(feeder: Feeder) -> dict[str, Any]:
    at = feeder.window.newest_at
    known = feeder.window.known(at) if at is not None else None
    return {"at": at, "load_kw": known.load_kw if known else None}
