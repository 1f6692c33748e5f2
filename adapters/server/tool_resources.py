"""Read which vector stores assistants and threads search, create those that a request describes, and take in attached files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from threadledger.domain.conversation import events as e
from threadledger.domain.conversation import key_of
from threadledger.domain.ledger import VectorStoreRecord, VectorStores

from ..wire import Json, store_bodies, validation
from .calls import Served, ServedCall
from .file_search import FILE_SEARCH
from .hosted_tools import checked_resources
from .ids import new_id
from .vector_stores import STORE, no_such_store, read_files

if TYPE_CHECKING:
    from threadledger.domain.conversation.messages import Message
    from threadledger.domain.journal import Journal

STORES_MAX = 1
"""Maximum number of vector stores of an assistant, and of a thread. Source: OpenAI's OpenAPI description, `tool_resources`."""

THREAD_STORE_DAYS = 7
"""Days after which the vector store of a thread's attached files expires. Source: OpenAI's guide on file search."""


def resources_of(
    served: Served, call: ServedCall, given: object, where: str = "tool_resources"
) -> tuple[Json, list[str]]:
    """Return the `tool_resources` in a request, with the stores that it describes created, and the types of tools left out.

    Raises:
        ApiError: a 400, or a 404 because a vector store or a file is not the caller's.
    """
    kept, left_out = checked_resources(given, served.settings, where)
    if FILE_SEARCH not in kept:
        return {}, left_out
    param = f"{where}.{FILE_SEARCH}"
    search = validation.an_object(kept[FILE_SEARCH], param)
    validation.only_known(search, ("vector_store_ids", "vector_stores"), f"{param}.")
    stores = VectorStores(served.journal_of(call.caller))
    ids: list[str] = []
    for each in validation.array(
        search.get("vector_store_ids") or [], f"{param}.vector_store_ids", STORES_MAX, "strings"
    ):
        name = validation.string(each, f"{param}.vector_store_ids[0]")
        if stores.get(call.caller.tenant, name) is None:
            raise no_such_store(name)
        ids.append(name)
    described = validation.array(search.get("vector_stores") or [], f"{param}.vector_stores", STORES_MAX)
    for index, each in enumerate(described):
        place = f"{param}.vector_stores[{index}]"
        ids.append(_created(served, call, stores, validation.an_object(each, place), place))
    return {FILE_SEARCH: {"vector_store_ids": ids}}, left_out


def check_search_tools(tools: Sequence[Json], where: str = "tools") -> None:
    """Raise a 400 for options of a search of files that are not valid."""
    for index, tool in enumerate(tools):
        options = tool.get(FILE_SEARCH)
        if tool.get("type") != FILE_SEARCH or options is None:
            continue
        place = f"{where}[{index}].{FILE_SEARCH}"
        validation.only_known(validation.an_object(options, place), ("max_num_results", "ranking_options"), f"{place}.")
        store_bodies.results_max(options.get("max_num_results"), f"{place}.max_num_results")
        store_bodies.score_min(options.get("ranking_options"), f"{place}.ranking_options")


def _created(served: Served, call: ServedCall, stores: VectorStores, body: Json, where: str) -> str:
    """Create the vector store that a request describes, and return its id: the same for the same request."""
    validation.only_known(body, ("file_ids", "chunking_strategy", "metadata"), f"{where}.")
    chunking = store_bodies.chunking_of(body, f"{where}.")
    named = store_bodies.file_ids(body, where=f"{where}.")
    store_id = new_id(STORE, f"{call.request_key}\n{where}")
    record = VectorStoreRecord(store_id, call.caller.tenant, metadata=validation.metadata_of(body))
    if stores.get(call.caller.tenant, store_id) is None:
        stores.create(record, read_files(served, call, [(each, {}, chunking) for each in named], f"{where}.file_ids"))
        stores.lists.index()
    return store_id


def attached(served: Served, call: ServedCall, thread_id: str, resources: Json, messages: Iterable[Message]) -> Json:
    """Return the resources of a thread with the files that messages attach for a search, which are in its vector store then.

    A thread without one gets one, which expires `THREAD_STORE_DAYS` after its last use.

    Raises:
        ApiError: a 404, because a file is not the caller's.
    """
    named = list(dict.fromkeys(name for each in messages for name in _for_search(each)))
    if not named:
        return resources
    stores, tenant = VectorStores(served.journal_of(call.caller)), call.caller.tenant
    files = read_files(served, call, [(each, {}, store_bodies.CHUNKING_DEFAULT) for each in named], "attachments")
    known = next(iter(stores_in(resources)), None)
    record = stores.get(tenant, known) if known is not None else None
    if record is None:
        store_id = new_id(STORE, f"{thread_id}\n{call.request_key}")
        record = VectorStoreRecord(store_id, tenant, expires_days=THREAD_STORE_DAYS)
        stores.create(record)
    stores.add(record, files, idempotency_key=f"{call.idempotency_key}:attached")
    stores.lists.index()
    return {FILE_SEARCH: {"vector_store_ids": [record.store_id]}}


def _for_search(message: Message) -> list[str]:
    given = message.extra().get("attachments")
    return [
        str(each["file_id"])
        for each in (given if isinstance(given, list) else ())
        if isinstance(each.get("file_id"), str)
        and any(isinstance(tool, dict) and tool.get("type") == FILE_SEARCH for tool in each.get("tools") or ())
    ]


def stores_in(resources: object) -> list[str]:
    """Return the ids of the vector stores in resources, which an import may have given any form."""
    search = resources.get(FILE_SEARCH) if isinstance(resources, dict) else None
    ids = search.get("vector_store_ids") if isinstance(search, dict) else None
    return [each for each in ids if isinstance(each, str)] if isinstance(ids, list) else []


def resources_in(journal: Journal, streams: Sequence[str]) -> dict[str, Json]:
    """Return the resources of the conversations with these streams, of those that have some."""
    found: dict[str, Json] = {}
    for places in journal.addressed([f"resources:{each}" for each in streams]).values():
        stream, version = max(places, key=lambda place: place[1])
        event = next(journal.history(key_of(stream), version - 1, version), None) if version > 1 else None
        if isinstance(event, e.ToolResourcesDescribed):
            found[stream] = event.tool_resources
    return found
