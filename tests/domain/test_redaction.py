"""Planted secrets are not found again, and what helps to tell causes apart stays."""

import json
import re
from base64 import b64encode
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from threadledger.domain import limits
from threadledger.domain.failures import keep_secret, redact, redact_details, whole_text
from threadledger.domain.failures.redaction import UNSEEN_CHARS_MAX
from threadledger.domain.failures.secret_rules import RULES

SECRET = "Zm9vYmFyLXNlY3JldDEyMzQ1"

PLANTED = [
    "Incorrect API key provided: sk-{}. You can find your API key at https://platform.openai.com/account/api-keys.",
    "sk-proj-{}",
    "key=sk-ant-api03-{}",
    "sess-{}",
    "Authorization: Bearer {}",
    "authorization=bearer {}",
    "'Authorization': 'Basic {}'",
    "api_key={}",
    "api-key: {}",
    "apikey={}",
    "x-api-key: {}",
    "'api_key': '{}'",
    '{{"api_key": "{}"}}',
    "password={}",
    "passwd: {}",
    "secret={}&next=1",
    "token={}",
    "access_token={}",
    "client_secret={}",
    "OPENAI_API_KEY={}",
    "AZURE_OPENAI_API_KEY: {}",
    "DB_PASSWORD={}",
    "https://user:{}@proxy.example.com:8080/v1",
    "postgresql+psycopg://ledger:{}@db.example.com/ledger",
    "redis://:{}@cache/0",
    "GET https://api.example.com/v1?api_key={}&x=1",
    *(f"no such key: {beginning}{{}}." for beginning in ("gsk_", "hf_", "xai-", "pplx-", "r8_", "ghp_", "github_pat_")),
    "key AIzaSy{} is not valid",
    '["api-key", "{}"]',
    "[(b'x-api-key', b'{}'), (b'accept', b'*/*')]",
    '{{"headers": [["Authorization", "{}"]]}}',
    '{{\\"api_key\\": \\"{}\\"}}',
    '{{\\\\\\"api_key\\\\\\": \\\\\\"{}\\\\\\"}}',
    "Authorization: AWS4-HMAC-SHA256 Credential=user/20261129, SignedHeaders=host;date, Signature={}",
    "Proxy-Authorization: Negotiate {}",
    "Cookie: theme=dark; session={}; lang=en",
    "{{'Set-Cookie': 'id={}; HttpOnly'}}",
    "aws_secret_access_key = {}",
    '"secretAccessKey": "{}"',
    "TWILIO_AUTH_TOKEN={}",
    "//registry.npmjs.org/:_authToken={}",
    "https://x-access-token:{}@github.com/app/app.git",
    "https://storage.example/blob?sv=2026&sig={}",
    "https://generativelanguage.example/v1/models?key={}",
    "GET /hook?id=1&amp;token={}&amp;x=2",
    "Server=db;Uid=app;Pwd={};Database=x",
    "host=db user=app password={} dbname=x",
    "DefaultEndpointsProtocol=https;AccountName=x;AccountKey={};EndpointSuffix=core.example",
    "secret = {}",
    "secret : {}",
    "password='{}'",
    'password: "a {} with spaces"',
    "token={}]",
    "?access_token%3D{}%26x%3D1",
    "https%3A%2F%2Fuser%3A{}%40host.example",
    "threadledger --api-key {}",
]

HARMLESS = (Path(__file__).parents[1] / "cases" / "harmless_texts.txt").read_text(encoding="utf-8").splitlines()[1:]

EXAMPLES = [pytest.param(rule, id=f"{number}-{rule.kind}") for number, rule in enumerate(RULES)]

FORMS = {
    "as it is": str,
    "in JSON": lambda text: json.dumps({"said": text}),
    "in JSON within JSON": lambda text: json.dumps(json.dumps({"said": text})),
    "after a line break in JSON": lambda text: json.dumps(f"first\n{text}\tlast"),
    "in a URL": lambda text: quote(text, safe=""),
    "as Python shows it": repr,
    "twice": lambda text: f"{text} or {text}",
}


@pytest.mark.parametrize("text", PLANTED)
def test_a_planted_secret_is_not_in_the_text(text):
    assert SECRET not in redact(text.format(SECRET))
    assert "[redacted]" in redact(text.format(SECRET))


