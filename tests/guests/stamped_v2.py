"""The next version of `stamped`: its `init` asks for more than that one's."""

from plexspaces import actor, handler, host, init_handler, state


@actor(facets=["durability"])
class Stamped:
    notes: list = state(default_factory=list)
    starts: int = state(default=0)

    @init_handler
    def on_init(self, config: dict) -> None:
        self.stamp = f"{host.now_ms()}/{host.random_bytes(4).hex()}"
        self.starts += 1
        host.process_groups.join("stamped")
        host.process_groups.join("stamped-too")
        self.born = host.now_ms()

    @handler("note")
    def note(self, text: str) -> str:
        self.notes.append(f"{text} {self.stamp} {self.starts}")
        host.kv_put("last", self.notes[-1])
        return self.notes[-1]

    @handler("all")
    def all_notes(self) -> dict:
        return {"notes": self.notes, "starts": self.starts, "members": host.process_groups.members("stamped")}

    @handler("fail")
    def fail(self) -> None:
        raise RuntimeError("on purpose")
