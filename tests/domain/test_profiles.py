"""A profile from the fields of its file."""

import pytest

from threadledger.domain.conversation import Profile, parse_profile
from threadledger.domain.errors import InvalidProfile

FUNCTION = {
    "type": "function",
    "function": {
        "name": "web_search",
        "description": "Search.",
        "parameters": {"type": "object", "properties": {}},
    },
}


def test_a_short_tool_becomes_a_function():
    profile = parse_profile({"tools": [{"name": "web_search", "description": "Search."}]}, "john.toml")
    assert profile.tools == [FUNCTION]


@pytest.mark.parametrize("tool", [FUNCTION, {"type": "file_search"}, {"type": "web_search", "limit": 3}])
def test_a_tool_in_the_providers_form_stays_as_it_is(tool):
    assert parse_profile({"tools": [tool]}, "john.toml").tools == [tool]


def test_what_is_left_out_has_a_default():
    assert parse_profile({}, "john.toml") == Profile("assistant", "", None, "[]")


@pytest.mark.parametrize(
    ("given", "saying"),
    [
        ({"instruction": "x"}, "unknown field 'instruction'"),
        ({"name": 5}, "name is int"),
        ({"instructions": ["x"]}, "instructions is list"),
        ({"model": 5}, "model is int"),
        ({"tools": {"name": "x"}}, "tools is dict"),
        ({"tools": "web_search"}, "tools is str"),
        ({"tools": ["web_search"]}, "neither a name nor a type"),
        ({"tools": [{}]}, "neither a name nor a type"),
        ({"tools": [{"name": "x", "parameters": {"default": float("nan")}}]}, "john.toml: its list of tools"),
    ],
    ids=repr,
)
def test_a_profile_that_cannot_be_used_is_refused_with_the_files_name(given, saying):
    with pytest.raises(InvalidProfile, match=saying) as refused:
        parse_profile(given, "john.toml")
    assert "john.toml" in str(refused.value)


def test_equal_content_has_an_equal_hash_whatever_the_order_of_its_keys():
    one = Profile(tools_json='[{"type":"x","a":1}]')
    other = Profile(tools_json='[{"a": 1, "type": "x"}]')
    assert one.hash == other.hash


@pytest.mark.parametrize(
    "other",
    [
        Profile(name="Jane"),
        Profile(instructions="Be brief."),
        Profile(model="gpt"),
        Profile(tools_json='[{"type":"x"}]'),
    ],
)
def test_other_content_has_another_hash(other):
    assert other.hash != Profile().hash


def test_the_hash_is_that_of_every_release():
    assert (
        Profile("John", "Be brief.", "gpt", '[{"type":"x"}]').hash
        == "401eb0742d985aebceda7eb9dc73381caf92293b3cb711f81dc02e5dcac8f4b4"
    )


@pytest.mark.parametrize("tool", [FUNCTION, {"name": "web_search", "description": "Search."}, {"type": "file_search"}])
def test_that_a_function_changes_nothing_is_noted_and_no_provider_is_told(tool):
    plain, noted = (parse_profile({"tools": [each]}, "john.toml") for each in (tool, tool | {"read_only": True}))
    assert (noted.tools, noted.hash) == (plain.tools, plain.hash)
    assert (plain.read_only, noted.read_only) == ((), ("web_search",) if tool != {"type": "file_search"} else ())


def test_a_note_that_is_neither_true_nor_false_is_refused():
    with pytest.raises(InvalidProfile, match=r"john\.toml: read_only is str: give true or false"):
        parse_profile({"tools": [{"name": "x", "read_only": "yes"}]}, "john.toml")
