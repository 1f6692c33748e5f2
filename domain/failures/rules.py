"""Define the diagnosis table: ordered rules from the facts of a failure to its cause.

The first matching rule wins. Codes and wordings come from the documentation of OpenAI, Anthropic, Google, Azure and
others, and from public reports of real failures; `tests/causes/` has them with their sources. A rule reads the wording
only if code, type and HTTP status are not conclusive.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, lru_cache

from .failure import Cause, Failure

Rule = tuple[Cause, Callable[[Failure], bool]]


# The facts, as the rules read them


def http_status_of(failure: Failure) -> int:
    """Return the HTTP status, or 0. Of an error in a response with HTTP 200, its numeric code counts as the status."""
    status, code = failure.http_status or 0, failure.code or ""
    if status < 400 and len(code) == 3 and code.isascii() and code.isdigit() and "400" <= code <= "599":
        return int(code)
    return status


def _body(failure: Failure) -> str:
    body = failure.details.get("body")
    return body if isinstance(body, str) else ""


def _is_page(failure: Failure) -> bool:
    """Return whether a web page was received: a proxy answered, not the API."""
    content_type = failure.details.get("content_type")
    return (isinstance(content_type, str) and "html" in content_type) or bool(
        _PAGE.match(_body(failure) or failure.message or "")
    )


_PAGE = re.compile(r"\s*<(!doctype html|html)\b", re.IGNORECASE)

_SAYS_NOTHING = re.compile(
    r"(openrouter error: )?provider returned error\b|param(eter)? incorrect$|bad request$|error code: \d+|upstream error$",
    re.IGNORECASE,
)
"""Messages of gateways that repeat nothing of what the provider said; the body has its words."""


def _words(failure: Failure) -> str:
    """Return the provider's words; none of a web page, which speaks of other things."""
    if _is_page(failure):
        return ""
    message = failure.message or ""
    words = f"{message}\n{_body(failure)}" if not message or _SAYS_NOTHING.match(message) else message
    return words[:WORDS_CHARS_MAX]


WORDS_CHARS_MAX = 4_000
"""Number of characters of a provider's words that are searched."""


_LOCATION = re.compile(r'"loc"\s*:\s*\[\s*"body"\s*,\s*"(\w+)"')
"""The field that a FastAPI server complains about, in its body."""


def _field(failure: Failure) -> str:
    """Return the request field that the provider complains about, or ''."""
    if failure.param and failure.param != "None":
        return failure.param
    found = _LOCATION.search(_body(failure))
    return found[1] if found else ""


Matches = Callable[[Failure], bool]


def _code(*codes: str) -> Matches:
    return lambda failure: failure.code in codes or failure.type in codes


def _raised(*exceptions: str) -> Matches:
    """Match an exception by class name, raised in one of our calls (`details`) or in an app's own run (`type`)."""
    return lambda failure: failure.type in exceptions or failure.details.get("exception") in exceptions


def _status(*statuses: str) -> Matches:
    return lambda failure: failure.status in statuses


def _http(*statuses: int) -> Matches:
    return lambda failure: http_status_of(failure) in statuses


def _says(pattern: str) -> Matches:
    @cache  # compiled when a failure needs it: compiling all of them takes as long as a small command
    def wording() -> re.Pattern[str]:
        return re.compile(pattern, re.IGNORECASE | re.VERBOSE | re.DOTALL)

    @lru_cache(maxsize=256)  # an outage repeats one message many times
    def is_in(words: str) -> bool:
        return wording().search(words) is not None

    return lambda failure: is_in(_words(failure))


def _param(pattern: str) -> Matches:
    name = re.compile(pattern)
    return lambda failure: bool(name.search(_field(failure)))


def _all(*matches: Matches) -> Matches:
    return lambda failure: all(match(failure) for match in matches)


def _any(*matches: Matches) -> Matches:
    return lambda failure: any(match(failure) for match in matches)


def _not(matches: Matches) -> Matches:
    return lambda failure: not matches(failure)


def _detail(name: str, *values: object) -> Matches:
    return lambda failure: failure.details.get(name) in values


