"""Ask for answers in a structure: make a response format of a model class, and read an answer as the value asked for.

A model class is one of pydantic, or any class with its `model_json_schema` and `model_validate_json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from ..errors import AnswerDoesNotFit, InvalidInput

if TYPE_CHECKING:
    from .answer import Answer

NAME_CHARS_MAX = 64
"""Maximum length of the name of a schema, in characters. Source: OpenAI's OpenAPI description, `ResponseFormatJsonSchema`."""


def format_of_model(model: type[Any]) -> dict[str, Any]:
    """Return the strict response format of a model class, in the format of Chat Completions.

    Raises:
        InvalidInput: it is no model class, or has no schema.
    """
    if not callable(getattr(model, "model_json_schema", None)) or not callable(
        getattr(model, "model_validate_json", None)
    ):
        raise InvalidInput(f"response_format is the class {model.__name__}: give a pydantic model, or a dict")
    try:
        schema = strict(model.model_json_schema())
    except InvalidInput:
        raise
    except Exception as error:
        raise InvalidInput(f"no JSON schema can be made of {model.__name__}: {error}") from error
    name = re.sub(r"[^a-zA-Z0-9_-]", "_", model.__name__)[:NAME_CHARS_MAX] or "answer"
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}


def strict(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema as providers require it for strict answers: closed objects, whose fields are all required.

    A field with a default is required too: the model states it. A reference with other keys next to it is written out.

    Raises:
        InvalidInput: an object takes any fields, such as `dict[str, int]`, or a reference leads nowhere.
    """
    root = deepcopy(dict(schema))
    return dict(_strict(root, root, ()))


def _strict(given: Any, root: Mapping[str, Any], met: tuple[str, ...]) -> Any:
    if not isinstance(given, dict):
        return given
    reference = given.get("$ref")
    if isinstance(reference, str) and len(given) > 1:
        if reference in met:
            raise InvalidInput(f"the schema refers to {reference!r} within itself: leave out what is next to $ref")
        others = {name: value for name, value in given.items() if name != "$ref"}
        return _strict({**_target(root, reference), **others}, root, (*met, reference))
    made = dict(given)
    if made.get("default", ...) is None:
        del made["default"]
    if made.get("type") == "object" or "properties" in made:
        if made.setdefault("additionalProperties", False) is not False:
            raise InvalidInput(
                f"the schema has an object with any fields ({made.get('title') or 'without title'}): providers only answer "
                "strictly if all fields are named; use a list of objects with a name and a value"
            )
        made["properties"] = {name: _strict(each, root, met) for name, each in made.get("properties", {}).items()}
        made["required"] = list(made["properties"])
    for name in ("$defs", "definitions"):
        if isinstance(made.get(name), dict):
            made[name] = {each: _strict(inner, root, met) for each, inner in made[name].items()}
    for name in ("anyOf", "allOf", "oneOf", "prefixItems"):
        if isinstance(made.get(name), list):
            made[name] = [_strict(each, root, met) for each in made[name]]
    if "items" in made:
        made["items"] = _strict(made["items"], root, met)
    if len(made.get("allOf", ())) == 1:
        made = {**made.pop("allOf")[0], **made}
    return made


def _target(root: Mapping[str, Any], reference: str) -> dict[str, Any]:
    found: Any = root
    for name in reference.removeprefix("#/").split("/"):
        found = found.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    if not isinstance(found, dict):
        raise InvalidInput(f"the schema refers to {reference!r}, which it does not have")
    return found


def parsed(answer: Answer) -> Any:
    """Return the answer as the value that the response format asks for; None if it asks for text.

    Raises:
        AnswerDoesNotFit: the answer is another value; it says where.
    """
    wanted = answer.response_format
    if wanted is None or (isinstance(wanted, Mapping) and wanted.get("type") == "text"):
        return None
    try:
        return json.loads(answer.text) if isinstance(wanted, Mapping) else wanted.model_validate_json(answer.text)
    except ValueError as error:  # also pydantic's own
        raise AnswerDoesNotFit(answer, _where(error)) from error


def _where(error: ValueError) -> str:
    """Return where an answer does not fit, without its text, which may be long."""
    listed: Any = getattr(error, "errors", list)  # pydantic's error has them
    try:
        found: list[Any] = list(listed())
        first = found[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        return f"{place}: {first['msg']}{more}"
    except (LookupError, TypeError):
        return str(error) if isinstance(error, json.JSONDecodeError) else type(error).__name__
