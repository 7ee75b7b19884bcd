"""What is remembered: for everybody, an agent or a session; with a time to live, found again, and deletable."""

from __future__ import annotations

from typing import Any, Literal

from plexspaces import Refuse, actor, handler, host, init_handler, state

from .helpers import audit
from .redact import redacted

Scope = Literal["global", "agent", "session"]
_KEY_CHARS_MAX = 200
_VALUE_CHARS_MAX = 20_000
_FOUND_MAX = 100
_EXAMINED_MAX = 5_000


@actor(facets=["durability"])
class MemoryActor:
    """Remembers.

    What is global is in the tuple space as well, where others can wait for it.  What belongs to a session or an agent
    is not: everybody in the namespace reads there.
    """

    memory_count: int = state(default=0)

    @init_handler
    def on_init(self, config: dict) -> None:
        host.process_groups.join("svc:memory")

    @handler("store_memory")
    def store_memory(
        self,
        key: str,
        value: str = "",
        scope: Scope = "global",
        agent_id: str = "",
        session_id: str = "",
        ttl_ms: int = 0,
        tags: list | None = None,
    ) -> dict:
        """Remember a value; what looks like a secret is taken out of it first.

        Args:
            ttl_ms: milliseconds until it is forgotten; 0 keeps it.
        """
        if not key or len(key) > _KEY_CHARS_MAX or len(value) > _VALUE_CHARS_MAX:
            return {"error": f"a key has 1 to {_KEY_CHARS_MAX} characters, a value at most {_VALUE_CHARS_MAX}"}
        place = _place(scope, agent_id, session_id, key)
        before = host.kv_get(place)
        self._check(before, scope)
        kept, secrets = redacted(value)
        shown_key, secrets_in_key = redacted(key)
        if secrets_in_key:
            return {"error": "the key looks like a secret: choose another"}
        entry = {
            "key": shown_key,
            "value": kept,
            "scope": scope,
            "tags": [str(tag)[:50] for tag in (tags or [])[:20]],
            "owner": self.context.subject,
            "stored_at": host.now_ms(),
        }
        host.kv_put(place, entry, ttl_ms=ttl_ms or None)
        if scope == "global":
            self._forget_tuple(key)
            host.ts.write(["memory", scope, key, kept], lease_ms=ttl_ms or None)
        self.memory_count += before is None
        audit(self, "memory_stored", session_id, self.context.subject, scope=scope, key=key, redacted=secrets)
        return {"status": "ok", "key": key, "scope": scope, "redacted": secrets}

    @handler("recall_memory")
    def recall_memory(self, key: str, scope: Scope = "global", agent_id: str = "", session_id: str = "") -> dict:
        """What is remembered under a key."""
        entry = host.kv_get(_place(scope, agent_id, session_id, key))
        self._check(entry, scope)
        value = "" if entry is None else entry["value"]
        return {"status": "ok", "key": key, "value": value, "found": entry is not None}

    @handler("list_memories")
    def list_memories(self, scope: Scope = "global", agent_id: str = "", session_id: str = "") -> dict:
        """Everything of a scope that the caller may see, the newest first."""
        found = self._seen(scope, agent_id, session_id)[:_FOUND_MAX]
        return {"status": "ok", "memories": [_shown(each) for each in found], "scope": scope}

    @handler("search_memory")
    def search_memory(
        self,
        query: str = "",
        mode: Literal["substring", "prefix", "tag"] = "substring",
        scope: Scope = "session",
        agent_id: str = "",
        session_id: str = "",
        limit: int = 10,
    ) -> dict:
        """What matches, the newest first.

        Args:
            mode: `prefix` looks at keys, `tag` at tags, `substring` at keys and values; capitals do not count.
        """
        wanted = query.casefold()
        found = [each for each in self._seen(scope, agent_id, session_id) if _matches(each, wanted, mode)]
        return {
            "status": "ok",
            "memories": [_shown(each) for each in found[: max(1, min(limit, _FOUND_MAX))]],
            "count": len(found),
        }

    @handler("remember")
    def remember(self, key: str, value: str, session_id: str) -> dict:
        """The tool `memory_store`: into the session that the model speaks for, whatever it says."""
        kept = self.store_memory(key, value, "session", session_id=session_id)
        return kept if "error" in kept else {"result": f"remembered {key!r}"}

    @handler("recall")
    def recall(self, query: str, session_id: str) -> dict:
        """The tool `memory_search`: this session's memories and the global ones."""
        found = [
            each
            for scope in ("session", "global")
            for each in self._seen(scope, "", session_id)
            if _matches(each, query.casefold(), "substring")
        ]
        return {"result": [_shown(each) for each in found[:10]] or "nothing is remembered about that"}

    @handler("delete_memory")
    def delete_memory(self, key: str, scope: Scope = "global", agent_id: str = "", session_id: str = "") -> dict:
        """Forget a key, every copy of it."""
        place = _place(scope, agent_id, session_id, key)
        entry = host.kv_get(place)
        self._check(entry, scope, changes=True)
        deleted = host.kv_delete(place)
        if scope == "global":
            self._forget_tuple(key)
        self.memory_count = max(0, self.memory_count - deleted)
        audit(self, "memory_deleted", session_id, self.context.subject, scope=scope, key=key)
        return {"status": "ok", "key": key, "deleted": deleted}

    @handler("forget_session")
    def forget_session(self, session_id: str) -> dict:
        """Forget all of a session."""
        prefix = _place("session", "", session_id, "")
        count = 0
        for place in host.kv_list(prefix):
            self._check(host.kv_get(place), "session", changes=True)
            count += host.kv_delete(place)
        self.memory_count = max(0, self.memory_count - count)
        audit(self, "memory_forgotten", session_id, self.context.subject, entries=count)
        return {"status": "ok", "deleted": count}

    @handler("get_stats")
    def get_stats(self) -> dict:
        """Counts."""
        return {"status": "ok", "memory_count": self.memory_count}

    def _seen(self, scope: str, agent_id: str, session_id: str) -> list[dict[str, Any]]:
        places = host.kv_list(_place(scope, agent_id, session_id, ""), limit=_EXAMINED_MAX)
        entries = [entry for place in places if (entry := host.kv_get(place)) is not None]
        entries = [entry for entry in entries if scope == "global" or self._may(entry)]
        return sorted(entries, key=lambda entry: entry["stored_at"], reverse=True)

    def _may(self, entry: dict[str, Any]) -> bool:
        # What was remembered in a task that acts for nobody is not everybody's.
        return entry["owner"] == self.context.subject or "admin" in self.context.roles

    def _check(self, entry: dict[str, Any] | None, scope: str, *, changes: bool = False) -> None:
        if entry is None or self._may(entry) or (scope == "global" and not changes):
            return
        audit(self, "access_refused", "", self.context.subject, reason="not-your-memory")
        raise Refuse("not-your-memory", "this belongs to somebody else")

    def _forget_tuple(self, key: str) -> None:
        host.ts.take_all(["memory", "global", key, None])


def _place(scope: str, agent_id: str, session_id: str, key: str) -> str:
    """Where it is kept.  The name of the session is closed by what no name holds, so that none begins another."""
    if scope == "session":
        if not session_id:
            raise Refuse("no-session", "scope session needs a session_id")
        return f"mem/session/{session_id}\n{key}"
    if scope == "agent":
        if not agent_id:
            raise Refuse("no-agent", "scope agent needs an agent_id")
        return f"mem/agent/{agent_id}\n{key}"
    return f"mem/global/\n{key}"


def _matches(entry: dict[str, Any], wanted: str, mode: str) -> bool:
    if mode == "tag":
        return wanted in (tag.casefold() for tag in entry["tags"])
    if mode == "prefix":
        return entry["key"].casefold().startswith(wanted)
    return wanted in entry["key"].casefold() or wanted in entry["value"].casefold()


def _shown(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: entry[name] for name in ("key", "value", "scope", "tags", "stored_at")}
