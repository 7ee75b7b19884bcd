"""`plexspaces:actor/messaging`: messages to other actors of the same namespace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ..actors.actor import Actor
from ..actors.envelope import Envelope, Kind, Outcome, PendingAsk
from ..actors.guest import Err, Ok
from ..actors.waits import refuse_cycle
from ..errors import InvalidArgument, MailboxFull, NotFound, PlexSpacesError
from ..scheduler import PENDING
from .wire import error_value

if TYPE_CHECKING:
    from .gate import Host

_ASKS_AT_ONCE_MAX: Final = 1_000


def ask(host: Host, actor: Actor, to: str, op: str, payload: str, timeout_ms: int) -> Any:
    """Deliver a call and suspend the asker until it ends."""
    token = actor.wait_token

    def ended(outcome: Outcome) -> None:
        host.scheduler.resume(actor, token, _answer(outcome))

    _open(host, actor, to, op, payload, _deadline_ns(host, actor, timeout_ms), ended)
    return PENDING


def ask_many(host: Host, actor: Actor, requests: list[tuple[str, str, str]], timeout_ms: int) -> Any:
    """Deliver several calls at once and suspend the asker until all have ended."""
    if len(requests) > _ASKS_AT_ONCE_MAX:
        error = _answer(InvalidArgument(f"{len(requests)} asks at once are too many: at most {_ASKS_AT_ONCE_MAX}"))
        return [error] * len(requests)
    token = actor.wait_token
    deadline_ns = _deadline_ns(host, actor, timeout_ms)
    answers: list[Any] = [None] * len(requests)
    missing = 0

    def waiter(number: int) -> Any:
        def ended(outcome: Outcome) -> None:
            nonlocal missing
            answers[number] = _answer(outcome)
            missing -= 1
            if missing == 0:
                host.scheduler.resume(actor, token, answers)

        return ended

    for number, (to, op, payload) in enumerate(requests):
        try:
            _open(host, actor, to, op, payload, deadline_ns, waiter(number))
            missing += 1
        except PlexSpacesError as error:
            answers[number] = _answer(error)
    return PENDING if missing else answers


def send(host: Host, actor: Actor, to: str, op: str, payload: str) -> Any:
    """Deliver a cast; while the receiver's mailbox is full the sender is suspended."""
    target = host.find(actor, to)
    host.check_payload(actor, payload)
    payload = host.veiled(target, op, payload)
    envelope = message(host, actor, Kind.CAST, op, payload, inherited_deadline_ns(actor))
    if host.scheduler.deliver(target, envelope):
        return envelope.id
    refuse_cycle(host.registry, actor, target)
    token = actor.wait_token

    def ended(outcome: Outcome) -> None:
        answer = Ok(outcome) if isinstance(outcome, str) else _answer(_mailbox_full(target))
        host.scheduler.resume(actor, token, answer)

    waiting = host.asks.open(envelope.id, target.address, actor, _deadline_ns(host, actor, 0), ended)
    target.mailbox.wait_for_room(envelope, lambda: host.asks.end(waiting, envelope.id))
    return PENDING


def reply(host: Host, actor: Actor, message_id: str, payload: str) -> None:
    """Answer a call of the past, or the one being handled."""
    host.check_payload(actor, payload)
    pending = actor.deferred.pop(message_id, None)
    if pending is None and actor.current is not None and actor.current.id == message_id:
        pending = actor.current.pending
    known = actor.keeper is not None and actor.keeper.replied(message_id, payload)
    if not (pending is not None and host.asks.end(pending, payload)) and not known:
        raise NotFound(f"nobody waits for a reply to message {message_id[:80]!r}", message_id=message_id[:80])


def _open(host: Host, actor: Actor, to: str, op: str, payload: str, deadline_ns: int, ended: Any) -> None:
    target = host.find(actor, to)
    host.check_payload(actor, payload)
    payload = host.veiled(target, op, payload)
    refuse_cycle(host.registry, actor, target)
    envelope = message(host, actor, Kind.CALL, op, payload, deadline_ns)
    pending: PendingAsk = host.asks.open(envelope.id, target.address, actor, deadline_ns, ended)
    envelope.pending = pending
    try:
        delivered = host.scheduler.deliver(target, envelope)
    except PlexSpacesError:
        host.asks.abandon(pending)
        raise
    if not delivered:
        host.asks.abandon(pending)
        raise _mailbox_full(target)


def message(host: Host, actor: Actor, kind: Kind, op: str, payload: str, deadline_ns: int) -> Envelope:
    """A message that inherits caller and trace from the one being handled."""
    host.check_text("the operation", op)
    cause = actor.cause
    message_id = host.message_id(actor)
    if cause is None:
        return Envelope(message_id, kind, op, payload, actor.address, deadline_ns=deadline_ns)
    envelope = Envelope(
        message_id, kind, op, payload, actor.address, cause.caller, deadline_ns, cause.trace, cause.id
    )
    envelope.repeatable = actor.keeper is not None
    return envelope


def inherited_deadline_ns(actor: Actor) -> int:
    return actor.current.deadline_ns if actor.current is not None else 0


def _deadline_ns(host: Host, actor: Actor, timeout_ms: int) -> int:
    """The smaller of the own timeout and what is left of the caller's."""
    own_ns = host.clock.monotonic_ns() + (timeout_ms or actor.spec.limits.ask_timeout_ms) * 1_000_000
    inherited_ns = inherited_deadline_ns(actor)
    return min(own_ns, inherited_ns) if inherited_ns else own_ns


def _answer(outcome: Outcome) -> Ok | Err:
    if isinstance(outcome, str):
        return Ok(outcome)
    return error_value(outcome)


def _mailbox_full(target: Actor) -> MailboxFull:
    return MailboxFull(
        f"the mailbox of actor {target.address.text!r} is full ({len(target.mailbox)} messages wait)",
        actor=target.address.text,
        messages=len(target.mailbox),
    )
