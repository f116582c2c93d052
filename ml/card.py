"""Model cards: what a graph is, what it was trained on, how well it does, and its digest.

``<name>.onnx`` travels with ``<name>.metadata.json``. A graph whose bytes do not match its card is not
loaded: the card is how an operator and a regulator know which model decided.
"""

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from ml.errors import ModelUnavailableError

SCHEMA_VERSION = 1


class TrainingSource(msgspec.Struct, frozen=True, kw_only=True):
    """One file a model was trained on."""

    name: str
    sha256: str
    rows: int
    step_min: int
    licence: str
    origin: str


class ModelCard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a reader needs to judge and to run one graph.

    Attributes:
        model_id: Name and first digits of the graph's digest; goes into every decision's record.
        purpose: What it predicts.
        step_min: Grid it serves, 15 or 30.
        horizons_min: Forecast horizons, in the order of the outputs (empty for a classifier).
        input_name: Name of the graph's one input, float32 (n, len(inputs)).
        inputs: Feature names in column order.
        units: Unit of inputs and outputs in words.
        outputs: Output names in order.
        trained_on: The files, with digest and licence.
        training: Estimator, loss, rows, split and seed.
        packages: Versions the graph was made with.
        metrics: Figures per data set and horizon on the time split and on sources left out.
        calibration: Constants applied outside the graph.
        limits: Where not to trust it.
        onnx_sha256: Digest of the graph.
    """

    schema_version: int = SCHEMA_VERSION
    model_id: str
    purpose: str
    step_min: int
    horizons_min: tuple[int, ...]
    input_name: str
    inputs: tuple[str, ...]
    units: str
    outputs: tuple[str, ...]
    trained_on: tuple[TrainingSource, ...]
    training: dict[str, Any]
    packages: dict[str, str]
    metrics: dict[str, Any]
    calibration: dict[str, Any]
    limits: tuple[str, ...]
    onnx_sha256: str


def card_path(graph: Path) -> Path:
    """Where the card of a graph lies."""
    return graph.with_suffix(".metadata.json")


def sha256_of(data: bytes) -> str:
    """Hex SHA-256."""
    return hashlib.sha256(data).hexdigest()


def write_card(card: ModelCard, graph: Path) -> None:
    """Write a card beside its graph, with stable key order."""
    encoded = msgspec.json.format(msgspec.json.encode(card, order="deterministic"), indent=1)
    card_path(graph).write_bytes(encoded + b"\n")


def read_checked(graph: Path) -> tuple[ModelCard, bytes]:
    """Read a graph and its card, and check that they belong together.

    Raises:
        ModelUnavailableError: One is missing, the card does not parse, or the digest differs.
    """
    try:
        data = graph.read_bytes()
        card = msgspec.json.decode(card_path(graph).read_bytes(), type=ModelCard)
    except OSError as fault:
        raise ModelUnavailableError(
            f"{graph.name}: graph or card cannot be read ({fault.strerror})"
        ) from fault
    except msgspec.DecodeError as fault:
        raise ModelUnavailableError(f"{graph.name}: the card is not valid ({fault})") from fault
    if card.schema_version != SCHEMA_VERSION:
        raise ModelUnavailableError(
            f"{graph.name}: card schema {card.schema_version}, this version reads {SCHEMA_VERSION}"
        )
    digest = sha256_of(data)
    if digest != card.onnx_sha256:
        raise ModelUnavailableError(
            f"{graph.name}: digest {digest[:12]} differs from the card's {card.onnx_sha256[:12]}"
        )
    return card, data
