"""Extract the text of a message of an Assistants thread."""

from typing import Any


def thread_text(message: Any) -> str:
    """Return the text of a message, with images and files as references in the mirror's format."""
    parts = []
    for part in message.content or ():
        if part.type == "text":
            parts.append(part.text.value)
        elif part.type == "image_url":
            parts.append(f"[image {part.image_url.url}]")
        elif part.type == "image_file":
            parts.append(f"[file {part.image_file.file_id}]")
        elif part.type == "refusal":
            parts.append(part.refusal)
    return "\n\n".join(parts)
