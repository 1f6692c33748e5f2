"""Implement `threadledger ask` (one exchange), `chat` (a conversation in the terminal) and `append` (one message).

While an exchange streams, its text is printed to stdout, and everything else to stderr.
"""

from __future__ import annotations

import shlex
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .main import IN_KEY, KEY, TEXT, Exit, common, error_message, invocation, opened
from .output import emit_line, emit_many, emit_one, note, print_json, short
from .terminal import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from threadledger.domain.exchange import Answer, AskKeywords, StartedOver, StreamPart
    from threadledger.domain.ledger import Chat, Ledger


def exchange_options(command: Any) -> Any:
    """Add the options of one exchange; a command receives them as keyword arguments."""
    options = (
        click.option("--model", type=KEY, metavar="M", help="Use this model instead of the configured one."),
        click.option("--system", type=KEY, metavar="TEXT", help="Use these instructions instead of the profile's."),
        click.option(
            "--profile",
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            metavar="FILE",
            help="Use this profile instead of the configured one.",
        ),
        click.option("--backend", type=KEY, metavar="NAME", help="Call only this backend; there is no fallback."),
        click.option("--temperature", type=float, metavar="T", help="Sampling temperature, from 0 to 2."),
        click.option("--max-output-tokens", type=int, metavar="N", help="Limit of the answer, in tokens, at least 16."),
        click.option(
            "--reasoning-effort",
            metavar="E",
            help="How long the model thinks: none, minimal, low, medium, high, xhigh, max.",
        ),
        click.option(
            "--response-format",
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            metavar="FILE",
            help='Ask for an answer in the format of this JSON file, like {"type": "json_schema", …}.',
        ),
        click.option(
            "--timeout", type=float, metavar="SECONDS", help="Limit of one attempt instead of the configured one."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def attachment_options(command: Any) -> Any:
    """Add the options that attach files to a question; a command receives them as `image`, `file` and `audio`."""
    options = (
        click.option("--image", multiple=True, metavar="FILE|URL", help="Attach an image; can be repeated."),
        click.option(
            "--file", multiple=True, metavar="FILE|URL", help="Attach a file, such as a PDF; can be repeated."
        ),
        click.option(
            "--audio", multiple=True, metavar="FILE", help="Attach a recording (WAV or MP3); can be repeated."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _question_with(ledger: Ledger, text: str, chosen: dict[str, Any]) -> str | list[dict[str, Any]]:
    """Return a question with the attachments that were given, whose files are stored first."""
    from threadledger.domain.errors import InvalidInput

    parts: list[dict[str, Any]] = []
    for kind, wanted in (("image", "image_url"), ("file", "file"), ("audio", "input_audio")):
        for given in chosen[kind]:
            if given.lower().startswith(("http://", "https://")):
                if kind == "audio":
                    raise InvalidInput(f"--audio {given}: no API takes a recording by its URL; give a file")
                parts.append({"type": wanted, wanted: {"url": given}})
                continue
            part = ledger.attach(given)
            if kind != "file" and part["type"] != wanted:
                what = "an image" if kind == "image" else "a WAV or MP3 recording"
                raise InvalidInput(f"--{kind} {given}: the file is not {what}; use --file to attach it as it is")
            parts.append(part if kind != "file" else _as_file(part, given))
    return [{"type": "text", "text": text}, *parts] if parts else text


def _as_file(part: dict[str, Any], path: str) -> dict[str, Any]:
    """Return a part that refers to the same bytes as a file, whatever they are."""
    if part["type"] == "file":
        return part
    inner = part[part["type"]]
    media_type = inner.get("media_type") or {"wav": "audio/wav", "mp3": "audio/mpeg"}.get(inner.get("format", ""))
    facts = {"blob": inner["blob"], "media_type": media_type, "size": inner["size"], "filename": Path(path).name}
    return {"type": "file", "file": facts}


def keywords_of(ledger: Ledger, chosen: dict[str, Any]) -> AskKeywords:
    """Return the options that were given as the keyword arguments of `Chat.ask`."""
    given: AskKeywords = {
        "model": chosen["model"],
        "instructions": chosen["system"],
        "backend": chosen["backend"],
        "temperature": chosen["temperature"],
        "max_output_tokens": chosen["max_output_tokens"],
        "reasoning_effort": chosen["reasoning_effort"],
        "timeout_seconds": chosen["timeout"],
    }
    if chosen["profile"] is not None:  # the ledger was opened with it
        given["profile"] = ledger.services.profile
    if chosen["response_format"] is not None:
        given["response_format"] = _read_format(chosen["response_format"])
    return {} if all(value is None for value in given.values()) else given


def _read_format(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        InvalidInput: the file is not a JSON object in UTF-8.
    """
    import json

    from threadledger.domain.errors import InvalidInput

    try:
        given = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInput(
            f"{path} is not JSON ({error}): give a response format in the form of Chat Completions"
        ) from None
    if not isinstance(given, dict):
        raise InvalidInput(f"{path} holds no object: give a response format in the form of Chat Completions")
    return given


@click.command()
@IN_KEY
@click.argument("text", type=TEXT)
@click.option(
    "--stream", is_flag=True, help="Print the text as it arrives. With -o jsonl: one part per line, then the answer."
)
@click.option("--idempotency-key", metavar="K", help="Makes retries safe: the same key again returns the first answer.")
@exchange_options
@attachment_options
@common
def ask(key: str, text: str, stream: bool, idempotency_key: str | None, **chosen: Any) -> int:
    """Ask a question in conversation KEY and print the answer.

    The question is journaled before a backend is called, and the answer before it is printed. Pass - as TEXT to read
    standard input.
    """
    with opened(create=True, sends=True, profile=chosen["profile"]) as ledger:
        chat, options = ledger.conversation(key), keywords_of(ledger, chosen)
        question = _question_with(ledger, text, chosen)
        if stream:
            return print_exchange(chat.stream(question, idempotency_key=idempotency_key, **options), "ask")
        return print_exchange(lambda: chat.ask(question, idempotency_key=idempotency_key, **options), "ask")


def print_exchange(answer: Callable[[], Answer] | Generator[StreamPart, None, Answer], command: str) -> int:
    """Print the answer of an exchange, or that there is none; parts of a stream are printed as they arrive."""
    from threadledger.adapters.documents import failed_answer_document
    from threadledger.domain.errors import AllBackendsFailed

    try:
        if callable(answer):
            show_answer(answer())
            return Exit.DONE
        last = streamed(answer)
    except AllBackendsFailed as error:
        if invocation().output != "table":
            emit_one(failed_answer_document(error), lambda console: None)
        note(f"threadledger {command}: {error_message(error)}")
        return Exit.FAILED
    if invocation().output != "table":
        emit_one(_as_last_part(last), lambda console: None)
    return Exit.DONE


def show_answer(answer: Answer) -> None:
    """Print the answer to stdout, and the runs that failed before it to stderr."""
    from threadledger.adapters.documents import answer_document

    for failure in answer.failures:
        note(f"run {short(failure.run_id)} on {failure.backend} failed: {failure.cause.value} ({failure.summary()})")
    if answer.fallback:
        note(f"answered by fallback: {answer.backend} ({answer.model}){_without(answer.dropped)}")
    if answer.losses:
        from threadledger.domain.memory.sending import losses_in_words

        lost = losses_in_words(answer.losses)
        note(f"lost in this exchange (not shown to the model, or not kept of its answer): {lost}")
    if not answer.selected:
        note("another branch was selected meanwhile: the answer is a variant; see: threadledger branch list")
    for waiting in answer.pending:
        what = printable(f"{waiting.name}({waiting.arguments})", lines=False)
        decide = f"threadledger call approve {shlex.quote(answer.key)} {waiting.id}"
        note(f"waits for a decision on {what}: {decide}, or call reject")
    emit_one(answer_document(answer), lambda console: _print_exactly(f"{answer.text}\n"))


def _print_exactly(text: str) -> None:
    """Print text of a model to stdout: printable on a terminal, unchanged in a pipe, where click would remove styles."""
    click.echo(text, nl=False, color=True)
    sys.stdout.flush()


def _as_last_part(answer: Answer) -> dict[str, Any]:
    """Return an answer as it ends a stream: in JSON Lines it has a type, like the parts before it."""
    from threadledger.adapters.documents import answer_document, part_document

    return part_document(answer) if invocation().output == "jsonl" else answer_document(answer)


def _without(dropped: Sequence[str]) -> str:
    return f", without {', '.join(dropped)}" if dropped else ""


@click.command()
@IN_KEY
@exchange_options
@attachment_options
@common
def chat(key: str, **chosen: Any) -> int:
    """Chat in conversation KEY: each line is a question; /quit, Ctrl-D or an empty line ends the chat.

    /help lists the commands of the chat; // at the beginning sends a text that begins with a slash. With -o json and
    jsonl, each answer is an object like that of `ask` (jsonl prints its parts first); with csv, it is a row.
    """
    with opened(create=True, sends=True, profile=chosen["profile"]) as ledger:
        conversation, options = ledger.conversation(key), keywords_of(ledger, chosen)
        _greet(ledger, key, options)
        for each in conversation.memory(last=6).messages:
            note(f"{each.message.role.value}: {each.message.text}")
        answered = _answered(conversation, options, lambda line: _question_with(ledger, line, chosen))
        if invocation().output == "csv":
            emit_many(answered, ())
        else:
            for answer in answered:
                if invocation().output != "table":  # that has shown it as it arrived
                    emit_one(answer, lambda console: None)
    return Exit.DONE


def _answered(
    conversation: Chat, options: AskKeywords, first: Callable[[str], str | list[dict[str, Any]]]
) -> Iterator[dict[str, Any]]:
    """Ask each line of standard input and yield the answer, or the failed runs of a question without an answer.

    `first` returns the first question with what is attached to it.
    """
    from threadledger.adapters.documents import failed_answer_document
    from threadledger.domain.errors import AllBackendsFailed, InvalidInput

    is_first = True
    while (line := _question()) and line.split()[0] not in QUITTING:
        if line.startswith("/") and not line.startswith("//"):
            note(_about_command(line.split()[0]))
            continue
        text = line.removeprefix("/")
        question, is_first = first(text) if is_first else text, False
        try:
            yield _as_last_part(streamed(conversation.stream(question, **options)))
        except AllBackendsFailed as error:
            note(error_message(error))
            yield failed_answer_document(error)
        except InvalidInput as error:
            note(error_message(error))


QUITTING = ("/quit", "/exit")

CHAT_HELP = """Each line is a question. Commands:
  /help   show this help
  /quit   end the chat, like /exit, Ctrl-D or an empty line
  //text  send /text, a question that begins with a slash"""


def _greet(ledger: Ledger, key: str, options: AskKeywords) -> None:
    """Print where questions go and how to end the chat; an invalid option is refused here."""
    from threadledger.domain.exchange import ExchangeOptions

    chosen: dict[str, Any] = dict(options)
    candidates = ExchangeOptions(**chosen).services_of(ledger.services).policy.candidates
    asked = ", then ".join(f"{each.backend} ({each.model})" for each in candidates) or "no backend"
    note(f"threadledger chat in {printable(key, lines=False)}, answered by {asked}")
    note("Type a question; /help lists the commands, /quit ends the chat.")


def _about_command(name: str) -> str:
    """Return what a command of the chat prints."""
    if name == "/help":
        return CHAT_HELP
    return (
        f"there is no command {printable(name, lines=False)}: /help lists the commands; to send a text that begins with a "
        "slash, begin it with //"
    )


def _question() -> str:
    if sys.stdin.isatty():
        click.echo("> ", nl=False, err=True)
    line = sys.stdin.readline()
    if not line and sys.stdin.isatty():
        note("")
    return line.strip()


ARGUMENTS_SHOWN_CHARS = 80
"""Maximum characters of a tool call's arguments that are shown."""

NOT_THE_ANSWER = "[interrupted: this is not the answer]"
"""Line that ends the text of a failed run on stdout; the reason goes to stderr, which may be redirected elsewhere."""


def streamed(stream: Generator[StreamPart, None, Answer]) -> Answer:
    """Show an answer while it arrives, and return it; with `-o json` and `csv` nothing is shown."""
    from threadledger.adapters.documents import part_document
    from threadledger.domain.exchange import Answer

    shown = _Shown() if invocation().output == "table" else None
    with closing(stream) as parts:
        for part in _until_closed(parts, shown):
            if shown is not None:
                shown.take(part)
            elif invocation().output == "jsonl" and not isinstance(part, Answer):
                print_json(part_document(part))
            if isinstance(part, Answer):
                return part
    raise AssertionError("a stream ends with its answer, or raises")


def _until_closed(parts: Generator[StreamPart, None, Any], shown: _Shown | None) -> Generator[StreamPart, None, None]:
    """Yield the parts; if the stream ends early, end the printed line and mark its text as interrupted."""
    try:
        yield from parts
    except BaseException:
        if shown is not None:
            shown.break_off()
        raise


class _Shown:
    """Track what has been printed to stdout so far."""

    def __init__(self) -> None:
        self._at: tuple[str, int] | None = None
        """Run id and message number of the text printed last."""
        self._continues = ""
        """Id of the run that continues the printed text."""
        self._chars = 0
        """Number of characters of the printed text, including what the run continues."""
        self._line_begun = False

    def take(self, part: StreamPart) -> None:
        """Print one part of the stream."""
        match part.type:
            case "delta":
                self._text(part.run_id, part.message, part.text)
            case "tool_use":
                self._end_line()
                note(f"calls {part.name} {printable(part.arguments[:ARGUMENTS_SHOWN_CHARS], lines=False)}")
            case "started_over":
                self._start_over(part)
            case "not_shown":
                from threadledger.domain.memory.sending import losses_in_words

                note(f"not shown to {part.backend}: {losses_in_words(part.losses)}")
            case "answer":
                if self._at is None or self._at[0] != part.run_id:
                    continued = self._chars if part.run_id == self._continues else 0
                    self._text(part.run_id, 0, part.text[continued:])
                self._end_line()
                self._at = None

    def break_off(self) -> None:
        """Mark the printed text as not being the answer."""
        if self._at is not None:
            self._end_line()
            click.echo(NOT_THE_ANSWER)
            self._at, self._chars = None, 0

    def _start_over(self, part: StartedOver) -> None:
        self._continues = part.run_id if part.continues else ""
        if not part.continues:
            self.break_off()
        what = f"answering by fallback: {part.backend} ({part.model})" if part.fallback else f"retrying {part.backend}"
        what += _without(part.dropped) + (", which continues the text" if part.continues else "")
        note(f"run {short(part.failed_run_id)} on {part.from_backend} failed: {part.reason}; {what}")

    def _text(self, run_id: str, message: int, text: str) -> None:
        is_continued = run_id == self._continues and self._at is not None and self._at[0] != run_id
        if self._at is not None and self._at != (run_id, message) and not is_continued:
            self._end_line()
        self._at = (run_id, message)
        _print_exactly(text)
        self._line_begun = not text.endswith("\n")
        self._chars += len(text)

    def _end_line(self) -> None:
        if self._line_begun:
            click.echo()
            self._line_begun = False


@click.command()
@IN_KEY
@click.argument("role")
@click.argument("text", type=TEXT)
@click.option("--idempotency-key", metavar="K", help="Makes retries safe: the same key again changes nothing.")
@click.option(
    "--expected-version",
    type=click.IntRange(min=0),
    metavar="N",
    help="Append only if the conversation has version N, 0 if it is new; otherwise exit 7.",
)
@common
def append(key: str, role: str, text: str, idempotency_key: str | None, expected_version: int | None) -> int:
    """Journal a message of ROLE (user, assistant, system, developer) in conversation KEY.

    No model is called; linked threads are updated from the journal. Pass - as TEXT to read standard input.
    """
    with opened(create=True, sends=True) as ledger:
        chat = ledger.conversation(key)
        message = chat.append(role, text, idempotency_key=idempotency_key, expected_version=expected_version)
        emit_line({"key": key} | message.as_json(), f"journaled as version {message.version} of {key}")
    return Exit.DONE
