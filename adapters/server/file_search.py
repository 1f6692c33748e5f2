"""Search vector stores for a model: the function that it is offered, what it is shown, and the citations in its answer.

The server calls the function within the exchange, as an app's own functions are called in the app, so that each call and each
result is journaled. A result is JSON which holds what was found: the run's steps and the citations are made of it, also after a
restart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from threadledger.domain.conversation import events as e
from threadledger.domain.conversation import key_of
from threadledger.domain.conversation.files import FileSearch, FoundChunk
from threadledger.domain.conversation.messages import Message, restore_message
from threadledger.domain.conversation.tenants import tenant_of
from threadledger.domain.exchange.served import ServerTool
from threadledger.domain.ledger import VectorStoreRecord, VectorStores

from ..wire import Json

if TYPE_CHECKING:
    from threadledger.domain.journal import Journal

    from .calls import Caller, Served

FILE_SEARCH = "file_search"
RESULTS_OF_TOOL = 5
"""Number of passages that a model is shown for a search, unless its tool says otherwise. The provider shows 5 to the models with
the smallest contexts, and models that are served here may have small ones."""

QUERY_CHARS_MAX = 10_000
"""Number of characters of a model's query that are searched."""

MESSAGES_LOOKED_BACK = 64
"""Number of messages before a request in which passages are searched that its answer may cite."""

NAME_CHARS_MAX = 60
"""Maximum length of the name of a file in a marker, in characters."""

CITE = "Cite each passage that you use by its marker, exactly as it is written, directly after the sentence that relies on it."
NOTHING_FOUND = (
    "Nothing was found: the files have none of these words; try other words, or say that the files do not answer this."
)

DEFINITION: Json = {
    "type": "function",
    "function": {
        "name": FILE_SEARCH,
        "description": (
            "Search the files that were uploaded for this conversation, by words. Returns the passages that match best, each "
            "with a marker by which it is cited."
        ),
        "parameters": {
            "type": "object",
            "properties": {
                "query": {"type": "string", "description": "Words that the passages should have, such as a question."}
            },
            "required": ["query"],
        },
    },
}

_MARKER = re.compile("【([0-9]{1,6})†[^【】\\n]{0,200}】")


@dataclass(frozen=True)
class FileQuery:
    """Describe what is searched in vector stores."""

    queries: Sequence[str]
    limit: int = RESULTS_OF_TOOL
    score_min: float = 0.0
    accepts: Callable[[Mapping[str, Any]], bool] = lambda _: True
    """Function that returns whether files with these attributes are searched."""


class Hit(NamedTuple):
    """Hold a passage that was found, as a model is shown it."""

    marker: str
    file_id: str
    filename: str
    score: float
    text: str
    attributes: Mapping[str, Any] = MappingProxyType({})
    """Attributes that the file had in its vector store."""

    def as_json(self) -> Json:
        """Return it as a model is shown it; attributes only if there are any."""
        shown = self._asdict()
        del shown["attributes"]
        return shown | ({"attributes": dict(self.attributes)} if self.attributes else {})


def tool_of(name: str = FILE_SEARCH) -> Json:
    """Return the definition of the function that a model is offered, under another name if the app has a function of its own."""
    return {**DEFINITION, "function": {**DEFINITION["function"], "name": name}}


def name_among(functions: Iterable[str]) -> str:
    """Return the name of the function: `file_search`, with underscores added while a function of the app has that name."""
    name, taken = FILE_SEARCH, {*functions}
    while name in taken:
        name += "_"
    return name


def search_name(tools: Sequence[Json]) -> str:
    """Return the name under which a run with these tools searches files; empty if it does not."""
    if not any(each.get("type") == FILE_SEARCH for each in tools):
        return ""
    return name_among(each["function"]["name"] for each in tools if each.get("type") == "function")


def searched(served: Served, caller: Caller, store_ids: Iterable[str], wanted: FileQuery) -> list[FoundChunk]:
    """Search vector stores of the caller's tenant; those that do not exist, or have expired, are left out."""
    return searched_in(served.journal_of(caller), caller.tenant, store_ids, wanted)


