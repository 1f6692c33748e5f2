"""Import conversations from files and providers, and export them."""

from .found import Found, Imported
from .jsonl import conversation_as_line, export_lines, import_lines
from .live import import_threads
from .markdown import export_markdown
from .memory_file import MemoryLines
from .sources import FORMATS, ImportSource, import_source
from .storing import import_found

__all__ = [
    "FORMATS",
    "Found",
    "ImportSource",
    "Imported",
    "MemoryLines",
    "conversation_as_line",
    "export_lines",
    "export_markdown",
    "import_found",
    "import_lines",
    "import_source",
    "import_threads",
]
