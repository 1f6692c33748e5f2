"""Hold back half characters of a stream, so that each piece that is passed on is valid text."""

from ..failures import whole_text

_HIGH_SURROGATES = ("\ud800", "\udbff")


class Pieces:
    """Hold back half a character until its other half arrives, so that each piece that is passed on is valid text."""

    def __init__(self) -> None:
        self._half = ""

    def take(self, text: str) -> str:
        """Return the text that can be passed on now."""
        text = self._half + text
        self._half = ""
        if text and _HIGH_SURROGATES[0] <= text[-1] <= _HIGH_SURROGATES[1]:
            text, self._half = text[:-1], text[-1]
        return whole_text(text)
