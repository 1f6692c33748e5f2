"""The table `[serve]` of threadledger.toml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from threadledger.adapters import load_settings
from threadledger.adapters.server import ServeSettings, open_server, target_of
from threadledger.domain.errors import InvalidSettings

from .speaking import say

FILE = Path("threadledger.toml")
WHOLE = """
[backends.local]
kind = "chat"
base_url = "http://127.0.0.1:9/v1"

[serve]
hosted_tools = "drop"

[serve.models]
"gpt-4o" = ["responses:gpt-5.5", "local:llama3:8b"]
"old:model" = "local"
"""


def test_the_table_is_read_and_without_it_there_are_defaults() -> None:
    assert load_settings().serve == ServeSettings("refuse", {})
    FILE.write_text("retries = 1\n")
    assert load_settings().serve == ServeSettings()
    FILE.write_text(WHOLE)
    found = load_settings().serve
    assert found.hosted_tools == "drop"
    assert found.models == {"gpt-4o": ("responses:gpt-5.5", "local:llama3:8b"), "old:model": ("local",)}


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("local", ("local", None)),
        ("local:llama3:8b", ("local", "llama3:8b")),
        ("responses:gpt-5.5", ("responses", "gpt-5.5")),
    ],
)
def test_the_first_colon_of_a_target_separates_backend_and_model(text: str, target: tuple[str, str | None]) -> None:
    assert target_of(text) == target


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("serve = 1", "serve is not a table"),
        ("[serve]\nport = 1", r"\[serve\] has an unknown key 'port': use one or more of hosted_tools, models"),
        ('[serve]\nhosted_tools = "allow"', "hosted_tools cannot be used: give one of refuse, drop"),
        ("[serve]\nhosted_tools = true", "hosted_tools cannot be used"),
        ("[serve]\nhosted_tools = []", "hosted_tools cannot be used"),
        ("[serve]\nmodels = 1", "serve.models is not a table"),
        ("[serve.models]\na = 1", "'a' cannot be used"),
        ("[serve.models]\na = []", "'a' cannot be used"),
        ('[serve.models]\na = ["chat", 1]', "'a' cannot be used"),
        ('[serve.models]\na = ""', "'a' cannot be used"),
        ('[serve.models]\na = "chat:"', "'a' cannot be used"),
        ('[serve.models]\na = ":model"', "'a' cannot be used"),
        ('[serve.models]\na = " chat"', "'a' cannot be used"),
        ('[serve.models]\n"" = "chat"', "'' cannot be used"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_file_and_the_key(text: str, words: str) -> None:
    FILE.write_text(text)
    with pytest.raises(InvalidSettings, match=words) as refused:
        load_settings()
    assert str(refused.value).startswith(str(FILE))


def test_a_route_to_an_unknown_backend_is_refused_when_the_server_is_opened(bare_ledger: Any) -> None:
    FILE.write_text('[serve.models]\na = ["chat:x", "loca:y"]\n')
    with pytest.raises(InvalidSettings, match=r'\[serve.models\] "a" names the backend \'loca\', which does not exist'):
        open_server(bare_ledger, load_settings())


def test_a_server_that_is_opened_by_settings_lists_the_routes(bare_ledger: Any) -> None:
    FILE.write_text(WHOLE)
    with open_server(bare_ledger, load_settings(), port=0) as server:
        names = [model["id"] for model in say(server, "GET", "/v1/models").json["data"]]
    assert names[:2] == ["gpt-4o", "old:model"]


def test_config_shows_the_table_and_its_origin(capsys: pytest.CaptureFixture[str]) -> None:
    from threadledger.cli import main

    FILE.write_text(WHOLE)

    def shown() -> str:
        return capsys.readouterr().out

    assert main(["config", "-o", "csv"]) == 0
    lines = shown().splitlines()
    assert "serve.hosted_tools,drop" in lines
    assert 'serve.models.gpt-4o,"responses:gpt-5.5,local:llama3:8b"' in lines
    assert main(["config", "--origin", "-o", "csv"]) == 0
    assert "serve.models.old:model,local,threadledger.toml," in shown().splitlines()
    FILE.unlink()
    assert main(["config", "-o", "csv"]) == 0
    assert "serve." not in shown()
