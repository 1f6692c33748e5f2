"""Parse the script of a simulation, its answers and faults, from JSON; errors name the wrong key."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .answers import Answer, ToolCall
from .fault_script import parse_faults
from .faults import Fault
from .rates import NO_LIMITS, Limits
from .reading import Reader, ScriptError
from .routes import APIS


@dataclass(frozen=True)
class Script:
    """Hold the initial settings of a simulation.

    `seed` None means another seed every time.
    """

    seed: int | None = None
    answers: tuple[Answer, ...] = ()
    faults: tuple[Fault, ...] = ()
    retired_models: tuple[str, ...] = ()
    retired_apis: tuple[str, ...] = ()
    rate_limits: Limits = NO_LIMITS

    @classmethod
    def load(cls, path: str | Path) -> "Script":
        """Read a script from a JSON file.

        Raises `ScriptError` if the file cannot be read, is not JSON or has invalid content.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ScriptError(f"script {path}: cannot be read: {error}") from error
        try:
            return cls.parse(json.loads(text))
        except json.JSONDecodeError as error:
            raise ScriptError(f"script {path}: not JSON: {error}") from error
        except ScriptError as error:
            raise ScriptError(f"script {path}: {error}") from error

    @classmethod
    def parse(cls, value: Any) -> "Script":
        """Read a script from a mapping.

        Raises `ScriptError` if the mapping is invalid.
        """
        reader = Reader(value, "")
        reader.only(("seed", "answers", "faults", "retired_models", "retired_apis", "rate_limits"))
        return cls(
            seed=reader.integer("seed", None),
            answers=parse_answers(reader.array("answers"), "answers"),
            faults=parse_faults(reader.array("faults"), "faults"),
            retired_models=reader.strings("retired_models"),
            retired_apis=reader.strings("retired_apis", APIS),
            rate_limits=parse_limits(reader.value("rate_limits") or {}, "rate_limits"),
        )


def parse_answers(values: Sequence[Any], where: str) -> tuple[Answer, ...]:
    """Return answers: each is a string, or {"tool_calls": [{"name": …, "arguments": {…}}]}."""
    return tuple(_answer(value, f"{where}[{index}]") for index, value in enumerate(values))


def parse_limits(value: Any, where: str = "") -> Limits:
    """Return rate limits from {"requests_per_minute": …, "tokens_per_minute": …}; both keys are optional."""
    reader = Reader(value, where)
    names = ("requests_per_minute", "tokens_per_minute")
    reader.only(names)
    return Limits(*(reader.integer(name, None, minimum=1) for name in names))


def _answer(value: Any, where: str) -> Answer:
    if isinstance(value, Answer):
        return value
    if isinstance(value, str):
        return Answer(value)
    if not isinstance(value, Mapping):
        raise ScriptError(f"{where}: must be a string or an object with tool_calls")
    reader = Reader(value, where)
    reader.only(("tool_calls",))
    calls = reader.array("tool_calls")
    if not calls:
        raise ScriptError(f"{where}.tool_calls: must be an array of at least one call")
    return Answer(tool_calls=tuple(_tool_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)))


def _tool_call(value: Any, where: str) -> ToolCall:
    reader = Reader(value, where)
    reader.only(("name", "arguments"))
    arguments = reader.value("arguments", {})
    # A string is sent unchanged, so that a script can also send arguments that are not JSON.
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return ToolCall(reader.required_string("name"), text)
