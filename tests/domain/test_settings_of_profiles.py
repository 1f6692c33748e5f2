"""Check the settings of profiles and the structure of answers: what is refused, what is stored, and that old hashes stay."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from threadledger.domain.conversation import Profile, parse_profile
from threadledger.domain.conversation.messages import Usage
from threadledger.domain.errors import AnswerDoesNotFit, InvalidInput, InvalidProfile
from threadledger.domain.exchange import Answer
from threadledger.domain.exchange.structured import format_of_model, strict

FUNCTION = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "place", "schema": {"type": "object"}, "strict": True}}


class Leg(BaseModel):
    city: str = Field(description="Where it is")
    days: int | None = None


class Trip(BaseModel):
    legs: list[Leg]
    best: Leg = Field(description="The best of them")


def answer(text: str, wanted: Any) -> Answer:
    return Answer(text, "k", "x", "r-1", "m", "chat", "gpt", usage=Usage(), response_format=wanted)


# Settings


def test_a_profile_without_settings_has_the_hash_that_it_always_had() -> None:
    assert Profile().hash == "72b85c712c5c9bb5180352c9bf8220f10e5334a1a420d344ef8373e42b852672"
    plain = Profile("John", "Be kind.", "gpt-4o", json.dumps([FUNCTION]))
    assert plain.hash == Profile("John", "Be kind.", "gpt-4o", json.dumps([FUNCTION]), settings_json="{}").hash
    assert plain.hash != Profile("John", "Be kind.", "gpt-4o", json.dumps([FUNCTION]), settings_json='{"top_p":1}').hash


def test_the_settings_of_a_profile_file_are_stored_in_one_form() -> None:
    given_settings = {
        "tool_choice": "weather",
        "temperature": 0.5,
        "response_format": SCHEMA,
        "reasoning_effort": "low",
    }
    profile = parse_profile({"tools": [FUNCTION], "settings": given_settings}, "john.toml")
    assert profile.settings == {
        "temperature": 0.5,
        "reasoning_effort": "low",
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "response_format": SCHEMA,
    }
    flat = {"type": "json_schema", "name": "place", "schema": {"type": "object"}, "strict": True}
    assert parse_profile({"settings": {"response_format": flat}}, "f").settings == {"response_format": SCHEMA}


REFUSED = {
    "temperature=2.1 is not valid: give a number from 0 to 2": {"temperature": 2.1},
    "temperature=True is not valid": {"temperature": True},
    "temperature='1' is not valid": {"temperature": "1"},
    "temperature=nan is not valid": {"temperature": float("nan")},
    "top_p=-0.1 is not valid: give a number from 0 to 1": {"top_p": -0.1},
    "max_output_tokens=15 is not valid: give a whole number of tokens, at least 16": {"max_output_tokens": 15},
    "max_output_tokens=20.0 is not valid": {"max_output_tokens": 20.0},
    "reasoning_effort='huge' is not valid: use one of none, minimal, low": {"reasoning_effort": "huge"},
    "reasoning_effort=\\[\\] is not valid": {"reasoning_effort": []},
    "tool_choice={'type': 'function'} is not valid": {"tool_choice": {"type": "function"}},
    "tool_choice=7 is not valid: use one of auto, none, required": {"tool_choice": 7},
    "tool_choice names 'wether': use one of the tools weather": {"tool_choice": "wether"},
    "response_format='json' is not valid: give a model class, or a dict": {"response_format": "json"},
    "response_format=.* is not valid: a json_schema needs": {"response_format": {"type": "json_schema"}},
    "there is no setting 'temprature': use one of temperature": {"temprature": 1},
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_setting_that_no_provider_takes_is_refused_by_name(message: str) -> None:
    with pytest.raises(InvalidProfile, match=f"john.toml: {message}"):
        parse_profile({"tools": [FUNCTION], "settings": REFUSED[message]}, "john.toml")


def test_a_tool_that_has_to_be_called_must_exist() -> None:
    with pytest.raises(InvalidProfile, match="tool_choice='required' is not valid: there are no tools to choose from"):
        parse_profile({"settings": {"tool_choice": "required"}}, "")
    hosted = {"tools": [{"type": "file_search"}], "settings": {"tool_choice": {"type": "file_search"}}}
    assert parse_profile(hosted, "").settings["tool_choice"] == {"type": "file_search"}


# Structured answers


def test_a_model_class_becomes_a_strict_schema_as_the_sdk_makes_it() -> None:
    from openai.lib._pydantic import to_strict_json_schema

    made = format_of_model(Trip)
    assert made["json_schema"]["schema"] == to_strict_json_schema(Trip)
    assert (made["type"], made["json_schema"]["name"], made["json_schema"]["strict"]) == ("json_schema", "Trip", True)
    assert parse_profile({"settings": {"response_format": made}}, "").settings == {"response_format": made}


def test_a_schema_that_no_provider_answers_strictly_is_refused() -> None:
    class Loose(BaseModel):
        counts: dict[str, int]

    with pytest.raises(InvalidInput, match="an object with any fields"):
        format_of_model(Loose)
    with pytest.raises(InvalidInput, match="refers to '#/\\$defs/Gone', which it does not have"):
        strict({"type": "object", "properties": {"a": {"$ref": "#/$defs/Gone", "title": "A"}}})
    with pytest.raises(InvalidInput, match="within itself"):
        node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/N", "title": "Next"}}}
        strict({"$defs": {"N": node}, "type": "object", "properties": {}})
    with pytest.raises(InvalidInput, match="give a pydantic model"):
        format_of_model(SimpleNamespace)


def test_a_strict_schema_changes_nothing_of_the_given_one() -> None:
    schema = Trip.model_json_schema()
    before = json.dumps(schema)
    strict(schema)
    assert json.dumps(schema) == before


def test_an_answer_is_an_object_of_the_class_a_value_or_nothing() -> None:
    text = '{"legs": [], "best": {"city": "Bern", "days": null}}'
    assert answer(text, Trip).parsed == Trip(legs=[], best=Leg(city="Bern"))
    assert answer(text, SCHEMA).parsed == json.loads(text)
    assert answer("[1]", {"type": "json_object"}).parsed == [1]
    assert answer(text, {"type": "text"}).parsed is None
    assert answer(text, None).parsed is None


@pytest.mark.parametrize(
    ("text", "wanted", "where"),
    [
        ('{"legs": [{"city": 5}], "best": {"city": "Bern"}}', Trip, r"legs\.0\.city: Input should be a valid string"),
        ("no JSON", Trip, "the whole: Invalid JSON"),
        ("{}", Trip, r"legs: Field required, and 1 more"),
        ("no JSON", SCHEMA, "Expecting value: line 1 column 1"),
    ],
)
def test_an_answer_that_does_not_fit_names_the_place_and_is_kept(text: str, wanted: Any, where: str) -> None:
    with pytest.raises(
        AnswerDoesNotFit, match=rf"the answer of run r-1 does not fit \({where}.*: it is journaled"
    ) as raised:
        _ = answer(text, wanted).parsed
    assert raised.value.answer.text == text
    assert isinstance(raised.value, ValueError)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_any_value_is_read_as_it_was_written(value: Any) -> None:
    assert answer(json.dumps(value), {"type": "json_object"}).parsed == value
