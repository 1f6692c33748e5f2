"""Define the advice for each cause: short instructions that name the setting to change or the command to run."""

from .failure import Cause


def advise(cause: Cause, code: str | None = None, backend: str = "") -> str:
    """Return the advice for a cause, which names a setting or a command.

    RUN and KEY are placeholders for the run and its conversation. `code` is the failure's code: some of our own codes
    have more specific advice. A `backend` that is not built in has its key, address and model in a table of its own.
    """
    name = code if code in ADVICE_BY_CODE else cause.value
    general = ADVICE_BY_CODE.get(name, ADVICE[cause])
    return general if backend in BUILT_IN else ADVICE_OF_NAMED.get(name, general)


BUILT_IN = ("", "assistants", "responses", "chat")

_TABLE = "in the backend's table of threadledger.toml (an app that calls the provider itself: in its own client)"

ADVICE_OF_NAMED = {
    "redirect_refused": f"The server redirects to another address, and nothing was sent there: set base_url to the new address {_TABLE}.",
    "assistant_misconfigured": f"The backend cannot take a request as it is set: correct function, model or extra {_TABLE}, or the profile in THREADLEDGER_PROFILE.",
    "authentication": f"The API key is wrong or missing: correct the variable that api_key_env names, or base_url, {_TABLE}.",
    "permission": f"The API key lacks permission, or the region is not allowed: check the key that api_key_env names {_TABLE}, and its region.",
    "model_unavailable": f"The model does not exist, is retired, or is not available to this key: set model {_TABLE}.",
    "context_too_long": f"The memory exceeds the model's context window: set a model with a larger window {_TABLE}, or lower THREADLEDGER_MEMORY_TOKENS.",
    "incomplete": f"The answer is incomplete: a limit was reached, or the model was steered elsewhere; raise the limit, or set another model {_TABLE}.",
    "rate_limited": f"Too many requests or tokens per minute: wait, raise retries {_TABLE}, or ask the provider for a higher limit.",
    "timed_out": f"The backend did not answer in time: raise timeout_seconds {_TABLE}, or retry with: threadledger replay rerun RUN --apply.",
    "network": f"The provider could not be reached, the connection was lost, or the address does not serve this API: check the network, and base_url {_TABLE}.",
    "provider_gone": f"The provider shut down this API, or the address is wrong: correct base_url {_TABLE}, or remove the backend from the chain.",
}
"""Advice by code or cause for backends that are not built in."""


ADVICE_BY_CODE = {
    "superseded": "No action is needed: a newer question replaced this one.",
    "redirect_refused": "The server redirects to another address, and nothing was sent there: set OPENAI_BASE_URL (on Azure, AZURE_OPENAI_ENDPOINT) to the new address.",
    "listener_left": "The caller stopped listening before the answer was complete: ask again if you still need the answer.",
}


