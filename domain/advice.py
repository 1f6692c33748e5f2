"""What to do about each cause: one sentence that names the setting or the command."""

from .failures import Cause


def advise(cause: Cause, code: str | None = None) -> str:
    """What to do about a cause: names the setting or the command. RUN and KEY stand for the run and its conversation.
    `code` is the failure's, where it is one of ours that says more."""
    return ADVICE_BY_CODE.get(code or "", ADVICE[cause])


ADVICE_BY_CODE = {
    "superseded": "A newer question took this one's place: nothing to do.",
    "listener_left": "Whoever asked did not wait for the end: ask again if the answer is still wanted.",
}


ADVICE: dict[Cause, str] = {
    Cause.ASSISTANT_MISSING: "The assistant does not exist: correct OPENAI_ASSISTANT_ID, or unset it to have one made from the profile.",
    Cause.ASSISTANT_MISCONFIGURED: "The provider refuses what the profile asks for: correct name, instructions, model and tools in THREADLEDGER_PROFILE.",
    Cause.INSTRUCTIONS_TOO_LONG: "Shorten the instructions in THREADLEDGER_PROFILE: assistants take 256,000 characters.",
    Cause.TOO_MANY_TOOLS: "Remove tools from THREADLEDGER_PROFILE: assistants and Chat Completions take 128.",
    Cause.TOOL_NOT_SUPPORTED: "The backend does not take one of the profile's tools: change it in THREADLEDGER_PROFILE, or leave the backend out of THREADLEDGER_BACKENDS.",
    Cause.EMPTY_MEMORY: "There was nothing to answer: the memory shown was empty; see it with: threadledger show KEY --view memory.",
    Cause.RATE_LIMITED: "Too many requests or tokens a minute: wait, raise THREADLEDGER_RETRIES, or ask the provider for a higher limit.",
    Cause.QUOTA_EXHAUSTED: "The account has no credit left: add credit at the provider, then: threadledger replay rerun --failed --cause quota_exhausted.",
    Cause.CONTEXT_TOO_LONG: "The memory is longer than the model's window: set OPENAI_MODEL to a model with a larger one, or show less with THREADLEDGER_MEMORY_TOKENS.",
    Cause.CONTENT_FILTERED: "The provider does not take what was said (its content filter, or an image it cannot use): look at the question with: threadledger audit show RUN.",
    Cause.AUTHENTICATION: "The key is wrong or missing: set OPENAI_API_KEY (and OPENAI_BASE_URL, if the key belongs elsewhere); on Azure AZURE_OPENAI_API_KEY or AZURE_OPENAI_AD_TOKEN, and OPENAI_API_VERSION.",
    Cause.PERMISSION: "The key may not do this, or not from here: check the project's rights and region, OPENAI_ORG_ID and OPENAI_PROJECT_ID.",
    Cause.MODEL_UNAVAILABLE: "The model does not exist, is retired, or is not open to this key: set OPENAI_MODEL (or THREADLEDGER_FALLBACK_MODEL).",
    Cause.PROVIDER_ERROR: "The provider failed on its side: nothing to change; try again with: threadledger replay rerun RUN --apply.",
    Cause.PROVIDER_GONE: "The provider shut this API down (or OPENAI_BASE_URL is not its address): set USE_ASSISTANTS_API=false, then move memory with: threadledger replay rebuild --all --to conversations.",
    Cause.THREAD_MISSING: "The provider lost the thread: write it anew with: threadledger replay rebuild KEY --apply.",
    Cause.THREAD_BUSY: "Another run held the thread: try again with: threadledger replay rerun RUN --apply.",
    Cause.TIMED_OUT: "No answer in time: raise THREADLEDGER_TIMEOUT_SECONDS, or try again with: threadledger replay rerun RUN --apply.",
    Cause.NETWORK: "The provider was not reached, or the connection broke: check it, and OPENAI_BASE_URL (on Azure AZURE_OPENAI_ENDPOINT).",
    Cause.EXPIRED: "The provider gave the run up as too old: try again with: threadledger replay rerun RUN --apply.",
    Cause.CANCELLED: "Somebody cancelled the run: try again with: threadledger replay rerun RUN --apply.",
    Cause.INCOMPLETE: "The answer is not whole: a limit was reached, or it was steered elsewhere; raise the limit, or set OPENAI_MODEL to another model.",
    Cause.TOOL_FAILED: "A tool could not be run: bind it with threadledger.open(tools={name: function}), or take it out of THREADLEDGER_PROFILE.",
    Cause.INTERRUPTED: "The process stopped in the middle of the run: ask again, or: threadledger replay rerun RUN --apply.",
    Cause.UNKNOWN: "Not a failure we know: look at its details with: threadledger audit show RUN -o json.",
}