@pytest.mark.parametrize("text", PLANTED)
def test_a_planted_secret_is_not_in_the_details(text):
    assert SECRET not in json.dumps(redact_details({"said": text.format(SECRET)}))


@pytest.mark.parametrize("name", ["api_key", "Authorization", "password", "token", "access_token", "client_secret"])
def test_a_secret_is_known_by_the_name_of_its_field(name):
    assert SECRET not in json.dumps(redact_details({"headers": {name: SECRET}}))


def test_a_secret_in_json_within_json_is_not_in_the_details():
    body = json.dumps({"api_key": SECRET, "model": "gpt"})
    assert SECRET not in json.dumps(redact_details({"body": body}))


def test_a_secret_in_a_list_of_headers_is_not_in_the_details():
    kept = redact_details({"headers": [["api-key", SECRET], ["accept", "*/*"]], "required": ["token", "name"]})
    assert kept == {"headers": [["api-key", "[redacted]"], ["accept", "*/*"]], "required": ["token", "name"]}


@pytest.mark.parametrize("rule", EXAMPLES)
def test_each_kind_of_secret_is_removed_in_any_form(rule):
    for form, written in FORMS.items():
        text = written(rule.text.format(rule.secret))
        shown = redact(text)
        assert rule.secret[-12:] not in shown, form
        assert "[redacted]" in shown
        assert redact(shown) == shown, form


@pytest.mark.parametrize("rule", EXAMPLES)
def test_each_rule_removes_its_own_example_and_keeps_the_name_before_it(rule):
    text = rule.text.format(rule.secret)
    assert any(word in text.lower() for word in rule.words)
    shown = rule.compiled.sub(rule.shown, text)
    assert rule.secret not in shown
    kept = re.split("[ =:,]", rule.text.format(""))[0]
    assert rule.shown == "[redacted]" or shown.startswith(kept)


@pytest.mark.parametrize("text", HARMLESS)
def test_a_text_that_only_looks_like_a_secret_stays_as_it_is(text):
    for written in (str, lambda text: json.dumps({"said": text}), lambda text: json.dumps(json.dumps(text))):
        assert redact(written(text)) == written(text)


def _repeats(parsed, within=1):
    """Yield (is possessive, greatest count, product with the repeats around it) of each repeat of a parsed pattern."""
    for operation, argument in parsed:
        name, inner = str(operation), within
        if name.endswith("REPEAT"):
            at_most = int(argument[1])
            inner = within * (1 if name.startswith("POSSESSIVE") else at_most)
            yield name, at_most, inner
        for each in argument if isinstance(argument, (tuple, list)) else [argument]:
            for part in each if isinstance(each, list) else [each]:
                if isinstance(part, re._parser.SubPattern):
                    yield from _repeats(part, inner)


@pytest.mark.parametrize("rule", EXAMPLES)
def test_no_pattern_takes_more_than_linear_time(rule):
    """Only possessive repeats are unbounded: they never try again. The first pattern runs to the end of the text once."""
    for name, at_most, product in _repeats(re._parser.parse(rule.pattern)):
        to_the_end = name == "MIN_REPEAT" and rule is RULES[0]
        assert to_the_end or name.startswith("POSSESSIVE") or (at_most <= 300 and product <= 2_000), (name, at_most)


@for_all(
    st.sampled_from(RULES),
    st.sampled_from(list(FORMS.values())),
    st.integers(0, 3 * limits.FAILURE_TEXT_CHARS_MAX + UNSEEN_CHARS_MAX),
    st.sampled_from(["x ", "x\n", "a=1;", "token=Secret-1 ", "password=1234 "]),
)
def test_a_secret_is_removed_wherever_the_text_is_cut(rule, written, before, filling):
    secret = rule.secret[:12]
    filled = (filling * before)[:before] + " "
    shown = redact(filled + written(rule.text.format(rule.secret)) + " " + filled)
    assert secret not in shown
    assert len(shown) <= limits.FAILURE_TEXT_CHARS_MAX


