"""Help the tests of the simulator: expect refusals, and wait for other threads."""

import openai
import pytest


def refused(call, *args, **kwargs):
    """Return the error with which a call is refused."""
    with pytest.raises(openai.APIStatusError) as caught:
        call(*args, **kwargs)
    return caught.value


def until(condition):
    """Poll a condition that another thread fulfils, up to a few thousand times."""
    assert any(condition() for _ in range(1_000_000))


URL_CITATION = {"type": "url_citation", "url": "https://a.example/", "title": "A", "start_index": 0, "end_index": 5}
FILE_CITATION = {"type": "file_citation", "file_id": "file-1", "index": 3, "filename": "a.pdf"}
CONTAINER_CITATION = {
    "type": "container_file_citation", "container_id": "cntr_1", "file_id": "cfile_1", "filename": "a.csv",
    "start_index": 0, "end_index": 5,
}  # fmt: skip
LOGPROB = {"token": "Hello", "logprob": -0.5, "bytes": [72], "top_logprobs": []}
CITED = {
    "type": "message",
    "content": [
        {
            "type": "output_text",
            "text": "Hello there.",
            "annotations": [URL_CITATION, FILE_CITATION, CONTAINER_CITATION],
            "logprobs": [LOGPROB, LOGPROB],
        }
    ],
}
OUTPUTS = {
    "citations": [CITED],
    "refusal": [{"type": "message", "content": [{"type": "refusal", "refusal": "I cannot help."}]}],
    "two messages": [
        {"type": "message", "content": "I look.", "phase": "commentary"},
        {"type": "message", "content": "It is 7.", "phase": "final_answer"},
    ],
    "reasoning": [
        {
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "One step."}, {"type": "summary_text", "text": "Another."}],
            "content": [{"type": "reasoning_text", "text": "All of it."}],
            "encrypted_content": "gAAAAAB",
        },
        "It is 7.",
    ],
    "web search": [
        {"type": "web_search_call", "action": {"type": "search", "query": "x", "queries": ["x"]}},
        {"type": "web_search_call", "action": {"type": "open_page", "url": "https://a.example/"}},
        CITED,
    ],
    "file search": [
        {"type": "file_search_call", "queries": ["x"], "results": [{"file_id": "file-1", "text": "y", "score": 0.5}]},
        CITED,
    ],
    "code": [
        {"type": "code_interpreter_call", "code": "1 + 1", "outputs": [{"type": "logs", "logs": "2"}]},
        "It is 2.",
    ],
    "image": [{"type": "image_generation_call", "result": "iVBORw0KGgo="}],
    "remote tools": [
        {"type": "mcp_list_tools", "server_label": "s", "tools": [{"name": "t", "input_schema": {"type": "object"}}]},
        {"type": "mcp_call", "server_label": "s", "name": "t", "arguments": "{}", "output": "1"},
        "It is 1.",
    ],
    "approval": [{"type": "mcp_approval_request", "server_label": "s", "name": "t", "arguments": "{}"}],
    "custom tool": [{"type": "custom_tool_call", "name": "t", "input": "print(1)"}],
    "text and calls": ["I look.", {"type": "function_call", "name": "weather", "arguments": {"city": "Bern"}}],
}
"""Scripted outputs, items of a response as a script writes them."""
