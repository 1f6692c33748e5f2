"""Test simulator scripts: valid content, and the errors for invalid content."""

import json
import subprocess
import sys

import pytest

from threadledger.adapters.simulator import Fault, Script, ScriptError, Simulator

FULL = {
    "seed": 7,
    "answers": ["hello", {"tool_calls": [{"name": "weather", "arguments": {"city": "Bern"}}]}],
    "faults": [
        {"on": "POST /threads/{thread_id}/runs", "fail": {}, "times": None},
        {"on": "*", "refuse": {"status": 503}, "after": 2, "probability": 0.5},
    ],
    "retired_models": ["gpt-4"],
    "retired_apis": ["assistants"],
}


def test_a_script_is_read_from_a_file(tmp_path):
    file = tmp_path / "script.json"
    file.write_text(json.dumps(FULL), encoding="utf-8")
    script = Script.load(file)
    assert script == Script.parse(FULL)
    assert (script.seed, script.retired_models, script.retired_apis) == (7, ("gpt-4",), ("assistants",))
    assert script.answers[1].tool_calls[0].arguments == '{"city": "Bern"}'
    assert (script.faults[0].times, script.faults[1].after, script.faults[1].probability) == (None, 2, 0.5)


def test_an_empty_script_says_nothing():
    assert Script.parse({}) == Script()


def test_a_simulator_takes_a_script_or_its_mapping():
    for script in (Script.parse(FULL), FULL):
        simulator = Simulator(script=script)
        assert simulator.seed == 7
        assert len(simulator.provider.faults.states) == 2
        assert simulator.provider.retired_apis == ("assistants",)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ([], "script: must be an object, not []"),
        ({"sed": 7}, "sed: unknown key; known keys are seed, answers"),
        ({"seed": "7"}, "seed: must be a whole number, not '7'"),
        ({"seed": True}, "seed: must be a whole number, not True"),
        ({"answers": "hello"}, "answers: must be an array, not 'hello'"),
        ({"answers": [7]}, "answers[0]: must be a string or an object with tool_calls"),
        ({"answers": [{"tool_calls": []}]}, "answers[0].tool_calls: must be an array of at least one call"),
        ({"answers": [{"tool_calls": [{"arguments": {}}]}]}, "answers[0].tool_calls[0].name: is missing"),
        ({"faults": [{"drop": True}]}, "faults[0].on: is missing"),
        ({"faults": [{"on": "POST /v1/threads", "drop": True}]}, "faults[0].on: no such route 'POST /v1/threads'"),
        ({"faults": [{"on": "*"}]}, "faults[0]: needs exactly one action of refuse, fail"),
        ({"faults": [{"on": "*", "drop": True, "fail": {}}]}, "found fail, drop"),
        ({"faults": [{"on": "*", "dorp": True}]}, "faults[0].dorp: unknown key"),
        ({"faults": [{"on": "*", "drop": 1}]}, "faults[0].drop: must be true or false, not 1"),
        ({"faults": [{"on": "*", "drop": True, "times": 0}]}, "faults[0].times: must be a whole number from 1, not 0"),
        ({"faults": [{"on": "*", "drop": True, "after": -1}]}, "faults[0].after: must be a whole number from 0"),
        (
            {"faults": [{"on": "*", "drop": True, "probability": 2}]},
            "faults[0].probability: must be a number from 0 to 1, not 2",
        ),
        ({"faults": [{"on": "*", "hang": "long"}]}, "faults[0].hang: must be a number from 0, not 'long'"),
        ({"faults": [{"on": "*", "refuse": {}}]}, "faults[0].refuse.status: is missing"),
        (
            {"faults": [{"on": "*", "refuse": {"status": 200}}]},
            "faults[0].refuse.status: must be a whole number from 400 to 599, not 200",
        ),
        ({"faults": [{"on": "*", "refuse": {"status": 500, "header": {}}}]}, "faults[0].refuse.header: unknown key"),
        ({"faults": [{"on": "*", "end": "dead"}]}, "faults[0].end: must be one of expired, cancelled, not 'dead'"),
        ({"faults": [{"on": "POST /threads", "fail": {}}]}, "faults[0].fail: cannot happen to POST /threads"),
        ({"faults": [{"on": "POST /responses", "end": "expired"}]}, "faults[0].end: cannot happen to POST /responses"),
        ({"retired_apis": ["bogus"]}, "retired_apis[0]: must be one of assistants, conversations"),
        ({"retired_models": "gpt-4"}, "retired_models: must be an array, not 'gpt-4'"),
    ],
)
def test_a_script_that_cannot_be_understood_names_the_key(script, words):
    with pytest.raises(ScriptError) as caught:
        Script.parse(script)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff", "cannot be read"),
        (b'{"x":1}', "x: unk"),
        (b'{"seed":1,"seed":2}', "'seed' is given more than once"),
        (b'{"answers":[{"tool_calls":[],"tool_calls":[]}]}', "'tool_calls' is given more than once"),
    ],
)
def test_a_file_that_is_no_script_is_refused_with_its_name(tmp_path, content, words):
    file = tmp_path / "script.json"
    file.write_bytes(content)
    with pytest.raises(ScriptError, match=r"script\.json") as caught:
        Script.load(file)
    assert words in str(caught.value)


def test_a_file_that_is_not_there_is_refused_with_its_name(tmp_path):
    with pytest.raises(ScriptError, match=r"gone\.json: cannot be read"):
        Script.load(tmp_path / "gone.json")


def test_a_bad_fault_among_good_ones_adds_none_of_them():
    simulator = Simulator()
    with pytest.raises(ScriptError, match=r"faults\[1\]\.on"):
        simulator.add_faults([{"on": "*", "drop": True}, {"on": "POST /nowhere", "drop": True}])
    assert simulator.provider.faults.states == []


def test_a_fault_made_in_python_is_checked_like_one_from_json():
    with pytest.raises(ScriptError, match="exactly one action"):
        Simulator().add_fault(Fault("*"))


def test_reading_a_script_loads_no_web_server():
    code = (
        "import sys; from threadledger.adapters.simulator import Script; Script.parse({});"
        "sys.exit(bool({'uvicorn', 'starlette', 'openai'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
