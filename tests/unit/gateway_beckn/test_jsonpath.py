import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_samples import texts

from gateway.beckn import jsonpath


def test_write__is_the_filter_peers_document():
    written = jsonpath.write(
        "$.catalogs[*].resources", "resourceAttributes", equal={"feederId": "F1"}, least={"capacityKw": 10}
    )
    assert written == (
        "$.catalogs[*].resources"
        "[?(@.resourceAttributes.feederId=='F1' && @.resourceAttributes.capacityKw>=10)]"
    )


@given(texts, texts, st.floats(min_value=0, max_value=1e9))
@settings(deadline=None)
def test_read__finds_what_write_wrote(feeder, direction, least):
    written = jsonpath.write(
        "$[*]", "a", equal={"feederId": feeder, "direction": direction}, least={"capacityKw": least}
    )
    tests = jsonpath.read(written)
    assert tests.equal == {"feederId": feeder, "direction": direction}
    assert tests.least == {"capacityKw": least}


@pytest.mark.parametrize(
    ("expression", "equal", "least"),
    [
        pytest.param('$[?@.feederId == "F1"]', {"feederId": "F1"}, {}, id="double quotes"),
        pytest.param(
            "$[?@['feederId']=='F1' && @['kw'] > 2.5e1]", {"feederId": "F1"}, {"kw": 25.0}, id="brackets"
        ),
        pytest.param(r"$[?@.a=='it\'s']", {"a": "it's"}, {}, id="escaped quote"),
        pytest.param(r'$[?@.a=="é\n\\"]', {"a": "é\n\\"}, {}, id="escapes"),
        pytest.param(r"$[?@.a=='\q']", {"a": r"\q"}, {}, id="broken escape"),
        pytest.param("$[?@.a=='b>=3']", {"a": "b>=3"}, {}, id="a test inside a text"),
        pytest.param("$[?@.a=='1' || @.a=='2']", {"a": "1"}, {}, id="the first counts"),
        pytest.param("$[?(@.rating.value < 4)]", {}, {}, id="nothing known"),
        pytest.param("", {}, {}, id="empty"),
    ],
)
def test_read__understands_other_spellings(expression, equal, least):
    tests = jsonpath.read(expression)
    assert (tests.equal, tests.least) == (equal, least)


@pytest.mark.parametrize("piece", ["a", "a ", "'", "a==", "a=='", "\\", "a>=1", "@['a']  "])
def test_read__takes_time_in_proportion(piece):
    begun = time.perf_counter()
    jsonpath.read(piece * (200_000 // len(piece)))
    assert time.perf_counter() - begun < 2


def test_write__refuses_numbers_json_does_not_have():
    with pytest.raises(ValueError, match="JSON"):
        jsonpath.write("$", "a", equal={}, least={"kw": float("nan")})
