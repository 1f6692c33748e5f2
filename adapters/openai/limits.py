"""The provider's limits, with where and when each was read. November 2026.

API: OpenAI's OpenAPI description as kept with openai-python 3.3.1. History: the description of 2024-04-09 (openai-openapi
commit 5fd86c8), where today's no longer says.
"""

INSTRUCTIONS_CHARS_MAX = 256_000
"""Instructions of an assistant. API."""

ASSISTANT_NAME_CHARS_MAX = 256
"""Name of an assistant. API."""

ASSISTANT_TOOLS_MAX = 128
"""Tools of an assistant. API."""

CHAT_FUNCTIONS_MAX = 128
"""Functions that one request of Chat Completions offers. API: the array `functions`, which `tools` took the place of."""

THREAD_MESSAGE_CHARS_MAX = 256_000
"""Text of one message of an assistants thread. History."""

CONVERSATION_BATCH_ITEMS = 20
"""Items that one request adds to a conversation. API."""

PAGE_ITEMS = 100
"""The longest page of any list. API."""

METADATA_VALUE_CHARS_MAX = 512
"""Value of one metadata pair. API."""

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
}
"""Tools beside functions that each backend takes. The types of the SDK's requests (openai 3.54)."""
