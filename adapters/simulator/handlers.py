"""Bind the operations of the provider's routes to the simulator's handlers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..wire import EventStream, Json
from . import assistants, chat, conversations, files, messages, models, responses, runs, threads
from .requests import SimulatedCall
from .store import ProviderStore

Handler = Callable[[ProviderStore, SimulatedCall], Json | EventStream | files.Download]

HANDLERS: Mapping[str, Handler] = {
    "list_assistants": assistants.list_,
    "create_assistant": assistants.create,
    "retrieve_assistant": assistants.retrieve,
    "modify_assistant": assistants.modify,
    "delete_assistant": assistants.delete,
    "create_thread": threads.create,
    "create_thread_and_run": runs.create_with_thread,
    "retrieve_thread": threads.retrieve,
    "modify_thread": threads.modify,
    "delete_thread": threads.delete,
    "list_messages": threads.list_messages,
    "create_message": threads.create_message,
    "retrieve_message": threads.retrieve_message,
    "modify_message": threads.modify_message,
    "delete_message": threads.delete_message,
    "list_runs": runs.list_,
    "create_run": runs.create,
    "retrieve_run": runs.retrieve,
    "modify_run": runs.modify,
    "cancel_run": runs.cancel,
    "submit_tool_outputs": runs.submit_tool_outputs,
    "list_run_steps": runs.list_steps,
    "retrieve_run_step": runs.retrieve_step,
    "create_conversation": conversations.create,
    "retrieve_conversation": conversations.retrieve,
    "modify_conversation": conversations.modify,
    "delete_conversation": conversations.delete,
    "list_items": conversations.list_items,
    "create_items": conversations.create_items,
    "retrieve_item": conversations.retrieve_item,
    "delete_item": conversations.delete_item,
    "create_response": responses.create,
    "count_input_tokens": responses.count_input_tokens,
    "retrieve_response": responses.retrieve,
    "delete_response": responses.delete,
    "cancel_response": responses.cancel,
    "list_input_items": responses.list_input_items,
    "create_completion": chat.create,
    "list_completions": chat.list_,
    "retrieve_completion": chat.retrieve,
    "modify_completion": chat.modify,
    "delete_completion": chat.delete,
    "list_completion_messages": chat.list_messages,
    "create_message_reply": messages.create,
    "create_file": files.create,
    "list_files": files.list_,
    "retrieve_file": files.retrieve,
    "delete_file": files.delete,
    "retrieve_file_content": files.content,
    "list_models": models.list_,
    "retrieve_model": models.retrieve,
}
