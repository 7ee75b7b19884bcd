"""The size of what crosses a boundary."""

from __future__ import annotations

from ..errors import LimitExceeded


def check_size(what: str, text: str, bytes_max: int) -> None:
    """Refuse a text of more than `bytes_max` bytes of UTF-8.

    Args:
        what: "payload" or "reply", for the message.

    Raises:
        LimitExceeded
    """
    # UTF-8 takes one to four bytes a character: most texts are judged without being encoded.
    if len(text) * 4 <= bytes_max:
        return
    size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
    if size > bytes_max:
        raise LimitExceeded(
            f"the {what} has {size} bytes, more than payload_bytes_max = {bytes_max}: "
            "send it in parts, or raise the limit",
            limit="payload_bytes_max",
            value=bytes_max,
        )
