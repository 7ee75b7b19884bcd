"""`plexspaces:actor/logging`: lines for the operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..actors.actor import Actor
from ..events import GuestLogged, GuestLogTruncated

if TYPE_CHECKING:
    from .gate import Host


def log(host: Host, actor: Actor, level: str, message: str) -> None:
    """Say a line, cut to size; of a message's lines only the first are kept."""
    limits = actor.spec.limits
    actor.log_lines += 1
    if actor.log_lines <= limits.log_lines_per_message_max:
        if len(message) * 4 > limits.log_line_bytes_max:
            message = message[: limits.log_line_bytes_max].encode()[: limits.log_line_bytes_max].decode(errors="ignore")
        host.events.emit(GuestLogged(actor.address, actor.current_id, level, message))
    elif actor.log_lines == limits.log_lines_per_message_max + 1:
        host.events.emit(GuestLogTruncated(actor.address, actor.current_id, limits.log_lines_per_message_max))
