"""Keys are the app's own: any string of 1 to 200 storable characters."""

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from threadledger.domain import limits
from threadledger.domain.conversation import stream_of
from threadledger.domain.errors import InvalidInput, InvalidKey

keys = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=200)


@for_all(keys)
def test_every_key_names_a_stream_of_its_own(key):
    assert stream_of(key) == f"conversation:{key}"


@pytest.mark.parametrize("character", ["x", "é", "💙", "\n", " "])
def test_a_key_has_one_to_two_hundred_characters(character):
    assert stream_of(character)
    assert stream_of(character * limits.KEY_CHARS_MAX)
    with pytest.raises(InvalidKey, match="201 characters"):
        stream_of(character * (limits.KEY_CHARS_MAX + 1))


@pytest.mark.parametrize(
    ("key", "saying"),
    [
        ("", "0 characters"),
        (None, "type NoneType"),
        (42, "type int"),
        (b"key", "type bytes"),
        ("a\0b", "NUL"),
        ("a\ud800", "a lone surrogate"),
        ("\udfff", "a lone surrogate"),
    ],
)
def test_a_key_that_cannot_be_stored_is_refused_with_one_sentence(key, saying):
    with pytest.raises(InvalidKey, match=saying) as refused:
        stream_of(key)
    assert "\n" not in str(refused.value)
    str(refused.value).encode()


def test_a_refused_key_is_invalid_input_and_a_value_error():
    assert issubclass(InvalidKey, InvalidInput)
    assert issubclass(InvalidKey, ValueError)
