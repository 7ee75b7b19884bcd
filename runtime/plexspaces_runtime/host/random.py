"""`plexspaces:actor/random`: chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..actors.actor import Actor
from ..errors import InvalidArgument

if TYPE_CHECKING:
    from .gate import Host

_BYTES_MAX: Final = 65_536


def random_hex(host: Host, _actor: Actor, count: int) -> str:
    """Secure random bytes as hexadecimal."""
    if count > _BYTES_MAX:
        raise InvalidArgument(f"{count} random bytes at once are too many: at most {_BYTES_MAX}")
    return host.ids.random_bytes(count).hex()


def random_u64(host: Host, _actor: Actor) -> int:
    """64 secure random bits."""
    return int.from_bytes(host.ids.random_bytes(8), "little")
