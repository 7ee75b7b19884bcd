"""`plexspaces:actor/locks`: leases of the caller's namespace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..actors.actor import Actor
from ..actors.guest import Ok
from ..errors import Unavailable
from ..scheduler import PENDING
from ..stores.locks import WAIT_MS_MAX, Lease, Locks, Waiter
from .messaging import inherited_deadline_ns
from .wire import error_value

if TYPE_CHECKING:
    from .gate import Host


def acquire(host: Host, actor: Actor, name: str, ttl_ms: int, wait_ms: int) -> Any:
    """Take a name; while another holds it the caller is suspended for `wait_ms`, or until its own caller's deadline."""
    token = actor.wait_token
    deadline_ns = inherited_deadline_ns(actor)
    if deadline_ns and wait_ms <= WAIT_MS_MAX:
        wait_ms = min(wait_ms, max(0, deadline_ns - host.clock.monotonic_ns()) // 1_000_000)

    def answer(outcome: Lease | Exception | None) -> None:
        host.waiting.pop(actor, None)
        value = error_value(outcome) if isinstance(outcome, Exception) else Ok(_record(outcome))
        host.scheduler.resume(actor, token, value)

    taken = _store(host).acquire(actor.address.scope, name, ttl_ms, wait_ms, answer)
    if isinstance(taken, Waiter):
        # One that ends while it waits must not get a lease that nobody would give back.
        host.waiting[actor] = lambda: _store(host).give_up(taken)
        return PENDING
    return _record(taken)


def renew(host: Host, actor: Actor, name: str, lock_id: str, ttl_ms: int) -> tuple[str, int, int]:
    """Hold it longer."""
    lease = _store(host).renew(actor.address.scope, name, lock_id, ttl_ms)
    return (lease.lock_id, lease.token, lease.expires_ms)


def release(host: Host, actor: Actor, name: str, lock_id: str) -> bool:
    """Give it back."""
    return _store(host).release(actor.address.scope, name, lock_id)


def _record(lease: Lease | None) -> tuple[str, int, int] | None:
    return None if lease is None else (lease.lock_id, lease.token, lease.expires_ms)


def _store(host: Host) -> Locks:
    if host.locks is None:
        raise Unavailable("this node keeps no locks")
    return host.locks