def searched_in(journal: Journal, tenant: str, store_ids: Iterable[str], wanted: FileQuery) -> list[FoundChunk]:
    """Search vector stores of a tenant; see `searched`."""
    stores = VectorStores(journal)
    found = (stores.get(tenant, each) for each in dict.fromkeys(store_ids))
    return found_in(stores, [each for each in found if each is not None], wanted)


def found_in(stores: VectorStores, records: Sequence[VectorStoreRecord], wanted: FileQuery) -> list[FoundChunk]:
    """Search these vector stores, but those that have expired."""
    queries = [each[:QUERY_CHARS_MAX] for each in wanted.queries]
    return stores.search(records, FileSearch((), queries, wanted.limit, wanted.score_min, wanted.accepts))


def marked(found: Sequence[FoundChunk], first: int = 1) -> list[Hit]:
    """Return what was found with a marker for each passage, counted from `first`."""
    return [
        Hit(
            f"【{number}†{_shown(each.filename)}】",
            each.file_id,
            each.filename,
            round(each.score, 4),
            each.text,
            each.attributes,
        )
        for number, each in enumerate(found, first)
    ]


def _shown(filename: str) -> str:
    return re.sub("[【】†\\s]+", " ", filename).strip()[:NAME_CHARS_MAX] or "file"


def result_text(hits: Sequence[Hit]) -> str:
    """Return what a model is shown, and what is journaled: the passages as JSON, and how to cite them."""
    if not hits:
        return json.dumps({"results": [], "note": NOTHING_FOUND}, ensure_ascii=False)
    return json.dumps({"results": [each.as_json() for each in hits], "note": CITE}, ensure_ascii=False)


def hits_in(text: str) -> list[Hit]:
    """Return what was found from the text that `result_text` has made; nothing from any other text."""
    try:
        given = json.loads(text)
        return [_hit(each) for each in given["results"]]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return []


def first_free(hits: Iterable[Hit]) -> int:
    """Return the number of the next marker, so that no two passages that a model is shown have the same one."""
    numbers = (_MARKER.fullmatch(each.marker) for each in hits)
    return max((int(found[1]) for found in numbers if found is not None), default=0) + 1


def hits_again(results: Sequence[Mapping[str, Any]], first: int = 1) -> list[Hit]:
    """Return the passages in the `results` of an item that a client sends back, with markers counted from `first`."""
    texts = ([str(each.get(name) or "") for name in ("filename", "file_id", "text")] for each in results)
    return [
        Hit(
            f"【{number}†{_shown(filename)}】",
            file_id,
            filename,
            float(given.get("score") or 0),
            text,
            given.get("attributes") or {},
        )
        for number, (given, (filename, file_id, text)) in enumerate(zip(results, texts, strict=True), first)
    ]


def is_named_search(name: str) -> bool:
    """Return whether a function has one of the names under which files are searched."""
    return name.rstrip("_") == FILE_SEARCH


def hits_of(messages: Iterable[Message]) -> Iterator[Hit]:
    """Yield what the searches among these messages have found, oldest first."""
    called: set[str] = set()
    for message in messages:
        called |= {call.id for call in message.calls() if is_named_search(call.name)}
        if message.tool_call_id in called:
            yield from hits_in(message.text)


def _hit(given: Json) -> Hit:
    attributes = given.get("attributes")
    own = {name: given[name] for name in Hit._fields if name != "attributes"}
    return Hit(**own, attributes=attributes if isinstance(attributes, dict) else {})


class Citation(NamedTuple):
    """Hold a marker in a text, and the passage that it names."""

    start: int
    end: int
    hit: Hit


def citations(text: str, hits: Iterable[Hit]) -> Iterator[Citation]:
    """Yield the markers in a text that name a passage which was found; others are text."""
    known = {each.marker: each for each in hits}
    for found in _MARKER.finditer(text) if known else ():
        if found[0] in known:
            yield Citation(found.start(), found.end(), known[found[0]])


