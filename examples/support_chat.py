"""Build a support chat in forty lines: an idempotent endpoint on one ledger.

    threadledger simulate &
    OPENAI_BASE_URL=http://127.0.0.1:8765/v1 OPENAI_API_KEY=any python examples/support_chat.py

The same request sent twice returns the same answer and is paid for once.
"""

import threadledger


def handle(ledger: threadledger.Ledger, request: dict[str, str]) -> dict[str, object]:
    """Handle the body of one request; a web framework would call this function."""
    chat = ledger.conversation(request["customer"])
    try:
        answer = chat.ask(request["text"], idempotency_key=request["request_id"])
    except threadledger.ConversationBusy:
        return {"status": 409, "text": "One moment, your last question is being answered."}
    except threadledger.AllBackendsFailed as failed:
        return {
            "status": 503,
            "text": "Your question is kept.",
            "causes": [each.cause.value for each in failed.failures],
        }
    return {"status": 200, "text": answer.text, "fallback": answer.fallback}


def main() -> None:
    with threadledger.open("sqlite:///support.db") as ledger:
        request = {"customer": "customer-42", "text": "Where is my parcel?", "request_id": "r-1"}
        print(handle(ledger, request))
        print(handle(ledger, request))
        print("messages journaled:", ledger.state("customer-42").messages)


if __name__ == "__main__":
    main()