@pytest.mark.parametrize("seen", range(4, 20))
def test_no_part_of_a_secret_at_the_end_of_what_is_searched_is_shown(seen):
    hidden = "sk-" + "A1" * 1_000 + " "
    searched = 2 * limits.FAILURE_TEXT_CHARS_MAX + UNSEEN_CHARS_MAX
    before = (hidden * 4)[: searched - seen - 1] + " "
    for secret in ("AKIAIOSFODNN7EXAMPLE", "ghp_" + SECRET, "postgresql://app:pa55word@db", "SG." + SECRET):
        shown = redact(before + secret)
        assert secret[:seen] not in shown
        assert shown.endswith("…")


@for_all(
    st.lists(
        st.sampled_from(["token", "=", ": ", '"', "'", "\\", "%3D", "a1B2c3D4", " ", "://", "@", "[redacted]", "sk-"])
    )
)
def test_redacted_text_stays_as_it_is_when_it_is_redacted_again(parts):
    shown = redact("".join(parts))
    assert redact(shown) == shown


def test_what_security_md_lists_is_what_is_removed():
    text = (Path(__file__).parents[2] / "SECURITY.md").read_text(encoding="utf-8")
    _, _, section = text.partition("## Secrets that are removed")
    listed = re.findall(r"^- (.+)$", section.partition("\n## ")[0], re.MULTILINE)
    assert listed == list(dict.fromkeys(rule.kind for rule in RULES))


def test_a_key_of_our_own_is_hidden_in_a_url_and_in_json():
    keep_secret('own+key/with"marks==')
    for text in (quote('key=own+key/with"marks==', safe=""), json.dumps('x\nown+key/with"marks==')):
        assert "with" not in redact(text)


def test_a_key_of_aws_is_hidden():
    assert redact("the key AKIAIOSFODNN7EXAMPLE is unknown") == "the key [redacted] is unknown"


def test_of_the_keys_that_requests_were_sent_with_the_newest_are_known():
    for number in range(200):
        keep_secret(f"tenant{number:04}", recent=True)
    assert redact("tenant0199") == "[redacted]"
    assert redact("tenant0000") == "tenant0000"


def test_a_key_that_the_provider_shortened_is_hidden_too():
    assert "abcd" not in redact("Incorrect API key provided: sk-****abcd.")


def test_a_password_that_holds_an_at_sign_is_hidden_whole():
    assert "word" not in redact("postgresql://ledger:pass@word@db/ledger")


def test_the_user_and_the_host_of_an_address_stay():
    assert redact("https://user:hunter22@proxy:8080/v1") == "https://user:[redacted]@proxy:8080/v1"


@pytest.mark.parametrize(
    "text",
    [
        "Sorry, something went wrong.",
        "No thread found with id 'thread_abc123'.",
        "Rate limit reached for gpt-6 in organization org-x on tokens per min (TPM): Limit 30000, Used 29500.",
        "Invalid 'instructions': string too long. Expected a string with maximum length 256000.",
        "This model's maximum context length is 128000 tokens. However, your messages resulted in 130000 tokens.",
        "https://api.openai.com/v1/threads/thread_abc/runs",
        "The model pplx-70b-online-chat or xai-grok-code-fast does not exist; call hf_hub_download_with_retries.",
        'Missing: ["password", "email"], ["token", "limit"] and (api_key, 7).',
        "",
    ],
)
def test_text_without_secrets_stays_as_it_is(text):
    assert redact(text) == text


DATA = b64encode(bytes(range(256)) * 40).decode()


@pytest.mark.parametrize("url_safe", [False, True])
@pytest.mark.parametrize(
    "said",
    [
        "Invalid image: data:image/png;base64,{} in your request",
        "{{'input': {{'file_data': '{}', 'filename': 'a.pdf'}}}} in your request",
        '{{"input_audio": {{"data": "{}", "format": "wav"}}}} in your request',
        '{{"error": "{{\\"file_data\\": \\"{}\\"}}"}} in your request',
        "got data%3Aimage/png;base64,x and data:image/png;base64,{} in your request",
    ],
)
def test_the_data_of_an_attachment_that_a_provider_repeats_is_not_shown(said, url_safe):
    data = DATA.replace("+", "-").replace("/", "_") if url_safe else DATA
    shown = redact(said.format(data))
    assert shown == said.format("[data not shown]")
    assert redact(shown) == shown
    details = redact_details({"body": {"input": [{"file_data": data}, f"data:a/b;base64,{data}"]}})
    assert details == {"body": {"input": [{"file_data": "[data not shown]"}, "data:a/b;base64,[data not shown]"]}}


