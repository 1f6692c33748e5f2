"""Conversations from elsewhere, and back."""

from .jsonl import Imported, conversation_as_line, export_lines, import_lines

__all__ = ["Imported", "conversation_as_line", "export_lines", "import_lines"]
