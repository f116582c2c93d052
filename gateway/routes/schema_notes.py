"""Bodies of the OpenAPI document where a handler reads raw bytes."""

from dataclasses import dataclass, field

from litestar.openapi.spec import Example, OpenAPIMediaType, Operation, RequestBody, Schema
from litestar.openapi.spec.enums import OpenAPIFormat, OpenAPIType

_READING = {
    "feeder_id": "FDR_001",
    "timestamp": "2026-01-05T17:15:00Z",
    "load_kw": 312.4,
    "voltage_v": 230.1,
    "current_a": 451.0,
    "temperature_c": 4.5,
    "holiday_flag": False,
    "event_flag": False,
}


def _reading_schema() -> Schema:
    number = Schema(type=OpenAPIType.NUMBER)
    flag = Schema(type=OpenAPIType.BOOLEAN)
    return Schema(
        type=OpenAPIType.OBJECT,
        required=["feeder_id", "timestamp", "load_kw"],
        properties={
            "feeder_id": Schema(type=OpenAPIType.STRING),
            "timestamp": Schema(
                type=OpenAPIType.STRING, format=OpenAPIFormat.DATE_TIME, description="end of the interval"
            ),
            "load_kw": Schema(type=OpenAPIType.NUMBER, description="average active power, import positive"),
            "voltage_v": number,
            "current_a": number,
            "temperature_c": number,
            "holiday_flag": flag,
            "event_flag": flag,
        },
    )


def _body(schema: Schema, examples: dict[str, Example]) -> RequestBody:
    return RequestBody(
        required=True, content={"application/json": OpenAPIMediaType(schema=schema, examples={**examples})}
    )


def _telemetry_body() -> RequestBody:
    reading = _reading_schema()
    many = Schema(type=OpenAPIType.ARRAY, items=reading)
    wrapped = Schema(type=OpenAPIType.OBJECT, required=["readings"], properties={"readings": many})
    return _body(
        Schema(one_of=[reading, many, wrapped]),
        {"one": Example(value=_READING), "batch": Example(value={"readings": [_READING]})},
    )


def _feeder_body() -> RequestBody:
    text = Schema(type=OpenAPIType.STRING)
    schema = Schema(
        type=OpenAPIType.OBJECT,
        required=["rating_kw"],
        properties={
            "rating_kw": Schema(type=OpenAPIType.NUMBER, description="thermal rating, kW"),
            "name": text,
            "substation": text,
            "location": Schema(type=OpenAPIType.OBJECT, description="latitude and longitude, degrees"),
            "timezone": Schema(type=OpenAPIType.STRING, description="IANA zone"),
            "country": Schema(type=OpenAPIType.STRING, description="ISO 3166 code, for its holidays"),
            "sampling_min": Schema(type=OpenAPIType.INTEGER, description="inferred when absent"),
            "automation": Schema(type=OpenAPIType.STRING, enum=["automatic", "off"]),
            "thresholds": Schema(type=OpenAPIType.OBJECT, description="operating point of the state machine"),
            "need": Schema(type=OpenAPIType.OBJECT, description="target loading and quantile to plan for"),
            "weights": Schema(type=OpenAPIType.OBJECT, description="weights of the ranker's criteria"),
        },
    )
    example = {"rating_kw": 400.0, "timezone": "Europe/London", "country": "GB", "automation": "automatic"}
    return _body(schema, {"minimal": Example(value={"rating_kw": 400.0}), "usual": Example(value=example)})


def _beckn_body() -> RequestBody:
    schema = Schema(
        type=OpenAPIType.OBJECT,
        required=["context", "message"],
        properties={
            "context": Schema(type=OpenAPIType.OBJECT),
            "message": Schema(type=OpenAPIType.OBJECT),
        },
    )
    return _body(schema, {})


@dataclass
class TelemetryOperation(Operation):
    """``POST /telemetry``: the three shapes of a body."""

    request_body: RequestBody | None = field(default_factory=_telemetry_body)


@dataclass
class FeederOperation(Operation):
    """``PUT /config/feeders/{feeder_id}``."""

    request_body: RequestBody | None = field(default_factory=_feeder_body)


@dataclass
class BecknOperation(Operation):
    """``POST /beckn/{action}``: a Beckn envelope; the action's own schema is in ``beckn_specs``."""

    request_body: RequestBody | None = field(default_factory=_beckn_body)


TELEMETRY_BODY = TelemetryOperation
FEEDER_BODY = FeederOperation
BECKN_BODY = BecknOperation
