"""Define the items of conversations and responses besides messages and calls of the app's functions.

A model's answer contains them: reasoning, and calls of the tools that the provider runs itself. The source is OpenAI's
OpenAPI description. Items of rarely used tools are only checked for the fields that they must have.
"""

from __future__ import annotations

from collections.abc import Mapping

from .limits import CALL_ID_MAX_CHARS, ITEM_TEXT_MAX_CHARS
from .shapes import Check, anything, boolean, choice, decimal, either, listed, nullable, record, tagged, text

_ITEM: dict[str, Check] = {"id": text(minimum=1), "type": anything}
_CALL_ID = text(CALL_ID_MAX_CHARS, 1)
_STATUS = choice("in_progress", "completed", "incomplete")
_SUMMARY = listed(record({"type": choice("summary_text"), "text": text()}))
_REASONING_TEXT = listed(record({"type": choice("reasoning_text"), "text": text()}))
_SOURCE = record({"type": choice("url"), "url": text()})
_SEARCH = tagged(
    {
        "search": record(
            {"type": anything},
            {"query": text(), "queries": nullable(listed(text(), of="strings")), "sources": nullable(listed(_SOURCE))},
        ),
        "open_page": record({"type": anything}, {"url": nullable(text())}),
        "find_in_page": record({"type": anything, "url": text(), "pattern": text()}),
    }
)
_FOUND = record(
    {},
    {"file_id": text(), "text": text(), "filename": text(), "attributes": nullable(anything), "score": decimal()},
    closed=False,
)
_CODE_OUTPUT = tagged(
    {
        "logs": record({"type": anything, "logs": text()}),
        "image": record({"type": anything, "url": text()}),
    }
)
_REMOTE: dict[str, Check] = {"server_label": text(), "name": text(), "arguments": text()}
_REMOTE_TOOL = record(
    {"name": text(), "input_schema": anything}, {"description": nullable(text()), "annotations": nullable(anything)}
)


def _loose(*required: str) -> Check:
    return record(dict.fromkeys(("type", *required), anything), closed=False)


ITEMS: Mapping[str, Check] = {
    "reasoning": record(
        {**_ITEM, "summary": _SUMMARY},
        {"content": nullable(_REASONING_TEXT), "encrypted_content": nullable(text()), "status": nullable(_STATUS)},
    ),
    "web_search_call": record(
        {**_ITEM, "status": choice("in_progress", "searching", "completed", "failed"), "action": _SEARCH}
    ),
    "file_search_call": record(
        {
            **_ITEM,
            "status": choice("in_progress", "searching", "completed", "incomplete", "failed"),
            "queries": listed(text(), of="strings"),
        },
        {"results": nullable(listed(_FOUND))},
    ),
    "code_interpreter_call": record(
        {
            **_ITEM,
            "status": choice("in_progress", "completed", "incomplete", "interpreting", "failed"),
            "container_id": text(),
            "code": nullable(text()),
            "outputs": nullable(listed(_CODE_OUTPUT)),
        }
    ),
    "image_generation_call": record(
        {
            **_ITEM,
            "status": choice("in_progress", "completed", "generating", "failed"),
            "result": nullable(text()),
        },
        # Not in the description, but in the provider's answers, and accepted again.
        dict.fromkeys(("action", "background", "output_format", "quality", "revised_prompt", "size"), anything),
    ),
    "mcp_list_tools": record(
        {**_ITEM, "server_label": text(), "tools": listed(_REMOTE_TOOL)}, {"error": nullable(anything)}
    ),
    "mcp_call": record(
        {**_ITEM, **_REMOTE},
        {
            "output": nullable(text()),
            "error": nullable(anything),
            "status": choice("in_progress", "completed", "incomplete", "calling", "failed"),
            "approval_request_id": nullable(text()),
        },
    ),
    "mcp_approval_request": record({**_ITEM, **_REMOTE}),
    # The description also requires a field `request_id`, which it does not define and the SDK does not send.
    "mcp_approval_response": record(
        {"type": anything, "approval_request_id": text(), "approve": boolean},
        {"id": nullable(text()), "request_id": anything, "reason": nullable(text())},
    ),
    "custom_tool_call": record(
        {"type": anything, "call_id": _CALL_ID, "name": text(), "input": text()},
        {"id": text(), "namespace": text(), "caller": nullable(anything), "status": _STATUS},
    ),
    "custom_tool_call_output": record(
        {
            "type": anything,
            "call_id": _CALL_ID,
            "output": either(text(ITEM_TEXT_MAX_CHARS), listed(), words="a string or array of objects"),
        },
        {"id": text(), "caller": nullable(anything), "status": _STATUS},
    ),
    "compaction": _loose("encrypted_content"),
    "computer_call": _loose("id", "call_id", "pending_safety_checks", "status"),
    "computer_call_output": _loose("call_id", "output"),
    "local_shell_call": _loose("id", "call_id", "action", "status"),
    "local_shell_call_output": _loose("id", "output"),
    "shell_call": _loose("call_id", "action"),
    "shell_call_output": _loose("call_id", "output"),
    "apply_patch_call": _loose("call_id", "status", "operation"),
    "apply_patch_call_output": _loose("call_id", "status"),
    "tool_search_call": _loose("arguments"),
    "tool_search_output": _loose("tools"),
    "additional_tools": _loose("role", "tools"),
    "program": _loose("id", "call_id", "code", "fingerprint"),
    "program_output": _loose("id", "call_id", "result", "status"),
}
"""Checks of the items by type."""

ID_PREFIXES: Mapping[str, str] = {
    "reasoning": "rs_",
    "web_search_call": "ws_",
    "file_search_call": "fs_",
    "code_interpreter_call": "ci_",
    "image_generation_call": "ig_",
    "mcp_list_tools": "mcpl_",
    "mcp_call": "mcp_",
    "mcp_approval_request": "mcpr_",
    "mcp_approval_response": "mcpa_",
    "custom_tool_call": "ctc_",
    "custom_tool_call_output": "ctco_",
    "compaction": "cmp_",
}
"""Beginnings of the ids of items by type; ids of others begin with `item_`."""

ANSWERED_WITH: Mapping[str, str] = {
    "function_call_output": "function_call",
    "custom_tool_call_output": "custom_tool_call",
}
"""Types of items with the app's output of a call, and the types of the calls."""
