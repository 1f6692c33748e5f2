"""Planted secrets are not found again, and what helps to tell causes apart stays."""

import json

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from threadledger.domain import limits
from threadledger.domain.failures import keep_secret, redact, redact_details, whole_text

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
]


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