def _refused(failure: Failure) -> bool:
    """Return whether the request itself was refused: not its time, its speed or its sender."""
    status = http_status_of(failure)
    named = failure.type in _REFUSALS or failure.code in _REFUSALS or bool(_SAYS_REFUSED.search(_words(failure)))
    return status in {400, 404, 410, 422} or (status < 400 and named)


_REFUSALS = (
    *("invalid_request_error", "INVALID_ARGUMENT", "BadRequestError", "UnprocessableEntityError"),
    *("ValidationException", "invalid_value"),
)
"""Names of a refused request for failures that have no HTTP status, such as an error event in a stream."""

_SAYS_REFUSED = re.compile(rf"\b({'|'.join(_REFUSALS)})\b")


def _shut_down(failure: Failure) -> bool:
    """Return whether the API is gone: a 410, or a 404 of the Assistants API for an endpoint without an id, or for its
    collection too. A 404 of another API says nothing: the server may never have had it, or the base URL is wrong."""
    status, endpoint = http_status_of(failure), str(failure.details.get("endpoint", ""))
    if status == 404 and _ASSISTANTS_API.match(endpoint):
        return failure.details.get("collection_http_status") in {404, 410} or "{" not in endpoint
    return status == 410


_ASSISTANTS_API = re.compile(r"[A-Z]+ /(assistants|threads)\b")


def _is_of_no_thread(failure: Failure) -> bool:
    """Return whether a 404 is not about a thread: none is addressed, or the message names no Conversation."""
    said, endpoint = failure.message or "", str(failure.details.get("endpoint", ""))
    if "{conversation_id}" in endpoint:
        return bool(said) and "onversation" not in said and (failure.thread_id or endpoint) not in said
    return bool(endpoint) and "{" not in endpoint


# Codes and wordings

_NO_CREDIT = r"""
    credit\ balance | insufficient[ _-]?(balance|credits?|funds|quota|user\ quota) | requires\ more\ credits
    | budget\ has\ been\ exceeded | exceeded\ ?budget | over\ budget | crossed\ budget | exceeds\ your\ budget
    | api\ usage\ limits | (spend(ing)?|monthly|credit|usage)\ limit\b | out\ of\ credits | no\ credits?
    | credits?\ (are|is)\ depleted
    | payment\ required | billing\ (hard\ limit|is\ not|account) | add\ (more\ )?credits | arrears
    | call\ volume\ quota | current\ quota.*\blimit:\ 0\b | prepaid
"""

_TOO_LONG = r"""
    maximum\ context | context[ _](window|length|size|limit)
    | (prompt|input|message|request|conversation)\ (is\ )?too\ long
    | input\ length\ and | (input|prompt)\ tokens?\ (count\ )?(\(\d+\)\ )?exceeds? | input\ token\ count
    | exceeds?\ the\ maximum\ (number\ of|allowed)\ (input\ )?(tokens|number\ of\ bytes)
    | `inputs`\ (tokens|must\ have\ less) | request\ (entity\ |body\ )?(is\ )?too\ large | payload\ too\ large
    | too\ large\ for\ model
    | requested\ \d+\ tokens,\ max | max_tokens\ must\ be\ at\ least\ 1,\ got\ -
    | reduce\ (the\ length|your\ (message|prompt|input)) | longer\ than\ the\ model | number\ of\ tokens\ to\ keep
    | keep\ the\ first\ \d+\ tokens | too\ many\ ((input|prompt)\ )?tokens(:|\ in\b)
    | prompt\ contains\ \d+\ tokens | token\ limit\ exceeded
    | range\ of\ input\ length | exceeds?\ .{0,30}\btoken\ limit | exceeds?\ the\ maximum\ size | exceed_context_size
"""

