"""Guests of the authorisation tests: actors that ask for a role, and agents that are told to use them in every way."""

from plexspaces import Refuse, actor, handler, host, init_handler, run_handler, signal_handler, state, workflow_actor


@actor
class Vault:
    """Opens for keepers; who got in is known."""

    opened: list = state(default_factory=list)

    @handler("open", roles=["keeper", "scope:vault:open"])
    def open(self, how: str = "") -> str:
        self.opened.append([how, self.context.subject])
        return "open"

    @handler("opened")
    def all_opened(self) -> list:
        return self.opened


@actor(facets=["durability"])
class Safe:
    """The same, and it is durable."""

    opened: list = state(default_factory=list)

    @handler("open", roles=["keeper"])
    def open(self, how: str = "") -> str:
        self.opened.append([how, self.context.subject])
        return "open"

    @handler("opened")
    def all_opened(self) -> list:
        return self.opened


@actor(facets=["durability"])
class Agent:
    """Does what it is told, on behalf of whoever tells it."""

    heard: list = state(default_factory=list)

    @init_handler
    def start(self, config: dict) -> None:
        to = (config.get("args") or {}).get("open")
        if to and not config.get("restored"):
            self._try("spawn", lambda: host.ask(to, "open", {"how": "spawn"}))

    @handler("use")
    def use(self, way: str, to: str = "vault") -> object:
        arguments = {"how": way}
        match way:
            case "ask":
                return host.ask(to, "open", arguments)
            case "many":
                return host.ask_many([(to, "open", arguments)])
            case "send":
                return host.send(to, "open", arguments)
            case "through":
                return host.ask("relay", "use", {"way": "ask", "to": to})
            case "timer":
                return host.send_after(1, "fire", {"to": to})
            case "spawn":
                return host.spawn("agent", args={"open": to})
            case "stream":
                host.stream.subscribe("/orders", "event")
                return host.stream.append("/orders", "order", {"to": to})
            case "channel":
                host.channel.subscribe("", "orders", "work")
                return host.channel.send("", "orders", "order", {"to": to})
        raise Refuse("unknown-way", way)

    @handler("fire")
    def fire(self, to: str) -> None:
        self._try("timer", lambda: host.ask(to, "open", {"how": "timer"}))

    @handler("event")
    def event(self, path: str, offset: int, event_type: str, payload: dict, time_ms: int) -> None:
        self._try("stream", lambda: host.ask(payload["to"], "open", {"how": "stream"}))

    @handler("work")
    def work(self, payload: dict, channel: str, id: str, msg_type: str, deliveries: int, enqueued_ms: int) -> str:
        self._try("channel", lambda: host.ask(payload["to"], "open", {"how": "channel"}))
        return "done"

    @handler("heard")
    def all_heard(self) -> list:
        return self.heard

    @handler("leave")
    def leave(self, to: str = "") -> None:
        """Effects of every kind, here or at another."""
        if to:
            host.ask(to, "leave")
            return
        host.kv_put("order", {"paid": True})
        host.stream.append("/audit", "paid", {"order": 1})

    def _try(self, how: str, do) -> None:
        try:
            do()
            self.heard.append([how, "in", self.context.subject])
        except host.PermissionDenied:
            self.heard.append([how, "refused", self.context.subject])


@workflow_actor
class Errand:
    """Opens the vault in a step, once it is told to."""

    @run_handler
    def run(self, to: str) -> str:
        host.workflow.next_signal(timeout_ms=30_000)
        return host.step("open", lambda: host.ask(to, "open", {"how": "errand"}))

    @signal_handler("go")
    def go(self) -> None:
        return None


@workflow_actor
class Guarded:
    """Only a starter may run it, only a boss may hurry it."""

    @run_handler(roles=["starter"])
    def run(self) -> str:
        return "ran"

    @signal_handler("hurry", roles=["boss"])
    def hurry(self) -> None:
        return None


ACTOR_REGISTRY = {"vault": Vault, "safe": Safe, "agent": Agent, "relay": Agent, "errand": Errand, "guarded": Guarded}
