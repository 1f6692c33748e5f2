"""Define the provider's limits and their sources, as of November 2026.

`API` means OpenAI's OpenAPI description as distributed with openai-python 3.3.1, and `History` the description of 2024-04-09
(openai-openapi commit 5fd86c8), for limits that the current description no longer contains.
"""

from __future__ import annotations

INSTRUCTIONS_CHARS_MAX = 256_000
"""Maximum number of characters of an assistant's instructions. Source: API."""

ASSISTANT_NAME_CHARS_MAX = 256
"""Maximum number of characters of an assistant's name. Source: API."""

ASSISTANT_TOOLS_MAX = 128
"""Maximum number of tools of an assistant. Source: API."""

CHAT_FUNCTIONS_MAX = 128
"""Maximum number of functions in a Chat Completions request. Source: API, the array `functions`, replaced by `tools`."""

THREAD_MESSAGE_CHARS_MAX = 256_000
"""Maximum number of characters of a message in an Assistants thread. Source: History."""

CONVERSATION_BATCH_ITEMS = 20
"""Maximum number of items that one request adds to a Conversation. Source: API."""

PAGE_ITEMS = 100
"""Maximum number of objects on a page of any list. Source: API."""

METADATA_VALUE_CHARS_MAX = 512
"""Maximum number of characters of a metadata value. Source: API."""

HOSTED_TOOLS = {
    "assistants": frozenset({"code_interpreter", "file_search"}),
    "responses": frozenset(
        {
            "apply_patch",
            "code_interpreter",
            "computer",
            "computer_use_preview",
            "custom",
            "file_search",
            "image_generation",
            "local_shell",
            "mcp",
            "namespace",
            "programmatic_tool_calling",
            "shell",
            "tool_search",
            "web_search",
            "web_search_2025_08_26",
            "web_search_preview",
            "web_search_preview_2025_03_11",
        }
    ),
    "chat": frozenset({"custom"}),
    "anthropic": frozenset(),
}
"""Tool types that each backend accepts in addition to functions. Source: the request types of the SDK (openai 3.54)."""
