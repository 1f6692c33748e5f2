"""Convert records to JSON and back, for the rows of a state file."""

from typing import Any

from .answers import Answer, ToolCall
from .call import Json
from .outcomes import End, Failure, Incomplete, Outcome
from .store import CompletionRecord, ConversationRecord, ResponseRecord, RunRecord


def answer_json(answer: Answer) -> Any:
    """Return an answer in the script format: a text, or {"tool_calls": […]}."""
    if not answer.tool_calls:
        return answer.text
    return {"tool_calls": [{"name": call.name, "arguments": call.arguments} for call in answer.tool_calls]}


def answer_of(value: Any) -> Answer:
    """Return the answer that `answer_json` wrote."""
    if isinstance(value, str):
        return Answer(value)
    return Answer(tool_calls=tuple(ToolCall(call["name"], call["arguments"]) for call in value["tool_calls"]))


def run_json(record: RunRecord) -> Json:
    """Return a run with its steps as JSON.

    Whether a stream is being read is not saved, because no reader survives a restart.
    """
    return {
        "object": record.object,
        "outcome": _outcome_json(record.outcome),
        "steps": record.steps,
        "answer": None if record.answer is None else answer_json(record.answer),
        "message_id": record.message_id,
        "step_id": record.step_id,
    }


def run_of(value: Json) -> RunRecord:
    """Return the run that `run_json` wrote."""
    answer = None if value["answer"] is None else answer_of(value["answer"])
    outcome = _outcome_of(value["outcome"])
    return RunRecord(value["object"], outcome, value["steps"], answer, value["message_id"], value["step_id"])


def conversation_json(record: ConversationRecord) -> Json:
    """Return a conversation as JSON, without its items, which have their own rows."""
    return {"object": record.object, "busy": record.busy}


def conversation_of(value: Json) -> ConversationRecord:
    """Return the conversation that `conversation_json` wrote, without items."""
    return ConversationRecord(value["object"], busy=value["busy"])


def response_json(record: ResponseRecord) -> Json:
    """Return a response as JSON."""
    return {"object": record.object, "input": record.input, "final": record.final, "streamed": record.streamed}


def response_of(value: Json) -> ResponseRecord:
    """Return the response that `response_json` wrote."""
    return ResponseRecord(value["object"], value["input"], value["final"], value["streamed"])


def completion_json(record: CompletionRecord) -> Json:
    """Return a chat completion as JSON."""
    return {"object": record.object, "messages": record.messages, "kept": record.kept}


def completion_of(value: Json) -> CompletionRecord:
    """Return the chat completion that `completion_json` wrote."""
    return CompletionRecord(value["object"], value["messages"], value["kept"])


def _outcome_json(outcome: Outcome | None) -> Json | None:
    match outcome:
        case Failure(code, message):
            return {"failure": {"code": code, "message": message}}
        case Incomplete(reason):
            return {"incomplete": reason}
        case End(status):
            return {"end": status}
    return None


def _outcome_of(value: Json | None) -> Outcome | None:
    if value is None:
        return None
    if "failure" in value:
        return Failure(**value["failure"])
    return Incomplete(value["incomplete"]) if "incomplete" in value else End(value["end"])