ADVICE: dict[Cause, str] = {
    Cause.ASSISTANT_MISSING: "The assistant does not exist: correct OPENAI_ASSISTANT_ID, or unset it to create an assistant from the profile.",
    Cause.ASSISTANT_MISCONFIGURED: "The provider rejects the profile or a request parameter: correct the name, instructions, model, tools or parameters in THREADLEDGER_PROFILE.",
    Cause.INSTRUCTIONS_TOO_LONG: "Shorten the instructions in THREADLEDGER_PROFILE: assistants accept at most 256,000 characters.",
    Cause.TOO_MANY_TOOLS: "Remove tools from THREADLEDGER_PROFILE: assistants and Chat Completions accept at most 128.",
    Cause.TOOL_NOT_SUPPORTED: "The backend does not support one of the profile's tools: change the tool in THREADLEDGER_PROFILE, or remove the backend from THREADLEDGER_BACKENDS.",
    Cause.CONTENT_NOT_SUPPORTED: "The backend cannot be sent an attachment of the conversation (too large, or of a type that it does not take): add a backend that takes it to THREADLEDGER_BACKENDS, lower THREADLEDGER_MEMORY_LAST, or set THREADLEDGER_ON_LOSS=allow to send the rest.",
    Cause.EMPTY_MEMORY: "The memory sent to the model was empty: inspect it with: threadledger show KEY --view memory.",
    Cause.RATE_LIMITED: "Too many requests or tokens per minute: wait, raise THREADLEDGER_RETRIES, or ask the provider for a higher limit.",
    Cause.QUOTA_EXHAUSTED: "The account has no credit left: add credit at the provider, then run: threadledger replay rerun --failed --cause quota_exhausted.",
    Cause.CONTEXT_TOO_LONG: "The memory exceeds the model's context window: set OPENAI_MODEL to a model with a larger window, or lower THREADLEDGER_MEMORY_TOKENS.",
    Cause.CONTENT_FILTERED: "The provider rejected the content (content filter, or an unusable image): inspect the question with: threadledger audit show RUN.",
    Cause.AUTHENTICATION: "The API key is wrong or missing: set OPENAI_API_KEY (and OPENAI_BASE_URL, if the key is for another server); on Azure, set AZURE_OPENAI_API_KEY or AZURE_OPENAI_AD_TOKEN, and OPENAI_API_VERSION.",
    Cause.PERMISSION: "The API key lacks permission, or the region is not allowed: check the project's permissions and region, OPENAI_ORG_ID and OPENAI_PROJECT_ID.",
    Cause.MODEL_UNAVAILABLE: "The model does not exist, is retired, or is not available to this key: set OPENAI_MODEL (or THREADLEDGER_FALLBACK_MODEL).",
    Cause.PROVIDER_ERROR: "The provider failed on its side: retry with: threadledger replay rerun RUN --apply.",
    Cause.PROVIDER_GONE: "The provider shut down this API (or OPENAI_BASE_URL is wrong): set USE_ASSISTANTS_API=false, then move memory with: threadledger replay rebuild --all --to conversations.",
    Cause.THREAD_MISSING: "The provider lost the thread: rebuild it with: threadledger replay rebuild KEY --apply.",
    Cause.THREAD_BUSY: "Another run was using the thread: retry with: threadledger replay rerun RUN --apply.",
    Cause.TIMED_OUT: "The backend did not answer in time: raise THREADLEDGER_TIMEOUT_SECONDS, or retry with: threadledger replay rerun RUN --apply.",
    Cause.NETWORK: "The provider could not be reached, the connection was lost, or the address does not serve this API: check the network and OPENAI_BASE_URL (on Azure, AZURE_OPENAI_ENDPOINT).",
    Cause.EXPIRED: "The provider expired the run: retry with: threadledger replay rerun RUN --apply.",
    Cause.CANCELLED: "The run was cancelled: retry with: threadledger replay rerun RUN --apply.",
    Cause.INCOMPLETE: "The answer is incomplete: a limit was reached, or the model was steered elsewhere; raise the limit, or set OPENAI_MODEL to another model.",
    Cause.TOOL_FAILED: "A tool could not be run: bind it with threadledger.open(tools={name: function}), or remove it from THREADLEDGER_PROFILE.",
    Cause.HISTORY_REFUSED: "The provider refuses the messages (their order, a tool call without its result, or an item that it no longer has): inspect them with: threadledger show KEY --view memory; if they are in a thread, rewrite it with: threadledger replay rebuild KEY --fresh --apply.",
    Cause.FILE_MISSING: "A file or image in the conversation is gone at the provider, or cannot be read: find it with: threadledger show KEY; send it again, or ask again without it.",
    Cause.OVER_BUDGET: "The run may cost more than a budget has left, or its model has no known price (extra `prices`): raise THREADLEDGER_MAX_COST_PER_CONVERSATION or THREADLEDGER_MAX_COST_PER_OWNER_DAY, lower THREADLEDGER_BUDGET_OUTPUT_TOKENS, or add a cheaper backend.",
    Cause.INTERRUPTED: "The process stopped during the run: ask again, or retry with: threadledger replay rerun RUN --apply.",
    Cause.UNKNOWN: "The failure is not in the diagnosis table: inspect its details with: threadledger audit show RUN -o json.",
}
