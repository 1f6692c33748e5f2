"""Test the words for what was lost of a request or an answer."""

import pytest

from threadledger.domain.memory.sending import losses_in_words


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ({}, ""),
        ({"part:image_url": 1}, "1 image"),
        ({"part:input_audio": 2, "part:file": 1}, "1 file, 2 recordings"),
        ({"part:video": 1200}, "1,200 parts of type video"),
        ({"native:reasoning": 1}, "1 item of type reasoning"),
        ({"option:top_p": 1}, "the option top_p"),
        ({"anything": 3}, "3 items of type anything"),
    ],
)
def test_losses_are_told_in_words(losses: dict[str, int], words: str) -> None:
    assert losses_in_words(losses) == words
