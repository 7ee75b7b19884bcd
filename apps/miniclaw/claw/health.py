"""Who of the services is there, looked at now and then: no races, and a second's delay does not matter."""

from __future__ import annotations

import json

from plexspaces import actor, handler, host, init_handler, state

SERVICE_GROUPS = [
    "svc:llm_router",
    "svc:tool_registry",
    "svc:agent",
    "svc:session_manager",
    "svc:memory",
    "svc:audit",
    "svc:agent_fsm",
    "svc:task_queue",
]
_SNAPSHOT_TTL_MS = 3_600_000


@actor
class HealthMonitorActor:
    """Polls the membership of groups.

    Args (in the application's configuration):
        poll_interval_ms: 1,000 to 300,000.
        groups: which; none given: MiniClaw's services.
    """

    poll_count: int = state(default=0)
    last_poll_ms: int = state(default=0)
    group_health: dict = state(default_factory=dict)
    poll_interval_ms: int = state(default=5_000)

    @init_handler
    def on_init(self, config: dict) -> None:
        args = config.get("args", {})
        self.groups = list(args.get("groups", SERVICE_GROUPS))
        wanted = int(args.get("poll_interval_ms", self.poll_interval_ms))
        self.poll_interval_ms = min(max(wanted, 1_000), 300_000)
        host.process_groups.join("svc:health_monitor")
        # At once, so that whoever asks first is not told of nothing; the others are starting just now.
        host.send_after(200, "poll_tick")

    @handler("poll_tick", "cast")
    def poll_tick(self) -> None:
        """Look, and look again later."""
        self._look()
        host.send_after(self.poll_interval_ms, "poll_tick")

    def _look(self) -> None:
        self.group_health = {group: len(host.process_groups.members(group)) for group in self.groups}
        self.poll_count += 1
        self.last_poll_ms = host.now_ms()
        host.ts.write(["health_snapshot", self.last_poll_ms, json.dumps(self.group_health)], lease_ms=_SNAPSHOT_TTL_MS)

    @handler("get_health")
    def get_health(self) -> dict:
        """Members by group, and the groups without any."""
        if not all(self.group_health.get(group) for group in self.groups):
            # Bad news is looked at once more: who was missing may be there by now.
            self._look()
        degraded = [group for group, count in self.group_health.items() if count == 0]
        return {
            "status": "degraded" if degraded else "ok",
            "group_health": self.group_health,
            "healthy": len(self.group_health) - len(degraded),
            "degraded": degraded,
            "last_poll_ms": self.last_poll_ms,
        }

    @handler("get_stats")
    def get_stats(self) -> dict:
        """Counts."""
        return {
            "status": "ok",
            "poll_count": self.poll_count,
            "last_poll_ms": self.last_poll_ms,
            "group_health": self.group_health,
        }
