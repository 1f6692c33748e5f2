"""Import conversations from files and providers, and export them."""

from typing import TYPE_CHECKING

from threadledger.domain.faces import lazy_face

if TYPE_CHECKING:
    from .attachments import forgiving, inside, into_folder
    from .importing import import_found
    from .jsonl import conversation_as_line, export_lines, import_lines
    from .live import import_threads
    from .markdown import export_markdown
    from .memory_file import MemoryLines
    from .reading import Imported
    from .sources import FORMATS, import_source

__all__ = [
    "FORMATS",
    "Imported",
    "MemoryLines",
    "conversation_as_line",
    "export_lines",
    "export_markdown",
    "forgiving",
    "import_found",
    "import_lines",
    "import_source",
    "import_threads",
    "inside",
    "into_folder",
]

_EARLIER = {
    "reading": "Found",
    "sources": "ImportSource",
}
"""Names that earlier versions offered here."""

if not TYPE_CHECKING:
    __getattr__ = lazy_face(
        __name__,
        {
            "attachments": "forgiving inside into_folder",
            "reading": "Imported",
            "importing": "import_found",
            "jsonl": "conversation_as_line export_lines import_lines",
            "live": "import_threads",
            "markdown": "export_markdown",
            "memory_file": "MemoryLines",
            "sources": "FORMATS import_source",
        },
        _EARLIER,
    )
