"""What all of MiniClaw's actors do the same way: find one another, tell the audit, publish, know an owner."""

from __future__ import annotations

from typing import Any, Protocol

from plexspaces import Context, HostError, Refuse, host

AUDIT_CHANNEL = "audit:events"
_ADMIN = "admin"
# What comes from a model, a tool or a person is of any length; what others have to keep is not.
_DETAIL_CHARS_MAX = 2_000


def pg_first(group: str) -> str | None:
    """The member of a group that joined first and still lives."""
    return host.process_groups.first(group)


def key_of(actor_id: str) -> str:
    """The key of an actor's name; "" for the one without."""
    return actor_id.partition("/")[2]


def beside(actor_type: str, session_id: str) -> str:
    """The actor of a type that serves one session, so that no session waits for another."""
    return f"{actor_type}/{session_id}" if session_id else actor_type


class Acting(Protocol):
    """An actor, as far as it matters who it is and for whom it works now."""

    actor_id: str
    sender: str
    context: Context


def audit(who: Acting, event_type: str, session_id: str = "", subject: str = "", **detail: Any) -> None:
    """Put an event on record; its time is when the channel took it.

    It goes through a channel: whoever reports never waits for the one who keeps the records, and nothing is lost while
    that one is down.
    """
    _report(event_type, {"event_type": event_type, **_head(who, session_id, subject), "detail": _kept(detail)})


def audit_all(who: Acting, session_id: str, subject: str, events: list[tuple[str, dict[str, Any]]]) -> None:
    """Put several events on record at once, in this order: type and detail of each."""
    if events:
        several = [{"event_type": event_type, "detail": _kept(detail)} for event_type, detail in events]
        _report("several", {**_head(who, session_id, subject), "several": several})


def _head(who: Acting, session_id: str, subject: str) -> dict[str, str]:
    return {"actor": who.actor_id, "session_id": session_id, "subject": subject}


def _report(event_type: str, event: dict[str, Any]) -> None:
    try:
        host.channel.send("", AUDIT_CHANNEL, event_type, event)
    except HostError as error:
        host.error(f"the audit channel did not take {event_type!r}: {error}")


def _kept(detail: dict[str, Any]) -> dict[str, Any]:
    return {name: _shortened(value) for name, value in detail.items()}


def _shortened(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _DETAIL_CHARS_MAX:
        return value[:_DETAIL_CHARS_MAX] + f" … ({len(value)} characters)"
    return value


def stream_of(session_id: str) -> str:
    """Where everything that happens in a session is published."""
    return f"/sessions/{session_id}"


def publish(session_id: str, event_type: str, payload: dict[str, Any]) -> None:
    """Add an event to a session's stream; a stream that is paused or full costs the event, not the turn."""
    if not session_id:
        return
    try:
        host.stream.append(stream_of(session_id), event_type, payload)
    except HostError as error:
        host.warn(f"{event_type} of session {session_id!r} was not published: {error}")


def check_owner(who: Acting, owner: str, session_id: str, on_behalf: str = "") -> None:
    """Refuse anybody but the session's owner and administrators.

    Args:
        on_behalf: whom an actor that acts for nobody means.

    Raises:
        Refuse: `not-your-session`.
    """
    context = who.context
    subject = context.subject or on_behalf
    if owner and subject and subject != owner and _ADMIN not in context.roles:
        audit(who, "access_refused", session_id, subject, reason="not-your-session")
        raise Refuse("not-your-session", f"session {session_id!r} belongs to somebody else", session_id=session_id)


def from_channel(who: Acting) -> None:
    """Refuse what does not come from a subscription: that has no sender, and acts for nobody.

    Raises:
        Refuse: `not-the-channel`.
    """
    if who.sender or who.context.subject:
        audit(who, "access_refused", "", who.context.subject, reason="not-the-channel", sender=who.sender)
        raise Refuse("not-the-channel", "this is for what a channel delivers: put it there")


def passed_on(error: HostError) -> Refuse:
    """What another actor answered to the caller's own wish, as this one's answer: no crash of this one's."""
    return Refuse(str(error.details.get("reason") or error.code), error.message)


def cancel_wanted(session_id: str) -> bool:
    """Whether somebody has asked for this session's turn to be cancelled."""
    return bool(session_id) and host.ts.read(["cancel", session_id]) is not None


def take_cancel(session_id: str) -> bool:
    """Take the request to cancel out of the way; whether there was one."""
    taken = bool(session_id) and host.ts.take(["cancel", session_id]) is not None
    while taken and host.ts.take(["cancel", session_id]) is not None:
        pass
    return taken
