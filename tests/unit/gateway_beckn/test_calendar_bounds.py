"""Instants that leave the calendar once they are put into UTC are refused like any other bad instant."""

import pytest
from wire_samples import full_documents

from gateway.beckn.envelope import parse_context
from gateway.beckn.envelope_v1 import parse_context as parse_context_v1
from gateway.beckn.reader import At
from gateway.errors import BecknRefusal

OUTSIDE = ("9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+00:01")


@pytest.mark.parametrize("instant", OUTSIDE)
def test_a_timestamp_outside_the_calendar_is_refused(instant):
    context = full_documents()["on_status"]["context"] | {"timestamp": instant}
    with pytest.raises(BecknRefusal, match="calendar") as refused:
        parse_context(context)
    assert refused.value.path == "/context/timestamp"


@pytest.mark.parametrize("instant", OUTSIDE)
def test_so_it_is_in_the_older_generation(instant):
    context = {
        "domain": "demand-flexibility",
        "action": "on_search",
        "version": "1.1.1",
        "bap_id": "bap.example",
        "bap_uri": "https://bap.example/beckn",
        "transaction_id": "t",
        "message_id": "m",
        "timestamp": instant,
        "ttl": "PT30S",
    }
    with pytest.raises(BecknRefusal, match="calendar") as refused:
        parse_context_v1(context)
    assert refused.value.path == "/context/timestamp"


@pytest.mark.parametrize("instant", OUTSIDE)
def test_so_it_is_inside_a_message(instant):
    with pytest.raises(BecknRefusal, match="calendar"):
        At({"start": instant}).need("start").instant()
