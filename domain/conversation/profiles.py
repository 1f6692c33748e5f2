"""Define profiles: the name, instructions, model, tools and settings of an assistant, versioned by the hash of their content."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar


@dataclass(frozen=True)
class Profile:
    """Hold the name, instructions, model, tools and settings of an assistant.

    `tools_json` is a JSON list in the format of Chat Completions' `tools`. `read_only` names the functions that change
    nothing, `approval` those that are used only after a person has approved the call; they are never sent to a provider, and
    no hash depends on them. `settings_json` is a JSON object: sampling, tool
    choice and the format of answers, see `profile_files.py`.
    """

    VARIABLE: ClassVar[str] = "THREADLEDGER_SECRET_"
    """Beginning of the only variables that a tool can name: never a key of the environment, such as OPENAI_API_KEY."""

    name: str = "assistant"
    instructions: str = ""
    model: str | None = None
    tools_json: str = "[]"
    read_only: tuple[str, ...] = ()
    settings_json: str = "{}"
    approval: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings, newly created at each call; most profiles have none."""
        settings: dict[str, Any] = json.loads(self.settings_json) if self.settings_json != "{}" else {}
        return settings

    @property
    def tools(self) -> list[dict[str, Any]]:
        """Return the tools, newly created at each call."""
        tools: list[dict[str, Any]] = json.loads(self.tools_json)
        return tools

    def check(self) -> None:
        """Check that no tool holds a secret, which would be stored. A profile that is stored already is never checked.

        Raises:
            InvalidProfile: the message names the tool and the field.
        """
        if self.tools_json != "[]":
            _ = self._holds_no_secret  # kept, because one profile is used for many questions

    @cached_property
    def _holds_no_secret(self) -> bool:
        from .tool_secrets import refuse_unnamed

        refuse_unnamed(self.tools)
        return True

    @cached_property
    def hash(self) -> str:
        """Return the SHA-256 (hex) of the canonical content; settings are part of it only if there are any."""
        content = [self.name, self.instructions, self.model, self.tools, *filter(None, [self.settings])]
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
