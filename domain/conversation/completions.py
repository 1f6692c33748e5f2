"""Define the labels by which chat completions are found in the list of their tenant."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .events import CompletionStored


def model_label(model: str) -> str:
    """Return the label of the completions that a model answered."""
    return _hashed("model", model)


def pair_label(name: str, value: str) -> str:
    """Return the label of the completions whose metadata has a pair."""
    return _hashed("metadata", name, value)


def labels_of_completion(stored: CompletionStored) -> list[str]:
    """Return the labels of a completion, each once."""
    pairs = (pair_label(name, value) for name, value in stored.metadata.items() if isinstance(value, str))
    return list(dict.fromkeys([model_label(stored.model), *pairs]))


def _hashed(*parts: str) -> str:
    """Return a hash of texts, which is short and can be stored, whatever they are."""
    digest = sha256()
    for each in parts:
        data = each.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(data) + data)
    return digest.hexdigest()
