"""The record of what happened: append-only, each entry carrying the hash of the one before.

Others put their events into a channel and go on; this actor takes them from there one by one.  So it can be slow, or
dead for a while, and nobody waits for it, and nothing is lost.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from plexspaces import event_actor, handler, host, init_handler, state

from .helpers import AUDIT_CHANNEL, from_channel

_START = "0" * 64
_PAGE = 100
_SCAN_MAX = 20_000
_DAY_MS = 86_400_000
_RECENT_MAX = 64


@event_actor(facets=["durability"])
class AuditEventActor:
    """The audit trail.

    Args (in the application's configuration):
        retention_days: entries older than this are deleted; 0 keeps them for ever.
    """

    event_count: int = state(default=0)
    first: int = state(default=1)
    # The hash of the newest entry, and of the last one that was deleted: where the chain begins now.
    head: str = state(default=_START)
    anchor: str = state(default=_START)
    retention_days: int = state(default=90)
    # What came last: only what was being handled when it died is delivered again.
    recent: list = state(default_factory=list)

    @init_handler
    def on_init(self, config: dict) -> None:
        self.retention_days = int(config.get("args", {}).get("retention_days", self.retention_days))
        host.process_groups.join("svc:audit")
        host.channel.subscribe("", AUDIT_CHANNEL, "take_event")

    @handler("take_event", "call")
    def take_event(
        self, channel: str, id: str, msg_type: str, payload: dict, deliveries: int = 1, enqueued_ms: int = 0
    ) -> None:
        """One event from the channel.  What is delivered twice is kept once."""
        from_channel(self)
        if id in self.recent:
            return
        self.recent = [*self.recent[-_RECENT_MAX + 1 :], id]
        for event in payload.get("several") or [payload]:
            self._keep({**payload, **event, "timestamp": enqueued_ms})

    @handler("log_event", "cast")
    def log_event(self, event_type: str = "", detail: Any = "", timestamp: int = 0) -> None:
        """An event that is sent directly; its sender is on record with it."""
        self._keep(
            {
                "event_type": event_type,
                "actor": self.sender or "",
                "session_id": self.context.session,
                "subject": self.context.subject,
                "timestamp": timestamp or host.now_ms(),
                "detail": detail,
            }
        )

    def _keep(self, event: dict) -> None:
        entry = {
            "seq": self.event_count + 1,
            "event_type": str(event.get("event_type", "")),
            "actor": str(event.get("actor", "")),
            "session_id": str(event.get("session_id", "")),
            "subject": str(event.get("subject", "")),
            "timestamp": event.get("timestamp", 0),
            "detail": event.get("detail", {}),
            "previous": self.head,
        }
        entry["hash"] = _hash(entry)
        host.kv_put(_key(entry["seq"]), entry)
        self.event_count, self.head = entry["seq"], entry["hash"]
        if self.event_count % _PAGE == 0:
            self._retire()

    def _retire(self) -> None:
        if not self.retention_days:
            return
        before = host.now_ms() - self.retention_days * _DAY_MS
        for _ in range(2 * _PAGE):
            entry = host.kv_get(_key(self.first)) if self.first < self.event_count else None
            if entry is None or entry["timestamp"] >= before:
                return
            host.kv_delete(_key(self.first))
            self.first, self.anchor = self.first + 1, entry["hash"]

    @handler("query_events", roles=["admin", "auditor"])
    def query_events(
        self,
        event_type: str = "",
        actor: str = "",
        session_id: str = "",
        subject: str = "",
        since_ms: int = 0,
        until_ms: int = 0,
        limit: int = _PAGE,
        cursor: int = 0,
    ) -> dict:
        """Entries that match all that is given, the newest first.

        Args:
            actor: a name, or the type of a name.
            since_ms, until_ms: milliseconds since 1970, until excluded; 0 for no bound.
            cursor: from an earlier answer, to go on from there.
        """
        wanted = {"event_type": event_type, "session_id": session_id, "subject": subject}
        found: list[dict] = []
        seq = (cursor or self.event_count + 1) - 1
        lowest = max(self.first, seq - _SCAN_MAX)
        while seq >= lowest and len(found) < min(limit, 1_000):
            entry = host.kv_get(_key(seq))
            seq -= 1
            if (
                entry is not None
                and all(not value or entry[name] == value for name, value in wanted.items())
                and (not actor or actor in (entry["actor"], entry["actor"].partition("/")[0]))
                and entry["timestamp"] >= since_ms
                and (not until_ms or entry["timestamp"] < until_ms)
            ):
                found.append(entry)
        return {"status": "ok", "events": found, "count": len(found), "cursor": seq + 1 if seq >= self.first else 0}

    @handler("verify", roles=["admin", "auditor"])
    def verify(self) -> dict:
        """Walk along the chain; the first entry that was changed, is missing or was moved is named."""
        previous = self.anchor
        for seq in range(self.first, self.event_count + 1):
            entry = host.kv_get(_key(seq))
            if entry is None:
                return {"status": "broken", "seq": seq, "reason": "the entry is missing"}
            if entry["seq"] != seq or entry["previous"] != previous or entry["hash"] != _hash(entry):
                return {"status": "broken", "seq": seq, "reason": "the entry is not what was written"}
            previous = entry["hash"]
        if previous != self.head:
            return {"status": "broken", "seq": self.event_count, "reason": "the newest entries are missing"}
        return {"status": "ok", "entries": self.event_count - self.first + 1, "head": self.head}

    @handler("export", roles=["admin", "auditor"])
    def export(self, cursor: int = 0, limit: int = 1_000) -> dict:
        """Entries as JSON lines, oldest first; `cursor` of the answer goes on, 0 says that this was all."""
        start = max(self.first, cursor)
        end = min(self.event_count, start + min(limit, 1_000) - 1)
        lines = [json.dumps(host.kv_get(_key(seq)), ensure_ascii=False) for seq in range(start, end + 1)]
        return {
            "status": "ok",
            "lines": "".join(f"{line}\n" for line in lines),
            "cursor": end + 1 if end < self.event_count else 0,
        }

    @handler("get_stats")
    def get_stats(self) -> dict:
        """How much is on record."""
        return {
            "status": "ok",
            "event_count": self.event_count,
            "oldest": self.first,
            "head": self.head,
            "waiting": host.channel.depth("", AUDIT_CHANNEL),
        }


def _key(seq: int) -> str:
    return f"entry/{seq:012}"


def _hash(entry: dict) -> str:
    kept = {name: value for name, value in entry.items() if name != "hash"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
