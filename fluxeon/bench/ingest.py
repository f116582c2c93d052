"""``ingest``: telemetry bytes to states, for 1 to 100,000 feeders at once.

* Stages of one instant: decode -> admit -> window -> outlook (history, learning, features, graphs,
  calibration) -> state.
* References in the same process on the same windows: the plain feature kernel (NumPy, no loop) and the
  bare run of the ONNX graphs.
* ``POST`` is the gateway's own line for the same bytes: everything above, the answer, and one
  durable transaction with readings and states.

The feeders are simulated at half load, so that nothing is bought: this is what most instants cost.
"""

import asyncio
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from fluxeon.bench.measure import Outcome, Ratio, Row, Spread, Table, judged, ratio
from gateway import runtime as running
from gateway.clock import rfc3339, utc_now
from gateway.config import Settings
from gateway.feeders import Feeder, FeederConfig
from gateway.forecasting import Advance, outlooks
from gateway.telemetry.quality import assess_quality, usable_for_trading
from gateway.telemetry.reading import BatchLimits, Reading, admit, parse_batch
from gateway.telemetry.window import FeederWindow
from ml.features import FeederBatch, feature_matrix, frame, history_slots
from ml.model import RiskModel, risk_inputs
from ml.state import next_state

NAME = "ingest"
FEEDERS = (1, 100, 1_000, 10_000)
LARGE = 100_000
FEW_ROUNDS_FROM = 10_000
FEW_ROUNDS = 2
WHOLE_LINE_UP_TO = 1_000
"""Feeders up to which the whole POST is measured too."""
STEP_MIN = 15
SLOTS = 8 * 96 + 8
START = datetime(2026, 1, 5, tzinfo=UTC)
RATING_KW = 400.0
STAGES = ("decode", "admit", "window", "outlook", "state")
_CONFIG = FeederConfig(rating_kw=RATING_KW, sampling_min=STEP_MIN)
LIMITS = BatchLimits(max_readings=LARGE, max_bytes=64 * 1024 * 1024)


def measure(*, rounds: int, feeders: Sequence[int] = FEEDERS) -> Outcome:
    """Measure batches of one reading per feeder.

    Args:
        rounds: Interleaved rounds; from 10,000 feeders on at most two, none of them to warm up.
        feeders: Sizes of the batches.
    """
    model = RiskModel.load()
    rows: list[Row] = []
    ratios: list[Ratio] = []
    for count in feeders:
        found = _measure_size(model, count, min(rounds, FEW_ROUNDS) if count >= FEW_ROUNDS_FROM else rounds)
        whole = found.get("whole")
        stages = [sum(values) for values in zip(*(found[name] for name in STAGES), strict=True)]
        bare = [sum(values) for values in zip(found["kernel"], found["graphs"], strict=True)]
        rows.append(
            Row(
                label=f"{count:,} feeders",
                cells=(
                    *(Spread.of(found[name]) for name in STAGES),
                    Spread.of(stages),
                    Spread.of(whole) if whole else None,
                    Spread.of(found["kernel"]),
                    Spread.of(found["graphs"]),
                ),
            )
        )
        decided = [sum(values) for values in zip(*(found[name] for name in STAGES[2:]), strict=True)]
        name = f"{count:,} feeders"
        ratios.append(ratio(f"decode to state / bare kernels, {name}", stages, bare, at_most=3.0))
        if count == 1:
            ratios.append(
                judged("one feeder's decision (window to state), ms", Spread.of(decided), at_most=0.2)
            )
        if count == 1_000:
            ratios.append(
                judged("1,000 feeders in one batch (window to state), ms", Spread.of(decided), at_most=15.0)
            )
        if whole:
            ratios.append(ratio(f"whole POST, durable / decode to state, {name}", whole, stages))
    return Outcome(
        name=NAME,
        tables=(
            Table(
                title="Ingest: one reading per feeder, eight days of history (ms per batch)",
                columns=(*STAGES, "together", "whole POST", "feature kernel", "ONNX graphs"),
                rows=tuple(rows),
                note="references: feature kernel and ONNX graphs, bare, on the same windows",
            ),
        ),
        ratios=tuple(ratios),
    )


