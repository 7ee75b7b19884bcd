"""An actor that runs small programs; their steps may come in any order, so that a model can add up what they leave."""

from plexspaces import actor, handler, host, state


@actor(facets=["durability"])
class Mesh:
    sum: int = state(default=0)
    messages: int = state(default=0)
    taken: dict = state(default_factory=dict)

    @handler("run", ["call", "cast"])
    def run(self, program: list) -> dict:
        self.messages += 1
        for step in program:
            self._step(*step)
        return {"sum": self.sum}

    @handler("later", "call")
    def later(self, program: list) -> object:
        """Answered by another message of its own."""
        host.send(host.self_id(), "settle", {"message_id": self.context.message_id, "program": program})
        return host.NO_REPLY

    @handler("settle", "cast")
    def settle(self, message_id: str, program: list) -> None:
        self.run(program)
        host.reply(message_id, {"sum": self.sum})

    @handler("look")
    def look(self) -> dict:
        kept = {key: host.kv_get(key) for key in host.kv_list()}
        return {"sum": self.sum, "messages": self.messages, "taken": self.taken, "kv": kept}

    @handler("left")
    def left(self, channels: list, streams: list, tuples: list) -> dict:
        """What the whole mesh has left where everybody writes."""
        return {
            "channels": {name: self._drained(name) for name in channels},
            "streams": {path: self._length(path) for path in streams},
            "tuples": {name: host.ts.count([name, int]) for name in tuples},
        }

    def _step(self, kind: str, *args) -> None:
        match kind, args:
            case "add", [amount]:
                self.sum += amount
            case "kv", [key, amount]:
                host.kv_increment(key, amount)
            case "ask", [to, op, program]:
                host.ask(to, op, {"program": program})
            case "many", [several]:
                host.ask_many([(to, "run", {"program": program}) for to, program in several])
            case "send", [to, program]:
                host.send(to, "run", {"program": program})
            case "doomed", [to, program]:
                # It ends in a crash, which the asker survives.
                try:
                    host.ask(to, "run", {"program": program})
                except host.HandlerCrashed:
                    self.sum += 1
            case "timer", [delay_ms, program]:
                host.send_after(delay_ms, "run", {"program": program})
            case "channel", [name]:
                host.channel.send("", name, "note", {})
            case "take", [name]:
                message, found, _ = host.channel.receive("", name)
                if found:
                    self._acknowledge(name, message["id"])
            case "stream", [path]:
                host.stream.append(path, "note", {})
            case "tuple", [name]:
                host.ts.write([name, 1])
            case "sleep", [seconds]:
                host.sleep(seconds)
            case "log", []:
                host.info("here")
            case ("now" | "random"), []:
                # The same to whoever adds it up, and another way there for each value.
                value = host.now_ms() if kind == "now" else host.random_bytes(1)[0]
                if value % 2:
                    self.sum += 1_000
                    host.kv_increment("way", 1)
                else:
                    host.kv_increment("way", 1)
                    self.sum += 1_000
            case "crash", []:
                raise RuntimeError("as told")
            case _:
                raise ValueError(f"no such step: {kind} {args}")

    def _acknowledge(self, name: str, message_id: str) -> None:
        try:
            host.channel.ack("", name, message_id)
        except host.NotFound:
            # The node died after it was received: it is another's now.
            return
        self.taken[name] = self.taken.get(name, 0) + 1

    def _drained(self, name: str) -> int:
        left = 0
        while True:
            message, found, _ = host.channel.receive("", name)
            if not found:
                return left
            host.channel.ack("", name, message["id"])
            left += 1

    def _length(self, path: str) -> int:
        length = 0
        while page := host.stream.read(path, after=length, limit=1_000):
            length = page[-1]["offset"]
        return length
