"""List the fields of each request body.

The source is OpenAI's OpenAPI description as of openai-python 3.3.1; for the Messages API, the SDK's type
`MessageCreateParams` (anthropic 2.14).
"""

from __future__ import annotations

METADATA_FIELDS = ("metadata",)
FILE_FIELDS = ("file", "purpose", "expires_after")
VECTOR_STORE_FIELDS = ("name", "description", "file_ids", "expires_after", "chunking_strategy", "metadata")
VECTOR_STORE_CHANGE_FIELDS = ("name", "expires_after", "metadata")
VECTOR_STORE_SEARCH_FIELDS = ("query", "filters", "max_num_results", "ranking_options", "rewrite_query")
STORE_FILE_FIELDS = ("file_id", "attributes", "chunking_strategy")
STORE_FILE_CHANGE_FIELDS = ("attributes",)
STORE_BATCH_FIELDS = ("file_ids", "files", "attributes", "chunking_strategy")

ASSISTANT_FIELDS = (
    "model", "name", "description", "instructions", "reasoning_effort", "tools", "tool_resources", "metadata",
    "temperature", "top_p", "response_format",
)  # fmt: skip

THREAD_FIELDS = ("messages", "tool_resources", "metadata")
THREAD_CHANGE_FIELDS = ("tool_resources", "metadata")
THREAD_MESSAGE_FIELDS = ("role", "content", "attachments", "metadata")

RUN_FIELDS = (
    "assistant_id", "model", "reasoning_effort", "instructions", "additional_instructions", "additional_messages",
    "tools", "metadata", "temperature", "top_p", "stream", "max_prompt_tokens", "max_completion_tokens",
    "truncation_strategy", "tool_choice", "parallel_tool_calls", "response_format",
)  # fmt: skip
RUN_WITH_THREAD_FIELDS = (
    "assistant_id", "thread", "instructions", "model", "tools", "tool_resources", "metadata", "temperature", "top_p",
    "stream", "max_prompt_tokens", "max_completion_tokens", "truncation_strategy", "tool_choice",
    "parallel_tool_calls", "response_format",
)  # fmt: skip
TOOL_OUTPUTS_FIELDS = ("tool_outputs", "stream")
TOOL_OUTPUT_FIELDS = ("tool_call_id", "output")
FUNCTION_FIELDS = ("name", "description", "parameters", "strict")

CONVERSATION_FIELDS = ("metadata", "items")
CONVERSATION_ITEMS_FIELDS = ("items",)

RESPONSE_FIELDS = (
    "metadata", "top_logprobs", "temperature", "top_p", "user", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "prompt_cache_options", "previous_response_id", "model", "background",
    "background_options", "max_tool_calls", "text", "tools", "tool_choice", "prompt", "service_tier", "truncation",
    "reasoning", "input", "include", "parallel_tool_calls", "store", "instructions", "moderation", "stream",
    "stream_options", "conversation", "context_management", "max_output_tokens",
)  # fmt: skip
INPUT_TOKENS_FIELDS = (
    "model", "input", "previous_response_id", "tools", "text", "reasoning", "truncation", "instructions",
    "conversation", "tool_choice", "parallel_tool_calls", "personality",
)  # fmt: skip

COMPLETION_FIELDS = (
    "metadata", "top_logprobs", "temperature", "top_p", "user", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "prompt_cache_options", "messages", "model", "service_tier", "modalities", "verbosity",
    "reasoning_effort", "max_completion_tokens", "frequency_penalty", "presence_penalty", "web_search_options",
    "response_format", "audio", "store", "moderation", "stream", "stop", "logit_bias", "logprobs", "max_tokens", "n",
    "prediction", "seed", "stream_options", "tools", "tool_choice", "parallel_tool_calls", "function_call", "functions",
)  # fmt: skip
CHAT_PART_FIELDS = {
    "image_url": ("url", "detail"),
    "file": ("file_id", "file_data", "filename"),
    "input_audio": ("data", "format"),
}

MESSAGES_FIELDS = (
    "max_tokens", "messages", "model", "cache_control", "container", "diagnostics", "inference_geo", "metadata",
    "output_config", "service_tier", "speed", "stop_sequences", "stream", "system", "temperature", "thinking",
    "tool_choice", "tools", "top_k", "top_p", "user_profile_id",
)  # fmt: skip
