"""A guest that writes to several stores in one message."""

from plexspaces import actor, handler, host


@actor()
class Ledger:
    @handler("add")
    def add(self, entry: str) -> dict:
        total = host.kv_increment("total")
        host.kv_put(f"entry/{entry}", total)
        offset = host.stream.append("/ledger", "added", {"entry": entry, "total": total})
        return {"total": total, "offset": offset}

    @handler("audit")
    def audit(self) -> dict:
        events = []
        after = 0
        while page := host.stream.read("/ledger", after=after, limit=1000):
            events.extend(page)
            after = page[-1]["offset"]
        return {
            "total": host.kv_get("total", 0),
            "entries": {key[6:]: host.kv_get(key) for key in host.kv_list("entry/")},
            "events": [[event["offset"], event["payload"]["entry"], event["payload"]["total"]] for event in events],
        }