def cited(text: str, hits: Iterable[Hit], *, in_thread: bool = False) -> tuple[str, list[Json]]:
    """Return a text and its annotations, in the form of Responses or, `in_thread`, of the Assistants API.

    The markers remain in the text: a stream has sent them already.
    """
    found = citations(text, hits)
    if in_thread:
        return text, [
            {
                "type": "file_citation",
                "text": text[each.start : each.end],
                "start_index": each.start,
                "end_index": each.end,
                "file_citation": {"file_id": each.hit.file_id},
            }
            for each in found
        ]
    return text, [
        {
            "type": "file_citation",
            "index": each.start,
            "file_id": each.hit.file_id,
            "filename": each.hit.filename,
        }
        for each in found
    ]


def server_tool(journal: Journal, event: e.ExchangeRequested, tool: Mapping[str, Any]) -> ServerTool:
    """Return the function with which an exchange searches files, and what adds citations to its answer.

    The stores are those that its request has recorded (`vector_store_ids`).
    """
    search = _Searching(journal, event, tool)
    functions = (each["function"]["name"] for each in search.tools if each.get("type") == "function")
    return ServerTool(tool_of(name_among(functions)), search, search.finished)


class _Searching:
    """Search files for one exchange: the markers of its searches are counted together, and from those before it."""

    def __init__(self, journal: Journal, event: e.ExchangeRequested, tool: Mapping[str, Any]) -> None:
        self._journal = journal
        self._event = event
        self._key = key_of(event.originator_id)
        self._options: Mapping[str, Any] = tool.get(FILE_SEARCH) or tool
        self._hits: list[Hit] | None = None
        profile = journal.profile(event.profile_hash)
        self.tools: Sequence[Json] = profile.tools if profile is not None else ()

    def __call__(self, query: str = "", queries: Sequence[str] = (), **_: Any) -> str:
        """Return what a model is shown; an argument that is not known is ignored."""
        given = [*([query] if query else []), *([queries] if isinstance(queries, str) else queries)]
        texts = [each for each in map(str, given) if each.strip()]
        if not texts:
            return result_text([])
        limit, ranking = self._options.get("max_num_results"), self._options.get("ranking_options") or {}
        wanted = FileQuery(
            texts,
            limit if isinstance(limit, int) else RESULTS_OF_TOOL,
            float(ranking.get("score_threshold") or 0.0),
            _accepting(self._options.get("filters")),
        )
        stores = [each for each in self._event.request.get("vector_store_ids") or () if isinstance(each, str)]
        known = self._known()
        found = searched_in(self._journal, tenant_of(self._key), stores, wanted)
        hits = marked(found, first_free(known))
        known += hits
        return result_text(hits)

    def finished(self, message: Message) -> Message:
        """Return an answer with its citations."""
        if not isinstance(message.content, str) or "†" not in message.content or message.calls():
            return message
        from threadledger.domain.conversation.parts import Text

        is_of_thread = self._event.surface == "assistants"
        text, annotations = cited(message.content, self._known(), in_thread=is_of_thread)
        if not annotations:
            return message
        return message.replaced(content=(Text(text, json.dumps(annotations, ensure_ascii=False)),))

    def _known(self) -> list[Hit]:
        """Return what the model is shown as found: by the exchange, in this process or in one before it, and before its request.

        An exchange whose client carries out functions has several requests: what one finds, the answer to another may cite.
        """
        if self._hits is None:
            own, history = (
                self._event.exchange_id,
                self._journal.history(self._key, after=self._event.originator_version),
            )
            said = (each for each in history if isinstance(each, e.MessageJournaled) and each.exchange_id == own)
            self._hits = [*hits_of([*self._before(), *map(restore_message, said)])]
        return self._hits

    def _before(self) -> list[Message]:
        """Return the newest messages before the request, on its branch."""
        last = self._event.question_version
        if not last:
            return []
        memory = self._journal.memory(self._key, last=MESSAGES_LOOKED_BACK, leaf=last)
        return [each.message for each in memory.messages]


def _accepting(filters: Any) -> Callable[[Mapping[str, Any]], bool]:
    from ..wire.store_bodies import condition_of

    return condition_of(filters)