_FILE_GONE = r"""
    no\ such\ file\ object
    | \bfiles?\b[^.]{0,80}\b(not\ found|not\ exist|cannot\ be\ found|were\ not\ found|not\ accessible|has\ expired|was\ deleted)
    | file\ not\ found:?\ \S | (timeout|error|failed|unable|failure)\ (while\ |to\ |when\ )?(download|fetch)(ing)?\b
    | (cannot|could\ not|can't)\ (download|fetch|retrieve|access)\b.{0,60}\b(image|file|url|media|document)
    | file\ .{0,80}\bnot\ in\ an\ active\ state | (image|file)\ url\b.{0,40}\b(not\ (accessible|reachable)|expired)
"""

_FILE_UNREADABLE = r"""
    missing\ required\ file\b | invalid\ file\ data | \binput_audio\b.{0,40}\bnot\b.{0,20}\bvalid\b
"""

_FILTERED = r"""
    content[ _](management|filter|exists\ risk|safety|moderation) | content.?polic | contentpolicy
    | (was|been|is|being)\ flagged | flagged\ (as|by|for) | violat\w+\ .{0,60}\b(polic|terms|guidelines)
    | usage\ polic | responsible.?ai | safety\ (system|filter|polic|reasons|guidelines|check|settings) | moderation
    | inappropriate\ content | data[ _]?inspection | guardrail\ (intervened|blocked|violation) | prohibited[ _]content
    | blocked\ (by|due\ to)\ .{0,40}\b(safety|content|guardrail|polic|prohibited) | unsafe\ (content|request)
    | sensitive\ (content|words?)
    | cybersecurity\ risk | high.?risk\ content
"""

_IMAGE = r"""
    could\ not\ process\ image
    | image\b.{0,60}\b(exceeds?|too\ (large|small|big|many)|not\ (supported|match)|unsupported|invalid|corrupt)
    | (unsupported|invalid|malformed)\ image | at\ most\ \d+\ (image|video|audio)
    | (not|n't)\ support\ (image|vision|multimodal|audio|video)
    | support\ image\ input | valid\ image | process\ input\ image | too\ many\ images
    | image_url.{0,40}\b(not|only|unknown|invalid)
    | not\ a\ (multimodal|vision)\ model | vision.{0,20}not\ (supported|enabled)
"""

_KEY = r"""
    (api|access)[ _-]?key\b.{0,40}\b(not\ valid|invalid|incorrect|missing|expired|not\ found|required|revoked)
    | (invalid|incorrect|missing|no|expired|wrong)\ (api|access|auth\w*)[ _-]?(key|token|credentials)
    | API_KEY_INVALID | invalid\ authentication | no\ auth\ credentials
    | token\ .{0,60}\b(expired|not\ found\ in\ db) | security\ token
"""

_NOT_ALLOWED = r"""
    location\ is\ not\ supported | not\ (supported|available)\ in\ your\ (country|region|location)
    | must\ be\ verified
    | guardrail\ restrictions | data\ policy | not\ authorized\ to\ perform | permission\ denied
    | insufficient\ permissions?
    | (has|have)\ not\ been\ used\ in\ project | api\ .{0,60}\bis\ disabled
"""

_NO_ROUTE = r"""
    ^(file\ |page\ |route\ |path\ |endpoint\ )?not\ found\W*$ | 404\ page\ not\ found | no\ route\ matched
    | route\ not\ found | invalid\ url\ \(
    | unexpected\ endpoint | cannot\ post\ /
"""
"""A server that does not know the address; llama.cpp says that it finds no such file."""

_NO_MODEL = r"""
    \bmodel\b.{0,160}\b(not\ found|does\ not\ exist|doesn't\ exist|decommissioned|deprecated|retired|shut\ down|end\ of\ life
        |no\ longer\ (supported|available)|not\ (deployed|available|supported\ (by|in|for|when|via)))
    | not\ a\ valid\ model | (unknown|unsupported)\ model\b | no\ such\ model
    | \binvalid\ model(\ name|\ id|:|\ '|\ `|\ "|$|\.)
    | the\ provided\ model\ identifier\ is\ invalid | no\ endpoints\ found\ for | on-demand\ throughput
    | access\ to\ (the\ )?model
    | no\ models?\ (is\ |are\ )?loaded | \bmodels/\S+\ is\ not\ found | (^|")model:\ \S+
    | deployment\b.{0,60}\bdoes\ not\ exist
    | model\ identifier | llm\ provider\ not\ provided | not\ a\ chat\ model | missing\ conversation_config
    | failed\ to\ load\ model | (publisher|base)\ model\b.{0,160}\bwas\ not\ found
"""

