"""Build the chat app of docs/a-chat-app-in-15-minutes.md, which explains it step by step.

    pip install fastapi uvicorn
    threadledger simulate --port 9000 &
    export OPENAI_BASE_URL=http://127.0.0.1:9000/v1 OPENAI_API_KEY=any
    uvicorn --app-dir examples chat_app:app --port 8000

Requests name their user in the header `X-User`, a stand-in for a sign-in.
"""

import json
from contextlib import aclosing, asynccontextmanager
from typing import Annotated
from uuid import uuid4

from fastapi import Depends, FastAPI, Header, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field

import threadledger


@asynccontextmanager
async def lifespan(app: FastAPI):
    async with threadledger.open_async() as ledger:
        app.state.ledger = ledger
        yield


app = FastAPI(lifespan=lifespan)


def user_of(x_user: Annotated[str, Header(min_length=1, max_length=100)]) -> str:
    return x_user  # a stand-in: your sign-in says here who the user is


def ledger_of(request: Request, user: Annotated[str, Depends(user_of)]) -> threadledger.AsyncLedger:
    return request.app.state.ledger.as_actor(f"user:{user}")


async def chat_of(
    key: str, user: Annotated[str, Depends(user_of)], ledger: Annotated[threadledger.AsyncLedger, Depends(ledger_of)]
) -> threadledger.AsyncChat:
    if (await ledger.state(key)).description.owner != user:
        raise threadledger.NotFound
    return ledger.conversation(key)


User = Annotated[str, Depends(user_of)]
Ledger = Annotated[threadledger.AsyncLedger, Depends(ledger_of)]
Chat = Annotated[threadledger.AsyncChat, Depends(chat_of)]


@app.exception_handler(threadledger.ThreadledgerError)
async def refused(request: Request, error: threadledger.ThreadledgerError):
    match error:
        case threadledger.InvalidInput():
            return JSONResponse({"error": str(error)}, 422)
        case threadledger.NotFound():
            return JSONResponse({"error": "no such chat or message"}, 404)
        case threadledger.Conflict():
            return JSONResponse({"error": "another question is being answered"}, 409)
        case _:
            return JSONResponse({"error": "no answer now; the question is kept"}, 503)


class About(BaseModel):
    title: str | None = None
    archived: bool | None = None


@app.post("/chats")
async def start(about: About, user: User, ledger: Ledger):
    key = uuid4().hex
    await ledger.conversation(key).describe(owner=user, title=about.title)
    return key


@app.get("/chats")
async def chats(
    user: User, ledger: Ledger, search: str | None = None, archived: bool = False, after: str | None = None
):
    page = await ledger.conversations(owner=user, search=search, archived=archived, limit=20, after=after)
    items = [{"key": each.key, "title": each.description.title, "last_at": each.last_at} for each in page]
    return {"items": items, "next": page.cursor}


@app.patch("/chats/{key}")
async def describe(about: About, chat: Chat):
    await chat.describe(title=about.title, archived=about.archived)


@app.get("/search")
async def search(text: str, user: User, ledger: Ledger):
    return [hit.as_json() for hit in await ledger.search(text, owner=user, limit=20)]


class Question(BaseModel):
    text: str
    image: str | None = Field(None, pattern=r"^data:image/(png|jpeg|gif|webp);base64,")

    def parts(self):
        text = {"type": "text", "text": self.text}
        return [text, {"type": "image_url", "image_url": {"url": self.image}}] if self.image else self.text


@app.post("/chats/{key}/questions")
async def ask(question: Question, chat: Chat, idempotency_key: Annotated[str | None, Header()] = None):
    return await events(chat.stream(question.parts(), idempotency_key=idempotency_key))


async def events(parts):
    first = await anext(parts)  # an error before the first part still gets its own status

    async def lines():
        async with aclosing(parts):  # a browser that leaves cancels the run
            yield event(first)
            try:
                async for part in parts:
                    yield event(part)
            except threadledger.AllBackendsFailed:
                yield "event: failed\ndata: {}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")


def event(part):
    data = {name: getattr(part, name) for name in ("text", "message_id", "selected") if hasattr(part, name)}
    return f"event: {part.type}\ndata: {json.dumps(data)}\n\n"


@app.get("/chats/{key}")
async def show(chat: Chat):
    shown = []
    for each in (await chat.memory(last=50)).messages:
        variants = await chat.variants(each.message_id)
        ids = [variant.message_id for variant in variants if not variant.hidden]
        message = {"message_id": each.message_id, "role": each.message.role, "content": each.message.content_as_json()}
        shown.append(message | {"variants": ids})
    return shown


@app.get("/chats/{key}/messages/{message_id}/image")
async def image(message_id: str, chat: Chat, ledger: Ledger):
    for variant in await chat.variants(message_id):
        content = variant.message.message.content_as_json()
        for part in content if variant.message_id == message_id and isinstance(content, list) else ():
            if part["type"] == "image_url":
                found = part["image_url"]
                data = await ledger.read_blob(found["blob"])
                return StreamingResponse(data, media_type=found["media_type"])
    raise threadledger.NotFound


@app.post("/chats/{key}/messages/{message_id}/edit")
async def edit(message_id: str, question: Question, chat: Chat):
    edited = await chat.edit(message_id, question.parts())
    return await events(chat.stream_regenerate(edited.message_id))


@app.post("/chats/{key}/messages/{message_id}/regenerate")
async def regenerate(message_id: str, chat: Chat):
    return await events(chat.stream_regenerate(message_id))


@app.post("/chats/{key}/messages/{message_id}/select")
async def select(message_id: str, chat: Chat):
    return (await chat.select_branch(message_id)).message_id
