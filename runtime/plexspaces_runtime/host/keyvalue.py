"""`plexspaces:actor/keyvalue`: values by key, the caller's own or its type's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..actors.actor import Actor
from ..errors import Unavailable
from ..stores.keyvalue import KeyValue, Space

if TYPE_CHECKING:
    from .gate import Host


def get(host: Host, actor: Actor, key: str) -> str | None:
    """The value of a key."""
    return _store(host).get(_space(actor), key)


def put(host: Host, actor: Actor, key: str, value: str, ttl_ms: int | None) -> None:
    """Keep a value."""
    _store(host).put(_space(actor), key, value, ttl_ms)


def delete(host: Host, actor: Actor, key: str) -> bool:
    """Forget a value."""
    return _store(host).delete(_space(actor), key)


def list_keys(host: Host, actor: Actor, prefix: str, cursor: str, limit: int) -> tuple[list[str], str]:
    """A page of keys."""
    return _store(host).list_keys(_space(actor), prefix, cursor, limit)


def compare_and_set(host: Host, actor: Actor, key: str, expected: str | None, value: str | None) -> bool:
    """Replace a value if it is still what was expected."""
    return _store(host).compare_and_set(_space(actor), key, expected, value)


def increment(host: Host, actor: Actor, key: str, delta: int) -> int:
    """Add to a whole number."""
    return _store(host).increment(_space(actor), key, delta)


def _space(actor: Actor) -> Space:
    address = actor.address
    # No actor is called like that: a type's own space is nobody's private one.
    return Space(address.scope, f"*{address.type}" if actor.spec.shares_keys else address.text)


def _store(host: Host) -> KeyValue:
    if host.keyvalue is None:
        raise Unavailable("this node keeps no values")
    return host.keyvalue
