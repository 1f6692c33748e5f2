"""Build the reader of the provider's threads, for an import of live threads."""

from __future__ import annotations

from .openai import ThreadReader
from .settings import Settings
from .wiring import client_of, endpoints_of


def thread_reader(settings: Settings) -> ThreadReader:
    """Create a reader for threads of the provider named by the settings.

    Raises:
        FolderNotTrusted: a command would send a key to a host that only the working folder names.
    """
    settings.require_trust("provider")
    client = client_of(settings)
    endpoints = endpoints_of(settings, client)
    return ThreadReader(endpoints.home if endpoints is not None else client)
