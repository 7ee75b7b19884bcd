"""Sessions: which there are, by channel and user, and whose."""

from __future__ import annotations

import hashlib

from plexspaces import HostError, Refuse, actor, handler, host, init_handler, state

from .helpers import audit, beside, check_owner, passed_on

SESSIONS_MAX = 100_000


@actor(facets=["durability"])
class SessionManagerActor:
    """The index of sessions.  A conversation itself is its agent's."""

    sessions: dict = state(default_factory=dict)
    # By channel and user: the session that they came back to last.
    latest: dict = state(default_factory=dict)
    total_created: int = state(default=0)

    @init_handler
    def on_init(self, config: dict) -> None:
        host.process_groups.join("svc:session_manager")

    @handler("create_session")
    def create_session(self, channel: str = "web", user_id: str = "", agent_id: str = "agent") -> dict:
        """A new session; its id cannot be guessed from others'."""
        if len(self.sessions) >= SESSIONS_MAX:
            return {"error": f"there are {SESSIONS_MAX} sessions: end some"}
        user_id = user_id or self.context.subject or "anonymous"
        chance = hashlib.sha256(host.random_bytes(16)).hexdigest()[:16]
        session_id = f"sess-{_name(channel)}-{_name(user_id)}-{chance}"
        self.sessions[session_id] = {
            "session_id": session_id,
            "channel": channel,
            "user_id": user_id,
            "agent_id": agent_id,
            "created_at": host.now_ms(),
            "owner": self.context.subject,
        }
        self.latest[f"{channel}:{user_id}"] = session_id
        self.total_created += 1
        audit(self, "session_created", session_id, self.context.subject, channel=channel, user_id=user_id)
        return {"status": "ok", "session_id": session_id}

    @handler("get_session")
    def get_session(self, session_id: str = "", channel: str = "", user_id: str = "") -> dict:
        """What is known of a session, or of the one that this user began last on this channel."""
        session_id = session_id or self.latest.get(f"{channel}:{user_id or self.context.subject}", "")
        found = self._seen().get(session_id)
        return {"error": "session not found", "session_id": session_id} if found is None else {**found, "status": "ok"}

    @handler("end_session", "close_session")
    def end_session(self, session_id: str) -> dict:
        """End a session: its conversation and what was remembered in it are deleted."""
        found = self.sessions.get(session_id)
        if found is None:
            return {"error": "session not found", "session_id": session_id}
        check_owner(self, found["owner"], session_id)
        try:
            host.ask(beside(found["agent_id"], session_id), "forget", {})
        except HostError as error:
            if error.code != "actor-not-found":
                raise passed_on(error) from error
        del self.sessions[session_id]
        self.latest = {name: each for name, each in self.latest.items() if each != session_id}
        audit(self, "session_ended", session_id, self.context.subject)
        return {"status": "ok", "session_id": session_id}

    @handler("list_sessions")
    def list_sessions(self, limit: int = 100) -> dict:
        """The caller's sessions, the newest first; an administrator sees all."""
        found = sorted(self._seen().values(), key=lambda each: each["created_at"], reverse=True)
        return {"status": "ok", "sessions": found[: max(0, limit)], "count": len(found)}

    @handler("cancel_turn")
    def cancel_turn(self, session_id: str) -> dict:
        """Ask a session's agent to stop its turn.  It hears of it between two steps, or two pieces of an answer."""
        found = self.sessions.get(session_id)
        if found is not None:
            check_owner(self, found["owner"], session_id)
        elif self.context.subject and "admin" not in self.context.roles:
            # Whose it is, only its agent knows, and the agent is busy.
            return {"error": "session not found", "session_id": session_id}
        if host.ts.read(["cancel", session_id]) is None:
            host.ts.write(["cancel", session_id], lease_ms=600_000)
        audit(self, "cancel_wanted", session_id, self.context.subject)
        return {"status": "ok", "session_id": session_id}

    @handler("register_session")
    def register_session(self, session_id: str, channel: str = "api", agent_id: str = "agent") -> dict:
        """Enter a session that a client has named itself; the first one to name it owns it."""
        found = self.sessions.get(session_id)
        if found is not None:
            check_owner(self, found["owner"], session_id)
            return {**found, "status": "ok", "new": False}
        if len(self.sessions) >= SESSIONS_MAX:
            return {"error": f"there are {SESSIONS_MAX} sessions: end some"}
        if not session_id or len(session_id) > 200 or "/" in session_id:
            raise Refuse("invalid-session", "a session's id has 1 to 200 characters and no '/'")
        subject = self.context.subject
        self.sessions[session_id] = {
            "session_id": session_id,
            "channel": channel,
            "user_id": subject,
            "agent_id": agent_id,
            "created_at": host.now_ms(),
            "owner": subject,
        }
        self.latest[f"{channel}:{subject}"] = session_id
        self.total_created += 1
        audit(self, "session_created", session_id, subject, channel=channel, user_id=subject)
        return {**self.sessions[session_id], "status": "ok", "new": True}

    @handler("get_stats")
    def get_stats(self) -> dict:
        """Counts."""
        return {"status": "ok", "active_sessions": len(self.sessions), "total_created": self.total_created}

    def _seen(self) -> dict:
        if not self.context.subject or "admin" in self.context.roles:
            return self.sessions
        return {id_: each for id_, each in self.sessions.items() if each["owner"] == self.context.subject}


def _name(text: str) -> str:
    return "".join(each if each.isalnum() or each in "._-@" else "_" for each in text)[:60] or "_"