def test_hashes_and_short_data_are_no_attachments():
    for text in ("data:image/png;base64,iVBORw0KGgo=", f'{{"data": "{"0" * 128}"}}', f"result {DATA}"[:1_900]):
        assert redact(text) == text


def test_text_is_cut_to_its_limit_and_says_so():
    cut = redact("x" * 5_000)
    assert len(cut) == limits.FAILURE_TEXT_CHARS_MAX
    assert cut.endswith("x…")


def test_text_at_its_limit_is_not_cut():
    text = "x" * limits.FAILURE_TEXT_CHARS_MAX
    assert redact(text) == text


def test_a_secret_across_the_cut_is_hidden_before_it_is_cut():
    text = "x " * (limits.FAILURE_TEXT_CHARS_MAX // 2 - 5) + f"sk-{SECRET}"
    assert SECRET[:4] not in redact(text)


@for_all(st.text(st.characters(codec=None, categories=["Cs", "L", "N", "P", "Z", "Cc"]), max_size=50))
def test_redacted_text_is_always_storable(text):
    redact(text).encode()
    whole_text(text).encode()


@for_all(st.text())
def test_whole_text_stays_as_it_is(text):
    assert whole_text(text) == text


def test_half_a_character_becomes_a_replacement_character():
    mended = whole_text("a\ud800b")
    assert mended.startswith("a\ufffd")
    assert mended.endswith("b")


class TestDetails:
    def test_a_secret_as_the_name_of_a_field_is_removed(self):
        assert SECRET not in json.dumps(redact_details({"used": {f"sk-{SECRET}": 1}}))

    @pytest.mark.parametrize("name", ["Cookie", "set-cookie", "Pwd", "proxy-authorization", "X-Amz-Signature", "sig"])
    def test_the_value_of_a_header_or_parameter_with_a_secret_is_removed(self, name):
        assert redact_details({name: "a=b"}) == {name: "[redacted]"}

    def test_facts_without_secrets_stay_as_they_are(self):
        facts = {"endpoint": "POST /threads", "prompt_tokens": 0, "incomplete_reason": None, "body": {"a": [1, "é"]}}
        assert redact_details(facts) == facts

    def test_details_that_are_too_large_keep_their_numbers_and_say_what_is_missing(self):
        kept = redact_details({"body": "x" * 20_000, "prompt_tokens": 0, "truncated": True})
        assert kept == {
            "prompt_tokens": 0,
            "truncated": True,
            "left_out": "the details were too large",
        }

    def test_details_are_bounded_in_bytes_not_characters(self):
        kept = redact_details({"body": "💙" * (limits.DETAILS_BYTES_MAX // 3)})
        assert len(json.dumps(kept, ensure_ascii=False).encode()) <= limits.DETAILS_BYTES_MAX
        assert "left_out" in kept

    @pytest.mark.parametrize("value", [None, 1234, True, ["abcd"], {"kind": "abcd"}], ids=repr)
    def test_a_field_with_the_name_of_a_secret_does_not_cost_the_other_facts(self, value):
        assert redact_details({"endpoint": "POST /threads", "token": value})["endpoint"] == "POST /threads"

    def test_a_secret_with_a_quotation_mark_does_not_cost_the_other_facts(self):
        kept = redact_details({"endpoint": "POST /threads", "password": 'ab"cd"efgh'})
        assert "efgh" not in json.dumps(kept)
        assert kept["endpoint"] == "POST /threads"

    def test_what_is_not_json_is_written_out(self):
        assert redact_details({"error": ValueError("no")}) == {"error": "no"}

    def test_details_are_json_as_every_database_reads_it(self):
        json.dumps(redact_details({"x": float("nan"), "y": float("inf")}), allow_nan=False)

    @for_all(st.dictionaries(st.text(max_size=5), st.text(max_size=20) | st.integers() | st.booleans(), max_size=5))
    def test_details_are_always_a_small_json_object(self, details):
        kept = redact_details(details)
        assert len(json.dumps(kept, ensure_ascii=False).encode()) <= limits.DETAILS_BYTES_MAX
