"""What an agent is doing, as a machine whose table refuses what cannot be."""

from __future__ import annotations

from plexspaces import fsm_actor, handler, host, init_handler, state

from .helpers import key_of

TRANSITIONS = {
    "idle": ["processing", "tool_executing"],
    "processing": ["tool_executing", "responding", "idle"],
    "tool_executing": ["processing", "idle"],
    "responding": ["idle"],
}


@fsm_actor(states=list(TRANSITIONS), initial="idle", transitions=TRANSITIONS, facets=["virtual_actor"])
class AgentStateFSM:
    """One session's: idle, processing, tool_executing, responding, and idle again."""

    transition_count: int = state(default=0)

    @init_handler
    def on_init(self, config: dict) -> None:
        if not key_of(config["actor_id"]):
            host.process_groups.join("svc:agent_fsm")

    @handler("transition")
    def transition(self, to: str, through: str = "") -> dict:
        """Go to another state; one that cannot follow is refused with those that can.

        Args:
            through: a state in between, "" for none.
        """
        before = self.fsm_state
        for each in (through, to):
            if each and each != self.fsm_state:
                self.fsm_state = each
                self.transition_count += 1
        return {"status": "ok", "from": before, "to": to}

    @handler("get_state")
    def get_state(self) -> dict:
        """Where it is."""
        return {"status": "ok", "state": self.fsm_state, "transitions": self.transition_count}
