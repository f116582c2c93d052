import pytest
from hypothesis import given
from wire_samples import json_values, texts

from gateway.beckn import tags
from gateway.beckn.reader import At
from gateway.errors import BecknRefusal


@given(json_values)
def test_opaque__comes_back_as_it_was(value):
    text = tags.opaque(value)
    assert isinstance(text, str)
    assert tags.transparent(At(text)) == value


@pytest.mark.parametrize("text", ["5", "true", "null", '"quoted"', "[1]", "NaN", "plain", ""])
def test_opaque__a_text_stays_a_text(text):
    assert tags.transparent(At(tags.opaque(text))) == text


def test_opaque__writes_numbers_and_words_plainly():
    assert tags.opaque(300) == "300"
    assert tags.opaque("evenings only") == "evenings only"


@given(texts, texts)
def test_group__is_found_by_its_code(code, value):
    found = tags.one(At([tags.group("other"), tags.group(code, ("a", value), ("b", None))]), code)
    if code != "other":
        assert found is not None
        assert found.need("a").text() == value
        assert found.opt("b") is None
        assert found.names() == ("a",)


def test_group__that_is_absent_or_incomplete():
    assert tags.one(None, "flex") is None
    assert tags.one(At([]), "flex") is None
    found = tags.one(At([{"descriptor": {"code": "flex"}}]), "flex")
    assert found is not None
    with pytest.raises(BecknRefusal, match="the tag kw is missing"):
        found.need("kw")


def test_tag__without_value_or_name_says_nothing():
    listed = [{"descriptor": {"code": "a"}}, {"value": "1"}, {"descriptor": {}, "value": "2"}]
    found = tags.one(At([{"descriptor": {"code": "flex"}, "list": listed}]), "flex")
    assert found is not None
    assert found.names() == ()