_TOOLS = r"""
    \btools?\b.{0,200}\b(not\ supported|unsupported|unknown\ type|not\ enabled) | support\ tool\ use
    | 'tool_choice'\ value
    | tool[ _]choice\b.{0,60}\b(requires|not|only|invalid|unsupported)
    | (not|n't)\ support\ (the\ use\ of\ )?(tools?|functions?)\b
    | function\ calling\b.{0,80}\b(unsupported|not) | (invalid|bad|unsupported)\ (json\ )?schema\ for\ (function|tool)
    | invalid\ function\ schema | function_declarations | \btools[.\[]\d | input_schema | tools\ param\ requires
    | failed\ to\ call\ a\ function | schema\ for\ tool
"""

_NOTHING_ASKED = r"""
    at\ least\ (1|one)\ (token|message|user\ message) | \[\]\ is\ too\ short
    | messages?\b.{0,40}\b(must\ not|can(no|')t)\ be\ empty
    | contents\ (are|is)\ (required|not\ specified) | must\ include\ at\ least\ one
    | empty\ (prompt|messages\ array) | no\ messages\b
    | messages\b.{0,20}\btoo\ short
"""

_HISTORY = r"""
    tool_calls?'?"?\ must\ be\ followed | must\ be\ a\ response\ to\ a\ prece
    | tool[ _]?(use|result|call)s?(_id)?s?`?\b.{0,80}
        (without|unexpected|must\ have|not\ found|did\ not\ have|missing|mismatch|duplicate|unique|cannot\ be|exceeds)
    | unexpected\ `tool | (without|missing|unmatched|orphan\w*)\ .{0,40}tool[ _]?(result|call|use|output)
    | `?tool_result`?\ block
    | no\ tool\ (output|call)\ found | tool\ message\b | function\ (call|response)\ (parts|turn)
    | tool(Result|Use)\ blocks
    | tool\ result\ blocks | \bitem\ with\ id | \bitem\ '\w+'\ of\ type | duplicate\ item
    | roles?\b.{0,30}\b(must\ alternate|alternate) | unexpected\ role
    | (expected|invalid|unknown)\ (last\ )?role | roles?\ must\b
    | alternate\ between | either\ content\ or\ tool_calls | content\ blocks?\b.{0,40}\b(non-empty|empty)
    | non-empty\ content
    | (end|ends)\ with\ (a\ )?(user\ message|trailing\ whitespace) | redacted_thinking | `thinking`|`signature`
    | thought_?\ ?signature
    | reasoning_content | encrypted[ _]content | expected\ a\ string,\ got\ null
    | (in|elements\ in)\ (the\ )?history | tool_results
    | content'?\ field\b | \bmessages?[.\[]{1,2}\[?\d | \bcontents?\[\d | \binput\[\d
    | conversation\ (blocks|must) | assistant\ (message|prefill)
    | last\ message | first\ message | content\ is\ required | chat\ template | tool_call_id
"""

_PARAMETER = r"""
    unsupported\ (parameter|value|field|argument) | unknown\ (parameter|argument|field|name)
    | unrecognized\ (request\ )?(argument|key|field)
    | (parameter|property|argument|field)\b.{0,60}\b(unsupported|not\ (supported|permitted|allowed))
    | response_format | json_schema | json\ mode
    | \b(temperature|top_p|top_k|max_(completion_|output_|new_)?tokens|reasoning_effort|budget_tokens|\w+_penalty
        |parallel_tool_calls|logprobs|stream_options|instructions|metadata|seed)\b
    | json\ schema | maximum\ tokens\ you\ requested | completion\ tokens | output\ tokens | supported\ values\ are
"""

