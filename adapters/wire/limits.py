"""Define the provider's limits. No other module holds such numbers.

Sources: [Y] OpenAI's OpenAPI description as of openai-python 3.3.1; [S] the doc strings of openai-python 3.54;
[H] the history of the same description (a limit that it no longer states); [own] chosen by us.
"""

from __future__ import annotations

ASSISTANT_NAME_MAX_CHARS = 256  # [Y]
ASSISTANT_DESCRIPTION_MAX_CHARS = 512  # [Y]
INSTRUCTIONS_MAX_CHARS = 256_000  # [Y]
ASSISTANT_TOOLS_MAX = 128  # [Y]
ASSISTANT_TOOL_TYPES = ("code_interpreter", "file_search", "function")  # [Y]
RUN_TOOLS_MAX = 20  # [Y] RunObject.tools.maxItems

THREAD_MESSAGE_MAX_CHARS = 256_000  # [H] raised from 32,768 on 2024-04-09
THREAD_ROLES = ("user", "assistant")  # [Y]
RUN_EXPIRES_AFTER_SECONDS = 600  # [Y] expires_at in the examples

CONVERSATION_ITEMS_PER_CALL_MAX = 20  # [Y]
ITEM_ROLES = ("assistant", "system", "developer", "user")  # [Y] EasyInputMessage
ITEM_TEXT_MAX_CHARS = 10_485_760  # [Y] InputTextContentParam and FunctionCallOutputItemParam
CALL_ID_MAX_CHARS = 64  # [Y]
ITEM_ID_MAX_CHARS = 64  # as refusals in public reports say
FUNCTION_NAME_PATTERN = r"[a-zA-Z0-9_-]+"  # [Y] in words at FunctionObject; the refusal shows the pattern
FUNCTION_NAME_MAX_CHARS = 64  # [Y]
IMAGE_DETAILS = ("low", "high", "auto", "original")  # [Y] DetailEnum
IMAGE_MEDIA_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif")  # developers.openai.com, guide on images
IMAGE_URL_MAX_CHARS = 20_971_520  # [Y] InputImageContentParamAutoParam
FILE_DATA_MAX_CHARS = 73_400_320  # [Y] InputFileContentParam
FILE_MEDIA_TYPES = ("application/", "text/", "message/")  # beginnings; public reports name PDF, later also documents

CHAT_ROLES = ("system", "assistant", "user", "function", "tool", "developer")  # [Y]
CHAT_CHOICES_MAX = 128  # [Y] n
CHAT_CALL_ID_MAX_CHARS = 40  # as refusals of 2025 in public reports say ("maximum length 40")
CHAT_PARTS_OF_ROLES = {
    "user": ("text", "image_url", "input_audio", "file"),
    "assistant": ("text", "refusal"),
}  # [Y] the other roles: only text
CHAT_IMAGE_DETAILS = ("auto", "low", "high")  # [Y]
AUDIO_FORMATS = ("wav", "mp3")  # [Y]

BODY_MAX_BYTES = 104_857_600  # [own] public reports show a 413 of a proxy; its limit is not documented
MESSAGES_BODY_MAX_BYTES = 33_554_432  # docs.claude.com/en/api/errors: 32 MB for the Messages API
FILE_MAX_BYTES = 536_870_912  # [S] files.create: 512 MB
FILE_FORM_FIELDS_MAX_BYTES = 65_536  # [own] all fields of an upload besides the file
FILE_PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")  # [S] FilePurpose
FILE_EXPIRES_SECONDS = (3_600, 2_592_000)  # [S] least and most
FILES_PAGE_MAX = 10_000  # [S] files.list; also the default

STORE_FILES_MAX = 500  # platform.openai.com, reference of vector_stores.create: file_ids
BATCH_FILES_MAX = 2_000  # [S] file_batches.create
ATTRIBUTE_VALUE_MAX_CHARS = 512  # [S] VectorStoreFile.attributes; keys and their number as those of metadata
CHUNK_TOKENS = (100, 4_096)  # [S] max_chunk_size_tokens, least and most
STORE_EXPIRES_DAYS = (1, 365)  # platform.openai.com, reference of vector_stores.create: expires_after.days
SEARCH_RESULTS_MAX = 50  # [S] max_num_results
SEARCH_RESULTS_DEFAULT = 10  # platform.openai.com, reference of vector_stores.search
SEARCH_QUERIES_MAX = 32  # [own]

TEMPERATURE_MAX = 2  # [Y]
TOP_LOGPROBS_MAX = 20  # [Y]
PENALTY_MAX = 2  # [Y] and its negative
OUTPUT_TOKENS_MIN = 16  # [Y] max_output_tokens
RUN_TOKENS_MIN = 256  # [Y] max_prompt_tokens and max_completion_tokens of a run
STOPS_MAX = 4  # [Y]
SAFETY_IDENTIFIER_MAX_CHARS = 64  # [Y]
REASONING_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")  # [Y]
VERBOSITIES = ("low", "medium", "high")  # [Y]
SCHEMA_NAME_MAX_CHARS = 64  # [Y] in words at ResponseFormatJsonSchema
CHAT_TOOLS_MAX = 128  # [Y] functions; earlier descriptions state the same for tools

METADATA_PAIRS_MAX = 16  # [S]
METADATA_KEY_MAX_CHARS = 64  # [S]
METADATA_VALUE_MAX_CHARS = 512  # [S]

PAGE_DEFAULT = 20  # [Y] items a page
PAGE_MAX = 100  # [Y]

STREAM_PIECES_MAX = 64  # [own] parts of a streamed text
