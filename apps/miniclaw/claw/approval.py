"""An approval: a run that waits for a person, for days if need be, and tells the agent what was decided."""

from __future__ import annotations

from plexspaces import HostError, Refuse, host, query_handler, run_handler, state, workflow_actor

from .helpers import audit

WAIT_S = 7 * 86_400
_MAY_LOOK = frozenset({"admin", "operator", "viewer"})


@workflow_actor
class ApprovalActor:
    """One tool call that needs a person's consent.

    The promise's name is what `plexspaces approvals` shows and finds it by; its value is true or false, or an object of
    `approved`, `by` and `reason`.
    """

    request: dict = state(default_factory=dict)
    promise_id: str = state(default="")

    @run_handler
    def run(self, agent: str, call: str, name: str, input: dict, session_id: str = "", requested_by: str = "") -> dict:
        """Wait for the decision.  An agent asks for itself: what a person is shown is what will be called."""
        if self.sender != agent:
            audit(
                self,
                "access_refused",
                session_id,
                self.context.subject,
                reason="forged-approval",
                agent=agent,
                tool=name,
            )
            raise Refuse("not-the-agent", "only an agent asks for an approval, and for none but its own call")
        self.request = {"session_id": session_id, "tool": name, "input": input, "requested_by": requested_by}
        self.promise_id = host.workflow.promise(f"approval {name} {session_id}"[:250])
        try:
            value = host.workflow.wait(self.promise_id, timeout_ms=WAIT_S * 1_000)
        except HostError as error:
            if error.code != "deadline-exceeded":
                raise
            value = {"approved": False, "reason": "nobody decided in time"}
        decision = value if isinstance(value, dict) else {"approved": value is True}
        approved = decision.get("approved") is True
        told = {
            "call": call,
            "approved": approved,
            "by": str(decision.get("by", ""))[:200],
            "reason": str(decision.get("reason", ""))[:500],
        }
        host.send(agent, "approval_decided", told)
        audit(self, "approval", session_id, told["by"], tool=name, approved=approved, reason=told["reason"])
        return told

    @query_handler("get_request")
    def get_request(self) -> dict:
        """What waits to be decided: for whoever asked, and for those who decide."""
        subject = self.context.subject
        if subject and subject != self.request.get("requested_by") and not self.context.roles & _MAY_LOOK:
            raise Refuse("not-your-approval", "this belongs to somebody else")
        return {"status": "ok", **self.request, "promise_id": self.promise_id}
