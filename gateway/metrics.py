"""Figures for operators, in Prometheus text under ``/metrics``."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gateway.orders.order import Order
from gateway.telemetry.reading import Admission

SLA_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 10.0)


class Metrics:
    """Counters of one gateway, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._readings = Counter(
            "fluxeon_readings",
            "Telemetry readings, by what became of them",
            ["outcome"],
            registry=self.registry,
        )
        self._states = Gauge(
            "fluxeon_feeder_state",
            "Feeder state: 0 Normal, 1 Alert, 2 Critical, -1 Unknown",
            ["feeder_id"],
            registry=self.registry,
        )
        self._callbacks = Counter(
            "fluxeon_beckn_callbacks", "Callbacks taken in", ["action", "outcome"], registry=self.registry
        )
        self._refused = Counter(
            "fluxeon_beckn_refused", "Inbound messages refused", ["action", "code"], registry=self.registry
        )
        self._sent = Counter(
            "fluxeon_beckn_sent",
            "Messages sent, by the peer's answer",
            ["action", "answer"],
            registry=self.registry,
        )
        self._sla = Histogram(
            "fluxeon_detection_to_confirm_seconds",
            "Wall time from the causing decision to the CONFIRM having left",
            ["plan"],
            buckets=SLA_BUCKETS_S,
            registry=self.registry,
        )
        self._orders = Counter(
            "fluxeon_orders", "Orders that reached a state", ["state"], registry=self.registry
        )
        self._alarms = Counter("fluxeon_alarms", "Alarms raised", ["kind"], registry=self.registry)

    def readings(self, admission: Admission) -> None:
        """Count a batch."""
        self._readings.labels("accepted").inc(admission.accepted)
        for rejection in admission.rejected:
            self._readings.labels(rejection.code.value).inc()

    def state(self, feeder_id: str, state: int | None) -> None:
        """Show a feeder's state."""
        self._states.labels(feeder_id).set(-1 if state is None else state)

    def callback(self, action: str, *, repeated: bool) -> None:
        """Count a callback taken in."""
        self._callbacks.labels(action, "repeated" if repeated else "new").inc()

    def refused(self, action: str, code: str) -> None:
        """Count a refusal; ``action`` must be one we know, so that labels stay few."""
        self._refused.labels(action, code).inc()

    def sent(self, action: str, answer: str) -> None:
        """Count an answer (or its absence) to a message of ours."""
        self._sent.labels(action, answer).inc()

    def orders(self, orders: Iterable[Order]) -> None:
        """Count orders by the state a transaction left them in."""
        for order in orders:
            self._orders.labels(order.state.value).inc()

    def confirm_sent(self, order: Order) -> None:
        """Observe the detection-to-CONFIRM time of an order."""
        elapsed_ms = order.detection_to_confirm_ms
        if elapsed_ms is not None:
            self._sla.labels("replan" if order.replan else "first").observe(elapsed_ms / 1000)

    def alarm(self, kind: str) -> None:
        """Count an alarm."""
        self._alarms.labels(kind).inc()

    def render(self) -> bytes:
        """Everything, in Prometheus text."""
        return generate_latest(self.registry)
