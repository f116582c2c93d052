"""The roster: every feeder the gateway watches, in memory and in the store."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta

import msgspec
import numpy as np
from sqlalchemy import Connection, bindparam, func, select, update

from gateway.errors import NotFound
from gateway.feeders import Feeder, FeederConfig, SavedFeeder
from gateway.store.sql import insert_missing, upsert
from gateway.store.tables import feeder as feeder_table
from gateway.store.tables import feeder_state, reading
from gateway.telemetry.quality import assess_quality, usable_for_trading
from gateway.telemetry.reading import Reading, minute_of
from gateway.telemetry.window import FeederWindow
from gateway.trading.work import Ledger, Work
from ml.conformal import LearnedState

BULK = 64
"""Readings of one feeder in a batch from which they are loaded at once instead of one by one."""

LEARNED_AT_ONCE = 64
"""Feeders whose learned state is stored in one go: some 30 kB each, and never in a decision's way."""


class Roster(Mapping[str, Feeder]):
    """Feeders by id."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._feeders: dict[str, Feeder] = {}

    def __getitem__(self, feeder_id: str) -> Feeder:
        try:
            return self._feeders[feeder_id]
        except KeyError:
            raise NotFound(f"no feeder '{feeder_id}'", feeder_id=feeder_id) from None

    def __contains__(self, feeder_id: object) -> bool:
        return feeder_id in self._feeders

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._feeders))

    def __len__(self) -> int:
        return len(self._feeders)

    @property
    def ids(self) -> set[str]:
        """Ids of all feeders."""
        return set(self._feeders)

    @property
    def windows(self) -> dict[str, FeederWindow]:
        """Windows by feeder id."""
        return {feeder_id: feeder.window for feeder_id, feeder in self._feeders.items()}

    @property
    def ratings_kw(self) -> dict[str, float | None]:
        """Ratings by feeder id; None where not configured."""
        return {feeder_id: feeder.rating_kw for feeder_id, feeder in self._feeders.items()}

    def get_or_register(self, feeder_id: str) -> Feeder:
        """The feeder; one never heard of is taken up without a configuration."""
        return self._feeders.setdefault(feeder_id, Feeder(feeder_id, None))

    def take_in(self, readings: Iterable[Reading]) -> None:
        """Put admitted readings into their windows."""
        by_feeder: dict[str, list[Reading]] = defaultdict(list)
        for one in readings:
            by_feeder[one.feeder_id].append(one)
        for feeder_id, batch in by_feeder.items():
            window = self[feeder_id].window
            if len(batch) >= BULK:
                window.load(batch)
            else:
                for one in batch:
                    window.add(one)

    async def configure(self, feeder_id: str, config: FeederConfig, *, by: str) -> None:
        """Set a feeder's configuration; journalled with before and after.

        Args:
            feeder_id: New or known.
            config: The whole configuration.
            by: Who asks, as the journal names them.
        """
        before = self._feeders[feeder_id].config if feeder_id in self._feeders else None

        def write(work: Work) -> None:
            upsert(
                work.connection,
                feeder_table,
                [
                    {
                        "feeder_id": feeder_id,
                        "rating_kw": config.rating_kw,
                        "config": msgspec.json.encode(config).decode(),
                        "updated_at": work.now,
                    }
                ],
            )
            work.note("config.changed", {"before": before, "after": config, "by": by}, feeder_id=feeder_id)

        await self._ledger.commit(write)
        feeder = self.get_or_register(feeder_id)
        resampled = feeder.config is not None and feeder.config.sampling_min != config.sampling_min
        feeder.config = config
        if resampled:
            await self.reload({feeder_id})

    async def load(self) -> None:
        """Rebuild every feeder from the store."""
        configs = await self._ledger.read(_configs)
        seen = await self._ledger.read(lambda c: set(c.execute(select(feeder_state.c.feeder_id)).scalars()))
        for feeder_id in sorted(set(configs) | seen):
            self._feeders[feeder_id] = Feeder(feeder_id, configs.get(feeder_id))
        await self.reload(set(self._feeders))

    async def reload(self, feeder_ids: set[str]) -> None:
        """Go back to what is stored: windows, learned states and decisions."""
        for feeder_id in sorted(feeder_ids):
            known = self._feeders.get(feeder_id)
            fresh = Feeder(feeder_id, known.config if known else None)
            stored = await self._ledger.read(lambda c, f=fresh: _restore(c, f))  # type: ignore[misc]
            if stored or known is not None:
                self._feeders[feeder_id] = fresh

    async def store_learned(self, *, at_most: int | None = None) -> None:
        """Store what was learned online since it was last stored.

        Args:
            at_most: Feeders in this go, those that have learned most first; None stores all (clean stop).
        """
        waiting = [one for one in self._feeders.values() if one.learned is not None and one.unsaved_slots]
        waiting.sort(key=lambda one: -one.unsaved_slots)
        # Spelled out here, where nobody can learn anything meanwhile.
        saved = [(one, one.unsaved_slots, one.learned.to_bytes()) for one in waiting[:at_most] if one.learned]
        if not saved:
            return
        rows = [{"key": feeder.feeder_id, "new_learned": learned} for feeder, _, learned in saved]
        await self._ledger.commit(lambda work: work.connection.execute(_STORE_LEARNED, rows))
        for feeder, slots, _ in saved:
            feeder.unsaved_slots -= slots


_STORE_LEARNED = (
    update(feeder_state)
    .where(feeder_state.c.feeder_id == bindparam("key"))
    .values(learned=bindparam("new_learned"))
)


def save_states(work: Work, saved: Sequence[tuple[Feeder, SavedFeeder]]) -> None:
    """Store the runtime state of feeders that have moved on."""
    rows = []
    for feeder, state in saved:
        assessment = state.assessment
        if assessment is None:
            continue
        rows.append(
            {
                "feeder_id": feeder.feeder_id,
                "state": assessment.state,
                "since": assessment.since,
                "last_reading_at": feeder.window.newest_at,
                "memory": msgspec.json.encode(state),
                "updated_at": work.now,
            }
        )
    if not rows:
        return
    insert_missing(work.connection, feeder_state, [row | {"learned": b""} for row in rows])
    work.connection.execute(
        update(feeder_state)
        .where(feeder_state.c.feeder_id == bindparam("key"))
        .values({name: bindparam(f"new_{name}") for name in rows[0] if name != "feeder_id"}),
        [
            {"key": row["feeder_id"]}
            | {f"new_{name}": value for name, value in row.items() if name != "feeder_id"}
            for row in rows
        ],
    )


def _configs(connection: Connection) -> dict[str, FeederConfig]:
    rows = connection.execute(select(feeder_table.c.feeder_id, feeder_table.c.config))
    return {row.feeder_id: msgspec.json.decode(row.config, type=FeederConfig) for row in rows}


def _restore(connection: Connection, feeder: Feeder) -> bool:
    """Fill one feeder from the store; False where nothing is stored."""
    newest = connection.execute(
        select(func.max(reading.c.at)).where(reading.c.feeder_id == feeder.feeder_id)
    ).scalar_one()
    if newest is None:
        return feeder.config is not None
    rows = connection.execute(
        select(reading.c.at, reading.c.load_kw, reading.c.temperature_c).where(
            reading.c.feeder_id == feeder.feeder_id, reading.c.at > newest - 2 * timedelta(days=8)
        )
    ).all()
    feeder.window.load_arrays(
        np.array([minute_of(row.at) for row in rows], dtype=np.int64),
        np.array([row.load_kw for row in rows], dtype=np.float32),
        np.array(
            [np.nan if row.temperature_c is None else row.temperature_c for row in rows], dtype=np.float32
        ),
    )
    quality = assess_quality(feeder.window.history().load_kw, feeder.rating_kw, feeder.window.step_min)
    feeder.quality = (quality, usable_for_trading(quality))
    stored = connection.execute(
        select(feeder_state.c.memory, feeder_state.c.learned).where(
            feeder_state.c.feeder_id == feeder.feeder_id
        )
    ).first()
    if stored is not None:
        feeder.restore(msgspec.json.decode(stored.memory, type=SavedFeeder))
        if stored.learned:
            feeder.learned = LearnedState.from_bytes(stored.learned)
    return True
