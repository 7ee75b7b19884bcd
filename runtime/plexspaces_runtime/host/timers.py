"""`plexspaces:actor/timers`: messages to oneself, later."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from ..actors.actor import Actor
from ..actors.envelope import Envelope, Kind
from ..actors.timers import Timer
from ..errors import InvalidArgument

if TYPE_CHECKING:
    from .gate import Host

_DELAY_MS_MAX: Final = 365 * 24 * 3_600 * 1_000
_NS_PER_MS: Final = 1_000_000


def send_after(host: Host, actor: Actor, delay_ms: int, op: str, payload: str) -> str:
    """One message after a delay."""
    return _set(host, actor, "delay-ms", delay_ms, op, payload, interval_ns=0)


def send_interval(host: Host, actor: Actor, interval_ms: int, op: str, payload: str) -> str:
    """A message again and again."""
    if interval_ms < 1:
        raise InvalidArgument("interval-ms = 0: an interval has at least 1 millisecond")
    return _set(host, actor, "interval-ms", interval_ms, op, payload, interval_ns=interval_ms * _NS_PER_MS)


def cancel(host: Host, actor: Actor, timer_id: str) -> bool:
    """End a timer, and take back its message if that waits in the mailbox."""
    if not host.timers.cancel(actor, timer_id):
        return False
    if actor.keeper is not None:
        actor.keeper.timer_over(timer_id)
    return True


def due(host: Host, timer: Timer) -> None:
    """Its time has come: the message goes to the end of the mailbox, or of those who wait for room there."""
    owner = timer.owner
    assert owner is not None, "a timer outlived its actor"
    envelope = Envelope(
        host.ids.next("m"),
        Kind.INFO,
        timer.op,
        timer.payload,
        owner.address,
        timer.caller,
        trace=timer.trace,
        causation_id=timer.causation_id,
        claim=partial(host.timers.claim, timer),
    )
    kept = owner.keeper is not None and not timer.interval_ns
    if kept:
        # Whatever becomes of this incarnation.
        envelope.claim = partial(_claim_kept, host, timer)
    elif owner.keeper is not None:
        envelope.claim = partial(_claim_tick, host, timer)
    if host.scheduler.deliver(owner, envelope):
        if kept:
            _keep(owner, timer, envelope)
        return

    def wanted() -> bool:
        if timer.void or (timer.owner is None and not kept):
            return False
        if kept:
            _keep(owner, timer, envelope)
        return True

    owner.mailbox.wait_for_room(envelope, wanted)


def _keep(owner: Actor, timer: Timer, envelope: Envelope) -> None:
    """From here on it is the message that is kept, not the timer."""
    assert owner.keeper is not None
    owner.keeper.accept(envelope)
    owner.keeper.timer_over(timer.id)


def _claim_tick(host: Host, timer: Timer, actor: Actor) -> bool:
    """An interval's message, of which the next one is known from here on."""
    if not host.timers.claim(timer, actor):
        return False
    assert actor.keeper is not None
    wait_ns = timer.due_ns - host.clock.monotonic_ns()
    actor.keeper.timer_set(timer, (host.clock.now_ns() + wait_ns) // _NS_PER_MS)
    return True


def _claim_kept(host: Host, timer: Timer, actor: Actor) -> bool:
    return host.timers.claim(timer, actor) if timer.owner is actor else not timer.void


def _set(host: Host, actor: Actor, what: str, wait_ms: int, op: str, payload: str, *, interval_ns: int) -> str:
    if wait_ms > _DELAY_MS_MAX:
        raise InvalidArgument(f"{what} = {wait_ms} is too much: at most a year, {_DELAY_MS_MAX}")
    host.check_text("the operation", op)
    host.check_payload(actor, payload)
    cause = actor.cause
    timer = Timer(
        host.ids.next("timer"),
        actor,
        op,
        payload,
        host.clock.monotonic_ns() + wait_ms * _NS_PER_MS,
        interval_ns,
        caller=cause.caller if cause is not None else None,
        trace=cause.trace if cause is not None else "",
        causation_id=cause.id if cause is not None else "",
    )
    host.timers.add(timer)
    if actor.keeper is not None:
        timer.of_init = not actor.keeper.recording
        actor.keeper.timer_set(timer, host.clock.now_ns() // _NS_PER_MS + wait_ms)
    return timer.id
