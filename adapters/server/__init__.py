"""Serve the ledger to apps that speak OpenAI's Assistants API and Chat Completions."""

from typing import TYPE_CHECKING

from threadledger.domain.faces import lazy_face

if TYPE_CHECKING:
    from .calls import Caller, Served, ServedCall
    from .serve_settings import ServeSettings

__all__ = ["Caller", "ServeSettings", "Served", "ServedCall"]

if not TYPE_CHECKING:
    __getattr__ = lazy_face(__name__, {"calls": "Caller Served ServedCall", "serve_settings": "ServeSettings"})
