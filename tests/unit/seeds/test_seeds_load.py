"""The seeds on disk, and the refusal of seeds that are wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from seeds.build_portfolios import as_text, seeded_portfolios
from seeds.load import (
    FEEDERS_PATH,
    PARTICIPANTS_PATH,
    SEEDS_DIR,
    TEMPLATES_PATH,
    SeedError,
    load_feeders,
    load_participants,
    load_templates,
)


def test_feeders__are_twelve_with_usable_time_zones():
    feeders = load_feeders()
    assert len(feeders) == 12
    assert {ZoneInfo(feeder.timezone).key for feeder in feeders} == {"Europe/Berlin"}


def test_participants__have_one_template_each():
    providers = [one.provider_id for one in load_participants().participants]
    assert providers == [one.provider_id for one in load_templates().templates]


def test_templates__lead_with_the_kind_each_aggregator_is_known_for():
    leading = {
        one.provider_id: max(one.ders, key=lambda der: der.share).type for one in load_templates().templates
    }
    assert leading == {"alpha": "battery", "bravo": "EV", "charlie": "HVAC"}


def test_seeded_portfolios__are_what_the_templates_give():
    for provider_id, document in seeded_portfolios().items():
        path = SEEDS_DIR / "portfolios" / f"{provider_id}.json"
        assert path.read_text(encoding="utf-8") == as_text(document)


def _feeder(document: dict[str, Any]) -> dict[str, Any]:
    return document["feeders"][3]


@pytest.mark.parametrize(
    ("path", "load", "spoil", "named"),
    [
        pytest.param(
            FEEDERS_PATH,
            load_feeders,
            lambda d: _feeder(d).update(rating_kw=0),
            "$.feeders[3].rating_kw",
            id="rating of zero",
        ),
        pytest.param(
            FEEDERS_PATH,
            load_feeders,
            lambda d: _feeder(d).update(ratting_kw=1),
            "ratting_kw",
            id="unknown member",
        ),
        pytest.param(
            FEEDERS_PATH, load_feeders, lambda d: _feeder(d).pop("location"), "location", id="missing member"
        ),
        pytest.param(
            FEEDERS_PATH,
            load_feeders,
            lambda d: _feeder(d).update(feeder_id="FDR_001"),
            "$.feeders[3] repeats the id 'FDR_001'",
            id="repeated feeder",
        ),
        pytest.param(
            PARTICIPANTS_PATH,
            load_participants,
            lambda d: d["participants"][2].update(subscriber_id="bpp-alpha.example"),
            "$.participants[2] repeats",
            id="repeated participant",
        ),
        pytest.param(
            TEMPLATES_PATH,
            load_templates,
            lambda d: d["templates"][1].update(share=0.5),
            "$.templates[...].share add up to 1.16",
            id="aggregators' shares",
        ),
        pytest.param(
            TEMPLATES_PATH,
            load_templates,
            lambda d: d["templates"][2]["ders"][0].update(share=0.01),
            "$.templates[2].ders[...].share add up to",
            id="groups' shares",
        ),
        pytest.param(
            TEMPLATES_PATH,
            load_templates,
            lambda d: d["templates"][0]["ders"][0].update(price_per_kwh="1e3"),
            "price_per_kwh",
            id="price that is no decimal",
        ),
    ],
)
def test_load__refuses_naming_file_and_field(
    tmp_path: Path, path: Path, load: Callable[[Path], object], spoil: Callable[[Any], object], named: str
):
    document = json.loads(path.read_bytes())
    spoil(document)
    spoiled = tmp_path / path.name
    spoiled.write_text(json.dumps(document))
    with pytest.raises(SeedError) as caught:
        load(spoiled)
    assert path.name in str(caught.value)
    assert named in str(caught.value)


def test_load__names_a_file_that_is_missing(tmp_path: Path):
    with pytest.raises(SeedError, match=r"^feeders\.json: cannot be read \(No such file"):
        load_feeders(tmp_path / "feeders.json")
