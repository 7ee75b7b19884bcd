"""The agent: one actor per session, which asks the model, runs the tools it wants, and asks again.

A turn is one message, and the actor is durable: whatever the turn has got, a model's answer or a tool's, is recorded
before the turn goes on.  A node that dies in the middle takes the turn up again where it was, and pays for nothing
twice.  What the turn waits for longer than a person waits, an approval, is kept in the state, and the turn ends; the
decision is another message, with which it goes on.
"""

from __future__ import annotations

from typing import Any

from plexspaces import HostError, Refuse, actor, handler, host, init_handler, state

from .helpers import (
    audit,
    beside,
    cancel_wanted,
    check_owner,
    key_of,
    passed_on,
    pg_first,
    publish,
    stream_of,
    take_cancel,
)
from .history import assistant, compacted, open_calls, tokens, tool_result, user, with_own_ids

# The names of agents that answer conversations which clients keep; the rest of the name says whose it is.
_KEPT_BY_CLIENTS = "api-"
ROUNDS_MAX = 5
DEFAULT_PROMPT = "You are a helpful AI assistant with access to tools."
_MODEL_TIMEOUT_MS = 150_000
_TOOLS_TIMEOUT_MS = 120_000
_MESSAGE_CHARS_MAX = 200_000


@actor(facets=["virtual_actor", "durability"])
class AgentActor:
    """One conversation.

    Args (in the application's configuration):
        agent_name, system_prompt: who it is.
        max_history: messages that are kept, at most.
        max_context_tokens: tokens of history that are sent, at most.
        router, registry, fsm: actor types that serve a session.
    """

    agent_name: str = state(default="general-assistant")
    system_prompt: str = state(default=DEFAULT_PROMPT)
    messages: list = state(default_factory=list)
    max_history: int = state(default=50)
    max_context_tokens: int = state(default=60_000)
    owner: str = state(default="")
    total_chats: int = state(default=0)
    turns: int = state(default=0)
    # A turn that waits for people: its round, the calls of that round, and what is known of each.
    pending: dict = state(default_factory=dict)
    usage: dict = state(default_factory=lambda: {"input_tokens": 0, "output_tokens": 0})
    cost_usd: float = state(default=0.0)
    capabilities: list = state(default_factory=lambda: ["chat", "tool_use", "memory"])

    @init_handler
    def on_init(self, config: dict) -> None:
        args = config.get("args", {})
        self.router = args.get("router", "llm_router")
        self.registry = args.get("registry", "tool_registry")
        self.fsm = args.get("fsm", "agent_fsm")
        self.session_id = key_of(config["actor_id"])
        # Of a turn whose conversation the caller keeps.
        self.asked: dict = {}
        self.stateless = False
        self.given_prompt = ""
        if not config.get("restored"):
            self.agent_name = args.get("agent_name", self.agent_name)
            self.system_prompt = args.get("system_prompt", self.system_prompt)
            self.max_history = int(args.get("max_history", self.max_history))
            self.max_context_tokens = int(args.get("max_context_tokens", self.max_context_tokens))
        if not self.session_id:
            # Those with a session are found by its name; a member of a group never leaves memory.
            host.process_groups.join("svc:agent")

    # -- the conversation -------------------------------------------------------------------------------

    @handler("chat")
    def chat(self, message: str, session_id: str = "", model: str = "", request: str = "", on_behalf: str = "") -> dict:
        """One turn: the answer to what a person says.

        Args:
            model: by name; "" lets the policy choose.
            request: what the events of this turn begin with, for whoever follows them.
            on_behalf: whose task it is; only actors that act for nobody say so, as the one that works off a queue.
        """
        if on_behalf and (self.context.subject or not self.sender):
            audit(
                self,
                "access_refused",
                self.session_id,
                self.context.subject,
                reason="forged-subject",
                on_behalf=on_behalf,
            )
            raise Refuse("not-an-actor", "on_behalf is for actors that act for nobody: leave it out")
        if not message.strip():
            return {"error": "message is required"}
        if len(message) > _MESSAGE_CHARS_MAX:
            return {"error": f"the message is longer than {_MESSAGE_CHARS_MAX} characters"}
        if session_id and session_id != self.session_id:
            if self.session_id:
                raise Refuse(
                    "wrong-session", f"this is the agent of session {self.session_id!r}, not of {session_id!r}"
                )
            # The one without a session is a door: it keeps nothing, and whoever wants to be quick names the session.
            try:
                return host.ask(
                    beside(host.self_id(), session_id),
                    "chat",
                    {"message": message, "model": model},
                    timeout_ms=_MODEL_TIMEOUT_MS,
                )
            except HostError as error:
                raise passed_on(error) from error
        self._own(on_behalf)
        if self.pending:
            return self._waiting()
        take_cancel(self.session_id)
        self.turns += 1
        self.messages.append(user(message))
        self._say("input", text=message, subject=self.context.subject, turn=self.turns, request=request)
        audit(self, "agent_chat", self.session_id, self.context.subject, turn=self.turns, characters=len(message))
        self._go_to("processing")
        return self._turn(0, model, _nothing_spent())

    @handler("complete")
    def complete(
        self,
        messages: list,
        tools: list | None = None,
        model: str = "",
        max_tokens: int = 0,
        temperature: float | None = None,
        tool_choice: str = "",
        response_format: dict | None = None,
        request: str = "",
    ) -> dict:
        """An answer to a conversation that the caller keeps: nothing of it is remembered.

        With tools of the caller's own the model's wishes are the answer, for the caller to fulfil.  Without, the turn
        is like any other; a call that needs a person's approval is not made, for nobody could wait for it.
        """
        self._own()
        take_cancel(self.session_id)
        self.turns += 1
        self._say("input", subject=self.context.subject, turn=self.turns, request=request, messages=len(messages))
        asked = {
            "max_tokens": max_tokens,
            "temperature": temperature,
            "response_format": response_format,
            # These conversations have nothing in common but the caller: the day's and the tenant's budgets hold.
            "session_budget": False,
        }
        if tools:
            return self._complete_once(
                {**asked, "messages": messages, "tools": tools, "tool_choice": tool_choice, "model": model}
            )
        kept, self.messages = self.messages, [each for each in messages if each.get("role") != "system"]
        given = "\n\n".join(each.get("content") or "" for each in messages if each.get("role") == "system")
        self.asked, self.stateless, self.given_prompt = asked, True, given
        try:
            reply = self._turn(0, model, _nothing_spent())
        finally:
            self.messages, self.asked, self.stateless, self.given_prompt = kept, {}, False, ""
        if "error" in reply:
            return reply
        said = {"role": "assistant", "stop_reason": "end_turn", "content": reply["response"], "tool_calls": []}
        return {**reply, "response": said}

    def _complete_once(self, request: dict) -> dict:
        self._say(
            "model_request", round=1, turn=self.turns, messages=len(request["messages"]), tools=len(request["tools"])
        )
        answer = self._ask_model({**request, "round": 1})
        if "error" in answer:
            self._fail(answer)
            self._say("end", status="error", turn=self.turns)
            return answer
        self._spend(answer)
        self._report(1, answer)
        self._say("end", status="ok", turn=self.turns, usage=answer["usage"], cost_usd=answer["cost_usd"])
        return answer

    def _turn(self, round_: int, model: str, spent: dict) -> dict:
        """Rounds of model and tools until there is an answer, or a reason why there is none."""
        # What is registered meanwhile is there from the next turn on.
        tools = self._tools()
        while round_ < ROUNDS_MAX:
            # Before the first round there was none: what was there was meant for an earlier turn.
            if round_ and cancel_wanted(self.session_id):
                return self._cancelled(spent)
            round_ += 1
            sent = compacted(self.messages, messages_max=self.max_history, tokens_max=self.max_context_tokens)
            self._say(
                "model_request",
                round=round_,
                turn=self.turns,
                messages=len(sent) + 1,
                tools=len(tools),
                tokens=tokens(sent),
            )
            answer = self._ask_model(
                {
                    **self.asked,
                    "messages": [{"role": "system", "content": self._prompt(len(self.messages) - len(sent))}, *sent],
                    "tools": tools,
                    "model": model,
                    "round": round_,
                }
            )
            if "error" in answer:
                return self._unanswered(answer, spent)
            self._spend(answer)
            _add(spent, answer)
            self._report(round_, answer)
            response = with_own_ids(answer["response"], self.messages, f"call_{self.turns}_{round_}")
            self.messages.append(assistant(response))
            if not response.get("tool_calls"):
                return self._answered(response.get("content") or "", round_, answer, spent)
            self._go_to("tool_executing")
            waiting = self._run_tools(response["tool_calls"], round_, model, spent)
            if waiting:
                return self._waiting()
            self._go_to("processing")
        text = f"I stopped after {ROUNDS_MAX} rounds of tools without coming to an answer."
        self.messages.append(assistant({"content": text}))
        return self._answered(
            text, round_, {"model": model or "", "simulated": False}, spent, status="rounds_exhausted"
        )

    def _ask_model(self, request: dict) -> dict:
        name = beside(self.router, self.session_id)
        request = {
            **request,
            "session_id": self.session_id,
            "stream": stream_of(self.session_id) if self.session_id else "",
            "turn": self.turns,
        }
        try:
            return host.ask(name, "chat_completion", request, timeout_ms=_MODEL_TIMEOUT_MS)
        except HostError as error:
            if error.code == "deadline-exceeded":
                return {"error": "timeout", "message": "the model did not answer in time"}
            # Its supervisor starts it again; the call is not this session's to repeat, for it may have been paid for.
            return {"error": "router_failed", "message": f"the model router did not answer: {error.message}"}

    def _tools(self) -> list:
        try:
            return host.ask(beside(self.registry, self.session_id), "list_tools", {})["tools"]
        except HostError as error:
            host.warn(f"no tools: {error}")
            return []

    def _run_tools(self, calls: list, round_: int, model: str, spent: dict, approved: dict | None = None) -> bool:
        """Run a round's calls, all at once; True if the turn has to wait for somebody's approval."""
        decided = approved or {}
        for call in calls:
            if call["id"] not in decided:
                self._say("tool_call", id=call["id"], name=call["name"], input=call["input"], turn=self.turns)
        allowed = [call for call in calls if decided.get(call["id"], True)]
        results = self._execute(allowed, [id_ for id_, yes in decided.items() if yes])
        waiting = []
        for call in calls:
            if not decided.get(call["id"], True):
                self._tool_done(call, False, {"error": "a person has rejected this call; do not try it again"})
                continue
            result = results[call["id"]]
            if result.get("approval") and self.stateless:
                self._tool_done(call, False, {"error": "this call needs a person's approval, which cannot be had here"})
                continue
            if result.get("approval"):
                waiting.append(call)
                continue
            self._tool_done(call, bool(result.get("ok")), result.get("content"))
        if not waiting:
            return False
        self.pending = {
            "round": round_,
            "model": model,
            "spent": spent,
            "calls": waiting,
            "decided": {},
            "approvals": [self._ask_for_approval(call) for call in waiting],
        }
        return True

    def _execute(self, calls: list, approved: list) -> dict:
        if not calls:
            return {}
        try:
            reply = host.ask(
                beside(self.registry, self.session_id),
                "execute_tools",
                {"calls": calls, "session_id": self.session_id, "approved": approved},
                timeout_ms=_TOOLS_TIMEOUT_MS,
            )
            found = {result["id"]: result for result in reply["results"]}
        except HostError as error:
            found = {}
            failed = f"the tools did not answer: {error.message}"
        else:
            failed = "the tool did not answer"
        return {call["id"]: found.get(call["id"], {"ok": False, "content": {"error": failed}}) for call in calls}

    def _tool_done(self, call: dict, ok: bool, content: Any) -> None:
        message = tool_result(call, content)
        self.messages.append(message)
        self._say("tool_result", id=call["id"], name=call["name"], ok=ok, content=message["content"], turn=self.turns)

    # -- approvals --------------------------------------------------------------------------------------

    def _ask_for_approval(self, call: dict) -> dict:
        name = f"approval/{self.session_id or 'default'}.{self.turns}.{call['id']}"
        host.send(
            name,
            "run",
            {
                "agent": host.self_id(),
                "call": call["id"],
                "name": call["name"],
                "input": call["input"],
                "session_id": self.session_id,
                "requested_by": self.owner,
            },
        )
        self._say(
            "approval_requested", id=call["id"], name=call["name"], input=call["input"], approval=name, turn=self.turns
        )
        audit(self, "approval_requested", self.session_id, self.context.subject, tool=call["name"], approval=name)
        return {"id": call["id"], "name": call["name"], "input": call["input"], "approval": name}

    @handler("approval_decided", "cast")
    def approval_decided(self, call: str, approved: bool, by: str = "", reason: str = "") -> None:
        """A person has decided, and the turn goes on when all calls of its round are decided."""
        asked = {each["id"]: each["approval"] for each in self.pending.get("approvals", ())}
        if not (self.sender or "").startswith("approval/") or asked.get(call, self.sender) != self.sender:
            audit(self, "access_refused", self.session_id, self.context.subject, reason="forged-approval", call=call)
            raise Refuse("not-an-approval", "only an approval that was asked for decides")
        if call not in {each["id"] for each in self.pending.get("calls", ())} or call in self.pending["decided"]:
            return
        self.pending["decided"][call] = approved
        self._say("approval_decided", id=call, approved=approved, by=by, reason=reason, turn=self.turns)
        audit(self, "approval_decided", self.session_id, by, call=call, approved=approved)
        if len(self.pending["decided"]) < len(self.pending["calls"]):
            return
        turn, self.pending = self.pending, {}
        self._run_tools(turn["calls"], turn["round"], turn["model"], turn["spent"], approved=turn["decided"])
        self._go_to("processing")
        self._turn(turn["round"], turn["model"], turn["spent"])

    @handler("cancel")
    def cancel(self) -> dict:
        """End a turn that waits for people.  One that is under way is cancelled by `session_manager.cancel_turn`."""
        self._own()
        if not self.pending:
            return {"status": "ok", "cancelled": False}
        spent = self.pending["spent"]
        self.pending = {}
        self._cancelled(spent)
        return {"status": "ok", "cancelled": True}

    def _waiting(self) -> dict:
        return {
            "status": "waiting_for_approval",
            "response": "",
            "session_id": self.session_id,
            "approvals": self.pending["approvals"],
            "messages_count": len(self.messages),
        }

    # -- how a turn ends --------------------------------------------------------------------------------

    def _answered(self, text: str, rounds: int, answer: dict, spent: dict, status: str = "ok") -> dict:
        self.total_chats += 1
        return self._ended(
            status,
            text,
            spent,
            through="responding",
            rounds=rounds,
            model=answer.get("model", ""),
            simulated=bool(answer.get("simulated")),
        )

    def _unanswered(self, answer: dict, spent: dict) -> dict:
        if answer["error"] == "cancelled":
            return self._cancelled(spent)
        if answer["error"] == "budget_exhausted":
            budget = answer.get("budget", {})
            self._say("budget_exhausted", turn=self.turns, **budget)
            audit(self, "budget_exhausted", self.session_id, self.context.subject, **budget)
            return self._ended("budget_exhausted", "", spent, message=answer.get("message", ""), budget=budget)
        self._fail(answer)
        self._close_calls("the turn ended before this call was made")
        self._ended("error", "", spent, error=answer["error"])
        return {"error": answer["error"], "message": answer.get("message", ""), "session_id": self.session_id}

    def _cancelled(self, spent: dict) -> dict:
        take_cancel(self.session_id)
        self._say("cancelled", turn=self.turns)
        audit(self, "turn_cancelled", self.session_id, self.context.subject, turn=self.turns)
        return self._ended("cancelled", "", spent)

    def _ended(self, status: str, text: str, spent: dict, *, through: str = "", **more: Any) -> dict:
        self._close_calls("cancelled")
        # Beyond what may ever be sent, the past is kept by the session's stream and not here.
        self.messages = compacted(self.messages, messages_max=self.max_history, tokens_max=self.max_context_tokens)
        self._say(
            "end",
            status=status,
            response=text,
            turn=self.turns,
            usage=spent["usage"],
            cost_usd=spent["cost_usd"],
            **more,
        )
        self._go_to("idle", through)
        return {
            "status": status,
            "response": text,
            "session_id": self.session_id,
            "messages_count": len(self.messages),
            "usage": spent["usage"],
            "cost_usd": spent["cost_usd"],
            **more,
        }

    def _close_calls(self, why: str) -> None:
        # A history with a call that has no result is refused by every provider, for ever.
        for call in open_calls(self.messages):
            self.messages.append(tool_result(call, {"error": why}))

    def _fail(self, answer: dict) -> None:
        self._say("turn_error", code=answer["error"], message=answer.get("message", ""), turn=self.turns)
        audit(
            self,
            "turn_failed",
            self.session_id,
            self.context.subject,
            code=answer["error"],
            message=answer.get("message", ""),
        )

    # -- looking at it ----------------------------------------------------------------------------------

    @handler("set_system_prompt")
    def set_system_prompt(self, prompt: str = "") -> dict:
        """Replace the system prompt; an empty one changes nothing."""
        self._own()
        self.system_prompt = prompt or self.system_prompt
        audit(self, "system_prompt_set", self.session_id, self.context.subject, characters=len(self.system_prompt))
        return {"status": "ok"}

    @handler("get_history")
    def get_history(self) -> dict:
        """What is remembered of the conversation."""
        self._own()
        return {"status": "ok", "messages": self.messages, "count": len(self.messages)}

    @handler("get_capabilities")
    def get_capabilities(self) -> dict:
        """What this agent can do."""
        return {"status": "ok", "capabilities": self.capabilities}

    @handler("get_stats")
    def get_stats(self) -> dict:
        """Counts, nothing that was said."""
        return {
            "status": "ok",
            "total_chats": self.total_chats,
            "agent_name": self.agent_name,
            "turns": self.turns,
            "waiting_for_approval": bool(self.pending),
        }

    @handler("get_cost")
    def get_cost(self) -> dict:
        """What the session has spent."""
        self._own()
        return {"status": "ok", "usage": self.usage, "cost_usd": self.cost_usd, "turns": self.turns}

    @handler("forget")
    def forget(self) -> dict:
        """Forget the conversation and what was remembered in it."""
        self._own()
        forgotten, self.messages, self.pending = len(self.messages), [], {}
        memory = pg_first("svc:memory")
        if memory and self.session_id:
            host.ask(memory, "forget_session", {"session_id": self.session_id})
        audit(self, "session_forgotten", self.session_id, self.context.subject, messages=forgotten)
        return {"status": "ok", "messages": forgotten}

    # -- small things -----------------------------------------------------------------------------------

    def _own(self, on_behalf: str = "") -> None:
        if not self.session_id:
            return
        if not self.owner:
            self.owner = self.context.subject or on_behalf
            if self.session_id.startswith(_KEPT_BY_CLIENTS) and not self.session_id.startswith(_of(self.owner)):
                # Such a name is somebody's before they have used it.
                self.owner, taken = "", self.owner
                audit(self, "access_refused", self.session_id, taken, reason="not-your-session")
                raise Refuse("not-your-session", f"session {self.session_id!r} belongs to somebody else")
        check_owner(self, self.owner, self.session_id, on_behalf)

    def _prompt(self, left_out: int) -> str:
        prompt = self.given_prompt or self.system_prompt
        if left_out <= 0:
            return prompt
        return f"{prompt}\n\n({left_out} earlier messages of this conversation were left out.)"

    def _spend(self, answer: dict) -> None:
        for name in self.usage:
            self.usage[name] += answer["usage"].get(name, 0)
        self.cost_usd = round(self.cost_usd + answer.get("cost_usd", 0.0), 9)

    def _report(self, round_: int, answer: dict) -> None:
        self._say(
            "model_response",
            round=round_,
            turn=self.turns,
            model=answer["model"],
            provider=answer["provider"],
            simulated=answer["simulated"],
            cached=answer["cached"],
            usage=answer["usage"],
            cost_usd=answer["cost_usd"],
            stop_reason=answer["response"]["stop_reason"],
        )

    def _say(self, event_type: str, **payload: Any) -> None:
        publish(self.session_id, event_type, payload)

    def _go_to(self, state_: str, through: str = "") -> None:
        try:
            host.send(beside(self.fsm, self.session_id), "transition", {"to": state_, "through": through})
        except HostError as error:
            host.debug(f"the state machine was not told: {error}")


def _of(subject: str) -> str:
    """What the names of a subject's own agents begin with."""
    return f"{_KEPT_BY_CLIENTS}{subject.encode().hex()[:96]}-"


def _nothing_spent() -> dict:
    return {"usage": {"input_tokens": 0, "output_tokens": 0}, "cost_usd": 0.0}


def _add(spent: dict, answer: dict) -> None:
    for name in spent["usage"]:
        spent["usage"][name] += answer["usage"].get(name, 0)
    spent["cost_usd"] = round(spent["cost_usd"] + answer.get("cost_usd", 0.0), 9)