def _measure_size(model: RiskModel, count: int, rounds: int) -> dict[str, list[float]]:
    """Samples per stage and reference, ms per batch, all of the same rounds."""
    # A batch of few feeders is over too soon to be timed alone: several instants make a sample.
    instants = max(1, 64 // count)
    history_kw = _loads(count, SLOTS + (rounds + 1) * instants)
    feeders = [_feeder(number, row[:SLOTS]) for number, row in enumerate(history_kw)]
    batch = _batch(feeders)
    seen = frame(batch)
    quantiles_kw = np.stack([np.zeros((count, 4))] * 3, axis=2)
    inputs = risk_inputs(seen, quantiles_kw, np.asarray(batch.rating_kw, dtype=np.float64))
    found: dict[str, list[float]] = {name: [] for name in (*STAGES, "kernel", "graphs")}
    whole = _WholeLine(history_kw[:, :SLOTS]) if count <= WHOLE_LINE_UP_TO else None
    if whole:
        found["whole"] = []
    try:
        warm_up = int(count < FEW_ROUNDS_FROM)
        for number in range(rounds + warm_up):
            first = SLOTS + number * instants
            bodies = [_body(history_kw[:, slot], slot) for slot in range(first, first + instants)]
            taken = dict.fromkeys(found, 0.0)
            for body in bodies:
                _one_instant(model, feeders, body, taken)
                begin = time.perf_counter_ns()
                feature_matrix(batch)
                middle = time.perf_counter_ns()
                model.global_quantiles(seen, STEP_MIN)
                model.probabilities(inputs, STEP_MIN)
                taken["kernel"] += (middle - begin) / 1e6
                taken["graphs"] += (time.perf_counter_ns() - middle) / 1e6
                if whole:
                    taken["whole"] += whole.post_ms(body)
            if number >= warm_up:
                for name, value in taken.items():
                    found[name].append(value / instants)
    finally:
        if whole:
            whole.close()
    return found


def _one_instant(model: RiskModel, feeders: Sequence[Feeder], body: bytes, taken: dict[str, float]) -> None:
    """Carry one batch from bytes to states, adding up the time of each stage."""
    marks = [time.perf_counter_ns()]
    parsed = parse_batch(body, LIMITS)
    marks.append(time.perf_counter_ns())
    admission = admit(
        parsed,
        windows={one.feeder_id: one.window for one in feeders},
        ratings_kw={one.feeder_id: one.rating_kw for one in feeders},
        now=utc_now(),
    )
    if len(admission.fresh) != len(feeders):
        raise RuntimeError(f"only {len(admission.fresh)} of {len(feeders)} readings were fresh")
    marks.append(time.perf_counter_ns())
    by_id: dict[str, Reading] = {one.feeder_id: one for one in admission.fresh}
    advances = []
    for feeder in feeders:
        before = feeder.window.origin_at
        feeder.window.add(by_id[feeder.feeder_id])
        advances.append(Advance(feeder=feeder, origin_before=before, bookings=(), holiday=False, event=False))
    marks.append(time.perf_counter_ns())
    found = outlooks(model, advances)
    marks.append(time.perf_counter_ns())
    for feeder in feeders:
        outlook = found[feeder.feeder_id]
        quality = assess_quality(feeder.window.history().load_kw, feeder.rating_kw, feeder.window.step_min)
        if usable_for_trading(quality).usable:
            feeder.memory = next_state(
                feeder.policy, feeder.memory, outlook.probabilities, int(outlook.origin_at.timestamp())
            )
    marks.append(time.perf_counter_ns())
    for name, (begin, end) in zip(STAGES, pairwise(marks), strict=True):
        taken[name] += (end - begin) / 1e6


class _WholeLine:
    """A gateway without a network: its pipeline with a database of its own."""

    def __init__(self, history_kw: NDArray[np.float32]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fluxeon-bench-")
        self._runner = asyncio.Runner()
        settings = Settings(
            data_dir=str(Path(self._folder.name) / "data"),
            admin_token="x" * 32,
        )
        self._runtime = self._runner.run(
            running.start(settings, clock=utc_now, public_url="http://127.0.0.1")
        )
        for number, row in enumerate(history_kw):
            made = _feeder(number, row)
            feeder = self._runtime.roster.get_or_register(made.feeder_id)
            feeder.config, feeder.window = made.config, made.window

    def post_ms(self, body: bytes) -> float:
        """Hand a body to the pipeline; milliseconds until it is durable and answered."""
        begin = time.perf_counter_ns()
        msgspec.json.encode(self._runner.run(self._runtime.pipeline.handle_telemetry(body)))
        return (time.perf_counter_ns() - begin) / 1e6

    def close(self) -> None:
        """Stop the gateway and remove its folder."""
        self._runner.run(self._runtime.stop())
        self._runner.close()
        self._folder.cleanup()


def _loads(count: int, slots: int) -> NDArray[np.float32]:
    """Load of every feeder, float32 (count, slots): a daily pattern about half the rating, with noise."""
    source = np.random.default_rng(20_260_105)
    phase = source.uniform(0, 2 * np.pi, (count, 1))
    day = np.sin(2 * np.pi * np.arange(slots) / 96 + phase)
    noise = source.standard_normal((count, slots), dtype=np.float32)
    loads: NDArray[np.float32] = (RATING_KW * (0.42 + 0.1 * day + 0.01 * noise)).astype(np.float32)
    return loads


def _feeder(number: int, history_kw: NDArray[np.float32]) -> Feeder:
    """A configured feeder with its history in the window."""
    feeder_id = f"BENCH_{number:06d}"
    feeder = Feeder(feeder_id, _CONFIG)
    feeder.window = FeederWindow(feeder_id, sampling_min=STEP_MIN)
    first = int(START.timestamp()) // 60
    minutes = first + STEP_MIN * np.arange(len(history_kw), dtype=np.int64)
    feeder.window.load_arrays(minutes, history_kw, np.full(len(history_kw), np.nan, dtype=np.float32))
    return feeder


def _batch(feeders: Sequence[Feeder]) -> FeederBatch:
    """The windows as the kernels take them."""
    width = history_slots(STEP_MIN)
    histories = [feeder.window.history() for feeder in feeders]
    return FeederBatch(
        load_kw=np.stack([history.load_kw[-width:] for history in histories]),
        rating_kw=np.full(len(feeders), RATING_KW),
        origin_s=np.array(
            [int(history.origin_at.timestamp()) if history.origin_at else 0 for history in histories],
            dtype=np.int64,
        ),
        step_min=STEP_MIN,
        temperature_c=np.stack([history.temperature_c[-width:] for history in histories]),
    )


def _body(loads_kw: NDArray[np.float32], slot: int) -> bytes:
    """A batch with one reading per feeder."""
    at = rfc3339(START + timedelta(minutes=STEP_MIN * slot))
    return msgspec.json.encode(
        {
            "readings": [
                {"feeder_id": f"BENCH_{number:06d}", "timestamp": at, "load_kw": float(load)}
                for number, load in enumerate(loads_kw)
            ]
        }
    )
