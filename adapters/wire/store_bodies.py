"""Check the bodies of requests for vector stores, and read the conditions of a search."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .errors import bad_request, missing, wrong_type
from .limits import (
    ATTRIBUTE_VALUE_MAX_CHARS,
    BATCH_FILES_MAX,
    CHUNK_TOKENS,
    METADATA_KEY_MAX_CHARS,
    METADATA_PAIRS_MAX,
    SEARCH_QUERIES_MAX,
    SEARCH_RESULTS_DEFAULT,
    SEARCH_RESULTS_MAX,
    STORE_EXPIRES_DAYS,
    STORE_FILES_MAX,
)
from .shapes import Check, anything, choice, decimal, listed, nullable, record, tagged, text, whole
from .validation import Json, an_object, array, one_of, string

Attributes = Mapping[str, Any]
Accepts = Callable[[Attributes], bool]
"""Function that returns whether files with these attributes are searched."""

CHUNKING_DEFAULT = (800, 400)  # tokens of a chunk, and of its overlap with the one before; the default of the provider
RANKERS = ("none", "auto", "default-2024-08-21", "default-2024-11-15")

_EXPIRES = record({"anchor": choice("last_active_at"), "days": whole(*STORE_EXPIRES_DAYS)})
_STATIC = record({"max_chunk_size_tokens": whole(*CHUNK_TOKENS), "chunk_overlap_tokens": whole(0)})
_CHUNKING = tagged({"auto": record({"type": anything}), "static": record({"type": anything, "static": _STATIC})})
RANKING = record(
    {}, {"ranker": choice(*RANKERS), "score_threshold": nullable(decimal(0, 1)), "hybrid_search": anything}
)
"""Check of the options of a ranking; weights of kinds of search are ignored, because there is one kind."""

_BOUND: Check = whole(1, SEARCH_RESULTS_MAX)
_IDS: Check = listed(text(minimum=1), of="strings")


def expires_days(body: Json) -> int | None:
    """Return after how many days without use a vector store expires; None for never."""
    given = body.get("expires_after")
    if given is None:
        return None
    _EXPIRES(given, "expires_after")
    return int(given["days"])


def chunking_of(body: Json, where: str = "") -> tuple[int, int]:
    """Return the number of tokens of a chunk, and of its overlap with the one before."""
    given, param = body.get("chunking_strategy"), f"{where}chunking_strategy"
    if given is None:
        return CHUNKING_DEFAULT
    _CHUNKING(given, param)
    if given["type"] == "auto":
        return CHUNKING_DEFAULT
    size, overlap = given["static"]["max_chunk_size_tokens"], given["static"]["chunk_overlap_tokens"]
    if overlap > size // 2:
        raise bad_request(
            f"Invalid '{param}.static.chunk_overlap_tokens': expected at most half of 'max_chunk_size_tokens' ({size // 2}), but "
            f"got {overlap} instead.",
            f"{param}.static.chunk_overlap_tokens",
            "invalid_value",
        )
    return size, overlap


def attributes_of(body: Json, where: str = "") -> Json:
    """Return the attributes of a file, {} if they are absent or null."""
    given, param = body.get("attributes"), f"{where}attributes"
    if given is None:
        return {}
    if len(an_object(given, param)) > METADATA_PAIRS_MAX:
        raise bad_request(
            f"Invalid '{param}': too many properties. Expected an object with at most {METADATA_PAIRS_MAX} properties, but got "
            f"an object with {len(given)} properties instead.",
            param,
            "object_above_max_properties",
        )
    for name, value in given.items():
        string(name, f"{param} (a name)", METADATA_KEY_MAX_CHARS)
        if isinstance(value, str):
            string(value, f"{param}.{name}", ATTRIBUTE_VALUE_MAX_CHARS)
        elif not isinstance(value, int | float):
            raise wrong_type(f"{param}.{name}", "a string, a number or a boolean", value)
    return dict(given)


def file_ids(body: Json, maximum: int = STORE_FILES_MAX, where: str = "") -> list[str]:
    """Return the distinct ids of files in `file_ids`, [] if it is absent or null."""
    given, param = body.get("file_ids"), f"{where}file_ids"
    if given is None:
        return []
    _IDS(array(given, param, maximum, "strings"), param)
    return list(dict.fromkeys(given))


def batch_files(body: Json) -> list[tuple[str, Json, tuple[int, int]]]:
    """Return the files of a batch: their ids, attributes and chunking, given for all, or for each in `files`."""
    if body.get("files") is None:
        ids = file_ids(body, BATCH_FILES_MAX)
        return [(each, attributes_of(body), chunking_of(body)) for each in ids]
    if body.get("file_ids") is not None:
        raise bad_request(
            "Mutually exclusive parameters: Ensure you are only providing one of: 'file_ids' or 'files'.",
            "files",
            "mutually_exclusive_parameters",
        )
    found: dict[str, tuple[str, Json, tuple[int, int]]] = {}
    for index, each in enumerate(array(body["files"], "files", BATCH_FILES_MAX)):
        where = f"files[{index}]."
        given = an_object(each, where[:-1])
        if given.get("file_id") is None:
            raise missing(f"{where}file_id")
        name = string(given["file_id"], f"{where}file_id")
        found[name] = name, attributes_of(given, where), chunking_of(given, where)
    return list(found.values())


def queries_of(body: Json) -> list[str]:
    """Return the queries of a search: a text or several."""
    given = body.get("query")
    if given is None:
        raise missing("query")
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list):
        raise wrong_type("query", "one of a string or array of strings", given)
    listed(text(), SEARCH_QUERIES_MAX, 1, "strings")(given, "query")
    return list(given)


def results_max(value: Any, where: str = "max_num_results", default: int = SEARCH_RESULTS_DEFAULT) -> int:
    """Return how many results are wanted at most; `default` if it is not said."""
    if value is None:
        return default
    _BOUND(value, where)
    return int(value)


def score_min(options: Any, where: str = "ranking_options") -> float:
    """Return the score that results have at least."""
    if options is None:
        return 0.0
    RANKING(options, where)
    return float(options.get("score_threshold") or 0.0)


def condition_of(filters: Any, where: str = "filters") -> Accepts:
    """Return the condition on attributes that the filters of a search state; without any, all files are searched.

    A file without the attribute passes only `ne` and `nin`; values of different types are not equal, and not ordered.

    Raises:
        ApiError: a 400.
    """
    if filters is None:
        return lambda _: True
    kind = an_object(filters, where).get("type")
    if kind in ("and", "or"):
        inner = [
            condition_of(an_object(each, f"{where}.filters[{index}]"), f"{where}.filters[{index}]")
            for index, each in enumerate(array(filters.get("filters"), f"{where}.filters"))
        ]
        if kind == "and":
            return lambda given: all(each(given) for each in inner)
        return lambda given: any(each(given) for each in inner)
    if kind is None:
        raise missing(f"{where}.type")
    kind = one_of(kind, f"{where}.type", (*COMPARISONS, "and", "or"))
    if filters.get("key") is None:
        raise missing(f"{where}.key")
    key, value = string(filters["key"], f"{where}.key"), filters.get("value")
    if kind in ("in", "nin"):
        for index, each in enumerate(array(value, f"{where}.value", of="strings, numbers or booleans")):
            _comparable(each, f"{where}.value[{index}]")
    else:
        _comparable(value, f"{where}.value")
    compare = COMPARISONS[kind]
    return lambda given: compare(given.get(key), value)


def _comparable(value: Any, where: str) -> None:
    if not isinstance(value, str | int | float):
        raise wrong_type(where, "a string, a number or a boolean", value)


def _kind(value: Any) -> str:
    return (
        "boolean" if isinstance(value, bool) else "number" if isinstance(value, int | float) else type(value).__name__
    )


def _equal(own: Any, value: Any) -> bool:
    return _kind(own) == _kind(value) and bool(own == value)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    return lambda own, value: _kind(own) == _kind(value) and _kind(own) in ("number", "str") and compare(own, value)


COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": _equal,
    "ne": lambda own, value: not _equal(own, value),
    "gt": _ordered(lambda own, value: own > value),
    "gte": _ordered(lambda own, value: own >= value),
    "lt": _ordered(lambda own, value: own < value),
    "lte": _ordered(lambda own, value: own <= value),
    "in": lambda own, values: any(_equal(own, value) for value in values),
    "nin": lambda own, values: not any(_equal(own, value) for value in values),
}
"""Comparisons of an attribute with the value of a filter."""