_NO_RESPONSE = r"previous[ _]response\b.{0,80}\bnot\ found"
"""The provider no longer has the stored responses that continue a conversation."""

_TEMPLATE = r"jinja|raise_exception|chat\ template|roles?\ must\ alternate"
"""Local servers report with HTTP 500 that the model's chat template refuses the messages."""

_BUSY = r"""
    thread\ is\ already\ running | already\ has\ an\ active\ run | while\ a\ run\ .{0,80}\ is\ active
    | another\ process\ is\ currently\ operating
"""

_SLOW_DOWN = r"""
    rate[ _-]?limit | too\ many\ requests | too\ many\ tokens,\ please\ wait | throttl
    | resource\ (has\ been\ )?exhausted
    | capacity\ exceeded | requests\ per\ (minute|day|second) | quota\ exceeded
"""

_NO_SUCH_MODEL = (
    *("model_not_found", "model_not_available", "model_decommissioned", "model_not_supported", "model_not_exist"),
    *("invalid_model", "unsupported_model", "InvalidModel", "ModelNotFound", "unknown_model", "model_terms_required"),
    "DeploymentNotFound",  # Azure addresses a model by the name of its deployment
    "OperationNotSupported",  # Azure: the deployment's model does not support this API
)

_NO_QUOTA = (
    *("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "billing_error", "budget_exceeded"),
    *("insufficient_balance", "insufficient_credits", "insufficient_user_quota", "exceeded_current_quota_error"),
    *("payment_required", "Arrearage", "pre_consume_token_quota_failed", "credit_limit_exceeded"),
)

_NOT_IDENTIFIED = (
    *("invalid_api_key", "missing_credentials", "authentication_error", "UNAUTHENTICATED", "auth_error"),
    *(
        "token_not_found_in_db",
        "expired_key",
        "invalid_authentication_error",
        "incorrect_api_key_error",
        "InvalidApiKey",
    ),
    *("invalid_token", "ExpiredTokenException", "UnrecognizedClientException", "InvalidSignatureException"),
    *("api_key_invalid", "API_KEY_INVALID", "unauthorized", "Unauthorized", "invalid_auth"),
)

_FORBIDDEN = (
    *("permission_denied", "permission_error", "PERMISSION_DENIED", "AccessDeniedException", "access_denied"),
    "unsupported_country_region_territory",
    "data_residency_mismatch",  # the project's data must not be sent to this region
    *("request_forbidden", "organization_restricted", "access_terminated_error"),
)

_SLOW = (
    *("rate_limit_exceeded", "tokens", "requests", "rate_limit_error", "RESOURCE_EXHAUSTED", "rate_limited"),
    *("ThrottlingException", "TooManyRequestsException", "ServiceQuotaExceededException", "throttling"),
    *("service_tier_capacity_exceeded", "rate_limit_reached_error", "limit_requests"),
    *("too_many_requests", "RateLimitReached", "limit_burst_rate", "rate_limit"),
)

_UNWELL = (
    *("internal_error", "internal_server_error", "UNAVAILABLE", "INTERNAL"),
    *("ServiceUnavailableException", "InternalServerException", "ModelErrorException", "ModelNotReadyException"),
    *("service_unavailable", "overloaded", "bad_gateway", "unavailable_error", "new_api_error", "upstream_error"),
    *("InternalServerError", "ModelStreamErrorException", "provider_unavailable", "api_error", "no_db_connection"),
)

_NO_ANSWER_AT_ALL = (
    *("JSONDecodeError", "APIResponseValidationError", "AttributeError", "TypeError", "IndexError", "KeyError"),
    *("DecodingError", "StreamAlreadyConsumed"),
)
"""Exceptions raised in the SDK, or while reading its objects, when a response with HTTP 200 is not the provider's. They
count only in our own calls: in an app's own run, a `TypeError` is the app's."""

_NO_CREDENTIALS = (
    *("OpenAIError", "OAuthError", "AuthenticationError", "SubjectTokenProviderError", "MutuallyExclusiveAuthError"),
    "_AmbiguousModuleClientUsageError",
)
"""Exceptions that the SDK raises if credentials are missing, cannot be fetched, or are of more than one kind."""

_TIMEOUTS = (
    *("APITimeoutError", "TimeoutError", "Timeout", "ConnectTimeout", "ReadTimeout", "WriteTimeout", "PoolTimeout"),
)

_NOT_IN_TIME = (
    *("vector_store_timeout", "DEADLINE_EXCEEDED", "timeout_error", "timeout", "ModelTimeoutException"),
    *("FUNCTION_INVOCATION_TIMEOUT", "GATEWAY_TIMEOUT", "request_timeout", "gateway_timeout"),
)

_NOT_REACHED = (
    *("APIConnectionError", "ConnectionError", "ConnectionAbortedError", "ConnectionRefusedError"),
    *("ConnectionResetError", "BrokenPipeError", "SSLError", "gaierror", "URLError", "ConnectError", "ReadError"),
    *("WriteError", "CloseError", "ProxyError", "RemoteProtocolError", "UnsupportedProtocol"),
    *("WebSocketConnectionClosedError", "WebSocketQueueFullError"),
)
"""Exceptions for connections that were refused, cut or never established, as Python, HTTPX and the SDK name them."""

_NOT_TAKEN = (
    *("content_filter", "content_policy_violation", "bio_policy", "misalignment_policy_violation"),
    *(
        "image_content_policy_violation",
        "ResponsibleAIPolicyViolation",
        "data_inspection_failed",
        "content_filter_error",
    ),
    *("DataInspectionFailed", "moderation_error", "cyber_policy"),
    # An image that the provider cannot read counts as content, like one that it rejects: the question has to change,
    # and a retry fails again.
    *("invalid_image", "invalid_image_format", "invalid_base64_image", "invalid_image_url", "image_too_large"),
    *("image_too_small", "image_parse_error", "invalid_image_mode", "image_file_too_large"),
    *("unsupported_image_media_type", "empty_image_file"),
)
"""Error codes that concern the content of a question, not the form of the request."""

_CUT_SHORT = ("max_output_tokens", "max_completion_tokens", "max_tokens", "max_messages", "steered", "length")
"""Reasons for an incomplete answer: a limit was reached, or the model was steered elsewhere while answering."""

_MEMORY = r"^(input|messages|contents?|role)\b"
"""Request fields that carry memory."""

_ALL_OF_MEMORY = r"^(input|messages)$|\.(content|text|output|arguments)\b"
"""Request fields that are too long if memory is; an id or a name that is too long is another fault."""

_OF_THE_PROFILE = (
    r"^(name|description|model|metadata|tool_choice|response_format|text|temperature|top_[pk]|seed|stop|reasoning\w*"
    r"|max_\w*tokens|parallel_tool_calls|\w+_penalty|logprobs|stream\w*|verbosity|thinking|generation_config)\b"
)
"""Request fields that carry the profile and its settings."""


def _without_status(failure: Failure) -> bool:
    """Return whether the provider reported an error inside a response or a stream, without a status of its own."""
    return failure.status == "error" and http_status_of(failure) in {0, 200}


RULES: tuple[Rule, ...] = (
    # Our own preflight and driver report the cause as the code.
    *((cause, _all(_status("refused"), _code(cause.value))) for cause in Cause),
    (Cause.INTERRUPTED, _status("interrupted")),
    (Cause.TIMED_OUT, _any(_status("timed_out"), _raised(*_TIMEOUTS))),
    (Cause.TOOL_FAILED, _code("tool_failed")),
    (Cause.NETWORK, _code("redirect_refused")),
    # What providers say in plain words under many different statuses.
    (Cause.QUOTA_EXHAUSTED, _any(_code(*_NO_QUOTA), _http(402), _says(_NO_CREDIT))),
    (Cause.CONTENT_NOT_SUPPORTED, _all(_http(413), _detail("endpoint", "POST /files"))),  # one attachment is too large
    (
        Cause.CONTEXT_TOO_LONG,
        _any(
            _code(
                "context_length_exceeded", "exceed_context_size_error", "request_too_large", "max_tokens_per_request"
            ),
            _code("model_context_window_exceeded", "context_too_long", "context_window_exceeded"),
            _all(_code("string_above_max_length", "array_above_max_length"), _param(_ALL_OF_MEMORY)),
            _http(413),
            _says(_TOO_LONG),
        ),
    ),
    (Cause.CONTEXT_TOO_LONG, _detail("incomplete_reason", "max_prompt_tokens")),
    (
        Cause.FILE_MISSING,
        _any(
            _code("file_not_found", "image_file_not_found", "failed_to_download_image", "file_expired"),
            _all(_http(400, 403, 404, 410, 422, 424, 500), _says(_FILE_GONE), _not(_says(_NO_ROUTE))),
            _all(_refused, _says(_FILE_UNREADABLE)),
            _all(_status("failed"), _says(r"no\ such\ file\ object")),  # of a run in a thread that refers to it
        ),
    ),
    (Cause.CONTENT_FILTERED, _any(_code(*_NOT_TAKEN), _all(_http(400, 403, 422, 451, 498, 500), _says(_FILTERED)))),
    (Cause.CONTENT_FILTERED, _all(_refused, _says(_IMAGE))),
    # Credentials, permissions and models.
    (Cause.PERMISSION, _code("key_model_access_denied", "team_model_access_denied", "user_model_access_denied")),
    (
        Cause.AUTHENTICATION,
        _any(_http(401), _code(*_NOT_IDENTIFIED), _raised(*_NO_CREDENTIALS), _all(_http(400, 403), _says(_KEY))),
    ),
    (
        Cause.PERMISSION,
        _any(_http(403), _code(*_FORBIDDEN), _raised("PermissionDeniedError"), _all(_refused, _says(_NOT_ALLOWED))),
    ),
    # Missing models, APIs, assistants and threads. Compatible servers report them only by their wording.
    (Cause.TOO_MANY_TOOLS, _all(_param("^tools$"), _says(r"too\ long|at\ most|maximum"))),
    (
        Cause.TOO_MANY_TOOLS,
        _all(_refused, _says(r"'tools'.{0,40}\b(maximum|too\ long)|too\ many\ tools|maximum\ number\ of\ tools")),
    ),
    (Cause.TOOL_NOT_SUPPORTED, _any(_param(r"^tools\b"), _all(_refused, _says(_TOOLS)))),
    (Cause.MODEL_UNAVAILABLE, _code(*_NO_SUCH_MODEL)),
    (
        Cause.MODEL_UNAVAILABLE,
        _all(_http(404), _any(_param("^model$"), _all(_code("not_found_error"), _not(_says(_NO_ROUTE))))),
    ),
    (Cause.MODEL_UNAVAILABLE, _all(_refused, _says(_NO_MODEL))),
    (Cause.PROVIDER_GONE, _shut_down),
    (Cause.ASSISTANT_MISSING, _all(_http(404, 400), _says(r"\bassistant\b.*\b(not\ found|asst_)|no\ assistant"))),
    (Cause.ASSISTANT_MISSING, _all(_http(400, 404), _any(_param("^assistant_id$"), _says("invalid\\ 'assistant_id'")))),
    (Cause.EMPTY_MEMORY, _all(_http(400, 422), _says(_NOTHING_ASKED))),
    (Cause.THREAD_MISSING, _any(_code("previous_response_not_found"), _all(_refused, _says(_NO_RESPONSE)))),
    (Cause.HISTORY_REFUSED, _all(_http(404), _says(_HISTORY))),
    (Cause.THREAD_MISSING, _all(_http(404), _says(r"\b(thread|conversation)\b"))),
    (Cause.ASSISTANT_MISSING, _all(_http(404), _detail("endpoint", "GET /assistants/{assistant_id}"))),
    (Cause.NETWORK, _all(_http(404), _is_of_no_thread)),
    (Cause.THREAD_MISSING, _all(_http(404), lambda f: bool(f.thread_id))),
    # Threads that are in use, and limits.
    (Cause.THREAD_BUSY, _any(_code("conversation_locked"), _http(409), _raised("ConflictError"), _says(_BUSY))),
    (Cause.EMPTY_MEMORY, _all(_code("server_error"), _detail("prompt_tokens", 0))),
    (Cause.PROVIDER_ERROR, _code("engine_overloaded_error", "overloaded_error")),
    (Cause.RATE_LIMITED, _any(_http(429), _code(*_SLOW), _raised("RateLimitError"))),
    (
        Cause.CONTENT_FILTERED,
        _any(
            _detail("incomplete_reason", "content_filter"),
            _detail("finish_reason", "content_filter"),
            _raised("ContentFilterFinishReasonError"),
        ),
    ),
    # The profile and the history: what the field names, then what the message names.
    (Cause.INSTRUCTIONS_TOO_LONG, _any(_param("^instructions"), _says(r"instructions.*(too\ long|maximum\ length)"))),
    (
        Cause.HISTORY_REFUSED,
        _any(
            _code("invalid_request_message_order", "invalid_encrypted_content", "thinking_signature_invalid"),
            _all(_refused, _any(_param(_MEMORY), _says(_HISTORY))),
        ),
    ),
    (Cause.ASSISTANT_MISCONFIGURED, _any(_code("invalid_prompt"), _param(_OF_THE_PROFILE))),
    (
        Cause.ASSISTANT_MISCONFIGURED,
        _all(
            _http(400, 422),
            _any(
                _code("unknown_parameter", "unsupported_parameter", "unsupported_value", "json_validate_failed"),
                _detail("endpoint", "POST /assistants"),
                _says(_PARAMETER),
            ),
        ),
    ),
    # How the run ended.
    (Cause.EXPIRED, _any(_status("expired"), _detail("incomplete_reason", "run_expired"))),
    (Cause.CANCELLED, _any(_status("cancelled", "cancelling"), _detail("incomplete_reason", "run_cancelled"))),
    (Cause.PROVIDER_ERROR, _detail("incomplete_reason", "run_failed")),
    (
        Cause.INCOMPLETE,
        _any(
            _status("incomplete"),
            _detail("incomplete_reason", *_CUT_SHORT),
            _detail("finish_reason", *_CUT_SHORT),
            _raised("LengthFinishReasonError"),
        ),
    ),
    (Cause.TIMED_OUT, _any(_http(408, 504, 522, 524), _code(*_NOT_IN_TIME))),
    (Cause.NETWORK, _any(_raised(*_NOT_REACHED), _code("stream_broken"))),
    (Cause.RATE_LIMITED, _all(_any(_http(400, 498, 503), _without_status), _says(_SLOW_DOWN))),
    (Cause.AUTHENTICATION, _all(_without_status, _says(_KEY))),
    (Cause.HISTORY_REFUSED, _all(_http(500), _says(_TEMPLATE))),
    (Cause.PROVIDER_ERROR, _any(_code("server_error"), lambda f: http_status_of(f) >= 500, _http(424))),
    # A page, or an address that nothing above explains: something else than the API answered.
    (Cause.NETWORK, _any(_http(301, 302, 303, 307, 308, 404, 405), _all(_is_page, _http(400, 406, 415)))),
    (Cause.NETWORK, _all(_http(200), _says(_NO_ROUTE))),
    (Cause.PROVIDER_ERROR, _says(r"^sorry,\ something\ went\ wrong")),
    # The profile is the same in every request. A request that is refused for nothing above was refused for what was
    # new in it: its messages.
    (Cause.HISTORY_REFUSED, _all(_refused, lambda f: http_status_of(f) != 404)),
    (Cause.PROVIDER_ERROR, _any(_code(*_UNWELL), _is_page, _raised("InternalServerError"))),
    (Cause.PROVIDER_ERROR, _any(_detail("exception", *_NO_ANSWER_AT_ALL), _detail("finish_reason", "error"))),
    # A stream that ended with an error that no rule above matches.
    (Cause.PROVIDER_ERROR, _any(_detail("event", "error"), _raised("APIError"))),
)
